"""Definitions of mediated devices, as mdevctl keeps them below ``/etc/mdevctl.d``. Pure.

A file ``PARENT/UUID`` holds a JSON object: ``mdev_type``, ``start`` (``auto`` or ``manual``) and
``attrs``, a list of objects of one key each, which is ordered and may have a key several times.
What is written is byte for byte what mdevctl writes: two spaces, no newline at the end.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Literal

import attrs

from vfiohost.errors import AmbiguousError, NotFoundError, ParseError, PlanRefused, Refusal
from vfiohost.model import PciAddress
from vfiohost.plan.capacity import Room
from vfiohost.plan.mdev import (
    SEEN_EARLY,
    attribute_step,
    check_attribute,
    create_step,
    no_parent,
    no_type,
    parse_uuid,
    type_called,
)
from vfiohost.plan.types import Plan

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from vfiohost.model import MdevBus, MdevParent, MdevType, MediatedDevice
    from vfiohost.plan.types import WriteAttr

FOLDER = "etc/mdevctl.d"
"""Where the definitions are, relative to the root."""

CALLOUTS = ("usr/lib/mdevctl/scripts.d/callouts", f"{FOLDER}/scripts.d/callouts")
"""Where mdevctl has scripts that may refuse or complete a definition, relative to the root."""

NO_PARENT = "scripts.d"
"""The one folder there that is no parent: mdevctl's callouts."""

MOST_BYTES = 1 << 16
"""A definition is small; what is larger is none."""

_KEYS = ("mdev_type", "start", "attrs")


@attrs.frozen
class MdevDefinition:
    """A mediated device that is made when somebody starts it, or when its parent appears.

    Attributes:
        uuid: in lower case.
        parent: its parent's name: an address, or a name such as ``mtty``.
        mdev_type: the id of its type (``nvidia-595``).
        start: ``auto``, when the parent appears; ``manual``, when somebody asks for it.
        attributes: what is written to its attributes when it has been made, in this order.
        file: the name of its file: the UUID, which mdevctl reads in either case; ``None``: as
            ``uuid``. It makes no other definition.
    """

    uuid: str
    parent: str
    mdev_type: str
    start: Literal["auto", "manual"] = "manual"
    attributes: tuple[tuple[str, str], ...] = ()
    file: str | None = attrs.field(default=None, eq=False, kw_only=True)


def path_of(definition: MdevDefinition) -> str:
    """The path of a definition's file, relative to the root.

    Raises:
        ParseError: its parent's name can be none.
    """
    parent = definition.parent
    if not parent or parent.startswith(".") or "/" in parent or parent == NO_PARENT:
        raise ParseError(parent, "the name of a parent, such as 0000:65:00.4 or mtty")
    uuid = parse_uuid(definition.uuid)
    is_its_own = definition.file is not None and definition.file.lower() == uuid
    return f"{FOLDER}/{parent}/{definition.file if is_its_own else uuid}"


def parse(text: str, parent: str, uuid: str, *, where: str | None = None) -> MdevDefinition:
    """Read a definition.

    Args:
        text: the file.
        parent: the name of its folder.
        uuid: its own name.
        where: the name of the file, for messages, where it is another one.

    Raises:
        ParseError: it is none; names the file, and what it should be.
    """
    where = f"/{FOLDER}/{parent}/{uuid}" if where is None else where
    try:
        data = json.loads(text)
    # Of numbers with too many digits Python says ValueError, of depth RecursionError.
    except (ValueError, RecursionError) as error:
        hint = f"{error}." if isinstance(error, json.JSONDecodeError) else None
        raise ParseError(uuid, "a JSON object", where=where, hint=hint) from error
    name = _known_uuid(uuid, where)
    if not isinstance(data, dict):
        raise ParseError(uuid, "a JSON object with mdev_type and start", where=where)
    mdev_type, start = data.get("mdev_type"), data.get("start")
    if not isinstance(mdev_type, str) or not mdev_type:
        raise ParseError(_shown(mdev_type), "the id of a type (mdev_type)", where=where)
    if start not in ("auto", "manual"):  # no set: it may be a list
        raise ParseError(_shown(start), "auto or manual (start)", where=where)
    pairs = _attributes(data.get("attrs"), where)
    made = MdevDefinition(name, parent, mdev_type, start, pairs, file=uuid)
    _check_letters(made, where)
    return made


