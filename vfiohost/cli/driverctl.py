"""The verbs on what driverctl keeps for the boot."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from vfiohost.cli.booting import carry_out
from vfiohost.cli.declaring import apply_stages, show_stages
from vfiohost.errors import ParseError
from vfiohost.host_stages import driverctl_stages
from vfiohost.render import booting

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from vfiohost.cli.session import Session


def list_saved(session: Session) -> None:
    """``vfiohost driverctl list``: what driverctl keeps, and what the devices have now."""
    found, problems = session.host.driverctl_overrides()
    snapshot = session.scan()
    session.problems |= dict.fromkeys(problems)
    session.value["saved_overrides"] = [booting.saved_value(each, snapshot) for each in found]
    if found:
        paint = session.output.paint_for(sys.stdout)
        session.lines += booting.saved_table(found, snapshot, session.names, paint)
    elif not session.options.quiet and not session.output.json:
        session.output.notes(["vfiohost: driverctl keeps no driver for any device."])


def export(session: Session) -> None:
    """``vfiohost driverctl export [DEV..]``: have driverctl keep what holds now."""
    devices = session.options.devices or None
    carry_out(
        session,
        lambda: session.host.plan_driverctl_export(devices, snapshot=session.scan(mdev=True)),
    )


def take_over(session: Session) -> None:
    """``vfiohost driverctl import [DEV..]``: what driverctl keeps, now or by vfiohost's files."""
    options, host = session.options, session.host
    snapshot = session.scan(mdev=True)
    devices = options.devices or None
    wanted, problems = host.driverctl_wanted(devices, snapshot=snapshot)
    session.problems |= dict.fromkeys(problems)
    if options.boot:
        carry_out(
            session,
            lambda: host.plan_driverctl_import(
                devices, allow=options.allowed, snapshot=session.scan(mdev=True)
            ),
        )
        return
    stages = driverctl_stages(host, wanted, options.allowed)
    if options.dry_run:
        show_stages(session, stages, snapshot)
    else:
        apply_stages(session, stages, "driverctl import")


def remove(session: Session) -> None:
    """``vfiohost driverctl remove DEV..|--all``: have driverctl keep nothing for devices."""
    options = session.options
    if bool(options.devices) == options.all:
        hint = "It needs either DEV or --all; `vfiohost driverctl remove --help` tells more."
        raise ParseError("vfiohost driverctl remove", "a complete command", hint=hint)
    devices = options.devices or None
    carry_out(session, lambda: session.host.plan_driverctl_remove(devices))


VERBS: Mapping[str, Callable[[Session], None]] = {
    "driverctl list": list_saved,
    "driverctl export": export,
    "driverctl import": take_over,
    "driverctl remove": remove,
}
"""The verbs of this module."""
