"""What a GPU still has room for, and after each choice.

What the driver says now (``available_instances``, ``creatable_vgpu_types``) is believed for what a
GPU has now. It says nothing of what would be if a vGPU were gone, and on cards with virtual
functions little of two more; there the rules of the cards are reckoned with: one vGPU to each
virtual function, the most of a type, the memory, and one type at a time where the driver does not
show that there may be more. MIG-backed types are bound by the GPU instances that exist, which only
the driver counts.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Literal

import attrs

from vfiohost.plan.words import counted, listed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from vfiohost.vgpus import VgpuGpu, VgpuType

Limit = Literal["places", "most", "memory", "one-type", "driver"]


@attrs.frozen
class Fill:
    """A GPU that holds some vGPUs: those that it has, or those that it would have.

    Attributes:
        gpu: the GPU.
        held: how many of each type, by type id.
    """

    gpu: VgpuGpu
    held: Mapping[str, int]

    @classmethod
    def now(cls, gpu: VgpuGpu) -> Fill:
        """What it has."""
        return cls(gpu, gpu.existing)

    def with_more(self, kind: VgpuType, number: int = 1) -> Fill:
        """The same with more of a type."""
        return Fill(self.gpu, Counter(self.held) + Counter({kind.type_id: number}))

    def left(self, kind: VgpuType) -> int:
        """How many more of a type fit."""
        return max(0, min(self.limits(kind).values(), default=0))

    def limits(self, kind: VgpuType) -> dict[Limit, int]:
        """How many more each rule lets in, of the rules that apply."""
        gpu = self.gpu
        found: dict[Limit, int] = {}
        if gpu.takes_one_each:
            found["places"] = len(gpu.places) - sum(self.held.values())
        if any(n and not self._goes_with(kind, other) for other, n in self.held.items()):
            found["one-type"] = 0
        if kind.max_instances is not None:
            found["most"] = kind.max_instances - self.held.get(kind.type_id, 0)
        if gpu.framebuffer_mib and kind.framebuffer_mib and not kind.is_mig:
            used = sum(_size(gpu, key) * n for key, n in self.held.items())
            found["memory"] = (gpu.framebuffer_mib - used) // kind.framebuffer_mib
        told = self._told(kind)
        if told is not None:
            found["driver"] = told
        return found

    def why_full(self, kind: VgpuType) -> str:
        """Why no more of a type fit, as a clause."""
        limits = self.limits(kind)
        least = min(limits, key=lambda limit: limits[limit], default="driver")
        others = [_name(self.gpu, key) for key, n in self.held.items() if n]
        return {
            "places": f"each of its {len(self.gpu.places)} virtual functions takes one vGPU",
            "most": f"a GPU takes at most {kind.max_instances} of them",
            "memory": f"its {self.gpu.framebuffer_mib} MiB are shared among all vGPUs",
            "one-type": f"it takes one type at a time, and that is {listed(others)}",
            "driver": "the driver has no GPU instance for more (`nvidia-smi mig -lgi`)"
            if kind.is_mig
            else "the driver says that no more fit",
        }[least]

    def _goes_with(self, kind: VgpuType, other_id: str) -> bool:
        """Whether a type may be beside another that is there."""
        if other_id == kind.type_id:
            return True
        other = self.gpu.by_id.get(other_id)
        is_mig = other is not None and other.is_mig
        return is_mig if kind.is_mig else self.gpu.is_mixed and not is_mig

    def _told(self, kind: VgpuType) -> int | None:
        """What the driver's own count leaves, or ``None`` where it counted something else."""
        before, key = self.gpu.existing, kind.type_id
        is_less = any(self.held.get(other, 0) < n for other, n in before.items())
        if is_less and not kind.is_mig:
            return None
        return self.gpu.free.get(key, 0) + before.get(key, 0) - self.held.get(key, 0)


@attrs.frozen
class Capacity:
    """What a GPU has, and has room for, of one type.

    Attributes:
        kind: the type.
        existing: how many there are.
        remaining: how many more can be created now.
        after: what remains of each type when one more of this one has been created, by type id;
            empty where none can be, and types of which nothing remains are left out.
    """

    kind: VgpuType
    existing: int
    remaining: int
    after: Mapping[str, int]


def capacities(gpu: VgpuGpu) -> tuple[Capacity, ...]:
    """What a GPU has and has room for, type by type, in their order."""
    now = Fill.now(gpu)
    found = []
    for kind in gpu.types:
        remaining = now.left(kind)
        then = now.with_more(kind)
        after = {t.type_id: then.left(t) for t in gpu.types} if remaining else {}
        after = {key: left for key, left in after.items() if left}
        found.append(Capacity(kind, now.held.get(kind.type_id, 0), remaining, after))
    return tuple(found)


def _size(gpu: VgpuGpu, type_id: str) -> int:
    kind = gpu.by_id.get(type_id)
    return 0 if kind is None else kind.framebuffer_mib or 0


def _name(gpu: VgpuGpu, type_id: str) -> str:
    return str(gpu.by_id.get(type_id, type_id))


def summary(gpu: VgpuGpu, held: Mapping[str, int]) -> str:
    """What a GPU holds, for a sentence: ``2 vGPUs of NVIDIA A10-12Q (nvidia-596)``."""
    parts: Iterable[str] = (
        f"{counted(n, 'vGPU')} of {_name(gpu, key)}" for key, n in held.items() if n
    )
    return listed(list(parts))
