"""What a recording says of itself."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vfiohost.recording import Function, Recording

MASKED_NOTE = (
    "Masked: serial numbers and MAC addresses (not read, or zeros in config), what identifies the "
    "machine on the kernel's command line (MASKED), and IP addresses, places of mounts, names that "
    "somebody gave volumes, arrays and interfaces, and UUIDs of GPUs (counted). UUIDs of mediated "
    "devices are kept."
)
"""The note of a recording that :func:`vfiohost.record.capture` made."""

_DISPLAY, _ACCELERATOR = 0x03, 0x12


def describe(recording: Recording) -> str:
    """One line on a host: its size, and what it has for guests. It names no machine."""
    parts = [f"{_count(len(recording.functions), 'PCI function')}{_in_groups(recording)}"]
    kinds = Counter(filter(None, map(_graphics, recording.functions)))
    parts += [f"{number} x {ids}" for ids, number in kinds.items()]
    if recording.mdevs:
        parts.append(_count(len(recording.mdevs), "mediated device"))
    return ", ".join(parts)


def _in_groups(recording: Recording) -> str:
    groups = {f.iommu_group for f in recording.functions if f.iommu_group is not None}
    return f" in {_count(len(groups), 'IOMMU group')}" if groups else " in no IOMMU group"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _graphics(function: Function) -> str | None:
    """The ids of a GPU or an accelerator that is no virtual function, else ``None``."""
    vendor, device, class_code = (_id(function, name) for name in ("vendor", "device", "class"))
    if vendor is None or device is None or class_code is None or function.physfn is not None:
        return None
    is_graphics = class_code >> 16 in (_DISPLAY, _ACCELERATOR)
    return f"{vendor:04x}:{device:04x}" if is_graphics else None


def _id(function: Function, name: str) -> int | None:
    attribute = function.attributes.get(name)
    if attribute is None or not isinstance(attribute.content, bytes):
        return None
    try:
        return int(attribute.content[:16], 16)
    except ValueError:
        return None
