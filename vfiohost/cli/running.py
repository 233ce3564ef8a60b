"""Run one verb, and make an exit code of whatever comes of it."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from vfiohost.cli.options import Options
from vfiohost.cli.output import Output
from vfiohost.cli.parser import Shown, parse
from vfiohost.cli.session import Session
from vfiohost.cli.verbs import VERBS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def run(argv: Sequence[str] | None = None) -> int:
    """Run a command line; see :func:`vfiohost.cli.main`."""
    words = sys.argv[1:] if argv is None else list(argv)
    session = Session(Options(), Output(json=_wants_json(words)))
    try:
        return _run(words, session)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - each gets its exit code
        return _fail(error, session)
    finally:
        session.close()


def _run(words: Sequence[str], session: Session) -> int:
    options = session.options
    if words[:1] == ["__complete"]:  # a shell asks: see vfiohost.cli.shells
        from vfiohost.cli.completing import complete

        session.output.document(complete(words[1:]))
        return 0
    try:
        parse(words, options)
    except Shown as shown:
        return _show(shown, session)
    session.output.color = options.color
    if options.root is None:
        options.root = os.environ.get("VFIOHOST_ROOT") or None
    session.output.root = session.root
    options.check()
    _verb(options)(session)
    return _finish(session)


def _wants_json(words: Sequence[str]) -> bool:
    """Whether ``--json`` is on the command line; asked before it is known to be well-formed."""
    end = words.index("--") if "--" in words else len(words)
    return "--json" in words[:end]


def _verb(options: Options) -> Callable[[Session], None]:
    """The function of a verb; each group of verbs is imported only when one of it is used."""
    command = options.command or ""
    module = import_module(f"vfiohost.cli.{VERBS[command].module}")
    verb: Callable[[Session], None] = module.VERBS[command]
    return verb


def _show(shown: Shown, session: Session) -> int:
    """Print a help text or the version."""
    session.value = {"command": shown.command, shown.command: shown.text}
    if shown.command == "version":
        session.value["version"] = shown.text.split()[-1]
    session.lines = shown.text.rstrip("\n").split("\n")
    return _finish(session)


def _finish(session: Session) -> int:
    """Print what a verb that did not fail has to say."""
    output, code = session.output, session.exit_code
    if output.json:
        went_out = _value(session, _envelope(session, code) | session.value)
    else:
        _warn(session)
        text = session.document
        went_out = output.lines(session.lines) if text is None else output.document(text)
        output.error(session.notes if session.options.verbose else [])
    return code if went_out or code else 1


def _fail(error: BaseException, session: Session) -> int:
    """Print an error, with the plan and the report that belong to it."""
    from vfiohost.cli.failing import EXIT_CODES, explain, plan_fields, refused_plan_lines
    from vfiohost.render.failures import failure_code, failure_value

    code = failure_code(error)
    exit_code = EXIT_CODES[code]
    output = session.output
    if output.json:
        value = _envelope(session, exit_code) | session.value | plan_fields(error)
        _value(session, value | {"error": failure_value(error)})
    else:
        _warn(session)
        output.lines([*session.lines, *refused_plan_lines(error, session)])
        explain(error, session)
    if code == "internal":
        _show_bug(error, output)
    return exit_code


def _value(session: Session, value: dict[str, Any]) -> bool:
    """Print the last JSON object, in the form of those before it."""
    verb = VERBS.get(session.options.command or "")
    return session.output.value(value, one_line=verb is not None and verb.tells)


def _envelope(session: Session, exit_code: int) -> dict[str, Any]:
    """What every JSON object has."""
    from vfiohost.render.values import problem_values

    return {
        "command": session.options.command,
        "exit_code": exit_code,
        "problems": problem_values(session.problems),
    }


def _warn(session: Session) -> None:
    options = session.options
    if not options.quiet:
        session.output.problems(tuple(session.problems), every=options.verbose)


def _show_bug(error: BaseException, output: Output) -> None:
    """A bug must not hide: print where it is."""
    from traceback import format_exception

    output.notes("".join(format_exception(error)).rstrip("\n").split("\n"))
    output.notes(["vfiohost: this is a bug in vfiohost; please report it with the lines above."])
