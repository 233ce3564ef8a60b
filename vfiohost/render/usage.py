"""Who uses a device, as a table and as JSON values."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

import attrs

from vfiohost.render.table import format_table, plain

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from vfiohost.render.table import Cell, Paint
    from vfiohost.usage import Usage, Use

# Those that only tell what there is; to take the device away ends nothing.
_HARMLESS = frozenset({"sound-control", "vf", "vgpu-manager"})


def usage_table(usage: Usage, paint: Paint = plain) -> list[str]:
    """One line for each use."""
    headers = ["DEVICE", "USE", "PID", "USER", "UNIT", "DETAIL"]
    rows = [_row(use) for use in _in_short(usage.uses)]
    return format_table(headers, rows, right=("PID",), paint=paint)


def _in_short(uses: Iterable[Use]) -> Iterator[Use]:
    """The uses, with the virtual functions of a device in one line: there may be hundreds."""
    for (_, kind), group in groupby(uses, key=lambda use: (use.subject, use.kind)):
        found = list(group)
        if kind != "vf" or len(found) == 1:
            yield from found
            continue
        first, last = (use.via.split("/")[-2] for use in (found[0], found[-1]))
        detail = f"{len(found)} virtual functions of it: {first} to {last}"
        yield attrs.evolve(found[0], detail=detail)


def _row(use: Use) -> list[Cell]:
    process = use.process
    kind: Cell = (use.kind, "plain" if use.kind in _HARMLESS else "warn")
    if process is None:
        none: Cell = ("-", "dim")
        return [(use.subject, "plain"), kind, none, none, none, (use.detail, "plain")]
    where = process.unit if process.container is None else f"container {process.container[:12]}"
    return [
        (use.subject, "plain"),
        kind,
        (str(process.pid), "plain"),
        (process.user or "?", "plain"),
        (where or "-", "plain" if where else "dim"),
        (f"{process.command}: {use.detail}", "plain"),
    ]


def usage_value(usage: Usage) -> dict[str, Any]:
    """The fields of the JSON object."""
    return {
        "subjects": list(usage.subjects),
        "uses": [attrs.asdict(use) for use in usage.uses],
        "incomplete": list(usage.incomplete),
    }
