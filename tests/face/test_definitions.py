"""``vfiohost mdev list -d``: what mdevctl's definitions say, as mdevctl itself says it."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from vfiohost import Host
from vfiohost.definitions import render

if TYPE_CHECKING:
    from pathlib import Path

    from tests.face.support import Maker, Runner

FIRST = "b716be33-0000-4000-8000-000000000001"
SECOND = "b716be33-0000-4000-8000-000000000002"
THIRD = "b716be33-0000-4000-8000-000000000003"


@pytest.fixture
def root(simulated: Maker) -> Path:
    root = simulated("mtty")
    define(
        root, "mtty", FIRST, '{"mdev_type":"mtty-1","start":"auto","attrs":[{"b":"5"},{"b":"6"}]}'
    )
    define(root, "mtty", SECOND, '{"start": "manual", "mdev_type": "mtty-2"}')
    define(root, "0000:00:02.0", THIRD, '{"mdev_type": "i915-\u00e4", "start": "manual"}')
    (root / "etc/mdevctl.d/scripts.d/callouts").mkdir(parents=True)
    (root / "etc/mdevctl.d/scripts.d/notifiers").mkdir()
    return root


def define(root: Path, parent: str, uuid: str, text: str) -> None:
    folder = root / "etc/mdevctl.d" / parent
    folder.mkdir(parents=True, exist_ok=True)
    (folder / uuid).write_text(text)


def mdevctl(root: Path, *words: str) -> str:
    """What mdevctl says in a mount namespace where the root's definitions are its own."""
    if shutil.which("mdevctl") is None:
        pytest.skip("mdevctl is not installed")
    if os.geteuid() != 0:
        pytest.skip("a mount namespace needs root")
    script = 'mount --bind "$0" /etc/mdevctl.d && exec mdevctl "$@"'
    return subprocess.run(
        ["unshare", "-m", "sh", "-c", script, str(root / "etc/mdevctl.d"), *words],
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def test_the_list_is_that_of_mdevctl(run: Runner, root: Path) -> None:
    ran = run("mdev", "list", "-d", "--dumpjson", root=root)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == mdevctl(root, "list", "-d", "--dumpjson")


def test_a_definition_of_mdevctl_is_written_as_it_was(root: Path) -> None:
    uuid = "b716be33-0000-4000-8000-000000000004"
    mdevctl(root, "define", "-u", uuid, "-p", "mtty", "-t", "mtty-2")
    mdevctl(root, "modify", "-u", uuid, "--addattr", "x", "--value", "1")
    with Host(root) as host:
        (found,) = [each for each in host.mdev_definitions()[0] if each.uuid == uuid]
    assert render(found) == (root / "etc/mdevctl.d/mtty" / uuid).read_text()


def test_mdevctl_has_what_is_defined_here(run: Runner, root: Path) -> None:
    uuid = "b716be33-0000-4000-8000-000000000007"
    asked = ("mdev", "define", "-p", "matrix", "-t", "vfio_ap-passthrough", "-u", uuid, "--auto")
    assert run(*asked, "--attr", "a=5", "--attr", "a=6", root=root).out == f"{uuid}\n"
    text = (root / "etc/mdevctl.d/matrix" / uuid).read_text()
    assert run(*asked, root=root).code == 9  # it is there
    listed = mdevctl(root, "list", "-d", "-u", uuid)
    assert listed.split() == [uuid, "matrix", "vfio_ap-passthrough", "auto"]
    mdevctl(root, "modify", "-u", uuid, "--auto")
    assert (root / "etc/mdevctl.d/matrix" / uuid).read_text() == text
    assert run("mdev", "undefine", uuid, root=root).code == 0
    assert not (root / "etc/mdevctl.d/matrix").exists()
    assert run("mdev", "undefine", uuid, root=root).code == 3
    assert run("mdev", "define", "-p", "../x", "-t", "y", root=root).code == 2


def test_callouts_are_not_passed_over(run: Runner, root: Path) -> None:
    (root / "etc/mdevctl.d/scripts.d/callouts/ap.sh").write_text("#!/bin/sh\n")
    ran = run("mdev", "define", "-p", "mtty", "-t", "mtty-1", root=root)
    assert ran.code == 9
    assert "/etc/mdevctl.d/scripts.d/callouts/ap.sh" in ran.err
    ran = run("mdev", "define", "-p", "mtty", "-t", "mtty-1", "--ignore-callouts", root=root)
    assert ran.code == 0


def test_one_bad_file_hides_no_other(run: Runner, root: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text('{"mdev_type": "mtty-1", "start": "auto"}')
    bad = "b716be33-0000-4000-8000-000000000005"
    out = "b716be33-0000-4000-8000-000000000006"
    define(root, "mtty", bad, "{")
    (root / "etc/mdevctl.d/mtty" / out).symlink_to(tmp_path / "secret")
    ran = run("mdev", "list", "--defined", "--json", root=root)
    found = [each["uuid"] for each in ran.value["definitions"]]
    assert sorted(found) == [FIRST, SECOND, THIRD]
    assert [each["subject"] for each in ran.value["problems"]] == [bad, out]
    table = run("mdev", "list", "-d", root=root)
    assert f"{FIRST}  mtty          mtty-1  auto    b=5 b=6" in table.out
    assert f"/etc/mdevctl.d/mtty/{bad}" in table.err


def test_nothing_is_defined(run: Runner, simulated: Maker) -> None:
    ran = run("mdev", "list", "-d", root=simulated("mtty"))
    assert (ran.code, ran.out, ran.err) == (0, "", "vfiohost: No mediated device is defined.\n")
