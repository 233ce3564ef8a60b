"""One plan on its way, under the lock: what is known of each step, its journal, its stores.

The state of the host decides, the journal only says where to look: a crash may fall between a store
and the line that tells of it.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Literal, Protocol

from vfiohost.apply.facts import Facts
from vfiohost.apply.pending import look
from vfiohost.errors import KernelError, PendingError, StoreTimeoutError, VfioHostError
from vfiohost.journal import Event, Process
from vfiohost.plan.types import Report, StepResult

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from vfiohost.journal import EntryResult, EventKind, HostLock, JournalWriter
    from vfiohost.plan.types import NodeChange, Outcome, Plan
    from vfiohost.sysfs import Kernel, Sysfs

Certainty = Literal["known", "open", "forced"]
"""What is known of a step that has to be taken back: that it happened; nothing, so that the host
has to show it; that its store had some effect, but not the one that it should have."""


class Watch(Protocol):
    """Who is told of a store or load of a plan's step when it is about to begin."""

    def __call__(self, plan: Plan, index: int, *, back: bool) -> object:
        """``back``: the step at that index is about to be taken back."""


class Ledger:
    """What is known of a plan that is carried out or taken back.

    Args:
        plan: what is carried out.
        sysfs: the host.
        kernel: who answers the stores.
        begin: starts the plan's journal; it is called before the first change, if there is one.
        timeout: seconds for each store, load or read.
        held: the lock, whose descriptor a helper of the kernel seam inherits.
        watch: told of each store and load when it is about to begin.
        results: what is known of each step beforehand; ``not-run`` for all by default.

    Attributes:
        plan: the plan.
        to_undo: what :meth:`undo_all` has to take back, by the index of the step.
        node_changes: what each step that changes nodes has to change, or had, by its index.
        current: the index of the step that failed; of several, of that whose error is raised.
        journal_error: why nothing is journaled any more.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        sysfs: Sysfs,
        kernel: Kernel,
        begin: Callable[[], JournalWriter],
        timeout: float,
        held: HostLock,
        watch: Watch | None = None,
        results: Iterable[StepResult] | None = None,
    ) -> None:
        self.plan = plan
        self.journal_error: KernelError | None = None
        self.to_undo: dict[int, Certainty] = {}
        self.node_changes: dict[int, tuple[NodeChange, ...]] = {}
        self.current: int | None = None
        self._sysfs = sysfs
        self._kernel = kernel
        self._begin = begin
        self._writer: JournalWriter | None = None
        self._timeout = timeout
        self._facts = Facts(sysfs, timeout=timeout)
        self._held = held
        self._watch = watch
        self._results = (
            [StepResult(step, "not-run") for step in plan.steps]
            if results is None
            else list(results)
        )

    @property
    def report(self) -> Report:
        """What became of each step so far."""
        journal_id = None if self._writer is None else self._writer.id
        return Report(self.plan, tuple(self._results), journal_id)

    def open_journal(self) -> JournalWriter:
        """Give the plan's journal; it is begun when first asked for.

        Raises:
            KernelError, UnsupportedError: as :meth:`vfiohost.journal.Journal.begin`.
        """
        if self._writer is None:
            self._writer = self._begin()
        return self._writer

    def try_to_open_journal(self) -> None:
        """Open the journal; when it cannot be written, go on without (:attr:`journal_error`).

        Raises:
            UnsupportedError: it is not private to us.
        """
        try:
            self.open_journal()
        except KernelError as exc:
            self.journal_error = exc

    @property
    def has_journal(self) -> bool:
        """Whether something may have been changed."""
        return self._writer is not None

    def end(self, result: EntryResult) -> None:
        """Close the journal, if there is one, after steps were taken back.

        It stays open, for ``recover``, when it could not be kept (:attr:`journal_error`).
        """
        if self._writer is None or self.journal_error is not None:
            return
        try:
            self._writer.end(result)
        except KernelError as exc:
            self.journal_error = exc

    def close(self) -> None:
        """Close the journal's file."""
        if self._writer is not None:
            self._writer.close()

    def _note(
        self,
        kind: EventKind,
        index: int,
        *,
        error: str | None = None,
        helper: Process | None = None,
    ) -> None:
        """Journal what became of a step that failed, or of an undo.

        A full disk must not keep the host from being brought back, and ``recover`` goes by what it
        finds on the host: so the first error is kept in :attr:`journal_error`, and from then on
        nothing is journaled any more.
        """
        if self._writer is None or self.journal_error is not None:
            return
        try:
            self._writer.record(Event(kind, index, error, helper))
        except KernelError as exc:
            self.journal_error = exc

    def _pending(
        self, index: int, text: str, cause: BaseException, pid: int | None
    ) -> PendingError:
        """Note that the kernel has not come back, and give the error that says so."""
        self._set(index, "pending", text)
        helper = None if pid is None else Process.of(pid)
        self._note("pending", index, error=text, helper=helper)
        waiting = look(self._sysfs, self.plan.steps[index], pid)
        said = f"{waiting.sentences} " if waiting.sentences else ""
        if self.journal_error is not None:
            # Nobody can read that it goes on; so nobody gets the lock until it has ended.
            self._held.is_left = True
            said += f"The journal could not be told of it ({self.journal_error}). "
        return waiting.error(
            f"{text} {said}What was done before stays as it is. When the kernel has come back, "
            "`vfiohost recover` takes it back.",
            report=self.report,
            cause=cause,
        )

    def _tell(self, index: int, *, back: bool) -> None:
        if self._watch is not None:
            self._watch(self.plan, index, back=back)

    def _set(self, index: int, outcome: Outcome, error: str | None = None) -> None:
        self._results[index] = StepResult(self.plan.steps[index], outcome, error)

    def _load(self, name: str) -> None:
        self._kernel.load_module(name, timeout=self._timeout, keep_fd=self._held.fd)

    def _store(self, path: str, value: str) -> None:
        self._kernel.store(path, value, timeout=self._timeout, keep_fd=self._held.fd)

    @contextlib.contextmanager
    def _waiting(self, index: int, doing: str) -> Iterator[None]:
        """Tell an answer of the kernel, good or bad, from none: that is a :class:`PendingError`."""
        try:
            yield
        except StoreTimeoutError as exc:
            raise self._pending(index, str(exc), exc, exc.pid) from exc
        except (VfioHostError, GeneratorExit):
            raise
        except BaseException as exc:
            # A signal handler raised while the store was on its way: nobody knows how far it got.
            text = f"{doing} was interrupted ({exc!r}); the kernel may still work on it."
            raise self._pending(index, text, exc, None) from exc
