"""Stores on devices that have nothing in common, under way at the same time."""

from __future__ import annotations

import subprocess
import threading
from typing import TYPE_CHECKING

import pytest

from tests.apply.fake import (
    AUDIO,
    DIED,
    GPU,
    NATIVE,
    OTHER_GPU,
    Fault,
    add_groups,
    bind_plan,
    files,
    override,
    unbind,
)
from tests.apply.test_crash import in_child
from vfiohost import Host
from vfiohost.apply.side_by_side import ABREAST
from vfiohost.errors import ApplyError, PendingError, RollbackError
from vfiohost.journal import JournalEntry, Process
from vfiohost.plan.types import Plan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.apply.conftest import Bench
    from vfiohost.testing import SimulatedKernel

SECONDS = 20.0
BOTH = bind_plan(GPU, OTHER_GPU)
"""Load vfio-pci; then three steps for each of two cards."""


@pytest.fixture(autouse=True)
def groups(bench: Bench) -> None:
    add_groups(bench.root)


def meet(bench: Bench, *values: str) -> None:
    """Hold up the ``unbind`` of each of these devices until all are under way."""
    barrier = threading.Barrier(len(values))
    store = bench.kernel.store

    def met(path: str, value: str, *, timeout: float, keep_fd: int | None = None) -> None:
        if path.endswith("/unbind") and value in values:
            barrier.wait(SECONDS)
        store(path, value, timeout=timeout, keep_fd=keep_fd)

    bench.kernel.store = met  # type: ignore[method-assign]


def events(bench: Bench) -> list[tuple[str, int]]:
    (entry,) = bench.entries()
    return [(event.kind, event.step) for event in entry.events]


def outcomes(error: ApplyError) -> list[str]:
    assert error.report is not None
    return [result.outcome for result in error.report.results]  # type: ignore[attr-defined]


def test_two_cards_are_unbound_at_the_same_time(bench: Bench) -> None:
    meet(bench, GPU, OTHER_GPU)
    report = bench.apply(BOTH)
    assert [result.outcome for result in report.results] == ["done"] * 7
    assert bench.state()[GPU] == bench.state()[OTHER_GPU] == "vfio-pci"
    (entry,) = bench.entries()
    assert entry.result == "committed"
    assert entry.done_plan == BOTH


def test_the_steps_of_a_card_stay_in_their_order(bench: Bench) -> None:
    meet(bench, GPU, OTHER_GPU)
    plan = bind_plan(GPU, AUDIO, OTHER_GPU)
    bench.apply(plan)
    of_card = [f"{kind} {step}" for kind, step in events(bench) if 1 <= step <= 6]
    assert of_card == [f"{kind} {step}" for step in range(1, 7) for kind in ("begin", "done")]


def test_devices_of_one_group_wait_for_each_other(bench: Bench) -> None:
    bench.apply(bind_plan(GPU, AUDIO))
    assert events(bench) == [(kind, step) for step in range(7) for kind in ("begin", "done")]


def test_all_that_is_called_back_is_called_in_the_callers_thread(bench: Bench) -> None:
    threads: set[int] = set()

    def here(*_: object, **__: object) -> bool:
        threads.add(threading.get_ident())
        return False

    bench.kernel.give_up = here
    meet(bench, GPU, OTHER_GPU)
    bench.apply(BOTH, cancel=here, progress=here)
    assert threads == {threading.get_ident()}
    assert bench.kernel.give_up is here


def test_when_one_is_refused_the_other_comes_to_an_end_and_both_are_taken_back(
    bench: Bench,
) -> None:
    before = bench.state()
    meet(bench, GPU, OTHER_GPU)
    bench.kernel.faults_of["unbind", OTHER_GPU] = Fault("refuse")
    with pytest.raises(ApplyError, match="EBUSY") as caught:
        bench.apply(BOTH)
    assert not isinstance(caught.value, RollbackError)
    assert caught.value.step == BOTH.steps[4]
    assert bench.state() == before
    (entry,) = bench.entries()
    assert entry.result == "rolled-back"
    kinds = [[e.kind for e in entry.events if e.step == step] for step in (1, 4)]
    assert kinds == [
        ["begin", "done", "undo-begin", "undone"],
        ["begin", "failed", "undone"],
    ]
    assert outcomes(caught.value)[5:] == ["not-run"] * 2


