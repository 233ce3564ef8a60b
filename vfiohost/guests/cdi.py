"""A file of the Container Device Interface (CDI) that gives containers the VFIO nodes. Pure.

For containers that have a guest in them (kata, a QEMU in a pod). The form is that of the CDI
specification; the nodes are those that NVIDIA's sandbox device plugin gives.
"""

from __future__ import annotations

from collections import defaultdict
from json import dumps
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vfiohost.guests.ready import Nodes, Ready
    from vfiohost.model import Unavailable

VERSION = "0.5.0"
"""The first version of CDI in which a device's name may begin with a digit, as addresses do."""

KIND = "vfiohost/vfio"
"""What the devices of the file are asked for by: ``vfiohost/vfio=0000:65:00.0``."""


def cdi_json(ready: Ready, nodes: Nodes) -> str:
    """Make the file, for ``/etc/cdi/vfiohost.json``.

    A device has its group's node and, where there is ``/dev/iommu``, the nodes of all that is ready
    of its group. What every device needs stands once for all: ``/dev/vfio/vfio``, ``/dev/iommu``.

    Args:
        ready: what containers can be given.
        nodes: where it is.
    """
    named: list[tuple[str, int | None | Unavailable]] = [
        *((str(device.address), device.iommu_group) for device in ready.devices),
        *((mdev.uuid, mdev.iommu_group) for mdev in ready.mdevs),
    ]
    members: dict[int, list[str]] = defaultdict(list)
    for name, group in named:
        if isinstance(group, int):
            members[group].append(name)
    devices = []
    for name, group in named:
        together = members[group] if isinstance(group, int) else [name]
        paths = [_group_node(group, nodes)] if isinstance(group, int) else []
        if nodes.has_iommufd:
            paths += [nodes.cdevs[n] for n in together if n in nodes.cdevs]
        if paths:  # the specification has no device without edits
            devices.append({"name": name, "containerEdits": _edits(paths)})
    common = ["/dev/vfio/vfio", *(["/dev/iommu"] if nodes.has_iommufd else [])]
    value: dict[str, Any] = {"cdiVersion": VERSION, "kind": KIND, "devices": devices}
    if devices:
        value["containerEdits"] = _edits(common)
    return dumps(value, indent=2) + "\n"


def _group_node(group: int, nodes: Nodes) -> str:
    return nodes.groups.get(group, f"/dev/vfio/{group}")


def _edits(paths: Iterable[str]) -> dict[str, Any]:
    """The edits of a container: nodes that may be read, written and made (``mknod``)."""
    return {"deviceNodes": [{"path": path, "permissions": "mrw"} for path in paths]}
