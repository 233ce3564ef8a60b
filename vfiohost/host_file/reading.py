"""The text of a host file, understood. Pure.

The format is TOML 1.0, and this is all of it::

    version = 1

    [[device]]
    select = "path:pci0000:64/02.0/00.0"   # a selector; stable ones survive a new numbering
    ids = "10de:2236:10de:1482"            # what must be there: vendor:device[:vendor:device]
    count = 1                              # how many the selector must hit
    driver = "vfio-pci"                    # a name, "auto", "native", "none"
    group = false                          # with the other endpoints of the IOMMU group
    owner = "libvirt-qemu:kvm"             # of the VFIO nodes
    mode = "0660"
    power = "on"                           # "on" or "auto"

    [[device]]
    select = "10de:2236"
    count = 2
    driver = "native"
    vfs = "all"                            # a number, or "all"
    vf-driver = "native"                   # the driver of the virtual functions
    vgpus = { "A10-12Q" = 2 }              # on each of the devices

    [[mdev]]
    uuid = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001"
    parent = "mtty"                        # a selector, or a parent that is no PCI device
    type = "mtty-2"
    attrs = [["name", "value"]]
"""

from __future__ import annotations

import re
import shlex
import tomllib
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, NoReturn

import attrs

from vfiohost.errors import ParseError
from vfiohost.host_file.types import ALL, NATIVE, DeviceTable, HostFile, Ids, MdevTable
from vfiohost.plan.drivers import AUTO, check_name
from vfiohost.plan.mdev import parse_uuid
from vfiohost.selectors import ByAddress, ByGlob, ByGroup, ByName, Selector
from vfiohost.selectors import parse as parse_selector

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

VERSION = 1
MOST_BYTES = 1 << 20
"""A host file is small; what is larger is none."""

_MOST_TABLES = 65536
_MOST_VFS = 65535
_IDS = re.compile(r"([0-9a-f]{4}):([0-9a-f]{4})(?::([0-9a-f]{4}):([0-9a-f]{4}))?", re.IGNORECASE)
_NEEDS_IDS = (ByAddress, ByGlob, ByGroup)


def parse(text: str, name: str = "host.toml") -> HostFile:
    """Read the text of a host file.

    Args:
        text: TOML.
        name: the file's name, for messages.

    Raises:
        ParseError: what is wrong with it: file, table and key, and what it should be.
    """
    if len(text) > MOST_BYTES:
        raise ParseError(name, "a host file", hint=f"It is larger than {MOST_BYTES} bytes.")
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ParseError(name, "TOML", hint=f"{error}.") from error
    except RecursionError as error:
        raise ParseError(name, "TOML", hint="It is nested too deeply.") from error
    top = _Table(name, data)
    version = top.number("version", most=VERSION, least=VERSION, needed=True)
    devices = tuple(_device(table) for table in top.tables("device"))
    mdevs = tuple(_mdev(table) for table in top.tables("mdev"))
    top.end()
    if version is not None:
        _check_once("uuid", [(mdev.uuid, mdev.where) for mdev in mdevs])
    return HostFile(name, devices, mdevs)


@attrs.define
class _Table:
    """One table, whose keys are taken out one by one: what is left is unknown."""

    where: str
    data: dict[str, Any]
    seen: list[str] = attrs.field(factory=list)

    def take(self, key: str) -> Any:
        self.seen.append(key)
        return self.data.get(key)

    def tables(self, key: str) -> Iterator[_Table]:
        value = self.take(key)
        if value is None:
            return
        if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
            self.wrong(key, value, f"tables: [[{key}]]")
        if len(value) > _MOST_TABLES:
            self.wrong(key, len(value), f"at most {_MOST_TABLES} tables")
        for number, each in enumerate(value, 1):
            yield _Table(f"{self.where}: [[{key}]] {number}", each)

    def text(self, key: str, expected: str = "a text", *, needed: bool = False) -> str | None:
        value: str | None = self.take(key)
        if value is None and needed:
            raise ParseError(self.where, f"a table with {key}", hint=f"It is {expected}.")
        is_text = isinstance(value, str) and value.strip() and value.isprintable()
        if value is not None and not is_text:
            self.wrong(key, value, expected)
        return value

    def number(self, key: str, *, most: int, least: int = 0, needed: bool = False) -> int | None:
        value = self.take(key)
        if value is None and not needed:
            return None
        expected = f"{least}" if least == most else f"a whole number from {least} to {most}"
        if type(value) is not int or not least <= value <= most:
            if value is None:
                raise ParseError(self.where, f"a host file with {key} = {expected}")
            self.wrong(key, value, expected)
        return value

    def switch(self, key: str) -> bool:
        value = self.take(key)
        if value is None:
            return False
        if not isinstance(value, bool):
            self.wrong(key, value, "true or false")
        return value

    def end(self) -> None:
        """See to it that there is nothing else."""
        for key in self.data:
            if key not in self.seen:
                near = get_close_matches(key, self.seen, n=1)
                hint = f"Did you mean {near[0]}?" if near else None
                known = ", ".join(self.seen)
                raise ParseError(key, f"a key ({known})", where=self.where, hint=hint)

    def wrong(self, key: str, value: object, expected: str, hint: str | None = None) -> NoReturn:
        raise ParseError(_shown(value), expected, where=f"{self.where}: {key}", hint=hint) from None


def _shown(value: object) -> str:
    return value if isinstance(value, str) else repr(value)


