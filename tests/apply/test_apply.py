"""What apply does when all goes well, when the host changed, and when the kernel says no."""

from __future__ import annotations

import errno
import fcntl
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import pytest

from tests.apply.fake import (
    AUDIO,
    DEVICES,
    DRIVERS,
    GPU,
    NATIVE,
    OTHER_GPU,
    UUIDS,
    Fault,
    bind,
    bind_plan,
    create,
    files,
    link,
    mdev_plan,
    override,
    remove,
    set_params,
    to_vfio,
    unbind,
)
from vfiohost.errors import (
    ApplyError,
    KernelError,
    PendingError,
    RollbackError,
    StalePlanError,
    UnsupportedError,
)
from vfiohost.plan.types import Expect, LoadModule, Plan, StepResult, Store, WriteAttr

if TYPE_CHECKING:
    from tests.apply.conftest import Bench

PLANS = [bind_plan(GPU), bind_plan(GPU, AUDIO), bind_plan(GPU, once=True), mdev_plan()]
PLAN_IDS = ["bind", "bind two", "bind once", "mdev create"]


def outcomes(error: ApplyError) -> list[str]:
    assert error.report is not None
    return [result.outcome for result in error.report.results]  # type: ignore[attr-defined]


def on_driver(bench: Bench, address: str) -> str | None:
    return bench.sysfs.link_name(f"{DEVICES}/{address}/driver")


# -- when all goes well ------------------------------------------------------------------------


def test_bind_is_done_step_by_step_and_journaled(bench: Bench) -> None:
    seen: list[StepResult] = []
    report = bench.apply(bind_plan(GPU), progress=seen.append)
    assert on_driver(bench, GPU) == "vfio-pci"
    assert [r.outcome for r in report.results] == ["done"] * 4
    assert report.results == tuple(seen)
    assert [path.rpartition("/")[2] for path, _ in bench.kernel.log] == [
        "modprobe",
        "unbind",
        "driver_override",
        "bind",
    ]
    (entry,) = bench.entries()
    assert entry.id == report.journal_id
    assert entry.result == "committed"
    assert [(e.kind, e.step) for e in entry.events] == [
        (kind, step) for step in range(4) for kind in ("begin", "done")
    ]


def test_the_same_plan_again_writes_nothing_and_keeps_no_journal(bench: Bench) -> None:
    bench.apply(bind_plan(GPU))
    stores = len(bench.kernel.log)
    again = Plan("bind", (GPU,), bind_plan(GPU).steps[2:])
    report = bench.apply(again)
    assert [r.outcome for r in report.results] == ["already", "already"]
    assert report.journal_id is None
    assert report.writes == 0
    assert len(bench.kernel.log) == stores
    assert len(bench.entries()) == 1


def test_an_empty_plan_touches_nothing_not_even_on_a_recording(bench: Bench) -> None:
    bench.kernel.writable = False
    there = files(bench.root)
    report = bench.apply(Plan("bind", (GPU,), ()))
    assert report.results == ()
    assert files(bench.root) == there


def test_a_recording_is_refused_before_any_file_is_made(bench: Bench) -> None:
    bench.kernel.writable = False
    there = files(bench.root)
    with pytest.raises(UnsupportedError):
        bench.apply(bind_plan(GPU))
    assert files(bench.root) == there


def test_the_lock_is_held_during_each_store_and_free_afterwards(bench: Bench) -> None:
    lock = bench.root / "run/vfiohost/lock"

    def try_it(_: int) -> None:
        with lock.open() as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)

    bench.kernel.before_store = try_it
    bench.apply(bind_plan(GPU))
    assert len(bench.kernel.log) == 4
    assert len(bench.kernel.keep_fds) == 4  # modprobe's, too
    assert all(isinstance(fd, int) for fd in bench.kernel.keep_fds)
    with lock.open() as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_each_step_is_on_the_disk_before_its_store(bench: Bench) -> None:
    journaled: list[tuple[str, int]] = []

    def look(_: int) -> None:
        (entry,) = bench.entries()
        event = entry.events[-1]
        journaled.append((event.kind, event.step))

    bench.kernel.before_store = look
    bench.apply(bind_plan(GPU))
    assert journaled == [("begin", 0), ("begin", 1), ("begin", 2), ("begin", 3)]


