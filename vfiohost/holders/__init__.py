"""Who uses a device: processes, mounts, interfaces, screens; all read below one root.

Nothing is asked but files, so that a recorded host answers as a live one does. What no file says
(a route in a table of its own, an interface in another network namespace) is said to be unknown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vfiohost.holders.display import console_uses
from vfiohost.holders.mounts import nodes_of, read_mounts
from vfiohost.holders.network import network_uses
from vfiohost.holders.nodes import Nodes, vfio_uses
from vfiohost.holders.processes import VFIO_DEVICE, Processes, find_processes
from vfiohost.holders.reading import class_links
from vfiohost.holders.routing import read_addresses, read_routes
from vfiohost.holders.storage import storage_uses
from vfiohost.holders.subjects import find_subjects
from vfiohost.holders.vgpus import vgpu_uses
from vfiohost.usage import Usage, Use

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vfiohost.holders.subjects import Subject
    from vfiohost.model import PciAddress, Snapshot
    from vfiohost.sysfs import Sysfs

__all__ = [
    "VFIO_DEVICE",
    "Processes",
    "class_links",
    "find_processes",
    "find_usage",
    "nodes_of",
    "read_addresses",
    "read_mounts",
    "read_routes",
]


def find_usage(
    sysfs: Sysfs,
    snapshot: Snapshot,
    addresses: Iterable[PciAddress],
    *,
    mdevs: Iterable[str] = (),
) -> Usage:
    """Find out who uses some devices, their virtual functions and their mediated devices.

    One pass over ``proc/*/fd`` for all of them. Read besides: ``enable`` of devices on VFIO,
    ``proc/driver/nvidia/gpus/*/information``, ``proc/*/mountinfo``, ``proc/swaps`` and what else
    ``storage_uses`` names, ``proc/iomem``, ``proc/consoles``, ``proc/net`` (``route``,
    ``fib_trie``, ``if_inet6``, ``ipv6_route``; also those of other network namespaces) and
    ``sys/class`` (``block``, ``net``, ``graphics``, ``vtconsole``). None of these takes the device
    lock or wakes hardware.

    Args:
        sysfs: the host.
        snapshot: what is there; with the mediated devices, where theirs are to be found.
        addresses: which devices.
        mdevs: which mediated devices besides, by UUID.

    Returns:
        The uses. A process that vanishes meanwhile uses nothing. What could not be read, or hides
        from files, stands in ``incomplete``.
    """
    subjects = find_subjects(sysfs, snapshot, addresses, mdevs)
    if not subjects:
        return Usage()
    nodes = Nodes(sysfs, subjects)
    processes = Processes(sysfs, nodes.names)
    incomplete = [*processes.incomplete, *nodes.incomplete]
    found: list[Use] = [
        *_children(subjects),
        *vfio_uses(sysfs, subjects, processes),
        *vgpu_uses(sysfs, subjects, incomplete),
        *nodes.uses(processes),
        *storage_uses(sysfs, subjects, processes.mount_namespaces, incomplete),
        *network_uses(sysfs, subjects, incomplete),
        *console_uses(sysfs, subjects, incomplete),
    ]
    order = {subject.name: number for number, subject in enumerate(subjects)}
    found.sort(key=lambda use: order[use.subject])
    return Usage(tuple(order), tuple(dict.fromkeys(found)), tuple(dict.fromkeys(incomplete)))


def _children(subjects: Iterable[Subject]) -> Iterable[Use]:
    """The virtual functions and the mediated devices, as uses of what they are made on."""
    for subject in subjects:
        if subject.physfn is not None:
            detail = f"{subject.name} is a virtual function of it"
            link = f"/sys/bus/pci/devices/{subject.name}/physfn"
            yield Use("vf", subject.physfn, detail, link)
        if subject.parent is not None:
            detail = f"the mediated device {subject.name} is made on it"
            yield Use("mdev", subject.parent, detail, f"/sys/bus/mdev/devices/{subject.name}")
