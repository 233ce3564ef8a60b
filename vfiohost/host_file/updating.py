"""A host file that somebody wrote, brought up to date with its host. Pure: text in, text out.

Each table is changed by itself, in its lines: what stands between the tables stays where it is.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import attrs

from vfiohost.errors import NotFoundError, ParseError, UnsupportedError
from vfiohost.host_file.mediated import mdev_differences
from vfiohost.host_file.reading import parse
from vfiohost.host_file.resolving import differences
from vfiohost.host_file.types import NATIVE, Wanted
from vfiohost.host_file.writing import identity_of, shape_of, table_lines, value_text
from vfiohost.plan.bind import with_siblings
from vfiohost.selectors import knows_no_names, select

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from vfiohost.host_file.types import DeviceTable, MdevTable
    from vfiohost.host_file.writing import Table
    from vfiohost.model import PciAddress, PciDevice, Snapshot
    from vfiohost.selectors import Lookup

_IDENTITY = ("select", "ids", "count")
_SHAPE = ("driver", "vfs", "vf-driver", "vgpus")
"""The keys that an export sets; the others (owner, power …) are the writer's own."""
_HEADER = re.compile(r"\s*\[\[\s*\"?(device|mdev)\"?\s*\]\]")


def update(
    text: str,
    name: str,
    snapshot: Snapshot,
    devices: Mapping[PciAddress, Table],
    mdevs: Iterable[Table],
    *,
    lookup: Lookup = knows_no_names,
) -> str:
    """A host file that says what there is now and keeps its comments, its order and its own keys.

    A table is about the devices that its selector hits. What it says and what is so stays as it is
    written; a table goes when nothing is left to say, and new ones come last.

    Args:
        text: the file as it is.
        name: its name, for messages.
        snapshot: the host, with the details of its devices, and with the mediated devices.
        devices: what :func:`vfiohost.host_file.writing.device_tables` gives.
        mdevs: what :func:`vfiohost.host_file.writing.mdev_tables` gives.
        lookup: says which devices the host calls by a name.

    Raises:
        UnsupportedError: tomlkit is not installed, or the tables are not written as an export does.
        ParseError: the file is no host file.
        AmbiguousError: the parent of a mediated device may be several devices.
    """
    _check_utf8(text, name)
    file = parse(text, name)
    preamble, chunks = _split(text)
    kinds = [chunk.kind for chunk in chunks]
    if (kinds.count("device"), kinds.count("mdev")) != (len(file.devices), len(file.mdevs)):
        raise _unsupported(name)
    host = _Host(name, snapshot, lookup, dict(devices), {table["uuid"]: table for table in mdevs})
    tables = {"device": iter(file.devices), "mdev": iter(file.mdevs)}
    for chunk in chunks:
        table: Any = next(tables[chunk.kind])
        if chunk.kind == "device":
            host.bring_device(chunk, table)
        else:
            host.bring_mdev(chunk, table)
    lines = [preamble, *(chunk.text for chunk in chunks)]
    made = "".join(lines)
    if made and not made.endswith("\n"):
        made += "\n"
    for kind, more in (("device", host.devices), ("mdev", host.mdevs)):
        for each in more.values():
            made += "\n".join(table_lines(kind, each)) + "\n"
    parse(made, name)
    return made