def test_journal_and_lock_are_private(bench: Bench) -> None:
    bench.apply(bind_plan(GPU))
    modes = {
        path: (bench.root / path).stat().st_mode & 0o777
        for path in ("run/vfiohost", "run/vfiohost/lock", "var/lib/vfiohost/journal")
    }
    assert modes == {
        "run/vfiohost": 0o700,
        "run/vfiohost/lock": 0o600,
        "var/lib/vfiohost/journal": 0o700,
    }
    (journal,) = (bench.root / "var/lib/vfiohost/journal").iterdir()
    assert journal.stat().st_mode & 0o777 == 0o600


# -- when the kernel says no -------------------------------------------------------------------


@pytest.mark.parametrize("plan", PLANS, ids=PLAN_IDS)
@pytest.mark.parametrize(
    "fault",
    [
        Fault("refuse"),
        # Not EBUSY or EEXIST: with these the kernel says that somebody else was there before.
        Fault("refuse", effect=True, errno=errno.EIO),
        Fault("ignore"),
    ],
    ids=["refused", "refused with effect", "accepted without effect"],
)
def test_whichever_step_fails_the_host_is_as_before(bench: Bench, plan: Plan, fault: Fault) -> None:
    before = bench.state()
    failed = 0
    for k, step in enumerate(plan.steps):
        if step.after is None and fault.kind == "ignore":
            continue  # nobody can see that such a step did nothing
        shutil.rmtree(bench.root / DRIVERS / "vfio-pci", ignore_errors=True)
        bench.kernel.faults = {len(bench.kernel.log) + k: fault}
        with pytest.raises(ApplyError) as caught:
            bench.apply(plan)
        error = caught.value
        assert type(error) is ApplyError
        assert bench.state() == before, k
        assert error.step == step
        assert f"Step {k + 1} of {len(plan.steps)}" in str(error)
        done = ["done" if isinstance(s, LoadModule) else "undone" for s in plan.steps[:k]]
        expected = [*done, "failed", *["not-run"] * (len(plan.steps) - k - 1)]
        found = outcomes(error)
        # What goes with its device has no undo of its own: its step stays done.
        assert [
            "undone" if o == "done" and isinstance(s, WriteAttr) else o
            for o, s in zip(found, plan.steps, strict=True)
        ] == expected
        if fault.kind == "refuse":
            assert isinstance(error.cause, KernelError)
            assert error.__cause__ is error.cause
            assert error.cause.errno == fault.errno
        else:
            assert "did not have its effect" in str(error)
        assert bench.entries()[-1].result == "rolled-back"
        failed += 1
    assert failed >= 2
    assert not bench.journal.open_entries()
    assert bench.journal.last_committed() is None
    bench.apply(plan)
    assert bench.state() != before


@pytest.mark.parametrize("undo_fault", [Fault("refuse", errno=errno.EIO), Fault("ignore")])
def test_whichever_undo_fails_the_rest_is_undone_and_the_commands_are_named(
    bench: Bench, undo_fault: Fault
) -> None:
    """The last step fails; of the undos before it each in turn fails, too."""
    plan = Plan("bind", (GPU, OTHER_GPU), (*to_vfio(GPU), *to_vfio(OTHER_GPU)))
    bench.kernel.load_module("vfio_pci", timeout=1)
    bench.fail(5, Fault("refuse"))
    bench.fail(7, undo_fault)  # the undo of step 4, counted from 0: OTHER_GPU's unbind
    with pytest.raises(RollbackError) as caught:
        bench.apply(plan)
    error = caught.value
    assert error.commands == (f"printf %s {OTHER_GPU} > {bench.root}/{DRIVERS}/nouveau/bind",)
    assert error.commands[0] in str(error)
    assert outcomes(error) == ["undone", "undone", "undone", "undo-failed", "undone", "failed"]
    assert isinstance(error.cause, KernelError)
    assert error.__cause__ is error.cause
    assert on_driver(bench, GPU) == "nouveau"
    assert on_driver(bench, OTHER_GPU) is None
    assert bench.entries()[-1].result == "half-way"
    assert not bench.journal.open_entries()


