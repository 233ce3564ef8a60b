"""A host becomes a recording: what is read, what is not, and that the host comes back from it."""

from __future__ import annotations

import errno
import os
import shutil
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from hypothesis import HealthCheck, given, settings

from tests.native.trees import Lookout, Tree
from tests.recording.machines import RECORDINGS, needs_recordings, unpack
from tests.strategies import host_trees
from vfiohost import recording
from vfiohost.errors import KernelError, UnsupportedError
from vfiohost.native import helpers
from vfiohost.record import capture
from vfiohost.record.command_line import mask_cmdline
from vfiohost.recording import (
    Attribute,
    File,
    Function,
    Mdev,
    Module,
    PciDriver,
    Recording,
)
from vfiohost.sysfs import Sysfs
from vfiohost.testing import expand, fixtures

if TYPE_CHECKING:
    from collections.abc import Sequence

SOURCE = "recorded from a test"


def capture_at(root: Path, **options: Any) -> Recording:
    with Sysfs(root) as sysfs:
        return capture(sysfs, title="t", source=SOURCE, **options)


def few_vfs(host: Recording) -> Recording:
    """The host with two virtual functions for each card: enough to see, and quick to make."""
    few = tuple(f for f in host.functions if f.vf_index is None or f.vf_index < 2)
    groups = {f.iommu_group for f in few}
    kept = tuple(group for group in host.groups if group.number in groups)
    return attrs.evolve(host, functions=few, groups=kept)


def as_masked(host: Recording) -> Recording:
    """The host as it is recorded: what is masked has tests of its own."""
    files = {file.path: file for file in host.files}
    line = files["proc/cmdline"].content if "proc/cmdline" in files else None
    if isinstance(line, bytes):
        files["proc/cmdline"] = File("proc/cmdline", mask_cmdline(line))
    return attrs.evolve(host, title="t", source=SOURCE, files=tuple(files.values()))


def as_captured(host: Recording) -> Recording:
    """A fixture as far as a directory of it can say it."""
    return attrs.evolve(as_masked(host), notes=(), modules=())


# ---- there and back ----------------------------------------------------------------------------


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(host_trees())
def test_expanding_and_recording_gives_the_host_back(
    tmp_path_factory: pytest.TempPathFactory, host: Recording
) -> None:
    root = tmp_path_factory.mktemp("host")
    expand(host, root)
    assert capture_at(root, modes=True) == as_masked(host)
    shutil.rmtree(root)


@pytest.mark.parametrize("name", fixtures.names())
def test_a_fixture_comes_back(name: str, tmp_path: Path) -> None:
    host = few_vfs(fixtures.load(name))
    expand(host, tmp_path)
    found = capture_at(tmp_path, config=any("config" in f.attributes for f in host.functions))
    assert attrs.evolve(found, modules=()) == as_captured(host)
    assert_same_modules(found, host)


def assert_same_modules(found: Recording, host: Recording) -> None:
    """Modules come back as far as they concern the host's functions."""
    ours = {module.name: module for module in host.modules}
    seen = [module.name for module in found.modules]
    if host.kernel is not None:
        assert seen == [name for name in ours if name in seen]
    states = {m.name: (m.state, m.depends) for m in found.modules}
    if host.kernel is not None:
        assert states == {name: (ours[name].state, ours[name].depends) for name in seen}
    needed = {f.driver for f in host.functions if f.driver is not None}
    assert needed <= {driver.name for module in found.modules for driver in module.drivers}
    modaliases = [f.attributes["modalias"].content for f in host.functions]
    texts = [text.decode().strip() for text in modaliases if isinstance(text, bytes)]
    for module in host.modules:
        kept = tuple(
            alias
            for alias in module.aliases
            if alias.startswith("vfio_pci:") or any(fnmatchcase(text, alias) for text in texts)
        )
        if kept:
            (back,) = (m for m in found.modules if m.name == module.name)
            assert back.aliases == kept
            assert {d.name for d in back.drivers} == {d.name for d in module.drivers}


def test_mediated_devices_come_back(tmp_path: Path) -> None:
    vgpu = few_vfs(fixtures.load("a10-pair-vgpu"))
    mdevs = (
        Mdev("0b5cd3fe-1b2c-4d5e-8f90-123456789abc", "0000:65:00.4", "nvidia-596"),
        Mdev(
            "1b5cd3fe-1b2c-4d5e-8f90-123456789abc", "0000:65:00.5", "nvidia-596", "nvidia-vgpu-vfio"
        ),
    )
    expand(attrs.evolve(vgpu, mdevs=mdevs), tmp_path)
    found = capture_at(tmp_path)
    assert found.mdevs == mdevs
    assert found.mdev_tables == vgpu.mdev_tables


