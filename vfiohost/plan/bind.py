"""Bind devices to a driver, unbind them, bring them back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from vfiohost.errors import ParseError, Refusal
from vfiohost.model import PciAddress, is_vfio_driver
from vfiohost.plan.changes import NO_DRIVER, Binding, Change
from vfiohost.plan.draft import Draft, find
from vfiohost.plan.drivers import AUTO, VFIO_PCI, Drivers, check_name, is_host_driver
from vfiohost.plan.restore import plan_restore
from vfiohost.plan.types import SetNodes
from vfiohost.plan.words import listed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vfiohost.modalias import ModuleIndex
    from vfiohost.model import PciDevice, Snapshot
    from vfiohost.plan.owners import Ownership
    from vfiohost.plan.types import LoadModule, Plan

__all__ = [
    "BindRequest",
    "devices_needed",
    "plan_bind",
    "plan_restore",
    "plan_unbind",
    "with_siblings",
]


@attrs.frozen
class BindRequest:
    """Which devices shall get which driver.

    Attributes:
        devices: their addresses; together they are one transaction.
        driver: a driver's name; ``auto``: the VFIO driver that fits the device best; ``none``: no
            driver, and the override says so, so that nothing takes the device (as driverctl does).
        group: all endpoints of the devices' IOMMU groups as well; bridges never.
        load: a module may be loaded.
        once: clear the override in the end. Otherwise it stays, as with driverctl, so that the
            device comes back to the driver whenever it is probed.
        allow: hazards that are permitted (:data:`vfiohost.plan.hazards.ALLOWABLE`).
        ownership: what the devices' VFIO nodes shall have, or ``None``: as udev's rules make them.
    """

    devices: tuple[PciAddress, ...]
    driver: str = VFIO_PCI
    group: bool = False
    load: bool = True
    once: bool = False
    allow: frozenset[str] = frozenset()
    ownership: Ownership | None = None


def with_siblings(snapshot: Snapshot, devices: Iterable[PciAddress]) -> tuple[PciAddress, ...]:
    """Some devices, each followed by the other endpoints of its IOMMU group.

    Raises:
        NotFoundError: there is no such device.
    """
    found: dict[PciAddress, None] = {}
    for device in find(snapshot, devices):
        found[device.address] = None
        group = snapshot.group_of(device)
        found.update((member.address, None) for member in (group.endpoints if group else ()))
    return tuple(found)


def devices_needed(snapshot: Snapshot, request: BindRequest) -> tuple[PciAddress, ...]:
    """The devices whose :class:`vfiohost.model.Details` must be read before a request is planned.

    Raises:
        NotFoundError: there is no such device.
    """
    if request.group:
        return with_siblings(snapshot, request.devices)
    return tuple(device.address for device in find(snapshot, request.devices))


def plan_bind(snapshot: Snapshot, request: BindRequest, modules: ModuleIndex | None) -> Plan:
    """Plan to give devices to a driver.

    A device that has the driver and the override already is left alone. The override is written
    even for a driver that knows the device's ids (then it is right too), unless the device is on
    that driver without one. The files are ``driver_override`` of the device and ``bind`` and
    ``unbind`` of the drivers (``drivers/base/bus.c``).

    Args:
        snapshot: the host, with the details of :func:`devices_needed`, and with the mediated
            devices if their parents are to be protected.
        request: what shall be.
        modules: the kernel's modules, or ``None`` where there is no list of them.

    Raises:
        ParseError: the driver's name can be none, or an ``allow`` word is unknown.
        NotFoundError: there is no such device.
        PlanRefused: for all reasons at once; the plan that would have been comes with them.
    """
    if request.driver not in (AUTO, NO_DRIVER):
        check_name(request.driver)
    if request.ownership and not (request.driver == AUTO or is_vfio_driver(request.driver)):
        raise ParseError(
            request.driver,
            "a VFIO driver, where --owner or --mode is given: only these have nodes",
            where="--driver",
        )
    drivers = Drivers(snapshot, modules)
    devices = find(snapshot, devices_needed(snapshot, request))
    draft = Draft(drivers, "bind", devices, request.allow)
    for device, now in draft.bindings():
        draft.add(_bind(drivers, device, now, request), load=request.load)
    draft.judge_groups(whole=request.group)
    draft.refusals.extend(_host_driver_for_siblings(request, devices))
    draft.notes.extend(_bind_notes(draft, request))
    if request.ownership is not None:
        draft.endings.extend(_set_nodes(devices, request.ownership))
    return draft.finish()


def plan_unbind(
    snapshot: Snapshot,
    devices: Iterable[PciAddress],
    allow: frozenset[str] = frozenset(),
    modules: ModuleIndex | None = None,
) -> Plan:
    """Plan to take devices from their drivers; their overrides stay as they are.

    Nothing takes the device afterwards until it is probed again; ``none`` as a driver keeps every
    driver off for good.

    Args:
        snapshot: the host, with the details of the devices.
        devices: their addresses.
        allow: hazards that are permitted.
        modules: the kernel's modules, if known: they tell whether a driver could take its device
            back without an override.

    Raises:
        ParseError, NotFoundError, PlanRefused: as :func:`plan_bind`.
    """
    drivers = Drivers(snapshot, modules)
    draft = Draft(drivers, "unbind", find(snapshot, devices), allow)
    for device, now in draft.bindings():
        draft.add(
            Change(
                device.address,
                now,
                Binding(None, now.override),
                returns=now.driver is None or drivers.takes_without_override(now.driver, device),
            )
        )
    return draft.finish()


def _bind(drivers: Drivers, device: PciDevice, now: Binding, request: BindRequest) -> Change:
    target = drivers.best_vfio(device) if request.driver == AUTO else request.driver
    driver = None if target == NO_DRIVER else target
    if request.once:
        override = None
    elif driver is not None and now == Binding(driver, None) and not is_vfio_driver(driver):
        # A host driver got the device by its ids; it needs no override to keep it.
        override = None
    else:
        override = target
    return Change(
        device.address,
        now,
        Binding(driver, override),
        returns=now.driver is None or drivers.takes_without_override(now.driver, device),
    )


def _set_nodes(devices: Iterable[PciDevice], ownership: Ownership) -> Iterable[SetNodes]:
    for device in devices:
        yield SetNodes(
            device.address, ownership.uid, ownership.gid, ownership.mode, "who may open its nodes"
        )


def _host_driver_for_siblings(
    request: BindRequest, devices: tuple[PciDevice, ...]
) -> Iterable[Refusal]:
    """An override makes a driver probe anything; a GPU's driver must not get its audio function."""
    siblings = [d.address for d in devices if d.address not in request.devices]
    special = request.driver in (AUTO, NO_DRIVER)
    if request.group and siblings and not special and is_host_driver(request.driver):
        yield Refusal(
            "group-driver",
            request.driver,
            f"{request.driver} is a driver for the host's own use, and --group would give it "
            f"{listed(siblings)} too.",
            "Leave out --group, or use `vfiohost restore` to give each function its own driver.",
        )


def _bind_notes(draft: Draft, request: BindRequest) -> Iterable[str]:
    drivers = draft.drivers
    changed = [c for c in draft.changes if not c.is_empty]
    if request.driver == AUTO and drivers.modules is None:
        yield f"There is no list of this kernel's modules: auto means {VFIO_PCI}."
    elif request.driver == AUTO:
        for change in draft.changes:
            if change.want.driver != VFIO_PCI:
                yield f"auto means {change.want.driver} for {change.address}."
    kept = [c.address for c in changed if c.want.override is not None]
    if kept:
        yield (
            f"The driver_override of {listed(kept)} stays set until `vfiohost restore`, or until "
            "the device or the host is started anew."
        )
    for load in draft.loads.values():
        yield from _taken_by_loading(draft, load)


def _taken_by_loading(draft: Draft, load: LoadModule) -> Iterable[str]:
    """Other devices that a driver may take when its module is loaded."""
    ours = {device.address for device in draft.devices}
    others = [
        device.address
        for device in draft.snapshot.devices
        if device.driver is None
        and device.address not in ours
        and load.name in draft.drivers.candidate_modules(device)
    ]
    if others:
        yield f"Loading {load.name} may also bind {listed(others)}, which has no driver now."
