"""``vfiohost vf``: virtual functions on simulated hosts."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

import pytest

from tests.face.support import check_golden
from vfiohost.testing import SimulatedKernel

if TYPE_CHECKING:
    from pathlib import Path

    from tests.face.support import Maker, Runner

NVME = "17:00.0"
LINES = {
    "vf-list": ("vf", "list"),
    "vf-set-dry-run": ("vf", "set", NVME, "2", "--driver", "vfio-pci", "-n"),
    "vf-set": ("vf", "set", NVME, "2", "--driver", "vfio-pci"),
    "vf-set-native": ("vf", "set", NVME, "all"),
    "vf-set-refused": ("vf", "set", "65:00.0", "33"),
    "vf-set-by-nouveau": ("vf", "set", "65:00.0", "4"),
    "vf-set-nothing": ("vf", "set", "31:00.0", "1"),
    "vf-set-no-number": ("vf", "set", NVME, "many"),
}


@pytest.fixture
def root(simulated: Maker) -> Path:
    return simulated("a10-pair-nouveau")


@pytest.mark.parametrize("name", LINES)
def test_output(run: Runner, root: Path, name: str) -> None:
    check_golden(name, run(*LINES[name], root=root), root)
    assert run(*LINES[name], "--json", root=root).value


def state(run: Runner, root: Path) -> list[tuple[Any, ...]]:
    """Every physical function with its driver, and its virtual ones with theirs."""
    value = run("vf", "list", "--json", root=root).value
    return [
        (
            pf["address"],
            pf["driver"],
            [(v["address"], v["driver"]) for v in pf["virtual_functions"]],
        )
        for pf in value["physical_functions"]
    ]


def drivers(run: Runner, root: Path) -> list[str | None]:
    (pf,) = run("vf", "list", NVME, "--json", root=root).value["physical_functions"]
    return [vf["driver"] for vf in pf["virtual_functions"]]


def test_there_and_back(run: Runner, root: Path) -> None:
    assert run("vf", "set", NVME, "2", "--driver", "vfio-pci", root=root).code == 0
    check_golden("vf-list-verbose", run("vf", "list", "-v", root=root), root)
    assert run("vf", "set", NVME, "3", root=root).code == 4
    assert run("vf", "set", NVME, "3", "--recreate", "--driver", "auto", root=root).code == 0
    assert drivers(run, root) == ["vfio-pci"] * 3
    assert run("undo", root=root).code == 0
    assert drivers(run, root) == ["vfio-pci"] * 2
    assert run("vf", "clear", NVME, root=root).code == 0
    assert drivers(run, root) == []
    assert run("undo", root=root).code == 0
    assert drivers(run, root) == ["vfio-pci"] * 2


def test_so_already(run: Runner, root: Path) -> None:
    assert run("vf", "set", NVME, "2", root=root).code == 0
    before = len(SimulatedKernel(root).stores)
    assert run("vf", "set", NVME, "2", root=root).code == 0
    assert len(SimulatedKernel(root).stores) == before
    assert run("vf", "set", NVME, "2", "--driver", "vfio-pci", root=root).code == 0
    assert drivers(run, root) == ["vfio-pci", "vfio-pci"]


@pytest.mark.parametrize("before", ["vfio-pci", "none"])
def test_back_to_their_own_driver(run: Runner, root: Path, before: str) -> None:
    native = ("vf", "set", NVME, "2", "--driver", "native")
    assert run("vf", "set", NVME, "2", "--driver", before, root=root).code == 0
    assert run("vf", "set", NVME, "2", root=root).code == 0
    has = drivers(run, root)
    assert has == [None if before == "none" else before] * 2  # nothing was said of a driver
    assert run(*native, "-n", "--exit-code", root=root).code == 10
    assert run(*native, root=root).code == 0
    assert drivers(run, root) == ["nvme", "nvme"]
    override = root / "sys/bus/pci/devices/0000:17:00.1/driver_override"
    assert override.read_text() == "(null)\n"
    assert run(*native, "-n", "--exit-code", root=root).code == 0
    assert run("undo", root=root).code == 0
    assert drivers(run, root) == has


@pytest.mark.parametrize(
    "refused", ["*/sriov_numvfs", "*/0000:17:00.2/driver_override", "*/vfio-pci/bind"]
)
def test_a_failure_leaves_nothing(run: Runner, root: Path, refused: str) -> None:
    before = state(run, root)
    SimulatedKernel(root).refuse(refused, errno.ENOMEM)
    ran = run("vf", "set", NVME, "2", "--driver", "vfio-pci", root=root)
    assert ran.code == 1
    assert "ENOMEM" in ran.err
    assert state(run, root) == before
    autoprobe = root / "sys/bus/pci/devices/0000:17:00.0/sriov_drivers_autoprobe"
    assert autoprobe.read_text() == "1\n"


def test_a_failure_half_way_through_another_number(run: Runner, root: Path) -> None:
    assert run("vf", "set", NVME, "2", "--driver", "vfio-pci", root=root).code == 0
    before = state(run, root)
    SimulatedKernel(root).refuse("*/0000:17:00.3/driver_override", errno.EIO)
    ran = run("vf", "set", NVME, "3", "--driver", "vfio-pci", "--recreate", root=root)
    assert ran.code == 1
    assert state(run, root) == before


def test_fewer_than_were_asked_for(run: Runner, root: Path) -> None:
    SimulatedKernel(root).limit_vfs("0000:17:00.0", 1)
    ran = run("vf", "set", NVME, "3", root=root)
    assert ran.code == 1
    assert "did not have its effect" in ran.err
    assert drivers(run, root) == []


def test_one_that_a_guest_has(run: Runner, root: Path) -> None:
    assert run("vf", "set", NVME, "1", "--driver", "vfio-pci", root=root).code == 0
    with SimulatedKernel(root).open_device("0000:17:00.1"):
        ran = run("vf", "clear", NVME, root=root)
    assert ran.code == 4
    assert "[in-use]" in ran.err
    assert drivers(run, root) == ["vfio-pci"]


def test_orphans(run: Runner, root: Path) -> None:
    assert run("vf", "set", NVME, "2", root=root).code == 0
    kernel = SimulatedKernel(root)
    kernel.store("sys/bus/pci/drivers/nvme/unbind", "0000:17:00.0", timeout=1)
    ran = run("vf", "clear", NVME, "-v", root=root)
    assert ran.code == 0, ran.err
    assert "had lost its driver" in ran.err
    assert drivers(run, root) == []


@pytest.mark.parametrize("wanted", ["native", "vfio-pci", "none"])
def test_of_a_physical_function_for_guests(run: Runner, root: Path, wanted: str) -> None:
    """vfio-pci gives them an override, and takes them although probing is off."""
    assert run("bind", NVME, root=root).code == 0
    (root / "sys/module/vfio_pci/parameters/enable_sriov").write_text("Y\n")
    has = [None if wanted == "none" else "vfio-pci"] * 2
    before = state(run, root)
    assert run("vf", "set", NVME, "2", "--driver", wanted, root=root).code == 0
    assert drivers(run, root) == has
    assert run("vf", "clear", NVME, root=root).code == 0
    assert state(run, root) == before
    assert run("undo", root=root).code == 0
    assert drivers(run, root) == has
    assert run("undo", root=root).code == 0
    assert state(run, root) == before


def test_nvidias_script(run: Runner, simulated: Maker) -> None:
    root = simulated("a10-pair-vgpu")
    check_golden("vf-clear-nvidia", run("vf", "clear", "65:00.0", "-n", root=root), root)
    before = state(run, root)
    assert run("vf", "clear", "65:00.0", root=root).code == 0
    assert run("vf", "set", "65:00.0", "4", root=root).code == 4
    assert run("vf", "set", "65:00.0", "all", root=root).code == 0
    assert state(run, root) == before
    assert run("undo", root=root).code == 0
    assert run("undo", root=root).code == 0


def test_nvidias_script_fails(run: Runner, simulated: Maker) -> None:
    root = simulated("a10-pair-vgpu")
    before = state(run, root)
    SimulatedKernel(root).refuse("usr/lib/nvidia/sriov-manage", errno.EIO)
    ran = run("vf", "clear", "65:00.0", root=root)
    assert ran.code == 1
    assert "sriov-manage" in ran.err
    assert state(run, root) == before


def test_vgpus_keep_their_functions(run: Runner, simulated: Maker) -> None:
    root = simulated("a10-pair-vgpu")
    assert run("mdev", "create", "-p", "65:00.0", "-t", "A10-12Q", root=root).code == 0
    ran = run("vf", "clear", "65:00.0", root=root)
    assert ran.code == 4
    assert "[mdevs-exist]" in ran.err


def test_each_on_its_own(run: Runner, simulated: Maker) -> None:
    root = simulated("a10-pair-vgpu")
    assert run("mdev", "create", "-p", "65:00.0", "-t", "A10-12Q", root=root).code == 0
    ran = run("vf", "clear", "65:00.0", "ca:00.0", "--keep-going", root=root)
    assert ran.code == 4
    assert "0000:65:00.0: refused: 0000:65:00.4 has 1 mediated device" in ran.err
    numbers = {
        address: (root / "sys/bus/pci/devices" / address / "sriov_numvfs").read_text()
        for address in ("0000:65:00.0", "0000:ca:00.0")
    }
    assert numbers == {"0000:65:00.0": "32\n", "0000:ca:00.0": "0\n"}
