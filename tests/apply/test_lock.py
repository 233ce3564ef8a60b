"""The lock: who holds it, who waits, what is in its file."""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.apply.fake import GPU, bind_plan
from vfiohost.errors import LockBusyError
from vfiohost.journal import LOCK_PATH, check_free, lock, locking
from vfiohost.journal.files import open_file
from vfiohost.journal.locking import Process

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.apply.conftest import Bench


def len_of_digits(number: int) -> str:
    return f"{len(str(number))} digits"


def test_who_comes_second_is_told_who_holds_it(bench: Bench) -> None:
    with (
        lock(bench.sysfs, purpose="bind 0000:65:00.0"),
        pytest.raises(LockBusyError) as caught,
        lock(bench.sysfs, purpose="another"),
    ):
        pytest.fail("two hold the lock")
    assert caught.value.path == str(bench.root / LOCK_PATH)
    assert caught.value.holder is not None
    assert caught.value.holder.startswith(f"pid {os.getpid()}, vfiohost bind 0000:65:00.0, since ")


def test_apply_says_what_it_holds_the_lock_for(bench: Bench) -> None:
    def second(_: int) -> None:
        with pytest.raises(LockBusyError, match=f"vfiohost bind {GPU}, since"):
            bench.apply(bind_plan(GPU))

    bench.kernel.before_store = second
    bench.apply(bind_plan(GPU))
    assert len(bench.kernel.log) == 4


def test_it_is_free_after_an_error(bench: Bench) -> None:
    with pytest.raises(ZeroDivisionError), lock(bench.sysfs, purpose="x"):
        raise ZeroDivisionError
    with lock(bench.sysfs, purpose="y"):
        pass
    assert (bench.root / LOCK_PATH).read_bytes() == b""


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[" * 3000,
        b'{"pid": "x"}',
        b'{"pid": 1e999, "start": 1, "purpose": "x", "since": "y"}',
        b"null",
        b'{"pid": 1}',
        b"x" * 100_000,
    ],
    ids=["nothing", "no text", "nested", "wrong type", "infinite", "null", "incomplete", "long"],
)
def test_stale_content_is_harmless(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.setattr(locking, "_MOMENT_SECONDS", 0.0)
    with lock(bench.sysfs, purpose="x"):
        (bench.root / LOCK_PATH).write_bytes(content)
        with pytest.raises(LockBusyError, match="holder unknown"), lock(bench.sysfs, purpose="y"):
            pytest.fail("two hold the lock")
    (bench.root / LOCK_PATH).write_bytes(content)
    with lock(bench.sysfs, purpose="z"):
        assert b'"purpose": "z"' in (bench.root / LOCK_PATH).read_bytes()


@pytest.mark.parametrize("pid", [-1, 0, 1 << 22 | 1, 10**300], ids=len_of_digits)
def test_a_process_that_cannot_be_has_ended(pid: int) -> None:
    assert Process.of(pid).start is None
    assert not Process(pid, 5).is_alive


def test_of_another_pid_namespace_nobody_says_that_it_has_ended(bench: Bench) -> None:
    with lock(bench.sysfs, purpose="x"):
        path = bench.root / LOCK_PATH
        holder = json.loads(path.read_text())
        assert holder["namespace"] == os.stat("/proc/self/ns/pid").st_ino
        path.write_text(json.dumps(holder | {"namespace": 1, "start": 1}))
        with pytest.raises(LockBusyError, match="of another PID namespace") as caught:
            check_free(bench.sysfs)
        assert not caught.value.has_ended
        path.write_text(json.dumps(holder | {"start": 1}))
        with pytest.raises(LockBusyError) as caught:
            check_free(bench.sysfs)
        assert caught.value.has_ended


def test_waiting_for_it(bench: Bench) -> None:
    taken, release = threading.Event(), threading.Event()

    def hold() -> None:
        with lock(bench.sysfs, purpose="x"):
            taken.set()
            release.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    assert taken.wait(10)
    begin = time.monotonic()
    with pytest.raises(LockBusyError), lock(bench.sysfs, purpose="y", wait=0.2):
        pytest.fail("two hold the lock")
    assert time.monotonic() - begin >= 0.2
    threading.Timer(0.1, release.set).start()
    with lock(bench.sysfs, purpose="y", wait=10):
        assert release.is_set()
    thread.join()


def test_who_only_looks_whether_it_is_free_is_waited_for(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the lock for a moment, shared, and says nothing of itself in the file."""
    with lock(bench.sysfs, purpose="x"):
        pass
    monkeypatch.setattr(locking, "_MOMENT_SECONDS", 60.0)
    looking = os.open(bench.root / LOCK_PATH, os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)
    threading.Timer(0.2, os.close, [looking]).start()
    with lock(bench.sysfs, purpose="y"):
        assert b'"purpose": "y"' in (bench.root / LOCK_PATH).read_bytes()


@pytest.mark.parametrize("replace", [Path.unlink, lambda path: path.with_name("x").rename(path)])
def test_a_lock_file_that_is_replaced_meanwhile_does_not_let_two_in(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, replace: Callable[[Path], object]
) -> None:
    """Who gets the lock of a file that has just lost its name locks the new one instead."""
    path = bench.root / LOCK_PATH
    opened: list[int] = []

    def open_and_lose(*args: Any, **kwargs: Any) -> int:
        fd = open_file(*args, **kwargs)
        if not opened:
            path.with_name("x").touch(0o600)
            replace(path)
        opened.append(fd)
        return fd

    monkeypatch.setattr("vfiohost.journal.locking.open_file", open_and_lose)
    with (
        lock(bench.sysfs, purpose="x"),
        pytest.raises(LockBusyError, match="vfiohost x"),
        lock(bench.sysfs, purpose="y"),
    ):
        pytest.fail("two hold the lock")
    assert len(opened) == 3
