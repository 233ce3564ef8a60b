"""What a virtual machine monitor does with VFIO. Called in the guest.

The descriptors stay open in the worker that opens them, as they do in QEMU, until :func:`close` or
the worker's end. Numbers are from ``include/uapi/linux/vfio.h``.
"""

from __future__ import annotations

import fcntl
import os
import struct
from errno import errorcode
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_BASE = ord(";") << 8 | 100
_SET_IOMMU = _BASE + 2
_GROUP_GET_STATUS = _BASE + 3
_GROUP_SET_CONTAINER = _BASE + 4
_GROUP_GET_DEVICE_FD = _BASE + 6
_TYPE1V2_IOMMU = 3

_open: list[int] = []


def open_device(subject: str, *, only_group: bool = False) -> str:
    """Open a device through its group and a container.

    Args:
        subject: a PCI address, or the UUID of a mediated device.
        only_group: stop after the group's node.

    Returns:
        ``ok``, or the step that failed with its errno: ``SET_CONTAINER EPERM``.
    """
    before = len(_open)
    try:
        for step in _steps(subject, only_group=only_group):
            name = step
    except OSError as error:
        while len(_open) > before:
            os.close(_open.pop())
        return f"{name} {errorcode[error.errno or 0]}"
    return "ok"


def close() -> None:
    """Close all that this worker has open, the device before its group."""
    while _open:
        os.close(_open.pop())


def group_flags(group: str) -> int:
    """Ask for a group's status: bit 0 is "viable", bit 1 "has a container"."""
    fd = os.open(f"/dev/vfio/{group}", os.O_RDWR)
    try:
        status = bytearray(struct.pack("=II", 8, 0))
        fcntl.ioctl(fd, _GROUP_GET_STATUS, status)
        return int(struct.unpack("=II", status)[1])
    finally:
        os.close(fd)


def _steps(subject: str, *, only_group: bool) -> Iterator[str]:
    """Open a device; each step is named before it is taken."""
    bus = "pci" if ":" in subject else "mdev"
    yield "group"
    group_link = Path(f"/sys/bus/{bus}/devices/{subject}/iommu_group")
    node = f"/dev/vfio/{group_link.readlink().name}"
    yield "open"
    if not only_group:
        container = _keep("/dev/vfio/vfio")
    group = _keep(node)
    if only_group:
        return
    yield "SET_CONTAINER"
    fcntl.ioctl(group, _GROUP_SET_CONTAINER, struct.pack("=i", container))
    yield "SET_IOMMU"
    fcntl.ioctl(container, _SET_IOMMU, _TYPE1V2_IOMMU)
    yield "GET_DEVICE_FD"
    _open.append(fcntl.ioctl(group, _GROUP_GET_DEVICE_FD, bytearray(subject.encode() + b"\0")))


def _keep(path: str) -> int:
    _open.append(os.open(path, os.O_RDWR))
    return _open[-1]
