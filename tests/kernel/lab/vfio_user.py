"""What a virtual machine monitor does with VFIO. Called in the guest.

The descriptors stay open in the worker that opens them, as they do in QEMU, until :func:`close` or
the worker's end. Numbers are from ``include/uapi/linux/vfio.h`` and ``iommufd.h``.
"""

from __future__ import annotations

import fcntl
import os
import struct
from errno import errorcode
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_BASE = ord(";") << 8 | 100
_SET_IOMMU = _BASE + 2
_GROUP_GET_STATUS = _BASE + 3
_GROUP_SET_CONTAINER = _BASE + 4
_GROUP_GET_DEVICE_FD = _BASE + 6
_DEVICE_GET_INFO = _BASE + 7
_TYPE1V2_IOMMU = 3
_NOIOMMU_IOMMU = 8

_IOMMU_BASE = ord(";") << 8 | 0x80
_IOCTLS = {
    "BIND_IOMMUFD": _BASE + 18,
    "ATTACH_IOMMUFD_PT": _BASE + 19,
    "DETACH_IOMMUFD_PT": _BASE + 20,
    "DESTROY": _IOMMU_BASE,
    "IOAS_ALLOC": _IOMMU_BASE + 1,
}
NO_IOMMUFD = "the device itself"
"""An argument of BIND_IOMMUFD: a descriptor, but of no iommufd. An empty argument is -1."""
UNKNOWN_ID = 9999
"""What an IO address space that nobody has allocated has for an id."""

_open: list[int] = []
_named: dict[str, int] = {}
"""Descriptors, by what they are of, and ids of IO address spaces."""


def open_device(
    subject: str, *, only_group: bool = False, noiommu: bool = False, options: str = ""
) -> str:
    """Open a device through its group and a container.

    Args:
        subject: a PCI address, or the UUID of a mediated device.
        only_group: stop after the group's node.
        noiommu: ask for a container for devices without an IOMMU.
        options: follow the name in GET_DEVICE_FD (``vf_token=UUID``).

    Returns:
        ``ok``, or the step that failed with its errno: ``SET_CONTAINER EPERM``.
    """
    before = len(_open)
    try:
        for step in _steps(subject, options, only_group=only_group, noiommu=noiommu):
            name = step
    except OSError as error:
        while len(_open) > before:
            os.close(_open.pop())
        return f"{name} {errorcode[error.errno or 0]}"
    return "ok"


def get_device(subject: str) -> str:
    """Ask the group that was opened last for a device; returns what :func:`open_device` does."""
    return _outcome("GET_DEVICE_FD", lambda: _get_device(_named["group"], subject))


def open_cdev(subject: str) -> str:
    """Open a device by its own node; the result is that of :func:`open_device`."""

    def opens() -> None:
        _named[subject] = _keep(cdev_node(subject))

    return _outcome("open", opens)


def cdev_node(subject: str) -> str:
    """Find the node of a device. The name of one that it does not have any more is the first."""
    bus = "pci" if ":" in subject else "mdev"
    names = Path(f"/sys/bus/{bus}/devices/{subject}").glob("vfio-dev/vfio*")
    return f"/dev/vfio/devices/{next((path.name for path in names), 'vfio0')}"


def ioctl(name: str, on: str, argument: str) -> str:
    """Do an ioctl of a cdev or of an iommufd; see ``scenario.Ioctl`` and :func:`open_device`."""
    size = {"BIND_IOMMUFD": 16, "DETACH_IOMMUFD_PT": 8, "DESTROY": 8}.get(name, 12)
    fields = [size, 0]
    if name == "BIND_IOMMUFD":
        fields += [_named[on] if argument == NO_IOMMUFD else _iommufd(argument), 0]
    elif name == "DESTROY":
        fields = [size, _named.get(argument, UNKNOWN_ID)]
    elif name == "ATTACH_IOMMUFD_PT":
        fields += [_named.get(argument, UNKNOWN_ID)]
    elif name == "IOAS_ALLOC":
        fields += [0]
    data = bytearray(struct.pack(f"={len(fields)}i", *fields))
    fd = _named[on] if name.endswith(("IOMMUFD", "PT")) else _iommufd(on)
    said = _outcome(name, lambda: fcntl.ioctl(fd, _IOCTLS[name], data))
    if name == "IOAS_ALLOC":
        _named[argument] = struct.unpack("=3i", data)[-1]
    return said


def descriptor(name: str = "") -> int:
    """Find the descriptor of a cdev (by its device) or else of what was opened last."""
    return _named[name] if name else _open[-1]


def device_info(name: str = "") -> list[int]:
    """Ask an open device for its flags, its regions and its interrupts."""
    info = bytearray(struct.pack("=6I", 24, 0, 0, 0, 0, 0))
    fcntl.ioctl(descriptor(name), _DEVICE_GET_INFO, info)
    return list(struct.unpack("=6I", info)[1:4])


def close_group() -> None:
    """Close the group that was opened last and its container, and keep the device."""
    device = _open.pop()
    close()
    _open.append(device)


def close() -> None:
    """Close all that this worker has open, the device before its group."""
    while _open:
        os.close(_open.pop())
    _named.clear()


def keep_open(path: str) -> None:
    """Open a file for reading and keep it open, as a process that uses it does."""
    _open.append(os.open(path, os.O_RDONLY))


def pid() -> int:
    """Tell the pid of this worker."""
    return os.getpid()


def group_flags(group: str) -> int:
    """Ask for a group's status: bit 0 is "viable", bit 1 "has a container"."""
    fd = os.open(f"/dev/vfio/{group}", os.O_RDWR)
    try:
        status = bytearray(struct.pack("=II", 8, 0))
        fcntl.ioctl(fd, _GROUP_GET_STATUS, status)
        return int(struct.unpack("=II", status)[1])
    finally:
        os.close(fd)


def _steps(subject: str, options: str, *, only_group: bool, noiommu: bool) -> Iterator[str]:
    """Open a device; each step is named before it is taken."""
    bus = "pci" if ":" in subject else "mdev"
    yield "group"
    group_link = Path(f"/sys/bus/{bus}/devices/{subject}/iommu_group")
    number = group_link.readlink().name
    nodes = (f"/dev/vfio/{number}", f"/dev/vfio/noiommu-{number}")
    yield "open"
    if not only_group:
        container = _keep("/dev/vfio/vfio")
    group = _named["group"] = _keep(nodes[Path(nodes[1]).exists()])
    if only_group:
        return
    yield "SET_CONTAINER"
    fcntl.ioctl(group, _GROUP_SET_CONTAINER, struct.pack("=i", container))
    yield "SET_IOMMU"
    fcntl.ioctl(container, _SET_IOMMU, _NOIOMMU_IOMMU if noiommu else _TYPE1V2_IOMMU)
    yield "GET_DEVICE_FD"
    _get_device(group, f"{subject} {options}".rstrip())


def _get_device(group: int, subject: str) -> None:
    _open.append(fcntl.ioctl(group, _GROUP_GET_DEVICE_FD, bytearray(subject.encode() + b"\0")))


def _iommufd(name: str) -> int:
    """The iommufd of this name; opened when it is first asked for."""
    if not name:
        return -1
    if f"iommufd {name}" not in _named:
        _named[f"iommufd {name}"] = _keep("/dev/iommu")
    return _named[f"iommufd {name}"]


def _outcome(step: str, action: Callable[[], object]) -> str:
    try:
        action()
    except OSError as error:
        return f"{step} {errorcode[error.errno or 0]}"
    return "ok"


def _keep(path: str) -> int:
    _open.append(os.open(path, os.O_RDWR))
    return _open[-1]
