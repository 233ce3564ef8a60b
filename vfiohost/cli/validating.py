"""The verb ``validate``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import attrs

from vfiohost.render.table import format_table
from vfiohost.validation import WORKLOADS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from vfiohost.cli.session import Session
    from vfiohost.render.table import Cell
    from vfiohost.validation import Check

FOUND_BAD = 11
"""The exit code when something is not ready."""


def validate(session: Session) -> None:
    """``vfiohost validate [MODE] [--write]``."""
    options = session.options
    workload = next(each for each in WORKLOADS if each == options.workload)
    checks = session.host.validate(workload, snapshot=session.scan(mdev=True))
    session.exit_code = 0 if all(check.is_ready for check in checks) else FOUND_BAD
    session.value["workload"] = workload
    session.value["checks"] = [attrs.asdict(check) for check in checks]
    session.value["status_files"] = []
    if options.write and not options.dry_run:
        session.value["status_files"] = list(session.host.write_validation(workload, checks))
    if options.quiet:
        return
    paint = session.output.paint_for(sys.stdout)
    rows = [row for check in checks for row in _rows(check)]
    session.lines += format_table(("CHECK", "READY", "FOUND"), rows, paint=paint)
    session.lines += [f"  {check.remedy}" for check in checks if check.remedy is not None]
    session.lines += [f"wrote {file}" for file in session.value["status_files"]]


def _rows(check: Check) -> Iterator[list[Cell]]:
    """A row for each sentence; the first one says which check it is."""
    ready: Cell = ("yes", "good") if check.is_ready else ("no", "bad")
    head: list[Cell] = [(check.component, "plain"), ready]
    for sentence in check.sentences:
        yield [*head, (sentence, "plain")]
        head = [("", "plain"), ("", "plain")]


VERBS: Mapping[str, Callable[[Session], None]] = {"validate": validate}
"""The verbs of this module."""
