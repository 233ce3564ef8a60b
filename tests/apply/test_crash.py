"""Kills: at every save, around every store, in a rollback, in a recovery. Then recover."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import traceback
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest

from tests.apply.conftest import Bench, make_bench
from tests.apply.fake import (
    AUDIO,
    DEVICES,
    DIED,
    GPU,
    OTHER_GPU,
    Fault,
    bind_plan,
    die,
    files,
    mdev_plan,
    reboot,
    restore_plan,
    to_vfio,
    unbind,
)
from vfiohost.errors import (
    ApplyError,
    KernelError,
    LockBusyError,
    NotFoundError,
    PendingError,
    PlanRefused,
    Refusal,
    RollbackError,
)
from vfiohost.journal import JOURNAL_PATH, Journal, JournalWriter, check_free, lock, locking
from vfiohost.plan.types import Plan, Store, WriteAttr

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SURVIVED = 0


def in_child(work: Callable[[], object], *, die_at_save: tuple[int, bool] | None = None) -> int:
    """Run something in a forked process that kills itself at its n-th save.

    Args:
        work: what is run; an :class:`ApplyError` of it is no failure.
        die_at_save: n, counted from 1, and whether what was written reached the disk by then.

    Returns:
        The exit status: :data:`DIED` or :data:`SURVIVED`.
    """
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            if die_at_save is not None:
                _arm(*die_at_save)
            work()
            status = SURVIVED
        except ApplyError:
            status = SURVIVED
        except BaseException:  # noqa: BLE001 - this process must not go on as a second pytest
            traceback.print_exc()
        finally:
            os._exit(status)
    _, waited = os.waitpid(pid, 0)
    status = os.waitstatus_to_exitcode(waited)
    assert status in (DIED, SURVIVED), status
    return status


def _arm(number: int, after: bool) -> None:  # noqa: FBT001
    """Let this process die at its n-th write or fsync, before it or after it.

    What is written is on the disk when the write returns, so before it half of a line may be.
    """
    sync, write, calls = os.fsync, os.pwrite, 0

    def turn() -> bool:
        nonlocal calls
        calls += 1
        return calls == number

    def fsync(fd: int) -> None:
        last = turn()
        if not last or after:
            sync(fd)
        if last:
            die()

    def pwrite(fd: int, data: bytes, offset: int) -> int:
        last = turn()
        written = write(fd, data[: len(data) // 2] if last and not after else data, offset)
        if last:
            die()
        return written

    os.fsync, os.pwrite = fsync, pwrite  # type: ignore[assignment]


def survives_somewhere(
    fresh: Callable[[], Bench], work: Callable[[Bench], object], check: Callable[[Bench], object]
) -> int:
    """Kill at every save until none is left; after each kill, check. Gives the number of kills."""
    kills = 0
    for after in (False, True):
        for number in range(1, 200):
            bench = fresh()
            with bench.sysfs:
                status = in_child(lambda b=bench: work(b), die_at_save=(number, after))  # type: ignore[misc]
                check(bench)
            if status == SURVIVED:
                break
            kills += 1
        else:
            pytest.fail("it never survives")
    return kills


def recover_and_check(bench: Bench, allowed: list[dict[str, str]]) -> None:
    """After a crash and recover the host is in one of these states, and nothing is left open."""
    recoveries = bench.recover()
    assert all(r.outcome == "recovered" for r in recoveries), recoveries
    assert bench.state() in allowed
    assert bench.recover() == ()
    assert not bench.journal.open_entries()


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Callable[[], Bench]]:
    """A maker of new hosts."""
    made: list[Bench] = []

    def make() -> Bench:
        made.append(make_bench(tmp_path / str(len(made))))
        return made[-1]

    yield make
    for bench in made:
        bench.sysfs.close()


# The one sets an override and clears it again, so that a look at the host alone misleads.
PLANS = [bind_plan(GPU, once=True), mdev_plan()]
PLAN_IDS = ["bind once", "mdev create"]


@pytest.mark.parametrize("plan", PLANS, ids=PLAN_IDS)
def test_kill_at_every_save_of_apply(fresh: Callable[[], Bench], plan: Plan) -> None:
    done = fresh()
    before = done.state()
    done.apply(plan)
    after = done.state()
    seen: list[dict[str, str]] = []

    def check(bench: Bench) -> None:
        recover_and_check(bench, [before, after])
        seen.append(bench.state())

    kills = survives_somewhere(fresh, lambda bench: bench.apply(plan), check)
    assert kills > 4 * len(plan.steps)
    assert before in seen
    assert after in seen


@pytest.mark.parametrize("plan", PLANS, ids=PLAN_IDS)
def test_kill_at_every_save_of_a_rollback(fresh: Callable[[], Bench], plan: Plan) -> None:
    before = fresh().state()
    last = len(plan.steps) - 1

    def fresh_and_failing() -> Bench:
        bench = fresh()
        bench.fail(last, Fault("refuse"))
        return bench

    def check(bench: Bench) -> None:
        bench.kernel.faults.clear()
        recover_and_check(bench, [before])

    kills = survives_somewhere(fresh_and_failing, lambda bench: bench.apply(plan), check)
    assert kills > 4 * len(plan.steps)


@pytest.mark.parametrize(
    "plan", [bind_plan(GPU, AUDIO), *PLANS], ids=["bind two", "bind once", "mdev create"]
)
@pytest.mark.parametrize("effect", [False, True], ids=["before the store", "after the store"])
def test_kill_around_every_store(fresh: Callable[[], Bench], plan: Plan, effect: bool) -> None:  # noqa: FBT001
    for k in range(len(plan.steps)):
        bench = fresh()
        before = bench.state()
        bench.fail(k, Fault("die", effect=effect))
        assert in_child(lambda b=bench: b.apply(plan)) == DIED  # type: ignore[misc]
        bench.kernel.faults.clear()
        (recovery,) = bench.recover()
        assert recovery.outcome == "recovered"
        assert bench.state() == before
        assert bench.recover() == ()


@pytest.mark.parametrize("effect", [False, True], ids=["before the store", "after the store"])
def test_kill_around_every_undo_of_two_devices(fresh: Callable[[], Bench], effect: bool) -> None:  # noqa: FBT001
    """What was taken back of one device must not look done again while the other's turn is on."""
    plan = bind_plan(GPU, OTHER_GPU, once=True)
    last = len(plan.steps) - 1
    for k in range(last - 1):
        bench = fresh()
        before = bench.state()
        bench.kernel.faults = {last: Fault("refuse"), last + 1 + k: Fault("die", effect=effect)}
        assert in_child(lambda b=bench: b.apply(plan)) == DIED  # type: ignore[misc]
        bench.kernel.faults.clear()
        recover_and_check(bench, [before])