def test_every_undo_that_the_kernel_refuses_ends_in_an_explicit_error(bench: Bench) -> None:
    plan = bind_plan(GPU, AUDIO)
    before = bench.state()
    undos = 5  # of seven steps the last fails and the first is a module
    seen: set[tuple[str, ...]] = set()
    for k in range(undos):
        shutil.rmtree(bench.root / DRIVERS / "vfio-pci", ignore_errors=True)
        bench.fail(6, Fault("refuse"))
        bench.fail(7 + k, Fault("refuse"))
        with pytest.raises(RollbackError) as caught:
            bench.apply(plan)
        error = caught.value
        assert "half-way" in str(error)
        assert outcomes(error).count("undo-failed") == len(error.commands) >= 1
        assert bench.state() != before
        seen.add(error.commands)
        for command in error.commands:  # what a person would paste
            shell_line = rf"(?:printf %s (\S+)|echo) > {re.escape(str(bench.root))}/(\S+)"
            match = re.fullmatch(shell_line, command)
            assert match is not None, command
            bench.kernel._act(match[2], match[1] or "\n")
        assert bench.state() == before
    assert len(seen) == undos


def test_half_effective_store_is_taken_back(bench: Bench) -> None:
    """A store that is refused and yet does something else than it should."""
    before = bench.state()

    def other_value(number: int) -> None:
        if number == 0:
            bench.kernel._act(f"{DEVICES}/{GPU}/driver_override", "something-else")

    bench.kernel.before_store = other_value
    bench.fail(0, Fault("refuse", errno=errno.EIO))
    with pytest.raises(ApplyError) as caught:
        bench.apply(Plan("bind", (GPU,), (override(GPU, None, "vfio-pci"),)))
    assert type(caught.value) is ApplyError
    assert bench.state() == before


def test_somebody_elses_change_is_not_written_over_while_undoing(bench: Bench) -> None:
    bench.kernel.load_module("vfio_pci", timeout=1)

    def intrude(number: int) -> None:
        if number == 3:
            bench.kernel._act(f"{DEVICES}/{GPU}/driver_override", "foreign")

    bench.kernel.before_store = intrude
    bench.fail(2, Fault("refuse"))
    with pytest.raises(RollbackError) as caught:
        bench.apply(bind_plan(GPU))
    assert outcomes(caught.value) == ["already", "undo-failed", "undo-failed", "failed"]
    assert "foreign" in str(caught.value)
    assert caught.value.commands[0] == f"echo > {bench.root}/{DEVICES}/{GPU}/driver_override"
    text = (bench.root / DEVICES / GPU / "driver_override").read_text()
    assert text == "foreign\n"


def test_a_refused_attribute_of_a_new_mdev_removes_the_mdev(bench: Bench) -> None:
    plan = Plan("mdev create", UUIDS[:1], (create(UUIDS[0]), set_params(UUIDS[0], "nonsense")))
    bench.fail(1, Fault("refuse", errno=errno.EINVAL))
    with pytest.raises(ApplyError) as caught:
        bench.apply(plan)
    assert outcomes(caught.value) == ["undone", "failed"]
    assert not list((bench.root / "sys/bus/mdev/devices").iterdir())


def test_a_module_that_brings_no_driver_is_said_so(bench: Bench) -> None:
    bench.fail(0, Fault("ignore"))
    with pytest.raises(
        ApplyError, match=r"Module vfio_pci was loaded, but .*vfio-pci does not exist"
    ):
        bench.apply(bind_plan(GPU))


def test_missing_permission_is_the_cause(bench: Bench) -> None:
    bench.fail(0, Fault("refuse", errno=errno.EACCES))
    with pytest.raises(ApplyError) as caught:
        bench.apply(Plan("unbind", (GPU,), (unbind(GPU, "nouveau"),)))
    assert isinstance(caught.value.cause, KernelError)
    assert caught.value.cause.errno == errno.EACCES
    assert "Nothing was changed." in str(caught.value)


def test_success_without_effect_says_what_is_there_instead(bench: Bench) -> None:
    bench.fail(0, Fault("ignore"))
    with pytest.raises(ApplyError) as caught:
        bench.apply(Plan("bind", (GPU,), (override(GPU, None, "vfio-pci"),)))
    assert (
        f"The kernel accepted 'vfio-pci' for {bench.root}/{DEVICES}/{GPU}/driver_override, but it "
        f"did not have its effect: {bench.root}/{DEVICES}/{GPU}/driver_override is '(null)', but "
        "should be 'vfio-pci'."
    ) in str(caught.value)
    assert caught.value.cause is None


