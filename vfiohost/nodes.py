"""The nodes of a device below ``dev/vfio``: where they are, and whose.

The kernel makes them when a VFIO driver takes the device, as root's and with mode 0600, and takes
them away when that lets go of it (``drivers/vfio/group.c``, ``drivers/vfio/device_cdev.c``): what
was done to a node goes with it. The group's node stays while another device of the group is there.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from typing import TYPE_CHECKING, Literal

from vfiohost import native, udev
from vfiohost.errors import ApplyError, KernelError, StalePlanError
from vfiohost.plan.types import Access, NodeChange, SetNodes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vfiohost.plan.types import ChangeNodes
    from vfiohost.sysfs import Sysfs

Standing = Literal["gone", "before", "between", "after", "other"]
"""Where a change of a node stands: the node is gone, or another one has its name; it is as before
the change, as after it, or the change was cut off; or somebody else has changed it since."""

_DEVICES = "sys/bus/pci/devices"
MDEVS = "sys/bus/mdev/devices"
"""Where the mediated devices are, relative to the root."""
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


def cdev_node(sysfs: Sysfs, address: str, *, devices: str = _DEVICES) -> str | None:
    """A device's own node, relative to the root, or ``None``: the kernel gives it none.

    The directory is there on every kernel since 6.1, its ``dev`` only where there is a node
    (``drivers/vfio/vfio_main.c:vfio_device_add``).

    Args:
        sysfs: the host.
        address: the device's name on its bus.
        devices: the devices of the bus, relative to the root; a mediated device is on its own.

    Files: ``sys/bus/pci/devices/ADDRESS/vfio-dev``.
    """
    directory = f"{devices}/{address}/vfio-dev"
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


def accesses(sysfs: Sysfs, address: str) -> tuple[Access, ...]:
    """What a device's nodes have now; those that cannot be looked at are left out."""
    found = []
    for node in nodes_of(sysfs, address):
        with contextlib.suppress(KernelError), _opened(sysfs, node) as (_, _, now):
            found.append(now)
    return tuple(found)


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


def changes_for(
    sysfs: Sysfs, step: SetNodes | ChangeNodes, *, timeout: float
) -> tuple[NodeChange, ...]:
    """What a step has to change now; nothing when all nodes are as it wants them.

    Args:
        sysfs: the host.
        step: what shall be.
        timeout: seconds to wait for the nodes of a device that a driver has just got.

    Raises:
        ApplyError: the device has no node.
        StalePlanError: a node that is known is neither as before its change nor as after it.
        KernelError: the kernel's answer; ENOTTY when the node is no character device.
    """
    if not isinstance(step, SetNodes):
        return tuple(change for change in step.changes if _is_left(sysfs, change))
    found = []
    for node in await_nodes(sysfs, str(step.address), timeout=timeout):
        with _opened(sysfs, node) as (_, inode, now):
            wanted = Access(
                now.uid if step.uid is None else step.uid,
                now.gid if step.gid is None else step.gid,
                now.mode if step.mode is None else step.mode,
            )
        if wanted != now:
            found.append(NodeChange(node, inode, now, wanted))
    return tuple(found)


def _is_left(sysfs: Sysfs, change: NodeChange) -> bool:
    where = standing(sysfs, change)
    if where == "other":
        raise StalePlanError(
            f"The host is not as this plan expects it any more: {_changed_by_others(sysfs, change)}"
            " Plan again."
        )
    return where in ("before", "between")


def standing(sysfs: Sysfs, change: NodeChange) -> Standing:
    """Say where a change of a node stands.

    Raises:
        KernelError: as :func:`make_change`, but for ENOENT.
    """
    try:
        with _opened(sysfs, change.path) as (_, inode, now):
            if inode != change.inode:
                return "gone"
    except KernelError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return "gone"
        raise
    fields = zip(*map(_numbers, (change.before, change.after, now)), strict=True)
    differing = [(old, new, seen) for old, new, seen in fields if old != new]
    if all(seen == new for _, new, seen in differing):
        return "after"
    if all(seen == old for old, _, seen in differing):
        return "before"
    return "between" if all(seen in (old, new) for old, new, seen in differing) else "other"


