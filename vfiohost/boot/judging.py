"""Which driver a device is to have at boot, and what speaks against that. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vfiohost.errors import Refusal
from vfiohost.model import is_vfio_driver
from vfiohost.plan.drivers import AUTO, VFIO_PCI, is_host_driver

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vfiohost.model import PciDevice, Snapshot
    from vfiohost.plan.drivers import Drivers


def boot_driver(device: PciDevice, driver: str | None, drivers: Drivers) -> str:
    """The driver that a device is to have.

    Args:
        device: the device.
        driver: which one was named: a driver, ``none``, ``auto`` for the VFIO driver that fits the
            device best; or ``None``, for the VFIO driver that it has, else vfio-pci.
        drivers: what the host knows of drivers.
    """
    if driver is not None:
        return drivers.best_vfio(device) if driver == AUTO else driver
    has = device.driver
    return has if isinstance(has, str) and is_vfio_driver(has) else VFIO_PCI


def judge_start(device: PciDevice, snapshot: Snapshot) -> Iterator[Refusal]:
    """Why no rule can come before the driver that a device gets by itself.

    A driver that is built in takes its devices before any program runs (``module_init``). A virtual
    function is offered to the drivers that are loaded before udev hears of it
    (``drivers/pci/iov.c:pci_iov_add_virtfn``, ``pci_bus_add_device``).

    Args:
        device: the device.
        snapshot: the host as it is.
    """
    if device.is_vf:
        yield Refusal(
            "virtual-function",
            str(device.address),
            f"{device.address} is a virtual function: it is not there when the host starts, and "
            f"who makes it on {device.physfn} decides about its driver.",
            "Say it in the host file (vfs and vf-driver), and have `vfiohost apply` make it.",
        )
    driver = snapshot.drivers.get(device.driver) if isinstance(device.driver, str) else None
    if driver is not None and driver.module is None and is_host_driver(driver.name):
        yield Refusal(
            "built-in-driver",
            str(device.address),
            f"{driver.name}, which has {device.address}, is built into this kernel: it takes the "
            "device before any file of the host is read.",
            "Start a kernel that has it as a module, or bind the device each time after the boot.",
        )
