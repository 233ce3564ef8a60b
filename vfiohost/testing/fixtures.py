"""The recorded hosts that come with vfiohost, and recordings of one's own."""

from __future__ import annotations

import difflib
import os
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from vfiohost import recording
from vfiohost.errors import NotFoundError, ParseError

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

    from vfiohost.recording import Recording

_SUFFIX = ".host"
_PACKAGE = "vfiohost._fixtures"


def names() -> dict[str, str]:
    """The recorded hosts that come with vfiohost: the title of each by its name, sorted."""
    return {name: _parse(_text(file), str(file)).title for name, file in sorted(_files().items())}


def load(name: str | os.PathLike[str]) -> Recording:
    """Read a recorded host.

    Args:
        name: one of :func:`names` (``a10-pair-vgpu``), or the path of a file.

    Raises:
        NotFoundError: there is neither; with the names that are close.
        ParseError: the file is no recording; with the line.
    """
    key = os.fspath(name)
    known = _files()
    file: Traversable = known.get(key, Path(key))
    if not file.is_file():
        near = difflib.get_close_matches(key, known, n=3)
        detail = f"It is no file, and vfiohost comes with {', '.join(sorted(known))}."
        raise NotFoundError("recording", key, near=near, detail=detail)
    return _parse(_text(file), str(file))


def _parse(text: str, name: str) -> Recording:
    return recording.parse(text, name=name)


def _text(file: Traversable) -> str:
    try:
        return file.read_bytes().decode()
    except UnicodeDecodeError as error:
        bad = repr(error.object[error.start : error.start + 1])
        raise ParseError(bad, "UTF-8: a recording is a text file", where=str(file)) from error


def _files() -> dict[str, Traversable]:
    return {
        entry.name.removesuffix(_SUFFIX): entry
        for entry in _folder().iterdir()
        if entry.name.endswith(_SUFFIX)
    }


def _folder() -> Traversable:
    """Inside the installed package; in a source tree at its top, for people to read."""
    try:
        return resources.files(_PACKAGE)
    except ModuleNotFoundError:
        return Path(__file__).parents[2] / "fixtures" / "sysfs"
