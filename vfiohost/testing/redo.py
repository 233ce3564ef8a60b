"""Carrying out the changes of a store on the directory, so that they can be carried out again.

A commit that a kill has cut short is finished by doing all of its operations once more, in order
(see :meth:`vfiohost.testing.tree.Tree.operations`).
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import shutil
import stat
from typing import TYPE_CHECKING

from vfiohost.testing.tree import open_directory

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vfiohost.testing.tree import Operation


def check_operations(rootfd: int, operations: Sequence[Operation]) -> None:
    """Make sure that operations can be carried out inside the root, before they are promised.

    Raises:
        OSError: ENOTDIR where a symbolic link or a file stands in the way of a path.
    """
    for path in {posixpath.dirname(operation["path"]) for operation in operations}:
        with contextlib.suppress(FileNotFoundError):
            os.close(open_directory(rootfd, path))


def apply_operations(rootfd: int, scratch: str, operations: Sequence[Operation]) -> None:
    """Carry out operations in order.

    Args:
        rootfd: the root that all paths are relative to.
        scratch: a directory on the same file system, relative to the root, for temporary names.
        operations: what :meth:`Tree.operations` gave.
    """
    temporary = open_directory(rootfd, scratch)
    try:
        for operation in operations:
            parent_path, name = posixpath.split(operation["path"])
            try:
                parent = open_directory(rootfd, parent_path)
            except FileNotFoundError:
                if operation["op"] == "remove":
                    continue  # it went with what it was in
                raise
            try:
                _apply(operation, parent, name, temporary)
            finally:
                os.close(parent)
    finally:
        os.close(temporary)


def write_new(parent: int, name: str, content: bytes, mode: int = 0o644) -> None:
    """Write a file that does not exist yet."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(name, flags, 0o600, dir_fd=parent), "wb") as file:
        file.write(content)
        os.fchmod(file.fileno(), mode)


def _apply(operation: Operation, parent: int, name: str, temporary: int) -> None:
    kind = operation["op"]
    if kind == "mkdir":
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, operation["mode"], dir_fd=parent)
    elif kind == "remove":
        _remove(parent, name)
    elif kind == "append":
        _append(operation, parent, name)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink("new", dir_fd=temporary)
        if kind == "link":
            os.symlink(operation["target"], "new", dir_fd=temporary)
        else:
            write_new(temporary, "new", _encode(operation["text"]), operation["mode"])
        os.rename("new", name, src_dir_fd=temporary, dst_dir_fd=parent)


def _append(operation: Operation, parent: int, name: str) -> None:
    flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(name, flags, dir_fd=parent), "wb") as file:
        file.truncate(operation["at"])
        file.seek(operation["at"])
        file.write(_encode(operation["text"]))


def _remove(parent: int, name: str) -> None:
    try:
        mode = os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):
        shutil.rmtree(name, dir_fd=parent)
    else:
        os.unlink(name, dir_fd=parent)


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
