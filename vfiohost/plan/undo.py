"""Take a plan back: a plan of its undo stores, in reverse."""

from __future__ import annotations

from vfiohost.plan.types import LoadModule, Plan, Store, WriteAttr
from vfiohost.plan.words import listed


def plan_undo(plan: Plan) -> Plan:
    """Plan to take back what a plan did.

    Each step expects to find what the plan's step left behind, so a device that somebody else has
    touched since makes the undo stale and not wrong. Modules stay loaded, since removing one
    unbinds every device of its drivers. The undo can be undone in turn. It has no origins: what it
    brings back is what was there before.

    Args:
        plan: a plan that was carried out.

    Returns:
        A plan with the verb ``undo`` and the same subjects; empty when nothing can be taken back.
    """
    steps = [
        WriteAttr(
            path=step.undo.path,
            value=step.undo.value,
            before=step.after,
            after=step.undo.after,
            undo=Store(step.path, step.value, step.after),
            why=f"take back: {step.why}",
        )
        for step in reversed(plan.steps)
        if isinstance(step, WriteAttr) and step.undo is not None
    ]
    loaded = [step.name for step in plan.steps if isinstance(step, LoadModule)]
    notes = [f"{listed(loaded)} stays loaded."] if loaded else []
    return Plan("undo", plan.subjects, tuple(steps), notes=tuple(notes))
