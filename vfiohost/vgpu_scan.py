"""Reads the virtual functions that take a vGPU type, without mediated devices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs

from vfiohost.errors import KernelError
from vfiohost.model import PciAddress, Problem, Unavailable, VgpuFacts, VgpuFunction
from vfiohost.nvidia import (
    DRIVER,
    VENDOR_ID,
    VGPU_CONFIG,
    VGPU_TYPE,
    VGPU_TYPES,
    parse_creatable,
    parse_vgpu_config,
)

if TYPE_CHECKING:
    from vfiohost.model import PciDevice, Snapshot
    from vfiohost.sysfs import Sysfs

DEVICES: Final = "sys/bus/pci/devices"
_CONFIG_LIMIT = 1 << 25  # bytes; the file has some 5 million
_MOST_DIGITS = 10


def with_vgpus(sysfs: Sysfs, snapshot: Snapshot, *, timeout: float = 2.0) -> Snapshot:
    """Add :class:`~vfiohost.model.VgpuFacts` to a snapshot.

    Reads ``nvidia/current_vgpu_type`` and ``nvidia/creatable_vgpu_types`` of NVIDIA's virtual
    functions that have them, in a helper process, since it is the driver that answers; and, where
    there are such functions, ``usr/share/nvidia/vgpu/vgpuConfig.xml``.

    Args:
        sysfs: the host.
        snapshot: what was scanned.
        timeout: seconds for all of them.

    Returns:
        The snapshot with the facts, and with a problem for each function that could not be read.
    """
    vfs = [d for d in snapshot.devices if d.is_vf and d.vendor_id == VENDOR_ID]
    taking = [d for d in vfs if _has_type(sysfs, d)]
    if not taking:
        return attrs.evolve(snapshot, vgpus=VgpuFacts())
    paths = [f"{DEVICES}/{d.address}/{name}" for name in (VGPU_TYPE, VGPU_TYPES) for d in taking]
    texts = sysfs.read_bounded(paths, timeout=timeout + len(paths) / 1000)
    functions, problems = [], []
    for device in taking:
        base = f"{DEVICES}/{device.address}"
        current = _number(texts[f"{base}/{VGPU_TYPE}"])
        listed = texts[f"{base}/{VGPU_TYPES}"]
        creatable = listed if isinstance(listed, Unavailable) else parse_creatable(listed)
        functions.append(VgpuFunction(device.address, current, creatable))
        for name, value in ((VGPU_TYPE, current), (VGPU_TYPES, creatable)):
            if isinstance(value, Unavailable):
                sentence = f"{name} of {device.address}: {value}."
                problems.append(Problem(str(device.address), f"{base}/{name}", sentence))
    cards = {d.physfn for d in taking if isinstance(d.physfn, PciAddress)}
    ids = {snapshot.pci[card].device_id for card in cards if card in snapshot.pci}
    facts = VgpuFacts(tuple(functions), parse_vgpu_config(_config(sysfs), ids))
    return attrs.evolve(snapshot, vgpus=facts, problems=(*snapshot.problems, *problems))


def _has_type(sysfs: Sysfs, device: PciDevice) -> bool:
    if device.driver == DRIVER and not device.brings_vfio:
        return False  # the scan has looked
    try:
        return sysfs.exists(f"{device.path}/{VGPU_TYPE}")
    except KernelError:
        return False  # the device itself is a problem of the scan's


def _number(text: str | Unavailable) -> int | Unavailable:
    if isinstance(text, Unavailable):
        return text
    is_number = text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS
    return int(text) if is_number else Unavailable(0, "malformed")


def _config(sysfs: Sysfs) -> str:
    """The file of all types, empty where there is none: what cards list themselves has to do."""
    try:
        return sysfs.read(VGPU_CONFIG, limit=_CONFIG_LIMIT)
    except KernelError:
        return ""
