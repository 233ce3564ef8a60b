"""The kernel's rules of binding as far as plans depend on them, on plain dictionaries.

A driver has a device if its override names the driver, or if there is no override and the driver
knows the ids (``drivers/pci/pci-driver.c:pci_match_device``). A virtual function may get a driver
by its override alone (``pci_device_can_probe``). Everything else is an error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from vfiohost.plan.changes import UNSET
from vfiohost.plan.types import Expect, LoadModule, Plan, Step, Store, WriteAttr

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vfiohost.model import Snapshot

BUS = "sys/bus/pci"


class KernelSaysNoError(Exception):
    """The kernel would answer with an errno."""


@attrs.define
class AbstractHost:
    """Who drives what.

    Attributes:
        bound, overrides: driver and override of each device, by address.
        natives: the drivers that know a device's ids.
        modules: the module of each driver; those in ``registered`` are there now.
        by_override_only: virtual functions whose PF has ``sriov_drivers_autoprobe`` 0.
    """

    bound: dict[str, str | None]
    overrides: dict[str, str | None]
    natives: Mapping[str, frozenset[str]]
    modules: Mapping[str, str | None]
    registered: set[str]
    by_override_only: frozenset[str] = frozenset()

    def copy(self) -> AbstractHost:
        """Another host in the same state."""
        return attrs.evolve(
            self,
            bound=dict(self.bound),
            overrides=dict(self.overrides),
            registered=set(self.registered),
        )

    def run(self, plan: Plan) -> None:
        """Carry out a plan; each step must find what it expects and leave what it promises."""
        for step in plan.steps:
            self.do(step)

    def do(self, step: Step) -> None:
        before = step.before if isinstance(step, WriteAttr) else None
        assert self.holds(before), f"{step} expects {before}"
        if isinstance(step, LoadModule):
            self.load(step.name)
        elif isinstance(step, WriteAttr):
            self.store(step.store)
        assert self.holds(step.after), f"{step} promises {step.after}"

    def undo(self, step: Step) -> None:
        if isinstance(step, WriteAttr) and step.undo is not None:
            self.store(step.undo)
            assert self.holds(step.undo.after), f"undo of {step} promises {step.undo.after}"

    def holds(self, expect: Expect | None) -> bool:
        if expect is None:
            return True
        name = expect.path.removeprefix(f"{BUS}/").split("/")
        if name[0] == "drivers":
            return (name[1] in self.registered) == (expect.value == "yes")
        if name[2] == "driver":
            return self.bound[name[1]] == expect.value
        assert name[2] == "driver_override"
        return (self.overrides[name[1]] or UNSET) == expect.value

    def store(self, store: Store) -> None:
        match store.path.removeprefix(f"{BUS}/").split("/"):
            case ["drivers", driver, "bind"]:
                self.bind(store.value, driver)
            case ["drivers", driver, "unbind"]:
                self.unbind(store.value, driver)
            case ["devices", device, "driver", "unbind"]:
                self.unbind(device, self.bound[device])
            case ["devices", device, "driver_override"]:
                self.overrides[device] = None if store.value == "\n" else store.value
            case ["drivers_probe"]:
                self.probe(store.value, sorted(self.registered))
            case _:
                raise KernelSaysNoError(f"ENOENT {store.path}")

    def bind(self, device: str, driver: str) -> None:
        if driver not in self.registered:
            raise KernelSaysNoError(f"ENOENT {driver}")
        if not self.matches(device, driver):
            raise KernelSaysNoError(f"ENODEV {driver} {device} {self.overrides[device]}")
        if self.bound[device] is not None:
            raise KernelSaysNoError(f"EBUSY {device}")
        self.bound[device] = driver

    def unbind(self, device: str, driver: str | None) -> None:
        if driver is None or self.bound[device] != driver:
            raise KernelSaysNoError(f"ENODEV {driver} {device}")
        self.bound[device] = None

    def load(self, module: str) -> None:
        """Load a module: its drivers at once take what matches and has no driver."""
        new = {d for d, m in self.modules.items() if m == module} - self.registered
        if not new:
            raise KernelSaysNoError(f"{module} brings nothing")
        self.registered |= new
        for device in self.bound:
            self.probe(device, sorted(new))

    def probe(self, device: str, drivers: list[str]) -> None:
        if self.bound[device] is None:
            fitting = (d for d in drivers if self.matches(device, d))
            self.bound[device] = next(fitting, None)

    def matches(self, device: str, driver: str) -> bool:
        override = self.overrides[device]
        if override is None and device in self.by_override_only:
            return False
        return override == driver or (override is None and driver in self.natives[device])

    def state(self, devices: tuple[str, ...]) -> list[tuple[str | None, str | None]]:
        """Driver and override of some devices."""
        return [(self.bound[d], self.overrides[d]) for d in devices]

    def seen(self, host: Snapshot) -> Snapshot:
        """The snapshot that a new scan of this host would give."""
        from vfiohost.model import Driver  # noqa: PLC0415

        return attrs.evolve(
            host,
            devices=tuple(attrs.evolve(d, driver=self.bound[str(d.address)]) for d in host.devices),
            drivers={d: Driver(d, self.modules[d]) for d in sorted(self.registered)},
            details={
                a: attrs.evolve(
                    details,
                    driver_override=self.overrides[str(a)],
                    uevent_driver=self.bound[str(a)],
                )
                for a, details in host.details.items()
            },
        )
