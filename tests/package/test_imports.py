"""What import-linter cannot see: lazy imports, the compiled module, and builtins that do I/O."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import vfiohost

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(vfiohost.__file__).parent
MODULES = {
    path.relative_to(PACKAGE).with_suffix("").as_posix(): ast.parse(path.read_text())
    for path in sorted(PACKAGE.rglob("*.py"))
}
# The modules of the contract "The pure core does no I/O" in pyproject.toml.
PURE = (
    "config_space/values",
    "doctor/checks/",
    "doctor/examining",
    "doctor/facts",
    "doctor/findings",
    "doctor/sources",
    "errors",
    "inspection/types",
    "modalias",
    "model",
    "names",
    "nvidia",
    "plan/",
    "recording/",
    "selectors",
    "watch/changes",
    "facts",
    "watch/pace",
)


def imported(tree: ast.AST) -> Iterator[str]:
    """Every module, and every name in a module, that an import statement names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield f"{node.module}"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def called(tree: ast.AST) -> set[str]:
    """Every plain name or dotted name that is called."""
    return {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}


def modules_after(statement: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after a statement."""
    code = f"{statement}\nimport json, sys; print(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_only_native_imports_the_c_core() -> None:
    users = {name for name, tree in MODULES.items() if "vfiohost._native" in imported(tree)}
    assert users == {f"native/{name}" for name in ("__init__", "answers", "helpers", "ioctls")}


def test_only_the_command_line_imports_the_simulation() -> None:
    users = {
        name
        for name, tree in MODULES.items()
        if any(module.startswith("vfiohost.testing") for module in imported(tree))
    }
    outside = {name for name in users if not name.startswith("testing/")}
    assert outside
    assert all(name.startswith("cli/") for name in outside)


def test_importing_the_package_is_cheap() -> None:
    loaded = modules_after("import vfiohost")
    assert {name for name in loaded if name.startswith("vfiohost.")} == set()


def test_the_command_line_loads_no_simulation_before_it_is_asked_for() -> None:
    loaded = modules_after("from vfiohost.cli import main; main(['--root', '/', 'list', '--json'])")
    assert "vfiohost.host" in loaded
    assert {name for name in loaded if name.startswith(("vfiohost.testing", "pytest"))} == set()


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith(PURE)])
def test_the_pure_core_calls_nothing_that_does_io(name: str) -> None:
    assert called(MODULES[name]) & {"open", "input", "print", "exec", "eval", "exit"} == set()
    assert "uuid.uuid4" not in called(MODULES[name])


@pytest.mark.parametrize("name", [name for name in MODULES if not name.startswith("cli/")])
def test_the_library_never_prints_or_exits(name: str) -> None:
    assert called(MODULES[name]) & {"print", "input", "exit", "sys.exit", "SystemExit"} == set()
