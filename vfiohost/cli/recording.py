"""The verb that records a host: ``record``."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from contextlib import suppress
from shlex import quote
from typing import TYPE_CHECKING

from vfiohost.errors import ParseError, PlanRefused, Refusal, UnsupportedError
from vfiohost.record import MASKED_NOTE
from vfiohost.recording import format as format_recording
from vfiohost.recording import format_umockdev
from vfiohost.render.table import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from vfiohost.cli.options import Options
    from vfiohost.cli.session import Session
    from vfiohost.recording import Recording

_STDOUT = "-"


def record(session: Session) -> None:
    """``vfiohost record FILE``."""
    options = session.options
    file = options.file or ""
    _check(options)
    recording = session.host.record(title=options.title, config=options.with_config)
    text = _text(recording, umockdev=options.umockdev)
    session.value["dry_run"] = options.dry_run
    session.value["recording"] = {
        "file": None if file == _STDOUT else file,
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
        where = "to standard output" if file == _STDOUT else file
        session.lines.append(f"would write {where}: {printable(recording.title)}")
    elif file == _STDOUT:
        session.document = text
        session.value["recording"]["text"] = text
    else:
        _write(file, text, overwrite=options.overwrite)
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
    if not file:
        raise ParseError("", "the name of a file", where="FILE")
    if file != _STDOUT and os.path.lexists(file):
        _check_overwrite(file, overwrite=options.overwrite)


def _check_overwrite(file: str, *, overwrite: bool) -> None:
    """See to it that what exists may be replaced; a directory or a device never is."""
    if not overwrite:
        remedy = "Give another name, or replace it with --overwrite."
        raise PlanRefused([Refusal("file-exists", file, f"{file} exists already.", remedy)])
    with suppress(FileNotFoundError):  # a link that leads nowhere
        if not stat.S_ISREG(os.stat(file).st_mode):
            remedy = f"Give another name, or {_STDOUT} for standard output."
            sentence = f"{file} is no regular file, so it is not replaced."
            raise PlanRefused([Refusal("no-regular-file", file, sentence, remedy)])


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


def _write(file: str, text: str, *, overwrite: bool) -> None:
    """Make a file at once: it is there as a whole, or it is not.

    Raises:
        PlanRefused: it has come into being meanwhile.
        OSError: it cannot be made.
    """
    target = os.path.realpath(file) if overwrite else file  # a link stays one
    draft = os.path.join(os.path.dirname(target), f".vfiohost-record-{secrets.token_hex(8)}")
    try:
        _write_draft(draft, text)
        if overwrite or not _link(draft, target):
            os.replace(draft, target)
    except FileExistsError:
        _check_overwrite(file, overwrite=False)
    except OSError as error:
        raise OSError(error.errno, error.strerror, file) from error
    finally:
        with suppress(OSError):  # it was renamed, or never made
            os.unlink(draft)


def _link(draft: str, target: str) -> bool:
    """Give the draft its name; unlike a rename, this replaces nothing.

    Returns:
        Whether the file system has links: FAT and some network file systems have none.
    """
    try:
        os.link(draft, target)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        return False
    return True


def _write_draft(draft: str, text: str) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with os.fdopen(os.open(draft, flags, 0o666), "w", encoding="utf-8", newline="\n") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
