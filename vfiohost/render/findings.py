"""What the doctor found, as text and as JSON values."""

from __future__ import annotations

import posixpath
from collections import Counter
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from vfiohost.render.table import plain, printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from vfiohost.doctor import Finding, Severity
    from vfiohost.render.table import Kind, Paint

_KINDS: dict[Severity, Kind] = {"bad": "bad", "warning": "warn", "info": "plain", "ok": "good"}
_WIDTH = 100
_MARGIN = " " * 9
_NBSP = "\N{NO-BREAK SPACE}"


def finding_lines(findings: Iterable[Finding], root: str, paint: Paint = plain) -> list[str]:
    """A few lines for each finding: what it means, what was read where, what to do.

    Args:
        findings: what to show, in this order.
        root: the root of the host, for the paths.
        paint: makes colours of kinds.
    """
    lines: list[str] = []
    for finding in findings:
        severity = paint(finding.severity, _KINDS[finding.severity])
        blank = " " * (len(_MARGIN) - len(finding.severity))
        lines.append(f"{severity}{blank}{printable(finding.subject)} [{finding.code}]")
        lines += _filled(_MARGIN, finding.sentence)
        if finding.remedy is not None:
            lines += _filled(f"{_MARGIN}do:   ", finding.remedy)
        for number, evidence in enumerate(finding.evidence):
            path = posixpath.join(root, evidence.path)
            label = "read: " if number == 0 else "      "
            shown = printable(f"{_MARGIN}{label}{path}: {evidence.value}")
            lines.append(paint(shown, "dim"))
    return lines


def summary_line(findings: Sequence[Finding]) -> str:
    """How many findings there are of each kind."""
    count = Counter(finding.severity for finding in findings)
    warnings = f"{count['warning']} warning{'' if count['warning'] == 1 else 's'}"
    unread = sum(finding.code in ("unreadable", "not-there") for finding in findings)
    blind = "; not everything could be looked at" if unread else ""
    return (
        f"{count['bad']} bad, {warnings}, {count['info']} for information, {count['ok']} ok{blind}"
    )


def finding_value(finding: Finding) -> dict[str, Any]:
    """One finding, in the words of ``schema.json``."""
    return {
        "code": finding.code,
        "severity": finding.severity,
        "subject": finding.subject,
        "sentence": finding.sentence,
        "remedy": finding.remedy,
        "evidence": [{"path": e.path, "value": e.value} for e in finding.evidence],
    }


def _filled(margin: str, text: str) -> list[str]:
    """A text in lines of a screen's width; what stands in backquotes stays on one line."""
    parts = printable(text).split("`")
    parts[1::2] = [part.replace(" ", _NBSP) for part in parts[1::2]]
    lines = wrap(
        "`".join(parts),
        width=_WIDTH,
        initial_indent=margin,
        subsequent_indent=" " * len(margin),
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [line.replace(_NBSP, " ") for line in lines]
