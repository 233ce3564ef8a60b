"""The recorded hosts that come with vfiohost: found, and true to themselves field by field."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from vfiohost import recording
from vfiohost.errors import NotFoundError, ParseError
from vfiohost.modalias import ModuleIndex
from vfiohost.model import PciAddress
from vfiohost.recording import Function, Recording, modalias_text, uevent_text
from vfiohost.testing import fixtures
from vfiohost.testing.releases import release_of

HOSTS = {name: fixtures.load(name) for name in fixtures.names()}
KERNEL = "6.12.117+deb12-amd64"
RECORDED = {"a10-pair", "a10-pair-nouveau", "a10-pair-vgpu", "mtty", "no-iommu"}
"""Those that come from the kernel lab."""
ELSEWHERE = {"h200-microvm": "6.18.44"}
"""Those that were recorded on other real machines, and their kernel."""
NEVER_ENABLES = "lpc_ich"
"""A driver that reads configuration space alone."""
NAMELESS = "C 00 02"
"""The class of QEMU's virtio-9p: pci.ids has no name for it."""
_ADDRESS = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]")

each_host = pytest.mark.parametrize("host", HOSTS.values(), ids=HOSTS)


def is_bridge(function: Function) -> bool:
    """Tell whether it leads to another bus: with subtractive decoding, too (ICH's own bridge)."""
    return class_of(function) in (0x060400, 0x060401)


def has_sriov(host: Recording) -> bool:
    """Tell whether the kernel has CONFIG_PCI_IOV: ``resource`` has six lines more then."""
    return host is not HOSTS["h200-microvm"]


def text(function: Function, name: str) -> str:
    content = function.attributes[name].content
    assert isinstance(content, bytes)
    assert content.endswith(b"\n")
    return content.decode()[:-1]


def class_of(function: Function) -> int:
    return int(text(function, "class"), 16)


def function_at(host: Recording, address: str) -> Function:
    return next(f for f in host.functions if str(f.address) == address)


def test_the_fixtures_that_others_rely_on_are_there() -> None:
    assert {
        *("a10-pair", "a10-pair-nouveau", "a10-pair-vgpu", "rtx-workstation", "no-iommu"),
        *("minimal-no-uevent", "vmd-domain", "mtty", "h200-microvm", "hgx-h100"),
        "consumer-board",
    } <= HOSTS.keys()
    assert fixtures.names()["no-iommu"] == HOSTS["no-iommu"].title


def test_a_fixture_can_be_named_or_given_as_a_file(tmp_path: Path) -> None:
    mine = tmp_path / "mine.host"
    mine.write_text("vfiohost-recording 1\ntitle = mine\nsource = recorded from a test\n")
    assert (
        fixtures.load(mine) == fixtures.load(str(mine)) == Recording("mine", "recorded from a test")
    )


def test_an_unknown_fixture_is_answered_with_the_near_ones() -> None:
    with pytest.raises(NotFoundError, match=r"Did you mean .*a10-pair-vgpu") as caught:
        fixtures.load("a10-par-vgpu")
    assert caught.value.key == "a10-par-vgpu"


def test_a_file_that_is_no_recording_is_named(tmp_path: Path) -> None:
    binary = tmp_path / "binary.host"
    binary.write_bytes(b"vfiohost-recording 1\n\xff\n")
    with pytest.raises(ParseError, match="UTF-8") as caught:
        fixtures.load(binary)
    assert caught.value.where == str(binary)


@each_host
def test_the_header_says_where_it_comes_from(host: Recording) -> None:
    assert host.title
    name = next(name for name, each in HOSTS.items() if each is host)
    assert host.kernel in (ELSEWHERE.get(name, KERNEL), None)
    if name in RECORDED:
        assert host.source.startswith(f"recorded from Linux {KERNEL} in a virtual machine of QEMU ")
        again = f"To record it again: python -m tests.kernel.lab fixtures {name}"
        assert host.notes[0] == again
    elif name in ELSEWHERE:
        assert host.source.startswith(f"recorded from Linux {ELSEWHERE[name]} on ")
    else:
        assert host.source.startswith("composed from documented facts: ")


