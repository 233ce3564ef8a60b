"""The verbs on the host file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vfiohost.cli.verbs.verb import Verb, devices_words

if TYPE_CHECKING:
    from argparse import ArgumentParser


def _file(parser: ArgumentParser) -> None:
    parser.add_argument(
        "-f",
        "--file",
        dest="host_file",
        metavar="FILE",
        help="the host file (default: /etc/vfiohost/host.toml below the root); - for stdin",
    )


def _apply(parser: ArgumentParser) -> None:
    _file(parser)
    parser.add_argument(
        "--wait",
        metavar="S",
        help="seconds to wait for devices of the file that are not there yet (default 0)",
    )


def _export(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("file", metavar="FILE", nargs="?", help="the file to make; default: standard output")
    add("--update", action="store_true", help="change FILE and keep its comments and own keys")
    add("--overwrite", action="store_true", help="replace FILE if it exists")


def _mode(parser: ArgumentParser) -> None:
    add = parser.add_argument
    modes = ("container", "vm-passthrough", "vm-vgpu")
    add("workload", metavar="MODE", choices=modes, help=", ".join(modes))
    devices_words(parser)
    add("--nvswitch", action="store_true", help="NVSwitches as well, where no DEV is named")


MODE = Verb(
    "mode",
    "Make GPUs ready for containers, for whole GPUs in guests, or for vGPUs.",
    _mode,
    "declaring",
    words="devices",
)


def _validate(parser: ArgumentParser) -> None:
    modes = ("vm-passthrough", "vm-vgpu")
    parser.add_argument(
        "workload",
        metavar="MODE",
        nargs="?",
        default=modes[0],
        choices=modes,
        help="vm-passthrough (default) or vm-vgpu: what the host is for",
    )
    parser.add_argument(
        "--write",
        action="store_true",
        help="write the validator's status files in /run/nvidia/validations",
    )


VALIDATE = Verb(
    "validate",
    "Check what NVIDIA's validator asks of a node with guests.",
    _validate,
    "validating",
)
PLAN = Verb("plan", "Print what apply would do: every write and its undo.", _file, "declaring")
APPLY = Verb("apply", "Make the host what its host file says.", _apply, "declaring")
DIFF = Verb(
    "diff", "Say in what the host differs from its host file.", _file, "declaring", writes=False
)
EXPORT = Verb(
    "export", "Write a host file for the host as it is.", _export, "declaring", writes=False
)
