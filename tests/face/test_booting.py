"""``vfiohost boot``: files below the root, and what is said of them."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from tests.face.in_use import NIC, NVME
from tests.face.support import check_golden
from vfiohost import Host, testing
from vfiohost.boot import GENERATORS, UNIT_PATH, FileChange, change_files, run_command
from vfiohost.boot.changes import PATHS
from vfiohost.boot.rule import RULE_PATH
from vfiohost.errors import ApplyError, UnsupportedError
from vfiohost.sysfs import Sysfs

if TYPE_CHECKING:
    from pathlib import Path

    from tests.face.support import Maker, Runner

A10, OTHER_A10 = "0000:65:00.0", "0000:ca:00.0"
INITRAMFS_TOOLS, DRACUT = GENERATORS
INITRD = "boot/initrd.img-{}"


@pytest.fixture
def server(simulated: Maker) -> Path:
    """A server whose initramfs is made by initramfs-tools; it starts from one."""
    root = simulated("a10-pair")
    mark = root / INITRAMFS_TOOLS.mark
    mark.parent.mkdir(parents=True)
    mark.touch()
    # As udev and others have it, whatever makes the initramfs.
    (root / DRACUT.mark).parent.joinpath("modules.d").mkdir(parents=True)
    with Host(root) as host:
        initrd = root / INITRD.format(host.scan().kernel)
    initrd.parent.mkdir()
    initrd.write_text("")
    os.utime(initrd, (1, 1))
    return root


def made(root: Path) -> dict[str, str]:
    """The files in the folders of those for the boot."""
    folders = {os.path.dirname(path) for path in PATHS}
    files = (path for folder in folders for path in (root / folder).glob("*") if path.is_file())
    return {str(file.relative_to(root)): file.read_text() for file in files}


def update_initramfs(root: Path) -> None:
    """Do what update-initramfs would do to the file's time."""
    (initrd,) = (root / "boot").iterdir()
    os.utime(initrd)


def test_a_dry_run_shows_every_file(run: Runner, server: Path) -> None:
    ran = run("boot", "install", A10, "--dry-run", "--exit-code", root=server)
    check_golden("boot-install-dry-run", ran, server)
    assert made(server) == {}
    value = run("boot", "install", A10, "-n", "--json", root=server).value
    assert [file["change"] for file in value["boot"]["files"]] == ["make"] * 2


def test_from_install_to_remove(run: Runner, server: Path) -> None:
    check_golden("boot-install", run("boot", "install", A10, root=server), server)
    assert set(made(server)) == {RULE_PATH, INITRAMFS_TOOLS.path}
    modes = {path: stat.S_IMODE((server / path).stat().st_mode) for path in made(server)}
    assert modes == {RULE_PATH: 0o644, INITRAMFS_TOOLS.path: 0o755}
    check_golden("boot-status-old", run("boot", "status", root=server), server)
    assert run("bind", A10, root=server).code == 0
    update_initramfs(server)
    check_golden("boot-status", run("boot", "status", root=server), server)
    again = run("boot", "install", A10, "-n", "--exit-code", root=server)
    assert (again.code, again.out.splitlines()[-1]) == (0, "nothing to do, already so")
    check_golden("boot-remove", run("boot", "remove", root=server), server)
    assert made(server) == {}
    assert run("boot", "remove", root=server).code == 0
    check_golden("boot-status-none", run("boot", "status", root=server), server)


def test_without_devices_it_is_about_those_that_are_bound(run: Runner, server: Path) -> None:
    none = run("boot", "install", root=server)
    assert (none.code, "bind some first" in none.err) == (3, True)
    assert run("bind", OTHER_A10, root=server).code == 0
    value = run("boot", "install", "--json", root=server).value["boot"]
    assert [d["address"] for d in value["devices"]] == [OTHER_A10]


