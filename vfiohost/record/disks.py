"""Recording disks: what is made of them, and what of that is mounted or swapped to.

Names that a host's owner has chosen are replaced: volumes and arrays are counted, the UUIDs of file
systems too, and of the places of mounts only those stay that every host has.
"""

from __future__ import annotations

import posixpath
import re
from collections import defaultdict
from typing import TYPE_CHECKING

from vfiohost.holders import class_links, nodes_of, read_mounts
from vfiohost.record.names import counted_order, shown_disks
from vfiohost.record.reading import names_in, target_of, text_of
from vfiohost.recording import File

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from vfiohost.record.places import Places
    from vfiohost.sysfs import Sysfs

_BLOCK = "sys/class/block"
_NUMBERS = "sys/dev/block"
_NUMBER = re.compile(r"[0-9]{1,7}:[0-9]{1,7}")
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

    Reads ``sys/class/block``, ``sys/dev/block``, ``sys/devices/virtual/nvme-subsystem``,
    ``proc/1/mountinfo``, ``proc/swaps``, ``proc/fs/jbd2`` and ``sys/fs/btrfs``. What else `holders`
    follows (bcache, ZFS, targets, the options of a mount) is not recorded.

    Args:
        sysfs: the host.
        places: its functions.
    """
    disks = _Disks(sysfs, places)
    if disks.names:
        yield from disks.devices()
        yield from disks.file_systems()


class _Disks:
    """The block devices of one host; ``names``: those that are recorded, as they are shown."""

    def __init__(self, sysfs: Sysfs, places: Places) -> None:
        self._sysfs = sysfs
        self._places = places
        self._subsystems: dict[str, tuple[File, ...]] = {}
        self._targets, self._holders = self._found()
        self.names = shown_disks(self._targets)
        disks = {target: name for name, target in self._targets.items()}
        self._paths = {name: self._shown_path(name, disks) for name in self._targets}
        names = ((n, text_of(sysfs, f"{_BLOCK}/{n}/dm/name")) for n in counted_order(self._targets))
        self._mapped = {name: text for name, text in names if text is not None}
        self._volumes = {name: f"volume{number}" for number, name in enumerate(self._mapped)}
        self._by_node = {self._plain_node(name): name for name in self.names}
        self._by_node |= {f"/dev/mapper/{text}": name for name, text in self._mapped.items()}

    def _found(self) -> tuple[dict[str, str], dict[str, list[str]]]:
        """The directories of those of functions, and of what is made of them; who holds each."""
        targets = dict(class_links(self._sysfs, "block"))
        below = defaultdict(list)  # md0p1 of md0: those of functions are found below them anyway
        for name, target in targets.items():
            below[posixpath.dirname(target)].append(name)
        found: dict[str, str] = {}
        holders: dict[str, list[str]] = {}
        waiting = [name for name, target in targets.items() if self._is_of_function(target)]
        for name in waiting:  # grows meanwhile
            if name in found or name not in targets:
                continue
            found[name] = targets[name]
            holders[name] = names_in(self._sysfs, f"{_BLOCK}/{name}/holders")
            waiting += [*holders[name], *below[targets[name]]]
        return found, holders

    def _is_of_function(self, target: str) -> bool:
        return self._places.has(target) or bool(self._controllers(target))

    def _controllers(self, target: str) -> tuple[File, ...]:
        """The links to the controllers of a namespace that several may share."""
        match = _SUBSYSTEM.match(target)
        if match is None:
            return ()
        if match[0] not in self._subsystems:
            self._subsystems[match[0]] = tuple(self._read_controllers(match[0]))
        return self._subsystems[match[0]]

    def _read_controllers(self, subsystem: str) -> Iterator[File]:
        for name in names_in(self._sysfs, subsystem):
            if name.startswith("nvme"):
                controller = target_of(self._sysfs, f"{subsystem}/{name}")
                if controller and self._places.has(controller):
                    yield self._places.link(f"{subsystem}/{name}", controller)

    def _shown_path(self, name: str, disks: Mapping[str, str]) -> str:
        """Where a device is in the recording: a partition is in the directory of its disk."""
        above = posixpath.dirname(self._targets[name])
        if above in disks:
            above = posixpath.join(posixpath.dirname(above), self.names[disks[above]])
        return posixpath.join(above, self.names[name])

    # -- what stands in the recording

    def devices(self) -> Iterator[File]:
        for links in self._subsystems.values():
            yield from links
        for name, path in self._paths.items():
            yield self._places.link(f"{_BLOCK}/{self.names[name]}", path)
            yield File(path, None)
            for attribute in ("dev", "partition"):
                text = text_of(self._sysfs, f"{self._targets[name]}/{attribute}")
                if text is not None:
                    yield File(f"{path}/{attribute}", f"{text}\n".encode())
            yield from self._number(name, path)
            if name in self._volumes:
                yield File(f"{path}/dm/name", f"{self._volumes[name]}\n".encode())
            for holder in self._holders[name]:
                if holder in self.names:
                    above = self._paths[holder]
                    yield self._places.link(f"{path}/holders/{self.names[holder]}", above)
                    yield self._places.link(f"{above}/slaves/{self.names[name]}", path)

    def _number(self, name: str, path: str) -> Iterator[File]:
        """The link in ``sys/dev`` to a device below a function, and the name of its class."""
        target = self._targets[name]
        number = text_of(self._sysfs, f"{target}/dev") or ""
        if not self._places.has(target) or _NUMBER.fullmatch(number) is None:
            return
        subsystem = target_of(self._sysfs, f"{target}/subsystem")
        if subsystem and target_of(self._sysfs, f"{_NUMBERS}/{number}") == target:
            yield self._places.link(f"{_NUMBERS}/{number}", path)
            yield self._places.link(f"{path}/subsystem", subsystem)
            yield File(subsystem, None)

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
                yield File(f"{_JOURNALS}/{self.names[name]}", None)
        number = 0
        for uuid in names_in(self._sysfs, _BTRFS):
            members = names_in(self._sysfs, f"{_BTRFS}/{uuid}/devices")
            ours = [name for name in members if name in self.names]
            masked = f"{_BTRFS}/00000000-0000-4000-8000-{number:012}/devices"
            for name in ours:
                yield self._places.link(f"{masked}/{self.names[name]}", self._paths[name])
            number += bool(ours)

    def _mounts(self, unknown: list[str]) -> Iterator[str]:
        """Lines of ``mountinfo``, but for the options of a mount and for what is mounted of it."""
        by_number = {text_of(self._sysfs, f"{_BLOCK}/{name}/dev"): name for name in self.names}
        others: dict[str, str] = {}
        for mount in read_mounts(self._sysfs, {}, unknown):
            disk = by_number.get(mount.number)
            disk = disk or self._disk_of(mount.nodes)
            if disk is None or not mount.is_host:
                continue
            place = mount.place
            if _PLACES.fullmatch(place) is None:
                place = others.setdefault(place, f"/masked/{len(others)}")
            line = len(others) + 30
            node = self._shown_node(disk)
            yield f"{line} 1 {mount.number} / {place} rw - {mount.kind} {node} rw\n"

    def _swaps(self) -> list[str]:
        lines = (text_of(self._sysfs, "proc/swaps") or "").splitlines()[1:]
        found = []
        for line in lines:
            nodes = nodes_of(self._sysfs, line.split()[0]) if line.split() else ()
            disk = self._disk_of(nodes)
            if disk is not None:
                found.append(f"{self._shown_node(disk)}\tpartition\t1024\t0\t-2\n")
        return found

    def _disk_of(self, nodes: Iterable[str]) -> str | None:
        """The recorded device that has one of these nodes."""
        return next((self._by_node[node] for node in nodes if node in self._by_node), None)

    def _shown_node(self, name: str) -> str:
        if name in self._volumes:
            return f"/dev/mapper/{self._volumes[name]}"
        return self._plain_node(self.names[name])

    @staticmethod
    def _plain_node(name: str) -> str:
        return f"/dev/{name.replace('!', '/')}"
