"""Reads of one file or link that never raise: what cannot be read is a value, or a problem."""

from __future__ import annotations

import errno
import os
import posixpath
from typing import TYPE_CHECKING, Final

from vfiohost.errors import KernelError
from vfiohost.model import Problem, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from vfiohost.sysfs import Sysfs

DEVICES: Final = "sys/bus/pci/devices"
_MOST_DIGITS: Final = 20


def attribute(sysfs: Sysfs, path: str) -> str | None | Unavailable:
    """An attribute's text, or ``None`` where there is no such file."""
    return _read(sysfs.read, path)


def link_name(sysfs: Sysfs, path: str) -> str | None | Unavailable:
    """The last component of a link's target, or ``None`` where there is no such link."""
    return _read(sysfs.link_name, path)


def _read(read: Callable[[str], str | None], path: str) -> str | None | Unavailable:
    try:
        return read(path)
    except KernelError as error:
        number = error.errno or 0
        return None if number == errno.ENOENT else Unavailable(number, os.strerror(number))


def names(sysfs: Sysfs, path: str, problems: list[Problem]) -> list[str]:
    """The names in a directory; none where there is no such directory."""
    try:
        return sysfs.listdir(path)
    except KernelError as error:
        if error.errno != errno.ENOENT:
            problems.append(Problem(posixpath.basename(path), path, str(error)))
        return []


def reported(text: str | None | Unavailable, path: str, problems: list[Problem]) -> str | None:
    """A text for a field that has no room for an :class:`Unavailable`."""
    if isinstance(text, Unavailable):
        problems.append(Problem(posixpath.basename(path), path, f"{path}: {text}."))
        return None
    return text


def count(text: str | Unavailable) -> int | Unavailable:
    """A number that the kernel counts something with."""
    if isinstance(text, Unavailable):
        return text
    # No count of the kernel's has more digits than an unsigned 64-bit number.
    is_count = text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS
    return int(text) if is_count else Unavailable(0, "malformed")
