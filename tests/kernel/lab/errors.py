"""What can go wrong with the lab."""

from __future__ import annotations


class LabError(Exception):
    """The lab broke: a build failed, the machine hung or its kernel panicked."""


class LabUnavailableError(LabError):
    """This computer lacks something that the lab needs; the message says what."""


class GuestError(LabError):
    """A call in the guest ended with an exception.

    Args:
        kind: the exception's class.
        message: its text, with the traceback from the guest.
        number: its errno, or ``None``.
    """

    def __init__(self, kind: str, message: str, number: int | None) -> None:
        self.kind = kind
        self.errno = number
        super().__init__(f"{kind} in the guest: {message}")


class StillRunningError(LabError):
    """A call has not been answered in the time that was given to it."""
