"""A line on the terminal that says what a change waits for, when it waits for long."""

from __future__ import annotations

import shutil
import sys
import time
from typing import TYPE_CHECKING

import attrs

from vfiohost.plan.types import WriteAttr
from vfiohost.render.plans import why_line
from vfiohost.render.table import printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from vfiohost.cli.aside import Aside
    from vfiohost.plan.types import Plan, Step

PATIENCE = 1.0
"""Seconds that a wait may take before anything is said of it."""

_LOOK_EVERY = 5.0  # seconds between two looks at who uses a device: that reads all of /proc
_CLEAR = "\r\x1b[K"


@attrs.define
class _Wait:
    """What was announced: where it stands, what it does, and who is known to use the device."""

    where: str
    what: str
    step: Step | None
    announced: float = attrs.field(factory=time.monotonic)
    known: tuple[str, ...] = ()
    looked: float = 0.0


class Waits:
    """Says on stderr what is waited for, on whom, and for how long; the line updates itself.

    Nothing is said where stderr is no terminal, and nothing of a wait that ends in a second.

    Args:
        aside: where it is said.
        users: who uses the device of a step; asked when the wait for it has become long.
        wanted: whether anything may be said at all.
    """

    def __init__(
        self, aside: Aside, users: Callable[[Step], tuple[str, ...]], *, wanted: bool
    ) -> None:
        self._aside = aside
        self._users = users
        self._wanted = wanted and sys.stderr is not None and sys.stderr.isatty()
        self._begun: list[_Wait] = []
        self._is_shown = False

    def begin(self, plan: Plan, index: int, *, back: bool) -> None:
        """A store or a load is about to begin; ``back``: it takes the step back."""
        if not self._wanted:
            return
        self.clear()
        step = plan.steps[index]
        about = f" {step.value}" if isinstance(step, WriteAttr) and ":" in step.value else ""
        where = f"step {index + 1} of {len(plan.steps)}{about}"
        what = f"take back: {why_line(step)}" if back else why_line(step)
        self._begun.append(_Wait(where, what, step))

    def begin_lock(self) -> None:
        """The lock is about to be waited for."""
        self._begun = [_Wait("lock", "another vfiohost is at work", None)]

    def tick(self, began: float) -> None:
        """A wait goes on, of several the longest; called ten times a second.

        Args:
            began: the ``time.monotonic()`` at which it began.
        """
        now = time.monotonic()
        if not self._wanted or not self._begun or now - began < PATIENCE:
            return
        # It began right after it was announced, and those before it have come back.
        while len(self._begun) > 1 and self._begun[1].announced <= began:
            del self._begun[0]
        wait = self._begun[0]
        if wait.step is not None and now - wait.looked > _LOOK_EVERY:
            wait.known, wait.looked = self._users(wait.step), now
        # What changes comes first: a terminal may be too narrow for all of it.
        by = f", in use by {', '.join(wait.known)}" if wait.known else ""
        self._show(f"vfiohost: waiting {now - began:.0f} s, {wait.where}{by}: {wait.what}")

    def clear(self) -> None:
        """Take the line away."""
        if self._is_shown:
            self._aside.say(_CLEAR)
            self._is_shown = False

    def _show(self, line: str) -> None:
        width = shutil.get_terminal_size().columns
        if self._aside.show(_CLEAR + printable(line)[: width - 1]):
            self._is_shown = True
