"""Where the class devices of a host are, and which of them belong to its PCI functions."""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING

from vfiohost.holders import class_links
from vfiohost.recording import File

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from vfiohost.sysfs import Sysfs


class Places:
    """The directories of a host's functions, and what is asked of them.

    Args:
        sysfs: the host.
        functions: the directories, relative to the root.
    """

    def __init__(self, sysfs: Sysfs, functions: Collection[str]) -> None:
        self._sysfs = sysfs
        self._functions = frozenset(functions)

    def has(self, path: str) -> bool:
        """Whether something lies below a function."""
        while (above := posixpath.dirname(path)) != path:
            if above in self._functions:
                return True
            path = above
        return False

    def class_devices(self, name: str) -> Iterator[File]:
        """The entries of ``sys/class/NAME`` that lead below functions, each with where it leads."""
        for entry, target in class_links(self._sysfs, name):
            if self.has(target):
                yield self.link(f"sys/class/{name}/{entry}", target)
                yield File(target, None)

    @staticmethod
    def link(path: str, target: str) -> File:
        """A link to another path of the host, as sysfs writes it."""
        return File(path, posixpath.relpath(target, posixpath.dirname(path)))
