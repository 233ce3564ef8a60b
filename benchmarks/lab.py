"""The lab's machine for what is measured on a real kernel: boots it and asks it for each part."""

from __future__ import annotations

import tempfile
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import lab_parts
from benchmarks.measure import Bar, build_floor
from tests.kernel.lab.flavours import prepare
from tests.kernel.lab.layout import ROOM, machine_options
from tests.kernel.lab.vm import Machine, version_of_qemu

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PATIENCE = 300.0
"""Seconds for the boot and for each part, on a busy computer."""


def _options(run: Path) -> list[str]:
    """The tests' machine, with room for eight cards and a clock that nothing outside can slow.

    Each instruction takes a nanosecond. What waits, waits in true time.
    """
    port = f"pcie-root-port,bus=pcie.0,chassis=23,addr=17.0,{ROOM}"
    return [*machine_options(run), "-device", port, "-icount", "shift=0"]


class LabBench:
    """Measures on a kernel of the lab.

    Args:
        flavour: which kernel.
        rounds: how often each thing is run.

    Attributes:
        times: every time that was taken, in seconds of the guest, by what took it.
        kernel: the kernel and the machine, for people.
    """

    def __init__(self, flavour: str, rounds: int) -> None:
        self.times: dict[str, list[float]] = {}
        self.kernel = ""
        self._image = prepare(flavour)
        self._rounds = rounds

    def measure(self, names: Sequence[str]) -> Iterator[Bar]:
        """Measure parts, by their names: those that follow each other in one machine, if they can.

        Raises:
            LabError: the machine or what runs in it has failed.
        """
        # The guest has the host's files, as they were when it booted.
        with tempfile.TemporaryDirectory(prefix="vfiohost-benchmarks-") as folder:
            floor = build_floor(Path(folder))
            for cards, group in groupby(names, lab_parts.machine_of):
                with Machine(self._image, _options, boot_seconds=PATIENCE) as machine:
                    self.kernel = f"{machine.release} under TCG, 2 CPUs ({version_of_qemu()})"
                    machine.call(lab_parts.set_up, *cards, within=PATIENCE)
                    for name in group:
                        yield from self._taken(machine, name, floor)

    def _taken(self, machine: Machine, name: str, floor: Path) -> Iterator[Bar]:
        words = (name, str(floor), self._rounds)
        told: dict[str, Any] = machine.call(lab_parts.measure, *words, within=PATIENCE)
        self.times |= told["seconds"]
        yield from (Bar(*fields) for fields in told["bars"])
