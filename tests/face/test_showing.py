"""``vfiohost show``: on recorded hosts, on devices that sleep, as an ordinary user, on nonsense."""

from __future__ import annotations

import os
import pickle
import re
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from tests.face.ordinary import as_nobody, readable_by_all
from tests.face.support import HOSTS, check_golden, place_names
from tests.native.spaces import H100_GUEST, Cap, load_dump, space, words
from tests.native.trees import Lookout, Tree
from vfiohost import ConfigSpace, Host, testing
from vfiohost.sysfs import Sysfs

if TYPE_CHECKING:
    from pathlib import Path

    from tests.face.support import Maker, Runner

GPU, PORT = "0000:65:00.0", "0000:64:02.0"
H100 = "0000:00:06.0"
VIRTIO = "pci:v00001AF4d00001042sv00001AF4sd00001042bc01sc80i00"
GPU_IN_GUEST = "pci:v000010DEd00002330sv000010DEsd000016C1bc03sc02i00"
H100_RESOURCE = """\
0x0000102002000000 0x0000102002ffffff 0x000000000014220c
0x0000000000000000 0x0000000000000000 0x0000000000000000
0x0000100000000000 0x0000101fffffffff 0x000000000014220c
"""

GOLDEN_RUNS = [
    ("show-a10", "a10-pair", "show 65:00.0"),
    ("show-vf", "few-vfs", "show 65:00.0 65:00.5"),
    ("show-rtx", "rtx-workstation", "show class:gpu"),
    ("show-bridge", "rtx-workstation", "show 00:01.0"),
    ("show-vmd", "vmd-domain", "show class:nvme"),
    ("show-no-iommu", "no-iommu", "show class:gpu"),
    ("show-minimal", "minimal-no-uevent", "show class:gpu"),
    ("show-no-names", "rtx-workstation", "show --no-names 01:00.1"),
    ("show-not-there", "a10-pair", "show 65:00.1"),
]


@pytest.mark.parametrize(("name", "host", "line"), GOLDEN_RUNS, ids=[r[0] for r in GOLDEN_RUNS])
def test_what_is_printed(name: str, host: str, line: str, run: Runner, recorded: Maker) -> None:
    root = recorded(host)
    check_golden(name, run(*line.split(), root=root), root)
    assert run(*line.split(), "--json", root=root).value["command"] == "show"


@pytest.mark.parametrize("path", sorted(HOSTS.glob("*.host")), ids=lambda p: p.stem)
def test_every_device_can_be_shown(path: Path, run: Runner, recorded: Maker) -> None:
    root = recorded(path.stem)
    listed = run("list", "--json", root=root).value["devices"]
    addresses = [d["address"] for d in listed if d["physfn"] is None]
    shown = run("show", "--json", *addresses, root=root).value["devices"]
    assert [s["device"]["address"] for s in shown] == addresses
    for said in shown:
        *above, address = said["device"]["path"].split("/")
        assert said["route"] == [part for part in above if part in addresses]
        assert address == said["device"]["address"]
        assert said["config"] is None or said["config"]["chain"] in ("none", "whole")


# ---- with a configuration space ----------------------------------------------------------------


@pytest.fixture
def guest(tmp_path: Path) -> Path:
    """A virtual machine with an H100."""
    tree = Tree(tmp_path / "guest")
    for address, modalias, resource in (
        ("0000:00:01.0", VIRTIO, "0x0000004000000000 0x000000400007ffff 0x0000000000140204\n"),
        (H100, GPU_IN_GUEST, H100_RESOURCE),
    ):
        config = load_dump(H100_GUEST.read_text())[address]
        files = {"power_state": "D0\n", "reset_method": "flr\n", "reset": ""}
        folder = tree.function(
            address, modalias=modalias, bridge="pci0000:00", config=config, **files,
            resource=resource, numa_node="-1\n",
        )  # fmt: skip
        (folder / "power").mkdir()
        (folder / "power/runtime_status").write_text("active\n")
    place_names(tree.root)
    return tree.root


