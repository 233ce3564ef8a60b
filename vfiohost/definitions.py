"""Definitions of mediated devices, as mdevctl keeps them below ``/etc/mdevctl.d``. Pure.

A file ``PARENT/UUID`` holds a JSON object: ``mdev_type``, ``start`` (``auto`` or ``manual``) and
``attrs``, a list of objects of one key each, which is ordered and may have a key several times.
What is written is byte for byte what mdevctl writes: two spaces, no newline at the end.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal

import attrs

from vfiohost.errors import ParseError
from vfiohost.plan.mdev import parse_uuid

if TYPE_CHECKING:
    from collections.abc import Iterable

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
    """

    uuid: str
    parent: str
    mdev_type: str
    start: Literal["auto", "manual"] = "manual"
    attributes: tuple[tuple[str, str], ...] = ()


def path_of(definition: MdevDefinition) -> str:
    """The path of a definition's file, relative to the root.

    Raises:
        ParseError: its parent's name can be none.
    """
    parent = definition.parent
    if not parent or parent.startswith(".") or "/" in parent or parent == NO_PARENT:
        raise ParseError(parent, "the name of a parent, such as 0000:65:00.4 or mtty")
    return f"{FOLDER}/{parent}/{parse_uuid(definition.uuid)}"


def parse(text: str, parent: str, uuid: str) -> MdevDefinition:
    """Read a definition.

    Args:
        text: the file.
        parent: the name of its folder.
        uuid: its own name.

    Raises:
        ParseError: it is none; names the file, and what it should be.
    """
    where = f"/{FOLDER}/{parent}/{uuid}"
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
    return MdevDefinition(name, parent, mdev_type, start, _attributes(data.get("attrs"), where))


def render(definition: MdevDefinition) -> str:
    """The text of a definition's file."""
    return _pretty(_value(definition))


def render_all(definitions: Iterable[MdevDefinition]) -> str:
    """What ``mdevctl list -d --dumpjson`` prints of definitions, by parent."""
    by_parent: dict[str, list[dict[str, Any]]] = {}
    for each in sorted(definitions, key=lambda d: (d.parent, d.uuid)):
        by_parent.setdefault(each.parent, []).append({each.uuid: _value(each)})
    return _pretty([by_parent] if by_parent else [])


def _known_uuid(text: str, where: str) -> str:
    try:
        return parse_uuid(text)
    except ParseError as error:
        raise ParseError(text, error.expected, where=where, hint=error.hint) from error


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