def test_parents_that_offer_different_things_have_tables_of_their_own(tmp_path: Path) -> None:
    vgpu = few_vfs(fixtures.load("a10-pair-vgpu"))
    (table,) = vgpu.mdev_tables
    less = attrs.evolve(table, name="nvidia-2", types=table.types[:3])
    functions = tuple(
        attrs.evolve(f, mdev_table="nvidia-2") if f.mdev_table and f.address.bus == 0xCA else f
        for f in vgpu.functions
    )
    expand(attrs.evolve(vgpu, functions=functions, mdev_tables=(table, less)), tmp_path)
    found = capture_at(tmp_path)
    assert found.mdev_tables == (table, less)
    assert found.functions == functions


PCI_LINKS = ("driver", "iommu_group", "physfn")


def text_of(link: Path) -> str:
    return os.readlink(link)


def pci_part(root: Path, found: Sequence[Function]) -> dict[str, bytes | str]:
    """Contents and link targets of what was recorded, as they stand in a tree."""
    part: dict[str, bytes | str] = {}
    for function in found:
        directory = f"sys/devices/{function.path}"
        entry = root / "sys/bus/pci/devices" / str(function.address)
        part[str(function.address)] = text_of(entry)
        for name in function.attributes:
            if function.attributes[name].content != errno.EACCES:
                part[f"{directory}/{name}"] = (root / directory / name).read_bytes()
        for name in PCI_LINKS:
            if (root / directory / name).is_symlink():
                part[f"{directory}/{name}"] = text_of(root / directory / name)
    return part


