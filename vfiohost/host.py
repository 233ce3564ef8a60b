"""One host: the façade that users import.

::

    from vfiohost import Host

    with Host() as host:
        plan = host.plan_bind(["class:gpu"], group=True)
        for step in plan.steps:
            print(step.why)
        report = host.apply(plan)

Everything that decides is pure and works on a snapshot; everything that writes is a plan.
"""

from __future__ import annotations

from contextlib import contextmanager
from errno import ENOENT
from functools import cached_property
from typing import TYPE_CHECKING

from vfiohost.errors import KernelError, NotFoundError
from vfiohost.host_view import READ_TIMEOUT, HostView
from vfiohost.model import MdevBus, PciAddress, PciDevice, Snapshot
from vfiohost.native import never
from vfiohost.sysfs import LiveKernel

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from vfiohost.apply import Recovery, Watch
    from vfiohost.errors import PendingError
    from vfiohost.host_view import Devices
    from vfiohost.journal import Journal, JournalEntry
    from vfiohost.native import GiveUp
    from vfiohost.plan.owners import Ownership
    from vfiohost.plan.types import Plan, Report, Step, StepResult
    from vfiohost.probe import Probe, ProbePath
    from vfiohost.sysfs import Kernel

STORE_TIMEOUT = 20.0
"""Seconds that one store or module load may take."""

UDEV_TIMEOUT = 2.0
"""Seconds that udev may take to give new VFIO nodes their owner and mode."""


