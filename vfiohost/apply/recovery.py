"""Bring the host back after a crash: take back what open journals say was begun."""

from __future__ import annotations

from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Literal

import attrs

from vfiohost.apply.pending import still_waiting, where, who
from vfiohost.apply.undoing import Undoing, reasons_of
from vfiohost.apply.unfinished import shared_with
from vfiohost.errors import KernelError, NotFoundError, PendingError, PlanRefused
from vfiohost.journal import DamagedJournal, HostLock, check_free, lock
from vfiohost.native.helpers import never
from vfiohost.plan.types import Report, StepResult
from vfiohost.plan.words import listed

if TYPE_CHECKING:
    from collections.abc import Callable

    from vfiohost.apply.ledger import Watch
    from vfiohost.apply.pending import Waiting
    from vfiohost.errors import Refusal
    from vfiohost.journal import EntryResult, EventKind, Journal, JournalEntry
    from vfiohost.native.helpers import GiveUp
    from vfiohost.plan.types import Outcome, Plan
    from vfiohost.sysfs import Kernel, Sysfs

RecoveryOutcome = Literal[
    "recovered", "half-way", "kept", "in-use", "pending", "other-boot", "damaged"
]

_TAKES_FROM_SOMEBODY = frozenset({"in-use", "mdevs-exist", "pf-with-vfs"})
"""The codes of refusals that keep ``recover`` from going back: others say what makes a bad host for
a guest, and it is to be as it was before."""


@attrs.frozen
class Recovery:
    """What became of one journal.

    Attributes:
        journal_id: its id.
        outcome: ``recovered``: the host is as it was before that plan; ``half-way``: not all could
            be taken back, ``commands`` are left to do by hand, and the journal is closed;
            ``kept``: the journal was closed as it was told to, nothing was taken back;
            ``in-use``: somebody uses by now what would be taken away, nothing was written and the
            journal stays open; ``pending``: the kernel has not come back, the journal stays open;
            ``other-boot``: a reboot took its changes away, the journal is closed; ``damaged``: it
            cannot be read, and is left as it is.
        sentence: the same for people.
        report: what became of each step, or ``None`` where none was looked at.
        commands: the shell lines that finish the work by hand, in order.
        pid: for ``pending``, the helper process that waits in the kernel, if it is known.
        refusals: for ``in-use``, who uses what.
        journal_error: why the journal could not be written: it stays open. The host is as
            ``outcome`` says all the same.
    """

    journal_id: str
    outcome: RecoveryOutcome
    sentence: str
    report: Report | None = None
    commands: tuple[str, ...] = ()
    pid: int | None = None
    refusals: tuple[Refusal, ...] = ()
    journal_error: KernelError | None = None


def permit(plan: Plan) -> object:
    """Judge nothing: the default of ``judge``."""
    return plan


def recover(
    *,
    sysfs: Sysfs,
    kernel: Kernel,
    journal: Journal,
    judge: Callable[[Plan], object] = permit,
    keep: str | None = None,
    dry_run: bool = False,
    timeout: float = 20.0,
    wait: float = 0.0,
    give_up: GiveUp = never,
    watch: Watch | None = None,
) -> tuple[Recovery, ...]:
    """Take back what plans did that were cut off by a crash, or by a store that came back late.

    Each step that a journal of this boot says was begun, the last first, is looked at on the host:
    if it happened it is taken back, verified and journaled; if it did not happen nothing is
    written; if it cannot be told (somebody else changed the file) it is left as it is and named.
    A crash in the middle of this is recovered by the next call. Loaded modules stay loaded.

    What somebody uses by now is not taken away, and nothing is stored behind a store of another
    journal that is still pending. A journal that was left half-way is told again, with what is left
    to do, until that has been done. A disk that is full or read-only does not keep the host from
    being brought back.

    Args:
        sysfs: the host.
        kernel: who answers the stores.
        journal: the host's journal.
        judge: given the steps that stand, says whether they can be taken back, by raising
            :class:`vfiohost.errors.PlanRefused`.
        keep: the id of a journal to close without taking anything back; the others wait.
        dry_run: only look, and say what would become of each; the lock is not taken.
        timeout: seconds for each store and read.
        wait: seconds to wait for the lock.
        give_up: asked while the lock is waited for; see :func:`vfiohost.journal.lock`.
        watch: told of each store when it is about to begin.

    Returns:
        One per unfinished journal, the newest first; empty when there is none, and then neither
        lock nor any other file is touched. A store that does not come back in time, or is
        interrupted, ends the work: the rest is for the next call.

    Raises:
        NotFoundError: ``keep`` names no unfinished journal.
        UnsupportedError: the root is a recording, or its state files cannot be trusted.
        LockBusyError: a vfiohost is at work, perhaps the one that looks cut off.
        KernelError: the lock cannot be opened, or the journals cannot be read.

    Files: ``run/vfiohost/lock``, ``var/lib/vfiohost/journal/``, and those that the plans name.
    """
    if keep is None and not journal.unfinished():
        return ()
    recoveries: list[Recovery] = []
    if dry_run:
        # What is under way looks like what was cut off.
        check_free(sysfs, wait=wait, give_up=give_up)
        looker = _Recoverer(sysfs, kernel, journal, judge, timeout)
        found = reversed(_chosen(journal, keep))
        return tuple(looker.look(entry, keep=keep is not None) for entry in found)
    kernel.check_writable()
    with lock(sysfs, purpose="recover", wait=wait, give_up=give_up) as held, sysfs.helpers.kept():
        recoverer = _Recoverer(sysfs, kernel, journal, judge, timeout, held, watch)
        for entry in reversed(_chosen(journal, keep)):
            recovery = recoverer.recover(entry, keep=keep is not None)
            recoveries.append(recovery)
            if recovery.outcome == "pending" and recovery.report is not None:
                break
    return tuple(recoveries)


