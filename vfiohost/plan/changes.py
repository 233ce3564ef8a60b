"""From what a device has to what it shall have: the steps, each of which one store takes back.

The order is always the same: modules are loaded first, then, device by device, the old driver
lets go (``drivers/OLD/unbind``), ``driver_override`` names the new one, and the new driver takes
it (``drivers/NEW/bind``, which answers with the true errno; ``drivers_probe`` swallows it). Undone
in reverse, each step finds what it needs: OLD can only take a device back that its ids or the
override give it, so the override is old again before the undo of ``unbind``
(``drivers/base/bus.c:bind_store``, ``drivers/pci/pci-driver.c:pci_match_device``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from vfiohost.nvidia import UNBIND_LOCK
from vfiohost.plan.types import Expect, LoadModule, Origin, Store, WriteAttr

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vfiohost.model import PciAddress
    from vfiohost.plan.types import Step

DRIVERS = "sys/bus/pci/drivers"
DEVICES = "sys/bus/pci/devices"
PROBE = "sys/bus/pci/drivers_probe"

NO_DRIVER = "none"
"""As an override: the name of no driver, so that nothing takes the device (driverctl's word)."""

LOCK_TRIES = 5
"""How often NVIDIA's unbindLock is asked for, as its own tools do."""

UNSET = "(null)"
"""What the kernel shows of an override that is not set."""

CLEAR = "\n"
"""What clears an override; an empty write would not reach the kernel (``sysfs_kf_write``)."""


@attrs.frozen
class Binding:
    """What decides who drives a device.

    Attributes:
        driver: the driver that is bound, or ``None``.
        override: the driver_override, or ``None`` when not set.
    """

    driver: str | None
    override: str | None


@attrs.frozen
class Change:
    """One device's way from one binding to another.

    Attributes:
        address: the device.
        now: what it has.
        want: what it shall have. With ``is_probe``, the kernel chooses the driver.
        returns: ``now.driver`` would take the device by its ids, without an override.
        takes: ``want.driver`` would do so.
        takes_lock: ``now.driver`` is NVIDIA's and has an ``unbindLock`` for the device, which has
            to be taken before it lets go.
        is_probe: ask all drivers (``drivers_probe``), since it is not known which one fits.
    """

    address: PciAddress
    now: Binding
    want: Binding
    returns: bool = True
    takes: bool = False
    is_probe: bool = False
    takes_lock: bool = False

    @property
    def changes_driver(self) -> bool:
        """The driver of the device changes."""
        return self.is_probe or self.now.driver != self.want.driver

    @property
    def unbinds(self) -> bool:
        """A driver has to let go of the device."""
        return self.changes_driver and self.now.driver is not None

    @property
    def is_empty(self) -> bool:
        """The device has already what it shall have."""
        return not self.is_probe and self.now == self.want

    @property
    def origin(self) -> Origin:
        """What the device had, for ``restore``."""
        return Origin(self.address, self.now.driver, self.now.override)


def steps(changes: Sequence[Change], loads: Sequence[LoadModule]) -> tuple[Step, ...]:
    """The steps of several changes; together they are one transaction.

    Args:
        changes: in the order in which they shall be done; empty ones are left out.
        loads: the modules that have to be loaded before.
    """
    result: list[Step] = []
    pending: list[WriteAttr] = []
    for change in changes:
        early = _may_be_taken_early(change, loads)
        if change.is_empty and not early:
            continue
        override = change.now.override
        if early:
            result.append(
                _override_step(
                    change.address,
                    override,
                    NO_DRIVER,
                    f"so that loading {_named(loads)} does not take the device before its turn",
                )
            )
            override = NO_DRIVER
        pending.extend(_transition(change, override))
    return (*result, *loads, *pending)


def _may_be_taken_early(change: Change, loads: Sequence[LoadModule]) -> bool:
    """Whether a driver that registers when its module is loaded would probe the device at once.

    It would if the override names it, whatever the device is to have in the end, or if there is no
    override and the ids match, which those of a VFIO driver never do
    (``drivers/base/dd.c:driver_attach``).
    """
    if not loads or change.now.driver is not None:
        return False
    override = change.now.override
    if override is None:
        return any(not load.name.endswith("vfio_pci") for load in loads)
    return any(load.after is None or load.after.path == f"{DRIVERS}/{override}" for load in loads)


def _named(loads: Sequence[LoadModule]) -> str:
    return " and ".join(load.name for load in loads)


def _transition(change: Change, override: str | None) -> Iterator[WriteAttr]:
    """The stores of one change, beginning with the override that the device has by then."""
    address, old, new = change.address, change.now.driver, change.want.driver
    wanted = change.want.override
    if change.changes_driver and old is not None:
        if not _gives(override, old, by_ids=change.returns):
            why = f"so that {old} can take the device back if a later step fails"
            yield _override_step(address, override, old, why)
            override = old
        if change.takes_lock:
            yield _lock_step(address)
        yield _unbind_step(address, old)
    if change.is_probe:
        if override is not None:
            yield _override_step(address, override, None, "let the driver's ids decide again")
            override = None
        yield _probe_step(address)
    elif change.changes_driver and new is not None:
        needed = wanted if _gives(wanted, new, by_ids=change.takes) else new
        if override != needed:
            why = f"let only {new} take the device" if needed else f"{new} knows the device's ids"
            yield _override_step(address, override, needed, why)
            override = needed
        yield _bind_step(address, new)
    if override != wanted:
        yield _override_step(address, override, wanted, _why_in_the_end(wanted, change))


def _gives(override: str | None, driver: str, *, by_ids: bool) -> bool:
    """Whether the kernel lets the driver have a device that has this override."""
    return override == driver or (override is None and by_ids)


def _why_in_the_end(override: str | None, change: Change) -> str:
    if override is not None and override == change.want.driver:
        return f"let only {override} take the device"
    if change.unbinds and override == change.now.override:
        return "as it was before"
    if override is None:
        return "let the driver's ids decide again at the next probe"
    if override == NO_DRIVER:
        return "keep every driver off the device"
    return "as it was before"


def _link(address: PciAddress, driver: str | None) -> Expect:
    return Expect(f"{DEVICES}/{address}/driver", "link", driver)


def _unbind_step(address: PciAddress, driver: str) -> WriteAttr:
    return WriteAttr(
        path=f"{DRIVERS}/{driver}/unbind",
        value=str(address),
        before=_link(address, driver),
        after=_link(address, None),
        undo=Store(f"{DRIVERS}/{driver}/bind", str(address), _link(address, driver)),
        why=f"{driver} lets go of the device",
    )


def _bind_step(address: PciAddress, driver: str) -> WriteAttr:
    return WriteAttr(
        path=f"{DRIVERS}/{driver}/bind",
        value=str(address),
        before=_link(address, None),
        after=_link(address, driver),
        undo=Store(f"{DRIVERS}/{driver}/unbind", str(address), _link(address, None)),
        why=f"{driver} takes the device",
    )


def _lock_step(address: PciAddress) -> WriteAttr:
    # The driver does not refuse: it takes a 1 or leaves the 0, and may take it a moment later.
    path = UNBIND_LOCK.format(address=address)
    return WriteAttr(
        path=path,
        value="1",
        before=Expect(path, "text", "0"),
        after=Expect(path, "text", "1"),
        undo=Store(path, "0", Expect(path, "text", "0")),
        why="keep new users off the GPU until its driver has let go of it",
        tries=LOCK_TRIES,
    )


def _probe_step(address: PciAddress) -> WriteAttr:
    # Which driver takes the device, if any, is the kernel's choice: nothing to read back, and the
    # undo goes through the device's own link to whichever it was.
    return WriteAttr(
        path=PROBE,
        value=str(address),
        before=_link(address, None),
        after=None,
        undo=Store(f"{DEVICES}/{address}/driver/unbind", str(address), _link(address, None)),
        why="let the kernel offer the device to every driver that is loaded",
    )


def _override_step(address: PciAddress, old: str | None, new: str | None, why: str) -> WriteAttr:
    path = f"{DEVICES}/{address}/driver_override"
    before = Expect(path, "text", old or UNSET)
    return WriteAttr(
        path=path,
        value=new or CLEAR,
        before=before,
        after=Expect(path, "text", new or UNSET),
        undo=Store(path, old or CLEAR, before),
        why=why,
    )