@needs_recordings
@pytest.mark.parametrize("name", RECORDINGS)
def test_a_real_machine_that_was_recorded_comes_back(name: str, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    theirs = unpack(name, tmp_path / "theirs")
    found = capture_at(theirs)
    assert found.notes == ()
    listed = {each.name for each in (theirs / "sys/bus/pci/devices").iterdir()}
    assert {str(function.address) for function in found.functions} == listed
    for function in found.functions:
        for attribute in ("vendor", "device", "class"):
            path = theirs / "sys/devices" / function.path / attribute
            assert function.attributes[attribute].content == path.read_bytes()
    again = recording.parse(recording.format(found))
    assert again == found
    expand(again, tmp_path / "ours")
    assert pci_part(tmp_path / "ours", found.functions) == pci_part(theirs, found.functions)
    assert capture_at(tmp_path / "ours") == found


# ---- what is read ------------------------------------------------------------------------------

WAKING = ["config", "vpd", "rom", "resource0", "current_link_speed", "max_link_width"]
PRIVATE = ["net/eth0/address", "serial_number"]


def test_what_wakes_hardware_or_names_the_machine_is_not_even_opened(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    function = tree.function(enable="1\n", uevent="DRIVER=\n")
    forbidden = [tree.write(f"{function.relative_to(tmp_path)}/{n}", "x") for n in WAKING + PRIVATE]
    with Lookout(*forbidden) as lookout, Lookout(function / "enable") as control:
        found = capture_at(tmp_path)
        assert lookout.seen() == 0
        assert control.seen() > 0
    names = {"modalias", "revision", "numa_node", "enable", "uevent"}
    assert found.functions[0].attributes.keys() == names


def test_the_configuration_space_is_recorded_on_request(tmp_path: Path) -> None:
    config = bytes(range(256))
    Tree(tmp_path).function(config=config)
    found = capture_at(tmp_path, config=True)
    assert found.functions[0].attributes["config"].content == config
    assert recording.parse(recording.format(found)) == found


def test_a_locked_attribute_is_left_out_with_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = Tree(tmp_path)
    tree.function("0000:65:00.0", uevent="A\n", driver_override="(null)\n")
    tree.function("0000:66:00.0", uevent="B\n", driver_override="(null)\n")
    read_bounded = helpers.read_bounded

    def stuck(
        rootfd: int, paths: Sequence[str], *, timeout: float, **more: Any
    ) -> list[bytes | int | None]:
        answers = read_bounded(rootfd, paths, timeout=timeout)
        stuck_one = [path.endswith("65:00.0/uevent") for path in paths]
        return [None if no else a for a, no in zip(answers, stuck_one, strict=True)]

    monkeypatch.setattr(helpers, "read_bounded", stuck)
    found = capture_at(tmp_path)
    assert found.notes == ("sys/devices/pci0000:64/0000:65:00.0/uevent: left out (device locked)",)
    first, second = found.functions
    assert "uevent" not in first.attributes
    assert first.attributes["driver_override"] == Attribute(b"(null)\n")
    assert second.attributes["uevent"] == Attribute(b"B\n")


def test_a_file_that_cannot_be_read_is_recorded_with_its_errno(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    function = tree.function(irq="x" * 70000, enable="1\n", reset="")
    (function / "enable").chmod(0o200)
    (function / "reset").chmod(0o200)
    attributes = capture_at(tmp_path).functions[0].attributes
    assert attributes["irq"].content == errno.EFBIG
    assert attributes["enable"].content == errno.EACCES
    assert attributes["reset"].content == errno.EACCES


def test_the_ways_to_reset_are_kept_once(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    function = tree.function(reset="", reset_method="flr\n", reset_subordinate="")
    for name in ("reset", "reset_subordinate"):
        (function / name).chmod(0o200)
    attributes = capture_at(tmp_path).functions[0].attributes
    assert attributes["reset_method"].content == b"flr\n"
    assert attributes["reset_subordinate"].content == errno.EACCES
    assert "reset" not in attributes  # it is there wherever the methods are


def test_unusual_modes_are_kept_where_a_tree_has_kept_the_usual_ones(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    function = tree.function(vendor="0x10de\n", enable="1\n")
    for name, mode in (("vendor", 0o444), ("revision", 0o444), ("enable", 0o666)):
        (function / name).chmod(mode)
    attributes = capture_at(tmp_path).functions[0].attributes
    assert attributes["vendor"].mode is None
    assert attributes["enable"].mode == 0o666
    (function / "vendor").chmod(0o644)
    attributes = capture_at(tmp_path).functions[0].attributes
    assert {name: each.mode for name, each in attributes.items()} == dict.fromkeys(attributes)
    attributes = capture_at(tmp_path, modes=True).functions[0].attributes
    assert attributes["vendor"].mode == 0o644


def test_entries_that_make_no_sense_are_noted_and_hide_nothing(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    good = tree.function("0000:65:00.0")
    tree.link("sys/bus/pci/devices/0000:00:01.0", "../../../../../../etc")
    tree.link("sys/bus/pci/devices/0000:00:02.0", "0000:00:02.0")
    (tmp_path / "sys/bus/pci/devices/0000:00:03.0").mkdir()
    tree.link("sys/bus/pci/devices/zzz", "../../../devices/zzz")
    (good / "driver").mkdir()
    (good / "physfn").symlink_to("../0000:99:00.0")
    os.mkfifo(good / "enable")
    found = capture_at(tmp_path)
    assert [str(function.address) for function in found.functions] == ["0000:65:00.0"]
    assert found.functions[0].driver is None
    assert found.functions[0].physfn is None
    assert "enable" not in found.functions[0].attributes
    subjects = [note.partition(": left out (")[0].rpartition("/")[2] for note in found.notes]
    links = ["0000:00:01.0", "0000:00:02.0", "0000:00:03.0", "zzz"]
    assert sorted(subjects) == sorted([*links, "driver", "physfn"])


def test_a_link_that_vanishes_meanwhile_hides_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = Tree(tmp_path)
    folder = tree.function()
    (folder / "driver").symlink_to("../../../bus/pci/drivers/nouveau")
    real, seen = Sysfs.readlink, set[str]()

    def once(sysfs: Sysfs, path: str) -> str:
        if path in seen:
            raise KernelError("readlink", errno.ENOENT, path)
        seen.add(path)
        return real(sysfs, path)

    monkeypatch.setattr(Sysfs, "readlink", once)
    (function,) = capture_at(tmp_path).functions
    assert function.driver == "nouveau"


def test_what_a_hostile_tree_says_can_be_written_and_expanded(tmp_path: Path) -> None:
    tree = Tree(tmp_path / "in")
    folder = tree.function()
    (folder / "supplier:pci:0000:00:01.0").symlink_to("../../../../../../../../../../etc")
    (folder / "iommu_group").symlink_to("../../../kernel/iommu_groups/99999999999")
    (folder / "virtfn²").symlink_to("../0000:65:00.0")
    for number in ("٣", "99999999999", "9" * 200):
        (tree.root / "sys/kernel/iommu_groups" / number).mkdir(parents=True)
    types = "sys/devices/virtual/mtty/mtty/mdev_supported_types"
    tree.write(f"{types}/mtty-1/description", f"max_instance={'9' * 5000}")
    tree.write(f"{types}/mtty-1/available_instances", "9" * 5000)
    tree.write(f"{types}/mtty-1/name", "a\0b")
    tree.write("proc/sys/kernel/osrelease", "6\0.12")
    tree.link("sys/class/mdev_bus/mtty", "../../devices/virtual/mtty/mtty")
    tree.write("etc/mdev_supported_types/a-1/name", "a")
    tree.link("sys/class/mdev_bus/etc", "../../../etc")
    found = capture_at(tree.root)
    assert (found.groups, found.functions[0].iommu_group, found.files) == ((), None, ())
    assert [parent.path for parent in found.virtual_parents] == ["virtual/mtty/mtty"]
    assert recording.parse(recording.format(found)) == found
    expand(found, tmp_path / "out")


def test_without_a_pci_bus_there_is_nothing_to_record(tmp_path: Path) -> None:
    with pytest.raises(KernelError) as caught:
        capture_at(tmp_path)
    assert caught.value.errno == errno.ENOENT


def test_this_machine_can_be_recorded_by_anybody(tmp_path: Path) -> None:
    if not Path("/sys/bus/pci/devices").is_dir():
        with pytest.raises(KernelError):
            capture_at(Path("/"))
        return
    found = capture_at(Path("/"))
    names = [str(function.address) for function in found.functions]
    assert sorted(names) == sorted(each.name for each in Path("/sys/bus/pci/devices").iterdir())
    assert found.kernel == os.uname().release
    assert recording.parse(recording.format(found)) == found
    expand(found, tmp_path / "copy")
    assert capture_at(tmp_path / "copy") == found


# ---- what is concluded -------------------------------------------------------------------------


def host_with(
    tmp_path: Path, *modules: Module, driver: str | None, override: str = "(null)"
) -> Recording:
    """What is recorded of a host with one A10 and these modules."""
    card = next(f for f in fixtures.load("a10-pair").functions if str(f.address) == "0000:65:00.0")
    files = dict(card.attributes) | {"driver_override": Attribute(f"{override}\n".encode())}
    function = Function(f"pci0000:64/{card.address}", driver=driver, attributes=files)
    host = Recording("t", SOURCE, kernel="6.12.0", functions=(function,), modules=modules)
    expand(host, tmp_path)
    return capture_at(tmp_path)


A10_EXACT = "pci:v000010DEd00002236sv000010DEsd00001482bc03sc02i00"
DISPLAY = "pci:v000010DEd*sv*sd*bc03sc*i*"


def test_the_id_table_of_a_driver_is_that_of_its_module(tmp_path: Path) -> None:
    driver = PciDriver("nouveau", (DISPLAY,))
    nouveau = Module(
        "nouveau", drivers=(driver,), aliases=(DISPLAY, "pci:v000012D2d*sv*sd*bc03sc*i*")
    )
    found = host_with(tmp_path, nouveau, driver="nouveau")
    assert found.modules == (attrs.evolve(nouveau, aliases=(DISPLAY,)),)


def test_without_aliases_a_driver_knows_what_it_is_bound_to(tmp_path: Path) -> None:
    found = host_with(tmp_path, Module("nvidia", drivers=(PciDriver("nvidia"),)), driver="nvidia")
    assert found.modules == (Module("nvidia", drivers=(PciDriver("nvidia", (A10_EXACT,)),)),)


@pytest.mark.parametrize(
    ("link", "state"), [(True, "loaded"), (False, "loaded"), (None, "builtin")]
)
def test_a_driver_and_a_module_of_one_name_are_one(
    tmp_path: Path, *, link: bool | None, state: str
) -> None:
    """Also in a copy that has lost the driver's link to its module, or the module."""
    tree = Tree(tmp_path)
    (tree.function() / "driver").symlink_to("../../../bus/pci/drivers/nvidia")
    if link is not None:
        tree.write("sys/module/nvidia/initstate", "live\n")
    if link:
        tree.link("sys/bus/pci/drivers/nvidia/module", "../../../../module/nvidia")
    for driver in ("a-b", "a_b"):
        (tmp_path / "sys/bus/pci/drivers" / driver).mkdir()
    modules = capture_at(tmp_path).modules
    drivers = {(m.name, m.state): [d.name for d in m.drivers] for m in modules}
    assert drivers == {("nvidia", state): ["nvidia"], ("a_b", "builtin"): ["a-b", "a_b"]}
    assert len(modules) == 2


@pytest.mark.parametrize(
    ("driver", "makes_vfs"),
    [("nvme", True), ("mlx5_core", True), ("e1000e", False), ("vfio-pci", False)],
)
def test_drivers_that_make_virtual_functions_are_known(
    tmp_path: Path, driver: str, *, makes_vfs: bool
) -> None:
    """Without any such function to be seen."""
    module = Module(driver.replace("-", "_"), drivers=(PciDriver(driver),))
    (found,) = host_with(tmp_path, module, driver=driver).modules
    assert [each.sriov for each in found.drivers] == [makes_vfs]


def test_a_binding_by_override_says_nothing_about_the_id_table(tmp_path: Path) -> None:
    module = Module("pci_stub", drivers=(PciDriver("pci-stub"),))
    found = host_with(tmp_path, module, driver="pci-stub", override="pci-stub")
    assert found.modules == (module,)


def test_of_two_drivers_of_a_module_the_bound_one_has_the_alias(tmp_path: Path) -> None:
    other = "pci:v000010DEd*sv*sd*bc06sc80i00*"
    drivers = (PciDriver("nvidia", (DISPLAY,)), PciDriver("nvidia-nvswitch", (other,)))
    found = host_with(
        tmp_path, Module("nvidia", drivers=drivers, aliases=(DISPLAY, other)), driver="nvidia"
    )
    (module,) = found.modules
    assert module.drivers == (PciDriver("nvidia", (DISPLAY,)), PciDriver("nvidia-nvswitch"))


def test_a_loadable_module_has_the_driver_that_it_is_known_for(tmp_path: Path) -> None:
    any_device = "vfio_pci:v*d*sv*sd*bc*sc*i*"
    modules = (
        Module("vfio", "loadable"),
        Module("nvidiafb", "loadable", aliases=(DISPLAY,)),
        Module("vfio_pci", "loadable", depends=("vfio",), aliases=(any_device,)),
    )
    found = host_with(tmp_path, *modules, driver=None)
    assert [(m.name, [d.name for d in m.drivers], m.state) for m in found.modules] == [
        ("vfio", [], "loadable"),
        ("nvidiafb", ["nvidiafb"], "loadable"),
        ("vfio_pci", ["vfio-pci"], "loadable"),
    ]
    assert found.modules[2].drivers[0].matches == ()


def test_modules_that_concern_no_function_are_left_out(tmp_path: Path) -> None:
    modules = (
        Module("floppy"),
        Module("e1000e", "loadable", aliases=("pci:v00008086d000010D3sv*sd*bc*sc*i*",)),
        Module("mdev"),
    )
    found = host_with(tmp_path, *modules, driver=None)
    assert found.modules == (Module("mdev"),)


def test_more_than_a_recording_can_hold_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = Tree(tmp_path)
    for number in range(8):
        tree.function(f"0000:65:00.{number}", irq="x" * 60000)
    recording.parse(recording.format(capture_at(tmp_path)))
    for module in ("record.functions", "recording.reader"):
        monkeypatch.setattr(f"vfiohost.{module}.MOST_BYTES", 400_000)
    with pytest.raises(UnsupportedError, match="too large to record"):
        capture_at(tmp_path)


def test_a_note_does_not_say_where_the_tree_lies(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    (tree.root / "sys/bus/pci/devices/0000:00:03.0").mkdir()
    assert capture_at(tmp_path).notes == (
        "sys/bus/pci/devices/0000:00:03.0: left out (Invalid argument)",
    )


def test_the_command_line_and_the_configuration_space_are_masked(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    config = bytearray(4096)
    config[0x100:0x10C] = bytes.fromhex("0300010001020304 05060708")
    tree.function(config=bytes(config))
    tree.write("proc/cmdline", "root=UUID=0b8e6b1f-6c1f-4d0a-9f0e-5f7b3a1c2d3e iommu=pt\n")
    found = capture_at(tmp_path, config=True)
    config[0x104:0x10C] = bytes(8)
    assert found.functions[0].attributes["config"].content == bytes(config)
    assert found.files == (File("proc/cmdline", b"root=MASKED iommu=pt\n"),)


def test_a_small_pci_ids_goes_along_a_whole_one_does_not(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.function()
    path = tree.write("usr/share/misc/pci.ids", "10de  NVIDIA Corporation\n")
    assert capture_at(tmp_path).files == (
        File("usr/share/misc/pci.ids", b"10de  NVIDIA Corporation\n"),
    )
    path.write_bytes(b"#" * (1 << 20))
    assert capture_at(tmp_path).files == ()
