"""``vfiohost sim``: hosts to try things on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.face.support import HOSTS

if TYPE_CHECKING:
    from pathlib import Path

    from tests.face.support import Runner


def test_the_hosts_that_come_along(run: Runner) -> None:
    names = sorted(path.stem for path in HOSTS.glob("*.host"))
    assert [line.split()[0] for line in run("sim", "--list").out.splitlines()] == names
    hosts = run("sim", "--list", "--json").value["hosts"]
    assert [h["name"] for h in hosts] == names
    assert all(h["title"] for h in hosts)


def test_a_simulated_host_keeps_its_state_between_commands(run: Runner, scratch: Path) -> None:
    root = scratch / "made" / "host"
    made = run("sim", "a10-pair-nouveau", str(root))
    assert (made.code, made.err) == (0, "")
    assert made.out.splitlines()[-1] == f"vfiohost --root {root} list"
    assert run("bind", "65:00.0", root=root).code == 0
    assert run("bind", "65:00.0", root=root).out.startswith("0000:65:00.0  already bound")
    assert run("restore", "65:00.0", root=root).code == 0


def test_nothing_is_overwritten(run: Runner, scratch: Path) -> None:
    root = scratch / "taken"
    root.mkdir()
    (root / "mine").write_text("mine")
    ran = run("sim", "mtty", str(root))
    assert ran.code == 9
    assert "not empty" in ran.err
    assert [p.name for p in root.iterdir()] == ["mine"]
    assert run("sim", "mtty", "/proc/nowhere").code in (1, 3, 5)


def test_a_recording_of_ones_own(run: Runner, scratch: Path) -> None:
    file = HOSTS / "mtty.host"
    root = scratch / "own"
    value = run("sim", str(file), str(root), "--json").value
    assert value["simulation"]["source"].startswith(("recorded", "composed"))
    assert run("mdev", "create", "-p", "mtty", "-t", "mtty-1", root=root).code == 0


def test_a_bad_recording_names_its_line(run: Runner, scratch: Path) -> None:
    file = scratch / "bad.host"
    file.write_text("vfiohost-recording 1\ntitle = x\nsource = recorded from x\nnonsense\n")
    ran = run("sim", str(file), str(scratch / "bad"))
    assert ran.code == 2
    assert "4" in ran.err
    assert not (scratch / "bad").exists()


def test_a_dry_run_makes_no_directory(run: Runner, scratch: Path) -> None:
    root = scratch / "dry"
    assert run("sim", "mtty", str(root), "-n").code == 0
    assert run("sim", "mtty", str(root), "-n", "--json").value["dry_run"] is True
    assert not root.exists()
