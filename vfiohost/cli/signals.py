"""Ctrl-C, SIGTERM and a dropped terminal, while a plan is carried out.

Between two steps a signal makes ``apply`` take back what was done. Inside a store nothing can be
taken back: the store gets :data:`GRACE` more to end, then the waiting ends and the plan is pending.
"""

from __future__ import annotations

import signal
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

GRACE = 1.0
"""Seconds that a store may still take after a signal. Most take a few milliseconds."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interruption:
    """Whether signals came, and when.

    The handler only takes that down, and those who wait ask: what it raised could come up anywhere,
    between the start of a helper process and the line that remembers it, too.
    """

    def __init__(self) -> None:
        self._times: list[float] = []
        self._then: Callable[[], object] | None = None

    @property
    def came(self) -> bool:
        """Whether a signal came."""
        return bool(self._times)

    def is_grace_over(self, began: float) -> bool:
        """Whether a signal came during a wait, and longer than :data:`GRACE` ago.

        One that came before does not count: what takes the plan back has all its time.

        Args:
            began: the ``time.monotonic()`` at which the wait began.
        """
        over = time.monotonic() - GRACE
        return any(began <= came < over for came in self._times)

    @contextmanager
    def caught(self, then: Callable[[], object] | None = None) -> Iterator[Callable[[], bool]]:
        """Catch the signals inside, and give the question that ``apply`` asks between steps.

        A signal that was ignored from the beginning (``nohup``) stays ignored.

        Args:
            then: called when a signal has come, in the handler: it may do next to nothing.
        """
        self._then = then
        old: dict[signal.Signals, Any] = {}
        try:
            for number in _SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    old[number] = signal.signal(number, self._on_signal)
        except ValueError:
            pass  # not the main thread of the interpreter: Python delivers no signals here
        try:
            yield lambda: self.came
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)

    def _on_signal(self, *_: object) -> None:
        self._times.append(time.monotonic())
        if self._then is not None:
            self._then()
