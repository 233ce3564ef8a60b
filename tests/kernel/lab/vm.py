"""A booted machine, and calls of Python functions in it."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tests.kernel.lab.errors import GuestError, LabError, StillRunningError
from tests.kernel.lab.layout import DISK_MIB, machine_options
from tests.kernel.lab.programs import need

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.kernel.lab.images import Image

CHECKOUT = Path(__file__).parents[3]
QEMU = "qemu-system-x86_64"
BOOT_SECONDS = 180.0
CALL_SECONDS = 60.0
CONSOLE_TAIL = 60
PROCESSORS = "ALL CPUs/TCG"
"""QEMU's name for the thread that is the guest's processors."""


def version_of_qemu() -> str:
    """Name the QEMU of this computer, as ``QEMU 7.2.22``."""
    need(QEMU)
    said = subprocess.run([QEMU, "--version"], check=True, capture_output=True, text=True).stdout
    return f"QEMU {said.split()[3]}"


def boot(
    image: Image,
    options: Callable[[Path], list[str]] = machine_options,
    append: str = "intel_iommu=on iommu=pt",
) -> Machine:
    """Boot a machine, once more if it does not come up; see :class:`Machine`.

    An emulated processor that is starved can lose its way while it boots: that says nothing of what
    is tested. Twice in a row, something is wrong.
    """
    try:
        return Machine(image, options, append)
    except LabError as error:
        sys.stderr.write(f"a machine had to be booted again: {error}\n")
    return Machine(image, options, append)


class Call:
    """A call that was sent to the guest.

    Args:
        machine: where it was sent.
        number: the request's id.
        text: the call, for messages.
    """

    def __init__(self, machine: Machine, number: int, text: str) -> None:
        self._machine = machine
        self._number = number
        self._text = text

    def done(self, within: float = 0.0) -> bool:
        """Tell whether the guest answers in the given seconds."""
        return self._machine.wait(self._number, within)

    def result(self, within: float = CALL_SECONDS) -> Any:
        """Return what the function returned.

        Args:
            within: seconds to wait at most.

        Raises:
            StillRunningError: no answer in that time. The call goes on.
            GuestError: the function raised an exception.
            LabError: the machine ended.
        """
        if not self.done(within):
            raise StillRunningError(f"{self._text} gave no answer in {within:g} s")
        answer = self._machine.answers[self._number]
        if "error" in answer:
            error = answer["error"]
            raise GuestError(error["kind"], error["message"], error["errno"])
        return answer["result"]


class Machine:
    """A virtual machine with a kernel of the lab. A context manager: its end is the machine's.

    Args:
        image: what it boots.
        options: makes QEMU's options, given the folder of this run.
        append: what else the kernel's command line says.
        boot_seconds: how long it may take to come up.

    Raises:
        LabUnavailableError: QEMU is not here.
        LabError: it did not come up; the message has the end of its console.
    """

    def __init__(
        self,
        image: Image,
        options: Callable[[Path], list[str]] = machine_options,
        append: str = "intel_iommu=on iommu=pt",
        boot_seconds: float = BOOT_SECONDS,
    ) -> None:
        need(QEMU)
        self.answers: dict[int, dict[str, Any]] = {}
        self.release = ""
        self.workers: set[str] = set()
        self._numbers = itertools.count(1)
        self._rest = b""
        self._end = contextlib.ExitStack()
        try:
            self._boot(image, options, append, boot_seconds)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the machine. It has no state that would have to be saved."""
        self._end.close()

    @property
    def is_alive(self) -> bool:
        """Whether QEMU still runs: a kernel that panics ends it."""
        return self._qemu.poll() is None

    def ends(self, within: float) -> bool:
        """Tell whether the machine turns itself off in the given seconds."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._qemu.wait(timeout=within)
        return not self.is_alive

    def console(self, lines: int = CONSOLE_TAIL) -> str:
        """Return the end of what the kernel has printed on its console."""
        text = self._console.read_text(errors="replace") if self._console.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def submit(
        self, function: Callable[..., Any], *args: Any, worker: str = "main", **kwargs: Any
    ) -> Call:
        """Call a function in the guest without waiting for it.

        Args:
            function: of a module that both sides can import; it is called by its name.
            args, kwargs: its arguments, as JSON carries them.
            worker: the process in the guest that calls it. The same name is the same process, which
                carries out one call after the other and keeps what it has open.
        """
        name = f"{function.__module__}:{function.__qualname__}"
        number = next(self._numbers)
        self.workers.add(worker)
        request = {"id": number, "worker": worker, "call": name, "args": args, "kwargs": kwargs}
        self._send(request)
        return Call(self, number, f"{name}{args}")

    def call(
        self,
        function: Callable[..., Any],
        *args: Any,
        worker: str = "main",
        within: float = CALL_SECONDS,
        **kwargs: Any,
    ) -> Any:
        """Call a function in the guest and return what it returned; see :meth:`Call.result`."""
        return self.submit(function, *args, worker=worker, **kwargs).result(within)

    def kill(self, *workers: str) -> list[bool]:
        """Send SIGKILL to workers and wait for their ends. Their calls end with ``WorkerEnded``.

        What they have open is closed then, and not before.

        Returns:
            Whether there were such workers.
        """
        calls = []
        for worker in workers:
            number = next(self._numbers)
            self.workers.discard(worker)
            self._send({"id": number, "kill": worker})
            calls.append(Call(self, number, f"the kill of {worker}"))
        return [bool(call.result()) for call in calls]

    def starved(self) -> float:
        """How many seconds the guest could have run and did not: other processes had the computer.

        Its clock has gone on meanwhile. To be taken off what it measures, where that is about the
        guest's own work.
        """
        for thread in Path(f"/proc/{self._qemu.pid}/task").iterdir():
            if (thread / "comm").read_text().strip() == PROCESSORS:
                _, waiting, _ = (thread / "schedstat").read_text().split()  # nanoseconds
                return int(waiting) / 1e9
        raise LabError(f"{QEMU} has no thread {PROCESSORS!r}")

    def place_of(self, worker: str) -> str:
        """Name the function of the kernel in which a worker waits; ``0`` when it runs."""
        number = next(self._numbers)
        self._send({"id": number, "place": worker})
        return str(Call(self, number, f"the place of {worker}").result())

    def wait(self, number: int, within: float) -> bool:
        """Wait until a request is answered, and tell whether it has been in time.

        Raises:
            LabError: the machine ended; the message has the end of its console.
        """
        deadline = time.monotonic() + within
        while number not in self.answers:
            left = deadline - time.monotonic()
            if not self._receive(max(left, 0.0)) and left <= 0:
                return False
        return True

    def _boot(
        self,
        image: Image,
        options: Callable[[Path], list[str]],
        append: str,
        boot_seconds: float,
    ) -> None:
        folder = Path(self._end.enter_context(tempfile.TemporaryDirectory(prefix="vfiohost-lab-")))
        with (folder / "disk.raw").open("wb") as disk:
            disk.truncate(DISK_MIB << 20)
        self._console = folder / "console.log"
        self._log = folder / "qemu.log"
        environment = {
            "lab_modules": str(image.modules),
            "lab_checkout": str(CHECKOUT),
            "lab_python": sys.executable,
        }
        # no_timer_check: on a busy computer the kernel can find its timer too slow, and panics.
        command_line = (
            f"console=ttyS0 loglevel=5 panic=-1 oops=panic no_timer_check {append} "
            + " ".join(f"{name}={value}" for name, value in environment.items())
        )
        log = self._end.enter_context(self._log.open("wb"))
        self._qemu = subprocess.Popen(
            [
                QEMU,
                *options(folder),
                *("-kernel", str(image.kernel.image), "-initrd", str(image.initramfs)),
                *("-append", command_line),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        self._end.callback(self._stop)
        self._connect(folder)
        deadline = time.monotonic() + boot_seconds
        while not self.release:
            if not self._receive(1.0) and time.monotonic() > deadline:
                raise LabError(f"no agent after {boot_seconds:g} s:\n{self.console()}")

    def _connect(self, folder: Path) -> None:
        """Connect to the agent's port, which QEMU makes before it starts the machine."""
        self._socket = self._end.enter_context(socket.socket(socket.AF_UNIX))
        while True:
            with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
                self._socket.connect(os.fspath(folder / "agent.socket"))
                return
            if not self.is_alive:
                raise self._ended()
            time.sleep(0.05)

    def _stop(self) -> None:
        self._qemu.kill()
        self._qemu.wait()

    def _send(self, request: dict[str, Any]) -> None:
        try:
            self._socket.settimeout(CALL_SECONDS)
            self._socket.sendall(json.dumps(request).encode() + b"\n")
        except OSError as error:
            raise self._ended() from error

    def _receive(self, within: float) -> bool:
        """Read what the guest says in the given seconds; tell whether there was anything."""
        # Zero would mean non-blocking, which says "nothing" with another exception.
        self._socket.settimeout(max(within, 0.001))
        try:
            data = self._socket.recv(1 << 16)
        except TimeoutError:
            return False
        except OSError as error:
            raise self._ended() from error
        if not data:
            raise self._ended()
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if "hello" in message:
                self.release = message["hello"]
            else:
                self.answers[message["id"]] = message
        return True

    def _ended(self) -> LabError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._qemu.wait(timeout=5.0)  # its end of the socket goes first
        said = self._log.read_text(errors="replace")
        return LabError(f"the machine ended; QEMU said:\n{said}\nits console:\n{self.console()}")
