"""The verbs on vGPUs, whichever way a GPU makes them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from vfiohost.cli.carrying import carry_out, each_on_its_own, plan_or_pending, show
from vfiohost.cli.mediated import parse_count
from vfiohost.errors import ParseError
from vfiohost.model import Problem
from vfiohost.render import vgpus as render

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from vfiohost.cli.session import Session
    from vfiohost.plan.types import Plan
    from vfiohost.render.table import Paint
    from vfiohost.vgpus import VgpuGpu

    Table = Callable[[Iterable[VgpuGpu], Paint], list[str]]


def show_types(session: Session) -> None:
    """``vfiohost vgpu types [GPU..]``."""
    _show(session, render.type_table)


def show_capacity(session: Session) -> None:
    """``vfiohost vgpu capacity [GPU..]``."""
    gpus = _show(session, render.capacity_table)
    if not session.output.json and not session.options.quiet:
        session.output.notes([f"note: {sentence}" for sentence in render.doubts(gpus)])


def list_vgpus(session: Session) -> None:
    """``vfiohost vgpu list [GPU..]``."""
    gpus = [gpu for gpu in _gpus(session) if gpu.vgpus]
    nodes = session.host.vfio_nodes() if gpus else {}
    session.value["vgpus"] = [
        render.vgpu_value(gpu, vgpu, nodes) for gpu in gpus for vgpu in gpu.vgpus
    ]
    if gpus:
        session.lines += render.vgpu_table(gpus, session.output.paint_for(sys.stdout))
    else:
        _nothing(session, "There is no vGPU.")


def create(session: Session) -> None:
    """``vfiohost vgpu create -g GPU -t TYPE``."""
    options = session.options
    uuids = () if options.uuid is None else (options.uuid,)
    count = None if options.count is None else parse_count(options.count)
    if uuids and count not in (None, 1):
        raise ParseError(str(count), "a count that goes with one UUID", where="-n")

    def planner() -> Plan:
        return session.host.plan_vgpu_create(
            options.gpu or "",
            options.type or "",
            count=count,
            uuids=uuids,
            snapshot=session.scan(mdev=True),
        )

    plan = plan_or_pending(session, planner)
    if options.dry_run:
        session.value |= show(session, plan)
        return
    plan, fields = carry_out(session, plan, again=planner)
    session.value |= fields
    gpus = session.host.vgpu_gpus(snapshot=session.scan(mdev=True))
    nodes = session.host.vfio_nodes()
    found = {vgpu.name: (gpu, vgpu) for gpu in gpus for vgpu in gpu.vgpus}
    created = [name for name in plan.subjects if name in found]
    session.value["vgpus"] = [render.vgpu_value(*found[name], nodes) for name in created]
    # Even a quiet run gives the names: nobody else knows them.
    session.lines += created if options.quiet else render.created_lines(gpus, created)


def remove(session: Session) -> None:
    """``vfiohost vgpu remove UUID|VF..``."""
    words = dict.fromkeys(session.options.vgpus)
    if session.options.keep_going:
        each_on_its_own(session, words, lambda word: _remove(session, [word]))
    else:
        session.value |= _remove(session, words)


def _remove(session: Session, words: Iterable[str]) -> dict[str, Any]:
    """Remove some vGPUs together, or show how."""

    def planner() -> Plan:
        return session.host.plan_vgpu_remove(
            words, allow=session.options.allowed, snapshot=session.scan(mdev=True)
        )

    plan = plan_or_pending(session, planner)
    if session.options.dry_run:
        return show(session, plan)
    plan, fields = carry_out(session, plan, again=planner)
    if not session.options.quiet:
        session.lines += [f"{subject}  removed" for subject in plan.subjects]
    return fields


VERBS: Mapping[str, Callable[[Session], None]] = {
    "vgpu types": show_types,
    "vgpu list": list_vgpus,
    "vgpu capacity": show_capacity,
    "vgpu create": create,
    "vgpu remove": remove,
}
"""The verbs of this module."""


def _show(session: Session, table: Table) -> list[VgpuGpu]:
    gpus = _gpus(session)
    session.value["gpus"] = [render.gpu_value(gpu) for gpu in gpus]
    if gpus:
        session.lines += table(gpus, session.output.paint_for(sys.stdout))
    else:
        _nothing(session, "No GPU of this host makes vGPUs as it is now.")
    return gpus


def _gpus(session: Session) -> list[VgpuGpu]:
    """The GPUs that were named, else all; of those that make none is said why."""
    wanted = session.options.devices or None
    gpus = session.host.vgpu_gpus(wanted, snapshot=session.scan(mdev=True))
    for gpu in gpus:
        # GPUs that nobody named, and that are meant for something else, are no problem.
        if gpu.backend is None and (wanted or gpu.is_waiting):
            problem = Problem(str(gpu.address), None, f"{gpu.why_not} {gpu.remedy}")
            session.problems[problem] = None
    return [gpu for gpu in gpus if gpu.backend is not None]


def _nothing(session: Session, sentence: str) -> None:
    if not session.output.json and not session.options.quiet:
        session.output.notes([f"vfiohost: {sentence}"])
