"""All that is known of a device, as a JSON value."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from vfiohost.config_space.values import ConfigSpace
from vfiohost.model import Unavailable
from vfiohost.render.capabilities import space_value
from vfiohost.render.values import device_value, group_value, plain_value

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vfiohost.inspection import Inspection
    from vfiohost.model import PciDevice
    from vfiohost.names import PciNames


def inspection_value(inspection: Inspection, names: PciNames | None) -> dict[str, Any]:
    """One device, in the words of ``schema.json``."""
    device, link, space = inspection.device, inspection.link, inspection.space
    return {
        "device": device_value(device, inspection.snapshot, names),
        "route": _addresses(inspection.route),
        "siblings": _addresses(inspection.siblings),
        "virtual_functions": _addresses(inspection.virtual_functions),
        "vf_index": inspection.vf_index,
        "sriov": _sriov_value(inspection),
        "module": inspection.module,
        "modules": None if inspection.modules is None else list(inspection.modules),
        "vfio_driver": inspection.vfio_driver,
        "nodes": [f"/{node}" for node in inspection.nodes],
        "group": _group_value(inspection),
        "cpus": plain_value(inspection.cpus),
        "power": {k: plain_value(v) for k, v in _shallow(inspection.power).items()},
        "reset": _reset_value(inspection),
        "link": None if link is None else attrs.asdict(link),
        "regions": _regions_value(inspection),
        "config": space_value(space) if isinstance(space, ConfigSpace) else plain_value(space),
        "sleeper": plain_value(inspection.sleeper),
    }


def _addresses(devices: Iterable[PciDevice]) -> list[str]:
    return [str(device.address) for device in devices]


def _shallow(value: attrs.AttrsInstance) -> dict[str, Any]:
    return attrs.asdict(value, recurse=False)


def _sriov_value(inspection: Inspection) -> dict[str, Any] | None:
    sriov = inspection.sriov
    if sriov is None:
        return None
    number = sriov.vf_device_id
    hexadecimal = f"{number:04x}" if isinstance(number, int) else plain_value(number)
    fields = {k: plain_value(v) for k, v in _shallow(sriov).items()}
    return fields | {"vf_device_id": hexadecimal}


def _group_value(inspection: Inspection) -> dict[str, Any] | None:
    group, reserved = inspection.group, inspection.reserved
    if group is None:
        return None
    return {
        **group_value(group),
        "type": plain_value(inspection.group_type),
        "reserved": plain_value(reserved)
        if reserved is None or isinstance(reserved, Unavailable)
        else [{"start": f"{r.start:x}", "end": f"{r.end:x}", "kind": r.kind} for r in reserved],
    }


def _reset_value(inspection: Inspection) -> dict[str, Any]:
    methods = inspection.reset.methods
    return {
        "has_reset": inspection.reset.has_reset,
        "methods": methods.split() if isinstance(methods, str) else plain_value(methods),
    }


def _regions_value(inspection: Inspection) -> Any:
    if isinstance(inspection.regions, Unavailable):
        return plain_value(inspection.regions)
    return [
        {
            "name": region.name,
            "start": f"{region.start:x}" if region.is_assigned else None,
            "size": region.size,
            "kind": region.kind,
            "is_64bit": region.is_64bit,
            "is_prefetchable": region.is_prefetchable,
        }
        for region in inspection.regions
    ]
