"""The exceptions of vfiohost.

Every message is a sentence for the person who gets it: what was tried, on which file, what the
kernel said, what that means here and what to do about it. The exit codes in the docstrings are
those of the command line; the library itself never exits.

This module imports nothing of ours, so that every layer can raise these errors.
"""

from __future__ import annotations

import errno as _errno
import re
from os import strerror
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

KernelOp = Literal[
    "open", "read", "write", "readlink", "list", "ioctl", "load", "unload", "chown", "run"
]
"""What was asked of the kernel when it answered with an errno. ``load``, ``unload``: a module;
``run``: a program."""


class VfioHostError(Exception):
    """Base class of every error that vfiohost raises on purpose."""


class ParseError(VfioHostError, ValueError):
    """A text is not what it should be (exit 2).

    Args:
        text: the text as it was given.
        expected: what it should have been, as a noun phrase ("a PCI address such as 0000:65:00.0").
        where: where the text stood (an option, a file and line), or ``None``.
        hint: what was probably meant, as a sentence, or ``None``.
    """

    def __init__(
        self, text: str, expected: str, *, where: str | None = None, hint: str | None = None
    ) -> None:
        self.text = text
        self.expected = expected
        self.where = where
        self.hint = hint
        place = f"{where}: " if where else ""
        tail = f" {hint}" if hint else ""
        super().__init__(f"{place}{text!r} is not {expected}.{tail}")

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), {"args": self.args} | self.__dict__))


class AmbiguousError(VfioHostError, LookupError):
    """A selector that must hit exactly one thing hits several (exit 2).

    Args:
        selector: the selector as it was given.
        matches: what it hits, each as the text that would select it alone.
        where: where the text stood (a table of a file), or ``None``.
    """

    def __init__(self, selector: str, matches: Sequence[str], *, where: str | None = None) -> None:
        self.selector = selector
        self.matches = tuple(matches)
        self.where = where
        place = f"{where}: " if where else ""
        super().__init__(
            f"{place}{selector!r} hits {len(self.matches)} things where one is needed: "
            f"{', '.join(self.matches)}."
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), {"args": self.args} | self.__dict__))


class NotFoundError(VfioHostError, LookupError):
    """Something that was named does not exist on this host (exit 3).

    Args:
        kind: what was looked for ("PCI device", "mdev type", "driver").
        key: the name it was looked for under.
        near: names that exist and are close to ``key``.
        detail: one more sentence, or ``None``.
        sentence: what to say first, where kind and key make no good sentence.
    """

    def __init__(
        self,
        kind: str,
        key: str,
        *,
        near: Sequence[str] = (),
        detail: str | None = None,
        sentence: str | None = None,
    ) -> None:
        self.kind = kind
        self.key = key
        self.near = tuple(near)
        self.detail = detail
        hint = f" Did you mean {' or '.join(self.near)}?" if self.near else ""
        tail = f" {detail}" if detail else ""
        said = sentence or f"There is no {kind} {key!r} on this host."
        super().__init__(f"{said}{hint}{tail}")

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), {"args": self.args} | self.__dict__))


class Refusal(NamedTuple):
    """One reason why a plan must not be carried out.

    Attributes:
        code: a stable word for programs, such as ``group-not-viable`` or ``bridge``.
        subject: what the reason is about: an address, a group, a driver, a type.
        sentence: the reason, for people.
        remedy: what to do instead, for people; it names the option that permits it, if one does.
        kind: of a device in use: what for (:data:`vfiohost.usage.UseKind`), else ``None``.
        detail: of a device in use: by whom or what, as a phrase, else ``None``.
        via: of a device in use: the file that says so, else ``None``.
    """

    code: str
    subject: str
    sentence: str
    remedy: str
    kind: str | None = None
    detail: str | None = None
    via: str | None = None


class PlanRefused(VfioHostError):
    """A request must not be carried out; names every reason at once (exit 4).

    Args:
        refusals: all the reasons, at least one.
        plan: the plan that would have been (a :class:`vfiohost.plan.types.Plan`), so that a dry
            run can show both, or ``None`` when none could be made.
    """

    def __init__(self, refusals: Sequence[Refusal], plan: object | None = None) -> None:
        self.refusals = tuple(refusals)
        self.plan = plan
        super().__init__(" ".join(f"{r.sentence} {r.remedy}" for r in self.refusals))

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.refusals, self.plan))


