"""The command, run in this process, and hosts to run it on."""

from __future__ import annotations

import os
import subprocess
from functools import cache
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import TYPE_CHECKING

import pytest

from tests.face.support import Maker, Ran, Runner, place_names, read_recording
from vfiohost import cli, testing

if TYPE_CHECKING:
    from collections.abc import Iterator

_MEMORY = "/dev/shm"


@pytest.fixture(scope="session")
def scratch() -> Iterator[Path]:
    """A directory in memory, where there is one: a host has thousands of files."""
    place = _MEMORY if os.access(_MEMORY, os.W_OK) else None
    with TemporaryDirectory(prefix="vfiohost-tests-", dir=place) as directory:
        yield Path(directory)


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
def recorded(scratch: Path) -> Maker:
    """Make the directory of a fixture that nobody answers for, once: it is not to be changed."""

    @cache
    def make(name: str) -> Path:
        root = scratch / "recorded" / name
        testing.expand(read_recording(name), root)
        place_names(root)
        return root

    return make


@pytest.fixture(scope="session")
def unused(scratch: Path) -> Maker:
    """Make a simulated host that is copied and never used itself."""

    @cache
    def make(name: str) -> Path:
        root = scratch / "unused" / name
        testing.create(read_recording(name), root)
        place_names(root)
        return root

    return make


@pytest.fixture
def copied(scratch: Path) -> Iterator[Maker]:
    """Copy a directory for one test; by programs, which take half as long for 12,000 files."""
    number = count()
    directory = Path(mkdtemp(dir=scratch))

    def copy(source: str) -> Path:
        target = directory / f"{Path(source).name}-{next(number)}"
        subprocess.run(["cp", "-a", "--", source, target], check=True)
        return target

    yield copy
    subprocess.run(["rm", "-rf", "--", directory], check=True)


@pytest.fixture
def spoilt(recorded: Maker, copied: Maker) -> Maker:
    """Make a copy of a recorded host that a test may spoil."""
    return lambda name: copied(str(recorded(name)))


@pytest.fixture
def simulated(unused: Maker, copied: Maker) -> Maker:
    """Make a directory that a simulated kernel answers for; each call makes another."""
    return lambda name: copied(str(unused(name)))
