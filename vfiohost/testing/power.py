"""The rule of ``power/control``: may a device be suspended while it runs?"""

from __future__ import annotations

import errno
import posixpath
from typing import TYPE_CHECKING

from vfiohost.testing import kernel_text
from vfiohost.testing.machine import AnswerError

if TYPE_CHECKING:
    from vfiohost.testing.machine import Machine

SUSPENDED = "suspended"


def store_control(machine: Machine, path: str, data: bytes) -> None:
    """``control_store`` in ``drivers/base/power/sysfs.c``; ``on`` wakes the device up."""
    wanted = kernel_text.name(data)
    if wanted not in ("on", "auto"):
        raise AnswerError(errno.EINVAL)
    machine.tree.write(path, f"{wanted}\n")
    folder = posixpath.dirname(path)
    status, state = f"{folder}/runtime_status", f"{posixpath.dirname(folder)}/power_state"
    if wanted == "on" and machine.tree.exists(status) and machine.tree.text(status) == SUSPENDED:
        machine.tree.write(status, "active\n")
        if machine.tree.exists(state):
            machine.tree.write(state, "D0\n")
