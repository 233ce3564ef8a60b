"""Whose nodes are: no link is followed, and nothing but a node is touched."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from vfiohost import nodes
from vfiohost.errors import ApplyError, KernelError, StalePlanError
from vfiohost.model import PciAddress
from vfiohost.plan.types import Access, ChangeNodes, NodeChange, SetNodes
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


def owned(path: Path, mode: int) -> Access:
    """What a node of this test has."""
    return Access(path.stat().st_uid, path.stat().st_gid, mode)


def private(tmp_path: Path, name: str = "15") -> tuple[Path, NodeChange]:
    """A node with mode 0600, and the change of it to :data:`MODE`."""
    node = tmp_path / f"dev/vfio/{name}"
    node.touch(0o600)
    before, after = owned(node, 0o600), owned(node, MODE)
    return node, NodeChange(f"dev/vfio/{name}", node.stat().st_ino, before, after)


def wanted(mode: int | None = MODE) -> SetNodes:
    return SetNodes(PciAddress.parse(ADDRESS), None, None, mode, "for a test")


@pytest.mark.parametrize("name", ["15", "noiommu-15"])
def test_the_node_of_a_group(sysfs: Sysfs, tmp_path: Path, name: str) -> None:
    node, change = private(tmp_path, name)
    assert nodes.changes_for(sysfs, wanted(None), timeout=1) == ()
    assert nodes.changes_for(sysfs, wanted(), timeout=1) == (change,)
    nodes.make_change(sysfs, change)
    assert mode_of(node) == MODE
    assert nodes.changes_for(sysfs, wanted(), timeout=1) == ()


def test_where_a_change_stands(sysfs: Sysfs, tmp_path: Path) -> None:
    node, change = private(tmp_path)
    assert nodes.standing(sysfs, change) == "before"
    nodes.make_change(sysfs, change)
    assert nodes.standing(sysfs, change) == "after"
    node.chmod(0o604)
    assert nodes.standing(sysfs, change) == "other"
    with pytest.raises(ApplyError, match=r"mode 0604, which is neither .*0600.* nor .*0640"):
        nodes.take_back(sysfs, (change,))
    assert mode_of(node) == 0o604
    node.unlink()
    assert nodes.standing(sysfs, change) == "gone"
    nodes.take_back(sysfs, (change,))
    node.parent.joinpath("other").touch()  # so that the next one gets another inode
    node.touch(0o640)
    again = NodeChange(change.path, node.stat().st_ino + 1, change.before, change.after)
    assert nodes.standing(sysfs, again) == "gone"
    nodes.take_back(sysfs, (again,))
    assert mode_of(node) == 0o640


def test_a_change_that_was_cut_off(sysfs: Sysfs, tmp_path: Path) -> None:
    """As of a kill between chown and chmod."""
    _, change = private(tmp_path)
    now = change.before
    before, after = Access(now.uid + 1, now.gid, 0o600), Access(now.uid, now.gid, 0o660)
    cut = NodeChange(change.path, change.inode, before, after)
    assert nodes.standing(sysfs, cut) == "between"
    assert nodes.is_changed(sysfs, (cut,))


def test_what_a_change_is_not_about_may_be_anything(sysfs: Sysfs, tmp_path: Path) -> None:
    node, change = private(tmp_path)
    other = Access(change.before.uid + 1, change.before.gid + 1, 0o600)
    only_mode = NodeChange(change.path, change.inode, other, Access(other.uid, other.gid, MODE))
    assert nodes.standing(sysfs, only_mode) == "before"
    nodes.make_change(sysfs, only_mode)
    assert (node.stat().st_uid, mode_of(node)) == (change.before.uid, MODE)


def test_a_node_that_was_made_anew_is_not_touched(sysfs: Sysfs, tmp_path: Path) -> None:
    node, change = private(tmp_path)
    other = NodeChange(change.path, change.inode + 1, change.before, change.after)
    with pytest.raises(StalePlanError, match="made anew"):
        nodes.make_change(sysfs, other)
    assert mode_of(node) == 0o600


def test_a_step_of_known_nodes(sysfs: Sysfs, tmp_path: Path) -> None:
    node, change = private(tmp_path)
    step = ChangeNodes(PciAddress.parse(ADDRESS), (change,), "for a test")
    assert nodes.changes_for(sysfs, step, timeout=1) == (change,)
    nodes.make_change(sysfs, change)
    assert nodes.changes_for(sysfs, step, timeout=1) == ()
    assert nodes.changes_for(sysfs, step.reversed(""), timeout=1) == (change.reversed(),)
    node.chmod(0o606)
    with pytest.raises(StalePlanError, match="somebody else changed it"):
        nodes.changes_for(sysfs, step, timeout=1)


def test_a_node_of_its_own(sysfs: Sysfs, tmp_path: Path) -> None:
    (tmp_path / f"{DEVICE}/vfio-dev/vfio3").mkdir(parents=True)
    (tmp_path / "dev/vfio/15").touch()
    assert nodes.nodes_of(sysfs, ADDRESS) == ("dev/vfio/15",)
    (tmp_path / f"{DEVICE}/vfio-dev/vfio3/dev").touch()
    assert nodes.nodes_of(sysfs, ADDRESS) == ("dev/vfio/15", "dev/vfio/devices/vfio3")


def test_none_appears(sysfs: Sysfs) -> None:
    with pytest.raises(ApplyError, match=f"No node of {ADDRESS} appeared"):
        nodes.await_nodes(sysfs, ADDRESS, timeout=0.05)


@pytest.mark.parametrize(
    ("kind", "code"), [("link", "ELOOP"), ("fifo", "ENOTTY"), ("second name", "EMLINK")]
)
def test_what_is_no_node_is_not_touched(sysfs: Sysfs, tmp_path: Path, kind: str, code: str) -> None:
    victim, node = tmp_path / "victim", tmp_path / "dev/vfio/15"
    victim.touch(0o600)
    if kind == "link":
        node.symlink_to("../../victim")
    elif kind == "second name":
        node.hardlink_to(victim)
    else:
        os.mkfifo(node, 0o600)
    with pytest.raises(KernelError) as caught:
        nodes.changes_for(sysfs, wanted(), timeout=1)
    access = Access(os.getuid(), os.getgid(), 0o600)
    change = NodeChange("dev/vfio/15", node.lstat().st_ino, access, Access(0, 0, MODE))
    for touch in (nodes.make_change, nodes.standing):
        with pytest.raises(KernelError, match=code):
            touch(sysfs, change)
    assert (caught.value.op, caught.value.code) == ("open", code)
    assert mode_of(victim) == 0o600
    assert stat.S_IMODE(node.lstat().st_mode) != MODE


def test_a_plain_file_is_no_node_of_a_running_host(
    sysfs: Sysfs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dev/vfio/15").touch(0o600)
    monkeypatch.setattr(Sysfs, "is_live", lambda _: True)
    with pytest.raises(KernelError, match="ENOTTY"):
        nodes.changes_for(sysfs, wanted(), timeout=1)
    assert mode_of(tmp_path / "dev/vfio/15") == 0o600
