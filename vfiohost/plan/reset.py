"""Reset devices, for once by another method if need be.

The kernel asks nobody: it resets a device under a running virtual machine, and under a host driver
that may never learn of it (``drivers/pci/pci-sysfs.c:reset_store``,
``drivers/pci/pci.c:pci_dev_save_and_disable``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vfiohost.errors import NotFoundError, PlanRefused, Refusal, UnsupportedError
from vfiohost.model import Unavailable, is_vfio_driver
from vfiohost.plan.changes import CLEAR, DEVICES
from vfiohost.plan.draft import find
from vfiohost.plan.drivers import is_host_driver
from vfiohost.plan.hazards import ALLOW_HOST_DRIVER, check_allow, read_binding
from vfiohost.plan.in_use import ALLOW_VFIO_USER, use_refusals
from vfiohost.plan.types import Expect, Plan, Store, WriteAttr
from vfiohost.plan.words import counted, listed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from vfiohost.model import PciAddress, PciDevice, ResetFacts, Snapshot


def plan_reset(
    snapshot: Snapshot,
    devices: Iterable[PciAddress],
    facts: Mapping[PciAddress, ResetFacts],
    *,
    method: str | None = None,
    allow: frozenset[str] = frozenset(),
) -> Plan:
    """Plan to reset devices, one after the other.

    A method that is asked for is chosen (``reset_method``) for this reset alone. What ``reset`` did
    cannot be read back; that the kernel accepted it means that a method succeeded.

    Args:
        snapshot: the host, with the details, the usage and the mediated devices of the devices.
        devices: their addresses.
        facts: of each of them.
        method: one of the kernel's names (``flr``, ``bus``, ``pm``); by default those that are
            chosen, one after the other until one succeeds.
        allow: hazards that are permitted: ``host-driver``, and what such a driver is used for
            (``storage``, ``network``, …).

    Raises:
        ParseError: an ``allow`` word is unknown.
        NotFoundError: there is no such device, or it has no such method.
        UnsupportedError: it has no way to be reset, or the kernel lets nobody choose.
        PlanRefused: for all reasons at once; the plan that would have been comes with them.
    """
    check_allow(allow)
    found = find(snapshot, devices)
    for device in found:
        _check_able(device, facts[device.address], method)
    steps = [
        step for device in found for step in _steps(device, facts[device.address].methods, method)
    ]
    refusals = [
        refusal
        for device in found
        for refusal in _hazards(snapshot, device, facts[device.address], allow)
    ]
    plan = Plan(
        "reset",
        tuple(str(device.address) for device in found),
        tuple(steps),
        incomplete=snapshot.usage.incomplete if snapshot.usage else (),
    )
    if refusals:
        raise PlanRefused(refusals, plan)
    return plan


def _check_able(device: PciDevice, facts: ResetFacts, method: str | None) -> None:
    address = device.address
    if not facts.has_reset:
        raise UnsupportedError(
            f"{address} has no way to be reset: the kernel found no reset method for it, and "
            "gives it no `reset`. Only a new start of the host resets it."
        )
    if isinstance(facts.methods, Unavailable):
        return
    if facts.methods is None:
        if method is not None:
            raise UnsupportedError(
                f"This kernel lets nobody choose how {address} is reset (Linux 5.15 does). Leave "
                "out --method."
            )
        return
    chosen = facts.methods.split()
    if not chosen and method is None:
        raise UnsupportedError(
            f"Every reset method of {address} is switched off (its reset_method is empty). Write "
            "`default` to reset_method, or name one with --method."
        )
    # What is switched off is not shown: then the kernel knows best.
    if chosen and method is not None and method not in chosen:
        sentence = f"{address} has no reset method {method!r}."
        raise NotFoundError("reset method", method, near=chosen, sentence=sentence)


def _steps(
    device: PciDevice, chosen: str | None | Unavailable, method: str | None
) -> Iterator[WriteAttr]:
    path = f"{DEVICES}/{device.address}"
    driver = device.driver if isinstance(device.driver, str) else None
    reset = WriteAttr(
        path=f"{path}/reset",
        value="1",
        before=Expect(f"{path}/driver", "link", driver),
        after=None,
        undo=None,
        why="reset the device" if method is None else f"reset the device by {method}",
    )
    if method is None or not isinstance(chosen, str) or chosen == method:
        yield reset
        return
    attribute = f"{path}/reset_method"
    before, after = Expect(attribute, "text", chosen), Expect(attribute, "text", method)
    old = chosen or CLEAR
    why = f"let {method} be the only way"
    yield WriteAttr(attribute, method, before, after, Store(attribute, old, before), why)
    yield reset
    # Without an undo: what takes the first step back brings this back, too.
    yield WriteAttr(attribute, old, after, before, None, "as it was before")


def _hazards(
    snapshot: Snapshot, device: PciDevice, facts: ResetFacts, allow: frozenset[str]
) -> Iterator[Refusal]:
    address, subject = device.address, str(device.address)
    if device.is_bridge:
        yield Refusal(
            "bridge",
            subject,
            f"{address} is a bridge (class {device.class_code >> 8:04x}): a reset of it takes the "
            "devices behind it along.",
            "Reset those that need it.",
        )
    now = read_binding(snapshot, device)
    if isinstance(now, Refusal):
        yield now
        return
    if now.driver is not None and is_vfio_driver(now.driver):
        yield from _vfio_user(snapshot, device, facts)
    elif now.driver is not None and is_host_driver(now.driver) and ALLOW_HOST_DRIVER not in allow:
        yield Refusal(
            "host-driver",
            subject,
            f"{address} is on {now.driver}, which may never learn of the reset: the kernel asks a "
            "driver only if that has a reset_prepare.",
            f"Take the driver away first (`vfiohost unbind {address}`), or permit it with "
            f"--allow {ALLOW_HOST_DRIVER}.",
        )
    if snapshot.usage is not None:
        # A VFIO user is another matter: no word permits a reset under it.
        yield from use_refusals(snapshot.usage, [subject], allow | {ALLOW_VFIO_USER})
    number = len(snapshot.virtual_functions.get(address, ()))
    if number:
        yield Refusal(
            "pf-with-vfs",
            subject,
            f"{address} has {counted(number, 'virtual function')}, and a reset of it stops them, "
            "whoever uses them.",
            f"Remove them first: `vfiohost vf clear {address}`.",
        )
    uuids = [d.uuid for d in snapshot.mdev.devices if d.parent == subject] if snapshot.mdev else []
    if uuids:
        yield Refusal(
            "mdevs-exist",
            subject,
            f"{address} has {counted(len(uuids), 'mediated device')} ({listed(uuids)}), which a "
            "reset of it stops.",
            f"Remove them first: `vfiohost mdev remove {' '.join(uuids)}`.",
        )


def _vfio_user(snapshot: Snapshot, device: PciDevice, facts: ResetFacts) -> Iterator[Refusal]:
    """``enable`` is 1 while somebody has the device open (``vfio_pci_core_enable``)."""
    uses = snapshot.usage.of([str(device.address)]) if snapshot.usage else ()
    users = [str(use.process) for use in uses if use.kind == "vfio-user" and use.process]
    who = listed(users) if users else "a VFIO user"
    if isinstance(facts.enable, Unavailable):
        yield Refusal(
            "unreadable",
            str(device.address),
            f"Whether somebody uses {device.address} cannot be told: its enable could not be read "
            f"({facts.enable}).",
            "Try again as root, when the kernel is done with the device.",
        )
    elif facts.enable != "0":
        yield Refusal(
            "vfio-user",
            str(device.address),
            f"{device.address} is in use by {who}, a virtual machine for one: the kernel would "
            "reset the device under it.",
            "Shut that virtual machine down, or let it reset the device itself.",
        )
