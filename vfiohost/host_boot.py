"""What a host could have from the next boot on: plans of files. Nothing here writes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vfiohost.errors import NotFoundError, ParseError, PlanRefused
from vfiohost.host_planner import HostPlanner
from vfiohost.model import PciAddress, PciDevice, Problem

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from vfiohost.boot import BootDevice, BootPlan, Found, SavedOverride
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

    # -- driverctl -------------------------------------------------------------------------------

    def driverctl_overrides(self) -> tuple[tuple[SavedOverride, ...], tuple[Problem, ...]]:
        """What driverctl keeps for the boot, and files by which it does nothing that makes sense.

        Reads ``etc/driverctl.d`` below the root, and follows no link in the place of a file.

        Raises:
            KernelError: the folder is there and cannot be read.
        """
        from vfiohost.boot.driverctl import read_saved

        return read_saved(self._driverctl_files())

    def plan_driverctl_export(
        self, devices: Devices | None = None, *, snapshot: Snapshot | None = None
    ) -> BootPlan:
        """Plan files by which driverctl keeps the overrides that devices have now.

        Writes nothing. What driverctl keeps for other devices stays.

        Args:
            devices: which; by default all that have a ``driver_override``.
            snapshot: the host as it is; by default a new scan.

        Raises:
            ParseError, NotFoundError: as :meth:`select`.
            PlanRefused: a device has none, or it cannot be read; or something else than a plain
                file is in the place of one.
        """
        from attrs import evolve

        from vfiohost.boot import SavedOverride, known_devices, read_files, read_one
        from vfiohost.boot.driverctl import double, loads_nothing, plan_export, saved
        from vfiohost.plan.hazards import read_binding

        snapshot = self._scanned(snapshot)
        chosen = snapshot.devices if devices is None else self.select(devices, snapshot)
        snapshot = self.with_details(snapshot, chosen)
        judged = [saved(device.address, read_binding(snapshot, device)) for device in chosen]
        wanted = tuple(each for each in judged if isinstance(each, SavedOverride))
        others = tuple(each for each in judged if not isinstance(each, SavedOverride))
        if others and devices is not None:
            raise PlanRefused(others)
        plan = plan_export(wanted, {each.path: read_one(self.sysfs, each.path) for each in wanted})
        modules = {name: driver.module for name, driver in snapshot.drivers.items()}
        notes = (
            *(refusal.sentence for refusal in others if refusal.code != "no-override"),
            *loads_nothing(wanted, modules),
            *double(wanted, known_devices(read_files(self.sysfs))),
        )
        return evolve(plan, notes=notes)

    def plan_driverctl_remove(
        self, devices: Iterable[str] | None = None, *, snapshot: Snapshot | None = None
    ) -> BootPlan:
        """Plan to take files of driverctl's away. Writes nothing; devices keep what they have.

        Args:
            devices: which, as addresses, selectors or names of the files; ``None`` for all.
            snapshot: the host as it is; by default a new scan, where it is needed.

        Raises:
            ParseError: a text is no selector.
            NotFoundError: there is no file for a device.
            PlanRefused: one is something else than a plain file.
        """
        from vfiohost.boot.driverctl import plan_removal

        files = self._driverctl_files()
        names = files if devices is None else self._driverctl_names(devices, files, snapshot)
        return plan_removal({name: files[name] for name in names})

    def driverctl_wanted(
        self, devices: Iterable[str] | None = None, *, snapshot: Snapshot
    ) -> tuple[tuple[tuple[PciAddress, str], ...], tuple[Problem, ...]]:
        """The PCI functions that are there and that driverctl keeps drivers for.

        Args:
            devices: which, as for :meth:`plan_driverctl_remove`; ``None`` for all.
            snapshot: the host as it is.

        Returns:
            Each with the driver that it is to have, and what is left out.

        Raises:
            ParseError: a text is no selector, or the file of a device that was named is none.
            NotFoundError: there is no file for a device, or no such device.
        """
        found, problems = self.driverctl_overrides()
        kept = {each.path.rpartition("/")[2]: each for each in found}
        if devices is not None:
            files = self._driverctl_files()
            names = self._driverctl_names(devices, files, snapshot)
            for problem in problems:
                if (name := problem.subject) in names:
                    raise ParseError(name, "a file that driverctl obeys", hint=problem.sentence)
            kept, problems = {name: kept[name] for name in names}, ()
        there, left = [], []
        for name, each in kept.items():
            if each.address is None:
                left.append(Problem(name, each.path, "It is about no PCI device, and left alone."))
            elif each.address not in snapshot.pci:
                left.append(Problem(name, each.path, "There is no such device now."))
            else:
                there.append((each.address, each.driver))
        return tuple(there), (*problems, *left)

    def plan_driverctl_import(
        self,
        devices: Iterable[str] | None = None,
        *,
        allow: Iterable[str] = (),
        snapshot: Snapshot | None = None,
    ) -> BootPlan:
        """Plan vfiohost's files for the boot for what driverctl keeps. Writes nothing.

        What has the address now is taken for what is meant: driverctl's files say no more. They
        stay, and devices that vfiohost has such files for keep them.

        Args:
            devices: which, as for :meth:`plan_driverctl_remove`; ``None`` for all that are there.
            allow: as for :meth:`plan_bind`.
            snapshot: the host as it is; by default a new scan.

        Raises:
            ParseError, NotFoundError: as :meth:`driverctl_wanted`.
            PlanRefused: as :meth:`plan_boot`.
        """
        from attrs import evolve

        from vfiohost.boot import find_generators, known_devices, known_unit, plan_files, read_files
        from vfiohost.boot.driverctl import left_to_both

        snapshot = self._scanned(snapshot)
        wanted = self.driverctl_wanted(devices, snapshot=snapshot)[0]
        chosen = [
            device
            for driver in dict.fromkeys(driver for _, driver in wanted)
            for device in self.boot_devices(
                tuple(snapshot.pci[a] for a, d in wanted if d == driver),
                driver,
                frozenset(allow),
                snapshot,
            )
        ]
        files = read_files(self.sysfs)
        merged = {device.address: device for device in (*known_devices(files), *chosen)}
        plan = plan_files(merged.values(), files, find_generators(self.sysfs), known_unit(files))
        return evolve(plan, notes=(*plan.notes, *left_to_both(a for a, _ in wanted)))

    def _driverctl_files(self) -> dict[str, Found]:
        """What there is in driverctl's folder, by name; hidden files are none of its."""
        from vfiohost.boot import read_one
        from vfiohost.boot.driverctl import FOLDER
        from vfiohost.rooted import list_folder

        names = [n for n in list_folder(self.sysfs, FOLDER) if not n.startswith(".")]
        return {name: read_one(self.sysfs, f"{FOLDER}/{name}") for name in names}

    def _driverctl_names(
        self, texts: Iterable[str], files: Collection[str], snapshot: Snapshot | None
    ) -> list[str]:
        """The files that texts mean; they may be about devices that are not there any more."""
        from difflib import get_close_matches

        from vfiohost.boot.driverctl import name_of

        names: dict[str, None] = {}
        for text in texts:
            found = [text] if text in files else []
            if not found:
                try:
                    addresses: Iterable[PciAddress] = (PciAddress.parse(text),)
                except ParseError:
                    addresses = self._addresses(text, self._scanned(snapshot))
                found = [name for name in map(name_of, addresses) if name in files]
            if not found:
                near = get_close_matches(text, files, n=3)
                raise NotFoundError("device that driverctl keeps a driver for", text, near=near)
            names.update(dict.fromkeys(found))
        return list(names)
