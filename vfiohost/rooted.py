"""Files of administrators below the root: read whole, and written whole or not at all.

Configuration in ``etc``, status in ``run``. No symbolic link leads out of the root, and in the
place of a file none is followed: the directory is opened below the root (``openat2`` with
``RESOLVE_IN_ROOT``), the file in its directory. A file gets its name only when it is on the disk
(``rename(2)``), so that nobody reads a half of it.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import attrs

from vfiohost import native
from vfiohost.errors import KernelError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vfiohost.sysfs import Sysfs

LIMIT = 1 << 20
"""Bytes that a file may have; one that is larger is none of ours."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
}
_ABSENT = (errno.ENOENT, errno.ENOTDIR)


@attrs.frozen
class Found:
    """What is found under a file's name.

    Attributes:
        text: of a plain file; ``None`` when there is none.
        kind: what is there instead of a readable plain file, as a noun phrase: ``a FIFO``,
            ``unreadable (EACCES)``.
        mtime: when a plain file was written, in nanoseconds.
    """

    text: str | None = None
    kind: str | None = None
    mtime: int = 0

    @property
    def is_absent(self) -> bool:
        """There is nothing of that name."""
        return self.text is None and self.kind is None


def read_file(sysfs: Sysfs, path: str) -> Found:
    """Read a file below the root. Blocks for nobody and follows no link in the file's place.

    Args:
        sysfs: the host.
        path: relative to the root.

    Raises:
        KernelError: its directory cannot be opened, for another reason than that it is not there.
    """
    where, _, name = path.rpartition("/")
    try:
        with _opened(sysfs, where) as folder:
            return _read(folder, name)
    except KernelError as error:
        if error.errno in _ABSENT:
            return Found()
        raise


def list_folder(sysfs: Sysfs, path: str) -> tuple[str, ...]:
    """The names in a directory below the root, in order; none where there is no such directory.

    Raises:
        KernelError: it cannot be opened, for another reason than that it is not there.
    """
    try:
        with _opened(sysfs, path) as folder:
            return tuple(sorted(os.listdir(folder)))
    except KernelError as error:
        if error.errno in _ABSENT:
            return ()
        raise


def write_file(sysfs: Sysfs, path: str, text: str, *, mode: int = 0o644) -> None:
    """Make or replace a file below the root, with the directories that it lacks.

    Args:
        sysfs: the host.
        path: relative to the root. A plain file there is replaced; anything else is an error.
        text: the whole file.
        mode: its permission bits, whatever the umask says.

    Raises:
        KernelError: it could not be written; EEXIST when something is there that is no plain file.
    """
    where, _, name = path.rpartition("/")
    shown = sysfs.shown(path)
    _make_folders(sysfs, where)
    with _opened(sysfs, where) as folder, _told(shown):
        _check_plain(folder, name)
        # With a dot and without an ending: udev, dracut and initramfs-tools pass it over.
        draft = f".vfiohost-{os.urandom(8).hex()}"
        fd = os.open(draft, _WRITE, mode, dir_fd=folder)
        try:
            os.fchmod(fd, mode)
            data = memoryview(text.encode("utf-8", "surrogateescape"))
            while data:
                data = data[os.write(fd, data) :]
            os.fsync(fd)
            os.rename(draft, name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with suppress(OSError):
                os.unlink(draft, dir_fd=folder)
            raise
        finally:
            os.close(fd)
        os.fsync(folder)


def remove_file(sysfs: Sysfs, path: str, *, folder_too: bool = False) -> bool:
    """Remove a plain file below the root.

    Args:
        sysfs: the host.
        path: relative to the root.
        folder_too: its directory as well, when nothing else is in it.

    Returns:
        Whether it was there.

    Raises:
        KernelError: it could not be removed; EEXIST when something is there that is no plain file.
    """
    where, _, name = path.rpartition("/")
    if read_file(sysfs, path).is_absent:
        return False
    with _opened(sysfs, where) as folder, _told(sysfs.shown(path)):
        _check_plain(folder, name)
        os.unlink(name, dir_fd=folder)
        os.fsync(folder)
    above, _, last = where.rpartition("/")
    if folder_too and above:
        with _opened(sysfs, above) as folder, suppress(OSError):
            os.rmdir(last, dir_fd=folder)
    return True


def _read(folder: int, name: str) -> Found:
    try:
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if not stat.S_ISREG(status.st_mode):
            return Found(kind=_KINDS.get(stat.S_IFMT(status.st_mode), "a device node"))
        if status.st_size > LIMIT:
            return Found(kind=f"a file of more than {LIMIT} bytes")
        fd = os.open(name, _READ, dir_fd=folder)
        try:
            data = b""
            while len(data) <= LIMIT and (piece := os.read(fd, 1 << 16)):
                data += piece
        finally:
            os.close(fd)
    except FileNotFoundError:
        return Found()
    except OSError as error:
        return Found(kind=f"unreadable ({errno.errorcode.get(error.errno or 0, '?')})")
    return Found(data[:LIMIT].decode("utf-8", "surrogateescape"), None, status.st_mtime_ns)


def _check_plain(folder: int, name: str) -> None:
    with suppress(FileNotFoundError):
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if not stat.S_ISREG(status.st_mode):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)


@contextmanager
def _told(shown: str) -> Iterator[None]:
    """Turn the error of a system call into one that names the file."""
    try:
        yield
    except OSError as error:
        if isinstance(error, KernelError):
            raise
        raise KernelError("write", error.errno or 0, shown) from error


@contextmanager
def _opened(sysfs: Sysfs, path: str) -> Iterator[int]:
    fd = native.open_in(sysfs.fd, path or ".", _DIRECTORY, shown=sysfs.shown(path or "."))
    try:
        yield fd
    finally:
        os.close(fd)


def _make_folders(sysfs: Sysfs, path: str) -> None:
    parts = path.split("/")
    for number in range(1, len(parts) + 1):
        folder = "/".join(parts[:number])
        try:
            with _opened(sysfs, folder):
                continue
        except KernelError as error:
            if error.errno != errno.ENOENT:
                raise
        with (
            _opened(sysfs, "/".join(parts[: number - 1])) as above,
            _told(sysfs.shown(folder)),
            suppress(FileExistsError),
        ):
            os.mkdir(parts[number - 1], 0o755, dir_fd=above)
