"""What is ready for guests: on a VFIO driver, in groups that hold nothing back. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from vfiohost.errors import NotFoundError, PlanRefused, Refusal
from vfiohost.model import Problem, Unavailable, is_vfio_driver
from vfiohost.nvidia import DRIVER, VENDOR_ID

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from vfiohost.model import (
        IommuGroup,
        MdevType,
        MediatedDevice,
        PciAddress,
        PciDevice,
        Snapshot,
    )


@attrs.frozen
class Ready:
    """What guests can be given.

    Attributes:
        devices: in order of address; where a group has several endpoints, all of them.
        mdevs: in order of parent, then UUID.
        problems: what is left out, and why.
        apis: the ``device_api`` of mediated devices that have another than ``vfio-pci``, by UUID.
        vgpus: which of the devices are virtual functions that NVIDIA's driver has made vGPUs, and
            that stay on it.
    """

    devices: tuple[PciDevice, ...]
    mdevs: tuple[MediatedDevice, ...]
    problems: tuple[Problem, ...] = ()
    apis: Mapping[str, str] = attrs.field(factory=dict)
    vgpus: frozenset[PciAddress] = frozenset()

    def api(self, mdev: MediatedDevice) -> str:
        """The name of the VFIO driver that a guest's monitor has for a mediated device."""
        return self.apis.get(mdev.uuid, "vfio-pci")


@attrs.frozen
class Nodes:
    """The files below ``/dev`` through which guests reach devices.

    Attributes:
        groups: the group nodes (``/dev/vfio/15``), by group.
        cdevs: the devices' own nodes (``/dev/vfio/devices/vfio0``), by address or UUID.
        has_iommufd: there is ``/dev/iommu``.
    """

    groups: Mapping[int, str]
    cdevs: Mapping[str, str]
    has_iommufd: bool


def all_ready(snapshot: Snapshot) -> Ready:
    """Choose all that is ready on a host; a group that is not viable is told and left out.

    Args:
        snapshot: the host, with its mediated devices.
    """
    devices, problems = [], []
    for device in snapshot.devices:
        if not _is_on_vfio(device, snapshot):
            continue
        blocked = _blocked(device, snapshot)
        if blocked:
            problems.append(Problem(str(device.address), None, f"Left out: {blocked}"))
        else:
            devices.append(device)
    mdevs = snapshot.mdev.devices if snapshot.mdev else ()
    return _made(snapshot, devices, mdevs, problems)


def named_ready(snapshot: Snapshot, devices: Iterable[PciDevice], uuids: Iterable[str]) -> Ready:
    """Choose what was named, with the other endpoints of its groups that a VFIO driver has.

    Args:
        snapshot: the host, with its mediated devices.
        devices: the functions.
        uuids: the mediated devices, in lower case.

    Raises:
        NotFoundError: there is no such mediated device.
        PlanRefused: something is not ready; it has all reasons.
    """
    devices = tuple(devices)
    refusals = [r for device in devices for r in _refusals(device, snapshot)]
    if refusals:
        raise PlanRefused(refusals)
    groups = (_group(device, snapshot) for device in devices)
    wanted = {m.address for g in groups if g for m in g.endpoints if _is_on_vfio(m, snapshot)}
    wanted |= {device.address for device in devices}
    known = {mdev.uuid: mdev for mdev in (snapshot.mdev.devices if snapshot.mdev else ())}
    asked = dict.fromkeys(uuids)
    for uuid in asked:
        if uuid not in known:
            raise NotFoundError("mediated device", uuid)
    return _made(
        snapshot,
        [device for device in snapshot.devices if device.address in wanted],
        [mdev for uuid, mdev in known.items() if uuid in asked],
    )


def _made(
    snapshot: Snapshot,
    devices: Sequence[PciDevice],
    mdevs: Sequence[MediatedDevice],
    problems: Sequence[Problem] = (),
) -> Ready:
    vgpus = snapshot.vgpu_functions.intersection(device.address for device in devices)
    return Ready(tuple(devices), tuple(mdevs), tuple(problems), _apis(snapshot), vgpus)


def _is_on_vfio(device: PciDevice, snapshot: Snapshot) -> bool:
    """Whether a VFIO user could open a device: a VFIO driver has it, or it is a vGPU."""
    driver = device.driver
    is_there = isinstance(driver, str) and is_vfio_driver(driver) and not device.is_bridge
    return is_there or device.address in snapshot.vgpu_functions


def _group(device: PciDevice, snapshot: Snapshot) -> IommuGroup | None:
    number = device.iommu_group
    return snapshot.groups.get(number) if isinstance(number, int) else None


def _refusals(device: PciDevice, snapshot: Snapshot) -> Iterator[Refusal]:
    """Why a device that was named cannot be given to a guest."""
    where = str(device.address)
    if device.is_bridge:
        yield Refusal("bridge", where, f"{where} is a bridge.", "No guest is given one.")
        return
    if not _is_on_vfio(device, snapshot):
        yield _no_vfio_driver(device)
        return
    blocked = _blocked(device, snapshot)
    if blocked:
        remedy = f"Take the rest of the group along: `vfiohost bind {where} --group`."
        yield Refusal("group-not-viable", where, blocked, remedy)


def _no_vfio_driver(device: PciDevice) -> Refusal:
    where = str(device.address)
    if device.is_vf and (device.vendor_id, device.driver) == (VENDOR_ID, DRIVER):
        return Refusal(
            "vgpu-vf",
            where,
            f"{where} is a virtual function of NVIDIA's vGPU host driver, which keeps it.",
            "Name the UUID of the mediated device on it (`vfiohost vgpu list`), or make it a vGPU: "
            f"`vfiohost vgpu create -g {device.physfn} -t TYPE`.",
        )
    if isinstance(device.driver, Unavailable):
        sentence = f"Which driver {where} has could not be read: {device.driver.why}."
    else:
        has = f"the driver {device.driver}" if device.has_driver else "no driver"
        sentence = f"{where} has {has}, so no guest can open it."
    remedy = f"Give it to a VFIO driver: `vfiohost bind {where}`."
    return Refusal("no-vfio-driver", where, sentence, remedy)


def _blocked(device: PciDevice, snapshot: Snapshot) -> str:
    """Why the group of a device could go to no VFIO user; empty when it could."""
    group = _group(device, snapshot)
    if group is None or not group.blockers:
        return ""
    who = ", ".join(f"{m.address} ({m.driver})" for m in group.blockers)
    return f"IOMMU group {group.number} is not viable, since a host driver has {who}."


def _apis(snapshot: Snapshot) -> dict[str, str]:
    """What mediated devices are, where they are no PCI devices to their guest."""
    bus = snapshot.mdev
    if bus is None:
        return {}
    types: dict[tuple[str, object], MdevType] = {
        (parent.name, kind.type_id): kind for parent in bus.parents for kind in parent.types
    }
    found = ((mdev.uuid, types.get((mdev.parent, mdev.type_id))) for mdev in bus.devices)
    known = {"vfio-ap", "vfio-ccw"}
    return {
        uuid: kind.device_api
        for uuid, kind in found
        if kind is not None and isinstance(kind.device_api, str) and kind.device_api in known
    }
