"""The kernel's uevents, as a doorbell: one says that it is time to look, and nothing else.

Source: ``lib/kobject_uevent.c`` and ``Documentation/ABI/testing/sysfs-uevent``. What an event says
is not believed: by the time that it is read, the host may be another.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import socket
from typing import TYPE_CHECKING

from vfiohost.errors import KernelError, UnsupportedError

if TYPE_CHECKING:
    from vfiohost.sysfs import Sysfs

BUFFER = 64 << 20
"""Bytes of events that may wait: some 50,000. Memory is taken only for those that do."""

# `drivers` and `module` tell of drivers that come and go, `vfio-dev` goes when an unbind begins
# that waits for a VFIO user (vfio_unregister_group_dev() in drivers/vfio/vfio_main.c, Linux 6.6).
_CONCERNS = re.compile(rb"\0SUBSYSTEM=(?:pci|mdev|vfio|vfio-dev|drivers|module)\0")
_LONGEST = 8192  # bytes; the kernel's own buffer has 2048 (UEVENT_BUFFER_SIZE)
_AT_ONCE = 1 << 16  # events; what comes in faster than it is read must not keep us here
_SO_RCVBUFFORCE = 33  # include/uapi/asm-generic/socket.h; not in Python's socket
_NS_GET_USERNS = 0xB701  # include/uapi/linux/nsfs.h
_INITIAL_USERNS = 0xEFFFFFFD  # PROC_USER_INIT_INO in include/linux/proc_ns.h


class Uevents:
    """The events of this kernel that may be about PCI functions, drivers or mediated devices.

    Args:
        buffer: bytes of events that may wait. What does not fit is lost, and heard of all the same.

    Raises:
        UnsupportedError: libudev is not there, or this process would not hear any event.
        KernelError: the socket cannot be made.
    """

    def __init__(self, *, buffer: int = BUFFER) -> None:
        if _is_deaf():
            raise UnsupportedError(
                "The kernel tells of its devices only in network namespaces of the initial user "
                "namespace, and this process is in another, as in a rootless container: nothing "
                "would ever be heard here. Run it on the host, or with the host's network."
            )
        # Imported here: it loads libudev, which reading a host does not need.
        import pyudev  # noqa: PLC0415 - see above

        try:
            # From the kernel, not from udev: a host without udevd (initramfs, containers) has these
            # too, and nothing is asked of udev's database here.
            self._monitor = pyudev.Monitor.from_netlink(pyudev.Context(), source="kernel")
            self._monitor.start()
        except ImportError as error:
            raise UnsupportedError(
                "libudev is not on this machine (Debian's package is called libudev1): the "
                "kernel's events cannot be heard without it."
            ) from error
        except OSError as error:
            raise KernelError("open", error.errno or errno.EIO, "the kernel's events") from error
        # Read directly: that is 30 times as fast as a pyudev.Device of each event, and nothing of
        # what an event says is used but its subsystem.
        self._socket = socket.socket(fileno=os.dup(self._monitor.fileno()))
        self._set_buffer(buffer)

    def fileno(self) -> int:
        """What becomes readable when something is to be heard."""
        return self._socket.fileno()

    def heard(self) -> bool:
        """Take the events that are waiting.

        Returns:
            Whether there was one that concerns us, or some were lost (ENOBUFS).

        Raises:
            KernelError: the socket cannot be read.
        """
        concerned = False
        for _ in range(_AT_ONCE):
            try:
                event = self._socket.recv(_LONGEST)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    number = error.errno or errno.EIO
                    raise KernelError("read", number, "the kernel's events") from error
                concerned = True
            else:
                concerned = concerned or _CONCERNS.search(event) is not None
        return concerned

    def close(self) -> None:
        """Close the socket. Closing twice is harmless."""
        self._socket.close()
        self._monitor = None  # libudev closes its descriptor with it

    def _set_buffer(self, size: int) -> None:
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, size)
        except PermissionError:  # without CAP_NET_ADMIN up to net.core.rmem_max
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)


def subscribe(sysfs: Sysfs) -> Uevents:
    """Listen to the kernel that a root belongs to.

    Raises:
        UnsupportedError: the root is a recording, or no event can be heard here.
        KernelError: the socket cannot be made.
    """
    if not sysfs.is_live():
        raise UnsupportedError(
            f"{sysfs.root} is a recording: nothing changes there, and no kernel tells of it. "
            "Make a simulation of it with `vfiohost sim`."
        )
    return Uevents()


def _is_deaf() -> bool:
    """Whether this process's network namespace belongs to another user namespace than the first.

    Such a one gets no event of a device (``uevent_net_init()`` in ``lib/kobject_uevent.c``).
    """
    try:
        with open("/proc/self/ns/net", "rb", buffering=0) as namespace:
            owner = fcntl.ioctl(namespace, _NS_GET_USERNS)
    except OSError:
        return False  # EPERM: it belongs to one above ours. Else nobody knows: try
    try:
        return os.fstat(owner).st_ino != _INITIAL_USERNS
    finally:
        os.close(owner)
