"""Sysfs: reads, links and listings below a root; LiveKernel: what reaches the kernel."""

from __future__ import annotations

import math
import os
import shlex
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from tests.native.trees import ordinary_user
from vfiohost import sysfs as module
from vfiohost.errors import (
    KernelError,
    LockBusyError,
    NotFoundError,
    StoreTimeoutError,
    UnsupportedError,
)
from vfiohost.journal import lock
from vfiohost.sysfs import LiveKernel, Sysfs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from vfiohost.errors import KernelOp
    from vfiohost.sysfs import Kernel


@pytest.fixture
def sysfs(tmp_path: Path) -> Iterator[Sysfs]:
    (tmp_path / "host").mkdir()
    with Sysfs(tmp_path / "host") as made:
        yield made


def error_of(call: Callable[[], object]) -> tuple[KernelOp, str]:
    with pytest.raises(KernelError) as caught:
        call()
    return caught.value.op, caught.value.code


def test_a_root_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name in ("none", "file"):
        with pytest.raises(NotFoundError, match=name):
            Sysfs(tmp_path / name)


def test_a_root_that_has_no_name_is_not_the_machine() -> None:
    """``--root "$DIR"`` with a variable that is not set must not reach the running kernel."""
    with pytest.raises(NotFoundError, match="root directory ''"):
        Sysfs("")


def test_paths_are_shown_as_they_would_be_typed(sysfs: Sysfs, tmp_path: Path) -> None:
    assert sysfs.shown("sys/bus") == f"{tmp_path}/host/sys/bus"
    with Sysfs(f"{tmp_path}/host//") as other:
        assert other.root == f"{tmp_path}/host"
    with Sysfs() as machine:
        assert machine.root == "/"
        assert machine.shown("sys/bus") == "/sys/bus"


def test_closing_twice_is_no_error(tmp_path: Path) -> None:
    made = Sysfs(tmp_path)
    fd = made.fd
    made.close()
    made.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_one_newline_is_taken_off(sysfs: Sysfs, tmp_path: Path) -> None:
    for content, text in ((b"a", "a"), (b"a\n", "a"), (b"a\n\n", "a\n"), (b"", ""), (b"\n", "")):
        (tmp_path / "host/attribute").write_bytes(content)
        assert sysfs.read("attribute") == text
        assert sysfs.read_bytes("attribute") == content


def test_what_is_no_utf8_can_be_read_and_printed(sysfs: Sysfs, tmp_path: Path) -> None:
    (tmp_path / "host/attribute").write_bytes(b"\xffv\xc3\xa4\n")
    assert sysfs.read("attribute") == "\\xffvä"
    (tmp_path / "host/link").symlink_to(os.fsdecode(b"drivers/\xff"))
    assert sysfs.link_name("link") == "\\xff"


def test_a_limit_is_a_limit(sysfs: Sysfs, tmp_path: Path) -> None:
    (tmp_path / "host/attribute").write_bytes(b"x" * 100)
    assert sysfs.read("attribute", limit=100) == "x" * 100
    assert error_of(lambda: sysfs.read("attribute", limit=99)) == ("read", "EFBIG")


def test_what_is_no_file_is_not_read(sysfs: Sysfs, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "host/fifo")
    (tmp_path / "host/folder").mkdir()
    assert error_of(lambda: sysfs.read("fifo")) == ("open", "EAGAIN")
    assert error_of(lambda: sysfs.read("folder")) == ("open", "EISDIR")
    assert error_of(lambda: sysfs.read("none")) == ("open", "ENOENT")


def test_links(sysfs: Sysfs, tmp_path: Path) -> None:
    (tmp_path / "host/link").symlink_to("../../bus/pci/drivers/vfio-pci")
    (tmp_path / "host/slash").symlink_to("../drivers/vfio-pci/")
    (tmp_path / "host/file").touch()
    assert sysfs.readlink("link") == "../../bus/pci/drivers/vfio-pci"
    assert sysfs.link_name("link") == "vfio-pci"
    assert sysfs.link_name("slash") == "vfio-pci"
    assert sysfs.link_name("none") is None
    assert error_of(lambda: sysfs.link_name("file")) == ("readlink", "EINVAL")
    assert error_of(lambda: sysfs.link_name("file/x")) == ("readlink", "ENOTDIR")


