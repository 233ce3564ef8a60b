"""What the changing verbs have in common: a plan is shown, or carried out and reported."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from vfiohost.cli.failing import EXIT_CODES, explain, plan_fields, refused_plan_lines
from vfiohost.errors import VfioHostError
from vfiohost.render.failures import failure_code, failure_value
from vfiohost.render.plans import plan_lines, step_line
from vfiohost.render.values import report_value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from vfiohost.cli.session import Session
    from vfiohost.plan.types import Plan, Report, StepResult

EXIT_CHANGES = 10
"""A dry run would change something, and ``--exit-code`` asks for it."""


def show(session: Session, plan: Plan) -> dict[str, Any]:
    """Show a plan and write nothing.

    Returns:
        The fields of the JSON object.
    """
    session.lines += plan_lines(plan, session.root, session.output.paint_for(sys.stdout))
    if session.options.exit_code and not plan.is_empty:
        session.exit_code = EXIT_CHANGES
    return {"dry_run": True, "plan": plan.to_json()}


def carry_out(session: Session, plan: Plan, *, undoes: str | None = None) -> dict[str, Any]:
    """Carry a plan out; ``-v`` prints each step on the way, and the plan's notes in the end.

    Returns:
        The fields of the JSON object.

    Raises:
        ApplyError, LockBusyError, UnsupportedError: as :meth:`vfiohost.Host.apply`.
    """
    options, output = session.options, session.output
    said = options.verbose and not output.json

    def progress(result: StepResult) -> None:
        output.notes([f"{result.outcome:<8} {step_line(result.step, session.root)}"])

    with session.writing() as is_cancelled:
        report: Report = session.host.apply(
            plan,
            undoes=undoes,
            timeout=options.seconds,
            cancel=is_cancelled,
            progress=progress if said else None,
        )
    session.notes += [f"note: {note}" for note in plan.notes]
    return {"dry_run": False, "plan": plan.to_json(), "report": report_value(report)}


def each_on_its_own(
    session: Session, subjects: Iterable[str], change: Callable[[str], dict[str, Any]]
) -> None:
    """Make each subject a transaction of its own; the first failure gives the exit code.

    Args:
        session: the verb; its ``runs`` become one for each subject, up to an interruption.
        subjects: the devices, by their names.
        change: changes one of them, and gives the fields of its JSON object.
    """
    runs, codes = [], []
    for subject in subjects:
        run: dict[str, Any] = {"subject": subject}
        session.exit_code = 0
        try:
            run |= change(subject)
        except VfioHostError as error:
            session.exit_code = EXIT_CODES[failure_code(error)]
            run |= plan_fields(error) | {"error": failure_value(error)}
            session.lines += refused_plan_lines(error, session)
            if not session.output.json:
                explain(error, session, about=subject)
        codes.append(session.exit_code)
        runs.append(run | {"exit_code": session.exit_code})
        if session.interruption.came:
            break
    session.value["runs"] = runs
    failed = [code for code in codes if code not in (0, EXIT_CHANGES)]
    session.exit_code = failed[0] if failed else max(codes, default=0)
