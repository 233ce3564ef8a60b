"""The files for the boot below the root: read, and written whole or not at all.

How they are opened and written is :mod:`vfiohost.rooted`'s.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

from vfiohost import rooted
from vfiohost.boot.changes import PATHS, FileChange, Found
from vfiohost.boot.initramfs import GENERATORS
from vfiohost.errors import ApplyError, KernelError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from vfiohost.boot.initramfs import Generator
    from vfiohost.sysfs import Sysfs


def read_files(sysfs: Sysfs) -> dict[str, Found]:
    """What there is under each name that a file for the boot may have."""
    return {path: read_one(sysfs, path) for path in PATHS}


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


def read_one(sysfs: Sysfs, path: str) -> Found:
    """What there is under one name, relative to the root."""
    try:
        there = rooted.read_file(sysfs, path)
    except KernelError as error:
        return Found(kind=f"unreadable ({error.code})")
    return Found(there.text, there.kind, there.mtime)


def _change(sysfs: Sysfs, change: FileChange) -> None:
    if change.kind == "keep":
        return
    found = read_one(sysfs, change.path)
    if found.kind is not None or found.text != change.before:
        raise UnsupportedError(f"{sysfs.shown(change.path)} has changed since it was read.")
    if change.after is None:
        rooted.remove_file(sysfs, change.path)
    else:
        rooted.write_file(sysfs, change.path, change.after, mode=change.mode)


def _is_taken_back(sysfs: Sysfs, change: FileChange) -> bool:
    back = FileChange(change.path, change.after, change.before, change.mode)
    try:
        _change(sysfs, back)
    except (KernelError, UnsupportedError):
        return False
    return True
