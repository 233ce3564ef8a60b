"""The simulated kernel: a directory that answers stores as Linux does."""

from __future__ import annotations

import errno
import os
import threading
import time
from typing import TYPE_CHECKING, Literal, Self, TypeVar

import attrs

from vfiohost import recording as recordings
from vfiohost.errors import KernelError, NotFoundError, StoreTimeoutError, UnsupportedError
from vfiohost.model import SRIOV_MANAGE
from vfiohost.native.helpers import never
from vfiohost.sysfs import Sysfs
from vfiohost.testing import cdevs, nvidia_proc, processes, vendor_vgpu
from vfiohost.testing.boot import boot
from vfiohost.testing.dispatch import open_attribute, submit
from vfiohost.testing.doorbell import Doorbell
from vfiohost.testing.expansion import expand
from vfiohost.testing.holders import Cdev, Holder, Iommufd, holder_of
from vfiohost.testing.machine import AnswerError
from vfiohost.testing.session import Simulation, create_marker, is_marked
from vfiohost.testing.state import Fault, Pending
from vfiohost.testing.tree import open_directory

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from vfiohost.errors import KernelOp
    from vfiohost.native.helpers import GiveUp
    from vfiohost.recording import Recording
    from vfiohost.testing.machine import Machine
    from vfiohost.testing.state import OpenFile, Verb

_POLL = 0.01  # seconds between two looks at a pending store
_QEMU = "/usr/bin/qemu-system-x86_64"
_OPS: dict[Verb, KernelOp] = {"store": "write", "load": "load", "unload": "unload"}
_Result = TypeVar("_Result")
_Held = TypeVar("_Held", bound=Holder)


@attrs.frozen
class Answer:
    """What the simulated kernel was asked, and what it said.

    Attributes:
        verb: ``store``, or ``load`` and ``unload`` for a module.
        path: the attribute as the caller named it, or the module.
        value: what was written; empty for a module.
        errno: 0 for success, a positive errno, or ``None`` while it is pending.
    """

    verb: Verb
    path: str
    value: str
    errno: int | None


class OpenAttribute:
    """An attribute that somebody has opened for writing. As a context: closes it at the end.

    It belongs to the device that was there when it was opened, not to one that comes in its place.
    """

    def __init__(self, kernel: SimulatedKernel, path: str, resolved: str) -> None:
        self._kernel = kernel
        self._path = path
        self.resolved = resolved
        self._folder = self._open_folder()

    def write(self, value: str, *, timeout: float) -> None:
        """Write once; see :meth:`SimulatedKernel.store`.

        Raises:
            KernelError: the kernel's answer; ENODEV when the device has gone meanwhile.
            StoreTimeoutError: no answer in time.
        """
        self._kernel._ask("store", self._path, value, timeout, opened=self)  # noqa: SLF001 - the other half of this class

    def close(self) -> None:
        """Close it. Closing twice is harmless."""
        if self._folder >= 0:
            os.close(self._folder)
        self._folder = -1

    @property
    def is_still_there(self) -> bool:
        """Whether the device is still the one whose attribute was opened."""
        try:
            now = self._open_folder()
        except OSError:
            return False
        try:
            return os.path.samestat(os.fstat(now), os.fstat(self._folder))
        finally:
            os.close(now)

    def _open_folder(self) -> int:
        return open_directory(self._kernel.sysfs.fd, os.path.dirname(self.resolved))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def create(recording: Recording, directory: str | os.PathLike[str]) -> SimulatedKernel:
    """Make a simulated host of a recording.

    Args:
        recording: the host.
        directory: a new or empty directory.

    Returns:
        The kernel of that host. The directory keeps its state; open it again with
        :class:`SimulatedKernel`, from any process.

    Raises:
        ParseError: the recording cannot be made a directory.
        UnsupportedError: the directory is not empty.
        OSError: it cannot be made or written.
    """
    expand(recording, directory)
    with Sysfs(directory) as sysfs:
        create_marker(sysfs.fd, recordings.format(recording))
        with Simulation(sysfs).session() as machine:
            processes.start_init(machine)
    return SimulatedKernel(directory)


