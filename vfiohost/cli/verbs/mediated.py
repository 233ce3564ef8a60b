"""The verbs on mediated devices."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vfiohost.cli.verbs.verb import COUNT, Verb

if TYPE_CHECKING:
    from argparse import ArgumentParser


def _mdev_types(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("-p", "--parent", metavar="PARENT", help="only this parent")
    add("--dumpjson", action="store_true", help="the same as mdevctl types --dumpjson prints it")


def _mdev_list(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("-d", "--defined", action="store_true", help="those that are defined with mdevctl instead")
    add("--dumpjson", action="store_true", help="the same as mdevctl list -d --dumpjson prints it")


def _mdev_create(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("-p", "--parent", metavar="PARENT", help="address or name of the parent")
    add("-t", "--type", metavar="TYPE", help="type id (nvidia-595) or name (A10-8Q)")
    add("-u", "--uuid", metavar="UUID", help="its UUID (default: a random one)")
    add(*COUNT.split("/"), metavar="COUNT", help="how many (default 1)")
    add(
        "--attr",
        metavar="K=V",
        action="append",
        help="write V to the new device's attribute K; repeatable, in this order",
    )


def _mdev_define(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("-p", "--parent", metavar="PARENT", help="address or name of the parent")
    add("-t", "--type", metavar="TYPE", help="type id (nvidia-595) or name (A10-8Q)")
    add("--jsonfile", metavar="FILE", help="a definition, in place of type, start and attributes")
    add("-u", "--uuid", metavar="UUID", help="its UUID (default: a random one)")
    add("-a", "--auto", action="store_true", help="start it when its parent appears")
    add(
        "--attr",
        metavar="K=V",
        action="append",
        help="write V to its attribute K when it starts; repeatable, in this order",
    )
    add("--ignore-callouts", action="store_true", help="define it without mdevctl's scripts")


def _mdev_modify(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("uuid", metavar="UUID", help="which definition")
    add("-p", "--parent", metavar="PARENT", help="the one on this parent, an address or a name")
    add("-t", "--type", metavar="TYPE", help="give it another type, by its id or name")
    add("-a", "--auto", action="store_true", help="start it when its parent appears")
    add("-m", "--manual", action="store_true", help="start it when somebody asks for it")
    add("--addattr", metavar="K", help="add the attribute K, with --value")
    add("--value", dest="attr_value", metavar="V", help="the value of the attribute that is added")
    add("--delattr", action="store_true", help="take an attribute away")
    add("-i", "--index", metavar="N", help="its number, from 0, before or after (default: the end)")
    add("--jsonfile", metavar="FILE", help="a definition that takes the place of this one")
    add("--ignore-callouts", action="store_true", help="change it without mdevctl's scripts")


def _mdev_start(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("uuids", metavar="UUID", nargs="*", help="which of those that are defined")
    add("-a", "--auto", action="store_true", help="all that start when their parent appears")
    add(
        "-p", "--parent", metavar="PARENT", help="defined on this parent only, an address or a name"
    )
    add("--ignore-callouts", action="store_true", help="start it without mdevctl's scripts")


def _mdev_undefine(parser: ArgumentParser) -> None:
    parser.add_argument("uuid", metavar="UUID", help="which definition")


def _mdev_remove(parser: ArgumentParser) -> None:
    parser.add_argument("uuids", metavar="UUID", nargs="+", help="which devices")


TYPES = Verb(
    "mdev types", "List what can be created, by parent.", _mdev_types, "reading", writes=False
)
LIST = Verb(
    "mdev list", "List the mediated devices that exist.", _mdev_list, "reading", writes=False
)
CREATE = Verb(
    "mdev create",
    "Create mediated devices.",
    _mdev_create,
    "mediated",
    counted=True,
    needs={"parent": "-p PARENT", "type": "-t TYPE"},
)
START = Verb(
    "mdev start",
    "Start mediated devices that are defined.",
    _mdev_start,
    "mediated",
    words="uuids",
)
REMOVE = Verb("mdev remove", "Remove mediated devices.", _mdev_remove, "mediated", words="uuids")
DEFINE = Verb(
    "mdev define",
    "Define a mediated device, as mdevctl does.",
    _mdev_define,
    "mediated",
    needs={"parent": "-p PARENT"},
)
MODIFY = Verb(
    "mdev modify", "Change the definition of a mediated device.", _mdev_modify, "mediated"
)
UNDEFINE = Verb(
    "mdev undefine", "Take the definition of a mediated device away.", _mdev_undefine, "mediated"
)
