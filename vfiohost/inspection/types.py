"""A device as it was looked at: frozen values, no I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import attrs

if TYPE_CHECKING:
    from vfiohost.config_space.values import ConfigSpace, Link
    from vfiohost.model import (
        Details,
        IommuGroup,
        PciAddress,
        PciDevice,
        ResetFacts,
        Snapshot,
        Unavailable,
    )

_FUNCTIONS = 8  # that a card can have

# include/linux/ioport.h
_IO, _MEMORY = 0x100, 0x200
_PREFETCHABLE, _64BIT, _UNSET = 0x2000, 0x100000, 0x20000000


@attrs.frozen
class Region:
    """A line of ``resource``: a range of addresses that the device answers at.

    Attributes:
        name: ``BAR 0``, ``ROM``, ``VF BAR 0`` (of all virtual functions that there can be),
            ``window 0`` (of a bridge).
        start: its first address, 0 where it has none yet.
        size: in bytes.
        flags: ``IORESOURCE_...``.
    """

    name: str
    start: int
    size: int
    flags: int

    @property
    def kind(self) -> Literal["memory", "I/O", "unknown"]:
        """What is at these addresses."""
        return "memory" if self.flags & _MEMORY else "I/O" if self.flags & _IO else "unknown"

    @property
    def is_64bit(self) -> bool:
        """It can lie above 4 GiB."""
        return bool(self.flags & _64BIT)

    @property
    def is_prefetchable(self) -> bool:
        """Reads have no side effects."""
        return bool(self.flags & _PREFETCHABLE)

    @property
    def is_assigned(self) -> bool:
        """It has got addresses."""
        return bool(self.start) and not self.flags & _UNSET


@attrs.frozen
class ReservedRegion:
    """Addresses that a guest's memory cannot have, as far as the IOMMU group goes.

    Attributes:
        start, end: the first and the last address.
        kind: ``msi``, ``direct``, ``direct-relaxable``, ``reserved``.
    """

    start: int
    end: int
    kind: str


@attrs.frozen
class Power:
    """What the kernel remembers of a device's power.

    Attributes:
        state: ``D0``, ``D3hot``, ``D3cold``, ``unknown``; ``None`` before Linux 5.11.
        runtime_status: ``active``, ``suspended``, ``unsupported``, …
        control: ``on``: it is kept awake; ``auto``: it may sleep.
        d3cold_allowed: whether its power may be cut.
    """

    state: str | None | Unavailable
    runtime_status: str | None | Unavailable
    control: str | None | Unavailable
    d3cold_allowed: bool | None | Unavailable


@attrs.frozen
class VirtualFunctions:
    """What sysfs says of the virtual functions of a physical function.

    Attributes:
        offset, stride: from its own routing id to the first one's, and from one to the next.
        vf_device_id: 16 bits.
        autoprobe: whether drivers may take new ones by their ids.
    """

    offset: int | None | Unavailable
    stride: int | None | Unavailable
    vf_device_id: int | None | Unavailable
    autoprobe: bool | None | Unavailable


# Not slotted, as the snapshot that it carries.
@attrs.frozen(slots=False)
class Inspection:
    """All that is known of one function.

    Attributes:
        device: the function.
        snapshot: the host that it was found on, with the details of the function.
        modules: the modules that ``modules.alias`` names for it, or ``None``: there is no list.
        vfio_driver: the VFIO driver that fits it best.
        regions: its addresses, without those that it does not have.
        reserved: what its IOMMU group reserves; ``None``: it has no group, or the kernel is old.
        group_type: ``DMA``, ``DMA-FQ``, ``identity``, …; ``None`` likewise.
        reset: how it can be reset.
        power: what the kernel remembers of its power.
        cpus: the processors that are near it (``0-31``), or ``None``.
        vf_index: which of its physical function's virtual functions it is, from 0, or ``None``.
        sriov: of a physical function, else ``None``.
        nodes: the VFIO nodes through which it can be opened now, relative to the root.
        link: its PCI Express link, or ``None``: it has none, or nobody was to be woken.
        space: its configuration space; ``None``: it was not read, or not recorded.
        sleeper: who would have been woken by reading it, or ``None``.
    """

    device: PciDevice
    snapshot: Snapshot = attrs.field(repr=False)
    modules: tuple[str, ...] | None
    vfio_driver: str
    regions: tuple[Region, ...] | Unavailable
    reserved: tuple[ReservedRegion, ...] | None | Unavailable
    group_type: str | None | Unavailable
    reset: ResetFacts
    power: Power
    cpus: str | None | Unavailable
    vf_index: int | None
    sriov: VirtualFunctions | None
    nodes: tuple[str, ...]
    link: Link | None
    space: ConfigSpace | None | Unavailable
    sleeper: PciAddress | None

    @property
    def details(self) -> Details | None:
        """What was read in the helper process (``driver_override`` and the like)."""
        return self.snapshot.details.get(self.device.address)

    @property
    def group(self) -> IommuGroup | None:
        """Its IOMMU group."""
        return self.snapshot.group_of(self.device)

    @property
    def route(self) -> tuple[PciDevice, ...]:
        """The functions on the way to it, from the root port on."""
        pci = self.snapshot.pci
        return tuple(pci[address] for address in self.device.above if address in pci)

    @property
    def siblings(self) -> tuple[PciDevice, ...]:
        """The other functions of its card, without virtual ones."""
        address, pci = self.device.address, self.snapshot.pci
        there = (pci.get(attrs.evolve(address, function=n)) for n in range(_FUNCTIONS))
        return tuple(d for d in there if d and d.address != address and not d.is_vf)

    @property
    def virtual_functions(self) -> tuple[PciDevice, ...]:
        """The virtual functions that exist of it."""
        return self.snapshot.virtual_functions.get(self.device.address, ())

    @property
    def module(self) -> str | None:
        """The module of the driver that is bound, or ``None`` (built in, or no driver)."""
        driver = self.device.driver
        known = self.snapshot.drivers.get(driver) if isinstance(driver, str) else None
        return None if known is None else known.module
