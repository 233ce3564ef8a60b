"""The steps of one plan, forward and back: what ``apply`` and ``recover`` have in common.

A step forward is: check that it is still needed, journal, store once, read back. A step back is:
look where the step stands, journal, store the undo once, read back. The state of the host decides,
the journal only says where to look: a crash may fall between a store and the line that tells of it.
"""

from __future__ import annotations

import contextlib
import errno
import time
from typing import TYPE_CHECKING, Literal, Protocol

import attrs

from vfiohost import nodes
from vfiohost.apply.facts import Facts
from vfiohost.apply.pending import look, module_users, users_of
from vfiohost.errors import (
    ApplyError,
    KernelError,
    PendingError,
    StalePlanError,
    StoreTimeoutError,
    VfioHostError,
)
from vfiohost.journal import Event, Process
from vfiohost.model import Unavailable
from vfiohost.plan.types import ChangeNodes, LoadModule, Report, SetNodes, StepResult, WriteAttr

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from vfiohost.journal import EntryResult, EventKind, JournalWriter
    from vfiohost.plan.types import Expect, NodeChange, Outcome, Plan, Step, Store
    from vfiohost.sysfs import Kernel, Sysfs

Standing = Literal["before", "after", "unknown"]
"""Where a step stands on the host: not done (or taken back), done, or neither can be said."""

Certainty = Literal["known", "open", "forced"]
"""What is known of a step that has to be taken back: that it happened; nothing, so that the host
has to show it; that its store had some effect, but not the one that it should have."""


class Watch(Protocol):
    """Who is told of a store or load of a plan's step when it is about to begin."""

    def __call__(self, plan: Plan, index: int, *, back: bool) -> object:
        """``back``: the step at that index is about to be taken back."""


@attrs.frozen
class UndoFailure:
    """A step that could not be taken back.

    Attributes:
        index: the step's index in the plan.
        error: why.
        command: the shell line that takes it back by hand.
    """

    index: int
    error: VfioHostError
    command: str


def reasons_of(failures: Iterable[UndoFailure]) -> str:
    """Why steps could not be taken back; behind a gate all have one reason, which is said once."""
    return " ".join(dict.fromkeys(str(failure.error) for failure in failures))


# Seconds between two tries to take a lock that a driver gives when it likes.
_PAUSES = (0.25, 0.5, 1.0, 2.0, 3.0, 3.0, 3.0, 3.0, 3.0)
_PAUSE_TICK = 0.05

# Somebody was there before us: what is seen then is theirs, however much it looks like our work,
# and taking it back would destroy their mediated device or take their driver away
# (drivers/vfio/mdev/mdev_core.c:mdev_device_create, drivers/base/dd.c:device_driver_attach).
_TAKEN = frozenset({errno.EEXIST, errno.EBUSY})


