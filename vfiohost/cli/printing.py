"""The verbs that say what guests can be given, in the words of other tools."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vfiohost.guests.resources import collisions, nameless, resources
from vfiohost.render.table import format_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from vfiohost.cli.session import Session
    from vfiohost.model import Problem


def show_resources(session: Session) -> None:
    """``vfiohost resources``: what NVIDIA's sandbox device plugin would offer."""
    snapshot = session.scan(mdev=True)
    found = resources(snapshot, session.host.names)
    _warn(session, collisions(found))
    _warn(session, nameless(snapshot.mdev.devices if snapshot.mdev else ()))
    session.value["allocatable"] = {r.name: len(r.devices) for r in found}
    session.value["resources"] = [
        {"name": r.name, "kinds": list(r.kinds), "devices": list(r.devices)} for r in found
    ]
    if found:
        session.lines += format_table(
            ("RESOURCE", "COUNT", "DEVICES"),
            [
                ((r.name, "plain"), (str(len(r.devices)), "plain"), (" ".join(r.devices), "plain"))
                for r in found
            ],
            right=("COUNT",),
        )
    elif not session.options.quiet and not session.output.json:
        session.output.notes(["vfiohost: NVIDIA's device plugin would offer nothing here."])


VERBS: Mapping[str, Callable[[Session], None]] = {"resources": show_resources}
"""The verbs of this module."""


def _warn(session: Session, problems: Iterable[Problem]) -> None:
    session.problems.update(dict.fromkeys(problems))
