"""``list --lspci`` is ``lspci -nnk``, byte for byte: the two are asked about the same hosts."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import pytest

from tests.face.pciutils import Modules, complete, lspci, why_not
from tests.face.support import HOSTS, read_recording
from tests.recording.machines import RECORDINGS, needs_recordings, unpack
from vfiohost import recording, testing

if TYPE_CHECKING:
    from tests.face.support import Maker, Runner

needs_lspci = pytest.mark.skipif(why_not() is not None, reason=why_not() or "")
NAMES = sorted(path.stem for path in HOSTS.glob("*.host"))


@cache
def modules_of_all() -> Modules:
    """The modules of all fixtures, for a host of which none are recorded."""
    every = (m for name in NAMES for m in read_recording(name).modules if m.state != "builtin")
    aliases: dict[str, list[str]] = {}
    for module in every:
        aliases.setdefault(module.name, list(module.aliases))
    return Modules(aliases)


def place_modules(root: Path, scratch: Path) -> Path:
    """Make the folder of modules for lspci; a host without aliases gets those of all fixtures."""
    osrelease = root / "proc/sys/kernel/osrelease"
    if not osrelease.exists():
        osrelease.parent.mkdir(parents=True, exist_ok=True)
        osrelease.write_text("6.12.117\n")
    release = osrelease.read_text().strip()
    own = root / "lib/modules" / release
    index = own / "modules.alias"
    if index.exists() and "\nalias " in index.read_text():
        placed = Modules.of(own).place(scratch, release)
        # What depmod makes of the module files is the text that they were made of.
        assert (placed / "modules.alias").read_text() == index.read_text()
        return placed
    placed = modules_of_all().place(scratch, release)
    own.mkdir(parents=True, exist_ok=True)
    for name in ("modules.alias", "modules.dep", "modules.builtin"):
        (own / name).write_bytes((placed / name).read_bytes())
    return placed


def assert_same(root: Path, scratch: Path, run: Runner) -> str:
    """Ask both; lspci must have seen the modules. Returns what they print."""
    complete(root)
    modules = place_modules(root, scratch)
    shown = lspci(root, modules, scratch, "-nnk")
    assert "\n\tKernel modules: " in shown
    assert run("list", "--lspci", root=root).out == shown
    assert run("list", "--lspci", "--no-names", root=root).out == lspci(
        root, modules, scratch, "-nk"
    )
    return shown


@needs_lspci
@pytest.mark.parametrize("name", NAMES)
def test_every_fixture_is_shown_as_lspci_shows_it(name: str, tmp_path: Path, run: Runner) -> None:
    root = tmp_path / "host"
    testing.expand(read_recording(name), root)
    assert_same(root, tmp_path / "scratch", run)


@needs_lspci
@needs_recordings
@pytest.mark.parametrize("name", RECORDINGS)
def test_machines_are_shown_as_lspci_shows_them(name: str, tmp_path: Path, run: Runner) -> None:
    root = unpack(name, tmp_path / "machine")
    assert_same(root, tmp_path / "scratch", run)
