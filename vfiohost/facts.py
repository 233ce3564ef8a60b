"""What there is besides functions and drivers: the part of the model that a list does without.

Import it from :mod:`vfiohost.model`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from vfiohost.model import PciAddress, PciDevice, Unavailable


@attrs.frozen
class IommuGroup:
    """The functions that the IOMMU cannot tell apart: they go to one guest together.

    Attributes:
        number: as in ``/sys/kernel/iommu_groups``.
        members: in order of address.
    """

    number: int
    members: tuple[PciDevice, ...]

    @property
    def endpoints(self) -> tuple[PciDevice, ...]:
        """The members that are no bridges."""
        return tuple(m for m in self.members if not m.is_bridge)

    @property
    def blockers(self) -> tuple[PciDevice, ...]:
        """The members whose driver keeps the group from a VFIO user.

        A member blocks when a driver is bound that uses the DMA API for itself; no driver, a bridge
        on pcieport, pci-stub and the VFIO drivers do not block (``iommu_device_use_default_domain``
        in ``drivers/iommu/iommu.c``). Nor does a member that its driver has registered with VFIO:
        NVIDIA's vGPU host driver has ``driver_managed_dma`` where it does so (``nv_pci_driver`` in
        ``kernel-open/nvidia/nv-pci.c``), and before Linux 5.19 the kernel asked just that
        (``vfio_dev_viable`` in ``drivers/vfio/vfio.c``).
        """
        return tuple(m for m in self.members if m.blocks_group)

    @property
    def is_viable(self) -> bool:
        """Whether a VFIO user could own the group now (``VFIO_GROUP_FLAGS_VIABLE``)."""
        return not self.blockers


@attrs.frozen
class Details:
    """Attributes of one function whose reading may block, or that only some questions need.

    The kernel up to at least 6.1 takes the device lock to show ``uevent``, ``driver_override`` and
    ``sriov_numvfs``; they are read in a helper process with a deadline.

    Attributes:
        driver_override: the name, or ``None`` when not set.
        uevent_driver: ``DRIVER=`` of ``uevent``, or ``None``.
        boot_vga: whether the firmware's console is on it; ``None`` when it is no VGA device.
        modalias: the whole modalias text, or ``None``.
        unbind_lock: whether NVIDIA's driver keeps new users off the GPU (its ``unbindLock``);
            ``None`` where there is no such lock.
    """

    driver_override: str | None | Unavailable
    uevent_driver: str | None | Unavailable
    boot_vga: bool | None | Unavailable
    modalias: str | None | Unavailable
    unbind_lock: bool | None | Unavailable = None


@attrs.frozen
class ResetFacts:
    """What sysfs says of a device's resets.

    Attributes:
        has_reset: there is a ``reset``.
        methods: the methods that are chosen, in the kernel's order; ``None`` where the kernel does
            not show them (before Linux 5.15).
        enable: of a device on a VFIO driver ``1`` while somebody has it open, else ``0``.
    """

    has_reset: bool
    methods: str | None | Unavailable
    enable: str | None | Unavailable


@attrs.frozen
class SriovFacts:
    """What a host says of a physical function and its virtual ones.

    Attributes:
        num_vfs: how many there are.
        autoprobe: whether drivers are offered new ones; ``None`` where the kernel does not say.
        offset, stride: from the physical function's place to the first one's, and from one to the
            next (PCI Express, SR-IOV Extended Capability); ``None`` where they cannot be read.
        vf_device: their device id; ``None`` where it cannot be read.
        has_script: NVIDIA's sriov-manage is there.
        enable_sriov: vfio-pci makes virtual functions (its module parameter).
    """

    num_vfs: int | Unavailable
    autoprobe: bool | None = None
    offset: int | None = None
    stride: int | None = None
    vf_device: int | None = None
    has_script: bool = False
    enable_sriov: bool = False


@attrs.frozen
class MdevType:
    """A kind of mediated device that a parent offers.

    Attributes:
        type_id: the directory name (``nvidia-595``).
        name: ``NVIDIA A10-8Q``, or ``None`` where the driver gives no name.
        available_instances: how many more can be created now.
        device_api: ``vfio-pci``, or what the driver says.
        description: the driver's text, or ``None``.
    """

    type_id: str
    name: str | None
    available_instances: int | Unavailable
    device_api: str | None | Unavailable
    description: str | None | Unavailable


@attrs.frozen
class MdevParent:
    """A device that can make mediated devices.

    Attributes:
        name: as in ``/sys/class/mdev_bus``: an address, or a name such as ``mtty``.
        path: its directory relative to the root.
        types: what it offers, in natural order of ``type_id``.
        address: its address, or ``None`` when it is no PCI device.
        physfn: the physical function behind it when it is a virtual function.
    """

    name: str
    path: str
    types: tuple[MdevType, ...]
    address: PciAddress | None
    physfn: PciAddress | None


@attrs.frozen
class MediatedDevice:
    """A mediated device that exists.

    Attributes:
        uuid: in lower case.
        parent: name of its parent, as in ``/sys/class/mdev_bus``.
        type_id: ``nvidia-595``.
        type_name: ``NVIDIA A10-8Q``, or ``None``.
        driver: ``vfio_mdev``, ``nvidia-vgpu-vfio``, …, or ``None``.
        iommu_group: number of its group, or ``None``.
    """

    uuid: str
    parent: str
    type_id: str | Unavailable
    type_name: str | None | Unavailable
    driver: str | None | Unavailable
    iommu_group: int | None | Unavailable


@attrs.frozen
class MdevBus:
    """All mediated devices and their parents.

    Attributes:
        parents: in order of address, then name.
        devices: in order of parent, then UUID.
    """

    parents: tuple[MdevParent, ...]
    devices: tuple[MediatedDevice, ...]


@attrs.frozen
class VgpuFunction:
    """A virtual function that takes a vGPU type, without mediated devices.

    Attributes:
        address: where it sits.
        current: the number of its type, 0 when it is no vGPU.
        creatable: numbers and names of what its card has room for now.
    """

    address: PciAddress
    current: int | Unavailable
    creatable: tuple[tuple[int, str], ...] | Unavailable


@attrs.frozen
class CardVgpuType:
    """A vGPU type of a card, as the vGPU host driver's own file has it.

    Attributes:
        number: as in ``current_vgpu_type``.
        name: ``NVIDIA L40S-2Q``.
        max_instances: how many fit on one card.
        framebuffer_mib: memory of one in MiB, or ``None`` where the file does not say.
    """

    number: int
    name: str
    max_instances: int
    framebuffer_mib: int | None = None


@attrs.frozen
class CardTypes:
    """The vGPU types of all cards of one kind.

    Attributes:
        device_id: of the cards.
        subsystem_device_id: of the cards, or ``None``: of any.
        types: in the order of the file.
    """

    device_id: int
    subsystem_device_id: int | None
    types: tuple[CardVgpuType, ...]


@attrs.frozen
class VgpuFacts:
    """What is known of vGPUs that are no mediated devices.

    Attributes:
        functions: the virtual functions that take a type, in order of address.
        cards: what the vGPU host driver's file says of their cards.
    """

    functions: tuple[VgpuFunction, ...] = ()
    cards: tuple[CardTypes, ...] = ()
