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
