"""A disk behind several NVMe controllers goes with the last of them, and comes with the first."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from vfiohost import testing
from vfiohost.recording import parse

if TYPE_CHECKING:
    from vfiohost.testing import SimulatedKernel

PCI = "sys/bus/pci"
ONE, TWO, OTHER = "0000:01:00.0", "0000:02:00.0", "0000:03:00.0"
SUBSYSTEM = "sys/devices/virtual/nvme-subsystem/nvme-subsys0"
HEAD = f"{SUBSYSTEM}/nvme0n1"

START = """\
vfiohost-recording 1
title = an NVMe disk with two controllers, and one with one
source = composed for a test
kernel = 6.12.0

module nvme loaded
  driver = nvme
    match = pci:v*d*sv*sd*bc01sc08i02*

module vfio_pci loaded
  driver = vfio-pci
"""
FUNCTION = """
function {address} at pci0000:00
  driver = nvme
  class = 0x010802
  device = 0xa824
  driver_override = (null)
  modalias = pci:v0000144Dd0000A824sv0000144Dsd0000A801bc01sc08i02
  subsystem_device = 0xa801
  subsystem_vendor = 0x144d
  vendor = 0x144d
  uevent = <usual>
"""
CONTROLLER = """
directory sys/devices/pci0000:00/{address}/nvme/nvme{n}
link sys/class/nvme/nvme{n} -> ../../devices/pci0000:00/{address}/nvme/nvme{n}
link {subsystem}/nvme{n} -> ../../../pci0000:00/{address}/nvme/nvme{n}
"""
# GENHD_FL_HIDDEN: it has an entry in the class, and no number (nvme_alloc_ns).
PATH = """
link sys/class/block/nvme0c{n}n{ns} -> ../../devices/{below}/nvme0c{n}n{ns}
directory sys/devices/{below}/nvme0c{n}n{ns}
"""
NAMESPACE = """
link sys/class/block/nvme0n{ns} -> {up}/nvme0n{ns}
link sys/class/block/nvme0n{ns}p1 -> {up}/nvme0n{ns}/nvme0n{ns}p1
link sys/dev/block/259:{ns} -> {up}/nvme0n{ns}
file {subsystem}/nvme0n{ns}/dev
  content = 259:{ns}
file {subsystem}/nvme0n{ns}/nvme0n{ns}p1/partition
  content = 1
