"""A run of many random sequences on Linux and on its simulation, and what it has shown.

Several at once, each in a process with a machine of its own, share the cores better than one:
``python -m tests.kernel.campaign FILE.json...`` prints as one what ``--summary`` wrote of each.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import attrs
import hypothesis

from tests.kernel.differential import cut_down, describe, find_difference
from tests.kernel.known import KNOWN, name_of
from tests.kernel.lab import sequences, start
from tests.kernel.lab.errors import LabError
from tests.kernel.random_actions import dynamic_ids, make_sequence
from tests.kernel.stepping import BLOCKS, Step, to_plain

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.kernel.conftest import Machines
    from tests.kernel.differential import Difference
    from tests.kernel.lab.vm import Call
    from tests.kernel.scenario import Action
    from tests.kernel.simulated_host import Simulations

LENGTH = 40
MOST_DIFFERENCES = 8
MOST_BROKEN = 3
SEQUENCE_SECONDS = 300.0
WORKER = "sequences"


class LinuxInLab:
    """The kernel of a machine in the lab, at the start that :mod:`tests.kernel.lab.start` makes.

    Attributes:
        broken: why machines had to be replaced, if they had to.
    """

    def __init__(self, machines: Machines) -> None:
        self._machines = machines
        self.first_state = self._begin()
        self.broken: list[str] = []

    @property
    def release(self) -> str:
        """The kernel's release."""
        return self._machines.get().release

    def ask(self, actions: Sequence[Action]) -> list[Step]:
        """Do a sequence to a host at the start.

        Raises:
            LabError: the machine did not survive it; the next one has another.
        """
        return self.result_of(self.submit(actions))

    def submit(self, actions: Sequence[Action]) -> Call:
        """Begin with a sequence."""
        plain = [to_plain(action) for action in actions]
        machine = self._machines.get()
        return machine.submit(sequences.run, plain, dynamic_ids(actions), worker=WORKER)

    def result_of(self, call: Call) -> list[Step]:
        """Wait for what each action did; see :meth:`ask`."""
        try:
            return [Step(**step) for step in call.result(SEQUENCE_SECONDS)]
        except LabError as error:
            machine = self._machines.machine
            self.broken.append(f"{error}\n{'' if machine is None else machine.console()}")
            self._machines.drop()
            state = self._begin()
            if state != self.first_state:
                raise RuntimeError("two machines do not start alike") from error
            raise

    def _begin(self) -> dict[str, str]:
        state: dict[str, str] = self._machines.get().call(start.begin)
        return state


