"""What a host file comes down to on a host: in what it differs, and the plans that mend it.

A stage is a plan that is made when those before it are done, for it may need what they bring:
devices come to their own drivers first, then they get their virtual functions, then guests' drivers
take what is theirs, and what lives on devices comes last.
"""

from __future__ import annotations

from errno import ENOENT
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Literal

import attrs

from vfiohost.errors import KernelError, NotFoundError, PlanRefused
from vfiohost.host_file.mediated import (
    find_existing,
    find_parent,
    mdev_differences,
    missing_parents,
    not_there,
    uuid_exists,
)
from vfiohost.host_file.resolving import differences, resolve
from vfiohost.host_file.types import NATIVE, Difference
from vfiohost.host_planner import read_ownership
from vfiohost.model import MdevBus, PciAddress, is_vfio_driver
from vfiohost.nodes import accesses
from vfiohost.plan.changes import NO_DRIVER
from vfiohost.plan.words import listed
from vfiohost.vgpus import vgpu_gpus

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

    from vfiohost.boot import BootPlan
    from vfiohost.host_boot import HostBootPlanner
    from vfiohost.host_file.types import HostFile, MdevTable, Wanted
    from vfiohost.host_file.writing import Table
    from vfiohost.model import Snapshot
    from vfiohost.plan.types import Plan
    from vfiohost.selectors import ByName, Lookup

HOST_FILE = "etc/vfiohost/host.toml"
"""Where the host file is, relative to the root."""


@attrs.frozen
class Stage:
    """One plan of several that build on each other.

    Attributes:
        title: what it does, as a phrase: ``bind 2 devices to vfio-pci``.
        plan: makes it, given the host as it is then.
    """

    title: str
    plan: Callable[[Snapshot], Plan]

    def __call__(self, snapshot: Snapshot) -> Plan:
        """Make the plan."""
        return self.plan(snapshot)


def read_host_file(host: HostBootPlanner, path: str = HOST_FILE) -> HostFile:
    """Read the host file of a host.

    Args:
        host: the host.
        path: relative to its root.

    Raises:
        NotFoundError: there is none.
        KernelError: it cannot be read.
        ParseError: it is no host file; names file, table and key.
    """
    from vfiohost.host_file.reading import MOST_BYTES, parse

    try:
        text = host.sysfs.read(path, limit=MOST_BYTES)
    except KernelError as error:
        if error.errno != ENOENT:
            raise
        sentence = (
            f"There is no host file /{path}. `vfiohost export` prints one for the host as it is."
        )
        raise NotFoundError("host file", path, sentence=sentence) from error
    return parse(text, f"/{path}")


