"""Two kernels that begin with the same host and are told the same: where they disagree, and why.

Linux is asked once. To cut a sequence down to the actions that matter, the simulation is asked
again and again, which costs a thousandth; Linux then confirms what is left.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import attrs

from tests.kernel.scenario import Close, Load, Open, Store, Unload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from tests.kernel.scenario import Action
    from tests.kernel.stepping import Step

    Kernel = Callable[[Sequence[Action]], Iterable[Step]]
    """Does a sequence to a new host."""

SAME = "as it was"
MOST_SHOWN = 60
MOST_TRIES = 40
"""How often Linux is asked when the simulation alone cannot tell what matters."""


@attrs.frozen
class Difference:
    """Linux and the simulation disagree.

    Attributes:
        seed: of the sequence that showed it.
        actions: what was done; the last one showed it.
        linux: what each action did on Linux.
        simulation: what the last one did there; all before it did the same.
        cut_from: how many actions there were before any was left out.
        is_confirmed: Linux did the same in the sequence that was cut down.
    """

    seed: int
    actions: tuple[Action, ...]
    linux: tuple[Step, ...]
    simulation: Step
    cut_from: int
    is_confirmed: bool = True

    @property
    def texts(self) -> list[tuple[str, str, str]]:
        """What differs: a name, what it is on Linux, what it is in the simulation."""
        linux, simulation = self.linux[-1], self.simulation
        found = [("outcome", linux.outcome, simulation.outcome)]
        for key in sorted(linux.changes.keys() | simulation.changes.keys()):
            values = [
                SAME if key not in step.changes else step.changes[key] or "nothing"
                for step in (linux, simulation)
            ]
            found.append((key, values[0], values[1]))
        return [text for text in found if text[1] != text[2]]

    @property
    def signature(self) -> tuple[str, ...]:
        """What differences have in common that are likely to be one bug: no numbers, no names."""
        kind = describe(self.actions[-1]).split(" ")[-1].rpartition("/")[2]
        keys = [re.sub(r"[0-9a-f:.-]{5,}|\d+", "*", key) for key, *_ in self.texts]
        return (kind, self.linux[-1].outcome, self.simulation.outcome, *sorted(set(keys)))

    def __str__(self) -> str:
        how = "" if self.is_confirmed else "; it did not come again on Linux when it was cut down"
        lines = [f"seed {self.seed}, {len(self.actions)} of {self.cut_from} actions{how}:"]
        for number, (action, step) in enumerate(zip(self.actions, self.linux, strict=True), 1):
            lines.append(f"  {number:2} {describe(action):90} {step.outcome}")
        width = max(len(name) for name, *_ in self.texts)
        lines += [
            f"     {name:{width}}  Linux: {linux}   simulation: {simulation}"
            for name, linux, simulation in self.texts
        ]
        return "\n".join(lines)


def find_difference(
    seed: int, actions: Sequence[Action], linux: Sequence[Step], simulate: Kernel
) -> Difference | None:
    """Look for the first action that the simulation answers otherwise.

    Args:
        seed: of the sequence.
        actions: the sequence.
        linux: what each action did on Linux.
        simulate: does a sequence to a new simulated host.
    """
    for number, step in enumerate(simulate(actions)):
        if step != linux[number]:
            until = number + 1
            return Difference(seed, tuple(actions[:until]), tuple(linux[:until]), step, until)
    return None


def cut_down(found: Difference, simulate: Kernel, ask_linux: Kernel) -> Difference:
    """Leave out what a difference does not need.

    The simulation alone is asked whether it still gives the wrong answer, after actions that it
    answers as Linux did in the whole sequence. Where Linux does not confirm the result, it is asked
    itself, as often as :data:`MOST_TRIES`.
    """

    def is_wrong_still(actions: Sequence[Action], linux: Sequence[Step]) -> bool:
        steps = iter(simulate(actions))
        if any(next(steps).outcome != wanted.outcome for wanted in linux[:-1]):
            return False
        last = next(steps)
        return last.outcome == found.simulation.outcome and all(
            last.changes.get(key) == found.simulation.changes.get(key) for key in keys
        )

    keys = [key for key, *_ in found.texts if key != "outcome"]
    short = _without_needless(found, is_wrong_still)
    confirmed = _ask_again(short, simulate, ask_linux)
    if confirmed is not None:
        return confirmed
    tries = iter(range(MOST_TRIES))

    def differs_still(actions: Sequence[Action], linux: Sequence[Step]) -> bool:
        if next(tries, None) is None:
            return False
        candidate = attrs.evolve(found, actions=tuple(actions), linux=tuple(linux))
        return _ask_again(candidate, simulate, ask_linux) is not None

    short = _without_needless(found, differs_still)
    return _ask_again(short, simulate, ask_linux) or attrs.evolve(found, is_confirmed=False)


def _ask_again(candidate: Difference, simulate: Kernel, ask_linux: Kernel) -> Difference | None:
    """Do a sequence to both; the difference when it is the same one, at the same action."""
    linux = list(ask_linux(candidate.actions))
    again = find_difference(candidate.seed, candidate.actions, linux, simulate)
    if again is None or len(again.actions) != len(candidate.actions):
        return None
    if again.signature != candidate.signature:
        return None
    return attrs.evolve(again, cut_from=candidate.cut_from)


def _without_needless(
    found: Difference, is_enough: Callable[[Sequence[Action], Sequence[Step]], bool]
) -> Difference:
    """Leave out runs of actions, long ones first, as long as what is left is enough."""
    pairs = list(zip(found.actions, found.linux, strict=True))
    size = len(pairs) // 2
    while size:
        begin, before = 0, len(pairs)
        while begin + size < len(pairs):
            fewer = pairs[:begin] + pairs[begin + size :]
            if is_enough([action for action, _ in fewer], [step for _, step in fewer]):
                pairs = fewer
            else:
                begin += size
        if size > 1 or len(pairs) == before:  # alone, each gets another chance
            size //= 2
    actions, linux = zip(*pairs, strict=True)
    return attrs.evolve(found, actions=actions, linux=linux)


def describe(action: Action) -> str:
    """Say what an action does, as one would type it."""
    match action:
        case Store(path, value):
            shown = value if len(value) <= MOST_SHOWN else f"{value[:8]}... ({len(value)} bytes)"
            return f"{shown!r} > {path}"
        case Load(module):
            return f"modprobe {module}"
        case Unload(module):
            return f"modprobe -r {module}"
        case Open(subject, only_group):
            return f"open {subject}{' (its group alone)' if only_group else ''}"
        case Close():
            return "close all"
    raise TypeError(action)