@pytest.mark.parametrize("name", sorted(RECORDED | ELSEWHERE.keys()))
def test_a_recorded_host_tells_nothing_of_the_computer_that_recorded_it(name: str) -> None:
    written = recording.format(HOSTS[name])
    for word in ("lab_", "/root", "/home", "/tmp", ".cache", ".venv"):
        assert word not in written


@each_host
def test_ids_modalias_and_uevent_say_the_same(host: Recording) -> None:
    for function in host.functions:
        modalias = modalias_text(function.attributes)
        if modalias is not None:
            assert text(function, "modalias") + "\n" == modalias.decode()
        else:
            vendor, device = (int(text(function, name), 16) for name in ("vendor", "device"))
            assert text(function, "modalias").startswith(f"pci:v{vendor:08X}d{device:08X}")
        if "uevent" in function.attributes:
            usual = uevent_text(str(function.address), function.driver, function.attributes)
            assert function.attributes["uevent"].content == usual


@each_host
def test_functions_are_in_order_and_sit_below_bridges(host: Recording) -> None:
    assert [f.address for f in host.functions] == sorted(f.address for f in host.functions)
    paths = {function.path: function for function in host.functions}
    for function in host.functions:
        *above, own = function.path.split("/")
        for depth, part in enumerate(above):
            if _ADDRESS.fullmatch(part):
                bridge = paths["/".join(above[: depth + 1])]
                # A VMD controller is a RAID controller to those who look at its class.
                assert is_bridge(bridge) or class_of(bridge) == 0x010400
        assert own == str(function.address)
        assert above[0].startswith("pci")


@each_host
def test_resources_have_as_many_lines_as_the_kernel_writes(host: Recording) -> None:
    for function in host.functions:
        if "resource" not in function.attributes:
            continue
        lines = text(function, "resource").split("\n")
        assert len(lines) == (17 if is_bridge(function) else 13 if has_sriov(host) else 7)
        for line in lines:
            assert re.fullmatch(r"(0x[0-9a-f]{16} ){2}0x[0-9a-f]{16}", line)
            start, end, _ = (int(number, 16) for number in line.split())
            assert start <= end


@each_host
def test_every_group_that_is_named_is_there(host: Recording) -> None:
    named = {f.iommu_group for f in host.functions if f.iommu_group is not None}
    if "groups" in host.lacks:
        assert host.groups == ()
        return
    assert [group.number for group in host.groups] == sorted(named) == list(range(len(named)))


@each_host
def test_functions_of_one_slot_or_below_a_plain_bridge_share_a_group_or_have_acs(
    host: Recording,
) -> None:
    """What is behind a PCIe-to-PCI bridge or a VMD cannot be told apart from it."""
    paths = {function.path: function for function in host.functions}
    for function in host.functions:
        parents = [paths[p] for p in map(str, Path(function.path).parents) if p in paths]
        for parent in parents:
            if class_of(parent) == 0x010400 or parent.driver is None:
                assert function.iommu_group == parent.iommu_group


@each_host
def test_virtual_functions_stand_where_sriov_puts_them(host: Recording) -> None:
    for function in host.functions:
        if function.physfn is None:
            assert function.vf_index is None
            continue
        parent = function_at(host, str(function.physfn))
        offset, stride = (int(text(parent, f"sriov_{name}")) for name in ("offset", "stride"))
        assert function.vf_index is not None
        first = parent.address.bus << 8 | parent.address.device << 3 | parent.address.function
        where = first + offset + stride * function.vf_index
        domain = parent.address.domain
        expected = PciAddress(domain, where >> 8, where >> 3 & 0x1F, where & 7)
        assert function.address == expected
        assert text(function, "device") == f"0x{text(parent, 'sriov_vf_device')}"
    for parent in host.functions:
        count = sum(f.physfn == parent.address for f in host.functions)
        if "sriov_totalvfs" in parent.attributes:
            assert count == int(text(parent, "sriov_numvfs"))
            assert count <= int(text(parent, "sriov_totalvfs"))
        else:
            assert count == 0


