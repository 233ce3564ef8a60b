"""Times the scan of generated hosts against the least that a C program needs for the same fields.

    python -m benchmarks.scan                     64, 1,000 and 10,000 functions on a tmpfs
    python -m benchmarks.scan 10000 --rounds 31   one size
    python -m benchmarks.scan --root /            a host that is there

Prints the medians and their ratio. The goals: 10,000 functions scanned into Python objects in at
most 3 times the floor's time, later in at most 1.5 times.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

from benchmarks import hosts
from vfiohost.scan import scan
from vfiohost.sysfs import Sysfs


class Timing(NamedTuple):
    """Medians in seconds of one host."""

    functions: int
    floor: float
    scan: float

    @property
    def ratio(self) -> float:
        """How many times the floor's time the scan takes."""
        return self.scan / self.floor


def build_floor(folder: Path) -> Path:
    """Compile the floor with the flags of an ordinary build."""
    program = folder / "floor"
    source = Path(__file__).with_name("floor.c")
    options = ["-O2", "-Wall", "-Wextra", "-o"]
    command: list[str | Path] = [os.environ.get("CC", "cc"), *options, program, source]
    subprocess.run(command, check=True)  # noqa: S603 - the developer's own compiler
    return program


def measure(root: str, floor: Path, rounds: int) -> Timing:
    """Time floor and scan by turns, so that both see the same machine."""
    floors: list[float] = []
    scans: list[float] = []
    count = 0
    with Sysfs(root) as sysfs:
        scan(sysfs)
        for _ in range(rounds):
            command = [str(floor), root, "1"]
            told = subprocess.check_output(command, text=True)  # noqa: S603 - built just now
            functions, _, seconds = told.split()
            floors.append(float(seconds))
            start = time.perf_counter()
            snapshot = scan(sysfs)
            scans.append(time.perf_counter() - start)
            count = len(snapshot.devices)
            if count != int(functions):
                sys.exit(f"scan found {count} functions, the floor {functions}")
            del snapshot
    return Timing(count, median(floors), median(scans))


def report(options: argparse.Namespace, hosts_folder: Path, floor: Path) -> None:
    """Measure each host and print a line about it."""
    sys.stdout.write("functions   floor ms    scan ms   ratio\n")
    for count in [0] if options.root else options.functions:
        root = options.root
        if root is None:
            root = str(hosts_folder / str(count))
            hosts.make(Path(root), count)
        timing = measure(root, floor, options.rounds)
        sys.stdout.write(
            f"{timing.functions:9} {timing.floor * 1e3:10.2f} {timing.scan * 1e3:10.2f} "
            f"{timing.ratio:7.2f}\n"
        )


def main() -> None:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("functions", type=int, nargs="*", default=[64, 1_000, 10_000])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--root", help="a host that is there, instead of generated ones")
    parser.add_argument("--tmpfs", default="/dev/shm", help="where hosts are made")  # noqa: S108
    options = parser.parse_args()
    # The program goes elsewhere: a tmpfs may be mounted noexec.
    with (
        tempfile.TemporaryDirectory(dir=options.tmpfs) as folder,
        tempfile.TemporaryDirectory() as programs,
    ):
        report(options, Path(folder), build_floor(Path(programs)))


if __name__ == "__main__":
    main()
