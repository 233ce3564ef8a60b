"""What the validator of NVIDIA's GPU Operator asks of a node that has guests. Pure.

It writes an empty file for each thing that is ready, below ``/run/nvidia/validations``, and the
device plugin waits for them. The names are its own (``gpu-operator/cmd/nvidia-validator``). Where
it gives a wrong answer this gives the right one: GPUs that are handed out whole do not count among
those that should have virtual functions, vGPUs need not be mediated devices, and a GPU is not ready
for a guest while a host driver keeps its IOMMU group.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import attrs

from vfiohost.model import is_vfio_driver
from vfiohost.nvidia import DRIVER, is_gpu
from vfiohost.plan.words import counted, listed
from vfiohost.vgpus import vgpu_gpus

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vfiohost.model import PciDevice, Snapshot

Workload = Literal["vm-passthrough", "vm-vgpu"]
"""The kinds of work of a node that has guests."""

WORKLOADS: tuple[Workload, ...] = get_args(Workload)
STATUS_FOLDER = "run/nvidia/validations"
"""Where the status files are, relative to the root."""

WORKLOAD_FILE = "workload-type"
SMI = tuple(f"{folder}/nvidia-smi" for folder in ("usr/bin", "usr/sbin", "bin", "sbin", "opt/bin"))
"""Where NVIDIA's tools are when the driver is the host's own, and not one of a container."""


@attrs.frozen
class Check:
    """One thing that a node must have.

    Attributes:
        component: the validator's name of it: ``vfio-pci``, ``vgpu-manager``, ``vgpu-devices``.
        is_ready: it has it.
        sentences: what was found: why it is not ready, each reason for itself.
        remedy: what to do, or ``None`` when it is ready.
        status_file: the file that says so, in :data:`STATUS_FOLDER`.
    """

    component: str
    is_ready: bool
    sentences: tuple[str, ...]
    remedy: str | None
    status_file: str


def validate(snapshot: Snapshot, workload: Workload, *, has_smi: bool) -> tuple[Check, ...]:
    """Check what a kind of work needs.

    Args:
        snapshot: the host, with its mediated devices and its vGPUs.
        workload: what the node is for.
        has_smi: one of :data:`SMI` is there: the vGPU host driver is the host's own.
    """
    gpus = [device for device in snapshot.devices if is_gpu(device)]
    if workload == "vm-passthrough":
        return (_passthrough(snapshot, gpus),)
    return (_manager(snapshot, gpus, has_smi=has_smi), _devices(snapshot))


def _passthrough(snapshot: Snapshot, gpus: list[PciDevice]) -> Check:
    wrong = [sentence for gpu in gpus for sentence in _not_for_guests(snapshot, gpu)]
    if not gpus:
        wrong = ["There is no GPU of NVIDIA's."]
    return Check(
        "vfio-pci",
        not wrong,
        tuple(wrong) or (f"{counted(len(gpus), 'GPU')} can be given to guests.",),
        "`vfiohost mode vm-passthrough` makes them ready." if wrong else None,
        "vfio-pci-ready",
    )


def _not_for_guests(snapshot: Snapshot, gpu: PciDevice) -> Iterator[str]:
    driver = gpu.driver if isinstance(gpu.driver, str) else None
    if driver is None or not is_vfio_driver(driver):
        yield f"{gpu.address} is on {driver or 'no driver'}, not on a VFIO driver."
        return
    group = snapshot.group_of(gpu)
    if group is not None and group.blockers:
        stay = listed([f"{member.address} on {member.driver}" for member in group.blockers])
        yield f"IOMMU group {group.number} of {gpu.address} is not viable: {stay}."


def _manager(snapshot: Snapshot, gpus: list[PciDevice], *, has_smi: bool) -> Check:
    """The vGPU host driver, and virtual functions or parents to make vGPUs on."""
    ours = [gpu for gpu in gpus if gpu.driver == DRIVER]
    lacking = [
        f"{gpu.address} has {len(vfs)} of {gpu.total_vfs} virtual functions."
        for gpu in ours
        if isinstance(gpu.total_vfs, int)
        and len(vfs := snapshot.virtual_functions.get(gpu.address, ())) < gpu.total_vfs
    ]
    idle = [gpu.why_not for gpu in vgpu_gpus(snapshot) if gpu.backend is None and gpu.is_waiting]
    wrong = lacking or idle
    if not ours:
        wrong = ["No GPU is on NVIDIA's driver."]
    return Check(
        "vgpu-manager",
        not wrong,
        tuple(wrong) or (f"{counted(len(ours), 'GPU')} can make vGPUs.",),
        "`vfiohost mode vm-vgpu` makes them ready." if wrong else None,
        "host-vgpu-manager-ready" if has_smi else "vgpu-manager-ready",
    )


def _devices(snapshot: Snapshot) -> Check:
    number = sum(len(gpu.vgpus) for gpu in vgpu_gpus(snapshot))
    return Check(
        "vgpu-devices",
        number > 0,
        (f"There {'is' if number == 1 else 'are'} {counted(number, 'vGPU')}.",)
        if number
        else ("There is no vGPU.",),
        None
        if number
        else "Make some: `vfiohost vgpu create`, `vfiohost vgpu apply`, or the host file.",
        "vgpu-devices-ready",
    )
