"""Text -> Recording."""

from __future__ import annotations

import difflib
import itertools
import re
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import attrs

from vfiohost.errors import ParseError
from vfiohost.model import PciAddress
from vfiohost.recording import tokens, values
from vfiohost.recording.values import (
    Attribute,
    File,
    Function,
    Group,
    Mdev,
    MdevTable,
    MdevTableType,
    Module,
    PciDriver,
    Recording,
    VirtualParent,
    uevent_text,
)
from vfiohost.recording.writer import FUNCTION_FIELDS, MAGIC, MDEV_FIELDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_T = TypeVar("_T", bound=str)

_ENTRY = re.compile(
    r'(?P<name>"(?:[^"\\]|\\.)*"|[A-Za-z0-9_.:/@+\-]+)'
    r"(?: \[(?P<mode>[0-7]{3,4})\])? =(?: (?P<value>.*))?",
)
_NUMBER = re.compile(r"[0-9]{1,9}")

# How much a recording may come to: `|*9999` and `like` make much of a short text, which may be
# hostile. Ten thousand functions with all that Linux shows of them take half of it.
MOST_BYTES = 1 << 28
FILE_BYTES = 256  # what a file takes besides its content


@attrs.frozen
class _Entry:
    """A line ``name = value`` with the block below it."""

    name: str
    quoted: bool
    mode: int | None
    text: str
    where: str
    block: list[bytes] = attrs.field(factory=list)


class _Budget:
    """What is left of :data:`MOST_BYTES`."""

    def __init__(self) -> None:
        self._left = MOST_BYTES

    def spend(self, size: int, where: str) -> None:
        """Take ``size`` bytes, or refuse the text."""
        self._left -= size
        if self._left < 0:
            limit = f"{MOST_BYTES >> 20} MiB"
            raise ParseError("this recording", f"one that comes to at most {limit}", where=where)


@attrs.frozen
class _Section:
    """A section: its first line in words, and its entries."""

    kind: str
    words: list[str]
    entries: list[_Entry]
    where: str


def parse(text: str, *, name: str = "") -> Recording:
    """Read a recording.

    Args:
        text: what a ``.host`` file holds.
        name: the file's name, for the messages.

    Raises:
        ParseError: with the line and what was expected there. A text whose files come to more than
            256 MiB is none either.
    """
    _check_characters(text, name)
    header, sections = _split(text, name)
    reader = _Reader(_header(header), _Budget())
    for section in sections:
        reader.add(section)
    return reader.recording()


# ---- lines -------------------------------------------------------------------------------------


