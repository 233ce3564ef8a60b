"""``vfiohost driverctl``: what driverctl keeps for the boot, as driverctl itself sees it."""

from __future__ import annotations

import errno
import os
import re
from typing import TYPE_CHECKING

import pytest

from tests.face.support import under_mounts
from vfiohost import Host, rooted
from vfiohost.boot.rule import RULE_PATH
from vfiohost.errors import KernelError

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from tests.face.support import Maker, Runner
    from vfiohost.sysfs import Sysfs

A10, OTHER_A10 = "0000:65:00.0", "0000:ca:00.0"
RULES = "/lib/udev/rules.d/05-driverctl.rules"
UNIT = "/lib/systemd/system/driverctl@.service"


@pytest.fixture
def server(simulated: Maker) -> Path:
    root = simulated("a10-pair")
    (root / "etc/driverctl.d").mkdir(parents=True)
    return root


def keep(root: Path, name: str, text: str) -> Path:
    file = root / "etc/driverctl.d" / name
    file.write_text(text)
    return file


def kept(root: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in (root / "etc/driverctl.d").iterdir()}


def driverctl(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """What driverctl says and does where the files of a root are its own: no kernel answers."""
    return under_mounts(root, ["sys", "etc/driverctl.d"], "driverctl", *words)


class TestExport:
    def test_driverctl_lists_what_is_written_and_its_unit_applies_it(
        self, run: Runner, server: Path
    ) -> None:
        assert run("bind", A10, root=server).code == 0
        assert run("bind", OTHER_A10, "--driver", "none", root=server).code == 0
        dry = run("driverctl", "export", "-n", "--exit-code", "--json", root=server)
        assert dry.code == 10
        assert [file["change"] for file in dry.value["boot"]["files"]] == ["make", "make"]
        assert kept(server) == {}
        assert run("driverctl", "export", root=server).code == 0
        assert kept(server) == {f"pci-{A10}": "vfio-pci\n", f"pci-{OTHER_A10}": "none\n"}
        listed = driverctl(server, "list-overrides")
        assert (listed.returncode, listed.stdout) == (0, f"{A10} vfio-pci\n{OTHER_A10} (none)\n")
        # As its unit does at boot, when nothing is set yet. driverctl looks for a module here.
        (server / "sys/module/vfio-pci").mkdir()
        pci = server / "sys/bus/pci"
        for address in (A10, OTHER_A10):
            (pci / "devices" / address / "driver_override").write_text("(null)\n")
        (pci / "drivers_probe").write_text("")
        for file, text in kept(server).items():
            address = file.removeprefix("pci-")
            assert driverctl(server, "load-override", f"pci/{address}").returncode == 0
            assert (pci / "devices" / address / "driver_override").read_text() == text
        assert (pci / "drivers_probe").read_text() == f"{A10}\n"  # none is probed by nobody

    def test_the_name_of_the_file_is_what_rule_and_unit_ask_for(self) -> None:
        if not os.path.exists(RULES):
            pytest.skip("driverctl is not installed")
        with open(RULES) as rules, open(UNIT) as unit:
            rule, service = rules.read(), unit.read()
        assert 'TEST=="/etc/driverctl.d/$env{SUBSYSTEM}-$kernel"' in rule
        assert "driverctl@$env{SUBSYSTEM}-$kernel.service" in rule
        assert "ConditionPathExists=/etc/driverctl.d/%i" in service
        assert "ExecStart=/usr/sbin/driverctl load-override %I" in service

    def test_what_else_is_kept_stays(self, run: Runner, server: Path) -> None:
        keep(server, f"pci-{A10}", "nouveau\n")
        keep(server, "pci-0000:3a:00.0", "vfio-pci\n")
        assert run("bind", A10, OTHER_A10, root=server).code == 0
        ran = run("driverctl", "export", "65:00.0", root=server)
        assert (ran.code, ran.out) == (0, f"changed {server}/etc/driverctl.d/pci-{A10}\n")
        assert kept(server) == {f"pci-{A10}": "vfio-pci\n", "pci-0000:3a:00.0": "vfio-pci\n"}
        again = run("driverctl", "export", "65:00.0", "-n", "--exit-code", root=server)
        assert (again.code, again.out.splitlines()[-1]) == (0, "nothing to do, already so")

    def test_a_device_that_is_named_must_have_an_override(self, run: Runner, server: Path) -> None:
        ran = run("driverctl", "export", A10, root=server)
        assert ran.code == 4
        assert "[no-override]" in ran.err
        assert run("driverctl", "export", "0000:3a:00.0", root=server).code == 3
        ran = run("driverctl", "export", root=server)
        assert (ran.code, kept(server)) == (0, {})
        assert ran.out.startswith("nothing to do")

    def test_nothing_but_a_plain_file_is_replaced(
        self, run: Runner, server: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "secret").write_text("kept")
        (server / f"etc/driverctl.d/pci-{A10}").symlink_to(tmp_path / "secret")
        assert run("bind", A10, OTHER_A10, root=server).code == 0
        ran = run("driverctl", "export", root=server)
        assert ran.code == 4
        assert "[foreign-file]" in ran.err
        assert run("driverctl", "remove", A10, root=server).code == 4
        assert (tmp_path / "secret").read_text() == "kept"
        assert not (server / f"etc/driverctl.d/pci-{OTHER_A10}").exists()

    def test_what_fails_at_the_second_file_leaves_no_first(
        self, run: Runner, server: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert run("bind", A10, OTHER_A10, root=server).code == 0
        keep(server, f"pci-{A10}", "nouveau\n")
        write = rooted.write_file

        def full(sysfs: Sysfs, path: str, text: str, *, mode: int) -> None:
            if path.endswith(OTHER_A10):
                raise KernelError("write", errno.ENOSPC, path)
            write(sysfs, path, text, mode=mode)

        monkeypatch.setattr(rooted, "write_file", full)
        assert run("driverctl", "export", root=server).code == 1
        assert kept(server) == {f"pci-{A10}": "nouveau\n"}

    def test_two_who_decide_are_told(self, run: Runner, server: Path) -> None:
        assert run("bind", A10, root=server).code == 0
        assert run("boot", "install", A10, root=server).code == 0
        out = run("driverctl", "export", root=server).out
        assert f"vfiohost --root {server} boot remove {A10}" in out


class TestImport:
    def test_devices_get_what_is_kept_for_them(self, run: Runner, server: Path) -> None:
        keep(server, f"pci-{A10}", "vfio-pci\n")
        keep(server, f"pci-{OTHER_A10}", "none\n")
        keep(server, "pci-0000:3a:00.0", "vfio-pci\n")
        keep(server, "usb-1-1:1.0", "usbfs\n")
        before = kept(server)
        assert run("driverctl", "import", "-n", "--exit-code", root=server).code == 10
        ran = run("driverctl", "import", "--json", root=server)
        assert ran.code == 0
        assert [problem["subject"] for problem in ran.value["problems"]] == [
            "pci-0000:3a:00.0",
            "usb-1-1:1.0",
        ]
        titles = [stage["title"] for stage in ran.value["stages"]]
        assert titles == [f"bind {OTHER_A10} to none", f"bind {A10} to vfio-pci"]
        listed = driverctl(server, "list-overrides").stdout
        assert listed == f"{A10} vfio-pci\n{OTHER_A10} (none)\n"
        assert run("driverctl", "import", "-q", root=server).out == ""
        assert kept(server) == before
        assert run("undo", root=server).code == 0
        with Host(server) as host:
            assert host.select(A10)[0].driver is None

    def test_one_refusal_stops_all(self, run: Runner, simulated: Maker) -> None:
        root = simulated("a10-pair-nouveau")
        (root / "etc/driverctl.d").mkdir(parents=True)
        with Host(root) as host:
            taken = {str(d.address): d.driver for d in host.scan().devices}
            display = str(host.select("class:vga")[0].address)
        keep(root, f"pci-{A10}", "vfio-pci\n")
        keep(root, f"pci-{display}", "none\n")
        ran = run("driverctl", "import", root=root)
        assert ran.code == 4
        with Host(root) as host:
            assert {str(d.address): d.driver for d in host.scan().devices} == taken

    def test_the_files_for_the_boot(self, run: Runner, server: Path) -> None:
        keep(server, f"pci-{A10}", "vfio-pci\n")
        keep(server, f"pci-{OTHER_A10}", "none\n")
        dry = run("driverctl", "import", "--boot", "-n", "--exit-code", "--json", root=server)
        assert dry.code == 10
        devices = {d["address"]: d["driver"] for d in dry.value["boot"]["devices"]}
        assert devices == {A10: "vfio-pci", OTHER_A10: "none"}
        ran = run("driverctl", "import", "--boot", "65:00.0", root=server)
        assert ran.code == 0
        assert f"driverctl remove {A10}" in ran.out
        rule = (server / RULE_PATH).read_text()
        assert re.findall(r"^#: (\S+) ids=(\S+)", rule, re.MULTILINE) == [(A10, "10de:2236")]
        assert run("driverctl", "remove", A10, root=server).code == 0
        assert kept(server) == {f"pci-{OTHER_A10}": "none\n"}

    def test_only_what_is_kept_can_be_named(self, run: Runner, server: Path) -> None:
        keep(server, f"pci-{A10}", "\n")
        keep(server, "pci-0000:ca:00.1", "vfio-pci\n")
        for words, code, said in (
            ([A10], 2, "is not the name of a driver"),
            ([OTHER_A10], 3, "Did you mean pci-0000:ca:00.1"),
            (["class:nosuch"], 2, "class"),
        ):
            ran = run("driverctl", "import", *words, root=server)
            assert ran.code == code
            assert said in ran.err


class TestRemove:
    def test_by_any_name(self, run: Runner, server: Path) -> None:
        names = (f"pci-{A10}", f"pci-{OTHER_A10}", "pci-0000:3a:00.0", "usb-1-1", "pci-junk")
        for name in names:
            keep(server, name, "x y/z\n")
        ran = run("driverctl", "remove", "10de:2236", "3a:00.0", "usb-1-1", root=server)
        assert ran.code == 0
        assert len(ran.out.splitlines()) == 4
        assert set(kept(server)) == {"pci-junk"}
        assert run("driverctl", "remove", A10, root=server).code == 3
        assert run("driverctl", "remove", root=server).code == 2
        assert run("driverctl", "remove", "--all", A10, root=server).code == 2
        assert run("driverctl", "remove", "--all", "-n", "--exit-code", root=server).code == 10
        assert run("driverctl", "remove", "--all", root=server).code == 0
        assert kept(server) == {}
        assert (server / "etc/driverctl.d").is_dir()  # the package's
        assert run("driverctl", "remove", "--all", root=server).out.startswith("nothing to do")

    def test_the_device_keeps_what_it_has(self, run: Runner, server: Path) -> None:
        assert run("bind", A10, root=server).code == 0
        assert run("driverctl", "export", root=server).code == 0
        assert run("driverctl", "remove", A10, root=server).code == 0
        assert driverctl(server, "list-overrides").stdout == f"{A10} vfio-pci\n"


def test_the_list_says_what_is_there(run: Runner, server: Path) -> None:
    keep(server, f"pci-{A10}", "vfio-pci\n")
    keep(server, "pci-0000:3a:00.0", "vfio-pci")
    keep(server, "usb-1-1", "usbfs\n")
    keep(server, "pci-65:00.0", "vfio-pci\n")
    keep(server, "README", "")
    keep(server, ".hidden", "")
    ran = run("driverctl", "list", root=server)
    assert [line.split()[:3] for line in ran.out.splitlines()[1:]] == [
        ["0000:3a:00.0", "vfio-pci", "(not"],
        [A10, "vfio-pci", "(none)"],
        ["usb/1-1", "usbfs", "?"],
    ]
    assert "GA102GL [A10]" in ran.out
    value = run("driverctl", "list", "--json", root=server).value
    assert [problem["subject"] for problem in value["problems"]] == ["README", "pci-65:00.0"]
    assert [each["is_there"] for each in value["saved_overrides"]] == [False, True, None]


def test_nothing_is_kept(run: Runner, simulated: Maker) -> None:
    root = simulated("a10-pair")
    ran = run("driverctl", "list", root=root)
    assert (ran.code, ran.out) == (0, "")
    assert ran.err == "vfiohost: driverctl keeps no driver for any device.\n"
    assert run("driverctl", "import", root=root).out.startswith("nothing to do")
