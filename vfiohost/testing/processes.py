"""Processes of the simulated host that hold VFIO files open, as ``proc/PID`` shows them.

Kernel: ``drivers/vfio/group.c``, ``drivers/vfio/container.c``, ``drivers/iommu/iommu.c``.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import attrs

from vfiohost.testing import groups, modules, vendor_vgpu, vf_tokens
from vfiohost.testing.machine import MDEV_DRIVERS, PCI_DRIVERS
from vfiohost.testing.state import OpenFile

if TYPE_CHECKING:
    from vfiohost.errors import KernelOp
    from vfiohost.testing.machine import Machine

_FIRST_PID = 4000
_FIRST_DESCRIPTOR = 10
_ROOT_IDS = "Uid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\n"


class OpenError(Exception):
    """The kernel refuses to open; ``op`` says whether open(2) or an ioctl(2), which one then."""

    def __init__(self, op: KernelOp, number: int, path: str, ioctl: str | None = None) -> None:
        super().__init__(op, number, path, ioctl)
        self.op: KernelOp = op
        self.errno = number
        self.path = path
        self.ioctl = ioctl


@attrs.frozen
class Opener:
    """Who opens something.

    Attributes:
        pid: the process.
        command: its command line, if it is a new one.
        noiommu: its container is for devices without an IOMMU (``VFIO_NOIOMMU_IOMMU``).
        options: what follows a device's name where it asks for it.
    """

    pid: int
    command: tuple[str, ...]
    noiommu: bool = False
    options: str = ""


def free_pid(machine: Machine) -> int:
    """A pid that the simulated host does not have."""
    taken = set(machine.tree.listing("proc"))
    return next(pid for pid in range(_FIRST_PID, 1 << 22) if str(pid) not in taken)


def open_group(machine: Machine, group: int, opener: Opener, *, owned: bool) -> OpenFile:
    """Open ``dev/vfio/GROUP`` and, to own its DMA, put it into a container."""
    descriptors = _open_node(machine, group, opener, owned=owned)
    return add_file(machine, opener.pid, "group", descriptors, group=group, owned=owned)


def open_device(machine: Machine, subject: str, path: str, opener: Opener) -> OpenFile:
    """Open a device through its group, as QEMU does (``VFIO_GROUP_GET_DEVICE_FD``)."""
    group = machine.group_of(path)
    if group is None:
        raise OpenError("open", errno.ENOENT, "dev/vfio")
    mine = [
        each
        for each in machine.state.open_files
        if (each.pid, each.group) == (opener.pid, group) and each.kind != "cdev"
    ]
    node = groups.node(machine, group)
    is_known = bool(machine.tree.listing(f"{path}/vfio-dev"))  # vfio_device_get_from_name
    if mine and not is_known:
        raise OpenError("ioctl", errno.ENODEV, node, "GET_DEVICE_FD")
    mine = [each for each in mine if not each.revoked]
    if mine and not any(each.owned for each in mine):  # vfio_df_group_open
        raise OpenError("ioctl", errno.EINVAL, node, "GET_DEVICE_FD")
    descriptors = [] if mine else _open_node(machine, group, opener, owned=True)
    if not is_known:
        raise OpenError("ioctl", errno.ENODEV, node, "GET_DEVICE_FD")
    if vendor_vgpu.takes_types(machine, path):  # nv_vfio_pci_match looks at no options
        refusal = vendor_vgpu.open_errno(machine, path)
    else:
        refusal = vf_tokens.answer(machine, subject, path, opener.options)
    if refusal:
        raise OpenError("ioctl", refusal, node, "GET_DEVICE_FD")
    descriptors.append(add_descriptor(machine, opener.pid, "anon_inode:[vfio-device]"))
    enable(machine, path)
    return add_file(
        machine, opener.pid, "device", descriptors, group=group, subject=subject, owned=True
    )


def add_file(
    machine: Machine,
    pid: int,
    kind: str,
    descriptors: list[int],
    *,
    group: int | None = None,
    subject: str | None = None,
    owned: bool = False,
) -> OpenFile:
    """Remember what a process has opened; see :class:`OpenFile`."""
    number = machine.state.take_number()
    file = OpenFile(number, pid, kind, group, subject, owned=owned, descriptors=descriptors)
    machine.state.open_files.append(file)
    return file


def enable(machine: Machine, path: str) -> None:
    """The first user of a device has come (``vfio_df_device_first_open``)."""
    _use(machine, path, is_used=True)


def close(machine: Machine, number: int) -> None:
    """Close what was opened under a number; closing twice is harmless."""
    state = machine.state
    file = next((f for f in state.open_files if f.number == number), None)
    if file is None:
        return
    state.open_files.remove(file)
    for descriptor in file.descriptors:
        machine.tree.remove(f"proc/{file.pid}/fd/{descriptor}")
    lives_on = any(other.pid == file.pid for other in state.open_files)
    if not lives_on and state.processes.pop(str(file.pid), False):
        machine.tree.remove(f"proc/{file.pid}")
    for number_of_iommufd in [key for key in state.ioas if not _is_used(machine, int(key))]:
        del state.ioas[number_of_iommufd]
    is_used = any(o.owned and o.subject == file.subject for o in state.open_files)
    if file.subject is None or not file.owned or is_used:
        return
    zombie = state.zombies.get(file.subject)
    path = machine.pci_path(file.subject) or machine.mdev_path(file.subject)
    if zombie is not None:
        path = f"{zombie.parent}/{file.subject}"  # it has left its bus
    if path is not None:
        _use(machine, path, is_used=False)


def _users(machine: Machine, group: int) -> list[OpenFile]:
    """Who has the group's node open, or a cdev of the group bound to an iommufd."""
    files = [f for f in machine.state.open_files if f.group == group and not f.revoked]
    return [f for f in files if f.owned or f.kind != "cdev"]


