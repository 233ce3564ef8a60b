"""The verbs on virtual functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vfiohost.cli.verbs.verb import Verb, devices_words

if TYPE_CHECKING:
    from argparse import ArgumentParser


def _set(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("physfn", metavar="PF", help="of which physical functions")
    add("number", metavar="N", help="how many each shall have; all: as many as it can")
    add(
        "--driver",
        metavar="D",
        help="of the virtual functions: a name, auto: the best VFIO driver, none; native "
        "(default): as the kernel gives it",
    )
    add("--no-load", action="store_true", help="load no kernel module")
    add(
        "--recreate",
        action="store_true",
        help="destroy those that exist, where their number changes",
    )


def _devices(parser: ArgumentParser) -> None:
    devices_words(parser, "+")


LIST = Verb(
    "vf list",
    "List what can have virtual functions, and how many it has.",
    devices_words,
    "virtual",
    writes=False,
    words="devices",
)
SET = Verb("vf set", "Set how many virtual functions devices have.", _set, "virtual")
CLEAR = Verb(
    "vf clear", "Remove the virtual functions of devices.", _devices, "virtual", words="devices"
)
