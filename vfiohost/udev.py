"""Wait for udev: a VFIO node has its owner and mode only when udevd is done with it.

The kernel makes ``/dev/vfio/N`` at once (devtmpfs), with root as its owner. The host's udev rules
run afterwards, and who opens or chowns the node before they did races with them.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from vfiohost.errors import KernelError

if TYPE_CHECKING:
    from collections.abc import Callable

    from vfiohost.sysfs import Sysfs

_INTERVAL = 0.01  # seconds between two looks at udev's database


def await_vfio_nodes(sysfs: Sysfs, *, timeout: float) -> tuple[str, ...]:
    """Wait until udev is done with all VFIO group nodes of this machine.

    Nodes that have been there for a while cost one look each. Nothing is waited for below another
    root than ``/``, where no udevd runs, or where udev cannot be asked: then the nodes are as the
    kernel makes them, or nobody can tell.

    Args:
        sysfs: the host.
        timeout: seconds to wait for all the nodes.

    Returns:
        The nodes that udev was not done with in time (``/dev/vfio/12``).

    Files: ``run/udev/control``, ``sys/class/vfio``, ``run/udev/data`` (through libudev).
    """
    if sysfs.root != "/" or not sysfs.exists("run/udev/control"):
        return ()
    try:
        waiting = sysfs.listdir("sys/class/vfio")
        is_done = _database()
    except (KernelError, ImportError):
        # No VFIO driver is loaded, or libudev is missing. What was to be done is done and verified
        # by now: that udev cannot be asked does not make a failure of it.
        return ()
    deadline = time.monotonic() + timeout
    while waiting := [name for name in waiting if not is_done(name)]:
        if time.monotonic() >= deadline:
            break
        time.sleep(_INTERVAL)
    return tuple(f"/dev/vfio/{name}" for name in waiting)


def await_devices(sysfs: Sysfs, devices: list[tuple[str, str]], *, timeout: float) -> None:
    """Wait until udev is done with devices, and with all else that it has to do.

    That is what ``udevadm settle`` waits for. A device that has gone and come again has an old
    entry in udev's database until udev gets to it; so its queue must have run empty, too. Nothing
    is waited for where :func:`await_vfio_nodes` would not wait, and to run out of time is no
    failure.

    Args:
        sysfs: the host.
        devices: subsystem and name of each: ``vfio`` and ``12``, ``vfio-dev`` and ``vfio0``.
        timeout: seconds to wait.

    Files: ``run/udev/control``, ``run/udev/queue``, ``run/udev/data`` (through libudev).
    """
    if sysfs.root != "/" or not sysfs.exists("run/udev/control"):
        return
    try:
        questions = {subsystem: _database(subsystem) for subsystem, _ in devices}
    except ImportError:
        return
    deadline = time.monotonic() + timeout
    while sysfs.exists("run/udev/queue") or not all(
        questions[subsystem](name) for subsystem, name in devices
    ):
        if time.monotonic() >= deadline:
            return
        time.sleep(_INTERVAL)


def _database(subsystem: str = "vfio") -> Callable[[str], bool]:
    """A question to udev's database: is it done with a device of a subsystem, or is that gone?"""
    # Imported here: it loads libudev, which reading a host does not need.
    import pyudev  # noqa: PLC0415 - see above

    context = pyudev.Context()

    def is_done(name: str) -> bool:
        try:
            return bool(pyudev.Devices.from_name(context, subsystem, name).is_initialized)
        except pyudev.DeviceNotFoundError:
            return True

    return is_done
