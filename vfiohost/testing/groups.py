"""IOMMU groups, and the VFIO nodes of the devices in them.

Kernel: ``drivers/iommu/iommu.c``, ``drivers/vfio/vfio_main.c``, ``drivers/vfio/group.c``,
``drivers/vfio/device_cdev.c``.
"""

from __future__ import annotations

import errno
import re
from typing import TYPE_CHECKING

from vfiohost.model import is_dma_managed, is_vfio_driver
from vfiohost.testing import kernel_text, vendor_vgpu
from vfiohost.testing.machine import AnswerError, BlockedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vfiohost.testing.machine import Machine

NOIOMMU_MODE = "sys/module/vfio/parameters/enable_unsafe_noiommu_mode"

_GROUPS = "sys/kernel/iommu_groups"
_GROUP_CLASS = "sys/class/vfio"
_VFIO_GROUPS = "sys/devices/virtual/vfio"
_VFIO_CLASS = "sys/class/vfio-dev"
_CDEVS = "dev/vfio/devices"
# The majors are dynamic: proc/devices has them, where vfio was loaded when it was recorded.
_MAJORS = {"vfio": 511, "vfio-dev": 510}
_NOIOMMU = "vfio-noiommu"
_TAINTED = "proc/sys/kernel/tainted"
_TAINT_USER = 1 << 6
_TYPES = ("identity", "DMA", "DMA-FQ", "auto")


def lowest_free(used: set[int], first: int = 0) -> int:
    """The number that ``ida_alloc`` gives out next."""
    return next(number for number in range(first, first + len(used) + 1) if number not in used)


def _numbers(names: list[str], prefix: str = "") -> set[int]:
    """The numbers in names such as ``vfio3``."""
    texts = {name.removeprefix(prefix) for name in names}
    return {int(text) for text in texts if text.isdecimal()}


def new_group(machine: Machine, attributes: Mapping[str, str]) -> int:
    """Make an empty IOMMU group with these files and give its number (``iommu_group_alloc``)."""
    tree = machine.tree
    number = lowest_free(_numbers(tree.listing(_GROUPS)))
    tree.mkdir(f"{_GROUPS}/{number}/devices")
    for name, text in attributes.items():
        mode = 0o644 if name == "type" else 0o444
        tree.write(f"{_GROUPS}/{number}/{name}", text, mode)
    return number


def join_group(machine: Machine, path: str, group: int) -> None:
    """Put a device into a group (``iommu_group_add_device``)."""
    name = path.rsplit("/", 1)[-1]
    machine.tree.link(f"{path}/iommu_group", f"{_GROUPS}/{group}")
    machine.tree.link(f"{_GROUPS}/{group}/devices/{name}", path)


def leave_group(machine: Machine, path: str) -> None:
    """Take a device out of its group; the last one out ends it (``iommu_group_remove_device``)."""
    group = machine.group_of(path)
    if group is None:
        return
    machine.tree.remove(f"{path}/iommu_group")
    machine.tree.remove(f"{_GROUPS}/{group}/devices/{path.rsplit('/', 1)[-1]}")
    if not machine.group_members(group):
        machine.tree.remove(f"{_GROUPS}/{group}")


def is_on_vfio(machine: Machine, path: str) -> bool:
    """Whether the driver of a PCI function makes it a VFIO device."""
    driver = machine.driver_of(path.rsplit("/", 1)[-1])
    return is_vfio_driver(driver or "") or vendor_vgpu.takes_types(machine, path)


def blockers(machine: Machine, group: int) -> list[str]:
    """The members whose driver uses the DMA API for itself, so that VFIO cannot own the group."""
    return [name for name in machine.group_members(group) if _uses_dma(machine, name)]


def _uses_dma(machine: Machine, name: str) -> bool:
    driver, path = machine.driver_of(name), machine.pci_path(name)
    if driver is None or is_dma_managed(driver):
        return False
    return path is None or not vendor_vgpu.takes_types(machine, path)  # which leaves it to VFIO


def is_owned(machine: Machine, group: int | None) -> bool:
    """Whether a VFIO user owns the DMA of a group (``iommu_group_claim_dma_owner``)."""
    files = machine.state.open_files
    return any(each.owned and each.group == group and not each.revoked for each in files)


