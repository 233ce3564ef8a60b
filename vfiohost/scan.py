"""Reads a host into values: the only reader of sysfs's layout.

The scan of the PCI functions reads nothing that takes the device lock or wakes hardware, so that
it answers even on a host where an unbind is stuck; :mod:`vfiohost.details_scan` asks for the rest,
with a deadline. One thing that makes no sense becomes a :class:`~vfiohost.model.Problem` and hides
nothing else.
"""

from __future__ import annotations

import errno
import os
from operator import itemgetter
from typing import TYPE_CHECKING, Final, TypeVar

from vfiohost import native
from vfiohost.errors import KernelError
from vfiohost.model import Driver, PciAddress, PciDevice, Problem, Snapshot, Unavailable
from vfiohost.reads import (
    DEVICES,
    Addresses,
    address_of,
    attribute,
    left_out,
    link_name,
    names,
    opened,
    unavailable,
    without_gc,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from vfiohost.model import MdevBus
    from vfiohost.sysfs import Sysfs

T = TypeVar("T")

DRIVERS: Final = "sys/bus/pci/drivers"


def scan(sysfs: Sysfs, *, mdev: bool = False) -> Snapshot:
    """Read the PCI functions and drivers of a host, and its mediated devices when asked.

    Args:
        sysfs: the host.
        mdev: read ``sys/class/mdev_bus`` and ``sys/bus/mdev/devices`` too.

    Returns:
        What is there; a host without PCI or without an mdev bus has none of it. What could not be
        read or makes no sense stands in its ``problems``.
    """
    problems: list[Problem] = []
    return Snapshot(
        kernel=_kernel_release(sysfs, problems),
        devices=_functions(sysfs, problems),
        drivers=_drivers(sysfs, problems),
        mdev=_mdev_bus(sysfs, problems) if mdev else None,
        problems=tuple(problems),
    )


def _mdev_bus(sysfs: Sysfs, problems: list[Problem]) -> MdevBus:
    from vfiohost.mdev_scan import mdev_bus

    return mdev_bus(sysfs, problems)


# PCI functions


def _functions(sysfs: Sysfs, problems: list[Problem]) -> tuple[PciDevice, ...]:
    """Read all functions, in order of address."""
    found: list[tuple[int, PciDevice]] = []
    shown = sysfs.shown(DEVICES)
    try:
        with (
            opened(sysfs, DEVICES, os.O_RDONLY | os.O_DIRECTORY) as fd,
            without_gc(),
        ):
            found.extend(_made(native.scan(sysfs.fd, fd, shown=shown), problems))
    except KernelError as error:
        if error.errno == errno.ENOENT:
            why = f"{shown} is not there: this host has no PCI, or it was not recorded."
        else:
            why = str(error)
        problems.append(Problem("pci", DEVICES, why))
    found.sort(key=itemgetter(0))
    return tuple(device for _, device in found)


def _made(
    rows: Iterable[tuple[native.FunctionRow, str, str]], problems: list[Problem]
) -> Iterator[tuple[int, PciDevice]]:
    """Make devices of rows, each with a key that sorts like its address.

    This runs once per function of the largest hosts, so that the rows in which everything is as
    usual take the short way.
    """
    physfns = Addresses()
    for row, path, driver in rows:
        (
            key, physfn, domain, bus, slot, function, marks, vendor_id, device_id, class_code,
            subvendor, subdevice, revision, numa_node, total_vfs, group, errors,
        ) = row  # fmt: skip
        if marks & native.ODD:
            device = _odd_function(row, path, driver, native.field_errors(errors), problems)
            if device is not None:
                yield key, device
            continue
        yield (
            key,
            PciDevice(
                PciAddress(domain, bus, slot, function),
                vendor_id,
                device_id,
                None if subvendor < 0 else subvendor,
                None if subdevice < 0 else subdevice,
                class_code,
                None if revision < 0 else revision,
                None if numa_node < 0 else numa_node,
                driver or None,
                None if group < 0 else group,
                None if physfn < 0 else physfns[physfn],
                None if total_vfs < 0 else total_vfs,
                path,
                marks != 0,
            ),
        )


def _odd_function(
    row: native.FunctionRow,
    path: str,
    driver: str,
    errors: native.FieldErrors,
    problems: list[Problem],
) -> PciDevice | None:
    """Make a device of a row in which something is wrong; ``None`` when it has to be left out."""
    if errors.name or errors.path or errors.ids:
        problems.append(_left_out(path, errors))
        return None
    _, pf_key, *address, marks, vendor_id, device_id, class_code = row[:10]
    subvendor, subdevice, revision, numa_node, total_vfs, group = row[10:16]
    physfn = None if pf_key < 0 else address_of(pf_key)
    subject = str(PciAddress(*address))

    def field(value: T | None, error: int, name: str) -> T | None | Unavailable:
        if error in (0, errno.ENOENT):
            return None if value in (-1, "") else value
        why = unavailable(error)
        file = f"{DEVICES}/{subject}/{name}"
        problems.append(Problem(subject, file, f"{name} of {subject}: {why}."))
        return why

    if errors.modalias not in (0, errno.ENOENT):
        why = f"modalias of {subject}: {unavailable(errors.modalias)}; its ids are from elsewhere."
        problems.append(Problem(subject, f"{DEVICES}/{subject}/modalias", why))
    return PciDevice(
        address=PciAddress(*address),
        vendor_id=vendor_id,
        device_id=device_id,
        subsystem_vendor_id=None if subvendor < 0 else subvendor,
        subsystem_device_id=None if subdevice < 0 else subdevice,
        class_code=class_code,
        revision=field(revision, errors.revision, "revision"),
        numa_node=field(numa_node, errors.numa_node, "numa_node"),
        driver=field(driver, errors.driver, "driver"),
        iommu_group=field(group, errors.iommu_group, "iommu_group"),
        physfn=field(physfn, errors.physfn, "physfn"),
        total_vfs=field(total_vfs, errors.total_vfs, "sriov_totalvfs"),
        path=path,
        brings_vfio=bool(marks & native.BRINGS_VFIO),
    )


def _left_out(path: str, errors: native.FieldErrors) -> Problem:
    """Say why an entry of ``sys/bus/pci/devices`` is no device; ``path`` may be its name alone."""
    name = path.rpartition("/")[2]
    file = f"{DEVICES}/{name}"
    if errors.name:
        return Problem(name, file, f"{name!r} among the PCI devices is no PCI address.")
    if errors.path:
        return left_out(name, file, errors.path)
    why = f"vendor, device and class cannot be read: {unavailable(errors.ids)}"
    return Problem(name, file, f"{name} was left out: {why}.")


# Drivers and the kernel


def _kernel_release(sysfs: Sysfs, problems: list[Problem]) -> str | None:
    path = "proc/sys/kernel/osrelease"
    release = attribute(sysfs, path)
    if isinstance(release, Unavailable):
        problems.append(Problem("kernel", path, f"The kernel release cannot be read: {release}."))
        return None
    return release


def _drivers(sysfs: Sysfs, problems: list[Problem]) -> dict[str, Driver]:
    drivers = {}
    for name in names(sysfs, DRIVERS, problems):
        module = link_name(sysfs, f"{DRIVERS}/{name}/module")
        if isinstance(module, Unavailable):
            path = f"{DRIVERS}/{name}/module"
            problems.append(Problem(name, path, f"The module of driver {name}: {module}."))
            module = None
        drivers[name] = Driver(name, module)
    return drivers
