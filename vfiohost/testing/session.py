"""The marker directory of a simulation: its lock, its state, and changes that are all or nothing.

``.vfiohost-sim/`` holds ``recording.host`` (what the simulation was made of), ``state.json`` (what
sysfs does not show), ``stores.log`` (one JSON line per answer), ``lock``, and, while a change is
being made, ``redo.json``: what to do to the directory. Who takes the lock first finishes such a
change, so that a caller killed at any point leaves the host as it was before or as it is after.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
from typing import TYPE_CHECKING, Any

from vfiohost import recording
from vfiohost.errors import KernelError, ParseError, UnsupportedError
from vfiohost.testing import locked_reads
from vfiohost.testing.blueprint import Blueprint
from vfiohost.testing.dispatch import settle
from vfiohost.testing.machine import Machine
from vfiohost.testing.redo import apply_operations, check_operations, read_operations, write_new
from vfiohost.testing.state import Pending, State
from vfiohost.testing.tree import Tree, open_directory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vfiohost.sysfs import Sysfs
    from vfiohost.testing.tree import Operation

MARKER = ".vfiohost-sim"
_STATE = f"{MARKER}/state.json"
_REDO = f"{MARKER}/redo.json"
_LOG = f"{MARKER}/stores.log"
_SCRATCH = f"{MARKER}/new"


def is_marked(rootfd: int) -> bool:
    """Whether a directory carries the marker of a simulation."""
    tree = Tree(rootfd)
    try:
        return tree.kind(_STATE) == "file"
    finally:
        tree.close()


def create_marker(rootfd: int, text: str) -> None:
    """Make a directory a simulation; the marker appears complete or not at all.

    Args:
        rootfd: the directory.
        text: the recording that it was expanded from.
    """
    made = f"{MARKER}.{os.getpid()}"
    os.mkdir(made, 0o755, dir_fd=rootfd)
    marker = open_directory(rootfd, made)
    try:
        os.mkdir("new", 0o700, dir_fd=marker)
        contents = {
            "recording.host": text,
            "state.json": State().to_text(),
            "stores.log": "",
            "lock": "",
        }
        for name, content in contents.items():
            write_new(marker, name, content.encode("utf-8", "surrogateescape"))
    finally:
        os.close(marker)
    os.rename(made, MARKER, src_dir_fd=rootfd, dst_dir_fd=rootfd)


class Simulation:
    """The directory of a simulation and what is kept beside the tree.

    Args:
        sysfs: the root; it stays the caller's.

    Raises:
        UnsupportedError: it is no simulation.
    """

    def __init__(self, sysfs: Sysfs) -> None:
        self._sysfs = sysfs
        tree = Tree(sysfs.fd)
        text = tree.content(f"{MARKER}/recording.host")
        tree.close()
        if text is None or not is_marked(sysfs.fd):
            raise UnsupportedError(
                f"{sysfs.root} is no simulated host: it has no {MARKER}. Make one with "
                "`vfiohost sim`."
            )
        self._blueprint = Blueprint(recording.parse(text.decode("utf-8", "surrogateescape")))

    @contextlib.contextmanager
    def session(self) -> Iterator[Machine]:
        """The host, locked. What was changed when the block ends is committed, all or nothing.

        An exception inside the block leaves the host as it was.

        Raises:
            KernelError: EXDEV where a symbolic link stands in the way of a change; it was not
                followed.
        """
        with self._confined(), self._locked():
            tree = Tree(self._sysfs.fd)
            try:
                machine = self._machine(tree)
                before = machine.state.to_text()
                locked_reads.uncover(machine)
                _settle(machine)
                yield machine
                _settle(machine)
                locked_reads.cover(machine)
                if machine.state.to_text() != before:
                    tree.write(_STATE, machine.state.to_text())
                if machine.log:
                    tree.append(_LOG, "".join(f"{json.dumps(line)}\n" for line in machine.log))
                self._commit(tree.operations())
            finally:
                tree.close()

    def log(self) -> list[dict[str, Any]]:
        """The lines of ``stores.log``."""
        with self._confined(), self._locked():
            tree = Tree(self._sysfs.fd)
            content = tree.content(_LOG) or b""
            tree.close()
        return [json.loads(line) for line in content.splitlines()]

    def _machine(self, tree: Tree) -> Machine:
        content = tree.content(_STATE)
        if content is None:
            raise self._damaged(_STATE, "it is missing.")
        try:
            state = State.from_text(content.decode("utf-8", "surrogateescape"))
        except ParseError as error:
            raise self._damaged(_STATE, error) from error
        return Machine(tree, state, self._blueprint, _nothing())

    @contextlib.contextmanager
    def _confined(self) -> Iterator[None]:
        """Say it in the usual way when something in the directory was not followed."""
        try:
            yield
        except OSError as error:
            led_away = error.errno in (errno.ENOTDIR, errno.EISDIR, errno.ELOOP)
            if isinstance(error, KernelError) or not led_away:
                raise
            path = error.filename if isinstance(error.filename, str) else ""
            raise KernelError("open", errno.EXDEV, self._sysfs.shown(path)) from error

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock, and finish what a killed caller has begun."""
        marker = open_directory(self._sysfs.fd, MARKER)
        lock = -1
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            try:
                lock = os.open("lock", flags, 0o644, dir_fd=marker)
            except PermissionError as error:
                shown = self._sysfs.shown(f"{MARKER}/lock")
                raise KernelError("open", error.errno or 0, shown) from error
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._redo(marker)
            yield
        finally:
            if lock >= 0:
                # A process that another thread has forked meanwhile shares this open file.
                fcntl.flock(lock, fcntl.LOCK_UN)
                os.close(lock)
            os.close(marker)

    def _commit(self, operations: list[Operation]) -> None:
        if not operations:
            return
        root = self._sysfs.fd
        check_operations(root, operations)
        scratch = open_directory(root, _SCRATCH)
        marker = open_directory(root, MARKER)
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink("redo", dir_fd=scratch)
            write_new(scratch, "redo", json.dumps(operations).encode())
            os.rename("redo", "redo.json", src_dir_fd=scratch, dst_dir_fd=marker)
            try:
                self._redo(marker)
            except BaseException:  # a signal handler's, too: nobody must read a host half-way
                self._redo(marker)
                raise
        finally:
            os.close(scratch)
            os.close(marker)

    def _redo(self, marker: int) -> None:
        tree = Tree(self._sysfs.fd)
        try:
            if not tree.exists(_REDO):
                return
            content = tree.content(_REDO)
        finally:
            tree.close()
        try:
            operations = read_operations(b"" if content is None else content)
        except ParseError as error:
            raise self._damaged(_REDO, error) from error
        apply_operations(self._sysfs.fd, _SCRATCH, operations)
        os.unlink("redo.json", dir_fd=marker)

    def _damaged(self, path: str, why: object) -> UnsupportedError:
        return UnsupportedError(
            f"{self._sysfs.root} is damaged: {path}: {why} Make it again with `vfiohost sim`."
        )


def _settle(machine: Machine) -> None:
    """Let pending operations go on, and log those that end."""
    for number, answer in settle(machine):
        machine.log.append({"number": number, "errno": answer})
    machine.start(_nothing())


def _nothing() -> Pending:
    """What runs while no operation does: it holds no lock, and waits for all."""
    return Pending(0, "none", "", "")
