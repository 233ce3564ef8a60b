"""The command in a process of its own, in which one thing goes wrong.

Called in the guest of the lab, too: arguments and results are what JSON carries.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

from vfiohost._native import ffi, lib
from vfiohost.cli import main
from vfiohost.errors import KernelError, StoreTimeoutError
from vfiohost.journal import book
from vfiohost.journal.files import open_directory
from vfiohost.native import helpers
from vfiohost.sysfs import LiveKernel
from vfiohost.testing import SimulatedKernel
from vfiohost.testing.session import MARKER

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
NOTHING = ("nothing", 0)
LATE_SECONDS = 0.6
CRASHED = 99

Fault = tuple[str, int]
"""What goes wrong, and at which line of the journal or store, counted from 1."""


def run(root: str, arguments: list[str], fault: Fault = NOTHING) -> dict[str, Any]:
    """Run ``vfiohost ARGUMENTS`` with a fault in it.

    Returns:
        ``code``: the exit code, negative for a signal; ``said``: all that it printed; ``lines`` and
        ``stores``: how many lines of a journal were written and stores made up to its end.
    """
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as counted:
        child = os.fork()
        if child == 0:
            code = CRASHED
            try:
                sys.stdout = sys.stderr = said
                # What is late stores in a child of its own, whatever threads there are.
                warnings.simplefilter("ignore", DeprecationWarning)
                trap = Trap(*fault)
                trap.set()
                code = main(["--root", root, *arguments])
                json.dump({"lines": trap.lines, "stores": trap.stores}, counted)
                counted.flush()
                said.flush()
            except BaseException:  # noqa: BLE001 - this process must not go on as a second pytest
                traceback.print_exc(file=said)
                said.flush()
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        said.seek(0)
        counted.seek(0)
        counts = json.loads(counted.read() or '{"lines": 0, "stores": 0}')
        return {"code": os.waitstatus_to_exitcode(status), "said": said.read(), **counts}


def run_together(root: str, arguments: list[str], number: int) -> list[int]:
    """Run a command in many processes at once; their exit codes.

    Raises:
        AssertionError: two of them stored at the same time.
    """
    with tempfile.NamedTemporaryFile("r") as log:
        children = [_start(root, arguments, log.name) for _ in range(number)]
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        lines = log.read().splitlines()
    assert lines[::2] == [f"begin {line.split()[1]}" for line in lines[1::2]]
    return codes


def _start(root: str, arguments: list[str], log: str) -> int:
    """Start a process whose stores leave two lines each in a file."""
    child = os.fork()
    if child == 0:
        code = CRASHED
        try:
            os.nice(19)  # many at once: what is timed in other tests has to get its turn
            with open(os.devnull, "w") as nowhere, open(log, "a", buffering=1) as out:
                sys.stdout = sys.stderr = nowhere
                for kernel in (LiveKernel, SimulatedKernel):
                    setattr(kernel, "store", _logging(kernel.store, out))  # noqa: B010
                code = main(["--root", root, *arguments])
        finally:
            os._exit(code)
    return child


def _logging(real: Callable[..., None], out: TextIO) -> Callable[..., None]:
    def store(*words: Any, **options: Any) -> None:
        out.write(f"begin {os.getpid()}\n")
        try:
            real(*words, **options)
        finally:
            out.write(f"end {os.getpid()}\n")

    return store


class Trap:
    """One fault, and what counts up to it. :meth:`set` cannot be taken back: a child sets it."""

    def __init__(self, kind: str, at: int) -> None:
        self.kind = kind
        self.at = at
        self.lines = 0
        self.stores = 0
        self._counting = threading.Lock()

    def set(self) -> None:
        """Let the fault wait for its turn."""
        self._fsync, self._pwrite = os.fsync, os.pwrite
        os.fsync = self._sync  # type: ignore[assignment]
        os.pwrite = self._write  # type: ignore[assignment]
        for kernel in (LiveKernel, SimulatedKernel):
            for name in ("store", "load_module"):
                setattr(kernel, name, self._answering(getattr(kernel, name)))
        if self.kind == "read-only disk":
            vars(book)["open_directory"] = self._read_only

    # -- the journal's disk: what is on it when a write or an fsync returns ----------------------

    def _sync(self, fd: int) -> None:
        self._save(lambda: self._fsync(fd), lambda: None)

    def _write(self, fd: int, data: bytes, offset: int) -> int:
        def half() -> None:
            self._pwrite(fd, data[: len(data) // 2], offset)

        if "/journal/" not in os.readlink(f"/proc/self/fd/{fd}"):
            return self._pwrite(fd, data, offset)
        if self.kind == "full disk" and self.lines + 1 >= self.at:
            half()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self._save(lambda: self._pwrite(fd, data, offset), half)

    def _save(self, whole: Callable[[], T], half: Callable[[], None]) -> T:
        """Save a line or a name; at its turn all of it, half of it or nothing, and then die."""
        self.lines += 1
        kind = self.kind if self.lines == self.at else ""
        if kind == "kill, line torn":
            half()
        if kind in ("kill, line torn", "kill, line lost"):
            _die()
        saved = whole()
        if kind == "kill, line written":
            _die()
        return saved

    def _read_only(self, sysfs: Any, path: str, *, create: bool) -> int:
        if create:
            raise KernelError("open", errno.EROFS, sysfs.shown(path))
        return open_directory(sysfs, path, create=False)

    # -- the kernel ------------------------------------------------------------------------------

    def _answering(self, real: Callable[..., None]) -> Callable[..., None]:
        """The kernel's answer to a store or a load, with the fault in it."""

        def answer(kernel: Any, path: str, value: str = "", **options: Any) -> None:
            def work() -> None:
                real(kernel, path, *((value,) if value else ()), **options)

            with self._counting:
                self.stores += 1
                number = self.stores
            if number != self.at:
                work()
            elif self.kind.startswith("helper") and isinstance(kernel, LiveKernel) and value:
                _kill_next_helper(does_it="after" in self.kind)
                work()
            else:
                self._strike(work, kernel.sysfs.shown(path) if value else path, value)

        # LiveKernel keeps its Sysfs to itself.
        LiveKernel.sysfs = property(lambda kernel: kernel._sysfs)  # type: ignore[attr-defined]
        return answer

    def _strike(self, work: Callable[[], None], shown: str, value: str) -> None:
        kind = self.kind
        if kind == "kill before the store":
            _die()
        if kind == "kill in the store":
            _later(work)
            _die()
        if kind == "helper killed before its store":
            raise KernelError("write", errno.EINTR, shown, value)
        if kind.startswith("refused "):
            raise KernelError("write", getattr(errno, kind.split()[1]), shown, value)
        if kind == "no effect":
            return
        if kind in ("late", "late and refused"):
            pid = _later(work if kind == "late" else lambda: None)
            raise StoreTimeoutError(shown, value, pid, LATE_SECONDS)
        if kind == "SIGTERM":
            os.kill(os.getpid(), signal.SIGTERM)
        work()
        if kind == "kill after the store":
            _die()
        if kind == "helper killed after its store":
            raise KernelError("write", errno.EINTR, shown, value)


