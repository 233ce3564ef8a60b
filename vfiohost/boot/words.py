"""What all files have in common that vfiohost makes for the boot: who made them. Pure."""

from __future__ import annotations

from typing import Final

TAG: Final = "vfiohost"
"""The tag that udev's database has for a device that the rule has dealt with."""

MADE_BY: Final = (
    "# Made by vfiohost boot install; vfiohost boot remove takes it away. "
    "What is changed here is lost."
)
"""The first comment of every file; a file without it is somebody else's."""


def comments(*lines: str) -> list[str]:
    """The head of a file: who made it, and what it is for."""
    return [MADE_BY, *(f"# {line}" for line in lines)]


def is_ours(text: str) -> bool:
    """Whether vfiohost has made a file; a shell script begins with the name of its shell."""
    first = text.splitlines()[:2]
    return first[:1] == [MADE_BY] or (first[1:] == [MADE_BY] and first[0].startswith("#!"))
