"""Stores that the kernel does not come back from, and who has to wait for them."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.apply.fake import (
    AUDIO,
    CREATE,
    DEVICES,
    GPU,
    MDEVS,
    OTHER_GPU,
    UUIDS,
    Fault,
    bind_plan,
    create,
    override,
    remove,
    to_vfio,
    unbind,
)
from vfiohost.errors import ApplyError, KernelError, PendingError, StoreTimeoutError
from vfiohost.journal import JournalEntry, Process, lock
from vfiohost.plan.types import Plan, WriteAttr

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.apply.conftest import Bench


@pytest.fixture
def helper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that stands for the helper which waits in the kernel."""
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


def end(helper: subprocess.Popen[bytes]) -> None:
    helper.kill()
    helper.wait()


def block(bench: Bench, plan: Plan, at: int, pid: int | None, *, effect: bool) -> PendingError:
    """Carry out a plan of which one store is not answered in time."""
    bench.fail(at, Fault("block", effect=effect, pid=pid))
    with pytest.raises(PendingError) as caught:
        bench.apply(plan)
    bench.kernel.faults.clear()
    return caught.value


def outcomes(error: ApplyError) -> list[str]:
    assert error.report is not None
    return [result.outcome for result in error.report.results]  # type: ignore[attr-defined]


def test_a_store_that_does_not_come_back_is_left_as_it_is(
    bench: Bench, helper: subprocess.Popen[bytes]
) -> None:
    plan = bind_plan(AUDIO, GPU)
    error = block(bench, plan, 4, helper.pid, effect=True)
    assert error.pid == helper.pid
    assert f"Helper process {helper.pid}" in str(error)
    assert error.step == plan.steps[4]
    assert isinstance(error.cause, StoreTimeoutError)
    assert error.__cause__ is error.cause
    assert outcomes(error) == [*["done"] * 4, "pending", "not-run", "not-run"]
    assert bench.state()[AUDIO] == "vfio-pci"
    (entry,) = bench.journal.open_entries()
    assert isinstance(entry, JournalEntry)
    assert entry.events[-1].kind == "pending"
    assert entry.events[-1].helper == Process.of(helper.pid)
    assert entry.waiting() == ((plan.steps[4], Process.of(helper.pid)),)


def test_the_lock_is_free_while_a_store_is_pending(
    bench: Bench, helper: subprocess.Popen[bytes]
) -> None:
    block(bench, bind_plan(GPU), 1, helper.pid, effect=True)
    with lock(bench.sysfs, purpose="another"):
        pass


def test_the_same_device_has_to_wait_and_another_has_not(
    bench: Bench, helper: subprocess.Popen[bytes]
) -> None:
    block(bench, Plan("unbind", (GPU,), (unbind(GPU, "nouveau"),)), 0, helper.pid, effect=True)
    stores = len(bench.kernel.log)
    with pytest.raises(PendingError, match=rf"helper process {helper.pid}.*{GPU}") as caught:
        bench.apply(Plan("bind", (GPU,), (override(GPU, None, "vfio-pci"),)))
    assert caught.value.pid == helper.pid
    assert outcomes(caught.value) == ["not-run"]
    assert len(bench.kernel.log) == stores
    bench.apply(bind_plan(OTHER_GPU))
    assert bench.state()[OTHER_GPU] == "vfio-pci"


def test_a_virtual_function_waits_for_its_card_but_not_for_another_function(
    bench: Bench, helper: subprocess.Popen[bytes]
) -> None:
    (bench.root / DEVICES / AUDIO / "physfn").symlink_to(f"../{GPU}")
    (bench.root / DEVICES / OTHER_GPU / "physfn").symlink_to(f"../{GPU}")
    stuck = Plan("unbind", (AUDIO,), (unbind(AUDIO, "snd_hda_intel"),))
    block(bench, stuck, 0, helper.pid, effect=True)
    with pytest.raises(PendingError):
        bench.apply(Plan("unbind", (GPU,), (unbind(GPU, "nouveau"),)))
    bench.apply(bind_plan(OTHER_GPU))


def test_mdevs_wait_for_their_own_removal_and_for_a_creation_on_their_parent(
    bench: Bench, helper: subprocess.Popen[bytes]
) -> None:
    bench.apply(Plan("mdev create", (UUIDS[0],), (create(UUIDS[0]),)))
    stuck = Plan("mdev remove", (UUIDS[0],), (remove(UUIDS[0]),))
    block(bench, stuck, 0, helper.pid, effect=True)
    assert not (bench.root / MDEVS / UUIDS[0]).exists()
    with pytest.raises(PendingError, match=UUIDS[0]):  # an invisible zombie in the kernel
        bench.apply(Plan("mdev create", (UUIDS[0],), (create(UUIDS[0]),)))