def test_a_step_with_nothing_to_see_is_taken_back_when_the_journal_says_it_is_done(
    bench: Bench,
) -> None:
    path = f"{DEVICES}/{GPU}/counter"
    (bench.root / path).write_text("0")
    count = WriteAttr(path, "1", None, None, Store(path, "0", None), "count")
    crash(bench, Plan("x", (GPU,), (count, unbind(GPU, "nouveau"))), 1)
    assert [r.outcome for r in bench.recover()] == ["recovered"]
    assert (bench.root / path).read_text() == "0"


def test_an_undo_with_nothing_to_see_is_not_done_twice(bench: Bench) -> None:
    path = f"{DEVICES}/{GPU}/counter"
    (bench.root / path).write_text("0")
    count = WriteAttr(path, "1", None, None, Store(path, "0", None), "count")
    plan = Plan("x", (GPU,), (count, unbind(GPU, "nouveau")))
    bench.kernel.faults = {1: Fault("refuse"), 2: Fault("die", effect=True)}
    assert in_child(lambda: bench.apply(plan)) == DIED
    bench.kernel.faults.clear()
    (recovery,) = bench.recover()
    assert recovery.outcome == "half-way"
    assert recovery.commands == (f"printf %s 0 > {bench.root}/{path}",)
    assert "cannot be seen" in recovery.sentence
    assert bench.kernel.log == []


