"""The verb that says who uses a device: ``holders``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from vfiohost.errors import NotFoundError, ParseError
from vfiohost.plan.mdev import parse_uuid
from vfiohost.render.usage import usage_table, usage_value

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from vfiohost.cli.session import Session
    from vfiohost.model import Snapshot


def holders(session: Session) -> None:
    """``vfiohost holders DEV..``; a UUID is a mediated device."""
    snapshot = session.scan(mdev=True)
    words = session.options.devices
    uuids = [uuid for word in words if (uuid := _uuid(word, snapshot)) is not None]
    devices = [word for word in words if _uuid(word, snapshot) is None]
    usage = session.host.usage(devices, mdevs=uuids, snapshot=snapshot)
    session.value |= usage_value(usage)
    if session.output.json:
        return
    if usage.uses:
        session.lines += usage_table(usage, session.output.paint_for(sys.stdout))
    elif not session.options.quiet:
        found = "No use was found" if usage.incomplete else "Nobody uses what was asked for"
        session.output.notes([f"vfiohost: {found}."])
    session.output.notes([f"vfiohost: incomplete: {sentence}" for sentence in usage.incomplete])


VERBS: Mapping[str, Callable[[Session], None]] = {"holders": holders}
"""The verbs of this module."""


def _uuid(word: str, snapshot: Snapshot) -> str | None:
    """The mediated device that a word names, or ``None`` when it is no UUID.

    Raises:
        NotFoundError: there is no such mediated device.
    """
    try:
        uuid = parse_uuid(word)
    except ParseError:
        return None
    if uuid not in {device.uuid for device in (snapshot.mdev.devices if snapshot.mdev else ())}:
        raise NotFoundError("mediated device", uuid)
    return uuid
