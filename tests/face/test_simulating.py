"""``vfiohost sim``: hosts to try things on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.face.support import HOSTS
from vfiohost.cli.output import Output
from vfiohost.render.table import coloured

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

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


def test_a_recording_cannot_steer_the_terminal(run: Runner, scratch: Path) -> None:
    lines = (HOSTS / "mtty.host").read_text().splitlines()
    lines[1] = r'title = "a \x1b]0;b\x07 \x1b[31mc\nd"'
    (scratch / "evil.host").write_text("\n".join(lines) + "\n")
    ran = run("sim", str(scratch / "evil.host"), str(scratch / "evil"))
    assert ran.code == 0
    assert r"a \x1b]0;b\x07 \x1b[31mc\nd" in ran.out


def test_what_reaches_a_terminal_has_no_control_characters_but_our_colours(
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = Output(json=False)
    output.lines(["a \x1b]0;b\x07\u202e", coloured("c", "bad")])
    output.notes(["note: \x9b2J"])
    shown = capsys.readouterr()
    assert shown.out == "a \\x1b]0;b\\x07\\u202e\n" + coloured("c", "bad") + "\n"
    assert shown.err == "note: \\x9b2J\n"
    assert coloured("c", "bad") != "c"