@pytest.mark.parametrize("plan", PLANS, ids=PLAN_IDS)
def test_kill_at_every_save_of_recover(fresh: Callable[[], Bench], plan: Plan) -> None:
    before = fresh().state()
    last = len(plan.steps) - 1

    def crashed() -> Bench:
        bench = fresh()
        bench.fail(last, Fault("die", effect=True))
        assert in_child(lambda: bench.apply(plan)) == DIED
        bench.kernel.faults.clear()
        return bench

    kills = survives_somewhere(
        crashed, lambda bench: bench.recover(), lambda bench: recover_and_check(bench, [before])
    )
    assert kills > 2 * last


def test_kill_around_every_store_of_recover(fresh: Callable[[], Bench]) -> None:
    plan = bind_plan(GPU, once=True)
    for k in range(4):
        for effect in (False, True):
            bench = fresh()
            before = bench.state()
            bench.fail(4, Fault("die", effect=True))
            assert in_child(lambda b=bench: b.apply(plan)) == DIED  # type: ignore[misc]
            bench.kernel.faults = {k: Fault("die", effect=effect)}
            assert in_child(lambda b=bench: b.recover()) == DIED  # type: ignore[misc]
            bench.kernel.faults.clear()
            recover_and_check(bench, [before])


def crash(bench: Bench, plan: Plan, at: int, *, effect: bool = True) -> None:
    bench.fail(at, Fault("die", effect=effect))
    assert in_child(lambda: bench.apply(plan)) == DIED
    bench.kernel.faults.clear()


def test_after_a_crash_no_plan_is_carried_out_before_recover(bench: Bench) -> None:
    crash(bench, bind_plan(GPU), 2)
    half = bench.state()
    with pytest.raises(ApplyError, match=r"cut off: bind 0000:65:00\.0 .*Run `vfiohost recover`"):
        bench.apply(bind_plan(OTHER_GPU))
    assert bench.state() == half
    bench.recover()
    bench.apply(bind_plan(OTHER_GPU))


def test_nothing_to_recover_makes_no_file(bench: Bench) -> None:
    there = files(bench.root)
    assert bench.recover() == ()
    assert files(bench.root) == there


def test_a_journal_that_goes_on_after_its_end_is_open(bench: Bench) -> None:
    """Ctrl-C right after the last line, and a kill while that was taken back."""
    before = bench.state()
    bench.apply(bind_plan(GPU))
    (file,) = (bench.root / JOURNAL_PATH).iterdir()
    with file.open("a") as journal:
        journal.write('{"event": "undo-begin", "step": 3}\n')
    assert [r.outcome for r in bench.recover()] == ["recovered"]
    assert bench.state() == before


def test_recover_names_what_it_did(bench: Bench) -> None:
    crash(bench, bind_plan(GPU), 2)
    (recovery,) = bench.recover()
    assert recovery.report is not None
    assert [r.outcome for r in recovery.report.results] == ["done", "undone", "undone", "not-run"]
    assert recovery.journal_id in recovery.sentence
    assert bench.entries()[0].result == "recovered"


def test_recover_leaves_alone_what_somebody_else_changed(bench: Bench) -> None:
    crash(bench, bind_plan(GPU), 3)
    bench.kernel._act(f"{DEVICES}/{GPU}/driver_override", "foreign")
    (recovery,) = bench.recover()
    assert recovery.outcome == "half-way"
    assert recovery.commands == (
        f"echo > {bench.root}/{DEVICES}/{GPU}/driver_override",
        f"printf %s {GPU} > {bench.root}/sys/bus/pci/drivers/nouveau/bind",
    )
    assert "'foreign'" in recovery.sentence
    assert (bench.root / DEVICES / GPU / "driver_override").read_text() == "foreign\n"
    assert bench.entries()[0].result == "half-way"


