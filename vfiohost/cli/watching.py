"""The verb ``watch``."""

from __future__ import annotations

import gc
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from vfiohost.errors import ParseError, VfioHostError
from vfiohost.render.changes import change_line
from vfiohost.render.values import problem_values

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from vfiohost.cli.session import Session
    from vfiohost.model import Snapshot
    from vfiohost.watch import Change, Watcher

_MOST_SECONDS = 366 * 86400.0
_MOST_CHANGES = 10**9


def watch(session: Session) -> None:
    """``vfiohost watch [DEV..] [--count N] [--for S]``: until a signal, N changes or S seconds."""
    options = session.options
    count = _number(options.count, "--count", "a number of changes above 0", _MOST_CHANGES)
    if count is not None and count != int(count):
        raise ParseError(str(options.count), "a whole number", where="--count")
    seconds = _number(options.for_, "--for", "a number of seconds above 0", _MOST_SECONDS)
    session.meet_kernel()
    with session.host.watch(options.devices or None) as watcher:
        # To the end of the command: timeout(1) and some shells send a signal twice.
        session.at_end.enter_context(session.interruption.caught(watcher.stop))
        with suppress(OSError, AttributeError):  # no real file, or closed
            watcher.stop_without(sys.stdout.fileno())
        _begin(session, watcher.snapshot)
        gc.enable()  # see vfiohost.cli.command: this may go on for days
        began = time.monotonic()
        told = _tell(session, watcher, count, seconds)
    is_over = seconds is not None and time.monotonic() - began >= seconds
    if is_over and count is not None and told < count and not session.exit_code:
        raise VfioHostError(
            f"{told} of {count:g} changes came in the {seconds:g} s that --for gives."
        )


VERBS: Mapping[str, Callable[[Session], None]] = {"watch": watch}
"""The verbs of this module."""


def _begin(session: Session, snapshot: Snapshot) -> None:
    """Say that from now on nothing is missed, and what is watched."""
    options, output = session.options, session.output
    watched = snapshot.devices
    if options.devices:
        test = session.host.matcher(options.devices, snapshot)
        watched = tuple(device for device in watched if test(device))
    if output.json:
        watching = {
            "kernel": snapshot.kernel,
            "devices": [str(device.address) for device in watched],
        }
        problems = problem_values(snapshot.problems)
        output.value(
            {"command": options.command, "watching": watching, "problems": problems}, one_line=True
        )
    elif not options.quiet:
        output.problems(snapshot.problems, every=options.verbose)
        number = f"{len(watched)} device{'' if len(watched) == 1 else 's'}"
        output.notes([f"vfiohost: watching {number}; Ctrl-C ends it."])


def _tell(session: Session, watcher: Watcher, count: float | None, seconds: float | None) -> int:
    """Print changes as they come.

    Returns:
        How many.
    """
    end = None if seconds is None else time.monotonic() + seconds
    told = 0
    while (count is None or told < count) and session.output.is_read:
        left = None if end is None else end - time.monotonic()
        changes = watcher.wait(None if left is None else max(left, 0.0))
        if not changes:  # the time is over, a signal came, or the reader has gone
            break
        changes = changes if count is None else changes[: int(count) - told]
        if not _print(session, changes):
            session.exit_code = 1
            break
        told += len(changes)
    return told


def _print(session: Session, changes: Iterable[Change]) -> bool:
    """Print changes, each on a line; whether they went out, or to nobody."""
    output = session.output
    if output.json:
        command = session.options.command
        values = [{"command": command, "change": change.to_json()} for change in changes]
        return all(output.value(value, one_line=True) for value in values)
    paint = output.paint_for(sys.stdout)
    names = session.names
    return all(output.lines([change_line(change, names, paint)]) for change in changes)


def _number(text: str | None, where: str, expected: str, most: float) -> float | None:
    if text is None:
        return None
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number <= most:
        raise ParseError(text, f"{expected}, at most {most:g}", where=where)
    return number
