"""What vfiohost sees of a machine, called in the guest: its recording, and what changes.

Apart from :mod:`tests.kernel.lab.product`, which every worker needs: to import all of this takes a
second there.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import Any

from vfiohost import Host, recording
from vfiohost.record import capture
from vfiohost.sysfs import Sysfs
from vfiohost.watch import Watcher
from vfiohost.watch.uevents import Uevents

_held = contextlib.ExitStack()
_watchers: list[tuple[Watcher, list[float]]] = []
"""What :func:`watch` has made in this worker, and when each has looked."""


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
