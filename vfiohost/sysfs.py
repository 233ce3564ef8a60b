"""A host's files below one root: reads, links, listings, and the one way to store.

All paths are relative to the root, without a leading slash (``sys/bus/pci/devices``), and cannot
lead out of it. Nothing here knows what is where; :mod:`vfiohost.scan` does.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from typing import TYPE_CHECKING, Protocol, Self

from vfiohost import native
from vfiohost.errors import (
    KernelError,
    NotFoundError,
    StoreTimeoutError,
    UnsupportedError,
)
from vfiohost.model import SRIOV_MANAGE, Unavailable
from vfiohost.native import helpers

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterable
    from types import TracebackType

    from vfiohost.errors import KernelOp
    from vfiohost.native.helpers import GiveUp

    _Failure = tuple[KernelOp, str, str]
    """Of which error: the ``op``, the path, and why."""


class Sysfs:
    """A root directory: ``/`` of this machine, a container's view of it, or a recorded host.

    Args:
        root: the directory that holds ``sys``, ``proc``, ``dev`` and so on.

    Attributes:
        root: the directory as it was given, without a trailing slash.
        fd: a file descriptor on it (``O_PATH``).
        helpers: the processes that wait for the kernel in place of this one.

    Raises:
        NotFoundError: there is no such directory.
        KernelError: it cannot be reached.
    """

    root: str
    fd: int

    def __init__(self, root: str | os.PathLike[str] = "/") -> None:
        self.fd = -1
        self.helpers = helpers.Helpers()
        name = os.fspath(root)
        if not name:
            # A variable that is not set must not mean the machine itself.
            raise NotFoundError("root directory", name)
        self.root = name.rstrip("/") or "/"
        try:
            self.fd = native.open_root(self.root)
        except KernelError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                raise NotFoundError("root directory", self.root) from error
            raise

    def close(self) -> None:
        """Close the root. The object is of no use afterwards."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Sysfs({self.root!r})"

    def shown(self, path: str) -> str:
        """A path as a person would type it: ``/sys/...`` or ``DIR/sys/...``."""
        return os.path.join(self.root, path)

    def read(self, path: str, *, limit: int = 65536) -> str:
        """Read an attribute as text, without its one trailing newline.

        Bytes that are no UTF-8 come out as hexadecimal escapes.

        Raises:
            KernelError: as for :meth:`read_bytes`.
        """
        return _text(self.read_bytes(path, limit=limit))

    def read_bytes(self, path: str, *, limit: int = 65536) -> bytes:
        """Read a regular file of at most ``limit`` bytes. A FIFO never makes it wait.

        Raises:
            KernelError: the kernel's answer; EFBIG, EISDIR, EAGAIN (a FIFO: on a simulated host
                an attribute whose device is locked), or EINVAL (neither file nor directory).
        """
        return native.read(self.fd, path, limit, shown=self.shown(path))

    def readlink(self, path: str) -> str:
        """Read a symbolic link's text.

        Raises:
            KernelError: the kernel's answer; EINVAL when it is no link.
        """
        return native.readlink(self.fd, path, shown=self.shown(path)).decode(
            "utf-8", "backslashreplace"
        )

    def link_name(self, path: str) -> str | None:
        """The last component of a link's target, or ``None`` when there is no such link.

        Raises:
            KernelError: the kernel's answer, other than ENOENT.
        """
        try:
            return self.readlink(path).rstrip("/").rpartition("/")[2]
        except KernelError as error:
            if error.errno == errno.ENOENT:
                return None
            raise

    def listdir(self, path: str) -> list[str]:
        """The names in a directory, sorted.

        Raises:
            KernelError: the kernel's answer, with ``op`` ``list``.
        """
        shown = self.shown(path)
        try:
            fd = native.open_in(self.fd, path, os.O_RDONLY | os.O_DIRECTORY, shown=shown)
        except KernelError as error:
            raise KernelError("list", error.errno or 0, shown) from error
        try:
            return sorted(os.listdir(fd))
        except OSError as error:
            raise KernelError("list", error.errno or 0, shown) from error
        finally:
            os.close(fd)

    def exists(self, path: str) -> bool:
        """Whether something has this name; a link counts, wherever it points.

        Raises:
            KernelError: the kernel's answer, other than ENOENT and ENOTDIR.
        """
        flags = os.O_PATH | os.O_NOFOLLOW
        try:
            os.close(native.open_in(self.fd, path, flags, shown=self.shown(path)))
        except KernelError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                return False
            raise
        return True

    def is_directory(self, path: str) -> bool:
        """Whether one system call shows that there is a directory, or a link that leads to one.

        Where the kernel does not say so, :meth:`exists` knows more.
        """
        flags = os.O_WRONLY | os.O_DIRECTORY
        try:
            # Nothing is ever opened so: what is no directory is refused, and a directory for
            # writing, too (EISDIR, before permissions: fs/namei.c:may_open).
            os.close(native.open_in(self.fd, path, flags, shown=self.shown(path)))
        except KernelError as error:
            return error.errno == errno.EISDIR
        return True

    def read_bounded(self, paths: Iterable[str], *, timeout: float) -> dict[str, str | Unavailable]:
        """Read attributes whose reading may block behind the device lock.

        Linux up to at least 6.1 takes that lock to show ``uevent`` and ``driver_override``; behind
        a stuck unbind the reader cannot even be killed. Helper processes read, this one waits.

        Args:
            paths: the attributes.
            timeout: seconds to wait for all of them.

        Returns:
            For each path its text as of :meth:`read`, or an :class:`Unavailable`: the kernel's
            errno (ENOENT too), or 0 for "device locked": no answer in time, or on a simulated
            host a FIFO, which is not waited for.
        """
        answers = self.read_bytes_bounded(paths, timeout=timeout)
        return {p: _text(a) if isinstance(a, bytes) else a for p, a in answers.items()}

    def read_bytes_bounded(
        self, paths: Iterable[str], *, timeout: float
    ) -> dict[str, bytes | Unavailable]:
        """Read files as :meth:`read_bounded`, as bytes."""
        wanted = tuple(dict.fromkeys(paths))
        answers = helpers.read_bounded(self.fd, wanted, timeout=timeout, helpers=self.helpers)
        return {path: _answer(answer) for path, answer in zip(wanted, answers, strict=True)}

    def is_live(self) -> bool:
        """Whether ``sys`` below the root is a mounted sysfs, and no recording of one.

        Raises:
            KernelError: the kernel's answer, other than ENOENT and ENOTDIR.
        """
        try:
            fd = native.open_in(self.fd, "sys", os.O_PATH, shown=self.shown("sys"))
        except KernelError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                return False
            raise
        try:
            return native.is_sysfs(fd)
        finally:
            os.close(fd)


