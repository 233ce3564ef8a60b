"""The pytest plugin: the fixture ``simulated_host``.

It is loaded in every pytest run of an environment that has vfiohost installed, so it imports
nothing of vfiohost before a test asks for the fixture.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from vfiohost.recording import Recording
    from vfiohost.testing import SimulatedKernel


@pytest.fixture
def simulated_host(tmp_path: Path) -> Callable[[str | Recording], SimulatedKernel]:
    """A function that makes simulated hosts for this test.

    Call it with the name of a recorded host (``"a10-pair"``) or with a
    :class:`vfiohost.recording.Recording`. Each call makes a new host in a directory of its own
    below ``tmp_path``; its path is the kernel's ``root``.
    """

    def make(host: str | Recording) -> SimulatedKernel:
        from vfiohost import testing  # noqa: PLC0415 - most pytest runs never get here

        made = testing.load(host) if isinstance(host, str) else host
        name = host if isinstance(host, str) else "host"
        taken = sum(1 for path in tmp_path.iterdir() if path.name.startswith(f"{name}-"))
        return testing.create(made, tmp_path / f"{name}-{taken}")

    return make
