"""Reads the mediated devices and their parents (``drivers/vfio/mdev/mdev_sysfs.c``)."""

from __future__ import annotations

import errno
import functools
import os
import posixpath
from operator import itemgetter
from typing import TYPE_CHECKING, Final

from vfiohost import native
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
from vfiohost.reads import attribute, count, left_out, link_name, names, unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vfiohost.sysfs import Sysfs

MDEV_PARENTS: Final = "sys/class/mdev_bus"
MDEV_DEVICES: Final = "sys/bus/mdev/devices"
MDEV_TYPES: Final = "mdev_supported_types"


def mdev_bus(sysfs: Sysfs, problems: list[Problem]) -> MdevBus:
    """Read all mediated devices and their parents.

    Args:
        sysfs: the host.
        problems: gets what could not be read or makes no sense.
    """
    parents = sorted(_parents(sysfs, problems), key=lambda p: _parent_key(p.name))
    devices = [_mdev(sysfs, name, problems) for name in names(sysfs, MDEV_DEVICES, problems)]
    return MdevBus(
        parents=tuple(parents),
        devices=tuple(
            sorted((d for d in devices if d), key=lambda d: (_parent_key(d.parent), d.uuid))
        ),
    )


def _parents(sysfs: Sysfs, problems: list[Problem]) -> Iterator[MdevParent]:
    """Read all parents; thousands of them offer the same types, which are made once."""
    physfn_of = functools.cache(PciAddress.of_name)
    type_of = functools.cache(_mdev_type)
    links = [f"{MDEV_PARENTS}/{name}" for name in names(sysfs, MDEV_PARENTS, problems)]
    for link, row in zip(links, native.scan_parents(sysfs.fd, links), strict=True):
        name = posixpath.basename(link)
        if row.error:
            problems.append(left_out(name, link, row.error))
            continue
        if row.physfn_error or row.types_error or any(r.errors[0] for r in row.types):
            problems += _problems(sysfs, name, row)
        types = sorted(map(type_of, row.types), key=itemgetter(0))
        yield MdevParent(
            name=name,
            path=row.path,
            types=tuple(kind for _, kind in types),
            address=PciAddress.of_name(name),
            physfn=physfn_of(row.physfn),
        )


def _mdev_type(row: native.TypeRow) -> tuple[object, MdevType]:
    """Make a type of a row, and a key that sorts it."""
    _, available, api, description = row.errors
    kind = MdevType(
        type_id=row.type_id,
        name=None if row.errors[0] else row.name,
        available_instances=unavailable(available) if available else count(row.available),
        device_api=_text(row.device_api, api),
        description=_text(row.description, description),
    )
    return natural_key(row.type_id), kind


def _text(text: str, error: int) -> str | None | Unavailable:
    if error == errno.ENOENT:
        return None
    return unavailable(error) if error else text


def _problems(sysfs: Sysfs, name: str, row: native.ParentRow) -> Iterator[Problem]:
    """What could not be read of a parent and has no place in it; what is absent is no problem."""
    folder = f"{row.path}/{MDEV_TYPES}"
    if row.physfn_error not in (0, errno.ENOENT):
        why = f"physfn of {name}: {unavailable(row.physfn_error)}."
        yield Problem(name, f"{row.path}/physfn", why)
    if row.types_error not in (0, errno.ENOENT):
        why = str(KernelError("list", row.types_error, sysfs.shown(folder)))
        yield Problem(MDEV_TYPES, folder, why)
    for kind in row.types:
        if kind.errors[0] not in (0, errno.ENOENT):
            path = f"{folder}/{kind.type_id}/name"
            yield Problem("name", path, f"{path}: {unavailable(kind.errors[0])}.")


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
