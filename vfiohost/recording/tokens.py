r"""How bytes and texts stand in a recording: plain, quoted, or as a block of lines.

The bytes of a file are written in the first of these forms that can hold them:

``0x10de``            that text and one newline: what most attributes give;
``"no newline"``      exactly the bytes between the quotes, with ``\n \t \\ \" \xNN``;
``!EACCES``           no bytes: reading failed with this errno;
``| line``            below the name: several lines of text, ``|*3 line`` for three equal ones;
``" line\n"``         below the name: several lines with something odd in them, quoted;
``x 00ff``            below the name: binary, in hexadecimal.
"""

from __future__ import annotations

import errno
import itertools
import re
from typing import TYPE_CHECKING

from vfiohost.errors import ParseError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

NONE = "none"
ABSENT = "absent"
USUAL = "<usual>"
_WORDS = frozenset({NONE, ABSENT})

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_.:/@+\-]+")
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
_ESCAPE = re.compile(r"\\(x[0-9a-f]{2}|.)")
_ESCAPED = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t"}
_UNESCAPED = {"\\": b"\\", '"': b'"', "n": b"\n", "t": b"\t"}
_HEX_LINE = 16
_BINARY_FROM = 64
_LONGEST_RUN = 9999  # a line of a hostile file cannot blow up to more


def quote(data: bytes) -> str:
    """Write bytes between double quotes, readable where they are text."""
    return f'"{"".join(map(_escape, data.decode("utf-8", "surrogateescape")))}"'


def _escape(char: str) -> str:
    if char in _ESCAPED:
        return _ESCAPED[char]
    if char.isprintable():
        return char
    return "".join(f"\\x{byte:02x}" for byte in char.encode("utf-8", "surrogateescape"))


def unquote(text: str, where: str) -> bytes:
    """Read what :func:`quote` wrote.

    Raises:
        ParseError: no closing quote, something after it, or an unknown escape.
    """
    if _QUOTED.fullmatch(text) is None:
        raise ParseError(text, 'bytes between double quotes, such as "text\\n"', where=where)

    def decode() -> Iterator[bytes]:
        position = 1
        for match in _ESCAPE.finditer(text, 1, len(text) - 1):
            yield text[position : match.start()].encode()
            code = match[1]
            if code in _UNESCAPED:
                yield _UNESCAPED[code]
            elif code.startswith("x") and len(code) > 1:
                yield bytes.fromhex(code[1:])
            else:
                raise ParseError(match[0], r"one of \n \t \\ \" \xNN", where=where)
            position = match.end()
        yield text[position:-1].encode()

    return b"".join(decode())


def is_plain(text: str) -> bool:
    """Say whether a text can stand unquoted after ``=``."""
    return (
        text != ""
        and text.isprintable()
        and text == text.strip()
        and text[0] not in '"!<|'
        and text not in _WORDS
    )


def write_text(text: str) -> str:
    """Write a one-line text: plain where possible."""
    return text if is_plain(text) else quote(text.encode("utf-8", "surrogateescape"))


def read_text(text: str, where: str) -> str:
    """Read what :func:`write_text` wrote."""
    if text.startswith('"'):
        return _decode(unquote(text, where), text, where)
    if not is_plain(text):
        raise ParseError(text, "a text, in double quotes when it has something odd", where=where)
    return text


def write_name(name: str) -> str:
    """Write a name or path on the left of ``=`` or in a section's first line."""
    if _PLAIN_NAME.fullmatch(name):
        return name
    return quote(name.encode("utf-8", "surrogateescape"))


def split_names(text: str, where: str) -> list[str]:
    """Split a line into names at spaces; quoted ones keep theirs."""
    names = []
    rest = text.strip()
    while rest:
        match = _QUOTED.match(rest) or re.match(r'[^\s"]+', rest)
        if match is None or rest[match.end() : match.end() + 1].strip():
            raise ParseError(rest, "names with spaces between them", where=where)
        names.append(read_name(match[0], where))
        rest = rest[match.end() :].lstrip()
    return names