def render(definition: MdevDefinition) -> str:
    """The text of a definition's file.

    Raises:
        ParseError: it has letters that UTF-8 has no bytes for.
    """
    _check_letters(definition)
    return _pretty(_value(definition))


def render_all(definitions: Iterable[MdevDefinition]) -> str:
    """What ``mdevctl list -d --dumpjson`` prints of definitions, by parent."""
    by_parent: dict[str, list[dict[str, Any]]] = {}
    for each in sorted(definitions, key=lambda d: (d.parent, d.uuid)):
        by_parent.setdefault(each.parent, []).append({each.uuid: _value(each)})
    return _pretty([by_parent] if by_parent else [])


def render_types(parents: Iterable[MdevParent]) -> str:
    """What ``mdevctl types --dumpjson`` prints of what parents offer."""
    offered = {
        parent.name: [
            {kind.type_id: _type_value(kind)}
            for kind in sorted(parent.types, key=lambda kind: kind.type_id)
        ]
        for parent in sorted(parents, key=lambda parent: parent.name)
    }
    return _pretty([offered] if offered else [])


def _type_value(kind: MdevType) -> dict[str, Any]:
    description = kind.description
    if isinstance(description, str):
        description = description.strip().replace("\n", ", ")
    fields = (
        ("available_instances", kind.available_instances),
        ("device_api", kind.device_api),
        ("name", kind.name),
        ("description", description),
    )
    return {key: value for key, value in fields if isinstance(value, str | int) and value != ""}


def find_defined(
    definitions: Iterable[MdevDefinition], uuid: str, parent: str | None = None
) -> MdevDefinition:
    """The one definition that a UUID names.

    Args:
        definitions: all that there are.
        uuid: which, in either case.
        parent: on this parent only, a name or an address; one UUID may be defined on several.

    Raises:
        ParseError: the text is no UUID.
        NotFoundError: nothing of this UUID is defined.
        AmbiguousError: it is defined on several parents, and none is named, or in several files.
    """
    uuid, known = parse_uuid(uuid), tuple(definitions)
    named = parent if parent is None else parent_name(parent)
    found = [d for d in known if d.uuid == uuid and (named is None or d.parent in (parent, named))]
    if len(found) > 1:
        is_one = len({d.parent for d in found}) == 1
        raise AmbiguousError(
            uuid, [f"/{path_of(d)}" if is_one else f"--parent {d.parent}" for d in found]
        )
    if found:
        return found[0]
    elsewhere = [f"It is defined on {d.parent}." for d in known if d.uuid == uuid]
    near = get_close_matches(uuid, [d.uuid for d in known if d.uuid != uuid], n=3, cutoff=0.75)
    detail = elsewhere[0] if elsewhere else "`vfiohost mdev list -d` lists what is defined."
    raise NotFoundError("definition of a mediated device", uuid, near=near, detail=detail)


def parent_name(text: str) -> str:
    """The name of the parent that a text stands for: of an address in any form, the full one."""
    try:
        return str(PciAddress.parse(text))
    except ParseError:
        return text


def on_host(definition: MdevDefinition, bus: MdevBus) -> MdevDefinition:
    """A definition whose parent and type are called as the kernel calls them, as they must be.

    Args:
        definition: its parent may be an address in any form, its type a name.
        bus: the parents that exist. One that is not there may come later.

    Raises:
        NotFoundError: the parent makes no mediated devices, but its virtual functions do.
        AmbiguousError: several types have the name.
    """
    there = {each.name for each in bus.parents}
    name = definition.parent if definition.parent in there else parent_name(definition.parent)
    functions = [each.name for each in bus.parents if str(each.physfn) == name]
    if functions and name not in there:
        raise NotFoundError(
            "parent of mediated devices",
            definition.parent,
            sentence=f"{name} makes no mediated devices itself, but its virtual functions do.",
            detail=f"Name one of them as the parent, such as {functions[0]}.",
        )
    return with_type_id(attrs.evolve(definition, parent=name), bus)


def with_type_id(definition: MdevDefinition, bus: MdevBus) -> MdevDefinition:
    """A definition whose type is given by its id, where the host knows its name.

    Raises:
        AmbiguousError: several types have the name.
    """
    own = [each for each in bus.parents if each.name == definition.parent]
    kind = type_called(own or bus.parents, definition.mdev_type)
    return definition if kind is None else attrs.evolve(definition, mdev_type=kind.type_id)


