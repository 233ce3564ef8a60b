"""A fuzzer for readers written in Python: it mangles inputs and keeps those of new labels."""

from __future__ import annotations

import resource
import signal
import time
import traceback
from contextlib import contextmanager
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator, Sequence

    from tests.fuzz.readers import Reader

SLOWEST = 5.0
"""Seconds of the processor that one input may take."""

LONGEST_WAIT = 60.0
"""Seconds that it may take by the clock: other things run on the machine, too."""

MOST_MEMORY = 4 << 30
"""Bytes of address space: what wants more is a bug."""

LONGEST = 1 << 16
KEPT = 600  # bytes: a longer input is not worth keeping, but for its label


class TooSlowError(Exception):
    """An input took more than its time."""


@attrs.define
class Found:
    """What became of the fuzzing of one target.

    Attributes:
        executions: how many inputs were tried.
        seconds: for how long.
        covered: how many labels (or edges of the program) were reached.
        edges: how many edges there are, or ``None`` where that is not counted.
        crashes: inputs that a bug came up for, with what it said.
        corpus: the inputs to keep.
    """

    executions: int = 0
    seconds: float = 0.0
    covered: int = 0
    edges: int | None = None
    crashes: list[tuple[bytes, str]] = attrs.field(factory=list)
    corpus: list[bytes] = attrs.field(factory=list)


@contextmanager
def limited() -> Iterator[None]:
    """Limit the time of each input (see :func:`read`) and the memory of all."""

    def too_slow(*_: object) -> None:
        raise TooSlowError

    before = resource.getrlimit(resource.RLIMIT_AS)
    handlers = {each: signal.signal(each, too_slow) for each in (signal.SIGALRM, signal.SIGPROF)}
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
        for each, handler in handlers.items():
            signal.signal(each, handler)


def read(reader: Reader, data: bytes) -> str:
    """Read one input in its time."""
    signal.setitimer(signal.ITIMER_PROF, SLOWEST)
    signal.setitimer(signal.ITIMER_REAL, LONGEST_WAIT)
    try:
        return reader.run(data)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)


def fuzz(reader: Reader, corpus: Sequence[bytes], seconds: float, chance: random.Random) -> Found:
    """Read mangled inputs for a time.

    Args:
        reader: what reads them.
        corpus: inputs to begin with, besides the reader's seeds.
        seconds: for how long.
        chance: makes the choices.
    """
    found = Found()
    labels: dict[str, bytes] = {}
    pool: list[bytes] = []
    waiting = [*reader.seeds(), *corpus]
    seeds = set(reader.seeds())
    began = time.monotonic()
    with limited():
        while waiting or time.monotonic() - began < seconds:
            data = waiting.pop() if waiting else mangle(chance.choice(pool), pool, reader, chance)
            found.executions += 1
            try:
                label = read(reader, data)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is a bug
                where = place(error)
                if where not in (said for _, said in found.crashes):
                    found.crashes.append((data, where))
                continue
            known = labels.get(label)
            if known is None or len(data) < len(known):
                labels[label] = data
                pool.append(data)
    found.seconds = time.monotonic() - began
    found.covered = len(labels)
    found.corpus = [data for data in labels.values() if len(data) <= KEPT and data not in seeds]
    return found


def place(error: Exception) -> str:
    """What kind of error it is, and the line where it came up: the same bug is reported once."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {frame.filename}, line {frame.lineno} ({frame.name})"


def mangle(data: bytes, pool: Sequence[bytes], reader: Reader, chance: random.Random) -> bytes:
    """Change an input in one to eight places."""
    made = bytearray(data)
    for _ in range(1 << chance.randrange(4)):
        at, to = sorted(chance.randrange(len(made) + 1) for _ in range(2))
        match chance.randrange(8):
            case 0:
                made[at:at] = chance.choice(reader.words)
            case 1:
                made[at:to] = chance.choice(reader.words)
            case 2:
                del made[at:to]
            case 3:
                del made[at : at + 1 + chance.randrange(4)]
            case 4:
                made[at:at] = made[at:to] * chance.choice((1, 1, 1, 2, 40))
            case 5:
                made[at : at + 1] = bytes([chance.randrange(256)])
            case 6 if made:
                made[at % len(made)] ^= 1 << chance.randrange(8)
            case _:
                other = chance.choice(pool)
                made[at:] = other[chance.randrange(len(other) + 1) :]
    return bytes(made[:LONGEST])
