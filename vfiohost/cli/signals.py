"""Ctrl-C, SIGTERM and a dropped terminal, while a plan is carried out.

Between two steps a signal makes ``apply`` take back what was done. Inside a store nothing can be
taken back: the store gets :data:`GRACE` more to end, then the waiting ends and the plan is pending.
"""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vfiohost.sysfs import Kernel

GRACE = 1.0
"""Seconds that a store may still take after a signal. Most take a few milliseconds."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interruption:
    """Whether a signal came, and how a store learns of it."""

    def __init__(self) -> None:
        self.came = False
        self._in_store = False

    def guard(self, kernel: Kernel) -> Kernel:
        """A kernel whose stores end when a signal came and their grace is over."""
        return _Guarded(kernel, self)

    @contextmanager
    def caught(self) -> Iterator[Callable[[], bool]]:
        """Catch the signals inside, and give the question that ``apply`` asks between steps.

        A signal that was ignored from the beginning (``nohup``) stays ignored.
        """
        old: dict[signal.Signals, Any] = {}
        try:
            for number in _SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    old[number] = signal.signal(number, self._on_signal)
            old[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._on_alarm)
        except ValueError:
            pass  # not the main thread of the interpreter: Python delivers no signals here
        try:
            yield lambda: self.came
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)

    @contextmanager
    def store(self) -> Iterator[None]:
        """Say that a store is under way."""
        self._in_store = True
        try:
            yield
        finally:
            self._in_store = False
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _on_signal(self, *_: object) -> None:
        self.came = True
        if self._in_store:
            signal.setitimer(signal.ITIMER_REAL, GRACE)

    def _on_alarm(self, *_: object) -> None:
        if self._in_store:
            raise KeyboardInterrupt


class _Guarded:
    """A :class:`Kernel` that says when it is in a store."""

    def __init__(self, kernel: Kernel, interruption: Interruption) -> None:
        self._kernel = kernel
        self._interruption = interruption

    def check_writable(self) -> None:
        """See :meth:`vfiohost.sysfs.Kernel.check_writable`."""
        self._kernel.check_writable()

    def store(self, path: str, value: str, *, timeout: float, keep_fd: int | None = None) -> None:
        """See :meth:`vfiohost.sysfs.Kernel.store`."""
        with self._interruption.store():
            self._kernel.store(path, value, timeout=timeout, keep_fd=keep_fd)

    def load_module(self, name: str, *, timeout: float) -> None:
        """See :meth:`vfiohost.sysfs.Kernel.load_module`."""
        with self._interruption.store():
            self._kernel.load_module(name, timeout=timeout)
