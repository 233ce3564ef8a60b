"""Sequences of actions in the guest: a whole sequence is one call, with what each step did.

Each store runs in a thread of its own, so that one that blocks can be left alone; who opens devices
is another process, as a virtual machine monitor is. Called in the guest.
"""

from __future__ import annotations

import os
import subprocess
import threading
from errno import errorcode
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import attrs

from tests.kernel.lab import guest, hoststate, start, vfio_user
from tests.kernel.lab.agent import Worker
from tests.kernel.scenario import Load, Open, Store, Unload
from tests.kernel.stepping import BLOCKS, Stepper, from_plain
from tests.kernel.waiting import PATIENCE, POLL, Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from tests.kernel.scenario import Action


def run(actions: list[list[Any]], ids: list[list[str]]) -> list[dict[str, Any]]:
    """Do a sequence, bring the start back, and return the steps.

    Raises:
        RuntimeError: the start does not come back.
    """
    stepper = Stepper(host := RealHost())
    try:
        steps = [attrs.asdict(stepper.take(from_plain(action))) for action in actions]
    finally:
        host.end()
    start.restore(ids)
    return steps


class _Job:
    """What a thread is told to do."""

    def __init__(self, function: Callable[[_Job], str]) -> None:
        self.function = function
        self.outcome = ""
        self.done = threading.Event()
        self.process = ""

    def place(self) -> str:
        """Name the function of the kernel in which it waits; ``0`` when it runs."""
        try:
            with open(f"/proc/{self.process}/wchan") as file:
                return file.read()
        except OSError:
            return ""


class _Worker(threading.Thread):
    """Carries out one job after the other."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self.start()

    def run(self) -> None:
        """Work, until there is nothing more to do."""
        while (job := self.jobs.get()) is not None:
            job.process = f"self/task/{threading.get_native_id()}"
            job.outcome = job.function(job)
            job.done.set()


class RealHost:
    """The running kernel."""

    def __init__(self) -> None:
        self._blocked: list[_Job] = []
        self._workers: list[_Worker] = []
        self._free: list[_Worker] = []
        self._user = Worker([])

    def begin(self, action: Action) -> str:
        """Do an action: its outcome, or ``blocks``."""
        match action:
            case Store(path, value):
                return self._try(lambda _: _outcome(guest.store(path, value)))
            case Load(module):
                return self._try(lambda job: _modprobe(job, module))
            case Unload(module):
                return self._try(lambda job: _modprobe(job, "-r", module))
            case Open(subject, only_group):
                # Opening takes several system calls, which executors call what they like.
                return str(self._use("open_device", subject, only_group=only_group)).split()[-1]
        raise TypeError(action)

    def let_go(self) -> list[str]:
        """Close all that is open; the outcomes of what has blocked, in the order of beginning."""
        self._use("close")
        jobs, self._blocked = self._blocked, []
        for job in jobs:
            if not job.done.wait(PATIENCE):
                raise RuntimeError(f"nothing is open, yet an action waits in {job.place()}")
        return [job.outcome for job in jobs]

    def state(self, locked: Collection[str]) -> dict[str, str]:
        """Read what actions change, once that is over."""
        start.settle()
        return hoststate.read("/", locked)

    def end(self) -> None:
        """Let the threads and the user of devices go."""
        for worker in self._workers:
            worker.jobs.put(None)
        os.close(self._user.channel.fd)
        os.waitpid(self._user.pid, 0)

    def _try(self, function: Callable[[_Job], str]) -> str:
        if not self._free:
            self._workers.append(_Worker())
            self._free.append(self._workers[-1])
        worker = self._free.pop()
        job = _Job(function)
        worker.jobs.put(job)
        if self._ends(job):
            self._free.append(worker)
            return job.outcome
        self._blocked.append(job)
        return BLOCKS

    def _ends(self, job: _Job) -> bool:
        """Wait for a job, until it ends or is certain to wait for another."""
        watch = Watch(others_wait=bool(self._blocked))
        while not job.done.wait(POLL):
            if watch.is_stuck(job.place()):
                return False
        return True

    def _use(self, function: str, *arguments: str, **options: bool) -> Any:
        """Let the user of devices do something."""
        call = f"{vfio_user.__name__}:{function}"
        request = {"id": 0, "call": call, "args": arguments, "kwargs": options}
        self._user.channel.send(request)
        (answer,) = self._user.channel.receive() or ({"error": "the user of devices ended"},)
        if "error" in answer:
            raise RuntimeError(str(answer["error"]))
        return answer["result"]


def _modprobe(job: _Job, *arguments: str) -> str:
    with subprocess.Popen(
        ["modprobe", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        job.process = str(process.pid)
        return "fails" if process.wait() else "ok"


def _outcome(failed: list[str | int] | None) -> str:
    """Say what became of a store."""
    if failed is None:
        return "ok"
    phase, number = failed
    return f"{phase} {errorcode[int(number)]}"
