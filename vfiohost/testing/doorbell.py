"""Tells when something changes in a simulated host, as the kernel does through its event socket.

Each change of a simulation ends when its ``redo.json`` is removed from the marker directory (see
:mod:`vfiohost.testing.session`), whichever process makes it; inotify(7) tells of that.
"""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING

from vfiohost.errors import KernelError
from vfiohost.testing.session import MARKER
from vfiohost.testing.tree import open_directory

if TYPE_CHECKING:
    from vfiohost.sysfs import Sysfs

_IN_DELETE = 0x200  # include/uapi/linux/inotify.h
_BYTES = 1 << 16


class Doorbell:
    """Rings when a change of a simulated host is complete; see :class:`vfiohost.watch.Events`.

    Args:
        sysfs: the root of the simulation.

    Raises:
        KernelError: the kernel takes no more inotify instances or watches of this user.
    """

    def __init__(self, sysfs: Sysfs) -> None:
        # Python has no inotify, and for two calls a C extension of our own would be too much.
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd: int = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise KernelError("open", ctypes.get_errno(), "inotify")
        marker = open_directory(sysfs.fd, MARKER)
        try:
            # By its descriptor: a path might lead elsewhere by now.
            path = os.fsencode(f"/proc/self/fd/{marker}")
            if libc.inotify_add_watch(self._fd, path, _IN_DELETE) < 0:
                number = ctypes.get_errno()
                self.close()
                raise KernelError("open", number, sysfs.shown(MARKER))
        finally:
            os.close(marker)

    def fileno(self) -> int:
        """What becomes readable when something is to be heard."""
        return self._fd

    def heard(self) -> bool:
        """Take what is waiting; whether something was. A full queue (IN_Q_OVERFLOW) is, too."""
        heard = False
        while True:
            try:
                heard = bool(os.read(self._fd, _BYTES)) or heard
            except BlockingIOError:
                return heard

    def close(self) -> None:
        """Hear no more. Closing twice is harmless."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
