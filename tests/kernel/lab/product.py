"""vfiohost itself, called in the guest.

In the process of a worker: to start Python takes two seconds there.
"""

from __future__ import annotations

import contextlib
import io
import os
import time

from tests.kernel.lab import guest, vfio_user
from vfiohost import vfio
from vfiohost.cli import main
from vfiohost.journal import lock
from vfiohost.reads import without_gc
from vfiohost.sysfs import Sysfs

_held = contextlib.ExitStack()


def vfiohost(*arguments: str) -> dict[str, int | str | float]:
    """Run the command and return its ``status``, ``stdout``, ``stderr`` and ``seconds``.

    As its own process does, it searches for no cycles (:func:`vfiohost.cli.command`).
    """
    started = time.monotonic()
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), without_gc():
        try:
            status = main(arguments)
        except SystemExit as end:  # argparse
            status = end.code if isinstance(end.code, int) else 1
    return {
        "status": status,
        "stdout": out.getvalue(),
        "stderr": err.getvalue(),
        "seconds": time.monotonic() - started,
    }


def vfiohost_as_nobody(*arguments: str) -> dict[str, int | str | float]:
    """Run the command as an ordinary user."""
    os.seteuid(guest.NOBODY)
    try:
        return vfiohost(*arguments)
    finally:
        os.seteuid(0)


def group_status(group: str) -> list[bool]:
    """Ask the kernel about a VFIO group: whether it is viable, whether it has a container."""
    with Sysfs("/") as sysfs:
        status = vfio.group_get_status(sysfs, int(group))
    return [status.is_viable, status.has_container]


def device_info(name: str = "") -> dict[str, int | bool | list[int]]:
    """Ask about a device that this worker has open (see :func:`vfio_user.descriptor`)."""
    info = vfio.device_get_info(vfio_user.descriptor(name))
    return {
        "numbers": [info.flags, info.num_regions, info.num_irqs],
        "is_pci": info.is_pci,
        "can_reset": info.can_reset,
        "capabilities": [capability.id for capability in info.capabilities],
    }


def hold_lock(purpose: str) -> None:
    """Take the lock that a change takes, and keep it until the end of this process."""
    sysfs = _held.enter_context(Sysfs("/"))
    _held.enter_context(lock(sysfs, purpose=purpose))
