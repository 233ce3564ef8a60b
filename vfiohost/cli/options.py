"""What can stand on the command line, as typed values with their defaults."""

from __future__ import annotations

import argparse
from functools import cached_property
from typing import TYPE_CHECKING

from vfiohost.errors import ParseError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

ALLOW_WORDS = (
    "console",
    "display",
    "host-driver",
    "network",
    "node",
    "room-unknown",
    "shared-group",
    "storage",
    "vfio-user",
    "vgpu",
)
"""What ``--allow`` can permit: :data:`vfiohost.plan.hazards.ALLOWABLE`, without its import."""

DEFAULT_TIMEOUT = 20.0
"""Seconds that one store or module load may take."""

MAX_TIMEOUT = 86400
"""A day: more than any store takes, less than what overflows a timer."""


class Options(argparse.Namespace):
    """The options of all verbs, with the values that they have when they are not given."""

    verb: str | None = None
    subverb: str | None = None

    root: str | None = None
    json: bool = False
    dry_run: bool = False
    exit_code: bool = False
    allow: Sequence[str] = ()
    timeout: str | None = None
    keep_going: bool = False
    color: str = "auto"
    quiet: bool = False
    verbose: bool = False
    no_names: bool = False

    devices: Sequence[str] = ()
    vendor: str | None = None
    class_: str | None = None
    driver: str | None = None
    group: str | None = None
    columns: str | None = None
    lspci: bool = False

    ids: Sequence[str] = ()
    why: bool = False
    wake: bool = False

    whole_group: bool = False
    no_load: bool = False
    once: bool = False
    owner: str | None = None
    mode: str | None = None
    all: bool = False

    path: str = "auto"
    reset: bool = False
    vf_token: str | None = None
    method: str | None = None

    parent: str | None = None
    type: str | None = None
    uuid: str | None = None
    count: str | None = None
    for_: str | None = None
    attr: Sequence[str] = ()
    uuids: Sequence[str] = ()
    defined: bool = False
    dumpjson: bool = False
    auto: bool = False
    manual: bool = False
    addattr: str | None = None
    attr_value: str | None = None
    delattr: bool = False
    index: str | None = None
    jsonfile: str | None = None
    ignore_callouts: bool = False

    gpu: str | None = None
    vgpus: Sequence[str] = ()
    config: str | None = None
    valid_config: bool = False
    what: str = "default"

    physfn: str | None = None
    number: str | None = None
    recreate: bool = False

    journal_id: str | None = None
    keep: str | None = None

    words: Sequence[str] = ()
    list: bool = False

    file: str | None = None
    host_file: str | None = None
    update: bool = False
    workload: str | None = None
    nvswitch: bool = False
    write: bool = False
    from_host_file: bool = False
    boot: bool = False
    wait: str | None = None
    title: str | None = None
    with_config: bool = False
    umockdev: bool = False
    svg: str | None = None
    shell: str | None = None
    format: str | None = None
    overwrite: bool = False

    early: str = "auto"
    update_initramfs: bool = False

    @property
    def command(self) -> str | None:
        """The verb as it is typed: ``list``, ``mdev create``; ``None`` when there is none."""
        verb = "list" if self.verb == "ls" else self.verb
        return f"{verb} {self.subverb}" if self.subverb else verb

    @cached_property
    def allowed(self) -> frozenset[str]:
        """The words of all ``--allow``.

        Raises:
            ParseError: a word permits nothing.
        """
        words = [w.strip() for text in self.allow for w in text.split(",") if w.strip()]
        for word in words:
            if word not in ALLOW_WORDS:
                raise unknown(word, "a word of --allow", ALLOW_WORDS)
        return frozenset(words)

    @cached_property
    def seconds(self) -> float:
        """The time that one store may take.

        Raises:
            ParseError: it is no number of seconds above 0.
        """
        return DEFAULT_TIMEOUT if self.timeout is None else seconds_of(self.timeout, "--timeout")

    def check(self) -> tuple[object, ...]:
        """Understand the values, so that a bad one is an error before anything is done.

        Raises:
            ParseError: one is not what it should be.
        """
        return self.allowed, self.seconds


def seconds_of(text: str, where: str) -> float:
    """Understand a number of seconds.

    Args:
        text: as it was given.
        where: the option that it is the value of.

    Raises:
        ParseError: it is no number above 0, or too large a one.
    """
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= MAX_TIMEOUT:
        expected = f"a number of seconds above 0, at most {MAX_TIMEOUT}"
        raise ParseError(text, expected, where=where)
    return seconds


def unknown(text: str, what: str, known: Iterable[str]) -> ParseError:
    """An error for a word that is none of the known ones, with those that are close.

    Args:
        text: the word.
        what: what it should have been, as a noun phrase.
        known: all that it could have been.
    """
    known = tuple(known)
    near = near_misses(text, known)
    hint = f"Did you mean {' or '.join(near)}?" if near else None
    return ParseError(text, f"{what} ({', '.join(known)})", hint=hint)


def near_misses(text: str, known: Iterable[str]) -> list[str]:
    """The known words that are close to a text, closest first."""
    from difflib import get_close_matches

    return get_close_matches(text.lower(), list(known), n=3, cutoff=0.6)
