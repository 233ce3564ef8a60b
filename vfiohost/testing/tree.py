"""The directory that stands for the host: confined reads, and changes that are all or nothing.

Paths are relative to the root, have no leading slash and, except for :meth:`Tree.resolve`, lead
through no symbolic link: every component is opened with ``O_NOFOLLOW``, so that a link planted in
the directory never leads a read or a write out of it.

Changes are collected in memory, where later reads see them, and become a list of plain operations
that a redo log can hold (:mod:`vfiohost.testing.redo`).
"""

from __future__ import annotations

import contextlib
import errno
import os
import posixpath
import stat
from typing import Any

import attrs

_KEPT_OPEN = 64
_CONTENT_MAX = 64 << 20  # bytes: a sparse file must not fill the memory
_MAX_LINKS = 40  # MAXSYMLINKS, include/linux/namei.h
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

Operation = dict[str, Any]
"""One change of the redo log, as plain JSON values."""


@attrs.frozen
class File:
    """A regular file: its bytes and its permission bits."""

    content: bytes
    mode: int


@attrs.frozen
class Link:
    """A symbolic link: its target, as text."""

    target: str


@attrs.frozen
class Directory:
    """A directory made by a change that is not committed yet: nothing below it is on disk."""

    mode: int


@attrs.frozen
class Fifo:
    """A FIFO, at which readers wait."""

    mode: int


@attrs.frozen
class Gone:
    """Something removed by a change that is not committed yet."""


Node = File | Link | Directory | Fifo | Gone
_KINDS = {File: "file", Link: "link", Directory: "directory", Fifo: "file"}


def relative_link(link: str, target: str) -> str:
    """The text of a relative symbolic link at ``link`` that leads to ``target``."""
    return posixpath.relpath("/" + target, posixpath.dirname("/" + link))


def open_directory(rootfd: int, path: str) -> int:
    """Open a directory below another one without following any symbolic link.

    Raises:
        OSError: ENOTDIR where a component is a link or no directory, ENOENT where it is missing.
    """
    fd = os.open(".", _DIRECTORY, dir_fd=rootfd)
    for part in path.split("/") if path else ():
        try:
            below = _open_below(fd, part, path)
        finally:
            os.close(fd)
        fd = below
    return fd


def _open_below(fd: int, name: str, path: str) -> int:
    """Open a directory in another one; ``path`` is what errors name."""
    try:
        return os.open(name, _DIRECTORY, dir_fd=fd)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path) from None
        raise


class Folders:
    """Directories below a root, opened without following any symbolic link.

    From one to the next only what differs is opened: asked for in the order of their paths, each is
    opened once. Whoever removes one asks for the directory that it is in, which lets go of it.

    Args:
        rootfd: the root; it stays the caller's.
    """

    def __init__(self, rootfd: int) -> None:
        self._open = [("", os.open(".", _DIRECTORY, dir_fd=rootfd))]

    def at(self, path: str) -> int:
        """A descriptor of a directory, good until the next one is asked for.

        Raises:
            OSError: as :func:`open_directory`.
        """
        parts = ["", *path.split("/")] if path else [""]
        shared = 0
        for part, (name, _) in zip(parts, self._open, strict=False):
            if part != name:
                break
            shared += 1
        self._let_go(shared)
        for part in parts[shared:]:
            self._open.append((part, _open_below(self._open[-1][1], part, path)))
        return self._open[-1][1]

    def close(self) -> None:
        """Let go of all."""
        self._let_go(0)

    def _let_go(self, kept: int) -> None:
        while len(self._open) > kept:
            os.close(self._open.pop()[1])


def _making(path: str, node: Node) -> Operation:
    """The operation that makes a node."""
    match node:
        case File(content=content, mode=mode):
            text = content.decode("utf-8", "surrogateescape")
            return {"op": "write", "path": path, "text": text, "mode": mode}
        case Link(target=target):
            return {"op": "link", "path": path, "target": target}
        case Directory(mode=mode):
            return {"op": "mkdir", "path": path, "mode": mode}
        case Fifo(mode=mode):
            return {"op": "fifo", "path": path, "mode": mode}
        case Gone():
            return {"op": "remove", "path": path}


