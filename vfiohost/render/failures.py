"""Errors as text for people and as JSON values for programs."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any, Literal

from vfiohost.errors import (
    AmbiguousError,
    ApplyError,
    KernelError,
    LockBusyError,
    NotFoundError,
    ParseError,
    PendingError,
    PlanRefused,
    RollbackError,
    StalePlanError,
    StoreTimeoutError,
    UnsupportedError,
    VfioHostError,
)
from vfiohost.render.plans import refusal_lines
from vfiohost.render.table import plain, printable

if TYPE_CHECKING:
    from vfiohost.errors import Refusal
    from vfiohost.render.table import Paint

FailureCode = Literal[
    "parse",
    "ambiguous",
    "not-found",
    "refused",
    "permission",
    "kernel",
    "failed",
    "stale",
    "pending",
    "rollback-incomplete",
    "lock-busy",
    "unsupported",
    "system",
    "interrupted",
    "internal",
]
"""The kinds of failure that a program can tell apart; each has one exit code."""

# The first class that fits decides, so the special ones come first.
_CODES: tuple[tuple[type[BaseException], FailureCode], ...] = (
    (ParseError, "parse"),
    (AmbiguousError, "ambiguous"),
    (NotFoundError, "not-found"),
    (PlanRefused, "refused"),
    (PendingError, "pending"),
    (StoreTimeoutError, "pending"),
    (RollbackError, "rollback-incomplete"),
    (LockBusyError, "lock-busy"),
    (UnsupportedError, "unsupported"),
    (StalePlanError, "stale"),
    (KernelError, "kernel"),
    (VfioHostError, "failed"),
    (KeyboardInterrupt, "interrupted"),
    (OSError, "system"),
)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
_MORE_THAN_FORBIDDEN = ("pending", "rollback-incomplete")


def failure_code(error: BaseException) -> FailureCode:
    """Say what kind of failure an error is.

    A missing permission counts as one wherever it was met, unless more is wrong than that (the
    host was left half-way, or an operation is still going on).
    """
    found: FailureCode = "internal"
    for kind, code in _CODES:
        if isinstance(error, kind):
            found = code
            break
    forbidden = _is_permission(error) or _is_permission(getattr(error, "cause", None))
    return "permission" if forbidden and found not in _MORE_THAN_FORBIDDEN else found


def _is_permission(error: object) -> bool:
    return isinstance(error, OSError) and error.errno in _FORBIDDEN


def failure_value(error: BaseException) -> dict[str, Any]:
    """An error as a JSON object: its code, its sentence, and what is known besides."""
    value: dict[str, Any] = {"code": failure_code(error), "message": message_of(error)}
    if isinstance(error, ParseError):
        value |= {"text": error.text, "expected": error.expected, "where": error.where}
    elif isinstance(error, AmbiguousError):
        value |= {"selector": error.selector, "matches": list(error.matches)}
    elif isinstance(error, NotFoundError):
        value |= {"kind": error.kind, "key": error.key, "near": list(error.near)}
    elif isinstance(error, PlanRefused):
        value["refusals"] = [refusal_value(r) for r in error.refusals]
    elif isinstance(error, KernelError):
        value |= {"op": error.op, "errno": error.errno, "errno_name": error.code}
        value |= {"path": error.path, "value": error.value}
    elif isinstance(error, LockBusyError):
        value |= {"path": error.path, "holder": error.holder, "has_ended": error.has_ended}
    elif isinstance(error, ApplyError):
        value["cause"] = failure_value(error.cause) if error.cause else None
        if isinstance(error, PendingError):
            value |= {"pid": error.pid, "wait_channel": error.wait_channel}
            value |= {"state": error.state, "users": list(error.users)}
        if isinstance(error, RollbackError):
            value["commands"] = list(error.commands)
    return value


def refusal_value(refusal: Refusal) -> dict[str, Any]:
    """A refusal as a JSON object; that of a device in use says by whom."""
    names = ["code", "subject", "sentence", "remedy"]
    names += ["kind", "detail", "via"] if refusal.kind is not None else []
    return {name: getattr(refusal, name) for name in names}


def failure_lines(error: BaseException, paint: Paint = plain) -> list[str]:
    """An error as lines for people: the sentence, then what they need in order to go on.

    A refusal gives its reasons, a failed undo the commands that finish it by hand.
    """
    if isinstance(error, PlanRefused):
        return [*refusal_lines(error.refusals, paint), *map(printable, _notes(error))]
    message = printable(message_of(error))
    if not isinstance(error, RollbackError):
        return [message]
    # The commands stand in the sentence too; here each gets a line, ready to be pasted.
    said = message.removesuffix("; ".join(map(printable, error.commands)))
    return [said.rstrip(), *(f"  {printable(c)}" for c in error.commands)]


def message_of(error: BaseException) -> str:
    """The sentence of an error; errors that are not ours are named by their class."""
    if isinstance(error, VfioHostError):
        return " ".join((str(error), *_notes(error)))
    if isinstance(error, KeyboardInterrupt):
        return "Interrupted."
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}."
    return f"{type(error).__name__}: {error}"


def _notes(error: BaseException) -> list[str]:
    """What was added to an error on its way: what became of plans before the one that failed."""
    return getattr(error, "__notes__", [])
