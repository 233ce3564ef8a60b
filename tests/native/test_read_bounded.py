"""Reads that may block for ever: what answers in time is there, what does not hides nothing."""

from __future__ import annotations

import errno
import os
import signal
import socket
import struct
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from vfiohost import native
from vfiohost._native import lib
from vfiohost.errors import KernelError
from vfiohost.model import Unavailable
from vfiohost.native import helpers
from vfiohost.sysfs import Sysfs

if TYPE_CHECKING:
    from collections.abc import Iterator

BOTH = pytest.mark.parametrize("fallback", [False, True], ids=["today", "old-kernel"])


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    fd = native.open_root(str(tmp_path))
    yield fd
    os.close(fd)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has nothing to do is waited for until it has ended, on a busy machine, too."""
    monkeypatch.setattr(helpers, "_ENDING", 60.0)


@BOTH
def test_each_path_has_its_answer(root: int, tmp_path: Path, *, fallback: bool) -> None:
    (tmp_path / "text").write_bytes(b"vfio-pci\n")
    (tmp_path / "empty").touch()
    (tmp_path / "most").write_bytes(b"x" * 65536)
    (tmp_path / "more").write_bytes(b"x" * 65537)
    os.mkfifo(tmp_path / "fifo")
    names = ["text", "none", "empty", "fifo", "most", ".", "more", "../../text"]
    assert helpers.read_bounded(root, names, timeout=20, fallback=fallback) == [
        b"vfio-pci\n",
        -errno.ENOENT,
        b"",
        None,
        b"x" * 65536,
        -errno.EISDIR,
        -errno.EFBIG,
        b"vfio-pci\n",
    ]


def test_many_paths_come_from_one_helper(root: int, tmp_path: Path) -> None:
    for number in range(500):
        (tmp_path / str(number)).write_text(str(number) * 100)
    answers = helpers.read_bounded(root, [str(n) for n in range(500)], timeout=20)
    assert answers == [(str(n) * 100).encode() for n in range(500)]


def test_nothing_to_read_starts_nothing(root: int) -> None:
    assert helpers.read_bounded(root, [], timeout=20) == []


class Stuck:
    """In place of the C core's helpers: such as never answer for some of their paths.

    A real one needs a kernel on which an unbind is stuck. The processes are real, so that they can
    be collected; their answers are there at once.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *stuck: bytes) -> None:
        self.real = lib
        self.stuck = stuck
        self.asked: list[list[bytes]] = []
        # Started here: a test has no time for it while what is stuck is waited for.
        self.processes = [subprocess.Popen(["/bin/sh", "-c", ":"]) for _ in range(3)]
        self.ends: list[socket.socket] = []
        self.delay = 0.0
        monkeypatch.setattr(helpers, "lib", self)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def vh_helper_start(self, _options: int, fd: Any) -> int:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.ends.append(ours)
        running = struct.pack("3i", self.real.VH_RUNNING, 0, 0)
        if self.delay:
            threading.Timer(self.delay, ours.send, [running]).start()
        else:
            ours.send(running)
        fd[0] = theirs.detach()
        return self.processes[len(self.ends) - 1].pid

    def vh_helper_ask(
        self, _fd: int, request: Any, body: bytes, _size: int, _root: int, _keep: int
    ) -> int:
        paths = body.split(b"\0")[: request.count]
        self.asked.append(paths)
        for index, path in enumerate(paths):
            if path in self.stuck:
                break
            self.answer(-1, index, path)
        return 0

    def answer(self, helper: int, index: int, content: bytes) -> None:
        self.ends[helper].send(struct.pack("3i", index, len(content), 0) + content)

    def end(self) -> None:
        for end in self.ends:
            end.close()
        for process in self.processes:
            process.wait()
        helpers._left.clear()


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stuck]:
    helper = Stuck(monkeypatch, b"b", b"d")
    yield helper
    helper.end()


def test_what_is_stuck_hides_nothing_behind_it(root: int, stuck: Stuck) -> None:
    start = time.monotonic()
    answers = helpers.read_bounded(root, ["a", "b", "c", "d", "e"], timeout=1)
    assert answers == [b"a", None, b"c", None, b"e"]
    assert stuck.asked == [[b"a", b"b", b"c", b"d", b"e"], [b"c", b"d", b"e"], [b"e"]]
    assert 1 <= time.monotonic() - start < 30


def test_the_last_one_stuck_starts_no_helper_more(root: int, stuck: Stuck) -> None:
    assert helpers.read_bounded(root, ["a", "b"], timeout=0.3) == [b"a", None]
    assert len(stuck.asked) == 1


def test_a_late_answer_counts(root: int, stuck: Stuck, monkeypatch: pytest.MonkeyPatch) -> None:
    start = stuck.vh_helper_start

    def late(*arguments: Any) -> int:
        # The lock is let go while the second helper is at work.
        if stuck.ends:
            stuck.answer(0, 1, b"late")
        return start(*arguments)

    monkeypatch.setattr(stuck, "vh_helper_start", late)
    assert helpers.read_bounded(root, ["a", "b", "c"], timeout=20) == [b"a", b"late", b"c"]


