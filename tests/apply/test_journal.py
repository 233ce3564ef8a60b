"""What the journal remembers: origins for restore, the last plan for undo, and no more."""

from __future__ import annotations

import fcntl
import json
import os
import stat
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from tests.apply.fake import (
    AUDIO,
    GPU,
    OTHER_GPU,
    Fault,
    bind_plan,
    files,
    load,
    mdev_plan,
    origin,
    override,
    reboot,
    restore_plan,
    to_vfio,
    unbind,
)
from tests.apply.test_crash import crash
from vfiohost.errors import ApplyError, NotFoundError, RollbackError, StalePlanError
from vfiohost.journal import JOURNAL_PATH, Journal, JournalEntry
from vfiohost.model import PciAddress
from vfiohost.plan.types import Origin, Plan, WriteAttr
from vfiohost.plan.undo import plan_undo

if TYPE_CHECKING:
    from tests.apply.conftest import Bench
    from vfiohost.plan.types import Report


def undo(bench: Bench, entry: JournalEntry | None) -> Report:
    """What ``vfiohost undo`` does."""
    assert entry is not None
    return bench.apply(plan_undo(entry.done_plan), undoes=entry.id)


def drivers(bench: Bench) -> dict[str, str | None]:
    """What restore would bring back."""
    return {str(address): o.driver for address, o in bench.journal.origins().items()}


# -- the file -----------------------------------------------------------------------------------


def test_the_file_is_as_documented(bench: Bench) -> None:
    clock = iter(datetime(2025, 1, 2, 3, 4, 5, 6 + n, tzinfo=UTC) for n in range(100))
    journal = Journal(bench.sysfs, now=lambda: next(clock), token=lambda: "89abcdef")
    plan = Plan("unbind", (GPU,), (unbind(GPU, "nouveau"),), (origin(GPU),))
    attrs.evolve(bench, journal=journal).apply(plan)
    (file,) = (bench.root / JOURNAL_PATH).iterdir()
    assert file.name == "20250102T030405.000006Z-89abcdef.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert lines[0].pop("pid") > 0
    assert lines == [
        {
            "schema": "vfiohost.journal/1",
            "id": "20250102T030405.000006Z-89abcdef",
            "boot_id": "11111111-2222-4333-8444-555555555555",
            "time": "2025-01-02T03:04:05.000007+00:00",
            "undoes": None,
            "plan": plan.to_json(),
        },
        {"event": "begin", "time": "2025-01-02T03:04:05.000008+00:00", "step": 0},
        {"event": "done", "time": "2025-01-02T03:04:05.000009+00:00", "step": 0},
        {"event": "end", "time": "2025-01-02T03:04:05.000010+00:00", "result": "committed"},
    ]


def test_a_new_file_and_its_name_are_on_the_disk_before_it_counts(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    rename, fsync, pwrite = os.rename, os.fsync, os.pwrite

    def note_rename(*args: Any, **kwargs: Any) -> None:
        rename(*args, **kwargs)
        done.append("rename")

    def note_fsync(fd: int) -> None:
        fsync(fd)
        assert stat.S_ISDIR(os.fstat(fd).st_mode)
        done.append("directory")

    def note_pwrite(fd: int, data: bytes, offset: int) -> int:
        is_saved = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DSYNC  # when the write returns
        done.append("line" if is_saved else "other")
        return pwrite(fd, data, offset)

    monkeypatch.setattr(os, "rename", note_rename)
    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "pwrite", note_pwrite)
    bench.kernel.before_store = lambda _: done.append("store")
    bench.apply(Plan("unbind", (GPU,), (unbind(GPU, "nouveau"),)))
    assert done[done.index("rename") - 1 :] == [
        *("line", "rename", "directory"),
        *("line", "store", "line", "line"),
    ]


def test_what_recovery_writes_is_on_the_disk_before_it_counts(bench: Bench) -> None:
    crash(bench, bind_plan(GPU), 1)
    (entry,) = bench.journal.open_entries()
    assert isinstance(entry, JournalEntry)
    writer = bench.journal.reopen(entry)
    assert fcntl.fcntl(writer._fd, fcntl.F_GETFL) & os.O_DSYNC
    writer.close()