class Host(HostView):
    """A Linux host below a root directory: this machine, a simulated host, or a recording.

    A host opens the root once and caches nothing but the names of ``pci.ids``: each scan reads
    anew. It belongs to one thread at a time and cannot be pickled; the snapshots, plans and reports
    that it gives are frozen, can be pickled, and may be shared.

    Args:
        root: the directory that holds ``sys``, ``proc``, ``dev`` and so on.
        kernel: who answers the stores; by default the running kernel, which refuses to write below
            a root that is no mounted sysfs. For a directory of ``vfiohost sim`` pass
            ``vfiohost.testing.SimulatedKernel(root)``.

    Raises:
        NotFoundError: there is no such directory.
    """

    def __init__(self, root: str | os.PathLike[str] = "/", *, kernel: Kernel | None = None) -> None:
        super().__init__(root)
        self.kernel: Kernel = LiveKernel(self.sysfs) if kernel is None else kernel
        self._lock: int | None = None

    # -- deciding --------------------------------------------------------------------------------

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
        allow: Iterable[str] = (),
        snapshot: Snapshot | None = None,
    ) -> Plan:
        """Plan to give devices back the driver that they had before, else their native one.

        A journal that is damaged stands in ``incomplete`` of the plan: what it said is not known.

        Args:
            devices: which; ``None`` for all that vfiohost has changed since the host booted.
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
            self.journal.origins(),
            self._modules(snapshot),
            frozenset(allow),
        )
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
        from vfiohost.plan.reset import plan_reset
        from vfiohost.scan import read_reset

        snapshot = self._scanned(snapshot)
        addresses = self._addresses(devices, snapshot)
        return plan_reset(
            self._judged(snapshot, addresses),
            addresses,
            read_reset(self.sysfs, addresses, timeout=READ_TIMEOUT),
            method=method,
            allow=frozenset(allow),
        )

    # -- writing ---------------------------------------------------------------------------------

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

    def last_done(self, journal_id: str | None = None) -> JournalEntry:
        """What the journal says of a plan that was carried out.

        Args:
            journal_id: of which; by default the last one that can be undone.

        Raises:
            NotFoundError: there is none.
        """
        if journal_id is not None:
            return self.journal.get(journal_id)
        entry = self.journal.last_committed()
        if entry is None:
            sentence = (
                "There is nothing to undo: no plan that was carried out on this host since it was "
                "booted is left to take back."
            )
            raise NotFoundError("plan to undo", "last", sentence=sentence)
        return entry

    def probe(
        self,
        devices: Devices,
        *,
        path: ProbePath | None = None,
        reset: bool = False,
        vf_token: str | None = None,
        timeout: float = STORE_TIMEOUT,
    ) -> Iterator[Probe]:
        """Use devices as a guest would, and close them again: the evidence that one could.

        Args:
            devices: which; they must be on a VFIO driver.
            path: through the ``group`` or the device's own ``cdev``; by default every way that the
                kernel offers.
            reset: reset them, too.
            vf_token: for a virtual function of a PF that a VFIO user has.
            timeout: seconds for each of the probes.

        Yields:
            What came of each probe. A device that cannot be used is no error.

        Raises:
            ParseError, NotFoundError: as :meth:`select`.
            UnsupportedError: the root is a recording or a simulation.
            KernelError: a helper process did not start, or was killed.
        """
        from vfiohost.probe import paths_of, probe

        snapshot = self.scan()
        for device in self.select(devices, snapshot):
            for way in paths_of(self.sysfs, device) if path is None else (path,):
                yield probe(
                    self.sysfs,
                    snapshot,
                    device,
                    way,
                    reset=reset,
                    vf_token=vf_token,
                    timeout=timeout,
                )

    def apply(
        self,
        plan: Plan,
        *,
        undoes: str | None = None,
        timeout: float = STORE_TIMEOUT,
        wait: float = 0.0,
        cancel: Callable[[], bool] | None = None,
        progress: Callable[[StepResult], None] | None = None,
        watch: Watch | None = None,
    ) -> Report:
        """Carry a plan out: lock, re-check, journal, write, read back; undo in reverse on failure.

        An empty plan is success and touches nothing. Where udevd runs, it has dealt with the VFIO
        nodes that the plan brought when this returns, or :data:`UDEV_TIMEOUT` is over.

        Args:
            plan: what to do. Nothing else changes its meaning.
            undoes: the id of the journal that the plan takes back, for a plan of
                :meth:`plan_undo`.
            timeout: seconds that one store or module load may take.
            wait: seconds to wait for another vfiohost to end, 0 for not at all.
            cancel: asked between steps; when it says so, what was done is taken back.
            progress: told of each step when it is over.
            watch: told of each store and load when it is about to begin.

        Raises:
            ApplyError: it failed and was taken back; its subclasses say when it was not so.
            LockBusyError: another vfiohost is changing this host.
            UnsupportedError: the root is a recording, where nobody would answer.
        """
        from vfiohost.apply import apply, never
        from vfiohost.udev import await_vfio_nodes

        report = apply(
            plan,
            sysfs=self.sysfs,
            kernel=self.kernel,
            journal=self.journal,
            timeout=timeout,
            wait=wait,
            undoes=undoes,
            cancel=never if cancel is None else cancel,
            progress=progress,
            watch=watch,
            held=self._lock,
        )
        if report.writes:
            await_vfio_nodes(self.sysfs, timeout=UDEV_TIMEOUT)
        return report

    @contextmanager
    def locked(self, purpose: str, *, wait: float = 0.0, give_up: GiveUp = never) -> Iterator[None]:
        """Keep every other vfiohost from changing this host: plan inside, and apply inside.

        What is planned without it may meet a host that somebody else has changed meanwhile.

        Args:
            purpose: what for; others who want the lock are told.
            wait: seconds to wait for another vfiohost to end, 0 for not at all.
            give_up: asked while it is waited for; ``True`` ends the wait.

        Raises:
            LockBusyError: another vfiohost is changing this host.
            KernelError: the lock could not be made or opened.
            UnsupportedError: the root is a recording, or its state files cannot be trusted.
        """
        from vfiohost.journal import lock

        self.kernel.check_writable()
        with lock(self.sysfs, purpose=purpose, wait=wait, give_up=give_up) as fd:
            self._lock = fd
            try:
                yield
            finally:
                self._lock = None

    def pending_for(self, plan: Plan) -> PendingError | None:
        """The error that a plan would meet because an earlier store is pending, or ``None``.

        Raises:
            KernelError: the journal cannot be read (EACCES for an ordinary user).
        """
        from vfiohost.apply import pending_for

        return pending_for(plan, self.sysfs, self.journal)

    def users_of(self, step: Step) -> tuple[str, ...]:
        """The processes that have the device of a step open, as far as they can be seen."""
        from vfiohost.apply import users_of

        return users_of(self.sysfs, step)

    def recover(
        self,
        *,
        allow: Iterable[str] = (),
        keep: str | None = None,
        dry_run: bool = False,
        timeout: float = STORE_TIMEOUT,
        wait: float = 0.0,
        give_up: GiveUp = never,
        watch: Watch | None = None,
    ) -> tuple[Recovery, ...]:
        """Take back what a crash left half-way.

        Args:
            allow: words that permit to take a device from those who use it by now.
            keep: the id of a journal that is closed, and what it did stays; the others wait.
            dry_run: only look, and say what would become of each.
            timeout: seconds that one store may take.
            wait: seconds to wait for another vfiohost to end, 0 for not at all.
            give_up: asked while it is waited for; ``True`` ends the wait.
            watch: told of each store when it is about to begin.

        Returns:
            What became of each journal that was open, or that an earlier call left half-way.

        Raises:
            ParseError: an ``allow`` word is unknown.
            NotFoundError: there is no such journal to keep.
            LockBusyError: another vfiohost is at work; then nothing is left half-way.
        """
        from vfiohost.apply import recover
        from vfiohost.plan.hazards import check_allow

        check_allow(allow := frozenset(allow))
        return recover(
            sysfs=self.sysfs,
            kernel=self.kernel,
            journal=self.journal,
            judge=lambda plan: self._undo_of(plan, allow),
            keep=keep,
            dry_run=dry_run,
            timeout=timeout,
            wait=wait,
            give_up=give_up,
            watch=watch,
        )

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

    def _undo_of(self, plan: Plan, allow: Iterable[str]) -> Plan:
        """The way back of a plan that was carried out, judged on the host as it is."""
        from attrs import evolve

        from vfiohost.plan.undo import devices_changed, mdevs_removed, plan_undo

        undo, snapshot = plan_undo(plan), self.scan(mdev=True)
        devices = [snapshot.pci[a] for a in devices_changed(undo) if a in snapshot.pci]
        mdevs = mdevs_removed(undo)
        if devices or mdevs:
            usage = self.usage(devices, mdevs=mdevs, snapshot=snapshot)
            snapshot = evolve(self.with_details(snapshot, devices), usage=usage)
        return plan_undo(plan, snapshot=snapshot, allow=frozenset(allow))

    def _ownership(self, owner: str | None, mode: str | None) -> Ownership | None:
        if owner is None and mode is None:
            return None
        from vfiohost.plan.owners import parse_ownership

        return parse_ownership(owner, mode, *map(self._text, ("etc/passwd", "etc/group")))

    def _text(self, path: str) -> str:
        """A file's text, empty where there is no such file."""
        try:
            return self.sysfs.read(path, limit=1 << 20)
        except KernelError as error:
            if error.errno == ENOENT:
                return ""
            raise

    def _bus(self) -> MdevBus:
        bus = self.scan(mdev=True).mdev
        return MdevBus((), ()) if bus is None else bus
