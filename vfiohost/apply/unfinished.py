"""What an earlier run left unfinished, and which plans it stands in the way of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vfiohost.apply.lanes import ADDRESS, MDEV_PARENT, cards, named, takes_rescan_lock
from vfiohost.apply.pending import still_waiting, where, who
from vfiohost.errors import ApplyError, PendingError, StalePlanError
from vfiohost.journal import DamagedJournal
from vfiohost.plan.types import LoadModule, Report, StepResult, WriteAttr

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vfiohost.apply.pending import Waiting
    from vfiohost.journal import Journal, JournalEntry
    from vfiohost.plan.types import Plan, Step
    from vfiohost.sysfs import Sysfs


def check_journals(plan: Plan, undoes: str | None, sysfs: Sysfs, journal: Journal) -> None:
    """Refuse to start on top of what an earlier run left unfinished.

    Raises:
        PendingError: a helper still waits in the kernel for a store on one of the devices.
        ApplyError: a run was cut off in this boot, or a journal is damaged.
        StalePlanError: what the plan takes back has been taken back.
    """
    boot_id = journal.boot_id
    for entry in journal.open_entries():
        if entry.boot_id not in (boot_id, None):
            continue  # a reboot took its changes away
        if isinstance(entry, DamagedJournal):
            raise ApplyError(
                f"A journal is damaged: {entry.reason} It may tell of a plan that was cut off: see "
                f"whether the devices are as they should be, then move {entry.path} away.",
                report=nothing_done(plan),
            )
        waiting = still_waiting(sysfs, entry)
        if not waiting:
            raise ApplyError(
                f"An earlier run was cut off: {entry}. Run `vfiohost recover` first, which brings "
                "back what that run had changed.",
                report=nothing_done(plan),
            )
        shared = shared_with(waiting, plan, entry.plan, sysfs)
        if shared:
            raise _pending_before(plan, entry, waiting, shared)
    if undoes is not None and undoes not in {e.id for e in journal.undoable()}:
        raise StalePlanError(
            f"The plan of journal {undoes} has been undone, or cannot be undone.",
            report=nothing_done(plan),
        )


def nothing_done(plan: Plan) -> Report:
    """Report that no step of a plan was begun."""
    return Report(plan, tuple(StepResult(step, "not-run") for step in plan.steps))


def pending_for(plan: Plan, sysfs: Sysfs, journal: Journal) -> PendingError | None:
    """The error that a plan meets because an earlier store about its devices is still pending.

    Writes nothing and takes no lock.

    Raises:
        KernelError, UnsupportedError: as :meth:`vfiohost.journal.Journal.entries`.
    """
    boot_id = journal.boot_id
    for entry in journal.open_entries():
        if isinstance(entry, DamagedJournal) or entry.boot_id != boot_id:
            continue
        waiting = still_waiting(sysfs, entry)
        shared = shared_with(waiting, plan, entry.plan, sysfs) if waiting else None
        if shared:
            return _pending_before(plan, entry, waiting, shared)
    return None


def _pending_before(
    plan: Plan, entry: JournalEntry, waiting: tuple[Waiting, ...], shared: set[str]
) -> PendingError:
    return waiting[0].error(
        f"An earlier run still waits for the kernel ({who(waiting)}), and this plan is about "
        f"{', '.join(sorted(shared))}, too: {entry}. {where(waiting)} When the kernel has come "
        "back, run `vfiohost recover`, then try again. Nothing was changed.",
        report=nothing_done(plan),
    )


def shared_with(waiting: Iterable[Waiting], plan: Plan, other: Plan, sysfs: Sysfs) -> set[str]:
    """What stands in the way of a plan while steps of another one are pending."""
    shared = _shared(plan, other, sysfs)
    for step in (each.step for each in waiting):
        shared |= _parents(step, sysfs) & _functions(plan)
        if isinstance(step, LoadModule) and step.name in _modules(plan):
            shared.add(f"module {step.name}")
        if takes_rescan_lock(step) and any(map(takes_rescan_lock, plan.steps)):
            shared.add("the PCI bus as a whole (numvfs, remove and rescan exclude each other)")
    return shared


def _shared(plan: Plan, other: Plan, sysfs: Sysfs) -> set[str]:
    """What two plans have in common: devices, mdevs, their parents.

    A virtual function and its physical function count as one: the kernel holds locks of the one
    while it works on the other. Two virtual functions of one card are two.
    """
    mine, theirs = _things(plan), _things(other)
    my_cards, their_cards = cards(sysfs, mine), cards(sysfs, theirs)
    return (mine & theirs) | (mine & their_cards) | (my_cards & theirs)


def _things(plan: Plan) -> set[str]:
    things = {*plan.subjects, *(str(origin.address) for origin in plan.origins)}
    return things.union(*map(named, plan.steps))


def _parents(step: Step, sysfs: Sysfs) -> set[str]:
    """Where the mediated device is that a step removes; a card goes with its virtual functions."""
    if not isinstance(step, WriteAttr) or step.undo is None:
        return set()
    parents = set(MDEV_PARENT.findall(step.undo.path))
    return parents | cards(sysfs, parents)


def _functions(plan: Plan) -> set[str]:
    """The functions whose driver a plan changes: as parents they wait for their mediated devices.

    Making and removing others on the same parent does not (``mdev_unregister_parent`` takes
    ``unreg_sem`` for itself, ``mdev_device_create`` shares it; ``drivers/vfio/mdev/mdev_core.c``).
    """
    stores = (step for step in plan.steps if isinstance(step, WriteAttr))
    texts = (f"{s.path} {s.value}" for s in stores if s.path.startswith("sys/bus/pci/"))
    return {address for text in texts for address in ADDRESS.findall(text)}


def _modules(plan: Plan) -> set[str]:
    return {step.name for step in plan.steps if isinstance(step, LoadModule)}
