"""``list --lspci`` is ``lspci -nnk``, byte for byte: the two are asked about the same hosts."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import cache
from typing import TYPE_CHECKING

import attrs
import pytest

from tests.face.pciutils import Modules, complete, lspci, why_not
from tests.face.support import HOSTS, check_golden, read_recording
from tests.recording.machines import RECORDINGS, needs_recordings, unpack
from vfiohost import recording, testing

if TYPE_CHECKING:
    from pathlib import Path

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


def test_the_a10_reads_as_nvidia_documents_it(run: Runner, tmp_path: Path) -> None:
    root = tmp_path / "host"
    testing.expand(read_recording("a10-pair"), root)
    check_golden("list-lspci-a10", run("list", "65:00.0", "--lspci", root=root), root)


LONG = "A name of a length for which lspci has no room " * 5
ODD = f"""\
vfiohost-recording 1
title = What lspci has rules for and few hosts have
source = made up
kernel = 6.12.0

module first loadable
  alias = pci:v00001111d*sv*sd*bc*sc*i*
  alias = pci:v000010DEd*sv*sd*bc03sc*i*

module second loadable
  alias = pci:v000011[1-9]1d*sv*sd*bc*sc*i*
  alias = pci:v00001111d00000001sv*sd*bc*sc*i*
  alias = pci:v00002222d*sv*sd*bc*sc*i00

function 0000:00:00.0 at pci0000:00
  vendor = 0x1111
  device = 0x0001
  class = 0x030000
  revision = 0x00
  subsystem_vendor = 0x1111
  subsystem_device = 0x0001
  modalias = pci:v00001111d00000001sv00001111sd00000001bc03sc00i00

function 0000:00:00.7 like 0000:00:00.0
  device = 0x0002
  class = 0x038001
  revision = 0xff
  subsystem_device = 0x0002
  label = Grafik für alle 1
  modalias = pci:v00001111d00000002sv00001111sd00000002bc03sc80i01

function 0000:00:01.0 like 0000:00:00.0
  vendor = 0x2222
  class = 0xfe9901
  subsystem_vendor = 0xffff
  subsystem_device = 0xffff
  label = "too long {"." * 1024}\\n"
  modalias = pci:v00002222d00000001sv0000FFFFsd0000FFFFbcFEsc99i01

function 0000:00:02.0 like 0000:00:00.0
  device = 0x0003
  class = 0xff0000
  subsystem_vendor = 0x2222
  subsystem_device = 0x0000
  modalias = pci:v00001111d00000003sv00002222sd00000000bcFFsc00i00

function 0000:00:03.0 like 0000:00:00.0
  device = 0x0004
  class = 0x060700
  subsystem_vendor = 0x1111
  subsystem_device = 0x0009
  modalias = absent

function 0000:01:00.0 like 0000:00:00.0
  vendor = 0x3333
  modalias = pci:v00003333d00000001sv00001111sd00000001bc03sc00i00

function 0000:01:00.1 like 0000:00:00.0
  vendor = 0x4444
  modalias = pci:v00004444d00000001sv00001111sd00000001bc03sc00i00

file usr/share/misc/pci.ids
  content =
    | # a comment
    | 1111  Größenwahn & Söhne
    | \t0001  The one
    | \t\t1111 0001  A card of it
    | \t\t2222 0000  A card whose vendor is unknown
    | \t0002  {LONG}
    | \t0004  Known
    | \t\t1111 0009  {LONG + LONG}
    | 3333  Vendor of nothing known
    | C 03  Display controller
    | \t00  VGA compatible controller
    | \t\t00  VGA controller
    | C 06  {LONG}
    | \t07  CardBus bridge

directory etc/modprobe.d
file etc/modprobe.d/b.conf
  content =
    | # alias pci:v00003333* comment
    |   alias pci:v00003333d* from-b
    | alias pci:v0000\\
    | 3333* from_b
    | alias pci:v0000333[3-4]d00000001* other
    | alias pci:v00003333d*i00 without_newline
    | blacklist first
file etc/modprobe.d/a.conf
  content = alias pci:v00003333* from_a
file etc/modprobe.d/no.config
  content = alias pci:v00003333* nobody
