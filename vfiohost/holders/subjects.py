"""The devices whose users are looked for, with those that live and die with them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import attrs

from vfiohost.holders.reading import names_in, target_of
from vfiohost.model import PciDevice, is_vfio_driver

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from vfiohost.model import MediatedDevice, PciAddress, Snapshot
    from vfiohost.sysfs import Sysfs

_SUBSYSTEM = re.compile(r"(sys/devices/virtual/nvme-subsystem/[^/]+)/")
_MDEVS = "sys/bus/mdev/devices"


@attrs.frozen
class Subject:
    """A device whose users are looked for.

    Attributes:
        name: its address, or the UUID of a mediated device.
        path: its directory, relative to the root.
        device: the PCI function, or ``None`` for a mediated device.
        group: its IOMMU group, if it has one.
        physfn: the physical function, if that is a subject too.
        parent: the parent of a mediated device, if that is a subject too.
        cdevs: its VFIO device nodes (``vfio3``).
    """

    name: str
    path: str
    device: PciDevice | None
    group: int | None
    physfn: str | None = None
    parent: str | None = None
    cdevs: tuple[str, ...] = ()

    @property
    def is_on_vfio(self) -> bool:
        """Whether VFIO has it: a mediated device always."""
        if self.device is None:
            return True
        return isinstance(self.device.driver, str) and is_vfio_driver(self.device.driver)

    @property
    def brings_vfio(self) -> bool:
        """Whether its own driver makes it a VFIO device, as NVIDIA's does with virtual functions.

        Its ``enable`` does not tell whether it is open: the driver has it enabled for itself.
        """
        has_driver = self.device is not None and isinstance(self.device.driver, str)
        return has_driver and bool(self.cdevs) and not self.is_on_vfio

    @property
    def may_be_on_vfio(self) -> bool:
        """While an unbind waits for a VFIO user, the link to the driver is gone already."""
        is_driverless = not isinstance(self.device and self.device.driver, str)
        return self.is_on_vfio or self.brings_vfio or is_driverless


def find_subjects(
    sysfs: Sysfs, snapshot: Snapshot, addresses: Iterable[PciAddress], mdevs: Iterable[str]
) -> tuple[Subject, ...]:
    """The devices, each followed by its virtual functions and by the mediated devices of both."""
    found: dict[str, Subject] = {}
    for address in addresses:
        if address not in snapshot.pci:
            continue
        for subject in _with_children(sysfs, snapshot, snapshot.pci[address]):
            # A virtual function that was asked for before its physical function is its child too.
            if subject.name not in found or subject.physfn is not None:
                found[subject.name] = subject
    for mdev in snapshot.mdev.devices if snapshot.mdev else ():
        if mdev.uuid in mdevs and mdev.uuid not in found:
            found[mdev.uuid] = _mdev(sysfs, mdev, None)
    return tuple(found.values())


def owners(sysfs: Sysfs, path: str, subjects: Iterable[Subject]) -> Iterator[Subject]:
    """The functions that a device belongs to: it lies below them.

    An NVMe namespace that several controllers may share lies below none of them, but below its
    subsystem, which has a link to each (``nvme_mpath_alloc_disk``, ``nvme_init_subsystem``).

    Args:
        sysfs: the host.
        path: the device's directory, relative to the root.
        subjects: the functions.
    """
    places = [path]
    match = _SUBSYSTEM.match(f"{path}/")
    if match is not None:
        names = [name for name in names_in(sysfs, match[1]) if name.startswith("nvme")]
        places += [t for name in names if (t := target_of(sysfs, f"{match[1]}/{name}")) is not None]
    for subject in subjects:
        if any(place.startswith(f"{subject.path}/") for place in places):
            yield subject


def _with_children(sysfs: Sysfs, snapshot: Snapshot, device: PciDevice) -> Iterator[Subject]:
    functions: list[tuple[PciDevice, PciDevice | None]] = [(device, None)]
    functions += [(vf, device) for vf in snapshot.virtual_functions.get(device.address, ())]
    mdevs = snapshot.mdev.devices if snapshot.mdev else ()
    for function, physfn in functions:
        name = str(function.address)
        yield Subject(
            name=name,
            path=function.path,
            device=function,
            group=function.iommu_group if isinstance(function.iommu_group, int) else None,
            physfn=None if physfn is None else str(physfn.address),
            cdevs=tuple(names_in(sysfs, f"{function.path}/vfio-dev")),
        )
        yield from (_mdev(sysfs, mdev, name) for mdev in mdevs if mdev.parent == name)


def _mdev(sysfs: Sysfs, mdev: MediatedDevice, parent: str | None) -> Subject:
    path = f"{_MDEVS}/{mdev.uuid}"
    return Subject(
        name=mdev.uuid,
        path=path,
        device=None,
        group=mdev.iommu_group if isinstance(mdev.iommu_group, int) else None,
        parent=parent,
        cdevs=tuple(names_in(sysfs, f"{path}/vfio-dev")),
    )
