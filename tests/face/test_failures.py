"""What goes wrong, and how the command says so: exit codes, sentences, JSON, no traceback."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from vfiohost import cli, testing
from vfiohost.cli.signals import GRACE
from vfiohost.journal import lock
from vfiohost.sysfs import Sysfs

ANYWAY = ("--allow", "vfio-user")

if TYPE_CHECKING:
    from tests.face.support import Maker, Runner

BIND = "*/drivers/vfio-pci/bind"


def test_a_plain_recording_is_never_written(run: Runner, recorded: Maker) -> None:
    root = recorded("few-vfs")
    for line in ("unbind 17:00.0", "bind 17:00.0", "mdev create -p 65:00.4 -t A10-12Q"):
        ran = run(*line.split(), root=root)
        assert (ran.code, ran.out) == (9, "")
        assert "is a recording" in ran.err
        assert run(*line.split(), "--json", root=root).value["error"]["code"] == "unsupported"
        assert run(*line.split(), "--dry-run", root=root).code == 0
    assert run("recover", root=root).out == "nothing to recover\n"
    assert not (root / "run/vfiohost").exists()
    assert not (root / "var").exists()


def test_a_refused_store_is_rolled_back(run: Runner, simulated: Maker) -> None:
    root = simulated("a10-pair-nouveau")
    testing.SimulatedKernel(root).refuse(BIND, errno.EBUSY)
    ran = run("bind", "65:00.0", root=root)
    assert (ran.code, ran.out) == (1, "")
    assert "EBUSY" in ran.err
    assert ran.err.count("undone") == 2
    testing.SimulatedKernel(root).refuse(BIND, errno.EBUSY)
    value = run("bind", "65:00.0", "--json", root=root).value
    assert value["error"]["code"] == "failed"
    assert value["error"]["cause"]["errno_name"] == "EBUSY"
    outcomes = [r["outcome"] for r in value["report"]["results"]]
    assert outcomes == ["undone", "undone", "failed"]
    listed = run("list", "65:00.0", "--json", root=root).value["devices"][0]
    assert listed["driver"] == "nouveau"


def test_a_missing_permission_is_exit_5(run: Runner, simulated: Maker) -> None:
    root = simulated("a10-pair-nouveau")
    testing.SimulatedKernel(root).refuse(BIND, errno.EACCES, op="open", count=None)
    ran = run("bind", "65:00.0", root=root)
    assert ran.code == 5
    assert "needs root" in ran.err
    assert run("bind", "65:00.0", "--json", root=root).value["error"]["code"] == "permission"


def test_a_failed_undo_names_the_commands(run: Runner, simulated: Maker) -> None:
    root = simulated("a10-pair-nouveau")
    kernel = testing.SimulatedKernel(root)
    kernel.refuse(BIND, errno.EIO)
    kernel.refuse("*/drivers/nouveau/bind", errno.EBUSY)
    ran = run("bind", "65:00.0", root=root)
    assert ran.code == 7
    command = f"printf %s 0000:65:00.0 > {root}/sys/bus/pci/drivers/nouveau/bind"
    assert f"  {command}\n" in ran.err
    assert run("restore", "65:00.0", root=root).out == "0000:65:00.0  none -> nouveau  group 15\n"
    kernel.refuse(BIND, errno.EIO)
    kernel.refuse("*/drivers/nouveau/bind", errno.EBUSY)
    error = run("bind", "65:00.0", "--json", root=root).value["error"]
    assert (error["code"], len(error["commands"])) == ("rollback-incomplete", 1)


def test_a_store_that_blocks_is_pending(run: Runner, simulated: Maker) -> None:
    root = simulated("a10-pair-nouveau")
    assert run("bind", "65:00.0", root=root).code == 0
    with testing.SimulatedKernel(root).open_device("0000:65:00.0"):
        ran = run("unbind", "65:00.0", *ANYWAY, "--timeout", "0.1", "--json", root=root)
        assert ran.code == 6
        assert ran.value["error"]["code"] == "pending"
        again = run("unbind", "65:00.0", *ANYWAY, "--timeout", "0.1", root=root)
        assert again.code in (4, 6)
    assert run("recover", root=root).code == 0


def test_a_host_that_is_being_changed_is_exit_8(run: Runner, simulated: Maker) -> None:
    root = simulated("a10-pair-nouveau")
    with Sysfs(root) as sysfs, lock(sysfs, purpose="a test"):
        ran = run("bind", "65:00.0", "--timeout", "0.2", root=root)
        value = run("bind", "65:00.0", "--timeout", "0.2", "--json", root=root).value
    assert ran.code == 8
    assert "a test" in ran.err
    assert value["error"]["code"] == "lock-busy"
    assert run("bind", "65:00.0", root=root).code == 0


def test_keep_going_makes_each_device_its_own(run: Runner, simulated: Maker) -> None:
    root = simulated("a10-pair-nouveau")
    testing.SimulatedKernel(root).refuse(BIND, errno.EIO)
    ran = run("bind", "10de:2236", "--keep-going", root=root)
    assert ran.code == 1
    assert ran.out.startswith("0000:ca:00.0  nouveau -> vfio-pci")
    assert ran.err.startswith("vfiohost: 0000:65:00.0: ")
    assert run("restore", "--all", root=root).code == 0
    testing.SimulatedKernel(root).refuse(BIND, errno.EIO)
    runs = run("bind", "10de:2236", "--keep-going", "--json", root=root).value["runs"]
    assert [(r["subject"], r["exit_code"]) for r in runs] == [
        ("0000:65:00.0", 1),
        ("0000:ca:00.0", 0),
    ]
    assert "error" in runs[0]
    assert "error" not in runs[1]


def test_keep_going_removes_each_mdev_on_its_own(run: Runner, simulated: Maker) -> None:
    root = simulated("mtty")
    missing = "b716be33-2f53-4a1c-9d3c-2f2a5f3e8a10"
    create = ["mdev", "create", "-p", "mtty", "-t", "mtty-1", "-n", "2", "--json"]
    uuids = [m["uuid"] for m in run(*create, root=root).value["mdevs"]]
    words = ["mdev", "remove", uuids[0], missing, uuids[1], "--keep-going"]
    shown = run(*words, "-n", "--json", root=root).value
    assert [r["dry_run"] for r in shown["runs"] if "plan" in r] == [True, True]
    ran = run(*words, root=root)
    assert ran.code == 3
    assert ran.out == f"{uuids[0]}  removed\n{uuids[1]}  removed\n"
    assert ran.err.startswith(f"vfiohost: {missing}: There is no mediated device")
    uuids = [m["uuid"] for m in run(*create, root=root).value["mdevs"]]
    words[2], words[4] = uuids
    runs = run(*words, "--json", root=root).value["runs"]
    assert [(r["subject"], r["exit_code"]) for r in runs] == [
        (uuids[0], 0),
        (missing, 3),
        (uuids[1], 0),
    ]
    assert ["error" in r for r in runs] == [False, True, False]
    assert run("mdev", "list", "--json", root=root).value["mdevs"] == []
    assert run("mdev", "remove", "x", "--keep-going", root=root).code == 2


@pytest.mark.parametrize("dry", [[], ["-n"]])
def test_each_on_its_own_as_the_schema_has_it(
    run: Runner, simulated: Maker, dry: list[str]
) -> None:
    root = simulated("few-vfs")
    for parent in ("65:00.4", "65:00.5"):
        assert run("mdev", "create", "-p", parent, "-t", "A10-12Q", root=root).code == 0
    first, second = (m["uuid"] for m in run("mdev", "list", "--json", root=root).value["mdevs"])
    for words in (
        ["vgpu", "remove", first],
        ["mdev", "remove", second],
        ["vf", "clear", "65:00.0"],
        ["vf", "clear", "65:00.0"],
        ["bind", "65:00.0"],
        ["reset", "65:00.0"],
        ["unbind", "65:00.0"],
        ["restore", "65:00.0"],
    ):
        (one,) = run(*words, "--keep-going", "--json", *dry, root=root).value["runs"]
        assert one["exit_code"] in ((0, 4) if dry else (0,)), (words, one)


def test_one_transaction_without_keep_going(run: Runner, simulated: Maker) -> None:
    root = simulated("a10-pair-nouveau")
    testing.SimulatedKernel(root).refuse("*/drivers/vfio-pci/bind", errno.EIO)
    assert run("bind", "10de:2236", root=root).code == 1
    listed = run("list", "10de:2236", "--json", root=root).value["devices"]
    assert {d["driver"] for d in listed} == {"nouveau"}


DELAY = 15.0
"""Seconds of a store that :func:`send` ends: less than those after which it is given up."""


def send(number: int, kernel: testing.SimulatedKernel) -> threading.Thread:
    """Send this process a signal as soon as a store is pending; one that is delayed ends then."""

    def shoot() -> None:
        deadline = time.monotonic() + DELAY
        while not kernel.pending:
            if time.monotonic() > deadline:
                return  # nobody may be there any more who catches it
            time.sleep(0.01)
        os.kill(os.getpid(), number)
        with kernel._simulation.session() as machine:
            for pending in machine.state.pending:
                pending.not_before = 0.0

    thread = threading.Thread(target=shoot)
    thread.start()
    return thread


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_between_steps_takes_back(number: int, run: Runner, simulated: Maker) -> None:
    root = simulated("a10-pair-nouveau")
    # The store comes back within its grace, so the signal counts between two steps.
    kernel = testing.SimulatedKernel(root)
    kernel.delay("*/drivers/nouveau/unbind", DELAY)
    handlers = signal.getsignal(number)
    thread = send(number, kernel)
    ran = run("bind", "10de:2236", root=root)
    thread.join()
    assert ran.code == 1
    assert "Interrupted" in ran.err
    assert signal.getsignal(number) == handlers
    listed = run("list", "10de:2236", "--json", root=root).value["devices"]
    assert {d["driver"] for d in listed} == {"nouveau"}


def test_what_is_taken_back_after_a_signal_has_its_time(run: Runner, simulated: Maker) -> None:
    root = simulated("a10-pair-nouveau")
    kernel = testing.SimulatedKernel(root)
    kernel.delay("*/drivers/nouveau/unbind", DELAY)
    kernel.delay("*/drivers/nouveau/bind", GRACE + 1)
    thread = send(signal.SIGINT, kernel)
    ran = run("bind", "65:00.0", root=root)
    thread.join()
    assert (ran.code, "Interrupted" in ran.err) == (1, True)
    listed = run("list", "65:00.0", "--json", root=root).value["devices"]
    assert [d["driver"] for d in listed] == ["nouveau"]


def test_a_signal_in_a_blocked_store_is_pending(run: Runner, simulated: Maker) -> None:
    root = simulated("a10-pair-nouveau")
    assert run("bind", "65:00.0", root=root).code == 0
    kernel = testing.SimulatedKernel(root)
    with kernel.open_device("0000:65:00.0"):
        thread = send(signal.SIGINT, kernel)
        began = time.monotonic()
        ran = run("unbind", "65:00.0", *ANYWAY, "--timeout", "60", root=root)
        assert time.monotonic() - began < 30
        thread.join()
    assert ran.code == 6
    assert f"`vfiohost --root {root} recover`" in ran.err


def test_ctrl_c_while_reading(
    run: Runner, recorded: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_args: object, **_options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("vfiohost.host_view.scan", interrupted)
    ran = run("list", root=recorded("mtty"))
    assert (ran.code, ran.out, ran.err) == (130, "", "vfiohost: Interrupted.\n")
    assert run("list", "--json", root=recorded("mtty")).value["error"]["code"] == "interrupted"


def test_a_bug_shows_where_it_is(
    run: Runner, recorded: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_args: object, **_options: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("vfiohost.host_view.scan", broken)
    ran = run("list", root=recorded("mtty"))
    assert ran.code == 70
    assert "Traceback" in ran.err
    assert "this is a bug in vfiohost" in ran.err
    json = run("list", "--json", root=recorded("mtty"))
    assert json.value["error"] == {"code": "internal", "message": "ZeroDivisionError: a bug"}


def command(root: Path, line: str) -> list[str]:
    return [sys.executable, "-m", "vfiohost.cli", "--root", str(root), *line.split()]


def test_a_reader_that_goes_away(recorded: Maker) -> None:
    read, write = os.pipe()
    os.close(read)
    ran = subprocess.run(
        command(recorded("a10-pair-vgpu"), "list"),
        stdout=write,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(write)
    assert (ran.returncode, ran.stderr) == (0, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this machine has no /dev/full")
def test_a_full_disk(recorded: Maker) -> None:
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run(
            command(recorded("mtty"), "list"), stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert ran.returncode == 1
    assert ran.stderr == b"vfiohost: Cannot write the output: No space left on device.\n"


def test_closed_streams(recorded: Maker) -> None:
    line = " ".join(command(recorded("mtty"), "list"))
    ran = subprocess.run(["sh", "-c", f"{line} >&- 2>&-"], check=False)
    assert ran.returncode == 0


def test_a_terminal_that_knows_ascii_only(recorded: Maker, spoilt: Maker) -> None:
    root = spoilt("a10-pair")
    (root / "usr/share/misc/pci.ids").write_text("10de  Nvidiä\n", encoding="utf-8")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    ran = subprocess.run(
        command(root, "list 65:00.0"), capture_output=True, env=environment, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, b"")
    assert b"Nvidi\\xe4" in ran.stdout


def test_main_stays_what_the_package_exports(run: Runner, recorded: Maker) -> None:
    # A submodule of that name would take its place when it is imported.
    assert run("list", root=recorded("mtty")).code == 0
    assert callable(cli.main)