class KernelError(VfioHostError, OSError):
    """The kernel answered an operation with an errno.

    ``errno``, ``strerror`` and ``filename`` are those of :class:`OSError`.

    Args:
        op: what was asked of the kernel.
        errno: its answer, a positive errno.
        path: the file, as the user would type it.
        value: what was to be written, for ``op="write"``; what modprobe said, for ``op="load"``;
            which ioctl, for ``op="ioctl"``, without its prefix (``SET_IOMMU``).
    """

    def __init__(self, op: KernelOp, errno: int, path: str, value: str | None = None) -> None:
        super().__init__(errno, strerror(errno), path)
        self.op: KernelOp = op
        self.path = path
        self.value = value

    @property
    def code(self) -> str:
        """The errno's symbol, for example ``EBUSY``."""
        number = self.errno or 0
        return _errno.errorcode.get(number, str(number))

    @property
    def meaning(self) -> str | None:
        """What this errno means for this attribute and operation, or ``None``."""
        given = re.search(_MDEV_ATTRIBUTE, self.path)
        if given and (self.op, self.code) == ("open", "ENOENT"):
            return (
                f"The mediated device has no attribute {given[1]}: its driver gives it none of "
                "that name."
            )
        attribute = self.value if self.op == "ioctl" else None
        return kernel_meaning(attribute or self.path.rsplit("/", 1)[-1], self.op, self.errno or 0)

    def __str__(self) -> str:
        what = "" if self.value is None else f"{_shown(self.value)} to "
        doing = {
            "write": f"write {what}{self.path}",
            "load": f"load module {self.path}",
            "unload": f"unload module {self.path}",
            "list": f"list {self.path}",
            "run": f"run {self.path}",
            "chown": f"change the owner or the mode of {self.path}",
            "ioctl": f"ioctl {self.value} of {self.path}" if self.value else f"ioctl {self.path}",
        }.get(self.op, f"{self.op} {self.path}")
        said = f"Cannot {doing}: {self.strerror} ({self.code})."
        if self.op in ("load", "run") and self.value:
            said = f"{said} {self.value}"
        return f"{said} {self.meaning}" if self.meaning else said

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.op, self.errno, self.path, self.value))


class ApplyError(VfioHostError):
    """A plan failed while it was carried out; the host was brought back (exit 1, or 5).

    Exit 5 when the cause is a missing permission (EACCES, EPERM).

    Args:
        message: the sentence.
        step: the step that failed, or ``None`` when it was not a step that failed.
        report: what was done and undone (a :class:`vfiohost.plan.types.Report`).
        cause: the first error, or ``None``.
    """

    def __init__(
        self,
        message: str,
        *,
        step: object | None = None,
        report: object | None = None,
        cause: BaseException | None = None,
    ) -> None:
        super().__init__(message)
        self.step = step
        self.report = report
        self.cause = cause

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), {"args": self.args} | self.__dict__))


class StalePlanError(ApplyError):
    """The host changed between the scan and the step (exit 1)."""


class PendingError(ApplyError):
    """A store did not come back in time; the kernel's operation goes on (exit 6).

    Attributes:
        pid: the helper process that waits in the kernel for it, if it is known.
        wait_channel: the function of the kernel in which that process waits, if it is known.
        state: ``releasing`` when the device has lost its driver link, and its driver has not let
            go of it; else ``None``.
        users: the processes that have the device open, as far as they can be seen.
    """

    pid: int | None = None
    wait_channel: str | None = None
    state: str | None = None
    users: tuple[str, ...] = ()


class RollbackError(ApplyError):
    """A step failed and so did its undoing: the host is half-way (exit 7).

    ``commands`` are the shell lines that finish the work by hand, in order.
    """

    commands: tuple[str, ...] = ()


class LockBusyError(VfioHostError):
    """Another vfiohost is changing this host (exit 8).

    Args:
        path: the lock file.
        holder: who took it, as text ("pid 4242, vfiohost bind 65:00.0"), or ``None``.
        has_ended: whether that process is gone, so that only what it has started keeps the lock.
    """

    def __init__(self, path: str, holder: str | None, has_ended: bool = False) -> None:  # noqa: FBT001, FBT002 - pickled by position
        self.path = path
        self.holder = holder
        self.has_ended = has_ended
        who = holder or "holder unknown"
        if has_ended:
            who += (
                "; it has ended, but a process that it has started still has the lock, as a helper "
                "process that waits in the kernel"
            )
        super().__init__(
            f"Another vfiohost is changing this host ({who}; lock {path}). "
            "Wait for it to end, or look at what it waits for."
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.path, self.holder, self.has_ended))


