"""YAML text as a tree of values that know where they stood.

The text is understood as Go's ``sigs.k8s.io/yaml`` does, which reads it as YAML 1.1 and hands it on
as JSON: only the first document counts, of a key that is there twice the last one counts, and keys
are texts. What such a text costs to read is bounded: its size, its depth, and how far aliases
unfold.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import attrs

from vfiohost.errors import ParseError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_BYTES = 1 << 20
"""A file of configurations is small: the one that NVIDIA ships, with over 700, has 80 kB."""

_MOST_DEPTH = 32
_MOST_VALUES = 200_000  # with each alias counted as often as it is used

_TAG = "tag:yaml.org,2002:"
_MERGE = "<<"
_WORDS: dict[str, object] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("y", "Y", "yes", "Yes", "YES", "on", "On", "ON"), True),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("n", "N", "no", "No", "NO", "off", "Off", "OFF"), False),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INTEGER = re.compile(
    r"([-+]?)(?:0b([01]+)|0x([0-9a-f]+)|0o?([0-7]+)|([1-9][0-9]*|0))", re.IGNORECASE
)
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_INFINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_MOST_DIGITS = 400


@attrs.frozen(eq=False)
class Mark:
    """Where something stands.

    Attributes:
        file: the file's name.
        line, column: from 1.
    """

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}, column {self.column}"


@attrs.define(eq=False)
class Node:
    """A value, and where it stood.

    Attributes:
        value: ``None``, a bool, an int, a float, a str, a list of nodes, or a dict of nodes by key.
        mark: where it begins.
        keys: where the keys of a dict stand.
        size: how many values it is, itself and all that is in it.
    """

    value: Any
    mark: Mark
    keys: dict[str, Mark] = attrs.field(factory=dict)
    size: int = 1


def read(text: str, name: str) -> tuple[Node | None, list[str]]:
    """Read the first document of a YAML text.

    Args:
        text: the text.
        name: the file's name, for messages.

    Returns:
        The document, ``None`` for an empty text, and warnings: sentences that name file and line.

    Raises:
        ParseError: it is no YAML, or too large or too deep.
        UnsupportedError: PyYAML is not installed.
    """
    try:
        import yaml  # noqa: PLC0415  # an extra: only who reads such files needs it
    except ImportError as error:
        raise UnsupportedError(
            f"{name} is YAML, and PyYAML, which reads it, is not installed. Install it: "
            "`apt install python3-yaml`, or `pip install 'vfiohost[yaml]'`."
        ) from error
    if len(text) > MOST_BYTES:
        hint = f"It is larger than {MOST_BYTES} bytes."
        raise ParseError(name, "a vGPU configuration", hint=hint)
    loader: Any = getattr(yaml, "CLoader", yaml.Loader)
    try:
        return _Composer(name, yaml.parse(text, Loader=loader)).first_document()
    except ParseError:
        raise
    except yaml.MarkedYAMLError as error:
        at = error.problem_mark or error.context_mark
        mark = Mark(name, at.line + 1, at.column + 1) if at else None
        raise _no_yaml(name, mark, f"PyYAML says: {error.problem}.") from error
    # PyYAML lets some of Python's own errors out: of numbers and characters that are too large.
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError, IndexError) as error:
        raise _no_yaml(name, None, "It has characters that YAML does not allow.") from error


def _no_yaml(name: str, mark: Mark | None, hint: str) -> ParseError:
    return ParseError(name, "YAML", where=str(mark) if mark else None, hint=hint)


class _Composer:
    """Makes nodes of PyYAML's events, and of no more of them than is needed."""

    def __init__(self, name: str, events: Iterator[Any]) -> None:
        self.name = name
        self.events = events
        self.anchors: dict[str, Node | None] = {}
        self.warnings: list[str] = []
        self.values = 0

    def first_document(self) -> tuple[Node | None, list[str]]:
        for event in self.events:
            kind = type(event).__name__
            if kind == "StreamEndEvent":
                return None, self.warnings
            if kind not in {"StreamStartEvent", "DocumentStartEvent"}:
                root = self._node(event, 0)
                self._warn_of_more()
                return root, self.warnings
        return None, self.warnings

    def _warn_of_more(self) -> None:
        """Look one event past the document's end, where another may begin."""
        next(self.events)
        try:
            event = next(self.events)
        except Exception:  # noqa: BLE001  # what is no YAML there matters to nobody
            return
        if type(event).__name__ == "DocumentStartEvent":
            self.warnings.append(
                f"{self._mark(event)}: another document begins here; only the first one counts."
            )

    def _mark(self, event: Any) -> Mark:
        return Mark(self.name, event.start_mark.line + 1, event.start_mark.column + 1)

    def _node(self, event: Any, depth: int) -> Node:
        kind, mark = type(event).__name__, self._mark(event)
        if depth > _MOST_DEPTH:
            raise ParseError(self.name, "a vGPU configuration", where=str(mark), hint="Too deep.")
        if kind == "AliasEvent":
            return self._counted(self._aliased(event.anchor, mark))
        if event.anchor is not None:
            self.anchors[event.anchor] = None
        if kind == "ScalarEvent":
            node = Node(self._scalar(event, mark), mark)
        elif kind == "SequenceStartEvent":
            node = self._list(mark, depth)
        else:
            node = self._dict(mark, depth)
        if event.anchor is not None:
            self.anchors[event.anchor] = node
        return self._counted(node, 1)

    def _counted(self, node: Node, more: int | None = None) -> Node:
        self.values += node.size if more is None else more
        if self.values > _MOST_VALUES or node.size > _MOST_VALUES:
            raise ParseError(
                self.name,
                "a vGPU configuration",
                where=str(node.mark),
                hint=f"It unfolds to more than {_MOST_VALUES} values.",
            )
        return node

    def _aliased(self, anchor: str, mark: Mark) -> Node:
        node = self.anchors.get(anchor)
        if node is None:
            is_open = anchor in self.anchors
            hint = "It would contain itself." if is_open else "There is no such anchor before it."
            raise ParseError(f"*{anchor}", "an alias", where=str(mark), hint=hint)
        return node

    def _list(self, mark: Mark, depth: int) -> Node:
        node = Node([], mark)
        for event in self.events:
            if type(event).__name__ == "SequenceEndEvent":
                break
            item = self._node(event, depth + 1)
            node.value.append(item)
            node.size += item.size
        return node

    def _dict(self, mark: Mark, depth: int) -> Node:
        node = Node({}, mark)
        for event in self.events:
            if type(event).__name__ == "MappingEndEvent":
                break
            is_merge = _is_plain(event) and event.value == _MERGE
            key = self._node(event, depth + 1)
            value = self._node(next(self.events), depth + 1)
            node.size += key.size + value.size
            if is_merge:
                self._merge(node, value, key.mark)
                continue
            text = self._key(key)
            if text in node.value:
                self.warnings.append(
                    f"{key.mark}: the key {text!r} is there already, in line "
                    f"{node.keys[text].line}; the last one counts."
                )
            node.value[text], node.keys[text] = value, key.mark
        return node

    def _merge(self, node: Node, value: Node, mark: Mark) -> None:
        # Of several the first one counts.
        parts = value.value[::-1] if isinstance(value.value, list) else [value]
        if not all(isinstance(part.value, dict) for part in parts):
            raise ParseError(_MERGE, "a merge of mappings", where=str(mark))
        for part in parts:
            node.value |= part.value
            node.keys |= part.keys

    def _key(self, node: Node) -> str:
        value = node.value
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, str | int):
            return str(value)
        if isinstance(value, float):
            return f"{value:g}"
        raise ParseError(
            "null" if value is None else "this", "a key, which is a text", where=str(node.mark)
        )

    def _scalar(self, event: Any, mark: Mark) -> object:
        text: str = event.value
        tag = event.tag or ""
        if not _is_plain(event) and tag in {"", "!"}:
            return text
        value = resolve(text)
        if tag in {"", "!"}:
            return value
        of_tag: dict[str, tuple[type, ...]] = {
            f"{_TAG}int": (int,),
            f"{_TAG}float": (int, float),
            f"{_TAG}bool": (bool,),
        }
        if tag == f"{_TAG}null":
            return None
        if tag not in of_tag:
            return text
        if isinstance(value, of_tag[tag]) and (tag == f"{_TAG}bool") == isinstance(value, bool):
            return value
        raise ParseError(text, f"what its tag !!{tag.removeprefix(_TAG)} says", where=str(mark))


def _is_plain(event: Any) -> bool:
    return type(event).__name__ == "ScalarEvent" and not event.style and event.implicit[0]


def resolve(text: str) -> object:
    """The value of a plain scalar: ``None``, a bool, a number or the text itself."""
    if text in _WORDS:
        return _WORDS[text]
    plain = text.replace("_", "")
    if len(plain) > _MOST_DIGITS or not plain or plain[0] not in "+-.0123456789":
        return text
    match = _INTEGER.fullmatch(plain)
    if match:
        parts = zip(match.groups()[1:], (2, 16, 8, 10), strict=True)
        number = next(int(digits, base) for digits, base in parts if digits)
        return -number if match[1] == "-" else number
    if _INFINITE.fullmatch(text):
        return float(text.lower().replace(".", ""))
    return float(plain) if _FLOAT.fullmatch(plain) else text
