"""From the errno that ended a probe to a sentence and a remedy."""

from __future__ import annotations

import errno
import os
import resource
import stat
from typing import TYPE_CHECKING

import attrs

from vfiohost.model import Unavailable
from vfiohost.plan.words import listed
from vfiohost.privilege import CAP_IPC_LOCK, has_capability
from vfiohost.probe.types import Cause
from vfiohost.probe.users import Nodes, find_users

if TYPE_CHECKING:
    from collections.abc import Callable

    from vfiohost.model import IommuGroup, PciDevice
    from vfiohost.probe.types import Failure
    from vfiohost.sysfs import Sysfs


@attrs.frozen
class Context:
    """What is known besides the errno.

    Attributes:
        sysfs: the host.
        device: the device.
        group: its group, or ``None``.
        nodes: through which somebody else may have the device, or one of its group, open.
        vf_token: whether the probe gave a token.
        prober: the probe's helper, if it has not ended; what it has open is its own.
    """

    sysfs: Sysfs
    device: PciDevice
    group: IommuGroup | None
    nodes: Nodes = attrs.field(factory=Nodes)
    vf_token: bool = False
    prober: int | None = None


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
    """EACCES is of owner and mode, or of a security module; EPERM of neither."""
    if failure.errno == errno.EPERM:
        return _no_rawio(failure, context) or Cause(
            "permission",
            f"{failure.path} may not be opened from here, whoever its owner is{_whose(failure)}: "
            "most often the device cgroup of this container or unit does not have it.",
            "Give it to the container (`--device`) or the unit (DeviceAllow=).",
        )
    try:
        status = os.stat(failure.path)
    except OSError:
        status = None
    if status is not None and _may_open(status):
        return Cause(
            "permission",
            f"{failure.path} may not be opened by this process, although owner and mode permit it"
            f"{_whose(failure)}: a security module (SELinux, AppArmor) does not.",
            "Look into the audit log for what it denied.",
        )
    return Cause(
        "permission",
        f"{failure.path} may not be opened by user {os.geteuid()}{_whose(failure)}.",
        _who_may(failure, context, status),
    )


def _who_may(failure: Failure, context: Context, status: os.stat_result | None) -> str:
    """How this user comes to be let in by owner and mode."""
    if failure.path.endswith(("/dev/vfio/vfio", "/dev/iommu")):
        # Not of one device: `bind --owner` is for the nodes of devices.
        return f"Run as root, or let this user open {failure.path} with a rule of udev's."
    bind = f"vfiohost bind {context.device.address}"
    if status is not None and status.st_uid == os.geteuid():
        return f"Run as root, or let the owner in: `{bind} --mode 0600`."
    mode = "" if status is None else f", with mode {stat.S_IMODE(status.st_mode):04o} as before"
    return f"Run as root, or make this user the owner{mode}: `{bind} --owner {os.geteuid()}`."


def _may_open(status: os.stat_result) -> bool:
    """Whether owner and mode let this process read and write (``generic_permission``)."""
    if os.geteuid() == status.st_uid:
        wanted = stat.S_IRUSR | stat.S_IWUSR
    elif status.st_gid in (os.getegid(), *os.getgroups()):
        wanted = stat.S_IRGRP | stat.S_IWGRP
    else:
        wanted = stat.S_IROTH | stat.S_IWOTH
    return status.st_mode & wanted == wanted


def _whose(failure: Failure) -> str:
    try:
        status = os.stat(failure.path)
    except OSError:
        return ""
    mode = stat.S_IMODE(status.st_mode)
    return f" (it belongs to {status.st_uid}:{status.st_gid} and has mode {mode:04o})"


def _no_rawio(failure: Failure, context: Context) -> Cause | None:
    """The cause of an EPERM where there is no IOMMU (``vfio_noiommu_open``, and in group.c)."""
    if "noiommu-" not in f"{failure.path} {context.nodes.group}":
        return None
    return Cause(
        "permission",
        f"{context.device.address} has no IOMMU in front of it, and to use it takes CAP_SYS_RAWIO "
        f"({failure.ioctl or failure.path}: EPERM): it can write to all of the host's memory.",
        "Run as root with that capability, or turn on the IOMMU.",
    )


def _not_viable(failure: Failure, context: Context) -> Cause:
    """A host driver has a device of the group, or another VFIO user has one."""
    blockers = context.group.blockers if context.group else ()
    if context.group is not None and blockers:
        names = listed([f"{member.address} on {member.driver}" for member in blockers])
        verb = "is a host driver's" if len(blockers) == 1 else "are host drivers'"
        return Cause(
            "not-viable",
            f"IOMMU group {context.group.number} is not viable: {names} {verb}.",
            f"Bind all of the group: `vfiohost bind {context.device.address} --group`.",
        )
    if failure.ioctl == "DEVICE_BIND_IOMMUFD" and not context.nodes.others:
        return _no_remapping("iommufd")  # nobody else can own a group of one device
    return _no_rawio(failure, context) or _busy(failure, context)


def _busy(failure: Failure, context: Context) -> Cause:
    members = context.group.members if context.group else (context.device,)
    users = find_users(
        context.sysfs,
        context.nodes.in_the_way(failure),
        devices=tuple(member.path for member in members),
        prober=context.prober,
    )
    remedy = "Shut that virtual machine down, or end that process."
    if not users.found:
        remedy = f"As root of the host see `vfiohost holders {context.device.address}`."
    return Cause(
        "busy",
        f"{context.device.address} or another device of its group is in use: {users.sentence}",
        remedy,
    )


def _memlock(failure: Failure, context: Context) -> Cause:
    """ENOMEM is of the limit only where there is one (``vfio_lock_acct``, ``iopt_pages``)."""
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    if limit == resource.RLIM_INFINITY or has_capability(CAP_IPC_LOCK):
        return _other(failure, context)
    page = resource.getpagesize()
    return Cause(
        "memlock",
        f"The kernel would not pin one page ({page} bytes): RLIMIT_MEMLOCK is {limit} bytes, and "
        "what other processes of this user have pinned may count, too.",
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
    return _no_rawio(failure, context) or _no_remapping("vfio_iommu_type1")


def _no_remapping(module: str) -> Cause:
    return Cause(
        "unsafe-interrupts",
        "The IOMMU cannot remap interrupts, so that a guest could send any to the host.",
        "Turn on interrupt remapping in the firmware; only where every guest is trusted, "
        f"allow_unsafe_interrupts=1 for {module}.",
    )


def _token(_failure: Failure, context: Context) -> Cause:
    """``vfio_pci_validate_vf_token``, for both sides."""
    address, physfn = context.device.address, context.device.physfn
    if physfn is None or isinstance(physfn, Unavailable):
        who = f"{address} has virtual functions that VFIO users have"
    else:
        who = f"{address} belongs to {physfn}, which is on a VFIO driver"
    given = ", and the one that was given is another" if context.vf_token else ""
    return Cause(
        "vf-token",
        f"{who}: who uses it must know the token that the PF's user has set{given}.",
        "Give the token: --vf-token UUID.",
    )


def _bad_token(failure: Failure, context: Context) -> Cause:
    if context.group is not None and context.group.blockers:
        return _not_viable(failure, context)  # before Linux 5.19 it shows only here
    if not context.vf_token:
        return _other(failure, context)
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
