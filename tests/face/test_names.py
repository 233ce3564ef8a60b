"""Names come from pci.ids, in lspci's words, and without parsing the whole file."""

from __future__ import annotations

import pickle

import pytest

from vfiohost.model import PciAddress, PciDevice
from vfiohost.names import DeviceNames, PciNames

TEXT = """\
#
#\tList of PCI ID's
#
001c  PEAK-System Technik GmbH
\t0001  PCAN-PCI CAN-Bus controller
10de  NVIDIA Corporation
\t2204  GA102 [GeForce RTX 3090]
\t\t10de 2236  not the device 2236
# a comment in the middle
\t2236  GA102GL [A10]

\t\t10de 1482  A10
\t2237  GA102GL [A10G]
8086  Intel Corporation
\t2236  not NVIDIA's

# List of known device classes
C 00  Unclassified device
\t00  Non-VGA unclassified device
C 03  Display controller
\t00  VGA compatible controller
\t\t00  VGA controller
\t02  3D controller
C ff  Unassigned class
"""


@pytest.fixture
def names() -> PciNames:
    return PciNames.from_text(TEXT)


def test_vendor_and_device(names: PciNames) -> None:
    assert names.vendor(0x10DE) == "NVIDIA Corporation"
    assert names.device(0x10DE, 0x2236) == "GA102GL [A10]"
    assert names.device(0x8086, 0x2236) == "not NVIDIA's"
    assert names.full(0x10DE, 0x2237) == "NVIDIA Corporation GA102GL [A10G]"
    assert names.device(0x001C, 0x0001) == "PCAN-PCI CAN-Bus controller"


def test_unknown_reads_as_with_lspci(names: PciNames) -> None:
    assert names.vendor(0x1234) == "Vendor 1234"
    assert names.device(0x10DE, 0x0001) == "Device 0001"
    assert names.full(0x10DE, 0x0001) == "NVIDIA Corporation Device 0001"
    assert names.full(0x1234, 0x0001) == "Device 1234:0001"
    assert names.subsystem(0x10DE, 0x2236, 0x10DE, 0x9999) == "NVIDIA Corporation Device 9999"
    assert names.subsystem(0x10DE, 0x2236, 0x1234, 0x9999) == "Device 1234:9999"


def test_subsystem_belongs_to_its_device(names: PciNames) -> None:
    assert names.subsystem(0x10DE, 0x2236, 0x10DE, 0x1482) == "NVIDIA Corporation A10"
    assert names.subsystem(0x10DE, 0x2237, 0x10DE, 0x1482) == "NVIDIA Corporation Device 1482"
    same = names.subsystem(0x10DE, 0x2237, 0x10DE, 0x2237)
    assert same == "NVIDIA Corporation GA102GL [A10G]"


def test_class_names(names: PciNames) -> None:
    assert names.class_name(0x030000) == "VGA compatible controller"
    assert names.class_name(0x030200) == "3D controller"
    assert names.class_name(0x039900) == "Display controller [0399]"
    assert names.class_name(0x999999) == "Class 9999"
    assert names.class_name(0xFF0000) == "Unassigned class [ff00]"


def test_numbered_names_are_those_of_lspci_nn(names: PciNames) -> None:
    assert names.numbered_class(0x030200) == "3D controller [0302]"
    assert names.numbered_class(0x039900) == "Display controller [0399]"
    assert names.numbered_class(0x999900) == "Class [9999]"
    a10 = (0x10DE, 0x2236)
    assert names.numbered_device(*a10) == "NVIDIA Corporation GA102GL [A10] [10de:2236]"
    assert names.numbered_device(0x10DE, 0x0001) == "NVIDIA Corporation Device [10de:0001]"
    assert names.numbered_device(0x1234, 0x0001) == "Device [1234:0001]"
    assert names.numbered_subsystem(*a10, 0x10DE, 0x1482) == "NVIDIA Corporation A10 [10de:1482]"
    assert names.numbered_subsystem(*a10, 0x1234, 0x0001) == "Device [1234:0001]"


def test_a_numbered_name_is_cut_at_the_byte_where_lspci_cuts_it() -> None:
    names = PciNames.from_text(f"10de  {'N' * 50}\n\t0001  {'x' * 64}\n\t0002  {'x' * 65}\n")
    assert names.numbered_device(0x10DE, 1) == f"{'N' * 50} {'x' * 64} [10de:0001]"
    assert names.numbered_device(0x10DE, 2) == f"{'N' * 50} {'x' * 65} [10de:0..."
    names = PciNames.from_text(f"10de  {'é' * 50}\n\t0001  {'x' * 20}\n")
    assert names.numbered_device(0x10DE, 1) == f"{'é' * 50} {'x' * 20} [1..."


def test_no_file_at_all() -> None:
    names = PciNames.from_text("")
    assert names.full(0x10DE, 0x2236) == "Device 10de:2236"
    assert names.class_name(0x030200) == "Class 0302"


def test_of_a_device_and_pickle(names: PciNames) -> None:
    device = PciDevice(
        address=PciAddress.parse("65:00.0"),
        vendor_id=0x10DE,
        device_id=0x2236,
        subsystem_vendor_id=0x10DE,
        subsystem_device_id=0x1482,
        class_code=0x030200,
        revision=0xA1,
        numa_node=None,
        driver=None,
        iommu_group=12,
        physfn=None,
        total_vfs=None,
        path="sys/devices/pci0000:64/0000:64:00.0/0000:65:00.0",
    )
    expected = DeviceNames(
        "3D controller", "NVIDIA Corporation", "GA102GL [A10]", "NVIDIA Corporation A10"
    )
    assert names.of(device) == expected
    assert pickle.loads(pickle.dumps(names)).of(device) == expected


def test_last_line_without_newline_and_crlf() -> None:
    names = PciNames.from_text("10de  NVIDIA\r\n\t2236  A10")
    assert names.full(0x10DE, 0x2236) == "NVIDIA A10"


def test_a_large_file_is_not_parsed_ahead() -> None:
    lines = []
    for vendor in range(0x1000, 0x2000):
        lines.append(f"{vendor:04x}  Vendor number {vendor}")
        lines += [f"\t{device:04x}  Device of {vendor}, {device}" for device in range(12)]
    text = "\n".join(lines) + "\n"
    assert len(text) > 1_300_000
    names = PciNames.from_text(text)
    assert names._blocks == {}
    found = [names.full(vendor, 7) for vendor in range(0x1000, 0x2000, 0x40)]
    assert found[1] == "Vendor number 4160 Device of 4160, 7"
    assert sum(map(len, names._blocks.values())) < len(text) / 32
