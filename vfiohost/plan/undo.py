"""Take a plan back: a plan of its undo stores, in reverse."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from vfiohost.errors import PlanRefused, Refusal
from vfiohost.model import PciAddress
from vfiohost.nvidia import VGPU_TYPE
from vfiohost.plan.changes import CLEAR, DEVICES, DRIVERS, PROBE, Change
from vfiohost.plan.hazards import check_allow, hazards, read_binding
from vfiohost.plan.in_use import ALLOW_VGPU, use_refusals
from vfiohost.plan.types import ChangeNodes, LoadModule, Plan, Store, WriteAttr
from vfiohost.plan.words import listed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vfiohost.model import Snapshot
    from vfiohost.plan.types import Step

MDEVS = "sys/bus/mdev/devices"


def plan_undo(
    plan: Plan, *, snapshot: Snapshot | None = None, allow: frozenset[str] = frozenset()
) -> Plan:
    """Plan to take back what a plan did.

    Whether a group is viable is not asked: what was before comes back.
    Each step expects to find what the plan's step left behind, so a device that somebody else has
    touched since makes the undo stale and not wrong. Modules stay loaded, since removing one
    unbinds every device of its drivers. Nodes come last: those of a device that its VFIO driver has
    let go of are gone, and need nothing. The undo can be undone in turn, but for nodes that were
    made anew by then. It has no origins: what it brings back is what was there before.

    Args:
        plan: a plan that was carried out (:attr:`vfiohost.journal.JournalEntry.done_plan`).
        snapshot: the host, with its mediated devices, and with the details and the usage of
            :func:`devices_changed`, :func:`mdevs_removed` and :func:`vgpus_removed`; by default
            nothing is judged.
        allow: words that permit what would be refused.

    Returns:
        A plan with the verb ``undo`` and the same subjects; empty when nothing can be taken back.

    Raises:
        ParseError: an ``allow`` word is unknown.
        PlanRefused: for all reasons at once, as any other change of drivers; the plan that would
            have been comes with them.
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
    undo = Plan(
        "undo",
        plan.subjects,
        tuple(steps),
        notes=tuple(notes),
        incomplete=snapshot.usage.incomplete if snapshot and snapshot.usage else (),
    )
    refusals = list(_refusals(undo, snapshot, allow)) if snapshot else []
    if refusals:
        raise PlanRefused(refusals, undo)
    return undo


def devices_changed(undo: Plan) -> tuple[PciAddress, ...]:
    """The PCI functions whose driver or override an undo changes, as its stores say."""
    return tuple(_wanted(undo))


def mdevs_removed(undo: Plan) -> tuple[str, ...]:
    """The mediated devices that an undo removes, by UUID."""
    paths = [step.path for step in undo.steps if isinstance(step, WriteAttr)]
    ours = [path for path in paths if path.startswith(f"{MDEVS}/") and path.endswith("/remove")]
    return tuple(path.removeprefix(f"{MDEVS}/").removesuffix("/remove") for path in ours)


def vgpus_removed(undo: Plan) -> tuple[PciAddress, ...]:
    """The virtual functions that an undo makes no vGPU of any more."""
    ending = f"/{VGPU_TYPE}"
    return tuple(
        PciAddress.parse(step.path.removeprefix(f"{DEVICES}/").removesuffix(ending))
        for step in undo.steps
        if isinstance(step, WriteAttr) and step.path.endswith(ending) and step.value == "0"
    )


def _refusals(undo: Plan, snapshot: Snapshot, allow: frozenset[str]) -> Iterator[Refusal]:
    changes = []
    for address, wanted in _wanted(undo).items():
        if address not in snapshot.pci:
            continue  # the step itself will say that it is gone
        now = read_binding(snapshot, snapshot.pci[address])
        if isinstance(now, Refusal):
            yield now
        else:
            is_probe = wanted.pop("is_probe", None) is not None
            changes.append(Change(address, now, attrs.evolve(now, **wanted), is_probe=is_probe))
    yield from hazards(snapshot, changes, allow)
    if snapshot.usage is not None:
        yield from use_refusals(snapshot.usage, mdevs_removed(undo), allow)
        vgpus = map(str, vgpus_removed(undo))
        yield from use_refusals(snapshot.usage, vgpus, allow | {ALLOW_VGPU})


def _wanted(undo: Plan) -> dict[PciAddress, dict[str, str | None]]:
    """What each function shall have in the end: ``driver``, ``override``, where that changes.

    ``is_probe`` stands there where the kernel chooses the driver.
    """
    found: dict[PciAddress, dict[str, str | None]] = {}
    for step in undo.steps:
        if not isinstance(step, WriteAttr):
            continue
        folder, _, name = step.path.rpartition("/")
        if step.path == PROBE:
            found.setdefault(PciAddress.parse(step.value), {})["is_probe"] = ""
        elif name == "unbind":
            found.setdefault(PciAddress.parse(step.value), {})["driver"] = None
        elif name == "bind":
            driver = folder.removeprefix(f"{DRIVERS}/")
            found.setdefault(PciAddress.parse(step.value), {})["driver"] = driver
        elif name == "driver_override":
            address = PciAddress.parse(folder.removeprefix(f"{DEVICES}/"))
            found.setdefault(address, {})["override"] = None if step.value == CLEAR else step.value
    return found
