"""docs/errors.md has every exit code, exception, refusal, kind of use and outcome, and no other."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import pytest

import vfiohost
from vfiohost import errors
from vfiohost.apply.recovery import RecoveryOutcome
from vfiohost.cli.carrying import EXIT_CHANGES
from vfiohost.cli.examining import FOUND_BAD
from vfiohost.cli.failing import EXIT_CODES
from vfiohost.plan.hazards import ALLOWABLE
from vfiohost.plan.in_use import _RULES
from vfiohost.render.failures import failure_code
from vfiohost.usage import UseKind

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "errors.md").read_text()
WORD = re.compile(r"`([^`]+)`")


def table(heading: str) -> list[list[str]]:
    """The rows of the table in a section, without its head."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]
    assert cells, heading
    assert len({len(row) for row in cells}) == 1, heading
    return cells


def word(cell: str) -> str:
    (found,) = WORD.findall(cell)
    return str(found)


def refusal_codes() -> Iterator[str]:
    """The first argument of every ``Refusal(…)`` of the package, or of what makes one."""
    for path in sorted(Path(vfiohost.__file__).parent.rglob("*.py")):
        tree = ast.parse(path.read_text())
        constants = {
            target.id: node.value
            for node in tree.body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(
                ("Refusal", "self._refuse")
            ):
                code = node.args[0]
                if isinstance(code, ast.Name) and code.id == "code":
                    continue  # what makes one: its callers say which
                code = constants[code.id] if isinstance(code, ast.Name) else code
                assert isinstance(code, ast.Constant), f"{path}:{node.lineno}"
                yield str(code.value)


def exceptions() -> dict[str, type[BaseException]]:
    return {
        name: value
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, BaseException)
    }


def test_the_exit_codes_are_those_of_the_command() -> None:
    expected: dict[int, set[str]] = {0: set(), EXIT_CHANGES: set(), FOUND_BAD: set()}
    for failure, code in EXIT_CODES.items():
        expected.setdefault(code, set()).add(failure)
    rows = table("Exit codes")
    assert {int(row[0]): set(WORD.findall(row[1])) for row in rows} == expected
    assert [int(row[0]) for row in rows] == sorted(expected)


def test_the_tour_has_the_exit_codes_that_a_user_meets() -> None:
    readme = (ROOT / "README.md").read_text().partition("\n## Exit codes\n")[2].partition("\n##")[0]
    told = {int(code) for code in re.findall(r"\| (\d+) \|", readme)}
    assert told == {int(row[0]) for row in table("Exit codes")} - {70, 130}


def test_the_exceptions_are_those_of_the_library() -> None:
    assert {word(row[0]) for row in table("Exceptions")} == set(exceptions())


@pytest.mark.parametrize("row", table("Exceptions"), ids=lambda row: word(row[0]))
def test_an_exception_is_what_the_table_says(row: list[str]) -> None:
    name, base, _when, carries, code = row
    kind = exceptions()[word(name)]
    error = kind.__new__(kind)
    expected = [c.__name__ for c in kind.__bases__ if c is not errors.VfioHostError]
    assert WORD.findall(base) == expected
    assert int(code) == EXIT_CODES[failure_code(error)]
    told = {attribute for attribute in WORD.findall(carries) if attribute.islower()}
    source = ast.unparse(ast.parse(Path(errors.__file__).read_text()))
    body = source.partition(f"class {kind.__name__}(")[2].partition("\nclass ")[0]
    own = set(re.findall(r"self\.(\w+)\b[^=\n]* = ", body)) | set(kind.__annotations__)
    own |= {name for name, value in vars(kind).items() if isinstance(value, property)}
    assert own <= told, f"{name} carries more than the table says"
    assert told - own <= {"errno"}, f"{name} does not carry all that the table says"


def test_the_refusals_are_those_of_the_planners() -> None:
    rows = table("Refusals")
    codes = [word(row[0]) for row in rows]
    assert codes == sorted(set(refusal_codes()))
    told = [w for row in rows for w in WORD.findall(row[3])]
    kinds = {rule.word for rule in _RULES.values()}
    assert {w for w in told if w in ALLOWABLE} | kinds >= ALLOWABLE


def test_the_kinds_of_use_are_those_that_are_refused() -> None:
    told = {word(row[0]): word(row[2]) if row[2] else None for row in table("What is in use")}
    assert told == {kind: rule.word for kind, rule in _RULES.items()}
    assert set(told) < set(get_args(UseKind))


def test_the_outcomes_are_those_of_recover() -> None:
    assert {word(row[0]) for row in table("What recover says")} == set(get_args(RecoveryOutcome))