def test_an_h100_in_its_guest(guest: Path, run: Runner) -> None:
    check_golden("show-h100", run("show", "00:06.0", "00:01.0", root=guest), guest)
    check_golden("show-h100-json", run("show", "00:06.0", "--json", root=guest), guest)


PHYSICAL = space(
    [
        Cap(0x01, words(0xC803, 0x0008)),
        Cap(0x05, words(0x0188) + bytes(20)),
        Cap(0x10, words(0x0002) + bytes.fromhex("01800010 30280000 04494500 00000211") + bytes(40)),
        Cap(0x11, words(0x8005) + bytes(8)),
        Cap(0x03, bytes(6)),
        Cap(0x7F, b"\x04\x00"),
    ],
    [
        Cap(0x01, bytes(0x44), 2),
        Cap(0x0D, words(0x005F, 0x0011)),
        Cap(0x0E, words(0x0100, 0)),
        Cap(0x10, words(2, 0, 0x19, 0, 32, 32, 2, 0, 4, 1, 0, 0x2236) + bytes(32)),
        Cap(0x03, bytes.fromhex("8877665544332211")),
        Cap(0x7E, bytes(4)),
    ],
)


def place_config(root: Path, config: bytes, address: str = GPU) -> Path:
    path = (root / "sys/bus/pci/devices" / address).resolve() / "config"
    path.write_bytes(config)
    return path


def test_every_kind_of_capability_is_explained(run: Runner, spoilt: Maker) -> None:
    root = spoilt("a10-pair")
    place_config(root, PHYSICAL)
    check_golden("show-capabilities", run("show", "65:00.0", root=root), root)
    config = one(run, root)["config"]
    assert config["sriov"]["num_vfs"] == 2
    assert config["acs"]["on"] == ["source validation", "upstream forwarding"]
    assert config["serial"] == "11-22-33-44-55-66-77-88"


def one(run: Runner, root: Path, *argv: str) -> dict[str, Any]:
    value: dict[str, Any] = run("show", GPU, "--json", *argv, root=root).value["devices"][0]
    return value


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (b"\xff" * 4096, "does not answer"),
        (PHYSICAL[:64], "the kernel gives 64 bytes to ordinary users; ask as root"),
        (PHYSICAL[:0x45], "goes on behind the 69 bytes read"),
        (space(size=256), "none"),
        (PHYSICAL[:0x41] + b"\x40" + PHYSICAL[0x42:], "it leads to where it began"),
        (PHYSICAL[:0x41] + b"\x04" + PHYSICAL[0x42:], "it leads to where none can be"),
    ],
    ids=["ones", "ordinary", "cut", "none", "loop", "astray"],
)
def test_a_space_that_says_less(config: bytes, says: str, run: Runner, spoilt: Maker) -> None:
    root = spoilt("a10-pair")
    place_config(root, config)
    ran = run("show", GPU, root=root)
    assert ran.code == 0
    assert says in ran.out.partition("  capabilities ")[2]
    assert one(run, root)["config"]["size"] == len(config)


# ---- who sleeps --------------------------------------------------------------------------------


