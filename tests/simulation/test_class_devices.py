"""What a driver has made of a function goes with the driver, and comes back with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from vfiohost import testing
from vfiohost.recording import parse

if TYPE_CHECKING:
    from vfiohost.testing import SimulatedKernel

NIC = "0000:00:02.0"
PCI = "sys/bus/pci"
HOST = """\
vfiohost-recording 1
title = a NIC with a virtio device below it, and a GPU
source = composed for a test
kernel = 6.12.0

module virtio_pci loaded
  driver = virtio-pci
    match = pci:v00001AF4d00001041sv*sd*bc*sc*i*

module nvidia loaded
  driver = nvidia
    match = pci:v000010DEd*sv*sd*bc03sc*i*

module pci_stub loaded
  driver = pci-stub

function 0000:00:01.0 at pci0000:00
  class = 0x060400
  device = 0x0001
  modalias = pci:v00008086d00000001sv00000000sd00000000bc06sc04i00
  subsystem_device = 0x0000
  subsystem_vendor = 0x0000
  vendor = 0x8086
  uevent = <usual>

function 0000:00:02.0 at pci0000:00
  driver = virtio-pci
  class = 0x020000
  device = 0x1041
  driver_override = (null)
  modalias = pci:v00001AF4d00001041sv00001AF4sd00001041bc02sc00i00
  subsystem_device = 0x1041
  subsystem_vendor = 0x1af4
  vendor = 0x1af4
  uevent = <usual>

function 0000:01:00.0 at pci0000:00/0000:00:01.0
  driver = nvidia
  class = 0x030200
  device = 0x2330
  modalias = pci:v000010DEd00002330sv000010DEsd000016C1bc03sc02i00
  subsystem_device = 0x16c1
  subsystem_vendor = 0x10de
  vendor = 0x10de
  uevent = <usual>

file proc/driver/nvidia/gpus/0000:01:00.0/information
  content = Device Minor: 3

link proc/1/fd/3 -> /dev/vfio/15
link sys/class/net/eth0 -> ../../devices/pci0000:00/0000:00:02.0/virtio0/net/eth0
link sys/class/drm/card0 -> ../../devices/pci0000:00/0000:00:01.0/0000:01:00.0/drm/card0

file sys/devices/pci0000:00/0000:00:02.0/virtio0/net/eth0/flags
  content = 0x1003

directory sys/devices/pci0000:00/0000:00:01.0/0000:01:00.0/drm/card0
"""
FLAGS = "sys/class/net/eth0/flags"
INFORMATION = "proc/driver/nvidia/gpus/0000:01:00.0/information"


@pytest.fixture
def kernel(tmp_path: Path) -> SimulatedKernel:
    return testing.create(parse(HOST), tmp_path / "host")


def store(kernel: SimulatedKernel, path: str, value: str) -> None:
    kernel.store(path, value, timeout=1)


def exists(kernel: SimulatedKernel, path: str) -> bool:
    return (Path(kernel.root) / path).exists()


def test_an_interface_goes_with_its_driver_and_comes_back(kernel: SimulatedKernel) -> None:
    store(kernel, f"{PCI}/drivers/virtio-pci/unbind", NIC)
    assert not exists(kernel, FLAGS)
    assert list((Path(kernel.root) / "sys/class/net").iterdir()) == []
    assert not exists(kernel, f"{PCI}/devices/{NIC}/virtio0")
    store(kernel, f"{PCI}/drivers/virtio-pci/bind", NIC)
    assert (Path(kernel.root) / FLAGS).read_text() == "0x1003\n"
    assert exists(kernel, "sys/class/drm/card0")  # another function's


def test_another_driver_makes_nothing_of_it(kernel: SimulatedKernel) -> None:
    store(kernel, f"{PCI}/drivers/virtio-pci/unbind", NIC)
    store(kernel, f"{PCI}/devices/{NIC}/driver_override", "pci-stub")
    store(kernel, f"{PCI}/drivers_probe", NIC)
    assert exists(kernel, f"{PCI}/devices/{NIC}/driver")
    assert not exists(kernel, FLAGS)


def test_a_function_that_is_found_again_has_what_its_driver_makes(kernel: SimulatedKernel) -> None:
    store(kernel, "sys/devices/pci0000:00/0000:00:01.0/remove", "1")
    assert not (Path(kernel.root) / "sys/class/drm/card0").is_symlink()
    assert not exists(kernel, INFORMATION)
    assert exists(kernel, FLAGS)
    store(kernel, f"{PCI}/rescan", "1")
    assert exists(kernel, "sys/class/drm/card0")
    assert (Path(kernel.root) / INFORMATION).read_text() == "Device Minor: 3\n"


def test_a_removed_function_takes_all_of_it_along(kernel: SimulatedKernel) -> None:
    store(kernel, f"{PCI}/devices/{NIC}/remove", "1")
    assert list((Path(kernel.root) / "sys/class/net").iterdir()) == []