def is_open(machine: Machine, group: int | None) -> bool:
    """Whether a process has the group's node open, alone or with a device behind it."""
    files = machine.state.open_files
    return any(each.group == group and not each.revoked and each.kind != "cdev" for each in files)


def is_noiommu(machine: Machine, group: int) -> bool:
    """Whether a group was made for a device without an IOMMU (``VFIO_NO_IOMMU``).

    Those of mediated devices have the same name.
    """
    named = machine.tree.text(f"{_GROUPS}/{group}/name") == _NOIOMMU
    return named and any(machine.pci_path(name) for name in machine.group_members(group))


def node(machine: Machine, group: int) -> str:
    """The group's node in ``dev/vfio`` (``vfio_create_group``)."""
    return f"dev/vfio/{'noiommu-' if is_noiommu(machine, group) else ''}{group}"


def has_noiommu_mode(machine: Machine) -> bool:
    """Whether VFIO takes devices without an IOMMU."""
    return machine.tree.text(NOIOMMU_MODE) == "Y"


def store_noiommu_mode(machine: Machine, path: str, data: bytes) -> None:
    """``param_set_bool``."""
    value = kernel_text.boolean(data)
    if value is None:
        raise AnswerError(errno.EINVAL)
    machine.tree.write(path, "Y\n" if value else "N\n")


def store_type(machine: Machine, path: str, data: bytes) -> None:
    """``iommu_group_store_type``: the type of a group whose DMA nobody uses."""
    now, group = machine.tree.text(path), int(path.split("/")[-2])
    wanted = kernel_text.name(data)
    if now == "unknown" or wanted not in _TYPES:
        raise AnswerError(errno.EINVAL)
    is_live = (now, wanted) == ("DMA", "DMA-FQ")  # a flush queue is brought up in any case
    if not machine.blueprint.release.type_by_owner:
        members = machine.group_members(group)
        if len(members) != 1:
            raise AnswerError(errno.EINVAL)
        if not is_live and machine.driver_of(members[0]) is not None:
            raise AnswerError(errno.EBUSY)
    elif not is_live and (is_owned(machine, group) or blockers(machine, group)):
        raise AnswerError(errno.EPERM)
    text = machine.blueprint.group_type(group) if wanted == "auto" else wanted
    machine.tree.write(path, f"{text or now}\n")


def start(machine: Machine) -> None:
    """What the module vfio brings: the container node and the classes of groups and devices."""
    tree = machine.tree
    if not tree.exists("dev/vfio/vfio"):
        tree.write("dev/vfio/vfio", "", 0o666)
    if tree.exists("sys/module/iommufd/initstate") and not tree.exists("dev/iommu"):
        tree.write("dev/iommu", "", 0o660)
    if NOIOMMU_MODE in machine.blueprint.files and not tree.exists(NOIOMMU_MODE):
        tree.write(NOIOMMU_MODE, "N\n")
    tree.mkdir(_GROUP_CLASS)
    tree.mkdir(_VFIO_CLASS)


def stop(machine: Machine) -> None:
    """What goes with the module vfio."""
    machine.tree.remove("dev/vfio")
    machine.tree.remove(_GROUP_CLASS)
    machine.tree.remove(_VFIO_CLASS)


def register(machine: Machine, path: str) -> None:
    """Make a device available through VFIO (``__vfio_register_dev``)."""
    tree = machine.tree
    group = machine.group_of(path)
    if group is None:
        group = _new_noiommu_group(machine, path)
    numbers = machine.state.vfio_numbers
    number = lowest_free(_numbers(tree.listing(_VFIO_CLASS), "vfio") | {*numbers.values()})
    name = path.rsplit("/", 1)[-1]
    numbers[name] = number
    directory = f"{path}/vfio-dev/vfio{number}"
    tree.mkdir(directory)
    tree.link_text(f"{directory}/device", f"../../../{name}")
    tree.link(f"{directory}/subsystem", _VFIO_CLASS)
    tree.link(f"{_VFIO_CLASS}/vfio{number}", directory)
    # A kernel with IOMMUFD and VFIO_DEVICE_CDEV: vfio_device_add
    if tree.exists("dev/iommu") and not is_noiommu(machine, group):
        tree.write(f"{directory}/dev", f"{_major(machine, 'vfio-dev')}:{number}\n", 0o444)
        tree.write(f"{_CDEVS}/vfio{number}", "", 0o600)
    _show_group(machine, group)


