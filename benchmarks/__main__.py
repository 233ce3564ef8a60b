"""Measures vfiohost beside the floor and the tools that people would use otherwise.

    python -m benchmarks                        all parts
    python -m benchmarks scan calls             some parts
    python -m benchmarks --json FILE            every time that was taken, too
    python -m benchmarks --page docs            write docs/benchmarks.md and its picture

The floor is the least that a C program does for the same fields (floor.c). Everything is compared
in one run on one machine, by turns; what counts is the ratio of the medians. Generated hosts are on
a tmpfs in a mount namespace of this command's own, where those tools that know no other root than /
see one mounted over /sys: it needs root, or user namespaces.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.measure import Bench
from benchmarks.page import bar_line, machine, write_page
from benchmarks.parts import PARTS

if TYPE_CHECKING:
    from collections.abc import Iterator

_INSIDE = "VFIOHOST_BENCHMARKS_INSIDE"


def enter_namespace() -> None:
    """Start again in a mount namespace of our own, from which nothing is seen outside."""
    if os.environ.get(_INSIDE):
        return
    options = ["--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    command = ["unshare", *options, *sys.orig_argv]
    os.execvpe("unshare", command, {**os.environ, _INSIDE: "1"})  # noqa: S606, S607 - see above


@contextmanager
def hosts_on_tmpfs(folder: str) -> Iterator[Path]:
    """A place for hosts in memory, mounted as a Linux distribution mounts /dev/shm and /run."""
    Path(folder).mkdir()
    options = ("-t", "tmpfs", "-o", "nosuid,nodev,size=75%", "tmpfs")
    subprocess.run(["mount", *options, folder], check=True)  # noqa: S603, S607 - in our namespace
    try:
        yield Path(folder)
    finally:
        subprocess.run(["umount", folder], check=True)  # noqa: S603, S607 - as above


def main() -> None:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("parts", metavar="PART", nargs="*", help=f"which of: {', '.join(PARTS)}")
    parser.add_argument(
        *("--functions", "-n"),
        type=int,
        nargs="+",
        metavar="N",
        default=[64, 1_000, 10_000],
        help="sizes of the hosts (default 64 1000 10000)",
    )
    parser.add_argument("--rounds", type=int, default=15, help="runs of each thing (default 15)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write bars and times there")
    parser.add_argument("--page", type=Path, metavar="DIR", help="write benchmarks.md there")
    options = parser.parse_args()
    unknown = [part for part in options.parts if part not in PARTS]
    if unknown:
        parser.error(f"no part {unknown[0]!r} (there are: {', '.join(PARTS)})")
    if len(set(options.functions)) == 1:
        parser.error("two sizes at least are compared")
    enter_namespace()
    bars = []
    with tempfile.TemporaryDirectory() as folder, hosts_on_tmpfs(f"{folder}/hosts") as hosts:
        bench = Bench(Path(folder), hosts, options.functions, options.rounds)
        for name in options.parts or PARTS:
            for bar in PARTS[name](bench):
                print(bar_line(bar), flush=True)  # noqa: T201 - this is what the command is for
                bars.append(bar)
    facts = machine()
    if options.json:
        told = {
            "machine": facts,
            "rounds": options.rounds,
            "bars": [{**bar._asdict(), "met": bar.is_met} for bar in bars],
            "seconds": bench.times,
        }
        options.json.write_text(f"{json.dumps(told, indent=2)}\n")
    if options.page:
        write_page(options.page, bars, facts, options.rounds)


if __name__ == "__main__":
    main()
