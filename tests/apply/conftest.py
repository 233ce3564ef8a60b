"""The small host of :mod:`tests.apply.fake`, with its kernel and its journal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import pytest

from tests.apply.fake import FakeKernel, Fault, make_host, state
from vfiohost.apply import Recovery, apply, ignored, pending, permit, recover
from vfiohost.journal import Journal, JournalEntry
from vfiohost.sysfs import Sysfs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from vfiohost.plan.types import Plan, Report, StepResult


PATIENCE = 60.0
"""Seconds after which a read counts as one that does not come back. All of these do, in the end."""


@attrs.frozen
class Bench:
    """One host, and everything that is needed to change it."""

    root: Path
    sysfs: Sysfs
    kernel: FakeKernel
    journal: Journal

    def apply(
        self,
        plan: Plan,
        *,
        undoes: str | None = None,
        cancel: Callable[[], bool] = lambda: False,
        progress: Callable[[StepResult], object] = ignored,
    ) -> Report:
        return apply(
            plan,
            sysfs=self.sysfs,
            kernel=self.kernel,
            journal=self.journal,
            timeout=PATIENCE,
            undoes=undoes,
            cancel=cancel,
            progress=progress,
        )

    def recover(
        self, judge: Callable[[Plan], object] = permit, *, keep: str | None = None
    ) -> tuple[Recovery, ...]:
        return recover(
            sysfs=self.sysfs,
            kernel=self.kernel,
            journal=self.journal,
            judge=judge,
            keep=keep,
            timeout=PATIENCE,
        )

    def state(self) -> dict[str, str]:
        return state(self.root)

    def fail(self, number: int, fault: Fault) -> None:
        """Let an answer of the kernel go wrong, counted from now."""
        self.kernel.faults[len(self.kernel.log) + number] = fault

    def entries(self) -> list[JournalEntry]:
        """The journals, all of which must be readable."""
        entries = self.journal.entries()
        assert all(isinstance(entry, JournalEntry) for entry in entries), entries
        return [entry for entry in entries if isinstance(entry, JournalEntry)]


def make_bench(root: Path) -> Bench:
    """Make a host in an empty directory."""
    make_host(root)
    sysfs = Sysfs(root)
    return Bench(root, sysfs, FakeKernel(root), Journal(sysfs))


@pytest.fixture(autouse=True, scope="module")
def a_busy_machine_is_no_locked_device() -> Iterator[None]:
    """What answers late for want of a processor must not be taken for what waits in the kernel."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pending, "_LOOK_SECONDS", PATIENCE)
        yield


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = make_bench(tmp_path)
    yield made
    made.sysfs.close()
