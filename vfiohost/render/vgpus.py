"""The vGPUs of a host as tables and as JSON values: types, devices, what still fits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vfiohost.model import Unavailable
from vfiohost.plan.vgpu_room import capacities
from vfiohost.render.listing import NOTHING, text_of
from vfiohost.render.table import Cell, Paint, format_columns, format_table, plain
from vfiohost.render.values import plain_value

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from vfiohost.plan.vgpu_room import Capacity
    from vfiohost.render.values import Value
    from vfiohost.vgpus import Vgpu, VgpuGpu, VgpuType

BACKENDS = {
    "mdev-pf": "mediated devices on the GPU",
    "mdev-vf": "mediated devices on virtual functions",
    "vfio-vf": "virtual functions that take a type",
}
"""How GPUs make vGPUs, for people."""


def type_table(gpus: Iterable[VgpuGpu], paint: Paint = plain) -> list[str]:
    """One line for each type of each GPU."""
    rows: list[list[Cell]] = [
        [
            (str(gpu.address), "plain"),
            (kind.type_id, "plain"),
            (_memory(kind), "plain"),
            (text_of(kind.max_instances), "plain"),
            (text_of(kind.parts.series if kind.parts else None), "plain"),
            (_mig(kind), "plain"),
            (text_of(kind.name), "plain"),
        ]
        for gpu in gpus
        for kind in gpu.types
    ]
    headers = ["GPU", "TYPE", "FRAMEBUFFER", "MAX", "SERIES", "MIG", "NAME"]
    return format_table(headers, rows, right=("FRAMEBUFFER", "MAX"), paint=paint)


def vgpu_table(gpus: Iterable[VgpuGpu], paint: Paint = plain) -> list[str]:
    """One line for each vGPU."""
    rows: list[list[Cell]] = [
        [
            (vgpu.name, "plain"),
            (str(gpu.address), "plain"),
            (vgpu.place, "plain"),
            (text_of(vgpu.type_id), "plain"),
            (text_of(vgpu.iommu_group), "plain"),
            (_name(gpu, vgpu) or NOTHING, "plain"),
        ]
        for gpu in gpus
        for vgpu in gpu.vgpus
    ]
    headers = ["VGPU", "GPU", "ON", "TYPE", "GROUP", "NAME"]
    return format_table(headers, rows, right=("GROUP",), paint=paint)


def capacity_table(gpus: Iterable[VgpuGpu], paint: Paint = plain) -> list[str]:
    """One line for each type of each GPU: what there is, what fits, and what fits after one.

    What fits is ``1-7`` where one fits for sure, and no more than 7: see :func:`doubts`.
    """
    rows: list[list[Cell]] = [
        [
            (str(gpu.address), "plain"),
            (c.kind.type_id, "plain"),
            (c.kind.short, "plain"),
            (_memory(c.kind), "plain"),
            (text_of(c.kind.max_instances), "plain"),
            (str(c.existing), "plain" if c.existing else "dim"),
            (str(c.room), "dim" if c.room.most == 0 else "good"),
            (_after(c), "dim" if c.room.most == 0 else "plain"),
        ]
        for gpu in gpus
        for c in capacities(gpu)
    ]
    headers = ["GPU", "TYPE", "NAME", "FRAMEBUFFER", "MAX", "EXISTING", "REMAINING", "AFTER ONE"]
    right = ("FRAMEBUFFER", "MAX", "EXISTING", "REMAINING")
    return format_table(headers, rows, right=right, paint=paint)


def doubts(gpus: Iterable[VgpuGpu]) -> list[str]:
    """Why it is not known how many more vGPUs fit, as sentences: one for each reason of a GPU."""
    return [
        f"How many more vGPUs GPU {gpu.address} has room for is not known: {doubt}."
        for gpu in gpus
        for doubt in dict.fromkeys(c.room.doubt for c in capacities(gpu) if c.room.doubt)
    ]


def created_lines(gpus: Iterable[VgpuGpu], names: Iterable[str]) -> list[str]:
    """One line for each new vGPU: its name, where it is, its type, its group."""
    found = {vgpu.name: (gpu, vgpu) for gpu in gpus for vgpu in gpu.vgpus}
    rows = []
    for name in names:
        if name not in found:
            continue
        gpu, vgpu = found[name]
        where = f"on {vgpu.place}" if vgpu.place != name else f"of {gpu.address}"
        group = [] if vgpu.iommu_group is None else [f"group {vgpu.iommu_group}"]
        rows.append([name, where, _name(gpu, vgpu) or text_of(vgpu.type_id), *group])
    return format_columns(rows)


def gpu_value(gpu: VgpuGpu) -> Value:
    """A GPU that makes vGPUs, with its types and what fits of each."""
    return {
        "address": str(gpu.address),
        "backend": gpu.backend,
        "framebuffer_mib": gpu.framebuffer_mib,
        "mixed": gpu.is_mixed,
        "places": [place.name for place in gpu.places],
        "vgpus": [vgpu.name for vgpu in gpu.vgpus],
        "types": [_capacity_value(c) for c in capacities(gpu)],
    }


def vgpu_value(gpu: VgpuGpu, vgpu: Vgpu, nodes: Mapping[int, str]) -> Value:
    """A vGPU that exists.

    Args:
        gpu: its GPU.
        vgpu: the vGPU.
        nodes: the VFIO group nodes that exist, by group.
    """
    group = vgpu.iommu_group
    return {
        "name": vgpu.name,
        "gpu": str(gpu.address),
        "backend": gpu.backend,
        "place": vgpu.place,
        "type_id": plain_value(vgpu.type_id),
        "type_name": _name(gpu, vgpu),
        "iommu_group": group,
        "node": None if group is None else nodes.get(group),
    }


def _capacity_value(capacity: Capacity) -> Value:
    kind = capacity.kind
    return {
        "type_id": kind.type_id,
        "name": kind.name,
        "framebuffer_mib": kind.framebuffer_mib,
        "max_instances": kind.max_instances,
        "series": kind.parts.series if kind.parts else None,
        "mig_slices": kind.parts.slices if kind.parts else None,
        "mig_suffix": kind.parts.suffix if kind.parts else None,
        "existing": capacity.existing,
        "remaining": capacity.room.most,
        "remaining_for_sure": capacity.room.least,
        "doubt": capacity.room.doubt or None,
        "after": dict(capacity.after),
    }


def _name(gpu: VgpuGpu, vgpu: Vgpu) -> str | None:
    if isinstance(vgpu.type_id, Unavailable):
        return None
    kind = gpu.by_id.get(vgpu.type_id)
    return None if kind is None else kind.name


def _memory(kind: VgpuType) -> str:
    return NOTHING if kind.framebuffer_mib is None else f"{kind.framebuffer_mib} MiB"


def _mig(kind: VgpuType) -> str:
    if kind.parts is None or kind.parts.slices is None:
        return NOTHING
    return f"{kind.parts.slices} slices {kind.parts.suffix or ''}".strip()


def _after(capacity: Capacity) -> str:
    """What still fits when one more has been created."""
    if capacity.room.most == 0:
        return NOTHING
    same = capacity.after.get(capacity.kind.type_id, 0)
    others = len(capacity.after) - bool(same)
    own = f"{same} more" if same else "no more"
    if not others:
        return "full" if not same else f"{own}, no other type"
    return f"{own}, or one of {others} other types"
