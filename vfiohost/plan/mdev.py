"""Create and remove mediated devices."""

from __future__ import annotations

import re
from collections import Counter
from difflib import get_close_matches
from typing import TYPE_CHECKING

import attrs

from vfiohost.errors import AmbiguousError, NotFoundError, ParseError, PlanRefused, Refusal
from vfiohost.model import PciAddress, Unavailable
from vfiohost.nvidia import VGPU_PARAMS, short_name
from vfiohost.plan.capacity import Room
from vfiohost.plan.hazards import check_allow
from vfiohost.plan.in_use import use_refusals
from vfiohost.plan.types import Expect, Plan, Store, WriteAttr, is_writable
from vfiohost.plan.words import listed
from vfiohost.selectors import near_addresses

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from vfiohost.model import MdevBus, MdevParent, MdevType, MediatedDevice
    from vfiohost.usage import Usage

DEVICES = "sys/bus/mdev/devices"
PARENTS = "sys/class/mdev_bus"

SEEN_EARLY = "Others can see the devices before their attributes are set."
"""A note of plans that set attributes of new devices."""

_NIL = "00000000-0000-0000-0000-000000000000"
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_ATTRIBUTE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")
# Files of every device that are no attributes of the mediated device.
_NOT_ATTRIBUTES = frozenset({"remove", "uevent", "driver", "iommu_group", "mdev_type", "subsystem"})


@attrs.frozen
class CreateRequest:
    """Which mediated devices shall be created.

    Attributes:
        parent: a parent's name as in ``/sys/class/mdev_bus``, or its address, full or short. A
            physical function stands for the parents among its virtual functions.
        type: a type's id (``nvidia-595``) or name (``NVIDIA A10-8Q``, ``NVIDIA_A10-8Q``,
            ``A10-8Q``).
        uuids: one for each device.
        attributes: names and values that are written to each device after its creation, in order.
        count: how many were asked for, to check the number of ``uuids``, or ``None``.
    """

    parent: str
    type: str
    uuids: tuple[str, ...]
    attributes: tuple[tuple[str, str], ...] = ()
    count: int | None = None


def plan_create(bus: MdevBus, request: CreateRequest) -> Plan:
    """Plan to create mediated devices.

    The checks come in mdevctl's order: the parent, the type, the instances that are left, the
    UUIDs. The attributes are ``create`` of the type below the parent and then, for each device,
    its own (``drivers/vfio/mdev/mdev_sysfs.c:create_store``).

    Args:
        bus: the parents and devices that exist.
        request: what shall be.

    Returns:
        A plan whose subjects are the UUIDs, in lower case.

    Raises:
        ParseError: a UUID or attribute can be none, or their number does not fit.
        NotFoundError: there is no such parent, or it does not offer the type.
        AmbiguousError: several of its types have the name.
        PlanRefused: too few instances are left, or a UUID is in use; all reasons at once.
    """
    uuids = _uuids(request.uuids, request.count)
    for name, value in request.attributes:
        check_attribute(name, value)
    parents = find_parents(bus, request.parent)
    mdev_type = _find_type(bus, parents, request)
    room = Room(bus, request.parent, parents, mdev_type)
    too_few = room.refusal(len(uuids))
    refusals = [*([too_few] if too_few else []), *uuid_refusals(bus, uuids)]
    steps: list[WriteAttr] = []
    for uuid, parent in zip(uuids, room.places(len(uuids)), strict=False):
        steps.append(create_step(uuid, parent.name, mdev_type.type_id, mdev_type.name))
        steps.extend(attribute_step(uuid, *attribute) for attribute in request.attributes)
    notes = (SEEN_EARLY,) if request.attributes else ()
    plan = Plan("mdev create", uuids, tuple(steps), notes=notes)
    if refusals:
        raise PlanRefused(refusals, plan)
    return plan


def plan_remove(
    bus: MdevBus,
    uuids: Iterable[str],
    *,
    usage: Usage | None = None,
    allow: frozenset[str] = frozenset(),
) -> Plan:
    """Plan to remove mediated devices, by ``remove`` of each.

    Undone, a device of the same UUID, parent and type is there again, but with none of its
    attributes and nothing of what a guest had in it.

    Args:
        bus: the parents and devices that exist.
        uuids: which.
        usage: who uses them, or ``None``: nobody asked.
        allow: ``vfio-user`` permits to remove a device that a process has open; the kernel then
            waits for it to close (``vfio_unregister_group_dev``).

    Raises:
        ParseError: a text is no UUID, or an ``allow`` word is unknown.
        NotFoundError: there is no such device.
        PlanRefused: a process has one open; the plan that would have been comes with it.
    """
    check_allow(allow)
    devices = {device.uuid: device for device in bus.devices}
    wanted = tuple(dict.fromkeys(parse_uuid(uuid) for uuid in uuids))
    for uuid in wanted:
        if uuid not in devices:
            near = get_close_matches(uuid, devices, n=3, cutoff=0.75)
            detail = None if devices else "There is none at all."
            raise NotFoundError("mediated device", uuid, near=near, detail=detail)
    found = [devices[uuid] for uuid in wanted]
    notes = ["Undo creates the devices again, without their attributes."] if found else []
    lost = [d.uuid for d in found if not isinstance(d.type_id, str)]
    if lost:
        notes.append(f"The type of {listed(lost)} could not be read: its removal has no undo.")
    plan = Plan(
        "mdev remove",
        wanted,
        tuple(remove_step(d) for d in found),
        notes=tuple(notes),
        incomplete=usage.incomplete if usage else (),
    )
    refusals = list(use_refusals(usage, wanted, allow)) if usage else []
    if refusals:
        raise PlanRefused(refusals, plan)
    return plan


