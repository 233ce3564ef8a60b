"""vfiohost itself, called in the guest.

In the process of a worker: to start Python takes two seconds there.
"""

from __future__ import annotations

import contextlib
import io
import os
import time
from typing import Any

from tests.kernel.lab import guest, vfio_user
from vfiohost import Host, recording, vfio
from vfiohost.cli import main
from vfiohost.journal import lock
from vfiohost.reads import without_gc
from vfiohost.record import capture
from vfiohost.sysfs import Sysfs
from vfiohost.watch import Watcher
from vfiohost.watch.uevents import Uevents

_held = contextlib.ExitStack()
_watchers: list[tuple[Watcher, list[float]]] = []
"""What :func:`watch` has made in this worker, and when each has looked."""


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


def record(title: str) -> str:
    """Record this machine, as text."""
    with Sysfs("/") as sysfs:
        return recording.format(capture(sysfs, title=title, source="the kernel lab"))


def watch(*devices: str, buffer: int | None = None) -> None:
    """Begin to watch this machine; :func:`told` says what came of it.

    Args:
        devices: which functions, none for all.
        buffer: bytes that may wait in the socket, if not as many as usual.
    """
    host = _held.enter_context(Host("/"))
    looks: list[float] = []

    def look() -> Any:
        looks.append(time.monotonic())
        return host.with_releasing(host.scan(mdev=True))

    wanted = (lambda snapshot: host.matcher(devices, snapshot)) if devices else None
    events = Uevents() if buffer is None else Uevents(buffer=buffer)
    _watchers.append((_held.enter_context(Watcher(events, look, wanted)), looks))


def told(until: dict[str, Any] | None = None, within: float = 30.0) -> dict[str, Any]:
    """What has been told since the last call, up to a change that has these fields.

    Without one, up to the first second in which nothing is told.
    """
    watcher, looks = _watchers[-1]
    found: list[dict[str, Any]] = []
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        more = watcher.wait(timeout=1.0 if until is None else within)
        found += [change.to_json() for change in more]
        if not more if until is None else any(until.items() <= each.items() for each in found):
            break
    return {"changes": found, "looks": len(looks)}


def ring(path: str, times: int) -> None:
    """Let the kernel send uevents of a device."""
    fd = os.open(path, os.O_WRONLY)
    try:
        for _ in range(times):
            os.write(fd, b"change")
    finally:
        os.close(fd)
