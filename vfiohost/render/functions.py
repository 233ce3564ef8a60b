"""Physical functions and their virtual ones: lines for people, values for programs."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from vfiohost.model import Unavailable
from vfiohost.render.table import format_table, plain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vfiohost.model import PciDevice, Snapshot
    from vfiohost.render.table import Cell, Paint

_HEADERS = ("PF", "DRIVER", "VFS", "OF", "VIRTUAL FUNCTIONS")


def functions_lines(
    devices: Sequence[PciDevice], snapshot: Snapshot, *, every: bool = False, paint: Paint = plain
) -> list[str]:
    """A table of physical functions: how many virtual ones each has, of how many, on which drivers.

    Args:
        devices: physical functions.
        snapshot: the host.
        every: a line for each virtual function as well.
        paint: makes colours of kinds.
    """
    if not devices:
        return ["no device of this host can have virtual functions"]
    rows: list[list[Cell]] = []
    for device in devices:
        vfs = snapshot.virtual_functions.get(device.address, ())
        rows.append(
            [
                (str(device.address), "plain"),
                _driver(device),
                (str(len(vfs)), "plain"),
                (_total(device), "plain"),
                (_folded(vfs), "plain"),
            ]
        )
        for vf in vfs if every else ():
            group = f"group {vf.iommu_group}" if isinstance(vf.iommu_group, int) else "no group"
            rows.append(
                [
                    (f"  {vf.address}", "plain"),
                    _driver(vf),
                    ("", "dim"),
                    ("", "dim"),
                    (group, "dim"),
                ]
            )
    return format_table(_HEADERS, rows, right=("VFS", "OF"), paint=paint)


def _driver(device: PciDevice) -> Cell:
    if device.driver is None:
        return "-", "dim"
    return str(device.driver), "warn" if isinstance(device.driver, Unavailable) else "plain"


def _total(device: PciDevice) -> str:
    return "-" if device.total_vfs is None else str(device.total_vfs)


def _folded(vfs: Sequence[PciDevice]) -> str:
    """``0000:65:00.4 to 0000:65:04.3, on nvidia``."""
    if not vfs:
        return "-"
    first, last = vfs[0].address, vfs[-1].address
    where = str(first) if first == last else f"{first} to {last}"
    drivers = Counter("no driver" if vf.driver is None else str(vf.driver) for vf in vfs)
    if len(drivers) == 1:
        return f"{where}, on {next(iter(drivers))}"
    return f"{where}: {', '.join(f'{count} on {name}' for name, count in drivers.most_common())}"


def functions_value(devices: Sequence[PciDevice], snapshot: Snapshot) -> list[dict[str, Any]]:
    """Physical functions as JSON values."""
    return [
        {
            "address": str(device.address),
            "driver": _plain(device.driver),
            "total_vfs": _plain(device.total_vfs),
            "virtual_functions": [
                {
                    "address": str(vf.address),
                    "driver": _plain(vf.driver),
                    "iommu_group": _plain(vf.iommu_group),
                }
                for vf in snapshot.virtual_functions.get(device.address, ())
            ],
        }
        for device in devices
    ]


def _plain(value: object) -> object:
    return None if isinstance(value, Unavailable) else value
