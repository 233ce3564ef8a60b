"""What an earlier run left unfinished, and which plans it stands in the way of."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from vfiohost.apply.pending import still_waiting
from vfiohost.errors import ApplyError, PendingError, StalePlanError
from vfiohost.journal import DamagedJournal
from vfiohost.plan.types import LoadModule, Report, StepResult, WriteAttr

if TYPE_CHECKING:
    from vfiohost.apply.pending import Waiting
    from vfiohost.journal import Journal, JournalEntry
    from vfiohost.plan.types import Plan, Step
    from vfiohost.sysfs import Sysfs

# What stores name: PCI addresses and the UUIDs of mediated devices.
_ADDRESS = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]")
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_RESCAN_LOCK = re.compile(
    r"sys/bus/pci/(?:rescan|devices/[^/]+/(?:sriov_numvfs|remove|rescan))|sys/class/pci_bus/.+/rescan"
)
_MDEV_PARENT = re.compile(r"\bmdev_bus/([^/]+)")


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
        if waiting is None:
            raise ApplyError(
                f"An earlier run was cut off: {entry}. Run `vfiohost recover` first, which brings "
                "back what that run had changed.",
                report=nothing_done(plan),
            )
        shared = shared_with(waiting.step, plan, entry.plan, sysfs)
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
        shared = shared_with(waiting.step, plan, entry.plan, sysfs) if waiting else None
        if waiting and shared:
            return _pending_before(plan, entry, waiting, shared)
    return None


def _pending_before(
    plan: Plan, entry: JournalEntry, waiting: Waiting, shared: set[str]
) -> PendingError:
    return waiting.error(
        f"An earlier run still waits for the kernel ({waiting.who}), and this plan is about "
        f"{', '.join(sorted(shared))}, too: {entry}. {waiting.sentences} When the kernel has come "
        "back, run `vfiohost recover`, then try again. Nothing was changed.",
        report=nothing_done(plan),
    )


def shared_with(step: Step, plan: Plan, other: Plan, sysfs: Sysfs) -> set[str]:
    """What stands in the way of a plan while a step of another one is pending."""
    shared = _shared(plan, other, sysfs) | (_parents(step, sysfs) & _functions(plan))
    if isinstance(step, LoadModule) and step.name in _modules(plan):
        shared.add(f"module {step.name}")
    if _takes_rescan_lock(step) and any(map(_takes_rescan_lock, plan.steps)):
        shared.add("the PCI bus as a whole (numvfs, remove and rescan exclude each other)")
    return shared


def _takes_rescan_lock(step: Step) -> bool:
    """Whether a store takes ``pci_lock_rescan_remove`` (``drivers/pci/remove.c``).

    One that is stuck holds it, so that another of them anywhere would be stuck behind it for as
    long; with a slow bind of the same card they lock each other out for ever.
    """
    return isinstance(step, WriteAttr) and _RESCAN_LOCK.fullmatch(step.path) is not None


def _shared(plan: Plan, other: Plan, sysfs: Sysfs) -> set[str]:
    """What two plans have in common: devices, mdevs, their parents.

    A virtual function and its physical function count as one: the kernel holds locks of the one
    while it works on the other. Two virtual functions of one card are two.
    """
    mine, theirs = _things(plan), _things(other)
    my_cards, their_cards = _cards(mine, sysfs), _cards(theirs, sysfs)
    return (mine & theirs) | (mine & their_cards) | (my_cards & theirs)


def _things(plan: Plan) -> set[str]:
    things = {*plan.subjects, *(str(origin.address) for origin in plan.origins)}
    for step in plan.steps:
        if isinstance(step, WriteAttr):
            for pattern in (_ADDRESS, _UUID, _MDEV_PARENT):
                things.update(pattern.findall(f"{step.path} {step.value}"))
    return things


def _parents(step: Step, sysfs: Sysfs) -> set[str]:
    """Where the mediated device is that a step removes; a card goes with its virtual functions."""
    if not isinstance(step, WriteAttr) or step.undo is None:
        return set()
    parents = set(_MDEV_PARENT.findall(step.undo.path))
    return parents | _cards(parents, sysfs)


def _functions(plan: Plan) -> set[str]:
    """The functions whose driver a plan changes: as parents they wait for their mediated devices.

    Making and removing others on the same parent does not (``mdev_unregister_parent`` takes
    ``unreg_sem`` for itself, ``mdev_device_create`` shares it; ``drivers/vfio/mdev/mdev_core.c``).
    """
    stores = (step for step in plan.steps if isinstance(step, WriteAttr))
    texts = (f"{s.path} {s.value}" for s in stores if s.path.startswith("sys/bus/pci/"))
    return {address for text in texts for address in _ADDRESS.findall(text)}


def _modules(plan: Plan) -> set[str]:
    return {step.name for step in plan.steps if isinstance(step, LoadModule)}


def _cards(things: set[str], sysfs: Sysfs) -> set[str]:
    links = (
        sysfs.link_name(f"sys/bus/pci/devices/{thing}/physfn")
        for thing in things
        if _ADDRESS.fullmatch(thing)
    )
    return {link for link in links if link is not None}