class Transaction:
    """One plan on its way, under the lock.

    Args:
        plan: what is carried out.
        sysfs: the host.
        kernel: who answers the stores.
        begin: starts the plan's journal; it is called before the first change, if there is one.
        timeout: seconds for each store, load or read.
        keep_fd: the lock's file descriptor, which a helper of the kernel seam inherits.
        watch: told of each store and load when it is about to begin.
        results: what is known of each step beforehand; ``not-run`` for all by default.

    Attributes:
        plan: the plan.
        to_undo: what :meth:`undo_all` has to take back, by the index of the step.
        node_changes: what each step that changes nodes has to change, or had, by its index.
        current: the step that is under way or failed.
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
        keep_fd: int,
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
        self._keep_fd = keep_fd
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

    # -- forward ---------------------------------------------------------------------------------

    def forward(self, index: int) -> StepResult:
        """Carry out one step, unless it holds already.

        Args:
            index: of the step in the plan.

        Returns:
            ``done`` or ``already``.

        Raises:
            StalePlanError: the host is not as the plan expects it; nothing was stored.
            PendingError: the kernel has not come back, or the waiting was interrupted.
            ApplyError: the store went through and did not have its effect.
            VfioHostError: the store was refused, or could not be journaled. In all cases but
                :class:`PendingError` :attr:`to_undo` says what :meth:`undo_all` has to take back.
        """
        step = self.plan.steps[index]
        self.current = index
        try:
            if isinstance(step, SetNodes | ChangeNodes):
                changes = nodes.changes_for(self._sysfs, step, timeout=self._timeout)
                self.node_changes[index] = changes
            if self._holds_already(index, step):
                self._set(index, "already")
            else:
                found = self.node_changes.get(index, ())
                self.open_journal().record(Event("begin", index, nodes=found))
                self.to_undo[index] = "open"
                self._store_and_check(index, step)
                self.to_undo[index] = "known"
                self.open_journal().record(Event("done", index))
                self._set(index, "done")
        except PendingError:
            raise
        except VfioHostError as exc:
            self._set(index, "failed", str(exc))
            self._note("failed", index, error=str(exc))
            if index not in self.to_undo:
                # It changed nothing. Say so before other steps are taken back: what they leave
                # behind may look like this one's work.
                self._note("undone", index)
            raise
        self.current = None
        return self._results[index]

    def _holds_already(self, index: int, step: Step) -> bool:
        if isinstance(step, SetNodes | ChangeNodes):
            return not self.node_changes[index]
        before = step.before if isinstance(step, WriteAttr) else None
        if before is not None:
            seen = self._facts.see(before)
            if seen == before.value:
                return False
            if isinstance(seen, Unavailable) and seen.errno != errno.ENOENT:
                raise self._facts.unreadable(before, seen)
            if step.after is None or not self._facts.holds(step.after):
                raise StalePlanError(
                    f"The host is not as this plan expects it any more: "
                    f"{self._facts.sentence(before, seen)} Plan again."
                )
            return True
        return step.after is not None and self._facts.holds(step.after)

    def is_done_by_others(self) -> bool:
        """Whether the host is as the plan leaves it, after a step was found stale.

        Then what is left of the plan counts as ``already``: two who want the same thing at once
        both get it.
        """
        last: dict[str, Expect] = {}
        for step in self.plan.steps:
            if step.after is None:
                return False
            if step.after.path.startswith("proc/"):
                continue  # a driver's own file, which goes when it lets go of the device
            last[step.after.path] = step.after
        if not all(self._facts.holds(expect) for expect in last.values()):
            return False
        for index, result in enumerate(self._results):
            if result.outcome != "done":
                self._set(index, "already")
        self.current = None
        return True

    def _store_and_check(self, index: int, step: Step) -> None:
        try:
            self._answered(index, step)
            self._try_again(index, step)
        except PendingError:
            raise
        except VfioHostError as exc:
            if isinstance(exc, KernelError) and exc.errno in _TAKEN:
                del self.to_undo[index]
            else:
                self._look_after_failure(index, step, refused=True)
            raise
        if step.after is not None:
            seen = self._facts.see(step.after)
            if seen != step.after.value:
                self._look_after_failure(index, step, refused=False)
                raise self._ineffective(step, step.after, seen)

    def _try_again(self, index: int, step: Step) -> None:
        """Store again what was accepted and not taken, as often as the step allows."""
        if not isinstance(step, WriteAttr) or step.after is None:
            return
        for pause in _PAUSES[: step.tries - 1]:
            if self._facts.holds(step.after):
                return
            began = time.monotonic()
            while time.monotonic() < began + pause:
                if self._kernel.give_up(began):
                    return
                time.sleep(_PAUSE_TICK)
            self._store(index, step.path, step.value)

    def _answered(self, index: int, step: Step) -> None:
        self._tell(index, back=False)
        if isinstance(step, LoadModule):
            with self._waiting(index, f"Loading module {step.name}"):
                self._kernel.load_module(step.name, timeout=self._timeout, keep_fd=self._keep_fd)
        elif isinstance(step, WriteAttr):
            self._store(index, step.path, step.value)
        else:
            for change in self.node_changes[index]:
                nodes.make_change(self._sysfs, change)

    def _store(self, index: int, path: str, value: str) -> None:
        with self._waiting(index, f"Writing {value!r} to {self._sysfs.shown(path)}"):
            self._kernel.store(path, value, timeout=self._timeout, keep_fd=self._keep_fd)

    @contextlib.contextmanager
    def _waiting(self, index: int, doing: str) -> Iterator[None]:
        """Tell an answer of the kernel, good or bad, from none: that is a :class:`PendingError`."""
        try:
            yield
        except StoreTimeoutError as exc:
            raise self._pending(index, str(exc), exc, exc.pid) from exc
        except VfioHostError:
            raise
        except BaseException as exc:
            # A signal handler raised while the store was on its way: nobody knows how far it got.
            text = f"{doing} was interrupted ({exc!r}); the kernel may still work on it."
            raise self._pending(index, text, exc, None) from exc

    def _look_after_failure(self, index: int, step: Step, *, refused: bool) -> None:
        """See whether a store that failed, or did not do what it should, changed something at all.

        A refusal means by the kernel's custom that nothing happened; what can be seen overrules it.
        """
        if not isinstance(step, WriteAttr):
            changed = nodes.is_changed(self._sysfs, self.node_changes.get(index, ()))
        elif step.after is not None and self._facts.holds(step.after):
            changed = True
        elif step.before is not None:
            changed = not self._facts.holds(step.before)
        else:
            changed = not refused
        if changed:
            self.to_undo[index] = "forced"
        else:
            del self.to_undo[index]

    def _ineffective(
        self, step: WriteAttr | LoadModule, after: Expect, seen: str | None | Unavailable
    ) -> VfioHostError:
        if isinstance(step, WriteAttr):
            done = f"The kernel accepted {step.value!r} for {self._sysfs.shown(step.path)}"
        else:
            done = f"Module {step.name} was loaded"
        if isinstance(seen, Unavailable) and seen.errno != errno.ENOENT:
            return ApplyError(
                f"{done}, but whether it had its effect cannot be seen: "
                f"{self._facts.sentence(after, seen)}"
            )
        text = f"{done}, but it did not have its effect: {self._facts.sentence(after, seen)}"
        if isinstance(step, WriteAttr) and step.tries > 1:
            text += f" {self._why_not_given(step)}"
        return ApplyError(text)

    def _why_not_given(self, step: WriteAttr) -> str:
        """Who has NVIDIA's driver keep its unbindLock, as far as that can be seen."""
        users = [*users_of(self._sysfs, step), *module_users(self._sysfs)]
        known = f"In use by {', '.join(users)}. " if users else ""
        return (
            f"It was asked for {step.tries} times: NVIDIA's driver gives it only while nobody uses "
            f"the GPU. {known}Stop what uses it (nvidia-persistenced, DCGM, the display manager, "
            "CUDA programs), then try again."
        )

    # -- back ------------------------------------------------------------------------------------

    def undo_all(self) -> tuple[UndoFailure, ...]:
        """Take back what :attr:`to_undo` names, the last first; one that fails stops no other.

        Returns:
            What could not be taken back, in the order in which it was tried.

        Raises:
            PendingError: the kernel has not come back from an undo. The others are left as they
                are, because what the kernel still does might cross them.
        """
        failures: list[UndoFailure] = []
        nothing_to_do = self._is_as_before()
        closed: VfioHostError | None = None
        for index, step, undo in self._undos():
            try:
                if closed is not None:
                    raise closed
                if isinstance(undo, ChangeNodes):
                    self._undo_nodes(index)
                elif isinstance(step, WriteAttr) and not nothing_to_do:
                    self._undo(index, step, undo)
                self._undone(index)
            except PendingError:
                raise
            except VfioHostError as exc:
                self._set(index, "undo-failed", str(exc))
                self._note("undo-failed", index, error=str(exc))
                failures.append(UndoFailure(index, exc, undo.shell(self._sysfs.root)))
                if isinstance(step, WriteAttr) and step.gates:
                    closed = exc
        for failure in failures:
            if self._is_gone(self.plan.steps[failure.index]):
                self._undone(failure.index)
        return tuple(each for each in failures if self._results[each.index].outcome != "undone")

    def _undos(
        self, steps: Iterable[int] | None = None
    ) -> list[tuple[int, Step, Store | ChangeNodes]]:
        """The steps of :attr:`to_undo`, or some others, that an undo takes back, the last first.

        Nodes come last: those of a device that its VFIO driver has let go of by then are gone.
        """
        stores: list[tuple[int, Step, Store | ChangeNodes]] = []
        others: list[tuple[int, Step, Store | ChangeNodes]] = []
        for index in sorted(self.to_undo if steps is None else steps, reverse=True):
            step = self.plan.steps[index]
            changes = self.node_changes.get(index)
            if isinstance(step, WriteAttr) and step.undo is not None:
                stores.append((index, step, step.undo))
            elif isinstance(step, SetNodes | ChangeNodes) and changes:
                back = ChangeNodes(step.address, changes, step.why).reversed(step.why)
                others.append((index, step, back))
        return stores + others

    def left(self, begun: Iterable[int] | None = None) -> tuple[int, ...]:
        """Those steps of :attr:`to_undo` that the host still shows, in the order of taking back.

        What was taken back by hand meanwhile is not among them.

        Args:
            begun: all steps that were begun, where some of them were taken back: the host is as
                before when it is as it was before the first of these.
        """
        as_before = self._is_as_before(begun)
        left: list[int] = []
        files: set[str] = set()
        for index, step, _ in self._undos():
            if not isinstance(step, WriteAttr):
                stands = nodes.is_changed(self._sysfs, self.node_changes[index])
            else:
                # When a later step on the same file is taken back, this one stands again.
                stands = not as_before and (
                    step.path in files or self._standing(index, step, known=False) != "before"
                )
                files.update([step.path] if stands else ())
            left += [index] if stands else []
        return tuple(left)

    def commands(self, steps: Iterable[int]) -> tuple[str, ...]:
        """The shell lines that take steps of :attr:`to_undo` back by hand, in their order."""
        wanted, root = set(steps), self._sysfs.root
        return tuple(undo.shell(root) for index, _, undo in self._undos() if index in wanted)

    def _undo_nodes(self, index: int) -> None:
        changes = self.node_changes[index]
        if nodes.is_changed(self._sysfs, changes):
            self._note("undo-begin", index)
            self._tell(index, back=True)
            nodes.take_back(self._sysfs, changes)

    def _undo(self, index: int, step: WriteAttr, undo: Store) -> None:
        certainty = self.to_undo[index]
        standing = self._standing(index, step, known=certainty == "known")
        if standing == "unknown" and certainty != "forced":
            raise ApplyError(f"It was not taken back: {self._facts.neither(step)}")
        if standing != "before":
            self._note("undo-begin", index)
            self._tell(index, back=True)
            try:
                self._store(index, undo.path, undo.value)
            except KernelError:
                # What can be seen overrules an errno: a helper may be killed behind its store.
                wanted = undo.after or step.before
                if wanted is None or not self._facts.holds(wanted):
                    raise
            self._check_undo(step, undo)

    def _undone(self, index: int) -> None:
        self._note("undone", index)
        if self._results[index].outcome != "failed":
            self._set(index, "undone")

    def _standing(self, index: int, step: WriteAttr, *, known: bool) -> Standing:
        """Say where a step that was begun, or is known to have happened, stands now."""
        if self._is_gone(step):
            return "before"
        # First what the step makes: what must hold before it may be a condition that still holds.
        if step.after is not None and self._facts.holds(step.after):
            return "after"
        if step.before is None:
            if step.after is None:
                return "after" if known else "unknown"
            return "unknown" if known else "before"
        seen = self._facts.see(step.before)
        if seen == step.before.value or self._is_further_back(index, step.before.path):
            return "before"
        # A step that says nothing of what it makes shows by what is no longer as it was.
        return "after" if step.after is None and not isinstance(seen, Unavailable) else "unknown"

    def _is_gone(self, step: Step) -> bool:
        """Whether a step was about a device that its plan made, and that is gone again."""
        if not isinstance(step, WriteAttr) or not step.device_is_new or step.before is None:
            return False
        seen = self._facts.see(step.before)
        return isinstance(seen, Unavailable) and seen.errno == errno.ENOENT

    def _is_further_back(self, index: int, path: str) -> bool:
        """Whether a file is as it was before an earlier step on it, so that a later one is undone.

        A number of virtual functions that goes through 0 has three states; where the journal could
        not be written, the first of them tells that both steps were taken back.
        """
        earlier = (self.plan.steps[each] for each in self.to_undo if each < index)
        befores = [step.before for step in earlier if isinstance(step, WriteAttr) and step.before]
        return any(self._facts.holds(each) for each in befores if each.path == path)

    def _check_undo(self, step: WriteAttr, undo: Store) -> None:
        wanted = undo.after or step.before
        if wanted is None:
            return
        seen = self._facts.see(wanted)
        if seen != wanted.value:
            raise ApplyError(
                f"The kernel accepted {undo.value!r} for {self._sysfs.shown(undo.path)}, but it "
                f"did not have its effect: {self._facts.sentence(wanted, seen)}"
            )

    def _is_as_before(self, steps: Iterable[int] | None = None) -> bool:
        """Whether the host is as it was before the first of the steps that have to be taken back.

        A plan may change one file twice and leave it as it was (an override that is set and then
        cleared). When all was taken back and the journal does not say so, such a step would look
        done. Where each step shows its work in the file that it expects something of, the first
        expectations tell.
        """
        first: dict[str, Expect] = {}
        for _, step, _ in reversed(self._undos(steps)):
            if not isinstance(step, WriteAttr) or self._is_gone(step):
                continue  # nodes are looked at one by one; a device that is gone shows nothing
            if step.before is None or (step.after or step.before).path != step.before.path:
                return False
            first.setdefault(step.before.path, step.before)
        return all(self._facts.holds(expect) for expect in first.values())

    # -- what both need --------------------------------------------------------------------------

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
