"""The command line's grammar, on argparse; every error in it is a :class:`ParseError`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, NoReturn, cast

from vfiohost.cli.options import ALLOW_WORDS, Options, near_misses, unknown
from vfiohost.cli.verbs import FAMILIES, VERBS
from vfiohost.cli.verbs.verb import COUNT
from vfiohost.errors import ParseError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vfiohost.cli.verbs.verb import Verb

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

_REQUIRED = "the following arguments are required: "


class Shown(Exception):  # noqa: N818 - the way out of argparse for help and version, no error
    """A text was asked for instead of a verb."""

    def __init__(self, command: str, text: str) -> None:
        super().__init__(text)
        self.command = command
        self.text = text


class _Checking(argparse.RawDescriptionHelpFormatter):
    """The formatter of a parser that is being made: argparse makes one for each argument.

    It only has each tried out. How wide the terminal is, it would learn from ``shutil``, whose
    compressors take longer to load than all arguments to add.
    """

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=80)


class Parser(argparse.ArgumentParser):
    """An argument parser that raises :class:`ParseError` and leaves printing to others."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            add_help=False,
            allow_abbrev=False,
            argument_default=argparse.SUPPRESS,
            formatter_class=_Checking,
            **kwargs,
        )

    def format_help(self) -> str:
        """The help, as wide as the terminal."""
        self.formatter_class = argparse.RawDescriptionHelpFormatter
        return super().format_help()

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print."""
        if message.startswith(_REQUIRED):
            raise _missing(self.prog, message.removeprefix(_REQUIRED))
        subject, sentence = self.prog, message
        if message.startswith("argument ") and ": " in message:
            subject, sentence = message.removeprefix("argument ").split(": ", 1)
        sentence = sentence.replace("expected one argument", "It takes one value")
        hint = f"{sentence[:1].upper()}{sentence[1:]}."
        if subject == COUNT:
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


class _NotMeant:
    """Stands where the parser of a verb would that is not on the command line."""

    def __init__(self, *, prog: str, **_: Any) -> None:
        self.prog = prog


def _parser_of_verb(*, is_meant: bool, **kwargs: Any) -> Parser | _NotMeant:
    return Parser(**kwargs) if is_meant else _NotMeant(**kwargs)


class _ShowHelp(argparse.Action):
    """``-h``: show the help of the parser that it stands in."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        raise Shown("help", parser.format_help())


class _ShowVersion(argparse.Action):
    """``--version``."""

    def __call__(self, *_: Any) -> None:
        from vfiohost import __version__

        raise Shown("version", f"vfiohost {__version__}\n")


def _add_common(
    parser: Parser, allow: list[str], *, short_dry_run: bool = True, writes: bool = True
) -> None:
    """Add the options that stand before the verb as well as after it.

    Args:
        parser: of the command, a verb or a family of verbs.
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

    add = parser.add_argument_group(COMMON).add_argument
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


def build(argv: Sequence[str]) -> Parser:
    """Make the parser of a command line, with those of the verbs that may be meant.

    To make those of all verbs would take ``vfiohost list`` longer than to read the host.

    Args:
        argv: the words of the command line.
    """
    allow: list[str] = []
    parser = Parser(
        prog="vfiohost",
        description="Hand PCI devices and vGPUs of this host to virtual machines, safely.",
        epilog=EPILOG,
    )
    _add_common(parser, allow)
    made_by = cast("type[Parser]", _parser_of_verb)  # argparse only calls it
    verbs = parser.add_subparsers(
        dest="verb", metavar="VERB", title="verbs", parser_class=made_by, prog=parser.prog
    )

    def add(verb: Verb, where: argparse._SubParsersAction[Parser], *, is_meant: bool) -> None:
        made = where.add_parser(
            verb.name.split()[-1],
            help=verb.text,
            description=verb.text,
            aliases=verb.aliases,
            is_meant=is_meant,
        )
        if is_meant:
            _add_common(made, allow, short_dry_run=not verb.counted, writes=verb.writes)
            verb.fill(made)

    for verb in VERBS.values():
        if " " not in verb.name:
            is_meant = any(word in argv for word in (verb.name, *verb.aliases))
            add(verb, verbs, is_meant=is_meant)
    for family, text in FAMILIES.items():
        is_meant = family in argv
        made = verbs.add_parser(family, help=text, description=text, is_meant=is_meant)
        if is_meant:
            _add_common(made, allow)
            inner = made.add_subparsers(
                dest="subverb", metavar="VERB", title="verbs", parser_class=made_by
            )
            for verb in VERBS.values():
                if verb.name.startswith(f"{family} "):
                    add(verb, inner, is_meant=True)
    return parser


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
    if command is None or command in FAMILIES:
        raise _missing(" ".join(filter(None, (parser.prog, command))), "a verb")
    words = [r for r in rest if not r.startswith("-") or r == "-"]
    for text in rest:
        if text.startswith("-") and text not in ("-", "--"):
            raise _unknown_option(text, command, parser)
    name = VERBS[command].words
    if words and name is None:
        raise ParseError(words[0], f"expected by vfiohost {command}")
    if words and name is not None:
        # argparse leaves over the words that come after an option: `bind A --driver D B`.
        setattr(options, name, [*getattr(options, name), *words])
    _check_words(options, command)


def _check_words(options: Options, command: str) -> None:
    """See to it that a verb has what it cannot do without.

    Raises:
        ParseError: something is missing, or excludes something else.
    """
    prog = f"vfiohost {command}"
    for option, name in VERBS[command].needs.items():
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
