"""State files that are not what they should be: each gets a defined answer, none is followed."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.apply.fake import GPU, OTHER_GPU, Fault, bind_plan
from tests.apply.test_crash import crash
from vfiohost.errors import (
    ApplyError,
    KernelError,
    LockBusyError,
    PendingError,
    UnsupportedError,
)
from vfiohost.journal import LOCK_PATH, DamagedJournal, Event, book, lock

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.apply.conftest import Bench
    from vfiohost.plan.types import Plan

JOURNALS = "var/lib/vfiohost/journal"
NAME = "20250102T030405.000006Z-89abcdef.jsonl"


def refused(bench: Bench, pattern: str) -> None:
    """The plan is refused with this sentence, and nothing was stored."""
    before = bench.state()
    with pytest.raises(UnsupportedError, match=pattern):
        bench.apply(bind_plan(GPU))
    # A module is loaded after the journal is open, so its absence shows that nothing was done.
    assert bench.kernel.log == []
    assert bench.state() == before


def failure(bench: Bench, plan: Plan) -> ApplyError | None:
    """How a plan failed, or ``None`` when it was carried out."""
    try:
        bench.apply(plan)
    except ApplyError as error:
        return error
    return None


def rolled_back(bench: Bench, pattern: str) -> None:
    """The plan fails with this sentence, before the first store."""
    with pytest.raises(ApplyError, match=pattern):
        bench.apply(bind_plan(GPU))
    assert bench.kernel.log == []


@pytest.mark.parametrize("where", ["run/vfiohost", "var/lib/vfiohost", JOURNALS])
@pytest.mark.parametrize("target", ["inside", "outside", "nowhere"])
def test_a_symbolic_link_instead_of_our_directory(
    bench: Bench, tmp_path_factory: pytest.TempPathFactory, where: str, target: str
) -> None:
    inside, outside = bench.root / "inside", tmp_path_factory.mktemp("outside")
    inside.mkdir()
    path = bench.root / where
    path.parent.mkdir(parents=True, mode=0o700)
    path.symlink_to({"inside": "/inside", "outside": str(outside)}.get(target, "nowhere"))
    with pytest.raises(UnsupportedError, match="is a symbolic link where a directory should be"):
        bench.apply(bind_plan(GPU))
    assert bench.kernel.log == []
    assert not list(inside.iterdir())
    assert not list(outside.iterdir())


def test_leading_directories_may_be_links_but_stay_inside_the_root(
    bench: Bench, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    inside = bench.root / str(outside).lstrip("/")
    inside.mkdir(parents=True)
    (bench.root / "var").mkdir(exist_ok=True)  # temporary folders may lie there, too
    (bench.root / "var/lib").symlink_to("/srv/lib")
    (bench.root / "srv/lib").mkdir(parents=True)
    (bench.root / "run").symlink_to(outside)
    bench.apply(bind_plan(GPU))
    assert list((bench.root / "srv/lib/vfiohost/journal").iterdir())
    assert (inside / "vfiohost/lock").exists()
    assert not list(outside.iterdir())


def make_socket(path: Path) -> None:
    # By a relative name: that of a socket must be short.
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path.name)


MAKERS: dict[str, Callable[[Path], object]] = {
    "a FIFO": os.mkfifo,
    "a directory": lambda path: Path(path).mkdir(),
    "a socket": make_socket,
    "a symbolic link": lambda path: path.symlink_to("/etc/passwd"),
}


@pytest.mark.parametrize("kind", ["a FIFO", "a directory", "a socket", "a symbolic link"])
def test_a_lock_that_is_no_plain_file(
    bench: Bench, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = bench.root / LOCK_PATH
    path.parent.mkdir(parents=True, mode=0o700)
    monkeypatch.chdir(path.parent)
    MAKERS[kind](path)
    with pytest.raises((UnsupportedError, ApplyError)) as caught:
        bench.apply(bind_plan(GPU))
    assert str(path) in str(caught.value)
    assert bench.kernel.log == []


def test_a_lock_with_a_second_name_is_not_written_to(bench: Bench) -> None:
    path = bench.root / LOCK_PATH
    path.parent.mkdir(parents=True, mode=0o700)
    (bench.root / "precious").write_text("precious")
    path.hardlink_to(bench.root / "precious")
    refused(bench, r"lock has 2 names where a file of ours has one")
    assert (bench.root / "precious").read_text() == "precious"


@pytest.mark.parametrize("where", ["run/vfiohost", "var/lib/vfiohost", JOURNALS])
def test_a_directory_that_others_can_write(bench: Bench, where: str) -> None:
    bench.apply(bind_plan(OTHER_GPU))
    bench.kernel.log.clear()
    (bench.root / where).chmod(0o777)
    refused(bench, r"can be written by others \(mode 0777\)")


def test_files_of_another_user_are_not_trusted(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.apply(bind_plan(OTHER_GPU))
    bench.kernel.log.clear()
    me = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    refused(bench, f"belongs to user {me}, but this runs as user {me + 1}")


def test_a_journal_of_another_user_in_our_directory_is_damaged(bench: Bench) -> None:
    """Another mode stands for another owner: both are judged in one place."""
    bench.apply(bind_plan(OTHER_GPU))
    (journal,) = (bench.root / JOURNALS).iterdir()
    journal.chmod(0o666)
    (damaged,) = bench.journal.entries()
    assert isinstance(damaged, DamagedJournal)
    assert "can be written by others" in damaged.reason


def damaged(bench: Bench, pattern: str) -> None:
    """The journal called :data:`NAME` is reported, blocks plans, and is never followed."""
    found = [e for e in bench.journal.open_entries() if isinstance(e, DamagedJournal)]
    assert [f"{e.id}.jsonl" for e in found] == [NAME]
    assert found[0].path == str(bench.root / JOURNALS / NAME)
    stores = len(bench.kernel.log)
    with pytest.raises(ApplyError, match=pattern) as caught:
        bench.apply(bind_plan(GPU))
    assert found[0].path in str(caught.value)
    assert "move" in str(caught.value)
    outcomes = [r.outcome for r in bench.recover()]
    assert "damaged" in outcomes
    assert len(bench.kernel.log) == stores
    assert (bench.root / JOURNALS / NAME).is_symlink() or (bench.root / JOURNALS / NAME).exists()


@pytest.fixture
def journals(bench: Bench) -> Path:
    path = bench.root / JOURNALS
    for directory in (path.parents[2], path.parents[1], path.parent, path):
        directory.mkdir(mode=0o700)
    return path


@pytest.mark.parametrize("kind", ["a FIFO", "a directory"])
def test_something_else_under_the_name_of_a_journal(
    bench: Bench, journals: Path, kind: str
) -> None:
    MAKERS[kind](journals / NAME)
    damaged(bench, f"is {kind} where a plain file should be")


def test_a_link_under_the_name_of_a_journal(bench: Bench, journals: Path) -> None:
    (journals / NAME).symlink_to("/etc/passwd")
    damaged(bench, "symbolic link stands where")


def test_a_huge_journal_is_not_read(bench: Bench, journals: Path) -> None:
    with (journals / NAME).open("wb") as file:
        file.truncate(1 << 40)
    (journals / NAME).chmod(0o600)
    damaged(bench, r"File too large \(EFBIG\)")


GARBAGE = {
    "nothing": (b"", "is not a journal with a header line"),
    "no newline": (b'{"schema": "vfiohost.journal/1"}', "is not a journal with a header line"),
    "no JSON": (b"\0\0\0\0\n", "line 1: .* is not a line of a journal"),
    "no object": (b"[]\n", "line 1: .* is not a line of a journal"),
    "nested": (b"[" * 100_000 + b"\n", "line 1: .* is not a line of a journal"),
    "no text": (b"\xff\xfe\n", "line 1: .* is not a line of a journal"),
    "other format": (b'{"schema": "vfiohost.journal/2"}\n', "journal/2' is not the journal format"),
    "other id": (b'{"schema": "vfiohost.journal/1", "id": "x"}\n', "'x' is not the journal's id"),
}


@pytest.mark.parametrize("case", GARBAGE)
def test_garbage_is_reported(bench: Bench, journals: Path, case: str) -> None:
    content, pattern = GARBAGE[case]
    (journals / NAME).write_bytes(content)
    (journals / NAME).chmod(0o600)
    damaged(bench, pattern)


BAD_LINES = {
    "garbage": (b"garbage\n", r"line 3: 'garbage' is not a line of a journal"),
    "zeros": (b"\0" * 600 + b"\n", r"line 3: .* is not a line of a journal"),
    "unknown event": (b'{"event": "explode", "step": 0}\n', "'explode' is not the name of a"),
    "no such step": (b'{"event": "begin", "step": 9}\n', "'9' is not the index of one of 4 steps"),
    "negative": (b'{"event": "begin", "step": -1}\n', "'-1' is not the index"),
    "no step": (b'{"event": "begin"}\n', r"'None' is not a number \(the field 'step'\)"),
    "true": (b'{"event": "begin", "step": true}\n', r"'True' is not a number"),
    "bad end": (b'{"event": "end", "result": "?"}\n', r"'\?' is not the result"),
    "bad pid": (b'{"event": "pending", "step": 0, "pid": "x"}\n', "is not a number"),
    "bad error": (b'{"event": "failed", "step": 0, "error": 1}\n', "is not a text"),
}


@pytest.mark.parametrize("case", BAD_LINES)
def test_a_line_that_makes_no_sense_is_never_followed(bench: Bench, case: str) -> None:
    crash(bench, bind_plan(GPU), 0)
    (journal,) = (bench.root / JOURNALS).iterdir()
    line, pattern = BAD_LINES[case]
    header, begin = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(header + begin + line + begin)
    (entry,) = bench.journal.open_entries()
    assert isinstance(entry, DamagedJournal)
    assert entry.boot_id == bench.journal.boot_id
    with pytest.raises(ApplyError, match=pattern):
        bench.apply(bind_plan(OTHER_GPU))
    assert [r.outcome for r in bench.recover()] == ["damaged"]


def test_a_plan_in_the_journal_cannot_leave_the_root(bench: Bench) -> None:
    crash(bench, bind_plan(GPU), 2)
    (journal,) = (bench.root / JOURNALS).iterdir()
    journal.write_text(journal.read_text().replace('"sys/bus', '"../etc', 1))
    assert [r.outcome for r in bench.recover()] == ["damaged"]


@pytest.mark.parametrize("tail", [b'{"event": "nev', b"\0" * 300, b"garbage", b"\xff"])
def test_a_torn_last_line_is_no_damage(bench: Bench, tail: bytes) -> None:
    before = bench.state()
    crash(bench, bind_plan(GPU), 2)
    (journal,) = (bench.root / JOURNALS).iterdir()
    with journal.open("ab") as file:
        file.write(tail)
    assert [r.outcome for r in bench.recover()] == ["recovered"]
    assert bench.state() == before
    assert bench.entries()[0].result == "recovered"
    assert tail not in journal.read_bytes()


def test_a_damaged_journal_of_another_boot_stands_in_nobodys_way(bench: Bench) -> None:
    crash(bench, bind_plan(GPU), 0)
    (journal,) = (bench.root / JOURNALS).iterdir()
    journal.write_bytes(journal.read_bytes().replace(b"11111111", b"99999999") + b"garbage\n")
    bench.apply(bind_plan(OTHER_GPU))
    assert [r.outcome for r in bench.recover()] == ["damaged"]


# -- a disk that is full or cannot be written ----------------------------------------------------


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC])
@pytest.mark.parametrize("what", ["run", "var"])
def test_directories_that_cannot_be_made(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, number: int, what: str
) -> None:
    real = os.mkdir

    def mkdir(path: str, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        if path == what:
            raise OSError(number, os.strerror(number), path)
        real(path, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "mkdir", mkdir)
    with pytest.raises(ApplyError, match=f"{bench.root}/{what}.* Nothing was changed") as caught:
        bench.apply(bind_plan(GPU))
    assert isinstance(caught.value.cause, KernelError)
    assert caught.value.cause.errno == number
    assert bench.kernel.log == []


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from then on"])
def test_a_full_disk_at_every_write(
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
    lasting: bool,  # noqa: FBT001
) -> None:
    """Each write of the journal fails in turn, half of it written; the lock's is the first."""
    before, plan = bench.state(), bind_plan(GPU, once=True)
    (bench.root / "sys/bus/pci/drivers/vfio-pci").mkdir()
    (bench.root / "sys/bus/pci/drivers/vfio-pci/bind").touch()
    (bench.root / "sys/bus/pci/drivers/vfio-pci/unbind").touch()
    real = os.pwrite
    failures = 0
    for number in range(2, 100):
        calls = 0

        def pwrite(fd: int, data: bytes, offset: int, at: int = number) -> int:
            nonlocal calls
            calls += 1
            if calls < at or (calls > at and not lasting):
                return real(fd, data, offset)
            real(fd, data[: len(data) // 2], offset)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "pwrite", pwrite)
        error = failure(bench, plan)
        monkeypatch.setattr(os, "pwrite", real)
        if error is None:
            break
        assert type(error) is ApplyError
        assert isinstance(error.cause, KernelError)
        assert error.cause.code == "ENOSPC"
        assert "No space left on device" in str(error)
        assert bench.state() == before
        failures += 1
        assert all(r.outcome == "recovered" for r in bench.recover())
        assert bench.state() == before
        assert not bench.journal.open_entries()
    # The header, two lines for each of four steps, and the end.
    assert failures == 10
    assert bench.state()[GPU] == "vfio-pci"


def test_a_disk_that_cannot_save_at_every_write_and_fsync(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line is in the file, but whether it is on the disk nobody knows: it does not count."""
    before, plan = bench.state(), bind_plan(GPU, once=True)
    bench.kernel.load_module("vfio_pci", timeout=1)
    sync, write = os.fsync, os.pwrite
    failures = 0
    for number in range(2, 100):  # the first is the lock's
        calls = 0

        def count(at: int = number) -> None:
            nonlocal calls
            calls += 1
            if calls == at:
                raise OSError(errno.EIO, os.strerror(errno.EIO))

        def fsync(fd: int, count: Callable[[], None] = count) -> None:
            count()
            sync(fd)

        def pwrite(fd: int, data: bytes, offset: int, count: Callable[[], None] = count) -> int:
            written = write(fd, data, offset)
            count()
            return written

        monkeypatch.setattr(os, "fsync", fsync)
        monkeypatch.setattr(os, "pwrite", pwrite)
        error = failure(bench, plan)
        monkeypatch.undo()
        if error is None:
            break
        failures += 1
        assert isinstance(error.cause, KernelError)
        assert error.cause.code == "EIO"
        assert bench.state() == before
        assert bench.recover() == ()
        assert all(entry.result == "rolled-back" for entry in bench.entries())
    assert failures >= 10
    assert bench.state()[GPU] == "vfio-pci"


def test_who_holds_the_lock_need_not_be_written(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """/run is a disk of its own, and it may be full."""
    write, cut = os.pwrite, os.ftruncate
    lock_file = bench.root / LOCK_PATH

    def is_lock(fd: int) -> bool:
        return os.path.samestat(os.fstat(fd), lock_file.stat())

    def pwrite(fd: int, data: bytes, offset: int) -> int:
        if is_lock(fd):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(fd, data, offset)

    def ftruncate(fd: int, size: int) -> None:
        if is_lock(fd):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        cut(fd, size)

    monkeypatch.setattr(os, "pwrite", pwrite)
    monkeypatch.setattr(os, "ftruncate", ftruncate)
    bench.apply(bind_plan(GPU))
    assert bench.state()[GPU] == "vfio-pci"


def test_a_store_that_goes_on_and_that_no_journal_knows_keeps_the_lock(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else `recover` would store behind it."""
    write, store = os.pwrite, bench.kernel.store
    helpers: list[int] = []

    def pwrite(fd: int, data: bytes, offset: int) -> int:
        if b'"event": "pending"' in data:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(fd, data, offset)

    def inherit(path: str, value: str, *, timeout: float, keep_fd: int | None = None) -> None:
        if path.endswith("/unbind"):
            assert keep_fd is not None
            helpers.append(os.dup(keep_fd))  # the same open file, as in a helper
        store(path, value, timeout=timeout, keep_fd=keep_fd)

    before = bench.state()
    bench.kernel.faults_of["unbind", GPU] = Fault("block", effect=True)
    monkeypatch.setattr(bench.kernel, "store", inherit)
    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(PendingError, match=r"The journal could not be told of it .*ENOSPC"):
        bench.apply(bind_plan(GPU))
    with pytest.raises(LockBusyError):
        bench.recover()
    bench.kernel.faults_of.clear()
    (helper,) = helpers
    os.close(helper)
    assert [each.outcome for each in bench.recover()] == ["recovered"]
    assert bench.state() == before


def test_a_plan_that_no_journal_holds_is_refused(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(book, "_LIMIT", 4096)
    said = "A plan of 4 steps is more than a journal holds.*Nothing was changed"
    with pytest.raises(ApplyError, match=said):
        bench.apply(bind_plan(GPU))
    assert bench.kernel.log == []
    assert bench.entries() == []


def test_a_line_that_was_not_saved_leaves_nothing_behind_the_next(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.pwrite

    def pwrite(fd: int, data: bytes, offset: int) -> int:
        write(fd, data, offset)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with contextlib.closing(bench.journal.begin(bind_plan(GPU))) as writer:
        monkeypatch.setattr(os, "pwrite", pwrite)
        with pytest.raises(KernelError):
            writer.record(Event("failed", 0, "a long text"))
        monkeypatch.undo()
        writer.record(Event("begin", 1))
    (entry,) = bench.entries()
    assert entry.events == (Event("begin", 1),)


def test_a_disk_that_fills_up_while_undoing_does_not_stop_the_undo(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = bench.state()
    bench.fail(3, Fault("refuse"))
    real = os.pwrite

    def pwrite(fd: int, data: bytes, offset: int) -> int:
        if b'"event": "undo' in data or b'"event": "end' in data:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(
        ApplyError, match=r"EBUSY.*The journal could not be closed.*ENOSPC"
    ) as caught:
        bench.apply(bind_plan(GPU))
    assert type(caught.value) is ApplyError
    assert bench.state() == before
    (recovery,) = bench.recover()
    assert recovery.outcome == "recovered"
    assert "could not be written" in recovery.sentence
    monkeypatch.undo()
    assert [r.outcome for r in bench.recover()] == ["recovered"]
    assert bench.state() == before


def test_the_journal_directory_must_be_a_directory(bench: Bench, journals: Path) -> None:
    journals.rmdir()
    journals.write_text("")
    with pytest.raises(UnsupportedError, match="is a plain file where a directory should be"):
        bench.apply(bind_plan(GPU))
    with lock(bench.sysfs, purpose="the lock is free again"):
        pass


def test_a_failed_begin_makes_no_store(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def rename(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "rename", rename)
    rolled_back(bench, r"Cannot write .*jsonl.*EIO.*Nothing was changed")
    assert list((bench.root / JOURNALS).iterdir()) == []
