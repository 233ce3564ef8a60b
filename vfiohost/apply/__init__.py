"""Carry out a plan: lock, check again, journal, store, read back; undo in reverse on failure.

Steps about devices that have nothing in common are under way side by side (:mod:`.lanes` says which
these are, :mod:`.driving` drives them). When one fails, the others come to the end of a step before
anything is taken back.

The host is left as the plan wants it, or as it was, or the error says what else:

- everything done: a :class:`Report`;
- a step failed, the host changed, or somebody interrupted between two steps: what was done is
  taken back, :class:`ApplyError` or :class:`StalePlanError`;
- taking back failed, too: :class:`RollbackError` with the commands to finish by hand. That journal
  is closed: ``restore`` still knows what each device had before;
- the kernel has not come back from a store: :class:`PendingError`. Nothing is taken back, since
  what the kernel still does might cross it. The journal stays open. Until ``recover`` has looked
  at it, plans about the same devices are refused; while the helper still waits, plans about other
  devices are carried out.

An open journal without a helper that waits is that of a killed process: until ``recover`` has run,
no plan is carried out.
"""

from __future__ import annotations

from vfiohost.apply.ledger import Watch
from vfiohost.apply.pending import users_of
from vfiohost.apply.recovery import Recovery, RecoveryOutcome, permit, recover
from vfiohost.apply.run import apply, ignored, never
from vfiohost.apply.unfinished import pending_for

__all__ = [
    "Recovery",
    "RecoveryOutcome",
    "Watch",
    "apply",
    "ignored",
    "never",
    "pending_for",
    "permit",
    "recover",
    "users_of",
]