def test_devices_come_and_go_one_by_one(run: Runner, server: Path) -> None:
    assert run("boot", "install", A10, root=server).code == 0
    value = run("boot", "install", OTHER_A10, "--driver", "none", "--json", root=server).value
    assert [(d["address"], d["driver"]) for d in value["boot"]["devices"]] == [
        (A10, "vfio-pci"),
        (OTHER_A10, "none"),
    ]
    value = run("boot", "remove", "65:00.0", "--json", root=server).value
    assert [d["address"] for d in value["boot"]["devices"]] == [OTHER_A10]
    gone = run("boot", "remove", "65:00.0", root=server)
    assert (gone.code, OTHER_A10 in gone.err) == (3, True)


def test_auto_is_the_best_vfio_driver(run: Runner, simulated: Maker) -> None:
    lines = ("boot", "install", "10de:2342", "--driver", "auto", "--json")
    value = run(*lines, root=simulated("gh200")).value["boot"]
    assert {d["driver"] for d in value["devices"]} == {"nvgrace_gpu_vfio_pci"}
    assert 'kmod load nvgrace_gpu_vfio_pci"' in value["files"][0]["text"]


def test_a_driver_that_there_is_not(run: Runner, server: Path) -> None:
    ran = run("boot", "install", A10, "--driver", "vfio-pcj", root=server)
    assert (ran.code, "[missing-driver]" in ran.err) == (4, True)
    assert made(server) == {}


def test_a_virtual_function_is_not_there_at_boot(run: Runner, simulated: Maker) -> None:
    ran = run("boot", "install", "c1:00.4", "--json", root=simulated("l40s-vgpu"))
    assert ran.code == 4
    assert "virtual-function" in {r["code"] for r in ran.value["error"]["refusals"]}


def test_a_driver_that_is_built_in_is_first(run: Runner, server: Path) -> None:
    root, driver = server, "sys/bus/pci/drivers/nouveau"
    assert run("bind", A10, "--driver", "nouveau", root=root).code == 0
    assert (root / driver / "module").is_symlink()
    (root / driver / "module").unlink()
    ran = run("boot", "install", A10, "--json", root=root)
    assert ran.code == 4
    assert "built-in-driver" in {r["code"] for r in ran.value["error"]["refusals"]}


def test_early_can_be_said(run: Runner, server: Path) -> None:
    assert run("boot", "install", A10, "--early", "no", root=server).code == 0
    assert set(made(server)) == {RULE_PATH}
    assert run("boot", "install", A10, "--early", "yes", root=server).code == 0
    assert INITRAMFS_TOOLS.path in made(server)


@pytest.mark.parametrize(("name", "device"), [("nvme", NVME), ("nic", NIC)])
def test_what_the_host_needs_is_refused(
    run: Runner, simulated: Maker, name: str, device: str
) -> None:
    root = simulated("in-use")
    check_golden(f"boot-install-in-use-{name}", run("boot", "install", device, root=root), root)
    assert made(root) == {}


def test_the_console_can_be_permitted(run: Runner, simulated: Maker) -> None:
    root = simulated("rtx-workstation")
    lines = ("boot", "install", "01:00.0", "--group")
    refused = run(*lines, "--json", root=root)
    assert refused.code == 4
    assert "boot-vga" in {r["code"] for r in refused.value["error"]["refusals"]}
    assert run(*lines, "--allow", "display", root=root).code == 0
    assert "0000:01:00.1" in made(root)[RULE_PATH]


def test_the_files_of_others_stay(run: Runner, server: Path) -> None:
    rule = server / RULE_PATH
    rule.parent.mkdir(parents=True)
    rule.write_text("# mine\n")
    check_golden("boot-install-foreign", run("boot", "install", A10, root=server), server)
    assert made(server) == {RULE_PATH: "# mine\n"}
    assert run("boot", "remove", root=server).code == 0
    assert made(server) == {RULE_PATH: "# mine\n"}


@pytest.mark.parametrize("target", ["/etc/passwd", "../../../outside", "other.rules"])
def test_a_link_in_a_files_place_is_not_followed(run: Runner, server: Path, target: str) -> None:
    rule = server / RULE_PATH
    rule.parent.mkdir(parents=True)
    rule.symlink_to(target)
    ran = run("boot", "install", A10, root=server)
    assert (ran.code, "is a symbolic link" in ran.err) == (4, True)
    assert rule.is_symlink()
    assert not rule.exists() or target == "/etc/passwd"