class UnsupportedError(VfioHostError):
    """This kernel, device or root cannot do what was asked (exit 9)."""


class StoreTimeoutError(VfioHostError):
    """A single store or module load is still going on in the kernel when its time is over.

    The store seam raises it; ``apply`` turns it into :class:`PendingError`.

    Args:
        path: the attribute (or module) that was written.
        value: what was written.
        pid: the helper process that waits in the kernel, or ``None``.
        timeout: the seconds that were waited.
    """

    def __init__(self, path: str, value: str, pid: int | None, timeout: float) -> None:
        self.path = path
        self.value = value
        self.pid = pid
        self.timeout = timeout
        who = f" Helper process {pid} waits for it." if pid else ""
        super().__init__(
            f"Writing {_shown(value)} to {path} has not come back after {timeout:.3g} s; "
            f"the kernel still works on it.{who}"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.path, self.value, self.pid, self.timeout))


def _rebuild(cls: type[VfioHostError], state: dict[str, Any]) -> VfioHostError:
    """Unpickle an error whose constructor makes its message: keep the message, set the rest."""
    error = cls.__new__(cls)
    error.args = state.pop("args")
    error.__dict__.update(state)
    return error


def _shown(value: str | None) -> str:
    return repr(value) if value is not None else "nothing"


_ANY = "*"

# What a driver gives its mediated devices has any name; `remove` is the bus's.
_MDEV_ATTRIBUTE = r"(?:^|/)sys/bus/mdev/devices/[^/]+/(?!remove$)(.+)$"

