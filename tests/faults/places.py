"""Where faults are tried: the simulation, and the lab's machine."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import attrs

from tests.copying import copy_host
from tests.faults import trial
from tests.faults.scenarios import LINE_FAULTS, faults
from tests.kernel.lab import start
from vfiohost import recording, testing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from tests.faults.scenarios import Fault, Scenario
    from tests.kernel.lab.vm import Machine

START = Path(__file__).parents[1] / "kernel" / "start.host"


class Place(Protocol):
    """A host on which scenarios can be begun again and again."""

    root: str

    def reset(self) -> None:
        """Bring the first state back, without journals."""

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function where the host is."""


class Simulation:
    """A simulated host, copied for each scenario.

    Args:
        folder: an empty one, best in memory.
    """

    def __init__(self, folder: Path) -> None:
        self._made = folder / "made"
        self.root = str(folder / "host")
        testing.create(recording.parse(START.read_text()), self._made)

    def reset(self) -> None:
        """See :class:`Place`."""
        copy_host(self._made, self.root)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """See :class:`Place`."""
        return function(*arguments)


class Lab:
    """A machine of the lab.

    Args:
        machine: in its first state.
    """

    root = "/"

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        machine.call(start.begin, within=120)

    def reset(self) -> None:
        """See :class:`Place`."""
        self._machine.call(forget_journals)
        self._machine.call(start.restore, [], within=120)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """See :class:`Place`."""
        return self._machine.call(function, *arguments, within=120)


def forget_journals() -> None:
    """Remove what vfiohost keeps. Called in the guest."""
    for folder in ("/var/lib/vfiohost", "/run/vfiohost"):
        shutil.rmtree(folder, ignore_errors=True)


def for_the_lab(found: Iterable[Fault]) -> Iterator[Fault]:
    """The faults that a real kernel has a say in: those of stores, and of what comes after a kill.

    At which line of its journal a process is killed is the same to every kernel, and so is what the
    errno of a refusal was.
    """
    left_out = (*LINE_FAULTS, "refused EIO", "refused EPERM", "recover: refused EBUSY")
    for kind, at in found:
        if not kind.endswith(left_out):
            yield kind, at


@attrs.frozen
class Verdict:
    """What became of one fault in one scenario."""

    scenario: str
    kind: str
    at: list[int]
    outcome: str
    detail: str


class Bench:
    """One scenario at one place."""

    def __init__(self, place: Place, scenario: Scenario) -> None:
        self._place = place
        self._scenario = scenario
        self._begin()
        done = place.call(trial.rehearse, place.root, list(scenario.command))
        self.lines, self.stores = done["lines"], done["stores"]
        self._states = [done["before"], done["after"]]

    def try_one(self, kind: str, at: list[int]) -> Verdict:
        """Try one fault."""
        self._begin()
        outcome, detail = self._place.call(
            trial.attempt,
            self._place.root,
            list(self._scenario.command),
            [kind, at],
            self._states,
        )
        return Verdict(self._scenario.name, kind, at, outcome, detail)

    def faults(self) -> Iterator[Fault]:
        """Every fault of this scenario; see :func:`tests.faults.scenarios.faults`."""
        return faults(self.lines, self.stores)

    def _begin(self) -> None:
        place, scenario = self._place, self._scenario
        place.reset()
        place.call(
            trial.prepare, place.root, [list(each) for each in scenario.prepare], scenario.unload
        )
