"""Making a directory tree out of paths that nobody has vouched for."""

from __future__ import annotations

import contextlib
import os
import posixpath
from pathlib import Path
from typing import TYPE_CHECKING, Self

from vfiohost.errors import ParseError, UnsupportedError

if TYPE_CHECKING:
    from types import TracebackType

_NAME_MAX = 255
_PERMISSIONS = 0o777  # nobody's recording makes a set-user-ID program
_PATH_MAX = 1000  # characters; always less than the 4096 bytes that the kernel takes


class NewDirectory:
    """A new directory that gets filled, or stays empty. Nothing is ever written outside it.

    A path leads only through directories that were made here: not through a link, however
    harmless, because a recording may name any target.

    Args:
        directory: it is made; an existing one must be empty.

    Raises:
        UnsupportedError: it is not empty.
        OSError: it cannot be made.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        path = Path(directory)
        path.mkdir(parents=True, exist_ok=True)
        if any(path.iterdir()):
            raise UnsupportedError(
                f"{path} is not empty. A recording is expanded into a new or an empty directory, "
                "so that it cannot overwrite anything."
            )
        self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._directories = {""}
        self._others: set[str] = set()
        self._modes: list[tuple[str, int]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Set the directories' modes, the innermost first; after an error, empty the directory."""
        try:
            if kind is not None:
                self._remove_all()
                return
            for path, mode in sorted(self._modes, reverse=True):
                os.chmod(path, mode, dir_fd=self._fd)
        finally:
            os.close(self._fd)

    def _remove_all(self) -> None:
        """Remove what was made, so that the next try finds the directory as it was."""
        for path in self._others:
            with contextlib.suppress(OSError):
                os.unlink(path, dir_fd=self._fd)
        for path in sorted(self._directories - {""}, reverse=True):
            with contextlib.suppress(OSError):
                os.rmdir(path, dir_fd=self._fd)

    def __contains__(self, path: str) -> bool:
        return path in self._directories or path in self._others

    def directory(self, path: str, mode: int | None = None) -> None:
        """Make a directory and those above it; one that is there already is as good.

        Raises:
            ParseError: the path leads out, or through something that is no directory.
        """
        if path not in self._directories:
            self._make(path)
        if mode is not None:
            self._modes.append((path, mode & _PERMISSIONS))

    def _make(self, path: str) -> None:
        above, _, name = path.rpartition("/")
        _check(path, name)
        if above not in self._directories:
            self._make(above)
        if path in self._others:
            raise ParseError(path, "a path to go through: it is a file or a link")
        os.mkdir(path, 0o755, dir_fd=self._fd)
        self._directories.add(path)

    def file(self, path: str, content: bytes, mode: int = 0o644) -> None:
        """Make a regular file, with the permission bits of a mode.

        Raises:
            ParseError: the path leads out, through something else, or is taken.
        """
        self._take(path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(path, flags, 0o600, dir_fd=self._fd)
        try:
            while content:
                content = content[os.write(fd, content) :]
            os.fchmod(fd, mode & _PERMISSIONS)
        finally:
            os.close(fd)

    def link(self, path: str, target: str) -> None:
        """Make a symbolic link with this text, wherever it points.

        Raises:
            ParseError: as for :meth:`file`; or the target cannot be that of a link.
        """
        if not target or "\0" in target or len(target) > _PATH_MAX:
            raise ParseError(target[:60], "the target of a symbolic link")
        self._take(path)
        os.symlink(target, path, dir_fd=self._fd)

    def link_to(self, path: str, target: str) -> None:
        """Make a symbolic link to another path of the tree, relative as those of sysfs are."""
        self.link(path, posixpath.relpath(target, posixpath.dirname(path)))

    def _take(self, path: str) -> None:
        above, _, name = path.rpartition("/")
        _check(path, name)
        if above not in self._directories:
            self._make(above)
        if path in self:
            raise ParseError(path, "a path that is recorded once")
        self._others.add(path)


def _check(path: str, name: str) -> None:
    """Check the last component of a path. Those above were checked when they were made."""
    if (
        path.startswith("/")
        or name in {"", ".", ".."}
        or "\0" in name
        or len(os.fsencode(name)) > _NAME_MAX
        or len(path) > _PATH_MAX
    ):
        raise ParseError(
            path[:200],
            "a path below the root: relative, not too long, without empty parts, . and ..",
        )
