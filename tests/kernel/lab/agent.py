"""What runs inside the guest: calls Python functions for the tests and tells what they returned.

Requests and answers are JSON objects, one a line, over a virtio port. Each request names a worker,
a process of its own that is made at the first request to it. So a call that the kernel keeps for
ever holds up its own worker alone, and a worker keeps what it has open from call to call.

Request: ``{"id": 7, "worker": "main", "call": "module:function", "args": [], "kwargs": {}}``;
``{"id": 8, "kill": "main"}``, answered when it is no more; ``{"id": 9, "place": "main"}``,
answered with the function of the kernel in which it waits. Answer: ``{"id": 7, "result": ...}``, or
``{"id": 7, "error": {"kind": ..., "message": ..., "errno": ...}}``. The agent begins with
``{"hello": RELEASE}``.
"""

from __future__ import annotations

import importlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

from tests.kernel.lab.layout import AGENT_PORT

CHUNK = 1 << 16
NEEDED = (
    "tests.kernel.lab.product",
    "tests.kernel.lab.state",
    "vfiohost.cli.changing",
    "vfiohost.cli.reading",
    "vfiohost.cli.running",
    "vfiohost.apply.run",
    "vfiohost.holders",
    "vfiohost.host_planner",
)
"""What calls need, imported once and not by each worker: that takes three seconds here."""


class Channel:
    """Lines of JSON over a file descriptor."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._rest = b""

    def send(self, message: dict[str, Any]) -> None:
        """Send one object."""
        data = memoryview(json.dumps(message).encode() + b"\n")
        while data:
            data = data[os.write(self.fd, data) :]

    def receive(self) -> list[dict[str, Any]] | None:
        """Read what has arrived: the whole objects in it, or ``None`` at the end of the channel."""
        data = os.read(self.fd, CHUNK)
        if not data:
            return None
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [json.loads(line) for line in lines]


class Worker:
    """A process that carries out calls, one after the other."""

    def __init__(self, outer: list[int]) -> None:
        ours, theirs = socket.socketpair()
        self.pid = os.fork()
        if self.pid == 0:
            # Nothing of the others' may stay open here: whose descriptors are closed is what tests
            # are about.
            for fd in (*outer, ours.fileno()):
                os.close(fd)
            serve(Channel(theirs.detach()))
        theirs.close()
        self.channel = Channel(ours.detach())
        self.pending: set[int] = set()
        self.kills: list[int] = []

    def place(self) -> str:
        """Name the function of the kernel in which it waits; ``0`` when it runs."""
        return Path(f"/proc/{self.pid}/wchan").read_text()


class Agent:
    """Hands requests to workers and answers back."""

    def __init__(self, port: int) -> None:
        self._outside = Channel(port)
        self._workers: dict[str, Worker] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(port, selectors.EVENT_READ, None)

    def run(self) -> None:
        """Serve until the end of the machine."""
        self._outside.send({"hello": os.uname().release})
        while True:
            for key, _ in self._selector.select():
                if key.data is None:
                    for request in self._outside.receive() or ():
                        self._take(request)
                else:
                    self._answer(key.data)

    def _take(self, request: dict[str, Any]) -> None:
        if "kill" in request:
            self._kill(request["kill"], request["id"])
            return
        if "place" in request:
            place = self._workers[request["place"]].place()
            self._outside.send({"id": request["id"], "result": place})
            return
        name = request["worker"]
        if name not in self._workers:
            self._workers[name] = self._start(name)
        worker = self._workers[name]
        worker.pending.add(request["id"])
        worker.channel.send(request)

    def _kill(self, name: str, number: int) -> None:
        worker = self._workers.get(name)
        if worker is None:
            self._outside.send({"id": number, "result": False})
            return
        os.kill(worker.pid, signal.SIGKILL)
        worker.kills.append(number)

    def _start(self, name: str) -> Worker:
        inside = [self._outside.fd, self._selector.fileno()]
        worker = Worker([*inside, *(other.channel.fd for other in self._workers.values())])
        self._selector.register(worker.channel.fd, selectors.EVENT_READ, name)
        return worker

    def _answer(self, name: str) -> None:
        worker = self._workers[name]
        answers = worker.channel.receive()
        if answers is None:
            self._bury(name)
            return
        for answer in answers:
            worker.pending.discard(answer["id"])
            self._outside.send(answer)

    def _bury(self, name: str) -> None:
        """Answer for a worker that has ended."""
        worker = self._workers.pop(name)
        self._selector.unregister(worker.channel.fd)
        os.close(worker.channel.fd)
        _, status = os.waitpid(worker.pid, 0)
        message = f"worker {name} ended with status {os.waitstatus_to_exitcode(status)}"
        for number in sorted(worker.pending):
            error = {"kind": "WorkerEnded", "message": message, "errno": None}
            self._outside.send({"id": number, "error": error})
        for number in worker.kills:
            self._outside.send({"id": number, "result": True})


def serve(channel: Channel) -> None:
    """Carry out calls until the agent ends; the life of a worker."""
    while (requests := channel.receive()) is not None:
        for request in requests:
            channel.send({"id": request["id"], **carry_out(request)})
    os._exit(0)


def carry_out(request: dict[str, Any]) -> dict[str, Any]:
    """Call what a request names; whatever it raises is part of the answer."""
    module, _, function = request["call"].partition(":")
    try:
        called = getattr(importlib.import_module(module), function)
        result = called(*request["args"], **request["kwargs"])
        json.dumps(result)
    except BaseException as error:  # noqa: BLE001 - a test's SystemExit is an answer, too
        return {
            "error": {
                "kind": type(error).__name__,
                "message": f"{error}\n{traceback.format_exc()}",
                "errno": getattr(error, "errno", None),
            }
        }
    return {"result": result}


def open_port() -> int:
    """Open the virtio port that the tests listen at."""
    for name in Path("/sys/class/virtio-ports").glob("*/name"):
        if name.read_text().strip() == AGENT_PORT:
            return os.open(f"/dev/{name.parent.name}", os.O_RDWR | os.O_CLOEXEC)
    raise FileNotFoundError(f"no virtio port is named {AGENT_PORT}")


def main() -> None:
    """Set the guest up and serve."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=False)
    sys.stdout.flush()
    port = open_port()
    for module in NEEDED:
        importlib.import_module(module)
    Agent(port).run()


if __name__ == "__main__":
    main()
