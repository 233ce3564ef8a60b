"""Waiting: for another vfiohost, for the kernel, and what a terminal shows of it."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from tests.faults import strike
from vfiohost import testing
from vfiohost.journal import lock
from vfiohost.sysfs import Sysfs
from vfiohost.testing import SimulatedKernel

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.face.support import Maker, Ran, Runner

TYPE = "sys/class/mdev_bus/mtty/mdev_supported_types/mtty-1"
CREATORS = 64
PERMITTED = ("--allow", "vfio-user")
CREATE = ("mdev", "create", "-p", "mtty", "-t", "mtty-1", "--timeout", "300")


def on_terminal(root: Path, *words: str) -> tuple[int, str]:
    """Run the command with stderr on a terminal; its exit code, and what that has got."""
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "vfiohost.cli", "--root", str(root), *words]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=follower) as process:
        os.close(follower)
        text = b""
        while chunk := read(leader):
            text += chunk
    os.close(leader)
    return process.returncode, text.decode()


def read(fd: int) -> bytes:
    try:
        return os.read(fd, 4096)
    except OSError:  # the other end of a terminal is closed (EIO)
        return b""


def test_a_terminal_shows_what_is_waited_for_on_whom_and_for_how_long(simulated: Maker) -> None:
    root = simulated("a10-pair-nouveau")
    kernel = testing.SimulatedKernel(root)
    kernel.store("sys/bus/pci/drivers/nouveau/unbind", "0000:65:00.0", timeout=1)
    assert on_terminal(root, "bind", "65:00.0")[0] == 0
    with kernel.open_device("0000:65:00.0", command="qemu-guest"):
        code, said = on_terminal(root, "unbind", "65:00.0", *PERMITTED, "--timeout", "3")
    assert code == 6
    # Each of them is shown, unless the machine has no time for it.
    line = r"vfiohost: waiting [123] s, step 1 of 1 0000:65:00\.0, in use by pid \d+ \(qemu-guest"
    assert re.search(line, said)
    assert said.index("\r\x1b[K") < said.rindex("\r\x1b[K") < said.index("has not come back")


def test_nothing_is_shown_with_quiet_or_of_a_short_wait(simulated: Maker) -> None:
    root = simulated("a10-pair-nouveau")
    kernel = testing.SimulatedKernel(root)
    kernel.delay("*/nouveau/unbind", 2)
    assert on_terminal(root, "bind", "65:00.0", "--quiet") == (0, "")
    kernel.delay("*/nouveau/unbind", 0.1)
    code, said = on_terminal(root, "bind", "ca:00.0")
    assert (code, said) == (0, "")


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set when a command has planned, and waits for the lock."""
    event = threading.Event()
    monkeypatch.setattr("vfiohost.cli.progress.Waits.begin_lock", lambda _: event.set())
    return event


def test_another_vfiohost_is_waited_for(
    run: Runner, simulated: Maker, planned: threading.Event
) -> None:
    root = simulated("a10-pair-nouveau")
    with Sysfs(root) as sysfs:
        with lock(sysfs, purpose="a test"):
            assert run("bind", "65:00.0", "--timeout", "0.3", root=root).code == 8
            planned.clear()
            bind = in_thread(lambda: run("bind", "65:00.0", root=root))
            assert planned.wait(20)
        assert bind().code == 0


def test_a_plan_is_made_again_when_its_turn_has_come(
    run: Runner, simulated: Maker, planned: threading.Event
) -> None:
    """Who waits while another takes the last instances is refused, as if it had come later."""
    root = simulated("mtty")
    with Sysfs(root) as sysfs, lock(sysfs, purpose="a test"):
        create = in_thread(lambda: run(*CREATE, root=root))
        assert planned.wait(20)
        kernel = SimulatedKernel(root)
        for number in range(capacity(root)):
            uuid = f"aaaaaaaa-0000-4000-8000-{number:012}"
            kernel.store(f"{TYPE}/create", uuid, timeout=5)
    ran = create()
    assert ran.code == 4
    assert "[no-instances]" in ran.err


def test_a_second_run_names_the_pending_store_and_makes_none(run: Runner, simulated: Maker) -> None:
    root = simulated("a10-pair-nouveau")
    assert run("bind", "65:00.0", root=root).code == 0
    kernel = SimulatedKernel(root)
    with kernel.open_device("0000:65:00.0", command="qemu-guest"):
        first = run("unbind", "65:00.0", *PERMITTED, "--timeout", "0.2", "--json", root=root)
        error = first.value["error"]
        assert (first.code, error["state"]) == (6, "releasing")
        assert error["users"] == [f"pid {kernel.holders[0].pid} (qemu-guest)"]
        stores = len(kernel.stores)
        for words in (("unbind", "65:00.0"), ("bind", "65:00.0", "--driver", "nouveau")):
            second = run(*words, *PERMITTED, root=root)
            assert second.code == 6
            assert "An earlier run still waits" in second.err
            assert "qemu-guest" in second.err
        assert run("recover", root=root).code == 6
        assert run("list", root=root).code == 0
        assert len(kernel.stores) == stores
    assert run("recover", root=root).code == 0
    assert not kernel.pending


def test_sixty_four_creations_at_once_make_exactly_the_capacity(simulated: Maker) -> None:
    root = simulated("mtty")
    room = capacity(root)
    assert 0 < room < CREATORS
    codes = strike.run_together(str(root), list(CREATE), CREATORS)
    assert sorted(codes) == [0] * room + [4] * (CREATORS - room)
    assert len(list((root / "sys/bus/mdev/devices").iterdir())) == room
    assert capacity(root) == 0


def capacity(root: Path) -> int:
    return int((root / TYPE / "available_instances").read_text())


def in_thread(work: Callable[[], Ran]) -> Callable[[], Ran]:
    """Begin something; gives what waits for its end, and says what came of it."""
    found: list[Ran] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()

    def ended() -> Ran:
        thread.join()
        return found[0]

    return ended
