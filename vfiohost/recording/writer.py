"""Recording -> text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from vfiohost.recording.tokens import (
    ABSENT,
    NONE,
    USUAL,
    quote,
    write_content,
    write_name,
    write_text,
)
from vfiohost.recording.values import uevent_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from vfiohost.recording.values import (
        Attribute,
        File,
        Function,
        Mdev,
        MdevTable,
        Module,
        PciDriver,
        Recording,
    )

MAGIC = "vfiohost-recording 1"

# The fields of the sections that have files too; a file of such a name is written in quotes.
FUNCTION_FIELDS = ("driver", "iommu_group", "physfn", "vf_index", "mdev_table")
MDEV_FIELDS = ("parent", "type", "driver", "iommu_group")

# What makes two functions so much the same that one may be written ``like`` the other.
_KIND = ("vendor", "device", "class")
_ALL_BITS = 0o7777
_BASES = 32  # how far back to look, so that thousands of functions do not take for ever


def format(recording: Recording) -> str:  # noqa: A001 - the counterpart of parse
    """Write a recording.

    The text is canonical: equal recordings give the same text, and ``parse`` gives an equal
    recording back. A section is written ``like`` an earlier one of its kind when that takes at
    most half the lines; the one that takes fewest, the first of them on a tie.

    Raises:
        ValueError: the recording holds what no text can: a negative number, two functions of one
            name, a character that cannot stand in a name.
    """
    blocks = [[MAGIC, *_header(recording)]]
    blocks += [_module(module) for module in recording.modules]
    blocks += _functions(recording.functions)
    groups = ((str(_number(g.number)), _files(g.attributes, ())) for g in recording.groups)
    blocks += _inheriting("group", groups, ())
    blocks += [_mdev_table(table) for table in recording.mdev_tables]
    for parent in recording.virtual_parents:
        table = f"  mdev_table = {write_text(parent.mdev_table)}"
        blocks.append([f"virtual-parent {write_name(parent.path)}", table])
    mdevs = ((write_name(mdev.uuid), _mdev(mdev)) for mdev in recording.mdevs)
    blocks += _inheriting("mdev", mdevs, MDEV_FIELDS)
    blocks += [_file(file) for file in recording.files]
    return "\n".join(_spaced(blocks)) + "\n"


def _spaced(blocks: Iterable[list[str]]) -> Iterator[str]:
    """A blank line between sections; those of one line follow each other without."""
    before: list[str] = []
    for block in blocks:
        if before and not (len(before) == len(block) == 1):
            yield ""
        yield from block
        before = block


def _header(recording: Recording) -> Iterator[str]:
    yield f"title = {write_text(recording.title)}"
    yield f"source = {write_text(recording.source)}"
    yield from (f"note = {write_text(note)}" for note in recording.notes)
    if recording.kernel is not None:
        yield f"kernel = {write_text(recording.kernel)}"
    if recording.lacks:
        yield f"lacks = {' '.join(sorted(recording.lacks))}"


def _module(module: Module) -> list[str]:
    lines = [f"module {write_name(module.name)} {module.state}"]
    if module.depends:
        lines.append(f"  depends = {' '.join(map(write_name, module.depends))}")
    for driver in module.drivers:
        lines += _driver(driver)
    matches = tuple(match for driver in module.drivers for match in driver.matches)
    if module.aliases and module.aliases == matches:
        lines.append(f"  alias = {USUAL}")
    else:
        lines += [f"  alias = {write_text(alias)}" for alias in module.aliases]
    return lines


def _driver(driver: PciDriver) -> Iterator[str]:
    yield f"  driver = {write_text(driver.name)}"
    if driver.sriov:
        yield "    sriov = yes"
    yield from (f"    match = {write_text(match)}" for match in driver.matches)


# The lines of a section by what stands left of "=": what is compared for ``like``.
_Entries = dict[str, list[str]]


@attrs.frozen
class _Base:
    """An earlier section that later ones may be written like."""

    name: str
    parent: str | None
    entries: _Entries


def _functions(functions: Iterable[Function]) -> Iterator[list[str]]:
    bases: list[_Base] = []
    seen: set[str] = set()
    for function in functions:
        parent, _, name = function.path.rpartition("/")
        if name in seen or str(function.address) != name:
            raise ValueError(f"{function.path!r} is not the path of one function, named once")
        seen.add(name)
        entries = _function(function, name)
        base, lines = _best(entries, bases, _KIND, FUNCTION_FIELDS)
        head = f"function {name}"
        if parent != (base.parent if base else ""):
            head += f" at {write_name(parent)}"
        if base is None or parent != base.parent:
            bases.append(_Base(name, parent, entries))
        yield [f"{head} like {base.name}" if base else head, *lines]


def _function(function: Function, name: str) -> _Entries:
    fields = (
        function.driver,
        function.iommu_group,
        str(function.physfn) if function.physfn is not None else None,
        function.vf_index,
        function.mdev_table,
    )
    uevent = uevent_text(name, function.driver, function.attributes)
    files = _files(function.attributes, FUNCTION_FIELDS, uevent)
    return _fields(FUNCTION_FIELDS, fields) | files


def _mdev(mdev: Mdev) -> _Entries:
    fields = (mdev.parent, mdev.type_id, mdev.driver, mdev.iommu_group)
    return _fields(MDEV_FIELDS, fields) | _files(mdev.attributes, MDEV_FIELDS)


def _inheriting(
    kind: str, sections: Iterable[tuple[str, _Entries]], fields: tuple[str, ...]
) -> Iterator[list[str]]:
    bases: list[_Base] = []
    for name, entries in sections:
        base, lines = _best(entries, bases, (), fields)
        if base is None:
            bases.append(_Base(name, None, entries))
        yield [f"{kind} {name} like {base.name}" if base else f"{kind} {name}", *lines]


def _best(
    entries: _Entries, bases: list[_Base], kind: tuple[str, ...], fields: tuple[str, ...]
) -> tuple[_Base | None, list[str]]:
    """The earlier section to write this one like, and the lines that are left."""
    full = [line for lines in entries.values() for line in lines]
    best: tuple[_Base | None, list[str]] = (None, full)
    limit = len(full) // 2 + 1
    for base in bases[-_BASES:]:
        if any(base.entries.get(name) != entries.get(name) for name in kind):
            continue
        lines = _difference(base.entries, entries, fields)
        if len(lines) < limit and len(lines) < len(full):
            best, limit = (base, lines), len(lines)
    return best


def _difference(base: _Entries, entries: _Entries, fields: tuple[str, ...]) -> list[str]:
    def order(name: str) -> tuple[int, str]:
        return (fields.index(name), "") if name in fields else (len(fields), name)

    lines = []
    for name in sorted(base.keys() | entries.keys(), key=order):
        if name not in entries:
            lines.append(f"  {name} = {NONE if name in fields else ABSENT}")
        elif base.get(name) != entries[name]:
            lines += entries[name]
    return lines


def _fields(names: tuple[str, ...], fields: tuple[str | int | None, ...]) -> _Entries:
    return {
        name: [f"  {name} = {write_text(value) if isinstance(value, str) else _number(value)}"]
        for name, value in zip(names, fields, strict=True)
        if value is not None
    }


def _files(
    attributes: Mapping[str, Attribute], fields: tuple[str, ...], uevent: bytes | None = None
) -> _Entries:
    entries = {}
    for name in sorted(attributes):
        attribute = attributes[name]
        key = quote(name.encode("utf-8", "surrogateescape")) if name in fields else write_name(name)
        mode = "" if attribute.mode is None else f" [{_mode(attribute.mode)}]"
        if name == "uevent" and uevent is not None and attribute.content == uevent:
            entries[key] = [f"  {key}{mode} = {USUAL}"]
        else:
            entries[key] = _content(key + mode, attribute.content)
    return entries


def _content(key: str, content: bytes | int) -> list[str]:
    inline, block = write_content(content)
    if block:
        return [f"  {key} =", *(f"    {line}" for line in block)]
    return [f"  {key} = {inline}"]


def _mdev_table(table: MdevTable) -> list[str]:
    lines = [
        f"mdev-table {write_name(table.name)}",
        f"  driver = {write_text(table.driver)}",
        f"  device_api = {write_text(table.device_api)}",
    ]
    if table.scope != "parent":
        lines.append(f"  scope = {table.scope}")
    if table.homogeneous:
        lines.append("  homogeneous = yes")
    if table.per_parent is not None:
        lines.append(f"  per_parent = {_number(table.per_parent)}")
    if table.exhausted != "EUSERS":
        lines.append(f"  exhausted = {table.exhausted}")
    for each in table.types:
        lines.append(f"  type = {write_text(each.type_id)}")
        if each.name is not None:
            lines.append(f"    name = {write_text(each.name)}")
        lines.append(f"    max_instances = {_number(each.max_instances)}")
        if each.description is not None:
            lines.append(f"    description = {write_text(each.description)}")
    return lines


def _file(file: File) -> list[str]:
    path = write_name(file.path)
    mode = [] if file.mode is None else [f"  mode = {_mode(file.mode)}"]
    if file.content is None:
        return [f"directory {path}", *mode]
    if isinstance(file.content, str):
        return [f"link {path} -> {write_name(file.content)}", *mode]
    return [f"file {path}", *mode, *_content("content", file.content)]


def _mode(mode: int) -> str:
    if mode > _ALL_BITS:
        raise ValueError(f"{mode:o} cannot stand in a recording: it is no mode")
    return f"{_number(mode):04o}"


def _number(number: int) -> int:
    if number < 0:
        raise ValueError(f"{number} cannot stand in a recording: it is negative")
    return number
