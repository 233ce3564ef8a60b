"""The verbs that look at the host, and change nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vfiohost.cli.verbs.verb import Verb, devices_words

if TYPE_CHECKING:
    from argparse import ArgumentParser


def _list(parser: ArgumentParser) -> None:
    devices_words(parser)
    add = parser.add_argument
    add("--vendor", metavar="ID", help="only this vendor: 10de")
    add("--class", metavar="CLASS", dest="class_", help="only this class: gpu, network, 0302 …")
    add("--driver", metavar="D", help="only what this driver has; none: what has no driver")
    add("--group", metavar="N", help="only this IOMMU group; none: what is in no group")
    add("-o", "--columns", metavar="COLS", help="columns, by commas; +COLS: besides the usual ones")
    add("--lspci", action="store_true", help="print what lspci -nnk prints")


def _tree(parser: ArgumentParser) -> None:
    devices_words(parser)
    add = parser.add_argument
    add("--svg", metavar="FILE", help="draw a picture; - for stdout")
    add("--overwrite", action="store_true", help="replace FILE if it exists")


def _groups(parser: ArgumentParser) -> None:
    parser.add_argument("ids", metavar="ID", nargs="*", help="which groups, by number")
    parser.add_argument(
        "--why", action="store_true", help="name drivers, and the members that block"
    )


def _show(parser: ArgumentParser) -> None:
    devices_words(parser, "+")
    parser.add_argument(
        "--wake", action="store_true", help="read the registers of devices that sleep, too"
    )


def _holders(parser: ArgumentParser) -> None:
    devices_words(parser, "+")


def _watch(parser: ArgumentParser) -> None:
    devices_words(parser)
    add = parser.add_argument
    add("--count", metavar="N", help="end after N changes")
    add("--for", metavar="S", dest="for_", help="end after S seconds; exit 1 if --count lacks some")


def _doctor(parser: ArgumentParser) -> None:
    devices_words(parser)
    parser.add_argument("--all", action="store_true", help="print what is as it should be, too")


def _print(parser: ArgumentParser) -> None:
    formats = ("kubevirt", "vmi", "libvirt", "qemu", "cdi")
    parser.add_argument("format", metavar="FORMAT", choices=formats, help=", ".join(formats))
    parser.add_argument(
        "devices",
        metavar="DEV|UUID",
        nargs="*",
        default=(),
        help="which devices (default: all that are ready)",
    )


def _record(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("file", metavar="FILE", help="the file to make; - for stdout")
    add("--title", metavar="TEXT", help="one line on what is special about the host")
    add("--with-config", action="store_true", help="read config space too; this wakes devices")
    add("--umockdev", action="store_true", help="write the PCI functions in umockdev's format")
    add("--overwrite", action="store_true", help="replace FILE if it exists")


def _completion(parser: ArgumentParser) -> None:
    parser.add_argument(
        "shell", metavar="SHELL", choices=("bash", "zsh", "fish"), help="which shell"
    )


LIST = Verb(
    "list",
    "List PCI functions: what they are and who has them.",
    _list,
    "reading",
    aliases=("ls",),
    writes=False,
    words="devices",
)
GROUPS = Verb(
    "groups",
    "List IOMMU groups: members, and what keeps a guest from them.",
    _groups,
    "reading",
    writes=False,
    words="ids",
)
SHOW = Verb(
    "show", "Say all that is known of devices.", _show, "showing", writes=False, words="devices"
)
TREE = Verb(
    "tree",
    "Draw the topology: bridges, functions, drivers, groups, NUMA nodes.",
    _tree,
    "drawing",
    writes=False,
    words="devices",
)
HOLDERS = Verb(
    "holders",
    "Say who uses devices: processes, mounts, networks, consoles.",
    _holders,
    "holding",
    writes=False,
    words="devices",
)
WATCH = Verb(
    "watch",
    "Tell what changes, as it happens.",
    _watch,
    "watching",
    writes=False,
    words="devices",
    tells=True,
)
DOCTOR = Verb(
    "doctor",
    "Say what on this host is in the way of guests, and the remedy.",
    _doctor,
    "examining",
    writes=False,
    words="devices",
)
PRINT = Verb(
    "print",
    "Print what is ready for guests, in the words of another tool.",
    _print,
    "printing",
    writes=False,
    words="devices",
)
RESOURCES = Verb(
    "resources",
    "List what NVIDIA's device plugin would offer a cluster.",
    module="printing",
    writes=False,
)
RECORD = Verb(
    "record",
    "Record this host in a file, without what identifies it.",
    _record,
    "recording",
    writes=False,
)
COMPLETION = Verb(
    "completion",
    "Print the script that completes command lines in a shell.",
    _completion,
    "completing",
    writes=False,
)
