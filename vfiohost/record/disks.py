"""Recording disks: what is made of them, and what of that is mounted or swapped to.

Names that a host's owner has chosen are replaced: volumes are counted, the UUIDs of file systems
too, and of the places of mounts only those stay that every host has.
"""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING

from vfiohost.holders import class_links, nodes_of, read_mounts
from vfiohost.record.reading import names_in, target_of, text_of
from vfiohost.recording import File

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vfiohost.record.places import Places
    from vfiohost.sysfs import Sysfs

_BLOCK = "sys/class/block"
_SUBSYSTEM = re.compile(r"sys/devices/virtual/nvme-subsystem/[^/]+")
_MOUNTS = "proc/self/mountinfo"
_JOURNALS = "proc/fs/jbd2"
_BTRFS = "sys/fs/btrfs"
_SWAPS_HEADER = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
_PLACES = re.compile(
    r"/|/(?:boot|boot/efi|efi|etc|home|media|mnt|opt|root|srv|tmp|usr|usr/local|var"
    r"|var/(?:cache|lib|lib/(?:containers|docker|kubelet|libvirt|libvirt/images)|log|tmp))"
)


def read_disks(sysfs: Sysfs, places: Places) -> Iterator[File]:
    """The block devices of functions, and all that is made of them.

    Reads ``sys/class/block``, ``sys/devices/virtual/nvme-subsystem``, ``proc/1/mountinfo``,
    ``proc/swaps``, ``proc/fs/jbd2`` and ``sys/fs/btrfs``. What else `holders` follows (bcache, ZFS,
    targets, the options of a mount) is not recorded.

    Args:
        sysfs: the host.
        places: its functions.
    """
    disks = _Disks(sysfs, places)
    if disks.names:
        yield from disks.devices()
        yield from disks.file_systems()


class _Disks:
    """The block devices of one host; ``names``: those that are recorded, with their directory."""

    def __init__(self, sysfs: Sysfs, places: Places) -> None:
        self._sysfs = sysfs
        self._places = places
        self._targets = dict(class_links(sysfs, "block"))
        self.names: dict[str, str] = {}
        self._mapped: dict[str, str] = {}
        waiting = [name for name, target in self._targets.items() if self._is_of_function(target)]
        while waiting:
            name = waiting.pop(0)
            if name in self.names or name not in self._targets:
                continue
            self.names[name] = self._targets[name]
            if text_of(sysfs, f"{_BLOCK}/{name}/dm/name") is not None:
                self._mapped[name] = f"volume{len(self._mapped)}"
            waiting += [*self._holders(name), *self._partitions(name)]

    def _is_of_function(self, target: str) -> bool:
        return self._places.has(target) or next(self._controllers(target), None) is not None

    def _controllers(self, target: str) -> Iterator[File]:
        """The links to the controllers of a namespace that several may share."""
        match = _SUBSYSTEM.match(target)
        if match is None:
            return
        for name in names_in(self._sysfs, match[0]):
            controller = target_of(self._sysfs, f"{match[0]}/{name}")
            if name.startswith("nvme") and controller and self._places.has(controller):
                yield self._places.link(f"{match[0]}/{name}", controller)

    def _holders(self, name: str) -> list[str]:
        return names_in(self._sysfs, f"{_BLOCK}/{name}/holders")

    def _partitions(self, name: str) -> list[str]:
        """``md0p1`` of ``md0``: those of functions are found below them anyway."""
        path = self._targets[name]
        return [other for other, at in self._targets.items() if posixpath.dirname(at) == path]

    # -- what stands in the recording

    def devices(self) -> Iterator[File]:
        for name, path in self.names.items():
            yield self._places.link(f"{_BLOCK}/{name}", path)
            yield File(path, None)
            yield from self._controllers(path)
            for attribute in ("dev", "partition"):
                text = text_of(self._sysfs, f"{path}/{attribute}")
                if text is not None:
                    yield File(f"{path}/{attribute}", f"{text}\n".encode())
            if name in self._mapped:
                yield File(f"{path}/dm/name", f"{self._mapped[name]}\n".encode())
            for holder in self._holders(name):
                if holder in self.names:
                    target = self.names[holder]
                    yield self._places.link(f"{path}/holders/{holder}", target)
                    yield self._places.link(f"{target}/slaves/{name}", path)

    def file_systems(self) -> Iterator[File]:
        unknown: list[str] = []
        mounted = "".join(self._mounts(unknown))
        if not unknown:
            yield File(_MOUNTS, mounted.encode())
        swaps = self._swaps()
        if swaps:
            yield File("proc/swaps", "".join([_SWAPS_HEADER, *swaps]).encode())
        for name in names_in(self._sysfs, _JOURNALS):
            if name in self.names:
                yield File(f"{_JOURNALS}/{name}", None)
        number = 0
        for uuid in names_in(self._sysfs, _BTRFS):
            members = names_in(self._sysfs, f"{_BTRFS}/{uuid}/devices")
            ours = [name for name in members if name in self.names]
            masked = f"{_BTRFS}/00000000-0000-4000-8000-{number:012}/devices"
            yield from (self._places.link(f"{masked}/{n}", self.names[n]) for n in ours)
            number += bool(ours)

    def _mounts(self, unknown: list[str]) -> Iterator[str]:
        """Lines of ``mountinfo``, but for the options of a mount and for what is mounted of it."""
        by_number = {text_of(self._sysfs, f"{_BLOCK}/{name}/dev"): name for name in self.names}
        by_node = self._by_node()
        others: dict[str, str] = {}
        for mount in read_mounts(self._sysfs, {}, unknown):
            disk = by_number.get(mount.number)
            disk = disk or next((by_node[node] for node in mount.nodes if node in by_node), None)
            if disk is None or not mount.is_host:
                continue
            place = mount.place
            if _PLACES.fullmatch(place) is None:
                place = others.setdefault(place, f"/masked/{len(others)}")
            line = len(others) + 30
            node = self._node(disk)
            yield f"{line} 1 {mount.number} / {place} rw - {mount.kind} {node} rw\n"

    def _swaps(self) -> list[str]:
        by_node = self._by_node()
        lines = (text_of(self._sysfs, "proc/swaps") or "").splitlines()[1:]
        found = []
        for line in lines:
            nodes = nodes_of(self._sysfs, line.split()[0]) if line.split() else ()
            disk = next((by_node[node] for node in nodes if node in by_node), None)
            if disk is not None:
                found.append(f"{self._node(disk)}\tpartition\t1024\t0\t-2\n")
        return found

    def _by_node(self) -> dict[str, str]:
        """The recorded devices, by each of their nodes."""
        found = {self._plain_node(name): name for name in self.names}
        for name in self._mapped:
            mapped = text_of(self._sysfs, f"{_BLOCK}/{name}/dm/name")
            found[f"/dev/mapper/{mapped}"] = name
        return found

    def _node(self, name: str) -> str:
        mapped = self._mapped.get(name)
        return self._plain_node(name) if mapped is None else f"/dev/mapper/{mapped}"

    @staticmethod
    def _plain_node(name: str) -> str:
        return f"/dev/{name.replace('!', '/')}"
