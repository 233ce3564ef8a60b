"""Who uses a device, as a table and as JSON values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from vfiohost.render.table import format_table, plain

if TYPE_CHECKING:
    from vfiohost.render.table import Cell, Paint
    from vfiohost.usage import Usage, Use

# Those that only tell what there is; to take the device away ends nothing.
_HARMLESS = frozenset({"sound-control", "vf", "vgpu-manager"})


def usage_table(usage: Usage, paint: Paint = plain) -> list[str]:
    """One line for each use."""
    headers = ["DEVICE", "USE", "PID", "USER", "UNIT", "DETAIL"]
    rows = [_row(use) for use in usage.uses]
    return format_table(headers, rows, right=("PID",), paint=paint)


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