def is_simulation(directory: str | os.PathLike[str]) -> bool:
    """Whether a directory is a simulated host, made by :func:`create` or ``vfiohost sim``."""
    try:
        with Sysfs(directory) as sysfs:
            return is_marked(sysfs.fd)
    except (NotFoundError, KernelError):
        return False


class SimulatedKernel:
    """The kernel of a simulated host; it has the methods of :class:`vfiohost.sysfs.Kernel`.

    Args:
        root: the directory of the host.

    Attributes:
        root: the directory.
        sysfs: what reads it.
        give_up: see :class:`vfiohost.sysfs.Kernel`.

    Raises:
        NotFoundError: there is no such directory.
        UnsupportedError: it is no simulated host.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = os.fspath(root)
        self.sysfs = Sysfs(root)
        self._simulation = Simulation(self.sysfs)
        self.give_up: GiveUp = never
        self._callbacks: list[Callable[[str, str], object]] = []
        self._telling = threading.RLock()
        self._is_telling = False
        with self._simulation.session() as machine:  # finishes what a killed caller has begun
            boot(machine)

    # ---- the kernel's side ----------------------------------------------------------------------

    def check_writable(self) -> None:
        """A simulation can always be written."""

    def store(
        self,
        path: str,
        value: str,
        *,
        timeout: float,
        keep_fd: int | None = None,  # noqa: ARG002 - part of the protocol
        as_root: bool = True,
    ) -> None:
        """Store a value in an attribute, with one ``open(2)`` and one ``write(2)``.

        Args:
            path: the attribute, relative to the root.
            value: the text; no newline is added.
            timeout: seconds to wait for a store that blocks.
            keep_fd: of no meaning here: a pending store is part of the simulation's state.
            as_root: whether root does it, or a user to whom nothing in sysfs belongs.

        Raises:
            KernelError: the kernel's answer.
            StoreTimeoutError: no answer in time; the store goes on when what it waits for is
                closed. There is no helper process: its ``pid`` is ``None``.
            UnsupportedError: the path is not below ``sys``.
        """
        self._ask("store", path, value, timeout, as_root=as_root)

    def open_attribute(self, path: str) -> OpenAttribute:
        """Open an attribute for writing, as root, to write to it later.

        Raises:
            KernelError: as open(2) would.
            UnsupportedError: the path is not below ``sys``.
        """
        with self._simulation.session() as machine:
            self._check_sysfs(machine, path)
            try:
                resolved = open_attribute(machine, path)
            except AnswerError as answer:
                raise KernelError("open", answer.errno, self.sysfs.shown(path)) from None
        return OpenAttribute(self, path, resolved)

    def load_module(
        self,
        name: str,
        *,
        timeout: float,
        keep_fd: int | None = None,  # noqa: ARG002 - part of the protocol
    ) -> None:
        """Load a module and those that it needs, as ``modprobe`` would; ``keep_fd`` as in a store.

        Raises:
            KernelError: the host has no such module (ENOENT), or a fault was injected.
            StoreTimeoutError: a delay was injected that is longer.
        """
        self._ask("load", name, "", timeout)

    def unload_module(self, name: str, *, timeout: float) -> None:
        """Unload a module as ``modprobe -r`` would, with those that it alone needs.

        Its drivers let go of all their devices, its mediated devices go without a word.

        Raises:
            KernelError: the host has no such module, or it is built in (ENOENT); it is in use, by
                an open device or by other modules (EBUSY); or a fault was injected.
            StoreTimeoutError: a delay was injected that is longer.
        """
        self._ask("unload", name, "", timeout)

    # ---- open files of other processes ----------------------------------------------------------

    def open_device(
        self,
        address: str,
        *,
        pid: int | None = None,
        command: str | Sequence[str] = _QEMU,
        noiommu: bool = False,
        options: str = "",
    ) -> Holder:
        """Let a process open a PCI device through VFIO, with its group and a container.

        A process that has the group open already only asks for the device.

        Args:
            address: a device that a VFIO driver is bound to.
            pid: the process; by default a new one.
            command: its command line, as one word or several.
            noiommu: what type of container it asks for: ``VFIO_NOIOMMU_IOMMU``, as DPDK does for a
                device without an IOMMU, or type 1, as QEMU does.
            options: what follows the address in ``VFIO_GROUP_GET_DEVICE_FD``: ``vf_token=UUID`` for
                functions of a card whose physical function is on vfio-pci.

        Raises:
            NotFoundError: no such device.
            KernelError: as open(2) or ioctl(2) would: ENOENT (no group node), EBUSY (another
                process has the group, or a cdev of it is bound), EPERM (a sibling's driver uses the
                group), ENODEV (not on VFIO any more; a container of the other type), EINVAL (the
                process has the group open, but in no container; an option makes no sense), EACCES
                (a token is wrong or missing).
        """
        caller = _Caller(pid, command, noiommu=noiommu, options=options)
        return self._open_device("PCI device", address, caller)

    def open_mdev(
        self, uuid: str, *, pid: int | None = None, command: str | Sequence[str] = _QEMU
    ) -> Holder:
        """Let a process open a mediated device; see :meth:`open_device`."""
        return self._open_device("mediated device", uuid, _Caller(pid, command))

    def open_cdev(
        self, name: str, *, pid: int | None = None, command: str | Sequence[str] = _QEMU
    ) -> Cdev:
        """Let a process open a device by its own node, ``dev/vfio/devices/vfioN``.

        Args:
            name: the address of a PCI device, or the UUID of a mediated one.
            pid: see :meth:`open_device`.
            command: see :meth:`open_device`.

        Raises:
            NotFoundError: no such device.
            KernelError: ENOENT: it is not on VFIO, or this kernel has no such nodes. It has them
                when the module ``iommufd`` was recorded, or ``dev/iommu``.
        """
        kind = "PCI device" if ":" in name else "mediated device"
        return self._open(kind, name, _Caller(pid, command), cdevs.open_cdev, Cdev)

    def open_iommufd(
        self, *, pid: int | None = None, command: str | Sequence[str] = _QEMU
    ) -> Iommufd:
        """Let a process open ``dev/iommu``.

        Raises:
            KernelError: ENOENT: this kernel has none.
        """
        caller = _Caller(pid, command)
        return self._hold(
            lambda machine: cdevs.open_iommufd(machine, caller.opener(machine)), Iommufd
        )

    def open_group(
        self,
        group: int,
        *,
        pid: int | None = None,
        command: str | Sequence[str] = _QEMU,
        owned: bool = True,
    ) -> Holder:
        """Let a process open a group's node, and no device in it.

        Args:
            group: the IOMMU group.
            pid: see :meth:`open_device`.
            command: see :meth:`open_device`.
            owned: it puts the group into a container, too, and so owns its DMA.

        Raises:
            KernelError: see :meth:`open_device`.
        """
        caller = _Caller(pid, command)
        return self._hold(
            lambda machine: processes.open_group(
                machine, group, caller.opener(machine), owned=owned
            ),
            Holder,
        )

    @property
    def holders(self) -> tuple[Holder, ...]:
        """Everything that is open, whichever process of ours opened it."""
        with self._simulation.session() as machine:
            return tuple(holder_of(self, file) for file in machine.state.open_files)

    # ---- faults ---------------------------------------------------------------------------------

    def refuse(
        self,
        path_glob: str,
        number: int,
        *,
        count: int | None = 1,
        op: Literal["open", "write"] = "write",
    ) -> None:
        """Answer the next stores that match with an errno, without any effect.

        Faults are kept in the directory: other processes meet them too. A module load is matched
        as ``module/NAME``, and so is its unloading.

        Args:
            path_glob: as in :mod:`fnmatch`; ``*`` matches slashes too. The path is compared as the
                caller gives it and without its links.
            number: a positive errno.
            count: how often; ``None`` for always.
            op: whether opening or writing is refused.
        """
        self._inject(Fault(path_glob, "refuse", errno=number, op=op, count=count))

    def ignore(self, path_glob: str, *, count: int | None = 1) -> None:
        """Answer the next stores that match with success, without any effect."""
        self._inject(Fault(path_glob, "ignore", count=count))

    def delay(self, path_glob: str, seconds: float, *, count: int | None = 1) -> None:
        """Let the next stores that match take a while before the kernel begins with them."""
        self._inject(Fault(path_glob, "delay", seconds=seconds, count=count))

    def fail_probe(self, driver_glob: str, address_glob: str, number: int) -> None:
        """Let a driver's probe of a device always fail with an errno."""
        with self._simulation.session() as machine:
            machine.state.failing_probes.append((driver_glob, address_glob, number))

    def limit_vfs(self, address: str, most: int) -> None:
        """Let a physical function's driver enable no more virtual functions than this.

        A store of a larger number still succeeds, as in ``sriov_numvfs_store``.
        """
        with self._simulation.session() as machine:
            machine.state.most_vfs[address] = most

    def set_vgpu_heterogeneous_mode(self, address: str, *, enabled: bool = True) -> None:
        """Let a card carry vGPUs of different types, as ``nvidia-smi vgpu -shm 1`` does.

        It is for cards whose virtual functions take types, and ends when the driver is unbound.

        Raises:
            KernelError: ENODEV (the driver ``nvidia`` does not have the card), EBUSY (it carries a
                vGPU).
        """
        with self._simulation.session() as machine:
            number = vendor_vgpu.set_heterogeneous(machine, address, enabled=enabled)
        if number:
            raise KernelError("ioctl", number, self.sysfs.shown("dev/nvidiactl"))

    def clear_faults(self) -> None:
        """Forget all faults, failing probes and limits."""
        with self._simulation.session() as machine:
            machine.state.faults.clear()
            machine.state.failing_probes.clear()
            machine.state.most_vfs.clear()

    def after_store(self, callback: Callable[[str, str], object]) -> None:
        """Call a function with path and value after each store through this object that succeeds.

        One call at a time, in the thread that stores. The function may store itself; it is not
        called for its own stores.
        """
        self._callbacks.append(callback)

    def subscribe(self) -> Doorbell:
        """Listen from now on to what changes here, whichever process changes it.

        Raises:
            KernelError: this user has no inotify instance left.
        """
        return Doorbell(self.sysfs)

    # ---- what happened --------------------------------------------------------------------------

    @property
    def answers(self) -> tuple[Answer, ...]:
        """Every store and module load so far, in order, by whichever process."""
        lines = self._simulation.log()
        numbers = {line["number"]: line["errno"] for line in lines}
        return tuple(
            Answer(line["verb"], line["path"], line["value"], numbers[line["number"]])
            for line in lines
            if "verb" in line
        )

    @property
    def stores(self) -> list[tuple[str, str]]:
        """Path and value of every store so far, refused ones included, by whichever process."""
        return [(each.path, each.value) for each in self.answers if each.verb == "store"]

    @property
    def loads(self) -> list[str]:
        """The modules whose loading was asked for so far."""
        return [each.path for each in self.answers if each.verb == "load"]

    @property
    def pending(self) -> list[tuple[str, str]]:
        """Path, without links, and value of the stores that have not come back."""
        with self._simulation.session() as machine:
            return [(each.path, each.value) for each in machine.state.pending]

    # ---- inner ----------------------------------------------------------------------------------

    def _ask(
        self,
        verb: Verb,
        path: str,
        value: str,
        timeout: float,
        *,
        as_root: bool = True,
        opened: OpenAttribute | None = None,
    ) -> None:
        """Submit, wait for the answer, and say it."""
        began = time.monotonic()
        shown = self.sysfs.shown(path) if verb == "store" else path
        with self._simulation.session() as machine:
            operation = Pending(machine.state.take_number(), verb, path, value, as_root=as_root)
            refusal = self._submit(machine, operation, path, opened)
            waits = operation.number in {each.number for each in machine.state.pending}
        if refusal is not None:
            said = None if refusal.op == "run" else value or None
            raise KernelError(refusal.op, refusal.errno, shown, said)
        if waits:
            number = self._await(operation.number, began, timeout)
            if number is None:
                raise StoreTimeoutError(shown, value, None, time.monotonic() - began)
            if number:
                raise KernelError(_OPS[verb], number, shown, value)
        self._tell(verb, path, value)

    def _submit(
        self, machine: Machine, operation: Pending, path: str, opened: OpenAttribute | None
    ) -> AnswerError | None:
        if operation.verb == "store":
            self._check_sysfs(machine, path)
        refusal: AnswerError | None
        if opened is None:
            refusal = submit(machine, operation, path)
        elif opened.is_still_there:
            operation.path = opened.resolved
            refusal = submit(machine, operation, path, is_open=True)
        else:
            refusal = AnswerError(errno.ENODEV)
        waits = operation in machine.state.pending
        answer = refusal.errno if refusal is not None else None if waits else 0
        machine.log.append(
            {
                "number": operation.number,
                "verb": operation.verb,
                "path": path,
                "value": operation.value,
                "errno": answer,
            }
        )
        return refusal

    def _check_sysfs(self, machine: Machine, path: str) -> None:
        try:
            resolved = machine.tree.resolve(path)
        except OSError:
            return  # the kernel's answer to opening it, then
        other = nvidia_proc.LOCK.fullmatch(resolved) or resolved == SRIOV_MANAGE
        if resolved != "sys" and not resolved.startswith("sys/") and not other:
            raise UnsupportedError(
                f"{self.sysfs.shown(path)} is not below sys: a store there would reach no kernel."
            )

    def _await(self, number: int, began: float, timeout: float) -> int | None:
        """The errno of a pending operation when it has ended, or ``None``: it has not."""
        try:
            while True:
                with self._simulation.session() as machine:
                    answer = machine.state.results.pop(str(number), None)
                if answer is not None:
                    return answer
                if time.monotonic() >= began + timeout or self.give_up(began):
                    return None
                time.sleep(_POLL)
        finally:
            with self._simulation.session() as machine:
                machine.state.results.pop(str(number), None)
                for pending in machine.state.pending:
                    pending.abandoned = pending.abandoned or pending.number == number

    def _tell(self, verb: Verb, path: str, value: str) -> None:
        if verb != "store" or not self._callbacks:
            return
        with self._telling:
            if self._is_telling:
                return  # a store of a callback's own
            self._is_telling = True
            try:
                for callback in tuple(self._callbacks):
                    callback(path, value)
            finally:
                self._is_telling = False

    def _inject(self, fault: Fault) -> None:
        with self._simulation.session() as machine:
            machine.state.faults.append(fault)

    def _open_device(self, kind: str, name: str, caller: _Caller) -> Holder:
        return self._open(kind, name, caller, processes.open_device, Holder)

    def _open(
        self,
        kind: str,
        name: str,
        caller: _Caller,
        rule: Callable[[Machine, str, str, processes.Opener], OpenFile],
        holder: type[_Held],
    ) -> _Held:
        def opens(machine: Machine) -> OpenFile:
            find = machine.pci_path if kind == "PCI device" else machine.mdev_path
            path = find(name)
            if path is None:
                raise NotFoundError(kind, name)
            return rule(machine, name, path, caller.opener(machine))

        return self._hold(opens, holder)

    def _hold(self, opens: Callable[[Machine], OpenFile], holder: type[_Held]) -> _Held:
        return self._ioctl(lambda machine: holder(self, opens(machine)))

    def _ioctl(self, rule: Callable[[Machine], _Result]) -> _Result:
        """Do what a process asks for, and say a refusal as the kernel's."""
        try:
            with self._simulation.session() as machine:
                return rule(machine)
        except processes.OpenError as error:
            shown = self.sysfs.shown(error.path)
            raise KernelError(error.op, error.errno, shown, error.ioctl) from None

    def _close(self, number: int) -> None:
        with self._simulation.session() as machine:
            processes.close(machine, number)


@attrs.frozen
class _Caller:
    """The process that a caller of ours means; ``pid`` is ``None`` for a new one."""

    pid: int | None
    command: str | Sequence[str]
    noiommu: bool = attrs.field(default=False, kw_only=True)
    options: str = attrs.field(default="", kw_only=True)

    def opener(self, machine: Machine) -> processes.Opener:
        command = (self.command,) if isinstance(self.command, str) else tuple(self.command)
        pid = processes.free_pid(machine) if self.pid is None else self.pid
        return processes.Opener(pid, command, self.noiommu, self.options)
