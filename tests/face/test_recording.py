"""``vfiohost record``: a file that others can make the host of, and that does not identify it."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.face.support import check_golden
from tests.native.trees import NOBODY, Lookout, Tree, ordinary_user
from tests.recording.machines import RECORDINGS, needs_recordings, unpack
from vfiohost import Host, recording
from vfiohost.testing import fixtures

if TYPE_CHECKING:
    from tests.face.support import Maker, Runner

SERIAL = bytes.fromhex("0123456789abcdef")
COLUMNS = "+numa,path,physfn,revision,subsystem,vfs"


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A host with one card, which has a serial number, and a command line."""
    tree = Tree(tmp_path / "host")
    config = bytearray(4096)
    config[0x100:0x104] = (0x0003 | 1 << 16).to_bytes(4, "little")
    config[0x104:0x10C] = SERIAL
    files = {"vendor": "0x10de\n", "device": "0x2236\n", "class": "0x030200\n", "enable": "0\n"}
    tree.function(config=bytes(config), **files)
    tree.write("proc/cmdline", "root=UUID=0b8e6b1f-6c1f-4d0a-9f0e-5f7b3a1c2d3e iommu=pt\n")
    return tree.root


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory to be in."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


# ---- what is printed and written ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("record", "my.host"),
        ("record-quiet", "my.host -q"),
        ("record-dry-run", "my.host -n"),
        ("record-stdout", "- --title x"),
        ("record-umockdev", "- --umockdev --with-config"),
        ("record-umockdev-file", "my.umockdev --umockdev"),
        ("record-not-there", "missing/my.host"),
        ("record-directory", ". --overwrite"),
    ],
)
def test_what_is_printed(name: str, line: str, run: Runner, host: Path, here: Path) -> None:
    words = line.split()
    ran = run("record", *words, root=host)
    check_golden(name, ran, host)
    is_written = ran.code == 0 and "-n" not in words and words[0] != "-"
    assert os.listdir(here) == words[:is_written]


def test_the_file_is_what_goes_to_stdout(run: Runner, host: Path, here: Path) -> None:
    for options in ([], ["--umockdev"], ["--with-config", "--title", "ü"]):
        shown = run("record", "-", *options, root=host).out
        assert run("record", "my.host", "--overwrite", *options, root=host).code == 0
        assert (here / "my.host").read_text(encoding="utf-8") == shown
    assert recording.parse(shown).title == "ü"


def test_the_json_object(run: Runner, recorded: Maker, here: Path) -> None:
    root = recorded("few-vfs")
    value = run("record", "my.host", "--json", root=root).value
    found = recording.parse((here / "my.host").read_text())
    assert (value["command"], value["dry_run"]) == ("record", False)
    assert value["recording"] == {
        "file": "my.host",
        "format": "vfiohost",
        "title": found.title,
        "source": found.source,
        "kernel": found.kernel,
        "functions": len(found.functions),
        "groups": len(found.groups),
        "modules": len(found.modules),
        "mdevs": 0,
        "notes": list(found.notes),
    }
    size = len(found.functions), len({f.iommu_group for f in found.functions})
    assert (
        found.title
        == "{} PCI functions in {} IOMMU groups, 1 x 1013:00b8, 2 x 10de:2236".format(*size)
    )
    value = run("record", "-", "--umockdev", "--json", root=root).value["recording"]
    assert (value["file"], value["format"]) == (None, "umockdev")
    assert value["text"] == recording.format_umockdev(found)
    assert run("record", "other.host", "-n", "--json", root=root).value["dry_run"] is True
    assert os.listdir(here) == ["my.host"]


def test_the_header_says_where_it_is_from(run: Runner, host: Path, here: Path) -> None:
    found = recording.parse(run("record", "-", "--with-config", root=host).out)
    assert found.source.startswith("recorded from a directory with the files of Linux 6.12.117-")
    assert found.source.endswith("; again: vfiohost record --with-config FILE")
    assert str(host) not in found.source
    (note,) = found.notes
    assert note.startswith("Masked: serial numbers and MAC addresses")


