"""Helper processes, from Python: stores and reads that are waited for no longer than one wants.

A helper waits in the kernel in place of its caller. One that does not come back in time is left to
itself; it ends when the kernel lets go of it.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import select
import struct
import time
from typing import TYPE_CHECKING, Final

from vfiohost._native import ffi, lib
from vfiohost.errors import KernelError, StoreTimeoutError
from vfiohost.native.answers import check_store, encoded, options, text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    GiveUp = Callable[[float], bool]

LONGEST_WAIT: Final = 1_000_000.0
"""Seconds (11 days) that stand for any longer timeout, as poll(2) takes an int of milliseconds."""

TICK: Final = 0.1
"""Seconds between two times that a wait asks whether to give up."""

_REQUEST: Final = struct.Struct("4i")  # struct vh_request
_ANSWER: Final = struct.Struct("3i")  # struct vh_answer
_MESSAGE: Final = _ANSWER.size + lib.VH_ANSWER_MAX
# After so long without an answer a read counts as stuck: a share of the timeout, and seconds.
_PATIENCE: Final = 1 / 8
_PATIENCE_MAX: Final = 0.25

# Seconds in which a helper with nothing to do ends, unless somebody has stopped it.
_ENDING: Final = 1.0
# Seconds in which a helper begins to run, on the busiest machine.
_STARTING: Final = 60.0

# Helpers that were still in the kernel when their caller stopped waiting.
_left: set[int] = set()


def never(_began: float) -> bool:
    """Do not give up."""
    return False


class Helper:
    """A process that stores and reads for this one, a request at a time.

    Attributes:
        pid: its number.
        fd: the socket on which it is asked and answers. A fork of this process has it, too, and
            must not use it.
    """

    def __init__(self, *, fallback: bool) -> None:
        socket = ffi.new("int *")
        self.pid: int = lib.vh_helper_start(options(fallback), socket)
        if self.pid < 0:
            raise OSError(-self.pid, os.strerror(-self.pid))
        self.fd: int = socket[0]
        self._owner = os.getpid()
        self._await_start()

    def _await_start(self) -> None:
        """Wait until it runs: how long a busy machine takes for that says nothing of a lock."""
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        try:
            if poll.poll(_milliseconds(_STARTING)):
                self.answer()  # nothing, if somebody has killed it: whoever asks it is told
                return
        except BaseException:
            self.close(ended=False)
            raise
        self.close(ended=False)
        raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))

    def ask(self, request: tuple[int, ...], body: bytes, rootfd: int, keep_fd: int = -1) -> int:
        """Ask it for something: 0, or a negative errno when it was not asked."""
        packed = ffi.from_buffer("struct vh_request *", _REQUEST.pack(*request))
        result: int = lib.vh_helper_ask(self.fd, packed, body, len(body), rootfd, keep_fd)
        return result

    def answer(self) -> bytes:
        """Read one of its answers, as a message; nothing when it is gone."""
        try:
            return os.read(self.fd, _MESSAGE)
        except ConnectionResetError:
            return b""  # it was killed before it had read what it was asked (net/unix/af_unix.c)

    def close(self, *, ended: bool) -> None:
        """Ask it for nothing more.

        Args:
            ended: it has nothing to do, and so ends at once; else it is collected later.
        """
        if self.is_ours:
            lib.vh_helper_end(self.fd)
            _reap(self.pid, patience=_ENDING if ended else 0.0)
        else:
            os.close(self.fd)

    @property
    def is_ours(self) -> bool:
        """Whether it serves this process, and not the one that this is a fork of."""
        return self._owner == os.getpid()


class Helpers:
    """Where helpers come from: one for each request that is under way.

    Several threads may ask.
    """

    def __init__(self) -> None:
        self._idle: list[Helper] = []
        self._keepers = 0

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Let helpers serve again inside this, since to fork them takes long."""
        self._keepers += 1
        try:
            yield
        finally:
            self._keepers -= 1
            while not self._keepers and self._idle:
                self._idle.pop().close(ended=True)

    def ask(
        self,
        request: tuple[int, ...],
        body: bytes,
        rootfd: int,
        keep_fd: int = -1,
        *,
        fallback: bool = False,
    ) -> Helper:
        """Ask a helper for something.

        Raises:
            OSError: none could be started, or asked.
        """
        while True:
            try:
                helper, is_new = self._idle.pop(), False
            except IndexError:
                helper, is_new = Helper(fallback=fallback), True
            if not helper.is_ours:
                helper.close(ended=False)
                continue
            result = helper.ask(request, body, rootfd, keep_fd)
            if result == 0:
                return helper
            helper.close(ended=True)
            # One that somebody has killed meanwhile was not asked, so another one can be.
            was_killed = result in (-errno.EPIPE, -errno.ECONNRESET)
            if is_new or not was_killed:
                number = errno.EINTR if was_killed else -result
                raise OSError(number, os.strerror(number))

    def take_back(self, helper: Helper) -> None:
        """Take back a helper that has answered."""
        if self._keepers:
            self._idle.append(helper)
        else:
            helper.close(ended=True)


