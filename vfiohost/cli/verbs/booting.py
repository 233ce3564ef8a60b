"""The verbs on what happens when the host starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vfiohost.cli.verbs.verb import Verb, devices_words

if TYPE_CHECKING:
    from argparse import ArgumentParser


def update_initramfs(parser: ArgumentParser) -> None:
    """Add the option that has the initramfs made anew."""
    parser.add_argument(
        "--update-initramfs",
        action="store_true",
        help="make the initramfs anew as well, where that is needed",
    )


def _install(parser: ArgumentParser) -> None:
    devices_words(parser)
    add = parser.add_argument
    add(
        "--driver",
        metavar="D",
        help="as for bind (default: the VFIO driver that a device has, else vfio-pci)",
    )
    add("--group", dest="whole_group", action="store_true", help="with all endpoints of the group")
    add(
        "--early",
        metavar="WHEN",
        choices=("auto", "yes", "no"),
        help="carry it in the initramfs: auto (default) for classes that have their drivers there",
    )
    add(
        "--host-file",
        dest="from_host_file",
        action="store_true",
        help="the devices of /etc/vfiohost/host.toml, and a service that applies the rest of it",
    )
    update_initramfs(parser)


def _remove(parser: ArgumentParser) -> None:
    devices_words(parser)
    update_initramfs(parser)


INSTALL = Verb(
    "boot install",
    "Have devices taken by their drivers from the next boot on.",
    _install,
    "booting",
    words="devices",
)
STATUS = Verb(
    "boot status",
    "Say what is installed for the boot, and whether it does what it should.",
    module="booting",
    writes=False,
)
REMOVE = Verb(
    "boot remove", "Take back what `boot install` has made.", _remove, "booting", words="devices"
)
