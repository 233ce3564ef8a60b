"""The kept inputs are read again, and the fuzzer itself finds what it is there to find."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from typing import TYPE_CHECKING

import attrs
import pytest

from tests.fuzz import corpus, mutation, programs, readers
from tests.fuzz.__main__ import ALL, BEGIN, DOCUMENT, END, parse

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fuzz.programs import Program
    from tests.fuzz.readers import Reader

MOST = 200 << 10  # bytes of the whole corpus

names = [target.name for target in ALL]


@pytest.mark.parametrize("reader", readers.ALL, ids=lambda reader: reader.name)
def test_kept_inputs_of_a_reader(reader: Reader) -> None:
    inputs = [*reader.seeds(), *corpus.load(reader.name)]
    with mutation.limited():
        labels = {mutation.read(reader, data) for data in inputs}
    # Each input was kept because it was answered in its own way.
    assert len(labels) > len(inputs) // 2


def compiler() -> list[str]:
    command = os.environ.get("CC", "cc").split()
    if shutil.which(command[0]) is None:
        if os.environ.get("CI"):
            pytest.fail(f"there is no compiler {command[0]}")
        pytest.skip(f"there is no compiler {command[0]}")
    return command


@pytest.mark.parametrize("program", programs.ALL, ids=lambda program: program.name)
def test_kept_inputs_of_a_program(program: Program, tmp_path: Path) -> None:
    made = programs.build(program, tmp_path, command=compiler(), fuzzer=False)
    inputs = [*program.seeds, *corpus.load(program.name)]
    paths = programs.unpack(inputs, tmp_path / "inputs")
    environment = programs.environment(tmp_path)
    done = subprocess.run([made, *paths], env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-3000:]
    assert int(done.stdout) == len(inputs) > 10


def test_a_broken_program_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scan that takes 0000:65:20.0 for an address fails on the kept inputs' neighbours."""
    source = (programs.HERE / "targets/parsers.c").read_text()
    scan = (programs.CSRC / "scan.c").read_text()
    broken = scan.replace("if (device > 31 || function > 7)", "if (function > 7)")
    assert broken != scan
    (tmp_path / "targets").mkdir()
    (tmp_path / "scan.c").write_text(broken)
    (tmp_path / "targets/parsers.c").write_text(source.replace("../../../csrc/", "../"))
    shutil.copy(programs.HERE / "targets/replay.c", tmp_path / "targets")
    monkeypatch.setattr(programs, "HERE", tmp_path)
    made = programs.build(programs.ALL[0], tmp_path, command=compiler(), fuzzer=False)
    good, bad = programs.unpack([b"0000:65:1f.0", b"0000:65:20.0"], tmp_path / "inputs")
    assert subprocess.run([made, good], check=False, capture_output=True).returncode == 0
    done = subprocess.run([made, bad], check=False, capture_output=True)
    assert b"Assertion" in done.stderr
    assert done.returncode != 0


def planted(data: bytes) -> str:
    if data.startswith(b"ab") and b"!" in data:
        raise ZeroDivisionError
    return data[:2].decode("latin-1")


READER = readers.Reader("planted", "", planted, lambda: [b"a"], (b"b", b"!"))


def test_a_planted_bug_is_found_once() -> None:
    found = mutation.fuzz(READER, [], 1, random.Random(1))
    ((data, said),) = found.crashes
    assert data.startswith(b"ab")
    assert said.startswith("ZeroDivisionError in ")
    assert said.endswith("(planted)")
    assert found.executions > 1000
    assert b"a" not in found.corpus


@pytest.mark.parametrize("limit", ["SLOWEST", "LONGEST_WAIT"])
def test_an_input_that_takes_too_long_is_a_bug(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mutation, limit, 0.1)

    def slow(data: bytes) -> str:
        while data == b"slow":
            if limit == "LONGEST_WAIT":
                time.sleep(60)
        return "quick"

    reader = attrs.evolve(READER, run=slow)
    found = mutation.fuzz(reader, [b"slow"], 0.2, random.Random(1))
    assert [data for data, said in found.crashes if said.startswith("TooSlow")] == [b"slow"]


def test_an_input_that_fills_the_memory_is_a_bug() -> None:
    def large(data: bytes) -> str:
        return str(len(bytes(mutation.MOST_MEMORY))) if data == b"large" else "small"

    reader = attrs.evolve(READER, run=large)
    found = mutation.fuzz(reader, [b"large"], 0, random.Random(1))
    assert [said.split()[0] for _, said in found.crashes] == ["MemoryError"]


def test_the_corpus_is_small_and_comes_back_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = sorted(corpus.FOLDER.iterdir())
    assert [file.stem for file in files] == sorted(names)
    assert sum(file.stat().st_size for file in files) < MOST
    monkeypatch.setattr(corpus, "FOLDER", tmp_path)
    inputs = [b"", b"\n", b"\\", bytes(range(256)), "\u2028\x85".encode()]
    corpus.save("x", [*inputs, *inputs])
    assert sorted(corpus.load("x")) == sorted(inputs)


def test_the_document_has_the_figures_of_every_target() -> None:
    table = DOCUMENT.read_text().partition(BEGIN)[2].partition(END)[0]
    rows = [row.split("`")[1] for row in table.splitlines() if row.startswith("| `")]
    assert rows == names


def test_a_target_that_there_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert parse(["scan", "--seconds", "3"]).targets == ["scan"]
    with pytest.raises(SystemExit):
        parse(["scam"])
    assert "there is no target 'scam'" in capsys.readouterr().err