# -- when the host changed ---------------------------------------------------------------------


def test_a_stale_plan_writes_nothing(bench: Bench) -> None:
    (bench.root / DEVICES / GPU / "driver").unlink()
    (bench.root / DEVICES / GPU / "driver").symlink_to("../../drivers/snd_hda_intel")
    before = bench.state()
    with pytest.raises(StalePlanError, match=r"points to 'snd_hda_intel', but should point to"):
        bench.apply(Plan("bind", (GPU,), to_vfio(GPU)))
    assert bench.state() == before
    assert bench.kernel.log == []
    assert bench.entries() == []


@pytest.mark.parametrize("once", [False, True])
def test_a_plan_that_somebody_else_has_carried_out_is_success(bench: Bench, once: bool) -> None:  # noqa: FBT001
    bench.apply(bind_plan(GPU, once=once))
    stores = len(bench.kernel.log)
    report = bench.apply(bind_plan(GPU, once=once))
    assert {r.outcome for r in report.results} == {"already"}
    assert report.journal_id is None
    assert len(bench.kernel.log) == stores


def test_a_plan_that_somebody_else_finishes_is_success(bench: Bench) -> None:
    steps = (override(GPU, None, "a"), override(GPU, "a", "b"), override(GPU, "b", "c"))

    def finish(_: StepResult) -> None:
        bench.kernel._act(steps[2].path, "c")

    report = bench.apply(Plan("x", (GPU,), steps), progress=finish)
    assert [r.outcome for r in report.results] == ["done", "already", "already"]
    assert bench.entries()[-1].result == "committed"
    assert bench.entries()[-1].done_plan.steps == steps[:1]


def test_a_plan_that_somebody_else_has_carried_out_in_part_is_stale(bench: Bench) -> None:
    bench.apply(bind_plan(GPU))
    half = bench.state()
    with pytest.raises(StalePlanError):
        bench.apply(bind_plan(GPU, AUDIO))
    assert bench.state() == half


def test_a_plan_that_gets_stale_on_its_way_is_taken_back(bench: Bench) -> None:
    before = bench.state()
    late = Plan("bind", (GPU,), (*bind_plan(GPU).steps, bind(AUDIO, "vfio-pci")))
    with pytest.raises(StalePlanError) as caught:
        bench.apply(late)
    assert outcomes(caught.value) == ["done", "undone", "undone", "undone", "failed"]
    assert caught.value.cause is None
    assert bench.state() == before


def test_a_device_that_is_gone_makes_the_plan_stale(bench: Bench) -> None:
    shutil.rmtree(bench.root / DEVICES / GPU)
    with pytest.raises(StalePlanError, match="driver is not there, and neither is the directory"):
        bench.apply(Plan("bind", (GPU,), to_vfio(GPU)))


def test_a_step_without_before_is_skipped_when_its_work_is_done(bench: Bench) -> None:
    step = attrs.evolve(override(GPU, None, "vfio-pci"), before=None)
    bench.kernel._act(step.path, step.value)
    assert bench.apply(Plan("x", (), (step,))).results[0].outcome == "already"
    assert bench.kernel.log == []


def test_an_expectation_that_cannot_be_read_is_no_absence(bench: Bench) -> None:
    """A directory where a file should be is not the same as no file."""
    path = f"{DEVICES}/{GPU}"
    step = WriteAttr(path, "1", Expect(path, "text", None), None, None, "nonsense")
    with pytest.raises(ApplyError) as caught:
        bench.apply(Plan("x", (), (step,)))
    assert isinstance(caught.value.cause, KernelError)
    assert caught.value.cause.code == "EISDIR"
    assert bench.kernel.log == []


# -- interruptions -----------------------------------------------------------------------------


@pytest.mark.parametrize("k", range(4))
def test_cancel_between_steps_takes_back_what_was_done(bench: Bench, k: int) -> None:
    before = bench.state()
    with pytest.raises(ApplyError, match="Interrupted") as caught:
        bench.apply(bind_plan(GPU), cancel=lambda: len(bench.kernel.log) >= k)
    assert type(caught.value) is ApplyError
    assert bench.state() == before
    assert not bench.journal.open_entries()
    assert outcomes(caught.value)[k:] == ["not-run"] * (4 - k)


