"""The verb that makes a simulated host: ``sim``."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from vfiohost import testing
from vfiohost.render.table import format_columns, printable
from vfiohost.testing import fixtures

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from vfiohost.cli.session import Session


def simulate(session: Session) -> None:
    """``vfiohost sim HOST DIR``, ``vfiohost sim --list``."""
    options = session.options
    if options.list:
        titles = fixtures.names()
        session.value["hosts"] = [{"name": n, "title": t} for n, t in titles.items()]
        session.lines += format_columns(list(titles.items()))
        return
    host, directory = options.words
    recording = fixtures.load(host)
    session.value["dry_run"] = options.dry_run
    session.value["simulation"] = {
        "host": host,
        "root": directory,
        "title": recording.title,
        "source": recording.source,
        "kernel": recording.kernel,
        "functions": len(recording.functions),
    }
    if options.dry_run:
        session.lines.append(f"would make {directory}: {printable(recording.title)}")
        return
    testing.create(recording, Path(directory))
    if not options.quiet:
        session.lines += [
            f"{directory}: {printable(recording.title)}",
            f"vfiohost --root {quote(directory)} list",
        ]


VERBS: Mapping[str, Callable[[Session], None]] = {"sim": simulate}
"""The verbs of this module."""
