"""What goes into the C core as bytes, and what comes out of it as an int."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from vfiohost._native import lib
from vfiohost.errors import KernelError, UnsupportedError

if TYPE_CHECKING:
    from vfiohost.errors import KernelOp


def checked(result: int, op: KernelOp, shown: str, data: bytes | None = None) -> int:
    """Give the result of a call back, or raise the errno that it is.

    Raises:
        KernelError: the result is negative.
    """
    if result < 0:
        raise KernelError(op, -result, shown, None if data is None else text(data))
    return result


def encoded(path: str, op: KernelOp, shown: str, data: bytes | None = None) -> bytes:
    """A path for C.

    Raises:
        KernelError: there is a NUL in it (EINVAL).
    """
    name = os.fsencode(path)
    if b"\0" in name:
        checked(-errno.EINVAL, op, shown, data)
    return name


def options(fallback: bool) -> int:  # noqa: FBT001 - it is all there is
    """The bits of ``options``, as in ``vfiohost.cdef.h``."""
    return lib.VH_FALLBACK if fallback else 0


def text(data: bytes) -> str:
    """Bytes as text; what is no UTF-8 comes out as hexadecimal escapes."""
    return data.decode("utf-8", "backslashreplace")


def check_store(result: int, phase: int, shown: str, data: bytes) -> None:
    """Raise what a store came to, unless it succeeded; ``phase`` is where an error came from.

    Raises:
        KernelError: the kernel's answer, with ``op`` ``open`` or ``write``.
        UnsupportedError: the file is not on a sysfs, and has to be.
    """
    if result == -errno.EOPNOTSUPP and phase == lib.VH_PHASE_CHECK:
        raise UnsupportedError(
            f"{shown} is not on a mounted sysfs: nobody would act on what is written to it, "
            "so nothing was written."
        )
    op: KernelOp = "write" if phase == lib.VH_PHASE_TRANSFER else "open"
    checked(result, op, shown, data)