def _check_characters(text: str, name: str) -> None:
    """Refuse what no text file can hold, so that each text below has its bytes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        line = text.count("\n", 0, error.start) + 1
        raise ParseError(
            text[error.start : error.end], "UTF-8", where=f"{name} line {line}".strip()
        ) from None


def _split(text: str, name: str) -> tuple[_Section, list[_Section]]:
    """Split a text into the header and the sections."""
    first, _, rest = text.partition("\n")
    where = f"{name} line 1".strip()
    if first.rstrip() != MAGIC:
        raise ParseError(first[:60], f"the first line of a recording ({MAGIC!r})", where=where)
    header = _Section("header", [], [], where)
    sections: list[_Section] = []
    open_entry: _Entry | None = None
    budget = _Budget()
    for where, line in _lines(rest, name):
        if open_entry is not None and tokens.is_block_line(line):
            content = tokens.read_block_line(line, where)
            budget.spend(len(content), where)
            open_entry.block.append(content)
            continue
        match = _ENTRY.fullmatch(line.rstrip())
        if match is None:
            sections.append(_section(line.rstrip(), where))
            open_entry = None
            continue
        entry = _entry(match, where)
        (sections[-1] if sections else header).entries.append(entry)
        open_entry = entry if entry.text == "" else None
    for section in [header, *sections]:
        for entry in section.entries:
            if entry.text == "" and not entry.block:
                raise ParseError(entry.name, "a name with a value or a block", where=entry.where)
    return header, sections


def _lines(text: str, name: str) -> Iterator[tuple[str, str]]:
    """The lines below the first that say something, without their indentation."""
    for number, line in enumerate(text.split("\n"), 2):
        stripped = line.lstrip(" \t")
        if stripped and not stripped.isspace() and not stripped.startswith("#"):
            yield f"{name} line {number}".strip(), stripped


def _entry(match: re.Match[str], where: str) -> _Entry:
    name, mode = match["name"], match["mode"]
    return _Entry(
        name=tokens.read_name(name, where),
        quoted=name.startswith('"'),
        mode=None if mode is None else int(mode, 8),
        text=(match["value"] or "").strip(),
        where=where,
    )


_KINDS = {
    "module": ("module NAME loaded|loadable|builtin", {2}),
    "function": ("function ADDRESS [at PARENT] [like ADDRESS]", {1, 3, 5}),
    "group": ("group NUMBER [like NUMBER]", {1, 3}),
    "mdev-table": ("mdev-table NAME", {1}),
    "virtual-parent": ("virtual-parent PATH", {1}),
    "mdev": ("mdev UUID [like UUID]", {1, 3}),
    "file": ("file PATH", {1}),
    "link": ("link PATH -> TARGET", {3}),
    "directory": ("directory PATH", {1}),
}


def _section(line: str, where: str) -> _Section:
    kind, _, rest = line.partition(" ")
    if kind not in _KINDS:
        near = difflib.get_close_matches(kind, _KINDS, 1)
        raise ParseError(
            line,
            f"a line 'name = value' or the first line of a section ({', '.join(_KINDS)})",
            where=where,
            hint=f"Did you mean {near[0]}?" if near else None,
        )
    words = tokens.split_names(rest, where)
    form, counts = _KINDS[kind]
    if len(words) not in counts:
        raise ParseError(line, repr(form), where=where)
    return _Section(kind, words, [], where)


# ---- values ------------------------------------------------------------------------------------


def _text(entry: _Entry) -> str:
    if entry.block:
        raise ParseError(entry.name, "a name with its value on the same line", where=entry.where)
    if entry.mode is not None:
        raise ParseError(
            f"[{entry.mode:04o}]", "for this: only files have a mode", where=entry.where
        )
    return tokens.read_text(entry.text, entry.where)


def _number(entry: _Entry) -> int:
    return _as_number(_text(entry), entry.where)


def _as_number(text: str, where: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise ParseError(text, "a number", where=where)
    return int(text)


def _flag(entry: _Entry) -> bool:
    return _choice(_text(entry), ("yes", "no"), entry.where) == "yes"


def _choice(text: str, choices: Sequence[_T], where: str) -> _T:
    for choice in choices:
        if text == choice:
            return choice
    near = difflib.get_close_matches(text, choices, 1)
    raise ParseError(
        text,
        f"one of {', '.join(choices)}",
        where=where,
        hint=f"Did you mean {near[0]}?" if near else None,
    )


def _address(text: str, where: str) -> PciAddress:
    address = PciAddress.parse(text, where=where)
    if str(address) != text:
        raise ParseError(text, f"a full address in lower case, here {address}", where=where)
    return address


def _attribute(entry: _Entry) -> Attribute:
    if entry.block:
        return Attribute(b"".join(entry.block), entry.mode)
    return Attribute(tokens.read_content(entry.text, entry.where), entry.mode)


def _mode(entry: _Entry) -> int:
    text = _text(entry)
    if not re.fullmatch("[0-7]{3,4}", text):
        raise ParseError(text, "permission bits such as 0644", where=entry.where)
    return int(text, 8)


class _Fields:
    """The entries of a section that has fields only: each is taken once."""

    def __init__(
        self, section: _Section, known: Iterable[str], repeated: Iterable[str] = ()
    ) -> None:
        self.section = section
        self.known = tuple(known)
        self.found: dict[str, _Entry] = {}
        for entry in section.entries:
            _choice(entry.name, self.known, entry.where)
            if entry.name in self.found and entry.name not in repeated:
                raise _repeated(entry)
            self.found[entry.name] = entry

    def need(self, name: str) -> _Entry:
        if name not in self.found:
            raise ParseError(
                self.section.kind,
                f"complete: it needs a line '{name} = …'",
                where=self.section.where,
            )
        return self.found[name]

    def get(self, name: str) -> _Entry | None:
        return self.found.get(name)


def _repeated(entry: _Entry) -> ParseError:
    return ParseError(entry.name, "a name that the section does not have yet", where=entry.where)


# ---- sections ----------------------------------------------------------------------------------


def _header(section: _Section) -> Recording:
    fields = _Fields(section, ("title", "source", "note", "kernel", "lacks"), ["note"])
    kernel, lacks = fields.get("kernel"), fields.get("lacks")
    parts = get_args(values.Part)
    return Recording(
        title=_text(fields.need("title")),
        source=_text(fields.need("source")),
        notes=tuple(_text(entry) for entry in section.entries if entry.name == "note"),
        kernel=_text(kernel) if kernel else None,
        lacks=frozenset(
            _choice(word, parts, lacks.where)
            for word in tokens.split_names(lacks.text, lacks.where)
        )
        if lacks
        else frozenset(),
    )


@attrs.define
class _Inherited:
    """What a section says together with the one that it is like."""

    parent: str | None = None
    fields: dict[str, _Entry] = attrs.field(factory=dict)
    files: dict[str, _Entry] = attrs.field(factory=dict)

    def text(self, name: str) -> str | None:
        return _text(self.fields[name]) if name in self.fields else None

    def number(self, name: str) -> int | None:
        return _number(self.fields[name]) if name in self.fields else None

    def attributes(self, uevent_of: tuple[str, str | None] | None = None) -> dict[str, Attribute]:
        """The files; ``uevent_of`` is the function whose usual ``uevent`` one may stand for."""
        usual = self.files.get("uevent")
        found = {
            name: _attribute(entry)
            for name, entry in self.files.items()
            if entry is not usual or entry.text != tokens.USUAL
        }
        if usual is not None and usual.text == tokens.USUAL:
            content = uevent_text(*uevent_of, found) if uevent_of else None
            if content is None:
                raise ParseError(
                    tokens.USUAL,
                    "possible here: it follows from vendor, device, subsystem_vendor, "
                    "subsystem_device and class of a function",
                    where=usual.where,
                )
            found["uevent"] = Attribute(content, usual.mode)
        return found


def _inherit(section: _Section, base: _Inherited | None, fields: tuple[str, ...]) -> _Inherited:
    """Put a section's entries over those of the one that it is like."""
    made = _Inherited(None, dict(base.fields), dict(base.files)) if base else _Inherited()
    seen = set()
    for entry in section.entries:
        is_field = entry.name in fields and not entry.quoted
        target = made.fields if is_field else made.files
        if (is_field, entry.name) in seen:
            raise _repeated(entry)
        seen.add((is_field, entry.name))
        if entry.text == (tokens.NONE if is_field else tokens.ABSENT):
            if target.pop(entry.name, None) is None:
                raise ParseError(
                    f"{entry.name} = {entry.text}",
                    "possible here: the section is not like one that has it",
                    where=entry.where,
                )
        else:
            target[entry.name] = entry
    return made


