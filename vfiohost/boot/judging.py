"""Which driver a device is to have at boot, and what speaks against that. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vfiohost.errors import Refusal
from vfiohost.model import is_vfio_driver
from vfiohost.plan.drivers import VFIO_PCI, is_host_driver

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vfiohost.model import PciDevice, Snapshot


def boot_driver(device: PciDevice, driver: str | None) -> str:
    """The driver that a device is to have: the one that is named, else the VFIO driver it has."""
    if driver is not None:
        return driver
    has = device.driver
    return has if isinstance(has, str) and is_vfio_driver(has) else VFIO_PCI


def judge_native(device: PciDevice, snapshot: Snapshot) -> Iterator[Refusal]:
    """A driver that is built in takes its devices before any program runs (``module_init``)."""
    driver = snapshot.drivers.get(device.driver) if isinstance(device.driver, str) else None
    if driver is not None and driver.module is None and is_host_driver(driver.name):
        yield Refusal(
            "built-in-driver",
            str(device.address),
            f"{driver.name}, which has {device.address}, is built into this kernel: it takes the "
            "device before any file of the host is read.",
            "Start a kernel that has it as a module, or bind the device each time after the boot.",
        )
