"""``list``, ``groups``, ``mdev types`` and ``mdev list`` on recorded hosts."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import attrs
import pytest

from tests.face.support import HOSTS, check_golden
from vfiohost import testing

ANYWAY = ("--allow", "vfio-user")

if TYPE_CHECKING:
    from pathlib import Path

    from tests.face.support import Maker, Runner

GOLDEN_RUNS = [
    ("list-a10", "a10-pair", "list"),
    ("list-rtx", "rtx-workstation", "list"),
    (
        "list-filters",
        "a10-pair-nouveau",
        "list --vendor 10de,8086 --class 3d,nvme --driver nouveau",
    ),
    ("list-columns", "a10-pair-vgpu", "list 65:00.* -o address,vfs,physfn,revision,numa,subsystem"),
    ("list-override", "rtx-workstation", "list group:1 -o +override,boot_vga"),
    ("list-no-names", "rtx-workstation", "ls --no-names --group 1"),
    ("list-vmd", "vmd-domain", "list"),
    ("list-gh200", "gh200", "list -o +numa"),
    ("list-l40s", "l40s-vgpu", "list class:3d -o address,ids,driver,group,vfs,physfn"),
    ("list-minimal", "minimal-no-uevent", "list"),
    ("list-nothing-fits", "a10-pair", "list --driver vfio-pci"),
    ("list-not-there", "a10-pair", "list 65:00.1"),
    ("list-color", "a10-pair-nouveau", "list class:3d --color always"),
    ("groups-a10", "a10-pair", "groups"),
    ("groups-why-rtx", "rtx-workstation", "groups --why"),
    ("groups-one", "rtx-workstation", "groups 1 --why"),
    ("groups-l40s", "l40s-vgpu", "groups 4 5 6 --why"),
    ("groups-vgpu-parents", "a10-pair-vgpu", "groups 17 18 --why"),
    ("groups-not-there", "a10-pair", "groups 99"),
    ("groups-no-iommu", "no-iommu", "groups"),
    ("mdev-types-vgpu", "a10-pair-vgpu", "mdev types -p 65:00.4"),
    ("mdev-types-v100", "t4-v100-vgpu", "mdev types -p af:00.0"),
    ("mdev-types-mtty", "mtty", "mdev types"),
    ("mdev-types-none", "a10-pair", "mdev types"),
    ("mdev-types-near", "mtty", "mdev types -p MTTY"),
    ("mdev-list-none", "a10-pair", "mdev list"),
]


@pytest.mark.parametrize(("name", "host", "line"), GOLDEN_RUNS, ids=[r[0] for r in GOLDEN_RUNS])
def test_what_is_printed(name: str, host: str, line: str, run: Runner, recorded: Maker) -> None:
    root = recorded(host)
    check_golden(name, run(*line.split(), root=root), root)
    assert run(*line.split(), "--json", root=root).value["command"] is not None


@pytest.mark.parametrize("path", sorted(HOSTS.glob("*.host")), ids=lambda p: p.stem)
def test_every_fixture_can_be_read(path: Path, run: Runner, recorded: Maker) -> None:
    root = recorded(path.stem)
    listed = run("list", "--json", "-o", "+override", root=root).value["devices"]
    groups = run("groups", "--json", root=root).value["groups"]
    assert listed
    members = [m["address"] for g in groups for m in g["members"]]
    assert sorted(members) == sorted(d["address"] for d in listed if d["iommu_group"] is not None)
    assert run("mdev", "types", "--json", root=root).value["parents"] is not None
    assert run("mdev", "list", "--json", root=root).value["mdevs"] == []


def test_filters_agree_with_the_fields(run: Runner, recorded: Maker) -> None:
    root = recorded("rtx-workstation")
    every = run("list", "--json", root=root).value["devices"]

    def addresses(*argv: str) -> list[str]:
        return [d["address"] for d in run("list", "--json", *argv, root=root).value["devices"]]

    assert addresses("--vendor", "0x10DE") == [
        d["address"] for d in every if d["vendor_id"] == "10de"
    ]
    assert addresses("--driver", "none") == [d["address"] for d in every if d["driver"] is None]
    assert addresses("--group", "5,1") == [
        d["address"] for d in every if d["iommu_group"] in (1, 5)
    ]
    assert addresses("--class", "0403") == ["0000:00:1f.3", "0000:01:00.1"]
    assert addresses("--group", "none") == []
    assert addresses("01:00.*", "--driver", "nouveau") == ["0000:01:00.0"]
    assert addresses("01:00.3", "01:00.0") == ["0000:01:00.3", "0000:01:00.0"]


def test_root_from_the_environment(
    run: Runner, recorded: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = recorded("mtty")
    monkeypatch.setenv("VFIOHOST_ROOT", str(root))
    assert "mtty-1" in run("mdev", "types").out
    other = recorded("a10-pair")
    assert "mtty-1" not in run("mdev", "types", root=other).out


def test_a_releasing_device_is_named(run: Runner, simulated: Maker) -> None:
    root = simulated("a10-pair-nouveau")
    assert run("bind", "65:00.0", root=root).code == 0
    with testing.SimulatedKernel(root).open_device("0000:65:00.0"):
        stuck = run("unbind", "65:00.0", *ANYWAY, "--timeout", "0.2", root=root)
        assert stuck.code == 6
        listed = run("list", "65:00.0", "--json", root=root).value["devices"][0]
        assert (listed["driver"], listed["state"]) == (None, "releasing")
        assert " releasing " in run("list", "65:00.0", root=root).out
    assert run("list", "65:00.0", "--json", root=root).value["devices"][0]["state"] == "unbound"


def test_a_releasing_device_is_named_even_when_its_attributes_do_not_answer(
    run: Runner, tmp_path: Path
) -> None:
    """As on kernels before 6.12, where reading `uevent` waits for the unbind."""
    recorded = attrs.evolve(testing.load("a10-pair-nouveau"), kernel="6.1.0-37-amd64")
    root = tmp_path / "old"
    testing.create(recorded, root)
    assert run("bind", "65:00.0", root=root).code == 0
    with testing.SimulatedKernel(root).open_device("0000:65:00.0"):
        assert run("unbind", "65:00.0", *ANYWAY, "--timeout", "0.2", root=root).code == 6
        assert (root / "sys/bus/pci/devices/0000:65:00.0/uevent").is_fifo()
        listed = run("list", "65:00.0", "--json", root=root).value["devices"][0]
        assert (listed["driver"], listed["state"]) == (None, "releasing")


def test_problems_are_bounded_on_stderr_and_whole_in_json(run: Runner, spoilt: Maker) -> None:
    root = spoilt("a10-pair")
    devices = sorted((root / "sys/bus/pci/devices").iterdir())
    for link in devices[:8]:
        (link.resolve() / "modalias").unlink()
        for name in ("vendor", "device", "class"):
            (link.resolve() / name).unlink(missing_ok=True)
    ran = run("list", root=root)
    warnings = [line for line in ran.err.splitlines() if line.startswith("vfiohost: warning: ")]
    assert ran.code == 0
    assert len(warnings) == 6
    assert warnings[-1] == "vfiohost: warning: and 3 more (-v shows all)"
    assert len(ran.out.splitlines()) == 1 + len(devices) - 8
    assert len(run("list", "-v", root=root).err.splitlines()) == 8
    assert run("list", "-q", root=root).err == ""
    assert len(run("list", "--json", root=root).value["problems"]) == 8


def test_no_pci_at_all(run: Runner, tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("empty")
    ran = run("list", root=root)
    assert (ran.code, ran.out) == (0, "")
    assert "no PCI" in ran.err
    assert run("groups", "--json", root=root).value["groups"] == []
    shutil.rmtree(root)


def test_terminal_sequences_in_a_name_are_shown_not_sent(run: Runner, spoilt: Maker) -> None:
    root = spoilt("a10-pair")
    path = root / "usr/share/misc/pci.ids"
    path.write_text("10de  \x1b[31mevil\x07\n\t2236  A10\u202e\n")
    out = run("list", "65:00.0", root=root).out
    assert "\x1b" not in out
    assert "\\x1b[31mevil\\x07 A10\\u202e" in out