def test_listings_are_sorted(sysfs: Sysfs, tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        (tmp_path / "host" / name).touch()
    assert sysfs.listdir(".") == ["a", "b", "c"]
    assert error_of(lambda: sysfs.listdir("a")) == ("list", "ENOTDIR")
    assert error_of(lambda: sysfs.listdir("none")) == ("list", "ENOENT")


def test_a_dangling_link_exists(sysfs: Sysfs, tmp_path: Path) -> None:
    (tmp_path / "host/link").symlink_to("none")
    (tmp_path / "host/file").touch()
    assert sysfs.exists("link")
    assert not sysfs.exists("none")
    assert not sysfs.exists("file/below")


def test_one_call_tells_a_directory_from_all_else(sysfs: Sysfs, tmp_path: Path) -> None:
    (tmp_path / "host/folder").mkdir()
    (tmp_path / "host/link").symlink_to("folder")
    (tmp_path / "host/file").touch()
    (tmp_path / "host/outside").symlink_to("../..")
    os.mkfifo(tmp_path / "host/fifo")
    assert sysfs.is_directory("folder")
    assert sysfs.is_directory("link")
    assert sysfs.is_directory("outside")  # the root itself, which no link leads out of
    assert not any(map(sysfs.is_directory, ("file", "fifo", "none", "file/below", "outside/host")))
    with ordinary_user():
        assert sysfs.is_directory("folder")


def test_what_may_not_be_looked_at_is_not_called_absent(sysfs: Sysfs, tmp_path: Path) -> None:
    (tmp_path / "host/shut").mkdir(mode=0)
    with ordinary_user():
        assert error_of(lambda: sysfs.exists("shut/file")) == ("open", "EACCES")
        assert error_of(lambda: sysfs.link_name("shut/link")) == ("readlink", "EACCES")
        assert error_of(lambda: sysfs.listdir("shut")) == ("list", "EACCES")


def test_a_recording_takes_no_stores(sysfs: Sysfs, tmp_path: Path) -> None:
    (tmp_path / "host/sys").mkdir()
    (tmp_path / "host/sys/attribute").write_text("before")
    kernel: Kernel = LiveKernel(sysfs)
    assert not sysfs.is_live()
    with pytest.raises(UnsupportedError, match=r"is a recording.*vfiohost sim"):
        kernel.check_writable()
    with pytest.raises(UnsupportedError, match="not on a mounted sysfs"):
        kernel.store("sys/attribute", "after", timeout=20)
    assert (tmp_path / "host/sys/attribute").read_text() == "before"
    with pytest.raises(UnsupportedError, match="is a recording"):
        kernel.load_module("vfio_pci", timeout=20)


def test_a_root_without_sys_is_not_live(sysfs: Sysfs) -> None:
    assert not sysfs.is_live()


@pytest.mark.skipif(not os.path.ismount("/sys"), reason="no sysfs is mounted here")
def test_this_machine_is_live() -> None:
    with Sysfs() as machine:
        assert machine.is_live()
        LiveKernel(machine).check_writable()


@pytest.fixture
def modprobe(
    sysfs: Sysfs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], LiveKernel]:
    """Put a script in modprobe's place; its arguments land in the file ``called``."""
    monkeypatch.setattr(Sysfs, "is_live", lambda _: True)
    monkeypatch.setattr(module, "_modprobe", lambda: str(tmp_path / "modprobe"))

    def make(body: str) -> LiveKernel:
        called = shlex.quote(str(tmp_path / "called"))
        script = f'#!/bin/sh\necho "$LC_ALL" "$@" > {called}\n{body}\n'
        (tmp_path / "modprobe").write_text(script)
        (tmp_path / "modprobe").chmod(0o755)
        return LiveKernel(sysfs)

    return make


def test_modules_are_loaded_below_the_root(
    modprobe: Callable[[str], LiveKernel], tmp_path: Path
) -> None:
    modprobe("exit 0").load_module("vfio_pci", timeout=20)
    assert (tmp_path / "called").read_text() == f"C -d {tmp_path}/host -- vfio_pci\n"


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("modprobe: FATAL: Module x not found in directory /lib/modules/6.12", "ENOENT"),
        ("modprobe: ERROR: could not insert 'x': Operation not permitted", "EPERM"),
        ("modprobe: ERROR: could not insert 'x': Exec format error", "ENOEXEC"),
        ("modprobe: ERROR: could not insert 'x': Key was rejected by service", "EKEYREJECTED"),
        ("modprobe: something that nobody foresaw", "EIO"),
        ("", "EIO"),
    ],
)
def test_what_modprobe_says_is_passed_on(
    modprobe: Callable[[str], LiveKernel], said: str, code: str
) -> None:
    kernel = modprobe(f"echo {shlex.quote(said)} >&2; exit 1")
    with pytest.raises(KernelError) as caught:
        kernel.load_module("x", timeout=20)
    assert (caught.value.op, caught.value.code, caught.value.path) == ("load", code, "x")
    assert str(caught.value).startswith("Cannot load module x: ")
    assert str(caught.value).endswith(said)


def test_a_modprobe_that_does_not_come_back_is_left_alone(
    modprobe: Callable[[str], LiveKernel], tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "gate")
    kernel = modprobe(f"read line < {shlex.quote(str(tmp_path / 'gate'))}; exit 0")
    with pytest.raises(StoreTimeoutError) as caught:
        kernel.load_module("x", timeout=0.2)
    assert caught.value.pid is not None
    os.kill(caught.value.pid, 0)
    with (tmp_path / "gate").open("w"):
        pass
    assert_that_the_next_load_collects_it(modprobe("exit 0"))


