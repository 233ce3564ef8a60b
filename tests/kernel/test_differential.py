"""Random sequences on the real kernel and on the simulated one: every difference is a bug."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tests.kernel import campaign
from tests.kernel.lab import observing, start
from tests.kernel.simulated_host import Simulations
from tests.kernel.stepping import changes_between
from vfiohost import recording

if TYPE_CHECKING:
    import pytest

    from tests.kernel.conftest import Machines
    from tests.kernel.lab.vm import Machine

RECORD_SECONDS = 300.0


def test_random_sequences(
    lab: Machine, machines: Machines, flavour: str, in_memory: Path, pytestconfig: pytest.Config
) -> None:
    linux = campaign.LinuxInLab(machines)
    text = machines.get().call(
        observing.record, "the start of random sequences", within=RECORD_SECONDS
    )
    record = pytestconfig.getoption("record_start")
    if record:
        Path(record).write_text(text)
    drivers = machines.get().call(start.drivers)
    simulations = Simulations(recording.parse(text), in_memory, drivers)
    assert changes_between(linux.first_state, simulations.first_state) == {}
    kernels = pytestconfig.getoption("kernel").split(",")
    steps = pytestconfig.getoption("steps") // len(kernels)
    seed = pytestconfig.getoption("seed") + kernels.index(flavour) * campaign.sequences_of(steps)
    wanted = pytestconfig.getoption("summary")

    def keep(summary: campaign.Summary) -> None:
        if wanted:
            summary.write(Path(wanted))

    summary = campaign.run(linux, simulations, seed, steps, keep)
    keep(summary)
    lost = [f"seed {seed}: the machine did not survive it" for seed in summary.broken]
    shown = "\n\n".join([*summary.differences, *lost, *linux.broken])
    assert not shown, f"Linux and the simulation differ:\n\n{shown}"
