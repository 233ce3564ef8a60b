"""From the errno that ended a probe to a sentence and a remedy."""

from __future__ import annotations

import errno
import os
import resource
from typing import TYPE_CHECKING

import attrs

from vfiohost.holders import VFIO_DEVICE, find_processes
from vfiohost.model import Unavailable
from vfiohost.probe.types import Cause

if TYPE_CHECKING:
    from collections.abc import Callable

    from vfiohost.model import IommuGroup, PciDevice
    from vfiohost.probe.types import Failure
    from vfiohost.sysfs import Sysfs

_MOST_USERS = 5


@attrs.frozen
class Context:
    """What is known besides the errno.

    Attributes:
        sysfs: the host.
        device: the device.
        group: its group, or ``None``.
        nodes: through which somebody else may have the device open, relative to the root.
    """

    sysfs: Sysfs
    device: PciDevice
    group: IommuGroup | None
    nodes: tuple[str, ...]


def explain(failure: Failure, context: Context) -> Cause:
    """Say what an errno means and what to do about it.

    The rules are those of ``drivers/vfio/group.c``, ``drivers/vfio/device_cdev.c``,
    ``drivers/vfio/vfio_iommu_type1.c`` and ``drivers/iommu/iommufd``.
    """
    what = failure.ioctl or "open"
    rule = _RULES.get((what, failure.errno))
    return _other(failure, context) if rule is None else rule(failure, context)


def no_vfio_driver(device: PciDevice) -> Cause:
    """The device is not bound to a driver of VFIO's."""
    where = f"is on {device.driver}" if device.driver else "has no driver"
    return Cause(
        "not-bound",
        f"{device.address} {where}, and only a VFIO driver such as vfio-pci hands it to a guest.",
        f"Bind it: `vfiohost bind {device.address}`.",
    )


def no_cdev(device: PciDevice) -> Cause:
    """The kernel gives the device no node of its own."""
    return Cause(
        "no-cdev",
        f"{device.address} has no node below /dev/vfio/devices: this kernel was built without "
        "IOMMUFD and VFIO_DEVICE_CDEV, or there is no IOMMU in front of the device.",
        "Use the path through its group: --path group.",
    )


def late(step: str, pid: int, seconds: float) -> Cause:
    """The kernel has not come back."""
    return Cause(
        "pending",
        f"{step} has not come back after {seconds:.3g} s. Helper process {pid} was killed, which "
        "takes effect when the kernel lets go of it; until then it may hold the device.",
        f"Look at what it waits for (`cat /proc/{pid}/wchan`, the kernel log) and who else uses "
        "the device.",
    )


def _missing(failure: Failure, context: Context) -> Cause:
    if failure.path.endswith("/dev/vfio/vfio"):
        what = "the module vfio is not loaded"
    elif failure.path.endswith("/dev/iommu"):
        what = "the kernel has no iommufd, or its module is not loaded"
    else:
        what = f"{context.device.address} was let go meanwhile"
    return Cause(
        "missing-node",
        f"There is no {failure.path}: {what}, or this is a container that does not show the "
        "host's /dev.",
        "Bind the device with `vfiohost bind`, and see that the host's /dev/vfio is mounted here.",
    )


def _forbidden(failure: Failure, context: Context) -> Cause:
    if "noiommu-" in failure.path and failure.errno == errno.EPERM:
        return Cause(
            "permission",
            f"{failure.path} has no IOMMU behind it, and to open it takes CAP_SYS_RAWIO: the "
            "device can write to all of the host's memory.",
            "Run as root with that capability, or turn on the IOMMU.",
        )
    return Cause(
        "permission",
        f"{failure.path} may not be opened by this user{_mode(failure.path)}.",
        f"Run as root, or hand the node over: `vfiohost bind {context.device.address} "
        "--owner USER`.",
    )


def _mode(path: str) -> str:
    try:
        status = os.stat(path)
    except OSError:
        return ""
    return f" (owner {status.st_uid}:{status.st_gid}, mode {status.st_mode & 0o7777:04o})"


def _not_viable(failure: Failure, context: Context) -> Cause:
    blockers = context.group.blockers if context.group else ()
    if not blockers:
        return Cause(
            "busy",
            f"The kernel lets nobody else own the DMA of {context.device.address}'s group "
            f"({failure.ioctl}: EPERM): another VFIO user has a device of it.",
            "End that user, or let it have the whole group.",
        )
    names = ", ".join(f"{member.address} on {member.driver}" for member in blockers)
    number = context.group.number if context.group else "?"
    return Cause(
        "not-viable",
        f"IOMMU group {number} is not viable: {names} is a host driver's.",
        f"Bind all of the group: `vfiohost bind {context.device.address} --group`.",
    )


def _busy(_failure: Failure, context: Context) -> Cause:
    names = {VFIO_DEVICE, *(f"/{node}" for node in context.nodes)}
    users = find_processes(context.sysfs, names)
    who = ", ".join(map(str, users[:_MOST_USERS])) or (
        "somebody whom this process cannot see (another user's process, or another PID namespace)"
    )
    return Cause(
        "busy",
        f"{context.device.address} or another device of its group is in use: by {who}.",
        "Shut that virtual machine down, or end that process.",
    )


