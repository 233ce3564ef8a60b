"""The verbs that change devices."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vfiohost.cli.verbs.verb import Verb, devices_words

if TYPE_CHECKING:
    from argparse import ArgumentParser


def _unbind(parser: ArgumentParser) -> None:
    devices_words(parser, "+")


def _bind(parser: ArgumentParser) -> None:
    devices_words(parser, "+")
    add = parser.add_argument
    add(
        "--driver",
        metavar="D",
        help="vfio-pci (default), any other driver, none, or auto: the best VFIO variant driver",
    )
    add("--group", dest="whole_group", action="store_true", help="with all endpoints of the group")
    add("--no-load", action="store_true", help="load no kernel module")
    add("--once", action="store_true", help="clear the driver_override afterwards")
    add("--owner", metavar="USER[:GROUP]", help="give the VFIO nodes to this user and group")
    add("--mode", metavar="MODE", help="give the VFIO nodes this mode: 0660")


def _probe(parser: ArgumentParser) -> None:
    devices_words(parser, "+")
    add = parser.add_argument
    add(
        "--path",
        metavar="P",
        choices=("auto", "group", "cdev"),
        help="group, cdev, or auto (default): every way that the kernel offers",
    )
    add("--reset", action="store_true", help="reset the device as well")
    add("--vf-token", metavar="UUID", help="for a virtual function of a PF that a guest has")


def _reset(parser: ArgumentParser) -> None:
    devices_words(parser, "+")
    parser.add_argument(
        "--method", metavar="M", help="by this method alone, for once: flr, pm, bus, …"
    )


def _restore(parser: ArgumentParser) -> None:
    devices_words(parser)
    parser.add_argument("--all", action="store_true", help="all devices that vfiohost has changed")


def _recover(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--keep",
        metavar="ID",
        help="close this journal and leave the host as it is; the others wait",
    )


def _undo(parser: ArgumentParser) -> None:
    parser.add_argument("journal_id", metavar="ID", nargs="?", help="journal id of the plan")


def _sim(parser: ArgumentParser) -> None:
    parser.add_argument("words", metavar="HOST DIR", nargs="*", help="a host, a directory to make")
    parser.add_argument(
        "--list", action="store_true", help="list the hosts that come with vfiohost"
    )


BIND = Verb("bind", "Bind devices to vfio-pci, or to another driver.", _bind, words="devices")
UNBIND = Verb("unbind", "Take the driver away from devices.", _unbind, words="devices")
RESTORE = Verb(
    "restore", "Give devices back the driver that they had before.", _restore, words="devices"
)
RECOVER = Verb("recover", "Finish or take back what a crash left half-way.", _recover)
UNDO = Verb("undo", "Take back the last plan, or the one with this journal id.", _undo)
PROBE = Verb(
    "probe",
    "Use devices as a guest would: the evidence that one could.",
    _probe,
    "using",
    words="devices",
)
RESET = Verb("reset", "Reset devices that nobody uses.", _reset, "using", words="devices")
SIM = Verb("sim", "Make a simulated host in a directory.", _sim, "simulating", words="words")
