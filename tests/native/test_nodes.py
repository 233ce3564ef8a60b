"""Whose nodes are: no link is followed, and nothing but a node is touched."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from vfiohost import nodes
from vfiohost.errors import ApplyError, KernelError
from vfiohost.sysfs import Sysfs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ADDRESS = "0000:65:00.0"
DEVICE = f"sys/bus/pci/devices/{ADDRESS}"
MODE = 0o640


@pytest.fixture
def sysfs(tmp_path: Path) -> Iterator[Sysfs]:
    device = tmp_path / DEVICE
    device.mkdir(parents=True)
    (device / "iommu_group").symlink_to("../../../../kernel/iommu_groups/15")
    (tmp_path / "dev/vfio/devices").mkdir(parents=True)
    with Sysfs(tmp_path) as opened:
        yield opened


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("name", ["15", "noiommu-15"])
def test_the_node_of_a_group(sysfs: Sysfs, tmp_path: Path, name: str) -> None:
    (tmp_path / f"dev/vfio/{name}").touch(0o600)
    found = nodes.await_nodes(sysfs, ADDRESS, timeout=1)
    assert found == (f"dev/vfio/{name}",)
    me = (os.getuid(), os.getgid(), MODE)
    assert not nodes.are_set(sysfs, found, *me)
    nodes.set_node(sysfs, found[0], *me)
    assert nodes.are_set(sysfs, found, *me)
    assert mode_of(tmp_path / f"dev/vfio/{name}") == MODE


def test_a_node_of_its_own(sysfs: Sysfs, tmp_path: Path) -> None:
    (tmp_path / f"{DEVICE}/vfio-dev/vfio3").mkdir(parents=True)
    (tmp_path / "dev/vfio/15").touch()
    assert nodes.nodes_of(sysfs, ADDRESS) == ("dev/vfio/15",)
    (tmp_path / f"{DEVICE}/vfio-dev/vfio3/dev").touch()
    assert nodes.nodes_of(sysfs, ADDRESS) == ("dev/vfio/15", "dev/vfio/devices/vfio3")


def test_none_appears(sysfs: Sysfs) -> None:
    with pytest.raises(ApplyError, match=f"No node of {ADDRESS} appeared"):
        nodes.await_nodes(sysfs, ADDRESS, timeout=0.05)


@pytest.mark.parametrize(("kind", "code"), [("link", "ELOOP"), ("fifo", "ENOTTY")])
def test_what_is_no_node_is_not_touched(sysfs: Sysfs, tmp_path: Path, kind: str, code: str) -> None:
    victim, node = tmp_path / "victim", tmp_path / "dev/vfio/15"
    victim.touch(0o600)
    if kind == "link":
        node.symlink_to("../../victim")
    else:
        os.mkfifo(node, 0o600)
    with pytest.raises(KernelError) as caught:
        nodes.set_node(sysfs, "dev/vfio/15", None, None, MODE)
    assert (caught.value.op, caught.value.code) == ("open", code)
    assert mode_of(victim) == 0o600
    assert stat.S_IMODE(node.lstat().st_mode) != MODE


def test_a_plain_file_is_no_node_of_a_running_host(
    sysfs: Sysfs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dev/vfio/15").touch(0o600)
    monkeypatch.setattr(Sysfs, "is_live", lambda _: True)
    with pytest.raises(KernelError, match="ENOTTY"):
        nodes.set_node(sysfs, "dev/vfio/15", None, None, MODE)
    assert mode_of(tmp_path / "dev/vfio/15") == 0o600
