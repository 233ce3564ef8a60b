"""The verbs on what happens when the host starts: ``boot install``, ``status``, ``remove``."""

from __future__ import annotations

import os
import shutil
import sys
from typing import TYPE_CHECKING

from vfiohost.boot import run_command
from vfiohost.cli.carrying import EXIT_CHANGES
from vfiohost.cli.examining import FOUND_BAD
from vfiohost.errors import ParseError, UnsupportedError
from vfiohost.host_stages import Declared, read_host_file
from vfiohost.render import booting

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from vfiohost.boot import BootPlan
    from vfiohost.cli.session import Session


def install(session: Session) -> None:
    """``vfiohost boot install [DEV..]``."""
    options = session.options
    if options.from_host_file and (options.devices or options.driver or options.whole_group):
        hint = "The host file says which devices, and their drivers."
        raise ParseError("--host-file", "given without DEV, --driver and --group", hint=hint)

    def plan() -> BootPlan:
        if options.from_host_file:
            declared = Declared(session.host, read_host_file(session.host), options.allowed)
            return declared.plan_boot(session.scan(mdev=True), _program(session))
        return session.host.plan_boot(
            options.devices or None,
            driver=options.driver,
            group=options.whole_group,
            early={"yes": True, "no": False}.get(options.early),
            allow=options.allowed,
            snapshot=session.scan(mdev=True),
        )

    carry_out(session, plan)


def remove(session: Session) -> None:
    """``vfiohost boot remove [DEV..]``."""
    devices = session.options.devices or None
    carry_out(session, lambda: session.host.plan_boot_remove(devices))


def status(session: Session) -> None:
    """``vfiohost boot status``."""
    found = session.host.boot_status(snapshot=session.scan())
    session.value |= {"boot_status": booting.status_value(found)}
    session.lines += booting.status_lines(found, session.output.paint_for(sys.stdout))
    if found.is_bad:
        session.exit_code = FOUND_BAD
    elif found.has_drifted:
        session.exit_code = EXIT_CHANGES


VERBS: Mapping[str, Callable[[Session], None]] = {
    "boot install": install,
    "boot status": status,
    "boot remove": remove,
}
"""The verbs of this module."""


def _program(session: Session) -> str:
    """Where vfiohost is on the host: on this one, the program that runs now."""
    here = shutil.which(sys.argv[0]) if session.root == "/" else None
    return os.path.abspath(here) if here else "/usr/bin/vfiohost"


def carry_out(session: Session, planner: Callable[[], BootPlan]) -> None:
    """Show the files of a plan, or write them, and have the initramfs made anew or say how.

    Args:
        session: the verb.
        planner: makes the plan; it is made under the lock.
    """
    options, host = session.options, session.host
    if options.update_initramfs and session.root != "/":
        raise UnsupportedError(
            f"{session.root} is not this machine: its initramfs has to be made where it runs. "
            "Leave out --update-initramfs."
        )
    if options.dry_run:
        plan = planner()
        session.value |= {"dry_run": True, "boot": booting.plan_value(plan)}
        session.lines += booting.dry_run_lines(plan, session.root)
        if options.exit_code and not plan.is_empty:
            session.exit_code = EXIT_CHANGES
        return
    with session.writing():
        purpose = str(options.command)
        session.waits.begin_lock()
        try:
            with host.locked(purpose, wait=options.seconds, give_up=session.gives_up_lock):
                session.waits.clear()
                plan = planner()
                host.change_boot(plan)
        finally:
            session.waits.clear()
    session.value |= {"dry_run": False, "boot": booting.plan_value(plan)}
    made = _make_initramfs(session, plan) if options.update_initramfs else ()
    session.value["boot"] = booting.plan_value(plan, made)
    if not options.quiet:
        session.lines += booting.done_lines(plan, session.root, made=made)


def _make_initramfs(session: Session, plan: BootPlan) -> tuple[tuple[str, ...], ...]:
    """Make the initramfs anew if it is not as the files are, also where these have not changed.

    Returns:
        The commands that have done it.
    """
    commands = plan.commands
    if not commands:
        found = session.host.boot_status().initramfs
        commands = found.commands if found is not None and found.is_stale else ()
    for command in commands:
        run_command(command)
    return commands