def test_a_creation_that_is_stuck_keeps_others_off_its_parent(
    bench: Bench, helper: subprocess.Popen[bytes]
) -> None:
    stuck = Plan("mdev create", (UUIDS[0],), (create(UUIDS[0]),))
    block(bench, stuck, 0, helper.pid, effect=False)
    with pytest.raises(PendingError, match=CREATE.split("/")[3]):
        bench.apply(Plan("mdev create", (UUIDS[1],), (create(UUIDS[1]),)))


def test_a_module_that_is_stuck_keeps_off_those_who_need_it_too(
    bench: Bench, helper: subprocess.Popen[bytes]
) -> None:
    block(bench, bind_plan(GPU), 0, helper.pid, effect=False)
    with pytest.raises(PendingError, match="module vfio_pci"):
        bench.apply(bind_plan(OTHER_GPU))
    bench.apply(Plan("unbind", (OTHER_GPU,), (unbind(OTHER_GPU, "nouveau"),)))


def test_recover_waits_for_the_kernel_and_then_takes_back(
    bench: Bench, helper: subprocess.Popen[bytes]
) -> None:
    before = bench.state()
    block(bench, bind_plan(AUDIO, GPU), 4, helper.pid, effect=True)
    stores = len(bench.kernel.log)
    (waiting,) = bench.recover()
    assert (waiting.outcome, waiting.pid) == ("pending", helper.pid)
    assert len(bench.kernel.log) == stores
    end(helper)
    (recovery,) = bench.recover()
    assert recovery.outcome == "recovered"
    assert bench.state() == before
    assert bench.recover() == ()


@pytest.mark.parametrize("effect", [False, True], ids=["it did nothing", "it came through"])
def test_when_the_helper_has_ended_recover_comes_first(
    bench: Bench,
    helper: subprocess.Popen[bytes],
    effect: bool,  # noqa: FBT001
) -> None:
    before = bench.state()
    block(bench, bind_plan(GPU), 1, helper.pid, effect=effect)
    end(helper)
    with pytest.raises(ApplyError, match="Run `vfiohost recover` first") as caught:
        bench.apply(bind_plan(OTHER_GPU))
    assert type(caught.value) is ApplyError
    (recovery,) = bench.recover()
    assert recovery.outcome == "recovered"
    assert bench.state() == before


