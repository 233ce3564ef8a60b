"""NVIDIA's host driver, and which vGPU framework it offers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from vfiohost import nvidia
from vfiohost.doctor.facts import is_on, joined
from vfiohost.doctor.findings import Evidence, Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vfiohost.doctor.facts import HostFacts
    from vfiohost.model import PciDevice

_VERSION = "proc/driver/nvidia/version"
_NUMBER = re.compile(r"\b(\d{3}\.[\d.]+)\b")
_VGPU_MODULE = "nvidia_vgpu_vfio"
_TYPES = "nvidia"  # the directory of a virtual function that has its types


def check_nvidia(facts: HostFacts) -> Iterator[Finding]:
    """Is NVIDIA's driver loaded, and what does it offer."""
    if not facts.has_module(nvidia.DRIVER):
        return
    match = _NUMBER.search(facts.text(_VERSION) or "")
    version = f" {match[1]}" if match else ""
    is_vgpu = facts.has_module(_VGPU_MODULE)
    saw = (Evidence("sys/module", f"nvidia{f', {_VGPU_MODULE}' if is_vgpu else ''}"),)
    gpus = [d for d in facts.snapshot.devices if nvidia.is_gpu(d) and d.driver == nvidia.DRIVER]
    which = f" It has {joined(d.address for d in gpus)}." if gpus else " It has no GPU."
    framework = _framework(facts, gpus)
    kind = "vGPU host driver" if is_vgpu or framework else "driver"
    yield Finding(
        "nvidia-driver",
        "info",
        "nvidia",
        (*saw, facts.saw(_VERSION)),
        f"NVIDIA's {kind}{version} is loaded.{which}"
        + ("" if framework or is_vgpu else " It offers no vGPUs: that takes the vGPU host driver."),
    )
    if framework is not None:
        yield framework
    elif is_vgpu and gpus:
        yield _no_vfs(gpus)
    yield from _beside(facts, gpus)


def _framework(facts: HostFacts, gpus: list[PciDevice]) -> Finding | None:
    cards = {d.address for d in gpus}
    bus = facts.snapshot.mdev
    parents = [p for p in (bus.parents if bus else ()) if {p.address, p.physfn} & cards]
    if parents:
        types = parents[0].types
        return Finding(
            "vgpu-mdev",
            "info",
            "nvidia",
            (
                Evidence("sys/class/mdev_bus", joined((p.name for p in parents), 3)),
                Evidence(f"{parents[0].path}/mdev_supported_types", f"{len(types)} types"),
            ),
            f"vGPUs are mediated devices here: {len(parents)} parents offer them, "
            f"{len(types)} types on the first.",
            f"`vfiohost mdev types -p {parents[0].name}` lists them, `vfiohost mdev create` makes "
            "one.",
        )
    vfs = [vf for card in cards for vf in facts.snapshot.virtual_functions.get(card, ())]
    typed = [vf for vf in vfs if _TYPES in (facts.listed(vf.path) or ())]
    if not typed:
        return None
    return Finding(
        "vgpu-vendor-vfio",
        "info",
        "nvidia",
        tuple(
            Evidence(f"{vf.path}/{_TYPES}/current_vgpu_type", "is there")
            for vf in sorted(typed, key=lambda d: d.address)[:2]
        ),
        f"vGPUs are virtual functions with a type here ({len(vfs)} of them), not mediated devices: "
        "there is no mdev type, and mdevctl has nothing to do.",
        "Write a type's number to the virtual function's nvidia/current_vgpu_type, leave it on the "
        "driver nvidia, and give it to the guest (libvirt: managed='no').",
    )


def _no_vfs(gpus: list[PciDevice]) -> Finding:
    able = [d for d in gpus if isinstance(d.total_vfs, int) and d.total_vfs]
    return Finding(
        "vgpu-no-vfs",
        "warning",
        "nvidia",
        (
            Evidence("sys/class/mdev_bus", "no parent of these GPUs"),
            *(Evidence(f"{d.path}/sriov_totalvfs", str(d.total_vfs)) for d in able[:4]),
        ),
        "The vGPU host driver is loaded and offers no vGPU: "
        + (
            f"{joined(d.address for d in able)} has no virtual functions yet."
            if able
            else "its GPUs have no SR-IOV, or it is switched off."
        ),
        "/usr/lib/nvidia/sriov-manage -e ALL makes the virtual functions (after each boot)."
        if able
        else "Switch SR-IOV on in the firmware; before Ampere, look whether nvidia-vgpud runs.",
    )


def _beside(facts: HostFacts, gpus: list[PciDevice]) -> Iterator[Finding]:
    if facts.has_module("nouveau"):
        yield Finding(
            "nouveau-beside-nvidia",
            "warning",
            "nouveau",
            (Evidence("sys/module", "nouveau, nvidia"),),
            "nouveau and NVIDIA's driver are both loaded: which one gets a GPU is a race at each "
            "boot and each probe.",
            "blacklist nouveau in /etc/modprobe.d, make the initramfs anew, and boot.",
        )
    path, modeset = facts.parameter("nvidia_drm", "modeset")
    if is_on(modeset) and gpus:
        yield Finding(
            "nvidia-modeset",
            "info",
            "nvidia_drm",
            (facts.saw(path), facts.saw("proc/fb")),
            "NVIDIA's driver sets the screen's mode (nvidia_drm.modeset): a console or desktop on "
            "a GPU keeps it busy, and an unbind then waits for as long.",
            "Stop the display manager first; for a host without screens, options nvidia-drm "
            "modeset=0 in /etc/modprobe.d.",
        )