def check_new(definitions: Iterable[MdevDefinition], wanted: MdevDefinition) -> None:
    """Check that a definition is the first of its UUID.

    Raises:
        PlanRefused: there is one already, on any parent.
    """
    for known in definitions:
        if known.uuid == wanted.uuid:
            refusal = Refusal(
                "uuid-exists",
                known.uuid,
                f"{known.uuid} is defined already, on {known.parent}.",
                f"Choose another UUID, or take it away first: `vfiohost mdev undefine "
                f"{known.uuid}`.",
            )
            raise PlanRefused([refusal])


def modified(
    definition: MdevDefinition,
    *,
    mdev_type: str | None = None,
    start: Literal["auto", "manual"] | None = None,
    add: tuple[str, str] | None = None,
    delete: bool = False,
    index: int | None = None,
) -> MdevDefinition:
    """A definition with something changed, as ``mdevctl modify`` changes it.

    Args:
        definition: as it is.
        mdev_type: the id of another type.
        start: when it starts.
        add: an attribute and its value.
        delete: take an attribute away; not together with ``add``.
        index: where: the number of the attribute that is deleted, or that the new one is put
            before, from 0; by default the end.

    Raises:
        NotFoundError: there is no attribute of that number.
    """
    pairs = list(definition.attributes)
    last = len(pairs) - 1 if delete else len(pairs)
    at = last if index is None else index
    if (delete or add is not None) and not 0 <= at <= last:
        numbered = [f"{number}: {name}={value}" for number, (name, value) in enumerate(pairs)]
        raise NotFoundError(
            "attribute",
            str(max(at, 0)),
            sentence=f"{definition.uuid} is defined with no attribute of number {max(at, 0)}.",
            detail=f"It has {', '.join(numbered) or 'no attributes'}.",
        )
    if delete:
        del pairs[at]
    if add is not None:
        pairs.insert(at, add)
    return attrs.evolve(
        definition,
        mdev_type=mdev_type or definition.mdev_type,
        start=start or definition.start,
        attributes=tuple(pairs),
    )


def automatic(
    definitions: Iterable[MdevDefinition], bus: MdevBus, parent: str | None = None
) -> tuple[tuple[MdevDefinition, ...], tuple[MdevDefinition, ...]]:
    """What is to start when its parent appears.

    Args:
        definitions: all that there are.
        bus: the parents that exist.
        parent: on this parent only, a name or an address, which must exist.

    Returns:
        Those whose parent is there, and those whose parent is not.

    Raises:
        NotFoundError: there is no such parent.
        AmbiguousError: a UUID is among them on several parents.
    """
    there = {each.name for each in bus.parents}
    if parent is not None and parent not in there:
        if parent_name(parent) not in there:
            raise no_parent(bus, parent)
        parent = parent_name(parent)
    wanted = [d for d in definitions if d.start == "auto" and parent in (None, d.parent)]
    found = tuple(d for d in wanted if d.parent in there)
    for uuid, count in Counter(d.uuid for d in found).items():
        if count > 1:
            raise AmbiguousError(uuid, [f"--parent {d.parent}" for d in found if d.uuid == uuid])
    return found, tuple(d for d in wanted if d.parent not in there)


def plan_start(bus: MdevBus, definitions: Sequence[MdevDefinition]) -> Plan:
    """Plan to start what is defined: create each device, then write its attributes, in order.

    As ``mdevctl start`` (``src/mdev.rs``), parent and type must be as they are written in the
    definition, name for name. A device that runs already as it is defined stays as it is.

    Args:
        bus: the parents and devices that exist.
        definitions: what to start, each UUID once.

    Returns:
        A plan whose subjects are the UUIDs. Undone, the devices are removed.

    Raises:
        ParseError: an attribute can be none.
        NotFoundError: there is no such parent, or it does not offer the type.
        PlanRefused: a device of the UUID runs that is another one, or too few instances are left;
            all reasons at once.
    """
    running = {device.uuid: device for device in bus.devices}
    missing = [each for each in definitions if each.uuid not in running]
    kinds = {each.uuid: _offered(bus, each) for each in missing}
    refusals = [
        *(r for d in definitions if d.uuid in running for r in _others(d, running[d.uuid])),
        *_no_room(bus, missing, kinds),
    ]
    steps: list[WriteAttr] = []
    for each in missing:
        kind = kinds[each.uuid][1]
        steps.append(create_step(each.uuid, each.parent, kind.type_id, kind.name))
        for name, value in each.attributes:
            check_attribute(name, value)
            steps.append(attribute_step(each.uuid, name, value))
    notes = (SEEN_EARLY,) if any(each.attributes for each in missing) else ()
    plan = Plan("mdev start", tuple(d.uuid for d in definitions), tuple(steps), notes=notes)
    if refusals:
        raise PlanRefused(refusals, plan)
    return plan


