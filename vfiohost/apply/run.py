"""Carry out one plan."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

from vfiohost.apply.driving import Driver
from vfiohost.apply.permission import check_permission
from vfiohost.apply.transaction import Transaction
from vfiohost.apply.undoing import reasons_of
from vfiohost.apply.unfinished import check_journals, nothing_done
from vfiohost.errors import (
    ApplyError,
    KernelError,
    PendingError,
    RollbackError,
    StalePlanError,
    VfioHostError,
)
from vfiohost.journal import lock
from vfiohost.plan.types import Report, StepResult

if TYPE_CHECKING:
    from collections.abc import Callable

    from vfiohost.apply.ledger import Watch
    from vfiohost.apply.undoing import UndoFailure
    from vfiohost.journal import HostLock, Journal
    from vfiohost.plan.types import Plan, Step
    from vfiohost.sysfs import Kernel, Sysfs


def never() -> bool:
    """Do not interrupt: the default of ``cancel``."""
    return False


def ignored(_result: StepResult) -> None:
    """Tell nobody: the default of ``progress``."""


def apply(
    plan: Plan,
    *,
    sysfs: Sysfs,
    kernel: Kernel,
    journal: Journal,
    timeout: float = 20.0,
    wait: float = 0.0,
    undoes: str | None = None,
    cancel: Callable[[], bool] = never,
    progress: Callable[[StepResult], object] = ignored,
    watch: Watch | None = None,
    held: HostLock | None = None,
) -> Report:
    """Carry out a plan as one transaction.

    An empty plan is success, and touches nothing. A plan whose work somebody else has done since
    it was made is success, too, without a journal.

    Args:
        plan: what to do.
        sysfs: the host.
        kernel: who answers the stores.
        journal: the host's journal.
        timeout: seconds for each store, module load and read.
        wait: seconds to wait for the lock.
        undoes: the id of the journal that this plan takes back, which is then undone.
        cancel: asked before each step; ``True`` takes back what was done. It and the others are
            called in the caller's thread alone.
        progress: called after each step forward that was done or found done. What it raises is
            treated like an interruption. It is not called for steps that are taken back: the report
            in the error has them.
        watch: told of each store and load when it is about to begin.
        held: the lock, where the caller holds it already.

    Returns:
        What became of each step: ``done`` or ``already``.

    Raises:
        UnsupportedError: the root is a recording, or its state files cannot be trusted.
        LockBusyError: another vfiohost is changing this host.
        StalePlanError: the host changed since the scan.
        PendingError: the kernel has not come back.
        RollbackError: the host is half-way.
        ApplyError: any other failure; the host is as it was. Its ``cause`` is the first error.

    What ``cancel``, ``progress`` or a signal handler raises between two steps goes on after the
    host was brought back; raised while a store is under way it becomes a :class:`PendingError`.

    Files: ``run/vfiohost/lock``, ``var/lib/vfiohost/journal/``, and those that the plan names.
    """
    if plan.is_empty:
        return Report(plan, ())
    kernel.check_writable()
    check_permission(plan, sysfs)
    purpose = " ".join((plan.verb, *plan.subjects))
    try:
        taken = lock(sysfs, purpose=purpose, wait=wait) if held is None else nullcontext(held)
        with taken as its_lock:
            check_journals(plan, undoes, sysfs, journal)
            transaction = Transaction(
                plan,
                sysfs=sysfs,
                kernel=kernel,
                begin=lambda: journal.begin(plan, undoes=undoes),
                timeout=timeout,
                held=its_lock,
                watch=watch,
            )
            driver = Driver(transaction, sysfs, kernel, cancel, progress)
            try:
                with sysfs.helpers.kept():
                    return _carry_out(transaction, driver, is_undo=undoes is not None)
            finally:
                transaction.close()
    except KernelError as exc:
        # From the lock or a look at the journals: no step was begun.
        raise ApplyError(
            f"{exc} Nothing was changed.", report=nothing_done(plan), cause=exc
        ) from exc


def _carry_out(transaction: Transaction, driver: Driver, *, is_undo: bool) -> Report:
    try:
        try:
            driver.drive()
        except StalePlanError:
            if not transaction.is_done_by_others():
                raise
        # An undo is journaled even if all was as it should be: its journal marks the other undone.
        if transaction.has_journal or is_undo:
            transaction.open_journal().end("committed")
    except PendingError:
        raise
    except BaseException as first:
        _roll_back(transaction, first)
        raise
    return transaction.report


def _roll_back(transaction: Transaction, first: BaseException) -> None:
    """Take back what was done, and raise what the caller is to get; an interruption is left as is.

    Raises:
        PendingError: the kernel has not come back from an undo.
        RollbackError: something could not be taken back.
        ApplyError: all was taken back, and the first error was ours.
    """
    changed = bool(transaction.to_undo)
    try:
        failures = transaction.undo_all()
    except PendingError as pending:
        raise _pending_undo(first, pending) from first
    except BaseException as second:
        second.add_note("What was done was not all taken back: run `vfiohost recover`.")
        raise
    transaction.end("half-way" if failures else "rolled-back")
    if failures:
        raise _half_way(transaction, first, failures) from first
    if not isinstance(first, VfioHostError):
        return
    tail = "What was done before was taken back." if changed else "Nothing was changed."
    kind = StalePlanError if isinstance(first, StalePlanError) else ApplyError
    cause = first.cause if isinstance(first, ApplyError) else first
    raise kind(
        f"{_said(transaction, first)} {tail}{_unjournaled(transaction)}",
        step=_failed_step(transaction),
        report=transaction.report,
        cause=cause,
    ) from cause


def _said(transaction: Transaction, first: BaseException) -> str:
    """The first error's text, with the step where it came up."""
    text = _text(first)
    if transaction.current is None:
        return text
    number, of = transaction.current + 1, len(transaction.plan.steps)
    return f"Step {number} of {of} ({transaction.plan.steps[transaction.current].why}): {text}"


def _text(error: BaseException) -> str:
    if not isinstance(error, VfioHostError):
        return f"Interrupted by {error!r}."
    return " ".join([str(error), *getattr(error, "__notes__", ())])


def _failed_step(transaction: Transaction) -> Step | None:
    if transaction.current is None:
        return None
    return transaction.plan.steps[transaction.current]


def _unjournaled(transaction: Transaction) -> str:
    """A sentence about a journal that could not be kept up on the way back; mostly nothing."""
    if transaction.journal_error is None:
        return ""
    return (
        f" The journal could not be closed ({transaction.journal_error}): run `vfiohost recover`."
    )


def _pending_undo(first: BaseException, pending: PendingError) -> PendingError:
    error = PendingError(
        f"{_text(first)} While that was taken back: {pending}",
        step=pending.step,
        report=pending.report,
        cause=first,
    )
    error.pid, error.wait_channel = pending.pid, pending.wait_channel
    error.state, error.users = pending.state, pending.users
    return error


def _half_way(
    transaction: Transaction, first: BaseException, failures: tuple[UndoFailure, ...]
) -> RollbackError:
    commands = tuple(f.command for f in failures)
    error = RollbackError(
        f"{_said(transaction, first)} Not everything could be taken back, so this host is "
        f"half-way: {reasons_of(failures)} Finish by hand, in this order: "
        f"{'; '.join(commands)}{_unjournaled(transaction)}",
        step=_failed_step(transaction),
        report=transaction.report,
        cause=first,
    )
    error.commands = commands
    return error
