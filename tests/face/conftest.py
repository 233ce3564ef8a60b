"""The command, run in this process, and hosts to run it on."""

from __future__ import annotations

import shutil
from functools import cache
from typing import TYPE_CHECKING

import pytest

from tests.face.support import Maker, Ran, Runner, place_names, read_recording
from vfiohost import cli, testing

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Runner:
    """Run the command in this process."""
    for name in ("VFIOHOST_ROOT", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)

    def runner(*argv: str, root: Path | None = None) -> Ran:
        capsys.readouterr()
        where = [] if root is None else ["--root", str(root)]
        code = cli.main([*where, *argv])
        streams = capsys.readouterr()
        return Ran(code, streams.out, streams.err)

    return runner


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Maker:
    """Make the directory of a fixture that nobody answers for, once: it is not to be changed."""
    parent = tmp_path_factory.mktemp("recorded")

    @cache
    def make(name: str) -> Path:
        root = parent / name
        testing.expand(read_recording(name), root)
        place_names(root)
        return root

    return make


@pytest.fixture
def spoilt(recorded: Maker, tmp_path: Path) -> Maker:
    """Make a copy of a recorded host that a test may spoil."""

    def make(name: str) -> Path:
        return shutil.copytree(recorded(name), tmp_path / name, symlinks=True)

    return make


@pytest.fixture(scope="session")
def unused(tmp_path_factory: pytest.TempPathFactory) -> Maker:
    """Make a simulated host that is copied and never used itself."""
    parent = tmp_path_factory.mktemp("unused")

    @cache
    def make(name: str) -> Path:
        root = parent / name
        testing.create(read_recording(name), root)
        place_names(root)
        return root

    return make


@pytest.fixture
def simulated(unused: Maker, tmp_path: Path) -> Maker:
    """Make the directory of a fixture that a simulated kernel answers for."""

    def make(name: str) -> Path:
        return shutil.copytree(unused(name), tmp_path / name, symlinks=True)

    return make
