"""The steps of one plan, back: what ``apply`` does after a failure, and ``recover`` after a crash.

A step back is: look where the step stands, journal, store the undo once, read back.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Literal

import attrs

from vfiohost import nodes
from vfiohost.apply.ledger import Ledger
from vfiohost.errors import ApplyError, KernelError, PendingError, VfioHostError
from vfiohost.model import Unavailable
from vfiohost.plan.types import ChangeNodes, SetNodes, WriteAttr

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vfiohost.plan.types import Expect, Step, Store

Standing = Literal["before", "after", "unknown"]
"""Where a step stands on the host: not done (or taken back), done, or neither can be said."""


@attrs.frozen
class UndoFailure:
    """A step that could not be taken back.

    Attributes:
        index: the step's index in the plan.
        error: why.
        command: the shell line that takes it back by hand.
    """

    index: int
    error: VfioHostError
    command: str


def reasons_of(failures: Iterable[UndoFailure]) -> str:
    """Why steps could not be taken back; behind a gate all have one reason, which is said once."""
    return " ".join(dict.fromkeys(str(failure.error) for failure in failures))


class Undoing(Ledger):
    """Takes back what :attr:`to_undo` names, one step after the other."""

    def undo_all(self) -> tuple[UndoFailure, ...]:
        """Take back what :attr:`to_undo` names, the last first; one that fails stops no other.

        Returns:
            What could not be taken back, in the order in which it was tried.

        Raises:
            PendingError: the kernel has not come back from an undo. The others are left as they
                are, because what the kernel still does might cross them.
        """
        failures: list[UndoFailure] = []
        nothing_to_do = self._is_as_before()
        closed: VfioHostError | None = None
        for index, step, undo in self._undos():
            try:
                if closed is not None:
                    raise closed
                if isinstance(undo, ChangeNodes):
                    self._undo_nodes(index)
                elif isinstance(step, WriteAttr) and not nothing_to_do:
                    self._undo(index, step, undo)
                self._undone(index)
            except PendingError:
                raise
            except VfioHostError as exc:
                self._set(index, "undo-failed", str(exc))
                self._note("undo-failed", index, error=str(exc))
                failures.append(UndoFailure(index, exc, undo.shell(self._sysfs.root)))
                if isinstance(step, WriteAttr) and step.gates:
                    closed = exc
        for failure in failures:
            if self._is_gone(self.plan.steps[failure.index]):
                self._undone(failure.index)
        return tuple(each for each in failures if self._results[each.index].outcome != "undone")

    def _undos(
        self, steps: Iterable[int] | None = None
    ) -> list[tuple[int, Step, Store | ChangeNodes]]:
        """The steps of :attr:`to_undo`, or some others, that an undo takes back, the last first.

        Nodes come last: those of a device that its VFIO driver has let go of by then are gone.
        """
        stores: list[tuple[int, Step, Store | ChangeNodes]] = []
        others: list[tuple[int, Step, Store | ChangeNodes]] = []
        for index in sorted(self.to_undo if steps is None else steps, reverse=True):
            step = self.plan.steps[index]
            changes = self.node_changes.get(index)
            if isinstance(step, WriteAttr) and step.undo is not None:
                stores.append((index, step, step.undo))
            elif isinstance(step, SetNodes | ChangeNodes) and changes:
                back = ChangeNodes(step.address, changes, step.why).reversed(step.why)
                others.append((index, step, back))
        return stores + others

    def left(self, begun: Iterable[int] | None = None) -> tuple[int, ...]:
        """Those steps of :attr:`to_undo` that the host still shows, in the order of taking back.

        What was taken back by hand meanwhile is not among them.

        Args:
            begun: all steps that were begun, where some of them were taken back: the host is as
                before when it is as it was before the first of these.
        """
        as_before = self._is_as_before(begun)
        left: list[int] = []
        files: set[str] = set()
        for index, step, _ in self._undos():
            if not isinstance(step, WriteAttr):
                stands = nodes.is_changed(self._sysfs, self.node_changes[index])
            else:
                # When a later step on the same file is taken back, this one stands again.
                stands = not as_before and (
                    step.path in files or self._standing(index, step, known=False) != "before"
                )
                files.update([step.path] if stands else ())
            left += [index] if stands else []
        return tuple(left)

    def commands(self, steps: Iterable[int]) -> tuple[str, ...]:
        """The shell lines that take steps of :attr:`to_undo` back by hand, in their order."""
        wanted, root = set(steps), self._sysfs.root
        return tuple(undo.shell(root) for index, _, undo in self._undos() if index in wanted)

    def _undo_nodes(self, index: int) -> None:
        changes = self.node_changes[index]
        if nodes.is_changed(self._sysfs, changes):
            self._note("undo-begin", index)
            self._tell(index, back=True)
            nodes.take_back(self._sysfs, changes)

    def _undo(self, index: int, step: WriteAttr, undo: Store) -> None:
        certainty = self.to_undo[index]
        standing = self._standing(index, step, known=certainty == "known")
        if standing == "unknown" and certainty != "forced":
            raise ApplyError(f"It was not taken back: {self._facts.neither(step)}")
        if standing != "before":
            self._note("undo-begin", index)
            self._tell(index, back=True)
            try:
                doing = f"Writing {undo.value!r} to {self._sysfs.shown(undo.path)}"
                with self._waiting(index, doing):
                    self._store(undo.path, undo.value)
            except KernelError:
                # What can be seen overrules an errno: a helper may be killed behind its store.
                wanted = undo.after or step.before
                if wanted is None or not self._facts.holds(wanted):
                    raise
            self._check_undo(step, undo)

    def _undone(self, index: int) -> None:
        self._note("undone", index)
        if self._results[index].outcome != "failed":
            self._set(index, "undone")

    def _standing(self, index: int, step: WriteAttr, *, known: bool) -> Standing:
        """Say where a step that was begun, or is known to have happened, stands now."""
        if self._is_gone(step):
            return "before"
        # First what the step makes: what must hold before it may be a condition that still holds.
        if step.after is not None and self._facts.holds(step.after):
            return "after"
        if step.before is None:
            if step.after is None:
                return "after" if known else "unknown"
            return "unknown" if known else "before"
        seen = self._facts.see(step.before)
        if seen == step.before.value or self._is_further_back(index, step.before.path):
            return "before"
        # A step that says nothing of what it makes shows by what is no longer as it was.
        return "after" if step.after is None and not isinstance(seen, Unavailable) else "unknown"

    def _is_gone(self, step: Step) -> bool:
        """Whether a step was about a device that its plan made, and that is gone again."""
        if not isinstance(step, WriteAttr) or not step.device_is_new or step.before is None:
            return False
        seen = self._facts.see(step.before)
        return isinstance(seen, Unavailable) and seen.errno == errno.ENOENT

    def _is_further_back(self, index: int, path: str) -> bool:
        """Whether a file is as it was before an earlier step on it, so that a later one is undone.

        A number of virtual functions that goes through 0 has three states; where the journal could
        not be written, the first of them tells that both steps were taken back.
        """
        earlier = (self.plan.steps[each] for each in self.to_undo if each < index)
        befores = [step.before for step in earlier if isinstance(step, WriteAttr) and step.before]
        return any(self._facts.holds(each) for each in befores if each.path == path)

    def _check_undo(self, step: WriteAttr, undo: Store) -> None:
        wanted = undo.after or step.before
        if wanted is None:
            return
        seen = self._facts.see(wanted)
        if seen != wanted.value:
            raise ApplyError(
                f"The kernel accepted {undo.value!r} for {self._sysfs.shown(undo.path)}, but it "
                f"did not have its effect: {self._facts.sentence(wanted, seen)}"
            )

    def _is_as_before(self, steps: Iterable[int] | None = None) -> bool:
        """Whether the host is as it was before the first of the steps that have to be taken back.

        A plan may change one file twice and leave it as it was (an override that is set and then
        cleared). When all was taken back and the journal does not say so, such a step would look
        done. Where each step shows its work in the file that it expects something of, the first
        expectations tell.
        """
        first: dict[str, Expect] = {}
        for _, step, _ in reversed(self._undos(steps)):
            if not isinstance(step, WriteAttr) or self._is_gone(step):
                continue  # nodes are looked at one by one; a device that is gone shows nothing
            if step.before is None or (step.after or step.before).path != step.before.path:
                return False
            first.setdefault(step.before.path, step.before)
        return all(self._facts.holds(expect) for expect in first.values())
