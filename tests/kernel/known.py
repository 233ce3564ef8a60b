"""The differences between Linux and its simulation that are left, by name, each with its reason.

A sequence ends where one of them shows; the summary of a run counts them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import attrs

from tests.kernel.differential import describe

if TYPE_CHECKING:
    from tests.kernel.differential import Difference


@attrs.frozen
class Known:
    """A difference that is known.

    Attributes:
        reason: why it is left.
        text: is found in what differs: ``what: on Linux | in the simulation``, each in a line.
        action: matches the action that shows it.
    """

    reason: str
    text: re.Pattern[str]
    action: re.Pattern[str] = re.compile(".*")


KNOWN = {
    "nvidia-vf-on-vfio-pci": Known(
        "the simulation speaks for NVIDIA's vGPU driver, whose virtual functions vfio-pci refuses; "
        "those of the stand-in it takes",
        re.compile(r"0000:0[34]:00\.[4-7] driver: vfio-pci \| as it was"),
    ),
    "stand-in-takes-all": Known(
        "in the simulation a driver refuses a device that an override gives it and that its id "
        "table does not have, as most do; the stand-in for NVIDIA's takes whatever it is given",
        re.compile(
            r"^0000:(0[0-2]|41|0[56]:00\.[1-3])\S* driver: nvidia \| as it was$", re.MULTILINE
        ),
    ),
    "nvme-6.1-lets-go-later": Known(
        "before 6.2 nvme takes a virtual function that is offline, and lets go of it in the "
        "background; the simulation has its probe fail, as it does since",
        re.compile(r"^outcome: (ok|write EBUSY) \| write ENODEV$", re.MULTILINE),
        re.compile(r"'0000:02:00\.[1-4](\\n)?' > /sys/bus/pci/drivers/nvme/(un)?bind"),
    ),
}


def name_of(found: Difference) -> str | None:
    """Name the known difference that this one is, if it is one."""
    shown = "\n".join(f"{what}: {linux} | {simulation}" for what, linux, simulation in found.texts)
    action = describe(found.actions[-1])
    for name, known in KNOWN.items():
        if known.action.fullmatch(action) and known.text.search(shown):
            return name
    return None
