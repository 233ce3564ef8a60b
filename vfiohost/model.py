"""What a host is made of: frozen values, no I/O.

``None`` in a field means "the kernel says there is none". What could not be read is an
:class:`Unavailable`, which keeps the errno: only ENOENT may mean "absent".
"""

from __future__ import annotations

import re
from collections import defaultdict
from functools import cached_property, lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import attrs

from vfiohost.errors import ParseError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from vfiohost.facts import (
        CardTypes,
        CardVgpuType,
        Details,
        IommuGroup,
        MdevBus,
        MdevParent,
        MdevType,
        MediatedDevice,
        ResetFacts,
        SriovFacts,
        VgpuFacts,
        VgpuFunction,
    )
    from vfiohost.usage import Usage

__all__ = [
    "CLASS_BRIDGE",
    "NVSWITCH",
    "SRIOV_MANAGE",
    "BindingState",
    "CardTypes",
    "CardVgpuType",
    "Details",
    "Driver",
    "IommuGroup",
    "MdevBus",
    "MdevParent",
    "MdevType",
    "MediatedDevice",
    "PciAddress",
    "PciDevice",
    "Problem",
    "ResetFacts",
    "Snapshot",
    "SriovFacts",
    "Unavailable",
    "VgpuFacts",
    "VgpuFunction",
    "hexadecimal",
    "is_dma_managed",
    "is_vfio_driver",
    "natural_key",
    "sorted_naturally",
]

# Compiled when it is first needed, as no list needs it.
_ADDRESS = r"(?:([0-9a-fA-F]{4,8}):)?([0-9a-fA-F]{2}):([01][0-9a-fA-F])\.([0-7])"


@lru_cache(maxsize=1024)
def hexadecimal(number: int, digits: int) -> str:
    """A number as the kernel writes it: ``10de``, with so many digits at least.

    It is remembered: thousands of functions have the same few, and looking one up takes a tenth of
    the time that writing it takes.
    """
    return f"{number:0{digits}x}"


@attrs.frozen(order=True)
class PciAddress:
    """Where a PCI function sits: ``DDDD:BB:DD.F``.

    The domain has 4 to 8 hexadecimal digits: Linux numbers the domains of VMD controllers from
    0x10000 (``drivers/pci/controller/vmd.c``). Addresses sort by number, not by text.

    Attributes:
        domain: 0 to 0xffffffff.
        bus: 0 to 255.
        device: 0 to 31.
        function: 0 to 7.
    """

    domain: int
    bus: int
    device: int
    function: int

    @classmethod
    def parse(cls, text: str, *, where: str | None = None) -> PciAddress:
        """Read an address, full (``0000:65:00.0``) or short (``65:00.0``, domain 0).

        Raises:
            ParseError: the text is no address.
        """
        match = re.fullmatch(_ADDRESS, text)
        if match is None:
            raise ParseError(
                text,
                "a PCI address such as 0000:65:00.0 or 65:00.0 "
                "(domain of 4 to 8 hexadecimal digits, bus, device 00 to 1f, function 0 to 7)",
                where=where,
            )
        domain, bus, device, function = match.groups()
        return cls(int(domain or "0", 16), int(bus, 16), int(device, 16), int(function))

    @classmethod
    def of_name(cls, name: str) -> PciAddress | None:
        """The address of the function that the kernel calls so; ``None``: it is no PCI function."""
        try:
            address = cls.parse(name)
        except ParseError:
            return None
        return address if str(address) == name else None

    def __str__(self) -> str:
        domain, bus = hexadecimal(self.domain, 4), hexadecimal(self.bus, 2)
        return f"{domain}:{bus}:{hexadecimal(self.device, 2)}.{hexadecimal(self.function, 1)}"

    @property
    def slot(self) -> tuple[int, int, int]:
        """What the functions of one card share (domain, bus and device)."""
        return (self.domain, self.bus, self.device)


@attrs.frozen
class Unavailable:
    """Something that exists but could not be read.

    Attributes:
        errno: the kernel's errno, or 0 when it is not an errno that stood in the way.
        why: a short phrase: the errno's text, ``device locked``, ``not a number``.
    """

    errno: int
    why: str

    def __str__(self) -> str:
        return self.why


BindingState = Literal["bound", "unbound", "releasing", "unknown"]
"""``releasing``: the driver's link is gone, and the kernel is not done with its unbind."""


@attrs.frozen
class Problem:
    """Something on the host that is not as it should be; it hides nothing else.

    Attributes:
        subject: what it is about: an address, an mdev UUID, a path.
        path: the file, relative to the root, or ``None``.
        sentence: what is wrong, for people.
    """

    subject: str
    path: str | None
    sentence: str


# A base class of the PCI Code and ID Assignment Specification.
CLASS_BRIDGE = 0x06
# Vendor and class code of NVIDIA's NVSwitch: "other bridge", yet an endpoint that guests are given.
NVSWITCH = (0x10DE, 0x068000)

