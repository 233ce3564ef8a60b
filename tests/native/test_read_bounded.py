"""Reads that may block for ever: what answers in time is there, what does not hides nothing."""

from __future__ import annotations

import errno
import os
import struct
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest

from vfiohost import native
from vfiohost._native import lib
from vfiohost.errors import KernelError
from vfiohost.model import Unavailable
from vfiohost.sysfs import Sysfs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BOTH = pytest.mark.parametrize("fallback", [False, True], ids=["today", "old-kernel"])


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    fd = native.open_root(str(tmp_path))
    yield fd
    os.close(fd)


@BOTH
def test_each_path_has_its_answer(root: int, tmp_path: Path, *, fallback: bool) -> None:
    (tmp_path / "text").write_bytes(b"vfio-pci\n")
    (tmp_path / "empty").touch()
    (tmp_path / "most").write_bytes(b"x" * 65536)
    (tmp_path / "more").write_bytes(b"x" * 65537)
    os.mkfifo(tmp_path / "fifo")
    names = ["text", "none", "empty", "fifo", "most", ".", "more", "../../text"]
    assert native.read_bounded(root, names, timeout=20, fallback=fallback) == [
        b"vfio-pci\n",
        -errno.ENOENT,
        b"",
        None,
        b"x" * 65536,
        -errno.EISDIR,
        -errno.EFBIG,
        b"vfio-pci\n",
    ]


def test_many_paths_come_through_one_pipe(root: int, tmp_path: Path) -> None:
    for number in range(500):
        (tmp_path / str(number)).write_text(str(number) * 100)
    answers = native.read_bounded(root, [str(n) for n in range(500)], timeout=20)
    assert answers == [(str(n) * 100).encode() for n in range(500)]


def test_nothing_to_read_starts_nothing(root: int) -> None:
    assert native.read_bounded(root, [], timeout=20) == []


class Stuck:
    """In place of the C core's helper: one that never answers for some of its paths.

    A real one needs a kernel on which an unbind is stuck. The process is real, so that it can be
    collected; its answers are written at once.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *stuck: bytes) -> None:
        self.real = lib
        self.stuck = stuck
        self.started: list[list[bytes]] = []
        self.processes: list[subprocess.Popen[bytes]] = []
        self.writers: list[int] = []
        monkeypatch.setattr(native, "lib", self)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def vh_read_start(self, _root: int, names: bytes, count: int, _options: int, pipe: Any) -> int:
        paths = names.split(b"\0")[:count]
        self.started.append(paths)
        reader, writer = os.pipe()
        self.writers.append(writer)
        for index, path in enumerate(paths):
            if path in self.stuck:
                break
            os.write(writer, struct.pack("ii", index, len(path)) + path)
        else:
            os.close(self.writers.pop())
        self.processes.append(subprocess.Popen(["/bin/sh", "-c", ":"]))
        pipe[0] = reader
        return self.processes[-1].pid

    def end(self) -> None:
        for writer in self.writers:
            os.close(writer)
        for process in self.processes:
            process.wait()
        native._left.clear()


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stuck]:
    helper = Stuck(monkeypatch, b"b", b"d")
    yield helper
    helper.end()


def test_what_is_stuck_hides_nothing_behind_it(root: int, stuck: Stuck) -> None:
    start = time.monotonic()
    answers = native.read_bounded(root, ["a", "b", "c", "d", "e"], timeout=0.5)
    assert answers == [b"a", None, b"c", None, b"e"]
    assert stuck.started == [[b"a", b"b", b"c", b"d", b"e"], [b"c", b"d", b"e"], [b"e"]]
    assert 0.5 <= time.monotonic() - start < 5


def test_the_last_one_stuck_starts_no_helper_more(root: int, stuck: Stuck) -> None:
    assert native.read_bounded(root, ["a", "b"], timeout=0.3) == [b"a", None]
    assert len(stuck.started) == 1


def test_a_late_answer_counts(root: int, stuck: Stuck, monkeypatch: pytest.MonkeyPatch) -> None:
    start = stuck.vh_read_start

    def late(*arguments: Any) -> int:
        # The lock is let go while the second helper is at work.
        if stuck.started:
            os.write(stuck.writers[0], struct.pack("ii", 1, 4) + b"late")
        return start(*arguments)

    monkeypatch.setattr(stuck, "vh_read_start", late)
    assert native.read_bounded(root, ["a", "b", "c"], timeout=20) == [b"a", b"late", b"c"]


def test_a_helper_that_dies_leaves_its_paths_unanswered(
    root: int, stuck: Stuck, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = stuck.vh_read_start

    def dying(root: int, names: bytes, _count: int, options: int, pipe: Any) -> int:
        return start(root, names, 1, options, pipe)

    monkeypatch.setattr(stuck, "vh_read_start", dying)
    begin = time.monotonic()
    assert native.read_bounded(root, ["a", "b"], timeout=20) == [b"a", None]
    assert time.monotonic() - begin < 5


def test_a_helper_that_cannot_be_started_is_an_error(
    root: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Stuck(monkeypatch), "vh_read_start", lambda *_: -errno.EAGAIN)
    with pytest.raises(KernelError) as caught:
        native.read_bounded(root, ["a", "b"], timeout=20)
    assert (caught.value.op, caught.value.code) == ("read", "EAGAIN")


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
