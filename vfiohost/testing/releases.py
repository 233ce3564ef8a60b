"""What differs from one kernel release to another, as data: the rules are the same for all."""

from __future__ import annotations

import re

import attrs


@attrs.frozen
class Release:
    """Facts about a kernel and those after it.

    Attributes:
        since: its first two numbers.
        locked_reads: attributes of a PCI function whose reading waits for the device's lock.
        override_waits: a store to ``driver_override`` waits for that lock, too.
        hides_first: ``vfio_unregister_group_dev`` hides a device before it waits for its user, so
            that nobody else finds it.
        type_by_owner: ``iommu_group_store_type`` asks who uses the DMA of a group. Else it wants
            one device alone, without a driver.
        new_power_state: of a function that has just been found (``pci_pm_init`` in
            ``drivers/pci/pci.c``; it puts functions into D0 since commit 4d4c10f763d7).
    """

    since: tuple[int, int]
    locked_reads: frozenset[str]
    override_waits: bool
    hides_first: bool
    type_by_owner: bool
    new_power_state: bytes = b"unknown\n"


# drivers/pci/iov.c: sriov_numvfs_show, sriov_vf_total_msix_show
_SRIOV = frozenset({"sriov_numvfs", "sriov_vf_total_msix"})

# drivers/base/core.c: uevent_show, drivers/pci/pci-sysfs.c: driver_override_show
_OLD = _SRIOV | {"driver_override", "uevent"}

_RELEASES = (
    Release(
        (6, 16),
        _SRIOV,
        override_waits=False,
        hides_first=True,
        type_by_owner=True,
        new_power_state=b"D0\n",
    ),
    Release((6, 12), _SRIOV, override_waits=False, hides_first=True, type_by_owner=True),
    Release((6, 6), _OLD, override_waits=True, hides_first=True, type_by_owner=True),
    Release((6, 4), _OLD, override_waits=True, hides_first=False, type_by_owner=True),
    Release((0, 0), _OLD, override_waits=True, hides_first=False, type_by_owner=False),
)
"""The newest first."""


def release_of(kernel: str | None) -> Release:
    """Look up the facts about a kernel; one that is not named is a new one.

    Args:
        kernel: its release, as ``uname -r`` prints it.
    """
    numbers = tuple(int(number) for number in re.findall(r"\d+", kernel or "")[:2])
    if not numbers:
        return _RELEASES[0]
    return next(release for release in _RELEASES if release.since <= numbers)
