"""The driver core: probing a device with a driver, and taking the driver away.

Kernel: ``drivers/base/dd.c``, ``drivers/pci/pci-driver.c``, ``drivers/vfio/pci/vfio_pci.c``,
``drivers/vfio/pci/vfio_pci_core.c``.
"""

from __future__ import annotations

import errno
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import attrs

from vfiohost.model import is_dma_managed, is_vfio_driver
from vfiohost.testing import class_devices, groups, mdev, nvidia_proc, parameters, vendor_vgpu
from vfiohost.testing.machine import PCI_DEVICES, PCI_DRIVERS
from vfiohost.testing.matching import ids_of, matches

if TYPE_CHECKING:
    from collections.abc import Callable

    from vfiohost.testing.machine import Machine

_BRIDGE_CLASSES = (0x0604, 0x0607, 0x0609)  # those whose header is not of type 0
_NVIDIA = 0x10DE

# vfio_pci_dev_in_denylist in drivers/vfio/pci/vfio_pci.c: QAT, DSA and IAX of Intel.
_DENYLIST_VENDOR = 0x8086
_DENYLIST = frozenset({0x19E2, 0x19E3, 0x37C8, 0x37C9, 0x0435, 0x0443, 0x0B25, 0x0CFE})


@attrs.frozen
class ProbeFailure:
    """Why a driver did not take a device.

    Attributes:
        errno: a positive errno.
        hard: it comes from the bus and not from the driver's own probe, so that
            ``drivers_probe`` reports it instead of asking the next driver.
    """

    errno: int
    hard: bool = False


def probe_all(machine: Machine, address: str) -> ProbeFailure | None:
    """``device_attach``: ask the drivers in the order in which they were registered.

    Returns:
        The failure that stopped the search, or ``None``: bound, or no driver took it.
    """
    if machine.driver_of(address) is not None:
        return None
    machine.lock(address)
    for driver in machine.state.drivers:
        if not matches(machine, driver, address):
            continue
        failure = probe(machine, driver, address)
        if failure is None:
            return None
        if failure.hard:
            return failure
    return None


def driver_attach(machine: Machine, driver: str) -> None:
    """``driver_attach``: let a driver take every free device that it matches, in the bus's order.

    Raises:
        BlockedError: the lock of one is held; even that of a bound one is waited for
            (``__driver_attach``). Goes on when it is called again in the same operation.
    """
    machine.operation.attaching = driver
    for address in machine.functions():
        if not matches(machine, driver, address):
            continue
        machine.lock(address)
        if machine.driver_of(address) is None:
            probe(machine, driver, address)
        machine.unlock(address)
    machine.operation.attaching = ""


def probe(machine: Machine, driver: str, address: str) -> ProbeFailure | None:
    """``really_probe``: bind a driver to a free device if it takes it."""
    path = machine.pci_path(address)
    if path is None:
        return ProbeFailure(errno.ENODEV)
    group = machine.group_of(path)
    # iommu_device_use_default_domain, called by pci_dma_configure before the driver's probe
    if not is_dma_managed(driver) and groups.is_owned(machine, group):
        return ProbeFailure(errno.EBUSY, hard=True)
    number = _probe_errno(machine, driver, address, path)
    if number:
        return ProbeFailure(number)
    _attach(machine, driver, address, path)
    return None


def _probe_errno(machine: Machine, driver: str, address: str, path: str) -> int:
    """What the driver's probe answers; 0 when it takes the device."""
    override = machine.driver_override(path)
    if override is None and not _autoprobes(machine, path):
        return errno.ENODEV  # pci_device_can_probe
    for driver_glob, address_glob, number in machine.state.failing_probes:
        if fnmatchcase(driver, driver_glob) and fnmatchcase(address, address_glob):
            return number
    if is_vfio_driver(driver):
        return _vfio_probe_errno(machine, driver, path)
    modalias = machine.modalias(path)
    if override is not None and machine.blueprint.id_table(driver):
        # An override makes any driver match; its probe still wants a device that it knows.
        return 0 if machine.blueprint.in_id_table(driver, modalias) else errno.ENODEV
    return 0


