"""Random sequences on the real kernel and on the simulated one: every difference is a bug."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from tests.kernel.differential import Difference, cut_down, find_difference, make_sequence
from tests.kernel.lab import hoststate
from tests.kernel.scenario import RealKernel
from tests.kernel.simulated import Simulated
from vfiohost import testing

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from tests.kernel.conftest import Machines
    from tests.kernel.lab.vm import Machine
    from vfiohost.recording import Recording

LENGTH = 40
MOST_SHOWN = 5


class RealHost(RealKernel):
    """The lab's machine."""

    def __init__(self, machines: Machines) -> None:
        super().__init__(machines.get())
        self._machines = machines

    def state(self, locked: list[str]) -> dict[str, str]:
        found: dict[str, str] = self._machine.call(hoststate.read, "/", locked)
        return found

    def restart(self) -> None:
        self._machines.settle()
        self.__init__(self._machines)  # type: ignore[misc]


class SimulatedHost(Simulated):
    """A simulation of the recorded machine."""

    def __init__(self, recorded: Recording, folder: Path) -> None:
        self._recorded = recorded
        self._folder = folder
        super().__init__(testing.create(recorded, folder / "host"))

    def state(self, locked: list[str]) -> dict[str, str]:
        return hoststate.read(str(self._root), locked)

    def restart(self) -> None:
        shutil.rmtree(self._folder / "host")
        self.__init__(self._recorded, self._folder)  # type: ignore[misc]


def test_random_sequences(
    lab: Machine,
    machines: Machines,
    recorded: Recording,
    tmp_path: Path,
    pytestconfig: pytest.Config,
) -> None:
    hosts = RealHost(machines), SimulatedHost(recorded, tmp_path)
    first = pytestconfig.getoption("seed")
    found: list[Difference] = []
    for seed in range(first, first + max(1, pytestconfig.getoption("steps") // LENGTH)):
        difference = find_difference(*hosts, make_sequence(seed, LENGTH))
        if difference is not None:
            found.append(cut_down(*hosts, difference))
        if len(found) == MOST_SHOWN:
            break
    shown = "\n\n".join(map(str, found))
    assert not found, f"Linux and the simulation (in this order) differ:\n{shown}"