def test_a_modprobe_that_was_left_alone_may_still_say_something(
    modprobe: Callable[[str], LiveKernel], tmp_path: Path
) -> None:
    """Nobody hears it, but it does not end of that before its work is done."""
    gate, done = tmp_path / "gate", tmp_path / "done"
    os.mkfifo(gate)
    body = f"read line < {shlex.quote(str(gate))}; echo a warning >&2"
    kernel = modprobe(f"{body}; echo one more >&2 && touch {shlex.quote(str(done))}")
    with pytest.raises(StoreTimeoutError):
        kernel.load_module("x", timeout=0.2)
    with gate.open("w"):
        pass
    deadline = time.monotonic() + 10
    while not done.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert_that_the_next_load_collects_it(modprobe("exit 0"))


def test_what_a_modprobe_leaves_running_is_not_waited_for(
    modprobe: Callable[[str], LiveKernel], tmp_path: Path
) -> None:
    """An install command of modprobe.d may start a daemon, which has the same stderr."""
    pid = tmp_path / "pid"
    modprobe(f"sleep 60 & echo $! > {shlex.quote(str(pid))}").load_module("x", timeout=20)
    os.kill(int(pid.read_text()), signal.SIGKILL)


def test_a_modprobe_whose_wait_is_interrupted_is_known_by_its_pid(
    modprobe: Callable[[str], LiveKernel],
) -> None:
    kernel = modprobe("exec sleep 30")

    def interrupt(_began: float) -> bool:
        raise KeyboardInterrupt

    kernel.give_up = interrupt
    with pytest.raises(StoreTimeoutError) as caught:
        kernel.load_module("x", timeout=60)
    assert isinstance(caught.value.__cause__, KeyboardInterrupt)
    assert caught.value.pid is not None
    os.kill(caught.value.pid, signal.SIGKILL)
    assert_that_the_next_load_collects_it(modprobe("exit 0"))


def assert_that_the_next_load_collects_it(kernel: LiveKernel) -> None:
    deadline = time.monotonic() + 10
    while module._running and time.monotonic() < deadline:
        kernel.load_module("y", timeout=20)
    assert module._running == []


def test_a_modprobe_that_cannot_be_started(
    modprobe: Callable[[str], LiveKernel], tmp_path: Path
) -> None:
    kernel = modprobe("exit 0")
    (tmp_path / "modprobe").chmod(0o644)
    with pytest.raises(KernelError) as caught:
        kernel.load_module("x", timeout=20)
    assert (caught.value.op, caught.value.code, caught.value.path) == ("load", "EACCES", "x")


def test_a_modprobe_that_is_given_up(modprobe: Callable[[str], LiveKernel]) -> None:
    kernel = modprobe("exec sleep 30")
    asked = iter([False, True])
    kernel.give_up = lambda _began: next(asked)
    with pytest.raises(StoreTimeoutError) as caught:
        kernel.load_module("x", timeout=60)
    assert caught.value.pid is not None
    assert caught.value.timeout < 20
    os.kill(caught.value.pid, signal.SIGKILL)
    assert_that_the_next_load_collects_it(modprobe("exit 0"))


LOADS = """\
import sys
from vfiohost import sysfs as module
from vfiohost.journal import lock
from vfiohost.sysfs import LiveKernel, Sysfs

module._modprobe = lambda: sys.argv[2]
Sysfs.is_live = lambda _: True
with Sysfs(sys.argv[1]) as sysfs, lock(sysfs, purpose="bind 65:00.0") as held:
    LiveKernel(sysfs).load_module("vfio_pci", timeout=60, keep_fd=held.fd)
"""


def test_a_modprobe_keeps_the_lock_of_a_caller_that_is_killed(
    modprobe: Callable[[str], LiveKernel], sysfs: Sysfs, tmp_path: Path
) -> None:
    """What it loads may take devices, so that nobody may plan and bind meanwhile."""
    os.mkfifo(tmp_path / "gate")
    modprobe(f"read line < {shlex.quote(str(tmp_path / 'gate'))}; exit 0")
    words = (sys.executable, "-c", LOADS, sysfs.root, str(tmp_path / "modprobe"))
    with subprocess.Popen(words) as caller:
        deadline = time.monotonic() + 30
        while not (tmp_path / "called").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        caller.kill()
    said = r"bind 65:00\.0.*it has ended, but a process that it has started"
    with pytest.raises(LockBusyError, match=said), lock(sysfs, purpose="a test"):
        pass
    with (tmp_path / "gate").open("w"):
        pass
    with lock(sysfs, purpose="a test", wait=30):
        pass


def test_a_modprobe_may_take_for_ever(
    modprobe: Callable[[str], LiveKernel], tmp_path: Path
) -> None:
    modprobe("exit 0").load_module("x", timeout=math.inf)
    assert (tmp_path / "called").read_text().endswith("-- x\n")


def test_a_machine_without_modprobe(sysfs: Sysfs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sysfs, "is_live", lambda _: True)
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    with pytest.raises(UnsupportedError, match="There is no modprobe on this machine"):
        LiveKernel(sysfs).load_module("vfio_pci", timeout=20)
