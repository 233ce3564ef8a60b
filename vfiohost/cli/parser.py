"""The command line's grammar, on argparse; every error in it is a :class:`ParseError`."""

from __future__ import annotations

import argparse
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from vfiohost.cli.options import ALLOW_WORDS, Options, near_misses, unknown
from vfiohost.errors import ParseError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

EPILOG = """\
DEV is a PCI address (0000:65:00.0, short 65:00.0), or a set: a glob
(0000:65:00.*), class:gpu, vendor:device (10de:2236), group:12; SET:N picks the
Nth of a set, from 0.

exit codes:
  0 done or already so   1 failed, rolled back   2 bad command line, ambiguous
  3 not found            4 refused               5 no permission
  6 still going on       7 left half-way         8 another vfiohost is at work
  9 not supported       10 dry run has changes (with --exit-code)
 11 checked, and found bad
"""

COMMON = "options of every verb"
"""The title of the options that stand before the verb as well as after it."""

_COUNT = "-n/--count"
_REQUIRED = "the following arguments are required: "


class Shown(Exception):  # noqa: N818 - the way out of argparse for help and version, no error
    """A text was asked for instead of a verb."""

    def __init__(self, command: str, text: str) -> None:
        super().__init__(text)
        self.command = command
        self.text = text


class Parser(argparse.ArgumentParser):
    """An argument parser that raises :class:`ParseError` and leaves printing to others."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(
            add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS, **kwargs
        )

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print."""
        if message.startswith(_REQUIRED):
            raise _missing(self.prog, message.removeprefix(_REQUIRED))
        subject, sentence = self.prog, message
        if message.startswith("argument ") and ": " in message:
            subject, sentence = message.removeprefix("argument ").split(": ", 1)
        sentence = sentence.replace("expected one argument", "It takes one value")
        hint = f"{sentence[:1].upper()}{sentence[1:]}."
        if subject == _COUNT:
            hint += " (A dry run is --dry-run here.)"
        raise ParseError(subject, "used as it should be", hint=hint)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Say what is close when a word is none of the choices."""
        if action.choices is not None and value not in action.choices:
            what = f"a verb of {self.prog}" if not action.option_strings else "a value"
            error = unknown(str(value), what, action.choices)
            if action.option_strings:
                error = ParseError(
                    error.text, error.expected, where=action.option_strings[-1], hint=error.hint
                )
            raise error


class _ShowHelp(argparse.Action):
    """``-h``: show the help of the parser that it stands in."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        raise Shown("help", parser.format_help())


class _ShowVersion(argparse.Action):
    """``--version``."""

    def __call__(self, *_: Any) -> None:
        from vfiohost import __version__

        raise Shown("version", f"vfiohost {__version__}\n")


def _global_options(allow: list[str], *, short_dry_run: bool = True, writes: bool = True) -> Parser:
    """The options that stand before the verb as well as after it.

    Args:
        allow: collects the words of every ``--allow``, wherever it stands.
        short_dry_run: whether ``-n`` is the dry run here.
        writes: whether to show what matters only to a verb that writes; it is taken by every verb.
    """

    class Gather(argparse.Action):
        """Add to ``allow``: argparse itself would keep only the words after the verb."""

        def __call__(
            self, _parser: Any, namespace: argparse.Namespace, values: Any, *_: Any
        ) -> None:
            allow.append(values)
            namespace.allow = allow

    def writing(text: str) -> str:
        return text if writes else argparse.SUPPRESS

    parser = Parser()
    group = parser.add_argument_group(COMMON)
    add = group.add_argument
    add("-h", "--help", nargs=0, action=_ShowHelp, help="show this and exit")
    add("--root", metavar="DIR", help="work on the host below DIR (default $VFIOHOST_ROOT, or /)")
    add("--json", action="store_true", help="print one JSON object")
    dry_run = ("-n", "--dry-run") if short_dry_run else ("--dry-run",)
    add(
        *dry_run, action="store_true", help=writing("print every write and its undo, write nothing")
    )
    add("--exit-code", action="store_true", help=writing("exit 10 when a dry run has changes"))
    add(
        "--allow",
        metavar="WORDS",
        action=Gather,
        help=writing(f"permit what is refused, word by word: {', '.join(ALLOW_WORDS)}"),
    )
    add("--timeout", metavar="S", help=writing("seconds that one write may take (default 20)"))
    add(
        "--keep-going",
        action="store_true",
        help=writing("each device on its own: one failure stops none"),
    )
    add("--color", metavar="WHEN", choices=("auto", "always", "never"), help="auto, always, never")
    add("-q", "--quiet", action="store_true", help="print errors only")
    add("-v", "--verbose", action="store_true", help="print each step, and all warnings")
    add("--no-names", action="store_true", help="print numbers, do not look up pci.ids")
    add("--version", nargs=0, action=_ShowVersion, help="show the version and exit")
    return parser