def _offered(bus: MdevBus, wanted: MdevDefinition) -> tuple[MdevParent, MdevType]:
    """The parent and the type of a definition.

    Raises:
        NotFoundError: there is no such parent, or it does not offer the type.
    """
    for parent in bus.parents:
        if parent.name == wanted.parent:
            for kind in parent.types:
                if kind.type_id == wanted.mdev_type:
                    return parent, kind
            raise no_type(bus, (parent,), parent.name, wanted.mdev_type)
    raise no_parent(bus, wanted.parent)


def _others(wanted: MdevDefinition, runs: MediatedDevice) -> Iterator[Refusal]:
    """Why a device that runs is not the one that is defined."""
    if (runs.parent, runs.type_id) != (wanted.parent, wanted.mdev_type):
        kind = runs.type_id if isinstance(runs.type_id, str) else "a type that cannot be read"
        yield Refusal(
            "uuid-exists",
            wanted.uuid,
            f"A mediated device {wanted.uuid} runs already, as {kind} on {runs.parent}, and it is "
            f"defined as {wanted.mdev_type} on {wanted.parent}.",
            f"Remove it when nobody uses it: `vfiohost mdev remove {wanted.uuid}`.",
        )


def _no_room(
    bus: MdevBus,
    missing: Iterable[MdevDefinition],
    kinds: dict[str, tuple[MdevParent, MdevType]],
) -> Iterator[Refusal]:
    """What does not fit: on a parent, then on the card that several parents share."""
    wanted: dict[tuple[str, str], dict[str, list[MdevParent]]] = defaultdict(dict)
    for each in missing:
        parent, kind = kinds[each.uuid]
        card = str(parent.physfn or parent.name)
        wanted[card, kind.type_id].setdefault(parent.name, []).append(parent)
    types = {kind.type_id: kind for _, kind in kinds.values()}
    for (card, type_id), parents in wanted.items():
        alone = [
            Room(bus, name, (same[0],), types[type_id]).refusal(len(same))
            for name, same in parents.items()
        ]
        found = [refusal for refusal in alone if refusal is not None]
        if not found and len(parents) > 1:
            everyone = tuple(same[0] for same in parents.values())
            count = sum(map(len, parents.values()))
            together = Room(bus, card, everyone, types[type_id]).refusal(count)
            found = [] if together is None else [together]
        yield from found


def _known_uuid(text: str, where: str) -> str:
    try:
        return parse_uuid(text)
    except ParseError as error:
        raise ParseError(text, error.expected, where=where, hint=error.hint) from error


def _check_letters(definition: MdevDefinition, where: str | None = None) -> None:
    """See to it that mdevctl can read it: what JSON or Python have beyond UTF-8 it refuses."""
    pairs = definition.attributes
    for text in (definition.mdev_type, *(text for pair in pairs for text in pair)):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ParseError(text, "a text of letters that UTF-8 has", where=where) from error


def _attributes(value: object, where: str) -> tuple[tuple[str, str], ...]:
    if value is None:
        return ()
    expected = 'a list of objects of one text each, such as [{"assign_adapter": "5"}] (attrs)'
    if not isinstance(value, list):
        raise ParseError(_shown(value), expected, where=where)
    found = []
    for each in value:
        pairs = list(each.items()) if isinstance(each, dict) else []
        if len(pairs) != 1 or not isinstance(pairs[0][1], str):
            raise ParseError(_shown(each), expected, where=where)
        found.append((pairs[0][0], pairs[0][1]))
    return tuple(found)


def _value(definition: MdevDefinition) -> dict[str, Any]:
    attributes = [{key: value} for key, value in definition.attributes]
    values = (definition.mdev_type, definition.start, attributes)
    return dict(zip(_KEYS, values, strict=True))


def _pretty(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def _shown(value: object) -> str:
    most = 60
    text = "nothing" if value is None else json.dumps(value)
    return text if len(text) <= most else f"{text[:most]}…"
