"""Which PCI driver is for which device: overrides, dynamic ids and id tables.

Kernel: ``pci_match_device`` in ``drivers/pci/pci-driver.c``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vfiohost.testing.machine import Machine

ANY_ID = 0xFFFF_FFFF  # PCI_ANY_ID

Ids = tuple[int, int, int, int, int]
"""Vendor, device, subvendor, subdevice and class code."""

_MODALIAS = re.compile(
    r"pci:v([0-9A-F]{8})d([0-9A-F]{8})sv([0-9A-F]{8})sd([0-9A-F]{8})"
    r"bc([0-9A-F]{2})sc([0-9A-F]{2})i([0-9A-F]{2})"
)


def matches(machine: Machine, driver: str, address: str) -> bool:
    """``pci_match_device``: an override decides alone, else dynamic ids, else the id table."""
    path = machine.pci_path(address)
    if path is None:
        return False
    override = machine.driver_override(path)
    if override is not None:
        return override == driver
    modalias = machine.modalias(path)
    ids = ids_of(modalias)
    dynamic = machine.state.dynamic_ids.get(driver, [])
    if ids is not None and any(id_matches(each, ids) for each in dynamic):
        return True
    return machine.blueprint.in_id_table(driver, modalias)


def modalias_of(vendor: int, device: int, subvendor: int, subdevice: int, class_code: int) -> str:
    """The modalias of a device with these ids."""
    return (
        f"pci:v{vendor:08X}d{device:08X}sv{subvendor:08X}sd{subdevice:08X}"
        f"bc{class_code >> 16 & 0xFF:02X}sc{class_code >> 8 & 0xFF:02X}i{class_code & 0xFF:02X}"
    )


def ids_of(modalias: str) -> Ids | None:
    """Vendor, device, subvendor, subdevice and class code of a modalias."""
    match = _MODALIAS.match(modalias)
    if match is None:
        return None
    vendor, device, subvendor, subdevice = (int(match[n], 16) for n in range(1, 5))
    return (vendor, device, subvendor, subdevice, int(match[5] + match[6] + match[7], 16))


def id_matches(known: list[int], ids: Ids) -> bool:
    """``pci_match_one_id``."""
    pairs = zip(known[:4], ids[:4], strict=True)
    return all(want in (ANY_ID, have) for want, have in pairs) and not (
        (known[4] ^ ids[4]) & known[5]
    )