def build(argv: Sequence[str]) -> Parser:
    """Make the parser of a command line: the options of a verb only where it may be meant.

    To make those of all verbs would take ``vfiohost list`` longer than to read the host.

    Args:
        argv: the words of the command line.
    """
    allow: list[str] = []
    common = _global_options(allow)
    parser = Parser(
        prog="vfiohost",
        description="Hand PCI devices and vGPUs of this host to virtual machines, safely.",
        epilog=EPILOG,
        parents=[common],
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", title="verbs")

    def verb(name: str, text: str, fill: Callable[[Parser], None], *aliases: str) -> None:
        is_meant = any(word in argv for word in (name, *aliases))
        parents = []
        if is_meant:
            reading = (
                *(_list, _groups, _show, _tree, _holders, _record, _doctor, _completion),
                *(_print, _resources),
            )
            only_reads = fill in reading
            parents = [_global_options(allow, writes=False) if only_reads else common]
        made = verbs.add_parser(name, help=text, description=text, aliases=aliases, parents=parents)
        if is_meant:
            fill(made)

    verb("list", "List PCI functions: what they are and who has them.", _list, "ls")
    verb("groups", "List IOMMU groups: members, and what keeps a guest from them.", _groups)
    verb("show", "Say all that is known of devices.", _show)
    verb("tree", "Draw the topology: bridges, functions, drivers, groups, NUMA nodes.", _tree)
    verb("holders", "Say who uses devices: processes, mounts, networks, consoles.", _holders)
    verb("bind", "Bind devices to vfio-pci, or to another driver.", _bind)
    verb("unbind", "Take the driver away from devices.", _unbind)
    verb("restore", "Give devices back the driver that they had before.", _restore)
    verb("recover", "Finish or take back what a crash left half-way.", _recover)
    verb("undo", "Take back the last plan, or the one with this journal id.", _undo)
    verb("doctor", "Say what on this host is in the way of guests, and the remedy.", _doctor)
    verb("probe", "Use devices as a guest would: the evidence that one could.", _probe)
    verb("reset", "Reset devices that nobody uses.", _reset)
    verb("print", "Print what is ready for guests, in the words of another tool.", _print)
    verb("resources", "List what NVIDIA's device plugin would offer a cluster.", _resources)
    verb("record", "Record this host in a file, without what identifies it.", _record)
    verb("sim", "Make a simulated host in a directory.", _sim)
    verb("completion", "Print the script that completes command lines in a shell.", _completion)

    verb("mdev", "List, create and remove mediated devices.", partial(_mdev, common, allow))
    return parser


def _mdev(common: Parser, allow: list[str], mdev: Parser) -> None:
    mdev_verbs = mdev.add_subparsers(dest="mdev_verb", metavar="VERB", title="verbs")
    counted = _global_options(allow, short_dry_run=False)
    reading = _global_options(allow, writes=False)
    for name, text, fill, parent in (
        ("types", "List what can be created, by parent.", _mdev_types, reading),
        ("list", "List the mediated devices that exist.", _nothing, reading),
        ("create", "Create mediated devices.", _mdev_create, counted),
        ("remove", "Remove mediated devices.", _mdev_remove, common),
    ):
        fill(mdev_verbs.add_parser(name, help=text, description=text, parents=[parent]))


def _nothing(_parser: Parser) -> None:
    """For a verb that has no options of its own."""


def _devices(parser: Parser, nargs: str = "*") -> None:
    parser.add_argument("devices", metavar="DEV", nargs=nargs, help="which devices")


def _list(parser: Parser) -> None:
    _devices(parser)
    add = parser.add_argument
    add("--vendor", metavar="ID", help="only this vendor: 10de")
    add("--class", metavar="CLASS", dest="class_", help="only this class: gpu, network, 0302 …")
    add("--driver", metavar="D", help="only what this driver has; none: what has no driver")
    add("--group", metavar="N", help="only this IOMMU group; none: what is in no group")
    add("-o", "--columns", metavar="COLS", help="columns, by commas; +COLS: besides the usual ones")
    add("--lspci", action="store_true", help="print what lspci -nnk prints")


def _tree(parser: Parser) -> None:
    _devices(parser)
    add = parser.add_argument
    add("--svg", metavar="FILE", help="draw a picture; - for stdout")
    add("--overwrite", action="store_true", help="replace FILE if it exists")


def _groups(parser: Parser) -> None:
    parser.add_argument("ids", metavar="ID", nargs="*", help="which groups, by number")
    parser.add_argument(
        "--why", action="store_true", help="name drivers, and the members that block"
    )


def _show(parser: Parser) -> None:
    _devices(parser, "+")
    parser.add_argument(
        "--wake", action="store_true", help="read the registers of devices that sleep, too"
    )


def _holders(parser: Parser) -> None:
    _devices(parser, "+")


def _unbind(parser: Parser) -> None:
    _devices(parser, "+")


def _bind(parser: Parser) -> None:
    _devices(parser, "+")
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


def _probe(parser: Parser) -> None:
    _devices(parser, "+")
    add = parser.add_argument
    add(
        "--path",
        metavar="P",
        choices=("auto", "group", "cdev"),
        help="group, cdev, or auto (default): every way that the kernel offers",
    )
    add("--reset", action="store_true", help="reset the device as well")
    add("--vf-token", metavar="UUID", help="for a virtual function of a PF that a guest has")


def _reset(parser: Parser) -> None:
    _devices(parser, "+")
    parser.add_argument(
        "--method", metavar="M", help="by this method alone, for once: flr, pm, bus, …"
    )


def _restore(parser: Parser) -> None:
    _devices(parser)
    parser.add_argument("--all", action="store_true", help="all devices that vfiohost has changed")


def _recover(parser: Parser) -> None:
    parser.add_argument(
        "--keep",
        metavar="ID",
        help="close this journal and leave the host as it is; the others wait",
    )


def _undo(parser: Parser) -> None:
    parser.add_argument("journal_id", metavar="ID", nargs="?", help="journal id of the plan")


def _doctor(parser: Parser) -> None:
    _devices(parser)
    parser.add_argument("--all", action="store_true", help="print what is as it should be, too")


def _print(parser: Parser) -> None:
    formats = ("kubevirt", "vmi", "libvirt", "qemu", "cdi")
    parser.add_argument("format", metavar="FORMAT", choices=formats, help=", ".join(formats))
    parser.add_argument(
        "devices",
        metavar="DEV|UUID",
        nargs="*",
        default=(),
        help="which devices (default: all that are ready)",
    )


def _resources(_parser: Parser) -> None:
    """The verb has no options of its own."""


def _record(parser: Parser) -> None:
    add = parser.add_argument
    add("file", metavar="FILE", help="the file to make; - for stdout")
    add("--title", metavar="TEXT", help="one line on what is special about the host")
    add("--with-config", action="store_true", help="read config space too; this wakes devices")
    add("--umockdev", action="store_true", help="write the PCI functions in umockdev's format")
    add("--overwrite", action="store_true", help="replace FILE if it exists")


def _sim(parser: Parser) -> None:
    parser.add_argument("words", metavar="HOST DIR", nargs="*", help="a host, a directory to make")
    parser.add_argument(
        "--list", action="store_true", help="list the hosts that come with vfiohost"
    )


def _completion(parser: Parser) -> None:
    parser.add_argument(
        "shell", metavar="SHELL", choices=("bash", "zsh", "fish"), help="which shell"
    )


def _mdev_types(parser: Parser) -> None:
    parser.add_argument("-p", "--parent", metavar="PARENT", help="only this parent")


def _mdev_create(parser: Parser) -> None:
    add = parser.add_argument
    add("-p", "--parent", metavar="PARENT", help="address or name of the parent")
    add("-t", "--type", metavar="TYPE", help="type id (nvidia-595) or name (A10-8Q)")
    add("-u", "--uuid", metavar="UUID", help="its UUID (default: a random one)")
    add(*_COUNT.split("/"), metavar="COUNT", help="how many (default 1)")
    add(
        "--attr",
        metavar="K=V",
        action="append",
        help="write V to the new device's attribute K; repeatable, in this order",
    )


def _mdev_remove(parser: Parser) -> None:
    parser.add_argument("uuids", metavar="UUID", nargs="+", help="which devices")


_LISTS = {
    "list": "devices",
    "groups": "ids",
    "show": "devices",
    "holders": "devices",
    "bind": "devices",
    "unbind": "devices",
    "restore": "devices",
    "doctor": "devices",
    "print": "devices",
    "probe": "devices",
    "reset": "devices",
    "sim": "words",
    "mdev remove": "uuids",
}
"""Verbs that take a list of words, and the option that has it."""


def parse(argv: Sequence[str], options: Options) -> None:
    """Read a command line.

    Args:
        argv: the words after the program's name.
        options: takes the values; when an error comes up, as far as they were understood.

    Raises:
        ParseError: what is wrong with it, with what was probably meant.
        Shown: a help text or the version was asked for.
    """
    parser = build(argv)
    _, rest = parser.parse_known_args(list(argv), options)
    command = options.command
    if command is None or command == "mdev":
        raise _missing(parser.prog if command is None else "vfiohost mdev", "a verb")
    words = [r for r in rest if not r.startswith("-") or r == "-"]
    for text in rest:
        if text.startswith("-") and text not in ("-", "--"):
            raise _unknown_option(text, command, parser)
    name = _LISTS.get(command)
    if words and name is None:
        raise ParseError(words[0], f"expected by vfiohost {command}")
    if words and name is not None:
        # argparse leaves over the words that come after an option: `bind A --driver D B`.
        setattr(options, name, [*getattr(options, name), *words])
    _check_words(options, command)


NEEDS = {
    "mdev create": {"parent": "-p PARENT", "type": "-t TYPE"},
}
"""Verbs that cannot do without some options: where the value is, and how it is given."""


def _check_words(options: Options, command: str) -> None:
    """See to it that a verb has what it cannot do without.

    Raises:
        ParseError: something is missing, or excludes something else.
    """
    prog = f"vfiohost {command}"
    for option, name in NEEDS.get(command, {}).items():
        if not getattr(options, option):
            raise _missing(prog, name)
    if command == "restore" and bool(options.devices) == options.all:
        raise _missing(prog, "either DEV or --all")
    if options.lspci and (options.json or options.columns is not None):
        other = "--json" if options.json else "--columns"
        hint = f"It is the text of lspci; {other} has another form."
        raise ParseError("--lspci", f"given without {other}", hint=hint)
    if command == "sim":
        _check_sim_words(options, prog)


def _check_sim_words(options: Options, prog: str) -> None:
    needed = 0 if options.list else len(("HOST", "DIR"))
    if len(options.words) < needed:
        raise _missing(prog, "HOST and DIR (or --list)")
    for word in options.words[needed:]:
        raise ParseError(word, f"expected by {prog}{' --list' if options.list else ''}")


def _missing(prog: str, what: str) -> ParseError:
    return ParseError(
        prog, "a complete command", hint=f"It needs {what}; `{prog} --help` tells more."
    )


def _unknown_option(text: str, command: str, parser: Parser) -> ParseError:
    known = _option_strings(parser, command.split())
    name = text.split("=", 1)[0]
    near = near_misses(name, known)
    prog = f"vfiohost {command}"
    hint = f"Did you mean {' or '.join(near)}?" if near else f"See `{prog} --help`."
    return ParseError(name, f"an option of {prog}", hint=hint)


def _option_strings(parser: argparse.ArgumentParser, verbs: Sequence[str]) -> list[str]:
    """The options of the parser that a chain of verbs leads to."""
    for verb in verbs:
        for action in parser._actions:  # noqa: SLF001 - argparse has no public way
            if isinstance(action.choices, dict) and verb in action.choices:
                parser = action.choices[verb]
                break
    return [o for a in parser._actions for o in a.option_strings]  # noqa: SLF001
