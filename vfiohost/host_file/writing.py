"""A host file for the host as it is. Pure: text out."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from vfiohost.errors import ParseError, UnsupportedError
from vfiohost.host_file.reading import VERSION
from vfiohost.host_file.types import Ids
from vfiohost.model import is_vfio_driver
from vfiohost.selectors import place_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from vfiohost.model import MdevBus, PciAddress, PciDevice, Snapshot

Table = dict[str, Any]
"""The keys of one table and their values, as TOML has them."""

_SHAPE = ("driver", "vfs", "vf-driver", "vgpus")
"""The keys that an export sets; the others (owner, power …) are the writer's own."""


def device_tables(snapshot: Snapshot, vgpus: Mapping[PciAddress, Mapping[str, int]]) -> list[Table]:
    """The ``[[device]]`` tables for the devices that are not as a new start would make them.

    Args:
        snapshot: the host, with the details of all functions that are no VFs.
        vgpus: the vGPUs of each GPU that has some, by type.
    """
    vfs: dict[PciAddress, list[PciDevice]] = {}
    for device in snapshot.devices:
        if device.is_vf:
            vfs.setdefault(device.physfn, []).append(device)  # type: ignore[arg-type]  # is_vf says so
    tables = []
    for device in snapshot.devices:
        if device.is_vf or device.is_bridge:
            continue
        shape = _shape(device, snapshot, vfs.get(device.address, []), vgpus.get(device.address))
        if shape:
            tables.append(_identity(device) | shape)
    return tables


def _identity(device: PciDevice) -> Table:
    place = place_of(device)
    select = str(device.address) if place is None else f"path:{place}"
    return {"select": select, "ids": str(Ids.of(device))}


def _shape(
    device: PciDevice,
    snapshot: Snapshot,
    vfs: list[PciDevice],
    vgpus: Mapping[str, int] | None,
) -> Table:
    shape: Table = {}
    details = snapshot.details.get(device.address)
    override = details.driver_override if details is not None else None
    driver = override if isinstance(override, str) else device.driver
    if isinstance(override, str) or (isinstance(driver, str) and is_vfio_driver(driver)):
        shape["driver"] = driver
    if vfs:
        shape["vfs"] = "all" if len(vfs) == device.total_vfs else len(vfs)
        drivers = {vf.driver for vf in vfs}
        driver = drivers.pop()
        if not drivers and isinstance(driver, str) and is_vfio_driver(driver):
            shape["vf-driver"] = driver
    if vgpus:
        shape["vgpus"] = dict(sorted(vgpus.items()))
    return shape


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
            lines += ["", f"[[{kind}]]", *(f"{key} = {_value(v)}" for key, v in table.items())]
    return "\n".join(lines) + "\n"


def update(text: str, name: str, devices: Iterable[Table], mdevs: Iterable[Table]) -> str:
    """A host file that says what there is now and keeps its comments, its order and its own keys.

    A table is known by ``select``, or by ``uuid``. What is about a device that needs no table any
    more goes; new tables come last.

    Args:
        text: the file as it is.
        name: its name, for messages.
        devices: what :func:`device_tables` gives.
        mdevs: what :func:`mdev_tables` gives.

    Raises:
        UnsupportedError: tomlkit is not installed.
        ParseError: the file is no TOML.
    """
    try:
        import tomlkit  # noqa: PLC0415 - of an extra, and slow
        from tomlkit.exceptions import TOMLKitError  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise UnsupportedError(
            "To change a host file and keep its comments takes tomlkit, which is not installed: "
            "`pip install 'vfiohost[toml]'`. `vfiohost export` without a file prints a new one."
        ) from error
    try:
        document = tomlkit.parse(text)
    except TOMLKitError as error:
        raise ParseError(name, "TOML", hint=f"{error}.") from error
    for kind, key, own, tables in (
        ("device", "select", _SHAPE, devices),
        ("mdev", "uuid", (), mdevs),
    ):
        now = {table[key]: table for table in tables}
        kept = document.get(kind) or tomlkit.aot()
        _merge(kept, now, key, own)
        for table in now.values():
            kept.append(tomlkit.item(table))
        if len(kept) and kind not in document:
            document.append(kind, kept)
    return tomlkit.dumps(document)


def _merge(kept: Any, now: dict[str, Table], key: str, own: Iterable[str]) -> None:
    """Bring tables up to date, and take those that are brought from ``now``.

    Args:
        kept: the tables of the document; those of which there is nothing now go.
        now: what there is, by the key's value.
        key: by which a table is known.
        own: the keys that go where there is nothing to say of them.
    """
    for index in reversed(range(len(kept))):
        table = kept[index]
        wanted = now.pop(str(table.get(key)), None)
        if wanted is None:
            del kept[index]
            continue
        for each in [each for each in own if each in table and each not in wanted]:
            del table[each]
        for each, value in wanted.items():
            if table.get(each) != value:
                table[each] = value


def _value(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_value(k)} = {_value(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    # JSON's texts are TOML's, but for DEL.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
