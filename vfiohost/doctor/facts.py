"""What was read of a host, as one frozen value, and how its texts are understood. Pure."""

from __future__ import annotations

import posixpath
import re
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING

import attrs

from vfiohost.doctor.findings import Evidence
from vfiohost.model import Unavailable, is_vfio_driver
from vfiohost.nvidia import is_nvswitch

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from vfiohost.config_space.values import ConfigSpace
    from vfiohost.model import IommuGroup, PciAddress, PciDevice, Snapshot

CMDLINE = "proc/cmdline"
GROUPS = "sys/kernel/iommu_groups"
VFIO_NODES = "dev/vfio"

_DISPLAY, _ACCELERATOR = 0x03, 0x12
_WORD = re.compile(r'(?:"[^"\n]*"?|[^\s"])+')
_LONGEST_SHOWN = 120


@attrs.frozen
class Own:
    """What vfiohost itself left on the host.

    Attributes:
        open: what was cut off in this boot, one text each.
        pending: what the kernel still works on, with the helper process that waits.
        damaged: journals that make no sense, with the reason.
        other_boot: how many were cut off before this boot.
        lock: who holds the lock, or held it when it was killed; ``None``: nobody.
        lock_alive: whether that process lives.
        unreadable: why the journals could not be read, or ``None``.
    """

    open: tuple[str, ...] = ()
    pending: tuple[str, ...] = ()
    damaged: tuple[str, ...] = ()
    other_boot: int = 0
    lock: str | None = None
    lock_alive: bool = False
    unreadable: str | None = None


def _frozen_files(files: Mapping[str, bytes | Unavailable]) -> Mapping[str, bytes | Unavailable]:
    return MappingProxyType(dict(files))


def _frozen_names(
    names: Mapping[str, tuple[str, ...] | Unavailable],
) -> Mapping[str, tuple[str, ...] | Unavailable]:
    return MappingProxyType(dict(names))


def _frozen_spaces(spaces: Mapping[str, ConfigSpace]) -> Mapping[str, ConfigSpace]:
    return MappingProxyType(dict(spaces))


