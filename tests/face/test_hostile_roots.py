"""Every verb on every kind of hostile root: a sentence and an exit code, in bounded time.

The verbs are those of the parser, so that a new one is here without being asked. Nothing outside
the root may change, and what stands there may not be read either.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.deadline import deadline
from tests.native.trees import Lookout
from tests.simulation.pictures import picture
from vfiohost import testing
from vfiohost.boot.words import MADE_BY
from vfiohost.cli import parser
from vfiohost.cli.verbs import FAMILIES

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.face.support import Maker, Runner

GPU = "0000:65:00.0"
UUID = "b716be33-2f53-4a1c-9d3c-2f2a5f3e8a10"
SECONDS = 60
"""The longest that a verb may take, on a busy machine too; stores get 1 s."""

LSPCI = "list --lspci"

# What a verb needs on its command line, where it needs anything.
ARGUMENTS = {
    "list": "-o +override,boot-vga",
    "groups": "--why",
    "show": f"{GPU} --wake",
    "bind": f"{GPU} --driver none",
    "unbind": GPU,
    "restore": GPU,
    "holders": f"{GPU} {UUID}",
    "probe": GPU,
    "reset": GPU,
    "print": "cdi",
    "record": "-",
    "sim": "--list",
    "watch": "--for 0.1",
    "vf set": f"{GPU} 2",
    "vf clear": GPU,
    "boot install": GPU,
    "mdev create": "-p 65:00.4 -t A10-12Q",
    "mdev remove": UUID,
    "mdev define": f"-p 0000:65:00.4 -t nvidia-596 -u {UUID} --auto",
    "mdev modify": f"{UUID} --manual",
    "mdev start": "--auto",
    "mdev undefine": UUID,
    "driverctl remove": "--all",
}
RAW = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def verbs() -> list[str]:
    """All verbs of the command, without their aliases."""
    families = list(FAMILIES)
    found: list[str] = []
    for action in parser.build([*families, "list"])._actions:
        if isinstance(action, argparse._SubParsersAction):
            found += [made.prog.removeprefix("vfiohost ") for made in action.choices.values()]
            inner = [each for name in families for each in action.choices[name]._actions]
    for action in inner:
        if isinstance(action, argparse._SubParsersAction):
            found += [made.prog.removeprefix("vfiohost ") for made in action.choices.values()]
    return [*sorted(set(found) - set(families)), LSPCI]


# -- hostile roots: each spoils a simulated host; `outside` lies beside it -----------------------


def device(root: Path) -> Path:
    return (root / "sys/bus/pci/devices" / GPU).resolve()


def replace(path: Path, make: Callable[[Path], object]) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    make(path)


def every_attribute(root: Path, make: Callable[[Path], object]) -> None:
    names = ("modalias", "vendor", "class", "uevent", "driver_override", "revision", "numa_node")
    for name in (*names, "sriov_totalvfs", "sriov_numvfs", "config", "resource", "label"):
        replace(device(root) / name, make)
    for path in ("proc/sys/kernel/osrelease", "proc/sys/kernel/random/boot_id", "proc/cmdline"):
        replace(root / path, make)
    replace(root / "usr/share/misc/pci.ids", make)
    for file in sorted((root / "lib/modules").glob("*/modules.*")):
        replace(file, make)


def bind_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        here = os.open(path.parent, os.O_PATH)  # the address of a socket has few characters
        made.bind(f"/proc/self/fd/{here}/{path.name}")
        os.close(here)


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(4 << 30)


def links_out(root: Path, outside: Path) -> None:
    for path in ("sys/class", "sys/kernel/iommu_groups", "dev/vfio", "run", "var", "proc", "lib"):
        replace(root / path, lambda link: link.symlink_to(outside))
    for name in ("driver", "iommu_group", "uevent"):
        replace(device(root) / name, lambda link: link.symlink_to(outside / "file"))


def links_climb(root: Path, outside: Path) -> None:
    away = "../" * 40 + str(outside).lstrip("/")
    for path in ("sys/class/mdev_bus", "sys/bus/pci/drivers", "run", "var/lib", "dev"):
        replace(root / path, lambda link: link.symlink_to(away))


def sys_leads_out(root: Path, outside: Path) -> None:
    shutil.copytree(root / "sys", outside / "sys", symlinks=True)
    replace(root / "sys", lambda link: link.symlink_to(outside / "sys"))


def loops(root: Path, _outside: Path) -> None:
    every_attribute(root, lambda link: link.symlink_to(link.name))
    for path in ("sys/class/mdev_bus", "sys/kernel/iommu_groups", "run", "var", "dev/vfio"):
        replace(root / path, lambda link: link.symlink_to(link.name))


def fifos(root: Path, _outside: Path) -> None:
    every_attribute(root, os.mkfifo)
    for path in ("sys/class/mdev_bus", "dev/vfio", "run/vfiohost/lock", "var/lib/vfiohost"):
        replace(root / path, os.mkfifo)


def sockets(root: Path, _outside: Path) -> None:
    every_attribute(root, bind_socket)


def directories(root: Path, _outside: Path) -> None:
    every_attribute(root, Path.mkdir)
    for path in ("run/vfiohost/lock", ".vfiohost-sim/stores.log"):
        replace(root / path, Path.mkdir)


def devices_without_an_end(root: Path, _outside: Path) -> None:
    """Nodes of /dev/zero, where this may make them; a file of 4 GiB is nearly as long."""

    def zero(path: Path) -> None:
        try:
            os.mknod(path, 0o20666, os.makedev(1, 5))
        except PermissionError:
            sparse(path)

    every_attribute(root, zero)


def enormous(root: Path, _outside: Path) -> None:
    every_attribute(root, sparse)
    replace(root / ".vfiohost-sim/state.json", sparse)


def crowded(root: Path, _outside: Path) -> None:
    for path in ("sys/bus/pci/devices", "sys/bus/pci/drivers", "dev/vfio", "sys/class/mdev_bus"):
        (root / path).mkdir(parents=True, exist_ok=True)
        for number in range(3000):
            (root / path / f"x{number}").symlink_to("nowhere")


def evil_names(root: Path, _outside: Path) -> None:
    for name in (b"\x1b]0;x\x07\x1b[31m", b"a\nb", b"\xff\xfe", b"\xc2\x9b31m", "\u202e".encode()):
        text = os.fsdecode(name)
        for path in ("sys/bus/pci/devices", "sys/bus/pci/drivers", "sys/class/mdev_bus"):
            (root / path).mkdir(parents=True, exist_ok=True)
            (root / path / text).symlink_to(f"../../../{text}")
        (root / "sys/module" / text).mkdir(parents=True)
    names = b"../../../drivers/\x1b[31m\nx"
    replace(device(root) / "driver", lambda link: link.symlink_to(os.fsdecode(names)))


def evil_texts(root: Path, _outside: Path) -> None:
    def write(path: Path) -> None:
        path.write_bytes(b"\x1b]0;x\x07\x1b[31m\n\xff\xc2\x9b\xe2\x80\xae\0\n")

    every_attribute(root, write)


def nothing_there(root: Path, _outside: Path) -> None:
    for path in ("sys", "proc", "dev", ".vfiohost-sim/recording.host"):
        replace(root / path, lambda _: None)


def unheard_of_state(root: Path, _outside: Path) -> None:
    (root / ".vfiohost-sim/state.json").write_text('{"pending": [{}]}')


def foreign_journal(root: Path, outside: Path) -> None:
    (root / "run").mkdir(exist_ok=True)
    (root / "run/vfiohost").symlink_to(outside)
    (root / "var/lib").mkdir(parents=True, exist_ok=True)
    (root / "var/lib/vfiohost").symlink_to(outside)


def boot_files_lead_out(root: Path, outside: Path) -> None:
    replace(root / "etc/udev", lambda link: link.symlink_to(outside))
    hook = root / "etc/initramfs-tools/hooks/vfiohost"
    replace(hook, lambda link: link.symlink_to(outside / "file"))
    replace(root / "boot", lambda link: link.symlink_to(outside))


def boot_files_are_none(root: Path, _outside: Path) -> None:
    replace(root / "etc/udev/rules.d/05-vfiohost.rules", os.mkfifo)
    replace(root / "etc/dracut.conf.d", lambda path: path.write_text("a file"))
    replace(root / "etc/initramfs-tools/hooks/vfiohost", Path.mkdir)


def evil_boot_files(root: Path, _outside: Path) -> None:
    rule = root / "etc/udev/rules.d/05-vfiohost.rules"
    rule.parent.mkdir(parents=True)
    rule.write_bytes(MADE_BY.encode() + b"\n#: 0000:65:00.0 \x1b[31m\xff\xc2\x9b\n")


def kept_files_lead_out(root: Path, outside: Path) -> None:
    replace(root / "etc/driverctl.d", lambda link: link.symlink_to(outside))
    replace(root / f"etc/mdevctl.d/mtty/{UUID}", lambda link: link.symlink_to(outside / "file"))
    replace(root / "etc/mdevctl.d/0000:65:00.4", lambda link: link.symlink_to(outside))


def kept_files_are_none(root: Path, _outside: Path) -> None:
    for path in (f"etc/driverctl.d/pci-{GPU}", f"etc/mdevctl.d/0000:65:00.4/{UUID}"):
        replace(root / path, os.mkfifo)
    for path in ("etc/driverctl.d/pci-0000:ca:00.0", "etc/mdevctl.d/mtty"):
        replace(root / path, sparse)


def evil_kept_files(root: Path, _outside: Path) -> None:
    for folder in ("etc/driverctl.d", "etc/mdevctl.d/0000:65:00.4", "etc/mdevctl.d/x\x1b[2J\n"):
        (root / folder).mkdir(parents=True)
        for name in (UUID, f"pci-{GPU}", "pci-\x1b[2J\n", os.fsdecode(b"usb-\xff"), "..."):
            (root / folder / name).write_bytes(b"vfio\x1b[31m\xff\xc2\x9b\n")
    text = '{"mdev_type": "\\u001b[2J\\ud800", "start": "auto", "attrs": [{"../remove": "1"}]}'
    (root / f"etc/mdevctl.d/0000:65:00.4/{UUID}").write_text(text)


ROOTS = [
    kept_files_lead_out,
    kept_files_are_none,
    evil_kept_files,
    boot_files_lead_out,
    boot_files_are_none,
    evil_boot_files,
    links_out,
    links_climb,
    sys_leads_out,
    loops,
    fifos,
    sockets,
    directories,
    devices_without_an_end,
    enormous,
    crowded,
    evil_names,
    evil_texts,
    nothing_there,
    unheard_of_state,
    foreign_journal,
]


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A canary: whatever is written, made or opened here was reached from the root."""
    directory = tmp_path / "outside"
    directory.mkdir()
    (directory / "file").write_text("untouched")
    return directory


