"""Take a plan back: a plan of its undo stores, in reverse."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vfiohost.errors import PlanRefused
from vfiohost.plan.changes import DRIVERS
from vfiohost.plan.hazards import check_allow
from vfiohost.plan.in_use import use_refusals
from vfiohost.plan.types import ChangeNodes, LoadModule, Plan, Store, WriteAttr
from vfiohost.plan.words import listed

if TYPE_CHECKING:
    from vfiohost.plan.types import Step
    from vfiohost.usage import Usage

MDEVS = "sys/bus/mdev/devices"


def plan_undo(
    plan: Plan, *, usage: Usage | None = None, allow: frozenset[str] = frozenset()
) -> Plan:
    """Plan to take back what a plan did.

    Each step expects to find what the plan's step left behind, so a device that somebody else has
    touched since makes the undo stale and not wrong. Modules stay loaded, since removing one
    unbinds every device of its drivers. Nodes come last: those of a device that its VFIO driver has
    let go of are gone, and need nothing. The undo can be undone in turn, but for nodes that were
    made anew by then. It has no origins: what it brings back is what was there before.

    Args:
        plan: a plan that was carried out (:attr:`vfiohost.journal.JournalEntry.done_plan`).
        usage: who uses the devices of :func:`devices_taken`, or ``None``: nobody asked.
        allow: words that permit to take a device from its users.

    Returns:
        A plan with the verb ``undo`` and the same subjects; empty when nothing can be taken back.

    Raises:
        ParseError: an ``allow`` word is unknown.
        PlanRefused: somebody uses a device; the plan that would have been comes with it.
    """
    check_allow(allow)
    steps: list[Step] = [
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
    steps += [
        step.reversed(f"take back: {step.why}")
        for step in reversed(plan.steps)
        if isinstance(step, ChangeNodes) and step.changes
    ]
    loaded = [step.name for step in plan.steps if isinstance(step, LoadModule)]
    notes = [f"{listed(loaded)} stays loaded."] if loaded else []
    notes.extend(usage.incomplete if usage else ())
    undo = Plan("undo", plan.subjects, tuple(steps), notes=tuple(notes))
    refusals = list(use_refusals(usage, devices_taken(undo), allow)) if usage else []
    if refusals:
        raise PlanRefused(refusals, undo)
    return undo


def devices_taken(plan: Plan) -> tuple[str, ...]:
    """The devices that a plan takes from a driver, and the mediated devices that it removes.

    Told by its stores alone: addresses in ``unbind`` of a driver, UUIDs in the path of ``remove``.
    """
    found: dict[str, None] = {}
    for step in plan.steps:
        if not isinstance(step, WriteAttr):
            continue
        folder, _, name = step.path.rpartition("/")
        if folder.startswith(f"{DRIVERS}/") and name == "unbind":
            found[step.value] = None
        elif folder.startswith(f"{MDEVS}/") and name == "remove":
            found[folder.removeprefix(f"{MDEVS}/")] = None
    return tuple(found)
