"""Every kind of fault once, on the simulation; ``python -m tests.faults`` tries each place."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.faults import report
from tests.faults.places import Bench, Simulation
from tests.faults.scenarios import SCENARIOS, faults
from vfiohost.journal import Event, JournalWriter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.faults.scenarios import Fault

_MEMORY = Path("/dev/shm")
KINDS = tuple(dict.fromkeys(kind for kind, _ in faults(1, 1)))


@pytest.fixture(scope="module")
def simulation() -> Iterator[Simulation]:
    with tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None) as folder:
        yield Simulation(Path(folder))


@pytest.mark.parametrize("number", range(len(KINDS)), ids=KINDS)
def test_no_fault_is_lost_or_silent(simulation: Simulation, number: int) -> None:
    places: list[Fault] = []
    while not places:  # not each command has stores, for one
        bench = Bench(simulation, SCENARIOS[number % len(SCENARIOS)])
        places = [fault for fault in bench.faults() if fault[0] == KINDS[number % len(KINDS)]]
        number += len(KINDS)
    verdict = bench.try_one(*places[len(places) // 2])
    assert verdict.outcome in ("before", "completed", "named"), verdict.detail


@pytest.mark.parametrize(
    "fault",
    [
        ("full disk", [32]),
        ("recover: full disk", [12, 4]),
        ("recover: refused EBUSY", [12, 3]),
        ("recover: refused EBUSY", [12, 8]),
    ],
    ids=str,
)
def test_functions_that_are_destroyed_and_made_anew(simulation: Simulation, fault: Fault) -> None:
    bench = Bench(simulation, next(s for s in SCENARIOS if s.name == "vf set --recreate"))
    assert fault in bench.faults()
    verdict = bench.try_one(*fault)
    assert verdict.outcome in ("before", "named"), verdict.detail


def test_the_judge_sees_a_host_that_is_left_half_way(
    simulation: Simulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(simulation, next(s for s in SCENARIOS if s.name == "bind"))
    monkeypatch.setattr("vfiohost.apply.undoing.Undoing.undo_all", lambda _: ())
    verdict = bench.try_one("kill after the store", [bench.stores - 1])
    assert verdict.outcome == "lost", verdict.detail


def test_the_judge_sees_nodes_that_are_not_given_back(
    simulation: Simulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(simulation, next(s for s in SCENARIOS if s.name.endswith("is bound")))
    monkeypatch.setattr("vfiohost.nodes.take_back", lambda *_: None)
    verdict = bench.try_one("kill, line written", [bench.lines - 1])
    assert verdict.outcome == "silent", verdict.detail


def test_the_judge_sees_a_store_that_was_not_journaled(
    simulation: Simulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(simulation, next(s for s in SCENARIOS if s.name == "bind"))
    record = JournalWriter.record

    def forgetting(writer: JournalWriter, event: Event) -> None:
        if event.kind != "begin":
            record(writer, event)

    monkeypatch.setattr(JournalWriter, "record", forgetting)
    verdict = bench.try_one("kill after the store", [bench.stores])
    assert verdict.outcome == "lost", verdict.detail


def test_the_judge_sees_a_journal_in_the_way(
    simulation: Simulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(simulation, SCENARIOS[0])
    monkeypatch.setattr("vfiohost.apply.ledger.Ledger.end", lambda *_: None)
    verdict = bench.try_one("kill in the store", [1])
    assert verdict.outcome == "lost", verdict.detail
    assert "left open" in verdict.detail


def test_the_judge_sees_a_success_that_is_none(
    simulation: Simulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(simulation, SCENARIOS[0])
    monkeypatch.setattr("tests.faults.trial._told", lambda done: done.update(code=0) or "")
    verdict = bench.try_one("refused EBUSY", [1])
    assert verdict.outcome == "silent", verdict.detail


def test_the_document_is_of_a_run_that_lost_nothing() -> None:
    rows = [line.split("|")[1:-1] for line in report.FILE.read_text().splitlines()]
    tables = [[cell.strip() for cell in row] for row in rows if len(row) == len(report.COLUMNS)]
    counts = [row for row in tables if row[1].isdecimal()]
    assert len(counts) > len(KINDS)
    assert all(row[-2:] == ["0", "0"] for row in counts)
