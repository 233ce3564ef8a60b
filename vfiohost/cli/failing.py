"""Exit codes, and what is said when a verb fails. Imported only when one does, or may."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from vfiohost.errors import PlanRefused
from vfiohost.plan.types import Plan
from vfiohost.render.failures import failure_lines
from vfiohost.render.plans import plan_lines, report_lines
from vfiohost.render.values import report_value

if TYPE_CHECKING:
    from vfiohost.cli.session import Session
    from vfiohost.plan.types import Report
    from vfiohost.render.failures import FailureCode

EXIT_CODES: dict[FailureCode, int] = {
    "failed": 1,
    "stale": 1,
    "kernel": 1,
    "system": 1,
    "parse": 2,
    "ambiguous": 2,
    "not-found": 3,
    "refused": 4,
    "permission": 5,
    "pending": 6,
    "rollback-incomplete": 7,
    "lock-busy": 8,
    "unsupported": 9,
    "internal": 70,
    "interrupted": 130,
}
"""The exit code of each kind of failure; see ``docs/errors.md``."""


def explain(error: BaseException, session: Session, *, about: str | None = None) -> None:
    """Say on stderr what went wrong and, for a plan that was begun, what became of its steps.

    Args:
        error: what went wrong.
        session: the verb that it went wrong for.
        about: what it is about, where one command is about several things.
    """
    paint = session.output.paint_for(sys.stderr)
    lines = failure_lines(error, paint)
    if about is not None:
        lines = [line if line.startswith(" ") else f"{about}: {line}" for line in lines]
    report: Report | None = getattr(error, "report", None)
    if report is not None and any(r.outcome != "not-run" for r in report.results):
        lines += report_lines(report, session.root, paint, said=" ".join(lines))
    session.output.error(lines)


def plan_fields(error: BaseException) -> dict[str, Any]:
    """The plan that an error is about and what became of it, for the JSON object."""
    report: Report | None = getattr(error, "report", None)
    if report is not None:
        return {"plan": report.plan.to_json(), "report": report_value(report)}
    plan = _refused_plan(error)
    return {} if plan is None else {"plan": plan.to_json()}


def refused_plan_lines(error: BaseException, session: Session) -> list[str]:
    """The plan that would have been, for a dry run of what is refused."""
    plan = _refused_plan(error)
    if plan is None or not session.options.dry_run:
        return []
    return plan_lines(plan, session.root, session.output.paint_for(sys.stdout))


def _refused_plan(error: BaseException) -> Plan | None:
    plan = error.plan if isinstance(error, PlanRefused) else None
    return plan if isinstance(plan, Plan) else None
