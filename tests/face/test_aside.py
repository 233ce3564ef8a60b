"""What is printed while a host is changed: no reader holds the change up, and none breaks it."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import termios
import time
from io import StringIO
from typing import TYPE_CHECKING

import pytest

from vfiohost.cli.aside import Aside
from vfiohost.journal import Journal, JournalEntry, lock
from vfiohost.sysfs import Sysfs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.face.support import Maker

DEVICES = ("65:00.0", "ca:00.0")
PATIENCE = 30.0


def filled(fd: int) -> None:
    """Write to a pipe or terminal until it takes no more."""
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_NONBLOCK)
    try:
        for size in (4096, 1):
            while True:
                try:
                    os.write(fd, b"x" * size)
                except BlockingIOError:
                    break
    finally:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags)


def drained(fd: int) -> bytes:
    """What is there to read now."""
    text = b""
    while select.select([fd], [], [], 0.2)[0]:
        try:
            chunk = os.read(fd, 65536)
        except OSError:  # the other end of a terminal is closed (EIO)
            break
        if not chunk:
            break
        text += chunk
    return text


def started(root: Path, stderr: int, *words: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "vfiohost.cli", "--root", str(root), "-v", *words]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr)


def committed(root: Path) -> list[str]:
    with Sysfs(root) as sysfs:
        entries = Journal(sysfs).entries()
    return [e.result or "open" for e in entries if isinstance(e, JournalEntry)]


def is_over_and_free(root: Path) -> None:
    """Wait until a plan was carried out and its lock released, whatever the process still does."""
    deadline = time.monotonic() + PATIENCE
    while committed(root) != ["committed"]:
        assert time.monotonic() < deadline, committed(root)
        time.sleep(0.05)
    with Sysfs(root) as sysfs, lock(sysfs, purpose="a test", wait=PATIENCE):
        pass


def full_pipe() -> tuple[int, int]:
    reader, writer = os.pipe()
    filled(writer)
    return reader, writer


def stopped_terminal() -> tuple[int, int]:
    leader, follower = pty.openpty()
    termios.tcflow(follower, termios.TCOOFF)  # what Ctrl-S does
    return leader, follower


@pytest.mark.parametrize("make", [full_pipe, stopped_terminal])
def test_a_reader_that_does_not_read_holds_no_change_up(
    simulated: Maker, make: Callable[[], tuple[int, int]]
) -> None:
    root = simulated("a10-pair-nouveau")
    reader, writer = make()
    with started(root, writer, "bind", *DEVICES) as process:
        try:
            is_over_and_free(root)
        except AssertionError:
            process.kill()
            raise
        if os.isatty(writer):
            termios.tcflow(writer, termios.TCOON)
        os.close(writer)
        text = drained(reader)
        while process.poll() is None:
            text += drained(reader)
    text += drained(reader)  # what it has said since, before it ended
    os.close(reader)
    assert process.returncode == 0
    assert text.count(b"done     printf") == 6  # unbind, override and bind of each
    assert text.index(b"nouveau/unbind") < text.index(b"vfio-pci/bind")


def test_a_reader_that_went_away_breaks_nothing(simulated: Maker) -> None:
    root = simulated("a10-pair-nouveau")
    reader, writer = os.pipe()
    os.close(reader)
    with started(root, writer, "bind", *DEVICES) as process:
        os.close(writer)
    assert (process.returncode, committed(root)) == (0, ["committed"])


def test_a_terminal_that_went_away_breaks_nothing(simulated: Maker) -> None:
    root = simulated("a10-pair-nouveau")
    leader, follower = pty.openpty()
    os.close(leader)
    with started(root, follower, "bind", *DEVICES) as process:
        os.close(follower)
    assert (process.returncode, committed(root)) == (0, ["committed"])


def test_a_background_job_is_not_stopped_under_the_lock(simulated: Maker) -> None:
    """``stty tostop``: who writes from the background is sent SIGTTOU, unless it is blocked."""
    root = simulated("a10-pair-nouveau")
    leader, follower = pty.openpty()
    settings = termios.tcgetattr(follower)
    settings[3] |= termios.TOSTOP
    termios.tcsetattr(follower, termios.TCSANOW, settings)
    session = os.fork()
    if session == 0:
        os.setsid()
        fcntl.ioctl(follower, termios.TIOCSCTTY, 0)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        job = os.fork()
        if job == 0:
            os.setpgid(0, 0)
            os.dup2(follower, 2)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            words = ("-m", "vfiohost.cli", "--root", str(root), "-v", "bind", *DEVICES)
            os.execv(sys.executable, (sys.executable, *words))
        os.waitpid(job, os.WUNTRACED)
        os.kill(job, signal.SIGKILL)
        os._exit(0)
    try:
        is_over_and_free(root)
    finally:
        os.waitpid(session, 0)
        text = drained(leader)
        os.close(follower)
        os.close(leader)
    assert text.count(b"done     printf") == 6


@pytest.fixture
def pipe() -> Iterator[tuple[int, Aside]]:
    """The reading end of a full pipe, and what speaks into it."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    filled(writer)
    with os.fdopen(writer, "w") as stream:
        yield reader, Aside(stream)
    os.close(reader)


def test_what_is_not_taken_comes_later_in_order(pipe: tuple[int, Aside]) -> None:
    reader, aside = pipe
    aside.say("one\n")
    assert not aside.show("never")
    assert set(drained(reader)) == {ord("x")}
    aside.say("two\n")
    assert drained(reader) == b"one\ntwo\n"
    assert aside.show("now")
    assert drained(reader) == b"now"


def test_what_is_kept_has_a_bound_and_whole_lines(pipe: tuple[int, Aside]) -> None:
    reader, aside = pipe
    line = "a" * 99 + "\n"
    for _ in range(10_000):
        aside.say(line)
    child = os.fork()
    if child == 0:
        aside.finish()
        os._exit(0)
    text = b""
    while not os.waitpid(child, os.WNOHANG)[0]:
        text += drained(reader)
    text += drained(reader)
    kept = text.lstrip(b"x")
    assert kept == line.encode() * (len(kept) // 100)
    assert 1000 < len(kept) // 100 < 10_000


def test_a_socket_takes_what_it_takes() -> None:
    mine, theirs = socket.socketpair()
    with mine, theirs, os.fdopen(os.dup(theirs.fileno()), "w") as stream:
        filled(theirs.fileno())
        aside = Aside(stream)
        aside.say("one\n")
        assert set(drained(mine.fileno())) == {ord("x")}
        aside.say("two\n")
        assert drained(mine.fileno()) == b"one\ntwo\n"


def test_other_streams(tmp_path: Path) -> None:
    text = StringIO()
    Aside(text).say("é\n")
    assert text.getvalue() == "é\n"
    Aside(None).say("nobody\n")
    with (tmp_path / "log").open("w", encoding="ascii") as file:
        aside = Aside(file)
        aside.say("é\n")
        aside.say("two\n")
        aside.finish()
    assert (tmp_path / "log").read_text() == "\\xe9\ntwo\n"
    aside.say("closed\n")
    aside.finish()