def parse_uuid(text: str) -> str:
    """Return a UUID in lower case.

    The kernel takes only the form with four dashes (``lib/uuid.c:guid_parse``). It takes the nil
    UUID too, which names nothing and is refused here.

    Raises:
        ParseError: the text is no UUID; it says which one was probably meant.
    """
    uuid = text.lower()
    if _UUID.fullmatch(uuid) and uuid != _NIL:
        return uuid
    digits = re.sub(r"^urn:uuid:|[{}\s-]", "", uuid)
    hint = None
    if uuid == _NIL:
        hint = "The nil UUID names no device."
    elif re.fullmatch(r"[0-9a-f]{32}", digits):
        parts = (digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])
        hint = f"Did you mean {'-'.join(parts)}?"
    raise ParseError(
        text, "a UUID such as b716be33-2f53-4a1c-9d3c-2f2a5f3e8a10", where="UUID", hint=hint
    )


def as_uuid(text: str) -> str | None:
    """A UUID in lower case, or ``None`` when the text is none."""
    try:
        return parse_uuid(text)
    except ParseError:
        return None


def _uuids(texts: Sequence[str], count: int | None) -> tuple[str, ...]:
    uuids = tuple(parse_uuid(text) for text in texts)
    if count is not None and count != len(uuids):
        raise ParseError(str(count), f"the number of UUIDs that were given ({len(uuids)})")
    if not uuids:
        raise ParseError("0", "a number of devices, at least 1", where="count")
    for uuid, number in Counter(uuids).items():
        if number > 1:
            raise ParseError(uuid, "a UUID that is given once", where="UUID")
    return uuids


def check_attribute(name: str, value: str) -> None:
    """See to it that a value can be written to an attribute of a new device.

    Raises:
        ParseError: the name is none of an attribute, or the value is none that can be written.
    """
    if name != VGPU_PARAMS and (not _ATTRIBUTE.fullmatch(name) or name in _NOT_ATTRIBUTES):
        raise ParseError(
            name,
            "the name of an attribute of a mediated device: a file, no path",
            where="attribute",
        )
    if not value or "\0" in value or not is_writable(value):
        raise ParseError(
            f"{name}={value}",
            "an attribute with a value that can be written (an empty write does not reach the "
            "kernel)",
            where="attribute",
        )


def find_parents(bus: MdevBus, text: str) -> tuple[MdevParent, ...]:
    """The parents that a text stands for: one, or those among a PF's virtual functions.

    Args:
        bus: the parents that exist.
        text: a parent's name, or an address, full or short.

    Raises:
        NotFoundError: there is none.
    """
    for parent in bus.parents:
        if parent.name == text:
            return (parent,)
    try:
        address = PciAddress.parse(text)
    except ParseError:
        address = None
    if address is not None:
        own = tuple(p for p in bus.parents if p.address == address)
        found = own or tuple(p for p in bus.parents if p.physfn == address)
        if found:
            return found
    raise no_parent(bus, text)


def no_parent(bus: MdevBus, text: str) -> NotFoundError:
    """The error for a text that stands for no parent."""
    try:
        address = PciAddress.parse(text)
    except ParseError:
        address = None
    return NotFoundError(
        "parent of mediated devices",
        text,
        near=[name for name in _near_parents(bus, text, address) if name != text],
        detail=None if bus.parents else "No device of this host can make mediated devices.",
    )


def _near_parents(bus: MdevBus, text: str, address: PciAddress | None) -> tuple[str, ...]:
    names = [p.name for p in bus.parents]
    same = [name for name in names if name.lower() == text.lower()]
    if same:
        return tuple(same)
    if address is not None:
        functions = {a for p in bus.parents for a in (p.physfn, p.address) if a is not None}
        return near_addresses(address, sorted(functions))
    return tuple(get_close_matches(text, names, n=3))


