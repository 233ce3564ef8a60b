"""How many mediated devices of a type still fit, and on which parents.

``available_instances`` is the kernel's answer for one parent. NVIDIA's cards with virtual
functions are more than one parent: each VF takes one vGPU, and together they may take what the
GPU's memory holds, so that 32 VFs may all say 1 where only 2 fit (``max_instance`` in the type's
description). After the first vGPU a GPU takes only more of that type, unless it is in mixed-size
mode.
"""

from __future__ import annotations

from functools import cached_property
from itertools import chain, islice, repeat
from typing import TYPE_CHECKING

import attrs

from vfiohost.errors import Refusal
from vfiohost.model import Unavailable
from vfiohost.nvidia import describe, framebuffer_mib
from vfiohost.plan.words import counted, listed

if TYPE_CHECKING:
    from vfiohost.model import MdevBus, MdevParent, MdevType, MediatedDevice, PciAddress


# Not slotted: what is left is counted once, on first use.
@attrs.frozen(slots=False)
class Room:
    """Where devices of one type can still go.

    Attributes:
        bus: the parents and devices that exist.
        name: how the request names the parents, for messages.
        parents: one parent, or those among the virtual functions of one card.
        mdev_type: the type; each parent has its own count of what is left of it.
    """

    bus: MdevBus
    name: str
    parents: tuple[MdevParent, ...]
    mdev_type: MdevType

    @cached_property
    def size(self) -> int:
        """How many devices of the type still fit."""
        free = sum(map(self._free, self.parents))
        return free if self._pool is None else min(free, self._pool)

    def places(self, number: int) -> tuple[MdevParent, ...]:
        """A parent for each of ``number`` devices, or for as many as fit.

        They come in the order of the parents: always the same.
        """
        most = min(number, self.size)
        free = (repeat(parent, min(most, self._free(parent))) for parent in self.parents)
        return tuple(islice(chain.from_iterable(free), most))

    def refusal(self, number: int) -> Refusal | None:
        """Why so many devices do not find a place, or ``None`` when they do."""
        unknown = [
            f"{parent.name} ({left.why})"
            for parent in self.parents
            if isinstance(left := self._left(parent), Unavailable)
        ]
        if self.size >= number:
            return None
        if unknown:
            return Refusal(
                "unreadable",
                self.name,
                f"How many {self._what} are left cannot be told: available_instances could not be "
                f"read of {listed(unknown)}.",
                "Find out why it cannot be read.",
            )
        who = f"GPU {self._card}" if len(self.parents) > 1 else self.name
        verb = "was" if number == 1 else "were"
        return Refusal(
            "no-instances",
            self.name,
            f"{who} has room for {self.size} more {self._what}, and {number} {verb} asked "
            f"for{self._because}.",
            self._remedy(number),
        )

    @property
    def _what(self) -> str:
        return self.mdev_type.name or self.mdev_type.type_id

    @property
    def _card(self) -> PciAddress | None:
        """The physical function whose virtual functions the parents are, if they are."""
        return self.parents[0].physfn if self.parents else None

    @cached_property
    def _siblings(self) -> tuple[MdevParent, ...]:
        """All parents that share what the card has."""
        if self._card is None:
            return self.parents
        return tuple(p for p in self.bus.parents if p.physfn == self._card)

    @cached_property
    def _existing(self) -> tuple[MediatedDevice, ...]:
        names = {parent.name for parent in self._siblings}
        return tuple(d for d in self.bus.devices if d.parent in names)

    @property
    def _others(self) -> bool:
        """There are devices of other types."""
        return any(d.type_id != self.mdev_type.type_id for d in self._existing)

    def _left(self, parent: MdevParent) -> int | Unavailable:
        for offered in parent.types:
            if offered.type_id == self.mdev_type.type_id:
                return offered.available_instances
        return 0

    def _free(self, parent: MdevParent) -> int:
        left = self._left(parent)
        return left if isinstance(left, int) else 0

    @property
    def _pool(self) -> int | None:
        """What the card still holds of the type, whatever its VFs say; ``None`` if not known."""
        if self._card is None:
            return None
        limits: list[int] = []
        most = describe(self.mdev_type).max_instance
        if most is not None:
            same = sum(d.type_id == self.mdev_type.type_id for d in self._existing)
            limits.append(most - same)
        types = {t.type_id: t for p in self._siblings for t in p.types}
        told = [describe(t) for t in types.values()]
        memory = max(((d.framebuffer_mib or 0) * (d.max_instance or 0) for d in told), default=0)
        each = framebuffer_mib(self.mdev_type)
        if memory and each:
            known = [types[d.type_id] for d in self._existing if d.type_id in types]
            limits.append((memory - sum(framebuffer_mib(t) or 0 for t in known)) // each)
        return max(0, min(limits)) if limits else None

    @property
    def _because(self) -> str:
        existing = self._existing
        if not existing:
            return ""
        kinds = sorted({d.type_name or str(d.type_id) for d in existing})
        verb = "exists" if len(existing) == 1 else "exist"
        text = f"; {counted(len(existing), 'device')} ({listed(kinds)}) {verb} there"
        if self._others and framebuffer_mib(self.mdev_type) is not None:
            text += ", and a GPU takes one type at a time unless it is in mixed-size mode"
        return text

    def _remedy(self, number: int) -> str:
        """Where there is room, else what to remove."""
        cards: dict[str, list[MdevParent]] = {}
        for parent in self.bus.parents:
            cards.setdefault(str(parent.physfn or parent.name), []).append(parent)
        rooms = {
            name: Room(self.bus, name, tuple(parents), self.mdev_type).size
            for name, parents in cards.items()
        }
        for least, advice in ((number, "Choose another parent"), (1, "Ask for fewer")):
            fitting = [
                f"{name} has room for {left}" for name, left in rooms.items() if left >= least
            ]
            if fitting:
                return f"{advice}: {listed(fitting)}."
        too_many = self._existing if self._others else self._existing[: number - self.size]
        if too_many:
            uuids = " ".join(device.uuid for device in too_many)
            return f"Make room first: `vfiohost mdev remove {uuids}`."
        return "See what is left: `vfiohost mdev types`."