def _chosen(journal: Journal, keep: str | None) -> list[JournalEntry | DamagedJournal]:
    found = [entry for entry in journal.unfinished() if keep in (None, entry.id)]
    if keep is not None and not found:
        raise NotFoundError("unfinished journal", keep)
    return found


def _results(entry: JournalEntry) -> tuple[StepResult, ...]:
    """What the journal knows for sure; what it does not, the host will show."""
    sure: dict[EventKind, Outcome] = {"done": "done", "undone": "undone", "failed": "failed"}
    last = entry.last_events
    return tuple(
        StepResult(
            step,
            sure.get(last[index].kind, "not-run") if index in last else "not-run",
            last[index].error if index in last else None,
        )
        for index, step in enumerate(entry.plan.steps)
    )


@attrs.frozen
class _Recoverer:
    """Brings one journal after the other to its end; under the lock."""

    sysfs: Sysfs
    kernel: Kernel
    journal: Journal
    judge: Callable[[Plan], object]
    timeout: float
    held: HostLock = attrs.field(factory=lambda: HostLock(-1))
    watch: Watch | None = None

    def look(self, entry: JournalEntry | DamagedJournal, *, keep: bool) -> Recovery:
        """What would become of one journal."""
        if isinstance(entry, DamagedJournal):
            return _damaged(entry)
        with closing(self._transaction(entry)) as transaction:
            return self._outlook(entry, transaction, keep=keep)

    def recover(self, entry: JournalEntry | DamagedJournal, *, keep: bool) -> Recovery:
        """Bring one journal to its end."""
        if isinstance(entry, DamagedJournal):
            return _damaged(entry)
        with closing(self._transaction(entry)) as transaction:
            found = self._outlook(entry, transaction, keep=keep)
            if found.outcome == "recovered" and not entry.is_left_half_way:
                return _finish(entry, transaction)
            if found.outcome in ("kept", "other-boot", "recovered"):
                return _closed(transaction, found, found.outcome)
            return found

    def _outlook(self, entry: JournalEntry, transaction: Undoing, *, keep: bool) -> Recovery:
        if entry.boot_id != self.journal.boot_id:
            said = "was cut off before this host was booted, which took away what it had changed."
            return _told(entry, transaction, "other-boot", said, ())
        waiting = still_waiting(self.sysfs, entry)
        if waiting:
            return _still_pending(entry, waiting)
        if keep:
            return _kept(entry, transaction)
        if entry.is_left_half_way:
            return _told_again(entry, transaction)
        held_up = self._behind_others(entry) or self._used(entry, transaction)
        return held_up or _taken_back(entry, transaction)

    def _transaction(self, entry: JournalEntry) -> Undoing:
        """A plan on its way back: what was begun and is not known to be undone has to be."""
        transaction = Undoing(
            entry.plan,
            sysfs=self.sysfs,
            kernel=self.kernel,
            begin=partial(self.journal.reopen, entry),
            timeout=self.timeout,
            held=self.held,
            watch=self.watch,
            results=_results(entry),
        )
        transaction.node_changes.update(entry.node_changes)
        for index, event in entry.last_events.items():
            if event.kind != "undone":
                transaction.to_undo[index] = "known" if event.kind == "done" else "open"
        return transaction

    def _behind_others(self, entry: JournalEntry) -> Recovery | None:
        for other in self.journal.open_entries():
            if isinstance(other, DamagedJournal) or other.boot_id != entry.boot_id:
                continue
            waiting = still_waiting(self.sysfs, other)
            shared = shared_with(waiting, entry.plan, other.plan, self.sysfs) if waiting else None
            if shared:
                return Recovery(
                    entry.id,
                    "pending",
                    f"{entry} was cut off and is not taken back yet: the kernel has not come back "
                    f"from a store of {other} ({who(waiting)}), which is about "
                    f"{listed(sorted(shared))}, too. When it has, run `vfiohost recover` again.",
                    pid=waiting[0].pid,
                )
        return None

    def _used(self, entry: JournalEntry, transaction: Undoing) -> Recovery | None:
        left = transaction.left()
        if not left:
            return None
        standing = tuple(entry.plan.steps[index] for index in sorted(left))
        try:
            self.judge(attrs.evolve(entry.plan, steps=standing))
        except PlanRefused as refused:
            reasons = tuple(r for r in refused.refusals if r.code in _TAKES_FROM_SOMEBODY)
        else:
            return None
        if not reasons:
            return None
        return Recovery(
            entry.id,
            "in-use",
            f"{entry} was cut off, and is not taken back, because somebody uses what it changed: "
            f"{' '.join(f'{r.sentence} {r.remedy}' for r in reasons)} Then run `vfiohost recover` "
            f"again; or leave the host as it is now: `vfiohost recover --keep {entry.id}`.",
            refusals=reasons,
        )


