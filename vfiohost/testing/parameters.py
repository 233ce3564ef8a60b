"""Parameters of modules, below ``sys/module/MODULE/parameters``.

Kernel: ``kernel/params.c``, ``drivers/vfio/pci/vfio_pci.c``.
"""

from __future__ import annotations

import errno
import re
from typing import TYPE_CHECKING

from vfiohost.testing import kernel_text
from vfiohost.testing.machine import AnswerError

if TYPE_CHECKING:
    from vfiohost.testing.machine import Machine

_PATH = re.compile(r"sys/module/([^/]+)/parameters/([^/]+)")

# Those that rules know, all of them booleans: permission bits by name.
_PARAMETERS = {"vfio_pci": {"disable_denylist": 0o444, "enable_sriov": 0o644}}


def show(machine: Machine, module: str) -> None:
    """Add the parameters of a module that is loaded now; those that are there stay."""
    for name, mode in _PARAMETERS.get(module, {}).items():
        path = f"sys/module/{module}/parameters/{name}"
        if not machine.tree.exists(path):
            machine.tree.write(path, "N\n", mode)


def is_set(machine: Machine, module: str, name: str) -> bool:
    """Whether a boolean parameter is set."""
    return machine.tree.text(f"sys/module/{module}/parameters/{name}") in ("Y", "1")


def store(machine: Machine, path: str, data: bytes) -> bool:
    """``param_set_bool``; tell whether the path is that of a parameter."""
    match = _PATH.fullmatch(path)
    if match is None or match[2] not in _PARAMETERS.get(match[1], {}):
        return False
    value = kernel_text.boolean(data)
    if value is None:
        raise AnswerError(errno.EINVAL)
    machine.tree.write(path, "Y\n" if value else "N\n")
    return True