def store_bounded(
    rootfd: int,
    path: str,
    data: bytes,
    *,
    timeout: float,
    keep_fd: int | None = None,
    only_sysfs: bool,
    shown: str,
    give_up: GiveUp = never,
    helpers: Helpers | None = None,
    fallback: bool = False,
) -> None:
    """Store a value in a helper process and wait for it no longer than ``timeout``.

    The helper has a session of its own, no signal but SIGKILL reaches it, and it keeps no file
    descriptor of the caller but the root and ``keep_fd``. Signal handlers of the caller run while
    it waits; one that raises ends the wait, not the store, and is the cause of the error.

    Args:
        rootfd: the root.
        path: the attribute.
        data: the value.
        timeout: seconds, from when the helper was asked.
        keep_fd: stays open in the helper until the store has ended, so that a ``flock`` on it
            outlives the caller.
        only_sysfs: refuse a file that is not on a mounted sysfs.
        shown: how errors name the file.
        give_up: asked each :data:`TICK` of the wait, with the ``time.monotonic()`` at which it
            began; ``True`` ends it.
        helpers: where the helper comes from; by default it serves once.
        fallback: do without ``openat2(2)`` and ``close_range(2)``.

    Raises:
        KernelError: the kernel's answer, with ``op`` ``open`` or ``write``; EINTR when the helper
            was killed before it could tell one; E2BIG for more than 64 KiB.
        StoreTimeoutError: no answer in time, given up, or the wait was interrupted; the helper
            ``pid`` goes on waiting in the kernel.
        UnsupportedError: ``only_sysfs`` and the file is not on a sysfs.
    """
    body = encoded(path, "open", shown, data) + b"\0" + data
    bits = options(fallback) | (lib.VH_ONLY_SYSFS if only_sysfs else 0)
    helpers = Helpers() if helpers is None else helpers
    try:
        keep = -1 if keep_fd is None else keep_fd
        request = (lib.VH_STORE, bits, 0, len(data))
        helper = helpers.ask(request, body, rootfd, keep, fallback=fallback)
    except OSError as error:
        raise KernelError("open", error.errno or 0, shown, text(data)) from error
    began = time.monotonic()
    try:
        answer = _receive(helper, began, timeout, give_up)
    except BaseException as interruption:
        # A signal handler raised. The store goes on, and somebody has to know in which process.
        helper.close(ended=False)
        waited = time.monotonic() - began
        raise StoreTimeoutError(shown, text(data), helper.pid, waited) from interruption
    if answer is None:
        helper.close(ended=False)
        raise StoreTimeoutError(shown, text(data), helper.pid, time.monotonic() - began)
    if not answer:
        helper.close(ended=True)
        raise KernelError("write", errno.EINTR, shown, text(data))
    helpers.take_back(helper)
    _, result, phase = _ANSWER.unpack(answer)
    check_store(result, phase, shown, data)


def read_bounded(
    rootfd: int,
    paths: Sequence[str],
    *,
    timeout: float,
    helpers: Helpers | None = None,
    fallback: bool = False,
) -> list[bytes | int | None]:
    """Read files whose reading may block for ever, and wait no longer than ``timeout``.

    A helper process reads them one after the other. When it is stuck on one of them, another
    helper goes on with the next; what comes late still counts until the time is over.

    Args:
        rootfd: the root.
        paths: the files.
        timeout: seconds for all of them.
        helpers: where the helpers come from; by default they serve once.
        fallback: do without ``openat2(2)`` and ``close_range(2)``.

    Returns:
        For each path its content (at most ``VH_ANSWER_MAX`` bytes), or a negative errno, or
        ``None``: no answer in time, or none without waiting at a FIFO.

    Raises:
        KernelError: no helper could be started.
    """
    return _Reading(rootfd, paths, helpers or Helpers(), fallback=fallback).run(timeout)


