"""A recording becomes a directory: what is in it, and that nothing leads out of it."""

from __future__ import annotations

import errno
import os
import stat
import time
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from hypothesis import HealthCheck, given, settings

from tests.strategies import recordings
from vfiohost.errors import ParseError, UnsupportedError
from vfiohost.model import PciAddress
from vfiohost.record import capture
from vfiohost.recording import (
    Attribute,
    File,
    Function,
    Group,
    Mdev,
    MdevTable,
    MdevTableType,
    Module,
    PciDriver,
    Recording,
    VirtualParent,
)
from vfiohost.sysfs import Sysfs
from vfiohost.testing import expand, fixtures

if TYPE_CHECKING:
    from pathlib import Path

    from vfiohost.recording import Part

EMPTY = Recording("t", "s")
PORT = Function("pci0000:00/0000:00:01.0")
GPU = Function("pci0000:00/0000:00:01.0/0000:01:00.0", driver="nouveau", iommu_group=7)
DEVICE = "sys/devices/pci0000:00/0000:00:01.0/0000:01:00.0"


def link(path: Path) -> str:
    return str(path.readlink())


def names(directory: Path) -> set[str]:
    return {each.name for each in directory.iterdir()}


@pytest.fixture(scope="module")
def vgpu(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The A10 pair on the vGPU host driver."""
    directory = tmp_path_factory.mktemp("vgpu")
    expand(fixtures.load("a10-pair-vgpu"), directory)
    return directory


@pytest.mark.parametrize(
    ("path", "target"),
    [
        (
            "sys/bus/pci/devices/0000:65:00.4",
            "../../../devices/pci0000:64/0000:64:02.0/0000:65:00.4",
        ),
        (
            "sys/devices/pci0000:64/0000:64:02.0/0000:65:00.4/driver",
            "../../../../bus/pci/drivers/nvidia",
        ),
        (
            "sys/devices/pci0000:64/0000:64:02.0/0000:65:00.4/subsystem",
            "../../../../bus/pci",
        ),
        (
            "sys/devices/pci0000:64/0000:64:02.0/0000:65:00.4/iommu_group",
            "../../../../kernel/iommu_groups/17",
        ),
        ("sys/devices/pci0000:64/0000:64:02.0/0000:65:00.4/physfn", "../0000:65:00.0"),
        ("sys/devices/pci0000:64/0000:64:02.0/0000:65:00.0/virtfn31", "../0000:65:04.3"),
        (
            "sys/bus/pci/drivers/nvidia/0000:65:00.4",
            "../../../../devices/pci0000:64/0000:64:02.0/0000:65:00.4",
        ),
        ("sys/bus/pci/drivers/nvidia/module", "../../../../module/nvidia"),
        ("sys/module/nvidia/drivers/pci:nvidia", "../../../bus/pci/drivers/nvidia"),
        ("sys/module/vfio/holders/nvidia", "../../nvidia"),
        (
            "sys/kernel/iommu_groups/17/devices/0000:65:00.4",
            "../../../../devices/pci0000:64/0000:64:02.0/0000:65:00.4",
        ),
        (
            "sys/class/mdev_bus/0000:65:00.4",
            "../../devices/pci0000:64/0000:64:02.0/0000:65:00.4",
        ),
    ],
)
def test_the_links_are_those_of_sysfs(vgpu: Path, path: str, target: str) -> None:
    assert link(vgpu / path) == target
    assert (vgpu / path).exists()


@pytest.mark.parametrize(
    ("path", "content", "mode"),
    [
        ("sys/bus/pci/drivers_probe", "", 0o200),
        ("sys/bus/pci/drivers_autoprobe", "1\n", 0o644),
        ("sys/bus/pci/rescan", "", 0o200),
        ("sys/bus/pci/drivers/nvidia/bind", "", 0o200),
        ("sys/bus/pci/drivers/nvidia/remove_id", "", 0o200),
        ("sys/bus/pci/devices/0000:65:00.0/vendor", "0x10de\n", 0o444),
        ("sys/bus/pci/devices/0000:65:00.0/driver_override", "(null)\n", 0o644),
        ("sys/bus/pci/devices/0000:65:00.0/remove", "", 0o220),
        ("sys/bus/pci/devices/0000:65:00.0/reset", "", 0o200),
        ("sys/kernel/iommu_groups/17/type", "DMA\n", 0o644),
        ("sys/module/vfio/refcnt", "3\n", 0o444),
        ("sys/module/nvidia/initstate", "live\n", 0o444),
        ("proc/sys/kernel/osrelease", "6.12.117+deb12-amd64\n", 0o444),
        ("dev/vfio/vfio", "", 0o666),
    ],
)
def test_the_files_have_their_usual_modes(vgpu: Path, path: str, content: str, mode: int) -> None:
    found = vgpu / path
    assert stat.S_IMODE(found.stat().st_mode) == mode
    assert found.read_text() == content


def test_a_virtual_function_has_no_remove_and_rescan(vgpu: Path) -> None:
    assert not {"remove", "rescan"} & names(vgpu / "sys/bus/pci/devices/0000:65:00.4")


def test_the_module_files_of_depmod(vgpu: Path) -> None:
    directory = vgpu / "lib/modules/6.12.117+deb12-amd64"
    aliases = (directory / "modules.alias").read_text().split("\n")
    assert aliases.index("alias pci:v000010DEd*sv*sd*bc03sc*i* nvidiafb") < aliases.index(
        "alias pci:v000010DEd*sv*sd*bc03sc*i* nouveau"
    )
    assert "alias vfio_pci:v*d*sv*sd*bc*sc*i* vfio_pci" in aliases
    needs = (directory / "modules.dep").read_text().split("\n")
    modules = ("mdev", "vfio_pci_core", "irqbypass", "vfio")
    assert f"kernel/nvidia.ko: {' '.join(f'kernel/{name}.ko' for name in modules)}" in needs
    builtin = (directory / "modules.builtin").read_text().split("\n")
    assert "kernel/pcieport.ko" in builtin
    assert "kernel/nvidia.ko" not in builtin


def test_every_type_can_be_made_once_on_every_virtual_function(vgpu: Path) -> None:
    types = vgpu / "sys/class/mdev_bus/0000:ca:04.3/mdev_supported_types"
    assert len(names(types)) == 18
    for directory in types.iterdir():
        assert (directory / "available_instances").read_text() == "1\n"
    assert (types / "nvidia-595/name").read_text() == "NVIDIA A10-8Q\n"
    assert (types / "nvidia-595/device_api").read_text() == "vfio-pci\n"
    assert stat.S_IMODE((types / "nvidia-595/create").stat().st_mode) == 0o200


def test_mediated_devices_and_what_they_leave(tmp_path: Path) -> None:
    uuid, vf = "0b5cd3fe-1b2c-4d5e-8f90-123456789abc", "0000:65:00.4"
    host = fixtures.load("a10-pair-vgpu")
    few = tuple(f for f in host.functions if f.vf_index is None or f.vf_index < 2)
    mdev = Mdev(uuid, vf, "nvidia-596", driver="nvidia-vgpu-vfio", iommu_group=200)
    expand(attrs.evolve(host, functions=few, mdevs=(mdev,)), tmp_path)
    bus, parents = tmp_path / "sys/bus/mdev", tmp_path / "sys/class/mdev_bus"
    device = f"../../../devices/pci0000:64/0000:64:02.0/{vf}/{uuid}"
    assert link(bus / "devices" / uuid) == device
    type_link = link(bus / "devices" / uuid / "mdev_type")
    assert type_link == "../mdev_supported_types/nvidia-596"
    assert (bus / "drivers/nvidia-vgpu-vfio" / uuid / "remove").is_file()
    assert (parents / vf / "mdev_supported_types/nvidia-596/devices" / uuid).exists()
    assert (tmp_path / "sys/kernel/iommu_groups/200/devices" / uuid).exists()
    assert stat.S_IMODE((tmp_path / "dev/vfio/200").stat().st_mode) == 0o600
    left = {
        (parent, each): (parents / parent / "mdev_supported_types" / each / "available_instances")
        for parent in (vf, "0000:65:00.5", "0000:ca:00.4")
        for each in ("nvidia-595", "nvidia-596")
    }
    # A10-12Q: two for a card, one for each virtual function, and no other type beside it.
    assert {where: int(path.read_text()) for where, path in left.items()} == {
        (vf, "nvidia-595"): 0,
        (vf, "nvidia-596"): 0,
        ("0000:65:00.5", "nvidia-595"): 0,
        ("0000:65:00.5", "nvidia-596"): 1,
        ("0000:ca:00.4", "nvidia-595"): 1,
        ("0000:ca:00.4", "nvidia-596"): 1,
    }


@pytest.mark.parametrize("name", fixtures.names())
def test_no_link_of_a_fixture_leads_nowhere(name: str, tmp_path: Path) -> None:
    host = fixtures.load(name)
    few = tuple(f for f in host.functions if f.vf_index is None or f.vf_index < 2)
    expand(attrs.evolve(host, functions=few), tmp_path)
    dangling = {
        os.path.relpath(each, tmp_path)
        for each in tmp_path.rglob("*")
        if each.is_symlink() and not each.exists()
    }
    if "groups" in host.lacks:
        dangling = {each for each in dangling if not each.endswith("/iommu_group")}
    assert dangling == set()


def test_a_vfio_driver_gives_the_group_its_node(tmp_path: Path) -> None:
    gpu = attrs.evolve(GPU, driver="vfio-pci")
    audio = Function("pci0000:00/0000:00:01.0/0000:01:00.1", driver="vfio-pci", iommu_group=7)
    nic = Function("pci0000:00/0000:00:02.0", driver="e1000e", iommu_group=8)
    expand(attrs.evolve(EMPTY, functions=(PORT, gpu, audio, nic)), tmp_path)
    assert names(tmp_path / "dev/vfio") == {"7"}


def test_what_is_lacking_is_not_made(tmp_path: Path) -> None:
    module = Module("nouveau", drivers=(PciDriver("nouveau"),))
    host = attrs.evolve(EMPTY, functions=(PORT, GPU), modules=(module,))
    lacks: frozenset[Part] = frozenset({"subsystem", "controls", "driver-links", "groups"})
    expand(attrs.evolve(host, lacks=lacks), tmp_path / "a")
    found = {os.path.relpath(each, tmp_path / "a") for each in (tmp_path / "a").rglob("*")}
    assert {each for each in found if each.startswith(("sys/bus", "sys/kernel", DEVICE))} == {
        *("sys/bus", "sys/bus/pci", "sys/bus/pci/devices", "sys/bus/pci/drivers"),
        *("sys/bus/pci/devices/0000:00:01.0", "sys/bus/pci/devices/0000:01:00.0"),
        *("sys/bus/pci/drivers/nouveau", DEVICE, f"{DEVICE}/driver", f"{DEVICE}/iommu_group"),
    }
    expand(attrs.evolve(host, lacks=frozenset({"drivers"})), tmp_path / "b")
    assert not (tmp_path / "b/sys/bus/pci/drivers").exists()
    assert (tmp_path / "b" / DEVICE / "driver").is_symlink()


def test_an_unreadable_file_stays_unreadable(tmp_path: Path) -> None:
    files = {
        "irq": Attribute(errno.EACCES),
        "reset": Attribute(errno.EACCES),
        "enable": Attribute(errno.EIO, 0o640),
    }
    expand(attrs.evolve(EMPTY, functions=(Function(PORT.path, attributes=files),)), tmp_path)
    directory = tmp_path / "sys/devices" / PORT.path
    modes = {name: stat.S_IMODE((directory / name).stat().st_mode) for name in files}
    assert modes == {"irq": 0, "reset": 0o200, "enable": 0o200}


def test_a_recorded_file_takes_the_place_of_a_derived_one(tmp_path: Path) -> None:
    files = (
        File("proc/sys/kernel/random/boot_id", b"11111111-2222-4333-8444-555555555555\n"),
        File(f"{DEVICE}/driver", "../../nowhere"),
        File("sys/bus/pci/rescan", b"", 0o644),
        File("run", None, 0o700),
    )
    expand(attrs.evolve(EMPTY, functions=(PORT, GPU), files=files), tmp_path)
    assert link(tmp_path / DEVICE / "driver") == "../../nowhere"
    assert (tmp_path / files[0].path).read_bytes() == files[0].content
    assert stat.S_IMODE((tmp_path / "sys/bus/pci/rescan").stat().st_mode) == 0o644
    assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o700


TABLE = MdevTable("t", "d", "vfio-pci", (MdevTableType("d-1", None, 0),))
OFFERING: dict[str, Any] = {
    "mdev_tables": (TABLE,),
    "virtual_parents": (VirtualParent("virtual/p", "t"),),
}


def test_a_device_of_a_type_that_never_fits_leaves_nothing(tmp_path: Path) -> None:
    expand(attrs.evolve(EMPTY, **OFFERING, mdevs=(Mdev("u", "p", "d-1"),)), tmp_path)
    types = tmp_path / "sys/devices/virtual/p/mdev_supported_types"
    assert (types / "d-1/available_instances").read_text() == "0\n"


def test_no_file_gives_its_user_away(tmp_path: Path) -> None:
    """Root may expand what somebody else recorded."""
    files = {"irq": Attribute(b"", 0o4755)}
    host = attrs.evolve(
        EMPTY,
        functions=(Function(PORT.path, attributes=files),),
        files=(File("sudo", b"#!/bin/sh\n", 0o6755), File("tmp", None, 0o3777)),
    )
    expand(host, tmp_path)
    paths = (f"sys/devices/{PORT.path}/irq", "sudo", "tmp")
    modes = [stat.S_IMODE((tmp_path / path).stat().st_mode) for path in paths]
    assert modes == [0o755, 0o755, 0o777]


def test_hundreds_of_virtual_functions_are_no_trouble(tmp_path: Path) -> None:
    pf = Function("pci0000:00/0000:00:00.0")
    vfs = tuple(
        Function(
            f"pci0000:00/0000:{1 + number // 256:02x}:{number // 8 % 32:02x}.{number % 8}",
            driver="d",
            physfn=pf.address,
            vf_index=number,
            mdev_table="t",
        )
        for number in range(1024)
    )
    table = attrs.evolve(TABLE, scope="physfn")
    host = attrs.evolve(EMPTY, functions=(pf, *vfs), mdev_tables=(table,))
    start = time.process_time()
    expand(host, tmp_path)
    with Sysfs(tmp_path) as sysfs:
        found = capture(sysfs, title="t", source="s")
    assert time.process_time() - start < 20  # some seconds; minutes, if each looks at all
    assert [f.vf_index for f in found.functions] == [None, *range(1024)]


OUT = "../../../../../../../../../../../out"


@pytest.mark.parametrize(
    "hostile",
    [
        *(
            {"files": (File(path, b"x"),)}
            for path in (OUT, "/out", "a/../../out", "", ".", "a//b", "a/", "a\0b", "a" * 300)
        ),
        {"files": (File("a" * 200 + "/" + "b/" * 2000 + "c", None),)},
        {"files": (File("a", b"1"), File("a", b"2"))},
        {"files": (File("a", b"1"), File("a/b", b"2"))},
        {"files": (File("a/b", b"1"), File("a", b"2"))},
        {"files": (File("a", "../out"), File("a/b", b"x"))},
        {"files": (File("a", "/"), File("a", None))},
        {"files": (File("sys", "../out"),), "functions": (PORT,)},
        {"files": (File("sys/devices", "/tmp"),), "functions": (PORT,)},
        {"files": (File("a", ""),)},
        {"files": (File("a", "b\0"),)},
        {"functions": (Function(f"{OUT}/0000:00:01.0"),)},
        {"functions": (Function("/0000:00:01.0"),)},
        {"functions": (PORT, PORT)},
        {"functions": (Function("pci0000:00/not-an-address"),)},
        {"functions": (Function(PORT.path, attributes={OUT: Attribute(b"")}),)},
        {"functions": (Function(PORT.path, attributes={"/out": Attribute(b"")}),)},
        {"functions": (Function(PORT.path, attributes={"driver/a": Attribute(b"")}, driver="d"),)},
        {"functions": (Function(PORT.path, driver=OUT),)},
        {"functions": (Function(PORT.path, driver=".."),)},
        {"functions": (Function(PORT.path, physfn=PciAddress(0, 9, 9, 0)),)},
        {"functions": (Function(PORT.path, mdev_table="none of that name"),)},
        {"modules": (Module(OUT),)},
        {"modules": (Module("a", drivers=(PciDriver(OUT),)),)},
        {"modules": (Module(".."),)},
        {"kernel": OUT, "modules": (Module("a"),)},
        {"groups": (Group(1, {OUT: Attribute(b"")}),)},
        {"mdevs": (Mdev("u", "none of that name", "t"),)},
        {**OFFERING, "mdevs": (Mdev("u", "p", "none of that name"),)},
    ],
)
def test_a_hostile_recording_is_refused_and_writes_nothing_outside(
    hostile: dict[str, Any], tmp_path: Path
) -> None:
    outside = tmp_path / "out"
    outside.mkdir()
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ParseError):
        expand(attrs.evolve(EMPTY, **hostile), tmp_path / "in")
    assert list(outside.iterdir()) == []
    assert sorted(tmp_path.iterdir()) == sorted([*before, tmp_path / "in"])
    assert list((tmp_path / "in").iterdir()) == []  # the next try must not find it half-filled


def without_loose_ends(host: Recording) -> Recording:
    """The recording without the names that name nothing, for which it is refused soon."""
    tables = {table.name for table in host.mdev_tables}
    addresses = {function.address for function in host.functions}
    functions = tuple(
        attrs.evolve(
            function,
            mdev_table=function.mdev_table if function.mdev_table in tables else None,
            physfn=function.physfn if function.physfn in addresses else None,
        )
        for function in host.functions
    )
    parents = tuple(parent for parent in host.virtual_parents if parent.mdev_table in tables)
    return attrs.evolve(host, functions=functions, virtual_parents=parents, mdevs=())


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(recordings() | recordings().map(without_loose_ends))
def test_no_recording_writes_outside(
    tmp_path_factory: pytest.TempPathFactory, given_recording: Recording
) -> None:
    base = tmp_path_factory.mktemp("base")
    link = Function("pci0000:00/0000:00:1f.7", driver="d")
    hostile = attrs.evolve(given_recording, functions=(*given_recording.functions, link))
    try:
        expand(hostile, base / "a/b/c/in")
    except ParseError:
        pass
    else:
        assert (base / "a/b/c/in/sys/bus/pci/devices/0000:00:1f.7/driver").is_symlink()
    assert [each.name for each in base.iterdir()] == ["a"]
    assert [each.name for each in (base / "a/b/c").iterdir()] == ["in"]


def test_a_directory_that_is_not_empty_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(UnsupportedError, match="is not empty"):
        expand(fixtures.load("vmd-domain"), tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["mine"]


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        expand(EMPTY, tmp_path / "file")
