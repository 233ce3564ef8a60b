"""Where the mediated devices of a host file belong, and what keeps them from it. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vfiohost.errors import AmbiguousError, NotFoundError, ParseError, Refusal
from vfiohost.host_file.types import NATIVE, Difference
from vfiohost.model import MdevBus, is_vfio_driver
from vfiohost.nvidia import short_name
from vfiohost.plan.drivers import AUTO
from vfiohost.plan.mdev import find_parents, no_parent
from vfiohost.selectors import knows_no_names, parse, select

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from vfiohost.host_file.types import MdevTable, Wanted
    from vfiohost.model import MediatedDevice, Snapshot
    from vfiohost.selectors import Lookup, Selector


def find_parent(table: MdevTable, snapshot: Snapshot, lookup: Lookup = knows_no_names) -> str:
    """The parent of a table: its name as it stands there, or the address that a selector hits.

    Args:
        table: what is wanted.
        snapshot: what there is, with the mediated devices.
        lookup: says which devices the host calls by a name.

    Raises:
        NotFoundError: there is no such parent.
        AmbiguousError: the selector hits several devices.
    """
    bus = snapshot.mdev or MdevBus((), ())
    name = _name(table, snapshot, lookup)
    find_parents(bus, name)
    return name


def _name(table: MdevTable, snapshot: Snapshot, lookup: Lookup) -> str:
    """As :func:`find_parent`, of a device that may not be a parent yet."""
    bus = snapshot.mdev or MdevBus((), ())
    selector = _selector(table)
    if selector is None or any(parent.name == table.parent for parent in bus.parents):
        return table.parent
    found = [str(device.address) for device in select(selector, snapshot, lookup)]
    if len(found) > 1:
        raise AmbiguousError(table.parent, found, where=f"{table.where}: parent")
    if not found:
        raise no_parent(bus, table.parent)
    return found[0]


def _selector(table: MdevTable) -> Selector | None:
    """The parent as a selector; ``None``: it is the name of one that is no PCI device."""
    try:
        return parse(table.parent)
    except ParseError:
        return None


def missing_parents(
    tables: Iterable[MdevTable],
    wanted: Iterable[Wanted],
    snapshot: Snapshot,
    lookup: Lookup = knows_no_names,
) -> Iterator[Refusal]:
    """The parents that are not there, and that nothing in the file can bring.

    Args:
        tables: what is wanted.
        wanted: what the file wants of devices: a driver or virtual functions may bring a parent.
        snapshot: what there is, with the mediated devices.
        lookup: says which devices the host calls by a name.

    Raises:
        AmbiguousError: a selector hits several devices.
    """
    there = {device.uuid for device in snapshot.mdev.devices} if snapshot.mdev else set()
    wanted = tuple(wanted)
    for table in tables:
        try:
            find_parent(table, snapshot, lookup)
        except NotFoundError as error:
            if table.uuid not in there and not _may_come(table, wanted, snapshot, lookup):
                yield not_there(table, error)


def not_there(table: MdevTable, error: NotFoundError) -> Refusal:
    """The refusal of a table whose parent is not there."""
    return Refusal(
        "not-there",
        table.parent,
        f"{table.where}: {error}",
        "Load the driver that makes it, or take its table out of the file.",
    )


def _may_come(
    table: MdevTable, wanted: Iterable[Wanted], snapshot: Snapshot, lookup: Lookup
) -> bool:
    """Whether what the file wants of devices may make the parent of a table."""
    if _selector(table) is None:
        return False
    try:
        name = _name(table, snapshot, lookup)
    except NotFoundError:
        return any(_brings_functions(each, snapshot) for each in wanted)
    device = next(device for device in snapshot.devices if str(device.address) == name)
    return any(
        _brings_functions(each, snapshot) or _brings_driver(each)
        for each in wanted
        if each.address in (device.address, device.physfn)
    )


def _brings_functions(wanted: Wanted, snapshot: Snapshot) -> bool:
    has_some = any(device.physfn == wanted.address for device in snapshot.devices)
    return wanted.table.vfs not in (None, 0) and not has_some


def _brings_driver(wanted: Wanted) -> bool:
    """Whether a device gets another driver of the host's."""
    driver, has = wanted.table.driver, wanted.device.driver
    if driver in (None, AUTO, "none") or is_vfio_driver(driver):
        return False
    is_guests = not isinstance(has, str) or is_vfio_driver(has)
    return is_guests if driver == NATIVE else has != driver


def find_existing(table: MdevTable, snapshot: Snapshot) -> MediatedDevice | None:
    """The device that has the UUID of a table, whatever else it is."""
    devices = snapshot.mdev.devices if snapshot.mdev else ()
    return next((device for device in devices if device.uuid == table.uuid), None)


def mdev_differences(
    table: MdevTable, snapshot: Snapshot, lookup: Lookup = knows_no_names
) -> Iterator[Difference]:
    """Say in what a mediated device is not as its table says: its type, its parent.

    Args:
        table: what is wanted.
        snapshot: what there is, with the mediated devices.
        lookup: says which devices the host calls by a name.

    Raises:
        AmbiguousError: the table's parent hits several devices.
    """
    found = find_existing(table, snapshot)
    try:
        name = _name(table, snapshot, lookup) if found else find_parent(table, snapshot, lookup)
    except NotFoundError:
        name = None
    if found is None:
        yield Difference(table.uuid, "type", "not there", table.type, table.where)
    elif not _is_type(found, table):
        yield Difference(table.uuid, "type", str(found.type_id), table.type, table.where)
    if name is None or (found is not None and not _is_on(found, name, snapshot)):
        has = "not there" if found is None else found.parent
        yield Difference(table.uuid, "parent", has, table.parent, table.where)


def _is_type(device: MediatedDevice, table: MdevTable) -> bool:
    name = device.type_name if isinstance(device.type_name, str) else ""
    return table.type == device.type_id or short_name(table.type) == short_name(name)


def _is_on(device: MediatedDevice, parent: str, snapshot: Snapshot) -> bool:
    """Whether a mediated device is on a parent, or on a virtual function of it."""
    return device.parent == parent or any(
        str(function.address) == device.parent and str(function.physfn) == parent
        for function in snapshot.devices
    )


def uuid_exists(table: MdevTable, found: MediatedDevice) -> Refusal:
    """The refusal of a table whose UUID another mediated device has."""
    return Refusal(
        "uuid-exists",
        table.uuid,
        f"{table.where}: {table.uuid} exists already, as {found.type_id} on {found.parent}, and "
        f"the file says {table.type} on {table.parent}.",
        f"Remove it (`vfiohost mdev remove {table.uuid}`) when nobody uses it, or correct the "
        "file.",
    )
