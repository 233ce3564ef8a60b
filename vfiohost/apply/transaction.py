"""The steps of one plan, forward and back: what ``apply`` and ``recover`` have in common.

A step forward is: check that it is still needed, journal, store once, read back. A step back is:
look where the step stands, journal, store the undo once, read back. The state of the host decides,
the journal only says where to look: a crash may fall between a store and the line that tells of it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from typing import TYPE_CHECKING, Literal, Protocol

import attrs

from vfiohost.apply.pending import look, module_users, users_of
from vfiohost.errors import (
    ApplyError,
    KernelError,
    KernelOp,
    PendingError,
    StalePlanError,
    StoreTimeoutError,
    VfioHostError,
)
from vfiohost.journal import Event, Process
from vfiohost.model import Unavailable
from vfiohost.nodes import are_set, await_nodes, set_node
from vfiohost.plan.types import LoadModule, Report, SetNodes, StepResult, Store, WriteAttr

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from vfiohost.journal import EntryResult, EventKind, JournalWriter
    from vfiohost.plan.types import Expect, ExpectKind, Outcome, Plan, Step
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


_READ_OPS: dict[ExpectKind, KernelOp] = {"link": "readlink", "text": "read", "exists": "open"}


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


def observe(sysfs: Sysfs, expect: Expect, *, timeout: float) -> str | None | Unavailable:
    """Look at the fact that an expectation is about.

    Texts are read in a helper process, because some attributes take the device lock to be shown.

    Args:
        sysfs: the host.
        expect: where to look; its value is not used.
        timeout: seconds until a text counts as unavailable.

    Returns:
        What would have to be ``expect.value`` for it to hold, or why it cannot be told. A device
        that is gone is no device without a driver: where the directory of a link or text does not
        exist, that is unavailable, with ENOENT.
    """
    try:
        if expect.kind == "exists":
            return "yes" if sysfs.exists(expect.path) else "no"
        if expect.kind == "link":
            seen: str | None | Unavailable = sysfs.link_name(expect.path)
        else:
            seen = sysfs.read_bounded([expect.path], timeout=timeout)[expect.path]
            if isinstance(seen, Unavailable) and seen.errno == errno.ENOENT:
                seen = None
        if seen is None and not sysfs.exists(expect.path.rpartition("/")[0]):
            return Unavailable(errno.ENOENT, "its directory is gone")
    except KernelError as exc:
        return Unavailable(exc.errno or 0, os.strerror(exc.errno or 0))
    return seen


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
        self.current: int | None = None
        self._sysfs = sysfs
        self._kernel = kernel
        self._begin = begin
        self._writer: JournalWriter | None = None
        self._timeout = timeout
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
            if self._holds_already(step):
                self._set(index, "already")
            else:
                self.open_journal().record(Event("begin", index))
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

    def _holds_already(self, step: Step) -> bool:
        if isinstance(step, SetNodes):
            found = await_nodes(self._sysfs, str(step.address), timeout=self._timeout)
            return are_set(self._sysfs, found, step.uid, step.gid, step.mode)
        before = step.before if isinstance(step, WriteAttr) else None
        if before is not None:
            seen = self._see(before)
            if seen == before.value:
                return False
            if isinstance(seen, Unavailable) and seen.errno != errno.ENOENT:
                raise self._unreadable(before, seen)
            if step.after is None or not self._holds(step.after):
                raise StalePlanError(
                    f"The host is not as this plan expects it any more: "
                    f"{self._sentence(before, seen)} Plan again."
                )
            return True
        return step.after is not None and self._holds(step.after)

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
        if not all(self._holds(expect) for expect in last.values()):
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
            seen = self._see(step.after)
            if seen != step.after.value:
                self._look_after_failure(index, step, refused=False)
                raise self._ineffective(step, step.after, seen)

    def _try_again(self, index: int, step: Step) -> None:
        """Store again what was accepted and not taken, as often as the step allows."""
        if isinstance(step, LoadModule) or step.after is None:
            return
        for pause in _PAUSES[: step.tries - 1]:
            if self._holds(step.after):
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
        elif isinstance(step, SetNodes):
            for node in await_nodes(self._sysfs, str(step.address), timeout=self._timeout):
                set_node(self._sysfs, node, step.uid, step.gid, step.mode)
        else:
            self._store(index, step.path, step.value)

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
            changed = False
        elif step.after is not None and self._holds(step.after):
            changed = True
        elif step.before is not None:
            changed = not self._holds(step.before)
        else:
            changed = not refused
        if changed:
            self.to_undo[index] = "forced"
        else:
            del self.to_undo[index]

    def _ineffective(
        self, step: Step, after: Expect, seen: str | None | Unavailable
    ) -> VfioHostError:
        if isinstance(step, LoadModule):
            done = f"Module {step.name} was loaded"
        elif isinstance(step, SetNodes):
            done = f"The nodes of {step.address} were changed"
        else:
            done = f"The kernel accepted {step.value!r} for {self._sysfs.shown(step.path)}"
        if isinstance(seen, Unavailable) and seen.errno != errno.ENOENT:
            return ApplyError(
                f"{done}, but whether it had its effect cannot be seen: "
                f"{self._sentence(after, seen)}"
            )
        text = f"{done}, but it did not have its effect: {self._sentence(after, seen)}"
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
        for index, step, undo in self._undos():
            try:
                if not nothing_to_do:
                    self._undo(index, step, undo)
                self._undone(index)
            except PendingError:
                raise
            except VfioHostError as exc:
                self._set(index, "undo-failed", str(exc))
                self._note("undo-failed", index, error=str(exc))
                failures.append(UndoFailure(index, exc, undo.shell(self._sysfs.root)))
        return tuple(failures)

    def _undos(self) -> list[tuple[int, WriteAttr, Store]]:
        """The steps of :attr:`to_undo` that an undo takes back, the last first."""
        steps = ((index, self.plan.steps[index]) for index in sorted(self.to_undo, reverse=True))
        return [
            (index, step, step.undo)
            for index, step in steps
            if isinstance(step, WriteAttr) and step.undo is not None
        ]

    def _undo(self, index: int, step: WriteAttr, undo: Store) -> None:
        certainty = self.to_undo[index]
        standing = self._standing(step, known=certainty == "known")
        if standing == "unknown" and certainty != "forced":
            raise ApplyError(f"It was not taken back: {self._neither(step)}")
        if standing != "before":
            self._note("undo-begin", index)
            self._tell(index, back=True)
            self._store(index, undo.path, undo.value)
            self._check_undo(step, undo)

    def _undone(self, index: int) -> None:
        self._note("undone", index)
        if self._results[index].outcome != "failed":
            self._set(index, "undone")

    def _standing(self, step: WriteAttr, *, known: bool) -> Standing:
        """Say where a step that was begun, or is known to have happened, stands now."""
        # First what the step makes: what must hold before it may be a condition that still holds.
        if step.after is not None and self._holds(step.after):
            return "after"
        if step.before is None:
            if step.after is None:
                return "after" if known else "unknown"
            return "unknown" if known else "before"
        seen = self._see(step.before)
        if seen == step.before.value:
            return "before"
        # A step that says nothing of what it makes shows by what is no longer as it was.
        return "after" if step.after is None and not isinstance(seen, Unavailable) else "unknown"

    def _check_undo(self, step: WriteAttr, undo: Store) -> None:
        wanted = undo.after or step.before
        if wanted is None:
            return
        seen = self._see(wanted)
        if seen != wanted.value:
            raise ApplyError(
                f"The kernel accepted {undo.value!r} for {self._sysfs.shown(undo.path)}, but it "
                f"did not have its effect: {self._sentence(wanted, seen)}"
            )

    def _is_as_before(self) -> bool:
        """Whether the host is as it was before the first of the steps that have to be taken back.

        A plan may change one file twice and leave it as it was (an override that is set and then
        cleared). When all was taken back and the journal does not say so, such a step would look
        done. Where each step shows its work in the file that it expects something of, the first
        expectations tell.
        """
        first: dict[str, Expect] = {}
        for _, step, _ in reversed(self._undos()):
            if step.before is None or (step.after or step.before).path != step.before.path:
                return False
            first.setdefault(step.before.path, step.before)
        return all(self._holds(expect) for expect in first.values())

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

    def _see(self, expect: Expect) -> str | None | Unavailable:
        return observe(self._sysfs, expect, timeout=self._timeout)

    def _holds(self, expect: Expect) -> bool:
        return self._see(expect) == expect.value

    def _unreadable(self, expect: Expect, seen: Unavailable) -> VfioHostError:
        if seen.errno:
            op = _READ_OPS[expect.kind]
            return KernelError(op, seen.errno, self._sysfs.shown(expect.path))
        return ApplyError(
            f"{self._sentence(expect, seen)} An operation on the device has not come back."
        )

    def _sentence(self, expect: Expect, seen: str | None | Unavailable) -> str:
        """What is there instead of what should be."""
        shown = self._sysfs.shown(expect.path)
        if isinstance(seen, Unavailable) and seen.errno == errno.ENOENT:
            return f"{shown} is not there, and neither is the directory that it should be in."
        if isinstance(seen, Unavailable):
            return f"{shown} cannot be read ({seen})."
        return f"{shown} {_state(expect.kind, seen)}, but should {_wish(expect)}."

    def _neither(self, step: WriteAttr) -> str:
        facts = [e for e in (step.before, step.after) if e is not None]
        if not facts:
            return f"whether {self._sysfs.shown(step.path)} was written cannot be seen."
        seen = self._see(facts[0])
        if isinstance(seen, Unavailable):
            return self._sentence(facts[0], seen)
        state = _state(facts[0].kind, seen)
        return (
            f"{self._sysfs.shown(facts[0].path)} {state}, which is neither what was there before "
            "the step nor what the step made; somebody else changed it."
        )


def _state(kind: ExpectKind, value: str | None) -> str:
    if kind == "exists":
        return "exists" if value == "yes" else "does not exist"
    if value is None:
        return "is not there"
    return f"points to {value!r}" if kind == "link" else f"is {value!r}"


def _wish(expect: Expect) -> str:
    if expect.kind == "exists":
        return "exist" if expect.value == "yes" else "not exist"
    if expect.value is None:
        return "not be there"
    return f"point to {expect.value!r}" if expect.kind == "link" else f"be {expect.value!r}"