class Kernel(Protocol):
    """Who answers stores: the running kernel, or a simulated one.

    Several threads may store at the same time.

    Attributes:
        give_up: asked ten times a second or more while a store or a load is waited for, with the
            ``time.monotonic()`` at which the wait began; ``True`` ends it as the end of its time
            would.
    """

    give_up: GiveUp

    def check_writable(self) -> None:
        """Make sure that a store would reach somebody.

        Raises:
            UnsupportedError: the root is a plain recording.
        """

    def store(self, path: str, value: str, *, timeout: float, keep_fd: int | None = None) -> None:
        """Store a value in an attribute: exactly one ``write(2)``, of the text as it is.

        Args:
            path: the attribute, relative to the root.
            value: the text; no newline is added.
            timeout: seconds to wait for the kernel.
            keep_fd: a file descriptor that stays open until the store has ended: that of a lock,
                which so outlives a caller that is killed.

        Raises:
            KernelError: the kernel's answer.
            StoreTimeoutError: no answer in time, or given up; the store goes on.
            UnsupportedError: the file is not on a sysfs.
        """

    def load_module(self, name: str, *, timeout: float, keep_fd: int | None = None) -> None:
        """Load a kernel module and those that it needs. One that is loaded already is no error.

        Args:
            name: the module.
            timeout: seconds to wait for it.
            keep_fd: as for :meth:`store`, until loading has ended.

        Raises:
            KernelError: it could not be loaded (``op`` is ``load``).
            StoreTimeoutError: not loaded in time, or given up; loading goes on.
            UnsupportedError: there is no ``modprobe``.
        """


