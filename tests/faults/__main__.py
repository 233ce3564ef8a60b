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
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from tests.faults import report
from tests.faults.places import Bench, Lab, Simulation, Verdict, for_the_lab
from tests.faults.scenarios import SCENARIOS, Scenario
from tests.kernel.lab import state
from tests.kernel.lab.flavours import FLAVOURS, prepare
from tests.kernel.lab.vm import Machine, version_of_qemu

if TYPE_CHECKING:
    from collections.abc import Iterator

_PARTS = 4  # of each command, so that all processes have something to do to the end
_MEMORY = Path("/dev/shm")  # a host is hundreds of tiny files, which disks are slow at


def main() -> int:
    """Do what the arguments say."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--kernel", choices=FLAVOURS, help="on this kernel of the lab")
    parser.add_argument("--jobs", type=int, default=2, help="simulations at a time (default: 2)")
    parser.add_argument("--only", metavar="COMMAND", help="one command, and no table")
    arguments = parser.parse_args()
    chosen = [s for s in SCENARIOS if arguments.only in (None, s.name)]
    write = report.write if arguments.only is None else lambda *_: None
    began = time.monotonic()
    if arguments.kernel:
        chosen = [s for s in chosen if s.in_lab or arguments.only]
        for title, verdicts in _in_lab(arguments.kernel, chosen):
            write(arguments.kernel, title, verdicts, time.monotonic() - began)
    else:
        verdicts = []
        with ProcessPoolExecutor(arguments.jobs) as pool:
            parts = [(scenario, part) for scenario in chosen for part in range(_PARTS)]
            for found in pool.map(_simulated, parts):
                verdicts += found
                sys.stderr.write(f"{len(verdicts)} faults so far\n")
                write("simulation", "The simulation", verdicts, time.monotonic() - began)
    bad = [verdict for verdict in verdicts if verdict.outcome in ("lost", "silent")]
    for verdict in bad:
        where = f"{verdict.scenario}: {verdict.kind} {verdict.at}"
        sys.stderr.write(f"{where}: {verdict.outcome}\n{verdict.detail}\n\n")
    return 1 if bad else 0


def _simulated(work: tuple[Scenario, int]) -> list[Verdict]:
    """Every fault of a part of a scenario."""
    scenario, part = work
    with tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None) as folder:
        bench = Bench(Simulation(Path(folder)), scenario)
        return [bench.try_one(*fault) for fault in islice(bench.faults(), part, None, _PARTS)]


def _in_lab(flavour: str, chosen: list[Scenario]) -> Iterator[tuple[str, list[Verdict]]]:
    """What a machine is called, and all verdicts so far, after each command."""
    verdicts: list[Verdict] = []
    with Machine(prepare(flavour)) as machine:
        machine.call(state.set_up)
        lab = Lab(machine)
        for scenario in chosen:
            bench = Bench(lab, scenario)
            verdicts += [bench.try_one(*fault) for fault in for_the_lab(bench.faults())]
            sys.stderr.write(f"{scenario.name}: {len(verdicts)} faults so far\n")
            yield f"Linux {machine.release} in {version_of_qemu()}", verdicts


if __name__ == "__main__":
    sys.exit(main())
