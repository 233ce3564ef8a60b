"""In what a host differs from its host file: lines for people, values for programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from vfiohost.render.table import format_table, plain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vfiohost.host_file.types import Difference
    from vfiohost.render.table import Cell, Paint


def difference_lines(found: Sequence[Difference], paint: Paint = plain) -> list[str]:
    """A table of differences; of none, one line that says so."""
    if not found:
        return ["the host is as its file says"]
    rows: list[list[Cell]] = [
        [
            (d.subject, "plain"),
            (d.what, "plain"),
            (d.found, "bad"),
            (d.wanted, "good"),
            (d.where, "dim"),
        ]
        for d in found
    ]
    return format_table(("DEVICE", "WHAT", "IS", "SHALL BE", "SAID BY"), rows, paint=paint)


def difference_value(difference: Difference) -> dict[str, Any]:
    """One difference as a JSON object."""
    return attrs.asdict(difference)