def _kill_next_helper(*, does_it: bool) -> None:
    """Let the next helper of a store be killed: before the store, or behind it, without a word."""
    ask = helpers.Helper.ask

    def asked(
        helper: helpers.Helper, request: tuple[int, ...], body: bytes, root: int, keep: int = -1
    ) -> int:
        if request[0] != lib.VH_STORE:
            return ask(helper, request, body, root, keep)
        setattr(helpers.Helper, "ask", ask)  # noqa: B010 - as below
        path, _, data = body.partition(b"\0")
        if does_it:
            lib.vh_store(root, path, data, len(data), request[1], ffi.new("int *"))
        os.kill(helper.pid, signal.SIGSTOP)
        done = ask(helper, request, body, root)
        os.kill(helper.pid, signal.SIGKILL)
        return done

    setattr(helpers.Helper, "ask", asked)  # noqa: B010 - mypy cannot follow


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _later(work: Callable[[], None]) -> int:
    """Do something in a process that outlives this one; gives its pid.

    It inherits the lock, which a store's helper and ``modprobe`` keep until they end, too.
    """
    child = os.fork()
    if child == 0:
        try:
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
            _let_go_of_simulations()
            time.sleep(LATE_SECONDS)
            work()
        except KernelError:
            pass  # refused, late
        finally:
            os._exit(0)
    return child


def _let_go_of_simulations() -> None:
    """Close what another thread had open of a simulated kernel when this process was forked."""
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{name}").endswith(f"/{MARKER}/lock"):
                os.close(int(name))
