"""What the changing verbs have in common: a plan is shown, or carried out and reported."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from vfiohost.cli.failing import EXIT_CODES, explain, plan_fields, refused_plan_lines
from vfiohost.errors import PlanRefused, VfioHostError
from vfiohost.plan.types import Plan
from vfiohost.render.failures import failure_code, failure_value
from vfiohost.render.plans import incomplete_lines, plan_lines, step_line
from vfiohost.render.values import report_value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from vfiohost.cli.session import Session
    from vfiohost.plan.types import Report, StepResult

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


def plan_or_pending(session: Session, planner: Callable[[], Plan]) -> Plan:
    """Plan; a refusal because of a store of an earlier run that is pending is told as that.

    Raises:
        PendingError: an earlier run waits for the kernel, and this plan is about its devices.
        PlanRefused: the plan must not be carried out for any other reason.
    """
    try:
        return planner()
    except PlanRefused as refused:
        plan = None if session.options.dry_run else refused.plan
        pending = session.host.pending_for(plan) if isinstance(plan, Plan) else None
        if pending is not None:
            raise pending from refused
        raise


def carry_out(
    session: Session,
    plan: Plan,
    *,
    again: Callable[[], Plan] | None = None,
    undoes: str | None = None,
) -> tuple[Plan, dict[str, Any]]:
    """Carry a plan out; ``-v`` prints each step on the way, and the plan's notes in the end.

    A plan that has something to do waits its turn, at most ``--timeout``, and is made again under
    the lock: whoever was at work meanwhile may have changed what it is about.

    Args:
        session: the verb.
        plan: the plan as it was made without the lock.
        again: makes it again; by default it is carried out as it is.
        undoes: the id of the journal that it takes back.

    Returns:
        The plan that was carried out, and the fields of the JSON object.

    Raises:
        PlanRefused: as the planner, when it planned again.
        ApplyError, LockBusyError, UnsupportedError: as :meth:`vfiohost.Host.apply`.
    """
    options, output, host = session.options, session.output, session.host
    said = options.verbose and not output.json

    def progress(result: StepResult) -> None:
        session.waits.clear()
        line = f"{result.outcome:<8} {step_line(result.step, session.root)}"
        session.aside.say(output.text([line]))

    with session.writing() as is_cancelled, ExitStack() as stack:
        stack.callback(session.waits.clear)
        if not plan.is_empty:
            purpose = " ".join((plan.verb, *plan.subjects))
            session.waits.begin_lock()
            give_up = session.gives_up_lock
            stack.enter_context(host.locked(purpose, wait=options.seconds, give_up=give_up))
            plan = plan if again is None else again()
            warnings = [f"vfiohost: {line}" for line in incomplete_lines(plan)]
            session.aside.say("" if options.quiet or output.json else output.text(warnings))
        report: Report = host.apply(
            plan,
            undoes=undoes,
            timeout=options.seconds,
            cancel=is_cancelled,
            progress=progress if said else None,
            watch=session.waits.begin,
        )
    session.notes += [f"note: {note}" for note in plan.notes]
    return plan, {"dry_run": False, "plan": plan.to_json(), "report": report_value(report)}


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