def _is_used(machine: Machine, iommufd: int) -> bool:
    """Whether an iommufd is open, or a device is bound to it (``iommufd_ctx_get``)."""
    return any(iommufd in (f.number, f.iommufd) for f in machine.state.open_files)


def _open_node(machine: Machine, group: int, opener: Opener, *, owned: bool) -> list[int]:
    """``vfio_group_fops_open``, ``vfio_group_ioctl_set_container``, ``vfio_ioctl_set_iommu``."""
    node = groups.node(machine, group)
    if not machine.tree.exists(node):
        raise OpenError("open", errno.ENOENT, node)
    if _users(machine, group):
        raise OpenError("open", errno.EBUSY, node)
    if owned and groups.blockers(machine, group):
        raise OpenError("ioctl", errno.EPERM, node, "SET_CONTAINER")
    if owned and opener.noiommu != groups.is_noiommu(machine, group):
        raise OpenError("ioctl", errno.ENODEV, "dev/vfio/vfio", "SET_IOMMU")
    start_process(machine, opener)
    container = [add_descriptor(machine, opener.pid, "/dev/vfio/vfio")] if owned else []
    return [*container, add_descriptor(machine, opener.pid, f"/{node}")]


def start_process(machine: Machine, opener: Opener) -> None:
    """Show a process in ``proc``, if there is none with this pid."""
    if machine.tree.exists(f"proc/{opener.pid}"):
        return
    _show_process(machine, opener)
    machine.state.processes[str(opener.pid)] = True


def start_init(machine: Machine) -> None:
    """Show process 1, which every host has, if the recording has none. It never ends."""
    if not machine.tree.exists("proc/1"):
        _show_process(machine, Opener(1, ("/sbin/init",)))


def _show_process(machine: Machine, opener: Opener) -> None:
    tree, command = machine.tree, opener.command
    directory = f"proc/{opener.pid}"
    name = command[0].rsplit("/", 1)[-1][:15]  # TASK_COMM_LEN
    tree.write(f"{directory}/comm", f"{name}\n", 0o644)
    tree.write(f"{directory}/cmdline", "".join(f"{word}\0" for word in command), 0o444)
    tree.write(f"{directory}/status", f"Name:\t{name}\nPid:\t{opener.pid}\n{_ROOT_IDS}", 0o444)
    tree.write(f"{directory}/cgroup", "0::/\n", 0o444)
    for descriptor in range(3):
        tree.link_text(f"{directory}/fd/{descriptor}", "/dev/null")


def add_descriptor(machine: Machine, pid: int, target: str) -> int:
    """Show an open file of a process in ``proc``, and give its number."""
    directory = f"proc/{pid}/fd"
    taken = set(machine.tree.listing(directory))
    number = next(n for n in range(_FIRST_DESCRIPTOR, 1 << 20) if str(n) not in taken)
    machine.tree.link_text(f"{directory}/{number}", target)
    return number


def _use(machine: Machine, path: str, *, is_used: bool) -> None:
    """An open device keeps its driver's module, and is awake (``vfio_pci_core_enable``)."""
    if not vendor_vgpu.takes_types(machine, path):  # NVIDIA's driver enables it for itself
        state = "D0" if is_used else "D3hot"
        groups.show_power(machine, path, enabled=is_used, state=state)
    _count_module(machine, path, 1 if is_used else -1)


def _count_module(machine: Machine, path: str, change: int) -> None:
    """An open device keeps its driver's module (``vfio_df_open``)."""
    name = path.rsplit("/", 1)[-1]
    driver = machine.state.releasing.get(name) or machine.tree.link_name(f"{path}/driver")
    for directory in (PCI_DRIVERS, MDEV_DRIVERS):
        module = machine.tree.link_name(f"{directory}/{driver}/module")
        if module is not None:
            modules.count(machine, module, change)
