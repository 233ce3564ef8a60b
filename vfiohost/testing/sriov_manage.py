"""NVIDIA's ``sriov-manage``: what it does to a host, where a simulated one is asked to run it.

The script takes a GPU from its driver, makes or destroys all of its virtual functions, and gives
the GPU back, with the new functions. A store to its path is a run of it; what is stored are its
arguments. It ends with an error when NVIDIA's driver does not give it the GPU (``unbindLock``).
"""

from __future__ import annotations

import errno
import re
from typing import TYPE_CHECKING

from vfiohost.testing import driver_core, nvidia_proc, sriov
from vfiohost.testing.machine import AnswerError

if TYPE_CHECKING:
    from vfiohost.testing.machine import Machine

_ARGUMENTS = re.compile(rb"-([ed]) ([0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7])\n?")


def run(machine: Machine, _path: str, data: bytes) -> None:
    """Make or destroy all virtual functions of one GPU."""
    match = _ARGUMENTS.fullmatch(data)
    address = match[2].decode() if match else ""
    path = machine.pci_path(address)
    total = 0 if path is None else sriov.number(machine, f"{path}/sriov_totalvfs")
    is_its_own = machine.is_resumed or machine.driver_of(address) == nvidia_proc.DRIVER
    if match is None or path is None or not total or not is_its_own:
        raise AnswerError(errno.EIO, "run")
    machine.lock(address)
    if match[1] == b"d":
        sriov.disable(machine, address)
    driver_core.detach(machine, address)
    driver_core.probe(machine, nvidia_proc.DRIVER, address)
    if match[1] == b"e" and not driver_core.num_vfs(machine, path):
        sriov.enable(machine, path, total)
