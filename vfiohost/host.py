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

from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

from vfiohost.errors import NotFoundError, PendingError, RollbackError
from vfiohost.host_boot import HostBootPlanner
from vfiohost.native.helpers import never
from vfiohost.sysfs import LiveKernel

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator

    from vfiohost.apply import Recovery, Watch
    from vfiohost.boot import BootPlan
    from vfiohost.definitions import MdevDefinition
    from vfiohost.host_view import Devices
    from vfiohost.journal import HostLock, JournalEntry
    from vfiohost.model import Snapshot
    from vfiohost.native.helpers import GiveUp
    from vfiohost.plan.types import Plan, Report, Step, StepResult
    from vfiohost.probe.types import Probe, ProbePath
    from vfiohost.sysfs import Kernel
    from vfiohost.validation import Check, Workload
    from vfiohost.watch import Watcher

STORE_TIMEOUT = 20.0
"""Seconds that one store or module load may take."""

UDEV_TIMEOUT = 2.0
"""Seconds that udev may take to give new VFIO nodes their owner and mode."""


class Host(HostBootPlanner):
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
        self._lock: HostLock | None = None

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
        from vfiohost.probe.probing import paths_of, probe

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

    def watch(self, devices: Devices | None = None) -> Watcher:
        """Tell what changes on the host from now on: for, or async for, over what this returns.

        ::

            with host.watch("class:gpu") as watcher:
                for change in watcher:
                    print(change.to_json())

        The kernel's events (on a simulated host, inotify) only say when to look: each look is a
        scan, and what differs from the one before is told. Some things change without an event, and
        are told with the next one that comes: see ``docs/cli.md``.

        Args:
            devices: which functions, with the mediated devices on them; by default everything, and
                the drivers that come and go. A set is watched for what comes to be in it, too; a
                name, or the Nth of a set, is the device that has it now.

        Returns:
            What waits and tells. It listens already, and its ``snapshot`` is the host as it is.

        Raises:
            ParseError: a text is no selector.
            NotFoundError: the host knows no such name, or the set has no Nth.
            UnsupportedError: the root is a recording, or no event can be heard here.
            KernelError: the event socket cannot be made.

        Files: a netlink socket (``NETLINK_KOBJECT_UEVENT``), and those of a scan.
        """
        from vfiohost.watch import TellsChanges, Watcher
        from vfiohost.watch.uevents import subscribe

        kernel = self.kernel
        events = kernel.subscribe() if isinstance(kernel, TellsChanges) else subscribe(self.sysfs)
        return Watcher(
            events,
            lambda: self.with_releasing(self.scan(mdev=True)),
            None if devices is None else lambda snapshot: self.matcher(devices, snapshot),
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

        Steps about devices that have nothing in common go on while others wait for the kernel, up
        to 16 side by side: see :mod:`vfiohost.apply.lanes`. All else, and whatever is called back,
        happens in the caller's thread.

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
        from vfiohost.apply import apply, ignored, never
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
            progress=ignored if progress is None else progress,
            watch=watch,
            held=self._lock,
        )
        if report.writes:
            await_vfio_nodes(self.sysfs, timeout=UDEV_TIMEOUT)
        return report

    def change_boot(self, plan: BootPlan) -> None:
        """Write the files of a plan for the boot; each is there as a whole, or as it was.

        The initramfs is not made anew: the plan's ``commands`` do that.

        Raises:
            ApplyError: a file could not be written, or has changed since the plan was made; those
                before it got back what they had.
            UnsupportedError: the root is a recording.
        """
        from vfiohost.boot import change_files

        self.kernel.check_writable()
        change_files(self.sysfs, plan.changes)

    def apply_stages(
        self,
        stages: Iterable[Callable[[Snapshot], Plan]],
        purpose: str,
        *,
        timeout: float = STORE_TIMEOUT,
        wait: float = 0.0,
        cancel: Callable[[], bool] | None = None,
        progress: Callable[[StepResult], None] | None = None,
        watch: Watch | None = None,
    ) -> tuple[Report, ...]:
        """Carry out plans that build on each other, under one lock; all or none of them.

        Each is made when those before it are done, from a new scan if they did anything, for it may
        be about devices that they bring: virtual functions, and then the vGPUs on them. In the
        journal each is a plan of its own. After a crash between two of them, ``recover`` has
        nothing to do: ask for the same again, or take the last one back.

        Args:
            stages: make the plans, in this order; each is given the host as it is then.
            purpose: what for; others who want the lock are told.
            timeout: as for :meth:`apply`, and the next ones too.
            wait: seconds to wait for another vfiohost to end, 0 for not at all.
            cancel: asked between steps.
            progress: told of each step when it is over.
            watch: told of each store and load when it is about to begin.

        Returns:
            The report of each plan.

        Raises:
            PlanRefused, ApplyError: one was refused or failed, and those before it were taken back,
                the last one first, as after any other error; a note of it says so. After a
                ``PendingError`` or a ``RollbackError`` of a plan those before it stay as they are.
            RollbackError: one that was carried out could not be taken back.
            LockBusyError: another vfiohost is changing this host.
        """
        done: list[Report] = []
        with nullcontext() if self._lock is not None else self.locked(purpose, wait=wait):
            try:
                snapshot: Snapshot | None = None
                for stage in stages:
                    if snapshot is None or not done[-1].plan.is_empty:
                        snapshot = self.scan(mdev=True)
                    plan = stage(snapshot)
                    report = self.apply(
                        plan, timeout=timeout, cancel=cancel, progress=progress, watch=watch
                    )
                    done.append(report)
            except BaseException as error:
                self._take_back([r for r in done if r.journal_id is not None], error, timeout)
                raise
        return tuple(done)

    def _take_back(self, done: list[Report], error: BaseException, timeout: float) -> None:
        """Take back the plans that were carried out before one that failed; the last one first."""
        if not done:
            return
        from shlex import quote

        from vfiohost.plan.words import listed

        what = listed([" ".join((r.plan.verb, *r.plan.subjects)) for r in done])
        if isinstance(error, PendingError | RollbackError):
            error.add_note(f"What was done before it stays: {what}.")
            return
        while done:
            entry = self.journal.get(done[-1].journal_id or "")
            try:
                self.apply(self.plan_undo(entry), undoes=entry.id, timeout=timeout)
            except BaseException as failed:
                program = "vfiohost" if self.root == "/" else f"vfiohost --root {quote(self.root)}"
                commands = tuple(f"{program} undo {r.journal_id}" for r in reversed(done))
                worse = RollbackError(
                    f"{str(error) or type(error).__name__} What was done before it ({what}) could "
                    f"not be taken back: {str(failed) or type(failed).__name__} "
                    f"When that is over, finish by hand: {'; '.join(commands)}",
                    cause=error,
                )
                worse.commands = commands
                raise worse from failed
            done.pop()
        error.add_note(f"What was done before it was taken back: {what}.")

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
        with lock(self.sysfs, purpose=purpose, wait=wait, give_up=give_up) as held:
            self._lock = held
            try:
                yield
            finally:
                self._lock = None

    def define_mdev(
        self, definition: MdevDefinition, *, callouts: bool = True, dry_run: bool = False
    ) -> str:
        """Define a mediated device as mdevctl does, in one step: the file is there whole or not.

        Args:
            definition: what to define.
            callouts: respect mdevctl's callout scripts, which are not run here: where there are
                any, nothing is defined.
            dry_run: only check whether it can be defined.

        Returns:
            The path of the file, relative to the root.

        Raises:
            ParseError: the parent or the UUID can be none.
            PlanRefused: it is defined already.
            UnsupportedError: there are callout scripts.
            KernelError: the file could not be written.
            LockBusyError: another vfiohost is changing this host.
        """
        from vfiohost import definitions, rooted

        path = definitions.path_of(definition)
        self.heed_callouts("defines", callouts=callouts)
        text = definitions.render(definition)
        with nullcontext() if dry_run else self.locked("mdev define"):
            definitions.check_new(self.mdev_definitions()[0], definition)
            if not dry_run:
                rooted.write_file(self.sysfs, path, text)
        return path

    def modify_mdev(
        self,
        uuid: str,
        change: Callable[[MdevDefinition], MdevDefinition],
        *,
        parent: str | None = None,
        callouts: bool = True,
        dry_run: bool = False,
    ) -> MdevDefinition:
        """Change the definition of a mediated device; one that runs stays as it is.

        Args:
            uuid: which.
            change: given the definition as it is, makes the one that it is to be, of the same UUID
                and parent: :func:`vfiohost.definitions.modified`.
            parent: the one on this parent; one UUID may be defined on several.
            callouts: respect mdevctl's callout scripts, as :meth:`define_mdev`.
            dry_run: only check whether it can be changed, and to what.

        Returns:
            The definition as it is now. Where nothing changes, nothing is written.

        Raises:
            ParseError, NotFoundError, AmbiguousError: as :meth:`mdev_definition`.
            UnsupportedError: there are callout scripts.
            KernelError: the file could not be written.
            LockBusyError: another vfiohost is changing this host.
        """
        from attrs import evolve

        from vfiohost import definitions, rooted

        with nullcontext() if dry_run else self.locked("mdev modify"):
            before = self.mdev_definition(uuid, parent)
            after = evolve(change(before), file=before.file)
            if after != before:
                self.heed_callouts("modifies", callouts=callouts)
                path, text = definitions.path_of(after), definitions.render(after)
                if not dry_run:
                    rooted.write_file(self.sysfs, path, text)
        return after

    def undefine_mdev(self, uuid: str, *, dry_run: bool = False) -> tuple[str, ...]:
        """Take the definition of a mediated device away, on every parent that has one.

        A device that exists stays. A parent's folder goes with its last definition.

        Args:
            uuid: which.
            dry_run: only look which files are to go.

        Returns:
            The paths of the files, relative to the root.

        Raises:
            ParseError: the text is no UUID.
            NotFoundError: nothing of this UUID is defined.
            KernelError: a file could not be removed.
            LockBusyError: another vfiohost is changing this host.
        """
        from vfiohost import definitions, rooted
        from vfiohost.plan.mdev import parse_uuid

        uuid = parse_uuid(uuid)
        with nullcontext() if dry_run else self.locked("mdev undefine"):
            known = self.mdev_definitions()[0]
            paths = tuple(definitions.path_of(d) for d in known if d.uuid == uuid)
            if not paths:
                raise NotFoundError("definition of a mediated device", uuid)
            for path in () if dry_run else paths:
                rooted.remove_file(self.sysfs, path, folder_too=True)
        return paths

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

    def write_validation(self, workload: Workload, checks: Iterable[Check]) -> tuple[str, ...]:
        """Write the status files of NVIDIA's validator: what is not ready has none.

        Args:
            workload: what the host is for.
            checks: what :meth:`validate` found.

        Returns:
            The files that were written, below :data:`vfiohost.validation.STATUS_FOLDER`.

        Raises:
            KernelError: one could not be written or removed.
        """
        from vfiohost.rooted import remove_file, write_file
        from vfiohost.validation import STATUS_FOLDER, WORKLOAD_FILE

        files = [f"{STATUS_FOLDER}/{WORKLOAD_FILE}"]
        write_file(self.sysfs, files[0], f"{workload}\n")
        for check in checks:
            path = f"{STATUS_FOLDER}/{check.status_file}"
            remove_file(self.sysfs, path)
            if check.is_ready:
                write_file(self.sysfs, path, "")
                files.append(path)
        return tuple(self.sysfs.shown(path) for path in files)

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