class Tree:
    """The directory, with the changes of the store that is being answered on top.

    Args:
        rootfd: a descriptor of the directory; it stays the caller's.
    """

    def __init__(self, rootfd: int) -> None:
        self._rootfd = rootfd
        self._open_directories: dict[str, int] = {}
        self._nodes: dict[str, Node] = {}
        self._children: dict[str, set[str]] = {}
        self._removed: set[str] = set()  # from what is on disk
        self._appended: dict[str, Operation] = {}
        self._uncovered: set[str] = set()  # FIFOs on disk, files to who asks here
        self._released: set[str] = set()  # those that go, with all that they were in

    def close(self) -> None:
        """Let go of the directories that were read."""
        while self._open_directories:
            os.close(self._open_directories.popitem()[1])

    # ---- reading ------------------------------------------------------------------------------

    def kind(self, path: str) -> str | None:
        """What stands at a path: ``file``, ``link``, ``directory``, or ``None`` for nothing.

        A FIFO, socket or device is a ``file`` here; reading it gives ``None``.
        """
        node = self._changed(path)
        if node is not None:
            return _KINDS.get(type(node))
        if path in self._open_directories:
            return "directory"
        try:
            parent, name = self._parent(path)
            mode = os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
        except (FileNotFoundError, NotADirectoryError):
            return None
        if stat.S_ISDIR(mode):
            return "directory"
        return "link" if stat.S_ISLNK(mode) else "file"

    def exists(self, path: str) -> bool:
        """Whether anything stands at a path."""
        return self.kind(path) is not None

    def mode(self, path: str) -> int:
        """The permission bits of a file that exists."""
        node = self._changed(path)
        if isinstance(node, File | Directory | Fifo):
            return node.mode
        parent, name = self._parent(path)
        return stat.S_IMODE(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)

    def text(self, path: str) -> str | None:
        """The text of a regular file without one trailing newline, or ``None`` without a file."""
        content = self.content(path)
        if content is None:
            return None
        return content.decode("utf-8", "surrogateescape").removesuffix("\n")

    def content(self, path: str) -> bytes | None:
        """The bytes of a regular file, or ``None`` when there is none."""
        node = self._changed(path)
        if node is not None:
            return node.content if isinstance(node, File) else None
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            parent, name = self._parent(path)
            fd = os.open(name, flags, dir_fd=parent)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO):
                return None
            raise
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            return None
        with open(fd, "rb") as file:
            content = file.read(_CONTENT_MAX + 1)
        if len(content) > _CONTENT_MAX:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), path)
        return content

    def target(self, path: str) -> str | None:
        """The text of a symbolic link, or ``None`` when there is none."""
        node = self._changed(path)
        if node is not None:
            return node.target if isinstance(node, Link) else None
        if path in self._open_directories:
            return None
        try:
            parent, name = self._parent(path)
            return os.readlink(name, dir_fd=parent)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EINVAL, errno.ENAMETOOLONG):
                return None
            raise

    def link_name(self, path: str) -> str | None:
        """The last component of a symbolic link's target, or ``None`` when there is no link."""
        target = self.target(path)
        return None if target is None else posixpath.basename(target)

    def listing(self, path: str) -> list[str]:
        """The names in a directory, sorted; empty when there is no directory."""
        names: set[str] = set()
        if self._changed(path) is None:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                names.update(os.listdir(self._directory(path)))
        prefix = f"{path}/" if path else ""
        for name in self._children.get(path, ()):
            if isinstance(self._nodes.get(prefix + name), Gone):
                names.discard(name)
            else:
                names.add(name)
        return sorted(names)

    def resolve(self, path: str) -> str:
        """Follow all symbolic links of a path inside the root, as the kernel would.

        Returns:
            The path without links. A ``..`` at the root stays there, and so does an absolute
            target.

        Raises:
            OSError: ENOENT, ENOTDIR or ELOOP, as open(2) gives them.
        """
        rest = [part for part in reversed(path.split("/")) if part]
        done: list[str] = []
        links = 0
        while rest:
            part = rest.pop()
            if part == ".":
                continue
            if part == "..":
                del done[-1:]
                continue
            here = "/".join([*done, part])
            target = self.target(here)
            if target is None:
                self._expect(here, path, directory=bool(rest))
                done.append(part)
                continue
            links += 1
            if links > _MAX_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            if target.startswith("/"):
                done = []
            rest.extend(piece for piece in reversed(target.split("/")) if piece)
        return "/".join(done)

    def _expect(self, here: str, path: str, *, directory: bool) -> None:
        """Raise what open(2) gives when a component is missing, or is no directory."""
        kind = self.kind(here)
        if kind is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        if directory and kind != "directory":
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)

    # ---- changing -----------------------------------------------------------------------------

    def write(self, path: str, text: str, mode: int | None = None) -> None:
        """Make a file hold a text; directories above it are made.

        Its mode stays as it is, or is 0644 for a new one.
        """
        self.mkdir(posixpath.dirname(path))
        if mode is None:
            mode = self.mode(path) if self.kind(path) == "file" else 0o644
        self._change(path, File(text.encode("utf-8", "surrogateescape"), mode))

    def link(self, path: str, target: str) -> None:
        """Make a relative symbolic link that leads to another path below the root."""
        self.link_text(path, relative_link(path, target))

    def link_text(self, path: str, text: str) -> None:
        """Make a symbolic link with exactly this text; directories above it are made."""
        self.mkdir(posixpath.dirname(path))
        self._change(path, Link(text))

    def mkdir(self, path: str, mode: int = 0o755) -> None:
        """Make a directory and its parents, where they do not exist."""
        kind = self.kind(path) if path else "directory"
        if kind == "directory":
            return
        if kind is not None:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
        self.mkdir(posixpath.dirname(path))
        self._change(path, Directory(mode))

    def remove(self, path: str) -> None:
        """Remove whatever stands at a path, with all below it; nothing there is fine."""
        if not self.exists(path):
            return
        if not isinstance(self._nodes.get(path), Directory):
            self._removed.add(path)
        gone = {fifo for fifo in self._uncovered if f"{fifo}/".startswith(f"{path}/")}
        self._uncovered -= gone
        self._released |= gone
        for below in [known for known in self._nodes if known.startswith(path + "/")]:
            del self._nodes[below]
            self._children.pop(posixpath.dirname(below), None)
        self._change(path, Gone())

    def uncover(self, path: str, text: str, mode: int) -> None:
        """Take a FIFO on disk for a file; it will be one, and who waits at the FIFO gets its text.

        That is so unless :meth:`cover` follows.
        """
        self.write(path, text, mode)
        self._uncovered.add(path)

    def cover(self, path: str) -> None:
        """Put a FIFO in the place of a file, or leave the one there that is on disk."""
        if path not in self._uncovered:
            self._change(path, Fifo(self.mode(path)))
            return
        self._uncovered.remove(path)
        del self._nodes[path]
        parent, name = posixpath.split(path)
        self._children[parent].discard(name)

    def append(self, path: str, text: str) -> None:
        """Add a text to the end of a file that exists, once in a commit; it is not read back."""
        if self.kind(path) != "file":
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
        parent, name = self._parent(path)
        size = os.stat(name, dir_fd=parent, follow_symlinks=False).st_size
        self._appended[path] = {"op": "append", "path": path, "at": size, "text": text}

    def operations(self) -> list[Operation]:
        """What to do to the directory, in order: what goes, what comes, what is added to files.

        First of all those who wait at FIFOs get what they wait for, or nothing where it goes.

        Doing a part of it and then all of it, from the beginning, is as good as doing it once:
        whatever stands where something is removed goes, and comes again if it belongs there.
        """
        files = {path: self._nodes[path] for path in sorted(self._uncovered)}
        files |= dict.fromkeys(sorted(self._released), File(b"", 0))
        releases = [{**_making(path, file), "op": "release"} for path, file in files.items()]
        removals: list[Operation] = [{"op": "remove", "path": path} for path in self._removed]
        removals.sort(key=lambda operation: operation["path"])
        made = [
            _making(path, node)
            for path, node in sorted(self._nodes.items(), key=lambda item: item[0])
            if not isinstance(node, Gone) and path not in self._uncovered
        ]
        return [*releases, *removals, *made, *self._appended.values()]

    def savepoint(self) -> tuple[Any, ...]:
        """A mark to which :meth:`roll_back` returns."""
        children = {path: set(names) for path, names in self._children.items()}
        fifos = set(self._uncovered), set(self._released)
        return dict(self._nodes), children, set(self._removed), *fifos

    def roll_back(self, savepoint: tuple[Any, ...]) -> None:
        """Forget the changes since a savepoint."""
        self._nodes, self._children, self._removed, self._uncovered, self._released = savepoint

    # ---- inner --------------------------------------------------------------------------------

    def _change(self, path: str, node: Node) -> None:
        if isinstance(node, File | Link) and self.kind(path) == "directory":
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        self._nodes[path] = node
        parent, name = posixpath.split(path)
        self._children.setdefault(parent, set()).add(name)

    def _changed(self, path: str) -> Node | None:
        """What the collected changes say about a path; ``None``: ask the directory."""
        if not self._nodes:
            return None
        node = self._nodes.get(path)
        end = path.rfind("/")
        while node is None and end > 0:
            if path[:end] in self._nodes:
                return Gone()
            end = path.rfind("/", 0, end)
        return node

    def _directory(self, path: str) -> int:
        """A descriptor of a directory on disk; kept, because what is read lies close together."""
        fd = self._open_directories.get(path)
        if fd is None:
            if len(self._open_directories) >= _KEPT_OPEN:
                self.close()
            parent, name = posixpath.split(path)
            if path:
                fd = _open_below(self._directory(parent), name, path)
            else:
                fd = open_directory(self._rootfd, "")
            self._open_directories[path] = fd
        return fd

    def _parent(self, path: str) -> tuple[int, str]:
        parent, name = posixpath.split(path)
        return self._directory(parent), name or "."
