"""The verbs that only read: ``list``, ``groups``, ``mdev types``, ``mdev list``."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

from vfiohost.cli.options import unknown
from vfiohost.errors import NotFoundError, ParseError
from vfiohost.render import listing, values

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from vfiohost.cli.options import Options
    from vfiohost.cli.session import Session
    from vfiohost.model import MdevBus, PciDevice, Snapshot

    Test = Callable[[PciDevice], bool]

_DECIMAL = r"[0-9]{1,20}"
_ID = r"(?:0[xX])?([0-9a-fA-F]{4})"


def list_devices(session: Session) -> None:
    """``vfiohost list [DEV..]``."""
    options = session.options
    columns = _columns(options.columns, names=not options.no_names)
    tests = _tests(options)
    snapshot = session.scan()
    if not options.lspci:
        snapshot = session.host.with_releasing(snapshot)
    devices: Iterable[PciDevice] = snapshot.devices
    if options.devices:
        devices = session.host.select(options.devices, snapshot)
    devices = [d for d in devices if all(test(d) for test in tests)]
    if listing.DETAIL_COLUMNS.intersection(columns):
        snapshot = session.host.with_details(snapshot, devices)
    session.value["kernel"] = snapshot.kernel
    if session.output.json:
        session.value["devices"] = [
            values.device_value(d, snapshot, session.names) for d in devices
        ]
        return
    if not devices:
        _nothing(session, "There is no PCI function here." if not tests else "No device fits.")
        return
    if options.lspci:
        named = not options.no_names
        session.document, problems = session.host.lspci(devices, snapshot=snapshot, names=named)
        session.problems.update(dict.fromkeys(problems))
        return
    names = session.names if listing.NAME_COLUMNS.intersection(columns) else None
    paint = session.output.paint_for(sys.stdout)
    session.lines += listing.device_table(devices, snapshot, names, columns, paint)


def list_groups(session: Session) -> None:
    """``vfiohost groups [ID..] [--why]``."""
    snapshot = session.scan()
    wanted = [_group_number(text, snapshot) for text in session.options.ids]
    groups = [snapshot.groups[n] for n in wanted or snapshot.groups]
    session.value["kernel"] = snapshot.kernel
    session.value["groups"] = [values.group_value(g) for g in groups]
    if not groups:
        _nothing(session, "No device is in an IOMMU group: the IOMMU is off, or there is none.")
        return
    paint = session.output.paint_for(sys.stdout)
    session.lines += listing.group_table(groups, why=session.options.why, paint=paint)


def list_mdev_types(session: Session) -> None:
    """``vfiohost mdev types [-p PARENT]``."""
    bus = _bus(session)
    parents = bus.parents
    if session.options.parent is not None:
        from vfiohost.plan.mdev import find_parents

        parents = find_parents(bus, session.options.parent)
    if session.output.json:
        session.value["parents"] = [values.parent_value(p) for p in parents]
        return
    if session.options.dumpjson:
        from vfiohost.definitions import render_types

        session.document = f"{render_types(parents)}\n"
        return
    if not parents:
        _nothing(session, "No device on this host offers mediated devices.")
        return
    session.lines += listing.mdev_type_table(parents, session.output.paint_for(sys.stdout))


def list_mdevs(session: Session) -> None:
    """``vfiohost mdev list``."""
    if session.options.defined or session.options.dumpjson:
        _list_defined(session)
        return
    devices = _bus(session).devices
    nodes = session.host.vfio_nodes() if devices else {}
    session.value["mdevs"] = [values.mdev_value(d, nodes) for d in devices]
    if not devices:
        _nothing(session, "There is no mediated device.")
        return
    session.lines += listing.mdev_table(devices, session.output.paint_for(sys.stdout))


def _list_defined(session: Session) -> None:
    """``vfiohost mdev list -d``: what is defined with mdevctl."""
    from vfiohost.definitions import render_all

    found, problems = session.host.mdev_definitions()
    session.problems |= dict.fromkeys(problems)
    session.value["definitions"] = [values.definition_value(each) for each in found]
    if session.options.dumpjson:
        session.document = f"{render_all(found)}\n"
    elif found:
        session.lines += listing.definition_table(found, session.output.paint_for(sys.stdout))
    else:
        _nothing(session, "No mediated device is defined.")


VERBS: Mapping[str, Callable[[Session], None]] = {
    "list": list_devices,
    "groups": list_groups,
    "mdev types": list_mdev_types,
    "mdev list": list_mdevs,
}
"""The verbs of this module."""


def _nothing(session: Session, sentence: str) -> None:
    """Say on stderr why there is nothing on stdout."""
    if not session.output.json and not session.options.quiet:
        session.output.notes([f"vfiohost: {sentence}"])


def _bus(session: Session) -> MdevBus:
    bus, problems = session.host.mdev_bus()
    session.problems.update(dict.fromkeys(problems))
    return bus


def _columns(text: str | None, *, names: bool) -> tuple[str, ...]:
    """The columns of ``-o``: those that are named, behind a ``+`` in addition to the usual ones.

    Raises:
        ParseError: a word names no column.
    """
    usual = tuple(c for c in listing.DEFAULT_COLUMNS if names or c != "name")
    if text is None:
        return usual
    words = [w.strip().removeprefix("+").lower() for w in text.split(",")]
    for word in words:
        if word not in listing.COLUMNS:
            raise unknown(word, "a column", listing.COLUMNS)
    return tuple(dict.fromkeys([*(usual if text.startswith("+") else ()), *words]))


def _tests(options: Options) -> list[Test]:
    """What a device must be to get through the filters; a filter may name several, by commas.

    Raises:
        ParseError: a filter is not what it should be.
    """
    tests: list[Test] = []
    for text, make in (
        (options.vendor, _of_vendor),
        (options.class_, _of_class),
        (options.driver, _of_driver),
        (options.group, _of_group),
    ):
        if text is not None:
            tests.append(_any([make(word.strip()) for word in text.split(",")]))
    return tests


def _any(tests: list[Test]) -> Test:
    return lambda device: any(test(device) for test in tests)


def _of_vendor(text: str) -> Test:
    match = re.fullmatch(_ID, text)
    if match is None:
        raise ParseError(text, "a vendor id of four hexadecimal digits (10de)", where="--vendor")
    number = int(match[1], 16)
    return lambda device: device.vendor_id == number


def _of_class(text: str) -> Test:
    from vfiohost.selectors import CLASSES, ByName, parse

    try:
        selector = parse(f"class:{text}")
    except ParseError:
        selector = None
    if selector is None or selector.nth is not None or isinstance(selector.criterion, ByName):
        what = "a class: a hexadecimal code (0302) or a name"
        error = unknown(text, what, CLASSES)
        raise ParseError(text, error.expected, where="--class", hint=error.hint)
    return selector.criterion.hits


def _of_driver(text: str) -> Test:
    wanted = None if text == "none" else text
    return lambda device: device.driver == wanted


def _of_group(text: str) -> Test:
    if text == "none":
        return lambda device: device.iommu_group is None
    number = _number(text, "--group")
    return lambda device: device.iommu_group == number


def _number(text: str, where: str | None = None) -> int:
    if not re.fullmatch(_DECIMAL, text):
        raise ParseError(text, "the number of an IOMMU group", where=where)
    return int(text)


def _group_number(text: str, snapshot: Snapshot) -> int:
    """The number of a group that exists.

    Raises:
        ParseError: the text is no number.
        NotFoundError: there is no such group.
    """
    number = _number(text.removeprefix("group:"))
    if number in snapshot.groups:
        return number
    close = sorted(snapshot.groups, key=lambda n: abs(n - number))[:3]
    raise NotFoundError("IOMMU group", text, near=[str(n) for n in sorted(close)])