def test_what_could_not_be_recorded_is_said(run: Runner, host: Path, here: Path) -> None:
    (host / "sys/bus/pci/devices/zzz").mkdir()
    ran = run("record", "my.host", root=host)
    assert (ran.code, ran.err) == (0, "vfiohost: 1 thing could not be recorded (-v shows what).\n")
    said = "sys/bus/pci/devices/zzz: left out ("
    assert recording.parse((here / "my.host").read_text()).notes[1].startswith(said)
    assert run("record", "-", "-v", root=host).err.startswith(f"vfiohost: note: {said}")
    assert run("record", "-", "-q", root=host).err == ""
    value = run("record", "-", "--json", root=host).value
    assert value["recording"]["notes"][1].startswith(said)


def test_stdout_gets_utf8_whatever_the_terminal_is(host: Path) -> None:
    code = "import sys; from vfiohost.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "--root", str(host), "record", "-", "--title", "ü"]
    environment = os.environ | {"PYTHONIOENCODING": "latin-1"}
    done = subprocess.run(command, env=environment, capture_output=True, check=True)
    assert recording.parse(done.stdout.decode()).title == "ü"
    with open("/dev/full", "wb") as full:
        failed = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False)
    assert failed.returncode == 1
    assert failed.stderr == b"vfiohost: Cannot write the output: No space left on device.\n"


# ---- what is not overwritten -------------------------------------------------------------------


def test_what_exists_is_replaced_on_request_only(run: Runner, host: Path, here: Path) -> None:
    (here / "mine").write_text("mine")
    (here / "link").symlink_to("mine")
    (here / "lost").symlink_to("nowhere")
    for name in ("mine", "link", "lost"):
        ran = run("record", name, root=host)
        assert ran.code == 4
        assert ran.err.startswith(f"vfiohost: refused: {name} exists already. [file-exists]\n")
        assert "--overwrite" in ran.err
        error = run("record", name, "--json", root=host).value["error"]
        assert [refusal["code"] for refusal in error["refusals"]] == ["file-exists"]
    assert (here / "mine").read_text() == "mine"
    assert sorted(os.listdir(here)) == ["link", "lost", "mine"]
    for name in ("link", "lost"):
        assert run("record", name, "--overwrite", root=host).code == 0
        assert (here / name).is_symlink()
    texts = [(here / name).read_text() for name in ("mine", "nowhere")]
    assert texts[0] == texts[1] == run("record", "-", root=host).out
    assert sorted(os.listdir(here)) == ["link", "lost", "mine", "nowhere"]


def test_only_a_regular_file_is_ever_replaced(run: Runner, host: Path, here: Path) -> None:
    (here / "directory").mkdir()
    os.mkfifo(here / "fifo")
    (here / "null").symlink_to("/dev/null")
    for name in ("directory", "fifo", "null", "/dev/null"):
        ran = run("record", name, "--overwrite", root=host)
        assert ran.code == 4
        assert f"{name} is no regular file, so it is not replaced." in ran.err
    assert sorted(os.listdir(here)) == ["directory", "fifo", "null"]


