"""vGPUs that are no mediated devices: NVIDIA's driver has a virtual function be one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vfiohost.holders.reading import names_in
from vfiohost.model import Unavailable
from vfiohost.nvidia import VENDOR_ID
from vfiohost.usage import Use

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vfiohost.holders.subjects import Subject
    from vfiohost.sysfs import Sysfs

_FOLDER = "nvidia"
_TYPE = "current_vgpu_type"
_LOOK_SECONDS = 1.0


def vgpu_uses(sysfs: Sysfs, subjects: Sequence[Subject], incomplete: list[str]) -> Iterator[Use]:
    """The virtual functions that have a vGPU type set.

    Reads ``nvidia/current_vgpu_type`` of each NVIDIA function that has it (0: none is set), in a
    helper process: it is the driver that answers.

    Args:
        sysfs: the host.
        subjects: the devices.
        incomplete: gets what could not be found out.
    """
    paths = {
        f"{subject.path}/{_FOLDER}/{_TYPE}": subject.name
        for subject in subjects
        if subject.device is not None
        and subject.device.is_vf
        and subject.device.vendor_id == VENDOR_ID
        and _TYPE in names_in(sysfs, f"{subject.path}/{_FOLDER}")
    }
    answers = sysfs.read_bounded(paths, timeout=_LOOK_SECONDS) if paths else {}
    for path, name in paths.items():
        answer = answers[path]
        if isinstance(answer, Unavailable):
            incomplete.append(f"Whether {name} is a vGPU is not known: /{path}: {answer.why}.")
        elif answer not in ("", "0"):
            yield Use("vgpu", name, f"it is a vGPU of type {answer}", f"/{path}")
