"""The verbs that change drivers, and those that take changes back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vfiohost.cli.carrying import (
    EXIT_CHANGES,
    carry_out,
    each_on_its_own,
    plan_or_pending,
    show,
)
from vfiohost.cli.failing import EXIT_CODES
from vfiohost.render import listing, values
from vfiohost.render.failures import refusal_value
from vfiohost.render.plans import touched_addresses

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from vfiohost.apply import Recovery
    from vfiohost.cli.session import Session
    from vfiohost.model import PciDevice, Snapshot
    from vfiohost.plan.types import Plan

    Planner = Callable[[Snapshot, Sequence[PciDevice]], Plan]


def bind(session: Session) -> None:
    """``vfiohost bind DEV.. [--driver D]``."""
    options = session.options

    def plan(snapshot: Snapshot, devices: Sequence[PciDevice]) -> Plan:
        return session.host.plan_bind(
            devices,
            "vfio-pci" if options.driver is None else options.driver,
            group=options.whole_group,
            load=not options.no_load,
            once=options.once,
            owner=options.owner,
            mode=options.mode,
            allow=options.allowed,
            snapshot=snapshot,
        )

    _change_devices(session, plan)


def unbind(session: Session) -> None:
    """``vfiohost unbind DEV..``."""
    options = session.options
    _change_devices(
        session,
        lambda snapshot, devices: session.host.plan_unbind(
            devices, allow=options.allowed, snapshot=snapshot
        ),
    )


def restore(session: Session) -> None:
    """``vfiohost restore DEV..|--all``."""
    options = session.options
    _change_devices(
        session,
        lambda snapshot, devices: session.host.plan_restore(
            devices, allow=options.allowed, snapshot=snapshot
        ),
    )


def undo(session: Session) -> None:
    """``vfiohost undo [ID]``."""
    entry = session.host.last_done(session.options.journal_id)
    session.value["journal_id"] = entry.id

    def plan_again() -> Plan:
        return session.host.plan_undo(entry, allow=session.options.allowed)

    plan = plan_or_pending(session, plan_again)
    if session.options.dry_run:
        session.value |= show(session, plan)
        return
    session.value |= carry_out(session, plan, again=plan_again, undoes=entry.id)[1]
    if not session.options.quiet:
        what = " ".join((entry.plan.verb, *entry.plan.subjects))
        session.lines.append(f"undone: {what} (journal {entry.id})")


def recover(session: Session) -> None:
    """``vfiohost recover``: what became of each plan that was cut off."""
    options = session.options
    session.value["dry_run"] = options.dry_run
    if options.dry_run:
        found = session.host.recover(
            allow=options.allowed,
            keep=options.keep,
            dry_run=True,
            timeout=options.seconds,
            wait=options.seconds,
            give_up=session.gives_up_lock,
        )
        _show_recoveries(session, found, "would be ")
        would = options.exit_code and any(each.outcome in _CHANGES for each in found)
        session.exit_code = max(map(_recovery_code, found), default=0)
        if would and not session.exit_code:
            session.exit_code = EXIT_CHANGES
        return
    with session.writing():
        session.waits.begin_lock()
        try:
            recoveries = session.host.recover(
                allow=options.allowed,
                keep=options.keep,
                timeout=options.seconds,
                wait=options.seconds,
                give_up=session.gives_up_lock,
                watch=session.waits.begin,
            )
        finally:
            session.waits.clear()
    _show_recoveries(session, recoveries)
    session.exit_code = max(map(_recovery_code, recoveries), default=0)
    if options.quiet and not session.exit_code:
        session.lines.clear()


def _show_recoveries(session: Session, recoveries: Sequence[Recovery], would: str = "") -> None:
    session.value["recoveries"] = [_recovery_value(r) for r in recoveries]
    for recovery in recoveries:
        # The commands stand in the sentence too; here each gets a line, ready to be pasted.
        said = recovery.sentence.removesuffix("; ".join(recovery.commands)).rstrip()
        changes = would if recovery.outcome in ("kept", "recovered") else ""
        session.lines.append(f"{changes}{recovery.outcome}: {said}")
        session.lines += [f"  {c}" for c in recovery.commands]
    session.lines += [] if recoveries else ["nothing to recover"]


VERBS: Mapping[str, Callable[[Session], None]] = {
    "bind": bind,
    "unbind": unbind,
    "restore": restore,
    "undo": undo,
    "recover": recover,
}
"""The verbs of this module."""

_CHANGES = ("recovered", "kept", "other-boot")
"""The outcomes that a dry run tells of, and that change the host or close a journal."""

_RECOVERY_CODES = {
    "recovered": 0,
    "kept": 0,
    "other-boot": 0,
    "in-use": EXIT_CODES["refused"],
    "damaged": EXIT_CODES["failed"],
    "pending": EXIT_CODES["pending"],
    "half-way": EXIT_CODES["rollback-incomplete"],
}


def _recovery_code(recovery: Recovery) -> int:
    code = _RECOVERY_CODES[recovery.outcome]
    return EXIT_CODES["failed"] if recovery.journal_error is not None and not code else code


def _recovery_value(recovery: Recovery) -> dict[str, Any]:
    report = recovery.report
    return {
        "journal_id": recovery.journal_id,
        "outcome": recovery.outcome,
        "sentence": recovery.sentence,
        "plan": None if report is None else report.plan.to_json(),
        "report": None if report is None else values.report_value(report),
        "commands": list(recovery.commands),
        "pid": recovery.pid,
        "refusals": [refusal_value(refusal) for refusal in recovery.refusals],
    }


def _change_devices(session: Session, planner: Planner) -> None:
    """Change the drivers of the devices on the command line, together or each on its own."""
    options, host = session.options, session.host
    snapshot = session.scan(mdev=True)
    devices = host.changed(snapshot) if options.all else host.select(options.devices, snapshot)
    if options.keep_going:
        named = {str(device.address): device for device in devices}
        each_on_its_own(
            session,
            named,
            lambda name: _change(session, planner, session.scan(mdev=True), (named[name],)),
        )
    elif devices:
        session.value |= _change(session, planner, snapshot, devices)
    if not devices and not options.quiet:
        session.lines.append("nothing to restore: vfiohost has changed no device")


def _change(
    session: Session, planner: Planner, snapshot: Snapshot, devices: Sequence[PciDevice]
) -> dict[str, Any]:
    """Plan for some devices together, then show the plan, or carry it out and report."""
    plan = plan_or_pending(session, lambda: planner(snapshot, devices))
    if session.options.dry_run:
        return show(session, plan)
    plan, fields = carry_out(session, plan, again=lambda: planner(session.scan(mdev=True), devices))
    after = snapshot if plan.is_empty else session.scan()
    now = [d for d in after.devices if str(d.address) in plan.subjects]
    now.sort(key=lambda d: plan.subjects.index(str(d.address)))
    nodes = session.host.vfio_nodes()
    if session.output.json:
        fields["devices"] = [
            values.bound_value(d, snapshot, after, session.names, nodes) for d in now
        ]
    elif not session.options.quiet:
        touched = touched_addresses(plan)
        session.lines += listing.bound_lines(now, snapshot, touched, nodes)
    return fields
