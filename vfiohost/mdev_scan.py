"""Reads the mediated devices and their parents (``drivers/vfio/mdev/mdev_sysfs.c``)."""

from __future__ import annotations

import errno
import os
import posixpath
from typing import TYPE_CHECKING, Final

from vfiohost.errors import KernelError
from vfiohost.model import (
    MdevBus,
    MdevParent,
    MdevType,
    MediatedDevice,
    PciAddress,
    Problem,
    Unavailable,
    natural_key,
)
from vfiohost.reads import attribute, count, link_name, names, reported

if TYPE_CHECKING:
    from vfiohost.sysfs import Sysfs

MDEV_PARENTS: Final = "sys/class/mdev_bus"
MDEV_DEVICES: Final = "sys/bus/mdev/devices"


def mdev_bus(sysfs: Sysfs, problems: list[Problem]) -> MdevBus:
    """Read all mediated devices and their parents.

    Args:
        sysfs: the host.
        problems: gets what could not be read or makes no sense.
    """
    parents = [_mdev_parent(sysfs, name, problems) for name in names(sysfs, MDEV_PARENTS, problems)]
    devices = [_mdev(sysfs, name, problems) for name in names(sysfs, MDEV_DEVICES, problems)]
    return MdevBus(
        parents=tuple(sorted((p for p in parents if p), key=lambda p: _parent_key(p.name))),
        devices=tuple(
            sorted((d for d in devices if d), key=lambda d: (_parent_key(d.parent), d.uuid))
        ),
    )


def _mdev_parent(sysfs: Sysfs, name: str, problems: list[Problem]) -> MdevParent | None:
    path = _device_path(sysfs, f"{MDEV_PARENTS}/{name}", problems)
    if path is None:
        return None
    folder = f"{path}/mdev_supported_types"
    types = [_mdev_type(sysfs, folder, t, problems) for t in names(sysfs, folder, problems)]
    physfn = link_name(sysfs, f"{path}/physfn")
    if isinstance(physfn, Unavailable):
        problems.append(Problem(name, f"{path}/physfn", f"physfn of {name}: {physfn}."))
        physfn = None
    return MdevParent(
        name=name,
        path=path,
        types=tuple(sorted(types, key=lambda t: natural_key(t.type_id))),
        address=PciAddress.of_name(name),
        physfn=None if physfn is None else PciAddress.of_name(physfn),
    )


def _mdev_type(sysfs: Sysfs, folder: str, type_id: str, problems: list[Problem]) -> MdevType:
    path = f"{folder}/{type_id}"
    available = attribute(sysfs, f"{path}/available_instances")
    if available is None:
        available = Unavailable(errno.ENOENT, os.strerror(errno.ENOENT))
    return MdevType(
        type_id=type_id,
        name=reported(attribute(sysfs, f"{path}/name"), f"{path}/name", problems),
        available_instances=count(available),
        device_api=attribute(sysfs, f"{path}/device_api"),
        description=attribute(sysfs, f"{path}/description"),
    )


def _mdev(sysfs: Sysfs, uuid: str, problems: list[Problem]) -> MediatedDevice | None:
    entry = f"{MDEV_DEVICES}/{uuid}"
    path = _device_path(sysfs, entry, problems)
    if path is None:
        return None
    type_id = link_name(sysfs, f"{entry}/mdev_type")
    if type_id is None:
        type_id = Unavailable(errno.ENOENT, os.strerror(errno.ENOENT))
    group = link_name(sysfs, f"{entry}/iommu_group")
    return MediatedDevice(
        uuid=uuid,
        parent=path.split("/")[-2],
        type_id=type_id,
        type_name=attribute(sysfs, f"{entry}/mdev_type/name"),
        driver=link_name(sysfs, f"{entry}/driver"),
        iommu_group=None if group is None else count(group),
    )


def _device_path(sysfs: Sysfs, link: str, problems: list[Problem]) -> str | None:
    """Follow a link of a bus or class to a device's directory, as text; ``None`` is a problem."""
    folder, _, name = link.rpartition("/")
    try:
        target = sysfs.readlink(link)
        path = posixpath.normpath(f"{folder}/{target}")
        if target.startswith("/") or not path.startswith("sys/devices/"):
            why = "its link does not lead to a directory below sys/devices."
        elif sysfs.exists(path):
            return path
        else:
            why = "its directory is gone, or its link leads nowhere."
    except KernelError as error:
        why = str(error)
    problems.append(Problem(name, link, f"{name} was left out: {why}"))
    return None


def _parent_key(name: str) -> tuple[bool, PciAddress | str]:
    address = PciAddress.of_name(name)
    return (address is None, name if address is None else address)