SRIOV_MANAGE = "usr/lib/nvidia/sriov-manage"
"""NVIDIA's script, relative to the root, that makes and removes all virtual functions of a GPU
(``-e ADDRESS``, ``-d ADDRESS``): its closed vGPU driver refuses a store to ``sriov_numvfs``."""


@attrs.frozen
class PciDevice:
    """One PCI function, as a scan that takes no lock and wakes nothing sees it.

    Attributes:
        address: where it sits.
        vendor_id, device_id: 16 bits each.
        subsystem_vendor_id, subsystem_device_id: 16 bits each, 0 where the card gives none;
            ``None`` where a recording has no ``modalias`` and no ``subsystem_*`` files.
        class_code: 24 bits: base class, class, programming interface.
        revision: 8 bits, or ``None`` where the kernel has no such file.
        numa_node: the node, or ``None`` (the kernel's -1).
        driver: name of the driver that is bound, or ``None``.
        iommu_group: number of its IOMMU group, or ``None``.
        physfn: the physical function that it is a virtual function of, or ``None``.
        total_vfs: how many virtual functions it can have; ``None`` when it is no physical function.
        path: its directory relative to the root (``sys/devices/pci0000:64/…/0000:65:00.0``).
        brings_vfio: its driver is a host driver, and makes a VFIO device of it without vfio-pci: so
            does NVIDIA's vGPU host driver with virtual functions.
    """

    address: PciAddress
    vendor_id: int
    device_id: int
    subsystem_vendor_id: int | None
    subsystem_device_id: int | None
    class_code: int
    revision: int | None | Unavailable
    numa_node: int | None | Unavailable
    driver: str | None | Unavailable
    iommu_group: int | None | Unavailable
    physfn: PciAddress | None | Unavailable
    total_vfs: int | None | Unavailable
    path: str
    brings_vfio: bool = False

    @property
    def base_class(self) -> int:
        """The upper 8 bits of the class code."""
        return self.class_code >> 16

    @property
    def is_bridge(self) -> bool:
        """A host bridge, PCI bridge or other bridge (base class 06), never handed to a guest.

        An NVSwitch is none, although its class code says so.
        """
        return self.base_class == CLASS_BRIDGE and (self.vendor_id, self.class_code) != NVSWITCH

    @property
    def is_vf(self) -> bool:
        """A virtual function."""
        return isinstance(self.physfn, PciAddress)

    @property
    def above(self) -> tuple[PciAddress, ...]:
        """The bridges and controllers that its path leads through, from the root on."""
        parts = self.path.split("/")[:-1]
        return tuple(PciAddress.parse(p) for p in parts if re.fullmatch(_ADDRESS, p))

    @property
    def has_driver(self) -> bool:
        """A driver is bound to it."""
        return isinstance(self.driver, str)

    @property
    def blocks_group(self) -> bool:
        """Whether its driver keeps its group from a VFIO user (:attr:`IommuGroup.blockers`)."""
        driver = self.driver
        return isinstance(driver, str) and not is_dma_managed(driver) and not self.brings_vfio

    def on(self, driver: str | None | Unavailable) -> PciDevice:
        """The function as it is with a driver, or with none."""
        kept = self.brings_vfio and driver == self.driver
        return attrs.evolve(self, driver=driver, brings_vfio=kept)

    @property
    def ids(self) -> str:
        """``vendor:device`` in hexadecimal, for example ``10de:2236``."""
        return f"{hexadecimal(self.vendor_id, 4)}:{hexadecimal(self.device_id, 4)}"


@attrs.frozen
class Driver:
    """A PCI driver that is registered now.

    Attributes:
        name: as in ``/sys/bus/pci/drivers`` (``vfio-pci``).
        module: the module that brought it (``vfio_pci``), or ``None`` when it is built in.
    """

    name: str
    module: str | None


# Drivers with `.driver_managed_dma = true` (Linux 6.12): drivers/pci/pcie/portdrv.c,
# drivers/pci/pci-stub.c and the vfio-pci family. They do not take the group away from a VFIO user.
_DRIVER_MANAGED_DMA = frozenset({"pcieport", "pci-stub", "vfio-pci"})


def is_vfio_driver(name: str) -> bool:
    """Say whether a PCI driver hands devices to VFIO: ``vfio-pci`` or one of its variants.

    Variant drivers are named after their module (KBUILD_MODNAME), which ends in ``vfio_pci``:
    ``nvgrace_gpu_vfio_pci``, ``mlx5_vfio_pci`` (``drivers/vfio/pci/*/Makefile``).
    """
    return name == "vfio-pci" or name.replace("-", "_").endswith("_vfio_pci")


def is_dma_managed(driver: str) -> bool:
    """Say whether a driver leaves the group's DMA to a VFIO user (``driver_managed_dma``)."""
    return driver in _DRIVER_MANAGED_DMA or is_vfio_driver(driver)


def _frozen_drivers(drivers: Mapping[str, Driver]) -> Mapping[str, Driver]:
    return MappingProxyType(dict(drivers))


