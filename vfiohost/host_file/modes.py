"""The three kinds of work that NVIDIA's GPU Operator knows, as a host file for some devices. Pure.

``container``: GPUs on their own driver, for the host. ``vm-passthrough``: whole GPUs for guests, as
its VFIO manager makes them. ``vm-vgpu``: GPUs on NVIDIA's vGPU driver with all their virtual
functions, as its vGPU manager makes them. There a node has one kind; here each device has its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

from vfiohost.host_file.types import ALL, NATIVE, DeviceTable, HostFile
from vfiohost.nvidia import is_gpu, is_nvswitch
from vfiohost.plan.drivers import AUTO
from vfiohost.selectors import ByAddress, Selector

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vfiohost.model import PciDevice, Snapshot

Mode = Literal["container", "vm-passthrough", "vm-vgpu"]
"""The values of the label ``nvidia.com/gpu.workload.config``."""

MODES: tuple[Mode, ...] = get_args(Mode)


def gpus_and_switches(snapshot: Snapshot, *, nvswitch: bool) -> tuple[PciDevice, ...]:
    """All NVIDIA GPUs of a host, and its NVSwitches if they are wanted."""
    return tuple(
        device
        for device in snapshot.devices
        if is_gpu(device) or (nvswitch and is_nvswitch(device))
    )


def mode_file(mode: Mode, devices: Iterable[PciDevice], snapshot: Snapshot) -> HostFile:
    """What some devices shall be for a kind of work.

    The other functions of a card (audio, USB) go with it: a guest gets them together, and the
    kernel links them (``drivers/pci/quirks.c:quirk_gpu_hda`` and its neighbours).

    Args:
        mode: the kind of work.
        devices: GPUs, or whatever else is to be used so.
        snapshot: the host.
    """
    chosen = {device.address: device for device in devices}
    cards = {device.address.slot for device in chosen.values()}
    for device in snapshot.devices:
        if device.address.slot in cards and not device.is_vf and not device.is_bridge:
            chosen.setdefault(device.address, device)
    tables = (_table(mode, chosen[address]) for address in sorted(chosen))
    return HostFile(f"mode {mode}", tuple(tables))


def _table(mode: Mode, device: PciDevice) -> DeviceTable:
    name = str(device.address)
    vfs: int | Literal["all"] | None = None
    if isinstance(device.total_vfs, int) and device.total_vfs > 0:
        vfs = ALL if mode == "vm-vgpu" else 0
    return DeviceTable(
        where=f"mode {mode} ({name})",
        select=Selector(name, ByAddress(device.address)),
        driver=AUTO if mode == "vm-passthrough" else NATIVE,
        group=mode == "vm-passthrough",
        vfs=vfs,
        vf_driver=NATIVE if vfs == ALL else None,
    )
