"""Whatever stands in the directory or in a path: nothing outside the root is touched."""

from __future__ import annotations

import contextlib
import os
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.deadline import deadline
from tests.simulation.hosts import GPU_VFS, NIC, NVME, UUID, Shell, answers
from tests.simulation.pictures import picture
from vfiohost.errors import UnsupportedError, VfioHostError
from vfiohost.testing import SimulatedKernel, is_simulation

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DEVICE = f"sys/devices/pci0000:00/0000:00:01.0/{NIC}"
MTTY = "sys/devices/virtual/mtty/mtty"


def sparse(path: Path) -> None:
    """Make a file of 16 GiB that takes no room."""
    with path.open("wb") as file:
        file.truncate(16 << 30)


@pytest.fixture
def outside(scratch: Path, root: Path) -> Path:
    """A directory beside the root that looks like a part of a host."""
    directory = scratch / "outside"
    shutil.copytree(root / "sys", directory / "sys", symlinks=True)
    (directory / "vfio").mkdir()
    (directory / "victim").write_text("untouched")
    return directory


def exercise(root: Path) -> None:
    """Ask the host everything; it may refuse, in its own words."""
    stores = [
        ("sys/bus/pci/drivers/e1000e/unbind", NIC),
        (f"sys/bus/pci/devices/{NIC}/driver_override", "vfio-pci"),
        ("sys/bus/pci/drivers/vfio-pci/bind", NIC),
        ("sys/bus/pci/drivers_probe", NIC),
        ("sys/bus/pci/drivers_autoprobe", "0"),
        ("sys/bus/pci/drivers/vfio-pci/new_id", "8086 10d3"),
        (f"sys/bus/pci/devices/{NVME}/sriov_numvfs", "2"),
        (f"sys/bus/pci/devices/{NVME}/sriov_drivers_autoprobe", "0"),
        (f"sys/bus/pci/devices/{NVME}/sriov_numvfs", "0"),
        ("sys/class/mdev_bus/mtty/mdev_supported_types/mtty-1/create", UUID),
        (f"sys/bus/mdev/devices/{UUID}/remove", "1"),
        ("sys/bus/pci/drivers/nvidia/unbind", GPU_VFS[0]),
    ]
    with contextlib.suppress(VfioHostError):
        kernel = SimulatedKernel(root)
        for path, value in stores:
            with contextlib.suppress(VfioHostError):
                kernel.store(path, value, timeout=0)
        with contextlib.suppress(VfioHostError):
            kernel.load_module("igb", timeout=0)
        with contextlib.suppress(VfioHostError):
            kernel.open_device(NIC).close()
        with contextlib.suppress(VfioHostError):
            kernel.open_group(5).close()


