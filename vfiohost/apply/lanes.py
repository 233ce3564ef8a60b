"""Which steps of a plan may be under way at the same time; and what two plans have in common.

Steps about the same device stay in their order, and so do those about devices that the kernel holds
locks of together: an IOMMU group (``drivers/vfio/group.c``: one owner of its DMA), the functions of
a slot, a physical function and its virtual functions, a mediated device and its parent. All others
do not wait for each other in the kernel: ``unbind`` and ``bind`` take the lock of their own device
alone (``drivers/base/dd.c:device_driver_detach``).
"""

from __future__ import annotations

import errno
import re
from typing import TYPE_CHECKING

from vfiohost.errors import KernelError
from vfiohost.nodes import MDEVS
from vfiohost.plan.changes import DEVICES
from vfiohost.plan.types import ChangeNodes, SetNodes, WriteAttr

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from vfiohost.plan.types import Step
    from vfiohost.sysfs import Sysfs

# What stores name: PCI addresses, the UUIDs of mediated devices, and their parents.
ADDRESS = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]")
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
MDEV_PARENT = re.compile(r"\bmdev_bus/([^/]+)")
_NO_GROUP = "no IOMMU group"
_NO_PARENT = "no parent"

# They take pci_lock_rescan_remove (drivers/pci/remove.c), or reset what is beside the device, too.
_RESCAN_LOCK = re.compile(
    r"sys/bus/pci/(?:rescan|devices/[^/]+/(?:sriov_numvfs|remove|rescan))|sys/class/pci_bus/.+/rescan"
)
_OF_DEVICES = (
    "sys/bus/pci/",
    "sys/bus/mdev/",
    "sys/class/mdev_bus/",
    "proc/driver/nvidia/",  # unbindLock
)
_RESET = re.compile(r"sys/bus/pci/devices/[^/]+/reset")


def named(step: Step) -> frozenset[str]:
    """What a step is about: the addresses, UUIDs and parents of mediated devices that it names."""
    if isinstance(step, SetNodes | ChangeNodes):
        return frozenset({str(step.address)})
    if not isinstance(step, WriteAttr):
        return frozenset()
    text = f"{step.path} {step.value}"
    return frozenset(n for each in (ADDRESS, _UUID, MDEV_PARENT) for n in each.findall(text))


def takes_rescan_lock(step: Step) -> bool:
    """Whether a store takes ``pci_lock_rescan_remove`` (``drivers/pci/remove.c``).

    One that is stuck holds it, so that another of them anywhere would be stuck behind it for as
    long; with a slow bind of the same card they lock each other out for ever.
    """
    return isinstance(step, WriteAttr) and _RESCAN_LOCK.fullmatch(step.path) is not None


def stands_alone(step: Step) -> bool:
    """Whether nothing else may be under way with a step: it may change what other steps are about.

    These are module loads, stores that name no device (``new_id``, a driver's parameter), runs of
    ``sriov-manage``, resets, and what takes the lock of :func:`takes_rescan_lock`.
    """
    if takes_rescan_lock(step) or not named(step):
        return True
    if not isinstance(step, WriteAttr):
        return False
    return not step.path.startswith(_OF_DEVICES) or _RESET.fullmatch(step.path) is not None


def stages(steps: Sequence[Step]) -> Iterator[range]:
    """Split a plan where a step has to stand alone: the indexes of each part, in order."""
    first = 0
    for index, step in enumerate(steps):
        if stands_alone(step):
            if first < index:
                yield range(first, index)
            yield range(index, index + 1)
            first = index + 1
    if first < len(steps):
        yield range(first, len(steps))


def lanes(
    steps: Sequence[Step], stage: range, related: Callable[[str], Iterable[str]]
) -> list[list[int]]:
    """Split a stage into lanes: each in the order of the plan, and none bound to another.

    Args:
        steps: the steps of the plan.
        stage: the indexes of those that are split.
        related: what else a device that a step names is bound to; see :func:`related`.

    Returns:
        The indexes of each lane, the lane of the first step first.
    """
    if len(stage) == 1:
        return [list(stage)]
    leader: dict[str, str] = {}

    def find(thing: str) -> str:
        while leader.setdefault(thing, thing) != thing:
            leader[thing] = leader[leader[thing]]  # halve the way for who comes next
            thing = leader[thing]
        return thing

    asked: set[str] = set()
    things_of = {index: named(steps[index]) for index in stage}
    for things in things_of.values():
        if len(things) > 1:  # a mediated device that is to come, and its parent: it has no other
            asked |= set(filter(_UUID.fullmatch, things))
        for thing in things:
            bound = () if thing in asked else related(thing)
            for other in (min(things), *bound):
                leader[find(other)] = find(thing)
        asked |= things
    found: dict[str, list[int]] = {}
    for index, things in things_of.items():
        found.setdefault(find(min(things)), []).append(index)
    return list(found.values())


def related(sysfs: Sysfs, thing: str) -> Iterator[str]:
    """What a device is bound to: its IOMMU group, slot and card, or its parent.

    Devices without a group that could be seen are bound to each other: nobody knows what they
    share.

    Raises:
        KernelError: a link could not be read.

    Files: ``iommu_group`` and ``physfn`` of a PCI function, the link of a mediated device.
    """
    if ADDRESS.fullmatch(thing):
        group = sysfs.link_name(f"{DEVICES}/{thing}/iommu_group")
        yield _NO_GROUP if group is None else f"IOMMU group {group}"
        yield f"slot {thing.rpartition('.')[0]}"
        yield from cards(sysfs, {thing})
    elif _UUID.fullmatch(thing):
        try:
            yield sysfs.readlink(f"{MDEVS}/{thing}").split("/")[-2]
        except KernelError as error:
            if error.errno != errno.ENOENT:  # else its step names the parent on which it is to come
                yield _NO_PARENT
        except IndexError:
            yield _NO_PARENT


def cards(sysfs: Sysfs, things: Iterable[str]) -> set[str]:
    """The physical functions of those that are virtual functions.

    Raises:
        KernelError: a link could not be read.
    """
    links = (
        sysfs.link_name(f"{DEVICES}/{thing}/physfn") for thing in things if ADDRESS.fullmatch(thing)
    )
    return {link for link in links if link is not None}
