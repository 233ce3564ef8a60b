"""Random sequences of actions, done to two kernels that begin with the same host.

After each action the outcomes and the states are compared. A sequence is named by its seed alone:
it can be run again anywhere, and a difference is cut down to the actions that are needed for it.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Protocol

import attrs

from tests.kernel.cases.terms import (
    UUIDS,
    bind,
    create,
    override,
    probe,
    remove,
    unbind,
)
from tests.kernel.lab.layout import A10S, EDU, EMPTY_PORT, HOST_BRIDGE, NIC, PCIE_NIC, TWIN_NICS
from tests.kernel.scenario import Close, Executor, Finish, Open, Store

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.kernel.scenario import Action

DEVICES = (NIC, *TWIN_NICS, PCIE_NIC, EDU, A10S[0], HOST_BRIDGE, EMPTY_PORT, "0000:00:1e.7")
DRIVERS = ("vfio-pci", "vfio-pci", "e1000", "e1000e", "pcieport", "nosuch")
OVERRIDES = ("vfio-pci", "vfio-pci", "e1000", "none", "\n", "", "x" * 4095, "vfio-pci\nrest")
TYPES = (
    ("mtty", "mtty-1"),
    ("mtty", "mtty-2"),
    ("mdpy", "mdpy-vga"),
    ("mdpy", "mdpy-hd"),
    ("mbochs", "mbochs-large"),
)
TEXTS = (*UUIDS[:6], UUIDS[0].upper(), "", "garbage")


class Host(Executor, Protocol):
    """An executor that tells its state, and can be brought back to the start."""

    def state(self, locked: list[str]) -> dict[str, str]:
        """Read what actions change; not what waits for the locked devices."""

    def restart(self) -> None:
        """Begin again with the first host."""


@attrs.frozen
class Difference:
    """Two kernels that disagree.

    Attributes:
        actions: what was done to both; the last one showed it.
        texts: what differs: ``what: this, that``.
    """

    actions: tuple[Action, ...]
    texts: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join(["after", *map(str, self.actions), "differs", *self.texts])


def make_sequence(seed: int, length: int) -> tuple[Action, ...]:
    """Make a sequence of actions, the same for each seed."""
    dice = random.Random(seed)
    return tuple(_make_action(dice) for _ in range(length))


def find_difference(one: Host, other: Host, actions: Sequence[Action]) -> Difference | None:
    """Do a sequence to two kernels from the start on; stop where they disagree.

    What blocks is let go at once: the order in which several come back is nobody's promise.
    """
    one.restart()
    other.restart()
    for number, action in enumerate(actions, 1):
        outcome, texts = _compare(one, other, action)
        if not texts and outcome == "blocks":
            texts = _compare(one, other, Close())[1] or _compare(one, other, Finish())[1]
        if texts:
            return Difference(tuple(actions[:number]), tuple(texts))
    return None


def _compare(one: Host, other: Host, action: Action) -> tuple[str, list[str]]:
    """Do an action to both: the first one's outcome, and what differs in outcome or state."""
    outcomes = [_outcome(host, action) for host in (one, other)]
    texts = []
    if outcomes[0] != outcomes[1]:
        texts.append(f"outcome of {action}: {outcomes[0]}, {outcomes[1]}")
    locked = [action.value] if isinstance(action, Store) and "blocks" in outcomes else []
    states = [host.state(locked) for host in (one, other)]
    for key in sorted(states[0].keys() | states[1].keys()):
        values = [state.get(key, "nothing") for state in states]
        if values[0] != values[1]:
            texts.append(f"{key}: {values[0]}, {values[1]}")
    return outcomes[0], texts


def _outcome(host: Host, action: Action) -> str:
    outcome = host.perform(action)
    # Opening takes several system calls, which executors call what they like.
    return outcome.split()[-1] if isinstance(action, Open) else outcome


def cut_down(one: Host, other: Host, found: Difference) -> Difference:
    """Leave out every action without which the kernels still disagree."""
    index = len(found.actions) - 2
    while index >= 0:
        fewer = (*found.actions[:index], *found.actions[index + 1 :])
        found = find_difference(one, other, fewer) or found
        index = min(index, len(found.actions) - 1) - 1
    return found


def _make_action(dice: random.Random) -> Action:
    kinds: list[tuple[int, Callable[[], Action]]] = [
        (6, lambda: bind(dice.choice(DRIVERS), dice.choice(DEVICES))),
        (6, lambda: unbind(dice.choice(DRIVERS), dice.choice(DEVICES))),
        (6, lambda: override(dice.choice(DEVICES[:-1]), dice.choice(OVERRIDES))),
        (4, lambda: probe(dice.choice(DEVICES))),
        (4, lambda: create(*dice.choice(TYPES), dice.choice(TEXTS))),
        (3, lambda: remove(dice.choice(UUIDS[:6]), dice.choice(("1", "1", "0", "x")))),
        (1, lambda: Open(dice.choice((NIC, *TWIN_NICS, EDU, *UUIDS[:3])))),
        (2, Close),
    ]
    weights = [weight for weight, _ in kinds]
    ((_, make),) = dice.choices(kinds, weights)
    return make()
