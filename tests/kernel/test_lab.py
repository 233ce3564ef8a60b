"""The parts of the lab that need no machine."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.campaign import Summary
from tests.kernel.cases import CASES
from tests.kernel.conftest import kernel_of, scope_of, turn_of
from tests.kernel.lab.cache import Cache, digest
from tests.kernel.lab.errors import LabError, LabUnavailableError
from tests.kernel.lab.programs import need, run, succeeds
from tests.kernel.scenario import Action, Answers, Do, Link, Listed, Step, Store, Text
from tests.kernel.scenario import run as run_scenario


class Dummy:
    """A kernel that gives the answers it is told."""

    def __init__(self, outcome: str) -> None:
        self.outcome = outcome

    def perform(self, action: Action) -> str:
        return self.outcome

    def link(self, path: str) -> str | None:
        return None

    def text(self, path: str) -> str | None:
        return "5"

    def names(self, path: str) -> list[str]:
        return ["a"]


@pytest.mark.parametrize(
    ("name", "kernel"),
    [
        ("tests/kernel/test_boot.py::test_boots[6.12]", "6.12"),
        ("tests/kernel/test_boot.py::test_boots[6.1]", "6.1"),
        ("tests/kernel/test_groups.py::test_sees[iommufd-vfio-pci]", "iommufd"),
        ("tests/kernel/test_edge_cases.py::test_case[6.12-45-fewer]", "6.12"),
        ("tests/kernel/test_lab.py::test_iommufd[step1]", None),
        ("tests/kernel/test_lab.py::test_plain", None),
    ],
)
def test_a_test_belongs_to_the_kernel_in_its_name(name: str, kernel: str | None) -> None:
    assert kernel_of(name) == kernel


@pytest.mark.parametrize(
    ("name", "scope"),
    [
        ("tests/kernel/test_edge_cases.py::test_case[6.12-45-fewer]", "6.12 rules"),
        ("tests/kernel/test_differences.py::test_answers[iommufd-1-x]", "iommufd rules"),
        ("tests/kernel/test_differential.py::test_random[6.12]", "6.12 test_differential.py"),
        ("tests/kernel/test_product.py::test_list[6.1]", "6.1 product"),
        ("tests/kernel/test_lab.py::test_plain", "tests/kernel/test_lab.py::test_plain"),
    ],
)
def test_a_process_does_a_part_of_the_tests_of_a_kernel(name: str, scope: str) -> None:
    assert scope_of(name) == scope


def test_what_takes_long_is_begun_first_and_by_who_has_the_machine() -> None:
    names = (
        *("test_lab.py::test_a", "test_safe.py::test_b[iommufd]", "test_safe.py::test_b[6.12]"),
        *("test_differential.py::test_c[iommufd]", "test_differential.py::test_c[6.12]"),
        *("test_product.py::test_d[iommufd]", "test_product.py::test_d[6.12]"),
    )
    scopes = [scope_of(name) for name in names]
    assert sorted(scopes, key=lambda scope: turn_of(scope, "6.12 rules")) == [
        "6.12 product",
        "6.12 test_differential.py",
        "iommufd product",
        "iommufd test_differential.py",
        "6.12 test_safe.py",
        "test_lab.py::test_a",
        "iommufd test_safe.py",
    ]


def test_scenario_takes_what_it_expects() -> None:
    steps = (
        Do(Store("/p", "v"), "write EBUSY"),
        Link("/l", None),
        Text("/t", "5"),
        Listed("/d", "a", is_there=True),
        Listed("/d", "b", is_there=False),
        Answers("/t"),
    )
    run_scenario(steps, Dummy("write EBUSY"))


@pytest.mark.parametrize(
    "step",
    [
        Do(Store("/p", "v"), "write EBUSY"),
        Do(Store("/p", "v"), "blocks"),
        Link("/l", "e1000"),
        Text("/t", None),
        Text("/t", "6"),
        Listed("/d", "a", is_there=False),
        Listed("/d", "b", is_there=True),
        Answers("/t", does=False),
    ],
)
def test_scenario_stops_at_another_answer(step: Step) -> None:
    with pytest.raises(AssertionError, match="step 2, "):
        run_scenario((Do(Store("/p", "v")), step), Dummy("ok"))


def test_cases_have_names_of_their_own_and_show_something() -> None:
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)
    shown = [
        [s for s in case.steps if not isinstance(s, Do) or s.outcome != "ok"] for case in CASES
    ]
    assert all(shown)


def test_interrupted_build_is_begun_anew(tmp_path: Path) -> None:
    cache = Cache(tmp_path)

    def interrupted(folder: Path) -> None:
        (folder / "half").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.entry("thing", interrupted)
    built = cache.entry("thing", lambda folder: (folder / "whole").touch())
    assert [path.name for path in built.iterdir()] == ["whole"]
    assert cache.entry("thing", interrupted) == built


def test_name_of_a_content_changes_with_each_of_its_parts(tmp_path: Path) -> None:
    file = tmp_path / "source.c"
    file.write_text("int x;")
    names = [digest(["6.12"], [file]), digest(["6.1", "2"], [file]), digest(["6.12"])]
    file.write_text("int y;")
    names.append(digest(["6.12"], [file]))
    assert len(set(names)) == 4


def test_what_is_missing_is_named() -> None:
    with pytest.raises(LabUnavailableError, match="this computer has no no-such-program"):
        need("sh", "no-such-program")


def test_failed_program_shows_what_it_said() -> None:
    with pytest.raises(LabError, match=r"failed \(3\):\n.*out\nerr"):
        run("sh", "-c", "echo out; echo err >&2; exit 3")
    assert succeeds("true")
    assert not succeeds("false")


_BORROWING = """
import os, subprocess, sys
from pathlib import Path
from typing import Any
from benchmarks.modules import kernel_modules, modules_of
folder = Path(sys.argv[1])
with modules_of("6.12", folder), kernel_modules(None, folder) as whose:
    assert whose == os.uname().release
    subprocess.run(["modprobe", "--show-depends", "vfio-pci"], check=True)
