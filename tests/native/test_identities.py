"""The names by which a host calls its devices."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.native.test_holders import NIC, NVME, Machine
from vfiohost import Host
from vfiohost.errors import NotFoundError

if TYPE_CHECKING:
    from pathlib import Path

DISK = "sys/devices/pci0000:00/0000:03:00.0"
SUBSYSTEM = "sys/devices/virtual/nvme-subsystem/nvme-subsys0"
UUID = "GPU-2c7c1f0e-5a0f-4f5e-9d3c-0123456789ab"


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    host = Machine(tmp_path)
    host.function("0000:03:00.0", modalias=NVME, bridge="pci0000:00")
    host.function("0000:04:00.0", modalias=NVME, bridge="pci0000:00")
    host.function("0000:05:00.0", modalias=NIC, bridge="pci0000:00")
    host.function("0000:05:00.1", modalias=NIC, bridge="pci0000:00", serial_number="b0-26-28-ff\n")
    host.function()
    host.in_class("net", "sys/devices/pci0000:00/0000:05:00.0/virtio2/net/eth0")
    host.in_class("net", "sys/devices/virtual/net/bond0")
    host.link("sys/class/net/bond0/lower_eth0", "../eth0")
    host.in_class("nvme", f"{DISK}/nvme/nvme0")
    host.write(f"{DISK}/nvme/nvme0/serial", "S5GXNX0T        \n")
    host.in_class("block", f"{DISK}/nvme/nvme0/nvme0n1")
    host.in_class("block", f"{DISK}/nvme/nvme0/nvme0n1/nvme0n1p1")
    host.in_class("block", f"{SUBSYSTEM}/nvme1n1")
    for number, address in (("0", "0000:03:00.0"), ("1", "0000:04:00.0")):
        there = f"../../../pci0000:00/{address}/nvme/nvme{number}"
        host.link(f"{SUBSYSTEM}/nvme{number}", there)
    host.in_class("block", "sys/devices/virtual/block/dm-0")
    host.link("sys/devices/virtual/block/dm-0/slaves/nvme0n1p1", "../../nvme0n1p1")
    host.link("dev/disk/by-id/nvme-X_S5GXNX0T", "../../nvme0n1")
    host.link("dev/mapper/vg-root", "../dm-0")
    host.write("sys/bus/pci/slots/3/address", "0000:05:00\n")
    host.write("sys/bus/pci/slots/4/address", "0000:99:00\n")
    host.in_class("drm", "sys/devices/pci0000:64/0000:65:00.0/drm/card1")
    text = f"Model: \t A10\nGPU UUID: \t {UUID}\nDevice Minor: \t 7\n"
    host.write("proc/driver/nvidia/gpus/0000:65:00.0/information", text)
    return host


def hits(machine: Machine, *texts: str) -> list[str]:
    with Host(machine.root) as host:
        return [str(device.address) for device in host.select(texts)]


@pytest.mark.parametrize(
    ("text", "addresses"),
    [
        ("eth0", ["0000:05:00.0"]),
        ("net:eth0", ["0000:05:00.0"]),
        ("/dev/nvme0n1", ["0000:03:00.0"]),
        ("/dev/nvme0n1p1", ["0000:03:00.0"]),
        ("/dev/nvme0", ["0000:03:00.0"]),
        ("/dev/disk/by-id/nvme-X_S5GXNX0T", ["0000:03:00.0"]),
        ("/dev/nvme1n1", ["0000:03:00.0", "0000:04:00.0"]),
        ("/dev/dri/card1", ["0000:65:00.0"]),
        ("/dev/nvidia7", ["0000:65:00.0"]),
        ("slot:3", ["0000:05:00.0", "0000:05:00.1"]),
        ("serial:s5gxnx0t", ["0000:03:00.0"]),
        ("serial:B0-26-28-FF", ["0000:05:00.1"]),
        (UUID, ["0000:65:00.0"]),
        (UUID.lower(), ["0000:65:00.0"]),
    ],
)
def test_what_a_name_hits(machine: Machine, text: str, addresses: list[str]) -> None:
    assert hits(machine, text) == addresses


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("eth1", "no network interface 'eth1' on this host. Did you mean eth0?"),
        ("nvme0n1", "no network interface 'nvme0n1' on this host. Did you mean /dev/nvme0n1?"),
        ("bond0", "It belongs to no PCI device. It is made of eth0."),
        ("/dev/nvme0n2", "Did you mean /dev/nvme0n1"),
        ("/dev/mapper/vg-root", "It belongs to no PCI device. It is made of nvme0n1p1."),
        ("/dev/nvidia0", "Did you mean /dev/nvidia7"),
        ("/dev/../etc/passwd", "no node of a PCI device '/dev/../etc/passwd'"),
        ("slot:33", "Did you mean slot:3?"),
        ("slot:4", "Nothing is in it (0000:99:00)."),
        ("slot:..", "no PCI slot '..'"),
        ("serial:S5GXNX0Y", "Did you mean serial:S5GXNX0T?"),
        (UUID.replace("2c", "2d"), f"no GPU with UUID '{UUID.replace('2c', '2d')}'"),
    ],
)
def test_a_name_that_hits_nothing(machine: Machine, text: str, said: str) -> None:
    with pytest.raises(NotFoundError) as caught:
        hits(machine, text)
    assert said in str(caught.value)


def test_nothing_is_read_for_other_selectors(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "vfiohost.identities", None)
    assert hits(machine, "65:00.0", "class:net:0") == ["0000:65:00.0", "0000:05:00.0"]
    with pytest.raises(ImportError):
        hits(machine, "eth0")
