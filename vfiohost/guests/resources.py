"""The resources that NVIDIA's sandbox device plugin offers to Kubernetes, and their names. Pure.

Names and counts are those of kubevirt-gpu-device-plugin 1.6.0 (``pkg/device_plugin``), odd ones
too: a node is only used when the names are the same byte for byte.
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING

import attrs

from vfiohost.model import Problem
from vfiohost.nvidia import VENDOR_ID
from vfiohost.plan.words import listed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from vfiohost.model import MediatedDevice, PciDevice, Snapshot
    from vfiohost.names import PciNames

NAMESPACE = "nvidia.com/"

DRIVERS = frozenset({"vfio-pci", "nvgrace_gpu_vfio_pci"})
"""The drivers whose devices the plugin offers: the two that it knows, and no other variant."""

# Go's \s, which is ASCII alone and has no vertical tab (regexp/syntax).
_SPACE = re.compile(r"[\t\n\f\r ]+")
_DROPPED = re.compile(r"[^a-zA-Z0-9_.]+")


@attrs.frozen
class Resource:
    """A resource of a node.

    Attributes:
        name: ``nvidia.com/GA102GL_A10``.
        kinds: what has this name: ids (``10de:2236``), or the names of mdev types. More than one
            is a collision.
        devices: the addresses and UUIDs that are counted.
    """

    name: str
    kinds: tuple[str, ...]
    devices: tuple[str, ...]


def device_resource(device: PciDevice, names: PciNames) -> str:
    """The name of a PCI function's resource (``getDeviceName``): ``nvidia.com/GA102GL_A10``.

    A device that ``pci.ids`` does not have goes by its number: ``nvidia.com/2571``.
    """
    name = names.known_device(VENDOR_ID, device.device_id)
    made = "" if name is None else _plugin_name(name)
    return NAMESPACE + (made or f"{device.device_id:04x}")


def mdev_resource(type_name: str) -> str:
    """The name of a mediated device's resource: ``nvidia.com/NVIDIA_A10-12Q``."""
    return NAMESPACE + _SPACE.sub("_", type_name.strip("\n"))


def is_offered(device: PciDevice) -> bool:
    """Whether the plugin offers a function: NVIDIA's, on a driver that it knows, in a group.

    Whatever its class is: a card's audio function is a resource as well.
    """
    return (
        device.vendor_id == VENDOR_ID
        and device.driver in DRIVERS
        and isinstance(device.iommu_group, int)
    )


def resources(snapshot: Snapshot, names: PciNames) -> tuple[Resource, ...]:
    """What the plugin would offer on this host now, in order of name.

    Args:
        snapshot: the host, with its mediated devices.
        names: for the names; the plugin has a ``pci.ids`` of its own, which may be another.
    """
    found: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for device in filter(is_offered, snapshot.devices):
        found[device_resource(device, names)].append((device.ids, str(device.address)))
    for mdev in snapshot.mdev.devices if snapshot.mdev else ():
        if isinstance(mdev.type_name, str):
            found[mdev_resource(mdev.type_name)].append((mdev.type_name, mdev.uuid))
    return tuple(
        Resource(name, tuple(dict.fromkeys(kind for kind, _ in each)), tuple(d for _, d in each))
        for name, each in sorted(found.items())
    )


def collisions(found: Iterable[Resource]) -> Iterator[Problem]:
    """What is wrong with resources that mean several kinds of devices by one name."""
    for resource in found:
        if len(resource.kinds) > 1:
            kinds = " and ".join(resource.kinds)
            yield Problem(
                resource.name,
                None,
                f"{kinds} have this one resource name, so a guest that asks for it may get either.",
            )


def namesakes(found: Iterable[Resource], names: PciNames) -> Iterator[Problem]:
    """What else has the name of a resource, as ``pci.ids`` has it: another node may offer that.

    Args:
        found: the resources of this host.
        names: of all devices.
    """
    called: dict[str, list[str]] = defaultdict(list)
    for device_id, name in names.known_devices(VENDOR_ID).items():
        made = _plugin_name(name)
        if made:
            called[NAMESPACE + made].append(f"{VENDOR_ID:04x}:{device_id:04x}")
    for resource in found:
        others = [each for each in called[resource.name] if each not in resource.kinds]
        if others:
            yield Problem(
                resource.name,
                None,
                f"Not only {listed(resource.kinds)} has this resource name: {listed(others)} would "
                "have it too, so another node may offer that by it.",
            )


def nameless(mdevs: Iterable[MediatedDevice]) -> Iterator[Problem]:
    """The mediated devices that have no resource, since their type has no name."""
    for mdev in mdevs:
        if not isinstance(mdev.type_name, str):
            sentence = "Its type has no name, so NVIDIA's device plugin does not offer it."
            yield Problem(mdev.uuid, None, sentence)


def unknown_vgpus(snapshot: Snapshot) -> Iterator[Problem]:
    """The vGPUs that the plugin does not know: those without mediated devices."""
    for address in sorted(snapshot.vgpu_functions):
        sentence = (
            "It is a vGPU without a mediated device, which NVIDIA's device plugin does not offer; "
            "KubeVirt's own does (`vfiohost print kubevirt`)."
        )
        yield Problem(str(address), None, sentence)


def _plugin_name(text: str) -> str:
    """A name of ``pci.ids`` as the plugin writes it."""
    # Letter by letter, as Go does: Python's upper() makes two letters of some.
    upper = "".join(c.upper() if len(c.upper()) == 1 else c for c in text.strip())
    joined = _SPACE.sub("_", upper.replace("/", "_").replace(".", "_"))
    return _DROPPED.sub("", joined)
