"""The topology of a host as a tree of lines: bridges, functions, drivers, groups."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import attrs

from vfiohost.model import is_vfio_driver
from vfiohost.render.listing import NOTHING, text_of
from vfiohost.render.table import plain, printable
from vfiohost.render.values import device_value

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from vfiohost.model import PciDevice, Snapshot, Unavailable
    from vfiohost.names import PciNames
    from vfiohost.render.table import Cell, Kind, Paint
    from vfiohost.topology import Bridge, Node

_BASE_DISPLAY, _BASE_ACCELERATOR = 0x03, 0x12
_ELLIPSIS = "…"
LINES = ("├─ ", "└─ ", "│  ", "   ")
"""What a tree is drawn with where the terminal has it."""
_ASCII_LINES = ("|- ", "`- ", "|  ", "   ")
_LEGEND = "* driver_override is set"
_LEAST_NAME = 10


@attrs.frozen
class Row:
    """A line of the tree.

    Attributes:
        ancestors: for each level above but the first, whether it goes on below this row.
        is_last: nothing follows on this row's own level.
        label: the host bridge, the address, or how many virtual functions.
        driver: the driver, as a cell; empty for a host bridge.
        group: the IOMMU group or groups.
        name: what it is.
        briefs: shorter names, for where there is little room: without the class, and the vendor.
        kind: ``bridge`` for a host bridge, ``port`` for a bridge, ``gpu`` for a display or an
            accelerator, ``vfs`` for virtual functions, ``function`` for others.
        devices: the functions that the row stands for.
    """

    ancestors: tuple[bool, ...]
    is_last: bool
    label: str
    driver: Cell
    group: str
    name: str
    briefs: tuple[str, ...]
    kind: str
    devices: tuple[PciDevice, ...] = ()


def tree_rows(bridges: Iterable[Bridge], snapshot: Snapshot, names: PciNames | None) -> list[Row]:
    """The rows of a tree, from above.

    Args:
        bridges: the topology.
        snapshot: where it is from; with the mediated devices, those are counted.
        names: for what a function is; ``None`` shows numbers.
    """
    maker = _Maker(snapshot, names)
    return [row for bridge in bridges for row in maker.bridge(bridge)]


def tree_lines(
    rows: Sequence[Row], *, width: int | None = None, ascii_only: bool = False, paint: Paint = plain
) -> list[str]:
    """Rows as aligned lines.

    Args:
        rows: as :func:`tree_rows` makes them.
        width: no line is wider than so many columns; names are cut first. ``None``: nothing is cut.
        ascii_only: draw with ASCII characters.
        paint: makes colours of kinds.
    """
    art = _ASCII_LINES if ascii_only else LINES
    dots = "..." if ascii_only else _ELLIPSIS
    grid: list[list[Cell]] = [[(word, "head") for word in ("DEVICE", "DRIVER", "GROUP", "NAME")]]
    grid += [
        [(_tree(row, art) + printable(row.label), _label_kind(row)), *_cells(row)] for row in rows
    ]
    widths = [max((columns_of(cells[i][0]) for cells in grid), default=0) for i in range(3)]
    left = None if width is None else width - sum(widths) - 6
    briefs = [(), *(row.briefs for row in rows)]
    lines = []
    trees = ["", *(_tree(row, art) for row in rows)]
    for (label, driver, group, (name, kind)), brief, tree in zip(grid, briefs, trees, strict=True):
        branch = [(tree, "dim"), (label[0].removeprefix(tree), label[1])]
        fields = [(branch, widths[0]), ([driver], widths[1]), ([group], -widths[2])]
        names = [name, *map(printable, brief)]
        fits = next((each for each in names if left is None or columns_of(each) <= left), None)
        if fits is not None:
            fields.append(([(fits, kind)], 0))
        elif left is not None and left >= _LEAST_NAME:
            fields.append(([(cut(names[-1], left, dots), kind)], 0))
        lines.append(_line(fields, width, dots, paint))
    if any(row.driver[0].endswith("*") for row in rows):
        lines.append(paint(_LEGEND if width is None else cut(_LEGEND, width, dots), "dim"))
    return lines


def tree_value(bridges: Iterable[Bridge], snapshot: Snapshot, names: PciNames | None) -> Any:
    """The topology as JSON has it: nested, each function as in ``list``."""

    def node_value(node: Node) -> dict[str, Any]:
        return {
            "device": device_value(node.device, snapshot, names),
            "virtual_functions": [
                device_value(vf, snapshot, names) for vf in node.virtual_functions
            ],
            "children": [node_value(child) for child in node.children],
        }

    return [
        {
            "host_bridge": bridge.name,
            "numa_nodes": list(bridge.numa_nodes),
            "children": [node_value(node) for node in bridge.nodes],
        }
        for bridge in bridges
    ]


# ---- rows --------------------------------------------------------------------------------------


class _Maker:
    """Makes the rows of one snapshot."""

    def __init__(self, snapshot: Snapshot, names: PciNames | None) -> None:
        self._snapshot = snapshot
        self._names = names
        self._is_short = all(device.address.domain == 0 for device in snapshot.devices)
        self._mdevs: dict[str, int] = defaultdict(int)
        for mdev in snapshot.mdev.devices if snapshot.mdev else ():
            self._mdevs[mdev.parent] += 1

    def bridge(self, bridge: Bridge) -> Iterator[Row]:
        nodes = ", ".join(map(str, bridge.numa_nodes))
        name = f"NUMA node {nodes}" if nodes else ""
        empty: Cell = ("", "plain")
        yield Row(
            (),
            is_last=False,
            label=bridge.name,
            driver=empty,
            group="",
            name=name,
            briefs=(),
            kind="bridge",
        )
        for node in bridge.nodes:
            yield from self._node(node, (), is_last=node is bridge.nodes[-1])

    def _node(self, node: Node, ancestors: tuple[bool, ...], *, is_last: bool) -> Iterator[Row]:
        device = node.device
        mdevs = _mdevs(self._mdevs[str(device.address)])
        kind, name, short = self._words(device)
        yield Row(
            ancestors,
            is_last,
            self._address(device),
            self._driver(device),
            text_of(device.iommu_group),
            f"{kind}: {name}{mdevs}",
            (f"{name}{mdevs}", f"{short}{mdevs}"),
            _kind(device),
            (device,),
        )
        below = (*ancestors, not is_last)
        folds = self._folds(node.virtual_functions)
        for number, vfs in enumerate(folds):
            ends = not node.children and number == len(folds) - 1
            yield self._fold(vfs, below, is_last=ends)
        for child in node.children:
            yield from self._node(child, below, is_last=child is node.children[-1])

    def _folds(self, vfs: Iterable[PciDevice]) -> list[tuple[PciDevice, ...]]:
        """Virtual functions that look alike."""
        found: dict[tuple[str, str], list[PciDevice]] = defaultdict(list)
        for vf in vfs:
            found[(self._driver(vf)[0], vf.ids)].append(vf)
        return [tuple(each) for each in found.values()]

    def _fold(
        self, vfs: tuple[PciDevice, ...], ancestors: tuple[bool, ...], *, is_last: bool
    ) -> Row:
        count = "1 VF" if len(vfs) == 1 else f"{len(vfs)} VFs"
        first, last = (self._address(vf) for vf in (vfs[0], vfs[-1]))
        span = first if len(vfs) == 1 else f"{first} to {last}"
        name = span + _mdevs(sum(self._mdevs[str(vf.address)] for vf in vfs))
        groups = _span([vf.iommu_group for vf in vfs])
        driver = self._driver(vfs[0])
        return Row(ancestors, is_last, count, driver, groups, name, (), "vfs", vfs)

    def _address(self, device: PciDevice) -> str:
        return str(device.address)[5:] if self._is_short else str(device.address)

    def _driver(self, device: PciDevice) -> Cell:
        kind: Kind = "plain"
        if isinstance(device.driver, str):
            text, kind = device.driver, "good" if is_vfio_driver(device.driver) else "plain"
        elif self._snapshot.is_releasing(device):
            text, kind = "releasing", "warn"
        else:
            text, kind = text_of(device.driver), "dim"
        details = self._snapshot.details.get(device.address)
        override = details.driver_override if details else None
        if not isinstance(override, str):
            return text, kind
        return (f"{text}*", kind) if override == text else (f"{text} -> {override}*", "warn")

    def _words(self, device: PciDevice) -> tuple[str, str, str]:
        """What it is: its class, its name, and that without the vendor."""
        if self._names is None:
            return f"{device.class_code >> 8:04x}", device.ids, device.ids
        kind = self._names.class_name(device.class_code)
        ids = (device.vendor_id, device.device_id)
        return kind, self._names.full(*ids), self._names.device(*ids)


def _mdevs(count: int) -> str:
    return "" if not count else f", {count} mdev{'' if count == 1 else 's'}"


def _kind(device: PciDevice) -> str:
    if device.base_class in (_BASE_DISPLAY, _BASE_ACCELERATOR):
        return "gpu"
    return "port" if device.is_bridge else "function"


def _span(groups: Sequence[int | Unavailable | None]) -> str:
    """Groups in few characters: ``33``, ``33-64``, or how many where there are gaps."""
    numbers = sorted({group for group in groups if isinstance(group, int)})
    if not numbers:
        return text_of(groups[0]) if groups else NOTHING
    if len(numbers) == 1:
        return str(numbers[0])
    if numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"{numbers[0]}-{numbers[-1]}"
    return f"{numbers[0]}..{numbers[-1]}"


# ---- lines -------------------------------------------------------------------------------------


def _tree(row: Row, art: Sequence[str]) -> str:
    if row.kind == "bridge":
        return ""
    joint, end, line, blank = art
    above = "".join(line if goes_on else blank for goes_on in row.ancestors)
    return above + (end if row.is_last else joint)


def _label_kind(row: Row) -> Kind:
    if row.kind in ("bridge", "gpu"):
        return "head"
    return "dim" if row.kind == "port" else "plain"


def _cells(row: Row) -> tuple[Cell, Cell, Cell]:
    name_kind: Kind = "dim" if row.kind in ("bridge", "port", "vfs") else "plain"
    driver, kind = row.driver
    return (printable(driver), kind), (row.group, "plain"), (printable(row.name), name_kind)


def _line(
    fields: Iterable[tuple[list[Cell], int]], width: int | None, dots: str, paint: Paint
) -> str:
    """Fields two spaces apart; a negative width aligns to the right. Cut where it has to be."""
    parts: list[Cell] = []
    for pieces, size in fields:
        blank: Cell = (" " * (abs(size) - sum(columns_of(text) for text, _ in pieces)), "plain")
        if parts:
            parts.append(("  ", "plain"))
        parts += [blank, *pieces] if size < 0 else [*pieces, blank]
    whole = "".join(text for text, _ in parts).rstrip()
    left = columns_of(whole) if width is None else min(width, columns_of(whole))
    shown = []
    for text, kind in parts:
        piece = cut(text, left, dots)
        shown.append(paint(piece, kind))
        left -= columns_of(piece)
        if left <= 0:
            break
    return "".join(shown).rstrip()


def columns_of(text: str) -> int:
    """How many columns of a terminal a text takes (Unicode's East Asian Width, UAX #11)."""
    if text.isascii():
        return len(text)
    return sum(_columns(character) for character in text)


def _columns(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def cut(text: str, width: int, dots: str = _ELLIPSIS) -> str:
    """A text in at most so many columns, with an ellipsis where something is missing."""
    if columns_of(text) <= width:
        return text
    room = width - len(dots)
    if room < 0:
        return dots[: max(width, 0)]
    kept = ""
    for character in text:
        room -= _columns(character)
        if room < 0:
            break
        kept += character
    return kept + dots
