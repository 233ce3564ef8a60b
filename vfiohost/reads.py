"""Reads of one file or link that never raise: what cannot be read is a value, or a problem."""

from __future__ import annotations

import errno
import gc
import os
import posixpath
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from vfiohost import native
from vfiohost.errors import KernelError
from vfiohost.model import PciAddress, Problem, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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


def count(text: str | Unavailable) -> int | Unavailable:
    """A number that the kernel counts something with."""
    if isinstance(text, Unavailable):
        return text
    # No count of the kernel's has more digits than an unsigned 64-bit number.
    is_count = text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS
    return int(text) if is_count else Unavailable(0, "malformed")


@contextmanager
def opened(sysfs: Sysfs, path: str, flags: int) -> Iterator[int]:
    """Open a path of a host for a while."""
    fd = native.open_in(sysfs.fd, path, flags, shown=sysfs.shown(path))
    try:
        yield fd
    finally:
        os.close(fd)


def address_of(key: int) -> PciAddress:
    """The address that the C core has packed into ``vh_function.key``."""
    return PciAddress(key >> 16, key >> 8 & 0xFF, key >> 3 & 0x1F, key & 7)


class Addresses(dict[int, PciAddress]):
    """Addresses as of :func:`address_of`, made once: a card's functions share their physfn."""

    def __missing__(self, key: int) -> PciAddress:
        return self.setdefault(key, address_of(key))


def unavailable(error: int) -> Unavailable:
    """A value for what the C core could not read: an errno, or :data:`native.MALFORMED`."""
    if error == native.MALFORMED:
        return Unavailable(0, "malformed")
    return Unavailable(error, os.strerror(error))


def left_out(name: str, link: str, error: int) -> Problem:
    """A device that has no directory where its entry in a bus or class leads.

    Args:
        name: of the device.
        link: its entry.
        error: the errno that the C core gives as the reason.
    """
    if error == errno.ENOENT:
        why = "its directory is gone, or its link leads nowhere"
    elif error == errno.EXDEV:
        why = "its link does not lead to a directory of that name below sys/devices"
    elif error == errno.EINVAL:
        why = "it is no link"
    else:
        why = f"its directory cannot be opened: {unavailable(error)}"
    return Problem(name, link, f"{name} was left out: {why}.")


@contextmanager
def without_gc() -> Iterator[None]:
    """Pause the cyclic collector: ten thousand new values without cycles are no reason to look."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
