"""Processes of the simulated host that hold VFIO files open, as ``proc/PID`` shows them.

Kernel: ``drivers/vfio/group.c``, ``drivers/iommu/iommu.c``.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from vfiohost.model import is_vfio_driver
from vfiohost.testing import groups, modules
from vfiohost.testing.machine import MDEV_DRIVERS, PCI_DRIVERS
from vfiohost.testing.state import OpenFile

if TYPE_CHECKING:
    from vfiohost.errors import KernelOp
    from vfiohost.testing.machine import Machine

_FIRST_PID = 4000
_FIRST_DESCRIPTOR = 10


class OpenError(Exception):
    """The kernel refuses to open; ``op`` says whether open(2) or an ioctl(2) does."""

    def __init__(self, op: KernelOp, number: int, path: str) -> None:
        super().__init__(op, number, path)
        self.op: KernelOp = op
        self.errno = number
        self.path = path


def free_pid(machine: Machine) -> int:
    """A pid that the simulated host does not have."""
    taken = set(machine.tree.listing("proc"))
    return next(pid for pid in range(_FIRST_PID, 1 << 22) if str(pid) not in taken)


def open_group(
    machine: Machine, group: int, pid: int, command: tuple[str, ...], *, owned: bool
) -> OpenFile:
    """Open ``dev/vfio/GROUP`` and, to own its DMA, put it into a container."""
    descriptors = _open_node(machine, group, pid, command, owned=owned)
    file = OpenFile(
        machine.state.take_number(), pid, "group", group, None, owned=owned, descriptors=descriptors
    )
    machine.state.open_files.append(file)
    return file


def open_device(
    machine: Machine, subject: str, path: str, pid: int, command: tuple[str, ...]
) -> OpenFile:
    """Open a device through its group, as QEMU does (``VFIO_GROUP_GET_DEVICE_FD``)."""
    group = machine.group_of(path)
    driver = machine.tree.link_name(f"{path}/driver")
    if group is None:
        raise OpenError("open", errno.ENOENT, "dev/vfio")
    is_mdev = machine.mdev_path(subject) is not None
    if driver is None or not (is_mdev or is_vfio_driver(driver)):
        if not machine.tree.exists(f"dev/vfio/{group}"):
            raise OpenError("open", errno.ENOENT, f"dev/vfio/{group}")
        raise OpenError("ioctl", errno.ENODEV, f"dev/vfio/{group}")
    has_group = any(
        each.pid == pid and each.group == group and not each.revoked
        for each in machine.state.open_files
    )
    descriptors = [] if has_group else _open_node(machine, group, pid, command, owned=True)
    descriptors.append(_add_descriptor(machine, pid, "anon_inode:[vfio-device]"))
    file = OpenFile(
        machine.state.take_number(),
        pid,
        "device",
        group,
        subject,
        owned=True,
        descriptors=descriptors,
    )
    machine.state.open_files.append(file)
    groups.show_power(machine, path, enabled=True, state="D0")
    _count_module(machine, path, 1)
    return file


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
    if file.subject is None or any(other.subject == file.subject for other in state.open_files):
        return
    zombie = state.zombies.get(file.subject)
    path = machine.pci_path(file.subject) or machine.mdev_path(file.subject)
    if zombie is not None:
        path = f"{zombie.parent}/{file.subject}"  # it has left its bus
    if path is not None:
        groups.show_power(machine, path, enabled=False, state="D3hot")
        _count_module(machine, path, -1)


def _open_node(
    machine: Machine, group: int, pid: int, command: tuple[str, ...], *, owned: bool
) -> list[int]:
    """``vfio_group_fops_open``, then ``vfio_group_ioctl_set_container``."""
    node = f"dev/vfio/{group}"
    if not machine.tree.exists(node):
        raise OpenError("open", errno.ENOENT, node)
    if any(each.group == group and not each.revoked for each in machine.state.open_files):
        raise OpenError("open", errno.EBUSY, node)
    if owned and groups.blockers(machine, group):
        raise OpenError("ioctl", errno.EPERM, node)
    _start_process(machine, pid, command)
    container = [_add_descriptor(machine, pid, "/dev/vfio/vfio")] if owned else []
    return [*container, _add_descriptor(machine, pid, f"/{node}")]


def _start_process(machine: Machine, pid: int, command: tuple[str, ...]) -> None:
    tree = machine.tree
    directory = f"proc/{pid}"
    if tree.exists(directory):
        return
    name = command[0].rsplit("/", 1)[-1][:15]  # TASK_COMM_LEN
    tree.write(f"{directory}/comm", f"{name}\n", 0o644)
    tree.write(f"{directory}/cmdline", "".join(f"{word}\0" for word in command), 0o444)
    for descriptor in range(3):
        tree.link_text(f"{directory}/fd/{descriptor}", "/dev/null")
    machine.state.processes[str(pid)] = True


def _add_descriptor(machine: Machine, pid: int, target: str) -> int:
    directory = f"proc/{pid}/fd"
    taken = set(machine.tree.listing(directory))
    number = next(n for n in range(_FIRST_DESCRIPTOR, 1 << 20) if str(n) not in taken)
    machine.tree.link_text(f"{directory}/{number}", target)
    return number


def _count_module(machine: Machine, path: str, change: int) -> None:
    """An open device keeps its driver's module (``vfio_df_open``)."""
    name = path.rsplit("/", 1)[-1]
    driver = machine.state.releasing.get(name) or machine.tree.link_name(f"{path}/driver")
    for directory in (PCI_DRIVERS, MDEV_DRIVERS):
        module = machine.tree.link_name(f"{directory}/{driver}/module")
        if module is not None:
            modules.count(machine, module, change)