@each_host
def test_every_bound_driver_is_registered_and_knows_the_device(host: Recording) -> None:
    registered = {
        driver.name: driver
        for module in host.modules
        if module.state != "loadable"
        for driver in module.drivers
    }
    for function in host.functions:
        if function.driver is not None:
            modalias = text(function, "modalias")
            matches = registered[function.driver].matches
            assert any(fnmatchcase(modalias, match) for match in matches)


@each_host
def test_loaded_modules_have_what_they_need(host: Recording) -> None:
    states = {module.name: module.state for module in host.modules}
    assert len(states) == len(host.modules)
    for module in host.modules:
        for need in module.depends:
            assert states[need] == "loaded" or module.state == "loadable"


@each_host
def test_bound_devices_are_enabled_and_awake(host: Recording) -> None:
    for function in host.functions:
        if "enable" in function.attributes:
            enabled = function.driver not in (None, NEVER_ENABLES) or is_bridge(function)
            assert text(function, "enable") == str(int(enabled))
            idle = release_of(host.kernel).new_power_state.decode().strip()
            assert text(function, "power_state") == ("D0" if enabled else idle)
            assert text(function, "driver_override") == "(null)"


@each_host
def test_one_console_and_only_on_vga(host: Recording) -> None:
    consoles = [f for f in host.functions if "boot_vga" in f.attributes]
    assert all(class_of(f) >> 8 == 0x0300 for f in consoles)
    assert [f for f in host.functions if class_of(f) >> 8 == 0x0300] == consoles
    assert [text(f, "boot_vga") for f in consoles].count("1") == min(1, len(consoles))


@each_host
def test_the_cpus_of_a_node_are_the_same_everywhere(host: Recording) -> None:
    cpus = {
        (text(f, "numa_node"), text(f, "local_cpulist"))
        for f in host.functions
        if "local_cpulist" in f.attributes
    }
    assert len(cpus) == len({node for node, _ in cpus})


@pytest.mark.parametrize("name", sorted(HOSTS.keys() - ELSEWHERE.keys()))
def test_pci_ids_names_all_of_it(name: str) -> None:
    host = HOSTS[name]
    names = next(f.content for f in host.files if f.path == "usr/share/misc/pci.ids")
    assert isinstance(names, bytes)
    known = set()
    vendor = ""
    for line in names.decode().split("\n"):
        vendor = line[:4] if not line.startswith("\t") else vendor
        known.add(f"{vendor} {line[:5].strip()}")
    for function in host.functions:
        vendor, device = (text(function, name)[2:] for name in ("vendor", "device"))
        assert f"{vendor} {device}" in known
        code = class_of(function)
        assert f"C {code >> 16:02x} {code >> 8 & 0xFF:02x}" in known | {NAMELESS}


@pytest.mark.parametrize(
    ("name", "driver"),
    [("a10-pair", None), ("a10-pair-nouveau", "nouveau"), ("a10-pair-vgpu", "nvidia")],
)
def test_the_a10_pair_is_that_of_nvidias_page(name: str, driver: str | None) -> None:
    host = HOSTS[name]
    for address in ("0000:65:00.0", "0000:ca:00.0"):
        card = function_at(host, address)
        ids = [text(card, n) for n in ("vendor", "device", "subsystem_vendor", "subsystem_device")]
        assert ids == ["0x10de", "0x2236", "0x10de", "0x1482"]
        assert (text(card, "class"), text(card, "revision")) == ("0x030200", "0xa1")
        assert card.driver == driver
        assert len([f for f in host.functions if f.iommu_group == card.iommu_group]) == 1
        aliases = "".join(f"alias {a} {m.name}\n" for m in host.modules for a in m.aliases)
        index = ModuleIndex.from_texts(aliases, [module.name for module in host.modules])
        candidates = index.candidates(text(card, "modalias"))
        assert candidates[:2] == ("nvidiafb", "nouveau")
        assert index.best_vfio_module(text(card, "modalias")) == "vfio_pci"
    states = {module.name: module.state for module in host.modules}
    assert states["vfio_pci"] == states["nvidiafb"] == "loadable"


