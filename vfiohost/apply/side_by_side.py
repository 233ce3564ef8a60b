"""Drive lanes of a plan side by side.

One thread acts: it looks, journals, reads back, and asks whether to go on. Only what may take as
long as the kernel likes runs in other threads: each store has a helper process and an open file of
its own there, so that the kernel makes none wait for another (``fs/kernfs/file.c``: one write at a
time on an open file).
"""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import FIRST_COMPLETED, Future, wait
from functools import partial
from threading import Thread
from typing import TYPE_CHECKING, Final

import attrs

from vfiohost.errors import PendingError, StalePlanError, VfioHostError
from vfiohost.native.helpers import TICK

if TYPE_CHECKING:
    from collections.abc import Callable

    from vfiohost.apply.driving import Begun, Driver
    from vfiohost.apply.transaction import Call

ABREAST: Final = 16
"""How many lanes are under way at most: each has a thread, and a helper process while it stores."""


@attrs.define(eq=False)
class _Lane:
    """Steps that follow each other.

    Attributes:
        left: the indexes of those that were not begun.
        at: the index of the one that is under way.
        step: what is under way.
        began: the ``time.monotonic()`` at which its last call began.
        thread: in which that is waited for.
    """

    left: deque[int]
    at: int | None = None
    step: Begun | None = None
    began: float = 0.0
    thread: Thread | None = None


@attrs.frozen
class _Failure:
    """What ended a lane, and the index of the step that it was at; or an interruption."""

    error: BaseException
    at: int | None = None

    @property
    def rank(self) -> int:
        """How bad it is, the worst first; of equal ones the first counts."""
        if isinstance(self.error, PendingError):
            return 0
        if not isinstance(self.error, VfioHostError):
            return 1
        return 3 if isinstance(self.error, StalePlanError) else 2


def drive(driver: Driver, lanes: list[list[int]]) -> None:
    """Let all lanes come to their ends; when one fails, all come to the end of a step.

    Args:
        driver: whose plan it is.
        lanes: indexes of steps.

    Raises:
        BaseException: the worst that happened; the rest is in its notes.
    """
    ready = [_Lane(deque(lane)) for lane in lanes]
    _Traffic(driver, ready).run()


class _Traffic:
    """Lanes that are under way side by side.

    When one fails, the others come to the end of the step that they are at.

    Args:
        driver: for whom.
        ready: the lanes.
    """

    def __init__(self, driver: Driver, ready: list[_Lane]) -> None:
        self._driver = driver
        self._ready = deque(ready)
        self._flying: dict[Future[object], _Lane] = {}
        self._failures: list[_Failure] = []
        self._give_up = driver.kernel.give_up
        self._is_given_up = False

    def run(self) -> None:
        """Let all lanes come to their ends.

        Raises:
            BaseException: the worst that happened; the rest is in its notes.
        """
        # Whoever is asked whether to go on waiting is asked in this thread alone.
        kernel = self._driver.kernel
        kernel.give_up = lambda _began: self._is_given_up
        try:
            while self._flying or (self._ready and not self._failures):
                try:
                    self._advance()
                except BaseException as interruption:  # noqa: BLE001 - a signal handler's
                    self._failures.append(_Failure(interruption))
                    self._is_given_up = True
        finally:
            kernel.give_up = self._give_up
        if self._failures:
            raise self._worst()

    def _advance(self) -> None:
        while self._ready and not self._failures and len(self._flying) < ABREAST:
            self._go_on(self._ready.popleft(), next)
        if self._flying:
            for future in self._landed():
                lane = self._flying.pop(future)
                if lane.thread is not None:
                    lane.thread.join()  # which has nothing more to do
                self._go_on(lane, partial(_hand_over, future))

    def _go_on(self, lane: _Lane, resume: Callable[[Begun], Call]) -> None:
        """Let a lane go on up to the next call that has to be waited for, or to its end."""
        try:
            while lane.step is not None or (lane.left and not self._failures):
                if lane.step is None:
                    lane.at = lane.left.popleft()
                    lane.step, resume = self._driver.begin(lane.at), next
                try:
                    call = resume(lane.step)
                except StopIteration as end:
                    lane.at = lane.step = None
                    self._driver.progress(end.value)
                    continue
                self._take_off(lane, call)
                return
        except BaseException as error:  # noqa: BLE001 - raised when nothing is under way any more
            at = None if lane.step is None else lane.at
            self._failures.append(_Failure(error, at))

    def _take_off(self, lane: _Lane, call: Call) -> None:
        """Wait for a call in a thread of its own: from its start on, until it has landed."""
        future: Future[object] = Future()
        lane.began = time.monotonic()
        self._flying[future] = lane
        lane.thread = Thread(target=_answer, args=(future, call), name="vfiohost-store")
        try:
            lane.thread.start()
        except RuntimeError:  # no room for a thread: nothing was called
            del self._flying[future]
            raise

    def _landed(self) -> list[Future[object]]:
        """The calls that have come back, after a tick at most."""
        done, _ = wait(self._flying, timeout=TICK, return_when=FIRST_COMPLETED)
        if self._give_up(min(lane.began for lane in self._flying.values())):
            self._is_given_up = True
        return [future for future in self._flying if future in done]

    def _worst(self) -> BaseException:
        worst = min(self._failures, key=lambda failure: failure.rank)
        transaction = self._driver.transaction
        transaction.current = worst.at
        if isinstance(worst.error, PendingError):
            worst.error.report = transaction.report
        for other in self._failures:
            if other is not worst and isinstance(other.error, VfioHostError):
                worst.error.add_note(f"Besides: {other.error}")
        return worst.error


def _answer(future: Future[object], call: Call) -> None:
    """Make a call, and put into the future what it returned or raised."""
    try:
        future.set_result(call())
    except BaseException as error:  # noqa: BLE001 - for the thread that waits
        future.set_exception(error)


def _hand_over(future: Future[object], step: Begun) -> Call:
    """Give a step what its call returned or raised."""
    error = future.exception()
    return step.send(future.result()) if error is None else step.throw(error)