# (attribute, operation, errno) -> what it means. Sources: Linux 6.12 drivers/base/bus.c,
# drivers/base/dd.c, drivers/pci/pci-sysfs.c, drivers/pci/pci-driver.c, drivers/pci/iov.c,
# drivers/vfio/group.c, drivers/vfio/device_cdev.c, drivers/vfio/mdev/mdev_core.c.
_MEANINGS: dict[tuple[str, str, str], str] = {
    ("bind", "write", "ENODEV"): (
        "The driver does not match this device (no id of it and no driver_override names it), "
        "or there is no such device."
    ),
    ("bind", "write", "EBUSY"): (
        "The device already has a driver, its IOMMU group is owned by a VFIO user, "
        "or the driver refuses a physical function that has virtual functions."
    ),
    ("bind", "write", "EINVAL"): (
        "The driver refuses this kind of device: vfio-pci takes no bridges, no denylisted "
        "devices, and no virtual function that belongs to NVIDIA's vGPU host driver."
    ),
    ("bind", "write", "EIO"): "The driver's probe failed; the kernel log says why.",
    ("bind", "open", "ENOENT"): "The driver is not loaded (its module may have another name).",
    ("unbind", "write", "ENODEV"): "This driver does not own the device (any more).",
    ("unbind", "open", "ENOENT"): "The driver is not loaded.",
    ("driver_override", "write", "EINVAL"): "The name is too long for the kernel (4094 bytes).",
    ("drivers_probe", "write", "ENODEV"): "There is no such device.",
    ("drivers_probe", "write", "EINVAL"): (
        "The kernel refused to let a host driver take the device: its IOMMU group is owned by a "
        "VFIO user."
    ),
    ("new_id", "write", "EEXIST"): "The driver already knows this id.",
    ("remove_id", "write", "ENODEV"): "The driver has no such dynamic id.",
    ("sriov_numvfs", "write", "ENOENT"): (
        "The physical function's driver cannot make virtual functions, or it has no driver."
    ),
    ("sriov_numvfs", "write", "EBUSY"): (
        "The number of virtual functions can only change through 0, which destroys them."
    ),
    ("sriov_numvfs", "write", "ERANGE"): "The device cannot have so many virtual functions.",
    ("sriov_numvfs", "write", "EINVAL"): "This is not a number of virtual functions.",
    ("create", "write", "EEXIST"): "A mediated device with this UUID exists already, perhaps on "
    "another parent, or one is still being removed.",
    ("create", "write", "ENOSPC"): "The parent has no instance of this type left.",
    ("create", "write", "EUSERS"): "The parent has no instance of this type left.",
    ("create", "write", "EINVAL"): "The driver refused, or this is not a UUID.",
    ("create", "write", "ENODEV"): "The parent is being unregistered.",
    ("create", "open", "ENOENT"): "The parent does not offer this type (any more).",
    ("current_vgpu_type", "write", "EPERM"): (
        "The virtual function is a vGPU already, and has to be none before it takes another type; "
        "or it is none, so that there is nothing to take away."
    ),
    ("current_vgpu_type", "write", "EINVAL"): (
        "The card has no room for this type, or does not take it beside what it has."
    ),
    ("current_vgpu_type", "write", "ENODEV"): "The card does not know this type.",
    ("current_vgpu_type", "write", "ENOSPC"): "The card has no room for this type.",
    ("current_vgpu_type", "write", "ERANGE"): "This is not the number of a type.",
    ("current_vgpu_type", "write", "EBUSY"): (
        "A process has the vGPU open: shut its guest down first."
    ),
    ("current_vgpu_type", "open", "ENOENT"): (
        "The virtual function takes no vGPU type: the vGPU host driver does not have it (any more)."
    ),
    ("remove", "write", "EAGAIN"): "The device is still being created, or already being removed.",
    ("remove", "write", "ENODEV"): "The parent is being unregistered.",
    ("remove", "open", "ENOENT"): "There is no such device (any more).",
    ("reset", "write", "ENOTTY"): (
        "No reset method that is chosen works here: none is chosen at all, or the bus behind the "
        "port does not come back."
    ),
    ("reset", "open", "ENOENT"): "The device has no way to be reset.",
    ("reset_method", "write", "EINVAL"): "The device has no such reset method.",
    ("GROUP_SET_CONTAINER", "ioctl", "EPERM"): (
        "The group is not viable: a host driver has a device of it."
    ),
    ("GROUP_GET_DEVICE_FD", "ioctl", "ENODEV"): (
        "The device is not bound to a VFIO driver, or is just being let go."
    ),
    ("GROUP_GET_DEVICE_FD", "ioctl", "EACCES"): (
        "A virtual function of a PF that a VFIO user has needs that user's vf_token."
    ),
    ("SET_IOMMU", "ioctl", "ENODEV"): "No IOMMU driver of this kind takes the group.",
    ("IOMMU_MAP_DMA", "ioctl", "ENOMEM"): "RLIMIT_MEMLOCK does not allow it.",
    ("IOAS_MAP", "ioctl", "ENOMEM"): "RLIMIT_MEMLOCK does not allow it.",
    ("DEVICE_RESET", "ioctl", "EINVAL"): "The device has no way to be reset.",
    ("DEVICE_BIND_IOMMUFD", "ioctl", "EBUSY"): "Somebody has the group's node open.",
    ("DEVICE_BIND_IOMMUFD", "ioctl", "EPERM"): (
        "The group is not viable: a host driver has a device of it, or another iommufd."
    ),
    ("DEVICE_BIND_IOMMUFD", "ioctl", "EINVAL"): "Somebody has the device bound already.",
    ("DEVICE_BIND_IOMMUFD", "ioctl", "EAGAIN"): "The device is just being let go.",
    (_ANY, "open", "EACCES"): "This needs root.",
    (_ANY, "write", "EACCES"): "This needs root.",
    (_ANY, "open", "EPERM"): "This needs root, or the kernel is locked down.",
    (_ANY, "write", "EPERM"): "The kernel does not permit this now, even to root.",
    (_ANY, "open", "EROFS"): (
        "It is mounted read-only, as in a container: do this on the host, or mount it writable."
    ),
    (_ANY, "chown", "EPERM"): "This needs root.",
    (_ANY, "open", "EXDEV"): "The path leads out of the root and was not followed.",
    (_ANY, "open", "ELOOP"): "A symbolic link stands where a plain file should be.",
}


def kernel_meaning(attribute: str, op: str, errno: int) -> str | None:
    """Say what an errno means for an operation on an attribute.

    Args:
        attribute: the file's last component (``driver_override``).
        op: a :data:`KernelOp`.
        errno: a positive errno.

    Returns:
        A sentence or two, or ``None`` if the errno's own text is all there is to say.
    """
    code = _errno.errorcode.get(errno, "")
    return _MEANINGS.get((attribute, op, code)) or _MEANINGS.get((_ANY, op, code))