def _find_type(bus: MdevBus, parents: Sequence[MdevParent], request: CreateRequest) -> MdevType:
    """The type that a text stands for, on any of the parents.

    Raises:
        NotFoundError: none of them offers it.
        AmbiguousError: several types have this name.
    """
    found = type_called(parents, request.type)
    if found is None:
        raise no_type(bus, parents, request.parent, request.type)
    return found


def type_called(parents: Iterable[MdevParent], text: str) -> MdevType | None:
    """The type of some parents that has an id or else a name; ``None``: none of theirs has.

    Raises:
        AmbiguousError: several types have this name.
    """
    offered = {t.type_id: t for parent in parents for t in parent.types}
    if text in offered:
        return offered[text]
    wanted = short_name(text)
    named = [t for t in offered.values() if t.name is not None and short_name(t.name) == wanted]
    if len(named) > 1:
        raise AmbiguousError(text, [t.type_id for t in named])
    return named[0] if named else None


def no_type(
    bus: MdevBus, parents: Sequence[MdevParent], parent: str, mdev_type: str
) -> NotFoundError:
    """The error for a type that parents do not offer.

    Args:
        bus: the parents and devices that exist.
        parents: who does not offer it.
        parent: how they were named.
        mdev_type: how the type was named.
    """
    offered = {t.type_id: t for each in parents for t in each.types}
    wanted = short_name(mdev_type)
    texts = {t.type_id.lower(): t.type_id for t in offered.values()}
    texts |= {short_name(t.name).lower(): short_name(t.name) for t in offered.values() if t.name}
    spellings = dict.fromkeys((mdev_type.lower(), wanted.lower()))
    near = (text for s in spellings for text in get_close_matches(s, texts, n=2))
    told = [f"{t.type_id} ({t.name})" if t.name else t.type_id for t in offered.values()]
    others = [
        p.name
        for p in bus.parents
        if any(mdev_type == t.type_id or short_name(t.name or "") == wanted for t in p.types)
    ]
    elsewhere = f" {listed(others)} would." if others else ""
    return NotFoundError(
        "mdev type",
        mdev_type,
        near=tuple(dict.fromkeys(texts[text] for text in near)),
        detail=f"{parent} offers {listed(told) or 'no types'}.{elsewhere}",
    )


def uuid_refusals(bus: MdevBus, uuids: Sequence[str]) -> Iterable[Refusal]:
    """The UUIDs that mediated devices have already."""
    active = {device.uuid: device for device in bus.devices}
    for uuid in uuids:
        if uuid in active:
            yield Refusal(
                "uuid-exists",
                uuid,
                f"A mediated device {uuid} exists already, on {active[uuid].parent}.",
                f"Choose another UUID, or remove it first: `vfiohost mdev remove {uuid}`.",
            )


def _is_there(uuid: str, parent: str, type_id: str | Unavailable) -> Expect:
    """That the device exists, among those that its parent has of its type."""
    if isinstance(type_id, Unavailable):
        return Expect(f"{DEVICES}/{uuid}", "exists", "yes")
    return Expect(f"{_type_path(parent, type_id)}/devices/{uuid}", "exists", "yes")


def _is_gone(uuid: str) -> Expect:
    return Expect(f"{DEVICES}/{uuid}", "exists", "no")


def _type_path(parent: str, type_id: str) -> str:
    return f"{PARENTS}/{parent}/mdev_supported_types/{type_id}"


def create_step(uuid: str, parent: str, type_id: str, type_name: str | None) -> WriteAttr:
    """The step that creates a mediated device: a store to ``create`` of the type."""
    name = f" ({type_name})" if type_name else ""
    return WriteAttr(
        path=f"{_type_path(parent, type_id)}/create",
        value=uuid,
        before=_is_gone(uuid),
        after=_is_there(uuid, parent, type_id),
        undo=Store(f"{DEVICES}/{uuid}/remove", "1", _is_gone(uuid)),
        why=f"create a {type_id}{name} on {parent}",
    )


def attribute_step(uuid: str, name: str, value: str) -> WriteAttr:
    """The step that sets an attribute of a new mediated device."""
    # Nothing is read back, since many of these attributes answer with other words than they take;
    # undone by the removal of the device.
    path = f"{DEVICES}/{uuid}/{name}"
    return WriteAttr(path, value, None, None, None, f"set {name} of the new device")


def remove_step(device: MediatedDevice) -> WriteAttr:
    """The step that removes a mediated device; undone, it is there again without attributes."""
    there = _is_there(device.uuid, device.parent, device.type_id)
    undo = None
    if isinstance(device.type_id, str):
        create = f"{_type_path(device.parent, device.type_id)}/create"
        undo = Store(create, device.uuid, there)
    return WriteAttr(
        path=f"{DEVICES}/{device.uuid}/remove",
        value="1",
        before=there,
        after=_is_gone(device.uuid),
        undo=undo,
        why=f"remove the device from {device.parent}",
    )
