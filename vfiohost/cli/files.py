"""Files that a verb makes: whole or not at all, and nothing is replaced unasked."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress

from vfiohost.errors import ParseError, PlanRefused, Refusal

STDOUT = "-"
"""The name that stands for standard output."""


def check_file(file: str, *, overwrite: bool) -> None:
    """See to it that a file may be made, before the work for it is done.

    Raises:
        ParseError: the name is empty.
        PlanRefused: it exists and may not be replaced; a directory or a device never may.
    """
    if not file:
        raise ParseError("", "the name of a file", where="FILE")
    if file != STDOUT and os.path.lexists(file):
        _check_overwrite(file, overwrite=overwrite)


def write_whole(file: str, text: str, *, overwrite: bool) -> None:
    """Make a file at once: it is there as a whole, or it is not.

    Raises:
        PlanRefused: it has come into being meanwhile.
        OSError: it cannot be made.
    """
    target = os.path.realpath(file) if overwrite else file  # a link stays one
    draft = os.path.join(os.path.dirname(target), f".vfiohost-{os.urandom(8).hex()}")
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


def _check_overwrite(file: str, *, overwrite: bool) -> None:
    """See to it that what exists may be replaced."""
    if not overwrite:
        remedy = "Give another name, or replace it with --overwrite."
        raise PlanRefused([Refusal("file-exists", file, f"{file} exists already.", remedy)])
    with suppress(FileNotFoundError):  # a link that leads nowhere
        if not stat.S_ISREG(os.stat(file).st_mode):
            remedy = f"Give another name, or {STDOUT} for standard output."
            sentence = f"{file} is no regular file, so it is not replaced."
            raise PlanRefused([Refusal("no-regular-file", file, sentence, remedy)])
