"""What a host could have from the next boot on: plans of files. Nothing here writes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vfiohost.errors import NotFoundError, ParseError, PlanRefused
from vfiohost.host_planner import HostPlanner
from vfiohost.model import PciAddress, PciDevice

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from vfiohost.boot import BootDevice, BootPlan
    from vfiohost.host_view import Devices
    from vfiohost.model import Snapshot


class HostBootPlanner(HostPlanner):
    """The part of a :class:`vfiohost.Host` that decides what is so when the host starts."""

    def plan_boot(
        self,
        devices: Devices | None = None,
        *,
        driver: str | None = None,
        group: bool = False,
        early: bool | None = None,
        allow: Iterable[str] = (),
        snapshot: Snapshot | None = None,
    ) -> BootPlan:
        """Plan the files by which devices have their drivers from the next boot on. Writes nothing.

        Devices that have such files already keep them.

        Args:
            devices: which; ``None`` for those that are on a VFIO driver now and are no virtual
                functions, which are not there when a host starts.
            driver: what they are to have, as for :meth:`plan_bind`; by default the VFIO driver that
                a device has now, else ``vfio-pci``.
            group: take all endpoints of their IOMMU groups along.
            early: whether the initramfs is to carry this; by default it goes by a device's class.
            allow: as for :meth:`plan_bind`.
            snapshot: the host as it is; by default a new scan.

        Raises:
            ParseError, NotFoundError: as :meth:`plan_bind`; NotFoundError when ``devices`` is
                ``None`` and no device is on a VFIO driver.
            PlanRefused: the host cannot do without a device, or it cannot be given to that driver,
                as :meth:`plan_bind` would refuse it now; or a file is somebody else's.
        """
        from attrs import evolve

        from vfiohost.boot import (
            find_generators,
            known_devices,
            known_unit,
            plan_files,
            read_files,
        )
        from vfiohost.plan.bind import with_siblings

        snapshot = self._scanned(snapshot)
        found = self._for_boot(devices, snapshot)
        if group:
            everyone = with_siblings(snapshot, [device.address for device in found])
            found = tuple(snapshot.pci[address] for address in everyone)
        chosen = self.boot_devices(found, driver, frozenset(allow), snapshot)
        if early is not None:
            chosen = tuple(evolve(device, early=early) for device in chosen)
        files = read_files(self.sysfs)
        merged = {device.address: device for device in (*known_devices(files), *chosen)}
        unit = known_unit(files)
        return plan_files(merged.values(), files, find_generators(self.sysfs), unit)

    def plan_boot_remove(
        self, devices: Iterable[str] | None = None, *, snapshot: Snapshot | None = None
    ) -> BootPlan:
        """Plan to take the files for the boot away, or devices out of them. Writes nothing.

        Args:
            devices: which, as addresses of the files or as selectors; ``None`` for all of them.
            snapshot: the host as it is; by default a new scan, where it is needed.

        Raises:
            ParseError: a text is no selector, or the files make no sense; without ``devices`` they
                are taken away all the same.
            NotFoundError: the files are not about such a device.
        """
        from vfiohost.boot import (
            find_generators,
            known_devices,
            known_unit,
            plan_files,
            read_files,
        )

        found, generators = read_files(self.sysfs), find_generators(self.sysfs)
        if devices is None:
            return plan_files((), found, generators)
        known = known_devices(found)
        gone = self._known_at_boot(devices, known, snapshot)
        left = [device for device in known if device.address not in gone]
        return plan_files(left, found, generators, known_unit(found))

    def _known_at_boot(
        self, texts: Iterable[str], known: Sequence[BootDevice], snapshot: Snapshot | None
    ) -> set[PciAddress]:
        """The addresses that texts mean; the files may know one that is not there any more."""
        addresses = {device.address for device in known}
        gone: set[PciAddress] = set()
        for text in texts:
            try:
                found = {PciAddress.parse(text)}
            except ParseError:
                found = set(self._addresses(text, self._scanned(snapshot)))
            if not found & addresses:
                near = [str(address) for address in sorted(addresses)]
                raise NotFoundError("device with files for the boot", text, near=near)
            gone |= found & addresses
        return gone

    def _for_boot(self, devices: Devices | None, snapshot: Snapshot) -> tuple[PciDevice, ...]:
        """The devices that are meant, by default those on a VFIO driver, virtual ones aside."""
        from vfiohost.model import is_vfio_driver

        if devices is not None:
            return self.select(devices, snapshot)
        found = tuple(d for d in snapshot.devices if is_vfio_driver(str(d.driver)) and not d.is_vf)
        if not found:
            sentence = "No device is on a VFIO driver now: bind some first, or name them."
            raise NotFoundError("device on a VFIO driver", "any", sentence=sentence)
        return found

    def boot_devices(
        self,
        devices: tuple[PciDevice, ...],
        driver: str | None,
        allow: frozenset[str],
        snapshot: Snapshot,
    ) -> tuple[BootDevice, ...]:
        """Describe devices for the boot, after all that speaks against it was asked.

        Args:
            devices: which.
            driver: what they are to have, as for :meth:`plan_boot`.
            allow: as for :meth:`plan_bind`.
            snapshot: the host as it is.

        Raises:
            PlanRefused: as :meth:`plan_boot`.
        """
        from vfiohost.boot import boot_device
        from vfiohost.boot.judging import boot_driver, judge_start
        from vfiohost.plan.drivers import Drivers

        drivers = Drivers(snapshot, self._modules(snapshot))
        wanted = {device: boot_driver(device, driver, drivers) for device in devices}
        refusals = [refusal for device in devices for refusal in judge_start(device, snapshot)]
        for name in dict.fromkeys(wanted.values()):
            same = [device for device in devices if wanted[device] == name]
            try:
                self.plan_bind(same, name, allow=allow, snapshot=snapshot)
            except PlanRefused as refused:
                refusals += refused.refusals
        if refusals:
            raise PlanRefused(refusals)
        return tuple(boot_device(device, wanted[device]) for device in devices)
