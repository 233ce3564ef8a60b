"""What is said on stderr while a host is changed: it waits for no reader, and breaks nothing.

Under the lock, a terminal that is stopped (Ctrl-S) or a pipe that nobody reads must not hold up
whoever else wants to change the host, and one that is closed must not look like a failed step.
"""

from __future__ import annotations

import os
import signal
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TextIO

_MOST = 1 << 18  # bytes that are kept for a reader who is slow; what is more is dropped
_AT_ONCE = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class Aside:
    """A stream that takes what it takes at once; the rest is kept, in order, for :meth:`finish`.

    Args:
        stream: where it is said, or ``None``: nowhere.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self._left = bytearray()

    def say(self, text: str) -> None:
        """Say something now, or when the reader takes it."""
        data = self._encoded(text)
        if len(self._left) + len(data) <= _MOST:
            self._left += data
        self._push()

    def show(self, text: str) -> bool:
        """Say something now or not at all.

        Returns:
            Whether it was said, or begun.
        """
        self._push()
        if self._left:
            return False
        data = self._encoded(text)
        self._left += data
        is_lost = not self._push()
        if len(self._left) == len(data):
            self._left.clear()
            is_lost = True
        return not is_lost

    def finish(self) -> None:
        """Say what was kept as any other output is said: waiting for the reader.

        Not under the lock, and with signals that end the process.
        """
        try:
            while self._left and self._stream is not None:
                del self._left[: os.write(self._stream.fileno(), self._left)]
        except (OSError, ValueError):
            pass  # nobody is there any more
        finally:
            self._left.clear()

    def _push(self) -> bool:
        """Let the reader take what it takes at once; ``False``: nobody is there any more."""
        try:
            while self._left:
                del self._left[: self._take(bytes(self._left))]
        except (BlockingIOError, PermissionError):
            return True  # full, stopped, or somebody else's terminal
        except (OSError, ValueError):
            self._left.clear()
            return False
        return True

    def _take(self, data: bytes) -> int:
        """Write without waiting; gives how much was taken."""
        if self._stream is None:
            return len(data)
        try:
            fd = self._stream.fileno()
        except (OSError, ValueError):  # no file of the system's
            self._stream.write(data.decode(errors="replace"))
            self._stream.flush()
            return len(data)
        kind = os.fstat(fd).st_mode
        if stat.S_ISSOCK(kind):
            import socket

            with socket.socket(fileno=os.dup(fd)) as other:
                return other.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        if not (stat.S_ISFIFO(kind) or stat.S_ISCHR(kind)):
            return os.write(fd, data)
        # O_NONBLOCK belongs to the open file, which the shell and others share: so the pipe or
        # terminal is opened once more. What poll(2) says would not do: it promises one byte.
        own = os.open(f"/proc/self/fd/{fd}", _AT_ONCE)
        try:
            with _from_the_background():
                return os.write(own, data)
        finally:
            os.close(own)

    def _encoded(self, text: str) -> bytes:
        return text.encode(getattr(self._stream, "encoding", None) or "utf-8", "backslashreplace")


@contextmanager
def _from_the_background() -> Iterator[None]:
    """Let ``stty tostop`` stop nobody who holds a lock (``__tty_check_change``, tty_jobctrl.c)."""
    old = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)
