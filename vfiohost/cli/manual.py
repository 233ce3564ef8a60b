"""The manual page ``vfiohost.1``, made of the grammar of the command line. Pure: text out.

The page is ``docs/vfiohost.1``; a test sees to it that it is what this module makes. The macros are
those of man(7), which groff and mandoc have in common.
"""

from __future__ import annotations

import argparse
import re
from textwrap import wrap
from typing import TYPE_CHECKING, Final

from vfiohost.cli.parser import COMMON, build
from vfiohost.cli.verbs import VERBS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_ENVIRONMENT: Final = {
    "VFIOHOST_ROOT": "the host to work on, where --root does not name it",
    "NO_COLOR": "when it is set, --color auto means never",
    "COLUMNS": "how wide a tree may be on a terminal",
}
_FILES: Final = {
    "/var/lib/vfiohost/journal": "what is done, noted before each write; recover and undo read it",
    "/run/vfiohost/lock": "held by the one vfiohost that changes the host",
    "/etc/udev/rules.d/05-vfiohost.rules": "which devices are given to which drivers at boot",
    "/usr/share/misc/pci.ids": "the names of vendors and devices",
}
_SEE_ALSO: Final = (("driverctl", 8), ("lspci", 8), ("modprobe", 8))

_ESCAPES: Final = {"\\": r"\e", "-": r"\-", "'": r"\(aq", "`": r"\(ga", "^": r"\(ha", "~": r"\(ti"}
"""What roff takes for a command, or makes a typographic character of that no shell knows."""


def manual(version: str) -> str:
    """Make the manual page.

    Args:
        version: of vfiohost.

    Returns:
        The page as roff, ASCII only.
    """
    parser = build(list(_verbs(build(()))))
    devices, _, codes = (parser.epilog or "").partition("\n\nexit codes:\n")
    lines = [
        r".\" Made by vfiohost.cli.manual of the help texts in vfiohost.cli.parser.",
        f'.TH VFIOHOST 1 "" "vfiohost {version}" "User Commands"',
        ".SH NAME",
        rf"vfiohost \- {_text(_as_phrase(parser.description or ''))}",
        ".SH SYNOPSIS",
        r"\fBvfiohost\fR [\fIOPTIONS\fR] \fIVERB\fR [\fIOPTIONS\fR] [\fIWORDS\fR]",
        ".SH DEVICES",
        _text(devices),
        ".SH VERBS",
        *_verb_sections(parser, "vfiohost"),
        ".SH OPTIONS OF EVERY VERB",
        "They may stand before the verb and after it.",
        *_tagged((_names(a), a.help or "") for a in _actions(parser) if _is_common(parser, a)),
        ".SH EXIT STATUS",
        *_tagged((_bold(code), text) for code, text in _exit_codes(codes)),
        ".SH ENVIRONMENT",
        *_tagged((_bold(name), text) for name, text in _ENVIRONMENT.items()),
        ".SH FILES",
        *_tagged((_italic(name), text) for name, text in _FILES.items()),
        ".SH SEE ALSO",
        ", ".join(f"{_bold(name)}({section})" for name, section in _SEE_ALSO),
    ]
    return "".join(f"{line}\n" for line in lines)


def _verb_sections(parser: argparse.ArgumentParser, prog: str) -> Iterator[str]:
    """A section for each verb, also for those of a verb that has some of its own."""
    names: dict[argparse.ArgumentParser, list[str]] = {}
    for name, verb in _verbs(parser).items():
        names.setdefault(verb, []).append(name)
    for verb, (name, *others) in names.items():
        command = f"{prog} {name}"
        if _verbs(verb):
            yield from _verb_sections(verb, command)
            continue
        own = [a for a in _actions(verb) if not _is_common(verb, a)]
        needed = VERBS[command.removeprefix("vfiohost ")].needs
        usage = (_usage(a, is_needed=a.dest in needed) for a in own)
        also = "".join(f" Short: {other}." for other in others)
        yield f".SS {_text(command.removeprefix('vfiohost '))}"
        yield " ".join((_bold(command), *usage))
        yield ".PP"
        yield _text(f"{verb.description}{also}")
        yield from _tagged((_names(a), a.help or "") for a in own)


def _verbs(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parsers of a parser's verbs, by name and by short name."""
    found: dict[str, argparse.ArgumentParser] = {}
    for action in parser._actions:  # noqa: SLF001 - argparse has no other way to ask
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            found |= action.choices
    return found


def _actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """What can stand behind a verb: the words first, then the options."""
    found = [a for a in parser._actions if a.help != argparse.SUPPRESS]  # noqa: SLF001
    return sorted(found, key=lambda action: bool(action.option_strings))


def _is_common(parser: argparse.ArgumentParser, action: argparse.Action) -> bool:
    groups = [g for g in parser._action_groups if g.title == COMMON]  # noqa: SLF001
    return any(action in group._group_actions for group in groups)  # noqa: SLF001


def _exit_codes(columns: str) -> Iterator[tuple[str, str]]:
    """The codes and what they mean, from a text that has them in columns."""
    for item in re.split(r"\s{2,}|\n", columns.strip()):
        code, _, meaning = item.partition(" ")
        yield code, meaning


def _usage(action: argparse.Action, *, is_needed: bool) -> str:
    """An option or a word as the synopsis shows it."""
    if action.option_strings:
        value = "" if action.nargs == 0 else f" {_italic(_value(action))}"
        shown = f"{_bold(action.option_strings[-1])}{value}"
        return shown if is_needed else f"[{shown}]"
    several = " ..." if action.nargs in ("*", "+") else ""
    shown = f"{_italic(_value(action))}{several}"
    return f"[{shown}]" if action.nargs in ("*", "?") else shown


def _names(action: argparse.Action) -> str:
    """All names of an option with its value, or the name of a word."""
    value = _italic(_value(action))
    if not action.option_strings:
        return value
    names = ", ".join(map(_bold, action.option_strings))
    return names if action.nargs == 0 else f"{names} {value}"


def _value(action: argparse.Action) -> str:
    return action.metavar if isinstance(action.metavar, str) else action.dest.upper()


def _tagged(entries: Iterable[tuple[str, str]]) -> Iterator[str]:
    """A list: each entry is roff and the text that belongs to it."""
    for tag, text in entries:
        yield ".TP"
        yield tag
        yield _text(text)


def _as_phrase(sentence: str) -> str:
    return f"{sentence[:1].lower()}{sentence[1:]}".removesuffix(".")


def _bold(text: str) -> str:
    return rf"\fB{_text(text)}\fR"


def _italic(text: str) -> str:
    return rf"\fI{_text(text)}\fR"


def _text(text: str) -> str:
    """A text without anything that roff would take for more than text, in lines of usual length."""
    escaped = (_ESCAPES.get(c, c if c.isascii() else rf"\[u{ord(c):04X}]") for c in text)
    lines = wrap("".join(escaped), 78, break_long_words=False, break_on_hyphens=False)
    return "\n".join(rf"\&{line}" if line.startswith(".") else line for line in lines)
