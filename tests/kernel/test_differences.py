"""The simulated kernel gives the real one's answers: each edge case again, on a recorded machine.

The start is a recording of the running machine, so that both kernels begin with the same host.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.copying import copy_host
from tests.kernel.cases import CASES
from tests.kernel.lab import product, start
from tests.kernel.scenario import Do, Load, run
from tests.kernel.simulated import Simulated
from vfiohost import testing

if TYPE_CHECKING:
    from tests.kernel.cases.terms import Case
    from tests.kernel.lab.vm import Machine
    from vfiohost.recording import Recording

_NO_TIME = "no simulated store takes any time"
DIFFERENCES = {
    "45-fewer-than-asked": "the parameter max_vfs of the nvidia stand-in is not simulated",
    "80-unbinds": _NO_TIME,
    "80-unbinds-through-one-file": _NO_TIME,
    "80-binds": _NO_TIME,
    "81-numvfs-of-two-cards": _NO_TIME,
    "83-two-unbinds": _NO_TIME,
    "83-two-binds": _NO_TIME,
}
"""The cases in which the simulation differs from Linux, with the reason. No others may."""


@pytest.fixture(scope="session")
def first_hosts(
    recorded: Recording, recorded_with_nvidia: Recording, memory: Path
) -> tuple[Path, Path]:
    """Simulated hosts in the first state of the machine; the second one knows NVIDIA's driver."""
    folder = Path(tempfile.mkdtemp(dir=memory))
    plain, knowing = folder / "plain", folder / "knowing"
    testing.create(recorded, plain).sysfs.close()
    # What it offers is only known where it was loaded.
    host = testing.create(recorded_with_nvidia, knowing)
    for pf in start.PFS:
        host.store(f"sys/bus/pci/devices/{pf}/sriov_numvfs", "0", timeout=1.0)
    host.unload_module("nvidia", timeout=1.0)
    host.sysfs.close()
    return plain, knowing


@pytest.fixture
def simulated(case: Case, first_hosts: tuple[Path, Path], in_memory: Path) -> Simulated:
    """The simulated kernel in the first state of the machine."""
    needs_nvidia = Do(Load("nvidia")) in case.steps
    copy_host(first_hosts[needs_nvidia], in_memory / "host")
    return Simulated(testing.SimulatedKernel(in_memory / "host"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_simulation_answers_as_linux(simulated: Simulated, case: Case) -> None:
    if case.name not in DIFFERENCES:
        run(case.steps, simulated)
        return
    with pytest.raises(AssertionError):
        run(case.steps, simulated)


def test_differences_are_of_cases_that_there_are() -> None:
    assert DIFFERENCES.keys() <= {case.name for case in CASES}


@pytest.mark.parametrize("line", ["list", "list --json", "groups --json", "mdev types"])
def test_recorded_machine_lists_as_the_live_one(
    lab: Machine, recorded: Recording, tmp_path: Path, line: str
) -> None:
    live = lab.call(product.vfiohost, *line.split(), within=120.0)
    testing.create(recorded, tmp_path / "host")
    simulated = product.vfiohost("--root", str(tmp_path / "host"), *line.split())
    assert (simulated["status"], simulated["stdout"]) == (live["status"], live["stdout"])
    assert len(live["stdout"].split()) > 20
