"""Whose a VFIO node shall be."""

from __future__ import annotations

import os
import stat
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.pure.hosts import MODULES, a10, address
from vfiohost.errors import NotFoundError, ParseError
from vfiohost.plan.bind import BindRequest, plan_bind
from vfiohost.plan.owners import Ownership, parse_ownership
from vfiohost.plan.types import LoadModule, Plan, SetNodes, WriteAttr

PASSWD = "root:x:0:0:root:/root:/bin/bash\nqemu:x:64055:108::/:/bin/false\nbroken\nodd:x:y:0::\n"
GROUP = "root:x:0:\nkvm:x:108:qemu\n"
if TYPE_CHECKING:
    from pathlib import Path

A10 = address("0000:65:00.0")


@pytest.mark.parametrize(
    ("owner", "mode", "wanted"),
    [
        ("qemu", None, Ownership(64055)),
        ("qemu:kvm", "0660", Ownership(64055, 108, 0o660)),
        (":kvm", "600", Ownership(None, 108, 0o600)),
        ("0:4294967294", None, Ownership(0, 4294967294)),
        (None, "0666", Ownership(None, None, 0o666)),
    ],
)
def test_who_is_meant(owner: str | None, mode: str | None, wanted: Ownership) -> None:
    assert parse_ownership(owner, mode, PASSWD, GROUP) == wanted


@pytest.mark.parametrize("owner", ["root", "root:root", "0:root", "0:0"])
def test_root_is_known_without_files(owner: str) -> None:
    wanted = Ownership(0, 0 if ":" in owner else None)
    assert parse_ownership(owner, None, "", "") == wanted
    assert parse_ownership("root", None, "root:x:7:7::/:\n", "") == Ownership(7)


@pytest.mark.parametrize(
    ("owner", "mode"),
    [
        ("", None),
        (":", None),
        ("qemu:", None),
        ("qemu:kvm:root", None),
        ("4294967295", None),
        ("a b", None),
        (None, "rw-rw----"),
        (None, "4755"),
        (None, "0888"),
        (None, ""),
        (None, "66"),
    ],
)
def test_what_cannot_be_meant(owner: str | None, mode: str | None) -> None:
    with pytest.raises(ParseError):
        parse_ownership(owner, mode, PASSWD, GROUP)


@pytest.mark.parametrize(
    ("owner", "kind", "near"), [("qemo", "user", ("qemu",)), ("qemu:kvn", "group", ("kvm",))]
)
def test_who_is_not_there(owner: str, kind: str, near: tuple[str, ...]) -> None:
    with pytest.raises(NotFoundError) as caught:
        parse_ownership(owner, None, PASSWD, GROUP)
    assert (caught.value.kind, caught.value.near) == (kind, near)


def test_a_line_that_makes_no_sense_is_nobody() -> None:
    for name in ("broken", "odd"):
        with pytest.raises(NotFoundError):
            parse_ownership(name, None, PASSWD, GROUP)


def bound(driver: str, *, now: str | None = None) -> Plan:
    request = BindRequest((A10,), driver, ownership=Ownership(64055, 108, 0o660))
    return plan_bind(a10(now), request, MODULES)


def test_the_nodes_come_last_and_survive_the_journal() -> None:
    plan = bound("vfio-pci")
    last = plan.steps[-1]
    assert isinstance(last, SetNodes)
    assert (last.address, last.uid, last.gid, last.mode) == (A10, 64055, 108, 0o660)
    assert all(isinstance(step, WriteAttr | LoadModule) for step in plan.steps[:-1])
    assert Plan.from_json(plan.to_json()) == plan


def test_the_shell_line_does_the_same(tmp_path: Path) -> None:
    root = tmp_path / "a host"
    device = root / f"sys/bus/pci/devices/{A10}"
    (device / "vfio-dev/vfio3").mkdir(parents=True)
    (device / "iommu_group").symlink_to("../../../../kernel/iommu_groups/15")
    nodes = [root / "dev/vfio/15", root / "dev/vfio/devices/vfio3"]
    nodes[1].parent.mkdir(parents=True)
    for node in nodes:
        node.touch(0o600)
    step = SetNodes(A10, os.getuid(), os.getgid(), 0o640, "for a test")
    subprocess.run(["sh", "-e", "-c", step.shell(str(root))], check=True)
    assert [stat.S_IMODE(node.stat().st_mode) for node in nodes] == [0o640] * 2
    assert "chmod" not in SetNodes(A10, 0, None, None, "").shell()
    assert "chown" not in SetNodes(A10, None, None, 0o640, "").shell()


def test_only_a_vfio_driver_has_nodes() -> None:
    with pytest.raises(ParseError, match="--owner"):
        bound("nouveau")


@pytest.mark.parametrize(
    ("key", "value"), [("uid", -1), ("gid", 2**32 - 1), ("mode", 0o1777), ("mode", True)]
)
def test_numbers_of_a_journal_are_not_taken_on_trust(key: str, value: object) -> None:
    data = bound("vfio-pci").to_json()
    data["steps"][-1][key] = value
    with pytest.raises(ParseError, match=key):
        Plan.from_json(data)
