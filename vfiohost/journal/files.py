"""Private directories and files below the root, for the lock and the journals.

What is written there decides what a later run writes to the kernel as root, so nothing is taken on
trust: the leading directories (``run``, ``var/lib``) are resolved inside the root; from
``vfiohost`` on no symbolic link is followed, and a directory or file that belongs to somebody else,
that others can write, or that is not what it should be (a FIFO, a directory, a second name of
another file) is refused with a sentence. No open here can block.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING

from vfiohost import native
from vfiohost.errors import KernelError, KernelOp, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vfiohost.sysfs import Sysfs

_OWN_DIRECTORY = "vfiohost"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

DURABLE = os.O_DSYNC
"""A flag of files for :func:`write_durably`: a write returns when what it wrote is on the disk, and
the file's size. So a line takes one system call, where a write and an fsync would be two."""


@contextlib.contextmanager
def as_kernel_error(op: KernelOp, shown: str) -> Iterator[None]:
    """Turn an :class:`OSError` of a system call into a :class:`KernelError` that names the file.

    Args:
        op: what is being done.
        shown: the file, as the user would type it.
    """
    try:
        yield
    except KernelError:
        raise
    except OSError as exc:
        raise KernelError(op, exc.errno or 0, shown) from exc


def open_directory(sysfs: Sysfs, path: str, *, create: bool) -> int:
    """Open a directory of ours below the root.

    Args:
        sysfs: the host.
        path: relative to the root; from its component ``vfiohost`` on it must be private.
        create: make what is missing: 0755 before ``vfiohost``, 0700 from there on.

    Returns:
        A file descriptor for reading; the caller closes it.

    Raises:
        KernelError: it does not exist, or could not be made or opened.
        UnsupportedError: it is not private to us.
    """
    parent = native.open_in(sysfs.fd, ".", _DIRECTORY, shown=sysfs.shown("."))
    walked: list[str] = []
    for name in path.split("/"):
        walked.append(name)
        try:
            child = _open_component(sysfs, parent, walked, create=create)
        finally:
            os.close(parent)
        parent = child
    return parent


def _open_component(sysfs: Sysfs, parent: int, walked: list[str], *, create: bool) -> int:
    path, name = "/".join(walked), walked[-1]
    shown = sysfs.shown(path)
    private = _OWN_DIRECTORY in walked
    try:
        return _open_existing(sysfs, parent, path, private=private)
    except KernelError as exc:
        if exc.errno != errno.ENOENT or not create:
            raise
    with as_kernel_error("open", shown):
        # Two first runs at once: the one that comes second finds the directory made.
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700 if private else 0o755, dir_fd=parent)
        os.fsync(parent)
    return _open_existing(sysfs, parent, path, private=private)


def _open_existing(sysfs: Sysfs, parent: int, path: str, *, private: bool) -> int:
    shown = sysfs.shown(path)
    if not private:
        return native.open_in(sysfs.fd, path, _DIRECTORY, shown=shown)
    name = path.rsplit("/", 1)[-1]
    with as_kernel_error("open", shown):
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if not stat.S_ISDIR(status.st_mode):
            raise UnsupportedError(
                f"{shown} is {_kind(status.st_mode)} where a directory should be; "
                "it is not used. Move it away."
            )
        fd = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    return _trusted(fd, shown)


def open_file(directory: int, name: str, flags: int, *, shown: str) -> int:
    """Open or create a private file in a directory that :func:`open_directory` gave.

    Args:
        directory: the directory's file descriptor.
        name: the file's name in it.
        flags: ``os.O_*``; never blocks, never follows a link, never survives an exec.
        shown: the file, as the user would type it.

    Returns:
        A file descriptor; the caller closes it.

    Raises:
        KernelError: the kernel refused.
        UnsupportedError: it is no plain file, or not private to us.
    """
    with as_kernel_error("open", shown):
        fd = os.open(name, flags | _FILE, 0o600, dir_fd=directory)
    return _trusted(fd, shown, plain=True)


def _trusted(fd: int, shown: str, *, plain: bool = False) -> int:
    """Give the descriptor back if nobody else can have written what it holds; else close it."""
    status = os.fstat(fd)
    reason = None
    if plain and not stat.S_ISREG(status.st_mode):
        reason = f"is {_kind(status.st_mode)} where a plain file should be"
    elif plain and status.st_nlink != 1:
        reason = f"has {status.st_nlink} names where a file of ours has one"
    elif status.st_uid != os.geteuid():
        reason = f"belongs to user {status.st_uid}, but this runs as user {os.geteuid()}"
    elif status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        reason = f"can be written by others (mode {stat.S_IMODE(status.st_mode):04o})"
    if reason is None:
        return fd
    os.close(fd)
    raise UnsupportedError(
        f"{shown} {reason}; what it says is not trusted. Look at it, then move it away."
    )


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFLNK: "a symbolic link",
        stat.S_IFDIR: "a directory",
        stat.S_IFREG: "a plain file",
        stat.S_IFIFO: "a FIFO",
        stat.S_IFSOCK: "a socket",
    }
    return kinds.get(stat.S_IFMT(mode), "a device node")


def write_durably(fd: int, data: bytes, offset: int, *, shown: str) -> None:
    """Write bytes at an offset and wait until they are on the disk.

    Args:
        fd: a file that was opened with :data:`DURABLE`.
        data: what is written.
        offset: where, in bytes.
        shown: the file, as the user would type it.

    Raises:
        KernelError: not all of it was written, or not durably.
    """
    with as_kernel_error("write", shown):
        while data:
            written = os.pwrite(fd, data, offset)
            data, offset = data[written:], offset + written


def read_whole(fd: int, limit: int, *, shown: str) -> bytes:
    """Read a file from its beginning.

    Raises:
        KernelError: it could not be read, or is longer than ``limit`` bytes (EFBIG).
    """
    with as_kernel_error("read", shown):
        pieces: list[bytes] = []
        size = 0
        while piece := os.pread(fd, 65536, size):
            pieces.append(piece)
            size += len(piece)
            if size > limit:
                raise KernelError("read", errno.EFBIG, shown)
    return b"".join(pieces)
