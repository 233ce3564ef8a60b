"""Reading where a failure means that there is nothing to record."""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING

from vfiohost.errors import KernelError

if TYPE_CHECKING:
    from vfiohost.sysfs import Sysfs


def text_of(sysfs: Sysfs, path: str, limit: int = 65536) -> str | None:
    """A file's text without its last newline, or ``None`` when it cannot be had."""
    try:
        return sysfs.read(path, limit=limit)
    except KernelError:
        return None


def names_in(sysfs: Sysfs, path: str) -> list[str]:
    """The names in a directory; none when it cannot be had."""
    try:
        return sysfs.listdir(path)
    except KernelError:
        return []


def link_name(sysfs: Sysfs, path: str) -> str | None:
    """The last component of a link's target, or ``None`` when it cannot be had."""
    try:
        return sysfs.link_name(path)
    except KernelError:
        return None


def target_of(sysfs: Sysfs, path: str) -> str | None:
    """Where a relative link leads, as a path from the root; ``None`` when it cannot be had."""
    try:
        target = sysfs.readlink(path)
    except KernelError:
        return None
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), target))


def number_of(text: str | None) -> int | None:
    """A decimal number, or ``None``."""
    return int(text) if text is not None and text.isdecimal() else None