def test_what_is_written_is_read_back(bench: Bench) -> None:
    bench.apply(bind_plan(GPU))
    (entry,) = bench.entries()
    assert entry.plan == bind_plan(GPU)
    assert entry.done_plan == bind_plan(GPU)
    assert entry.undoes is None
    assert bench.journal.get(entry.id) == entry
    assert str(entry).startswith(f"bind {GPU} (journal {entry.id}, pid ")


def test_ids_sort_in_time_even_when_the_clock_is_set_back(bench: Bench) -> None:
    bench.apply(bind_plan(GPU))
    late = Journal(bench.sysfs, now=lambda: datetime(2000, 1, 1, tzinfo=UTC))
    attrs.evolve(bench, journal=late).apply(bind_plan(OTHER_GPU))
    subjects = [entry.plan.subjects for entry in bench.entries()]
    assert subjects == [(GPU,), (OTHER_GPU,)]


def test_texts_of_any_kind_survive(bench: Bench) -> None:
    odd = Plan("bind\n", ('a\u2028\x00\udcff"b',), bind_plan(GPU).steps, notes=("\n",))
    bench.apply(odd)
    assert bench.entries()[0].plan == odd


def test_a_host_without_journals_reads_as_empty_and_stays_so(bench: Bench) -> None:
    there = files(bench.root)
    assert bench.journal.entries() == ()
    assert bench.journal.open_entries() == ()
    assert bench.journal.origins() == {}
    assert bench.journal.last_committed() is None
    with pytest.raises(NotFoundError):
        bench.journal.get("x")
    assert files(bench.root) == there


def test_a_root_without_boot_id_has_one_boot(bench: Bench) -> None:
    (bench.root / "proc/sys/kernel/random/boot_id").unlink()
    bench.apply(bind_plan(GPU))
    assert drivers(bench) == {GPU: "nouveau"}


def test_done_plan_leaves_out_what_held_already(bench: Bench) -> None:
    bench.kernel.load_module("vfio_pci", timeout=1)
    bench.kernel._act(override(GPU, None, "vfio-pci").path, "vfio-pci")
    bench.apply(bind_plan(GPU))
    (entry,) = bench.entries()
    assert entry.done_plan.steps == (entry.plan.steps[1], entry.plan.steps[3])


# -- origins ------------------------------------------------------------------------------------


def test_origins_are_those_of_the_first_plan(bench: Bench) -> None:
    bench.apply(bind_plan(GPU))
    later = Origin(PciAddress.parse(GPU), "vfio-pci", "vfio-pci")
    bench.apply(Plan("unbind", (GPU,), (unbind(GPU, "vfio-pci"),), (later,)))
    assert bench.journal.origins() == {PciAddress.parse(GPU): origin(GPU)}


def test_a_restore_is_a_new_beginning_for_its_devices_alone(bench: Bench) -> None:
    bench.apply(bind_plan(GPU, AUDIO))
    bench.apply(restore_plan(GPU))
    assert drivers(bench) == {AUDIO: "snd_hda_intel"}
    other = Origin(PciAddress.parse(GPU), None, "something")
    bench.apply(attrs.evolve(bind_plan(GPU), origins=(other,)))
    assert bench.journal.origins()[PciAddress.parse(GPU)] == other


def test_what_was_rolled_back_or_recovered_does_not_count(bench: Bench) -> None:
    bench.fail(3, Fault("refuse"))
    with pytest.raises(ApplyError):
        bench.apply(bind_plan(GPU))
    crash(bench, bind_plan(OTHER_GPU), 1)
    bench.recover()
    assert drivers(bench) == {}


def test_what_is_half_way_or_open_counts(bench: Bench) -> None:
    bench.kernel.load_module("vfio_pci", timeout=1)
    bench.fail(2, Fault("refuse"))
    bench.fail(3, Fault("refuse"))
    with pytest.raises(RollbackError):
        bench.apply(bind_plan(GPU))
    crash(bench, Plan("bind", (OTHER_GPU,), to_vfio(OTHER_GPU), (origin(OTHER_GPU),)), 1)
    assert drivers(bench) == {GPU: "nouveau", OTHER_GPU: "nouveau"}


