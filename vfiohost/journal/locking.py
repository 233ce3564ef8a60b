"""The one lock under which a host is changed, and the processes that wait for the kernel."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from vfiohost.errors import KernelError, LockBusyError, ParseError
from vfiohost.journal.files import as_kernel_error, open_directory, open_file
from vfiohost.native.helpers import never

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vfiohost.native.helpers import GiveUp
    from vfiohost.sysfs import Sysfs

LOCK_PATH = "run/vfiohost/lock"
"""The lock, relative to the root. Its content names the holder; only the flock counts."""

_HOLDER_LIMIT = 4096
_PID_MAX = 1 << 22  # PID_MAX_LIMIT, include/linux/threads.h
_POLL_SECONDS = 0.05
# Some have the lock for a moment only: what a killed process had just forked, until it has run for
# the first time; who looks whether it is free, and says nothing of itself in the file.
_MOMENT_SECONDS = 1.0


@attrs.frozen
class Process:
    """A process that can still be told from a later one with the same number.

    Attributes:
        pid: its number.
        start: when it started, in clock ticks after boot (field 22 of ``/proc/PID/stat``), or
            ``None`` if it had ended when it was looked at.
        namespace: the PID namespace in which it has that number (the inode of
            ``/proc/self/ns/pid``, ``pid_namespaces(7)``), or ``None`` if that is not known.
    """

    pid: int
    start: int | None
    namespace: int | None = None

    @classmethod
    def of(cls, pid: int) -> Process:
        """The process that has this number now."""
        return cls(pid, _start_of(pid), _namespace())

    @property
    def is_elsewhere(self) -> bool:
        """Whether its number means nothing here: another container's, or an earlier run's of ours.

        Nobody can tell by it whether the process has ended.
        """
        return self.namespace not in (None, _namespace())

    @property
    def is_alive(self) -> bool:
        """Whether it still runs or waits, as far as that is seen here; a zombie has ended."""
        if self.start is None or self.is_elsewhere:
            return False
        return _start_of(self.pid) == self.start


def _namespace() -> int | None:
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return None  # no /proc, or a kernel without PID namespaces


def _start_of(pid: int) -> int | None:
    """When a living process started. Reads the real ``/proc``: processes are never below a root."""
    if not 0 < pid <= _PID_MAX:
        return None  # somebody made it up
    try:
        # The name, in parentheses, may hold anything: count from the last parenthesis.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, start = fields[0], fields[19]
    return None if state in (b"Z", b"X", b"x") else int(start)


@attrs.define
class HostLock:
    """The lock of a host, while it is held.

    Attributes:
        fd: its file descriptor, which a helper of a store keeps open until the store has ended.
        is_left: it is not given back but left to the helpers that have it: nobody else could know
            that they still store, because no journal says so.
    """

    fd: int
    is_left: bool = False


@contextlib.contextmanager
def lock(
    sysfs: Sysfs, *, purpose: str, wait: float = 0.0, give_up: GiveUp = never
) -> Iterator[HostLock]:
    """Hold the one lock under which a host is changed: ``ROOT/run/vfiohost/lock``.

    Args:
        sysfs: the host.
        purpose: what the lock is held for; others who want it are told.
        wait: seconds to wait for it, 0 for not at all; one second at least where who took it has
            ended or has not said who it is: both may let go of it in a moment.
        give_up: asked while it is waited for, with the ``time.monotonic()`` at which that began;
            ``True`` ends the wait.

    Yields:
        The lock. A helper process that inherits its descriptor keeps it alive when the caller is
        killed; when the block ends in order the lock is released for the helper, too, unless
        :attr:`HostLock.is_left`.

    Raises:
        LockBusyError: somebody else holds it.
        KernelError: the file could not be made or opened.
        UnsupportedError: the file or its directory is not private to us.
    """
    held = HostLock(_acquire(sysfs, purpose, wait, give_up))
    try:
        yield held
    finally:
        # Unlock explicitly: a helper that still waits in the kernel shares this open file, and
        # closing our descriptor alone would leave everybody locked out until it comes back.
        if not held.is_left:
            with contextlib.suppress(OSError):  # what it says of its holder is for information
                os.ftruncate(held.fd, 0)
            fcntl.flock(held.fd, fcntl.LOCK_UN)
        os.close(held.fd)


def check_free(sysfs: Sysfs, *, wait: float = 0.0, give_up: GiveUp = never) -> None:
    """See to it that nobody is changing the host, without making or writing any file.

    Args:
        sysfs: the host.
        wait: seconds to wait for the end of who does, 0 for not at all; as for :func:`lock`.
        give_up: as for :func:`lock`.

    Raises:
        LockBusyError: somebody is.
        KernelError: the lock is there, and cannot be opened.
        UnsupportedError: the file or its directory is not private to us.
    """
    parent, _, name = LOCK_PATH.rpartition("/")
    shown, waiting = sysfs.shown(LOCK_PATH), _Waiting(wait, give_up)
    try:
        directory = open_directory(sysfs, parent, create=False)
    except KernelError as error:
        if error.errno == errno.ENOENT:
            return  # nobody has ever changed this host
        raise
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, directory)
        try:
            fd = open_file(directory, name, os.O_RDONLY, shown=shown)
        except KernelError as error:
            if error.errno == errno.ENOENT:
                return
            raise
        stack.callback(os.close, fd)
        # Shared: two who look do not stand in each other's way.
        while not _take(fd, shown, fcntl.LOCK_SH):
            waiting.go_on_after(_busy(fd, shown))
        fcntl.flock(fd, fcntl.LOCK_UN)


class _Waiting:
    """A wait for the lock that is under way."""

    def __init__(self, wait: float, give_up: GiveUp) -> None:
        self._wait = wait
        self._give_up = give_up
        self._began = time.monotonic()

    def go_on_after(self, busy: LockBusyError) -> None:
        """Sleep until the next try, or raise this error of the last one."""
        is_momentary = busy.has_ended or busy.holder is None
        wait = max(self._wait, _MOMENT_SECONDS) if is_momentary else self._wait
        if time.monotonic() >= self._began + wait or self._give_up(self._began):
            raise busy
        time.sleep(_POLL_SECONDS)


def _acquire(sysfs: Sysfs, purpose: str, wait: float, give_up: GiveUp) -> int:
    parent, _, _ = LOCK_PATH.rpartition("/")
    waiting = _Waiting(wait, give_up)
    directory = open_directory(sysfs, parent, create=True)
    try:
        while True:
            try:
                fd = _try(directory, purpose, sysfs.shown(LOCK_PATH))
            except LockBusyError as busy:
                waiting.go_on_after(busy)
            else:
                if fd is not None:
                    return fd
    finally:
        os.close(directory)


def _try(directory: int, purpose: str, shown: str) -> int | None:
    """Lock the file; ``None`` when it had lost its name to another one by then.

    Raises:
        LockBusyError: somebody else holds it.
    """
    _, _, name = LOCK_PATH.rpartition("/")
    fd = open_file(directory, name, os.O_RDWR | os.O_CREAT, shown=shown)
    with contextlib.ExitStack() as unless_taken:
        unless_taken.callback(os.close, fd)
        if not _take(fd, shown):
            raise _busy(fd, shown)
        if not _is_called(name, directory, fd):
            return None
        _write_holder(fd, purpose)
        unless_taken.pop_all()
    return fd


def _is_called(name: str, directory: int, fd: int) -> bool:
    """Whether the open file has this name; a file that was replaced locks nobody out."""
    try:
        named = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(named, os.fstat(fd))


def _take(fd: int, shown: str, kind: int = fcntl.LOCK_EX) -> bool:
    with as_kernel_error("open", shown):
        try:
            fcntl.flock(fd, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def _write_holder(fd: int, purpose: str) -> None:
    """Say who holds the lock, if there is room for it: a full disk must not keep anybody out."""
    me = Process.of(os.getpid())
    holder = {
        "pid": me.pid,
        "start": me.start,
        "namespace": me.namespace,
        "purpose": purpose,
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    with contextlib.suppress(OSError):
        os.ftruncate(fd, 0)
        os.pwrite(fd, json.dumps(holder).encode() + b"\n", 0)


def _busy(fd: int, shown: str) -> LockBusyError:
    """The error that says who holds the lock. That a file does not say so harms nobody."""
    with as_kernel_error("read", shown):
        raw = os.pread(fd, _HOLDER_LIMIT, 0)
    try:
        process, text = holder_of(raw)
    except ParseError:
        return LockBusyError(shown, None)
    return LockBusyError(shown, text, not (process.is_alive or process.is_elsewhere))


def holder_of(raw: str | bytes) -> tuple[Process, str]:
    """Who holds the lock, by the content of its file: the process, and a text that names it.

    Raises:
        ParseError: it does not say.
    """
    try:
        holder = json.loads(raw)
        namespace = holder.get("namespace")
        process = Process(
            int(holder["pid"]),
            int(holder["start"]),
            None if namespace is None else int(namespace),
        )
        where = " of another PID namespace" if process.is_elsewhere else ""
        text = f"pid {process.pid}{where}, vfiohost {holder['purpose']}, since {holder['since']}"
    except (ValueError, OverflowError, TypeError, KeyError, AttributeError, RecursionError) as exc:
        raise ParseError("", "the holder of a lock (a JSON object)") from exc
    return process, text