class Declared:
    """A host file on a host.

    Args:
        host: the host.
        file: what it shall be.
        allow: words that permit what would be refused (:data:`vfiohost.plan.hazards.ALLOWABLE`).
    """

    def __init__(self, host: HostBootPlanner, file: HostFile, allow: Iterable[str] = ()) -> None:
        self.host = host
        self.file = file
        self.allow = frozenset(allow)

    def wanted(self, snapshot: Snapshot) -> tuple[Wanted, ...]:
        """The devices that the file is about.

        Raises:
            PlanRefused: the file does not fit the host; all reasons at once.
        """
        return resolve(self.file, snapshot, self._lookup(snapshot))

    def _lookup(self, snapshot: Snapshot) -> Lookup:
        """Who knows the names of the host."""

        def lookup(by: ByName) -> tuple[PciAddress, ...]:
            from vfiohost.identities import find_named

            return find_named(self.host.sysfs, snapshot, by)

        return lookup

    def differences(self, snapshot: Snapshot) -> tuple[Difference, ...]:
        """In what the host differs from the file, in the order of the file.

        Reads what :meth:`vfiohost.Host.with_details` reads, ``power/control``, and whose the VFIO
        nodes are where the file says it.

        Args:
            snapshot: the host, with its mediated devices.

        Raises:
            PlanRefused: the file does not fit the host; all reasons at once.
        """
        wanted = self.wanted(snapshot)
        about = {each.address for each in wanted}
        devices = [d for d in snapshot.devices if d.address in about or d.physfn in about]
        snapshot = self.host.with_details(snapshot, devices)
        power = self._power(each.address for each in wanted if each.table.power is not None)
        found = [
            *differences(
                wanted, snapshot, power, self._idle(wanted, snapshot), self._foreign(wanted)
            ),
            *(
                difference
                for table in self.file.mdevs
                for difference in mdev_differences(table, snapshot, self._lookup(snapshot))
            ),
        ]
        return tuple(found)

    def stages(self, snapshot: Snapshot) -> tuple[Stage, ...]:
        """The plans that make the host what the file says, in order; few of them do anything.

        Args:
            snapshot: the host as it is, with its mediated devices.

        Raises:
            PlanRefused: the file does not fit the host, or a mediated device has no parent there,
                and would get none.
            AmbiguousError: the parent of a mediated device may be several devices.
        """
        wanted = self.wanted(snapshot)
        lookup = self._lookup(snapshot)
        refusals = [*missing_parents(self.file.mdevs, wanted, snapshot, lookup)]
        if refusals:
            raise PlanRefused(refusals)
        return (
            *self._without_vgpus(wanted),
            *self._native(wanted),
            *self._virtual(wanted),
            *self._given(wanted),
            *self._powered(wanted),
            *self._vgpus(wanted),
            *self._mediated(),
        )

    def plan_boot(self, snapshot: Snapshot, program: str) -> BootPlan:
        """The files by which the host is what the file says from the next boot on.

        A rule of udev gives devices to guests' drivers before their own can have them; what takes
        the drivers themselves (virtual functions, vGPUs, owners) is for a service that applies the
        host file.

        Args:
            snapshot: the host as it is.
            program: where vfiohost is, for the service.

        Raises:
            PlanRefused: the file does not fit the host, or as
                :meth:`vfiohost.host_boot.HostBootPlanner.plan_boot`.
        """
        from vfiohost.boot import find_generators, plan_files, read_files, unit_text
        from vfiohost.plan.bind import with_siblings

        ways: dict[str, list[PciAddress]] = {}
        for each in self.wanted(snapshot):
            driver = each.table.driver
            if driver is not None and driver != NATIVE:
                taken = with_siblings(snapshot, [each.address]) if each.table.group else None
                ways.setdefault(driver, []).extend(taken or [each.address])
        chosen = [
            device
            for driver, addresses in ways.items()
            for device in self.host.boot_devices(
                tuple(snapshot.pci[address] for address in dict.fromkeys(addresses)),
                driver,
                self.allow,
                snapshot,
            )
        ]
        sysfs = self.host.sysfs
        unit = unit_text(program) if self._needs_service() else None
        return plan_files(chosen, read_files(sysfs), find_generators(sysfs), unit)

    def _needs_service(self) -> bool:
        return bool(self.file.mdevs) or any(
            table.vfs or table.vgpus or table.owner or table.mode or table.power
            for table in self.file.devices
        )

    def _idle(self, wanted: Iterable[Wanted], snapshot: Snapshot) -> list[PciAddress]:
        """The functions without a driver that :meth:`stages` give to one of the host's."""
        from vfiohost.module_scan import read_modules
        from vfiohost.plan.drivers import Drivers

        virtual = snapshot.virtual_functions
        tables = [(each.device, each.table) for each in wanted]
        own = [device for device, table in tables if table.driver == NATIVE]
        own += [
            vf
            for device, table in tables
            if table.vf_driver == NATIVE
            for vf in virtual.get(device.address, ())
        ]
        idle = [device for device in own if device.driver is None]
        if not idle or not snapshot.kernel:
            return []
        drivers = Drivers(snapshot, read_modules(self.host.sysfs, snapshot.kernel))
        # Which of several would take a virtual function is for the kernel to say.
        return [d.address for d in idle if (n := drivers.native(d)) and not (d.is_vf and n[1:])]

    def _without_vgpus(self, wanted: Iterable[Wanted]) -> Iterator[Stage]:
        """What makes room for what follows: virtual functions with vGPUs cannot go."""
        gpus: dict[PciAddress, Mapping[str, int]] = {
            each.address: {} for each in wanted if each.table.vgpus == {}
        }
        if gpus:
            yield Stage(f"remove the vGPUs of {listed([*gpus])}", partial(self._set_vgpus, gpus))

    def _vgpus(self, wanted: Iterable[Wanted]) -> Iterator[Stage]:
        gpus = {each.address: each.table.vgpus for each in wanted if each.table.vgpus}
        if gpus:
            yield Stage(f"set the vGPUs of {listed([*gpus])}", partial(self._set_vgpus, gpus))

    def _set_vgpus(self, gpus: Mapping[PciAddress, Mapping[str, int]], now: Snapshot) -> Plan:
        return self.host.plan_vgpus(gpus, allow=self.allow, snapshot=now)

    def _native(self, wanted: Iterable[Wanted]) -> Iterator[Stage]:
        devices = [each.address for each in wanted if each.table.driver == NATIVE]
        if devices:
            yield Stage(
                "give devices to their own drivers",
                lambda now: self.host.plan_restore(
                    devices, native=True, allow=self.allow, snapshot=now
                ),
            )

    def _virtual(self, wanted: Iterable[Wanted]) -> Iterator[Stage]:
        ways: dict[tuple[int | Literal["all"], str | None], list[PciAddress]] = {}
        for each in wanted:
            if each.table.vfs is not None:
                way = (each.table.vfs, each.table.vf_driver)
                ways.setdefault(way, []).append(each.address)
        for (count, driver), devices in ways.items():
            title = (
                f"give {listed(devices)} {count} virtual functions"
                if count
                else f"remove the virtual functions of {listed(devices)}"
            )
            yield Stage(title, partial(self._vfs, devices, count, driver))

    def _vfs(
        self,
        devices: list[PciAddress],
        count: int | Literal["all"],
        driver: str | None,
        now: Snapshot,
    ) -> Plan:
        return self.host.plan_vfs(devices, count, driver=driver, allow=self.allow, snapshot=now)

    def _given(self, wanted: Iterable[Wanted]) -> Iterator[Stage]:
        ways: dict[tuple[Any, ...], list[PciAddress]] = {}
        for each in wanted:
            table = each.table
            if table.driver not in (None, NATIVE):
                way = (table.driver, table.group, table.owner, table.mode)
                ways.setdefault(way, []).append(each.address)
        for way, devices in ways.items():
            yield self._bind(*way, devices=devices)

    def _bind(
        self,
        driver: str,
        group: bool,  # noqa: FBT001 - one of a tuple
        owner: str | None,
        mode: str | None,
        *,
        devices: list[PciAddress],
    ) -> Stage:
        def plan(now: Snapshot) -> Plan:
            return self.host.plan_bind(
                devices,
                driver,
                group=group,
                owner=owner,
                mode=mode,
                allow=self.allow,
                snapshot=now,
            )

        return Stage(f"bind devices to {driver}", plan)

    def _powered(self, wanted: Iterable[Wanted]) -> Iterator[Stage]:
        policy = {e.address: e.table.power for e in wanted if e.table.power is not None}
        if policy:

            def plan(now: Snapshot) -> Plan:
                from vfiohost.plan.power import plan_power

                return plan_power(now, policy, self._power(policy))

            yield Stage("set the power policy", plan)

    def _mediated(self) -> Iterator[Stage]:
        for table in self.file.mdevs:
            yield Stage(f"create {table.uuid}", partial(self._mdev, table))

    def _mdev(self, table: MdevTable, now: Snapshot) -> Plan:
        from vfiohost.plan.types import Plan

        lookup = self._lookup(now)
        found = find_existing(table, now)
        if found is not None:
            if any(mdev_differences(table, now, lookup)):
                raise PlanRefused([uuid_exists(table, found)])
            return Plan("mdev create", (table.uuid,), ())
        try:
            parent = find_parent(table, now, lookup)
        except NotFoundError as error:
            raise PlanRefused([not_there(table, error)]) from error
        return self.host.plan_mdev_create(
            parent,
            table.type,
            uuids=[table.uuid],
            attributes=table.attributes,
            bus=now.mdev,
        )

    def _foreign(self, wanted: Iterable[Wanted]) -> dict[PciAddress, dict[str, str]]:
        """Owner and mode of VFIO nodes that have others than they shall."""
        found: dict[PciAddress, dict[str, str]] = {}
        read = cache(partial(read_ownership, self.host.sysfs))  # once for all devices of a table
        for each in wanted:
            owner, mode = each.table.owner, each.table.mode
            driver = each.device.driver
            if (owner or mode) and isinstance(driver, str) and is_vfio_driver(driver):
                shall = read(owner, mode)
                has = found.setdefault(each.address, {})
                for now in accesses(self.host.sysfs, str(each.address)):
                    if shall.uid not in (None, now.uid) or shall.gid not in (None, now.gid):
                        has["owner"] = f"{now.uid}:{now.gid}"
                    if shall.mode not in (None, now.mode):
                        has["mode"] = f"{now.mode:04o}"
        return found

    def _power(self, addresses: Iterable[PciAddress]) -> dict[PciAddress, str]:
        from vfiohost.plan.changes import DEVICES
        from vfiohost.plan.power import CONTROL

        found: dict[PciAddress, str] = {}
        for address in addresses:
            try:
                found[address] = self.host.sysfs.read(f"{DEVICES}/{address}/{CONTROL}").strip()
            except KernelError:
                continue  # the kernel has no power management: there is nothing to set
        return found


