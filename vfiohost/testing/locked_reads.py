"""Reads that wait: while a device is locked, a FIFO stands for each attribute that needs the lock.

Whoever reads the file waits, as on Linux, and gets the content when the lock is given back: the
file takes the place of the FIFO, and the content goes through it to who waits. (Of several readers
of one attribute the first gets it all; the others find it empty.)

Rules see the file in either case. Kernel: see :mod:`vfiohost.testing.releases`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vfiohost.testing.state import Hidden

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vfiohost.testing.machine import Machine


def uncover(machine: Machine) -> None:
    """Let the rules see files again; at the end of the session they would be made."""
    for path, hidden in machine.state.hidden.items():
        machine.tree.uncover(path, hidden.text, hidden.mode)
    machine.state.hidden = {}


def cover(machine: Machine) -> None:
    """Hide the attributes of all devices that are locked now, when the rules are done."""
    for path in _locked(machine):
        content = machine.tree.content(path)
        if content is not None:
            text = content.decode("utf-8", "surrogateescape")
            machine.state.hidden[path] = Hidden(text, machine.tree.mode(path))
            machine.tree.cover(path)


def _locked(machine: Machine) -> Iterator[str]:
    """The attributes that nobody can read now."""
    for device in sorted({lock for each in machine.state.pending for lock in each.locks}):
        path = machine.pci_path(device)
        if path is not None:
            for name in sorted(machine.blueprint.release.locked_reads):
                yield f"{path}/{name}"