def check(run: Runner, verb: str, root: Path) -> None:
    argv = [*verb.split(), *ARGUMENTS.get(verb, "").split(), "--timeout", "1"]
    with deadline(SECONDS):
        ran = run(*argv, root=root)
    assert ran.code in range(12), ran.err
    # 10 and 11 are no failures: what differs or is bad was asked for.
    assert ran.code == 0 or (ran.out if ran.code in (10, 11) else ran.err)
    assert "Traceback" not in ran.err
    written = ran.err if verb == "record" else ran.out + ran.err
    if verb == LSPCI:  # its lines, as lspci's, begin with a tab
        written = re.sub(r"(?m)^\t", "", written)
    assert not RAW.search(written), RAW.search(written)


@pytest.mark.parametrize("spoil", ROOTS, ids=lambda spoil: spoil.__name__)
def test_every_verb_on_a_hostile_root(
    spoil: Callable[[Path, Path], None], run: Runner, simulated: Maker, outside: Path
) -> None:
    root = simulated("few-vfs")
    spoil(root, outside)
    before = picture(outside)
    names = verbs()
    assert {"list", "bind", "recover", "mdev create", "boot install"} <= set(names)
    with Lookout(outside / "file") as lookout:
        for verb in names:
            check(run, verb, root)
        assert lookout.seen() == 0
    assert picture(outside) == before


def test_a_hostile_root_that_is_a_recording(run: Runner, spoilt: Maker, outside: Path) -> None:
    root = spoilt("few-vfs")
    links_out(root, outside)
    before = picture(outside)
    for verb in verbs():
        check(run, verb, root)
    assert picture(outside) == before


def test_a_root_that_changes_all_the_time(run: Runner, simulated: Maker, outside: Path) -> None:
    """Names come and go, and a directory becomes a link to the outside and back, all the while."""
    root = simulated("few-vfs")
    over = threading.Event()
    folder = device(root)

    def trouble() -> None:
        aside, link = folder.with_name("aside"), folder.with_name("link")
        link.symlink_to(outside)
        while not over.is_set():
            os.rename(folder, aside)
            os.rename(link, folder)
            os.rename(folder, link)
            os.rename(aside, folder)

    before = picture(outside)
    thread = threading.Thread(target=trouble)
    thread.start()
    try:
        for verb in verbs():
            check(run, verb, root)
    finally:
        over.set()
        thread.join()
    assert picture(outside) == before
    assert testing.is_simulation(root)