def test_a_helper_that_begins_late_is_not_taken_for_stuck(
    root: int, stuck: Stuck, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a busy machine: there the processor is waited for, and no lock."""
    monkeypatch.setattr(stuck, "delay", 0.5)
    assert helpers.read_bounded(root, ["a", "c"], timeout=0.1) == [b"a", b"c"]


def test_a_helper_that_dies_leaves_its_paths_unanswered(
    root: int, stuck: Stuck, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = stuck.vh_helper_ask

    def dying(*words: Any) -> int:
        done = ask(*words)
        stuck.ends[-1].close()
        return done

    monkeypatch.setattr(stuck, "vh_helper_ask", dying)
    begin = time.monotonic()
    assert helpers.read_bounded(root, ["a", "b"], timeout=20) == [b"a", None]
    assert time.monotonic() - begin < 15


@pytest.mark.parametrize("step", ["vh_helper_start", "vh_helper_ask"])
def test_a_helper_that_cannot_be_had_is_an_error(
    root: int, monkeypatch: pytest.MonkeyPatch, stuck: Stuck, step: str
) -> None:
    monkeypatch.setattr(stuck, step, lambda *_: -errno.EAGAIN)
    with pytest.raises(KernelError) as caught:
        helpers.read_bounded(root, ["a", "b"], timeout=20)
    assert (caught.value.op, caught.value.code) == ("read", "EAGAIN")


def test_more_paths_than_a_request_has_room_for(root: int, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("A")
    (tmp_path / "b").write_text("B")
    names = [f"{'./' * 1000}{name}" for name in "ab" * 40]
    assert sum(map(len, names)) > 2 * lib.VH_REQUEST_MAX
    assert helpers.read_bounded(root, names, timeout=20) == [b"A", b"B"] * 40


@pytest.mark.usefixtures("patient")
def test_helpers_that_are_kept_serve_again_and_end_with_it(root: int, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("A")
    pool = helpers.Helpers()
    with pool.kept():
        for _ in range(3):
            assert helpers.read_bounded(root, ["a"], timeout=20, helpers=pool) == [b"A"]
        (helper,) = pool._idle
        assert Path(f"/proc/{helper.pid}").exists()
        (kept,) = Path(f"/proc/{helper.pid}/fd").iterdir()
        assert str(kept.readlink()).startswith("socket:")
    assert not Path(f"/proc/{helper.pid}").exists()
    assert not pool._idle


@pytest.mark.usefixtures("patient")
def test_a_kept_helper_that_was_killed_is_replaced(root: int, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("A")
    pool = helpers.Helpers()
    with pool.kept():
        assert helpers.read_bounded(root, ["a"], timeout=20, helpers=pool) == [b"A"]
        (killed,) = pool._idle
        os.kill(killed.pid, signal.SIGKILL)
        os.waitid(os.P_PID, killed.pid, os.WEXITED | os.WNOWAIT)
        assert helpers.read_bounded(root, ["a"], timeout=20, helpers=pool) == [b"A"]
        (other,) = pool._idle
        assert other.pid != killed.pid
    assert not Path(f"/proc/{killed.pid}").exists()


@pytest.mark.usefixtures("patient")
def test_a_fork_of_the_caller_does_not_keep_its_helpers(root: int, tmp_path: Path) -> None:
    """As a worker of multiprocessing, which has all that was open when it was forked."""
    (tmp_path / "a").write_text("A")
    pool = helpers.Helpers()
    with pool.kept():
        assert helpers.read_bounded(root, ["a"], timeout=20, helpers=pool) == [b"A"]
        (helper,) = pool._idle
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
    try:
        assert not Path(f"/proc/{helper.pid}").exists()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_helper_that_somebody_has_stopped_is_not_waited_for(root: int, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("A")
    pool = helpers.Helpers()
    with pool.kept():
        assert helpers.read_bounded(root, ["a"], timeout=20, helpers=pool) == [b"A"]
        (stopped,) = pool._idle
        os.kill(stopped.pid, signal.SIGSTOP)
    assert stopped.pid in helpers._left
    os.kill(stopped.pid, signal.SIGCONT)
    deadline = time.monotonic() + 20
    while stopped.pid in helpers._left:  # whoever reads next collects it
        assert helpers.read_bounded(root, ["a"], timeout=20) == [b"A"]
        assert time.monotonic() < deadline


def test_a_fork_of_the_caller_has_helpers_of_its_own(root: int, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("A")
    pool = helpers.Helpers()
    with pool.kept():
        assert helpers.read_bounded(root, ["a"], timeout=20, helpers=pool) == [b"A"]
        (ours,) = pool._idle
        child = os.fork()
        if child == 0:
            try:
                read = helpers.read_bounded(root, ["a"], timeout=20, helpers=pool)
                theirs = [helper.pid for helper in pool._idle]
                os._exit(0 if read == [b"A"] and ours.pid not in theirs else 1)
            finally:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert helpers.read_bounded(root, ["a"], timeout=20, helpers=pool) == [b"A"]
        assert pool._idle == [ours]


def test_sysfs_makes_texts_of_them(tmp_path: Path, stuck: Stuck) -> None:
    with Sysfs(tmp_path) as sysfs:
        assert sysfs.read_bounded(["a", "b", "a"], timeout=0.2) == {
            "a": "a",
            "b": Unavailable(0, "device locked"),
        }


def test_sysfs_keeps_the_errno(tmp_path: Path) -> None:
    (tmp_path / "override").write_text("(null)\n")
    with Sysfs(tmp_path) as sysfs:
        assert sysfs.read_bounded(["override", "none"], timeout=20) == {
            "override": "(null)",
            "none": Unavailable(errno.ENOENT, "No such file or directory"),
        }
