"""Which devices a host calls by a name: interfaces, nodes, slots, serial numbers, UUIDs of GPUs.

Read when such a name is asked for, and then no more than it takes.
"""

from __future__ import annotations

import posixpath
import re
from difflib import get_close_matches
from typing import TYPE_CHECKING

import attrs

from vfiohost.errors import KernelError, NotFoundError
from vfiohost.model import PciAddress

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from vfiohost.model import Snapshot
    from vfiohost.selectors import ByName, NameKind
    from vfiohost.sysfs import Sysfs

_NET = "sys/class/net"
_BLOCK = "sys/class/block"
_NVME = "sys/class/nvme"
_SLOTS = "sys/bus/pci/slots"
_GPUS = "proc/driver/nvidia/gpus"
_UUID = re.compile(r"^GPU UUID:\s*(\S+)\s*$", re.MULTILINE)
_MINOR = re.compile(r"^Device Minor:\s*([0-9]{1,9})\s*$", re.MULTILINE)
_SUBSYSTEM = re.compile(r"sys/devices/virtual/nvme-subsystem/[^/]+")
# The folder of a node in dev, and the class of its device, where both have the same name.
_NODES = {"/dev": ("block", "nvme"), "/dev/dri": ("drm",), "/dev/snd": ("sound",)}
_MOST_LINKS = 8
_NEAR = 3
_WHAT: dict[NameKind, str] = {
    "interface": "network interface",
    "node": "node of a PCI device",
    "slot": "PCI slot",
    "serial": "PCI device with serial number",
    "gpu": "GPU with UUID",
}


def find_named(sysfs: Sysfs, snapshot: Snapshot, by: ByName) -> tuple[PciAddress, ...]:
    """The devices that a host calls by a name.

    Reads, by kind: ``sys/class/net``; the link that a node in ``dev`` is, ``sys/class/block`` and
    others; ``sys/bus/pci/slots/*/address``; ``serial_number`` of each function
    (``drivers/pci/pci-sysfs.c``, newer kernels) and ``sys/class/nvme/*/serial``;
    ``proc/driver/nvidia/gpus/*/information``. None of it wakes a device.

    Args:
        sysfs: the host.
        snapshot: its devices.
        by: the name.

    Returns:
        At least one address.

    Raises:
        NotFoundError: nothing has that name, or what has it belongs to no PCI device; names what is
            close.
    """
    names = _Names(sysfs, snapshot)
    match by.kind:
        case "interface":
            return names.interface(by)
        case "node":
            return names.node(by)
        case "slot":
            return names.slot(by)
        case "serial":
            return names.listed(by, names.serials())
        case "gpu":
            return names.listed(by, names.uuids())


