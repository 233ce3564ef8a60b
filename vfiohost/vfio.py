"""What VFIO's ioctls say. Each function is named after its ioctl (``linux/vfio.h``)."""

from __future__ import annotations

import errno
import os
import stat
import struct
from typing import TYPE_CHECKING, Final

import attrs

from vfiohost import native
from vfiohost.errors import KernelError
from vfiohost.native import ioctls

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vfiohost.sysfs import Sysfs

GROUP_FLAGS_VIABLE: Final = 1 << 0
GROUP_FLAGS_CONTAINER_SET: Final = 1 << 1

API_VERSION: Final = 0
TYPE1V2_IOMMU: Final = 3
NOIOMMU_IOMMU: Final = 8

REGION_FLAGS: Final = ("read", "write", "mmap")
"""``VFIO_REGION_INFO_FLAG_...``, from bit 0; the next one says that there are capabilities."""
IRQ_FLAGS: Final = ("eventfd", "maskable", "automasked", "noresize")
"""``VFIO_IRQ_INFO_...``, from bit 0."""
PCI_REGIONS: Final = ("BAR0", "BAR1", "BAR2", "BAR3", "BAR4", "BAR5", "ROM", "CONFIG", "VGA")
"""The regions of a PCI device (``VFIO_PCI_BAR0_REGION_INDEX`` and so on)."""
PCI_IRQS: Final = ("INTx", "MSI", "MSI-X", "ERR", "REQ")
"""The interrupts of a PCI device (``VFIO_PCI_INTX_IRQ_INDEX`` and so on)."""

DEVICE_FLAGS_RESET: Final = 1 << 0
DEVICE_FLAGS_PCI: Final = 1 << 1
DEVICE_FLAGS_CAPS: Final = 1 << 7

_INFO: Final = struct.Struct("=IIIII")  # argsz, flags, num_regions, num_irqs, cap_offset
_REGION: Final = struct.Struct("=IIIIQQ")  # argsz, flags, index, cap_offset, size, offset
_REGION_CAPS: Final = 1 << len(REGION_FLAGS)
_CAPABILITY: Final = struct.Struct("=HHI")  # id, version, offset of the next one


@attrs.frozen
class GroupStatus:
    """What ``VFIO_GROUP_GET_STATUS`` says.

    Attributes:
        flags: as the kernel gives them.
    """

    flags: int

    @property
    def is_viable(self) -> bool:
        """A VFIO user could own the group now."""
        return bool(self.flags & GROUP_FLAGS_VIABLE)

    @property
    def has_container(self) -> bool:
        """A VFIO user has put the group into a container."""
        return bool(self.flags & GROUP_FLAGS_CONTAINER_SET)


@attrs.frozen
class Capability:
    """One capability of a VFIO device.

    Attributes:
        id: ``VFIO_DEVICE_INFO_CAP_...``.
        version: of its layout.
        data: what follows its header, up to the next one or to the end of the buffer.
    """

    id: int
    version: int
    data: bytes


@attrs.frozen
class DeviceInfo:
    """What ``VFIO_DEVICE_GET_INFO`` says.

    Attributes:
        flags: as the kernel gives them.
        num_regions, num_irqs: how many indices each of the other ioctls takes.
        capabilities: in the kernel's order.
    """

    flags: int
    num_regions: int
    num_irqs: int
    capabilities: tuple[Capability, ...] = ()

    @property
    def can_reset(self) -> bool:
        """The device can be reset by ``VFIO_DEVICE_RESET``."""
        return bool(self.flags & DEVICE_FLAGS_RESET)

    @property
    def is_pci(self) -> bool:
        """It is a PCI device, or pretends to be one."""
        return bool(self.flags & DEVICE_FLAGS_PCI)


@attrs.frozen
class RegionInfo:
    """What ``VFIO_DEVICE_GET_REGION_INFO`` says.

    Attributes:
        index: which region.
        flags: as the kernel gives them.
        size: bytes; 0 for a region that the device does not have.
        offset: where it begins in the device's file.
        capabilities: in the kernel's order.
    """

    index: int
    flags: int
    size: int
    offset: int
    capabilities: tuple[Capability, ...] = ()

    @property
    def flag_names(self) -> tuple[str, ...]:
        """Those of :data:`REGION_FLAGS` that are set."""
        return _names(self.flags, REGION_FLAGS)


@attrs.frozen
class IrqInfo:
    """What ``VFIO_DEVICE_GET_IRQ_INFO`` says.

    Attributes:
        index: which kind of interrupt.
        flags: as the kernel gives them.
        count: how many interrupts of it there are.
    """

    index: int
    flags: int
    count: int

    @property
    def flag_names(self) -> tuple[str, ...]:
        """Those of :data:`IRQ_FLAGS` that are set."""
        return _names(self.flags, IRQ_FLAGS)


