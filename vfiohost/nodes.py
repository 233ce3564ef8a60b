"""The nodes of a device below ``dev/vfio``: where they are, and whose.

The kernel makes them when a VFIO driver takes the device, as root's and with mode 0600, and takes
them away when that lets go of it (``drivers/vfio/group.c``, ``drivers/vfio/device_cdev.c``): what
was done to a node is undone with it.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from typing import TYPE_CHECKING

from vfiohost import native, udev
from vfiohost.errors import ApplyError, KernelError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vfiohost.sysfs import Sysfs

_DEVICES = "sys/bus/pci/devices"
_APPEARS_WITHIN = 2.0  # seconds; devtmpfs makes the node before the driver's bind has returned
_INTERVAL = 0.01


def group_node(sysfs: Sysfs, address: str) -> str | None:
    """The node of a device's group, relative to the root, or ``None``: there is none.

    Files: ``sys/bus/pci/devices/ADDRESS/iommu_group``, ``dev/vfio``.
    """
    try:
        number = sysfs.link_name(f"{_DEVICES}/{address}/iommu_group")
        names = () if number is None else (f"dev/vfio/{number}", f"dev/vfio/noiommu-{number}")
        return next((name for name in names if sysfs.exists(name)), None)
    except KernelError:
        return None


def cdev_node(sysfs: Sysfs, address: str) -> str | None:
    """A device's own node, relative to the root, or ``None``: the kernel gives it none.

    The directory is there on every kernel since 6.1, its ``dev`` only where there is a node
    (``drivers/vfio/vfio_main.c:vfio_device_add``).

    Files: ``sys/bus/pci/devices/ADDRESS/vfio-dev``.
    """
    directory = f"{_DEVICES}/{address}/vfio-dev"
    try:
        names = sysfs.listdir(directory)
        name = next((n for n in names if sysfs.exists(f"{directory}/{n}/dev")), None)
    except KernelError:
        return None
    return None if name is None else f"dev/vfio/devices/{name}"


def nodes_of(sysfs: Sysfs, address: str) -> tuple[str, ...]:
    """The nodes through which a device can be opened now, relative to the root."""
    found = (group_node(sysfs, address), cdev_node(sysfs, address))
    return tuple(node for node in found if node is not None)


def await_nodes(sysfs: Sysfs, address: str, *, timeout: float) -> tuple[str, ...]:
    """Wait until a device's nodes are there, and udev is done with them.

    Returns:
        The nodes, relative to the root.

    Raises:
        ApplyError: none appeared.
    """
    deadline = time.monotonic() + min(timeout, _APPEARS_WITHIN)
    while not (found := nodes_of(sysfs, address)):
        if time.monotonic() >= deadline:
            raise ApplyError(
                f"No node of {address} appeared below {sysfs.shown('dev/vfio')}. Is that the dev "
                "of the host, and not of a container?"
            )
        time.sleep(_INTERVAL)
    udev.await_devices(sysfs, list(_udev_names(found)), timeout=min(timeout, _APPEARS_WITHIN))
    return found


def are_set(
    sysfs: Sysfs, nodes: tuple[str, ...], uid: int | None, gid: int | None, mode: int | None
) -> bool:
    """Whether nodes have an owner, a group and a mode; ``None`` stands for any.

    Raises:
        KernelError: as :func:`set_node`.
    """
    for node in nodes:
        fd = _opened(sysfs, node)
        try:
            now = os.fstat(fd)
        finally:
            os.close(fd)
        pairs = ((uid, now.st_uid), (gid, now.st_gid), (mode, stat.S_IMODE(now.st_mode)))
        if any(wanted not in (None, has) for wanted, has in pairs):
            return False
    return True


def set_node(sysfs: Sysfs, node: str, uid: int | None, gid: int | None, mode: int | None) -> None:
    """Give a node an owner, a group and a mode; what is ``None`` stays.

    No link is followed, and on a running host only a character device is touched.

    Raises:
        KernelError: the kernel's answer; ENOTTY when the node is no character device.
    """
    fd = _opened(sysfs, node)
    shown = sysfs.shown(node)
    # The descriptor was opened with O_PATH, so that the device knows nothing of it; this is the
    # way to change the file that it is for, and none that has taken its name since.
    path = f"/proc/self/fd/{fd}"
    try:
        os.chown(path, -1 if uid is None else uid, -1 if gid is None else gid)
        if mode is not None:
            os.chmod(path, mode)
    except OSError as error:
        raise KernelError("chown", error.errno or 0, shown) from error
    finally:
        os.close(fd)


def _opened(sysfs: Sysfs, node: str) -> int:
    shown = sysfs.shown(node)
    fd = native.open_in(sysfs.fd, node, os.O_PATH | os.O_NOFOLLOW, shown=shown)
    kind = os.fstat(fd).st_mode
    # A simulated host has plain files for nodes.
    is_node = stat.S_ISCHR(kind) or (stat.S_ISREG(kind) and not sysfs.is_live())
    if not is_node:
        os.close(fd)
        raise KernelError("open", errno.ELOOP if stat.S_ISLNK(kind) else errno.ENOTTY, shown)
    return fd


def _udev_names(nodes: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Subsystem and name of the nodes' devices."""
    for node in nodes:
        name = node.rpartition("/")[2]
        yield ("vfio-dev" if node.startswith("dev/vfio/devices/") else "vfio", name)