def read_name(text: str, where: str) -> str:
    """Read what :func:`write_name` wrote."""
    if text.startswith('"'):
        return _decode(unquote(text, where), text, where)
    if "\0" in text:
        raise ParseError(text, "a text without NUL", where=where)
    return text


def _decode(data: bytes, text: str, where: str) -> str:
    # What is no UTF-8 in a name comes out as Python's file functions give it (PEP 383).
    if b"\0" in data:
        raise ParseError(text, "a text without NUL", where=where)
    return data.decode("utf-8", "surrogateescape")


def write_content(content: bytes | int) -> tuple[str, list[str]]:
    """Write a file's content.

    Returns:
        What stands after ``=``, and the lines of the block below it; one of the two is empty.
    """
    if isinstance(content, int):
        return f"!{errno.errorcode.get(content, content)}", []
    text = _as_text(content)
    if text is not None and is_plain(text):
        return text, []
    if text is not None and "\n" in text and all(map(_is_clean_line, text.split("\n"))):
        return "", [_text_line(*run) for run in _runs(text.split("\n"))]
    if _is_binary(content):
        chunks = range(0, len(content), _HEX_LINE)
        return "", [f"x {content[start : start + _HEX_LINE].hex()}" for start in chunks]
    lines = content.splitlines(keepends=True) if b"\r" not in content else [content]
    if len(lines) > 1:
        return "", [quote(line) for line in lines]
    return quote(content), []


def _as_text(content: bytes) -> str | None:
    """The text before the one newline at the end, or ``None`` when it is no such text."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return None
    return text[:-1] if text.endswith("\n") else None


def _is_clean_line(line: str) -> bool:
    return line == line.rstrip() and line.replace("\t", " ").isprintable()


def _is_binary(content: bytes) -> bool:
    if len(content) < _BINARY_FROM:
        return False
    odd = sum(byte < 0x20 and byte not in b"\n\t" for byte in content)  # noqa: PLR2004 - space
    return b"\0" in content or odd * 4 > len(content)


def _runs(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    for line, equal in itertools.groupby(lines):
        count = sum(1 for _ in equal)
        while count > 0:
            yield min(count, _LONGEST_RUN), line
            count -= _LONGEST_RUN


def _text_line(count: int, line: str) -> str:
    mark = "|" if count == 1 else f"|*{count}"
    return f"{mark} {line}" if line else mark


def read_content(text: str, where: str) -> bytes | int:
    """Read what stands after ``=``: plain, quoted or an errno."""
    if text.startswith('"'):
        return unquote(text, where)
    if text.startswith("!"):
        return _read_errno(text, where)
    if not is_plain(text):
        raise ParseError(
            text, 'a plain text, "quoted bytes", an errno such as !EACCES, or a block', where=where
        )
    return text.encode() + b"\n"


def _read_errno(text: str, where: str) -> int:
    number = getattr(errno, text[1:], None) if text[1:2] == "E" else None
    if number is None and re.fullmatch(r"![1-9][0-9]{0,3}", text):
        number = int(text[1:])
    if not isinstance(number, int):
        raise ParseError(text, "an errno such as !EACCES", where=where)
    return number


_BLOCK_TEXT = re.compile(r"\|(?:\*([1-9][0-9]{0,3}))?(?: (.*))?", re.DOTALL)
_BLOCK_HEX = re.compile(r"x ((?:[0-9a-f]{2})+)")


def is_block_line(line: str) -> bool:
    """Say whether a line, without its indentation, belongs to a block."""
    return line.startswith("|") or any(p.fullmatch(line.rstrip()) for p in (_QUOTED, _BLOCK_HEX))


def read_block_line(line: str, where: str) -> bytes:
    """Read one line of a block, without its indentation.

    Raises:
        ParseError: it is no such line.
    """
    if line.startswith('"'):
        return unquote(line.rstrip(), where)
    if match := _BLOCK_HEX.fullmatch(line.rstrip()):
        return bytes.fromhex(match[1])
    if match := _BLOCK_TEXT.fullmatch(line):
        return f"{match[2] or ''}\n".encode() * int(match[1] or 1)
    raise ParseError(line, 'a line of a block: "| text", "|*3 text", x 00ff or quoted', where=where)
