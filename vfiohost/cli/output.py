"""What reaches stdout and stderr, and what happens when they do not take it."""

from __future__ import annotations

import os
import re
import sys
from io import TextIOWrapper
from itertools import cycle
from typing import TYPE_CHECKING, Any, TextIO

from vfiohost.render.table import coloured, plain, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from vfiohost.model import Problem
    from vfiohost.render.table import Paint

SCHEMA = "vfiohost/1"
"""What every JSON object says of itself."""

_PROBLEMS_SHOWN = 5

# A command in a sentence that is about the host at hand, as all are but those that make another.
_COMMAND = r"`vfiohost (?!sim\b|[^`]*--help`)"

_COLOUR = r"(\x1b\[[0-9;]*m)"


class Output:
    """The two streams of one command.

    Args:
        json: print one JSON object on stdout, and on stderr nothing but a bug's traceback.
        color: ``auto``, ``always`` or ``never``.

    Attributes:
        is_read: whether nobody who read stdout has gone away, as far as we know.
        root: the root of the host that is spoken of. The commands that sentences advise get it, so
            that a pasted one cannot reach another host.
    """

    def __init__(self, *, json: bool, color: str = "auto") -> None:
        self.json = json
        self.color = color
        self.root = "/"
        self.is_read = True

    def paint_for(self, stream: TextIO | None) -> Paint:
        """How kinds of text look on a stream."""
        if self.color == "auto":
            # https://no-color.org: set and not empty, whatever its value.
            wanted = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
            return coloured if wanted and stream is not None and stream.isatty() else plain
        return coloured if self.color == "always" else plain

    def lines(self, lines: Iterable[str]) -> bool:
        """Print lines on stdout.

        Returns:
            Whether they got there. A reader that went away (``| head``) is no failure.
        """
        return self._write(sys.stdout, self.text(lines))

    def document(self, text: str) -> bool:
        """Write a text that is made for a file to stdout, as it is; else as :meth:`lines`."""
        if isinstance(sys.stdout, TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8", newline="\n")
        return self._write(sys.stdout, text)

    def value(self, value: dict[str, Any], *, one_line: bool = False) -> bool:
        """Print the one JSON object on stdout, or one of several; as for :meth:`lines`."""
        from json import dumps

        from vfiohost.render.json_text import indented

        whole = {"schema": SCHEMA, **value}
        text = f"{dumps(whole) if one_line else indented(whole)}\n"
        return self._write(sys.stdout, self._rooted(text, lambda root: dumps(root)[1:-1]))

    def error(self, lines: Sequence[str]) -> None:
        """Print an error on stderr; each line says who speaks, but for those that are indented."""
        self.notes(line if line.startswith(" ") else f"vfiohost: {line}" for line in lines)

    def notes(self, lines: Iterable[str]) -> None:
        """Print lines on stderr; nobody is there to be told when that fails."""
        self._write(sys.stderr, self.text(lines))

    def problems(self, problems: Sequence[Problem], *, every: bool) -> None:
        """Print the problems of a scan on stderr, a few of them or every one."""
        shown = problems if every else problems[:_PROBLEMS_SHOWN]
        self.notes(f"vfiohost: warning: {problem_text(problem)}" for problem in shown)
        if left := len(problems) - len(shown):
            self.notes([f"vfiohost: warning: and {left} more (-v shows all)"])

    def text(self, lines: Iterable[str]) -> str:
        """Lines as they are printed: harmless, and with the root in the commands they advise."""
        text = "".join(f"{_harmless(line)}\n" for line in lines)
        return self._rooted(text, printable)

    def _rooted(self, text: str, shown: Callable[[str], str]) -> str:
        """The text with the root in every command that it advises, in the form that it shows it."""

        def rooted(found: re.Match[str]) -> str:
            from shlex import quote

            return f"{found[0]}--root {shown(quote(self.root))} "

        return text if self.root == "/" else re.sub(_COMMAND, rooted, text)

    def _write(self, stream: TextIO | None, text: str) -> bool:
        if stream is None or not text:  # None: closed before we were started (`>&-`)
            return True
        try:
            stream.write(text)
            stream.flush()
        except UnicodeEncodeError as error:
            # The terminal cannot show a character of a name: show its number instead.
            safe = text.encode(error.encoding, "backslashreplace").decode(error.encoding)
            return self._write(stream, safe)
        except BrokenPipeError:
            self.is_read = self.is_read and stream is not sys.stdout
            _forget(stream)
        except OSError as error:
            _forget(stream)
            if stream is not sys.stderr:
                self.error([f"Cannot write the output: {error.strerror}."])
                return False
        return True


def _harmless(text: str) -> str:
    """The text without control characters but line ends and the colours that we paint with."""
    if text.isprintable():
        return text
    return "".join(
        part if is_ours else "\n".join(printable(line) for line in part.split("\n"))
        for part, is_ours in zip(re.split(_COLOUR, text), cycle((False, True)), strict=False)
    )


def problem_text(problem: Problem) -> str:
    """A problem as one line that names what it is about."""
    about = "" if problem.subject in problem.sentence else f"{problem.subject}: "
    return printable(f"{about}{problem.sentence}")


def _forget(stream: TextIO) -> None:
    """Send what the stream still holds to nowhere, so that the interpreter's end is quiet."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
    except (OSError, ValueError):
        return  # not a real file; nothing is flushed at the end, then
