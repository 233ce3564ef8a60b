"""``vfiohost validate``: what NVIDIA's validator asks, and its status files."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tests.face.support import check_golden

if TYPE_CHECKING:
    from pathlib import Path

    from tests.face.support import Maker, Runner

FOLDER = "run/nvidia/validations"


def files(root: Path) -> list[str]:
    return sorted(os.listdir(root / FOLDER))


def test_passthrough(run: Runner, simulated: Maker) -> None:
    root = simulated("a10-pair-nouveau")
    bad = run("validate", "--write", root=root)
    check_golden("validate-not-ready", bad, root)
    assert bad.code == 11
    assert files(root) == ["workload-type"]
    assert run("mode", "vm-passthrough", root=root).code == 0
    good = run("validate", "--write", root=root)
    check_golden("validate-ready", good, root)
    assert files(root) == ["vfio-pci-ready", "workload-type"]
    assert (root / FOLDER / "workload-type").read_text() == "vm-passthrough\n"
    assert run("restore", "ca:00.0", root=root).code == 0
    assert run("validate", "--write", root=root).code == 11
    assert files(root) == ["workload-type"]


def test_a_group_that_is_not_viable(run: Runner, simulated: Maker) -> None:
    root = simulated("rtx-workstation")
    allow = ("--allow", "display,console,shared-group")
    assert run("bind", "01:00.0", *allow, root=root).code == 0
    value = run("validate", "--json", root=root).value
    assert "is not viable: 0000:01:00.1 on snd_hda_intel" in value["checks"][0]["sentences"][0]


def test_vgpus(run: Runner, simulated: Maker) -> None:
    root = simulated("a10-pair-vgpu")
    check_golden("validate-no-vgpus", run("validate", "vm-vgpu", root=root), root)
    assert run("vgpu", "create", "-g", "65:00.0", "-t", "A10-8Q", root=root).code == 0
    assert run("validate", "vm-vgpu", "--write", root=root).code == 0
    assert files(root) == ["vgpu-devices-ready", "vgpu-manager-ready", "workload-type"]
    # One card is handed out whole: that is no reason for the other to fail.
    assert run("mode", "vm-passthrough", "ca:00.0", root=root).code == 0
    assert run("validate", "vm-vgpu", root=root).code == 0
    assert run("mode", "container", "ca:00.0", root=root).code == 0
    ran = run("validate", "vm-vgpu", root=root)
    assert ran.code == 11
    assert "0000:ca:00.0 has 0 of 32 virtual functions." in ran.out


def test_vgpus_without_mediated_devices(run: Runner, simulated: Maker) -> None:
    root = simulated("l40s-vgpu")
    assert run("validate", "vm-vgpu", root=root).code == 11
    assert run("vgpu", "create", "-g", "class:gpu", "-t", "L40S-24Q", root=root).code == 0
    assert run("validate", "vm-vgpu", root=root).code == 0


def test_the_hosts_own_manager(run: Runner, simulated: Maker) -> None:
    root = simulated("t4-v100-vgpu")
    smi = root / "usr/bin/nvidia-smi"
    smi.parent.mkdir(parents=True, exist_ok=True)
    smi.touch()
    run("validate", "vm-vgpu", "--write", root=root)
    assert "host-vgpu-manager-ready" in files(root)


def test_no_gpu(run: Runner, simulated: Maker) -> None:
    root = simulated("mtty")
    for mode in ("vm-passthrough", "vm-vgpu"):
        assert run("validate", mode, root=root).code == 11


def test_a_dry_run_and_a_link_write_nothing(run: Runner, simulated: Maker, tmp_path: Path) -> None:
    root = simulated("a10-pair")
    run("validate", "--write", "-n", root=root)
    assert not (root / FOLDER).exists()
    (root / FOLDER).mkdir(parents=True)
    (root / FOLDER / "workload-type").symlink_to(tmp_path / "outside")
    assert run("validate", "--write", root=root).code == 1
    assert not (tmp_path / "outside").exists()