def test_the_a10_types_are_those_of_nvidias_table() -> None:
    host = HOSTS["a10-pair-vgpu"]
    (table,) = host.mdev_tables
    names = "1B 2B 1Q 2Q 3Q 4Q 6Q 8Q 12Q 24Q 1A 2A 3A 4A 6A 8A 12A 24A".split()  # noqa: SIM905
    assert [(t.type_id, t.name) for t in table.types] == [
        (f"nvidia-{number}", f"NVIDIA A10-{name}") for number, name in enumerate(names, 588)
    ]
    for each, name in zip(table.types, names, strict=True):
        size = int(name[:-1])
        assert each.max_instances == 24 // size
        assert each.description is not None
        assert f"framebuffer={size * 1024}M" in each.description
        assert each.description.endswith(f"max_instance={24 // size}")
    assert (table.scope, table.homogeneous, table.per_parent) == ("physfn", True, 1)
    offering = [f for f in host.functions if f.mdev_table == table.name]
    assert len(offering) == 64
    assert all(f.driver == "nvidia" and f.physfn is not None for f in offering)
    assert len({f.iommu_group for f in offering}) == 64


def test_the_workstations_card_has_four_functions_on_four_drivers_in_one_group() -> None:
    host = HOSTS["rtx-workstation"]
    members = [f for f in host.functions if f.iommu_group == 1]
    assert [(str(f.address), f"{class_of(f):06x}", f.driver) for f in members] == [
        ("0000:00:01.0", "060400", "pcieport"),
        ("0000:01:00.0", "030000", "nouveau"),
        ("0000:01:00.1", "040300", "snd_hda_intel"),
        ("0000:01:00.2", "0c0330", "xhci_hcd"),
        ("0000:01:00.3", "0c8000", "nvidia-gpu"),
    ]
    modules = {d.name: m.name for m in host.modules for d in m.drivers}
    assert modules["xhci_hcd"] == "xhci_pci"
    assert modules["nvidia-gpu"] == "i2c_nvidia_gpu"
    links = [f.path for f in host.files if "consumer:pci:" in f.path]
    assert [link.rpartition("consumer:")[2] for link in links] == [
        f"pci:0000:01:00.{number}" for number in (1, 2, 3)
    ]


def test_without_an_iommu_there_are_no_groups() -> None:
    host = HOSTS["no-iommu"]
    assert host.groups == ()
    assert all(f.iommu_group is None for f in host.functions)


def test_the_minimal_host_has_next_to_nothing() -> None:
    host = HOSTS["minimal-no-uevent"]
    names = {name for f in host.functions for name in f.attributes}
    assert names == {"vendor", "device", "class", "revision", "modalias", "numa_node"}
    assert host.lacks == {"controls", "driver-links", "groups", "subsystem"}


def test_the_vmd_domain_has_more_than_16_bits() -> None:
    drive = HOSTS["vmd-domain"].functions[-1]
    assert drive.path == "pci0000:00/0000:00:0e.0/pci10000:e0/10000:e0:06.0/10000:e1:00.0"
    assert drive.address == PciAddress(0x10000, 0xE1, 0, 0)


def test_the_sample_parents_run_out_in_their_own_ways() -> None:
    host = HOSTS["mtty"]
    tables = {table.name: table for table in host.mdev_tables}
    assert {parent.path: parent.mdev_table for parent in host.virtual_parents} == {
        "virtual/mtty/mtty": "mtty",
        "virtual/mdpy/mdpy": "mdpy",
    }
    assert {t.type_id: t.max_instances for t in tables["mtty"].types} == {
        "mtty-1": 24,
        "mtty-2": 12,
    }
    assert (tables["mtty"].exhausted, tables["mdpy"].exhausted) == ("ENOSPC", "EUSERS")
    assert tables["mdpy"].available("mdpy-vga", {"mdpy-hd": 1, "mdpy-xga": 2}, 3) == 1
