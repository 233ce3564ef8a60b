"""The C core under AddressSanitizer and UndefinedBehaviorSanitizer, on a hostile host."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.native.trees import A10, BUS, Tree

REPOSITORY = Path(__file__).parents[2]
SOURCES = sorted(str(path) for path in (REPOSITORY / "csrc").glob("*.c"))
MAIN = str(Path(__file__).with_name("sanitize_main.c"))
WARNINGS = ["-Wall", "-Wextra", "-Wconversion", "-Werror"]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


def compiler() -> list[str]:
    return os.environ.get("CC", "cc").split()


def lacking(reason: str) -> None:
    """Skip, but never in CI: there the sanitizers are what this test is for."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sanitized")
    if shutil.which(compiler()[0]) is None:
        lacking(f"there is no compiler {compiler()[0]}")
    (folder / "empty.c").write_text("int main(void) { return 0; }\n")
    trial = [*compiler(), *SANITIZERS, "-o", str(folder / "empty"), str(folder / "empty.c")]
    tried = subprocess.run(trial, check=False, capture_output=True, text=True)
    if tried.returncode != 0:
        lacking(f"the compiler has no sanitizers: {tried.stderr}")
    flags = ["-std=gnu11", "-g", "-O1", *WARNINGS, *SANITIZERS, f"-I{REPOSITORY / 'csrc'}"]
    command = [*compiler(), *flags, "-o", str(folder / "main"), *SOURCES, MAIN]
    subprocess.run(command, check=True)
    return folder / "main"


def hostile_host(tree: Tree) -> int:
    """Make a host with every kind of trouble; returns how many entries its bus has."""
    for slot in range(3):
        tree.function(f"0000:65:00.{slot}", sriov_totalvfs="16\n", vendor="0x10de\n")
    good = tree.function("10000:e1:00.0", bridge="pci10000:00")
    (good / "driver").symlink_to("../../../bus/pci/drivers/nouveau")
    (good / "iommu_group").symlink_to("../../../kernel/iommu_groups/8")
    (good / "physfn").symlink_to("../0000:65:00.0")
    odd = tree.function("0000:66:00.0", modalias=f"{A10}x", revision=b"\xff" * 128, numa_node="")
    (odd / "vendor").mkdir()
    os.mkfifo(odd / "sriov_totalvfs")
    (odd / "driver").symlink_to("x" * 300)
    (odd / "iommu_group").symlink_to("/")
    (odd / "physfn").symlink_to("..")
    huge = tree.function("0000:67:00.0", modalias=None, vendor="1" * (1 << 20))
    (huge / "modalias").symlink_to("modalias")
    longest = "/".join(["d" * 250] * 2)
    targets = {
        "0000:68:00.0": "/etc",
        "0000:69:00.0": "../../../../../../etc/0000:69:00.0",
        "0000:6a:00.0": "../../../devices/none/0000:6a:00.0",
        "0000:6b:00.0": "../../../devices/",
        "0000:6c:00.0": "../../../",
        "0000:6d:00.0": f"../../../devices/{longest}/0000:6d:00.0",
        "0000:6e:00.0": "0000:6e:00.0",
        "no address": "none",
        "x" * 255: "none",
    }
    for name, target in targets.items():
        tree.link(f"{BUS}/{name}", target)
    (tree.root / BUS / "0000:6f:00.0").mkdir()
    for number in range(1500):
        (tree.root / BUS / f"{number}").touch()
    return 6 + len(targets) + 1 + 1500


def hostile_parents(tree: Tree) -> int:
    """Make parents of mediated devices with every kind of trouble; returns how many types."""
    bus, mtty = "sys/class/mdev_bus", "sys/devices/virtual/mtty"
    tree.link(f"{bus}/mtty", "../../devices/virtual/mtty")
    tree.link(f"{mtty}/physfn", "../0000:65:00.0")
    for number in range(20):
        for name in ("name", "available_instances", "device_api", "description"):
            tree.write(f"{mtty}/mdev_supported_types/{number}/{name}", "9" * 65536)
    longest = "/".join(["d" * 200] * 2)
    tree.link(f"{bus}/odd", f"../../devices/{longest}/odd")
    types = tree.root / "sys/devices" / longest / "odd/mdev_supported_types"
    for name in ("x" * 255, "sound"):
        (types / name).mkdir(parents=True)
    (types / "link").symlink_to("sound")
    (types / "file").touch()
    os.mkfifo(types / "sound/name")
    (types / "sound/device_api").write_bytes(b"\xff\0")
    (types / "sound/description").write_text("x" * 4096)
    for name, target in {"up": "../..", "none": "../../devices/none", "out": "/etc"}.items():
        tree.link(f"{bus}/{name}", target)
    # Of the large ones as many as leave room for one more (csrc/mdev.c:TYPE_TEXT).
    page, room = 4 * 65537, 1 << 22
    return (room - page - 32768) // page + 1 + 4


def paths(tree: Tree) -> list[str]:
    """Make files, links and loops, and name them and what leads to and past them."""
    tree.write("attribute", "0123456789")
    tree.write("large", "x" * 70000)
    os.mkfifo(tree.root / "fifo")
    for name, target in {"up": "../..", "abs": "/attribute", "one": "two", "two": "one"}.items():
        tree.link(name, target)
    tree.link("long", "d/" * 2000)
    deep = "deep/" * 200
    (tree.root / deep).mkdir(parents=True)
    return [
        *("attribute", "large", "fifo", "up", "abs", "one", "long", "none", ".", "..", "/", "//"),
        *(
            "up/attribute",
            "up/../up/abs",
            "attribute/",
            "attribute/x",
            "abs/.",
            f"long/{'x' * 200}",
        ),
        *("x" * 256, "x/" * 2047, "x" * 5000, deep, f"{deep}..", f"{deep}../" + "../" * 300),
        "sys/bus/pci/devices/0000:65:00.0/modalias",
    ]


def test_the_c_core_is_clean(program: Path, memory: Path) -> None:
    tree = Tree(memory / "host")
    entries, types = hostile_host(tree), hostile_parents(tree)
    logs = memory / "log"
    options = f"log_path={logs}:abort_on_error=0"
    ran = subprocess.run(
        [program, tree.root, *paths(tree)],
        env={
            **os.environ,
            "ASAN_OPTIONS": options,
            "UBSAN_OPTIONS": f"{options}:print_stacktrace=1",
        },
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    # A helper has closed its standard error: what it has to say is in a file.
    said = "".join(log.read_text() for log in memory.glob("log.*"))
    assert (ran.returncode, ran.stderr + said) == (0, "")
    assert ran.stdout == f"{entries}\n{types}\n" * 2
