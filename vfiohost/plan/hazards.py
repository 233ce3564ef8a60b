"""What stands in the way of a change of drivers: every reason, each with its remedy.

A hazard is about a *change*: what is already so does no harm. The kernel protects little here
(it unbinds a disk under a mounted file system without a word), and what it refuses it refuses
half-way through; so the reasons are found before the first write.
"""

from __future__ import annotations

import errno
from difflib import get_close_matches
from typing import TYPE_CHECKING

from vfiohost.errors import ParseError, Refusal
from vfiohost.model import IommuGroup, Unavailable, is_vfio_driver
from vfiohost.nvidia import DRIVER as NVIDIA
from vfiohost.nvidia import VENDOR_ID as NVIDIA_VENDOR
from vfiohost.plan.changes import DRIVERS, NO_DRIVER, UNSET, Binding
from vfiohost.plan.drivers import is_host_driver
from vfiohost.plan.in_use import (
    ALLOW_CONSOLE,
    ALLOW_DISPLAY,
    ALLOW_NETWORK,
    ALLOW_NODE,
    ALLOW_STORAGE,
    ALLOW_VFIO_USER,
    ALLOW_VGPU,
    use_hazards,
)
from vfiohost.plan.words import counted, listed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from vfiohost.model import PciDevice, Snapshot
    from vfiohost.plan.changes import Change

ALLOW_SHARED_GROUP = "shared-group"
ALLOW_HOST_DRIVER = "host-driver"
ALLOW_ROOM_UNKNOWN = "room-unknown"
ALLOWABLE = frozenset(
    {
        ALLOW_CONSOLE,
        ALLOW_DISPLAY,
        ALLOW_HOST_DRIVER,
        ALLOW_NETWORK,
        ALLOW_NODE,
        ALLOW_ROOM_UNKNOWN,
        ALLOW_SHARED_GROUP,
        ALLOW_STORAGE,
        ALLOW_VFIO_USER,
        ALLOW_VGPU,
    }
)
"""The words of ``--allow``: each permits one hazard, and there is none that permits them all."""


def check_allow(words: Iterable[str]) -> None:
    """Check the words of ``--allow``.

    Raises:
        ParseError: one is none of :data:`ALLOWABLE`.
    """
    for word in sorted(set(words) - ALLOWABLE):
        close = get_close_matches(word, ALLOWABLE, n=1)
        raise ParseError(
            word,
            f"something that can be allowed ({', '.join(sorted(ALLOWABLE))})",
            where="allow",
            hint=f"Did you mean {close[0]}?" if close else None,
        )


def read_binding(snapshot: Snapshot, device: PciDevice) -> Binding | Refusal:
    """What a device has now, or why it cannot be known or is about to change by itself."""
    subject = str(device.address)
    details = snapshot.details.get(device.address)
    override = details.driver_override if details else Unavailable(0, "not read")
    uevent = details.uevent_driver if details else Unavailable(0, "not read")
    if isinstance(device.driver, Unavailable):
        return _unreadable(subject, "driver", device.driver)
    if details is None:
        return _unreadable(subject, "driver_override", Unavailable(0, "not read"))
    if snapshot.is_releasing(device):
        return _releasing(subject, uevent)
    for fact, value in (("driver_override", override), ("uevent", uevent)):
        if isinstance(value, Unavailable) and not value.errno:
            return _locked(subject, fact, value)
    if isinstance(override, Unavailable):
        return _unreadable(subject, "driver_override", override)
    return Binding(device.driver, None if override in ("", UNSET) else override)


def hazards(
    snapshot: Snapshot, changes: Sequence[Change], allow: frozenset[str]
) -> Iterator[Refusal]:
    """Every reason not to carry out some changes, device by device.

    Args:
        snapshot: the host, with :class:`vfiohost.model.Details` of the devices and their usage.
        changes: the changes, judged together.
        allow: words of :data:`ALLOWABLE`.
    """
    for change in changes:
        for check, permitted_by in _CHECKS:
            if not change.is_empty and permitted_by not in allow:
                yield from check(snapshot, change)
        yield from use_hazards(snapshot, change, allow)