@pytest.fixture
def asleep(spoilt: Maker, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A running host, as far as anybody can tell, with a GPU that has a configuration space."""
    monkeypatch.setattr(Sysfs, "is_live", lambda _: True)
    root = spoilt("a10-pair")
    folder = place_config(root, PHYSICAL).parent
    for name in ("current_link_width", "max_link_width"):
        (folder / name).write_text("16\n")
    for name in ("current_link_speed", "max_link_speed"):
        (folder / name).write_text("16.0 GT/s PCIe\n")
    return root


def put(root: Path, address: str, status: str | None, state: str) -> None:
    folder = (root / "sys/bus/pci/devices" / address).resolve()
    (folder / "power_state").write_text(f"{state}\n")
    file = folder / "power/runtime_status"
    file.unlink(missing_ok=True)
    if status is not None:
        file.write_text(f"{status}\n")


STATES = [
    (("active", "D0"), ("active", "D0"), None),
    (("active", "D0"), ("suspended", "D3hot"), None),
    (("unsupported", "D0"), ("unsupported", "D0"), None),
    (("active", "D0"), ("suspended", "D3cold"), GPU),
    (("active", "D0"), ("suspending", "D0"), GPU),
    (("active", "D0"), ("suspended", "unknown"), None),
    (("active", "D0"), ("error", "D0"), GPU),
    (("active", "D0"), (None, "D0"), GPU),
    (("suspended", "D3hot"), ("suspended", "D3hot"), PORT),
    (("suspended", "D3cold"), ("active", "D0"), PORT),
    ((None, "D0"), ("active", "D0"), PORT),
]


@pytest.mark.parametrize(("port", "gpu", "sleeper"), STATES)
def test_nobody_is_woken(
    port: tuple[str | None, str],
    gpu: tuple[str | None, str],
    sleeper: str | None,
    run: Runner,
    asleep: Path,
) -> None:
    put(asleep, PORT, *port)
    put(asleep, GPU, *gpu)
    folder = (asleep / "sys/bus/pci/devices" / GPU).resolve()
    touched = [folder / name for name in ("config", "current_link_speed", "max_link_width")]
    with Lookout(*touched) as lookout:
        said = one(run, asleep)
        assert (lookout.seen() == 0) == (sleeper is not None)
    assert said["sleeper"] == sleeper
    assert (said["config"] is None) == (said["link"] is None) == (sleeper is not None)
    woken = one(run, asleep, "--wake")
    assert woken["sleeper"] is None
    assert woken["config"]["sriov"]["total_vfs"] == 32


def test_a_sleeper_is_named_and_how_to_wake_it(run: Runner, asleep: Path) -> None:
    put(asleep, PORT, "active", "D0")
    put(asleep, GPU, "suspended", "D3cold")
    assert "not read: it sleeps, and would be woken (--wake" in run("show", GPU, root=asleep).out
    put(asleep, PORT, "suspended", "D3cold")
    said = run("show", GPU, root=asleep).out
    assert f"not read: {PORT} in front of it sleeps, and would be woken (--wake" in said
    assert "MSI-X" in run("show", GPU, "--wake", root=asleep).out


def test_an_ordinary_user_gets_the_link_from_attributes(run: Runner, asleep: Path) -> None:
    put(asleep, PORT, "active", "D0")
    put(asleep, GPU, "active", "D0")
    place_config(asleep, PHYSICAL[:64])
    link = {"speed": "16.0 GT/s", "width": 16, "max_speed": "16.0 GT/s", "max_width": 16}
    assert one(run, asleep)["link"] == link
    (asleep / "sys/bus/pci/devices" / GPU / "current_link_speed").write_text("Unknown\n")
    (asleep / "sys/bus/pci/devices" / GPU / "current_link_width").write_text("0\n")
    assert one(run, asleep)["link"] == link | {"speed": None, "width": 0}
    assert "down or unknown; able to do 16.0 GT/s x16" in run("show", GPU, root=asleep).out


def test_what_may_write_or_never_ends_is_not_read(run: Runner, spoilt: Maker) -> None:
    root = spoilt("a10-pair")
    folder = place_config(root, PHYSICAL).parent
    left_alone = [folder / name for name in ("vpd", "rom", "resource0", "label", "remove")]
    for file in left_alone:
        file.write_bytes(b"x")
    with Lookout(*left_alone) as lookout:
        run("show", GPU, "--wake", root=root)
        assert lookout.seen() == 0


# ---- what cannot be read, and nonsense ---------------------------------------------------------


def test_as_an_ordinary_user(recorded: Maker, scratch: Path, copied: Maker) -> None:
    root = readable_by_all(copied(str(recorded("a10-pair"))), scratch)
    place_config(root, PHYSICAL).chmod(0o600)
    ran = as_nobody("--root", str(root), "show", GPU)
    assert ran.code == 0
    said = "unknown (Permission denied)" if os.geteuid() == 0 else "[b0]"
    assert said in ran.out.partition("  capabilities ")[2]


def test_a_device_that_is_locked(run: Runner, tmp_path: Path) -> None:
    """As on kernels before 6.12, behind an unbind that waits for a guest."""
    old = attrs.evolve(testing.load("a10-pair-nouveau"), kernel="6.1.0-37-amd64")
    root = tmp_path / "old"
    testing.create(old, root)
    assert run("bind", GPU, root=root).code == 0
    with testing.SimulatedKernel(root).open_device(GPU):
        allow = ("--allow", "vfio-user", "--timeout", "0.2")
        assert run("unbind", GPU, *allow, root=root).code == 6
        said = run("show", GPU, root=root)
        assert said.code == 0
        assert "on its way out" in said.out
        assert re.search(r"driver_override +unknown \(device locked\)", said.out)
        assert one(run, root)["device"]["state"] == "releasing"


@pytest.mark.parametrize(
    "text",
    [
        "nonsense\n",
        "0x10 0x0f 0x200\n",
        "0x0 0x0 \x1b[31m\n",
        "\xff" * 9000,
        "0x0000000000000000 0xffffffffffffffff 0xffffffffffffffff\n" * 1000,
    ],
)
def test_nonsense_is_said_to_be_unknown(text: str, run: Runner, spoilt: Maker) -> None:
    root = spoilt("a10-pair")
    folder = (root / "sys/bus/pci/devices" / GPU).resolve()
    for name in ("resource", "power_state", "reset_method", "d3cold_allowed", "sriov_offset"):
        (folder / name).write_text(text)
    (root / "sys/kernel/iommu_groups/15/reserved_regions").write_text(text)
    (root / "sys/kernel/iommu_groups/15/type").write_text(text)
    ran = run("show", GPU, root=root)
    assert (ran.code, ran.err) == (0, "")
    assert not [c for c in ran.out if not c.isprintable() and c != "\n"]
    assert one(run, root)["power"]["d3cold_allowed"] == {"unavailable": "malformed", "errno": 0}


def test_a_physical_function_of_which_sysfs_tells_little(run: Runner, spoilt: Maker) -> None:
    root = spoilt("a10-pair")
    folder = (root / "sys/bus/pci/devices" / GPU).resolve()
    for name in ("offset", "stride", "vf_device"):
        (folder / f"sriov_{name}").unlink()
    (folder / "sriov_drivers_autoprobe").write_text("0\n")
    assert "0 of 32\n" in run("show", GPU, root=root).out
    assert "no driver takes new ones by itself" in run("show", GPU, root=root).out
    nothing = {"offset": None, "stride": None, "vf_device_id": None, "autoprobe": False}
    assert one(run, root)["sriov"] == nothing


def test_modules_that_cannot_be_read_hide_nothing_else(run: Runner, spoilt: Maker) -> None:
    root = spoilt("a10-pair")
    (aliases,) = (root / "lib/modules").glob("*/modules.alias")
    aliases.unlink()
    aliases.mkdir()
    ran = run("show", GPU, root=root)
    assert ran.code == 0
    assert "modules            unknown" in ran.out
    assert one(run, root)["modules"] is None


def test_what_the_library_gives_is_frozen_and_travels(spoilt: Maker) -> None:
    root = spoilt("few-vfs")
    place_config(root, PHYSICAL)
    with Host(root) as host:
        physical, virtual = host.show([GPU, "65:00.6"])
        assert physical.virtual_functions[2] == virtual.device
        assert (physical.vf_index, virtual.vf_index) == (None, 2)
        assert virtual.siblings == (physical.device,)
        assert [str(d.address) for d in virtual.route] == [PORT]
        assert isinstance(physical.space, ConfigSpace)
        assert physical.space.has_vpd
        assert host.show([GPU, "65:00.6"]) == (physical, virtual)
    assert pickle.loads(pickle.dumps(physical)) == physical
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        physical.link = None  # type: ignore[misc]


def test_it_needs_a_device(run: Runner, recorded: Maker) -> None:
    assert run("show", root=recorded("a10-pair")).code == 2
    assert run("show", "class:usb", root=recorded("a10-pair")).code == 3
