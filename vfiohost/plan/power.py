"""Let devices be suspended while they run, or keep them from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vfiohost.plan.changes import DEVICES
from vfiohost.plan.draft import find
from vfiohost.plan.types import Expect, Plan, Store, WriteAttr

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vfiohost.model import PciAddress, Snapshot

CONTROL = "power/control"
"""``on``: never; ``auto``: when driver and kernel see fit
(``Documentation/ABI/testing/sysfs-devices-power``)."""


def plan_power(
    snapshot: Snapshot, wanted: Mapping[PciAddress, str], now: Mapping[PciAddress, str]
) -> Plan:
    """Plan to set the power policy of devices.

    ``on`` wakes a device that is asleep. On vfio-pci, a device that nobody has open goes to D3hot
    with ``auto``, and its port may take its power away (``drivers/vfio/pci/vfio_pci_core.c``).

    Args:
        snapshot: the host.
        wanted: ``on`` or ``auto``, by address.
        now: what ``power/control`` of them says; without it, a device has no such file.

    Raises:
        NotFoundError: there is no such device.
    """
    devices = find(snapshot, wanted)
    return Plan(
        "power",
        tuple(str(device.address) for device in devices),
        tuple(
            _step(device.address, now[device.address], wanted[device.address])
            for device in devices
            if now.get(device.address) not in (None, wanted[device.address])
        ),
    )


def _step(address: PciAddress, now: str, wanted: str) -> WriteAttr:
    path = f"{DEVICES}/{address}/{CONTROL}"
    why = "it is kept awake" if wanted == "on" else "it may be suspended while nobody uses it"
    before, after = Expect(path, "text", now), Expect(path, "text", wanted)
    return WriteAttr(path, wanted, before, after, Store(path, now, before), why)