def test_a_process_of_the_same_number_is_not_the_helper(
    bench: Bench, helper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    block(bench, bind_plan(GPU), 1, helper.pid, effect=True)
    journal = next((bench.root / "var/lib/vfiohost/journal").iterdir())
    start = Process.of(helper.pid).start
    text = journal.read_text()
    assert f'"start": {start}' in text
    journal.write_text(text.replace(f'"start": {start}', '"start": 1'))
    assert [r.outcome for r in bench.recover()] == ["recovered"]


def test_a_zombie_waits_for_nothing() -> None:
    process = subprocess.Popen(["sleep", "600"])
    known = Process.of(process.pid)
    alive = [known.is_alive]
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it is left a zombie
    alive.append(known.is_alive)
    assert alive == [True, False]
    process.wait()
    assert Process.of(process.pid).start is None


def test_of_another_pid_namespace_the_device_tells_whether_its_helper_waits(
    bench: Bench, helper: subprocess.Popen[bytes]
) -> None:
    """As in a container that was started again: there the helper's number is somebody else's."""
    uevent = bench.root / DEVICES / GPU / "uevent"
    uevent.write_text("DRIVER=nouveau\n")
    block(bench, Plan("unbind", (GPU,), (unbind(GPU, "nouveau"),)), 0, helper.pid, effect=True)
    journal = next((bench.root / "var/lib/vfiohost/journal").iterdir())
    here = f'"namespace": {os.stat("/proc/self/ns/pid").st_ino}'
    text = journal.read_text()
    assert here in text
    journal.write_text(text.replace(here, '"namespace": 1'))
    end(helper)
    assert [(r.outcome, r.pid) for r in bench.recover()] == [("pending", None)]
    uevent.write_text("")
    assert [r.outcome for r in bench.recover()] == ["recovered"]


def test_an_undo_that_does_not_come_back_stops_the_undoing(
    bench: Bench, helper: subprocess.Popen[bytes]
) -> None:
    before = bench.state()
    bench.kernel.load_module("vfio_pci", timeout=1)
    plan = Plan("bind", (GPU, AUDIO), (*to_vfio(GPU), *to_vfio(AUDIO)))
    bench.fail(5, Fault("refuse"))
    bench.fail(7, Fault("block", pid=helper.pid))
    with pytest.raises(PendingError) as caught:
        bench.apply(plan)
    error = caught.value
    assert error.pid == helper.pid
    assert outcomes(error) == ["done", "done", "done", "pending", "undone", "failed"]
    assert isinstance(error.cause, KernelError)
    assert "EBUSY" in str(error)
    assert "While that was taken back" in str(error)
    end(helper)
    bench.kernel.faults.clear()
    assert [r.outcome for r in bench.recover()] == ["recovered"]
    assert bench.state() == before


def test_a_recovery_that_does_not_come_back_is_taken_up_again(
    bench: Bench, helper: subprocess.Popen[bytes]
) -> None:
    before = bench.state()
    block(bench, bind_plan(GPU), 3, None, effect=True)
    bench.fail(1, Fault("block", effect=True, pid=helper.pid))
    (pending,) = bench.recover()
    assert (pending.outcome, pending.pid) == ("pending", helper.pid)
    assert pending.report is not None
    assert [r.outcome for r in pending.report.results] == ["done", "done", "pending", "undone"]
    bench.kernel.faults.clear()
    assert [r.outcome for r in bench.recover()] == ["pending"]
    end(helper)
    assert [r.outcome for r in bench.recover()] == ["recovered"]
    assert bench.state() == before


def test_an_unknown_helper_counts_as_ended(bench: Bench) -> None:
    block(bench, bind_plan(GPU), 1, None, effect=True)
    with pytest.raises(ApplyError, match="Run `vfiohost recover` first"):
        bench.apply(bind_plan(OTHER_GPU))


def test_several_open_journals_are_recovered_the_newest_first(
    bench: Bench, helper: subprocess.Popen[bytes]
) -> None:
    before = bench.state()
    block(bench, bind_plan(GPU), 1, helper.pid, effect=True)
    block(bench, bind_plan(OTHER_GPU), 1, None, effect=True)
    newest, oldest = bench.recover()
    assert (newest.outcome, oldest.outcome) == ("recovered", "pending")
    assert newest.journal_id > oldest.journal_id
    end(helper)
    assert [r.outcome for r in bench.recover()] == ["recovered"]
    assert bench.state() == before


def write_one(bench: Bench, address: str, name: str) -> Plan:
    """A plan that stores 1 in an attribute of a PCI function."""
    path = f"{DEVICES}/{address}/{name}"
    (bench.root / path).touch()
    return Plan(name, (address,), (WriteAttr(path, "1", None, None, None, name),))


@pytest.mark.parametrize("name", ["sriov_numvfs", "remove", "rescan"])
def test_what_takes_the_rescan_lock_waits_for_what_holds_it_anywhere(
    bench: Bench, helper: subprocess.Popen[bytes], name: str
) -> None:
    """With a slow bind on the card they would lock each other out for ever."""
    block(bench, write_one(bench, GPU, "sriov_numvfs"), 0, helper.pid, effect=False)
    stores = len(bench.kernel.log)
    with pytest.raises(PendingError, match="numvfs, remove and rescan exclude each other"):
        bench.apply(write_one(bench, OTHER_GPU, name))
    assert len(bench.kernel.log) == stores
    bench.apply(Plan("unbind", (OTHER_GPU,), (unbind(OTHER_GPU, "nouveau"),)))


def where_it_waits(pid: int) -> str | None:
    """The wait channel of a process that sleeps; ``None`` where none is shown.

    One that has just been started may wait for something else before, as for a page of its own.
    """
    deadline = time.monotonic() + 20.0
    while "nanosleep" not in (channel := Path(f"/proc/{pid}/wchan").read_text()):
        if time.monotonic() > deadline:
            return None
        time.sleep(0.001)
    return channel


def test_an_error_names_who_has_the_device_open_and_where_the_helper_waits(
    bench: Bench, helper: subprocess.Popen[bytes]
) -> None:
    (bench.root / DEVICES / GPU / "iommu_group").symlink_to("../../kernel/iommu_groups/7")
    process = bench.root / "proc/4242"
    (process / "fd").mkdir(parents=True)
    (process / "comm").write_text("qemu-guest\n")
    (process / "fd/10").symlink_to("/dev/vfio/7")
    (bench.root / DEVICES / GPU / "uevent").write_text("DRIVER=nouveau\n")
    channel = where_it_waits(helper.pid)
    error = block(
        bench, Plan("unbind", (GPU,), (unbind(GPU, "nouveau"),)), 0, helper.pid, effect=True
    )
    assert error.users == ("pid 4242 ([qemu-guest])",)
    assert error.state == "releasing"
    assert error.wait_channel == channel
    assert "In use by pid 4242 ([qemu-guest])." in str(error)
    with pytest.raises(PendingError, match=r"In use by pid 4242 \(\[qemu-guest\]\)") as again:
        bench.apply(Plan("bind", (GPU,), (override(GPU, None, "vfio-pci"),)))
    assert again.value.state == "releasing"