# Not slotted: the derived views are computed once.
@attrs.frozen(slots=False)
class HostFacts:
    """A host as the checks see it.

    Attributes:
        snapshot: its functions, drivers, mediated devices; details of the ``subjects``.
        subjects: the devices that the checks are about.
        files: what files say, by path relative to the root; one that is not there is missing. Of
            many files only what matters is kept (:mod:`vfiohost.doctor.sources`).
        names: what directories hold, likewise.
        loadable: whether ``lib/modules`` has a module, by name; ``None``: there is no index.
        own: what vfiohost left.
        is_live: whether this is a running kernel's tree, and no copy of one.
        spaces: the configuration spaces that were read, by path.
    """

    snapshot: Snapshot
    subjects: tuple[PciAddress, ...] = ()
    files: Mapping[str, bytes | Unavailable] = attrs.field(factory=dict, converter=_frozen_files)
    names: Mapping[str, tuple[str, ...] | Unavailable] = attrs.field(
        factory=dict, converter=_frozen_names
    )
    loadable: Mapping[str, bool] | None = None
    own: Own = attrs.field(factory=Own)
    is_live: bool = False
    spaces: Mapping[str, ConfigSpace] = attrs.field(factory=dict, converter=_frozen_spaces)

    def __reduce__(self) -> tuple[object, ...]:
        # The read-only views of the mappings cannot be pickled; the mappings can.
        loadable = None if self.loadable is None else dict(self.loadable)
        maps = (dict(self.files), dict(self.names), loadable)
        rest = (self.own, self.is_live, dict(self.spaces))
        return (HostFacts, (self.snapshot, self.subjects, *maps, *rest))

    # -- files

    def text(self, path: str) -> str | None:
        """A file's text without spaces around it; ``None`` when it is absent or unreadable."""
        content = self.files.get(path)
        if not isinstance(content, bytes):
            return None
        return content.decode("utf-8", "backslashreplace").strip()

    def lines(self, path: str) -> list[str]:
        """The lines of a file; none when it is absent or unreadable."""
        return (self.text(path) or "").splitlines()

    def listed(self, path: str) -> tuple[str, ...] | None:
        """The names in a directory; ``None`` when it is absent or unreadable."""
        names = self.names.get(path)
        return names if isinstance(names, tuple) else None

    def below(self, directory: str) -> Iterator[tuple[str, str]]:
        """Path and text of each file that was read right below a directory."""
        for path in self.files:
            if posixpath.dirname(path) == directory and (text := self.text(path)) is not None:
                yield path, text

    def parameter(self, module: str, name: str) -> tuple[str, str | None]:
        """The path of a module's parameter and its text."""
        path = f"sys/module/{module}/parameters/{name}"
        return path, self.text(path)

    def has_module(self, name: str) -> bool:
        """Whether a module is loaded, or built in and visible."""
        return name in (self.listed("sys/module") or ())

    def saw(self, path: str, value: str | None = None) -> Evidence:
        """Evidence of a file: what it says, or that it could not be read, or is not there."""
        if value is None:
            content = self.files.get(path, self.names.get(path))
            value = self.text(path)
            if isinstance(content, Unavailable):
                value = f"could not be read ({content})"
            elif isinstance(content, tuple):
                value = " ".join(content) or "empty"
        value = "is not there" if value is None else value
        shown = " ".join(value.split()) or "empty"
        cut = shown if len(shown) <= _LONGEST_SHOWN else f"{shown[:_LONGEST_SHOWN]}…"
        return Evidence(path, cut)

    # -- the command line

    @cached_property
    def words(self) -> tuple[tuple[str, str], ...]:
        """Name (dashes as underscores) and value of each word of the kernel's command line."""
        kernel, _, _ = (self.text(CMDLINE) or "").partition(" -- ")
        pairs = (word.partition("=") for word in _WORD.findall(kernel))
        return tuple((name.replace("-", "_"), value.strip('"')) for name, _, value in pairs)

    def options(self, *names: str) -> list[str]:
        """The values that options have on the command line, in order, taken apart at commas."""
        return [part for name, value in self.words if name in names for part in value.split(",")]

    def saw_words(self, *names: str) -> Evidence:
        """Evidence of the command line: the words with these names."""
        if self.text(CMDLINE) is None:
            return self.saw(CMDLINE)
        found = [f"{n}={v}" if v else n for n, v in self.words if n in names]
        return Evidence(CMDLINE, " ".join(found) or f"has no {' or '.join(f'{n}=' for n in names)}")

    # -- devices

    @cached_property
    def devices(self) -> tuple[PciDevice, ...]:
        """The subjects that are on the host."""
        pci = self.snapshot.pci
        return tuple(pci[address] for address in self.subjects if address in pci)

    @cached_property
    def groups(self) -> Mapping[int, IommuGroup]:
        """The groups that an IOMMU made: those of VFIO's noiommu mode are none."""
        nodes = self.listed(VFIO_NODES) or ()
        return {n: g for n, g in self.snapshot.groups.items() if f"noiommu-{n}" not in nodes}

    def ports_above(self, device: PciDevice) -> tuple[PciDevice, ...]:
        """The bridges on the way to a device, from the root."""
        pci = self.snapshot.pci
        return tuple(pci[address] for address in device.above if address in pci)


def guest_devices(snapshot: Snapshot) -> tuple[PciAddress, ...]:
    """The devices that a guest is probably to be given, when nobody names any.

    These are graphics cards, accelerators and NVSwitches, what is on a VFIO driver, and what can
    have virtual functions. Virtual functions themselves are left out, and bridges.
    """
    return tuple(d.address for d in snapshot.devices if _is_for_guests(d))


def _is_for_guests(device: PciDevice) -> bool:
    if device.is_vf or device.is_bridge:
        return False
    return (
        device.base_class in (_DISPLAY, _ACCELERATOR)
        or is_nvswitch(device)
        or (isinstance(device.driver, str) and is_vfio_driver(device.driver))
        or isinstance(device.total_vfs, int)
    )


def number(text: str | None) -> int | None:
    """A decimal number, or ``None``."""
    good = text is not None and text.isascii() and text.isdecimal() and len(text) <= 20  # noqa: PLR2004 - an unsigned 64-bit number
    return int(text) if text is not None and good else None


def is_on(text: str | None) -> bool:
    """Whether a module's flag is set (``param_get_bool`` gives ``Y``)."""
    return text in ("Y", "y", "1")


def joined(things: Iterable[object], most: int = 6) -> str:
    """Things after commas, not too many."""
    texts = [str(thing) for thing in things]
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more


def counted(number: int, thing: str) -> str:
    """How many there are: ``1 group``, ``2 groups``."""
    return f"{number} {thing}{'' if number == 1 else 's'}"
