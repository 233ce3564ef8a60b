"""``vfiohost resources`` and ``print``: what other tools are told of a host."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.face.support import check_golden

if TYPE_CHECKING:
    from pathlib import Path

    from tests.face.support import Maker, Runner

UUIDS = ("3d1d9e1a-4b6f-4c59-a8a0-6f4dbe0c7f01", "3d1d9e1a-4b6f-4c59-a8a0-6f4dbe0c7f02")
READY: dict[str, list[tuple[str, ...]]] = {
    "a10-pair": [("bind", "10de:2236")],
    "a10-pair-vgpu": [
        ("mdev", "create", "-p", f"65:00.{n}", "-t", "A10-12Q", "-u", uuid)
        for n, uuid in zip("45", UUIDS, strict=True)
    ],
    "rtx-workstation": [("bind", "01:00.0", "--group", "--allow", "display,console")],
    "gh200": [("bind", "10de:2342", "--driver", "auto")],
}
"""Hosts, and what makes their devices ready for guests."""


def ready(run: Runner, simulated: Maker, name: str) -> Path:
    """Make a host whose devices are ready."""
    root = simulated(name)
    for line in READY[name]:
        ran = run(*line, root=root)
        assert ran.code == 0, ran.err
    return root


@pytest.mark.parametrize("name", sorted(READY))
def test_resources(run: Runner, simulated: Maker, name: str) -> None:
    root = ready(run, simulated, name)
    check_golden(f"resources-{name}", run("resources", root=root), root)


def test_resources_as_a_nodes_status_has_them(run: Runner, simulated: Maker) -> None:
    root = ready(run, simulated, "a10-pair-vgpu")
    value = run("resources", "--json", root=root).value
    assert value["allocatable"] == {"nvidia.com/NVIDIA_A10-12Q": 2}
    assert value["resources"][0]["devices"] == list(UUIDS)


def test_two_ids_of_one_name_are_told(run: Runner, simulated: Maker) -> None:
    root = ready(run, simulated, "rtx-workstation")
    ids = "10de  NVIDIA Corporation\n\t10f8  TU104 X-Y\n\t1e87  TU104 [X/Y]\n\t1ad8  Tu104 x.y\n"
    (root / "usr/share/misc/pci.ids").write_text(ids)
    ran = run("resources", root=root)
    assert ran.code == 0
    assert "nvidia.com/TU104_X_Y      2  0000:01:00.0 0000:01:00.2" in ran.out
    assert "nvidia.com/TU104_XY       1  0000:01:00.1" in ran.out
    assert "10de:1e87 and 10de:1ad8 have this one resource name" in ran.err


def test_a_host_that_offers_nothing(run: Runner, recorded: Maker) -> None:
    ran = run("resources", root=recorded("a10-pair"))
    assert (ran.code, ran.out) == (0, "")
    assert "nothing" in ran.err
    assert run("resources", "--json", root=recorded("a10-pair")).value["allocatable"] == {}


FORMATS = ("kubevirt", "vmi", "libvirt", "qemu", "cdi")


@pytest.mark.parametrize("name", sorted(READY))
def test_formats(run: Runner, simulated: Maker, name: str) -> None:
    root = ready(run, simulated, name)
    for form in FORMATS:
        ran = run("print", form, root=root)
        check_golden(f"print-{form}-{name}", ran, root)
        assert run("print", form, "--json", root=root).value["printed"]["text"] == ran.out


def test_what_is_named_comes_with_its_group(run: Runner, simulated: Maker) -> None:
    root = ready(run, simulated, "rtx-workstation")
    value = run("print", "vmi", "01:00.0", "--json", root=root).value["printed"]
    assert value["devices"] == [f"0000:01:00.{n}" for n in range(4)]


def test_one_mdev(run: Runner, simulated: Maker) -> None:
    root = ready(run, simulated, "a10-pair-vgpu")
    value = run("print", "vmi", UUIDS[1].upper(), "--json", root=root).value["printed"]
    assert (value["devices"], value["mdevs"]) == ([], [UUIDS[1]])
    ran = run("print", "vmi", UUIDS[1].replace("3d1d", "4d1d"), root=root)
    assert (ran.code, ran.out) == (3, "")


def test_what_is_not_ready_is_refused_with_a_remedy(run: Runner, simulated: Maker) -> None:
    root = simulated("rtx-workstation")
    ran = run("print", "vmi", "01:00.0", "00:01.0", root=root)
    assert (ran.code, ran.out) == (4, "")
    assert "0000:01:00.0 has the driver nouveau, so no guest can open it" in ran.err
    assert "bind 0000:01:00.0" in ran.err
    assert "0000:00:01.0 is a bridge" in ran.err


def test_a_group_that_is_not_viable(run: Runner, simulated: Maker) -> None:
    root = simulated("rtx-workstation")
    alone = "--allow", "display,console,shared-group"
    assert run("bind", "01:00.0", *alone, root=root).code == 0
    ran = run("print", "vmi", "01:00.0", root=root)
    assert ran.code == 4
    assert "since a host driver has 0000:01:00.1 (snd_hda_intel)" in ran.err
    assert "--group" in ran.err
    ran = run("print", "vmi", "--json", root=root)
    assert (ran.code, ran.value["printed"]["devices"]) == (0, [])
    assert "Left out" in ran.value["problems"][0]["sentence"]


def test_nothing_is_ready(run: Runner, recorded: Maker) -> None:
    for form in FORMATS:
        ran = run("print", form, root=recorded("a10-pair"))
        assert (ran.code, "Nothing is ready" in ran.err) == (0, True)


def test_a_virtual_function_of_the_vgpu_driver(run: Runner, recorded: Maker) -> None:
    ran = run("print", "qemu", "c1:00.4", root=recorded("l40s-vgpu"))
    assert (ran.code, ran.out) == (4, "")
    assert "a virtual function of NVIDIA's vGPU host driver" in ran.err
    assert "vfiohost --root" in ran.err
    assert " bind " not in ran.err
