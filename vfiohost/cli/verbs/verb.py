"""What a verb of the command line is."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from argparse import ArgumentParser
    from collections.abc import Callable, Mapping

COUNT = "-n/--count"
"""How many, for a verb that makes something; there ``-n`` is no dry run."""

_NOTHING: Mapping[str, str] = MappingProxyType({})


def no_arguments(_parser: ArgumentParser) -> None:
    """For a verb that has no options of its own."""


def devices_words(parser: ArgumentParser, nargs: str = "*") -> None:
    """Add the devices that a verb is about."""
    parser.add_argument("devices", metavar="DEV", nargs=nargs, help="which devices")


class Verb(NamedTuple):
    """One verb: all that the grammar and the runner have to know of it.

    Attributes:
        name: as it is typed: ``list``, or with the family that it belongs to, ``mdev create``.
        text: what it does, in one sentence.
        fill: adds the verb's own arguments to its parser.
        module: of ``vfiohost.cli``; its ``VERBS`` has the function that does it.
        aliases: other names.
        writes: whether it changes the host; the help of a verb that does not is shorter.
        words: the option that holds a list of words, where the verb takes one.
        needs: options that it cannot do without, and how each is given.
        counted: whether ``-n`` is a count and no dry run.
        tells: whether it goes on to tell; its JSON is one object on each line.
    """

    name: str
    text: str
    fill: Callable[[ArgumentParser], None] = no_arguments
    module: str = "changing"
    aliases: tuple[str, ...] = ()
    writes: bool = True
    words: str | None = None
    needs: Mapping[str, str] = _NOTHING
    counted: bool = False
    tells: bool = False
