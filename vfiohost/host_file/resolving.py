"""Which devices of a host a host file is about, and in what they differ from it. Pure."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from vfiohost.errors import NotFoundError, PlanRefused, Refusal
from vfiohost.host_file.types import ALL, NATIVE, Difference, Wanted
from vfiohost.model import is_vfio_driver
from vfiohost.plan.drivers import AUTO
from vfiohost.plan.words import counted, listed
from vfiohost.selectors import knows_no_names, select
from vfiohost.vgpus import vgpu_gpus, vgpus_text

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from vfiohost.host_file.types import DeviceTable, HostFile
    from vfiohost.model import PciAddress, PciDevice, Snapshot
    from vfiohost.selectors import Lookup
    from vfiohost.vgpus import VgpuGpu

_NONE = "none"


def resolve(
    file: HostFile, snapshot: Snapshot, lookup: Lookup = knows_no_names
) -> tuple[Wanted, ...]:
    """Find the devices that a host file is about.

    Args:
        file: what is wanted.
        snapshot: what there is.
        lookup: says which devices the host calls by a name.

    Returns:
        What is wanted of each device, in the order of the file.

    Raises:
        PlanRefused: a table hits nothing, or not as many as it says; what it hits is something else
            than it says; or two tables are about one device. All reasons at once.
    """
    refusals: list[Refusal] = []
    found: dict[PciAddress, Wanted] = {}
    for table in file.devices:
        for device in _devices(table, snapshot, lookup, refusals):
            other = found.setdefault(device.address, Wanted(device, table))
            if other.table is not table:
                refusals.append(_twice(device, other.table, table))
    if refusals:
        raise PlanRefused(refusals)
    return tuple(found.values())


def _devices(
    table: DeviceTable, snapshot: Snapshot, lookup: Lookup, refusals: list[Refusal]
) -> tuple[PciDevice, ...]:
    try:
        devices = select(table.select, snapshot, lookup)
    except NotFoundError as error:
        remedy = "Put the device back, or take its table out of the file."
        refusals.append(Refusal("not-there", str(table.select), f"{table.where}: {error}", remedy))
        return ()
    other = [d for d in devices if table.ids is not None and not table.ids.fits(d)]
    refusals += [_another(table, device) for device in other]
    if other:
        return ()
    if len(devices) != table.count:
        refusals.append(_miscounted(table, devices))
        return ()
    return devices


def _another(table: DeviceTable, device: PciDevice) -> Refusal:
    from vfiohost.host_file.types import Ids  # noqa: PLC0415 - only where something is wrong

    return Refusal(
        "another-device",
        str(device.address),
        f"{table.where}: {device.address} is {Ids.of(device)}, and the file says {table.ids}.",
        "The device may have moved: find it with `vfiohost list`, and correct select or ids.",
    )


def _miscounted(table: DeviceTable, devices: tuple[PciDevice, ...]) -> Refusal:
    there = listed([device.address for device in devices])
    return Refusal(
        "miscounted",
        str(table.select),
        f"{table.where}: there {'is' if len(devices) == 1 else 'are'} "
        f"{counted(len(devices), 'such device')} ({there}), and the file says {table.count}.",
        "Correct count, or select fewer.",
    )


def _twice(device: PciDevice, first: DeviceTable, second: DeviceTable) -> Refusal:
    return Refusal(
        "said-twice",
        str(device.address),
        f"{first.where} and {second.where} are both about {device.address}.",
        "Say once what it shall be.",
    )


def differences(
    wanted: Iterable[Wanted],
    snapshot: Snapshot,
    power: Mapping[PciAddress, str],
    idle: Collection[PciAddress] = (),
    foreign: Mapping[PciAddress, Mapping[str, str]] = MappingProxyType({}),
) -> Iterator[Difference]:
    """Say in what devices are not as they shall be: drivers, nodes, power, VFs, vGPUs.

    Args:
        wanted: what shall be.
        snapshot: what is, with the details of the devices, and with the mediated devices.
        power: what ``power/control`` of the devices says.
        idle: functions that no driver has, though one of the host's is there that would take them.
        foreign: ``owner`` and ``mode`` of VFIO nodes that are not what shall be.
    """
    vfs: dict[PciAddress, list[PciDevice]] = {}
    for device in snapshot.devices:
        if device.is_vf:
            vfs.setdefault(device.physfn, []).append(device)  # type: ignore[arg-type]  # is_vf says so
    makers = {gpu.address: gpu for gpu in vgpu_gpus(snapshot)}
    for each in wanted:
        table, device = each.table, each.device
        if table.driver is not None:
            yield from _driver(device, table.driver, table, snapshot, idle=idle)
        for what, found in foreign.get(each.address, {}).items():
            yield _differs(device, what, found, getattr(table, what), table)
        if table.power is not None and power.get(each.address) not in (None, table.power):
            yield _differs(device, "power", power[each.address], table.power, table)
        if table.vfs is not None:
            yield from _functions(device, vfs.get(each.address, []), table, snapshot, idle)
        if table.vgpus is not None:
            yield from _vgpus(device, makers.get(each.address), table.vgpus, table)


def _vgpus(
    device: PciDevice, gpu: VgpuGpu | None, want: Mapping[str, int], table: DeviceTable
) -> Iterator[Difference]:
    if gpu is None or not gpu.has_just(want):
        has = "no GPU of NVIDIA's" if gpu is None else vgpus_text(gpu.held)
        yield _differs(device, "vgpus", has, vgpus_text(want), table)


def _functions(
    device: PciDevice,
    vfs: list[PciDevice],
    table: DeviceTable,
    snapshot: Snapshot,
    idle: Collection[PciAddress],
) -> Iterator[Difference]:
    total = device.total_vfs if isinstance(device.total_vfs, int) else 0
    want = total if table.vfs == ALL else table.vfs
    if len(vfs) != want:
        yield _differs(device, "vfs", str(len(vfs)), str(want), table)
    elif table.vf_driver is not None:
        for vf in vfs:
            yield from _driver(vf, table.vf_driver, table, snapshot, idle=idle, what="vf-driver")


def _driver(
    device: PciDevice,
    want: str,
    table: DeviceTable,
    snapshot: Snapshot,
    *,
    idle: Collection[PciAddress],
    what: str = "driver",
) -> Iterator[Difference]:
    details = snapshot.details.get(device.address)
    override = details.driver_override if details is not None else None
    has = device.driver if isinstance(device.driver, str) else None
    if want == NATIVE:
        is_guests = has is not None and is_vfio_driver(has)
        is_so = override is None and not is_guests and device.address not in idle
    elif want == _NONE:
        is_so = has is None and override == _NONE
    elif want == AUTO:
        is_so = has is not None and is_vfio_driver(has) and override in (None, has)
    else:
        is_so = has == want and override in (None, want)
    if not is_so:
        found = has or "no driver"
        if override is not None and override != has:
            found += f" (driver_override {override})"
        yield _differs(device, what, found, want, table)


def _differs(
    device: PciDevice, what: str, found: str, wanted: str, table: DeviceTable
) -> Difference:
    return Difference(str(device.address), what, found, wanted, table.where)