def test_a_restore_that_failed_is_no_new_beginning(bench: Bench) -> None:
    bench.apply(bind_plan(GPU))
    bench.fail(1, Fault("refuse"))
    with pytest.raises(ApplyError):
        bench.apply(restore_plan(GPU))
    assert drivers(bench) == {GPU: "nouveau"}


def test_origins_of_another_boot_are_gone(bench: Bench) -> None:
    bench.apply(bind_plan(GPU))
    reboot(bench.root)
    assert drivers(bench) == {}
    assert bench.journal.last_committed() is None


# -- undo ---------------------------------------------------------------------------------------


def test_undo_goes_back_plan_by_plan(bench: Bench) -> None:
    states = [bench.state()]
    for plan in (bind_plan(GPU), mdev_plan(), bind_plan(OTHER_GPU)):
        bench.apply(plan)
        states.append(bench.state())
    for expected in reversed(states[:-1]):
        undo(bench, bench.journal.last_committed())
        assert bench.state() == expected
    assert bench.journal.last_committed() is None
    assert drivers(bench) == {}


def test_after_an_undo_new_plans_come_first(bench: Bench) -> None:
    bench.apply(bind_plan(GPU))
    first = bench.journal.last_committed()
    bench.apply(mdev_plan())
    undo(bench, bench.journal.last_committed())
    bench.apply(bind_plan(OTHER_GPU))
    undo(bench, bench.journal.last_committed())
    assert bench.journal.last_committed() == first


def test_an_undo_that_is_named_can_be_undone_and_the_plan_counts_again(bench: Bench) -> None:
    bench.apply(bind_plan(GPU))
    bound = bench.state()
    first = bench.journal.last_committed()
    report = undo(bench, first)
    assert report.journal_id is not None
    undo(bench, bench.journal.get(report.journal_id))
    assert bench.state() == bound
    assert bench.journal.last_committed() == first
    assert drivers(bench) == {GPU: "nouveau"}


def test_a_plan_is_undone_once(bench: Bench) -> None:
    bench.apply(bind_plan(GPU))
    entry = bench.journal.last_committed()
    undo(bench, entry)
    with pytest.raises(StalePlanError, match="has been undone"):
        undo(bench, entry)


def test_an_undo_of_what_somebody_took_back_marks_it_undone(bench: Bench) -> None:
    bench.kernel.load_module("vfio_pci", timeout=1)
    bench.apply(bind_plan(GPU))
    for step in reversed(bench.entries()[0].done_plan.steps):
        assert isinstance(step, WriteAttr)
        assert step.undo is not None
        bench.kernel._act(step.undo.path, step.undo.value)
    stores = len(bench.kernel.log)
    report = undo(bench, bench.journal.last_committed())
    assert report.journal_id is not None
    assert [r.outcome for r in report.results] == ["already"] * 3
    assert len(bench.kernel.log) == stores
    assert bench.journal.last_committed() is None


def test_a_failed_undo_can_be_tried_again(bench: Bench) -> None:
    bench.apply(bind_plan(GPU))
    bound = bench.state()
    entry = bench.journal.last_committed()
    bench.fail(1, Fault("refuse"))
    with pytest.raises(ApplyError):
        undo(bench, entry)
    assert bench.state() == bound
    assert bench.journal.last_committed() == entry
    undo(bench, entry)
    assert bench.journal.last_committed() is None


def test_a_plan_that_only_loaded_a_module_is_passed_over(bench: Bench) -> None:
    bench.apply(mdev_plan())
    bench.apply(Plan("bind", (GPU,), (load(),)))
    last = bench.journal.last_committed()
    assert last is not None
    assert last.plan.verb == "mdev create"


def test_undoing_a_restore_brings_the_old_origin_up_again(bench: Bench) -> None:
    bench.apply(bind_plan(GPU))
    bench.apply(restore_plan(GPU))
    undo(bench, bench.journal.last_committed())
    assert drivers(bench) == {GPU: "nouveau"}


# -- pruning ------------------------------------------------------------------------------------


