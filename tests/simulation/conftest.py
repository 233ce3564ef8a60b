"""One fresh simulated host per test."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.simulation.hosts import Shell, small_host
from vfiohost import testing

if TYPE_CHECKING:
    from collections.abc import Iterator

_MEMORY = Path("/dev/shm")  # a host is hundreds of tiny files, which disks are slow at


@pytest.fixture
def scratch() -> Iterator[Path]:
    directory = _MEMORY if _MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="vfiohost-", dir=directory) as path:
        yield Path(path)


@pytest.fixture
def root(scratch: Path) -> Path:
    testing.create(small_host(), scratch / "host")
    return scratch / "host"


@pytest.fixture
def host(root: Path) -> Shell:
    return Shell(testing.SimulatedKernel(root))