"""
BUILT_IN = {
    "builtin_a": ["pci:v00002222d*sv*sd*bc*sc*i*", "pci:v*d*sv*sd*bcFEsc*i*"],
    "builtin_b": ["pci:v0000222[12]d*sv*sd*bc*sc*i*", "pci:v*d*sv*sd*bcFEsc*i*"],
    "builtin_c": ["pci:v0000222?d*sv*sd*bc*sc*i*", "pci:v00001111*"],
    "builtin_d": ["pci:v00002222*", "usb:v2222", "pci:v*d*sv*sd*bcFEsc*i01*"],
}


def odd_host(root: Path) -> Path:
    testing.expand(recording.parse(ODD), root)
    return root


@needs_lspci
def test_what_few_hosts_have_is_shown_as_lspci_shows_it(tmp_path: Path, run: Runner) -> None:
    root, scratch = odd_host(tmp_path / "host"), tmp_path / "scratch"
    complete(root)
    folder = root / "lib/modules/6.12.0"
    placed = attrs.evolve(Modules.of(folder), builtin=BUILT_IN).place(scratch, "6.12.0")
    shutil.copy(placed / "modules.builtin.modinfo", folder)

    shown = lspci(root, placed, scratch, "-nnk", warning="0000:00:01.0/label too long")
    assert run("list", "--lspci", root=root).out == shown
    for expected in (
        "00:00.7 Display controller [0380]: Größenwahn",
        "... (rev ff)\n\tDeviceName: Grafik für alle 1\n",
        "00:01.0 Class [fe99]: Device [2222:0001]\n",
        "\tKernel modules: builtin_a, builtin_d, builtin_b, builtin_c, builtin_d, builtin_a, built",
        "00:02.0 Class [ff00]: Größenwahn & Söhne Device [1111:0003]\n\tSubsystem: Device [2222:",
        "Kernel modules: first, second\n",
        "Kernel modules: from_a, from_b, other\n",
        "Device [4444:0001]\n\tSubsystem: Größenwahn & Söhne Device [1111:0001]\n",
    ):
        assert expected in shown


@needs_lspci
def test_another_domain_on_the_host_is_enough_to_show_all(tmp_path: Path, run: Runner) -> None:
    root, scratch = tmp_path / "host", tmp_path / "scratch"
    testing.expand(read_recording("vmd-domain"), root)
    complete(root)
    modules = place_modules(root, scratch)
    for chosen in ("0000:00:0e.0", "10000:e1:00.0"):
        shown = run("list", chosen, "--lspci", root=root).out
        assert shown == lspci(root, modules, scratch, "-nnk", "-s", chosen)
        assert shown.startswith(chosen)


@needs_lspci
def test_it_is_bytes_that_are_the_same(tmp_path: Path) -> None:
    root, scratch = odd_host(tmp_path / "host"), tmp_path / "scratch"
    complete(root)
    shown = lspci(root, place_modules(root, scratch), scratch, "-nnk", "-s", "00:00.7")
    vfiohost = [sys.executable, "-m", "vfiohost.cli", "--root", str(root)]
    command = [*vfiohost, "list", "00:00.7", "--lspci"]
    env = {**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = subprocess.run(command, capture_output=True, check=True, env=env)
    assert (done.stdout, done.stderr) == (shown.encode(), b"")


def test_chosen_devices_come_in_the_order_that_was_asked_for(run: Runner, recorded: Maker) -> None:
    root = recorded("a10-pair")
    both = [run("list", address, "--lspci", root=root).out for address in ("ca:00.0", "65:00.0")]
    assert run("list", "ca:00.0", "65:00.0", "--lspci", root=root).out == "".join(both)
    assert run("list", "--vendor", "10de", "--lspci", root=root).out == "".join(both[::-1])
    none = run("list", "--driver", "nouveau", "--lspci", root=root)
    assert (none.code, none.out) == (0, "")


def test_nothing_hostile_is_printed(tmp_path: Path, run: Runner) -> None:
    root = odd_host(tmp_path / "host")
    label = root / "sys/bus/pci/devices/0000:00:00.7/label"
    label.write_bytes(b"\x1b[31m\xe2\x80\xae\xff\0a\nb\n")
    (root / "etc/modprobe.d/a.conf").write_text("alias pci:v00003333* a\x1b[2Jb\n")
    shown = run("list", "--lspci", root=root)
    assert shown.code == 0
    assert "\tDeviceName: \\x1b[31m" in shown.out
    assert "\tKernel modules: a\\x1b[2Jb" in shown.out
    assert all(c.isprintable() or c in "\t\n" for c in shown.out)
    assert all(line.startswith(("\t", "00:", "01:")) for line in shown.out.splitlines())


def test_what_cannot_be_read_is_said_and_hides_nothing(tmp_path: Path, run: Runner) -> None:
    root = odd_host(tmp_path / "host")
    device = root / "sys/bus/pci/devices/0000:00:00.0"
    (device / "label").mkdir()
    os.mkfifo(root / "sys/bus/pci/devices/0000:00:02.0/label")
    (root / "lib/modules/6.12.0/modules.alias").unlink()
    (root / "lib/modules/6.12.0/modules.alias").mkdir()
    shown = run("list", "00:00.0", "00:02.0", "--lspci", root=root)
    assert shown.code == 0
    assert shown.out.startswith("00:00.0 VGA compatible controller [0300]: ")
    assert "label of 0000:00:00.0: Is a directory." in shown.err
    assert "label of 0000:00:02.0: no answer in time." in shown.err
    assert "Kernel modules are not known: " in shown.err


@pytest.mark.parametrize("other", [["--json"], ["-o", "address"]])
def test_it_goes_with_no_other_form(other: list[str], run: Runner, recorded: Maker) -> None:
    ran = run("list", "--lspci", *other, root=recorded("a10-pair"))
    assert ran.code == 2
    assert "text of lspci" in ran.out + ran.err
