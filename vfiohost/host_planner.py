"""What a host could become: plans. Nothing here writes."""

from __future__ import annotations

from errno import ENOENT
from functools import cached_property
from itertools import repeat
from typing import TYPE_CHECKING, Literal

from vfiohost.errors import KernelError, UnsupportedError
from vfiohost.host_view import READ_TIMEOUT, HostView
from vfiohost.model import PciAddress, PciDevice, Snapshot

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from vfiohost.host_view import Device, Devices
    from vfiohost.journal import Journal, JournalEntry
    from vfiohost.model import MdevBus
    from vfiohost.plan.owners import Ownership
    from vfiohost.plan.types import Plan
    from vfiohost.sysfs import Sysfs
    from vfiohost.usage import Usage


class HostPlanner(HostView):
    """The part of a :class:`vfiohost.Host` that decides, on snapshots. It writes nothing."""

    def plan_bind(
        self,
        devices: Devices,
        driver: str = "vfio-pci",
        *,
        group: bool = False,
        load: bool = True,
        once: bool = False,
        allow: Iterable[str] = (),
        owner: str | None = None,
        mode: str | None = None,
        snapshot: Snapshot | None = None,
    ) -> Plan:
        """Plan to bind devices to a driver. Writes nothing.

        Args:
            devices: which.
            driver: a driver's name; ``none`` for no driver; ``auto`` for the best VFIO driver.
            group: take all endpoints of their IOMMU groups along.
            load: load the driver's module when it is not there.
            once: clear the ``driver_override`` afterwards, so that a later probe decides anew.
            allow: words that permit what would be refused, each one kind of it: ``display``,
                ``vfio-user``, … (:data:`vfiohost.plan.hazards.ALLOWABLE`).
            owner: ``USER``, ``USER:GROUP`` or ``:GROUP``, who gets the devices' VFIO nodes: names
                of ``etc/passwd`` and ``etc/group`` below the root, or numbers.
            mode: the mode of these nodes, in octal digits.
            snapshot: the host as it is; by default a new scan.

        Returns:
            The plan; an empty one when everything is so already.

        Raises:
            ParseError, NotFoundError: the request names nothing that there is.
            PlanRefused: it must not be done; all reasons at once.
        """
        from vfiohost.plan.bind import BindRequest, devices_needed, plan_bind

        snapshot = self._scanned(snapshot)
        request = BindRequest(
            devices=self._addresses(devices, snapshot),
            driver=driver,
            group=group,
            load=load,
            once=once,
            allow=frozenset(allow),
            ownership=self._ownership(owner, mode),
        )
        snapshot = self._judged(snapshot, devices_needed(snapshot, request))
        return plan_bind(snapshot, request, self._modules(snapshot))

    def plan_unbind(
        self, devices: Devices, *, allow: Iterable[str] = (), snapshot: Snapshot | None = None
    ) -> Plan:
        """Plan to take the driver away from devices. Writes nothing.

        Raises:
            ParseError, NotFoundError, PlanRefused: as :meth:`plan_bind`.
        """
        from vfiohost.plan.bind import plan_unbind

        snapshot = self._scanned(snapshot)
        addresses = self._addresses(devices, snapshot)
        modules = self._modules(snapshot)
        return plan_unbind(self._judged(snapshot, addresses), addresses, frozenset(allow), modules)

    def plan_restore(
        self,
        devices: Devices | None = None,
        *,
        native: bool = False,
        allow: Iterable[str] = (),
        snapshot: Snapshot | None = None,
    ) -> Plan:
        """Plan to give devices back the driver that they had before, else their native one.

        A journal that is damaged stands in ``incomplete`` of the plan: what it said is not known.

        Args:
            devices: which; ``None`` for all that vfiohost has changed since the host booted.
            native: whatever they had before, their native driver.
            allow: as for :meth:`plan_bind`.
            snapshot: the host as it is; by default a new scan.

        Raises:
            ParseError, NotFoundError, PlanRefused: as :meth:`plan_bind`.
        """
        from attrs import evolve

        from vfiohost.plan.bind import plan_restore

        snapshot = self._scanned(snapshot)
        chosen = self.changed(snapshot) if devices is None else devices
        addresses = self._addresses(chosen, snapshot)
        plan = plan_restore(
            self._judged(snapshot, addresses),
            addresses,
            {} if native else self.journal.origins(),
            self._modules(snapshot),
            frozenset(allow),
        )
        if native:
            return plan
        unknown = (
            f"What devices had before may stand in a journal that is damaged: {entry.reason}"
            for entry in self.journal.damaged()
        )
        return evolve(plan, incomplete=(*plan.incomplete, *unknown))

    def changed(self, snapshot: Snapshot | None = None) -> tuple[PciDevice, ...]:
        """The devices that vfiohost has changed since the host booted, as far as they still exist.

        Args:
            snapshot: the host as it is; by default a new scan.

        Raises:
            KernelError: the journal cannot be read (EACCES for an ordinary user).
        """
        origins = self.journal.origins()
        pci = (self.scan() if snapshot is None else snapshot).pci
        return tuple(pci[address] for address in sorted(origins) if address in pci)

    def plan_vfs(
        self,
        physfns: Devices,
        count: int | Literal["all"],
        *,
        driver: str | None = None,
        recreate: bool = False,
        load: bool = True,
        allow: Iterable[str] = (),
        snapshot: Snapshot | None = None,
    ) -> Plan:
        """Plan how many virtual functions physical ones shall have. Writes nothing.

        Args:
            physfns: which.
            count: how many each shall have; ``all``: as many as it can; 0 destroys them.
            driver: of the virtual functions: a name, ``auto``, ``none``; ``native``, what their ids
                give them; by default new ones get what the kernel gives them, and those that exist
                stay as they are.
            recreate: those that exist may be destroyed to get another number.
            load: load the driver's module when it is not there.
            allow: as for :meth:`plan_bind`, for virtual functions that somebody uses.
            snapshot: the host as it is, with its mediated devices; by default a new scan.

        Raises:
            ParseError, NotFoundError, PlanRefused: as :meth:`plan_bind`.
        """
        from vfiohost.details_scan import read_sriov
        from vfiohost.plan.sriov import VfsRequest, functions_needed, plan_vfs

        snapshot = self.scan(mdev=True) if snapshot is None else snapshot
        addresses = self._addresses(physfns, snapshot)
        request = VfsRequest(addresses, count, driver, recreate, load, frozenset(allow))
        facts = read_sriov(self.sysfs, addresses, timeout=READ_TIMEOUT)
        snapshot = self._judged(snapshot, functions_needed(snapshot, addresses))
        return plan_vfs(snapshot, request, facts, self._modules(snapshot))

    def plan_mdev_create(
        self,
        parent: str,
        mdev_type: str,
        *,
        uuids: Sequence[str] = (),
        count: int | None = None,
        attributes: Sequence[tuple[str, str]] = (),
        bus: MdevBus | None = None,
    ) -> Plan:
        """Plan to create mediated devices. Writes nothing.

        Args:
            parent: an address, short or full, or the parent's name (``mtty``).
            mdev_type: the type's id (``nvidia-595``) or name (``NVIDIA A10-8Q``, ``A10-8Q``).
            uuids: the UUIDs; by default random ones.
            count: how many; by default as many as there are ``uuids``, else 1.
            attributes: names and values that are written to each new device, in this order.
            bus: the mediated devices as they are; by default a new scan.

        Raises:
            ParseError, NotFoundError, PlanRefused: as :meth:`plan_bind`.
        """
        from uuid import uuid4

        from vfiohost.plan.mdev import CreateRequest, plan_create

        chosen = tuple(uuids) or tuple(str(uuid4()) for _ in range(1 if count is None else count))
        request = CreateRequest(parent, mdev_type, chosen, tuple(attributes), count)
        return plan_create(self._bus() if bus is None else bus, request)

    def plan_mdev_start(
        self,
        uuids: Iterable[str] | None = None,
        *,
        parent: str | None = None,
        callouts: bool = True,
        bus: MdevBus | None = None,
    ) -> Plan:
        """Plan to start mediated devices that are defined with mdevctl. Writes nothing.

        Reads ``etc/mdevctl.d/PARENT/UUID`` below the root.

        Args:
            uuids: which; ``None`` for all that are to start when their parents appear, of the
                parents that are there.
            parent: those defined on this parent only, a name or an address.
            callouts: respect mdevctl's callout scripts, which are not run here: where there are
                any, nothing is started.
            bus: the mediated devices as they are; by default a new scan.

        Returns:
            The plan; an empty one when they run already.

        Raises:
            ParseError: a text is no UUID, or a definition has an attribute that can be none.
            NotFoundError: nothing of a UUID is defined, or its parent or type is not there.
            AmbiguousError: a UUID is defined on several parents.
            PlanRefused: as :func:`vfiohost.definitions.plan_start`.
            UnsupportedError: there are callout scripts.
        """
        from vfiohost import definitions

        bus = self._bus() if bus is None else bus
        if uuids is None:
            chosen = definitions.automatic(self.mdev_definitions()[0], bus, parent)[0]
        else:
            names = (uuids,) if isinstance(uuids, str) else uuids
            found = (self.mdev_definition(name, parent) for name in names)
            chosen = tuple(dict.fromkeys(found))
        plan = definitions.plan_start(bus, chosen)
        if not plan.is_empty:
            self.heed_callouts("starts", callouts=callouts)
        return plan

    def heed_callouts(self, what: str, *, callouts: bool = True) -> None:
        """Do nothing that mdevctl would ask its callout scripts about: they are not run here.

        Args:
            what: what mdevctl does to a device: ``defines``, ``modifies``, ``starts``.
            callouts: ``False``: they are not about this device.

        Raises:
            UnsupportedError: there are such scripts.
        """
        from vfiohost.definitions import CALLOUTS

        scripts = [f"/{d}/{n}" for d in CALLOUTS for n in self._names(d)]
        if scripts and callouts:
            raise UnsupportedError(
                f"mdevctl asks its callout scripts ({', '.join(scripts)}) before it {what} a "
                "device, and vfiohost does not run them. Do it with mdevctl, or, if they are not "
                "about this type, with --ignore-callouts."
            )

    def plan_mdev_remove(
        self,
        uuids: Iterable[str],
        *,
        allow: Iterable[str] = (),
        bus: MdevBus | None = None,
    ) -> Plan:
        """Plan to remove mediated devices. Writes nothing.

        Args:
            uuids: which.
            allow: ``vfio-user`` permits to remove one that a process has open.
            bus: the mediated devices as they are; by default a new scan.

        Raises:
            ParseError, NotFoundError, PlanRefused: as :meth:`plan_bind`.
        """
        from vfiohost.plan.mdev import parse_uuid, plan_remove

        many = [parse_uuid(u) for u in ((uuids,) if isinstance(uuids, str) else uuids)]
        bus = self._bus() if bus is None else bus
        usage = self.usage(mdevs=many, snapshot=Snapshot(None, (), {}, mdev=bus))
        return plan_remove(bus, many, usage=usage, allow=frozenset(allow))

    def plan_vgpu_create(
        self,
        gpu: Device,
        vgpu_type: str,
        *,
        count: int | None = None,
        uuids: Sequence[str] = (),
        snapshot: Snapshot | None = None,
    ) -> Plan:
        """Plan to create vGPUs on a GPU, whichever way it makes them. Writes nothing.

        Args:
            gpu: which; one of its virtual functions stands for it.
            vgpu_type: the type's id (``nvidia-595``, ``1148``) or name (``A10-8Q``).
            count: how many; by default as many as there are ``uuids``, else 1.
            uuids: the UUIDs of the mediated devices; by default random ones.
            snapshot: the host as it is, with its mediated devices; by default a new scan.

        Raises:
            ParseError, NotFoundError, PlanRefused: as :meth:`plan_bind`.
            AmbiguousError: the selector hits several GPUs, or the name several types.
        """
        from vfiohost.errors import AmbiguousError
        from vfiohost.plan.vgpu import plan_vgpu_create

        snapshot = self._scanned(snapshot)
        found = self.select_gpus((gpu,), snapshot)
        if len(found) > 1:
            raise AmbiguousError(str(gpu), [str(address) for address in found])
        number = (len(uuids) or 1) if count is None else count
        return plan_vgpu_create(
            snapshot, found[0], vgpu_type, number, uuids=uuids, fresh=_random_uuids()
        )

    def plan_vgpu_remove(
        self,
        vgpus: Iterable[str],
        *,
        allow: Iterable[str] = (),
        snapshot: Snapshot | None = None,
    ) -> Plan:
        """Plan to remove vGPUs. Writes nothing.

        Args:
            vgpus: which: UUIDs of mediated devices, or virtual functions that are vGPUs.
            allow: ``vfio-user`` permits to remove one that a process has open.
            snapshot: the host as it is, with its mediated devices; by default a new scan.

        Raises:
            ParseError, NotFoundError, PlanRefused: as :meth:`plan_bind`.
        """
        from attrs import evolve

        from vfiohost.plan.mdev import as_uuid
        from vfiohost.plan.vgpu import plan_vgpu_remove

        snapshot = self._scanned(snapshot)
        names: list[str] = []
        for word in (vgpus,) if isinstance(vgpus, str) else vgpus:
            uuid = as_uuid(word)
            found = () if uuid else self._addresses(word, snapshot)
            names += [uuid] if uuid else map(str, found)
        usage = self._usage_of_vgpus(names, snapshot)
        return plan_vgpu_remove(evolve(snapshot, usage=usage), names, allow=frozenset(allow))

    def plan_vgpus(
        self,
        wanted: Mapping[PciAddress, Mapping[str, int]],
        *,
        allow: Iterable[str] = (),
        snapshot: Snapshot | None = None,
    ) -> Plan:
        """Plan the vGPUs of some GPUs: those that are wanted, and no other. Writes nothing.

        Args:
            wanted: how many of each type each GPU shall have, by id or name of the type. GPUs that
                are not in it are left alone.
            allow: ``vfio-user`` permits to remove a vGPU that a process has open.
            snapshot: the host as it is, with its mediated devices; by default a new scan.

        Returns:
            The plan; an empty one when all is so already.

        Raises:
            ParseError, NotFoundError, AmbiguousError, PlanRefused: as
                :func:`vfiohost.plan.vgpu.plan_vgpus`.
        """
        from attrs import evolve

        from vfiohost.plan.vgpu import plan_vgpus
        from vfiohost.vgpus import vgpu_gpus

        snapshot = self._scanned(snapshot)
        names = [v.name for gpu in vgpu_gpus(snapshot) if gpu.address in wanted for v in gpu.vgpus]
        judged = evolve(snapshot, usage=self._usage_of_vgpus(names, snapshot))
        return plan_vgpus(judged, wanted, fresh=_random_uuids(), allow=frozenset(allow))

    def plan_reset(
        self,
        devices: Devices,
        *,
        method: str | None = None,
        allow: Iterable[str] = (),
        snapshot: Snapshot | None = None,
    ) -> Plan:
        """Plan to reset devices, one after the other. Writes nothing.

        Args:
            devices: which.
            method: by this reset method alone, chosen for once (``flr``, ``pm``, ``bus``).
            allow: words that permit what would be refused: ``host-driver``, and what such a
                driver is used for (``storage``, ``network``, …).
            snapshot: the host as it is; by default a new scan.

        Raises:
            ParseError, NotFoundError, PlanRefused: as :meth:`plan_bind`; NotFoundError for a
                method that the device does not have, too.
            UnsupportedError: a device has no way to be reset.
        """
        from vfiohost.details_scan import read_reset
        from vfiohost.plan.reset import plan_reset

        snapshot = self._scanned(snapshot)
        addresses = self._addresses(devices, snapshot)
        return plan_reset(
            self._judged(snapshot, addresses),
            addresses,
            read_reset(self.sysfs, addresses, timeout=READ_TIMEOUT),
            method=method,
            allow=frozenset(allow),
        )

    def plan_undo(self, entry: JournalEntry, *, allow: Iterable[str] = ()) -> Plan:
        """Plan to take back what a plan did. Writes nothing.

        Args:
            entry: what the journal says of it: :meth:`last_done`, or one of :attr:`journal`. Give
                its id to :meth:`apply` too, so that the journal knows it as undone.
            allow: as for :meth:`plan_bind`, for devices that somebody uses by now.

        Raises:
            PlanRefused: for all reasons at once, as :meth:`plan_bind`.
        """
        return self._undo_of(entry.done_plan, allow)

    @cached_property
    def journal(self) -> Journal:
        """The journal of what was done on this host, below its root."""
        from vfiohost.journal import Journal

        return Journal(self.sysfs)

    # -- what the planners need ------------------------------------------------------------------

    def _judged(self, snapshot: Snapshot, addresses: Iterable[PciAddress]) -> Snapshot:
        """What a planner must know of the devices that it takes from someone: details and usage."""
        from attrs import evolve

        devices = [snapshot.pci[a] for a in addresses]
        snapshot = self.with_details(snapshot, devices)
        return evolve(snapshot, usage=self.usage(devices, snapshot=snapshot))

    def _usage_of_vgpus(self, names: Iterable[str], snapshot: Snapshot) -> Usage:
        functions = {str(address): device for address, device in snapshot.pci.items()}
        vgpus = tuple(names)
        devices = [functions[name] for name in vgpus if name in functions]
        mdevs = [name for name in vgpus if name not in functions]
        return self.usage(devices, mdevs=mdevs, snapshot=snapshot)

    def _undo_of(self, plan: Plan, allow: Iterable[str]) -> Plan:
        """The way back of a plan that was carried out, judged on the host as it is."""
        from attrs import evolve

        from vfiohost.plan.undo import devices_changed, mdevs_removed, plan_undo, vgpus_removed

        undo, snapshot = plan_undo(plan), self.scan(mdev=True)
        devices = [snapshot.pci[a] for a in devices_changed(undo) if a in snapshot.pci]
        mdevs = mdevs_removed(undo)
        vgpus = [snapshot.pci[a] for a in vgpus_removed(undo) if a in snapshot.pci]
        if devices or mdevs or vgpus:
            usage = self.usage([*devices, *vgpus], mdevs=mdevs, snapshot=snapshot)
            snapshot = evolve(self.with_details(snapshot, devices), usage=usage)
        return plan_undo(plan, snapshot=snapshot, allow=frozenset(allow))

    def _ownership(self, owner: str | None, mode: str | None) -> Ownership | None:
        return None if owner is None and mode is None else read_ownership(self.sysfs, owner, mode)

    def _bus(self) -> MdevBus:
        bus = self.scan(mdev=True).mdev
        if bus is None:
            from vfiohost.model import MdevBus

            return MdevBus((), ())
        return bus


def read_ownership(sysfs: Sysfs, owner: str | None, mode: str | None) -> Ownership:
    """Whose nodes shall be, by the host's ``etc/passwd`` and ``etc/group``.

    Raises:
        ParseError, NotFoundError: as :func:`vfiohost.plan.owners.parse_ownership`.
        KernelError: a file cannot be read.
    """
    from vfiohost.plan.owners import parse_ownership

    def text(path: str) -> str:
        try:
            return sysfs.read(path, limit=1 << 20)
        except KernelError as error:
            if error.errno == ENOENT:
                return ""
            raise

    return parse_ownership(owner, mode, text("etc/passwd"), text("etc/group"))


def _random_uuids() -> Iterator[str]:
    from uuid import uuid4

    return (str(uuid4()) for _ in repeat(None))
