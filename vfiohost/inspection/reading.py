"""Gathers what is known of a device: from the scan, from attributes, from its configuration space.

The kernel has in memory what these attributes show, but some of them take a lock first, such as
that of an IOMMU group (``iommu_group_show_type`` in ``drivers/iommu/iommu.c``); so they are read in
a helper process. ``vpd``, ``rom`` and ``resourceN`` are never read.
"""

from __future__ import annotations

import contextlib
import errno
import re
from typing import TYPE_CHECKING, Final, TypeVar

import attrs

from vfiohost.config_space import ConfigSpace, Link, find_sleepers, read_spaces
from vfiohost.details_scan import read_reset, with_details
from vfiohost.errors import KernelError
from vfiohost.inspection.types import (
    Inspection,
    Power,
    Region,
    ReservedRegion,
    VirtualFunctions,
)
from vfiohost.model import PciAddress, Unavailable
from vfiohost.nodes import nodes_of
from vfiohost.plan.drivers import Drivers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from vfiohost.modalias import ModuleIndex
    from vfiohost.model import PciDevice, Snapshot
    from vfiohost.sysfs import Sysfs

    Text = str | None | Unavailable

T = TypeVar("T")

_GROUPS: Final = "sys/kernel/iommu_groups"
_ATTRIBUTES: Final = (
    "resource",
    "power_state",
    "power/runtime_status",
    "power/control",
    "d3cold_allowed",
    "local_cpulist",
    "sriov_offset",
    "sriov_stride",
    "sriov_vf_device",
    "sriov_drivers_autoprobe",
)
_LINK: Final = ("current_link_speed", "current_link_width", "max_link_speed", "max_link_width")
_OF_GROUP: Final = ("type", "reserved_regions")

_RANGE: Final = re.compile(r"0x([0-9a-f]{1,16}) 0x([0-9a-f]{1,16}) (.{1,40})", re.IGNORECASE)
_HEXADECIMAL: Final = re.compile(r"(?:0x)?([0-9a-f]{1,16})", re.IGNORECASE)
_DECIMAL: Final = re.compile(r"[0-9]{1,9}")
_VIRTFN: Final = re.compile(r"virtfn([0-9]{1,5})")
_SPEED: Final = re.compile(r"([0-9.]{1,6} GT/s)(?: PCIe)?")
_MOST_REGIONS: Final = 64
_BARS: Final = 6  # of a function, at most; then comes the ROM in ``resource``
_WINDOWS: Final = 4  # lines that a bridge has for what lies behind it, at the end
_MALFORMED: Final = Unavailable(0, "malformed")


def inspect(
    sysfs: Sysfs,
    snapshot: Snapshot,
    devices: Iterable[PciDevice],
    modules: ModuleIndex | None,
    *,
    wake: bool = False,
    timeout: float = 2.0,
) -> tuple[Inspection, ...]:
    """Gather all that is known of some functions.

    Args:
        sysfs: the host.
        snapshot: a scan of it.
        devices: which functions, of that snapshot.
        modules: the modules of its kernel, or ``None``.
        wake: read the registers of functions that sleep too, which wakes them and the bridges in
            front of them.
        timeout: seconds that what may wait may take, each time that a helper process is asked.

    Returns:
        One for each, in their order. What could not be read is ``Unavailable``.
    """
    devices = tuple(devices)
    addresses = [device.address for device in devices]
    snapshot = with_details(sysfs, snapshot, addresses, timeout=timeout)
    sleepers = {} if wake else find_sleepers(sysfs, snapshot, devices)
    awake = [device for device in devices if device.address not in sleepers]
    spaces = read_spaces(sysfs, awake, timeout=timeout)
    resets = read_reset(sysfs, addresses, timeout=timeout)
    texts = _read(sysfs, devices, awake, timeout)
    vf_indices = _vf_indices(sysfs, snapshot, devices)
    drivers = Drivers(snapshot, modules)
    found = []
    for device in devices:
        told = _Told(texts, device)
        space = spaces.get(device.address)
        group = _Told(texts, device, f"{_GROUPS}/{device.iommu_group}")
        found.append(
            Inspection(
                device=device,
                snapshot=snapshot,
                modules=None if modules is None else drivers.candidate_modules(device),
                vfio_driver=drivers.best_vfio(device),
                regions=_regions(told.text("resource")),
                reserved=group.parsed("reserved_regions", _reserved),
                group_type=group.text("type"),
                reset=resets[device.address],
                power=told.power(),
                cpus=told.text("local_cpulist") or None,
                vf_index=vf_indices.get(str(device.address)),
                sriov=told.sriov() if isinstance(device.total_vfs, int) else None,
                nodes=nodes_of(sysfs, str(device.address)),
                link=_link_of(space) or told.link(),
                space=space,
                sleeper=sleepers.get(device.address),
            )
        )
    return tuple(found)


def _read(
    sysfs: Sysfs, devices: Iterable[PciDevice], awake: Iterable[PciDevice], timeout: float
) -> Mapping[str, str | Unavailable]:
    """Read the attributes of some functions and of their groups."""
    paths = [f"{device.path}/{name}" for device in devices for name in _ATTRIBUTES]
    paths += [f"{device.path}/{name}" for device in awake for name in _LINK]
    numbers = [d.iommu_group for d in devices if isinstance(d.iommu_group, int)]
    paths += [f"{_GROUPS}/{number}/{name}" for number in numbers for name in _OF_GROUP]
    return sysfs.read_bounded(paths, timeout=timeout + len(paths) / 1000)