def group_get_status(sysfs: Sysfs, group: int) -> GroupStatus:
    """Ask the kernel about a VFIO group, through ``dev/vfio/GROUP`` (or ``noiommu-GROUP``).

    A group can be open only once (``drivers/vfio/group.c:vfio_group_fops_open``): for the
    microseconds in which it is asked, no virtual machine can open it.

    Args:
        sysfs: the host.
        group: the number of its IOMMU group.

    Raises:
        KernelError: the kernel's answer; EBUSY when somebody has the group open, ENOENT when none
            of its devices is bound to a VFIO driver, EACCES without the right to open the node.
    """
    fd, shown = open_group(sysfs, group)
    try:
        return GroupStatus(ioctls.group_get_status(fd, shown=shown))
    finally:
        os.close(fd)


def device_get_info(fd: int, *, shown: str = "the VFIO device") -> DeviceInfo:
    """Ask the kernel about a VFIO device that is open.

    Args:
        fd: the device, from ``VFIO_GROUP_GET_DEVICE_FD`` or ``dev/vfio/devices/vfioN``.
        shown: how errors name it.

    Raises:
        KernelError: the kernel's answer; EINVAL before a cdev is bound to an iommufd.
    """
    info = ioctls.device_get_info(fd, shown=shown)
    _, flags, num_regions, num_irqs, offset = _INFO.unpack_from(info)
    found = _capabilities(info, offset) if flags & DEVICE_FLAGS_CAPS else ()
    return DeviceInfo(flags, num_regions, num_irqs, tuple(found))


def device_get_region_info(fd: int, index: int, *, shown: str = "the VFIO device") -> RegionInfo:
    """Ask the kernel about a region of a VFIO device that is open.

    Args:
        fd: the device.
        index: which region, below :attr:`DeviceInfo.num_regions`.
        shown: how errors name the device.

    Raises:
        KernelError: the kernel's answer; EINVAL for a region that this device cannot have (VGA).
    """
    info = ioctls.device_get_region_info(fd, index, shown=shown)
    _, flags, number, cap_offset, size, offset = _REGION.unpack_from(info)
    found = _capabilities(info, cap_offset) if flags & _REGION_CAPS else ()
    return RegionInfo(number, flags, size, offset, tuple(found))


def device_get_irq_info(fd: int, index: int, *, shown: str = "the VFIO device") -> IrqInfo:
    """Ask the kernel about a kind of interrupt of a VFIO device that is open.

    Args:
        fd: the device.
        index: which, below :attr:`DeviceInfo.num_irqs`.
        shown: how errors name the device.

    Raises:
        KernelError: the kernel's answer; EINVAL for a kind that this device cannot have.
    """
    flags, count = ioctls.device_get_irq_info(fd, index, shown=shown)
    return IrqInfo(index, flags, count)


def open_node(sysfs: Sysfs, path: str) -> int:
    """Open a node of VFIO's or iommufd's for its ioctls: it must be a character device.

    Args:
        sysfs: the host.
        path: the node, relative to the root (``dev/vfio/vfio``). A link is not followed.

    Returns:
        A file descriptor, which the caller closes.

    Raises:
        KernelError: the kernel's answer; ENOTTY when it is no character device.
    """
    shown = sysfs.shown(path)
    # Looked at before it is opened: to open a FIFO or another device may have effects.
    found = native.open_in(sysfs.fd, path, os.O_PATH | os.O_NOFOLLOW, shown=shown)
    try:
        if not stat.S_ISCHR(os.fstat(found).st_mode):
            raise KernelError("open", errno.ENOTTY, shown)
    finally:
        os.close(found)
    flags = os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW
    return native.open_in(sysfs.fd, path, flags, shown=shown)


def open_group(sysfs: Sysfs, group: int) -> tuple[int, str]:
    """Open a group: ``dev/vfio/GROUP``, or ``noiommu-GROUP`` where there is no IOMMU behind it.

    Args:
        sysfs: the host.
        group: the number of its IOMMU group.

    Returns:
        A file descriptor, which the caller closes, and the node as a person would type it.

    Raises:
        KernelError: as :func:`group_get_status`.
    """
    flags = os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY
    path = f"dev/vfio/{group}"
    try:
        return native.open_in(sysfs.fd, path, flags, shown=sysfs.shown(path)), sysfs.shown(path)
    except KernelError as error:
        without_iommu = f"dev/vfio/noiommu-{group}"
        if error.errno != errno.ENOENT:
            raise
        try:
            fd = native.open_in(sysfs.fd, without_iommu, flags, shown=sysfs.shown(without_iommu))
        except KernelError:
            raise error from None
        return fd, sysfs.shown(without_iommu)


def _names(flags: int, names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for bit, name in enumerate(names) if flags & 1 << bit)


def _capabilities(info: bytes, offset: int) -> Iterator[Capability]:
    """Walk the chain of capabilities: it must lead onwards, and ends where it leaves the buffer."""
    while offset and offset + _CAPABILITY.size <= len(info):
        number, version, following = _CAPABILITY.unpack_from(info, offset)
        if following and following <= offset:
            following = 0
        end = following or len(info)
        yield Capability(number, version, info[offset + _CAPABILITY.size : end])
        offset = following
