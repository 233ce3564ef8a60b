"""What NVIDIA's driver shows of its GPUs below ``/proc``: the ``unbindLock``.

A model of it: the driver takes a 1 while nobody uses the GPU (``nv-procfs.c`` of NVIDIA's open
kernel modules). That somebody does is a fault here: a store that is ignored.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from vfiohost.testing.machine import PCI_DRIVERS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vfiohost.testing.machine import Machine

DRIVER = "nvidia"
_GPUS = "proc/driver/nvidia/gpus"
LOCK = re.compile(rf"{_GPUS}/[^/]+/unbindLock")


def appear(machine: Machine, address: str) -> None:
    """The driver has taken a function."""
    machine.tree.write(f"{_GPUS}/{address}/unbindLock", "0\n", 0o644)


def boot(machine: Machine, functions: Iterable[str]) -> None:
    """Show what the driver has from the beginning."""
    bound = machine.tree.listing(f"{PCI_DRIVERS}/{DRIVER}")
    for address in functions:
        if address in bound:
            appear(machine, address)


def vanish(machine: Machine, address: str) -> None:
    """The driver has let go of a function."""
    if machine.tree.exists(f"{_GPUS}/{address}"):
        machine.tree.remove(f"{_GPUS}/{address}")


def store(machine: Machine, path: str, data: bytes) -> None:
    """Take the lock with 1, give it back with anything else."""
    taken = data.strip() == b"1"
    machine.tree.write(path, f"{int(taken)}\n", 0o644)
