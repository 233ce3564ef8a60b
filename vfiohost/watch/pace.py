"""When to look, where events only say that something happened. Pure: the clock comes in.

An event is answered by one look a moment later, so that all events of a burst are answered by few.
A look that found something new is followed by one more: some of what the kernel does ends without
an event, such as a driver's probe that fails after its link was made (``really_probe()`` in
``drivers/base/dd.c``). After that nothing is due until the next event.
"""

from __future__ import annotations

PAUSE = 0.1
"""Seconds from an event to the look that answers it. A storm makes ten looks a second."""

AGAIN = 1.0
"""Seconds from a look that found something to the one after it."""


class Pace:
    """When the next look is due."""

    def __init__(self) -> None:
        self._answer: float | None = None
        self._again: float | None = None

    @property
    def due(self) -> float | None:
        """The time of the next look, or ``None``: not before something is heard."""
        times = [time for time in (self._answer, self._again) if time is not None]
        return min(times, default=None)

    @property
    def is_answering(self) -> bool:
        """Whether an event waits for its look: until then, no other one makes a difference."""
        return self._answer is not None

    def heard(self, now: float) -> None:
        """Take down that an event came."""
        if self._answer is None:
            self._answer = now + PAUSE

    def looked(self, now: float, *, is_news: bool) -> None:
        """Take down that a look was made, and whether anything was not as before."""
        self._answer = None
        self._again = now + AGAIN if is_news else None