def _device(table: _Table) -> DeviceTable:
    text = table.text("select", "a selector, such as path:pci0000:64/02.0/00.0", needed=True)
    selector = parse_selector(text or "", where=f"{table.where}: select")
    table.where = f"{table.where} ({selector})"
    ids = _ids(table)
    made = DeviceTable(
        where=table.where,
        select=selector,
        ids=ids,
        count=table.number("count", least=1, most=_MOST_VFS) or 1,
        driver=_driver(table, "driver"),
        group=table.switch("group"),
        owner=table.text("owner", "USER, USER:GROUP or :GROUP"),
        mode=table.text("mode", "three octal digits, such as 0660"),
        power=_power(table),
        vfs=_vfs(table),
        vf_driver=_driver(table, "vf-driver"),
        vgpus=_vgpus(table),
    )
    table.end()
    _check(made)
    return made


def _ids(table: _Table) -> Ids | None:
    text = table.text("ids", "vendor:device, such as 10de:2236")
    if text is None:
        return None
    match = _IDS.fullmatch(text)
    if match is None:
        table.wrong(
            "ids",
            text,
            "vendor:device or vendor:device:vendor:device, four hexadecimal digits each",
        )
    return Ids(*(None if part is None else int(part, 16) for part in match.groups()))  # type: ignore[arg-type]  # the first two are there


def _driver(table: _Table, key: str) -> str | None:
    name = table.text(key, "a driver's name, auto, native or none")
    if name not in (None, AUTO, NATIVE, "none"):
        try:
            check_name(name)
        except ParseError as error:
            table.wrong(key, name, error.expected, error.hint)
    return name


def _power(table: _Table) -> Any:
    value = table.text("power", "on or auto")
    if value not in (None, "on", "auto"):
        table.wrong("power", value, "on or auto")
    return value


def _vfs(table: _Table) -> Any:
    if table.data.get("vfs") == ALL:
        return table.take("vfs")
    return table.number("vfs", most=_MOST_VFS)


def _vgpus(table: _Table) -> Mapping[str, int] | None:
    value = table.take("vgpus")
    if value is None:
        return None
    if not isinstance(value, dict):
        table.wrong("vgpus", value, 'a table of types and numbers: { "A10-12Q" = 2 }')
    inner = _Table(f"{table.where}: vgpus", value)
    return {name: inner.number(name, least=1, most=_MOST_VFS, needed=True) or 1 for name in value}


def _mdev(table: _Table) -> MdevTable:
    uuid = table.text("uuid", "a UUID", needed=True) or ""
    try:
        uuid = parse_uuid(uuid)
    except ParseError as error:
        table.wrong("uuid", uuid, error.expected, error.hint)
    table.where = f"{table.where} ({uuid})"
    attributes: Any = table.take("attrs")
    pairs: Any = [] if attributes is None else attributes
    if not isinstance(pairs, list):
        pairs = [None]
    for pair in pairs:
        if not (isinstance(pair, list) and len(pair) == len(("name", "value"))) or not all(
            isinstance(part, str) for part in pair
        ):
            table.wrong("attrs", attributes, 'pairs of texts: [["name", "value"]]')
    made = MdevTable(
        where=table.where,
        uuid=uuid,
        parent=table.text("parent", "a selector, or a parent's name", needed=True) or "",
        type=table.text("type", "a type's id or name", needed=True) or "",
        attributes=tuple((name, value) for name, value in pairs),
    )
    table.end()
    return made


def _check(table: DeviceTable) -> None:
    """What contradicts itself, or could hit the wrong device.

    Raises:
        ParseError: with the key.
    """

    def wrong(key: str, text: object, expected: str, hint: str) -> NoReturn:
        raise ParseError(_shown(text), expected, where=f"{table.where}: {key}", hint=hint)

    criterion = table.select.criterion
    if table.ids is None and _may_move(table.select):
        shown = shlex.quote(str(table.select))
        hint = f"It may be another device after the next boot; `vfiohost show {shown}` has the ids."
        wrong("select", str(table.select), "given with ids", hint)
    if table.count > 1 and not table.select.is_set and not isinstance(criterion, ByName):
        wrong("count", table.count, "1 for a selector of one device", "It hits one.")
    makes_vfs = table.vfs not in (None, 0)
    if table.vf_driver is not None and not makes_vfs:
        wrong("vf-driver", table.vf_driver, "given with vfs", "There are none else.")
    is_given = table.driver not in (None, NATIVE, "nvidia")
    if table.vgpus and is_given:
        hint = "vGPUs are made by the GPU's own driver."
        wrong("driver", table.driver, "native, where vgpus is given", hint)
    if (table.owner or table.mode) and table.driver in (None, NATIVE, "none"):
        key = "owner" if table.owner else "mode"
        hint = "Only these have nodes."
        wrong(key, table.owner or table.mode, "given with a VFIO driver", hint)
    if table.group and table.driver is None:
        wrong("group", table.group, "given with driver", "It says what the others get.")


def _may_move(selector: Selector) -> bool:
    """Whether the selector names a place that another device may have after the next boot."""
    criterion = selector.criterion
    if isinstance(criterion, ByName):
        return criterion.kind in ("interface", "node")
    return isinstance(criterion, _NEEDS_IDS)


def _check_once(key: str, values: list[tuple[str, str]]) -> None:
    seen: dict[str, str] = {}
    for value, where in values:
        if value in seen:
            raise ParseError(value, f"a {key} of its own", where=where, hint=f"See {seen[value]}.")
        seen[value] = where
