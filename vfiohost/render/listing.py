"""Devices, IOMMU groups and mediated devices as tables."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from vfiohost.model import Unavailable, is_vfio_driver
from vfiohost.render.table import format_columns, format_table, plain

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Mapping, Sequence

    from vfiohost.definitions import MdevDefinition
    from vfiohost.model import (
        IommuGroup,
        MdevParent,
        MdevType,
        MediatedDevice,
        PciDevice,
        Snapshot,
    )
    from vfiohost.names import PciNames
    from vfiohost.render.table import Cell, Paint

    ColumnOf = Callable[[PciDevice, Snapshot, PciNames | None], Cell]

NOTHING = "-"
UNREADABLE = "?"


def text_of(value: object) -> str:
    """A field as text: ``-`` where there is none, ``?`` where it could not be read."""
    if value is None:
        return NOTHING
    return UNREADABLE if isinstance(value, Unavailable) else str(value)


def _driver(device: PciDevice, snapshot: Snapshot) -> Cell:
    if isinstance(device.driver, str):
        return device.driver, "good" if is_vfio_driver(device.driver) else "plain"
    if snapshot.is_releasing(device):
        return "releasing", "warn"
    return text_of(device.driver), "dim"


def _override(device: PciDevice, snapshot: Snapshot) -> str:
    details = snapshot.details.get(device.address)
    return text_of(details.driver_override) if details else UNREADABLE


def _boot_vga(device: PciDevice, snapshot: Snapshot) -> str:
    details = snapshot.details.get(device.address)
    if details is None or isinstance(details.boot_vga, Unavailable):
        return UNREADABLE
    return NOTHING if details.boot_vga is None else "yes" if details.boot_vga else "no"


def _class(device: PciDevice, names: PciNames | None) -> str:
    return names.class_name(device.class_code) if names else f"{device.class_code >> 8:04x}"


def _name(device: PciDevice, names: PciNames | None) -> str:
    return names.full(device.vendor_id, device.device_id) if names else device.ids


def _subsystem(device: PciDevice, names: PciNames | None) -> str:
    vendor, card = device.subsystem_vendor_id, device.subsystem_device_id
    if not vendor or card is None:
        return NOTHING
    if names is None:
        return f"{vendor:04x}:{card:04x}"
    return names.subsystem(device.vendor_id, device.device_id, vendor, card)


def _revision(device: PciDevice) -> str:
    revision = device.revision
    return f"{revision:02x}" if isinstance(revision, int) else text_of(revision)


def _vfs(device: PciDevice, snapshot: Snapshot) -> str:
    if not isinstance(device.total_vfs, int):
        return text_of(device.total_vfs)
    return f"{len(snapshot.virtual_functions.get(device.address, ()))}/{device.total_vfs}"


def _text(make: Callable[[PciDevice, Snapshot, PciNames | None], str]) -> ColumnOf:
    return lambda device, snapshot, names: (make(device, snapshot, names), "plain")


COLUMNS: Mapping[str, ColumnOf] = {
    "address": _text(lambda d, _s, _n: str(d.address)),
    "ids": _text(lambda d, _s, _n: d.ids),
    "class": _text(lambda d, _s, n: _class(d, n)),
    "driver": lambda d, s, _n: _driver(d, s),
    "group": _text(lambda d, _s, _n: text_of(d.iommu_group)),
    "name": _text(lambda d, _s, n: _name(d, n)),
    "boot_vga": _text(lambda d, s, _n: _boot_vga(d, s)),
    "class_code": _text(lambda d, _s, _n: f"{d.class_code:06x}"),
    "numa": _text(lambda d, _s, _n: text_of(d.numa_node)),
    "override": _text(lambda d, s, _n: _override(d, s)),
    "path": _text(lambda d, _s, _n: d.path),
    "physfn": _text(lambda d, _s, _n: text_of(d.physfn)),
    "revision": _text(lambda d, _s, _n: _revision(d)),
    "subsystem": _text(lambda d, _s, n: _subsystem(d, n)),
    "vfs": _text(lambda d, s, _n: _vfs(d, s)),
}
"""What ``list -o`` can show, by name."""

DEFAULT_COLUMNS = ("address", "ids", "class", "driver", "group", "name")
DETAIL_COLUMNS = frozenset({"override", "boot_vga"})
"""The columns for which attributes must be read whose reading may block."""
NAME_COLUMNS = frozenset({"class", "name", "subsystem"})
"""The columns that come from ``pci.ids``."""


def device_table(
    devices: Iterable[PciDevice],
    snapshot: Snapshot,
    names: PciNames | None,
    columns: Sequence[str] = DEFAULT_COLUMNS,
    paint: Paint = plain,
) -> list[str]:
    """One line for each device.

    Args:
        devices: what to show, in this order.
        snapshot: where they are from.
        names: for the class, name and subsystem columns; ``None`` shows numbers.
        columns: keys of :data:`COLUMNS`.
        paint: makes colours of kinds.
    """
    makers = [COLUMNS[c] for c in columns]
    rows = [[make(d, snapshot, names) for make in makers] for d in devices]
    return format_table([c.upper() for c in columns], rows, right=("GROUP", "NUMA"), paint=paint)


def _members(group: IommuGroup) -> str:
    """The members of a group with their drivers; those that block, and bridges, are marked."""
    blockers = {m.address for m in group.blockers}

    def marked(member: PciDevice) -> str:
        if member.address in blockers:
            return " (blocks)"
        return " (bridge)" if member.is_bridge else ""

    return "   ".join(f"{m.address} {text_of(m.driver)}{marked(m)}" for m in group.members)


def group_table(
    groups: Iterable[IommuGroup], *, why: bool = False, paint: Paint = plain
) -> list[str]:
    """One line for each IOMMU group: viable or not, and its members.

    Args:
        groups: what to show, in this order.
        why: name each member's driver, and mark those that block.
        paint: makes colours of kinds.
    """

    def members(group: IommuGroup) -> str:
        if why:
            return _members(group)
        return " ".join(str(m.address) for m in group.members)

    rows: list[list[Cell]] = [
        [
            (str(group.number), "plain"),
            ("yes", "good") if group.is_viable else ("no", "bad"),
            (members(group), "plain"),
        ]
        for group in groups
    ]
    return format_table(["GROUP", "VIABLE", "MEMBERS"], rows, right=("GROUP",), paint=paint)


def mdev_type_table(parents: Iterable[MdevParent], paint: Paint = plain) -> list[str]:
    """One line for each type of each parent."""
    cells_of = cache(_type_cells)  # thousands of parents offer the same types
    rows: list[list[Cell]] = [
        [(parent.name, "plain"), *cells_of(kind)] for parent in parents for kind in parent.types
    ]
    headers = ["PARENT", "TYPE", "AVAILABLE", "API", "NAME"]
    return format_table(headers, rows, right=("AVAILABLE",), paint=paint)


def _type_cells(kind: MdevType) -> list[Cell]:
    return [
        (kind.type_id, "plain"),
        (text_of(kind.available_instances), "dim" if not kind.available_instances else "good"),
        (text_of(kind.device_api), "plain"),
        (text_of(kind.name), "plain"),
    ]


def mdev_table(devices: Iterable[MediatedDevice], paint: Paint = plain) -> list[str]:
    """One line for each mediated device."""
    rows: list[list[Cell]] = [
        [
            (device.uuid, "plain"),
            (device.parent, "plain"),
            (text_of(device.type_id), "plain"),
            (text_of(device.driver), "plain" if isinstance(device.driver, str) else "dim"),
            (text_of(device.iommu_group), "plain"),
            (text_of(device.type_name), "plain"),
        ]
        for device in devices
    ]
    headers = ["UUID", "PARENT", "TYPE", "DRIVER", "GROUP", "NAME"]
    return format_table(headers, rows, right=("GROUP",), paint=paint)


def definition_table(definitions: Iterable[MdevDefinition], paint: Paint = plain) -> list[str]:
    """One line for each mediated device that is defined."""
    rows: list[list[Cell]] = [
        [
            (each.uuid, "plain"),
            (each.parent, "plain"),
            (each.mdev_type, "plain"),
            (each.start, "plain" if each.start == "auto" else "dim"),
            (" ".join(f"{key}={value}" for key, value in each.attributes) or "-", "plain"),
        ]
        for each in definitions
    ]
    return format_table(["UUID", "PARENT", "TYPE", "START", "ATTRIBUTES"], rows, paint=paint)


def bound_lines(
    subjects: Iterable[PciDevice],
    before: Snapshot,
    touched: Container[str],
    nodes: Mapping[int, str],
) -> list[str]:
    """One line for each device that a plan was about, as the host is afterwards.

    Args:
        subjects: the devices, as they are now.
        before: the host as it was.
        touched: the addresses that the plan wrote something for.
        nodes: the VFIO group nodes that exist now, by group.
    """
    return format_columns([_bound(d, before, touched, nodes) for d in subjects])


def _bound(
    device: PciDevice, before: Snapshot, touched: Container[str], nodes: Mapping[int, str]
) -> list[str]:
    old, now = text_of(before.pci[device.address].driver), text_of(device.driver)
    shown = f"already bound to {now}" if device.has_driver else "already without a driver"
    if old != now:
        shown = f"{'none' if old == NOTHING else old} -> {'none' if now == NOTHING else now}"
    elif str(device.address) in touched:
        shown = f"{'none' if now == NOTHING else now} (as before, driver_override changed)"
    fields = [str(device.address), shown]
    if isinstance(device.iommu_group, int):
        fields.append(f"group {device.iommu_group}")
        if isinstance(device.driver, str) and is_vfio_driver(device.driver):
            fields += [nodes[device.iommu_group]] if device.iommu_group in nodes else []
    return fields


def created_lines(devices: Iterable[MediatedDevice], nodes: Mapping[int, str]) -> list[str]:
    """One line for each mediated device: UUID, parent, type, group, node."""
    rows = []
    for device in devices:
        group = device.iommu_group
        row = [device.uuid, device.parent, text_of(device.type_id)]
        if isinstance(group, int):
            row += [f"group {group}", *([nodes[group]] if group in nodes else [])]
        rows.append(row)
    return format_columns(rows)