def test_what_is_half_way_is_told_until_somebody_has_finished_it(bench: Bench) -> None:
    before = bench.state()
    crash(bench, bind_plan(GPU), 3)
    bench.kernel._act(f"{DEVICES}/{GPU}/driver_override", "foreign")
    (first,) = bench.recover()
    half, stores = bench.state(), len(bench.kernel.log)
    lines = journal_text(bench)
    (second,) = bench.recover()
    assert (second.outcome, second.commands) == ("half-way", first.commands)
    assert "'foreign'" in second.sentence
    assert (bench.state(), len(bench.kernel.log), journal_text(bench)) == (half, stores, lines)
    bench.apply(bind_plan(OTHER_GPU))  # it stands in nobody's way
    bench.apply(restore_plan(OTHER_GPU))
    bench.kernel._act(f"{DEVICES}/{GPU}/driver_override", "\n")
    bench.kernel._act("sys/bus/pci/drivers/nouveau/bind", GPU)
    (third,) = bench.recover()
    assert (third.outcome, third.commands) == ("recovered", ())
    assert "brought back since" in third.sentence
    assert bench.recover() == ()
    assert bench.state()[GPU] == before[GPU]


def test_what_was_half_way_is_brought_back_when_the_first_step_is(bench: Bench) -> None:
    """The one step that could not be taken back shows nothing of it any more."""
    before = bench.state()
    crash(bench, bind_plan(GPU), 3)
    bench.fail(0, Fault("refuse"))
    (first,) = bench.recover()
    assert first.outcome == "half-way"
    for store in ("vfio-pci/unbind", "nouveau/bind"):
        bench.kernel._act(f"sys/bus/pci/drivers/{store}", GPU)
    bench.kernel._act(f"{DEVICES}/{GPU}/driver_override", "\n")
    assert bench.state() == before
    assert [r.outcome for r in bench.recover()] == ["recovered"]


def test_an_undo_that_was_done_is_no_failure_whatever_its_errno(bench: Bench) -> None:
    before = bench.state()
    crash(bench, bind_plan(GPU), 3)
    bench.fail(0, Fault("refuse", effect=True, errno=errno.EINTR))
    assert [r.outcome for r in bench.recover()] == ["recovered"]
    assert bench.state() == before


def test_what_is_half_way_is_not_told_after_a_reboot(bench: Bench) -> None:
    crash(bench, bind_plan(GPU), 3)
    bench.kernel._act(f"{DEVICES}/{GPU}/driver_override", "foreign")
    bench.recover()
    reboot(bench.root)
    assert bench.recover() == ()


def test_what_somebody_uses_is_not_taken_back(bench: Bench) -> None:
    before = bench.state()
    crash(bench, bind_plan(GPU), 3)
    half, stores = bench.state(), len(bench.kernel.log)
    asked = []

    def judge(plan: Plan) -> Plan:
        asked.append([step.why for step in plan.steps])
        others = [Refusal(code, GPU, code, "") for code in ("boot-vga", "bridge")]
        raise PlanRefused([*others, Refusal("in-use", GPU, "A guest has it.", "Stop it.")], plan)

    (recovery,) = bench.recover(judge)
    assert (recovery.outcome, [r.code for r in recovery.refusals]) == ("in-use", ["in-use"])
    assert "A guest has it. Stop it." in recovery.sentence
    assert f"recover --keep {recovery.journal_id}`" in recovery.sentence
    assert len(asked[0]) == 3  # the module is not asked about
    assert (bench.state(), len(bench.kernel.log)) == (half, stores)
    assert bench.entries()[0].is_open
    (recovery,) = bench.recover()
    assert recovery.outcome == "recovered"
    assert bench.state() == before


def test_nobody_is_asked_about_what_did_not_happen(bench: Bench) -> None:
    crash(bench, bind_plan(GPU), 1, effect=False)

    def judge(plan: Plan) -> Plan:
        raise AssertionError(plan)

    assert [r.outcome for r in bench.recover(judge)] == ["recovered"]


