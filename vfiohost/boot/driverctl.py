"""What driverctl keeps for the boot, a file for each device in ``/etc/driverctl.d``. Pure.

A file ``BUS-DEVICE`` (``pci-0000:65:00.0``) holds the name of a driver, or ``none`` for no driver.
When the device appears, a rule of udev (``05-driverctl.rules``) starts
``driverctl@BUS-DEVICE.service``. That takes the device from the driver that has it, loads a module
by the driver's name, writes the name to ``driver_override``, and has the device probed
(``driverctl load-override``, of driverctl 0.111). The file says nothing of what the device is:
whatever has the address gets the driver.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from vfiohost.boot.changes import BootPlan, FileChange, foreign_file
from vfiohost.errors import ParseError, PlanRefused, Refusal
from vfiohost.model import PciAddress, Problem
from vfiohost.plan.drivers import AUTO, check_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from vfiohost.boot.changes import Found
    from vfiohost.boot.devices import BootDevice
    from vfiohost.plan.changes import Binding

FOLDER = "etc/driverctl.d"
"""Where the files are, relative to the root."""

PCI = "pci"


@attrs.frozen
class SavedOverride:
    """A driver that driverctl gives a device at each boot.

    Attributes:
        bus: the device's bus: ``pci``, ``usb`` …
        device: its name there, as in ``/sys/bus/BUS/devices``.
        driver: the name of a driver; ``none`` keeps every driver off.
    """

    bus: str
    device: str
    driver: str

    @property
    def address(self) -> PciAddress | None:
        """The address of a PCI function, else ``None``."""
        return PciAddress.parse(self.device) if self.bus == PCI else None

    @property
    def path(self) -> str:
        """The path of its file, relative to the root."""
        return f"{FOLDER}/{self.bus}-{self.device}"

    @property
    def text(self) -> str:
        """The text of its file."""
        return f"{self.driver}\n"


def name_of(address: PciAddress) -> str:
    """The name of a PCI function's file."""
    return f"{PCI}-{address}"


def parse_saved(name: str, text: str) -> SavedOverride:
    """Read a file of driverctl's.

    Args:
        name: the file's name.
        text: what is in it. As in the shell, newlines at its end do not count.

    Raises:
        ParseError: driverctl would do nothing by it, or not what it seems to say; names the file.
    """
    where = f"/{FOLDER}/{name}"
    bus, dash, device = name.partition("-")
    if not (bus and dash and device):
        raise ParseError(name, "BUS-DEVICE, such as pci-0000:65:00.0", where=where)
    if bus == PCI and str(PciAddress.parse(device, where=where)) != device:
        hint = f"The kernel calls it {PciAddress.parse(device)}, and driverctl goes by that."
        raise ParseError(device, "an address as the kernel writes it", where=where, hint=hint)
    driver = text.rstrip("\n")
    try:
        check_name("" if driver == AUTO else driver)  # which no driver is called
    except ParseError as error:
        raise ParseError(error.text, error.expected, where=where, hint=error.hint) from error
    return SavedOverride(bus, device, driver)


def read_saved(
    files: Mapping[str, Found],
) -> tuple[tuple[SavedOverride, ...], tuple[Problem, ...]]:
    """Read all files of driverctl's; one that makes no sense is a problem and hides no other.

    Args:
        files: what there is, by name.
    """
    found: list[SavedOverride] = []
    problems: list[Problem] = []
    for name, there in files.items():
        path = f"{FOLDER}/{name}"
        if there.text is None:
            problems.append(Problem(name, path, f"/{path} is {there.kind}, and not read."))
            continue
        try:
            found.append(parse_saved(name, there.text))
        except ParseError as error:
            problems.append(Problem(name, path, str(error)))
    return tuple(found), tuple(problems)


def saved(address: PciAddress, now: Binding | Refusal) -> SavedOverride | Refusal:
    """What would keep the override that a function has now, or why there is nothing to keep.

    Args:
        address: the function.
        now: what it has, or why that cannot be known.
    """
    if isinstance(now, Refusal):
        return now
    subject = str(address)
    if now.override is None:
        return Refusal(
            "no-override",
            subject,
            f"{address} has no driver_override, so there is nothing for driverctl to keep.",
            f"Give it one: `vfiohost bind {address}`.",
        )
    try:
        return parse_saved(name_of(address), now.override)
    except ParseError as error:
        sentence = f"{address} has a driver_override that is no driver's name. {error}"
        return Refusal("no-override", subject, sentence, f"Clear it: `vfiohost restore {address}`.")


def plan_export(wanted: Iterable[SavedOverride], found: Mapping[str, Found]) -> BootPlan:
    """Plan files by which driverctl keeps drivers for devices; what else it keeps stays.

    Args:
        wanted: which drivers for which devices.
        found: what there is under the name of each file now, by path.

    Raises:
        PlanRefused: something else than a plain file is in the place of one.
    """
    wanted = tuple(wanted)
    refusals = [
        foreign_file(each.path, found[each.path])
        for each in wanted
        if found[each.path].kind is not None
    ]
    if refusals:
        raise PlanRefused(refusals)
    changes = (FileChange(each.path, found[each.path].text, each.text) for each in wanted)
    return BootPlan((), tuple(changes))


def plan_removal(found: Mapping[str, Found]) -> BootPlan:
    """Plan to take files of driverctl's away.

    Args:
        found: what there is, by the name of each file that is to go.

    Raises:
        PlanRefused: one is something else than a plain file.
    """
    refusals = [
        foreign_file(f"{FOLDER}/{name}", there, "removed")
        for name, there in found.items()
        if there.text is None
    ]
    if refusals:
        raise PlanRefused(refusals)
    changes = (FileChange(f"{FOLDER}/{name}", there.text, None) for name, there in found.items())
    return BootPlan((), tuple(changes))


def loads_nothing(
    wanted: Iterable[SavedOverride], modules: Mapping[str, str | None]
) -> Iterator[str]:
    """What driverctl would fail to load, as sentences: it takes a driver's name for a module's.

    Args:
        wanted: which drivers for which devices.
        modules: the module of each driver that is loaded; ``None``: it is built into the kernel.
    """
    for driver in dict.fromkeys(each.driver for each in wanted):
        module = modules.get(driver)
        if module is not None and module.replace("-", "_") != driver.replace("-", "_"):
            yield (
                f"driverctl loads a module of the driver's name, {driver}, and its module is "
                f"{module}: at boot that fails. Load it before, by /etc/modules-load.d."
            )


def double(wanted: Iterable[SavedOverride], known: Iterable[BootDevice]) -> Iterator[str]:
    """What two then decide about at each boot, as sentences.

    Args:
        wanted: what driverctl is to keep.
        known: the devices that vfiohost's own files for the boot are about.
    """
    drivers = {each.address: each.driver for each in wanted}
    for device in known:
        if device.address in drivers:
            yield (
                f"vfiohost gives {device.address} {device.driver} at each boot, and driverctl "
                f"then {drivers[device.address]}: `vfiohost boot remove {device.address}` leaves "
                "it to driverctl."
            )


def left_to_both(addresses: Iterable[PciAddress]) -> Iterator[str]:
    """What two then decide about at each boot, when vfiohost has taken over, as a sentence."""
    both = " ".join(map(str, addresses))
    if both:
        yield f"driverctl keeps them too: `vfiohost driverctl remove {both}` leaves it to vfiohost."
