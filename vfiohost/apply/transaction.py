"""The steps of one plan, forward.

A step forward is: check that it is still needed, journal, store once, read back.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from vfiohost import nodes
from vfiohost.apply.pending import module_users, users_of
from vfiohost.apply.undoing import Undoing
from vfiohost.errors import (
    ApplyError,
    KernelError,
    PendingError,
    StalePlanError,
    VfioHostError,
)
from vfiohost.journal import Event
from vfiohost.model import Unavailable
from vfiohost.plan.types import ChangeNodes, LoadModule, SetNodes, WriteAttr

if TYPE_CHECKING:
    from collections.abc import Generator

    from vfiohost.plan.types import Expect, Step, StepResult

# Seconds between two tries to take a lock that a driver gives when it likes.
_PAUSES = (0.25, 0.5, 1.0, 2.0, 3.0, 3.0, 3.0, 3.0, 3.0)
_PAUSE_TICK = 0.05

Call = Callable[[], object]
"""What a step has to wait for."""

# Somebody was there before us: what is seen then is theirs, however much it looks like our work,
# and taking it back would destroy their mediated device or take their driver away
# (drivers/vfio/mdev/mdev_core.c:mdev_device_create, drivers/base/dd.c:device_driver_attach).
_TAKEN = frozenset({errno.EEXIST, errno.EBUSY})


class Transaction(Undoing):
    """Carries a plan out, step by step, and can take it back."""

    def forward(self, index: int) -> Generator[Call, object, StepResult]:
        """Carry out one step, unless it holds already.

        Args:
            index: of the step in the plan.

        Yields:
            What may take as long as the kernel likes: stores, loads and pauses. Whoever drives this
            calls them, maybe in another thread, and sends back what they return, or throws what
            they raise. All else is done here.

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
                yield from self._store_and_check(index, step)
                self.to_undo[index] = "known"
                self.open_journal().record(Event("done", index))
                self._set(index, "done")
        except GeneratorExit:
            raise
        except BaseException as exc:
            self._fail(index, exc)
            raise
        return self._results[index]

    def _fail(self, index: int, exc: BaseException) -> None:
        self.current = index
        if isinstance(exc, VfioHostError) and not isinstance(exc, PendingError):
            self._set(index, "failed", str(exc))
            self._note("failed", index, error=str(exc))
            if index not in self.to_undo:
                # It changed nothing. Say so before other steps are taken back: what they leave
                # behind may look like this one's work.
                self._note("undone", index)

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

    def _store_and_check(self, index: int, step: Step) -> Generator[Call, object]:
        try:
            yield from self._answered(index, step)
            yield from self._try_again(index, step)
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

    def _try_again(self, index: int, step: Step) -> Generator[Call, object]:
        """Store again what was accepted and not taken, as often as the step allows."""
        if not isinstance(step, WriteAttr) or step.after is None:
            return
        for pause in _PAUSES[: step.tries - 1]:
            if self._facts.holds(step.after) or not (yield partial(self._pause, pause)):
                return
            yield from self._stored(index, step)

    def _pause(self, seconds: float) -> bool:
        """Wait; whether nobody gave up meanwhile."""
        began = time.monotonic()
        while time.monotonic() < began + seconds:
            if self._kernel.give_up(began):
                return False
            time.sleep(_PAUSE_TICK)
        return True

    def _answered(self, index: int, step: Step) -> Generator[Call, object]:
        self._tell(index, back=False)
        if isinstance(step, LoadModule):
            with self._waiting(index, f"Loading module {step.name}"):
                yield partial(self._load, step.name)
        elif isinstance(step, WriteAttr):
            yield from self._stored(index, step)
        else:
            for change in self.node_changes[index]:
                nodes.make_change(self._sysfs, change)

    def _stored(self, index: int, step: WriteAttr) -> Generator[Call, object]:
        with self._waiting(index, f"Writing {step.value!r} to {self._sysfs.shown(step.path)}"):
            yield partial(self._store, step.path, step.value)

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
