"""Stores: the exact errno, exactly one write, and helpers that outlive whoever waits for them.

A FIFO stands for an attribute whose store blocks: opening it blocks while nobody reads it, writing
to it blocks while it is full.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gc
import math
import os
import select
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from vfiohost import native
from vfiohost.errors import KernelError, StoreTimeoutError, UnsupportedError
from vfiohost.native import helpers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BOTH = pytest.mark.parametrize("fallback", [False, True], ids=["today", "old-kernel"])


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    fd = native.open_root(str(tmp_path))
    yield fd
    os.close(fd)


class Pipe:
    """A FIFO that is full: a store to it blocks until it is drained."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        fcntl.fcntl(self.fd, fcntl.F_SETPIPE_SZ, 4096)
        self.filled = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                self.filled += os.write(self.fd, b"." * 4096)

    def drain(self) -> bytes:
        """Let the store go on, and return what it wrote."""
        assert os.read(self.fd, self.filled) == b"." * self.filled
        ready, _, _ = select.select([self.fd], [], [], 60)
        return os.read(self.fd, 4096) if ready else b""


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Pipe]:
    pipe = Pipe(tmp_path / "full")
    yield pipe
    os.close(pipe.fd)


def bounded(
    root: int, path: str, data: bytes = b"vfio-pci", *, timeout: float = 20, **options: Any
) -> None:
    arguments: dict[str, Any] = {"only_sysfs": False} | options
    helpers.store_bounded(root, path, data, timeout=timeout, shown=f"R/{path}", **arguments)


def plain(root: int, path: str, data: bytes = b"vfio-pci", *, fallback: bool = False) -> None:
    native.store(root, path, data, shown=f"R/{path}", fallback=fallback)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.005)


