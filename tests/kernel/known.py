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

    What differs is told in lines, ``what: on Linux | in the simulation``. It is this one when there
    is a line that ``sign`` matches, and none that neither ``sign`` nor ``with_it`` matches: another
    difference in the same step is not forgiven. All match whole lines.

    Attributes:
        reason: why it is left.
        sign: matches the line by which it is known.
        with_it: matches the other lines that it may come with.
        action: matches the action that shows it.
    """

    reason: str
    sign: re.Pattern[str]
    with_it: re.Pattern[str]
    action: re.Pattern[str] = re.compile(".*")

    def is_it(self, action: str, lines: list[str]) -> bool:
        """Tell whether an action that shows these lines shows this difference and no other."""
        signs = [line for line in lines if self.sign.fullmatch(line)]
        others = [line for line in lines if line not in signs]
        return (
            bool(signs)
            and self.action.fullmatch(action) is not None
            and all(self.with_it.fullmatch(line) for line in others)
        )


KNOWN = {
    "nvidia-vf-on-vfio-pci": Known(
        "the simulation speaks for NVIDIA's vGPU driver, whose virtual functions vfio-pci refuses; "
        "those of the stand-in it takes",
        re.compile(r"0000:(0[348]:00\.[4-7]|08:01\.0) driver: vfio-pci \| as it was"),
        re.compile(
            r"outcome: ok \| write (EINVAL|ENODEV)"
            r"|(driver vfio-pci|/dev/vfio(/devices)?|/sys/class/vfio(-dev)?): .* \| .*"
        ),
    ),
    "stand-in-takes-all": Known(
        "in the simulation a driver refuses a device that an override gives it and that its id "
        "table does not have, as most do; the stand-in for NVIDIA's takes whatever it is given",
        re.compile(r"0000:(0[0-2]|41|0[56]:00\.[1-3])\S* driver: nvidia \| as it was"),
        re.compile(
            r"outcome: ok \| write (EINVAL|ENODEV)"
            r"|driver nvidia: .* \| as it was"
            r"|0000:(0[0-2]|41|0[56]:00\.[1-3])\S* enable: nothing \| as it was"
        ),
    ),
    "bind-before-the-end": Known(
        "a removal lets go of the function's lock for a moment before it marks the function dead "
        "(device_release_driver, then kill_device in device_del): who binds and has waited may get "
        "in between, and is told of success; in the simulation the removal is always first",
        re.compile(r"outcome: blocks, then ok, then ok \| blocks, then ok, then write ENODEV"),
        re.compile(""),
        re.compile(r"'\S+' > /sys/bus/pci/drivers/[^/]+/bind"),
    ),
    "nvme-6.1-lets-go-later": Known(
        "before 6.2 nvme takes a virtual function that is offline, and lets go of it in the "
        "background; the simulation has its probe fail, as it does since",
        re.compile(r"outcome: (ok|write EBUSY) \| write ENODEV"),
        re.compile(""),
        re.compile(r"'0000:02:00\.[1-4](\\n)?' > /sys/bus/pci/drivers/nvme/(un)?bind"),
    ),
}


def name_of(found: Difference) -> str | None:
    """Name the known difference that this one is, if it is one."""
    lines = [f"{what}: {linux} | {simulation}" for what, linux, simulation in found.texts]
    action = describe(found.actions[-1])
    return next((name for name, known in KNOWN.items() if known.is_it(action, lines)), None)
