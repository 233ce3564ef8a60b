"""Who uses a device, and for what: frozen values, no I/O.

The kernel protects nothing here: it takes the disk away from under a mounted file system, and it
lets an unbind wait for ever for a process that has the device open. So this is what a planner asks
before anything is taken away from someone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterable

UseKind = Literal[
    "vfio-user",
    "vfio-group",
    "nvidia-user",
    "vgpu-manager",
    "node",
    "vgpu",
    "drm",
    "sound",
    "sound-control",
    "framebuffer",
    "console",
    "storage-user",
    "mount",
    "root-disk",
    "swap",
    "block-holder",
    "interface-up",
    "interface-elsewhere",
    "address",
    "route",
    "default-route",
    "network-member",
    "vf",
    "mdev",
]
"""What a device is used for.

``vfio-user``: it is open through VFIO; ``vfio-group``: only its IOMMU group is. ``nvidia-user``,
``drm``, ``sound``, ``storage-user``: a process has a node of it open, and ``node`` any other of its
nodes; ``sound-control``: only the mixer, which sound servers always have. ``vgpu``: it has been
made a vGPU without mediated devices. ``framebuffer``: the firmware's; ``console``: the kernel's
text console. ``mount``: it carries a file system or a part of one; ``root-disk``: one that the host
runs from. ``block-holder``: dm, LVM, md, bcache, a loop device or a ZFS pool is made of it, or the
kernel exports it. ``interface-up``: an interface is up, without address or route;
``interface-elsewhere``: it is in another network namespace; ``network-member``: a bond, a bridge or
a VLAN has it. ``vf``, ``mdev``: it has such a child.
"""


@attrs.frozen
class Process:
    """A process, as ``/proc/PID`` describes it.

    Attributes:
        pid: its number, in the PID namespace of that ``/proc``.
        command: its command line, or the thread's name where that is empty.
        name: the name of its main thread (``comm``), at most 15 bytes.
        user: the name of its effective user, or the number, or ``None`` when it cannot be read.
        unit: its systemd unit (``nvidia-persistenced.service``), or ``None``.
        container: the id of its container, or ``None``.
        manager: the user whose own systemd has the unit, or ``None``: it is the system's.
    """

    pid: int
    command: str
    name: str
    user: str | None = None
    unit: str | None = None
    container: str | None = None
    manager: str | None = None

    def __str__(self) -> str:
        words = [f"pid {self.pid} ({self.command})"]
        if self.container is not None:
            words.append(f"in container {self.container[:12]}")
        elif self.unit is not None:
            words.append(f"of {self.unit}")
        return " ".join(words)


@attrs.frozen
class Use:
    """One use of one device.

    Attributes:
        kind: what for.
        subject: the device: an address, or the UUID of a mediated device.
        detail: what exactly, as a phrase: ``nvme0n1p2 is mounted at /srv``.
        via: the file that says so, as the user would type it on that host: ``/proc/swaps``.
        process: who, where it is a process; ``None`` too where no process shows.
    """

    kind: UseKind
    subject: str
    detail: str
    via: str
    process: Process | None = None

    def __str__(self) -> str:
        return self.detail if self.process is None else f"{self.process}: {self.detail}"


@attrs.frozen
class Usage:
    """The uses of some devices, at one moment.

    Attributes:
        subjects: the devices that were looked at: those that were asked for, their virtual
            functions, and the mediated devices of both.
        uses: in the order of ``subjects``.
        incomplete: what could not be found out, as sentences. While there are some, a device
            without uses may have some all the same.
    """

    subjects: tuple[str, ...] = ()
    uses: tuple[Use, ...] = ()
    incomplete: tuple[str, ...] = ()

    def of(self, subjects: Iterable[str]) -> tuple[Use, ...]:
        """The uses of some of the devices."""
        wanted = frozenset(subjects)
        return tuple(use for use in self.uses if use.subject in wanted)
