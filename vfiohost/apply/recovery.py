"""Bring the host back after a crash: take back what open journals say was begun."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal

import attrs

from vfiohost.apply.pending import still_waiting
from vfiohost.apply.transaction import Transaction
from vfiohost.errors import ApplyError, PendingError
from vfiohost.journal import DamagedJournal, lock
from vfiohost.native import never
from vfiohost.plan.types import Report, StepResult

if TYPE_CHECKING:
    from vfiohost.apply.pending import Waiting
    from vfiohost.apply.transaction import Watch
    from vfiohost.journal import EventKind, Journal, JournalEntry
    from vfiohost.native import GiveUp
    from vfiohost.plan.types import Outcome
    from vfiohost.sysfs import Kernel, Sysfs

RecoveryOutcome = Literal["recovered", "half-way", "pending", "other-boot", "damaged"]


@attrs.frozen
class Recovery:
    """What became of one open journal.

    Attributes:
        journal_id: its id.
        outcome: ``recovered``: the host is as it was before that plan; ``half-way``: not all could
            be taken back, ``commands`` are left to do by hand, and the journal is closed;
            ``pending``: the kernel has not come back, the journal stays open; ``other-boot``: a
            reboot took its changes away, the journal is closed; ``damaged``: it cannot be read, and
            is left as it is.
        sentence: the same for people.
        report: what became of each step, or ``None`` where none was looked at.
        commands: the shell lines that finish the work by hand, in order.
        pid: for ``pending``, the helper process that waits in the kernel, if it is known.
    """

    journal_id: str
    outcome: RecoveryOutcome
    sentence: str
    report: Report | None = None
    commands: tuple[str, ...] = ()
    pid: int | None = None


def recover(
    *,
    sysfs: Sysfs,
    kernel: Kernel,
    journal: Journal,
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

    Args:
        sysfs: the host.
        kernel: who answers the stores.
        journal: the host's journal.
        timeout: seconds for each store and read.
        wait: seconds to wait for the lock.
        give_up: asked while the lock is waited for; see :func:`vfiohost.journal.lock`.
        watch: told of each store when it is about to begin.

    Returns:
        One per open or damaged journal, the newest first; empty when there is none, and then
        neither lock nor any other file is touched. A store that does not come back in time, or is
        interrupted, ends the work: the rest is for the next call.

    Raises:
        UnsupportedError: the root is a recording, or its state files cannot be trusted.
        LockBusyError: a vfiohost is at work, perhaps the one that looks cut off.
        KernelError: lock or journal cannot be opened.
        ApplyError: the host was brought back, but the journal could not be closed.

    Files: ``run/vfiohost/lock``, ``var/lib/vfiohost/journal/``, and those that the plans name.
    """
    if not journal.open_entries():
        return ()
    kernel.check_writable()
    recoveries: list[Recovery] = []
    with lock(sysfs, purpose="recover", wait=wait, give_up=give_up) as fd:
        for entry in reversed(journal.open_entries()):
            if isinstance(entry, DamagedJournal):
                recovery = _damaged(entry)
            elif entry.boot_id != journal.boot_id:
                recovery = _close(entry, journal)
            elif (waiting := still_waiting(sysfs, entry)) is not None:
                recovery = _still_pending(entry, waiting)
            else:
                transaction = Transaction(
                    entry.plan,
                    sysfs=sysfs,
                    kernel=kernel,
                    begin=partial(journal.reopen, entry),
                    timeout=timeout,
                    keep_fd=fd,
                    watch=watch,
                    results=_results(entry),
                )
                recovery = _take_back(entry, transaction)
            recoveries.append(recovery)
            if recovery.outcome == "pending" and recovery.report is not None:
                break
    return tuple(recoveries)


def _damaged(entry: DamagedJournal) -> Recovery:
    return Recovery(
        entry.id,
        "damaged",
        f"A journal is damaged and is not followed: {entry.reason} See whether the devices are as "
        f"they should be, then move {entry.path} away.",
    )


def _close(entry: JournalEntry, journal: Journal) -> Recovery:
    writer = journal.reopen(entry)
    try:
        writer.end("other-boot")
    finally:
        writer.close()
    return Recovery(
        entry.id,
        "other-boot",
        f"{entry} was cut off before this host was booted, which took away what it had changed. "
        "Its journal is closed.",
    )


def _still_pending(entry: JournalEntry, waiting: Waiting) -> Recovery:
    return Recovery(
        entry.id,
        "pending",
        f"{entry} still waits for the kernel ({waiting.who}). {waiting.sentences} When the kernel "
        "has come back, run `vfiohost recover` again.",
        pid=waiting.pid,
    )


def _take_back(entry: JournalEntry, transaction: Transaction) -> Recovery:
    transaction.open_journal()
    transaction.node_changes.update(entry.node_changes)
    for index, event in entry.last_events.items():
        if event.kind != "undone":
            transaction.to_undo[index] = "known" if event.kind == "done" else "open"
    try:
        return _finish(transaction, entry)
    finally:
        transaction.close()


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


def _finish(transaction: Transaction, entry: JournalEntry) -> Recovery:
    try:
        failures = transaction.undo_all()
    except PendingError as exc:
        return Recovery(
            entry.id, "pending", f"{entry}: {exc}", report=transaction.report, pid=exc.pid
        )
    transaction.end("half-way" if failures else "recovered")
    if transaction.journal_error is not None:
        raise ApplyError(
            f"The journal of {entry} could not be kept: {transaction.journal_error} "
            "Run `vfiohost recover` again.",
            report=transaction.report,
            cause=transaction.journal_error,
        ) from transaction.journal_error
    if not failures:
        return Recovery(
            entry.id,
            "recovered",
            f"{entry} was cut off; the host is as it was before.",
            report=transaction.report,
        )
    commands = tuple(failure.command for failure in failures)
    return Recovery(
        entry.id,
        "half-way",
        f"{entry} was cut off and could not all be taken back: "
        f"{' '.join(str(f.error) for f in failures)} Finish by hand, in this order: "
        f"{'; '.join(commands)}",
        report=transaction.report,
        commands=commands,
    )
