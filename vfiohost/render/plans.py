"""Plans, refusals and reports as text, every write as a shell line that a person can paste."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from vfiohost.plan.types import ChangeNodes, LoadModule, SetNodes, WriteAttr
from vfiohost.render.table import plain, printable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vfiohost.errors import Refusal
    from vfiohost.plan.types import Plan, Report, Step
    from vfiohost.render.table import Kind, Paint


def step_line(step: Step, root: str = "/") -> str:
    """What a step does, as a shell line."""
    if isinstance(step, LoadModule):
        # As LiveKernel loads it: what is pasted from a simulation cannot reach the host.
        where = "" if root == "/" else f"-d {shlex.quote(root)} "
        return printable(f"modprobe {where}{shlex.quote(step.name)}")
    if isinstance(step, SetNodes | ChangeNodes):
        return printable(step.shell(root))
    return printable(step.store.shell(root))


def why_line(step: Step) -> str:
    """The reason for a step."""
    if isinstance(step, LoadModule):
        return printable(f"load {step.name}: {step.why}")
    return printable(step.why)


def undo_line(step: Step, root: str = "/") -> str:
    """What takes a step back, as a shell line, or why nothing does, in brackets."""
    if isinstance(step, LoadModule):
        return "(stays loaded: removing a module unbinds devices)"
    if isinstance(step, SetNodes):
        return "(each node gets back the owner and mode that it had)"
    if isinstance(step, ChangeNodes):
        return printable(step.reversed("").shell(root))
    return printable(step.undo.shell(root)) if step.undo else "(nothing to take back)"


def plan_lines(plan: Plan, root: str = "/", paint: Paint = plain) -> list[str]:
    """Every write of a plan with its undo and its reason.

    Args:
        plan: the plan.
        root: the root that the lines are for.
        paint: makes colours of kinds.
    """
    count = len(plan.steps)
    todo = "nothing to do, already so" if plan.is_empty else f"{count} step{'s' * (count != 1)}"
    about = " ".join((plan.verb, *plan.subjects))
    lines = [f"{paint(printable(about), 'head')}: {todo}"]
    width = len(str(count))
    for number, step in enumerate(plan.steps, 1):
        margin = " " * (width + 4)
        lines += [
            f"  {number:>{width}}  {why_line(step)}",
            f"{margin}do    {step_line(step, root)}",
            paint(f"{margin}undo  {undo_line(step, root)}", "dim"),
        ]
    lines += [f"note: {printable(note)}" for note in plan.notes]
    return lines + incomplete_lines(plan)


def incomplete_lines(plan: Plan) -> list[str]:
    """What is not known of who uses the devices of a plan, and of what they have room for."""
    return [f"warning: {printable(sentence)}" for sentence in plan.incomplete]


def refusal_lines(refusals: Iterable[Refusal], paint: Paint = plain) -> list[str]:
    """Two lines for each reason: what stands in the way, and what to do about it."""
    lines = []
    for refusal in refusals:
        about = "" if refusal.subject in refusal.sentence else f"{refusal.subject}: "
        code = paint(f"[{refusal.code}]", "dim")
        lines += [
            f"{paint('refused', 'bad')}: {printable(about + refusal.sentence)} {code}",
            f"    {printable(refusal.remedy)}",
        ]
    return lines


def report_lines(
    report: Report, root: str = "/", paint: Paint = plain, *, said: str = ""
) -> list[str]:
    """One line for each step: what became of it, the step, the error if there was one.

    Args:
        report: what became of a plan.
        root: the root that the lines are for.
        paint: makes colours of kinds.
        said: what stands above the lines; an error that is in it is not said again.
    """
    kinds: dict[str, Kind] = {"done": "good", "failed": "bad", "undo-failed": "bad"}
    lines = []
    for result in report.results:
        outcome = paint(f"{result.outcome:<11}", kinds.get(result.outcome, "plain"))
        lines.append(f"  {outcome} {step_line(result.step, root)}")
        error = printable(result.error or "")
        if error and error not in said:
            lines.append(f"  {'':<11} {error}")
    return lines


def touched_addresses(plan: Plan) -> frozenset[str]:
    """The addresses in the plan's subjects that one of its writes is about."""
    words: set[str] = set()
    for step in plan.steps:
        if isinstance(step, WriteAttr):
            words.update(step.path.split("/"))
            words.add(step.value.strip())
    return frozenset(words.intersection(plan.subjects))