class LiveKernel:
    """The running kernel: stores go to its sysfs, modules are loaded by ``modprobe``."""

    def __init__(self, sysfs: Sysfs) -> None:
        self._sysfs = sysfs
        self.give_up: GiveUp = helpers.never

    def check_writable(self) -> None:
        """See :meth:`Kernel.check_writable`."""
        if not self._sysfs.is_live():
            raise UnsupportedError(
                f"{self._sysfs.root} is a recording: no kernel would act on what is written there. "
                "Make a simulation of it with `vfiohost sim`."
            )

    def store(self, path: str, value: str, *, timeout: float, keep_fd: int | None = None) -> None:
        """See :meth:`Kernel.store`."""
        if path == SRIOV_MANAGE:
            self._run_script(path, value, timeout, keep_fd)
            return
        helpers.store_bounded(
            self._sysfs.fd,
            path,
            value.encode("utf-8", "surrogateescape"),
            timeout=timeout,
            keep_fd=keep_fd,
            # The one attribute that is no sysfs' is NVIDIA's unbindLock, on procfs.
            only_sysfs=not path.startswith("proc/driver/nvidia/"),
            give_up=self.give_up,
            helpers=self._sysfs.helpers,
            shown=self._sysfs.shown(path),
        )

    def load_module(self, name: str, *, timeout: float, keep_fd: int | None = None) -> None:
        """See :meth:`Kernel.load_module`. Below a root other than ``/``, ``modprobe -d ROOT``."""
        self.check_writable()
        root = self._sysfs.root
        where = [] if root == "/" else ["-d", root]
        command = [_modprobe(), *where, "--", name]
        failure: _Failure = ("load", name, "modprobe did not start.")
        status, said = self._run(command, ("modprobe", name), timeout, keep_fd, failure)
        if status != 0:
            raise _load_error(name, said)

    def _run_script(self, path: str, value: str, timeout: float, keep_fd: int | None) -> None:
        """Run NVIDIA's script where a store would be; below another root, with that as its root.

        Raises:
            KernelError: it did not start, or did not succeed (``op`` is ``run``).
            StoreTimeoutError: it has not ended in time, or was given up; it goes on.
            UnsupportedError: others than root could have written it.
        """
        self.check_writable()
        self._check_script(path)
        root = self._sysfs.root
        where = [] if root == "/" else ["chroot", root]
        shown = self._sysfs.shown(path)
        command = [*where, f"/{path}", *value.split()]
        failure: _Failure = ("run", shown, "It did not start.")
        status, said = self._run(command, (shown, value), timeout, keep_fd, failure)
        if status != 0:
            lines = said.strip().splitlines()
            why = lines[-1] if lines else f"It ended with status {status}."
            raise KernelError("run", errno.EIO, shown, why)

    def _check_script(self, path: str) -> None:
        fd = native.open_in(self._sysfs.fd, path, os.O_PATH, shown=self._sysfs.shown(path))
        try:
            status = os.fstat(fd)
        finally:
            os.close(fd)
        others = stat.S_IWGRP | stat.S_IWOTH
        if not stat.S_ISREG(status.st_mode) or status.st_uid or status.st_mode & others:
            raise UnsupportedError(
                f"{self._sysfs.shown(path)} is not run: it is no plain file of root's that nobody "
                "else can write."
            )

    def _run(
        self,
        command: list[str],
        what: tuple[str, str],
        timeout: float,
        keep_fd: int | None,
        failure: _Failure,
    ) -> tuple[int, str]:
        """Run a program and wait for it; its exit status, and the end of what it wrote to stderr.

        It outlives this process, and nothing of it depends on this one: stderr is a file in memory,
        since a pipe that nobody reads any more would end it at its next word.

        Raises:
            KernelError: it did not start.
            StoreTimeoutError: it has not ended in time, was given up, or the wait was interrupted.
        """
        began = time.monotonic()
        with open(os.memfd_create("stderr"), "rb") as stderr:
            process = _start(command, stderr.fileno(), keep_fd, failure)
            try:
                status = _wait(process, began, timeout, self.give_up)
            except BaseException as interruption:
                # A signal handler raised. It goes on, and somebody has to know which process it is.
                raise StoreTimeoutError(
                    *what, process.pid, time.monotonic() - began
                ) from interruption
            finally:
                _running[:] = [p for p in _running if p.poll() is None]
            if status is None:
                raise StoreTimeoutError(*what, process.pid, time.monotonic() - began)
            size = os.fstat(stderr.fileno()).st_size
            said = os.pread(stderr.fileno(), _SAID_LIMIT, max(0, size - _SAID_LIMIT))
        return status, said.decode("utf-8", "backslashreplace")


# Processes that were still at work when their caller stopped waiting, so that they get collected.
_running: list[subprocess.Popen[bytes]] = []

_SAID_LIMIT = 65536  # bytes of what a program has said


def _start(
    command: list[str], stderr: int, keep_fd: int | None, failure: _Failure
) -> subprocess.Popen[bytes]:
    """Start a process that outlives its caller; ``failure``: of which error, if it does not."""
    import subprocess

    try:
        process = subprocess.Popen(  # noqa: S603 - no shell, and what could be an option is checked
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            env={**os.environ, "LC_ALL": "C"},
            start_new_session=True,
            pass_fds=() if keep_fd is None else (keep_fd,),
        )
    except OSError as error:  # no process was started: nothing was done
        op, path, why = failure
        raise KernelError(op, error.errno or 0, path, why) from error
    _running.append(process)
    return process


def _wait(
    process: subprocess.Popen[bytes], began: float, timeout: float, give_up: GiveUp
) -> int | None:
    """The exit status of a process, or ``None``: it has not ended."""
    from subprocess import TimeoutExpired

    while (left := began + timeout - time.monotonic()) > 0 and not give_up(began):
        with contextlib.suppress(TimeoutExpired):
            return process.wait(min(left, helpers.TICK))
    return None


def _modprobe() -> str:
    from shutil import which

    # An ordinary user's PATH often lacks the sbin directories.
    found = which("modprobe", path=f"/sbin:/usr/sbin:{os.environ.get('PATH', '')}")
    if found is None:
        raise UnsupportedError(
            "There is no modprobe on this machine (Debian's package is called kmod), so no kernel "
            "module can be loaded. Load it by other means, then try again."
        )
    return found


def _load_error(name: str, said: str) -> KernelError:
    """Make an error of modprobe's words; it ends them with the text of the kernel's errno."""
    words = said.strip()
    if "not found in directory" in words:
        number = errno.ENOENT
    else:
        codes = (n for n in errno.errorcode if words.endswith(os.strerror(n)))
        number = next(codes, errno.EIO)
    return KernelError("load", number, name, words or None)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace").removesuffix("\n")


def _answer(answer: bytes | int | None) -> bytes | Unavailable:
    if answer is None:
        return Unavailable(0, "device locked")
    if isinstance(answer, int):
        return Unavailable(-answer, os.strerror(-answer))
    return answer