def test_what_a_plan_did_can_be_kept(bench: Bench) -> None:
    crash(bench, bind_plan(GPU), 3)
    half, stores = bench.state(), len(bench.kernel.log)
    with pytest.raises(NotFoundError):
        bench.recover(keep="20260101T000000.000000Z-00000000")
    (entry,) = bench.entries()
    (recovery,) = bench.recover(keep=entry.id)
    assert recovery.outcome == "kept"
    assert recovery.commands[-1].endswith("/sys/bus/pci/drivers/nouveau/bind")
    assert (bench.state(), len(bench.kernel.log)) == (half, stores)
    assert bench.recover() == ()
    assert [str(o.driver) for o in bench.journal.origins().values()] == ["nouveau"]


def test_nothing_is_stored_behind_a_pending_store_of_the_same_device(bench: Bench) -> None:
    """The kernel has not come back from one plan, and another was cut off before it."""
    bench.apply(bind_plan(GPU))
    reopened = bench.entries()[0]
    (file,) = (bench.root / JOURNAL_PATH).iterdir()
    text = file.read_text().splitlines(keepends=True)
    bench.fail(0, Fault("block", pid=os.getpid()))
    with pytest.raises(PendingError):
        bench.apply(restore_plan(GPU))
    file.write_text("".join(text[:-1]))  # as if it had been killed before it was closed
    stores, state = len(bench.kernel.log), bench.state()
    outcomes = {r.journal_id: r for r in bench.recover()}
    assert [r.outcome for r in outcomes.values()] == ["pending", "pending"]
    assert f"is about {GPU}, too" in outcomes[reopened.id].sentence
    assert (len(bench.kernel.log), bench.state()) == (stores, state)


@pytest.mark.parametrize("code", [errno.EROFS, errno.ENOSPC, errno.EACCES])
def test_a_journal_that_cannot_be_written_keeps_nobody_from_going_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    before = bench.state()
    crash(bench, bind_plan(GPU), 3)
    real = os.open

    def refusing(path: str, flags: int, *args: Any, **options: Any) -> int:
        if flags & os.O_RDWR and str(path).endswith(".jsonl"):
            raise OSError(code, os.strerror(code))
        return real(path, flags, *args, **options)

    monkeypatch.setattr(os, "open", refusing)
    (recovery,) = bench.recover()
    assert recovery.outcome == "recovered"
    assert recovery.journal_error is not None
    assert errno.errorcode[code] in recovery.sentence
    assert bench.state() == before
    monkeypatch.undo()
    (recovery,) = bench.recover()
    assert (recovery.outcome, recovery.journal_error) == ("recovered", None)


