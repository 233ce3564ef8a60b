"""Owner and mode of VFIO nodes: journaled before they are changed, and given back."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from tests.apply.conftest import Bench, make_bench
from tests.apply.fake import DEVICES, DIED, GPU, Fault, override
from tests.apply.test_crash import in_child, survives_somewhere
from vfiohost import nodes
from vfiohost.errors import ApplyError, RollbackError, StalePlanError
from vfiohost.journal import Journal
from vfiohost.model import PciAddress
from vfiohost.plan.types import ChangeNodes, NodeChange, Plan, Report, SetNodes
from vfiohost.plan.undo import plan_undo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

NAMES = ("dev/vfio/15", "dev/vfio/devices/vfio3")
MINE = os.getuid() or 64055  # only root may give a node away
BEFORE = [(os.getuid(), 0o600), (os.getuid(), 0o620)]
AFTER = [(MINE, 0o660), (MINE, 0o660)]


def with_nodes(bench: Bench) -> Bench:
    """Give the first device of a host the node of a group, which was there before, and its own."""
    device = bench.root / DEVICES / GPU
    (device / "iommu_group").symlink_to("../../../../kernel/iommu_groups/15")
    (device / "vfio-dev/vfio3").mkdir(parents=True)
    (device / "vfio-dev/vfio3/dev").touch()
    (bench.root / NAMES[1]).parent.mkdir(parents=True)
    for name, (_, mode) in zip(NAMES, BEFORE, strict=True):
        (bench.root / name).touch()
        (bench.root / name).chmod(mode)
    return bench


@pytest.fixture
def host(bench: Bench) -> Bench:
    return with_nodes(bench)


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Callable[[], Bench]]:
    """A maker of new hosts."""
    made: list[Bench] = []

    def make() -> Bench:
        made.append(with_nodes(make_bench(tmp_path / f"host-{len(made)}")))
        return made[-1]

    yield make
    for bench in made:
        bench.sysfs.close()


def owners(bench: Bench) -> list[tuple[int, int]]:
    found = [(bench.root / name).stat() for name in NAMES]
    return [(status.st_uid, stat.S_IMODE(status.st_mode)) for status in found]


def give() -> Plan:
    """A plan that gives the nodes away, and then has another step that may fail."""
    step = SetNodes(PciAddress.parse(GPU), MINE, None, 0o660, "who may open its nodes")
    return Plan("bind", (GPU,), (step, override(GPU, None, "vfio-pci")))


def test_what_the_nodes_had_is_in_the_journal_before_they_are_changed(
    host: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[tuple[int, int]]] = []
    real = nodes.make_change

    def make_change(sysfs: object, change: NodeChange) -> None:
        (entry,) = Journal(host.sysfs).open_entries()
        (event,) = entry.events  # type: ignore[union-attr]
        seen.append([(c.before.uid, c.before.mode) for c in event.nodes])
        real(host.sysfs, change)

    monkeypatch.setattr(nodes, "make_change", make_change)
    report = host.apply(give())
    assert owners(host) == AFTER
    assert seen == [BEFORE, BEFORE]
    assert [r.outcome for r in report.results] == ["done", "done"]
    assert host.apply(give()).writes == 0


def test_a_step_that_fails_later_gives_them_back(host: Bench) -> None:
    host.fail(0, Fault("refuse"))
    with pytest.raises(ApplyError, match="What was done before was taken back") as caught:
        host.apply(give())
    assert owners(host) == BEFORE
    assert isinstance(caught.value.report, Report)
    assert [r.outcome for r in caught.value.report.results] == ["undone", "failed"]
    assert [event.kind for event in host.entries()[0].events if event.step == 0] == [
        "begin",
        "done",
        "undo-begin",
        "undone",
    ]


def test_a_node_that_fails_gives_the_other_one_back(
    host: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.chmod

    def chmod(path: str, mode: int) -> None:
        if os.stat(path).st_ino == (host.root / NAMES[1]).stat().st_ino and mode == 0o660:
            raise PermissionError(1, "Operation not permitted")
        real(path, mode)

    monkeypatch.setattr(os, "chmod", chmod)
    with pytest.raises(ApplyError, match=r"chown|EPERM"):
        host.apply(give())
    assert owners(host) == BEFORE


@pytest.mark.parametrize("call", ["chown", "chmod"])
@pytest.mark.parametrize("after", [1, 2])
def test_a_kill_in_the_middle_is_recovered(
    host: Bench, monkeypatch: pytest.MonkeyPatch, call: str, after: int
) -> None:
    real, calls = getattr(os, call), []

    def dies(*words: object) -> None:
        calls.append(words)
        if len(calls) == after:
            os._exit(DIED)
        real(*words)

    with monkeypatch.context() as patched:
        patched.setattr(os, call, dies)
        status = in_child(lambda: host.apply(give()))
    if not os.getuid() or call == "chmod":
        assert status == DIED
    assert [r.outcome for r in host.recover()] == ["recovered"] * (status == DIED)
    if status == DIED:
        assert owners(host) == BEFORE


def test_kill_at_every_save(fresh: Callable[[], Bench]) -> None:
    def check(bench: Bench) -> None:
        is_whole = not bench.journal.open_entries() and bool(bench.entries())
        recoveries = bench.recover()
        assert all(r.outcome == "recovered" for r in recoveries)
        assert owners(bench) == (AFTER if is_whole else BEFORE)

    assert survives_somewhere(fresh, lambda bench: bench.apply(give()), check) >= 8


def test_kill_at_every_save_of_a_rollback(fresh: Callable[[], Bench]) -> None:
    def fail(bench: Bench) -> None:
        bench.fail(0, Fault("refuse"))
        bench.apply(give())

    def check(bench: Bench) -> None:
        assert all(r.outcome == "recovered" for r in bench.recover())
        assert owners(bench) == BEFORE

    assert survives_somewhere(fresh, fail, check) >= 8


def test_kill_at_every_save_of_an_undo(fresh: Callable[[], Bench]) -> None:
    def done() -> Bench:
        bench = fresh()
        bench.apply(give())
        return bench

    def check(bench: Bench) -> None:
        is_whole = not bench.journal.open_entries() and len(bench.entries()) > 1
        assert all(r.outcome == "recovered" for r in bench.recover())
        assert owners(bench) == (BEFORE if is_whole else AFTER)

    def take_back(bench: Bench) -> None:
        bench.apply(undo(bench), undoes=bench.entries()[-1].id)

    assert survives_somewhere(done, take_back, check) >= 8


def undo(host: Bench) -> Plan:
    entry = host.journal.last_committed()
    assert entry is not None
    return plan_undo(entry.done_plan)


def test_undo_gives_them_back_and_can_be_undone(host: Bench) -> None:
    host.apply(give())
    plan = undo(host)
    assert Plan.from_json(plan.to_json()) == plan
    assert isinstance(plan.steps[-1], ChangeNodes)
    first = host.entries()[-1].id
    host.apply(plan, undoes=first)
    assert owners(host) == BEFORE
    again = host.journal.undoable()[-1]
    host.apply(plan_undo(again.done_plan), undoes=again.id)
    assert owners(host) == AFTER


def test_undo_of_nothing_but_nodes(host: Bench) -> None:
    host.apply(Plan("bind", (GPU,), give().steps[:1]))
    host.apply(undo(host), undoes=host.entries()[-1].id)
    assert owners(host) == BEFORE
    assert host.journal.last_committed() is None


def test_a_node_that_is_gone_or_new_needs_nothing(host: Bench) -> None:
    host.apply(give())
    first, second = (host.root / name for name in NAMES)
    first.unlink()
    held = second.open()  # keeps the number of its inode from being given out again
    second.unlink()
    second.touch()
    second.chmod(0o604)
    report = host.apply(undo(host), undoes=host.entries()[-1].id)
    held.close()
    assert [r.outcome for r in report.results] == ["done", "already"]
    assert stat.S_IMODE(second.stat().st_mode) == 0o604


def test_what_somebody_else_changed_since_is_theirs(host: Bench) -> None:
    host.apply(give())
    (host.root / NAMES[0]).chmod(0o604)
    with pytest.raises(StalePlanError, match="somebody else changed it"):
        host.apply(undo(host), undoes=host.entries()[-1].id)
    assert owners(host) == [(MINE, 0o604), AFTER[1]]
    assert host.state()[f"{GPU} override"] == "vfio-pci\n"  # what was taken back was done again


def test_a_node_that_cannot_be_given_back_is_named_with_the_command(
    host: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.chmod

    def chmod(path: str, mode: int) -> None:
        if mode != 0o660:
            raise PermissionError(1, "Operation not permitted")
        real(path, mode)

    host.fail(0, Fault("refuse"))
    monkeypatch.setattr(os, "chmod", chmod)
    with pytest.raises(RollbackError) as caught:
        host.apply(give())
    monkeypatch.undo()
    (command,) = caught.value.commands
    assert f"chmod 0600 {host.root}/{NAMES[0]}" in command
    assert os.system(command) == 0
    assert owners(host) == BEFORE


@pytest.mark.parametrize(
    ("key", "value"),
    [("path", "etc/shadow"), ("path", "dev/vfio/../sda"), ("inode", -1), ("after", None)],
)
def test_what_a_journal_says_of_nodes_is_not_taken_on_trust(
    host: Bench, key: str, value: object
) -> None:
    host.apply(give())
    plan = undo(host).to_json()
    plan["steps"][-1]["changes"][0][key] = value
    with pytest.raises(ValueError, match=r"node|number"):
        Plan.from_json(plan)