def group_hazards(
    snapshot: Snapshot, changes: Sequence[Change], *, whole: bool
) -> Iterator[Refusal]:
    """The IOMMU groups that a VFIO user could not own after the changes, and who is to blame.

    Args:
        snapshot: the host.
        changes: the changes, judged together, after all of them.
        whole: the request took all endpoints of the groups already.
    """
    for group in groups_after(snapshot, changes):
        if unknown := [m for m in group.members if isinstance(m.driver, Unavailable)]:
            yield Refusal(
                "unreadable",
                _name(group),
                f"Whether {_name(group)} would be viable cannot be told: the driver of "
                f"{listed([m.address for m in unknown])} could not be read.",
                "Find out why, or permit it with --allow shared-group.",
            )
        if not group.blockers:
            continue
        stay = listed([f"{m.address} on {m.driver}" for m in group.blockers])
        verb = "stays" if len(group.blockers) == 1 else "stay"
        yield Refusal(
            "group-not-viable",
            _name(group),
            f"{_name(group)} would not be viable: {stay} {verb} behind, and a guest gets the whole "
            "group or nothing.",
            f"{_how_to_free(group, whole=whole)}, or permit it with --allow shared-group.",
        )


def _how_to_free(group: IommuGroup, *, whole: bool) -> str:
    """What has to be done to those that block: a bridge is none of our business."""
    bridges = [m for m in group.blockers if m.is_bridge]
    if bridges:
        by_hand = "; ".join(
            f"printf %s {m.address} > /{DRIVERS}/{m.driver}/unbind" for m in bridges
        )
        return f"If the host can do without the bridge's driver, unbind it by hand ({by_hand})"
    if whole:
        return f"Unbind {listed([m.address for m in group.blockers])} by name first"
    return "Bind all endpoints of the group with --group"


def groups_after(snapshot: Snapshot, changes: Sequence[Change]) -> Iterator[IommuGroup]:
    """The groups of the devices that go to a VFIO driver, as they are after the changes."""
    after = {change.address: change.want.driver for change in changes}
    numbers: dict[int, None] = {}
    for change in changes:
        number = snapshot.pci[change.address].iommu_group
        if _goes_to_guest(change) and isinstance(number, int):
            numbers[number] = None
    for number in numbers:
        members = snapshot.groups[number].members
        yield IommuGroup(
            number,
            tuple(m.on(after.get(m.address, m.driver)) for m in members),
        )


def _name(group: IommuGroup) -> str:
    return f"IOMMU group {group.number}"


def _leaves_host(change: Change) -> bool:
    """A host driver has to let go of the device."""
    return change.unbinds and change.now.driver is not None and is_host_driver(change.now.driver)


def _goes_to_guest(change: Change) -> bool:
    """A VFIO driver takes the device."""
    return change.changes_driver and is_vfio_driver(change.want.driver or "")


def _bridge(snapshot: Snapshot, change: Change) -> Iterator[Refusal]:
    """Never take a bridge from the host; bringing one back is no hazard."""
    device = snapshot.pci[change.address]
    target = change.want.driver
    is_taken = target is not None and not is_host_driver(target)
    is_held = change.want.override == NO_DRIVER != change.now.override
    if device.is_bridge and (_leaves_host(change) or is_taken or is_held):
        yield Refusal(
            "bridge",
            str(device.address),
            f"{device.address} is a bridge (class {device.class_code >> 8:04x}): the devices "
            "behind it need it, and no guest can have it.",
            "Leave it out; a bridge on pcieport, or without a driver, keeps no group from a guest.",
        )


def _boot_vga(snapshot: Snapshot, change: Change) -> Iterator[Refusal]:
    if not (_leaves_host(change) or _goes_to_guest(change)):
        return
    boot_vga = snapshot.details[change.address].boot_vga
    remedy = "Permit it with --allow display."
    subject = str(change.address)
    if isinstance(boot_vga, Unavailable) and boot_vga.errno != errno.ENOENT:
        yield _unreadable(subject, "boot_vga", boot_vga)._replace(remedy=remedy)
    elif boot_vga is True:
        loss = f" when {change.now.driver} lets go of it" if _leaves_host(change) else ""
        yield Refusal(
            "boot-vga",
            subject,
            f"{subject} is the display of the host's console (boot_vga); the screen goes dark"
            f"{loss}.",
            remedy,
        )


def _physical_function(snapshot: Snapshot, change: Change) -> Iterator[Refusal]:
    """A driver that lets go of a PF orphans its VFs (``drivers/pci/iov.c:pci_iov_remove``)."""
    number = len(snapshot.virtual_functions.get(change.address, ()))
    if not number or not (change.unbinds or _goes_to_guest(change)):
        return
    subject, driver = str(change.address), change.now.driver
    what = f"{subject} has {counted(number, 'virtual function')}"
    if driver is None:
        sentence = f"{what}, and {change.want.driver} takes no device that has some."
    elif is_vfio_driver(driver):
        sentence = f"{what}, which are destroyed when {driver} lets go of it."
    else:
        sentence = f"{what}; without {driver} they stay behind and cannot be removed any more."
    remedy = f"Remove them first: `vfiohost vf clear {subject}`."
    yield Refusal("pf-with-vfs", subject, sentence, remedy)