@attrs.frozen
class _Names:
    """The names of one host."""

    sysfs: Sysfs
    snapshot: Snapshot

    def interface(self, by: ByName) -> tuple[PciAddress, ...]:
        found = self._owners(f"{_NET}/{by.name}")
        if found:
            return found
        if self.sysfs.exists(f"{_NET}/{by.name}"):
            parts = [n.removeprefix("lower_") for n in self._names(f"{_NET}/{by.name}")]
            parts = [n for n in parts if self.sysfs.exists(f"{_NET}/{by.name}/lower_{n}")]
            made = f" It is made of {', '.join(parts)}." if parts else ""
            raise self._missing(by, (), f"It belongs to no PCI device.{made}")
        disk = f"/dev/{by.name}" if self._owners(f"{_BLOCK}/{by.name}") else None
        near = get_close_matches(by.name, self._names(_NET), n=_NEAR)
        raise self._missing(by, (disk,) if disk else near)

    def node(self, by: ByName) -> tuple[PciAddress, ...]:
        node = self._followed(by.name)
        folder, name = posixpath.split(node)
        for kind in _NODES.get(folder, ()):
            entry = f"sys/class/{kind}/{name.replace('/', '!')}"
            found = self._owners(entry)
            if found:
                return found
            if self.sysfs.exists(entry):
                parts = self._names(f"{entry}/slaves")
                made = f" It is made of {', '.join(parts)}." if parts else ""
                raise self._missing(by, (), f"It belongs to no PCI device.{made}")
        minors = {
            f"/dev/nvidia{match[1]}": address
            for address, text in self._information()
            if (match := _MINOR.search(text))
        }
        if node in minors:
            return (minors[node],)
        known = [f"/dev/{n}" for n in self._names(_BLOCK) if self._owners(f"{_BLOCK}/{n}")]
        raise self._missing(by, get_close_matches(node, [*known, *minors], n=_NEAR))

    def slot(self, by: ByName) -> tuple[PciAddress, ...]:
        place = self._text(f"{_SLOTS}/{by.name}/address")
        if place is None:
            near = get_close_matches(by.name, self._names(_SLOTS), n=_NEAR)
            raise self._missing(by, [f"slot:{name}" for name in near])
        found = tuple(a for a in self.snapshot.pci if str(a).rpartition(".")[0] == place)
        if not found:
            raise self._missing(by, (), f"Nothing is in it ({place}).")
        return found

    def serials(self) -> Iterator[tuple[str, PciAddress]]:
        """Serial numbers as they are printed, each with its device."""
        for device in self.snapshot.devices:
            number = self._text(f"{device.path}/serial_number")
            if number:
                yield number, device.address
        for name in self._names(_NVME):
            serial = self._text(f"{_NVME}/{name}/serial")
            for address in self._owners(f"{_NVME}/{name}") if serial else ():
                yield (serial or "").strip(), address

    def uuids(self) -> Iterator[tuple[str, PciAddress]]:
        for address, text in self._information():
            if match := _UUID.search(text):
                yield match[1], address

    def listed(self, by: ByName, known: Iterable[tuple[str, PciAddress]]) -> tuple[PciAddress, ...]:
        """The devices that have a name, in upper or lower case."""
        pairs = list(known)
        found = tuple(a for name, a in pairs if name.casefold() == by.name.casefold())
        if not found:
            prefix = "serial:" if by.kind == "serial" else ""
            near = get_close_matches(by.name, [name for name, _ in pairs], n=_NEAR)
            raise self._missing(by, [f"{prefix}{name}" for name in near])
        return tuple(dict.fromkeys(found))

    # -- the ways to read

    def _owners(self, entry: str) -> tuple[PciAddress, ...]:
        """The functions that a class device belongs to: the innermost one above it.

        An NVMe namespace that several controllers may share belongs to all of them
        (``nvme_mpath_alloc_disk`` in ``drivers/nvme/host/multipath.c``).
        """
        target = self._target(entry)
        if target is None:
            return ()
        match = _SUBSYSTEM.match(target)
        if match is not None:
            links = [f"{match[0]}/{n}" for n in self._names(match[0]) if n.startswith("nvme")]
            places = [place for link in links if (place := self._target(link)) is not None]
        else:
            places = [target]
        return tuple(dict.fromkeys(a for p in places if (a := self._owner(p)) is not None))

    def _owner(self, path: str) -> PciAddress | None:
        for name in reversed(path.split("/")):
            address = PciAddress.of_name(name)
            if address is not None and address in self.snapshot.pci:
                return address
        return None

    def _information(self) -> Iterator[tuple[PciAddress, str]]:
        for name in self._names(_GPUS):
            address = self._owner(name)
            text = self._text(f"{_GPUS}/{name}/information")
            if address is not None and text is not None:
                yield address, text

    def _followed(self, node: str) -> str:
        """The node that a link in ``dev`` leads to (``/dev/disk/by-id/…``)."""
        node = posixpath.normpath(node)
        for _ in range(_MOST_LINKS):
            target = self._target(node.lstrip("/"))
            if target is None:
                break
            node = f"/{target}"
        return node

    def _target(self, link: str) -> str | None:
        """Where a link leads, as a path relative to the root; ``None`` when it is none."""
        try:
            text = self.sysfs.readlink(link)
        except KernelError:
            return None
        path = posixpath.normpath(posixpath.join("/", posixpath.dirname(link), text))
        return path.lstrip("/")

    def _text(self, path: str) -> str | None:
        try:
            return self.sysfs.read(path)
        except KernelError:
            return None

    def _names(self, path: str) -> list[str]:
        try:
            return self.sysfs.listdir(path)
        except KernelError:
            return []

    def _missing(self, by: ByName, near: Iterable[str], detail: str | None = None) -> NotFoundError:
        return NotFoundError(_WHAT[by.kind], by.name, near=tuple(near), detail=detail)
