"""Drivers by name: is it there, which module brings it, would it take a device by its ids.

A driver and its module are two things with two names (``vfio-pci`` and ``vfio_pci``): the driver's
counts in ``driver_override`` and below ``sys/bus/pci/drivers``, the module's for loading.
"""

from __future__ import annotations

from difflib import get_close_matches
from functools import cached_property
from typing import TYPE_CHECKING

import attrs

from vfiohost.errors import ParseError, Refusal
from vfiohost.modalias import Modalias, driver_of, module_name, module_of
from vfiohost.model import is_vfio_driver
from vfiohost.plan.changes import DRIVERS, NO_DRIVER, UNSET
from vfiohost.plan.types import Expect, LoadModule

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vfiohost.modalias import ModuleIndex
    from vfiohost.model import PciDevice, Snapshot

VFIO_PCI = "vfio-pci"
AUTO = "auto"
"""Instead of a driver's name: the VFIO driver that fits the device best."""

# Drivers without ids: like the VFIO drivers, they get a device through its override or a dynamic
# id only (drivers/pci/pci-stub.c, drivers/uio/uio_pci_generic.c, drivers/xen/xen-pciback,
# DPDK's igb_uio).
_HOLDERS = frozenset({"pci-stub", "uio_pci_generic", "igb_uio", "pciback"})


def is_host_driver(name: str) -> bool:
    """Say whether a driver uses devices for the host, rather than to hold them for others."""
    return not is_vfio_driver(name) and name not in _HOLDERS


def check_name(name: str) -> str:
    """Return a driver's name if it can be one.

    Raises:
        ParseError: it cannot: empty, with a slash, white space at an end or a control character,
            or a text that sysfs gives another meaning.
    """
    if name in ("", ".", "..", UNSET) or "/" in name or not name.isprintable():
        raise ParseError(name, "the name of a driver, such as vfio-pci", where="driver")
    if name != name.strip():
        hint = f"Did you mean {name.strip()!r}?"
        raise ParseError(name, "the name of a driver", where="driver", hint=hint)
    return name


# Not slotted: the tables below are made once, on first use.
@attrs.frozen(slots=False)
class Drivers:
    """What a host knows about drivers.

    Attributes:
        snapshot: the host.
        modules: its kernel's modules, or ``None`` where there is no list of them.
    """

    snapshot: Snapshot
    modules: ModuleIndex | None

    @cached_property
    def registered(self) -> frozenset[str]:
        """The drivers that are there now; one that has a device is, even if it is not listed."""
        bound = (d.driver for d in self.snapshot.devices if isinstance(d.driver, str))
        return frozenset(self.snapshot.drivers).union(bound)

    def candidate_modules(self, device: PciDevice) -> tuple[str, ...]:
        """The modules that ``modules.alias`` names for a device, in file order."""
        return self.modules.candidates(self._modalias(device)) if self.modules else ()

    def native(self, device: PciDevice, coming: Iterable[str] = ()) -> tuple[str, ...]:
        """The drivers that ``modules.alias`` names for a device: registered ones, and ``coming``.

        Args:
            device: the device.
            coming: drivers whose modules the plan loads.
        """
        candidates = self.candidate_modules(device)
        modules = {name: driver.module for name, driver in self.snapshot.drivers.items()}
        modules |= {name: module_of(name) for name in coming}
        return tuple(
            name
            for name, module in modules.items()
            if module is not None and module_name(module) in candidates and is_host_driver(name)
        )

    def takes_by_ids(self, driver: str, device: PciDevice) -> bool:
        """Say whether a driver takes a device without an override, as far as one can know.

        What is not known counts as yes: a host driver that has a device got it by its ids.
        """
        if not is_host_driver(driver):
            return False
        known = self.snapshot.drivers.get(driver)
        if self.modules is None or known is None or known.module is None:
            return True
        return module_name(known.module) in self.candidate_modules(device)

    def takes_without_override(self, driver: str, device: PciDevice) -> bool:
        """Say whether a store to the driver's ``bind`` gives it a device that has no override.

        A virtual function whose PF has ``sriov_drivers_autoprobe`` 0 goes to no driver by its ids
        (``drivers/pci/pci-driver.c:pci_device_can_probe``); an override helps there, and harms no
        other one.
        """
        return not device.is_vf and self.takes_by_ids(driver, device)

    def best_vfio(self, device: PciDevice) -> str:
        """The VFIO driver for a device: its variant driver, else ``vfio-pci``."""
        module = self.modules.best_vfio_module(self._modalias(device)) if self.modules else None
        if module is None:
            return VFIO_PCI
        brought = (n for n, d in self.snapshot.drivers.items() if d.module == module)
        # Not loaded yet: a variant driver is named as its module is, vfio-pci is not.
        return next(brought, VFIO_PCI if module == "vfio_pci" else module)

    def need(self, driver: str, *, load: bool = True) -> LoadModule | Refusal | None:
        """What it takes for a driver to be there.

        Args:
            driver: its name.
            load: modules may be loaded.

        Returns:
            ``None`` when it is registered, the module to load, or why there is no way.
        """
        if driver in self.registered:
            return None
        module = module_name(driver)
        meant = self._meant(driver)
        if meant is not None:
            is_module = self.modules and driver == module and self.modules.knows(module)
            what = (
                f"{driver} is a module, and its driver is called" if is_module else "it is called"
            )
            return Refusal(
                "missing-driver",
                driver,
                f"There is no PCI driver {driver!r}: {what} {meant}.",
                f"Did you mean --driver {meant}?",
            )
        module = module_of(driver)
        if self.modules is None or not self.modules.knows(module):
            return self._unknown(driver, module)
        if not load:
            return Refusal(
                "missing-driver",
                driver,
                f"The driver {driver} is not loaded, and --no-load forbids to load its module.",
                f"Leave out --no-load, or load the module {module} first.",
            )
        return LoadModule(
            module, Expect(f"{DRIVERS}/{driver}", "exists", "yes"), f"it brings the driver {driver}"
        )

    def _modalias(self, device: PciDevice) -> Modalias:
        details = self.snapshot.details.get(device.address)
        if details and isinstance(details.modalias, str):
            try:
                return Modalias.parse(details.modalias)
            except ParseError:
                pass  # The ids say the same.
        return Modalias.of(device)

    def _meant(self, name: str) -> str | None:
        """The driver that is surely meant by a name which is a module's, or has other dashes."""
        module = module_name(name)
        for driver in self.snapshot.drivers.values():
            if module in (module_name(driver.module or ""), module_name(driver.name)):
                return driver.name
        meant = driver_of(module)
        if meant == module and not is_vfio_driver(name):
            return None
        return meant if meant != name else None

    def _unknown(self, driver: str, module: str) -> Refusal:
        if self.modules is None:
            return Refusal(
                "missing-driver",
                driver,
                f"The driver {driver} is not loaded, and there is no list of this kernel's modules "
                "in /lib/modules to find it in.",
                f"Load the module that brings it ({module}, by its name), then try again.",
            )
        names = (*self.modules.names, *self.registered, VFIO_PCI, NO_DRIVER, AUTO)
        # Where a module and its driver differ by dashes only, the driver is meant.
        known = {module_name(name): name for name in names}
        others = sorted(name for name in known.values() if name != driver)
        near = get_close_matches(driver, others, n=2, cutoff=0.75)
        meant = f"Did you mean {' or '.join(near)}? If not, load" if near else "Load"
        return Refusal(
            "missing-driver",
            driver,
            f"There is no PCI driver {driver!r}, and no module of that name.",
            f"{meant} the module that brings it, then try again.",
        )