class _Reader:
    """Collects the sections."""

    def __init__(self, recording: Recording, budget: _Budget) -> None:
        self._header = recording
        self._budget = budget
        self._found: dict[str, dict[str | int, Any]] = {kind: {} for kind in _KINDS}
        self._inherited: dict[str, dict[str, _Inherited]] = {kind: {} for kind in _KINDS}

    def add(self, section: _Section) -> None:
        method = getattr(self, "_" + section.kind.replace("-", "_"))
        key: str | int = section.words[0]
        if section.kind == "group":
            key = _as_number(section.words[0], section.where)  # 07 is 7
        kind = "file" if section.kind in {"link", "directory"} else section.kind
        if key in self._found[kind]:
            raise ParseError(
                section.words[0], f"a {kind} that is not there yet", where=section.where
            )
        self._found[kind][key] = method(section)

    def recording(self) -> Recording:
        def all_of(kind: str) -> tuple[Any, ...]:
            return tuple(self._found[kind].values())

        return attrs.evolve(
            self._header,
            functions=all_of("function"),
            modules=all_of("module"),
            groups=all_of("group"),
            mdev_tables=all_of("mdev-table"),
            virtual_parents=all_of("virtual-parent"),
            mdevs=all_of("mdev"),
            files=all_of("file"),
        )

    def _like(self, section: _Section) -> _Inherited | None:
        """The section that this one is like, by the words of its first line."""
        if "like" not in section.words[1::2]:
            return None
        name = section.words[section.words.index("like", 1) + 1]
        earlier = self._inherited[section.kind]
        if name not in earlier:
            raise ParseError(name, f"a {section.kind} that stands above", where=section.where)
        return earlier[name]

    def _attributes(
        self, made: _Inherited, section: _Section, uevent_of: tuple[str, str | None] | None = None
    ) -> dict[str, Attribute]:
        """The files of a section, which may be many more than its lines."""
        found = made.attributes(uevent_of)
        sizes = (len(a.content) for a in found.values() if isinstance(a.content, bytes))
        self._budget.spend(sum(sizes) + FILE_BYTES * len(found), section.where)
        return found

    def _module(self, section: _Section) -> Module:
        name, state = section.words
        drivers: list[PciDriver] = []
        aliases: list[str] = []
        depends: tuple[str, ...] = ()
        usual: _Entry | None = None
        for entry in section.entries:
            key = _choice(entry.name, ("depends", "driver", "sriov", "match", "alias"), entry.where)
            if key == "driver":
                drivers.append(PciDriver(_text(entry)))
            elif key == "depends":
                depends += tuple(tokens.split_names(entry.text, entry.where))
            elif key == "alias":
                if usual or (aliases and entry.text == tokens.USUAL):
                    raise ParseError(
                        key, f"possible beside 'alias = {tokens.USUAL}'", where=entry.where
                    )
                usual = entry if entry.text == tokens.USUAL else None
                aliases += [] if usual else [_text(entry)]
            elif not drivers:
                raise ParseError(key, "possible before a line 'driver = …'", where=entry.where)
            elif key == "sriov":
                drivers[-1] = attrs.evolve(drivers[-1], sriov=_flag(entry))
            else:
                matches = (*drivers[-1].matches, _text(entry))
                drivers[-1] = attrs.evolve(drivers[-1], matches=matches)
        if usual:
            aliases = [match for driver in drivers for match in driver.matches]
        known = get_args(values.ModuleState)
        return Module(
            name, _choice(state, known, section.where), tuple(drivers), depends, tuple(aliases)
        )

    def _function(self, section: _Section) -> Function:
        name = section.words[0]
        _address(name, section.where)
        options = dict(zip(section.words[1::2], section.words[2::2], strict=True))
        if not options.keys() <= {"at", "like"} or [*options] != sorted(options):
            raise ParseError(
                " ".join(section.words), repr(_KINDS["function"][0]), where=section.where
            )
        base = self._like(section)
        made = _inherit(section, base, FUNCTION_FIELDS)
        made.parent = options.get("at", base.parent if base else "")
        self._inherited["function"][name] = made
        driver, physfn = made.text("driver"), made.text("physfn")
        return Function(
            path=f"{made.parent}/{name}" if made.parent else name,
            driver=driver,
            iommu_group=made.number("iommu_group"),
            physfn=_address(physfn, made.fields["physfn"].where) if physfn is not None else None,
            vf_index=made.number("vf_index"),
            attributes=self._attributes(made, section, (name, driver)),
            mdev_table=made.text("mdev_table"),
        )

    def _group(self, section: _Section) -> Group:
        made = _inherit(section, self._like(section), ())
        self._inherited["group"][section.words[0]] = made
        number = _as_number(section.words[0], section.where)
        return Group(number, self._attributes(made, section))

    def _mdev(self, section: _Section) -> Mdev:
        made = _inherit(section, self._like(section), MDEV_FIELDS)
        self._inherited["mdev"][section.words[0]] = made
        parent, type_id = made.text("parent"), made.text("type")
        if parent is None or type_id is None:
            raise ParseError("mdev", "complete: it needs a parent and a type", where=section.where)
        return Mdev(
            uuid=section.words[0],
            parent=parent,
            type_id=type_id,
            driver=made.text("driver"),
            iommu_group=made.number("iommu_group"),
            attributes=self._attributes(made, section),
        )

    def _mdev_table(self, section: _Section) -> MdevTable:
        entries = section.entries
        starts = [i for i, entry in enumerate(entries) if entry.name == "type"] + [len(entries)]
        head = attrs.evolve(section, entries=entries[: starts[0]])
        fields = _Fields(
            head,
            ("driver", "device_api", "scope", "homogeneous", "per_parent", "exhausted", "type"),
        )
        scope, homogeneous = fields.get("scope"), fields.get("homogeneous")
        per_parent, exhausted = fields.get("per_parent"), fields.get("exhausted")
        return MdevTable(
            name=section.words[0],
            driver=_text(fields.need("driver")),
            device_api=_text(fields.need("device_api")),
            types=tuple(
                _mdev_type(attrs.evolve(section, entries=entries[start:end]))
                for start, end in itertools.pairwise(starts)
            ),
            scope=_literal(scope, ("parent", "physfn")) if scope else "parent",
            homogeneous=_flag(homogeneous) if homogeneous else False,
            per_parent=_number(per_parent) if per_parent else None,
            exhausted=_literal(exhausted, ("EUSERS", "ENOSPC")) if exhausted else "EUSERS",
        )

    def _virtual_parent(self, section: _Section) -> VirtualParent:
        fields = _Fields(section, ("mdev_table",))
        return VirtualParent(section.words[0], _text(fields.need("mdev_table")))

    def _file(self, section: _Section) -> File:
        mode = None
        content: bytes | None = None
        for entry in section.entries:
            if _choice(entry.name, ("mode", "content"), entry.where) == "mode":
                mode = _mode(entry)
                continue
            if content is not None:
                raise _repeated(entry)
            found = _attribute(entry)
            if isinstance(found.content, int) or found.mode is not None:
                raise ParseError(entry.text, "the content of a file", where=entry.where)
            content = found.content
        if content is None:
            raise ParseError("file", "complete: it needs a line 'content = …'", where=section.where)
        return File(section.words[0], content, mode)

    def _link(self, section: _Section) -> File:
        path, arrow, target = section.words
        if arrow != "->":
            raise ParseError(arrow, "'->' between a link and its target", where=section.where)
        return File(path, target, self._only_mode(section))

    def _directory(self, section: _Section) -> File:
        return File(section.words[0], None, self._only_mode(section))

    def _only_mode(self, section: _Section) -> int | None:
        mode = _Fields(section, ("mode",)).get("mode")
        return _mode(mode) if mode else None


def _literal(entry: _Entry, choices: Sequence[_T]) -> _T:
    return _choice(_text(entry), choices, entry.where)


def _mdev_type(section: _Section) -> MdevTableType:
    fields = _Fields(section, ("type", "name", "max_instances", "description"))
    name, description = fields.get("name"), fields.get("description")
    return MdevTableType(
        type_id=_text(fields.need("type")),
        name=_text(name) if name else None,
        max_instances=_number(fields.need("max_instances")),
        description=_text(description) if description else None,
    )
