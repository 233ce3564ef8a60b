"""Columns of text: aligned, coloured on request, free of control characters."""

from __future__ import annotations

from operator import add
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

Kind = Literal["plain", "good", "bad", "warn", "dim", "head"]
"""What a text means to its reader; a paint makes a colour of it."""

Paint: TypeAlias = "Callable[[str, Kind], str]"
"""Makes a colour of a kind: :func:`plain` or :func:`coloured`."""

Cell = tuple[str, Kind]
"""One field of a table."""

_CODES: dict[Kind, str] = {
    "good": "32",
    "bad": "31",
    "warn": "33",
    "dim": "2",
    "head": "1",
}


def plain(text: str, kind: Kind) -> str:  # noqa: ARG001 - the paint that paints nothing
    """Give the text as it is."""
    return text


def coloured(text: str, kind: Kind) -> str:
    """Wrap the text in the ANSI sequence (ECMA-48 SGR) of its kind."""
    code = _CODES.get(kind)
    return f"\x1b[{code}m{text}\x1b[0m" if code and text else text


def printable(text: str) -> str:
    r"""Make control characters visible, so that an attribute's text cannot steer a terminal.

    Spaces stay, everything else that is not printable reads ``\x1b``, ``\n``, ``\u202e``.
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )


def format_columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Align rows without headers, two spaces apart; a row may be shorter than the others."""
    rows = [[printable(text) for text in row] for row in rows]
    widths: list[int] = []
    for row in rows:
        widths += [0] * (len(row) - len(widths))
        for i, text in enumerate(row):
            widths[i] = max(widths[i], len(text))
    return [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=False)).rstrip()
        for row in rows
    ]


def format_table(
    headers: Sequence[str],
    rows: Iterable[Sequence[Cell]],
    *,
    right: Sequence[str] = (),
    paint: Paint = plain,
) -> list[str]:
    """Align rows below their headers, two spaces apart; the last column is not padded.

    Args:
        headers: one per column.
        rows: one cell per column each.
        right: the headers of the columns that are aligned to the right.
        paint: makes colours of kinds; widths are those of the text without them.

    Returns:
        The lines, the headers first.
    """
    grid = [[(header, "head") for header in headers], *rows]
    columns = []
    for number, header in enumerate(headers):
        texts = [row[number][0] for row in grid]
        if not "".join(texts).isprintable():
            texts = [printable(text) for text in texts]
        width = 0 if number == len(headers) - 1 else max(map(len, texts))
        blanks = [" " * (width - len(text)) for text in texts]
        if paint is not plain:
            texts = [paint(text, row[number][1]) for text, row in zip(texts, grid, strict=True)]
        sides = (blanks, texts) if header in right else (texts, blanks)
        columns.append(map(add, *sides))
    return ["  ".join(fields).rstrip() for fields in zip(*columns, strict=True)]
