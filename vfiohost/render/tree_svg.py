"""The topology of a host as a picture: one SVG file that needs nothing else."""

from __future__ import annotations

from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING

from vfiohost.model import is_vfio_driver
from vfiohost.render.listing import NOTHING
from vfiohost.render.table import printable
from vfiohost.render.tree import columns_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vfiohost.render.tree import Row

# Pixels. A monospace letter of 13 pixels is 7.8 wide, whatever the font.
_LETTER, _LINE, _STEP, _MARGIN, _GAP, _CHIP, _LEAST = 7.8, 24, 18, 16, 14, 18, 860
# Neighbours in the list of groups get colours far apart; none begins with red, which is for errors.
_GOLDEN_ANGLE, _FIRST_HUE = 137.508, 210
_STYLE = """\
text { font: 13px ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; fill: #1c2430; }
.page { fill: #ffffff; }
.band { fill: #f3f5f8; stroke: #dde3ea; }
.wire { stroke: #9aa7b5; fill: none; }
.title { font-weight: bold; font-size: 15px; }
.strong { font-weight: bold; }
.dim { fill: #66727f; }
.chip { fill: #e3e9f0; stroke: #c3cedb; }
.vfio { fill: #d3f0dc; stroke: #57a773; }
.none { fill: none; stroke: #b9c3ce; stroke-dasharray: 3 2; }
.warn { fill: #fdeccc; stroke: #d29a2f; }
.gpu { fill: #76b900; }
@media (prefers-color-scheme: dark) {
  text { fill: #e4e9ef; }
  .page { fill: #12161c; }
  .band { fill: #1b212a; stroke: #2b3440; }
  .wire { stroke: #5d6a78; }
  .dim { fill: #97a3b0; }
  .chip { fill: #2b3440; stroke: #445162; }
  .vfio { fill: #17432a; stroke: #57a773; }
  .none { stroke: #55616f; }
  .warn { fill: #51401a; stroke: #d29a2f; }
}
"""
_LEGEND = (("vfio", "on a VFIO driver"), ("chip", "on another driver"), ("none", "no driver"))
_SHARED = "coloured: groups with several members"
_OVERRIDE = "*: driver_override is set"


def tree_svg(rows: Sequence[Row], title: str) -> str:
    """Draw the rows of a tree.

    The same rows give the same text. It follows the reader's choice of light or dark, has no
    script, and refers to nothing outside.

    Args:
        rows: as :func:`vfiohost.render.tree.tree_rows` makes them.
        title: stands above.
    """
    return _Picture(rows).svg(printable(title))