def _frozen_details(details: Mapping[PciAddress, Details]) -> Mapping[PciAddress, Details]:
    return MappingProxyType(dict(details))


def __getattr__(name: str) -> Any:
    """What :mod:`vfiohost.facts` has is loaded when it is first asked for (PEP 562).

    attrs makes a class in half a millisecond, and ``vfiohost list`` needs none of these.
    """
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from vfiohost import facts

    return getattr(facts, name)


# Not slotted: the derived views below are computed once, on first use.
@attrs.frozen(slots=False)
class Snapshot:
    """A host as it was read at one moment.

    Attributes:
        kernel: the kernel release (``6.12.117-amd64``), or ``None`` where a recording has none.
        devices: all PCI functions, in order of address.
        drivers: the PCI drivers that are registered, by name.
        problems: what could not be read or made no sense.
        mdev: the mediated devices, or ``None`` when the scan did not look at them.
        details: what was read on demand, by address; a planner names the devices that it needs.
        usage: who uses the devices that something would be taken from, or ``None``: nobody asked.
        vgpus: the virtual functions that take a vGPU type, or ``None`` when nobody looked at them.
    """

    kernel: str | None
    devices: tuple[PciDevice, ...]
    drivers: Mapping[str, Driver] = attrs.field(converter=_frozen_drivers)
    problems: tuple[Problem, ...] = ()
    mdev: MdevBus | None = None
    details: Mapping[PciAddress, Details] = attrs.field(factory=dict, converter=_frozen_details)
    usage: Usage | None = None
    vgpus: VgpuFacts | None = None

    @cached_property
    def pci(self) -> Mapping[PciAddress, PciDevice]:
        """The functions by address."""
        return MappingProxyType({d.address: d for d in self.devices})

    @cached_property
    def groups(self) -> Mapping[int, IommuGroup]:
        """The IOMMU groups that have PCI members, by number."""
        from vfiohost.facts import IommuGroup

        members: dict[int, list[PciDevice]] = defaultdict(list)
        for device in self.devices:
            if isinstance(device.iommu_group, int):
                members[device.iommu_group].append(device)
        return MappingProxyType(
            {n: IommuGroup(n, tuple(members[n])) for n in sorted(members)},
        )

    @cached_property
    def virtual_functions(self) -> Mapping[PciAddress, tuple[PciDevice, ...]]:
        """The virtual functions that exist, by physical function."""
        found: dict[PciAddress, list[PciDevice]] = defaultdict(list)
        for device in self.devices:
            if isinstance(device.physfn, PciAddress):
                found[device.physfn].append(device)
        return MappingProxyType({pf: tuple(vfs) for pf, vfs in found.items()})

    @cached_property
    def vgpu_functions(self) -> frozenset[PciAddress]:
        """The virtual functions that are vGPUs without mediated devices."""
        known = self.vgpus.functions if self.vgpus else ()
        return frozenset(f.address for f in known if isinstance(f.current, int) and f.current)

    def is_releasing(self, device: PciDevice) -> bool:
        """Whether a driver is on its way out: its link is gone, but the kernel is not done.

        That is so while an unbind waits for a VFIO user: the ``driver`` link is already removed,
        ``uevent`` still has ``DRIVER=`` or is locked (``__device_release_driver`` in
        ``drivers/base/dd.c``). Only known where :attr:`details` has the device.
        """
        details = self.details.get(device.address)
        if device.driver is not None or details is None:
            return False
        uevent = details.uevent_driver
        return isinstance(uevent, str) or (isinstance(uevent, Unavailable) and not uevent.errno)

    def state_of(self, device: PciDevice) -> BindingState:
        """Whether a driver has the device, or is on its way out (:meth:`is_releasing`)."""
        if isinstance(device.driver, Unavailable):
            return "unknown"
        if device.has_driver:
            return "bound"
        return "releasing" if self.is_releasing(device) else "unbound"

    def __reduce__(self) -> tuple[object, ...]:
        # The read-only views of the mappings cannot be pickled; the mappings can.
        drivers, details = dict(self.drivers), dict(self.details)
        fields = (self.kernel, self.devices, drivers, self.problems, self.mdev, details, self.usage)
        return (Snapshot, (*fields, self.vgpus))

    def group_of(self, device: PciDevice) -> IommuGroup | None:
        """The IOMMU group of a device, or ``None`` when it has none."""
        if isinstance(device.iommu_group, int):
            return self.groups[device.iommu_group]
        return None


def natural_key(text: str) -> tuple[tuple[int, int, str], ...]:
    """A sort key in which ``nvidia-9`` comes before ``nvidia-10``."""
    # Not by int(): names are not ours, and may have more digits than Python converts.
    return tuple(
        (1, len(part.lstrip("0")), part.lstrip("0")) if "0" <= part[0] <= "9" else (0, 0, part)
        for part in re.split(r"([0-9]+)", text)
        if part
    )


def sorted_naturally(texts: Iterable[str]) -> list[str]:
    """Sort texts so that numbers inside them count as numbers."""
    return sorted(texts, key=natural_key)
