"""Reading where a failure means that there is nothing to record."""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING

from vfiohost.errors import KernelError

if TYPE_CHECKING:
    from vfiohost.sysfs import Sysfs


_NUMBER = re.compile(r"[0-9]{1,9}")


def text_of(sysfs: Sysfs, path: str, limit: int = 65536) -> str | None:
    """A file's text without its last newline, or ``None`` when it cannot be had, or is none."""
    try:
        text = sysfs.read(path, limit=limit)
    except KernelError:
        return None
    return None if "\0" in text else text


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


def text_of_link(sysfs: Sysfs, path: str) -> str | None:
    """A link's text, or ``None`` when it cannot be had."""
    try:
        return sysfs.readlink(path)
    except KernelError:
        return None


def target_of(sysfs: Sysfs, path: str) -> str | None:
    """Where a relative link leads, as a path from the root; ``None`` when it cannot be had."""
    target = text_of_link(sysfs, path)
    if target is None:
        return None
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), target))


def number_of(text: str | None) -> int | None:
    """A decimal number of at most nine digits, or ``None``: a recording holds no larger ones."""
    return int(text) if text is not None and _NUMBER.fullmatch(text) else None
