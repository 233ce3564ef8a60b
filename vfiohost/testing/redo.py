"""Carrying out the changes of a store on the directory, so that they can be carried out again.

A commit that a kill has cut short is finished by doing all of its operations once more, in order
(see :meth:`vfiohost.testing.tree.Tree.operations`).
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import posixpath
import shutil
import stat
from typing import TYPE_CHECKING

from vfiohost.errors import ParseError
from vfiohost.testing.tree import Folders, open_directory

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vfiohost.testing.tree import Operation


_FIELDS: dict[str, dict[str, type]] = {
    "remove": {},
    "mkdir": {"mode": int},
    "link": {"target": str},
    "fifo": {"mode": int},
    "write": {"text": str, "mode": int},
    "release": {"text": str, "mode": int},
    "append": {"text": str, "at": int},
}


def read_operations(content: bytes) -> list[Operation]:
    """Read what a caller that was killed has left to do.

    Raises:
        ParseError: it is something else: whoever may write to the directory may write this, too.
    """
    try:
        operations = json.loads(content)
    except (ValueError, RecursionError):
        raise ParseError(ascii(content[:60]), "JSON") from None
    for operation in operations if isinstance(operations, list) else [operations]:
        fields = _FIELDS.get(str(operation.get("op"))) if isinstance(operation, dict) else None
        wanted = {"op": str, "path": str} | (fields or {})
        if fields is None or not all(type(operation.get(key)) is wanted[key] for key in wanted):
            raise ParseError(repr(operation)[:60], "an operation of a simulation")
    if not isinstance(operations, list):
        raise ParseError(repr(operations)[:60], "a list of operations of a simulation")
    return operations


def check_operations(rootfd: int, operations: Sequence[Operation]) -> None:
    """Make sure that operations can be carried out inside the root, before they are promised.

    Raises:
        OSError: ENOTDIR where a symbolic link or a file stands in the way of a path.
    """
    with contextlib.closing(Folders(rootfd)) as folders:
        for path in sorted({posixpath.dirname(operation["path"]) for operation in operations}):
            with contextlib.suppress(FileNotFoundError):
                folders.at(path)


def apply_operations(rootfd: int, scratch: str, operations: Sequence[Operation]) -> None:
    """Carry out operations in order.

    Args:
        rootfd: the root that all paths are relative to.
        scratch: a directory on the same file system, relative to the root, for temporary names.
        operations: what :meth:`Tree.operations` gave.
    """
    temporary = open_directory(rootfd, scratch)
    folders = Folders(rootfd)
    try:
        for number, operation in enumerate(operations):
            if operation["op"] == "release":
                _release(operation, rootfd, temporary, f"fifo-{number}")
                continue
            parent, name = posixpath.split(operation["path"])
            try:
                _apply(operation, folders.at(parent), name, temporary)
            except FileNotFoundError:
                if operation["op"] != "remove":
                    raise
                # it went with what it was in
    finally:
        folders.close()
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
    elif kind == "fifo" and _is_fifo(parent, name):
        pass  # somebody may wait there already
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink("new", dir_fd=temporary)
        if kind == "link":
            os.symlink(operation["target"], "new", dir_fd=temporary)
        elif kind == "fifo":
            os.mkfifo("new", 0o600, dir_fd=temporary)
            os.chmod("new", operation["mode"], dir_fd=temporary)
        else:
            write_new(temporary, "new", _encode(operation["text"]), operation["mode"])
        os.rename("new", name, src_dir_fd=temporary, dst_dir_fd=parent)


def _release(operation: Operation, rootfd: int, temporary: int, kept: str) -> None:
    """Put a file in the place of a FIFO, then give its text to who waits there.

    In this order, so that nobody comes to wait at a FIFO that is not looked after any more. Under
    the name ``kept`` it can still be found if that is cut short, or its directory goes.
    """
    parent_path, name = posixpath.split(operation["path"])
    with contextlib.suppress(FileNotFoundError):
        parent = open_directory(rootfd, parent_path)
        try:
            if _is_fifo(parent, name):
                with contextlib.suppress(FileExistsError):
                    os.link(
                        name, kept, src_dir_fd=parent, dst_dir_fd=temporary, follow_symlinks=False
                    )
                _apply({**operation, "op": "write"}, parent, name, temporary)
        finally:
            os.close(parent)
    _hand_over(temporary, kept, _encode(operation["text"]))


def _hand_over(parent: int, fifo: str, content: bytes) -> None:
    """Let the readers of a FIFO go on; they read a content that fits into it.

    It is removed before it is written to: nobody may be given the content again.
    """
    flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = -1
    try:
        fd = os.open(fifo, flags, dir_fd=parent)
    except FileNotFoundError:
        return  # given already
    except OSError as error:
        if error.errno != errno.ENXIO:  # nobody reads
            raise
    os.unlink(fifo, dir_fd=parent)
    if fd >= 0:
        with contextlib.suppress(BrokenPipeError), open(fd, "wb", buffering=0) as file:
            file.write(content)


def _is_fifo(parent: int, name: str) -> bool:
    try:
        return stat.S_ISFIFO(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _append(operation: Operation, parent: int, name: str) -> None:
    flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
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
