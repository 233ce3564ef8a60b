"""The verbs on the host file: ``plan``, ``apply``, ``diff``."""

from __future__ import annotations

import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from vfiohost.cli.carrying import EXIT_CHANGES
from vfiohost.cli.files import STDOUT, check_file, write_whole
from vfiohost.cli.options import seconds_of
from vfiohost.errors import ApplyError, NotFoundError, PlanRefused
from vfiohost.host_file.modes import MODES, gpus_and_switches, mode_file
from vfiohost.host_file.reading import MOST_BYTES, parse
from vfiohost.host_file.updating import update
from vfiohost.host_file.writing import write
from vfiohost.host_stages import Declared, export_tables, read_host_file
from vfiohost.identities import find_named
from vfiohost.plan.types import Report
from vfiohost.plan.words import counted
from vfiohost.render.differences import difference_lines, difference_value
from vfiohost.render.plans import incomplete_lines, plan_lines, step_line
from vfiohost.render.values import report_value

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence, Sized

    from vfiohost.cli.session import Session
    from vfiohost.errors import Refusal
    from vfiohost.host_file.types import HostFile
    from vfiohost.host_stages import Stage
    from vfiohost.model import Snapshot
    from vfiohost.plan.types import Plan, StepResult


_TICK = 0.25  # seconds between two looks for devices that are not there yet
# What drivers, virtual functions and vGPUs that come or go in an earlier stage can change.
_MAY_PASS = frozenset(
    {
        "group-not-viable",
        "mdevs-exist",
        "no-instances",
        "no-pf-driver",
        "no-room",
        "no-vgpus",
        "not-there",
        "pf-for-guests",
        "pf-with-vfs",
        "room-unknown",
        "uuid-exists",
    }
)
_NEVER_MADE = ("user", "group", "mdev type")  # a parent has its types from the start


def mode(session: Session) -> None:
    """``vfiohost mode MODE [DEV..]``: make devices ready for a kind of work."""
    options, snapshot = session.options, session.scan(mdev=True)
    if options.devices:
        chosen = session.host.select(options.devices, snapshot)
    else:
        chosen = gpus_and_switches(snapshot, nvswitch=options.nvswitch)
        if not chosen:
            sentence = "This host has no GPU of NVIDIA's: name the devices that are meant."
            raise NotFoundError("GPU", "nvidia", sentence=sentence)
    kind = next(each for each in MODES if each == options.workload)
    file = mode_file(kind, chosen, snapshot)
    _apply(session, Declared(session.host, file, options.allowed))


def diff(session: Session) -> None:
    """``vfiohost diff``: in what the host differs from its host file."""
    found = _declared(session).differences(session.scan(mdev=True))
    session.value["differences"] = [difference_value(each) for each in found]
    session.exit_code = EXIT_CHANGES if found else 0
    if not session.options.quiet:
        session.lines += difference_lines(found, session.output.paint_for(sys.stdout))


def plan(session: Session) -> None:
    """``vfiohost plan``: every write that ``apply`` would do."""
    _plan(session, _declared(session))


def apply(session: Session) -> None:
    """``vfiohost apply``: make the host what its file says."""
    declared = _declared(session)
    _await(session, declared)
    _apply(session, declared)


def _await(session: Session, declared: Declared) -> None:
    """Wait until the devices and parents of the file are there, at most ``--wait`` seconds."""
    options = session.options
    if options.wait is None:
        return
    end = time.monotonic() + seconds_of(options.wait, "--wait")
    while time.monotonic() < end:
        try:
            declared.stages(session.scan(mdev=True))
        except PlanRefused:
            time.sleep(_TICK)
        else:
            return


def _plan(session: Session, declared: Declared) -> None:
    snapshot = session.scan(mdev=True)
    show_stages(session, declared.stages(snapshot), snapshot)


def show_stages(session: Session, stages: Sequence[Stage], snapshot: Snapshot) -> None:
    """Show plans that build on each other, and write nothing.

    Args:
        session: the verb.
        stages: the plans, in order.
        snapshot: the host as it is, with its mediated devices.
    """
    session.value |= {"dry_run": True, "stages": []}
    is_changed = False
    for stage in stages:
        made = _preview(stage, snapshot, is_changed=is_changed)
        if made is None:
            session.lines.append(f"then {stage.title}, planned when the above is done")
        elif not made.is_empty:
            session.lines += plan_lines(made, session.root, session.output.paint_for(sys.stdout))
        else:
            session.lines += [f"note: {note}" for note in made.notes]
        is_changed |= made is None or not made.is_empty
        value = {"title": stage.title, "plan": None if made is None else made.to_json()}
        session.value["stages"].append(value)
    if not is_changed:
        session.lines.append("nothing to do: the host is so already")
    elif session.options.exit_code:
        session.exit_code = EXIT_CHANGES


def _preview(stage: Stage, snapshot: Snapshot, *, is_changed: bool) -> Plan | None:
    """The plan of a stage; ``None`` when it cannot be made before those before it are done."""
    try:
        return stage(snapshot)
    except PlanRefused as error:
        for_good = [each for each in error.refusals if not (is_changed and _may_pass(each))]
        if for_good:
            raise PlanRefused(for_good, error.plan) from error
    except NotFoundError as error:
        if not is_changed or error.kind in _NEVER_MADE:
            raise
    return None


