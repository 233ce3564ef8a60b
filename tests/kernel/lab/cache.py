"""Folders that are built once, by whoever needs them first, and never seen half-built."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


class Cache:
    """A folder of entries, each a folder whose name says everything it was built from.

    Args:
        root: where the entries lie; made when it does not exist. By default ``VFIOHOST_LAB_CACHE``,
            or ``~/.cache/vfiohost-lab``.
    """

    def __init__(self, root: Path | None = None) -> None:
        default = os.environ.get("VFIOHOST_LAB_CACHE") or "~/.cache/vfiohost-lab"
        self.root = (root or Path(default)).expanduser().absolute()
        self.root.mkdir(parents=True, exist_ok=True)

    def entry(self, name: str, build: Callable[[Path], None]) -> Path:
        """Return an entry, built if it is not there yet.

        Args:
            name: the entry's name; another content needs another name.
            build: fills the empty folder that it is given. The folder gets its final place only
                when this has returned, so an interrupted build leaves nothing behind but waste,
                which the next build of that entry clears away.
        """
        final = self.root / name
        if final.is_dir():
            return final
        with self._locked(name):
            if not final.is_dir():
                partial = self.root / f"{name}.partial"
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir()
                build(partial)
                partial.rename(final)
        return final

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        with (self.root / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def digest(parts: Iterable[str], files: Iterable[Path] = ()) -> str:
    """Name a content: 16 hexadecimal digits that depend on the parts, and on the files' bytes."""
    total = hashlib.sha256()
    for part in parts:
        total.update(f"{part}\0".encode())
    for file in files:
        total.update(f"{file.name}\0".encode() + file.read_bytes() + b"\0")
    return total.hexdigest()[:16]
