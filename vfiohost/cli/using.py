"""The verbs that use a device itself: ``probe`` as a guest would, and ``reset``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from vfiohost.cli.carrying import carry_out, each_on_its_own, plan_or_pending, show
from vfiohost.errors import ParseError
from vfiohost.plan.mdev import parse_uuid
from vfiohost.render.probes import probe_lines, probe_value

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from vfiohost.cli.session import Session
    from vfiohost.plan.types import Plan
    from vfiohost.probe.types import ProbePath

EXIT_BAD = 11
"""Checked, and found bad."""

_EXIT_PENDING = 6
_PATHS: Mapping[str, ProbePath | None] = {"auto": None, "group": "group", "cdev": "cdev"}


def probe(session: Session) -> None:
    """``vfiohost probe DEV.. [--path P] [--reset]``."""
    options = session.options
    paint = session.output.paint_for(sys.stdout)
    session.value["probes"] = values = []
    token = _token(options.vf_token)
    devices = session.host.select(options.devices, session.scan())
    session.value["dry_run"] = options.dry_run
    if options.dry_run:
        session.lines += [f"would probe {device.address}" for device in devices]
        return
    for one in session.host.probe(
        devices,
        path=_PATHS[options.path],
        reset=options.reset,
        vf_token=token,
        timeout=options.seconds,
    ):
        values.append(probe_value(one))
        if not options.quiet or not one.is_usable:
            session.lines += probe_lines(one, paint, steps=options.verbose)
        if one.cause is not None:
            code = _EXIT_PENDING if one.cause.code == "pending" else EXIT_BAD
            # Something that is still going on matters more than something that is bad.
            session.exit_code = min(session.exit_code or code, code)


def reset(session: Session) -> None:
    """``vfiohost reset DEV.. [--method M]``."""
    devices = session.host.select(session.options.devices, session.scan(mdev=True))
    named = [str(device.address) for device in devices]
    if session.options.keep_going:
        each_on_its_own(session, named, lambda name: _reset(session, [name]))
    else:
        session.value |= _reset(session, named)


def _reset(session: Session, names: Sequence[str]) -> dict[str, Any]:
    options = session.options

    def planner() -> Plan:
        return session.host.plan_reset(names, method=options.method, allow=options.allowed)

    plan = plan_or_pending(session, planner)
    if options.dry_run:
        return show(session, plan)
    _, fields = carry_out(session, plan, again=planner)
    if not options.quiet:
        by = f" by {options.method}" if options.method else ""
        session.lines += [f"{name}  reset{by}" for name in names]
    return fields


VERBS: Mapping[str, Callable[[Session], None]] = {"probe": probe, "reset": reset}
"""The verbs of this module."""


def _token(text: str | None) -> str | None:
    """The token of a PF. It stands in a line for the driver, so that only a UUID may get there.

    Raises:
        ParseError: it is no UUID.
    """
    if text is None:
        return None
    try:
        return parse_uuid(text)
    except ParseError as error:
        raise ParseError(text, error.expected, where="--vf-token", hint=error.hint) from error
