"""``vfiohost watch`` as another process, while this one changes a simulated host."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from jsonschema.exceptions import best_match

from tests.face.support import validator
from vfiohost import Host, NotFoundError, UnsupportedError, testing
from vfiohost.watch import DriverChanged, Watcher
from vfiohost.watch.pace import AGAIN

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.face.support import Maker, Runner

A10 = "0000:65:00.0"
PATIENCE = 60.0
"""Seconds within which everything here has to happen."""


class Command(subprocess.Popen[str]):
    """A command, and the line with which it began."""

    first = ""


@contextmanager
def watching(root: Path, *words: str, **options: Any) -> Iterator[Command]:
    """``vfiohost watch`` that has begun; killed at the end if it has not ended."""
    environment = {k: v for k, v in os.environ.items() if k not in ("VFIOHOST_ROOT", "NO_COLOR")}
    with Command(
        [sys.executable, "-m", "vfiohost.cli", "--root", str(root), "watch", *words],
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options,
        env=environment,
    ) as process:
        killer = threading.Timer(PATIENCE, process.kill)
        killer.start()
        try:
            begins = process.stdout if "--json" in words else process.stderr
            assert begins is not None
            process.first = begins.readline()
            yield process
        finally:
            killer.cancel()
            process.kill()


def lines(text: str) -> list[Any]:
    """The JSON object of each line, checked against the published schema."""
    found = [json.loads(line) for line in text.splitlines()]
    for value in found:
        error = best_match(validator().iter_errors(value))
        assert error is None, f"{error.json_path}: {error.message[:300]}"
    return found


def rest(process: subprocess.Popen[str]) -> tuple[str, str]:
    """What comes on stdout and stderr up to the end. Not by communicate(), which skips buffers."""
    assert process.stdout is not None
    assert process.stderr is not None
    ended = process.stdout.read(), process.stderr.read()
    process.wait(PATIENCE)
    return ended


def told(process: subprocess.Popen[str], number: int) -> list[str]:
    """The next lines on stdout."""
    assert process.stdout is not None
    return [process.stdout.readline().rstrip("\n") for _ in range(number)]


BOUND = [
    ["nouveau", *between, "vfio-pci"]
    for between in (
        [],
        ["releasing"],
        ["none"],
        ["releasing", "none"],
        ["none", "releasing"],
        ["releasing", "none", "releasing"],
    )
]
"""The drivers of a function that is bound: looks may fall between the steps of its unbind, which
takes the link first and the uevent's DRIVER last (``__device_release_driver()``,
``drivers/base/dd.c``), between unbind and bind, and into the bind: the link was looked at before
it came, and the uevent after it had its DRIVER (``really_probe()``)."""


def until(process: subprocess.Popen[str], start: str, end: str) -> list[str]:
    """The lines on stdout up to the one with this start and end."""
    seen = [""]
    while not (seen[-1].startswith(start) and seen[-1].endswith(end)):
        seen += told(process, 1)
        assert seen[-1], seen
    return seen[1:]


def path_of(address: str, seen: list[str]) -> list[str]:
    """The drivers of a function, one after the other; each line fits the one before it."""
    steps = [line.split()[1:] for line in seen if line.startswith(address) and " -> " in line]
    assert all(before[-1] == after[0] for before, after in pairwise(steps))
    return [steps[0][0], *(step[-1] for step in steps)]


# ---- the command ------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_binding_is_told_and_a_signal_ends_it(
    run: Runner, simulated: Maker, number: signal.Signals
) -> None:
    root = simulated("a10-pair-nouveau")
    with watching(root) as process:
        assert process.first == "vfiohost: watching 21 devices; Ctrl-C ends it.\n"
        assert run("bind", A10, root=root).code == 0
        seen = until(process, f"{A10}  ", "-> vfio-pci")
        assert "vfio-pci  driver registered  module vfio_pci" in seen
        assert path_of(A10, seen) in BOUND
        process.send_signal(number)
        assert rest(process) == ("", "")
    assert process.returncode == 0


def test_json_is_one_object_on_each_line(run: Runner, simulated: Maker) -> None:
    root = simulated("few-vfs")
    with watching(root, "--json", "--count", "6", A10) as process:
        made = run("mdev", "create", "-p", A10, "-t", "A10-12Q", root=root).out.split()[0]
        created = told(process, 3)
        assert run("mdev", "remove", made, root=root).code == 0
        out, err = rest(process)
    assert (process.returncode, err) == (0, "")
    (first,) = lines(process.first)
    assert first["watching"]["devices"] == [A10]
    *changes, last = lines("\n".join([*created, out]))
    assert last == {"schema": "vfiohost/1", "command": "watch", "exit_code": 0, "problems": []}
    assert [(c["change"]["kind"], c["change"]["subject"]) for c in changes] == [
        (kind, made)
        for kind in (
            *("mdev-created", "group-changed", "driver-changed"),
            *("driver-changed", "group-changed", "mdev-removed"),
        )
    ]
    assert changes[0]["change"]["type_name"] == "NVIDIA A10-12Q"
    assert changes[0]["change"]["parent"] == "0000:65:00.4"


def test_other_devices_are_not_told(run: Runner, simulated: Maker) -> None:
    root = simulated("a10-pair-nouveau")
    with watching(root, "ca:00.0") as process:
        assert process.first == "vfiohost: watching 1 device; Ctrl-C ends it.\n"
        assert run("bind", A10, root=root).code == 0
        assert run("bind", "ca:00.0", root=root).code == 0
        seen = until(process, "0000:ca:00.0  ", "-> vfio-pci")
        assert path_of("0000:ca:00.0", seen) in BOUND
        assert all(line.startswith("0000:ca:00.0  ") for line in seen)


def test_a_driver_that_waits_for_a_guest_is_releasing(run: Runner, simulated: Maker) -> None:
    root = simulated("a10-pair-nouveau")
    kernel = testing.SimulatedKernel(root)
    assert run("bind", A10, root=root).code == 0
    with watching(root, A10) as process:
        with kernel.open_device(A10, command="qemu-guest"):
            words = ("unbind", A10, "--allow", "vfio-user", "--timeout", "0.5")
            assert run(*words, root=root).code == 6
            assert told(process, 1) == [f"{A10}  vfio-pci -> releasing"]
        assert told(process, 1) == [f"{A10}  releasing -> none"]


def test_time_that_is_over(simulated: Maker) -> None:
    root = simulated("a10-pair-nouveau")
    with watching(root, "--for", "0.3") as process:
        assert rest(process) == ("", "")
    assert process.returncode == 0
    with watching(root, "--for", "0.3", "--count", "2") as process:
        said = rest(process)
    assert said == ("", "vfiohost: 0 of 2 changes came in the 0.3 s that --for gives.\n")
    assert process.returncode == 1


def test_a_reader_that_goes_away_ends_it_quietly(run: Runner, simulated: Maker) -> None:
    root = simulated("a10-pair-nouveau")
    with watching(root) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert run("bind", A10, root=root).code == 0
        assert process.wait(PATIENCE) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_a_reader_that_has_enough_ends_it_at_once(simulated: Maker) -> None:
    """Not only when there is something to write: `vfiohost watch | grep -m 1 vfio-pci`."""
    with watching(simulated("a10-pair-nouveau"), "--for", "600", "--count", "1") as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(PATIENCE / 2) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_a_full_disk_is_said(run: Runner, simulated: Maker) -> None:
    root = simulated("a10-pair-nouveau")
    with open("/dev/full", "w") as full, watching(root, stdout=full) as process:
        assert run("bind", A10, root=root).code == 0
        assert process.stderr is not None
        said = process.stderr.read()
    assert process.returncode == 1
    assert said.startswith("vfiohost: Cannot write the output: No space left on device.")


def test_nothing_runs_while_nothing_happens(simulated: Maker) -> None:
    with watching(simulated("a10-pair-nouveau")) as process:
        before = switches_asleep(process.pid)
        time.sleep(1.0)
        assert switches(process.pid) == before
        assert process.poll() is None


def switches_asleep(pid: int) -> list[str]:
    """:func:`switches` of a process that has come to its wait, and has not just lost its turn."""
    end = time.monotonic() + PATIENCE / 2
    before = None
    while not (sleeps(pid) and switches(pid) == before):
        before = switches(pid)
        time.sleep(0.2)
        assert time.monotonic() < end
    return before


def sleeps(pid: int) -> bool:
    """Whether a process sleeps: one that a busy machine has no time for is called running."""
    with open(f"/proc/{pid}/status") as status:
        return any(line.split()[:2] == ["State:", "S"] for line in status)


def switches(pid: int) -> list[str]:
    """How often a process has run: the kernel counts each time that it stopped."""
    with open(f"/proc/{pid}/status") as status:
        return [line for line in status if "ctxt_switches" in line]


# ---- refusals ---------------------------------------------------------------------------------


def test_a_recording_does_not_change(run: Runner, recorded: Maker) -> None:
    root = recorded("a10-pair-nouveau")
    ran = run("watch", root=root)
    assert (ran.code, ran.out) == (9, "")
    assert "is a recording: nothing changes there" in ran.err
    ran = run("watch", "--json", root=root)
    assert ran.value["error"]["code"] == "unsupported"
    assert ran.out.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("nonsense",), 2, "nonsense"),
        (("10de:2236:7",), 3, "The set has 2"),
        (("/dev/nvme9n1",), 3, "/dev/nvme9n1"),
        (("--count", "0"), 2, "--count"),
        (("--count", "1.5"), 2, "--count"),
        (("--for", "nan"), 2, "--for"),
        (("--for", "1e99"), 2, "--for"),
    ],
)
def test_what_cannot_be_watched(
    run: Runner, simulated: Maker, words: tuple[str, ...], code: int, said: str
) -> None:
    ran = run("watch", *words, root=simulated("a10-pair-nouveau"))
    assert (ran.code, ran.out) == (code, "")
    assert said in ran.err


def test_what_is_not_there_yet_may_come(simulated: Maker) -> None:
    with watching(simulated("a10-pair-nouveau"), "0000:66:00.0", "--for", "0.1") as process:
        assert process.first == "vfiohost: watching 0 devices; Ctrl-C ends it.\n"


# ---- the library ------------------------------------------------------------------------------


@contextmanager
def opened(root: Path) -> Iterator[Host]:
    with Host(root, kernel=testing.SimulatedKernel(root)) as host:
        yield host


def descriptors() -> int:
    gc.collect()  # what other tests left behind counts neither before nor after
    return len(os.listdir("/proc/self/fd"))


def test_for_tells_what_was_changed_since_it_was_made(simulated: Maker) -> None:
    with opened(simulated("a10-pair-nouveau")) as host:
        before = descriptors()
        with host.watch(A10) as watcher:
            host.apply(host.plan_bind(A10))
            change = next(watcher)
            assert isinstance(change, DriverChanged)
            assert (change.before, change.after) == ("nouveau", "vfio-pci")
            assert watcher.snapshot.pci[host.select(A10)[0].address].driver == "vfio-pci"
            assert watcher.wait(timeout=0.0) == ()
        assert next(watcher, None) is None
        watcher.stop()
        assert descriptors() == before


def test_another_thread_stops_it(simulated: Maker) -> None:
    with opened(simulated("a10-pair-nouveau")) as host, host.watch() as watcher:
        threading.Timer(0.1, watcher.stop).start()
        assert list(watcher) == []


def test_async_for_and_its_cancellation(simulated: Maker) -> None:
    found: list[str] = []

    async def follow(watcher: Watcher, came: asyncio.Event) -> None:
        async for change in watcher:
            found.append(change.kind)
            came.set()

    async def main(host: Host) -> None:
        before = descriptors()
        watcher, came = host.watch(A10), asyncio.Event()
        task = asyncio.create_task(follow(watcher, came))
        await asyncio.sleep(0)
        host.apply(host.plan_bind(A10))
        async with asyncio.timeout(PATIENCE):
            await came.wait()
        assert found == ["driver-changed"]
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert descriptors() == before
        assert await anext(watcher, None) is None

    with opened(simulated("a10-pair-nouveau")) as host:
        asyncio.run(main(host))


def test_a_wait_that_is_cancelled_loses_nothing(simulated: Maker) -> None:
    async def main(host: Host) -> None:
        with host.watch(A10) as watcher:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(watcher.wait_async(), 0.1)
            assert await watcher.wait_async(timeout=0.0) == ()
            host.apply(host.plan_bind(A10))
            (change,) = await watcher.wait_async(timeout=PATIENCE)
            assert change.kind == "driver-changed"

    with opened(simulated("a10-pair-nouveau")) as host:
        asyncio.run(main(host))


def test_a_change_that_no_event_tells_is_told_soon_after_one_that_is(simulated: Maker) -> None:
    root = simulated("a10-pair-nouveau")
    with opened(root) as host, host.watch() as watcher:
        host.apply(host.plan_bind(A10))
        assert watcher.wait(timeout=PATIENCE)
        link = root / "sys/bus/pci/devices/0000:ca:00.0/driver"
        link.unlink()  # nothing of the simulation did this: it does not ring
        (change,) = watcher.wait(timeout=AGAIN + PATIENCE)
        assert (change.subject, change.kind) == ("0000:ca:00.0", "driver-changed")


def test_a_host_that_cannot_be_watched_leaves_nothing_open(recorded: Maker) -> None:
    root = recorded("a10-pair-nouveau")
    with Host(root) as host:
        before = descriptors()
        with pytest.raises(UnsupportedError, match="is a recording"):
            host.watch()
        assert descriptors() == before


def test_a_selector_that_is_wrong_leaves_nothing_open(simulated: Maker) -> None:
    with opened(simulated("a10-pair-nouveau")) as host:
        before = descriptors()
        with pytest.raises(NotFoundError):
            host.watch("10de:2236:7")
        assert descriptors() == before