def test_a_journal_that_cannot_be_written_names_what_is_left_to_do(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    crash(bench, bind_plan(GPU), 3)
    bench.fail(0, Fault("refuse"))

    def refusing(*_: object) -> JournalWriter:
        raise KernelError("open", errno.EROFS, "/var/lib/vfiohost/journal")

    monkeypatch.setattr(Journal, "reopen", refusing)
    (recovery,) = bench.recover()
    assert (recovery.outcome, len(recovery.commands)) == ("half-way", 2)
    assert "EROFS" in recovery.sentence


def journal_text(bench: Bench) -> list[str]:
    return [file.read_text() for file in sorted((bench.root / JOURNAL_PATH).iterdir())]


def test_recover_tells_of_an_undo_that_the_kernel_refuses(bench: Bench) -> None:
    crash(bench, bind_plan(GPU), 3)
    bench.fail(0, Fault("refuse"))
    (recovery,) = bench.recover()
    assert recovery.outcome == "half-way"
    assert len(recovery.commands) == 2
    assert "EBUSY" in recovery.sentence


def test_a_journal_of_another_boot_is_closed_and_not_followed(bench: Bench) -> None:
    crash(bench, bind_plan(GPU), 2)
    half = bench.state()
    stores = len(bench.kernel.log)
    reboot(bench.root)
    bench.apply(Plan("bind", (OTHER_GPU,), to_vfio(OTHER_GPU)))
    (recovery,) = bench.recover()
    assert recovery.outcome == "other-boot"
    assert bench.state()[GPU] == half[GPU]
    assert len(bench.kernel.log) == stores + 3
    assert bench.recover() == ()
    assert [e.result for e in bench.entries()] == ["other-boot", "committed"]


def test_two_recoveries_at_once(bench: Bench) -> None:
    crash(bench, bind_plan(GPU), 2)

    def second(_: int) -> None:
        with pytest.raises(LockBusyError, match=f"pid {os.getpid()}, vfiohost recover"):
            bench.recover()

    stores = len(bench.kernel.log)
    bench.kernel.before_store = second
    (recovery,) = bench.recover()
    assert recovery.outcome == "recovered"
    assert len(bench.kernel.log) > stores


@contextmanager
def killed_with_the_lock(bench: Bench, *after: str) -> Iterator[None]:
    """A caller has been killed, and a process that it had forked has its lock: it runs this."""
    told, tell = os.pipe()
    inheritable = True
    caller = os.fork()
    if caller == 0:
        with lock(bench.sysfs, purpose="bind x") as held:
            fd = held.fd
            helper = os.fork()
            if helper == 0:
                os.set_inheritable(fd, inheritable)
                os.execvp(after[0], after)
            os.write(tell, f"{helper}\n".encode())
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(caller, 0)
    helper = int(os.read(told, 100))
    os.close(told)
    os.close(tell)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(helper, signal.SIGKILL)


def test_the_lock_outlives_a_killed_caller_until_its_helper_has_ended(bench: Bench) -> None:
    """The helper of a store inherits the lock's descriptor, as helpers.store_bounded lets it."""
    said = "has ended, but a process that it has started still has"
    with killed_with_the_lock(bench, "sleep", "60"):
        with pytest.raises(LockBusyError, match=said) as caught:
            bench.apply(bind_plan(GPU))
        assert caught.value.has_ended
        with pytest.raises(LockBusyError, match=said):
            check_free(bench.sysfs)
    with lock(bench.sysfs, purpose="after", wait=10):
        pass


def test_what_a_killed_caller_had_just_forked_is_waited_for(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A helper closes the lock that it has inherited as soon as it runs: nothing is stuck there."""
    monkeypatch.setattr(locking, "_MOMENT_SECONDS", 60.0)
    with killed_with_the_lock(bench, "sleep", "0.2"):
        check_free(bench.sysfs)
    with killed_with_the_lock(bench, "sleep", "0.2"):
        bench.apply(bind_plan(GPU))


def test_the_lock_is_released_for_a_helper_too_when_the_caller_ends_in_order(
    bench: Bench,
) -> None:
    with lock(bench.sysfs, purpose="bind x") as held:
        kept = os.dup(held.fd)
    with lock(bench.sysfs, purpose="another"), pytest.raises(BlockingIOError):
        fcntl.flock(kept, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(kept)


def test_restore_is_recovered_as_any_plan(bench: Bench) -> None:
    bench.apply(bind_plan(GPU))
    bound = bench.state()
    crash(bench, restore_plan(GPU), 1)
    bench.recover()
    assert bench.state() == bound


def test_a_failed_rollback_is_not_followed_again(bench: Bench) -> None:
    bench.kernel.load_module("vfio_pci", timeout=1)
    bench.fail(2, Fault("refuse"))
    bench.fail(3, Fault("refuse"))
    with pytest.raises(RollbackError):
        bench.apply(bind_plan(GPU))
    stores = len(bench.kernel.log)
    assert [r.outcome for r in bench.recover()] == ["half-way"]
    assert len(bench.kernel.log) == stores
    assert [str(o.driver) for o in bench.journal.origins().values()] == ["nouveau"]
