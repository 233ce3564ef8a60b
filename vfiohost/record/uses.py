"""Recording what `vfiohost holders` looks at but for processes: class devices, disks, interfaces.

Nothing that a host's owner has named gets into it: see :mod:`vfiohost.record.disks` and
:mod:`vfiohost.record.networks`. Processes are left out: who has a device open changes from one
second to the next, and says what the owner uses the host for.
"""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING

from vfiohost.record.disks import read_disks
from vfiohost.record.networks import read_networks
from vfiohost.record.places import Places
from vfiohost.record.reading import names_in, target_of, text_of
from vfiohost.recording import File

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from vfiohost.sysfs import Sysfs

# Those whose entries holders tell apart; others have a number, and a link in sys/dev.
_CLASSES = ("drm", "graphics", "nvme", "nvme-generic", "scsi_generic", "sound", "tty")
_VTCONSOLES = "sys/class/vtconsole"
_CONSOLES = "proc/consoles"
_GPUS = "proc/driver/nvidia/gpus"
_INFORMATION = re.compile(r"^(?:Model|Bus Location|Device Minor):.*", re.MULTILINE)
_NUMBERS = "sys/dev/char"  # disks have theirs among what is said of disks
_MOST_NUMBERS = 1 << 17


def read_uses(sysfs: Sysfs, functions: Collection[str]) -> Iterator[File]:
    """The files, links and directories that say how a host itself uses its devices.

    Reads ``sys/class``, ``sys/dev``, ``proc/consoles``, ``proc/driver/nvidia/gpus``, and what
    ``read_disks`` and ``read_networks`` name. None of it takes the device lock or wakes hardware.

    Args:
        sysfs: the host.
        functions: the directories of its PCI functions.
    """
    places = Places(sysfs, functions)
    for name in _CLASSES:
        yield from places.class_devices(name)
    yield from _numbers(sysfs, places)
    yield from _consoles(sysfs, places)
    yield from _gpus(sysfs)
    yield from read_disks(sysfs, places)
    yield from read_networks(sysfs, places)


def _numbers(sysfs: Sysfs, places: Places) -> Iterator[File]:
    """The links in ``sys/dev/char`` to devices below functions, each with the name of its class."""
    for number in names_in(sysfs, _NUMBERS)[:_MOST_NUMBERS]:
        link = f"{_NUMBERS}/{number}"
        target = target_of(sysfs, link)
        if target is None or not places.has(target):
            continue
        subsystem = target_of(sysfs, f"{target}/subsystem")
        if subsystem is not None and posixpath.basename(subsystem) != "vfio-dev":
            yield places.link(link, target)
            yield File(target, None)
            yield places.link(f"{target}/subsystem", subsystem)
            yield File(subsystem, None)


def _consoles(sysfs: Sysfs, places: Places) -> Iterator[File]:
    """The text console where a framebuffer is a function's, and serial lines with a console."""
    if next(places.class_devices("graphics"), None) is not None:
        for name in names_in(sysfs, _VTCONSOLES):
            target = target_of(sysfs, f"{_VTCONSOLES}/{name}")
            if target is None or not target.startswith("sys/devices/"):
                continue
            yield places.link(f"{_VTCONSOLES}/{name}", target)
            for attribute in ("bind", "name"):
                text = text_of(sysfs, f"{target}/{attribute}")
                if text is not None:
                    yield File(f"{target}/{attribute}", f"{text}\n".encode())
    ours = {posixpath.basename(file.path) for file in places.class_devices("tty")}
    lines = (text_of(sysfs, _CONSOLES) or "").splitlines()
    kept = [line for line in lines if line.split()[:1] and line.split()[0] in ours]
    if kept:
        yield File(_CONSOLES, "".join(f"{line}\n" for line in kept).encode())


def _gpus(sysfs: Sysfs) -> Iterator[File]:
    """Which node in ``dev`` is whose, and a UUID that is none: they are counted."""
    for number, name in enumerate(names_in(sysfs, _GPUS)):
        path = f"{_GPUS}/{name}/information"
        text = text_of(sysfs, path)
        if text is not None:
            lines = [
                *_INFORMATION.findall(text),
                f"GPU UUID: \t GPU-00000000-0000-4000-8000-{number:012x}",
            ]
            kept = "\n".join(lines)
            yield File(path, f"{kept}\n".encode())
