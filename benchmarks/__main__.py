"""Measures vfiohost beside the floor and the tools that people would use otherwise.

    python -m benchmarks                        all parts
    python -m benchmarks scan calls             some parts
    python -m benchmarks --json FILE            every time that was taken, too
    python -m benchmarks --page docs            write docs/benchmarks.md and its picture
    python -m benchmarks --modules 6.12         with that kernel's modules, where this one has none
    python -m benchmarks --lab 6.12             on the sysfs of a real kernel (tests/kernel)

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
from typing import TYPE_CHECKING, Any

from benchmarks import lab_parts
from benchmarks.lab import LabBench
from benchmarks.measure import TreeBench, build_floor
from benchmarks.modules import kernel_modules
from benchmarks.page import bar_line, machine, write_lab_page, write_page
from benchmarks.parts import PARTS
from tests.kernel.lab.errors import LabError
from tests.kernel.lab.flavours import DEBIAN, FLAVOURS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from benchmarks.measure import Bar

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
    options = _options()
    try:
        (_measure_in_lab if options.lab else _measure_trees)(options)
    except LabError as error:
        sys.exit(str(error))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    known = f"which of: {', '.join(PARTS)}; in the lab: {', '.join(lab_parts.PARTS)}"
    parser.add_argument("parts", metavar="PART", nargs="*", help=known)
    parser.add_argument(
        *("--functions", "-n"),
        type=int,
        nargs="+",
        metavar="N",
        default=[64, 1_000, 10_000],
        help="sizes of the hosts (default 64 1000 10000)",
    )
    parser.add_argument("--rounds", type=int, help="runs of each thing (default 15, in the lab 1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write bars and times there")
    parser.add_argument("--page", type=Path, metavar="DIR", help="write benchmarks.md there")
    where = parser.add_mutually_exclusive_group()  # a machine of the lab has its kernel's modules
    where.add_argument(
        "--modules",
        choices=DEBIAN,
        metavar="KERNEL",
        help="let a kernel that has no modules have those of another: 6.12, 6.1",
    )
    where.add_argument(
        "--lab", choices=FLAVOURS, metavar="KERNEL", help="in a machine of the lab: 6.12, 6.1, …"
    )
    options = parser.parse_args()
    there: Iterable[str] = lab_parts.PARTS if options.lab else PARTS
    unknown = [part for part in options.parts if part not in there]
    if unknown:
        parser.error(f"no part {unknown[0]!r} (there are: {', '.join(there)})")
    if len(set(options.functions)) == 1:
        parser.error("two sizes at least are compared")
    options.parts = options.parts or list(there)
    options.rounds = options.rounds or (1 if options.lab else 15)
    return options


def _measure_trees(options: argparse.Namespace) -> None:
    """Measure on generated hosts, and judge."""
    enter_namespace()
    bars = []
    with (
        tempfile.TemporaryDirectory() as folder,
        hosts_on_tmpfs(f"{folder}/hosts") as hosts,
        kernel_modules(options.modules, Path(folder, "modules")) as whose,
    ):
        floor = build_floor(Path(folder))
        bench = TreeBench(Path(folder), floor, options.rounds, hosts=hosts, sizes=options.functions)
        for name in options.parts:
            for bar in PARTS[name](bench):
                print(bar_line(bar), flush=True)  # noqa: T201 - this is what the command is for
                bars.append(bar)
    facts = machine() | {"modules of": whose}
    _write_json(options, facts, [{**b._asdict(), "met": b.is_met} for b in bars], bench.times)
    if options.page:
        write_page(options.page, bars, facts, options.rounds)


def _measure_in_lab(options: argparse.Namespace) -> None:
    """Measure on a real kernel, and show it: what is emulated is not judged."""
    bars: list[Bar] = []
    bench = LabBench(options.lab, options.rounds)
    for bar in bench.measure(options.parts):
        print(bar_line(bar, is_judged=False), flush=True)  # noqa: T201 - as above
        bars.append(bar)
    facts = machine() | {"kernel": bench.kernel}
    _write_json(options, facts, [bar._asdict() for bar in bars], bench.times)
    if options.page:
        write_lab_page(options.page, bars, facts, options.rounds)


def _write_json(
    options: argparse.Namespace,
    facts: dict[str, str],
    bars: list[dict[str, Any]],
    seconds: dict[str, list[float]],
) -> None:
    if options.json:
        told = {"machine": facts, "rounds": options.rounds, "bars": bars, "seconds": seconds}
        options.json.write_text(f"{json.dumps(told, indent=2)}\n")


if __name__ == "__main__":
    main()