def test_two_refusals_are_both_told(bench: Bench) -> None:
    before = bench.state()
    meet(bench, GPU, OTHER_GPU)
    for address in (GPU, OTHER_GPU):
        bench.kernel.faults_of["unbind", address] = Fault("refuse")
    with pytest.raises(ApplyError) as caught:
        bench.apply(BOTH)
    assert all(address in str(caught.value) for address in (GPU, OTHER_GPU))
    assert bench.state() == before


@pytest.fixture
def helpers() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes that stand for helpers which wait in the kernel."""
    started = [subprocess.Popen(["sleep", "600"]) for _ in range(2)]
    yield started
    for process in started:
        process.kill()
        process.wait()


def test_a_card_that_hangs_does_not_keep_the_other_from_its_end(
    bench: Bench, helpers: list[subprocess.Popen[bytes]]
) -> None:
    meet(bench, GPU, OTHER_GPU)
    bench.kernel.faults_of["unbind", GPU] = Fault("block", effect=True, pid=helpers[0].pid)
    plan = Plan("unbind", (GPU, OTHER_GPU), tuple(unbind(a, NATIVE[a]) for a in (GPU, OTHER_GPU)))
    with pytest.raises(PendingError) as caught:
        bench.apply(plan)
    assert caught.value.pid == helpers[0].pid
    assert outcomes(caught.value) == ["pending", "done"]
    assert bench.state()[OTHER_GPU] == ""


def test_two_cards_that_hang_are_both_known(
    bench: Bench, helpers: list[subprocess.Popen[bytes]]
) -> None:
    meet(bench, GPU, OTHER_GPU)
    for address, helper in zip((GPU, OTHER_GPU), helpers, strict=True):
        bench.kernel.faults_of["unbind", address] = Fault("block", effect=True, pid=helper.pid)
    plan = Plan("unbind", (GPU, OTHER_GPU), tuple(unbind(a, NATIVE[a]) for a in (GPU, OTHER_GPU)))
    with pytest.raises(PendingError) as caught:
        bench.apply(plan)
    assert outcomes(caught.value) == ["pending", "pending"]
    (entry,) = bench.journal.open_entries()
    assert isinstance(entry, JournalEntry)
    assert {helper for _, helper in entry.waiting()} == {Process.of(h.pid) for h in helpers}

    # The first has come back; as long as the second has not, nothing is taken back.
    helpers[0].kill()
    helpers[0].wait()
    (found,) = bench.recover()
    assert (found.outcome, found.pid) == ("pending", helpers[1].pid)
    with pytest.raises(PendingError, match=f"helper process {helpers[1].pid}"):
        bench.apply(Plan("bind", (GPU,), (override(GPU, None, "vfio-pci"),)))

    helpers[1].kill()
    helpers[1].wait()
    (found,) = bench.recover()
    assert found.outcome == "recovered"
    assert bench.state()[GPU] == bench.state()[OTHER_GPU] == "nouveau"


def test_when_waiting_is_interrupted_both_stores_are_pending(bench: Bench) -> None:
    barrier, is_waiting = threading.Barrier(2), threading.Event()
    store = bench.kernel.store

    def hang(path: str, value: str, *, timeout: float, keep_fd: int | None = None) -> None:
        if path.endswith("/unbind"):
            barrier.wait(SECONDS)
            is_waiting.set()
            while not bench.kernel.give_up(0.0):
                threading.Event().wait(0.01)
        store(path, value, timeout=timeout, keep_fd=keep_fd)

    def interrupt(_began: float) -> bool:
        if is_waiting.is_set():
            is_waiting.clear()
            raise KeyboardInterrupt  # as a signal handler, while the stores are waited for
        return False

    bench.kernel.store = hang  # type: ignore[method-assign]
    bench.kernel.give_up = interrupt
    for address in (GPU, OTHER_GPU):
        bench.kernel.faults_of["unbind", address] = Fault("block", effect=True)
    with pytest.raises(PendingError) as caught:
        bench.apply(BOTH)
    assert outcomes(caught.value).count("pending") == 2
    assert "vfiohost-store" not in {thread.name for thread in threading.enumerate()}


def test_where_no_thread_can_be_started_nothing_is_called_and_all_is_taken_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with systemd's TasksMax. What was called already comes to its end."""
    before = bench.state()
    start, started = threading.Thread.start, []

    def refuse(thread: threading.Thread) -> None:
        started.append(thread)
        if len(started) == 2:
            raise RuntimeError("can't start new thread")
        start(thread)

    bench.kernel.faults_of["unbind", OTHER_GPU] = Fault("block", effect=True)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        bench.apply(BOTH)
    assert len(started) == 2
    assert bench.state() == before
    assert all(value != OTHER_GPU for _, value in bench.kernel.log)


