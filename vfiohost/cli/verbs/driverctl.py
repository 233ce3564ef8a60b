"""The verbs on what driverctl keeps for the boot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vfiohost.cli.verbs.booting import update_initramfs
from vfiohost.cli.verbs.verb import Verb, devices_words

if TYPE_CHECKING:
    from argparse import ArgumentParser


def _import(parser: ArgumentParser) -> None:
    devices_words(parser)
    parser.add_argument(
        "--boot",
        action="store_true",
        help="not now, but from the next boot on, by the files of `boot install`",
    )
    update_initramfs(parser)


def _remove(parser: ArgumentParser) -> None:
    devices_words(parser)
    parser.add_argument("--all", action="store_true", help="all that driverctl keeps")


LIST = Verb(
    "driverctl list",
    "List the drivers that driverctl gives devices at each boot.",
    module="driverctl",
    writes=False,
)
EXPORT = Verb(
    "driverctl export",
    "Have driverctl keep the overrides that devices have now.",
    devices_words,
    "driverctl",
    words="devices",
)
IMPORT = Verb(
    "driverctl import",
    "Give devices the drivers that driverctl keeps for them.",
    _import,
    "driverctl",
    words="devices",
)
REMOVE = Verb(
    "driverctl remove",
    "Have driverctl keep no driver for devices; what they have now stays.",
    _remove,
    "driverctl",
    words="devices",
)