def make_change(sysfs: Sysfs, change: NodeChange) -> None:
    """Give a node what it is to have, and look whether it has it.

    No link is followed, and on a running host only a character device is touched.

    Raises:
        StalePlanError: another node has its name by now.
        ApplyError: the kernel said that it was done, and it was not.
        KernelError: the kernel's answer; ENOTTY when the node is no character device.
    """
    old, new, shown = change.before, change.after, sysfs.shown(change.path)
    with _opened(sysfs, change.path) as (fd, inode, _):
        if inode != change.inode:
            raise StalePlanError(f"{shown} was made anew since it was looked at. Plan again.")
        # The descriptor was opened with O_PATH, so that the device knows nothing of it; this is the
        # way to change the file that it is for, and none that has taken its name since.
        path = f"/proc/self/fd/{fd}"
        uid = -1 if old.uid == new.uid else new.uid
        gid = -1 if old.gid == new.gid else new.gid
        try:
            if (uid, gid) != (-1, -1):
                os.chown(path, uid, gid)
            if old.mode != new.mode:
                os.chmod(path, new.mode)
        except OSError as error:
            raise KernelError("chown", error.errno or 0, shown) from error
    if standing(sysfs, change) not in ("after", "gone"):
        raise ApplyError(f"{shown} was changed, but is not {new}: somebody else changed it, too.")


def take_back(sysfs: Sysfs, changes: tuple[NodeChange, ...]) -> None:
    """Give nodes what they had before they were changed; one that fails stops no other.

    Raises:
        ApplyError: somebody else has changed a node, so it was left as it is; or the kernel did not
            let it be changed. The sentences are about all such nodes.
    """
    failed = []
    for change in reversed(changes):
        try:
            where = standing(sysfs, change)
            if where in ("after", "between"):
                make_change(sysfs, change.reversed())
            elif where == "other":
                failed.append(f"It was not taken back: {_changed_by_others(sysfs, change)}")
        except StalePlanError:
            continue  # made anew at this very moment
        except (KernelError, ApplyError) as error:
            failed.append(str(error))
    if failed:
        raise ApplyError(" ".join(failed))


def is_changed(sysfs: Sysfs, changes: tuple[NodeChange, ...]) -> bool:
    """Whether something of some changes was done, or may have been: a node cannot be looked at."""
    try:
        return any(standing(sysfs, change) not in ("gone", "before") for change in changes)
    except KernelError:
        return True


def _changed_by_others(sysfs: Sysfs, change: NodeChange) -> str:
    with _opened(sysfs, change.path) as (_, _, now):
        pass
    return (
        f"{sysfs.shown(change.path)} is {now}, which is neither what it had before it was changed "
        f"({change.before}) nor what it got ({change.after}); somebody else changed it."
    )


def _numbers(access: Access) -> tuple[int, int, int]:
    return access.uid, access.gid, access.mode


@contextlib.contextmanager
def _opened(sysfs: Sysfs, node: str) -> Iterator[tuple[int, int, Access]]:
    """A node's descriptor (``O_PATH``), the number of its inode, and what it has now."""
    shown = sysfs.shown(node)
    fd = native.open_in(sysfs.fd, node, os.O_PATH | os.O_NOFOLLOW, shown=shown)
    try:
        now = os.fstat(fd)
        # A simulated host has plain files for nodes.
        is_plain = stat.S_ISREG(now.st_mode) and not sysfs.is_live()
        if is_plain and now.st_nlink > 1:  # the other name may be outside of the root
            raise KernelError("open", errno.EMLINK, shown)
        if not (stat.S_ISCHR(now.st_mode) or is_plain):
            is_link = stat.S_ISLNK(now.st_mode)
            raise KernelError("open", errno.ELOOP if is_link else errno.ENOTTY, shown)
        yield fd, now.st_ino, Access(now.st_uid, now.st_gid, stat.S_IMODE(now.st_mode))
    finally:
        os.close(fd)


def _udev_names(nodes: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Subsystem and name of the nodes' devices."""
    for node in nodes:
        name = node.rpartition("/")[2]
        yield ("vfio-dev" if node.startswith("dev/vfio/devices/") else "vfio", name)
