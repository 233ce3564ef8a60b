"""What is known of a store that the kernel has not come back from: who waits, where, on whom."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from vfiohost.apply.lanes import ADDRESS
from vfiohost.errors import KernelError, PendingError
from vfiohost.holders import find_processes
from vfiohost.model import Unavailable
from vfiohost.plan.changes import DEVICES
from vfiohost.plan.types import WriteAttr

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vfiohost.journal import JournalEntry
    from vfiohost.plan.types import Report, Step
    from vfiohost.sysfs import Sysfs

_MDEV = re.compile(r"sys/bus/mdev/devices/([^/]+)/remove")
_PARENT = re.compile(r"(.+)/mdev_supported_types/[^/]+/create")

# What an answer is waited for: that of a device whose lock is held does not come at all.
_LOOK_SECONDS = 0.3


@attrs.frozen
class Waiting:
    """A store that the kernel has not come back from.

    Attributes:
        step: whose store.
        pid: the helper process that waits in the kernel, if it is known.
        channel: the function of the kernel in which it waits (``/proc/PID/wchan``), if that is
            known.
        releasing: the device that its driver is letting go of, or ``None``: its ``driver`` link is
            gone, and its ``uevent`` still names the driver or does not answer.
        users: the processes that have the device open, as far as they can be seen.
    """

    step: Step
    pid: int | None
    channel: str | None
    releasing: str | None
    users: tuple[str, ...]

    @property
    def who(self) -> str:
        """The process that waits."""
        return "no helper process is known" if self.pid is None else f"helper process {self.pid}"

    @property
    def sentences(self) -> str:
        """Where it waits, in what state the device is, and who uses it."""
        said = []
        if self.channel is not None:
            said.append(f"It waits in the kernel's {self.channel}.")
        if self.releasing is not None:
            said.append(
                f"{self.releasing} is releasing: it has no driver any more for those who look, but "
                "its driver has not let go of it."
            )
        if self.users:
            said.append(f"In use by {', '.join(self.users)}.")
        elif isinstance(self.step, WriteAttr):
            said.append("Most often another process still uses the device.")
        return " ".join(said)

    def error(
        self, text: str, *, report: Report, cause: BaseException | None = None
    ) -> PendingError:
        """The error that says so.

        Args:
            text: the sentences.
            report: what became of each step.
            cause: what ended the waiting, if it was waited.
        """
        error = PendingError(text, step=self.step, report=report, cause=cause)
        error.pid, error.wait_channel, error.users = self.pid, self.channel, self.users
        error.state = None if self.releasing is None else "releasing"
        return error


def look(sysfs: Sysfs, step: Step, pid: int | None) -> Waiting:
    """See what a store waits for. Takes no lock of the kernel, and at most 0.3 s.

    Args:
        sysfs: the host.
        step: whose store.
        pid: the helper process that waits, if it is known.

    Files: ``/proc/PID/wchan``, the ``driver`` link and ``uevent`` of the device, ``dev/vfio`` and
    ``proc/*/fd`` below the root.
    """
    return Waiting(
        step=step,
        pid=pid,
        channel=None if pid is None else _channel(pid),
        releasing=_releasing(sysfs, step),
        users=users_of(sysfs, step),
    )


def who(waiting: tuple[Waiting, ...]) -> str:
    """The processes that wait."""
    return " and ".join(each.who for each in waiting)


def where(waiting: tuple[Waiting, ...]) -> str:
    """Where they wait, in what state the devices are, and who uses them."""
    return " ".join(dict.fromkeys(each.sentences for each in waiting))


def still_waiting(sysfs: Sysfs, entry: JournalEntry) -> tuple[Waiting, ...]:
    """The stores of an open journal that the kernel has not come back from.

    Their helpers still wait, or a helper is not known, or not from here (another container's), and
    the device is still releasing.
    """
    waiting = []
    for index, event in entry.last_events.items():
        step, helper = entry.plan.steps[index], event.helper
        if event.kind != "pending":
            continue
        if helper is not None and helper.is_alive:
            waiting.append(look(sysfs, step, helper.pid))
        elif (helper is None or helper.is_elsewhere) and _releasing(sysfs, step):
            waiting.append(look(sysfs, step, None))
    return tuple(waiting)


def _channel(pid: int) -> str | None:
    """Where a process waits. The real ``/proc``: our helpers are never below another root."""
    try:
        name = Path(f"/proc/{pid}/wchan").read_text().strip()
    except OSError:
        return None
    return None if name in ("", "0") else name


def _releasing(sysfs: Sysfs, step: Step) -> str | None:
    """The device of a step if its driver is on its way out (``device_release_driver``)."""
    if not isinstance(step, WriteAttr):
        return None
    mdev = _MDEV.fullmatch(step.path)
    if mdev is not None:
        places = [d for d in _directories(step) if d.endswith(mdev[1])]
        return mdev[1] if _is_going(sysfs, mdev[1], places) else None
    found = ADDRESS.search(f"{step.value} {step.path}")
    return found[0] if found and _is_let_go_of(sysfs, f"{DEVICES}/{found[0]}") else None


def _is_let_go_of(sysfs: Sysfs, device: str) -> bool:
    uevent, link = f"{device}/uevent", f"{device}/driver"
    try:
        if not sysfs.exists(device) or sysfs.link_name(link) is not None:
            return False
        text = sysfs.read_bounded([uevent], timeout=_LOOK_SECONDS)[uevent]
        is_bound_again = sysfs.link_name(link) is not None
    except KernelError:
        return False
    locked = isinstance(text, Unavailable) and not text.errno
    named = isinstance(text, str) and "DRIVER=" in text
    return (locked or named) and not is_bound_again


def _is_going(sysfs: Sysfs, uuid: str, places: list[str]) -> bool:
    """Whether a mediated device has left its bus, and is still there below its parent.

    So it is while it is removed (``device_del``: ``bus_remove_device``, and only then
    ``kobject_del``).
    """
    with contextlib.suppress(KernelError):
        return not sysfs.exists(f"sys/bus/mdev/devices/{uuid}") and any(map(sysfs.exists, places))
    return False


def users_of(sysfs: Sysfs, step: Step) -> tuple[str, ...]:
    """The processes that have a VFIO node of a step's device open.

    Files: ``dev/vfio`` and ``proc/*/fd`` below the root.
    """
    nodes = {node for directory in _directories(step) for node in _nodes(sysfs, directory)}
    return tuple(map(str, find_processes(sysfs, nodes))) if nodes else ()


def module_users(sysfs: Sysfs) -> tuple[str, ...]:
    """The kernel's own users of NVIDIA's driver: modules that hold it, and a framebuffer console.

    Files: ``sys/module/nvidia/holders``, ``sys/module/nvidia_drm/parameters/fbdev``.
    """
    held = [f"module {name}" for name in _listing(sysfs, "sys/module/nvidia/holders")]
    if _text(sysfs, "sys/module/nvidia_drm/parameters/fbdev") == "Y":
        held.append("the framebuffer console of nvidia_drm")
    return tuple(held)


def _directories(step: Step) -> Iterator[str]:
    """Where the device of a step may be in sysfs; one that is being removed has left its bus."""
    if not isinstance(step, WriteAttr):
        return
    for address in ADDRESS.findall(f"{step.path} {step.value}"):
        yield f"{DEVICES}/{address}"
    mdev = _MDEV.fullmatch(step.path)
    parent = _PARENT.fullmatch(step.undo.path) if step.undo else None
    if mdev and parent:
        yield f"{parent[1]}/{mdev[1]}"


def _nodes(sysfs: Sysfs, directory: str) -> Iterator[str]:
    group = _link(sysfs, f"{directory}/iommu_group").rpartition("/")[2]
    if group:
        yield from (f"/dev/vfio/{group}", f"/dev/vfio/noiommu-{group}")
    for name in _listing(sysfs, f"{directory}/vfio-dev"):
        yield f"/dev/vfio/devices/{name}"


def _listing(sysfs: Sysfs, path: str) -> list[str]:
    with contextlib.suppress(KernelError):
        return sysfs.listdir(path)
    return []


def _link(sysfs: Sysfs, path: str) -> str:
    with contextlib.suppress(KernelError):
        return sysfs.readlink(path)
    return ""


def _text(sysfs: Sysfs, path: str) -> str:
    with contextlib.suppress(KernelError):
        return sysfs.read(path)
    return ""