def _vfio_probe_errno(machine: Machine, driver: str, path: str) -> int:
    """``vfio_pci_probe`` and ``vfio_pci_core_register_device``."""
    ids = ids_of(machine.modalias(path))
    vendor, device, *_, class_code = ids or (0, 0, 0)
    allowed = parameters.is_set(machine, "vfio_pci", "disable_denylist")
    denied = driver == "vfio-pci" and vendor == _DENYLIST_VENDOR and device in _DENYLIST
    if denied and not allowed:
        return errno.EINVAL
    if class_code >> 8 in _BRIDGE_CLASSES:
        return errno.EINVAL
    if num_vfs(machine, path):
        return errno.EBUSY
    physfn = machine.physfn_of(path)
    if vendor == _NVIDIA and physfn is not None and machine.driver_of(physfn) == "nvidia":
        return errno.EINVAL
    has_group = machine.group_of(path) is not None
    return 0 if has_group or groups.has_noiommu_mode(machine) else errno.EINVAL


def _attach(machine: Machine, driver: str, address: str, path: str) -> None:
    """``driver_bound`` and what a driver shows of itself once it has the device."""
    tree = machine.tree
    tree.link(f"{path}/driver", f"{PCI_DRIVERS}/{driver}")
    tree.link(f"{PCI_DRIVERS}/{driver}/{address}", path)
    machine.set_uevent_driver(path, driver)
    if is_vfio_driver(driver):
        groups.register(machine, path)
        groups.show_power(machine, path, enabled=False, state="D3hot")
    elif vendor_vgpu.appear(machine, path, driver):
        groups.register(machine, path)
        groups.show_power(machine, path, enabled=True, state="D0")
    elif driver != "pci-stub":  # which does nothing to its devices
        groups.show_power(machine, path, enabled=True, state="D0")
    mdev.register_parent(machine, path, driver)
    class_devices.appear(machine, address, driver)
    if driver == nvidia_proc.DRIVER:
        nvidia_proc.appear(machine, address)


def detach(
    machine: Machine,
    address: str,
    *,
    on_remove: Callable[[Machine, str], None] | None = None,
) -> None:
    """``__device_release_driver``: unbind whatever driver a device has.

    Args:
        machine: the host.
        address: the device.
        on_remove: what the driver does first when it is removed.

    Raises:
        BlockedError: a process has the device open. The links are gone, the rest still stands.
    """
    path = machine.pci_path(address)
    machine.lock(address)
    driver = machine.driver_of(address)
    if path is None or driver is None:
        return
    machine.tree.remove(f"{PCI_DRIVERS}/{driver}/{address}")
    machine.tree.remove(f"{path}/driver")
    machine.state.releasing[address] = driver
    if on_remove is not None:
        on_remove(machine, address)
    mdev.unregister_parent(machine, path)
    class_devices.vanish(machine, address)
    if groups.is_on_vfio(machine, path):
        groups.unregister(machine, path)
        machine.state.vf_tokens.pop(address, None)
    if driver == nvidia_proc.DRIVER:
        nvidia_proc.vanish(machine, address)
        vendor_vgpu.vanish(machine, path)
    groups.show_power(machine, path, enabled=False, state="unknown")
    machine.set_uevent_driver(path, None)
    del machine.state.releasing[address]


def destroy(machine: Machine, path: str) -> None:
    """``pci_destroy_dev``: take a device without a driver out of its group and off its bus."""
    groups.leave_group(machine, path)
    machine.set_override(path, "")  # it is lost with the device, and not there when that returns
    machine.tree.remove(f"{PCI_DEVICES}/{path.rsplit('/', 1)[-1]}")
    machine.tree.remove(path)


def num_vfs(machine: Machine, path: str) -> int:
    """How many virtual functions a physical function has enabled (``pci_num_vf``)."""
    text = machine.tree.text(f"{path}/sriov_numvfs")
    if text is not None and text.isdecimal():
        return int(text)
    return sum(name.startswith("virtfn") for name in machine.tree.listing(path))


def _autoprobes(machine: Machine, path: str) -> bool:
    """Whether a device without an override is probed at all (``pci_device_can_probe``)."""
    physfn = machine.physfn_of(path)
    parent = None if physfn is None else machine.pci_path(physfn)
    return parent is None or machine.tree.text(f"{parent}/sriov_drivers_autoprobe") != "0"
