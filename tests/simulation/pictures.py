"""What a directory looks like, to compare it before and after."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def picture(root: Path, *, below: str = "") -> dict[str, str]:
    """Kind and content of everything below a directory; links are not followed."""
    found: dict[str, str] = {}
    for directory, names, files in os.walk(root / below):
        for name in [*names, *files]:
            path = os.path.join(directory, name)
            found[os.path.relpath(path, root)] = _describe(path)
    return found


def _describe(path: str) -> str:
    mode = os.lstat(path).st_mode
    if stat.S_ISLNK(mode):
        return f"-> {os.readlink(path)}"
    if stat.S_ISREG(mode):
        with open(path, "rb") as file:
            return f"{stat.S_IMODE(mode):o} {file.read()!r}"
    return f"{stat.S_IFMT(mode):o}"
