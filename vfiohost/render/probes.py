"""What probes have found, as text and as JSON values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vfiohost.render.sizes import size_text
from vfiohost.render.table import format_columns, plain, printable

if TYPE_CHECKING:
    from vfiohost.probe.types import Probe, Step
    from vfiohost.render.table import Kind, Paint
    from vfiohost.render.values import Value

_KINDS: dict[str, Kind] = {"ok": "good", "failed": "bad", "pending": "warn"}


def probe_value(probe: Probe) -> Value:
    """A probe as a JSON object."""
    cause = probe.cause
    return {
        "address": str(probe.address),
        "path": probe.path,
        "usable": probe.is_usable,
        "noiommu": probe.is_noiommu,
        "can_reset": probe.can_reset,
        "steps": [{"name": s.name, "outcome": s.outcome, "detail": s.detail} for s in probe.steps],
        "regions": [
            {"name": r.name, "size": r.size, "flags": list(r.flags)} for r in probe.regions
        ],
        "irqs": [{"name": i.name, "count": i.count, "flags": list(i.flags)} for i in probe.irqs],
        "cause": None
        if cause is None
        else {"code": cause.code, "sentence": cause.sentence, "remedy": cause.remedy},
    }


def probe_lines(probe: Probe, paint: Paint = plain, *, steps: bool = False) -> list[str]:
    """A verdict, what the device has, and why it cannot be used if so.

    Args:
        probe: what was found.
        paint: makes colours of kinds.
        steps: every step; otherwise only those of a probe that failed.
    """
    cause = probe.cause
    good = "usable" + (" (without an IOMMU: it can write to all memory)" * probe.is_noiommu)
    said = paint(good, "warn" if probe.is_noiommu else "good")
    if cause is not None:
        said = paint("not usable" if cause.code != "pending" else "no answer", "bad")
    lines = [f"{paint(str(probe.address), 'head')}  {probe.path}  {said}"]
    if steps or cause is not None:
        lines += _step_lines(probe.steps, paint)
    if probe.can_reset is not None:
        lines += _facts(probe)
    if cause is not None:
        lines += [f"  {printable(cause.sentence)} [{cause.code}]", f"    {printable(cause.remedy)}"]
    return lines


def _step_lines(steps: tuple[Step, ...], paint: Paint) -> list[str]:
    width = max((len(step.name) for step in steps), default=0)
    return [
        f"  {paint(f'{step.outcome:<7}', _KINDS[step.outcome])} "
        f"{printable(step.name):<{width}}  {printable(step.detail)}".rstrip()
        for step in steps
    ]


def _facts(probe: Probe) -> list[str]:
    rows = [
        (region.name, size_text(region.size), " ".join(region.flags)) for region in probe.regions
    ] + [(irq.name, str(irq.count), " ".join(irq.flags)) for irq in probe.irqs]
    reset = "yes" if probe.can_reset else "no"
    return [f"  {line}" for line in format_columns([*rows, ("reset", reset)])]
