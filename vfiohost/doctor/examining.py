"""All checks, one after the other. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vfiohost.doctor.checks import devices, groups, iommu, machine, managers, nvidia, own, vfio
from vfiohost.doctor.findings import SEVERITIES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vfiohost.doctor.facts import HostFacts
    from vfiohost.doctor.findings import Finding

CHECKS: tuple[Callable[[HostFacts], Iterator[Finding]], ...] = (
    own.check_journal,
    own.check_lock,
    iommu.check_iommu,
    iommu.check_guest,
    iommu.check_command_line,
    vfio.check_modules,
    vfio.check_interrupts,
    vfio.check_options,
    groups.check_groups,
    devices.check_sriov,
    devices.check_reset,
    devices.check_console,
    devices.check_power,
    nvidia.check_nvidia,
    managers.check_driverctl,
    managers.check_ids,
    managers.check_programs,
    managers.check_configuration,
    machine.check_lockdown,
    machine.check_memory,
    own.check_unreadable,
)
"""Each takes the facts and gives what it finds."""


def examine(facts: HostFacts) -> tuple[Finding, ...]:
    """Run all checks.

    Args:
        facts: what was read.

    Returns:
        What was found, worst first; those that are as bad in the order of the checks.
    """
    found = [finding for check in CHECKS for finding in check(facts)]
    return tuple(sorted(found, key=lambda finding: SEVERITIES.index(finding.severity)))
