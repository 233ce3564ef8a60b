"""The verb that draws a host: ``tree``."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from vfiohost.cli.files import STDOUT, check_file, write_whole
from vfiohost.render.table import printable
from vfiohost.render.tree import LINES, tree_lines, tree_rows, tree_value
from vfiohost.topology import topology

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from vfiohost.cli.session import Session
    from vfiohost.model import Snapshot
    from vfiohost.render.tree import Row


def tree(session: Session) -> None:
    """``vfiohost tree [DEV..] [--svg FILE]``."""
    options = session.options
    if options.svg is not None:
        check_file(options.svg, overwrite=options.overwrite)
    host = session.host
    snapshot = host.with_releasing(session.scan(mdev=True))
    devices = host.select(options.devices, snapshot) if options.devices else snapshot.devices
    snapshot = host.with_details(snapshot, devices)
    chosen = {device.address for device in devices} if options.devices else None
    bridges = topology(snapshot, chosen)
    session.value["kernel"] = snapshot.kernel
    session.value["tree"] = tree_value(bridges, snapshot, session.names)
    rows = tree_rows(bridges, snapshot, session.names)
    if options.svg is not None:
        _write_picture(session, rows, snapshot)
    elif not session.output.json:
        session.lines += tree_lines(
            rows,
            width=_width(),
            ascii_only=not _can_draw(),
            paint=session.output.paint_for(sys.stdout),
        )


VERBS: Mapping[str, Callable[[Session], None]] = {"tree": tree}
"""The verbs of this module."""


def _write_picture(session: Session, rows: Sequence[Row], snapshot: Snapshot) -> None:
    from vfiohost.render.tree_svg import tree_svg

    options, file = session.options, session.options.svg or ""
    count = f"{len(snapshot.devices)} PCI functions"
    kernel = f", Linux {snapshot.kernel}" if snapshot.kernel else ""
    picture = tree_svg(rows, f"{count}{kernel}")
    session.value["svg"] = None if file == STDOUT else file
    if file == STDOUT:
        session.document = picture
        return
    if options.dry_run:
        session.lines.append(f"would write {printable(file)}: {count}")
        return
    write_whole(file, picture, overwrite=options.overwrite)
    if not options.quiet:
        session.lines.append(f"{printable(file)}: {count}")


def _width() -> int | None:
    """How wide the lines may be: ``COLUMNS``, or what the terminal says; ``None``: any width."""
    text = os.environ.get("COLUMNS", "")
    if text.isascii() and text.isdecimal() and 0 < len(text) < 6 and int(text):  # noqa: PLR2004
        return int(text)
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or None
    except (AttributeError, OSError, ValueError):  # closed, no terminal, or no file at all
        return None


def _can_draw() -> bool:
    """Whether what stdout is written in has the lines of a tree."""
    try:
        "".join(LINES).encode(getattr(sys.stdout, "encoding", None) or "ascii")
    except (LookupError, UnicodeEncodeError):
        return False
    return True
