"""The pytest plugin: the fixture ``simulated_host``.

It is loaded in every pytest run of an environment that has vfiohost installed, so it imports
nothing of vfiohost before a test asks for the fixture.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import os
    from collections.abc import Callable
    from pathlib import Path

    from vfiohost.recording import Recording
    from vfiohost.testing import SimulatedKernel


@pytest.fixture
def simulated_host(
    tmp_path: Path,
) -> Callable[[str | os.PathLike[str] | Recording], SimulatedKernel]:
    """A function that makes simulated hosts for this test.

    Call it with the name of a recorded host (``"a10-pair"``), the path of a recording, or a
    :class:`vfiohost.recording.Recording`. Each call makes a new host in a directory of its own
    below ``tmp_path``, which is the ``root`` of the kernel that it returns.
    """
    made: list[SimulatedKernel] = []

    def make(host: str | os.PathLike[str] | Recording) -> SimulatedKernel:
        from vfiohost import recording, testing  # noqa: PLC0415 - most test runs never get here

        found = host if isinstance(host, recording.Recording) else testing.load(host)
        made.append(testing.create(found, tmp_path / f"simulated-host-{len(made)}"))
        return made[-1]

    return make