@attrs.frozen
class _Told:
    """What the files in a directory say: that of a device, by default."""

    texts: Mapping[str, str | Unavailable]
    device: PciDevice
    directory: str = attrs.field()

    @directory.default
    def _directory_of_device(self) -> str:
        return self.device.path

    def text(self, name: str) -> Text:
        """What a file says; ``None`` where there is none, or it was not to be read."""
        found = self.texts.get(f"{self.directory}/{name}")
        return None if isinstance(found, Unavailable) and found.errno == errno.ENOENT else found

    def parsed(self, name: str, parse: Callable[[str], T | Unavailable]) -> T | None | Unavailable:
        """What a file says, understood."""
        found = self.text(name)
        return parse(found) if isinstance(found, str) else found

    def power(self) -> Power:
        return Power(
            state=self.text("power_state"),
            runtime_status=self.text("power/runtime_status"),
            control=self.text("power/control"),
            d3cold_allowed=self.parsed("d3cold_allowed", _flag),
        )

    def sriov(self) -> VirtualFunctions:
        return VirtualFunctions(
            offset=self.parsed("sriov_offset", _number),
            stride=self.parsed("sriov_stride", _number),
            vf_device_id=self.parsed("sriov_vf_device", _hexadecimal),
            autoprobe=self.parsed("sriov_drivers_autoprobe", _flag),
        )

    def link(self) -> Link | None:
        """The link of ``current_link_speed`` and the like; ``None`` where they are not there."""
        speed, width, max_speed, max_width = (self.text(name) for name in _LINK)
        if not isinstance(width, str) and not isinstance(max_width, str):
            return None
        return Link(_speed(speed), _width(width), _speed(max_speed), _width(max_width))


def _link_of(space: ConfigSpace | None | Unavailable) -> Link | None:
    if not isinstance(space, ConfigSpace) or space.express is None:
        return None
    return space.express.link


def _regions(text: Text) -> tuple[Region, ...] | Unavailable:
    """The regions of ``resource`` (``resource_show`` in ``drivers/pci/pci-sysfs.c``)."""
    if not isinstance(text, str):
        return () if text is None else text
    lines = text.splitlines()
    ranges = [_RANGE.fullmatch(line) for line in lines[:_MOST_REGIONS]]
    regions = []
    for index, match in enumerate(ranges):
        flags = None if match is None else _hexadecimal(match[3])
        if match is None or not isinstance(flags, int):
            return _MALFORMED
        start, end = int(match[1], 16), int(match[2], 16)
        if end < start:
            return _MALFORMED
        if flags:
            regions.append(Region(_region_name(index, len(ranges)), start, end - start + 1, flags))
    return tuple(regions)


def _region_name(index: int, count: int) -> str:
    """What a line of ``resource`` is about (``enum`` in ``include/linux/pci.h``).

    Bridges have lines for their windows, after those of virtual functions where the kernel was
    built with SR-IOV.
    """
    if index < _BARS:
        return f"BAR {index}"
    if index == _BARS:
        return "ROM"
    of_bridges = (_BARS + 1 + _WINDOWS, 2 * _BARS + 1 + _WINDOWS)
    windows = count - _WINDOWS if count in of_bridges else count
    return f"window {index - windows}" if index >= windows else f"VF BAR {index - _BARS - 1}"


def _reserved(text: str) -> tuple[ReservedRegion, ...] | Unavailable:
    """The lines of ``reserved_regions`` (``iommu_group_show_resv_regions``)."""
    matches = [_RANGE.fullmatch(line) for line in text.splitlines()]
    if not all(matches):
        return _MALFORMED
    return tuple(ReservedRegion(int(m[1], 16), int(m[2], 16), m[3]) for m in matches if m)


def _vf_indices(sysfs: Sysfs, snapshot: Snapshot, devices: Iterable[PciDevice]) -> dict[str, int]:
    """The N of the ``virtfnN`` that lead to virtual functions, by their addresses.

    Of all virtual functions of those physical functions that some of the devices belong to.
    """
    physfns = {d.physfn for d in devices if isinstance(d.physfn, PciAddress)}
    found: dict[str, int] = {}
    for physical in (snapshot.pci[a] for a in physfns if a in snapshot.pci):
        with contextlib.suppress(KernelError):
            for name in sysfs.listdir(physical.path):
                match = _VIRTFN.fullmatch(name)
                address = sysfs.link_name(f"{physical.path}/{name}") if match else None
                if match and address:
                    found[address] = int(match[1])
    return found


def _flag(text: str) -> bool | Unavailable:
    return {"0": False, "1": True}.get(text, _MALFORMED)


def _number(text: str) -> int | Unavailable:
    return int(text) if _DECIMAL.fullmatch(text) else _MALFORMED


def _hexadecimal(text: str) -> int | Unavailable:
    match = _HEXADECIMAL.fullmatch(text)
    return _MALFORMED if match is None else int(match[1], 16)


def _speed(text: Text) -> str | None:
    match = _SPEED.fullmatch(text) if isinstance(text, str) else None
    return None if match is None else match[1]


def _width(text: Text) -> int | None:
    number = _number(text) if isinstance(text, str) else None
    return number if isinstance(number, int) else None