def _damaged(entry: DamagedJournal) -> Recovery:
    return Recovery(
        entry.id,
        "damaged",
        f"A journal is damaged and is not followed: {entry.reason} See whether the devices are as "
        f"they should be, then move {entry.path} away.",
    )


def _still_pending(entry: JournalEntry, waiting: tuple[Waiting, ...]) -> Recovery:
    return Recovery(
        entry.id,
        "pending",
        f"{entry} still waits for the kernel ({who(waiting)}). {where(waiting)} When the kernel "
        "has come back, run `vfiohost recover` again.",
        pid=waiting[0].pid,
    )


def _kept(entry: JournalEntry, transaction: Undoing) -> Recovery:
    commands = transaction.commands(transaction.left())
    said = "was cut off, and what it did stays."
    if commands:
        said += " By hand it is taken back so, in this order:"
    return _told(entry, transaction, "kept", said, commands)


def _told_again(entry: JournalEntry, transaction: Undoing) -> Recovery:
    """A journal that was left half-way: nothing is tried again, only looked at."""
    left = transaction.left(entry.last_events)
    if not left:
        said = "was left half-way, and has been brought back since."
        return _told(entry, transaction, "recovered", said, ())
    errors = " ".join(filter(None, (entry.last_events[index].error for index in left)))
    said = f"was left half-way, and still is: {errors} Finish by hand, in this order:"
    return _told(entry, transaction, "half-way", said, transaction.commands(left))


def _taken_back(entry: JournalEntry, transaction: Undoing) -> Recovery:
    commands = transaction.commands(transaction.left())
    said = (
        "was cut off, and is taken back so:" if commands else "was cut off; nothing is left of it."
    )
    return _told(entry, transaction, "recovered", said, commands)


def _finish(entry: JournalEntry, transaction: Undoing) -> Recovery:
    transaction.try_to_open_journal()
    try:
        failures = transaction.undo_all()
    except PendingError as exc:
        said, report = f"{entry}: {exc}", transaction.report
        found = Recovery(entry.id, "pending", said, report=report, pid=exc.pid)
        return _with_error(found, transaction)
    if not failures:
        said = "was cut off; the host is as it was before."
        return _closed(transaction, _told(entry, transaction, "recovered", said, ()), "recovered")
    said = (
        f"was cut off and could not all be taken back: "
        f"{reasons_of(failures)} Finish by hand, in this order:"
    )
    commands = tuple(failure.command for failure in failures)
    return _closed(transaction, _told(entry, transaction, "half-way", said, commands), "half-way")


def _told(
    entry: JournalEntry,
    transaction: Undoing,
    outcome: RecoveryOutcome,
    said: str,
    commands: tuple[str, ...],
) -> Recovery:
    """What becomes of a journal; the commands stand at the end of the sentence."""
    sentence = " ".join([f"{entry} {said}", *(["; ".join(commands)] if commands else [])])
    return Recovery(entry.id, outcome, sentence, report=transaction.report, commands=commands)


def _closed(transaction: Undoing, found: Recovery, result: EntryResult) -> Recovery:
    """Close the journal."""
    transaction.try_to_open_journal()
    transaction.end(result)
    return _with_error(found, transaction)


def _with_error(found: Recovery, transaction: Undoing) -> Recovery:
    error = transaction.journal_error
    if error is None:
        return found
    said = (
        f"Its journal could not be written ({error}) and stays open: when that is mended, run "
        f"`vfiohost recover` again. {found.sentence}"
    )
    return attrs.evolve(found, sentence=said, journal_error=error)
