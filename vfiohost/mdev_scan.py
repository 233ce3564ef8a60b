"""Reads the mediated devices and their parents (``drivers/vfio/mdev/mdev_sysfs.c``)."""

from __future__ import annotations

import errno
import functools
import os
import posixpath
from contextlib import suppress
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
from vfiohost.reads import (
    Addresses,
    address_of,
    attribute,
    count,
    left_out,
    link_name,
    names,
    opened,
    unavailable,
    without_gc,
)

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
    with without_gc():
        parents = sorted(_parents(sysfs, problems), key=lambda p: _parent_key(p.name, p.address))
    devices = [_mdev(sysfs, name, problems) for name in names(sysfs, MDEV_DEVICES, problems)]
    return MdevBus(
        parents=tuple(parents),
        devices=tuple(sorted((d for d in devices if d), key=_mdev_key)),
    )


def _parents(sysfs: Sysfs, problems: list[Problem]) -> Iterator[MdevParent]:
    """Read all parents; thousands of them offer the same types, which are made once."""
    physfns = Addresses()
    types_of = functools.cache(_types)
    listed = names(sysfs, MDEV_PARENTS, problems)  # a problem, if it cannot be opened
    with suppress(KernelError), opened(sysfs, MDEV_PARENTS, os.O_PATH | os.O_DIRECTORY) as bus:
        rows = native.scan_parents(sysfs.fd, bus, listed)
        for name, row in zip(listed, rows, strict=True):
            if row.error:
                problems.append(left_out(name, f"{MDEV_PARENTS}/{name}", row.error))
                continue
            types, are_named = types_of(row.types)
            if row.physfn_error or row.types_error or not are_named:
                problems += _problems(sysfs, name, row)
            yield MdevParent(
                name,
                row.path,
                types,
                None if row.key < 0 else address_of(row.key),
                None if row.physfn < 0 else physfns[row.physfn],
            )


def _types(packed: tuple[bytes, bytes]) -> tuple[tuple[MdevType, ...], bool]:
    """Make the types of a parent in their order, and say whether all of them have a name."""
    types = sorted(
        map(_mdev_type, native.type_rows(packed)), key=lambda kind: natural_key(kind.type_id)
    )
    return tuple(types), all(kind.name is not None for kind in types)


def _mdev_type(row: native.TypeRow) -> MdevType:
    type_id, name, available, api, description, errors = row
    return MdevType(
        type_id=type_id,
        name=None if errors[0] else name,
        available_instances=unavailable(errors[1]) if errors[1] else count(available),
        device_api=_text(api, errors[2]),
        description=_text(description, errors[3]),
    )


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
    for type_id, *_, errors in native.type_rows(row.types):
        if errors[0] not in (0, errno.ENOENT):
            path = f"{folder}/{type_id}/name"
            yield Problem("name", path, f"{path}: {unavailable(errors[0])}.")


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


def _mdev_key(device: MediatedDevice) -> tuple[object, str]:
    return _parent_key(device.parent, PciAddress.of_name(device.parent)), device.uuid


def _parent_key(name: str, address: PciAddress | None) -> tuple[bool, object]:
    return (True, name) if address is None else (False, (*address.slot, address.function))
