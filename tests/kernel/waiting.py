"""When an action on Linux counts as blocked: by where in the kernel it waits, not by the clock."""

from __future__ import annotations

import time

POLL = 0.02
"""Seconds between two looks."""
WAITS_FOR_USERS = "vfio_unregister_group_dev"
"""Where the kernel waits for the users of a device: nothing but a close ends that."""
BRIEF = ("0", "", "msleep", "ssleep", "schedule_timeout_uninterruptible", "async_synchronize_full")
"""Where it does something that takes its time: it runs, or sleeps for a while."""
STUCK_SECONDS = 0.5
PATIENCE = 10.0


class Watch:
    """Watches an action that has not come back.

    Args:
        others_wait: something has blocked already, so that this can wait for a lock which that has.
    """

    def __init__(self, *, others_wait: bool) -> None:
        self._others_wait = others_wait
        self._began = self._since = time.monotonic()
        self._place = ""

    def is_stuck(self, place: str) -> bool:
        """Tell whether it is certain to wait for another.

        Args:
            place: where it is now: what ``/proc/PID/wchan`` says; ``0`` when it runs.
        """
        now = time.monotonic()
        before, self._place = self._place, place
        self._since = self._since if place == before else now
        if place == before == WAITS_FOR_USERS or now - self._began > PATIENCE:
            return True
        return self._others_wait and place not in BRIEF and now - self._since > STUCK_SECONDS