def test_cancel_after_the_last_step_comes_too_late(bench: Bench) -> None:
    bench.apply(bind_plan(GPU), cancel=lambda: len(bench.kernel.log) >= 4)
    assert on_driver(bench, GPU) == "vfio-pci"


@pytest.mark.parametrize("kind", [KeyboardInterrupt, BrokenPipeError, SystemExit])
def test_an_exception_between_steps_goes_on_after_the_undo(
    bench: Bench, kind: type[BaseException]
) -> None:
    before = bench.state()
    raised = kind()

    def progress(result: StepResult) -> None:
        if isinstance(result.step, WriteAttr) and result.step.path.endswith("vfio-pci/bind"):
            raise raised

    with pytest.raises(kind) as caught:
        bench.apply(bind_plan(GPU), progress=progress)
    assert caught.value is raised
    assert bench.state() == before
    assert bench.entries()[-1].result == "rolled-back"


def test_an_exception_while_looking_is_taken_back_with_its_step(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C between the store and the read-back: the step counts as one that may have happened."""
    before = bench.state()
    real = type(bench.sysfs).link_name

    def link_name(sysfs: object, path: str) -> str | None:
        if len(bench.kernel.log) == 2:
            monkeypatch.undo()
            raise KeyboardInterrupt
        return real(bench.sysfs, path)

    monkeypatch.setattr(type(bench.sysfs), "link_name", link_name)
    with pytest.raises(KeyboardInterrupt):
        bench.apply(bind_plan(GPU))
    assert bench.kernel.log[1] == (f"{DRIVERS}/nouveau/unbind", GPU)
    assert bench.state() == before
    assert not bench.journal.open_entries()


def test_an_exception_inside_a_store_leaves_it_pending(bench: Bench) -> None:
    bench.fail(1, Fault("raise", effect=True, error=KeyboardInterrupt()))
    with pytest.raises(PendingError) as caught:
        bench.apply(bind_plan(GPU))
    assert outcomes(caught.value) == ["done", "pending", "not-run", "not-run"]
    assert isinstance(caught.value.__cause__, KeyboardInterrupt)
    shown = bench.root / DRIVERS / "nouveau/unbind"
    assert f"Writing '{GPU}' to {shown} was interrupted" in str(caught.value)
    assert len(bench.kernel.log) == 2


def test_an_interruption_of_the_undo_says_that_recover_is_needed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = bench.state()
    bench.fail(3, Fault("refuse"))
    real = type(bench.sysfs).link_name

    def link_name(sysfs: object, path: str) -> str | None:
        if len(bench.kernel.log) == 5:
            monkeypatch.undo()
            raise KeyboardInterrupt
        return real(bench.sysfs, path)

    monkeypatch.setattr(type(bench.sysfs), "link_name", link_name)
    with pytest.raises(KeyboardInterrupt) as caught:
        bench.apply(bind_plan(GPU))
    assert any("vfiohost recover" in note for note in caught.value.__notes__)
    assert [r.outcome for r in bench.recover()] == ["recovered"]
    assert bench.state() == before


# -- undo --------------------------------------------------------------------------------------


def test_link_helper_matches_the_host(bench: Bench) -> None:
    """The fake's own expectations hold on the fake, so that the tests above mean something."""
    for address, driver in NATIVE.items():
        assert on_driver(bench, address) == driver
        assert link(address, driver).value == driver


def test_removing_and_creating_an_mdev_again(bench: Bench) -> None:
    bench.apply(mdev_plan())
    before = bench.state()
    bench.fail(1, Fault("refuse", errno=errno.EAGAIN))
    with pytest.raises(ApplyError):
        bench.apply(Plan("mdev remove", UUIDS, (remove(UUIDS[0]), remove(UUIDS[1]))))
    assert bench.state() == before


def test_a_store_that_leaves_nothing_to_see_is_undone_when_it_is_known(bench: Bench) -> None:
    path = f"{DEVICES}/{GPU}/scratch"
    (bench.root / path).write_text("old")
    step = WriteAttr(path, "new", None, None, Store(path, "old", None), "scratch")
    bench.fail(1, Fault("refuse"))
    with pytest.raises(ApplyError) as caught:
        bench.apply(Plan("x", (GPU,), (step, unbind(GPU, "nouveau"))))
    assert outcomes(caught.value) == ["undone", "failed"]
    assert Path(bench.root / path).read_text() == "old"
