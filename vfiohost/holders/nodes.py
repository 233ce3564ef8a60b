"""The nodes in ``dev`` that processes open, and whose they are."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING

from vfiohost.holders.processes import VFIO_DEVICE
from vfiohost.holders.reading import class_links, names_in, target_of, text_of
from vfiohost.holders.storage import disks_of, stacks
from vfiohost.holders.subjects import owners
from vfiohost.usage import Use

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from vfiohost.holders.processes import OpenFile, Processes
    from vfiohost.holders.subjects import Subject
    from vfiohost.sysfs import Sysfs
    from vfiohost.usage import UseKind

# Classes that have a folder of their own in dev: what their devnode functions say.
_FOLDERS = {
    "accel": "accel/",
    "bsg": "bsg/",
    "drm": "dri/",
    "infiniband_mad": "infiniband/",
    "infiniband_verbs": "infiniband/",
    "input": "input/",
    "sound": "snd/",
    "usbmisc": "usb/",
}
_NUMBER = re.compile(r"[0-9]{1,10}:[0-9]{1,10}")
_MOST_NUMBERS = 1 << 17
_NVIDIA_GPUS = "proc/driver/nvidia/gpus"
_MINOR = re.compile(r"^Device Minor:\s*([0-9]{1,9})\s*$", re.MULTILINE)
_NVIDIA_NODE = re.compile(r"/dev/nvidia[0-9]+")
_MOST_NVIDIA_NODES = 256
_VGPU_NODES = ("/dev/nvidia-vgpuctl", *(f"/dev/nvidia-vgpu{n}" for n in range(256)))
# Classes whose entries lie below their device's directory, and where their nodes are.
_CLASSES: tuple[tuple[str, str, UseKind], ...] = (
    ("drm", "/dev/dri/", "drm"),
    ("graphics", "/dev/", "drm"),
    ("sound", "/dev/snd/", "sound"),
    ("nvme", "/dev/", "storage-user"),
    ("nvme-generic", "/dev/", "storage-user"),
    ("scsi_generic", "/dev/", "storage-user"),
)


class Nodes:
    """The nodes of some devices, but those of VFIO.

    Args:
        sysfs: the host.
        subjects: the devices.

    Attributes:
        names: all that is to be looked for among the open files, with the nodes of VFIO.
        incomplete: what could not be found out.
    """

    def __init__(self, sysfs: Sysfs, subjects: Sequence[Subject]) -> None:
        self.incomplete: list[str] = []
        self._owners: dict[str, list[tuple[str, UseKind]]] = defaultdict(list)
        functions = [s for s in subjects if s.device is not None]
        for kind_of_class, folder, kind in _CLASSES:
            for name, path in class_links(sysfs, kind_of_class, self.incomplete):
                for subject in owners(sysfs, path, functions):
                    self._add(f"{folder}{name}", subject.name, _kind(kind, name))
        for subject_name, disks in disks_of(sysfs, functions, self.incomplete).items():
            for disk, _, _ in stacks(sysfs, disks):
                self._add(f"/dev/{disk}", subject_name, "storage-user")
        self._add_nvidia(sysfs, [s for s in functions if _is_on_nvidia(s)])
        self._add_others(sysfs, functions)
        vfio = [node for subject in subjects for node in vfio_nodes(subject)]
        self.names = frozenset((*self._owners, *vfio, VFIO_DEVICE))

    def uses(self, processes: Processes) -> Iterator[Use]:
        """What processes have open of these nodes.

        A process that has a node open many times (CUDA has ``/dev/nvidia0`` some 20 times) uses it
        once.
        """
        for node, users in self._owners.items():
            first: dict[int, OpenFile] = {}
            for file in processes.files.get(node, ()):
                first.setdefault(file.process.pid, file)
            for subject, kind in users:
                for file in first.values():
                    yield Use(kind, subject, f"has {node} open", file.via, file.process)

    def _add(self, node: str, subject: str, kind: UseKind) -> None:
        self._owners[node].append((subject, kind))

    def _add_others(self, sysfs: Sysfs, functions: Sequence[Subject]) -> None:
        """Nodes of any class (a serial line, a camera, an InfiniBand device, a USB device).

        ``sys/dev`` has each device that has a number, as a link to its directory
        (``device_create_sys_dev_entry`` in ``drivers/base/core.c``). Names are as the ``devnode``
        of a class makes them; ``uevent``, which has them too, takes the device lock.
        """
        for kind in ("char", "block") if functions else ():
            numbers = names_in(sysfs, f"sys/dev/{kind}", self.incomplete)
            if len(numbers) > _MOST_NUMBERS:
                self.incomplete.append(f"Only {_MOST_NUMBERS} of /sys/dev/{kind} were looked at.")
            for number in numbers[:_MOST_NUMBERS]:
                path = target_of(sysfs, f"sys/dev/{kind}/{number}")
                path = path if _NUMBER.fullmatch(number) else None
                for subject in owners(sysfs, path, functions) if path else ():
                    node = _node_of(sysfs, path or "", number)
                    if node is not None and node not in self._owners:
                        self._add(node, subject.name, "node")

    def _add_nvidia(self, sysfs: Sysfs, functions: Sequence[Subject]) -> None:
        """Number N of ``/dev/nvidiaN`` is the order of probing: only the driver tells whose it is.

        ``proc/driver/nvidia/gpus/ADDRESS/information`` of NVIDIA's driver says ``Device Minor``.
        """
        unknown = []
        for subject in functions:
            path = f"{_NVIDIA_GPUS}/{subject.name}/information"
            found = _MINOR.search(text_of(sysfs, path, self.incomplete) or "")
            if found is not None:
                self._add(f"/dev/nvidia{int(found[1])}", subject.name, "nvidia-user")
            elif subject.physfn is None:
                unknown.append(subject.name)
            for node in _VGPU_NODES:
                self._add(node, subject.name, "vgpu-manager")
        nodes = [f"/dev/{n}" for n in names_in(sysfs, "dev") if _NVIDIA_NODE.fullmatch(f"/dev/{n}")]
        if unknown and nodes:
            self.incomplete.append(
                f"/{_NVIDIA_GPUS} does not say which node of /dev is that of {', '.join(unknown)}: "
                f"who has it open is not known."
            )


def _node_of(sysfs: Sysfs, path: str, number: str) -> str | None:
    """Where the node of a device is; ``None`` for those of VFIO, which are looked at by themselves.

    Args:
        sysfs: the host.
        path: the device's directory.
        number: its number, as ``MAJOR:MINOR``.
    """
    name = path.rpartition("/")[2]
    of_class = (target_of(sysfs, f"{path}/subsystem") or "").rpartition("/")[2]
    if of_class == "vfio-dev":
        return None
    if of_class == "usb":  # usb_devnode in drivers/usb/core/usb.c
        minor = int(number.partition(":")[2])
        return f"/dev/bus/usb/{minor // 128 + 1:03}/{minor % 128 + 1:03}"
    return f"/dev/{_FOLDERS.get(of_class, '')}{name.replace('!', '/')}"


def vfio_nodes(subject: Subject) -> tuple[str, ...]:
    """The nodes through which VFIO gives a device away, its group's first."""
    groups: tuple[str, ...] = ()
    if subject.group is not None and subject.may_be_on_vfio:
        groups = (f"/dev/vfio/{subject.group}", f"/dev/vfio/noiommu-{subject.group}")
    return (*groups, *(f"/dev/vfio/devices/{name}" for name in subject.cdevs))


