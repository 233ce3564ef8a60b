"""The verb ``show``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from vfiohost.render.inspection_values import inspection_value
from vfiohost.render.inspections import inspection_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from vfiohost.cli.session import Session


def show(session: Session) -> None:
    """``vfiohost show DEV.. [--wake]``."""
    options = session.options
    snapshot = session.scan()
    found = session.host.show(options.devices, wake=options.wake, snapshot=snapshot)
    session.value["kernel"] = snapshot.kernel
    if session.output.json:
        session.value["devices"] = [inspection_value(each, session.names) for each in found]
        return
    paint = session.output.paint_for(sys.stdout)
    for number, each in enumerate(found):
        session.lines += [""] * bool(number) + inspection_lines(each, session.names, paint)


VERBS: Mapping[str, Callable[[Session], None]] = {"show": show}
"""The verbs of this module."""
