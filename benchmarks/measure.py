"""How things are measured: by turns, in processes of their own, and by what strace counts."""

from __future__ import annotations

import os
import site
import subprocess
import sys
import tempfile
import time
import venv
from collections import Counter
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

import vfiohost

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

TREE = Path(vfiohost.__file__).resolve().parent.parent
"""Where the package lies that is measured: the one that is imported here."""

COMMAND = ("-c", "from vfiohost.cli import command; command()")
"""What the installed command ``vfiohost`` does."""

_MEMORY = ("brk", "mmap", "mremap", "munmap")
_PEAK = "print(next(l.split()[1] for l in open('/proc/self/status') if l.startswith('VmHWM')))"


class Bar(NamedTuple):
    """Something that is measured, beside what it should be.

    Attributes:
        part: the part of the benchmark.
        what: what is compared with what.
        value: the ratio, or the number.
        unit: of the number; empty for a ratio.
        most: what it should be at most, or ``None`` where nothing is asked.
    """

    part: str
    what: str
    value: float
    most: float | None = None
    unit: str = ""

    @property
    def is_met(self) -> bool:
        """It is as it should be."""
        return self.most is None or self.value <= self.most


def build_floor(folder: Path) -> Path:
    """Compile the floor.

    Args:
        folder: where the program is put.

    Returns:
        The program.

    Raises:
        subprocess.CalledProcessError: it does not compile; the compiler has said why.
    """
    floor = folder / "floor"
    source = Path(__file__).with_name("floor.c")
    options = ("-O2", "-Wall", "-Wextra", "-o")
    command = [os.environ.get("CC", "cc"), *options, str(floor), str(source)]
    subprocess.run(command, check=True)  # noqa: S603 - the developer's own compiler
    return floor


def make_interpreter(folder: Path) -> str:
    """Make an interpreter to which the package is as if it were installed.

    What an editable installation has each start of Python load, no user has installed: a plain
    list of folders stands for it, and for what else is installed beside it.

    Args:
        folder: where to put it; it must not be there yet.

    Returns:
        The path of its program.
    """
    venv.create(folder, symlinks=True)
    packages = next(folder.glob("lib/python*/site-packages"))
    lines = [str(TREE), *site.getsitepackages(), site.getusersitepackages()]
    packages.joinpath("measured.pth").write_text("".join(f"{line}\n" for line in lines))
    return str(folder / "bin/python")


class Bench:
    """Runs what is measured, and keeps every time that was taken.

    Args:
        folder: for an interpreter and bytecode.
        floor: the program of :func:`build_floor`.
        rounds: how often each thing is run.
    """

    def __init__(self, folder: Path, floor: Path, rounds: int) -> None:
        self.floor = str(floor)
        self._interpreter = make_interpreter(folder / "python")
        self.rounds = rounds
        self.times: dict[str, list[float]] = {}
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("PYTHON")},
            "PYTHONHASHSEED": "0",  # or else the number of system calls differs from run to run
            # As after an installation: compiled once, and not by each run.
            "PYTHONPYCACHEPREFIX": str(folder / "bytecode"),
        }

    def by_turns(
        self, runs: Mapping[str, Callable[[], float]], *, rounds: int | None = None
    ) -> dict[str, float]:
        """Time several things by turns, so that all of them see the same machine.

        Args:
            runs: by name, what runs the thing once and gives the seconds that it took.
            rounds: how often; by default as often as everything.

        Returns:
            The median of each in seconds.
        """
        times: dict[str, list[float]] = {name: [] for name in runs}
        for run in runs.values():
            run()
        for _ in range(rounds or self.rounds):
            for name, run in runs.items():
                times[name].append(run())
        for name, taken in times.items():
            self.times.setdefault(name, []).extend(taken)
        return {name: median(taken) for name, taken in times.items()}

    def process(self, command: Sequence[str]) -> Callable[[], float]:
        """What runs a whole process, and gives the seconds from its start to its end."""

        def run() -> float:
            start = time.perf_counter()
            self._check(command)
            return time.perf_counter() - start

        return run

    def python(self, *words: str) -> list[str]:
        """A command of :func:`make_interpreter`'s."""
        return [self._interpreter, "-P", *words]

    def vfiohost(self, *words: str) -> list[str]:
        """A ``vfiohost`` command."""
        return self.python(*COMMAND, *words)

    def loop_seconds(self, command: Sequence[str]) -> float:
        """The median of what a program prints of its loops, but for the first, which warms up."""
        return median(float(text) for text in self._told(command).split()[1:])

    def told(self, code: str, *words: str) -> float:
        """The number that a Python program prints."""
        return float(self._told(self.python("-c", code, *words)))

    def peak(self, code: str, *words: str) -> float:
        """The most memory in MB (of a million bytes) that a Python program ever had resident."""
        # Not of wait4(2): that counts the memory of the process that it was forked from.
        return int(self._told(self.python("-c", f"{code}\n{_PEAK}", *words))) * 1024 / 1e6

    def calls(self, command: Sequence[str]) -> Counter[str]:
        """How often each system call is made by a process and its children, counted by strace.

        Not counted is what asks for memory: when that is needed is a matter of the allocator.
        """
        with tempfile.NamedTemporaryFile("r") as counted:
            options = ["-f", "-c", "-U", "calls,name", "-o", counted.name]
            self._check(["strace", *options, *command])
            # A line of columns and one of dashes come first, and dashes and the sum last.
            lines = [line.split() for line in counted.read().splitlines()[2:-2]]
            return Counter({name: int(n) for n, name in lines if name not in _MEMORY})

    def _told(self, command: Sequence[str]) -> str:
        done = subprocess.run(  # noqa: S603 - programs of this benchmark
            command, env=self.environment, cwd="/", check=True, capture_output=True, text=True
        )
        return done.stdout

    def _check(self, command: Sequence[str]) -> None:
        done = subprocess.run(  # noqa: S603 - the tools that are compared
            command,
            env=self.environment,
            cwd="/",
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        if done.returncode:
            said = done.stderr.decode(errors="replace")
            sys.exit(f"{' '.join(command)} ended with status {done.returncode}:\n{said}")


class TreeBench(Bench):
    """A bench with generated hosts.

    Args:
        folder, floor, rounds: as of :class:`Bench`.
        hosts: where they are made.
        sizes: their numbers of functions; two at least.
    """

    def __init__(
        self, folder: Path, floor: Path, rounds: int, *, hosts: Path, sizes: Sequence[int]
    ) -> None:
        super().__init__(folder, floor, rounds)
        self.hosts = hosts
        self.sizes = sorted(sizes)
        self.small, self.large = self.sizes[0], self.sizes[-1]
