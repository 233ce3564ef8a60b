"""One host, looked at: what there is, who uses it, what is known of a device.

Nothing here writes, and nothing here decides. :class:`vfiohost.Host` is a view that can do both.
"""

from __future__ import annotations

from errno import ENOENT, ENOTDIR
from functools import cached_property
from typing import TYPE_CHECKING, Self

from vfiohost.errors import KernelError, NotFoundError, ParseError
from vfiohost.model import PciAddress, PciDevice, Problem, Snapshot
from vfiohost.scan import scan
from vfiohost.sysfs import Sysfs

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Mapping
    from types import TracebackType

    from vfiohost.boot import BootStatus
    from vfiohost.definitions import MdevDefinition
    from vfiohost.doctor import Finding
    from vfiohost.guests.ready import Nodes, Ready
    from vfiohost.inspection import Inspection
    from vfiohost.modalias import ModuleIndex
    from vfiohost.model import MdevBus
    from vfiohost.names import PciNames
    from vfiohost.recording import Recording
    from vfiohost.selectors import ByName
    from vfiohost.usage import Usage
    from vfiohost.validation import Check, Workload
    from vfiohost.vgpus import VgpuGpu

    Device = PciDevice | PciAddress | str
    Devices = Device | Iterable[Device]
    """Devices themselves, their addresses, or selectors such as ``65:00.0``; or one of these."""

READ_TIMEOUT = 2.0
"""Seconds that reading attributes behind the device lock may take, for all devices together."""

# On Linux 6.1 the uevent of a device that is being let go does not answer until that is over
# (uevent_show() in drivers/base/core.c takes the device lock): the silence says it all.
RELEASING_TIMEOUT = 0.4
"""Seconds that a list waits for devices that may be on their way out."""

_PCI_IDS_LIMIT = 4 << 20  # bytes; the file has 1.4 million


