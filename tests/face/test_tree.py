"""``vfiohost tree``: what a person looks at, and the picture."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.face.support import check_golden

if TYPE_CHECKING:
    from pathlib import Path

    from tests.face.support import Maker, Runner

UUIDS = ("3d1d9e1a-4b6f-4c59-a8a0-6f4dbe0c7f01", "3d1d9e1a-4b6f-4c59-a8a0-6f4dbe0c7f02")


@pytest.mark.parametrize("width", ["80", "200"])
@pytest.mark.parametrize(
    "name", ["rtx-workstation", "a10-pair-vgpu", "vmd-domain", "hgx-h100", "consumer-board"]
)
def test_a_tree(
    run: Runner, recorded: Maker, monkeypatch: pytest.MonkeyPatch, name: str, width: str
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    root = recorded(name)
    check_golden(f"tree-{name}-{width}", run("tree", root=root), root)


def test_colours_overrides_and_mdevs(
    run: Runner, simulated: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    root = simulated("a10-pair-vgpu")
    for uuid in UUIDS:
        assert (
            run("mdev", "create", "-p", "65:00.0", "-t", "A10-12Q", "-u", uuid, root=root).code == 0
        )
    assert run("bind", "31:00.0", "--group", root=root).code == 0
    check_golden("tree-colours", run("tree", "--color", "always", root=root), root)


def test_json_has_all_of_it(run: Runner, recorded: Maker) -> None:
    value = run("tree", "class:gpu", "--json", root=recorded("a10-pair-vgpu")).value
    bridge = value["tree"][-1]
    assert (bridge["host_bridge"], bridge["numa_nodes"]) == ("pci0000:c9", [1])
    port = bridge["children"][0]
    assert port["device"]["address"] == "0000:c9:02.0"
    card = port["children"][0]
    assert card["device"]["driver_override"] is None
    assert len(card["virtual_functions"]) == 32


def test_a_picture_is_made_and_not_replaced_unasked(
    run: Runner, recorded: Maker, tmp_path: Path
) -> None:
    root, file = recorded("rtx-workstation"), tmp_path / "host.svg"
    dry = run("tree", "--svg", str(file), "-n", root=root)
    assert dry.out == f"would write {file}: 15 PCI functions\n"
    assert not file.exists()
    assert run("tree", "--svg", str(file), root=root).out == f"{file}: 15 PCI functions\n"
    picture = file.read_text()
    assert picture.startswith("<svg ")
    assert run("tree", "--svg", "-", root=root).out == picture
    assert (refused := run("tree", "--svg", str(file), root=root)).code == 4, refused
    assert run("tree", "--svg", str(file), "--overwrite", "-q", root=root).out == ""
    assert run("tree", "--svg", os.devnull, "--overwrite", root=root).code == 4
    assert run("tree", "--svg", str(tmp_path / "none/x.svg"), root=root).code == 1


def test_a_picture(run: Runner, recorded: Maker) -> None:
    root = recorded("rtx-workstation")
    check_golden("tree-rtx-svg", run("tree", "--svg", "-", root=root), root)