def vfio_uses(sysfs: Sysfs, subjects: Iterable[Subject], processes: Processes) -> Iterator[Use]:
    """The processes that have devices open through VFIO.

    Which device of a group is open no link says: ``enable`` of a device on vfio-pci is 1 while it
    is open, and only then (``vfio_pci_core_enable`` in ``drivers/vfio/pci/vfio_pci_core.c``). So a
    device is found to be open even where no process shows that has it.
    """
    for subject in subjects:
        if not subject.may_be_on_vfio:
            continue
        files = [file for node in vfio_nodes(subject) for file in processes.files.get(node, ())]
        files += processes.devices(subject.path)
        enable = f"sys/bus/pci/devices/{subject.name}/enable"
        is_told = subject.device is not None and not subject.brings_vfio
        is_open = text_of(sysfs, enable) not in ("0", None) if is_told else bool(files)
        if is_open and subject.is_on_vfio and not files:
            yield from _unseen(subject, f"/{enable}", processes)
        seen: set[int] = set()
        for file in files:
            if file.process.pid not in seen:
                seen.add(file.process.pid)
                yield _vfio_use(subject, file, is_open=is_open)


def _vfio_use(subject: Subject, file: OpenFile, *, is_open: bool) -> Use:
    is_cdev = file.target.startswith("/dev/vfio/devices/")
    if is_cdev or file.target == VFIO_DEVICE:
        # To have the node open is enough to keep its driver (vfio_device_fops_cdev_open).
        return Use("vfio-user", subject.name, f"has {file.target} open", file.via, file.process)
    if is_open:
        detail = f"has it open through {file.target}"
        return Use("vfio-user", subject.name, detail, file.via, file.process)
    detail = f"has its group open ({file.target}), but not the device"
    return Use("vfio-group", subject.name, detail, file.via, file.process)


def _unseen(subject: Subject, via: str, processes: Processes) -> Iterator[Use]:
    """A device that is open, while no process has its group's node."""
    detail = "it is open through VFIO (enable is 1), and no process shows that has its group open"
    yield Use("vfio-user", subject.name, detail, via)
    pids = set()
    for file in processes.files.get(VFIO_DEVICE, ()):
        if file.process.pid not in pids:
            pids.add(file.process.pid)
            detail = "has a VFIO device open, and nothing says that it is another one"
            yield Use("vfio-user", subject.name, detail, file.via, file.process)


def _kind(kind: UseKind, name: str) -> UseKind:
    return "sound-control" if kind == "sound" and name.startswith("controlC") else kind


def _is_on_nvidia(subject: Subject) -> bool:
    return subject.device is not None and subject.device.driver == "nvidia"