def test_a_process_that_is_killed_with_two_stores_under_way_is_recovered(bench: Bench) -> None:
    before = bench.state()
    meet(bench, GPU, OTHER_GPU)
    bench.kernel.faults_of["unbind", OTHER_GPU] = Fault("die", effect=True)
    assert in_child(lambda: bench.apply(BOTH)) == DIED
    (found,) = bench.recover()
    assert found.outcome == "recovered"
    assert bench.state() == before


def test_a_cancelled_plan_is_taken_back(bench: Bench) -> None:
    before = bench.state()
    meet(bench, GPU, OTHER_GPU)
    with pytest.raises(ApplyError, match="Interrupted"):
        bench.apply(BOTH, cancel=lambda: len(bench.kernel.log) >= 3)
    assert bench.state() == before


def test_a_plan_of_two_cards_that_others_have_carried_out_changes_nothing(bench: Bench) -> None:
    bench.apply(BOTH)
    stores = len(bench.kernel.log)
    report = bench.apply(BOTH)
    assert {result.outcome for result in report.results} == {"already"}
    assert len(bench.kernel.log) == stores


def test_eight_gpus_of_a_server_let_go_side_by_side(
    simulated_host: Callable[[str], SimulatedKernel],
) -> None:
    kernel = simulated_host("hgx-h100")
    kernel.delay("*/nvidia/unbind", 1.0, count=None)
    with Host(kernel.root, kernel=kernel) as host:
        gpus = host.select("10de:2330")
        host.apply(host.plan_bind("10de:2330"))
        (entry,) = host.journal.entries()
        assert isinstance(entry, JournalEntry)
        steps = [s for s in entry.plan.steps if getattr(s, "path", "").endswith("/unbind")]
        indexes = [entry.plan.steps.index(step) for step in steps]
        told = [event.kind for event in entry.events if event.step in indexes]
        assert told == ["begin"] * len(gpus) + ["done"] * len(gpus)
        assert len(gpus) == 8
        assert {gpu.driver for gpu in host.select("10de:2330")} == {"vfio-pci"}


def test_there_is_a_bound(bench: Bench) -> None:
    """More cards than lanes: never more than that are stored to at the same time."""
    root = bench.root
    addresses = [f"0000:{bus:02x}:00.0" for bus in range(1, ABREAST + 5)]
    for address in addresses:
        device = root / "sys/bus/pci/devices" / address
        device.mkdir()
        (device / "driver_override").write_text("(null)\n")
        (device / "iommu_group").symlink_to(f"../../kernel/iommu_groups/{address[5:7]}")
    lock, now, most = threading.Lock(), 0, 0
    meeting = threading.Barrier(ABREAST)
    store = bench.kernel.store

    def count(path: str, value: str, *, timeout: float, keep_fd: int | None = None) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        if int(path.split(":")[1], 16) <= ABREAST:
            meeting.wait(SECONDS)
        store(path, value, timeout=timeout, keep_fd=keep_fd)
        with lock:
            now -= 1

    bench.kernel.store = count  # type: ignore[method-assign]
    steps = tuple(override(address, None, "vfio-pci") for address in addresses)
    bench.apply(Plan("bind", tuple(addresses), steps))
    assert most == ABREAST
    assert not {name for name in files(root) if name.endswith(".driver_override")}