class _Picture:
    """One picture: where its columns are, and the colours of shared groups."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows
        labels = [_STEP * (len(row.ancestors) + 1) + _wide(row.label) for row in rows]
        self._driver = _MARGIN + max(labels, default=0) + 2 * _GAP
        drivers = max((_wide(row.driver[0]) for row in rows), default=0)
        self._group = self._driver + max(drivers, _wide("driver")) + 2 * _GAP
        groups = max((_wide(row.group) for row in rows), default=0)
        self._name = self._group + max(groups, _wide("group")) + 2 * _GAP
        names = max((_wide(row.name) for row in rows), default=0)
        self._width = round(max(self._name + names + 2 * _MARGIN, _LEAST))
        self._colours = self._shared_groups()

    def svg(self, title: str) -> str:
        top = 2 * _MARGIN + 2 * _LINE - 4
        bottom = top + len(self._rows) * _LINE
        height = bottom + _LINE + _MARGIN
        size = f'width="{self._width}" height="{height}"'
        box = f'viewBox="0 0 {self._width} {height}"'
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} {box} role="img">',
            f"<title>{escape(title)}</title>",
            f"<style>\n{_STYLE}</style>",
            f'<rect class="page" {size}/>',
            _text(_MARGIN, _MARGIN + 15, title, "title"),
            _text(self._driver + 6, top - 6, "driver", "dim"),
            _text(self._group + 6, top - 6, "group", "dim"),
            *self._bands(top),
            *self._wires(top),
        ]
        for number, row in enumerate(self._rows):
            parts += self._row(row, top + number * _LINE)
        parts += self._legend(bottom + _MARGIN)
        return "\n".join([*parts, "</svg>"]) + "\n"

    def _shared_groups(self) -> dict[str, str]:
        """A colour for each group that several rows are in; most have one alone."""
        seen: dict[str, int] = {}
        for row in self._rows:
            seen[row.group] = seen.get(row.group, 0) + len(row.devices)
        shared = [g for g, count in seen.items() if g not in ("", NOTHING) and count > 1]
        ours = [g for g in shared if g.isdecimal()]
        hues = (round(_FIRST_HUE + n * _GOLDEN_ANGLE) % 360 for n in range(len(ours)))
        return {group: f"hsl({hue} 70% 50%)" for group, hue in zip(ours, hues, strict=True)}

    def _bands(self, top: int) -> Iterator[str]:
        """The background of each host bridge."""
        starts = [n for n, row in enumerate(self._rows) if row.kind == "bridge"]
        for start, end in pairwise([*starts, len(self._rows)]):
            y, height = top + start * _LINE + 2, (end - start) * _LINE - 4
            yield _box((_MARGIN - 4, y, self._width - 2 * _MARGIN + 8, height), "band", 6)

    def _wires(self, top: int) -> Iterator[str]:
        """From each row up to the one that it hangs on."""
        above: list[int] = []
        for number, row in enumerate(self._rows):
            depth = 0 if row.kind == "bridge" else len(row.ancestors) + 1
            del above[depth:]
            if depth:
                x = _MARGIN + _STEP * (depth - 1) + 6
                y = top + number * _LINE + _LINE // 2
                start = top + above[-1] * _LINE + _LINE - 4
                yield f'<path class="wire" d="M{x} {start}V{y}H{x + 10}"/>'
            above.append(number)

    def _row(self, row: Row, y: int) -> Iterator[str]:
        base, chip = y + 16, y + 3
        depth = 0 if row.kind == "bridge" else len(row.ancestors) + 1
        x = _MARGIN + _STEP * depth + (4 if not depth else 0)
        style = {"bridge": "strong", "gpu": "strong", "port": "dim"}.get(row.kind, "")
        if row.kind == "gpu":
            yield _box((x - 6, chip + 2, 3, 14), "gpu", 1)
        yield _text(x, base, printable(row.label), style)
        driver = printable(row.driver[0])
        if driver:
            yield _chip(self._driver, chip, _wide(driver), _style_of(row))
            yield _text(self._driver + 6, base, driver, "dim" if driver == NOTHING else "")
        if row.group in self._colours:
            stroke = f' style="stroke: {self._colours[row.group]}; stroke-width: 2"'
            yield _chip(self._group, chip, _wide(row.group), "chip", stroke)
        yield _text(self._group + 6, base, row.group, "")
        dim = row.kind in ("bridge", "port", "vfs")
        yield _text(self._name, base, printable(row.name), "dim" if dim else "")

    def _legend(self, y: int) -> Iterator[str]:
        x: float = _MARGIN
        for style, text in _LEGEND:
            yield _chip(x, y - 2, 10, style)
            yield _text(x + 28, y + 11, text, "dim")
            x += 28 + _wide(text) + 2 * _GAP
        is_set = any(row.driver[0].endswith("*") for row in self._rows)
        notes = [*([_SHARED] if self._colours else []), *([_OVERRIDE] if is_set else [])]
        yield _text(x, y + 11, "   ".join(notes), "dim")


def _wide(text: str) -> float:
    return columns_of(printable(text)) * _LETTER


def _style_of(row: Row) -> str:
    if row.driver[1] == "warn":
        return "warn"
    driver = row.devices[0].driver if row.devices else None
    if not isinstance(driver, str):
        return "none"
    return "vfio" if is_vfio_driver(driver) else "chip"


def _text(x: float, y: float, text: str, style: str) -> str:
    kind = f' class="{style}"' if style else ""
    return f'<text x="{x:g}" y="{y:g}"{kind} xml:space="preserve">{escape(text)}</text>'


def _chip(x: float, y: float, width: float, style: str, more: str = "") -> str:
    return _box((x, y, width + 12, _CHIP), style, 9, more)


def _box(place: tuple[float, float, float, float], style: str, radius: int, more: str = "") -> str:
    x, y, width, height = place
    place_text = f'x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}"'
    return f'<rect class="{style}" {place_text} rx="{radius}"{more}/>'
