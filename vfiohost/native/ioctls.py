"""The ioctls of VFIO and iommufd, each named after its own; ``shown`` is how an error names it."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any, Final

from vfiohost._native import ffi, lib
from vfiohost.errors import KernelError
from vfiohost.native.answers import checked, encoded, text

if TYPE_CHECKING:
    from collections.abc import Callable
    from mmap import mmap

    Buffer = bytearray | mmap

_INFO_SIZE: Final = 256  # the structure and the capabilities that kernels have today
_INFO_MAX: Final = 1 << 20
_INFO_ROUNDS: Final = 4  # capabilities may appear between two calls


def group_get_status(fd: int, *, shown: str) -> int:
    """Ask ``VFIO_GROUP_GET_STATUS`` of a group; returns ``VFIO_GROUP_FLAGS_...``.

    Raises:
        KernelError: the kernel's answer; ENOTTY when this is no VFIO group.
    """
    flags = ffi.new("uint32_t *")
    checked(lib.vh_group_get_status(fd, flags), "ioctl", shown, b"GROUP_GET_STATUS")
    return int(flags[0])


def device_get_info(fd: int, *, shown: str) -> bytes:
    """Ask ``VFIO_DEVICE_GET_INFO`` of a device, with as much room as the kernel wants.

    Returns:
        A ``struct vfio_device_info`` and its capabilities, then zeros.

    Raises:
        KernelError: the kernel's answer; ENOTTY when this is no VFIO device; EOVERFLOW when it
            wants more than a megabyte, or never settles on a size.
    """
    return _info(
        lambda buffer, size: lib.vh_device_get_info(fd, buffer, size), shown, b"DEVICE_GET_INFO"
    )


def device_get_region_info(fd: int, index: int, *, shown: str) -> bytes:
    """Ask ``VFIO_DEVICE_GET_REGION_INFO`` of a device; as :func:`device_get_info`.

    Returns:
        A ``struct vfio_region_info`` and its capabilities, then zeros.
    """
    return _info(
        lambda buffer, size: lib.vh_device_get_region_info(fd, index, buffer, size),
        shown,
        b"DEVICE_GET_REGION_INFO",
    )


def device_get_irq_info(fd: int, index: int, *, shown: str) -> tuple[int, int]:
    """Ask ``VFIO_DEVICE_GET_IRQ_INFO`` of a device; returns the flags and the count."""
    flags, count = ffi.new("uint32_t *"), ffi.new("uint32_t *")
    checked(
        lib.vh_device_get_irq_info(fd, index, flags, count), "ioctl", shown, b"DEVICE_GET_IRQ_INFO"
    )
    return int(flags[0]), int(count[0])


def device_reset(fd: int, *, shown: str) -> None:
    """``VFIO_DEVICE_RESET``."""
    checked(lib.vh_device_reset(fd), "ioctl", shown, b"DEVICE_RESET")


def get_api_version(container: int, *, shown: str) -> int:
    """``VFIO_GET_API_VERSION``."""
    return checked(lib.vh_get_api_version(container), "ioctl", shown, b"GET_API_VERSION")


def check_extension(container: int, extension: int, *, shown: str) -> bool:
    """``VFIO_CHECK_EXTENSION``."""
    return (
        checked(lib.vh_check_extension(container, extension), "ioctl", shown, b"CHECK_EXTENSION")
        > 0
    )


def set_iommu(container: int, kind: int, *, shown: str) -> None:
    """``VFIO_SET_IOMMU``."""
    checked(lib.vh_set_iommu(container, kind), "ioctl", shown, b"SET_IOMMU")


def group_set_container(group: int, container: int, *, shown: str) -> None:
    """``VFIO_GROUP_SET_CONTAINER``."""
    checked(lib.vh_group_set_container(group, container), "ioctl", shown, b"GROUP_SET_CONTAINER")


def group_get_device_fd(group: int, name: str, *, shown: str) -> int:
    """``VFIO_GROUP_GET_DEVICE_FD``; returns a file descriptor, which the caller closes."""
    text = encoded(name, "ioctl", shown, b"GROUP_GET_DEVICE_FD")
    return checked(lib.vh_group_get_device_fd(group, text), "ioctl", shown, b"GROUP_GET_DEVICE_FD")


def iommu_map_dma(container: int, memory: Buffer, iova: int, *, shown: str) -> None:
    """``VFIO_IOMMU_MAP_DMA`` of whole pages of memory, for reading and writing."""
    address = ffi.from_buffer(memory)
    result = lib.vh_iommu_map_dma(container, address, iova, len(address))
    checked(result, "ioctl", shown, b"IOMMU_MAP_DMA")


def iommu_unmap_dma(container: int, iova: int, size: int, *, shown: str) -> None:
    """``VFIO_IOMMU_UNMAP_DMA``."""
    checked(lib.vh_iommu_unmap_dma(container, iova, size), "ioctl", shown, b"IOMMU_UNMAP_DMA")


def device_bind_iommufd(device: int, iommufd: int, *, shown: str) -> int:
    """``VFIO_DEVICE_BIND_IOMMUFD``; returns the device's id in the iommufd."""
    return _id(
        lambda found: lib.vh_device_bind_iommufd(device, iommufd, found),
        shown,
        b"DEVICE_BIND_IOMMUFD",
    )


def device_attach_iommufd_pt(device: int, number: int, *, shown: str) -> None:
    """``VFIO_DEVICE_ATTACH_IOMMUFD_PT``."""
    checked(
        lib.vh_device_attach_iommufd_pt(device, number), "ioctl", shown, b"DEVICE_ATTACH_IOMMUFD_PT"
    )


def ioas_alloc(iommufd: int, *, shown: str) -> int:
    """``IOMMU_IOAS_ALLOC``; returns the id of the address space."""
    return _id(lambda found: lib.vh_ioas_alloc(iommufd, found), shown, b"IOAS_ALLOC")


def ioas_map(iommufd: int, number: int, memory: Buffer, *, shown: str) -> int:
    """``IOMMU_IOAS_MAP`` of whole pages of memory; returns the address that devices see it at."""
    address = ffi.from_buffer(memory)
    iova = ffi.new("uint64_t *")
    checked(
        lib.vh_ioas_map(iommufd, number, address, len(address), iova), "ioctl", shown, b"IOAS_MAP"
    )
    return int(iova[0])


def ioas_unmap(iommufd: int, number: int, iova: int, size: int, *, shown: str) -> None:
    """``IOMMU_IOAS_UNMAP``."""
    checked(lib.vh_ioas_unmap(iommufd, number, iova, size), "ioctl", shown, b"IOAS_UNMAP")


def iommu_destroy(iommufd: int, number: int, *, shown: str) -> None:
    """``IOMMU_DESTROY``."""
    checked(lib.vh_iommu_destroy(iommufd, number), "ioctl", shown, b"DESTROY")


def _info(ask: Callable[[Any, int], int], shown: str, name: bytes) -> bytes:
    """Ask for an info structure with ever more room, until it suffices (argsz negotiation)."""
    size = _INFO_SIZE
    for _ in range(_INFO_ROUNDS):
        buffer = ffi.new("char[]", size)
        wanted = checked(ask(buffer, size), "ioctl", shown, name)
        if wanted <= size:
            return bytes(ffi.buffer(buffer, size))
        if wanted > _INFO_MAX:
            break
        size = wanted
    raise KernelError("ioctl", errno.EOVERFLOW, shown, text(name))


def _id(ask: Callable[[Any], int], shown: str, name: bytes) -> int:
    found = ffi.new("uint32_t *")
    checked(ask(found), "ioctl", shown, name)
    return int(found[0])
