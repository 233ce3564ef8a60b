"""The verbs that create and remove mediated devices."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from vfiohost.cli.carrying import (
    EXIT_CHANGES,
    carry_out,
    each_on_its_own,
    plan_or_pending,
    show,
)
from vfiohost.errors import ParseError
from vfiohost.model import MdevBus, Problem
from vfiohost.plan.mdev import parse_uuid
from vfiohost.render import listing, values

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from vfiohost.cli.options import Options
    from vfiohost.cli.session import Session
    from vfiohost.definitions import MdevDefinition
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


def start(session: Session) -> None:
    """``vfiohost mdev start UUID..`` and ``mdev start --auto``: what is defined."""
    options = session.options
    if bool(options.uuids) == options.auto:
        hint = "It needs either UUID or --auto; `vfiohost mdev start --help` tells more."
        raise ParseError("vfiohost mdev start", "a complete command", hint=hint)
    uuids = _automatic(session) if options.auto else list(options.uuids)
    uuids = list(dict.fromkeys(map(parse_uuid, uuids)))
    if options.keep_going:
        each_on_its_own(session, uuids, lambda uuid: _start(session, [uuid]))
    else:
        session.value |= _start(session, uuids)


def _automatic(session: Session) -> list[str]:
    """What is to start by itself; bad files, and what has no parent now, is told."""
    from vfiohost.definitions import automatic, path_of

    known, problems = session.host.mdev_definitions()
    found, parentless = automatic(known, _bus(session), session.options.parent)
    session.problems |= dict.fromkeys(problems)
    for each in parentless:
        sentence = f"It is not started: there is no parent {each.parent} now."
        session.problems[Problem(each.uuid, path_of(each), sentence)] = None
    if not found and not session.options.quiet:
        session.lines.append("nothing to start: no device of a parent that is there is automatic")
    return [each.uuid for each in found]


def _start(session: Session, uuids: Sequence[str]) -> dict[str, Any]:
    """Start some devices together, or show how."""
    options = session.options

    def planner() -> Plan:
        return session.host.plan_mdev_start(
            None if options.auto and not options.keep_going else uuids,
            parent=options.parent,
            callouts=not options.ignore_callouts,
            bus=_bus(session),
        )

    plan = plan_or_pending(session, planner)
    if options.dry_run:
        return show(session, plan)
    plan, fields = carry_out(session, plan, again=planner)
    found = {d.uuid: d for d in _bus(session).devices}
    started = [found[uuid] for uuid in plan.subjects if uuid in found]
    nodes = session.host.vfio_nodes()
    if not options.quiet:
        session.lines += listing.created_lines(started, nodes)
    return fields | {"mdevs": [values.mdev_value(d, nodes) for d in started]}


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
    from vfiohost.definitions import on_host
    from vfiohost.render.values import definition_value

    options = session.options
    made = on_host(_defined(options), session.host.mdev_bus()[0])
    session.value |= {"dry_run": options.dry_run, "definitions": [definition_value(made)]}
    with nullcontext() if options.dry_run else session.writing():
        path = session.host.define_mdev(
            made, callouts=not options.ignore_callouts, dry_run=options.dry_run
        )
    if options.dry_run:
        _would(session, f"write /{path}")
    else:
        session.lines.append(made.uuid)


def _defined(options: Options) -> MdevDefinition:
    """The definition that the command line makes.

    Raises:
        ParseError: it has too little for one, or too much.
    """
    from vfiohost.definitions import MdevDefinition, parse

    uuid = str(uuid4()) if options.uuid is None else parse_uuid(options.uuid)
    parent = options.parent or ""
    if options.jsonfile is not None:
        if options.type or options.auto or options.attr:
            hint = "They stand in the file."
            raise ParseError("--jsonfile", "given without -t, --auto and --attr", hint=hint)
        return parse(_text_of(options.jsonfile), parent, uuid, where=options.jsonfile)
    if not options.type:
        hint = "It needs -t TYPE or --jsonfile FILE; `vfiohost mdev define --help` tells more."
        raise ParseError("vfiohost mdev define", "a complete command", hint=hint)
    attributes = tuple(_attribute(text) for text in options.attr)
    return MdevDefinition(
        uuid, parent, options.type, "auto" if options.auto else "manual", attributes
    )


def modify(session: Session) -> None:
    """``vfiohost mdev modify UUID``: change a definition, as mdevctl does."""
    from vfiohost.definitions import path_of, with_type_id
    from vfiohost.render.values import definition_value

    options, host = session.options, session.host
    uuid, asked = options.uuid or "", _modification(options)

    def change(definition: MdevDefinition) -> MdevDefinition:
        after = asked(definition)
        if options.type is None and options.jsonfile is None:
            return after
        return with_type_id(after, host.mdev_bus()[0])

    before = host.mdev_definition(uuid, options.parent)
    with nullcontext() if options.dry_run else session.writing():
        after = host.modify_mdev(
            uuid,
            change,
            parent=options.parent,
            callouts=not options.ignore_callouts,
            dry_run=options.dry_run,
        )
    if options.dry_run and after != before:
        _would(session, f"write /{path_of(after)}")
    session.value |= {"dry_run": options.dry_run, "definitions": [definition_value(after)]}
    if not options.quiet:
        lines = listing.definition_table([after], session.output.paint_for(sys.stdout))
        session.lines += lines if after != before else ["nothing to do: it is so already"]


def _modification(options: Options) -> Callable[[MdevDefinition], MdevDefinition]:
    """What the command line makes of a definition.

    Raises:
        ParseError: it says nothing, or what does not go together.
    """
    from vfiohost.definitions import modified, parse

    adds, deletes = options.addattr is not None, options.delattr
    other = options.type or options.auto or options.manual or adds or deletes
    if options.jsonfile is not None:
        if other:
            raise ParseError("--jsonfile", "given without other changes, which stand in the file")
        text, name = _text_of(options.jsonfile), options.jsonfile
        return lambda before: parse(text, before.parent, before.uuid, where=name)
    if not other:
        hint = "It needs a change; `vfiohost mdev modify --help` tells which there are."
        raise ParseError("vfiohost mdev modify", "a complete command", hint=hint)
    if (options.auto and options.manual) or (adds and deletes):
        pair = ("--addattr", "--delattr") if adds and deletes else ("--auto", "--manual")
        raise ParseError(pair[0], f"given without {pair[1]}")
    if adds != (options.attr_value is not None) or options.addattr == "":
        raise ParseError("--addattr", "given with a name and --value, and --value with it")
    if options.index is not None and not (adds or deletes):
        raise ParseError("--index", "given with --addattr or --delattr")
    return partial(
        modified,
        mdev_type=options.type,
        start="auto" if options.auto else "manual" if options.manual else None,
        add=(options.addattr or "", options.attr_value or "") if adds else None,
        delete=deletes,
        index=None if options.index is None else _index(options.index),
    )


def _would(session: Session, do: str) -> None:
    session.lines.append(f"would {do}")
    if session.options.exit_code:
        session.exit_code = EXIT_CHANGES


def _text_of(name: str) -> str:
    """A file that the user names: not below the root; ``-`` for standard input."""
    from vfiohost.definitions import MOST_BYTES

    if name == "-":
        return sys.stdin.read(MOST_BYTES)
    with open(name, encoding="utf-8", errors="surrogateescape") as stream:
        return stream.read(MOST_BYTES)


def undefine(session: Session) -> None:
    """``vfiohost mdev undefine UUID``: take a definition away."""
    uuid = parse_uuid(session.options.uuid or "")
    session.value |= {"dry_run": session.options.dry_run}
    dry_run = session.options.dry_run
    with nullcontext() if dry_run else session.writing():
        paths = session.host.undefine_mdev(uuid, dry_run=dry_run)
    if dry_run:
        for path in paths:
            _would(session, f"remove /{path}")
    elif not session.options.quiet:
        session.lines += [f"/{path}  removed" for path in paths]


VERBS: Mapping[str, Callable[[Session], None]] = {
    "mdev create": create,
    "mdev start": start,
    "mdev remove": remove,
    "mdev define": define,
    "mdev modify": modify,
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


def _index(text: str) -> int:
    """The value of ``--index``.

    Raises:
        ParseError: it is no number of an attribute.
    """
    if text.isascii() and text.isdecimal() and len(text) <= len(str(_MAX_COUNT)):
        return int(text)
    raise ParseError(text, "the number of an attribute, from 0", where="--index")


def _attribute(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ParseError(text, "an attribute and its value, K=V", where="--attr")
    return name, value