def test_a_file_that_comes_into_being_meanwhile_stays(
    run: Runner, host: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def late(source: str, target: str) -> None:
        Path(target).write_text("theirs")
        link(source, target)

    monkeypatch.setattr(os, "link", late)
    ran = run("record", "my.host", root=host)
    assert ran.code == 4
    assert "my.host exists already" in ran.err
    assert [(p.name, p.read_text()) for p in here.iterdir()] == [("my.host", "theirs")]


def test_where_there_are_no_links_it_is_renamed(
    run: Runner, host: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without(_source: str, _target: str) -> None:
        raise PermissionError(errno.EPERM, "no links on FAT")

    monkeypatch.setattr(os, "link", without)
    assert run("record", "my.host", root=host).code == 0
    assert os.listdir(here) == ["my.host"]
    assert recording.parse((here / "my.host").read_text()).functions


def test_a_file_that_could_not_be_written_is_not_there(
    run: Runner, host: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (here / "old").write_text("old")
    monkeypatch.setattr(os, "fsync", full)
    for words in (["my.host"], ["old", "--overwrite"]):
        ran = run("record", *words, root=host)
        assert (ran.code, ran.err) == (1, f"vfiohost: {words[0]}: No space left on device.\n")
    assert [(p.name, p.read_text()) for p in here.iterdir()] == [("old", "old")]


# ---- what is read ------------------------------------------------------------------------------


def test_the_configuration_space_is_read_on_request_only(run: Runner, host: Path) -> None:
    config = host / "sys/devices/pci0000:64/0000:65:00.0/config"
    with Lookout(config) as lookout:
        found = recording.parse(run("record", "-", root=host).out)
        assert "config" not in found.functions[0].attributes
        assert run("record", "-", "--umockdev", root=host).out.count("\nH: ") == 0
        assert lookout.seen() == 0
        shown = run("record", "-", "--with-config", root=host).out
        assert lookout.seen() > 0
    content = recording.parse(shown).functions[0].attributes["config"].content
    assert isinstance(content, bytes)
    assert len(content) == 4096
    assert SERIAL in config.read_bytes()
    assert SERIAL not in content
    assert SERIAL.hex() not in shown.replace("\n    x ", "")


def test_an_ordinary_user_may_record(run: Runner, scratch: Path) -> None:
    tree = Tree(scratch / "user/host")
    tree.function(vendor="0x10de\n", config=bytes(256))
    (tree.root / "sys/devices/pci0000:64/0000:65:00.0/config").chmod(0o600)
    scratch.chmod(0o711)
    (scratch / "user").chmod(0o777)
    run("record", "-", "--with-config", root=tree.root)  # what is imported need not be readable
    file = scratch / "user/my.host"
    with ordinary_user():
        ran = run("record", str(file), "--with-config", root=tree.root)
    assert (ran.code, ran.err) == (0, "")
    assert file.stat().st_uid == (NOBODY if os.geteuid() == 0 else os.geteuid())
    attributes = recording.parse(file.read_text()).functions[0].attributes
    assert attributes["config"].content == errno.EACCES
    assert attributes["vendor"].content == b"0x10de\n"


def test_a_hostile_tree_is_recorded_within_its_root(run: Runner, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "vendor").write_text("0x5ec7\n")
    (secret / "osrelease").write_text("secret\n")
    tree = Tree(tmp_path / "in")
    folder = tree.function(irq=b"x" * 70000, local_cpulist="\x1b]0;a\x07\n")
    (folder / "vendor").symlink_to(f"../../../../../{secret}/vendor")
    (folder / "device").symlink_to(f"{secret}/vendor")
    (folder / "driver").symlink_to("../../../bus/pci/drivers/a\nb\udcff")
    os.mkfifo(folder / "class")
    os.mkfifo(folder / "config")
    tree.link("sys/bus/pci/devices/0000:00:01.0", f"../../../../../../..{secret}")
    tree.link("sys/bus/pci/devices/0000:00:02.0", "../../../devices/a\nb\udcff/0000:00:02.0")
    tree.link("sys/bus/pci/devices/\udcff\x1b[31m", "../../../devices/x")
    (tree.root / "proc/sys/kernel/osrelease").unlink()
    tree.link("proc/sys/kernel/osrelease", str(secret / "osrelease"))
    os.mkfifo(tree.root / "proc/cmdline")
    with open(tree.write("usr/share/misc/pci.ids", ""), "r+b") as huge:
        huge.truncate(1 << 40)
    shown = run("record", "-", "--with-config", "-v", root=tree.root)
    assert shown.code == 0
    assert "5ec7" not in shown.out
    assert shown.out.replace("\n", "").isprintable()
    assert [c for c in shown.err.replace("\n", "") if not c.isprintable()] == []
    found = recording.parse(shown.out)
    assert found.kernel is None
    assert found.files == ()
    attributes = {str(f.address): f.attributes for f in found.functions}["0000:65:00.0"]
    assert attributes["irq"].content == errno.EFBIG
    assert not {"vendor", "device", "class", "config"} & attributes.keys()
    umockdev = run("record", "-", "--with-config", "--umockdev", root=tree.root)
    assert umockdev.code == 0
    assert umockdev.out.replace("\n", "").isprintable()
    root = tmp_path / "again"
    (tmp_path / "hostile.host").write_text(shown.out)
    assert run("sim", str(tmp_path / "hostile.host"), str(root)).code == 0
    assert run("list", "--json", root=root).code == 0


# ---- there and back ----------------------------------------------------------------------------


def assert_lists_equal(run: Runner, root: Path | None, scratch: Path) -> None:
    """A host that is recorded and simulated says of itself what it said before."""
    file, again = scratch / "again.host", scratch / "again"
    # A simulated kernel has every attribute that it knows, where a partial copy has not.
    is_whole = "?" not in run("list", "-o", "override", root=root).out
    columns = f"{COLUMNS},override,boot_vga" if is_whole else COLUMNS
    assert run("record", str(file), root=root).code == 0
    assert run("sim", str(file), str(again)).code == 0
    for line in (("list", "-o", columns), ("groups", "--why"), ("mdev", "types"), ("mdev", "list")):
        theirs, ours = run(*line, root=root), run(*line, root=again)
        assert (ours.code, ours.err) == (theirs.code, theirs.err)
        assert ours.out.splitlines() == theirs.out.splitlines()
        theirs, ours = (run(*line, "--json", root=r) for r in (root, again))
        assert ours.value == theirs.value


@pytest.mark.parametrize("name", sorted({*fixtures.names(), "few-vfs"} - {"a10-pair-vgpu"}))
def test_a_host_that_is_recorded_and_simulated_lists_equal(
    name: str, run: Runner, recorded: Maker, tmp_path: Path
) -> None:
    assert_lists_equal(run, recorded(name), tmp_path)


@needs_recordings
@pytest.mark.parametrize("name", RECORDINGS)
def test_a_real_machine_that_was_recorded_lists_equal(
    name: str, run: Runner, tmp_path: Path
) -> None:
    assert_lists_equal(run, unpack(name, tmp_path / "theirs"), tmp_path)


def test_this_machine_lists_equal(run: Runner, tmp_path: Path) -> None:
    if not Path("/sys/bus/pci/devices").is_dir():
        ran = run("record", str(tmp_path / "my.host"))
        assert ran.code == 1
        assert "/sys/bus/pci/devices" in ran.err
        return
    assert_lists_equal(run, None, tmp_path)
    found = recording.parse((tmp_path / "again.host").read_text())
    assert found.source.startswith(f"recorded from Linux {os.uname().release} on ")
    assert os.uname().nodename not in found.title + found.source
    with ordinary_user():
        seen = recording.parse(run("record", "-", "--with-config").out)
    assert [f.path for f in seen.functions] == [f.path for f in found.functions]
    assert [f.driver for f in seen.functions] == [f.driver for f in found.functions]
    assert all(len(c) == 64 for c in configs_of(seen))  # drivers/pci/pci-sysfs.c, pci_read_config()


def configs_of(host: recording.Recording) -> list[bytes]:
    """The configuration spaces that could be read."""
    found = (f.attributes["config"].content for f in host.functions if "config" in f.attributes)
    return [content for content in found if isinstance(content, bytes)]


def test_in_the_library(host: Path) -> None:
    with Host(host) as opened:
        found = opened.record(title="mine", config=True)
    assert (found.title, len(found.functions)) == ("mine", 1)
    assert "config" in found.functions[0].attributes
