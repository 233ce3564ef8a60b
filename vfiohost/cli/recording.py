"""The verb that records a host: ``record``."""

from __future__ import annotations

from shlex import quote
from typing import TYPE_CHECKING

from vfiohost.cli.files import STDOUT, check_file, write_whole
from vfiohost.errors import ParseError, UnsupportedError
from vfiohost.record import MASKED_NOTE
from vfiohost.recording import format as format_recording
from vfiohost.recording import format_umockdev
from vfiohost.render.table import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from vfiohost.cli.options import Options
    from vfiohost.cli.session import Session
    from vfiohost.recording import Recording


def record(session: Session) -> None:
    """``vfiohost record FILE``."""
    options = session.options
    file = options.file or ""
    _check(options)
    recording = session.host.record(title=options.title, config=options.with_config)
    text = _text(recording, umockdev=options.umockdev)
    session.value["dry_run"] = options.dry_run
    session.value["recording"] = {
        "file": None if file == STDOUT else file,
        "format": "umockdev" if options.umockdev else "vfiohost",
        "title": recording.title,
        "source": recording.source,
        "kernel": recording.kernel,
        "functions": len(recording.functions),
        "groups": len(recording.groups),
        "modules": len(recording.modules),
        "mdevs": len(recording.mdevs),
        "notes": list(recording.notes),
    }
    _tell_what_is_missing(session, recording)
    if options.dry_run:
        where = "to standard output" if file == STDOUT else file
        session.lines.append(f"would write {where}: {printable(recording.title)}")
    elif file == STDOUT:
        session.document = text
        session.value["recording"]["text"] = text
    else:
        write_whole(file, text, overwrite=options.overwrite)
        if not options.quiet:
            session.lines.append(f"{file}: {printable(recording.title)}")
            session.lines += [] if options.umockdev else [f"vfiohost sim {quote(file)} DIR"]


VERBS: Mapping[str, Callable[[Session], None]] = {"record": record}
"""The verbs of this module."""


def _check(options: Options) -> None:
    """Refuse what cannot come to anything before the host is read.

    Raises:
        ParseError: the title is no line of text, FILE is no name.
        PlanRefused: FILE exists.
    """
    title, file = options.title, options.file
    if title is not None and not (title.strip() and title.isprintable()):
        raise ParseError(title, "one line of text", where="--title")
    check_file(file or "", overwrite=options.overwrite)


def _text(recording: Recording, *, umockdev: bool) -> str:
    try:
        return format_umockdev(recording) if umockdev else format_recording(recording)
    except ValueError as error:
        raise UnsupportedError(f"This host cannot be written down: {error}.") from error


def _tell_what_is_missing(session: Session, recording: Recording) -> None:
    missing = [note for note in recording.notes if note != MASKED_NOTE]
    session.notes += [f"note: {printable(note)}" for note in missing]
    if missing and not (session.options.quiet or session.options.verbose or session.output.json):
        number = "1 thing" if len(missing) == 1 else f"{len(missing)} things"
        session.output.error([f"{number} could not be recorded (-v shows what)."])
