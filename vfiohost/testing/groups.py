"""IOMMU groups, and the VFIO nodes of the devices in them.

Kernel: ``drivers/iommu/iommu.c``, ``drivers/vfio/vfio_main.c``, ``drivers/vfio/group.c``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vfiohost.model import is_dma_managed, is_vfio_driver
from vfiohost.testing.machine import BlockedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vfiohost.testing.machine import Machine

_GROUPS = "sys/kernel/iommu_groups"
_VFIO_CLASS = "sys/class/vfio-dev"
_CDEV_MAJOR = 509  # a dynamic major, as iommufd's cdevs commonly get


def _lowest_free(names: list[str], prefix: str = "") -> int:
    """The number that ``ida_alloc`` gives out next."""
    used = {name.removeprefix(prefix) for name in names}
    return next(number for number in range(len(used) + 1) if str(number) not in used)


def new_group(machine: Machine, attributes: Mapping[str, str]) -> int:
    """Make an empty IOMMU group with these files and give its number (``iommu_group_alloc``)."""
    tree = machine.tree
    number = _lowest_free(tree.listing(_GROUPS))
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


def blockers(machine: Machine, group: int) -> list[str]:
    """The members whose driver uses the DMA API for itself, so that VFIO cannot own the group."""
    drivers = {name: machine.driver_of(name) for name in machine.group_members(group)}
    return [name for name, driver in drivers.items() if driver and not is_dma_managed(driver)]


def is_owned(machine: Machine, group: int | None) -> bool:
    """Whether a VFIO user owns the DMA of a group (``iommu_group_claim_dma_owner``)."""
    files = machine.state.open_files
    return any(each.owned and each.group == group and not each.revoked for each in files)


def start(machine: Machine) -> None:
    """What the module vfio brings: the container node and the class of its devices."""
    if not machine.tree.exists("dev/vfio/vfio"):
        machine.tree.write("dev/vfio/vfio", "", 0o666)
    machine.tree.mkdir(_VFIO_CLASS)


def stop(machine: Machine) -> None:
    """What goes with the module vfio."""
    machine.tree.remove("dev/vfio")
    machine.tree.remove(_VFIO_CLASS)


def register(machine: Machine, path: str, group: int) -> None:
    """Make a device available through VFIO (``__vfio_register_dev``)."""
    tree = machine.tree
    number = _lowest_free(tree.listing(_VFIO_CLASS), "vfio")
    directory = f"{path}/vfio-dev/vfio{number}"
    tree.mkdir(directory)
    tree.link(f"{_VFIO_CLASS}/vfio{number}", directory)
    if tree.exists("dev/iommu"):  # a kernel with IOMMUFD and VFIO_DEVICE_CDEV
        tree.write(f"{directory}/dev", f"{_CDEV_MAJOR}:{number}\n", 0o444)
        tree.mkdir("dev/vfio/devices")
        tree.write(f"dev/vfio/devices/vfio{number}", "", 0o600)
    tree.mkdir("dev/vfio")
    if not tree.exists(f"dev/vfio/{group}"):
        tree.write(f"dev/vfio/{group}", "", 0o600)


def unregister(machine: Machine, path: str) -> None:
    """Take a device away from VFIO; waits while it is open (``vfio_unregister_group_dev``).

    Raises:
        BlockedError: a process has the device open.
    """
    tree = machine.tree
    for name in tree.listing(f"{path}/vfio-dev"):
        tree.remove(f"{_VFIO_CLASS}/{name}")
        tree.remove(f"dev/vfio/devices/{name}")
    tree.remove(f"{path}/vfio-dev")
    subject = path.rsplit("/", 1)[-1]
    if any(file.subject == subject for file in machine.state.open_files):
        raise BlockedError
    group = machine.group_of(path)
    if group is not None and not _others_on_vfio(machine, group, subject):
        tree.remove(f"dev/vfio/{group}")
        for file in machine.state.open_files:
            file.revoked = file.revoked or file.group == group


def show_power(machine: Machine, path: str, *, enabled: bool, state: str) -> None:
    """Let ``enable`` and ``power_state`` of a device follow, where it has them."""
    for name, text in (("enable", f"{enabled:d}"), ("power_state", state)):
        if machine.tree.kind(f"{path}/{name}") == "file":
            machine.tree.write(f"{path}/{name}", f"{text}\n")


def _others_on_vfio(machine: Machine, group: int, subject: str) -> bool:
    others = set(machine.group_members(group)) - {subject}
    return any(is_vfio_driver(machine.driver_of(name) or "") for name in others)