"""


def host(*parts: str) -> str:
    functions = "".join(FUNCTION.format(address=address) for address in (ONE, TWO, OTHER))
    controllers = "".join(
        CONTROLLER.format(address=address, n=n, subsystem=SUBSYSTEM)
        for n, address in enumerate((ONE, TWO))
    )
    return START + functions + controllers + "".join(parts)


def namespace(number: int) -> str:
    up = f"../../{SUBSYSTEM.removeprefix('sys/')}"
    return NAMESPACE.format(ns=number, subsystem=SUBSYSTEM, up=up)


def path(controller: int, number: int) -> str:
    below = f"pci0000:00/{(ONE, TWO)[controller]}/nvme/nvme{controller}"
    return PATH.format(below=below, n=controller, ns=number)


# With the paths of the disk, and as a recording has it that was made without them.
SHARED = [host(path(0, 1), path(1, 1), namespace(1)), host(namespace(1))]


@pytest.fixture(params=SHARED, ids=["paths", "no paths"])
def kernel(request: pytest.FixtureRequest, tmp_path: Path) -> SimulatedKernel:
    return testing.create(parse(request.param), tmp_path / "host")


def store(kernel: SimulatedKernel, path: str, value: str) -> None:
    kernel.store(path, value, timeout=1)


def unbind(kernel: SimulatedKernel, address: str) -> None:
    store(kernel, f"{PCI}/drivers/nvme/unbind", address)


def bind(kernel: SimulatedKernel, address: str) -> None:
    store(kernel, f"{PCI}/drivers/nvme/bind", address)


def blocks(kernel: SimulatedKernel) -> set[str]:
    """The disks that can be seen; those of single paths are hidden, and told apart by the c."""
    names = {path.name for path in (Path(kernel.root) / "sys/class/block").iterdir()}
    return {name for name in names if "c" not in name}


def numbers(kernel: SimulatedKernel) -> set[str]:
    return {path.name for path in (Path(kernel.root) / "sys/dev/block").iterdir()}


def exists(kernel: SimulatedKernel, path: str) -> bool:
    return (Path(kernel.root) / path).exists()


def test_the_disk_stays_while_it_has_a_controller(kernel: SimulatedKernel) -> None:
    for address in (ONE, TWO):
        unbind(kernel, OTHER)
        unbind(kernel, address)
        assert blocks(kernel) == {"nvme0n1", "nvme0n1p1"}
        assert exists(kernel, f"{HEAD}/dev")
        bind(kernel, address)
        bind(kernel, OTHER)


def test_the_disk_goes_with_its_last_controller(kernel: SimulatedKernel) -> None:
    """``nvme_ns_remove``, ``nvme_mpath_shutdown_disk`` and ``nvme_destroy_subsystem``."""
    unbind(kernel, ONE)
    unbind(kernel, TWO)
    assert blocks(kernel) == set()
    assert numbers(kernel) == set()
    assert not exists(kernel, SUBSYSTEM)


def test_the_disk_comes_with_its_first_controller(kernel: SimulatedKernel) -> None:
    """``nvme_mpath_set_live`` in ``drivers/nvme/host/multipath.c``."""
    unbind(kernel, ONE)
    unbind(kernel, TWO)
    bind(kernel, TWO)
    assert blocks(kernel) == {"nvme0n1", "nvme0n1p1"}
    assert numbers(kernel) == {"259:1"}
    assert (Path(kernel.root) / f"{HEAD}/dev").read_text() == "259:1\n"
    assert exists(kernel, f"{SUBSYSTEM}/nvme1")
    assert not exists(kernel, f"{SUBSYSTEM}/nvme0")
    bind(kernel, ONE)
    assert blocks(kernel) == {"nvme0n1", "nvme0n1p1"}
    unbind(kernel, TWO)
    assert blocks(kernel) == {"nvme0n1", "nvme0n1p1"}


def test_another_driver_gives_no_path(kernel: SimulatedKernel) -> None:
    unbind(kernel, TWO)
    unbind(kernel, ONE)
    store(kernel, f"{PCI}/devices/{ONE}/driver_override", "vfio-pci")
    store(kernel, f"{PCI}/drivers_probe", ONE)
    assert blocks(kernel) == set()


def test_a_controller_that_is_removed_takes_its_path_along(kernel: SimulatedKernel) -> None:
    store(kernel, f"{PCI}/devices/{ONE}/remove", "1")
    assert blocks(kernel) == {"nvme0n1", "nvme0n1p1"}
    store(kernel, f"{PCI}/devices/{TWO}/remove", "1")
    assert blocks(kernel) == set()
    store(kernel, f"{PCI}/rescan", "1")
    assert blocks(kernel) == {"nvme0n1", "nvme0n1p1"}


def test_a_disk_that_one_controller_alone_has(tmp_path: Path) -> None:
    """A namespace is attached to some of a subsystem's controllers, or to one."""
    text = host(path(0, 1), path(1, 1), namespace(1), path(0, 2), namespace(2))
    kernel = testing.create(parse(text), tmp_path / "host")
    assert blocks(kernel) == {"nvme0n1", "nvme0n1p1", "nvme0n2", "nvme0n2p1"}
    unbind(kernel, ONE)
    assert blocks(kernel) == {"nvme0n1", "nvme0n1p1"}
    assert numbers(kernel) == {"259:1"}
    unbind(kernel, TWO)
    bind(kernel, TWO)
    assert blocks(kernel) == {"nvme0n1", "nvme0n1p1"}
    bind(kernel, ONE)
    assert blocks(kernel) == {"nvme0n1", "nvme0n1p1", "nvme0n2", "nvme0n2p1"}
