"""A plan in the making: changes, modules to load, notes, and all that speaks against it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from vfiohost.errors import NotFoundError, PlanRefused, Refusal
from vfiohost.plan.changes import Binding, steps
from vfiohost.plan.hazards import (
    ALLOW_SHARED_GROUP,
    check_allow,
    group_hazards,
    groups_after,
    hazards,
    read_binding,
)
from vfiohost.plan.types import LoadModule, Plan
from vfiohost.plan.words import listed
from vfiohost.selectors import near_addresses

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from vfiohost.model import PciAddress, PciDevice, Snapshot
    from vfiohost.plan.changes import Change
    from vfiohost.plan.drivers import Drivers
    from vfiohost.plan.types import SetNodes


@attrs.define
class Draft:
    """Collects what a plan consists of; :meth:`finish` judges the whole.

    Attributes:
        drivers: the host and its drivers.
        verb: the plan's verb.
        devices: the devices that it is about, in request order.
        allow: the hazards that are permitted.
        changes, loads, notes, refusals: what was collected.
        endings: steps that come after all others: nodes are there when the driver has the device.
    """

    drivers: Drivers
    verb: str
    devices: tuple[PciDevice, ...]
    allow: frozenset[str]
    changes: list[Change] = attrs.field(factory=list, init=False)
    loads: dict[str, LoadModule] = attrs.field(factory=dict, init=False)
    endings: list[SetNodes] = attrs.field(factory=list, init=False)
    notes: list[str] = attrs.field(factory=list, init=False)
    refusals: list[Refusal] = attrs.field(factory=list, init=False)

    def __attrs_post_init__(self) -> None:
        check_allow(self.allow)

    @property
    def snapshot(self) -> Snapshot:
        """The host."""
        return self.drivers.snapshot

    def bindings(self) -> Iterator[tuple[PciDevice, Binding]]:
        """Each device with what it has now; what cannot be known becomes a refusal."""
        for device in self.devices:
            now = read_binding(self.snapshot, device)
            if isinstance(now, Binding):
                yield device, now
            else:
                self.refusals.append(now)

    def add(self, change: Change, *, load: bool = True) -> None:
        """Take a change in, with the module that its driver needs; ``load``: if it may."""
        details = self.snapshot.details.get(change.address)
        if details is not None and details.unbind_lock is False:
            change = attrs.evolve(change, takes_lock=True)
        self.changes.append(change)
        if not change.changes_driver or change.want.driver is None:
            return
        need = self.drivers.need(change.want.driver, load=load)
        if isinstance(need, LoadModule):
            self.loads[need.name] = need
        elif need is not None and need not in self.refusals:
            self.refusals.append(need)

    def judge_groups(self, *, whole: bool) -> None:
        """Refuse, or note where it is permitted, that a group would not be viable.

        Args:
            whole: the request took all endpoints of the groups already.
        """
        found = list(group_hazards(self.snapshot, self.changes, whole=whole))
        if ALLOW_SHARED_GROUP in self.allow:
            self.notes.extend(refusal.sentence for refusal in found)
        else:
            self.refusals.extend(found)
        taken = {device.address for device in self.devices}
        for group in groups_after(self.snapshot, self.changes):
            rest = [m.address for m in group.endpoints if m.address not in taken]
            if rest and group.is_viable:
                verb = "is" if len(rest) == 1 else "are"
                self.notes.append(
                    f"{listed(rest)} {verb} in IOMMU group {group.number} as well: the host "
                    "cannot use the group while a guest has it."
                )

    def finish(self) -> Plan:
        """The plan.

        Raises:
            PlanRefused: something speaks against it; the plan comes with it.
        """
        self.refusals[:0] = hazards(self.snapshot, self.changes, self.allow)
        usage = self.snapshot.usage
        takes = usage is not None and any(change.unbinds for change in self.changes)
        plan = Plan(
            verb=self.verb,
            subjects=tuple(str(device.address) for device in self.devices),
            steps=(*steps(self.changes, tuple(self.loads.values())), *self.endings),
            origins=tuple(c.origin for c in self.changes if c.now != c.want or c.is_probe),
            notes=tuple(self.notes),
            incomplete=usage.incomplete if usage and takes else (),
        )
        if self.refusals:
            raise PlanRefused(self.refusals, plan)
        return plan


def find(snapshot: Snapshot, addresses: Iterable[PciAddress]) -> tuple[PciDevice, ...]:
    """The devices at some addresses, each once.

    Raises:
        NotFoundError: there is none at one of them.
    """
    found: dict[PciAddress, PciDevice] = {}
    for address in addresses:
        if address not in snapshot.pci:
            near = near_addresses(address, snapshot.pci)
            raise NotFoundError("PCI device", str(address), near=near)
        found[address] = snapshot.pci[address]
    return tuple(found.values())