def _check_utf8(text: str, name: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        line = text.count("\n", 0, error.start) + 1
        hint = f"Line {line} has a byte that is none: save the file as UTF-8."
        raise ParseError(name, "UTF-8", hint=hint) from error


def _unsupported(name: str) -> UnsupportedError:
    return UnsupportedError(
        f"{name} has tables that are not written as [[device]] and [[mdev]] with all their keys "
        "below: write them so before it is updated, or let `vfiohost export` print a new file."
    )


@attrs.define
class _Chunk:
    """One table of the file: its header, its keys, and what stands between it and the next."""

    kind: str
    header: str
    body: str
    rest: str

    @property
    def text(self) -> str:
        return self.header + self.body + self.rest

    def remove(self) -> None:
        self.header = self.body = ""
        self.rest = self.rest.lstrip("\r\n")


def _split(text: str) -> tuple[str, list[_Chunk]]:
    """What is before the tables, and the tables."""
    preamble = ""
    chunks: list[_Chunk] = []
    for line in text.splitlines(keepends=True):
        if header := _HEADER.match(line):
            chunks.append(_Chunk(header[1], line, "", ""))
        elif not chunks:
            preamble += line
        elif line.strip() and not line.lstrip().startswith("#"):
            chunks[-1].body += chunks[-1].rest + line
            chunks[-1].rest = ""
        else:
            chunks[-1].rest += line
    return preamble, chunks


@attrs.define
class _Host:
    """What there is, and not said yet."""

    name: str
    snapshot: Snapshot
    lookup: Lookup
    devices: dict[PciAddress, Table]
    mdevs: dict[str, Table]

    def bring_device(self, chunk: _Chunk, table: DeviceTable) -> None:
        """Make a table say what its devices are; those are said then."""
        keys = _read(chunk, self.name)
        devices, is_fit = self._find(table)
        said = [self._said(table, device, keys) for device in devices]
        for device in devices:
            self.devices.pop(device.address, None)
        if table.group:
            self._forget_siblings(devices)
        if not devices:
            if all(key in (*_IDENTITY, *_SHAPE) for key in keys):
                chunk.remove()
            return
        if not is_fit or any(each != said[0] for each in said):
            self._part(keys, devices, said)
        before = [key for key in keys if key not in _IDENTITY]
        for key in _SHAPE:
            if key not in said[0]:
                keys.pop(key, None)
        _set(keys, said[0])
        _drop_dependent(keys)
        if before and all(key in _IDENTITY for key in keys):
            chunk.remove()
        else:
            chunk.body = _text(keys)

    def _part(self, keys: Any, devices: list[PciDevice], said: list[Table]) -> None:
        """Leave a table to the first of its devices, and give each of the others one of its own."""
        own = {key: keys[key] for key in keys if key not in (*_IDENTITY, *_SHAPE)}
        for device, shape in zip(devices[1:], said[1:], strict=True):
            identity = identity_of(device)
            more = identity | shape | own
            _drop_dependent(more)
            if more != identity:
                self.devices[device.address] = more
        _set(keys, identity_of(devices[0]))
        keys.pop("count", None)

    def _forget_siblings(self, devices: list[PciDevice]) -> None:
        """Say nothing of those that are in a device's group, and on the same driver."""
        for device in devices:
            just_driver = {"driver": device.driver}
            for address in with_siblings(self.snapshot, [device.address]):
                now = self.devices.get(address, {})
                if {key: now[key] for key in now if key in _SHAPE} == just_driver:
                    del self.devices[address]

    def _find(self, table: DeviceTable) -> tuple[list[PciDevice], bool]:
        """The devices of a table, and whether its selector hits as many as it says.

        If not, virtual functions are meant only where there is nothing else.
        """
        try:
            found = select(table.select, self.snapshot, self.lookup)
        except NotFoundError:
            return [], True
        fit = [device for device in found if table.ids is None or table.ids.fits(device)]
        if len(fit) == len(found) == table.count:
            return fit, True
        return [device for device in fit if not device.is_vf] or fit, False

    def _said(self, table: DeviceTable, device: PciDevice, keys: Mapping[str, Any]) -> Table:
        """The keys that say what a device is; those that say so already stay as they are."""
        vgpus = self.devices.get(device.address, {}).get("vgpus")
        shape = shape_of(device, self.snapshot, vgpus)
        found = differences([Wanted(device, table)], self.snapshot, {})
        wrong = {difference.what for difference in found}
        if "vfs" in wrong:
            wrong.add("vf-driver")
        if "driver" in wrong and any(key not in (*_IDENTITY, *_SHAPE) for key in keys):
            shape.setdefault("driver", NATIVE)
        right = {key: keys[key] for key in _SHAPE if key in keys and key not in wrong}
        return shape | right

    def bring_mdev(self, chunk: _Chunk, table: MdevTable) -> None:
        """Make a table say what its mediated device is; without one it goes."""
        devices = self.snapshot.mdev.devices if self.snapshot.mdev else ()
        if all(device.uuid != table.uuid for device in devices):
            chunk.remove()
            return
        now = self.mdevs.pop(table.uuid, None)
        wrong = [each.what for each in mdev_differences(table, self.snapshot, self.lookup)]
        if now is not None and wrong:
            keys = _read(chunk, self.name)
            _set(keys, {key: now[key] for key in wrong})
            chunk.body = _text(keys)


def _read(chunk: _Chunk, name: str) -> Any:
    """The keys of a table, as tomlkit has them."""
    try:
        import tomlkit  # noqa: PLC0415 - of an extra, and slow
    except ModuleNotFoundError as error:
        raise UnsupportedError(
            "To change a host file and keep its comments takes tomlkit, which is not installed: "
            "`pip install 'vfiohost[toml]'`. `vfiohost export` without a file prints a new one."
        ) from error
    keys = tomlkit.parse(chunk.body)
    if chunk.kind in keys:  # [device.vgpus]
        raise _unsupported(name)
    return keys


def _text(keys: Any) -> str:
    import tomlkit  # noqa: PLC0415 - of an extra, and slow

    text: str = tomlkit.dumps(keys)
    return text if text.endswith("\n") else f"{text}\n"


def _set(keys: Any, wanted: Mapping[str, Any]) -> None:
    import tomlkit  # noqa: PLC0415 - of an extra, and slow

    for key, value in wanted.items():
        if keys.get(key) != value:
            keys[key] = tomlkit.value(value_text(value))  # an inline table, not one of its own


def _drop_dependent(keys: Any) -> None:
    """Take away what can only be said of a device with a VFIO driver, where it has none."""
    driver = keys.get("driver")
    gone = ["owner", "mode"] if driver in (None, NATIVE, "none") else []
    for key in [*gone, *(["group"] if driver is None else [])]:
        keys.pop(key, None)