def test_a_folder_that_leads_out_of_the_root_leads_to_one_in_it(
    run: Runner, server: Path, tmp_path: Path
) -> None:
    """A link is read as the host itself would read it, below its own root."""
    (server / "etc" / "udev").mkdir(parents=True)
    (server / "etc" / "udev" / "rules.d").symlink_to(tmp_path)
    assert run("boot", "install", A10, root=server).code != 0
    assert list(tmp_path.iterdir()) == []
    inside = server / str(tmp_path).lstrip("/")
    inside.mkdir(parents=True)
    assert run("boot", "install", A10, root=server).code == 0
    assert list(tmp_path.iterdir()) == []
    assert [path.name for path in inside.iterdir()] == ["05-vfiohost.rules"]


def test_what_was_changed_by_hand_is_drift(run: Runner, server: Path) -> None:
    assert run("bind", A10, root=server).code == 0
    assert run("boot", "install", root=server).code == 0
    with (server / RULE_PATH).open("a") as file:
        file.write('KERNEL=="sda", MODE="0666"\n')
    (server / INITRAMFS_TOOLS.path).unlink()
    update_initramfs(server)
    ran = run("boot", "status", root=server)
    check_golden("boot-status-drift", ran, server)
    assert ran.code == 10
    value = run("boot", "status", "--json", root=server).value["boot_status"]
    assert [file["verdict"] for file in value["files"]] == ["differs", "missing"]
    assert run("boot", "install", root=server).code == 0
    update_initramfs(server)
    assert run("boot", "status", root=server).code == 0


def test_another_device_at_the_address(run: Runner, server: Path) -> None:
    """As after buses were numbered anew: here it is the rule that is about another device."""
    assert run("bind", A10, root=server).code == 0
    assert run("boot", "install", A10, root=server).code == 0
    rule = server / RULE_PATH
    rule.write_text(
        rule.read_text().replace("10de:2236", "10de:1eb8").replace("64:02.0", "64:03.0")
    )
    ran = run("boot", "status", root=server)
    check_golden("boot-status-moved", ran, server)
    assert ran.code == 11


def test_a_rule_that_cannot_be_read(run: Runner, server: Path) -> None:
    assert run("boot", "install", A10, root=server).code == 0
    rule = server / RULE_PATH
    rule.write_text(rule.read_text().replace("ids=", "ids=\x1b[31m"))
    status = run("boot", "status", root=server)
    assert (status.code, "\x1b" in status.out) == (10, False)
    assert run("boot", "install", A10, root=server).code == 2
    assert run("boot", "remove", root=server).code == 0
    assert made(server) == {}


def test_a_recording_is_not_written(run: Runner, recorded: Maker) -> None:
    root = recorded("a10-pair")
    ran = run("boot", "install", A10, root=root)
    assert (ran.code, "recording" in ran.err) == (9, True)
    assert made(root) == {}
    assert run("boot", "install", A10, "-n", root=root).code == 0


def test_the_initramfs_of_another_root_is_not_made(run: Runner, server: Path) -> None:
    ran = run("boot", "install", A10, "--update-initramfs", root=server)
    assert (ran.code, "--update-initramfs" in ran.err) == (9, True)
    assert made(server) == {}


def test_a_program_that_makes_the_initramfs(capfd: pytest.CaptureFixture[str]) -> None:
    run_command(["sh", "-c", "echo made"])
    assert capfd.readouterr() == ("", "made\n")  # standard output may be a JSON object
    with pytest.raises(ApplyError, match=r"failed \(3\).*the host starts as before"):
        run_command(["sh", "-c", "exit 3"])
    with pytest.raises(UnsupportedError, match="no update-initramfsx"):
        run_command(["update-initramfsx"])


# ---- files ---------------------------------------------------------------------------------------