def _mdev_parent(snapshot: Snapshot, change: Change) -> Iterator[Refusal]:
    """Unbinding the parent's driver removes its mediated devices (``mdev_unregister_parent``).

    Those on the virtual functions of a physical one lose its driver, and their guests with them.
    """
    if snapshot.mdev is None or not change.unbinds:
        return
    functions = {str(vf.address) for vf in snapshot.virtual_functions.get(change.address, ())}
    for where, parents in (("", {str(change.address)}), (" on its virtual functions", functions)):
        uuids = [d.uuid for d in snapshot.mdev.devices if d.parent in parents]
        if uuids:
            yield Refusal(
                "mdevs-exist",
                str(change.address),
                f"{change.address} has {counted(len(uuids), 'mediated device')}{where} "
                f"({listed(uuids)}), destroyed when {change.now.driver} lets go of it.",
                f"Remove them first: `vfiohost mdev remove {' '.join(uuids)}`, or permit it with "
                "--allow vgpu.",
            )


def _vgpu_function(snapshot: Snapshot, change: Change) -> Iterator[Refusal]:
    """vfio-pci answers EINVAL for a VF that belongs to NVIDIA's vGPU host driver."""
    device = snapshot.pci[change.address]
    if device.vendor_id != NVIDIA_VENDOR or not device.is_vf or not _goes_to_guest(change):
        return
    parents = snapshot.mdev.parents if snapshot.mdev else ()
    if device.driver == NVIDIA or any(p.address == device.address for p in parents):
        yield Refusal(
            "vgpu-vf",
            str(device.address),
            f"{device.address} is a virtual function of NVIDIA's vGPU host driver, and "
            f"{change.want.driver} cannot take it (the kernel answers EINVAL).",
            "Make a vGPU on it (`vfiohost mdev create`, or NVIDIA's current_vgpu_type), or hand "
            f"out the physical function {device.physfn} without virtual functions.",
        )


def _iommu(snapshot: Snapshot, change: Change) -> Iterator[Refusal]:
    """Without an IOMMU group vfio-pci answers EINVAL (``vfio_pci_core_register_device``)."""
    device = snapshot.pci[change.address]
    if not _goes_to_guest(change) or isinstance(device.iommu_group, int):
        return
    if isinstance(device.iommu_group, Unavailable):
        yield _unreadable(str(device.address), "iommu_group", device.iommu_group)
        return
    where = "no device of this host has one" if not snapshot.groups else "others have one"
    yield Refusal(
        "no-iommu",
        str(device.address),
        f"{device.address} has no IOMMU group ({where}), and {change.want.driver} takes no such "
        "device.",
        "Turn on the IOMMU: VT-d or AMD-Vi in the firmware, and intel_iommu=on on the kernel's "
        "command line of an Intel host.",
    )


# Each with the word of --allow that permits it, if one does.
_CHECKS: tuple[tuple[Callable[[Snapshot, Change], Iterator[Refusal]], str | None], ...] = (
    (_bridge, None),
    (_boot_vga, ALLOW_DISPLAY),
    (_physical_function, None),
    (_mdev_parent, ALLOW_VGPU),
    (_vgpu_function, None),
    (_iommu, None),
)


def _unreadable(subject: str, fact: str, value: Unavailable) -> Refusal:
    return Refusal(
        "unreadable",
        subject,
        f"The {fact} of {subject} could not be read: {value.why}.",
        f"Find out why: read {fact} of {subject} as root, and look into the kernel log.",
    )


def _locked(subject: str, fact: str, value: Unavailable) -> Refusal:
    return Refusal(
        "device-locked",
        subject,
        f"{subject} does not answer ({fact}: {value.why}): the kernel is binding, unbinding or "
        "resetting it.",
        "Wait for that to end; if it does not, end the process that holds the device open.",
    )


def _releasing(subject: str, uevent: str | Unavailable | None) -> Refusal:
    driver = uevent if isinstance(uevent, str) else "its driver"
    return Refusal(
        "releasing",
        subject,
        f"{subject} is still being released by {driver}: a process holds it open.",
        "End that process (often the guest's QEMU), then try again.",
    )
