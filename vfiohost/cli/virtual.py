"""The verbs that list, make and remove virtual functions."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Literal

from vfiohost.cli.carrying import carry_out, each_on_its_own, plan_or_pending, show
from vfiohost.errors import ParseError
from vfiohost.render.functions import functions_lines, functions_value

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from vfiohost.cli.session import Session
    from vfiohost.model import PciDevice, Snapshot
    from vfiohost.plan.types import Plan

_MOST = 65535  # what a 16-bit register holds


def list_functions(session: Session) -> None:
    """``vfiohost vf list [PF..]``."""
    options, snapshot = session.options, session.scan()
    if options.devices:
        chosen = session.host.select(options.devices, snapshot)
    else:
        chosen = tuple(device for device in snapshot.devices if device.total_vfs)
    _print(session, chosen, snapshot)


def set_functions(session: Session) -> None:
    """``vfiohost vf set PF N [--driver D]``."""
    _change(session, [session.options.physfn or ""], _number(session.options.number or ""))


def clear(session: Session) -> None:
    """``vfiohost vf clear PF..``."""
    _change(session, session.options.devices, 0)


VERBS: Mapping[str, Callable[[Session], None]] = {
    "vf list": list_functions,
    "vf set": set_functions,
    "vf clear": clear,
}
"""The verbs of this module."""


def _number(text: str) -> int | Literal["all"]:
    if text == "all":
        return "all"
    digits = text.lstrip("0") or "0"
    if text.isascii() and text.isdecimal() and len(digits) <= len(str(_MOST)):
        number = int(digits)
        if number <= _MOST:
            return number
    raise ParseError(text, f"a number of virtual functions from 0 to {_MOST}, or all", where="N")


def _change(session: Session, devices: Sequence[str], count: int | Literal["all"]) -> None:
    """Change the number for all devices together, or for each on its own."""
    chosen = session.host.select(devices, session.scan())
    if not session.options.keep_going:
        session.value |= _change_some(session, chosen, count)
        return
    named = {str(device.address): device for device in chosen}
    each_on_its_own(session, named, lambda name: _change_some(session, (named[name],), count))


def _change_some(
    session: Session, devices: Sequence[PciDevice], count: int | Literal["all"]
) -> dict[str, Any]:
    options = session.options

    def planner() -> Plan:
        return session.host.plan_vfs(
            devices,
            count,
            driver=options.driver,
            recreate=options.recreate,
            load=not options.no_load,
            allow=options.allowed,
            snapshot=session.scan(mdev=True),
        )

    plan = plan_or_pending(session, planner)
    if options.dry_run:
        return show(session, plan)
    _, fields = carry_out(session, plan, again=planner)
    after = session.scan()
    now = [after.pci[device.address] for device in devices if device.address in after.pci]
    fields["physical_functions"] = functions_value(now, after)
    if not options.quiet:
        session.lines += functions_lines(now, after)
    return fields


def _print(session: Session, chosen: Sequence[PciDevice], snapshot: Snapshot) -> None:
    session.value["physical_functions"] = functions_value(chosen, snapshot)
    session.lines += functions_lines(
        chosen,
        snapshot,
        every=session.options.verbose,
        paint=session.output.paint_for(sys.stdout),
    )
