"""What VFIO's ioctls say. Each function is named after its ioctl (``linux/vfio.h``)."""

from __future__ import annotations

import errno
import os
import struct
from typing import TYPE_CHECKING, Final

import attrs

from vfiohost import native
from vfiohost.errors import KernelError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vfiohost.sysfs import Sysfs

GROUP_FLAGS_VIABLE: Final = 1 << 0
GROUP_FLAGS_CONTAINER_SET: Final = 1 << 1

DEVICE_FLAGS_RESET: Final = 1 << 0
DEVICE_FLAGS_PCI: Final = 1 << 1
DEVICE_FLAGS_CAPS: Final = 1 << 7

_INFO: Final = struct.Struct("=IIIII")  # argsz, flags, num_regions, num_irqs, cap_offset
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
    fd, shown = _open_group(sysfs, group)
    try:
        return GroupStatus(native.group_get_status(fd, shown=shown))
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
    info = native.device_get_info(fd, shown=shown)
    _, flags, num_regions, num_irqs, offset = _INFO.unpack_from(info)
    found = _capabilities(info, offset) if flags & DEVICE_FLAGS_CAPS else ()
    return DeviceInfo(flags, num_regions, num_irqs, tuple(found))


def _open_group(sysfs: Sysfs, group: int) -> tuple[int, str]:
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


def _capabilities(info: bytes, offset: int) -> Iterator[Capability]:
    """Walk the chain of capabilities: it must lead onwards, and ends where it leaves the buffer."""
    while offset and offset + _CAPABILITY.size <= len(info):
        number, version, following = _CAPABILITY.unpack_from(info, offset)
        if following and following <= offset:
            following = 0
        end = following or len(info)
        yield Capability(number, version, info[offset + _CAPABILITY.size : end])
        offset = following