def flip(bench: Bench, address: str, count: int) -> None:
    """Make journals: an override that is set and cleared, again and again."""
    for _ in range(count):
        for old, new in ((None, "x"), ("x", None)):
            now = (Origin(PciAddress.parse(address), "nouveau", old),)
            bench.apply(Plan("bind", (address,), (override(address, old, new),), now))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prune early, so that few journals suffice."""
    monkeypatch.setattr("vfiohost.journal.book._KEEP", 4)
    monkeypatch.setattr("vfiohost.journal.book._PRUNE_ABOVE", 8)


def count(bench: Bench) -> int:
    return len(list((bench.root / JOURNAL_PATH).iterdir()))


def test_the_directory_stays_bounded(bench: Bench, quick: None) -> None:
    flip(bench, GPU, 10)
    assert 4 <= count(bench) <= 10


def test_pruning_keeps_what_restore_needs(bench: Bench, quick: None) -> None:
    bench.apply(bind_plan(GPU, AUDIO))
    bench.apply(restore_plan(GPU))
    first = bench.entries()[0].id
    for n in range(3):
        flip(bench, OTHER_GPU, 4)
        assert drivers(bench) == {AUDIO: "snd_hda_intel", OTHER_GPU: "nouveau"}, n
    assert count(bench) <= 4 + 3 + 6
    assert bench.entries()[0].id == first


def test_pruning_keeps_open_journals_of_this_boot_and_none_of_others(
    bench: Bench, quick: None
) -> None:
    bench.apply(bind_plan(GPU))
    crash(bench, Plan("unbind", (AUDIO,), (unbind(AUDIO, "snd_hda_intel"),)), 0)
    reboot(bench.root)
    flip(bench, OTHER_GPU, 8)
    assert {entry.boot_id for entry in bench.entries()} == {bench.journal.boot_id}


def test_pruning_leaves_damaged_journals_for_people_and_removes_unfinished_ones(
    bench: Bench, quick: None
) -> None:
    flip(bench, GPU, 1)
    directory = bench.root / JOURNAL_PATH
    (directory / "20000101T000000.000000Z-00000000.new").write_text("half a head")
    old = next(directory.glob("*.jsonl"))
    damaged = directory / "20000101T000000.000000Z-11111111.jsonl"
    damaged.write_bytes(old.read_bytes().replace(old.stem.encode(), damaged.stem.encode()))
    damaged.chmod(0o600)
    with damaged.open("ab") as file:
        file.write(b"garbage\n" + old.read_bytes().splitlines(keepends=True)[-1])
    flip(bench, GPU, 8)
    assert damaged.exists()
    assert not list(directory.glob("*.new"))


def test_a_journal_that_is_pruned_while_it_is_read_is_no_error(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    flip(bench, GPU, 1)
    directory = bench.root / JOURNAL_PATH
    names = sorted(path.name for path in directory.iterdir())
    monkeypatch.setattr("vfiohost.journal.book._names", lambda _: names)
    (directory / names[0]).unlink()
    assert [entry.id for entry in bench.entries()] == [names[1].removesuffix(".jsonl")]


def test_the_clock_that_runs_ahead_once_does_not_stop_the_journal(bench: Bench) -> None:
    ahead = datetime.now(UTC) + timedelta(days=365 * 50)
    attrs.evolve(bench, journal=Journal(bench.sysfs, now=lambda: ahead)).apply(bind_plan(GPU))
    bench.apply(bind_plan(OTHER_GPU))
    assert [entry.plan.subjects for entry in bench.entries()] == [(GPU,), (OTHER_GPU,)]


def test_a_journal_from_the_end_of_time_is_refused_in_words(bench: Bench) -> None:
    bench.apply(bind_plan(GPU))
    (journal,) = (bench.root / JOURNAL_PATH).iterdir()
    last = "99991231T235959.999999Z-89abcdef"
    text = journal.read_text().replace(journal.name.removesuffix(".jsonl"), last)
    journal.rename(journal.with_name(f"{last}.jsonl")).write_text(text)
    before = bench.state()
    with pytest.raises(ApplyError, match=r"named for 31 December 9999.*move it away"):
        bench.apply(bind_plan(OTHER_GPU))
    assert bench.state() == before
