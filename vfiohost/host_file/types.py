"""What a host file says: frozen values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import attrs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vfiohost.model import PciAddress, PciDevice
    from vfiohost.selectors import Selector

NATIVE = "native"
"""The driver that a device's ids give it, without an override."""

ALL: Literal["all"] = "all"
"""As many virtual functions as there can be."""

Power = Literal["on", "auto"]
"""What ``power/control`` takes: never suspended, or when the driver and the kernel see fit."""


@attrs.frozen
class Ids:
    """What a function must be; ``None``: that part is not asked for.

    Attributes:
        vendor_id, device_id, subsystem_vendor_id, subsystem_device_id: 16 bits each.
    """

    vendor_id: int
    device_id: int
    subsystem_vendor_id: int | None = None
    subsystem_device_id: int | None = None

    def fits(self, device: PciDevice) -> bool:
        """Say whether a function is that. What a recording does not tell of it is not asked."""
        wanted = (self.subsystem_vendor_id, self.subsystem_device_id)
        has = (device.subsystem_vendor_id, device.subsystem_device_id)
        return (self.vendor_id, self.device_id) == (device.vendor_id, device.device_id) and all(
            want is None or is_ in (None, want) for want, is_ in zip(wanted, has, strict=True)
        )

    @classmethod
    def of(cls, device: PciDevice) -> Ids:
        """The ids of a function."""
        subsystem = (device.subsystem_vendor_id, device.subsystem_device_id)
        if subsystem in {(None, None), (0, 0)}:
            return cls(device.vendor_id, device.device_id)
        return cls(device.vendor_id, device.device_id, *subsystem)

    def __str__(self) -> str:
        numbers = attrs.astuple(self)
        return ":".join(f"{number:04x}" for number in numbers if number is not None)


@attrs.frozen
class DeviceTable:
    """One ``[[device]]``: devices, and what they shall be.

    Attributes:
        where: its place in the file, for messages: ``[[device]] 2``.
        select: which devices.
        ids: what each of them must be, or nothing is done to it; ``None``: the selector says it.
        count: how many there must be.
        driver: a driver's name, ``none``, ``auto``, or :data:`NATIVE`; ``None``: as it is.
        group: the other endpoints of their IOMMU groups as well.
        owner, mode: of their VFIO nodes; ``None``: as udev's rules make them.
        power: ``None``: as it is.
        vfs: how many virtual functions each shall have, or :data:`ALL`; ``None``: as it is.
        vf_driver: the driver of these, as ``driver``; ``None``: as the kernel gives it.
        vgpus: how many vGPUs of which type each shall have; ``None``: as it is.
    """

    where: str
    select: Selector
    ids: Ids | None = None
    count: int = 1
    driver: str | None = None
    group: bool = False
    owner: str | None = None
    mode: str | None = None
    power: Power | None = None
    vfs: int | Literal["all"] | None = None
    vf_driver: str | None = None
    vgpus: Mapping[str, int] | None = None


@attrs.frozen
class MdevTable:
    """One ``[[mdev]]``: a mediated device that shall exist.

    Attributes:
        where: its place in the file, for messages: ``[[mdev]] 1``.
        uuid: its UUID.
        parent: a selector of one device, or the name of a parent that is no PCI device.
        type: the type's id or name.
        attributes: names and values that are written to it, in this order.
    """

    where: str
    uuid: str
    parent: str
    type: str
    attributes: tuple[tuple[str, str], ...] = ()


@attrs.frozen
class HostFile:
    """A whole host file.

    Attributes:
        name: the file's name, for messages.
        devices: its ``[[device]]`` tables, in order.
        mdevs: its ``[[mdev]]`` tables, in order.
    """

    name: str
    devices: tuple[DeviceTable, ...] = ()
    mdevs: tuple[MdevTable, ...] = ()


@attrs.frozen
class Wanted:
    """What a host file wants of one device that is there.

    Attributes:
        device: as it is.
        table: the table that says so.
    """

    device: PciDevice
    table: DeviceTable

    @property
    def address(self) -> PciAddress:
        """Where it is."""
        return self.device.address


@attrs.frozen
class Difference:
    """One thing that is not as the host file wants it.

    Attributes:
        subject: an address, or the UUID of a mediated device.
        what: which of the table's keys: ``driver``, ``vfs`` …
        found: how it is, as text.
        wanted: how it shall be, as text.
        where: the table that says so.
    """

    subject: str
    what: str
    found: str
    wanted: str
    where: str