def _memlock(_failure: Failure, _context: Context) -> Cause:
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    page = resource.getpagesize()
    has = "unlimited" if limit == resource.RLIM_INFINITY else f"{limit} bytes"
    return Cause(
        "memlock",
        f"The kernel would not pin one page ({page} bytes): RLIMIT_MEMLOCK is {has}, or what "
        "other processes of this user have pinned counts, too.",
        f"Raise the limit (`ulimit -l`, LimitMEMLOCK= of the unit): at least {page} bytes for this "
        "probe, and for a guest all of its memory and what its devices map besides.",
    )


def _gone(_failure: Failure, context: Context) -> Cause:
    return Cause(
        "not-bound",
        f"The kernel knows no VFIO device {context.device.address}: it is bound to no VFIO driver, "
        "or is just being let go.",
        f"See `vfiohost list {context.device.address}`, then bind it.",
    )


def _no_iommu(_failure: Failure, context: Context) -> Cause:
    return Cause(
        "no-iommu",
        f"No IOMMU driver of VFIO's takes the group of {context.device.address}: the module "
        "vfio_iommu_type1 is missing, or the group has no IOMMU behind it.",
        "Load vfio_iommu_type1 and turn on the IOMMU (intel_iommu=on, and in the firmware).",
    )


def _unsafe(failure: Failure, context: Context) -> Cause:
    if failure.ioctl != "SET_IOMMU":
        return _not_viable(failure, context)
    return Cause(
        "unsafe-interrupts",
        "The IOMMU cannot remap interrupts, so that a guest could send any to the host.",
        "Turn on interrupt remapping in the firmware; only where every guest is trusted, "
        "allow_unsafe_interrupts=1 for vfio_iommu_type1.",
    )


def _token(_failure: Failure, context: Context) -> Cause:
    physfn = context.device.physfn
    pf = "its physical function" if physfn is None or isinstance(physfn, Unavailable) else physfn
    return Cause(
        "vf-token",
        f"{context.device.address} belongs to {pf}, which is on a VFIO driver: who uses it must "
        "know the token that the PF's user has set.",
        "Give the token: --vf-token UUID.",
    )


def _bad_token(failure: Failure, context: Context) -> Cause:
    if failure.ioctl != "GROUP_GET_DEVICE_FD":
        return _busy(failure, context)
    return Cause(
        "vf-token",
        f"The driver of {context.device.address} does not understand the token.",
        "Leave out --vf-token, or give a UUID.",
    )


def _no_reset(_failure: Failure, context: Context) -> Cause:
    return Cause(
        "no-reset",
        f"{context.device.address} has no way to be reset: a guest could use it, and the next one "
        "would find what the last one left.",
        "Leave out --reset.",
    )


def _releasing(_failure: Failure, context: Context) -> Cause:
    return Cause(
        "releasing",
        f"{context.device.address} is just being let go or reset; a process holds it.",
        "End that process, then try again.",
    )


def _other(failure: Failure, context: Context) -> Cause:
    what = f"{failure.ioctl or failure.op} of {failure.path}"
    code = errno.errorcode.get(failure.errno, str(failure.errno))
    return Cause(
        "kernel",
        f"{context.device.address} cannot be used: {what} answers {code} "
        f"({os.strerror(failure.errno)}).",
        "Look into the kernel log.",
    )


_RULES: dict[tuple[str, int], Callable[[Failure, Context], Cause]] = {
    ("open", errno.ENOENT): _missing,
    ("open", errno.ENODEV): _missing,
    ("open", errno.ENXIO): _missing,
    ("open", errno.EACCES): _forbidden,
    ("open", errno.EPERM): _forbidden,
    ("open", errno.EBUSY): _busy,
    ("GROUP_SET_CONTAINER", errno.EPERM): _not_viable,
    ("GROUP_SET_CONTAINER", errno.EBUSY): _busy,
    ("GROUP_SET_CONTAINER", errno.ENODEV): _gone,
    ("CHECK_EXTENSION", errno.ENODEV): _no_iommu,
    ("SET_IOMMU", errno.ENODEV): _no_iommu,
    ("SET_IOMMU", errno.EPERM): _unsafe,
    ("IOMMU_MAP_DMA", errno.ENOMEM): _memlock,
    ("IOAS_MAP", errno.ENOMEM): _memlock,
    ("GROUP_GET_DEVICE_FD", errno.ENODEV): _gone,
    ("GROUP_GET_DEVICE_FD", errno.EACCES): _token,
    ("GROUP_GET_DEVICE_FD", errno.EINVAL): _bad_token,
    ("GROUP_GET_DEVICE_FD", errno.EAGAIN): _releasing,
    ("GROUP_GET_DEVICE_FD", errno.EBUSY): _busy,
    ("DEVICE_BIND_IOMMUFD", errno.EBUSY): _busy,
    ("DEVICE_BIND_IOMMUFD", errno.EINVAL): _busy,
    ("DEVICE_BIND_IOMMUFD", errno.EPERM): _not_viable,
    ("DEVICE_BIND_IOMMUFD", errno.EAGAIN): _releasing,
    ("DEVICE_BIND_IOMMUFD", errno.EACCES): _token,
    ("DEVICE_BIND_IOMMUFD", errno.ENODEV): _gone,
    ("DEVICE_RESET", errno.EINVAL): _no_reset,
}
"""By the ioctl, or ``open``, and the errno."""
