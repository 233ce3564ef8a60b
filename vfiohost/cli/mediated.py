"""The verbs that create and remove mediated devices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import uuid4

from vfiohost.cli.carrying import carry_out, each_on_its_own, plan_or_pending, show
from vfiohost.errors import ParseError
from vfiohost.model import MdevBus
from vfiohost.plan.mdev import parse_uuid
from vfiohost.render import listing, values

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from vfiohost.cli.session import Session
    from vfiohost.plan.types import Plan

_MAX_COUNT = 4096  # more than any parent has; a typo must not fill the memory


def create(session: Session) -> None:
    """``vfiohost mdev create -p PARENT -t TYPE``."""
    options = session.options
    uuids = () if options.uuid is None else (options.uuid,)
    count = None if options.count is None else parse_count(options.count)
    if uuids and count not in (None, 1):
        raise ParseError(str(count), "a count that goes with one UUID", where="-n")
    attributes = [_attribute(text) for text in options.attr]

    def planner() -> Plan:
        return session.host.plan_mdev_create(
            options.parent or "",
            options.type or "",
            uuids=uuids,
            count=count,
            attributes=attributes,
            bus=_bus(session),
        )

    plan = plan_or_pending(session, planner)
    if options.dry_run:
        session.value |= show(session, plan)
        return
    plan, fields = carry_out(session, plan, again=planner)
    session.value |= fields
    found = {d.uuid: d for d in _bus(session).devices}
    created = [found[uuid] for uuid in plan.subjects if uuid in found]
    nodes = session.host.vfio_nodes()
    session.value["mdevs"] = [values.mdev_value(d, nodes) for d in created]
    # Even a quiet run gives the UUIDs: nobody else knows them.
    quiet = [d.uuid for d in created]
    session.lines += quiet if options.quiet else listing.created_lines(created, nodes)


def remove(session: Session) -> None:
    """``vfiohost mdev remove UUID..``."""
    uuids = dict.fromkeys(map(parse_uuid, session.options.uuids))
    if session.options.keep_going:
        each_on_its_own(session, uuids, lambda uuid: _remove(session, [uuid]))
    else:
        session.value |= _remove(session, uuids)


def _remove(session: Session, uuids: Iterable[str]) -> dict[str, Any]:
    """Remove some devices together, or show how."""

    def planner() -> Plan:
        return session.host.plan_mdev_remove(
            uuids, allow=session.options.allowed, bus=_bus(session)
        )

    plan = plan_or_pending(session, planner)
    if session.options.dry_run:
        return show(session, plan)
    plan, fields = carry_out(session, plan, again=planner)
    if not session.options.quiet:
        session.lines += [f"{subject}  removed" for subject in plan.subjects]
    return fields


def define(session: Session) -> None:
    """``vfiohost mdev define -p PARENT -t TYPE``: as mdevctl keeps it."""
    from vfiohost.definitions import MdevDefinition, path_of
    from vfiohost.render.values import definition_value

    options = session.options
    made = MdevDefinition(
        uuid=str(uuid4()) if options.uuid is None else parse_uuid(options.uuid),
        parent=options.parent or "",
        mdev_type=options.type or "",
        start="auto" if options.auto else "manual",
        attributes=tuple(_attribute(text) for text in options.attr),
    )
    session.value |= {"dry_run": options.dry_run, "definitions": [definition_value(made)]}
    if options.dry_run:
        session.lines.append(f"would write /{path_of(made)}")
        return
    with session.writing():
        session.host.define_mdev(made, callouts=not options.ignore_callouts)
    session.lines.append(made.uuid)


def undefine(session: Session) -> None:
    """``vfiohost mdev undefine UUID``: take a definition away."""
    uuid = parse_uuid(session.options.uuid or "")
    session.value |= {"dry_run": session.options.dry_run}
    if session.options.dry_run:
        found = [d for d in session.host.mdev_definitions()[0] if d.uuid == uuid]
        session.lines += [f"would remove the definition of {uuid} on {d.parent}" for d in found]
        return
    with session.writing():
        paths = session.host.undefine_mdev(uuid)
    if not session.options.quiet:
        session.lines += [f"/{path}  removed" for path in paths]


VERBS: Mapping[str, Callable[[Session], None]] = {
    "mdev create": create,
    "mdev remove": remove,
    "mdev define": define,
    "mdev undefine": undefine,
}
"""The verbs of this module."""


def _bus(session: Session) -> MdevBus:
    bus = session.scan(mdev=True).mdev
    return MdevBus((), ()) if bus is None else bus


def parse_count(text: str) -> int:
    """The value of ``-n``.

    Raises:
        ParseError: it is no number of devices that could be meant.
    """
    digits = text.lstrip("0") if text.isascii() and text.isdecimal() else ""
    if 0 < len(digits) <= len(str(_MAX_COUNT)) and int(digits) <= _MAX_COUNT:
        return int(digits)
    raise ParseError(text, f"a number of devices from 1 to {_MAX_COUNT}", where="-n")


def _attribute(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ParseError(text, "an attribute and its value, K=V", where="--attr")
    return name, value