@attrs.define
class Summary:
    """What a run has shown.

    Attributes:
        kernel: the release of the real one.
        first_seed: of the first sequence; the others follow.
        sequences: how many there were.
        steps: how many actions they had.
        compared: of these, how many were compared: a sequence ends with its first difference.
        blocked: how many did not come back at once.
        seconds: how long it took.
        processes: how many shared it.
        kinds: actions by what they are about.
        outcomes: of actions on Linux.
        known: differences that have a name, by name.
        differences: those without, as text.
        broken: seeds of sequences that the machine did not survive.
        reasons: why it did not.
    """

    kernel: str
    first_seed: int
    sequences: int = 0
    steps: int = 0
    compared: int = 0
    blocked: int = 0
    seconds: float = 0.0
    processes: int = 1
    kinds: Counter[str] = attrs.field(factory=Counter)
    outcomes: Counter[str] = attrs.field(factory=Counter)
    known: Counter[str] = attrs.field(factory=Counter)
    differences: list[str] = attrs.field(factory=list)
    broken: list[int] = attrs.field(factory=list)
    reasons: list[str] = attrs.field(factory=list)

    def count(
        self, actions: Sequence[Action], linux: Sequence[Step], difference: Difference | None
    ) -> None:
        """Count a sequence and what it has shown."""
        self.sequences += 1
        self.steps += len(actions)
        self.compared += len(actions) if difference is None else len(difference.actions)
        name = None if difference is None else name_of(difference)
        if name is not None:
            self.known[name] += 1
        self.blocked += sum(BLOCKS in step.outcome for step in linux)
        self.kinds.update(kind_of(action) for action in actions)
        self.outcomes.update(step.outcome for step in linux)

    def write(self, path: Path) -> None:
        """Write it as JSON, or as Markdown where the file is named so."""
        is_text = path.suffix == ".md"
        path.write_text(self.to_markdown() if is_text else json.dumps(self.to_plain(), indent=1))

    def to_plain(self) -> dict[str, Any]:
        """All of it as JSON carries it."""
        return attrs.asdict(self, recurse=False) | {"hypothesis": hypothesis.__version__}

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Self:
        """What :meth:`to_plain` has made.

        Raises:
            ValueError: by another Hypothesis, which draws other sequences from the same seeds.
        """
        if plain.pop("hypothesis") != hypothesis.__version__:
            raise ValueError("the run was made with another version of Hypothesis")
        counters = {name: Counter(plain[name]) for name in ("kinds", "outcomes", "known")}
        return cls(**plain | counters)

    def __add__(self, other: Summary) -> Summary:
        """A run beside this one, with the seeds that follow, as one run.

        Raises:
            ValueError: it had another kernel, or other seeds.
        """
        following = self.first_seed + self.sequences + len(self.broken)
        if (other.kernel, other.first_seed) != (self.kernel, following):
            raise ValueError(f"not of {self.kernel} from seed {following} on")
        return Summary(
            kernel=self.kernel,
            first_seed=self.first_seed,
            sequences=self.sequences + other.sequences,
            steps=self.steps + other.steps,
            compared=self.compared + other.compared,
            blocked=self.blocked + other.blocked,
            seconds=max(self.seconds, other.seconds),
            processes=self.processes + other.processes,
            kinds=self.kinds + other.kinds,
            outcomes=self.outcomes + other.outcomes,
            known=self.known + other.known,
            differences=self.differences + other.differences,
            broken=self.broken + other.broken,
            reasons=self.reasons + other.reasons,
        )

    def to_markdown(self) -> str:
        """The run as a table; see docs/lab.md for what it means."""
        last = self.first_seed + self.sequences + len(self.broken) - 1
        shared = "" if self.processes == 1 else f", {self.processes} processes side by side"
        rows = [
            ("kernel", self.kernel),
            ("seeds", f"{self.first_seed} to {last} (Hypothesis {hypothesis.__version__})"),
            ("sequences", f"{self.sequences:,}"),
            ("steps", f"{self.steps:,}, compared until a sequence's end: {self.compared:,}"),
            ("steps that blocked", f"{self.blocked:,}"),
            ("differences without a name", f"{len(self.differences)}"),
            ("differences with a name", _counted(self.known) or "0"),
            ("machines lost", f"{len(self.broken)}"),
            ("time", f"{self.seconds / 60:.0f} min{shared}"),
            ("actions", _counted(self.kinds)),
            ("outcomes on Linux", _counted(self.outcomes)),
        ]
        title = "# A run of random sequences on Linux and on its simulation"
        lines = [title, "", "| | |", "|---|---|", *(f"| {name} | {text} |" for name, text in rows)]
        lines += ["", *(f"- `{name}`: {KNOWN[name].reason}." for name in sorted(self.known))]
        return "\n".join(lines).rstrip() + "\n"


def _counted(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counter.most_common())


def kind_of(action: Action) -> str:
    """What an action is about: an attribute's name, or the verb."""
    words = describe(action).split(" > ")
    return words[-1].rpartition("/")[2] if len(words) > 1 else words[0].split()[0]


def sequences_of(steps: int) -> int:
    """How many sequences have so many steps."""
    return max(1, steps // LENGTH)


def run(
    linux: LinuxInLab,
    simulations: Simulations,
    first_seed: int,
    steps: int,
    keep: Callable[[Summary], object] = lambda _: None,
) -> Summary:
    """Do random sequences to both, until so many steps are done or enough is found.

    The real kernel is one sequence ahead: it sleeps a lot.

    Args:
        linux, simulations: both.
        first_seed: of the first sequence.
        steps: how many.
        keep: told what there is so far when a machine was lost, and before differences are cut
            down: what follows may not come to its end.
    """
    summary = Summary(linux.release, first_seed)
    began = time.monotonic()
    seeds = range(first_seed, first_seed + sequences_of(steps))
    found: dict[tuple[str, ...], Difference] = {}
    call = linux.submit(actions := make_sequence(first_seed, LENGTH))
    for seed in seeds:
        following = make_sequence(seed + 1, LENGTH)
        try:
            done = linux.result_of(call)
        except LabError:
            summary.broken.append(seed)
            summary.reasons.append(linux.broken[-1])
            keep(summary)
            done = []
        if len(summary.broken) == MOST_BROKEN or len(found) == MOST_DIFFERENCES:
            break
        if seed + 1 in seeds:
            call = linux.submit(following)
        if done:
            difference = find_difference(seed, actions, done, simulations.run)
            summary.count(actions, done, difference)
            if difference is not None and name_of(difference) is None:
                found.setdefault(difference.signature, difference)
        actions = following
    summary.seconds = time.monotonic() - began
    keep(summary)
    summary.differences = [
        str(cut_down(each, simulations.run, linux.ask)) for each in found.values()
    ]
    summary.seconds = time.monotonic() - began
    return summary


if __name__ == "__main__":
    parts = [Summary.from_plain(json.loads(Path(name).read_text())) for name in sys.argv[1:]]
    sys.stdout.write(reduce(Summary.__add__, parts).to_markdown())
