"""The verbs on vGPUs, whichever way a GPU makes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vfiohost.cli.verbs.verb import COUNT, Verb

if TYPE_CHECKING:
    from argparse import ArgumentParser


def _gpus(parser: ArgumentParser) -> None:
    parser.add_argument("devices", metavar="GPU", nargs="*", help="which GPUs (default: all)")


def _create(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("-g", "--gpu", metavar="GPU", help="which GPU")
    add("-t", "--type", metavar="TYPE", help="name (A10-8Q) or id (nvidia-595, 1148) of the type")
    add(*COUNT.split("/"), metavar="COUNT", help="how many (default 1)")
    add(
        "-u",
        "--uuid",
        metavar="UUID",
        help="its UUID, where it is a mediated device (default: a random one)",
    )


def _remove(parser: ArgumentParser) -> None:
    parser.add_argument(
        "vgpus",
        metavar="UUID|VF",
        nargs="+",
        help="which: the UUID of its mediated device, or its virtual function",
    )


def _config(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "-f",
        "--file",
        dest="host_file",
        metavar="FILE",
        help="a file of NVIDIA's vGPU device manager (YAML); - for stdin",
    )
    add(
        "-c", "--config", metavar="NAME", help="which of its configurations (default: its only one)"
    )
    add("--valid-config", action="store_true", help="check the file and NAME, and nothing else")


def _config_text(parser: ArgumentParser) -> None:
    parser.add_argument(
        "what", metavar="WHAT", choices=["default"], help="default: those for all known boards"
    )


TYPES = Verb(
    "vgpu types",
    "List the vGPU types that GPUs offer.",
    _gpus,
    "vgpus",
    writes=False,
    words="devices",
)
LIST = Verb(
    "vgpu list",
    "List the vGPUs that exist.",
    _gpus,
    "vgpus",
    writes=False,
    words="devices",
)
CAPACITY = Verb(
    "vgpu capacity",
    "Say how many vGPUs of each type still fit, and what fits after one.",
    _gpus,
    "vgpus",
    writes=False,
    words="devices",
)
CREATE = Verb(
    "vgpu create",
    "Create vGPUs on a GPU.",
    _create,
    "vgpus",
    counted=True,
    needs={"gpu": "-g GPU", "type": "-t TYPE"},
)
REMOVE = Verb("vgpu remove", "Remove vGPUs.", _remove, "vgpus", words="vgpus")
APPLY = Verb(
    "vgpu apply",
    "Make the vGPUs what a configuration says.",
    _config,
    "configuring",
    needs={"host_file": "-f FILE"},
)
ASSERT = Verb(
    "vgpu assert",
    "Say in what the vGPUs differ from a configuration.",
    _config,
    "configuring",
    writes=False,
    needs={"host_file": "-f FILE"},
)
CONFIG = Verb(
    "vgpu config",
    "Print vGPU configurations as YAML.",
    _config_text,
    "configuring",
    writes=False,
)