class _Reading:
    """Files that are read: :func:`read_bounded` while it is under way."""

    def __init__(
        self, rootfd: int, paths: Sequence[str], helpers: Helpers, *, fallback: bool
    ) -> None:
        self._rootfd = rootfd
        self._names = [encoded(path, "open", path) + b"\0" for path in paths]
        self._paths = paths
        self._helpers = helpers
        self._fallback = fallback
        self._answers: list[bytes | int | None] = [None] * len(paths)
        self._readers: dict[int, _Reader] = {}
        self._newest: _Reader | None = None
        self._next = 0  # the first path that nobody was asked for
        self._poll = select.poll()

    def run(self, timeout: float) -> list[bytes | int | None]:
        deadline = time.monotonic() + timeout
        patience = min(timeout * _PATIENCE, _PATIENCE_MAX)
        try:
            while None in self._answers and (left := deadline - time.monotonic()) > 0:
                if self._newest is None and self._next < len(self._names):
                    began = time.monotonic()
                    self._start()
                    deadline += time.monotonic() - began  # no file was waited for meanwhile
                if not self._readers:
                    break
                ready = self._poll.poll(_milliseconds(min(left, patience)))
                for fd, _ in ready:
                    self._feed(fd)
                newest = self._newest
                if not ready and newest is not None and newest.next + 1 < len(self._names):
                    self._newest, self._next = None, newest.next + 1  # it is stuck
        finally:
            for reader in self._readers.values():
                reader.helper.close(ended=False)
        return self._answers

    def _start(self) -> None:
        """Ask a helper for the next paths, as many as a request has room for."""
        first, size = self._next, 0
        for name in self._names[first:]:
            size += len(name)
            if size > lib.VH_REQUEST_MAX and self._next > first:
                break
            self._next += 1
        request = (lib.VH_READ, options(self._fallback), self._next - first, 0)
        try:
            body = b"".join(self._names[first : self._next])
            helper = self._helpers.ask(request, body, self._rootfd, fallback=self._fallback)
        except OSError as error:
            raise KernelError("read", error.errno or 0, self._paths[first]) from error
        self._newest = self._readers[helper.fd] = _Reader(helper, first, self._next)
        self._poll.register(helper.fd, select.POLLIN)

    def _feed(self, fd: int) -> None:
        """Take in one answer."""
        reader = self._readers[fd]
        message = reader.helper.answer()
        if message:
            index, result, _ = _ANSWER.unpack_from(message)
            reader.next = reader.first + index
            if self._answers[reader.next] is None and result != -errno.EAGAIN:
                self._answers[reader.next] = result if result < 0 else message[_ANSWER.size :]
            reader.next += 1
            if reader.next < reader.last:
                return
        self._poll.unregister(fd)
        del self._readers[fd]
        if reader is self._newest:
            self._newest = None
        if message:
            self._helpers.take_back(reader.helper)
        else:
            reader.helper.close(ended=True)  # somebody has killed it


class _Reader:
    """A helper that reads the paths from ``first`` on, up to ``last``; ``next`` is awaited."""

    def __init__(self, helper: Helper, first: int, last: int) -> None:
        self.helper = helper
        self.first = self.next = first
        self.last = last


def _receive(helper: Helper, began: float, timeout: float, give_up: GiveUp) -> bytes | None:
    """A helper's answer; nothing when the helper is gone, ``None`` when time is up."""
    poll = select.poll()
    poll.register(helper.fd, select.POLLIN)
    # poll() runs signal handlers and goes on waiting; one that raises ends the wait (PEP 475).
    while not poll.poll(_milliseconds(min(left := began + timeout - time.monotonic(), TICK))):
        if left <= TICK or give_up(began):
            return None
    return helper.answer()


def _reap(pid: int, *, patience: float) -> None:
    """Collect a helper that has ended or does so soon, and those that had been left behind."""
    _left.add(pid)
    for child in tuple(_left):
        if _is_collected(child):
            _left.discard(child)
    until, pause = time.monotonic() + patience, 0.0001
    while pid in _left and time.monotonic() < until:
        time.sleep(pause)
        pause = min(2 * pause, 0.05)
        if _is_collected(pid):
            _left.discard(pid)


def _is_collected(pid: int) -> bool:
    """Whether a child has ended; then it is no zombie any more."""
    try:
        return os.waitpid(pid, os.WNOHANG) != (0, 0)
    except ChildProcessError:
        return True  # the caller's own handling of SIGCHLD was faster


def _milliseconds(seconds: float) -> int:
    return math.ceil(max(0.0, min(seconds, LONGEST_WAIT)) * 1000)
