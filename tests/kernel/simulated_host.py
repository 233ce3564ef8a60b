"""The simulated kernel as the other side of random sequences."""

from __future__ import annotations

from errno import EIO, ENODEV
from typing import TYPE_CHECKING

import attrs

from tests.copying import copy_host
from tests.kernel.lab import hoststate, start
from tests.kernel.scenario import Close, Open
from tests.kernel.simulated import Simulated
from tests.kernel.stepping import Step, Stepper
from vfiohost import testing

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence
    from pathlib import Path

    from tests.kernel.scenario import Action
    from vfiohost.recording import Recording

FAILING_PROBES = (
    ("nvme", "0000:02:00.[1-4]", ENODEV),
    ("nouveau", "0000:0[348]:00.[4-7]", ENODEV),
    ("nouveau", "0000:08:01.0", ENODEV),
    ("e1000", "0000:0[1-8]:*", EIO),
    ("e1000", "0000:00:0[0-7]*", EIO),
    ("e1000", "0000:00:0[b-f]*", EIO),
    ("e1000", "0000:00:1*", EIO),
    ("e1000", "0000:[1-9a-f]*", EIO),
)
"""What drivers themselves say to devices: the disk's virtual functions are offline, and others are
no network cards."""


class SimulatedHost(Simulated):
    """One simulated host; its stores never wait."""

    patience = 0.0

    def begin(self, action: Action) -> str:
        """Do an action: its outcome, or ``blocks``."""
        outcome = self.perform(action)
        # Opening takes several system calls, which executors call what they like.
        return outcome.split()[-1] if isinstance(action, Open) else outcome

    def let_go(self) -> list[str]:
        """Close all that is open; the outcomes of what has blocked, in the order of beginning."""
        self.perform(Close())
        blocked, self.blocked = self.blocked, []
        return [self.outcome_of(number) for number in blocked]

    def state(self, locked: Collection[str]) -> dict[str, str]:
        """Read what actions change."""
        return hoststate.read(self._kernel.root, locked)


class Simulations:
    """Simulated hosts that all begin alike.

    Args:
        recorded: the host.
        folder: a place for one that is kept as it is, and for one to work with.
        drivers: in the order in which they were registered, which no record tells; by default in
            that of ``modules.alias``.

    Attributes:
        first_state: what they are like.
    """

    def __init__(self, recorded: Recording, folder: Path, drivers: Sequence[str] = ()) -> None:
        self._first = folder / "first"
        self._used = folder / "used"
        kernel = testing.create(with_sriov(recorded), self._first)
        for driver, addresses, number in FAILING_PROBES:
            kernel.fail_probe(driver, addresses, number)
        if drivers:
            with kernel._simulation.session() as machine:
                machine.state.drivers.sort(key=drivers.index)
        _begin(kernel)
        self.first_state = hoststate.read(kernel.root)
        kernel.sysfs.close()

    def run(self, actions: Iterable[Action]) -> Iterator[Step]:
        """Do a sequence to a new host."""
        copy_host(self._first, self._used)
        kernel = testing.SimulatedKernel(self._used)
        try:
            stepper = Stepper(SimulatedHost(kernel))
            for action in actions:
                yield stepper.take(action)
        finally:
            kernel.sysfs.close()


def _begin(kernel: testing.SimulatedKernel) -> None:
    """Let functions be found in the order in which :mod:`tests.kernel.lab.start` has them found."""
    devices = "sys/bus/pci/devices"
    for pf in start.PFS:
        kernel.store(f"{devices}/{pf}/sriov_numvfs", "0", timeout=0)
    for address in start.REMOVABLE:
        kernel.store(f"{devices}/{address}/remove", "1", timeout=0)
    kernel.store("sys/bus/pci/rescan", "1", timeout=0)
    for pf, (_, count) in start.PFS.items():
        kernel.store(f"{devices}/{pf}/sriov_numvfs", str(count), timeout=0)


def with_sriov(recorded: Recording) -> Recording:
    """Let the stand-in for NVIDIA's driver make virtual functions, as its parameter ``sriov`` does.

    NVIDIA's own takes no plain store, so a recording says that it makes none.
    """
    modules = tuple(
        attrs.evolve(
            module,
            drivers=tuple(
                attrs.evolve(driver, sriov=driver.sriov or driver.name == "nvidia")
                for driver in module.drivers
            ),
        )
        for module in recorded.modules
    )
    return attrs.evolve(recorded, modules=modules)
