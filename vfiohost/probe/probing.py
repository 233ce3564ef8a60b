"""Probe a device: choose the way, let a helper do the steps, make a verdict of what it says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from vfiohost.errors import UnsupportedError
from vfiohost.model import is_vfio_driver
from vfiohost.nodes import cdev_node, group_node
from vfiohost.probe import causes, helper
from vfiohost.probe.steps import Request
from vfiohost.probe.types import Failure, Irq, Probe, Region, Step
from vfiohost.probe.users import Nodes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vfiohost.model import PciDevice, Snapshot
    from vfiohost.probe.types import ProbePath
    from vfiohost.sysfs import Sysfs

_LAST = ("close", "ok")


def paths_of(sysfs: Sysfs, device: PciDevice) -> tuple[ProbePath, ...]:
    """The ways that the kernel offers to a device now; the one through its group if none.

    Files: ``dev/vfio``, ``sys/bus/pci/devices/ADDRESS/vfio-dev``.
    """
    address = str(device.address)
    cdev, group = cdev_node(sysfs, address), group_node(sysfs, address)
    if cdev is None:
        return ("group",)
    return ("cdev",) if group is None else ("group", "cdev")


def probe(
    sysfs: Sysfs,
    snapshot: Snapshot,
    device: PciDevice,
    path: ProbePath,
    *,
    reset: bool = False,
    vf_token: str | None = None,
    timeout: float,
) -> Probe:
    """Do with a device what a guest's monitor would, and tell what the kernel says.

    Args:
        sysfs: the host. It must be a running one: no simulation has character devices.
        snapshot: the host as it is.
        device: the device.
        path: the way to it.
        reset: reset it, too.
        vf_token: for a virtual function of a PF that a VFIO user has.
        timeout: seconds for all of it.

    Raises:
        UnsupportedError: the root is a recording or a simulation.
        KernelError: the helper process did not start.

    Files: ``dev/vfio/vfio``, ``dev/vfio/GROUP``, ``dev/vfio/devices/vfioN``, ``dev/iommu``,
    ``sys/kernel/iommu_groups/GROUP/reserved_regions``, and ``proc/PID/fd`` if it is busy.
    """
    if not sysfs.is_live():
        raise UnsupportedError(
            f"{sysfs.root} is no running host: a probe opens the character devices of VFIO, and "
            "those of a recording or a simulation have no kernel behind them."
        )
    if not isinstance(device.driver, str) or not is_vfio_driver(device.driver):
        return Probe(device.address, path, cause=causes.no_vfio_driver(device))
    cdev = cdev_node(sysfs, str(device.address))
    if path == "cdev" and cdev is None:
        return Probe(device.address, path, cause=causes.no_cdev(device))
    group = device.iommu_group if isinstance(device.iommu_group, int) else None
    chosen = cdev if path == "cdev" else None
    request = Request(sysfs.root, str(device.address), group, chosen, reset, vf_token)
    told = helper.ask(request, timeout=timeout)
    found = verdict(Probe(device.address, path), told.lines)
    if told.pid is not None and not _is_over(found):
        last = found.steps[-1].name if found.steps else "The start of the helper"
        return attrs.evolve(found, cause=causes.late(last, told.pid, timeout))
    failed = next((line["error"] for line in told.lines if "error" in line), None)
    if failed is None:
        return found
    own_group = None if group is None else snapshot.groups.get(group)
    context = causes.Context(
        sysfs,
        device,
        own_group,
        Nodes.of(sysfs, device, own_group),
        vf_token=vf_token is not None,
        prober=told.pid,
    )
    return attrs.evolve(found, cause=causes.explain(Failure(**failed), context))


def _is_over(found: Probe) -> bool:
    """Whether all was said: that only the helper's own end was late changes nothing."""
    last = found.steps[-1] if found.steps else None
    return last is not None and (last.outcome == "failed" or (last.name, last.outcome) == _LAST)


def verdict(start: Probe, lines: Iterable[dict[str, Any]]) -> Probe:
    """Take in what a helper said; a step without an outcome is pending.

    Args:
        start: the probe before the first line.
        lines: see :mod:`vfiohost.probe.steps`.
    """
    steps: list[Step] = []
    facts: dict[str, Any] = {}
    for line in lines:
        if "begin" in line:
            steps.append(Step(line["begin"], "pending"))
        elif "ok" in line:
            steps[-1] = Step(steps[-1].name, "ok", line["ok"])
        elif "failed" in line:
            steps[-1] = Step(steps[-1].name, "failed", line["failed"])
        else:
            facts |= line
    return attrs.evolve(
        start,
        steps=tuple(steps),
        is_noiommu=facts.get("noiommu", False),
        can_reset=facts.get("can_reset"),
        regions=tuple(
            Region(r["name"], r["size"], tuple(r["flags"])) for r in facts.get("regions", ())
        ),
        irqs=tuple(Irq(i["name"], i["count"], tuple(i["flags"])) for i in facts.get("irqs", ())),
    )
