"""What a GPU still has room for, and after each choice.

What the driver says now (``available_instances``, ``creatable_vgpu_types``) is believed for what a
GPU has now. It says nothing of what would be if a vGPU were gone, and on cards with virtual
functions little of two more; there the rules of the cards are reckoned with: one vGPU to each
virtual function, the most of a type, the memory, and one type at a time where the driver does not
show that there may be more. MIG-backed types are bound by the GPU instances that exist, which only
the driver counts.

So what is left is a number only where that is known. Elsewhere it lies between what fits for sure
and what may fit at most, with the reason.
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
class Room:
    """How many more vGPUs of a type fit.

    Attributes:
        least: so many for sure.
        most: no more than that, or ``None`` where nothing tells.
        doubt: why these are not one number, as a clause; empty where they are.
    """

    least: int
    most: int | None
    doubt: str = ""

    def may_take(self, number: int) -> bool:
        """So many may fit."""
        return self.most is None or number <= self.most

    def __str__(self) -> str:
        if self.least == self.most:
            return str(self.least)
        return f"{self.least}-{'?' if self.most is None else self.most}"


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

    def room(self, kind: VgpuType, *, expected: bool = True) -> Room:
        """How many more of a type fit.

        Args:
            kind: the type.
            expected: where nothing tells whether the GPU takes several types side by side, it does
                not, as it is unless somebody has set it so. Without, it may.
        """
        limits = self.limits(kind, expected=expected)
        most = max(0, min(limits.values())) if limits else None
        doubt = self._doubt(kind, limits) if most != 0 else ""
        if most is not None and not doubt:
            return Room(most, most)
        # What the driver offers is for one more at a time, but where one place takes several.
        offered = self.gpu.free.get(kind.type_id, 0) if self._is_now else 0
        least = min(offered, 1) if self.gpu.takes_one_each else offered
        least = least if most is None else min(least, most)
        return Room(least, most, "" if least == most else doubt)

    def limits(self, kind: VgpuType, *, expected: bool = True) -> dict[Limit, int]:
        """How many more each rule lets in, of the rules that apply.

        Args:
            kind: the type.
            expected: as for :meth:`room`.
        """
        gpu = self.gpu
        found: dict[Limit, int] = {}
        if gpu.takes_one_each:
            found["places"] = len(gpu.places) - sum(self.held.values())
        beside = self._beside(kind)
        if False in beside or (expected and None in beside):
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
        limits = self.limits(kind, expected=False)
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

    @property
    def _is_now(self) -> bool:
        """It is what the GPU has, of which the driver speaks."""
        return +Counter(self.held) == +Counter(self.gpu.existing)

    def _beside(self, kind: VgpuType) -> set[bool | None]:
        """Whether a type may be beside each other that is there; ``None``: nothing tells."""
        others = (key for key, n in self.held.items() if n and key != kind.type_id)
        return {self._goes_with(kind, self.gpu.by_id.get(key)) for key in others}

    def _goes_with(self, kind: VgpuType, other: VgpuType | None) -> bool | None:
        if other is None:
            return None
        if kind.is_mig or other.is_mig:
            return kind.is_mig and other.is_mig
        return self.gpu.is_mixed

    def _told(self, kind: VgpuType) -> int | None:
        """What the driver's own count leaves, or ``None`` where it counted something else."""
        before, key = self.gpu.existing, kind.type_id
        is_less = any(self.held.get(other, 0) < n for other, n in before.items())
        silent = len(self.gpu.silent(key))
        if (is_less and not kind.is_mig) or (silent and not self.gpu.takes_one_each):
            return None
        return self.gpu.free.get(key, 0) + silent + before.get(key, 0) - self.held.get(key, 0)

    def _doubt(self, kind: VgpuType, limits: Mapping[Limit, int]) -> str:
        """Why the rules let in more than is sure to fit, as a clause; empty where they do not."""
        gpu = self.gpu
        silent = gpu.silent(kind.type_id)
        if self._is_now and not gpu.takes_one_each and not silent:
            return ""  # its one place counts them all
        reasons: tuple[tuple[object, str], ...] = (
            (silent, f"what {listed(silent)} can make could not be read"),
            (gpu.unread, f"what {listed(gpu.unread)} takes of it could not be read"),
            (
                None in self._beside(kind),
                "whether it takes several types shows only while it has a vGPU",
            ),
            (kind.is_mig, "only its driver counts the GPU instances (`nvidia-smi mig -lgi`)"),
            (
                gpu.is_mixed,
                "where types are mixed only its driver knows what still finds a place",
            ),
            (
                not {"most", "memory"} & limits.keys(),
                "its driver says only whether one more fits",
            ),
        )
        return next((clause for holds, clause in reasons if holds), "")


@attrs.frozen
class Capacity:
    """What a GPU has, and has room for, of one type.

    Attributes:
        kind: the type.
        existing: how many there are.
        room: how many more can be created now.
        after: what may remain of each type when one more of this one has been created, by type id;
            empty where none can be, and types of which nothing remains are left out.
    """

    kind: VgpuType
    existing: int
    room: Room
    after: Mapping[str, int]


def capacities(gpu: VgpuGpu) -> tuple[Capacity, ...]:
    """What a GPU has and has room for, type by type, in their order."""
    now = Fill.now(gpu)
    found = []
    for kind in gpu.types:
        room = now.room(kind)
        then = now.with_more(kind)
        after = {t.type_id: then.room(t).most or 0 for t in gpu.types} if room.most != 0 else {}
        after = {key: left for key, left in after.items() if left}
        found.append(Capacity(kind, now.held.get(kind.type_id, 0), room, after))
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
