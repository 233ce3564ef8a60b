"""Inject every fault into every command, and write the table: ``python -m tests.faults``.

``--kernel 6.12`` does it on a real kernel in the lab (:mod:`tests.kernel`) instead of the
simulation: the faults of :func:`tests.faults.places.for_the_lab`. The exit code is 1 when something
was lost or silent.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from tests.faults import report
from tests.faults.places import Bench, Lab, Simulation, Verdict, for_the_lab
from tests.faults.scenarios import SCENARIOS, Scenario
from tests.kernel.lab import state
from tests.kernel.lab.flavours import FLAVOURS, prepare
from tests.kernel.lab.vm import Machine, version_of_qemu

_MEMORY = Path("/dev/shm")  # a host is hundreds of tiny files, which disks are slow at


def main() -> int:
    """Do what the arguments say."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--kernel", choices=FLAVOURS, help="on this kernel of the lab")
    parser.add_argument("--jobs", type=int, default=2, help="simulations at a time (default: 2)")
    arguments = parser.parse_args()
    began = time.monotonic()
    if arguments.kernel:
        title, verdicts = _in_lab(arguments.kernel)
    else:
        title = "The simulation"
        with ProcessPoolExecutor(arguments.jobs) as pool:
            verdicts = [v for found in pool.map(_simulated, SCENARIOS) for v in found]
    report.write(arguments.kernel or "simulation", title, verdicts, time.monotonic() - began)
    bad = [verdict for verdict in verdicts if verdict.outcome in ("lost", "silent")]
    for verdict in bad:
        where = f"{verdict.scenario}: {verdict.kind} {verdict.at}"
        sys.stderr.write(f"{where}: {verdict.outcome}\n{verdict.detail}\n\n")
    return 1 if bad else 0


def _simulated(scenario: Scenario) -> list[Verdict]:
    with tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None) as folder:
        bench = Bench(Simulation(Path(folder)), scenario)
        return [bench.try_one(*fault) for fault in bench.faults()]


def _in_lab(flavour: str) -> tuple[str, list[Verdict]]:
    verdicts: list[Verdict] = []
    with Machine(prepare(flavour)) as machine:
        machine.call(state.set_up)
        lab = Lab(machine)
        for scenario in SCENARIOS:
            bench = Bench(lab, scenario)
            verdicts += [bench.try_one(*fault) for fault in for_the_lab(bench.faults())]
            sys.stderr.write(f"{scenario.name}: {len(verdicts)} faults so far\n")
        return f"Linux {machine.release} in {version_of_qemu()}", verdicts


if __name__ == "__main__":
    sys.exit(main())
