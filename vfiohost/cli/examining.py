"""The verb ``doctor``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from vfiohost.render.findings import finding_lines, finding_value, summary_line

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from vfiohost.cli.session import Session

FOUND_BAD = 11
"""The exit code when something bad was found."""


def doctor(session: Session) -> None:
    """``vfiohost doctor [DEV..] [--all]``."""
    options = session.options
    snapshot = session.scan(mdev=True)
    findings = session.host.examine(options.devices or None, snapshot=snapshot)
    session.value["kernel"] = snapshot.kernel
    session.value["findings"] = [finding_value(finding) for finding in findings]
    session.exit_code = FOUND_BAD if any(f.severity == "bad" for f in findings) else 0
    if options.quiet:
        findings = tuple(f for f in findings if f.severity in ("bad", "warning"))
    shown = findings if options.all else [f for f in findings if f.severity != "ok"]
    session.lines += finding_lines(shown, session.root, session.output.paint_for(sys.stdout))
    if not options.quiet:
        hidden = "" if len(shown) == len(findings) else " (--all shows them)"
        session.lines.append(f"{summary_line(findings)}{hidden}")


VERBS: Mapping[str, Callable[[Session], None]] = {"doctor": doctor}
"""The verbs of this module."""
