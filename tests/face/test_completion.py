"""Completion: what the command answers, and what the shells make of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from vfiohost.cli.shells import SCRIPTS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.face.support import Maker, Runner

UUID = "3d1d9e1a-4b6f-4c59-a8a0-6f4dbe0c7f01"


def offered(run: Runner, root: Path, line: str) -> list[str]:
    """The words that are offered at the end of a line."""
    ran = run("__complete", "--root", str(root), *line.split(" "))
    assert (ran.code, ran.err) == (0, "")
    return [each.partition("\t")[0] for each in ran.out.splitlines()]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("bi", ["bind"]),
        ("mdev r", ["remove"]),
        ("boot i", ["install"]),
        ("boot install 0000:ca:00.0", ["0000:ca:00.0"]),
        ("boot install --early ", ["auto", "yes", "no"]),
        ("boot install --driver auto", ["auto"]),
        ("unbind 0000:ca:00.0", ["0000:ca:00.0"]),
        ("unbind ca:00.0", ["ca:00.0"]),
        ("bind 65:00.0 --ow", ["--owner"]),
        ("bind --driver nouv", ["nouveau"]),
        ("bind --driver=vfio", ["--driver=vfio-pci"]),
        ("bind --allow network,sto", ["network,storage"]),
        ("list --class net", ["net", "network"]),
        ("list -o +over", ["+override"]),
        ("list --vendor 10", ["1013", "10de"]),
        ("groups 15", ["15"]),
        ("tree class:g", ["class:gpu"]),
        ("list group:1", [f"group:{n}" for n in (1, *range(10, 17))]),
        ("bind 10de:", ["10de:2236"]),
        ("reset --method f", ["flr"]),
        ("record ", [":files"]),
        ("sim a10-pair-v", ["a10-pair-vgpu", ":files"]),
        ("sim a10-pair ", [":directories"]),
        ("--color a", ["auto", "always"]),
        ("completion z", ["zsh"]),
        ("print kube", ["kubevirt"]),
        ("print vmi 0000:ca:00.0", ["0000:ca:00.0"]),
        ("nonsense ", []),
        ("bind 00:1e", []),  # a bridge goes to no guest
        ("list 00:1e", ["00:1e.0"]),
        ("undo ", []),
    ],
)
def test_what_is_offered(run: Runner, recorded: Maker, line: str, words: list[str]) -> None:
    assert offered(run, recorded("a10-pair-nouveau"), line) == words


def test_mediated_devices_and_journals_are_offered(run: Runner, simulated: Maker) -> None:
    root = simulated("a10-pair-vgpu")
    create = ("mdev", "create", "-p", "65:00.4", "-t", "nvidia-592", "-u", UUID)
    journal = run(*create, "--json", root=root).value["report"]["journal_id"]
    assert offered(run, root, "mdev remove 3d") == [UUID]
    assert offered(run, root, "undo 2") == [journal]
    assert "0000:65:00.4" in offered(run, root, "mdev create -p ")
    assert offered(run, root, "mdev create -p 65:00.5 -t nvidia-59")[:2] == [
        "nvidia-590",
        "nvidia-591",
    ]


def test_what_other_tools_keep_is_offered(run: Runner, simulated: Maker) -> None:
    root = simulated("a10-pair-vgpu")
    define = ("mdev", "define", "-p", "0000:65:00.4", "-t", "nvidia-592", "-u", UUID)
    assert run(*define, root=root).code == 0
    (root / "etc/driverctl.d").mkdir()
    for name in ("pci-0000:3a:00.0", "usb-1-1"):
        (root / "etc/driverctl.d" / name).write_text("vfio-pci\n")
    for verb in ("start", "modify", "undefine"):
        assert offered(run, root, f"mdev {verb} ") == [UUID]
    assert run("mdev", "start", UUID, root=root).code == 0
    assert offered(run, root, "mdev start ") == []
    assert offered(run, root, "mdev define -u ") == []
    assert offered(run, root, "mdev modify --jsonfile ") == [":files"]
    for verb in ("import", "remove"):
        assert offered(run, root, f"driverctl {verb} ") == ["0000:3a:00.0", "usb-1-1"]
    assert "0000:65:00.0" in offered(run, root, "driverctl export ")


def test_nothing_is_said_where_nothing_can_be_read(run: Runner, tmp_path: Path) -> None:
    assert offered(run, tmp_path / "none", "bind ") == []
    assert run("__complete").out.startswith("list\t")


def test_a_name_that_is_a_command_is_not_offered(run: Runner, simulated: Maker) -> None:
    root = simulated("a10-pair")
    for name in ("x;reboot", "$(reboot)", "a b", "x\x1b[2J"):
        (root / "sys/bus/pci/drivers" / name).mkdir()
    assert not {w for w in offered(run, root, "bind --driver ") if set(w) & set("; $\x1b\\")}


@pytest.mark.parametrize("shell", sorted(SCRIPTS))
def test_the_script_of_a_shell(run: Runner, shell: str) -> None:
    assert run("completion", shell).out == SCRIPTS[shell]


def test_no_other_shell(run: Runner) -> None:
    ran = run("completion", "csh")
    assert (ran.code, "bash, fish, zsh" in ran.err or "bash, zsh, fish" in ran.err) == (2, True)


# ---- the shells themselves ---------------------------------------------------------------------

_ASK = {
    "bash": "source {script}; COMP_LINE={line!r}; COMP_POINT=${{#COMP_LINE}}; _vfiohost; "
    "printf '%s\\n' \"${{COMPREPLY[@]}}\"",
    "fish": "source {script}; complete -C {line!r}",
    # The completion system asks a terminal: its two ways to offer are replaced by printing.
    "zsh": "compdef() {{ }}; _describe() {{ print -rl -- ${{(P)3}} }}; source {script}; "
    "compset() {{ behind=$2 }}; _files() {{ print -r -- files behind $behind }}; "
    "words=({line} {word!r}); CURRENT=$#words; _vfiohost",
}
_EXPECTED = {
    # What bash inserts comes behind the last colon that was typed.
    "bash": ["00.0", "00.4", "00.5"],
    "fish": ["0000:65:00.0", "0000:65:00.4", "0000:65:00.5"],
    "zsh": [r"0000\:65\:00.0", r"0000\:65\:00.4", r"0000\:65\:00.5"],
}


@pytest.fixture
def ask(recorded: Maker, tmp_path: Path) -> Callable[[str, str, str], list[str]]:
    """Ask a shell what can stand for a word behind some others."""
    command = tmp_path / "bin/vfiohost"
    command.parent.mkdir()
    start = "import sys; from vfiohost.cli import main; sys.exit(main())"
    command.write_text(f"#!/bin/sh\nexec '{sys.executable}' -c '{start}' \"$@\"\n")
    command.chmod(0o755)

    def offered(shell: str, verb: str, word: str) -> list[str]:
        if shutil.which(shell) is None:
            pytest.skip(f"there is no {shell} here")
        script = tmp_path / "script"
        script.write_text(SCRIPTS[shell])
        line = f"vfiohost --root {recorded('a10-pair-vgpu')} {verb}"
        asked = _ASK[shell].format(
            script=script, line=line if shell == "zsh" else f"{line} {word}", word=word
        )
        path = f"{command.parent}:{os.environ['PATH']}"
        ran = subprocess.run(
            [shell, *(["-f"] if shell == "zsh" else []), "-c", asked],
            env={**os.environ, "PATH": path, "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert ran.stderr == "", ran
        words = [each.partition("\t")[0] for each in ran.stdout.splitlines()]
        return [each.rpartition(":")[0] or each for each in words] if shell == "zsh" else words

    return offered


@pytest.mark.parametrize("shell", sorted(SCRIPTS))
def test_a_shell_offers_devices(ask: Callable[[str, str, str], list[str]], shell: str) -> None:
    assert ask(shell, "list", "0000:65:0")[:3] == _EXPECTED[shell]


@pytest.mark.parametrize(
    ("shell", "expected"),
    [("bash", "nvidia"), ("fish", "--driver=nvidia"), ("zsh", "--driver=nvidia")],
)
def test_a_shell_offers_a_value_behind_its_option(
    ask: Callable[[str, str, str], list[str]], shell: str, expected: str
) -> None:
    assert ask(shell, "list", "--driver=nvid") == [expected]


@pytest.mark.parametrize(("shell", "option"), [("bash", ""), ("fish", "--svg="), ("zsh", "")])
def test_a_shell_offers_files_behind_an_option(
    ask: Callable[[str, str, str], list[str]], tmp_path: Path, shell: str, option: str
) -> None:
    (tmp_path / "picture.svg").touch()
    path = f"{tmp_path}/picture.s"
    # zsh's own completion of files, which takes a terminal, is told to begin there.
    expected = f"{option}{path}vg" if shell != "zsh" else "files behind *="
    assert ask(shell, "tree", f"--svg={path}") == [expected]
