"""Snapshots, plans and reports as plain JSON values, in the words of ``schema.json``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vfiohost.model import PciAddress, Unavailable, hexadecimal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from vfiohost.definitions import MdevDefinition
    from vfiohost.model import (
        IommuGroup,
        MdevParent,
        MediatedDevice,
        PciDevice,
        Problem,
        Snapshot,
    )
    from vfiohost.names import PciNames
    from vfiohost.plan.types import Report

Value = dict[str, Any]
"""A JSON object."""


def plain_value(value: object) -> Any:
    """A field of the model: text, number, ``null``, or an object where it could not be read."""
    if isinstance(value, Unavailable):
        return {"unavailable": value.why, "errno": value.errno}
    return str(value) if isinstance(value, PciAddress) else value


def device_value(device: PciDevice, snapshot: Snapshot, names: PciNames | None) -> Value:
    """One PCI function. Identifiers are hexadecimal texts without ``0x``, as with lspci."""
    vfs = snapshot.virtual_functions.get(device.address, ())
    known = device.revision
    revision = hexadecimal(known, 2) if isinstance(known, int) else plain_value(known)
    value: Value = {
        "address": str(device.address),
        "vendor_id": _hex4(device.vendor_id),
        "device_id": _hex4(device.device_id),
        "subsystem_vendor_id": _hex4(device.subsystem_vendor_id),
        "subsystem_device_id": _hex4(device.subsystem_device_id),
        "class_code": hexadecimal(device.class_code, 6),
        "revision": revision,
        "numa_node": plain_value(device.numa_node),
        "driver": plain_value(device.driver),
        "state": snapshot.state_of(device),
        "iommu_group": plain_value(device.iommu_group),
        "physfn": plain_value(device.physfn),
        "total_vfs": plain_value(device.total_vfs),
        "num_vfs": len(vfs),
        "path": device.path,
        "names": _names_value(device, names),
    }
    details = snapshot.details.get(device.address)
    if details is not None:
        value["driver_override"] = plain_value(details.driver_override)
        value["boot_vga"] = plain_value(details.boot_vga)
    return value


def bound_value(
    device: PciDevice,
    before: Snapshot,
    now: Snapshot,
    names: PciNames | None,
    nodes: Mapping[int, str],
) -> Value:
    """A device that a plan was about: as it is now, and which driver it had before.

    Args:
        device: the device as it is now.
        before: the host before the plan.
        now: the host after it.
        names: for the names.
        nodes: the VFIO group nodes that exist now, by group.
    """
    group = device.iommu_group
    return device_value(device, now, names) | {
        "driver_before": plain_value(before.pci[device.address].driver),
        "node": nodes.get(group) if isinstance(group, int) else None,
    }


def _hex4(number: int | None) -> str | None:
    return None if number is None else hexadecimal(number, 4)


def _names_value(device: PciDevice, names: PciNames | None) -> Value | None:
    if names is None:
        return None
    found = names.of(device)
    return {
        "class": found.class_name,
        "vendor": found.vendor,
        "device": found.device,
        "subsystem": found.subsystem,
    }


def group_value(group: IommuGroup) -> Value:
    """One IOMMU group, with the members that keep it from a VFIO user."""
    blockers = {m.address for m in group.blockers}
    return {
        "number": group.number,
        "viable": group.is_viable,
        "members": [
            {
                "address": str(m.address),
                "ids": m.ids,
                "class_code": f"{m.class_code:06x}",
                "driver": plain_value(m.driver),
                "is_bridge": m.is_bridge,
                "blocks": m.address in blockers,
            }
            for m in group.members
        ],
    }


def problem_value(problem: Problem) -> Value:
    """Something on the host that is not as it should be."""
    return {"subject": problem.subject, "path": problem.path, "sentence": problem.sentence}


def parent_value(parent: MdevParent) -> Value:
    """A parent of mediated devices and the types that it offers."""
    return {
        "name": parent.name,
        "path": parent.path,
        "address": plain_value(parent.address),
        "physfn": plain_value(parent.physfn),
        "types": [
            {
                "type_id": t.type_id,
                "name": t.name,
                "available_instances": plain_value(t.available_instances),
                "device_api": plain_value(t.device_api),
                "description": plain_value(t.description),
            }
            for t in parent.types
        ],
    }


def definition_value(definition: MdevDefinition) -> Value:
    """A mediated device that is defined; its attributes are pairs, in order."""
    return {
        "uuid": definition.uuid,
        "parent": definition.parent,
        "type_id": definition.mdev_type,
        "start": definition.start,
        "attributes": [list(pair) for pair in definition.attributes],
    }


def mdev_value(device: MediatedDevice, nodes: Mapping[int, str]) -> Value:
    """A mediated device that exists.

    Args:
        device: the device.
        nodes: the VFIO group nodes that exist, by group.
    """
    group = device.iommu_group
    return {
        "uuid": device.uuid,
        "parent": device.parent,
        "type_id": plain_value(device.type_id),
        "type_name": plain_value(device.type_name),
        "driver": plain_value(device.driver),
        "iommu_group": plain_value(group),
        "node": nodes.get(group) if isinstance(group, int) else None,
    }


def report_value(report: Report) -> Value:
    """What became of each step of a plan, in the order of the plan's steps."""
    return {
        "journal_id": report.journal_id,
        "writes": report.writes,
        "results": [{"outcome": r.outcome, "error": r.error} for r in report.results],
    }


def problem_values(problems: Iterable[Problem]) -> list[Value]:
    """All problems of a scan."""
    return [problem_value(p) for p in problems]
