"""A host file for the host as it is. Pure: text out."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from vfiohost.host_file.reading import VERSION
from vfiohost.host_file.types import Ids
from vfiohost.model import is_vfio_driver
from vfiohost.selectors import place_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from vfiohost.model import MdevBus, PciAddress, PciDevice, Snapshot

Table = dict[str, Any]
"""The keys of one table and their values, as TOML has them."""


def device_tables(
    snapshot: Snapshot, vgpus: Mapping[PciAddress, Mapping[str, int]]
) -> dict[PciAddress, Table]:
    """The ``[[device]]`` tables for the devices that are not as a new start would make them.

    Args:
        snapshot: the host, with the details of all functions that are no VFs.
        vgpus: the vGPUs of each GPU that has some, by type.
    """
    tables = {}
    for device in snapshot.devices:
        if device.is_vf or device.is_bridge:
            continue
        shape = shape_of(device, snapshot, vgpus.get(device.address))
        if shape:
            tables[device.address] = identity_of(device) | shape
    return tables


def identity_of(device: PciDevice) -> Table:
    """The keys that say which device is meant."""
    place = place_of(device)
    select = str(device.address) if place is None else f"path:{place}"
    return {"select": select, "ids": str(Ids.of(device))}


def shape_of(device: PciDevice, snapshot: Snapshot, vgpus: Mapping[str, int] | None) -> Table:
    """The keys that say how a device differs from what a new start would make of it."""
    vfs = snapshot.virtual_functions.get(device.address, ())
    shape: Table = {}
    driver = _given_driver(device, snapshot)
    if driver is not None:
        shape["driver"] = driver
    if vfs:
        shape["vfs"] = "all" if len(vfs) == device.total_vfs else len(vfs)
        drivers = {_given_driver(vf, snapshot) for vf in vfs}
        driver = drivers.pop()
        if driver is not None and not drivers:
            shape["vf-driver"] = driver
    if vgpus:
        shape["vgpus"] = dict(sorted(vgpus.items()))
    return shape


def _given_driver(device: PciDevice, snapshot: Snapshot) -> str | None:
    """The driver that somebody gave to a function, or ``None``: it has what the kernel gave."""
    details = snapshot.details.get(device.address)
    override = details.driver_override if details is not None else None
    if isinstance(override, str):
        return override
    if isinstance(device.driver, str) and is_vfio_driver(device.driver):
        return device.driver
    return None


def mdev_tables(bus: MdevBus, is_vgpu: Callable[[str], bool], snapshot: Snapshot) -> list[Table]:
    """The ``[[mdev]]`` tables for the mediated devices that are no vGPUs.

    Args:
        bus: what there is.
        is_vgpu: says of a parent's name whether its devices are vGPUs, which have a table already.
        snapshot: the functions.
    """
    functions = {str(device.address): device for device in snapshot.devices}
    return [
        {"uuid": d.uuid, "parent": _parent(functions.get(d.parent), d.parent), "type": d.type_id}
        for d in bus.devices
        if isinstance(d.type_id, str) and not is_vgpu(d.parent)
    ]


def _parent(device: PciDevice | None, name: str) -> str:
    place = place_of(device) if device is not None else None
    return name if place is None else f"path:{place}"


def write(devices: Iterable[Table], mdevs: Iterable[Table]) -> str:
    """A new host file with these tables."""
    lines = [f"version = {VERSION}"]
    for kind, tables in (("device", devices), ("mdev", mdevs)):
        for table in tables:
            lines += table_lines(kind, table)
    return "\n".join(lines) + "\n"


def table_lines(kind: str, table: Table) -> list[str]:
    """The lines of one table, below an empty one."""
    return ["", f"[[{kind}]]", *(f"{key} = {value_text(value)}" for key, value in table.items())]


def value_text(value: object) -> str:
    """A value as TOML has it, on one line."""
    if isinstance(value, dict):
        return (
            "{ " + ", ".join(f"{value_text(k)} = {value_text(v)}" for k, v in value.items()) + " }"
        )
    if isinstance(value, list):
        return f"[{', '.join(map(value_text, value))}]"
    # JSON's texts are TOML's, but for DEL.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