def driverctl_stages(
    host: HostBootPlanner, wanted: Iterable[tuple[PciAddress, str]], allow: Iterable[str] = ()
) -> tuple[Stage, ...]:
    """The plans that give devices the drivers that driverctl keeps for them.

    Those that come to none or to a driver of the host's are first: in their IOMMU groups others may
    be for guests.

    Args:
        host: the host.
        wanted: the devices and their drivers, of
            :meth:`vfiohost.host_boot.HostBootPlanner.driverctl_wanted`.
        allow: words that permit what would be refused.
    """
    ways: dict[str, list[PciAddress]] = {}
    for address, driver in wanted:
        ways.setdefault(driver, []).append(address)

    def plan(driver: str, now: Snapshot) -> Plan:
        return host.plan_bind(ways[driver], driver, allow=allow, snapshot=now)

    return tuple(
        Stage(f"bind {listed(ways[driver])} to {driver}", partial(plan, driver))
        for driver in sorted(ways, key=lambda name: (is_vfio_driver(name), name != NO_DRIVER))
    )


def export_tables(
    snapshot: Snapshot, uuids: Collection[str] = ()
) -> tuple[dict[PciAddress, Table], list[Table]]:
    """The tables of a host file for a host as it is: devices, and mediated devices.

    Args:
        snapshot: the host as it is, with the details of its devices, and with its mediated devices.
        uuids: of mediated devices that have tables; the vGPUs of a GPU are said by such tables if
            one of them is.
    """
    from vfiohost.host_file.writing import device_tables, mdev_tables

    bus = snapshot.mdev or MdevBus((), ())
    said = {device.parent for device in bus.devices if device.uuid in uuids}
    gpus = [
        gpu for gpu in vgpu_gpus(snapshot) if said.isdisjoint(place.name for place in gpu.places)
    ]
    vgpus = {gpu.address: gpu.held for gpu in gpus if gpu.vgpus}
    places = {place.name for gpu in gpus for place in gpu.places}
    return device_tables(snapshot, vgpus), mdev_tables(bus, places.__contains__, snapshot)
