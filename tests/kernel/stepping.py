"""Sequences of actions, done to a kernel one by one, with what each changes of its state.

What runs in the guest and what runs on the simulation share these rules, so that two kernels that
are the same answer the same:

- An action that blocks stays blocked while others follow, until something is closed.
- When a second one blocks, all is let go at once: in which order several come back is nobody's
  promise.
- ``Close`` closes all and waits for what has blocked; its outcome tells how that ended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import attrs

from tests.kernel.scenario import Close, Load, Open, Store, Unload

if TYPE_CHECKING:
    from collections.abc import Collection

    from tests.kernel.scenario import Action

BLOCKS = "blocks"
MOST_BLOCKED = 2
_KINDS = {kind.__name__: kind for kind in (Store, Load, Unload, Open, Close)}


class Host(Protocol):
    """A kernel that a sequence is done to."""

    def begin(self, action: Action) -> str:
        """Do an action: its outcome, or ``blocks``: it goes on by itself."""

    def let_go(self) -> list[str]:
        """Close all that is open; the outcomes of what has blocked, in the order of beginning."""

    def state(self, locked: Collection[str]) -> dict[str, str]:
        """Read what actions change; not what would wait for these devices."""


@attrs.frozen
class Step:
    """What an action did.

    Attributes:
        outcome: as in :mod:`tests.kernel.scenario`; followed by the outcomes of actions that had
            blocked and were let go: ``ok, then write ENODEV``.
        changes: what it changed of the host's state; ``None`` for what is no more.
    """

    outcome: str
    changes: dict[str, str | None]


class Stepper:
    """Does a sequence to a host.

    Args:
        host: in its first state.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._blocked = 0
        self._locked: set[str] = set()
        self.state = host.state(())

    def take(self, action: Action) -> Step:
        """Do the next action."""
        if isinstance(action, Close):
            outcome = self._let_go("ok")
        else:
            outcome = self._host.begin(action)
            if outcome == BLOCKS:
                self._blocked += 1
                self._locked |= locked_by(action, self.state)
            if self._blocked == MOST_BLOCKED:
                outcome = self._let_go(outcome)
        before, self.state = self.state, self._host.state(self._locked)
        return Step(outcome, changes_between(before, self.state))

    def _let_go(self, outcome: str) -> str:
        self._blocked = 0
        self._locked.clear()
        return ", then ".join([outcome, *self._host.let_go()])


def changes_between(before: dict[str, str], after: dict[str, str]) -> dict[str, str | None]:
    """What is different after, by key; ``None`` for what is no more."""
    keys = sorted(before.keys() | after.keys())
    return {key: after.get(key) for key in keys if before.get(key) != after.get(key)}


def locked_by(blocked: Action, state: dict[str, str]) -> set[str]:
    """The devices whose lock an action may hold or wait for, as far as its text tells.

    Args:
        blocked: the action.
        state: before it: of a physical function it tells the virtual ones.
    """
    if not isinstance(blocked, Store):
        return set()
    named = {blocked.value.strip(), *blocked.path.split("/")}
    links = " ".join(state.get(f"{name} virtfn", "") for name in named)
    return named | {link.partition("=")[2] for link in links.split()}


def to_plain(action: Action) -> list[Any]:
    """An action as JSON carries it."""
    return [type(action).__name__, *attrs.astuple(action)]


def from_plain(plain: list[Any]) -> Action:
    """Read what :func:`to_plain` made."""
    action: Action = _KINDS[plain[0]](*plain[1:])
    return action