def replace(path: Path, target: str | Path) -> None:
    """Put a symbolic link where something was."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


@pytest.mark.parametrize(
    "where",
    [
        "sys",
        "sys/bus",
        "sys/bus/pci/devices",
        "sys/bus/pci/drivers",
        "sys/bus/pci/drivers/e1000e",
        "sys/bus/pci/drivers/vfio-pci",
        "sys/bus/mdev",
        "sys/bus/mdev/drivers",
        "sys/class",
        "sys/class/mdev_bus",
        "sys/class/vfio-dev",
        "sys/devices",
        "sys/devices/pci0000:00",
        DEVICE,
        MTTY,
        f"{MTTY}/mdev_supported_types",
        f"{MTTY}/mdev_supported_types/mtty-1",
        "sys/kernel/iommu_groups",
        "sys/kernel/iommu_groups/5",
        "sys/module",
        "sys/module/vfio_pci",
    ],
)
def test_a_directory_that_leads_outside(root: Path, outside: Path, where: str) -> None:
    replace(root / where, os.path.relpath(outside / where, (root / where).parent))
    before = picture(outside)
    exercise(root)
    assert picture(outside) == before


@pytest.mark.parametrize("where", ["sys", "sys/bus/pci/drivers", DEVICE])
def test_a_directory_that_leads_outside_absolutely(root: Path, outside: Path, where: str) -> None:
    replace(root / where, outside / where)
    before = picture(outside)
    exercise(root)
    assert picture(outside) == before


@pytest.mark.parametrize("where", ["dev", "dev/vfio", "proc", "proc/4000", "proc/4000/fd"])
def test_nodes_and_processes_outside(root: Path, outside: Path, where: str) -> None:
    replace(root / where, outside / "vfio")
    before = picture(outside)
    exercise(root)
    assert picture(outside) == before


@pytest.mark.parametrize(
    "where",
    [
        f"{DEVICE}/driver_override",
        f"{DEVICE}/uevent",
        f"{DEVICE}/enable",
        f"{DEVICE}/driver",
        f"{DEVICE}/iommu_group",
        f"sys/devices/pci0000:00/0000:00:01.0/{NVME}/sriov_numvfs",
        "sys/bus/pci/drivers_autoprobe",
        f"{MTTY}/mdev_supported_types/mtty-1/available_instances",
        "dev/vfio/5",
    ],
)
def test_a_file_that_is_a_link_outside(root: Path, outside: Path, where: str) -> None:
    replace(root / where, outside / "victim")
    before = picture(outside)
    exercise(root)
    assert picture(outside) == before


@pytest.mark.parametrize(
    "where", ["", "/state.json", "/stores.log", "/lock", "/new", "/redo.json", "/recording.host"]
)
def test_the_marker_itself(root: Path, outside: Path, where: str) -> None:
    shutil.copytree(root / ".vfiohost-sim", outside / ".vfiohost-sim")
    (outside / ".vfiohost-sim/redo.json").write_text("[]")
    replace(root / f".vfiohost-sim{where}", outside / f".vfiohost-sim{where}")
    before = picture(outside)
    exercise(root)
    assert picture(outside) == before
    if where in ("", "/state.json"):
        assert not is_simulation(root)


@pytest.mark.parametrize(
    "path",
    [
        "../outside/victim",
        "../../../../../../etc/hostname",
        "sys/../../outside/victim",
        "sys/bus/pci/devices/../../../../../outside/victim",
        "/../outside/victim",
    ],
)
def test_a_path_that_climbs_stays_inside(host: Shell, outside: Path, path: str) -> None:
    before = picture(outside)
    with answers("ENOENT", "open"):
        host.echo("x", path)
    assert picture(outside) == before


def test_a_path_may_climb_inside(host: Shell) -> None:
    host.echo(NIC, f"../../sys/bus/pci/devices/{NIC}/driver/../e1000e/unbind")
    assert host.driver(NIC) is None


def test_a_loop_of_links_is_eloop(host: Shell, root: Path) -> None:
    (root / "sys/a").symlink_to("b")
    (root / "sys/b").symlink_to("a")
    with answers("ELOOP", "open"):
        host.echo("x", "sys/a/bind")


def test_a_path_through_a_file_is_enotdir(host: Shell) -> None:
    with answers("ENOTDIR", "open"):
        host.echo("x", f"sys/bus/pci/devices/{NIC}/vendor/x")


@pytest.mark.parametrize(
    "spoil",
    [
        os.mkfifo,
        lambda path: path.mkdir(),
        lambda path: path.write_bytes(b"\xff\xfe\0\n"),
        lambda path: path.write_bytes(b"x" * (1 << 20)),
        lambda path: None,
    ],
    ids=["fifo", "directory", "no UTF-8", "a megabyte", "missing"],
)
@pytest.mark.parametrize("name", ["driver_override", "uevent", "modalias", "sriov_numvfs"])
def test_a_spoilt_attribute_hangs_nothing_and_spoils_no_other_device(
    root: Path, spoil: Callable[[Path], object], name: str
) -> None:
    path = root / f"sys/devices/pci0000:00/0000:00:01.0/{NVME}" / name
    path.unlink()
    spoil(path)
    exercise(root)
    host = Shell(SimulatedKernel(root))
    host.override(NIC, "\n")
    if host.driver(NIC) is None:
        host.bind("e1000e", NIC)
    host.unbind(host.driver(NIC) or "", NIC)
    assert host.driver(NIC) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "[" * 100_000,
        "\xff",
        '{"open_files": 3}',
        '{"pending": [{"number": 1}]}',
        '{"pending": [{"number": "1", "verb": "store", "path": "a", "value": "b"}]}',
        '{"pending": [{"number": 1, "verb": "sell", "path": "a", "value": "b"}]}',
        '{"next_number": true}',
        '{"next_number": 1e999}',
        '{"failing_probes": [["a", "b"]]}',
        '{"zombies": {"a": {"parent": "p", "type_id": "t", "operation": null}}}',
        '{"unheard_of": 1}',
    ],
)
def test_a_state_that_is_none_is_refused_in_words(root: Path, text: str) -> None:
    (root / ".vfiohost-sim/state.json").write_text(text)
    before = picture(root / "sys")
    with pytest.raises(UnsupportedError, match=r"is damaged: \.vfiohost-sim/state\.json: "):
        SimulatedKernel(root).store("sys/bus/pci/drivers/e1000e/unbind", NIC, timeout=0)
    assert picture(root / "sys") == before


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[1]",
        '[["write", "a", "b"]]',
        '[{"op": "format", "path": "sys"}]',
        '[{"op": "write", "path": "sys/x", "text": 1, "mode": 420}]',
        '[{"op": "remove", "path": ["sys"]}]',
    ],
)
def test_changes_to_finish_that_are_none_are_refused_in_words(root: Path, text: str) -> None:
    (root / ".vfiohost-sim/redo.json").write_text(text)
    before = picture(root / "sys")
    with pytest.raises(UnsupportedError, match=r"is damaged: \.vfiohost-sim/redo\.json: "):
        SimulatedKernel(root).store("sys/bus/pci/drivers/e1000e/unbind", NIC, timeout=0)
    assert picture(root / "sys") == before


@pytest.mark.parametrize("name", ["state.json", "redo.json", "stores.log", "recording.host"])
@pytest.mark.parametrize("spoil", [os.mkfifo, sparse], ids=["fifo", "16 GiB"])
def test_the_markers_files_neither_hang_nor_fill_the_memory(
    root: Path, name: str, spoil: Callable[[Path], object]
) -> None:
    path = root / ".vfiohost-sim" / name
    path.unlink(missing_ok=True)
    spoil(path)
    with deadline(20), contextlib.suppress(VfioHostError, OSError):
        SimulatedKernel(root).store("sys/bus/pci/drivers/e1000e/unbind", NIC, timeout=0)
