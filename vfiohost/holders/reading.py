"""Reads that never raise: what is not there is nothing, and what cannot be read is told."""

from __future__ import annotations

import errno
import posixpath
from typing import TYPE_CHECKING

from vfiohost.errors import KernelError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vfiohost.sysfs import Sysfs

LIMIT = 1 << 22
"""The most bytes that are read of one file of ``proc``: some 40,000 mounts or routes."""

_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ESRCH, errno.ENODEV)


def text_of(sysfs: Sysfs, path: str, incomplete: list[str] | None = None) -> str | None:
    """A file's text, or ``None``: it is not there, or cannot be read.

    Args:
        sysfs: the host.
        path: relative to the root.
        incomplete: gets a sentence when the file is there and cannot be read.
    """
    try:
        return sysfs.read(path, limit=LIMIT)
    except KernelError as error:
        if incomplete is not None and error.errno not in _ABSENT:
            incomplete.append(f"/{path} cannot be read ({error.strerror}).")
        return None


def names_in(sysfs: Sysfs, path: str, incomplete: list[str] | None = None) -> list[str]:
    """The names in a directory, sorted; none when it is not there or cannot be listed."""
    try:
        return sysfs.listdir(path)
    except KernelError as error:
        if incomplete is not None and error.errno not in _ABSENT:
            incomplete.append(f"/{path} cannot be listed ({error.strerror}).")
        return []


def target_of(sysfs: Sysfs, path: str) -> str | None:
    """Where a link leads, as a path relative to the root; ``None`` when it is none."""
    try:
        text = sysfs.readlink(path)
    except KernelError:
        return None
    return posixpath.normpath(posixpath.join("/", posixpath.dirname(path), text)).lstrip("/")


def class_links(
    sysfs: Sysfs, name: str, incomplete: list[str] | None = None
) -> Iterator[tuple[str, str]]:
    """The entries of ``sys/class/NAME``, each with the directory of its device."""
    for entry in names_in(sysfs, f"sys/class/{name}", incomplete):
        target = target_of(sysfs, f"sys/class/{name}/{entry}")
        if target is not None:
            yield entry, target
