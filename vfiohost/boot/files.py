"""The files for the boot below the root: read, and written whole or not at all.

No symbolic link leads out of the root, and in the place of a file none is followed: the directories
are opened below the root, a file in its directory. A file that is made has its name only when it is
on the disk (``rename(2)``).
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
import subprocess
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from vfiohost import native
from vfiohost.boot.changes import PATHS, FileChange, Found
from vfiohost.boot.initramfs import GENERATORS
from vfiohost.errors import ApplyError, KernelError, UnsupportedError
from vfiohost.journal.files import as_kernel_error, read_whole, write_durably

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from vfiohost.boot.initramfs import Generator
    from vfiohost.sysfs import Sysfs

_LIMIT = 1 << 20  # bytes; a rule has under a thousand for each device
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY
_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
}
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR)


def read_files(sysfs: Sysfs) -> dict[str, Found]:
    """What there is under each name that a file for the boot may have.

    Raises:
        KernelError: a directory cannot be opened for another reason than that it is not there.
    """
    return {path: _read(sysfs, path) for path in PATHS}


def find_generators(sysfs: Sysfs) -> tuple[Generator, ...]:
    """The programs below the root that make initramfs."""
    return tuple(generator for generator in GENERATORS if sysfs.exists(generator.mark))


def change_files(sysfs: Sysfs, changes: Iterable[FileChange]) -> None:
    """Make, change and remove files; when one fails, those before it get back what they had.

    Args:
        sysfs: the host.
        changes: what is to become of each. A file that is not as it was read meanwhile is an error.

    Raises:
        ApplyError: a file could not be written; ``cause`` says why.
    """
    done: list[FileChange] = []
    for change in changes:
        try:
            _change(sysfs, change)
        except (KernelError, UnsupportedError) as error:
            left = [c.path for c in reversed(done) if not _is_taken_back(sysfs, c)]
            after = f" These could not be taken back: {', '.join(left)}." if left else ""
            raise ApplyError(f"{error}{after}", cause=error) from error
        done.append(change)


def run_command(command: Sequence[str]) -> None:
    """Run the program that makes the initramfs anew; what it prints goes to standard error.

    Raises:
        UnsupportedError: there is no such program.
        ApplyError: it failed.
    """
    program = shutil.which(command[0], path=f"/usr/sbin:/sbin:{os.environ.get('PATH', '')}")
    if program is None:
        raise UnsupportedError(f"There is no {command[0]} on this machine.")
    done = subprocess.run(  # noqa: S603 - no shell, and the words are ours
        [program, *command[1:]], stdin=subprocess.DEVNULL, stdout=2, check=False
    )
    if done.returncode:
        raise ApplyError(
            f"`{' '.join(command)}` failed ({done.returncode}). The files are written; until the "
            "initramfs is made anew, the host starts as before."
        )


def _read(sysfs: Sysfs, path: str) -> Found:
    shown = sysfs.shown(path)
    try:
        with _folder(sysfs, path, create=False) as (folder, name):
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if not stat.S_ISREG(status.st_mode):
                return Found(kind=_KINDS.get(stat.S_IFMT(status.st_mode), "a device node"))
            fd = os.open(
                name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder
            )
            try:
                text = read_whole(fd, _LIMIT, shown=shown).decode("utf-8", "backslashreplace")
            finally:
                os.close(fd)
            return Found(text, None, status.st_mtime_ns)
    except FileNotFoundError:
        return Found()
    except KernelError as error:
        return Found() if error.errno in _NOT_THERE else Found(kind=f"unreadable ({error.code})")
    except OSError as error:
        return Found(kind=f"unreadable ({errno.errorcode.get(error.errno or 0, '?')})")


def _change(sysfs: Sysfs, change: FileChange) -> None:
    if change.kind == "keep":
        return
    found = _read(sysfs, change.path)
    if found.kind is not None or found.text != change.before:
        raise UnsupportedError(f"{sysfs.shown(change.path)} has changed since it was read.")
    shown = sysfs.shown(change.path)
    with (
        _folder(sysfs, change.path, create=True) as (folder, name),
        as_kernel_error("write", shown),
    ):
        if change.after is None:
            os.unlink(name, dir_fd=folder)
        else:
            _write(folder, name, change.after.encode(), change.mode, shown)
        os.fsync(folder)


def _write(folder: int, name: str, data: bytes, mode: int, shown: str) -> None:
    # With a dot and without an ending: udev, dracut and initramfs-tools pass it over.
    draft = f".vfiohost-{secrets.token_hex(8)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(draft, flags, mode, dir_fd=folder)
    try:
        os.fchmod(fd, mode)  # a umask would keep others from reading, or the hook from running
        write_durably(fd, data, 0, shown=shown)
        os.rename(draft, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with suppress(OSError):
            os.unlink(draft, dir_fd=folder)
        raise
    finally:
        os.close(fd)


def _is_taken_back(sysfs: Sysfs, change: FileChange) -> bool:
    back = FileChange(change.path, change.after, change.before, change.mode)
    try:
        _change(sysfs, back)
    except (KernelError, UnsupportedError):
        return False
    return True


@contextmanager
def _folder(sysfs: Sysfs, path: str, *, create: bool) -> Iterator[tuple[int, str]]:
    """The directory of a file, opened below the root, and the file's name in it."""
    where, _, name = path.rpartition("/")
    if create:
        _make_folders(sysfs, where)
    fd = native.open_in(sysfs.fd, where, _DIRECTORY, shown=sysfs.shown(where))
    try:
        yield fd, name
    finally:
        os.close(fd)


def _make_folders(sysfs: Sysfs, where: str) -> None:
    parts = where.split("/")
    for number in range(1, len(parts) + 1):
        path = "/".join(parts[:number])
        try:
            os.close(native.open_in(sysfs.fd, path, _DIRECTORY, shown=sysfs.shown(path)))
        except KernelError as error:
            if error.errno != errno.ENOENT:
                raise
            above = "/".join(parts[: number - 1]) or "."
            fd = native.open_in(sysfs.fd, above, _DIRECTORY, shown=sysfs.shown(above))
            try:
                with as_kernel_error("write", sysfs.shown(path)), suppress(FileExistsError):
                    os.mkdir(parts[number - 1], 0o755, dir_fd=fd)
            finally:
                os.close(fd)
