"""Bring devices back to the driver that they had before us, else to the one their ids give them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vfiohost.plan.changes import Binding, Change
from vfiohost.plan.draft import Draft, find
from vfiohost.plan.drivers import Drivers, is_host_driver
from vfiohost.plan.words import listed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from vfiohost.modalias import ModuleIndex
    from vfiohost.model import PciAddress, PciDevice, Snapshot
    from vfiohost.plan.types import Origin, Plan


def plan_restore(
    snapshot: Snapshot,
    devices: Iterable[PciAddress],
    origins: Mapping[PciAddress, Origin],
    modules: ModuleIndex | None,
    allow: frozenset[str] = frozenset(),
) -> Plan:
    """Plan to bring devices back.

    A device with an origin gets the driver and the override that it had. Without one, its override
    is cleared and it goes to its native driver: the only one of those that are loaded in the end
    which ``modules.alias`` names for it, by ``bind``; where it names none or several, the kernel
    chooses (``drivers_probe``). Modules are loaded only for an origin's driver. Whether a group is
    viable is not asked: what was before comes back.

    Args:
        snapshot: the host, with the details of the devices.
        devices: their addresses; together they are one transaction.
        origins: what devices had before we changed them.
        modules: the kernel's modules, or ``None`` where there is no list of them.
        allow: hazards that are permitted.

    Raises:
        ParseError: an ``allow`` word is unknown.
        NotFoundError: there is no such device.
        PlanRefused: for all reasons at once; the plan that would have been comes with them.
    """
    drivers = Drivers(snapshot, modules)
    draft = Draft(drivers, "restore", find(snapshot, devices), allow)
    bindings = list(draft.bindings())
    wanted = {
        device.address: Binding(origin.driver, origin.driver_override)
        for device, _ in bindings
        if (origin := origins.get(device.address)) is not None
    }
    coming = _coming(drivers, bindings, wanted)
    for device, now in bindings:
        want = wanted.get(device.address)
        if want is not None:
            draft.add(_change(drivers, device, now, want))
        else:
            draft.add(to_native(drivers, device, now, draft.notes, coming))
    return draft.finish()


def _coming(
    drivers: Drivers,
    bindings: Iterable[tuple[PciDevice, Binding]],
    wanted: Mapping[PciAddress, Binding],
) -> tuple[str, ...]:
    """The drivers that are not there yet, and that devices with an origin go to."""
    changes = (
        (now, wanted[device.address]) for device, now in bindings if device.address in wanted
    )
    names = {want.driver for now, want in changes if want.driver not in (None, now.driver)}
    return tuple(sorted(name for name in names if name and name not in drivers.registered))


def to_native(
    drivers: Drivers,
    device: PciDevice,
    now: Binding,
    notes: list[str],
    coming: Iterable[str] = (),
) -> Change:
    """What brings a device, of which we know no past, to the driver that its ids give it.

    Args:
        drivers: the host and its drivers.
        device: the device.
        now: what it has.
        notes: gets a sentence where there is no such driver yet.
        coming: drivers that are not there yet, and whose modules the plan loads.
    """
    if now.driver is not None and _is_native(drivers, device, now):
        return _change(drivers, device, now, Binding(now.driver, None))
    native = drivers.native(device, coming)
    if len(native) == 1:
        return _change(drivers, device, now, Binding(native[0], None))
    candidates = drivers.candidate_modules(device)
    if candidates and not native:
        verb = "is" if len(candidates) == 1 else "are"
        notes.append(
            f"{device.address} gets no driver, unless one that is loaded takes it: "
            f"{listed(candidates)} would fit, but {verb} not loaded; load the module "
            f"{candidates[0]} to have its driver."
        )
        if now == Binding(None, None):
            return _change(drivers, device, now, now)
    # Of a driver that was not installed with the kernel, modules.alias may know nothing.
    return _change(drivers, device, now, Binding(None, None), is_probe=True)


def _is_native(drivers: Drivers, device: PciDevice, now: Binding) -> bool:
    """Whether the driver would have the device without an override."""
    if now.driver is None or not is_host_driver(now.driver):
        return False
    return now.override is None or drivers.takes_by_ids(now.driver, device)


def _change(
    drivers: Drivers, device: PciDevice, now: Binding, want: Binding, *, is_probe: bool = False
) -> Change:
    return Change(
        device.address,
        now,
        want,
        returns=now.driver is None or drivers.takes_without_override(now.driver, device),
        takes=want.driver is not None and drivers.takes_without_override(want.driver, device),
        is_probe=is_probe,
    )