def _new_noiommu_group(machine: Machine, path: str) -> int:
    """``vfio_noiommu_group_alloc``, which taints the kernel (``vfio_group_find_or_alloc``)."""
    attributes = {"name": f"{_NOIOMMU}\n", "type": "unknown\n", "reserved_regions": ""}
    group = new_group(machine, attributes)
    join_group(machine, path, group)
    taint = int(machine.tree.text(_TAINTED) or "0")
    machine.tree.write(_TAINTED, f"{taint | _TAINT_USER}\n")
    return group


def _show_group(machine: Machine, group: int) -> None:
    """A group's node and its entry in the class, unless there are (``vfio_create_group``)."""
    tree = machine.tree
    path = node(machine, group)
    name = path.rsplit("/", 1)[-1]
    if not tree.exists(path):
        tree.write(path, "", 0o600)
    if tree.exists(f"{_GROUP_CLASS}/{name}"):
        return
    numbers = [tree.text(f"{_VFIO_GROUPS}/{each}/dev") for each in tree.listing(_VFIO_GROUPS)]
    minor = lowest_free({int(text.split(":")[1]) for text in numbers if text})
    tree.write(f"{_VFIO_GROUPS}/{name}/dev", f"{_major(machine, 'vfio')}:{minor}\n", 0o444)
    tree.link(f"{_VFIO_GROUPS}/{name}/subsystem", _GROUP_CLASS)
    tree.link(f"{_GROUP_CLASS}/{name}", f"{_VFIO_GROUPS}/{name}")


def _major(machine: Machine, name: str) -> int:
    """The major number of a character device's driver."""
    text = machine.tree.text("proc/devices") or ""
    found = re.search(rf"^ *(\d+) {name}$", text, re.MULTILINE)
    return int(found[1]) if found else _MAJORS[name]


def unregister(machine: Machine, path: str) -> None:
    """Take a device away from VFIO; waits while it is open (``vfio_unregister_group_dev``).

    Raises:
        BlockedError: a process has the device open.
    """
    tree = machine.tree
    subject = path.rsplit("/", 1)[-1]
    is_open = any(file.subject == subject for file in machine.state.open_files)
    if is_open and not machine.blueprint.release.hides_first:
        raise BlockedError
    for name in tree.listing(f"{path}/vfio-dev"):
        tree.remove(f"{_VFIO_CLASS}/{name}")
        tree.remove(f"{_CDEVS}/{name}")
    if not tree.listing(_CDEVS):  # devtmpfs keeps no empty directory
        tree.remove(_CDEVS)
    tree.remove(f"{path}/vfio-dev")
    if is_open:
        raise BlockedError
    machine.state.vfio_numbers.pop(subject, None)
    group = machine.group_of(path)
    if group is not None and not _others_on_vfio(machine, group, subject):
        _hide_group(machine, group)
        if is_noiommu(machine, group):
            leave_group(machine, path)


def _hide_group(machine: Machine, group: int) -> None:
    """The last device of a group has left VFIO (``vfio_device_remove_group``)."""
    path = node(machine, group)
    name = path.rsplit("/", 1)[-1]
    for gone in (path, f"{_GROUP_CLASS}/{name}", f"{_VFIO_GROUPS}/{name}"):
        machine.tree.remove(gone)
    if not machine.tree.listing(_VFIO_GROUPS):  # nor does the class keep one
        machine.tree.remove(_VFIO_GROUPS)
    for file in machine.state.open_files:
        file.revoked = file.revoked or file.group == group


def show_power(machine: Machine, path: str, *, enabled: bool, state: str) -> None:
    """Let ``enable`` and ``power_state`` of a device follow, where it has them."""
    for name, text in (("enable", f"{enabled:d}"), ("power_state", state)):
        if machine.tree.kind(f"{path}/{name}") == "file":
            machine.tree.write(f"{path}/{name}", f"{text}\n")


def _others_on_vfio(machine: Machine, group: int, subject: str) -> bool:
    others = set(machine.group_members(group)) - {subject}
    paths = filter(None, map(machine.pci_path, others))
    return any(is_on_vfio(machine, path) for path in paths)