def test_when_one_fails_those_before_it_are_as_they_were(server: Path) -> None:
    (server / RULE_PATH).parent.mkdir(parents=True)
    (server / RULE_PATH).write_text("old\n")
    (server / "etc/dracut.conf.d").write_text("a file where a folder should be\n")
    changes = [
        FileChange(RULE_PATH, "old\n", "new\n"),
        FileChange(INITRAMFS_TOOLS.path, None, "new\n"),
        FileChange(DRACUT.path, None, "new\n"),
    ]
    with Sysfs(server) as sysfs, pytest.raises(ApplyError, match=r"dracut\.conf\.d"):
        change_files(sysfs, changes)
    assert made(server) == {RULE_PATH: "old\n"}


def test_a_file_that_has_changed_meanwhile_is_left_alone(server: Path) -> None:
    (server / RULE_PATH).parent.mkdir(parents=True)
    (server / RULE_PATH).write_text("somebody else's\n")
    with Sysfs(server) as sysfs, pytest.raises(ApplyError, match="has changed"):
        change_files(sysfs, [FileChange(RULE_PATH, None, "new\n")])
    assert made(server) == {RULE_PATH: "somebody else's\n"}


def test_the_library_does_the_same(simulated: Maker) -> None:
    root = simulated("a10-pair")
    with Host(root, kernel=testing.SimulatedKernel(root)) as host:
        host.change_boot(host.plan_boot([A10], early=False))
        assert [check.verdict for check in host.boot_status().devices] == ["other-driver"]
        host.apply(host.plan_bind(A10))
        assert not host.boot_status().is_bad
        host.change_boot(host.plan_boot_remove())
        assert host.boot_status().files == ()


HOST_FILE = """\
version = 1

[[device]]
select = "path:pci0000:64/02.0/00.0"
driver = "vfio-pci"

[[device]]
select = "path:pci0000:16/02.0/00.0"
driver = "native"
"""


def say(root: Path, text: str) -> None:
    (root / "etc/vfiohost").mkdir(parents=True, exist_ok=True)
    (root / "etc/vfiohost/host.toml").write_text(text)


def test_the_host_file_from_the_next_boot_on(run: Runner, simulated: Maker) -> None:
    root = simulated("a10-pair-nouveau")
    rule, unit = root / "etc/udev/rules.d/05-vfiohost.rules", root / UNIT_PATH
    say(root, HOST_FILE)
    ran = run("boot", "install", "--host-file", root=root)
    assert ran.code == 0, ran.err
    assert "0000:65:00.0" in rule.read_text()
    assert "0000:17:00.0" not in rule.read_text()
    assert not unit.exists()  # the drivers alone need no service
    say(root, HOST_FILE + "vfs = 2\n")
    made = run("boot", "install", "--host-file", root=root)
    check_golden("boot-install-host-file", made, root)
    assert "ExecStart=/usr/bin/vfiohost apply --wait 60\n" in unit.read_text()
    assert run("boot", "install", "--host-file", root=root).code == 0
    status = run("boot", "status", "--json", root=root).value["boot_status"]
    assert {file["verdict"] for file in status["files"]} == {"same"}
    assert run("boot", "install", "ca:00.0", root=root).code == 0
    assert unit.exists()  # what is added by hand leaves the service alone
    assert run("boot", "remove", root=root).code == 0
    assert not unit.exists()
    assert not rule.exists()


def test_the_host_file_says_which_devices(run: Runner, simulated: Maker) -> None:
    root = simulated("a10-pair-nouveau")
    say(root, HOST_FILE)
    assert run("boot", "install", "--host-file", "ca:00.0", root=root).code == 2
    say(root, HOST_FILE.replace("64/02.0", "65/02.0"))
    ran = run("boot", "install", "--host-file", root=root)
    assert ran.code == 4
    assert "[not-there]" in ran.err


def test_apply_waits_for_devices(run: Runner, simulated: Maker) -> None:
    root = simulated("a10-pair-nouveau")
    say(root, HOST_FILE)
    assert run("apply", "--wait", "30", root=root).code == 0
    say(root, HOST_FILE.replace("64/02.0", "65/02.0"))
    assert run("apply", "--wait", "0.3", root=root).code == 4
    assert run("apply", "--wait", "soon", root=root).code == 2