def _may_pass(refusal: Refusal) -> bool:
    """Whether a plan that is carried out before may take the reason of a refusal away."""
    return refusal.code in _MAY_PASS or (refusal.code == "in-use" and refusal.kind == "vgpu")


def _apply(session: Session, declared: Declared) -> None:
    if session.options.dry_run:
        _plan(session, declared)
        return
    apply_stages(session, declared.stages(session.scan(mdev=True)), "apply")


def apply_stages(session: Session, stages: Sequence[Stage], purpose: str) -> None:
    """Carry out plans that build on each other, all or none, and say what was done.

    Args:
        session: the verb.
        stages: the plans, in order.
        purpose: what for; others who want the lock are told.
    """
    options, output, host = session.options, session.output, session.host
    said = options.verbose and not output.json

    def progress(result: StepResult) -> None:
        session.waits.clear()
        if said:
            line = f"{result.outcome:<8} {step_line(result.step, session.root)}"
            session.aside.say(output.text([line]))

    session.value |= {"dry_run": False, "stages": []}
    with session.writing() as is_cancelled:
        session.waits.begin_lock()
        try:
            reports = host.apply_stages(
                stages,
                purpose,
                timeout=options.seconds,
                wait=options.seconds,
                cancel=is_cancelled,
                progress=progress,
                watch=session.waits.begin,
            )
        except ApplyError as error:
            # What was not known is likely to be why.
            if isinstance(error.report, Report) and not (options.quiet or output.json):
                lines = incomplete_lines(error.report.plan)
                session.aside.say(output.text([f"vfiohost: {line}" for line in lines]))
            raise
        finally:
            session.waits.clear()
    for stage, report in zip(stages, reports, strict=True):
        session.value["stages"].append({"title": stage.title, **_fields(report)})
        if not report.plan.is_empty and not options.quiet:
            session.lines.append(f"done: {_named(report.plan)} (journal {report.journal_id})")
            session.notes += [f"note: {note}" for note in report.plan.notes]
            session.notes += incomplete_lines(report.plan)
    if not any(report.writes for report in reports) and not options.quiet:
        session.lines += [f"note: {note}" for report in reports for note in report.plan.notes]
        session.lines.append("nothing to do: the host is so already")


def _fields(report: Report) -> dict[str, Any]:
    return {"plan": report.plan.to_json(), "report": report_value(report)}


def _named(made: Plan) -> str:
    return " ".join((made.verb, *made.subjects))


def _declared(session: Session) -> Declared:
    """The host file that is meant, on the host."""
    options = session.options
    given = options.host_file
    file = read_host_file(session.host) if given is None else _given(given)
    return Declared(session.host, file, options.allowed)


def _given(name: str) -> HostFile:
    """A host file that the user names: not below the root; ``-`` for standard input."""
    if name == "-":
        return parse(sys.stdin.read(MOST_BYTES + 1), "standard input")
    with open(name, encoding="utf-8", errors="surrogateescape") as stream:
        return parse(stream.read(MOST_BYTES + 1), name)


def export(session: Session) -> None:
    """``vfiohost export [FILE]``: a host file for the host as it is."""
    options = session.options
    file = options.file or STDOUT
    snapshot = session.scan(mdev=True)
    snapshot = session.host.with_details(snapshot, snapshot.devices)
    if options.update:
        with open(file, encoding="utf-8", errors="surrogateescape", newline="") as stream:
            before = stream.read(MOST_BYTES + 1)
        uuids = {table.uuid for table in parse(before, file).mdevs}
        devices, mdevs = export_tables(snapshot, uuids)
        lookup = partial(find_named, session.host.sysfs, snapshot)
        text = update(before, file, snapshot, devices, mdevs, lookup=lookup)
    else:
        check_file(file, overwrite=options.overwrite)
        devices, mdevs = export_tables(snapshot)
        text = write(devices.values(), mdevs)
    said = {"file": None if file == STDOUT else file, "devices": len(devices), "mdevs": len(mdevs)}
    session.value |= {"dry_run": options.dry_run, "host_file": said}
    if file == STDOUT:
        session.document = text
        said["text"] = text
    elif options.dry_run:
        _preview_file(session, file, text, f"would write {file}: {_counts(devices, mdevs)}")
    else:
        write_whole(file, text, overwrite=options.overwrite or options.update)
        session.lines += [] if options.quiet else [f"{file}: {_counts(devices, mdevs)}"]


def _preview_file(session: Session, file: str, text: str, line: str) -> None:
    """Say whether a file would get another text, and write nothing."""
    try:
        with open(file, encoding="utf-8", errors="surrogateescape", newline="") as stream:
            is_so = stream.read(len(text) + 1) == text
    except FileNotFoundError:
        is_so = False
    session.lines.append(f"nothing to do: {file} says so already" if is_so else line)
    if session.options.exit_code and not is_so:
        session.exit_code = EXIT_CHANGES


def _counts(devices: Sized, mdevs: Sized) -> str:
    return f"{counted(len(devices), 'device')}, {counted(len(mdevs), 'mediated device')}"


VERBS: Mapping[str, Callable[[Session], None]] = {
    "mode": mode,
    "plan": plan,
    "apply": apply,
    "diff": diff,
    "export": export,
}
"""The verbs of this module."""
