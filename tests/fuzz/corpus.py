"""The inputs that are kept: one text file for each target, one input on each line, escaped."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

MOST = 24 << 10  # bytes of the file of one target
FOLDER = Path(__file__).with_name("corpus")


def load(target: str) -> list[bytes]:
    """The inputs of a target; none where there is no file yet."""
    path = FOLDER / f"{target}.txt"
    lines = path.read_text(encoding="ascii").splitlines() if path.exists() else []
    return [line.encode().decode("unicode_escape").encode("latin-1") for line in lines]


def save(target: str, inputs: Iterable[bytes]) -> None:
    """Keep these inputs and no others: each once, the short ones, as far as there is room."""
    ordered = sorted(set(inputs), key=lambda data: (len(data), data))
    text = ""
    for data in ordered:
        line = data.decode("latin-1").encode("unicode_escape").decode()
        if len(text) + len(line) < MOST:
            text += f"{line}\n"
    (FOLDER / f"{target}.txt").write_text(text, encoding="ascii")