"""


@pytest.mark.with_kernels
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts over /lib/modules")
def test_a_benchmark_has_the_modules_of_a_kernel_and_leaves_none(tmp_path: Path) -> None:
    before = sorted(Path("/lib").glob("modules/*"))
    python = (sys.executable, "-c", _BORROWING, str(tmp_path / "modules"))
    checkout = Path(__file__).parents[2]
    told = run("unshare", "--mount", *python, cwd=checkout).splitlines()
    assert told[-1].startswith(f"insmod /lib/modules/{os.uname().release}/kernel/drivers/vfio/")
    assert sorted(Path("/lib").glob("modules/*")) == before


def summary(first_seed: int, sequences: int, **counts: Any) -> Summary:
    return Summary("6.12", first_seed, sequences, sequences * 40, sequences * 39, **counts)


def test_runs_side_by_side_are_summed_up_as_one() -> None:
    one = summary(1, 3, seconds=120.0, kinds=Counter(bind=70, unbind=50), broken=[2])
    other = summary(5, 2, seconds=180.0, kinds=Counter(unbind=80), differences=["seed 6: x"])
    text = (one + Summary.from_plain(json.loads(json.dumps(other.to_plain())))).to_markdown()
    for row in (
        "| steps | 200, compared until a sequence's end: 195 |",
        "| differences without a name | 1 |",
        "| machines lost | 1 |",
        "| time | 3 min, 2 processes side by side |",
        "| actions | unbind 130, bind 70 |",
    ):
        assert row in text
    assert "| seeds | 1 to 6 (Hypothesis" in text


@pytest.mark.parametrize("other", [summary(4, 2), summary(6, 2), Summary("6.1", 5, 2)])
def test_runs_that_leave_a_gap_or_have_another_kernel_are_not_summed_up(other: Summary) -> None:
    with pytest.raises(ValueError, match=r"not of 6\.12 from seed 5 on"):
        summary(1, 4) + other


def test_runs_of_another_hypothesis_are_not_summed_up() -> None:
    with pytest.raises(ValueError, match="another version of Hypothesis"):
        Summary.from_plain(summary(1, 4).to_plain() | {"hypothesis": "6.0"})
