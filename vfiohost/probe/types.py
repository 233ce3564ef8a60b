"""What comes of a probe, and what the helper process says on the way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import attrs

if TYPE_CHECKING:
    from vfiohost.model import PciAddress

ProbePath = Literal["group", "cdev"]
"""The way to a device: its group and a container, or its own node and an iommufd."""


@attrs.frozen
class Failure:
    """The errno that ended a probe.

    Attributes:
        op: ``open`` or ``ioctl``.
        errno: the kernel's answer.
        path: the node, as a person would type it.
        ioctl: which one, without its prefix (``SET_IOMMU``).
    """

    op: str
    errno: int
    path: str
    ioctl: str | None


@attrs.frozen
class Step:
    """One thing that was done, named after its ioctl.

    Attributes:
        name: ``open /dev/vfio/15``, ``GROUP_SET_CONTAINER``.
        outcome: ``ok``; ``failed``; ``pending``: the kernel has not come back.
        detail: what the kernel said, or the errno; empty when there is nothing to say.
    """

    name: str
    outcome: Literal["ok", "failed", "pending"]
    detail: str = ""


@attrs.frozen
class Region:
    """A region of the device, such as a BAR; only those that it has.

    Attributes:
        name: ``BAR0``, ``CONFIG``; ``region 9`` for one that the driver adds.
        size: bytes.
        flags: ``read``, ``write``, ``mmap``.
    """

    name: str
    size: int
    flags: tuple[str, ...]


@attrs.frozen
class Irq:
    """A kind of interrupt that the device has.

    Attributes:
        name: ``INTx``, ``MSI``, ``MSI-X``, ``ERR``, ``REQ``.
        count: how many.
        flags: ``eventfd``, ``maskable``, ``automasked``, ``noresize``.
    """

    name: str
    count: int
    flags: tuple[str, ...]


@attrs.frozen
class Cause:
    """Why the device cannot be used.

    Attributes:
        code: a word for programs (``not-viable``, ``busy``, ``memlock``).
        sentence: what is wrong.
        remedy: what to do about it.
    """

    code: str
    sentence: str
    remedy: str


@attrs.frozen
class Probe:
    """What became of one try to use a device.

    Attributes:
        address: the device.
        path: the way that was taken.
        steps: what was done, in order.
        is_noiommu: there is no IOMMU behind the group: the device can write to all memory.
        can_reset: the device can be reset by its user; ``None`` when it was not asked.
        regions, irqs: what the device has.
        cause: why it cannot be used, or ``None``: it can.
    """

    address: PciAddress
    path: ProbePath
    steps: tuple[Step, ...] = ()
    is_noiommu: bool = False
    can_reset: bool | None = None
    regions: tuple[Region, ...] = ()
    irqs: tuple[Irq, ...] = ()
    cause: Cause | None = None

    @property
    def is_usable(self) -> bool:
        """A guest could use the device now."""
        return self.cause is None