class HostView:
    """A host below a root directory that is only read.

    Args:
        root: the directory that holds ``sys``, ``proc``, ``dev`` and so on.

    Raises:
        NotFoundError: there is no such directory.
    """

    def __init__(self, root: str | os.PathLike[str] = "/") -> None:
        self.sysfs = Sysfs(root)

    def close(self) -> None:
        """Close the root; the host is of no use afterwards."""
        self.sysfs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.root!r})"

    @property
    def root(self) -> str:
        """The root directory."""
        return self.sysfs.root

    # -- reading ---------------------------------------------------------------------------------

    def scan(self, *, mdev: bool = False) -> Snapshot:
        """Read the host. Takes no lock of the kernel and wakes no device.

        Args:
            mdev: whether to read the mediated devices too, and the virtual functions that are vGPUs
                without being any.

        Returns:
            The snapshot. One device that makes no sense is a problem in it and hides no other.
        """
        if not mdev:
            return scan(self.sysfs)
        from vfiohost.vgpu_scan import with_vgpus

        return with_vgpus(self.sysfs, scan(self.sysfs, mdev=True), timeout=READ_TIMEOUT)

    def mdev_bus(self) -> tuple[MdevBus, tuple[Problem, ...]]:
        """The mediated devices and their parents, as :meth:`scan` has them, and nothing else.

        Returns:
            Them, and what could not be read of them or makes no sense.
        """
        from vfiohost.mdev_scan import mdev_bus

        problems: list[Problem] = []
        return mdev_bus(self.sysfs, problems), tuple(problems)

    def with_details(
        self, snapshot: Snapshot, devices: Iterable[PciDevice], *, timeout: float = READ_TIMEOUT
    ) -> Snapshot:
        """Add the attributes whose reading may block: override, uevent, boot_vga.

        Args:
            snapshot: a snapshot of this host.
            devices: whose attributes.
            timeout: seconds for all of them; what gave no answer in time is ``Unavailable``.
        """
        addresses = tuple(d.address for d in devices)
        if not addresses:
            return snapshot
        from vfiohost.details_scan import with_details

        return with_details(self.sysfs, snapshot, addresses, timeout=timeout)

    def with_releasing(self, snapshot: Snapshot) -> Snapshot:
        """Add the details of the devices whose VFIO driver may be on its way out.

        These have no driver while their group's node under ``/dev/vfio`` is still there; on most
        hosts there are none, and nothing is read. What gave no answer in 0.4 s is ``Unavailable``.
        """
        driverless = [d for d in snapshot.devices if d.driver is None and d.iommu_group is not None]
        nodes = self.vfio_nodes() if driverless else {}
        leaving = [d for d in driverless if d.iommu_group in nodes]
        return self.with_details(snapshot, leaving, timeout=RELEASING_TIMEOUT)

    def vfio_nodes(self) -> Mapping[int, str]:
        """The group nodes that exist now (``/dev/vfio/12``), by IOMMU group.

        A group without an IOMMU behind it has ``/dev/vfio/noiommu-12`` (``drivers/vfio/group.c``).
        """
        try:
            names = self.sysfs.listdir("dev/vfio")
        except KernelError:
            return {}
        numbers = {name: name.removeprefix("noiommu-") for name in names}
        return {
            int(number): f"/dev/vfio/{name}"
            for name, number in numbers.items()
            if number.isascii() and number.isdecimal()
        }

    def guest_nodes(self, ready: Ready) -> Nodes:
        """The files below ``/dev`` through which guests reach what they are given.

        Files: ``dev/vfio``, ``dev/iommu``, and ``vfio-dev`` of each device.
        """
        from vfiohost.guests.ready import Nodes
        from vfiohost.nodes import MDEVS, cdev_node

        cdevs = {str(d.address): cdev_node(self.sysfs, str(d.address)) for d in ready.devices}
        cdevs |= {m.uuid: cdev_node(self.sysfs, m.uuid, devices=MDEVS) for m in ready.mdevs}
        return Nodes(
            self.vfio_nodes(),
            {name: f"/{node}" for name, node in cdevs.items() if node is not None},
            self.sysfs.exists("dev/iommu"),
        )

    def usage(
        self,
        devices: Devices = (),
        *,
        mdevs: Iterable[str] = (),
        snapshot: Snapshot | None = None,
    ) -> Usage:
        """Who uses devices, and for what: processes, mounts, interfaces, consoles.

        Args:
            devices: which; their virtual functions and mediated devices are looked at too.
            mdevs: which mediated devices besides, by UUID.
            snapshot: where to look, with the mediated devices; by default a new scan.

        Returns:
            The uses, and what could not be found out.

        Raises:
            ParseError, NotFoundError: as :meth:`select`.
        """
        from vfiohost.holders import find_usage

        snapshot = self._scanned(snapshot)
        return find_usage(self.sysfs, snapshot, self._addresses(devices, snapshot), mdevs=mdevs)

    def select(self, devices: Devices, snapshot: Snapshot | None = None) -> tuple[PciDevice, ...]:
        """The devices that are meant, each once, in the order of the request.

        Args:
            devices: selectors (``65:00.0``, ``class:gpu``, ``10de:2236``, ``group:12``, ``eth0``;
                all are in :mod:`vfiohost.selectors`), addresses, devices.
            snapshot: where to look; by default a new scan.

        Raises:
            ParseError: a text is no selector.
            NotFoundError: something hits nothing.
        """
        from vfiohost.selectors import select_all

        found = self.scan() if snapshot is None else snapshot
        return select_all(_texts(devices), found, self._lookup(found))

    def matcher(self, devices: Devices, snapshot: Snapshot) -> Callable[[PciDevice], bool]:
        """The question whether a device is meant, to ask of devices that may yet come.

        Args:
            devices: selectors, addresses, devices, as for :meth:`select`.
            snapshot: where a name, or the Nth of a set, is looked up.

        Raises:
            ParseError: a text is no selector.
            NotFoundError: there is no such name, or no Nth of a set. A set or an address that hits
                nothing is no error here.
        """
        from vfiohost.selectors import matcher

        return matcher(_texts(devices), snapshot, self._lookup(snapshot))

    def _lookup(self, snapshot: Snapshot) -> Callable[[ByName], tuple[PciAddress, ...]]:
        """Who knows the names of this host."""

        def lookup(by: ByName) -> tuple[PciAddress, ...]:
            from vfiohost.identities import find_named

            return find_named(self.sysfs, snapshot, by)

        return lookup

    def select_gpus(
        self, devices: Devices, snapshot: Snapshot | None = None
    ) -> tuple[PciAddress, ...]:
        """The NVIDIA GPUs that are meant, each once, in the order of the request.

        Args:
            devices: as for :meth:`select`; a virtual function stands for its GPU. What else a set
                hits is left out.
            snapshot: where to look; by default a new scan.

        Raises:
            ParseError: a text is no selector.
            NotFoundError: something hits nothing, or no NVIDIA GPU is among what is hit.
        """
        from vfiohost.nvidia import is_gpu
        from vfiohost.vgpus import gpu_of

        snapshot = self._scanned(snapshot)
        hit = [gpu_of(snapshot, address) for address in self._addresses(devices, snapshot)]
        found = tuple(
            a for a in dict.fromkeys(hit) if a in snapshot.pci and is_gpu(snapshot.pci[a])
        )
        if not found:
            gpus = [str(d.address) for d in snapshot.devices if is_gpu(d)]
            raise NotFoundError("NVIDIA GPU", " ".join(map(str, hit)), near=gpus[:3])
        return found

    def vgpu_gpus(
        self, devices: Devices | None = None, *, snapshot: Snapshot | None = None
    ) -> tuple[VgpuGpu, ...]:
        """The GPUs as makers of vGPUs: what each can make, where, and what it has.

        Args:
            devices: which, as for :meth:`select_gpus`; by default all.
            snapshot: the host as it is, with its mediated devices; by default a new scan.

        Raises:
            ParseError, NotFoundError: as :meth:`select_gpus`.
        """
        from vfiohost.vgpus import vgpu_gpus

        snapshot = self._scanned(snapshot)
        gpus = {gpu.address: gpu for gpu in vgpu_gpus(snapshot)}
        chosen = gpus if devices is None else self.select_gpus(devices, snapshot)
        return tuple(gpus[address] for address in chosen)

    def mdev_definitions(self) -> tuple[tuple[MdevDefinition, ...], tuple[Problem, ...]]:
        """The mediated devices that are defined with mdevctl, and files that are no definitions.

        Reads ``etc/mdevctl.d/PARENT/UUID`` below the root, and follows no link out of it. One bad
        file is a problem and hides no other.

        Raises:
            KernelError: the folder is there and cannot be read.
        """
        from vfiohost import definitions

        found: list[MdevDefinition] = []
        problems: list[Problem] = []
        for parent in self._names(definitions.FOLDER):
            folder = f"{definitions.FOLDER}/{parent}"
            for uuid in () if parent == definitions.NO_PARENT else self._names(folder):
                path = f"{folder}/{uuid}"
                try:
                    text = self.sysfs.read(path, limit=definitions.MOST_BYTES)
                    found.append(definitions.parse(text, parent, uuid))
                except (KernelError, ParseError) as error:
                    problems.append(Problem(uuid, path, str(error)))
        return tuple(found), tuple(problems)

    def mdev_definition(self, uuid: str, parent: str | None = None) -> MdevDefinition:
        """One mediated device that is defined with mdevctl.

        Args:
            uuid: which.
            parent: on this parent only, a name or an address; one UUID may be defined on several.

        Raises:
            ParseError: the text is no UUID.
            NotFoundError: nothing of this UUID is defined, or its file is no definition.
            AmbiguousError: it is defined on several parents, and none is named.
            KernelError: the folder is there and cannot be read.
        """
        from vfiohost.definitions import find_defined

        known, problems = self.mdev_definitions()
        try:
            return find_defined(known, uuid, parent)
        except NotFoundError as error:
            bad = [p.sentence for p in problems if p.subject.lower() == error.key]
            if not bad:
                raise
            raise NotFoundError(error.kind, error.key, sentence=bad[0]) from error

    def _names(self, folder: str) -> list[str]:
        """What is in a folder, in order; nothing where there is no such folder."""
        try:
            return sorted(self.sysfs.listdir(folder))
        except KernelError as error:
            if error.errno in {ENOENT, ENOTDIR}:
                return []
            raise

    def lspci(
        self,
        devices: Devices | None = None,
        *,
        snapshot: Snapshot | None = None,
        names: bool = True,
        timeout: float = READ_TIMEOUT,
    ) -> tuple[str, tuple[Problem, ...]]:
        """Say of devices what ``lspci -nnk`` prints of them, byte for byte, without it.

        Args:
            devices: which, in this order; by default all.
            snapshot: the host as it is; by default a new scan.
            names: look up names; without them, what ``lspci -nk`` prints.
            timeout: seconds that the firmware's names may take.

        Returns:
            The text (pciutils 3.9.0, which is Debian 12's), and what could not be read for it.

        Raises:
            ParseError, NotFoundError: as :meth:`select`.
        """
        from vfiohost.lspci import read_lspci
        from vfiohost.render.lspci import lspci_text

        snapshot = self.scan() if snapshot is None else snapshot
        chosen = snapshot.devices if devices is None else self.select(devices, snapshot)
        facts, problems = read_lspci(self.sysfs, snapshot, chosen, timeout=timeout)
        domains = any(device.address.domain for device in snapshot.devices)
        text = lspci_text(chosen, facts, self.names if names else None, domains=domains)
        return text, problems

    def show(
        self,
        devices: Devices,
        *,
        wake: bool = False,
        snapshot: Snapshot | None = None,
        timeout: float = READ_TIMEOUT,
    ) -> tuple[Inspection, ...]:
        """Say all that is known of devices, their configuration space with it.

        Args:
            devices: which.
            wake: read the registers of those that sleep too, which wakes them.
            snapshot: the host as it is; by default a new scan.
            timeout: seconds that what may wait may take, each time that a helper process is asked.

        Returns:
            One for each device. An ordinary user gets the first 64 bytes of a configuration space,
            in which there is no capability.

        Raises:
            ParseError, NotFoundError: as :meth:`select`.
        """
        from vfiohost.inspection import inspect

        snapshot = self.scan() if snapshot is None else snapshot
        found = self.select(devices, snapshot)
        try:
            modules = self._modules(snapshot)
        except KernelError:
            modules = None  # as where there is no list of them: the rest is still worth knowing
        return inspect(self.sysfs, snapshot, found, modules, wake=wake, timeout=timeout)

    def record(
        self, *, title: str | None = None, config: bool = False, timeout: float = READ_TIMEOUT
    ) -> Recording:
        """Record the host, so that ``vfiohost sim`` can make it again elsewhere.

        Serial numbers, MAC addresses and what else identifies the machine are not read or masked.
        ``vfiohost.recording.format`` makes a text of the recording.

        Args:
            title: one line that says what is special; by default what kind of host it is.
            config: read the configuration space too, which wakes devices.
            timeout: seconds that the attributes behind the device lock may take.

        Raises:
            KernelError: there is no PCI bus, or it cannot be listed. What else cannot be read is an
                errno in the recording, or a note.
            UnsupportedError: there is more than a recording can hold.
        """
        from datetime import UTC, datetime

        from attrs import evolve

        from vfiohost import __version__
        from vfiohost.record import MASKED_NOTE, capture, describe

        found = capture(self.sysfs, title="", source="", config=config, timeout=timeout)
        where = "" if self.sysfs.is_live() else "a directory with the files of "
        source = (
            f"recorded from {where}Linux {found.kernel or '(unknown)'} on "
            f"{datetime.now(UTC).date()} with vfiohost {__version__}; again: "
            f"vfiohost record {'--with-config ' if config else ''}FILE"
        )
        title = describe(found) if title is None else title
        return evolve(found, title=title, source=source, notes=(MASKED_NOTE, *found.notes))

    def examine(
        self,
        devices: Devices | None = None,
        *,
        snapshot: Snapshot | None = None,
        timeout: float = READ_TIMEOUT,
    ) -> tuple[Finding, ...]:
        """Look for what is in the way of giving devices to guests. Writes nothing, wakes nothing.

        Args:
            devices: which are meant for guests; by default graphics cards, accelerators, what is on
                a VFIO driver, and what can have virtual functions.
            snapshot: the host as it is, with its mediated devices; by default a new scan.
            timeout: seconds that what may wait may take, each time that a helper process is asked.

        Returns:
            What was found, worst first, with what is as it should be.

        Raises:
            ParseError, NotFoundError: as :meth:`select`.
        """
        from vfiohost.doctor import examine, guest_devices, read_facts

        snapshot = self._scanned(snapshot)
        wanted = guest_devices(snapshot) if devices is None else self._addresses(devices, snapshot)
        return examine(read_facts(self.sysfs, snapshot, wanted, timeout=timeout))

    def boot_status(self, *, snapshot: Snapshot | None = None) -> BootStatus:
        """Say what is installed for the boot, and whether it is and does what it should.

        Args:
            snapshot: the host as it is; by default a new scan.
        """
        from vfiohost.boot import check_boot

        return check_boot(self.sysfs, self.scan() if snapshot is None else snapshot)

    def validate(
        self, workload: Workload, *, snapshot: Snapshot | None = None
    ) -> tuple[Check, ...]:
        """Check what NVIDIA's validator asks of a node that has guests.

        Args:
            workload: ``vm-passthrough`` or ``vm-vgpu``.
            snapshot: the host, with its mediated devices; by default a new scan.
        """
        from vfiohost.validation import SMI, validate

        snapshot = self.scan(mdev=True) if snapshot is None else snapshot
        return validate(snapshot, workload, has_smi=any(map(self.sysfs.exists, SMI)))

    @cached_property
    def names(self) -> PciNames:
        """The names of ``pci.ids``, of the one below the root, else of this machine's, else none.

        Read once, when it is first asked for.
        """
        from vfiohost.names import WELL_KNOWN_PATHS, PciNames

        roots = [self.sysfs] if self.root == "/" else [self.sysfs, Sysfs("/")]
        for sysfs in roots:
            for path in WELL_KNOWN_PATHS:
                try:
                    return PciNames(sysfs.read_bytes(path, limit=_PCI_IDS_LIMIT))
                except KernelError:
                    continue  # names are a courtesy: another place, or numbers
        return PciNames(b"")

    def _scanned(self, snapshot: Snapshot | None) -> Snapshot:
        """A snapshot for a planner, which must know the mediated devices of what it touches."""
        return self.scan(mdev=True) if snapshot is None else snapshot

    def _addresses(self, devices: Devices, snapshot: Snapshot) -> tuple[PciAddress, ...]:
        return tuple(d.address for d in self.select(devices, snapshot))

    def _modules(self, snapshot: Snapshot) -> ModuleIndex | None:
        from vfiohost.module_scan import read_modules

        return read_modules(self.sysfs, snapshot.kernel) if snapshot.kernel else None


def _texts(devices: Devices) -> list[str]:
    """Devices as selectors."""
    many = (devices,) if isinstance(devices, PciDevice | PciAddress | str) else devices
    return [str(d.address) if isinstance(d, PciDevice) else str(d) for d in many]