def is_gone(pid: int) -> bool:
    """The process has ended; somebody may still have to collect it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def open_fds() -> set[str]:
    return {fd.name for fd in Path("/proc/self/fd").iterdir()}


def targets_of(pid: int) -> list[str]:
    """What a process has open; nothing while it is still closing what it was born with."""
    try:
        return [str(fd.readlink()) for fd in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:
        return []


def waits_in(pid: int, function: str) -> bool:
    """Whether a process waits in a function of the kernel."""
    try:
        return function in Path(f"/proc/{pid}/wchan").read_text()
    except OSError:
        return False


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def blocked_store(root: int, **options: Any) -> StoreTimeoutError:
    """Start a store to the full pipe and stop waiting for it."""
    with pytest.raises(StoreTimeoutError) as caught:
        bounded(root, "full", timeout=0.1, **options)
    return caught.value


@BOTH
@pytest.mark.parametrize("store", [plain, bounded])
def test_a_store_overwrites_and_neither_makes_nor_cuts(
    root: int, tmp_path: Path, store: Callable[..., None], *, fallback: bool
) -> None:
    file = tmp_path / "attribute"
    file.write_bytes(b"0123456789")
    store(root, "attribute", b"ab\n", fallback=fallback)
    assert file.read_bytes() == b"ab\n3456789"
    with pytest.raises(KernelError) as caught:
        store(root, "none", b"ab\n", fallback=fallback)
    assert (caught.value.op, caught.value.code) == ("open", "ENOENT")
    assert (caught.value.path, caught.value.value) == ("R/none", "ab\n")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("store", [plain, bounded])
def test_the_phase_and_the_errno_are_the_kernels(
    root: int, tmp_path: Path, store: Callable[..., None]
) -> None:
    (tmp_path / "link").symlink_to("link")
    with pytest.raises(KernelError) as caught:
        store(root, "link")
    assert (caught.value.op, caught.value.code) == ("open", "ELOOP")
    device_root = native.open_root("/dev")
    try:
        with pytest.raises(KernelError) as caught:
            store(device_root, "full")  # every write to /dev/full fails
        assert (caught.value.op, caught.value.code) == ("write", "ENOSPC")
    finally:
        os.close(device_root)


@pytest.mark.parametrize("store", [plain, bounded])
def test_a_short_write_is_an_error_and_is_not_continued(
    root: int, tmp_path: Path, store: Callable[..., None]
) -> None:
    program = (
        "import resource, signal, sys; from vfiohost import errors, native\n"
        "from vfiohost.native import helpers\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (5, 5))\n"
        "root = native.open_root(sys.argv[1])\n"
        "bound = {'timeout': 20, 'only_sysfs': False} if sys.argv[2] == 'bounded' else {}\n"
        "store = helpers.store_bounded if bound else native.store\n"
        "try: store(root, 'file', b'0123456789', shown='file', **bound)\n"
        "except errors.KernelError as error: print(error.op, error.code)\n"
    )
    (tmp_path / "file").touch()
    told = subprocess.check_output(
        [sys.executable, "-c", program, str(tmp_path), store.__name__], text=True
    )
    assert told == "write EIO\n"
    assert (tmp_path / "file").read_bytes() == b"01234"


@BOTH
def test_nothing_is_written_to_what_is_no_sysfs(
    root: int, tmp_path: Path, *, fallback: bool
) -> None:
    file = tmp_path / "attribute"
    file.write_text("before")
    with pytest.raises(UnsupportedError, match="R/attribute is not on a mounted sysfs"):
        bounded(root, "attribute", only_sysfs=True, fallback=fallback)
    assert file.read_text() == "before"


@pytest.mark.skipif(not os.path.ismount("/sys"), reason="no sysfs is mounted here")
def test_a_file_of_a_live_sysfs_is_taken_for_one() -> None:
    # A read-only attribute of every kernel: the open is refused before anything is written.
    root = native.open_root("/")
    try:
        with pytest.raises(KernelError) as caught:
            bounded(root, "sys/kernel/uevent_seqnum", b"0", only_sysfs=True)
        assert caught.value.op == "open"
        assert caught.value.code in ("EACCES", "EINVAL", "EROFS")
        fd = native.open_in(root, "sys/kernel/uevent_seqnum", os.O_PATH, shown="x")
        assert native.is_sysfs(fd)
        os.close(fd)
    finally:
        os.close(root)


@BOTH
def test_a_blocked_store_is_left_alone_and_told(root: int, full: Pipe, *, fallback: bool) -> None:
    start = time.monotonic()
    error = blocked_store(root, fallback=fallback)
    assert 0.1 <= time.monotonic() - start < 5
    assert error.pid is not None
    assert not is_gone(error.pid)
    assert (error.path, error.value) == ("R/full", "vfio-pci")
    assert 0.1 <= error.timeout < 5
    assert full.drain() == b"vfio-pci"
    until(lambda: is_gone(error.pid or 0))


@pytest.mark.parametrize("timeout", [1e7, 1e300, math.inf])
def test_one_may_wait_for_ever(root: int, tmp_path: Path, timeout: float) -> None:
    (tmp_path / "attribute").touch()
    bounded(root, "attribute", timeout=timeout)
    assert (tmp_path / "attribute").read_bytes() == b"vfio-pci"


def test_an_open_that_blocks_is_bounded_too(root: int, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(StoreTimeoutError) as caught:
        bounded(root, "fifo", timeout=0.1)
    reader = os.open(tmp_path / "fifo", os.O_RDONLY)
    assert os.read(reader, 100) == b"vfio-pci"
    until(lambda: is_gone(caught.value.pid or 0))
    os.close(reader)


def test_helpers_that_were_left_are_collected_later(root: int, tmp_path: Path, full: Pipe) -> None:
    pid = blocked_store(root).pid or 0
    full.drain()
    until(lambda: is_gone(pid))
    (tmp_path / "attribute").touch()
    bounded(root, "attribute")
    assert not Path(f"/proc/{pid}").exists()
    assert pid not in helpers._left


@BOTH
def test_a_helper_keeps_no_file_of_its_caller(
    root: int, tmp_path: Path, full: Pipe, *, fallback: bool
) -> None:
    decoy = os.open(tmp_path, os.O_RDONLY)
    os.set_inheritable(decoy, True)  # noqa: FBT003
    lock = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    # Any order of the three that stay must do: the gaps between them are what is closed.
    for keep in (lock, None):
        pid = blocked_store(root, fallback=fallback, keep_fd=keep).pid or 0
        expected = {str(tmp_path), str(tmp_path / "full"), "socket"}
        if keep is not None:
            expected.add(str(tmp_path / "lock"))
        # It may not have come that far yet; what it has when it is blocked is what it keeps.
        until(lambda pid=pid, expected=expected: held_by(pid) == sorted(expected))  # type: ignore[misc]
        assert os.getsid(pid) == pid
    full.drain()
    os.close(decoy)
    os.close(lock)


def held_by(pid: int) -> list[str]:
    targets = targets_of(pid)
    return sorted("socket" if target.startswith("socket:") else target for target in targets)


def is_locked(path: Path) -> bool:
    fd = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def test_the_lock_outlives_a_caller_that_is_killed(tmp_path: Path, full: Pipe) -> None:
    program = (
        "import fcntl, os, sys; from vfiohost import native; from vfiohost.native import helpers\n"
        "root = native.open_root(sys.argv[1])\n"
        "lock = os.open(sys.argv[1] + '/lock', os.O_RDWR | os.O_CREAT)\n"
        "fcntl.flock(lock, fcntl.LOCK_EX)\n"
        "helpers.store_bounded(root, 'full', b'vfio-pci', timeout=60, keep_fd=lock,\n"
        "                     only_sysfs=False, shown='full')\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)]) as caller:
        until(lambda: bool(children(caller.pid)))
        (helper,) = children(caller.pid)
        until(lambda: has_opened(helper, tmp_path / "full"))
        caller.kill()
    assert not is_gone(helper)
    assert is_locked(tmp_path / "lock")
    assert full.drain() == b"vfio-pci"
    until(lambda: not is_locked(tmp_path / "lock"))


def has_opened(pid: int, file: Path) -> bool:
    return str(file) in targets_of(pid)


def test_a_caller_that_unlocks_unlocks_for_the_helper_too(
    root: int, tmp_path: Path, full: Pipe
) -> None:
    lock = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    blocked_store(root, keep_fd=lock)
    assert is_locked(tmp_path / "lock")
    fcntl.flock(lock, fcntl.LOCK_UN)
    assert not is_locked(tmp_path / "lock")
    assert full.drain() == b"vfio-pci"
    os.close(lock)


def test_signals_do_not_tear_a_store(root: int, full: Pipe) -> None:
    pid = blocked_store(root).pid or 0
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        os.kill(pid, number)
    time.sleep(0.05)
    assert not is_gone(pid)
    assert full.drain() == b"vfio-pci"


class Interrupted(Exception):  # noqa: N818 - raised as a signal handler of the caller would
    pass


@contextlib.contextmanager
def alarm(handler: Callable[[], None], after: float = 0.05) -> Iterator[None]:
    before = signal.signal(signal.SIGALRM, lambda *_: handler())
    signal.setitimer(signal.ITIMER_REAL, after, 0.05)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_handler_that_raises_ends_the_wait_and_not_the_store(
    root: int, full: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    receive = helpers._receive

    def interrupted(*words: Any) -> bytes | None:
        """The signal comes when the wait has begun, however long forking took."""
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        return receive(*words)

    def handler() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        raise Interrupted

    before = set(helpers._left)
    start = time.monotonic()
    monkeypatch.setattr(helpers, "_receive", interrupted)
    with alarm(handler, after=600), pytest.raises(StoreTimeoutError) as caught:
        bounded(root, "full", timeout=60)
    assert time.monotonic() - start < 10
    assert isinstance(caught.value.__cause__, Interrupted)
    assert helpers._left - before == {caught.value.pid}
    assert full.drain() == b"vfio-pci"


def test_a_handler_that_returns_lets_the_wait_go_on(root: int, full: Pipe) -> None:
    ran = []
    with alarm(lambda: ran.append(1)), pytest.raises(StoreTimeoutError) as caught:
        bounded(root, "full", timeout=60, give_up=lambda _began: len(ran) >= 3)
    assert caught.value.__cause__ is None
    full.drain()


def test_a_wait_that_is_given_up_ends(root: int, full: Pipe) -> None:
    asked = iter([False, False, True])
    start = time.monotonic()
    with pytest.raises(StoreTimeoutError) as caught:
        bounded(root, "full", timeout=60, give_up=lambda began: start <= began and next(asked))
    assert 3 * helpers.TICK <= caught.value.timeout <= time.monotonic() - start < 10
    assert caught.value.pid in helpers._left
    assert full.drain() == b"vfio-pci"


def test_nobody_is_asked_whether_to_give_up_what_does_not_wait(
    root: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(helpers, "TICK", 60.0)  # forking may take long on a busy machine
    (tmp_path / "attribute").touch()
    bounded(root, "attribute", give_up=lambda _began: 1 // 0 == 0)


@pytest.mark.usefixtures("full")
def test_a_helper_that_is_killed_while_it_stores_is_an_error(root: int) -> None:
    before = set(children(os.getpid()))

    def kill() -> None:
        until(lambda: bool(set(children(os.getpid())) - before))
        (helper,) = set(children(os.getpid())) - before
        until(lambda: waits_in(helper, "pipe_write"))
        os.kill(helper, signal.SIGKILL)

    with ThreadPoolExecutor(1) as pool:
        killing = pool.submit(kill)
        with pytest.raises(KernelError) as caught:
            bounded(root, "full", timeout=60)
        killing.result()
    assert (caught.value.op, caught.value.errno) == ("write", errno.EINTR)


@pytest.mark.usefixtures("full")
def test_a_helper_that_is_killed_before_it_stores_is_an_error(
    root: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = helpers.Helper.ask

    def killed(helper: helpers.Helper, *words: Any) -> int:
        os.kill(helper.pid, signal.SIGSTOP)
        asked = ask(helper, *words)
        os.kill(helper.pid, signal.SIGKILL)
        return asked

    monkeypatch.setattr(helpers.Helper, "ask", killed)
    with pytest.raises(KernelError) as caught:
        bounded(root, "full", timeout=60)
    assert (caught.value.op, caught.value.errno) == ("write", errno.EINTR)


@pytest.mark.usefixtures("full")
def test_a_helper_that_is_killed_before_it_is_asked_is_an_error(
    root: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = helpers.Helper.ask

    def killed(helper: helpers.Helper, *words: Any) -> int:
        os.kill(helper.pid, signal.SIGKILL)
        os.waitid(os.P_PID, helper.pid, os.WEXITED | os.WNOWAIT)
        return ask(helper, *words)

    monkeypatch.setattr(helpers.Helper, "ask", killed)
    with pytest.raises(KernelError) as caught:
        bounded(root, "full", timeout=60)
    assert (caught.value.op, caught.value.errno) == ("open", errno.EINTR)


def test_threads_store_side_by_side(root: int, tmp_path: Path) -> None:
    for number in range(40):
        (tmp_path / str(number)).touch()

    def store(number: int) -> None:
        bounded(root, str(number), str(number).encode())

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(store, range(40)))
    assert [(tmp_path / str(n)).read_text() for n in range(40)] == [str(n) for n in range(40)]


def test_no_fd_is_left_behind(root: int, tmp_path: Path, full: Pipe) -> None:
    (tmp_path / "attribute").touch()
    gc.collect()  # what earlier tests have left open is closed now, and not while it is counted
    before = open_fds()
    bounded(root, "attribute")
    blocked_store(root)
    with pytest.raises(KernelError):
        bounded(root, "none")
    assert open_fds() == before
    full.drain()
