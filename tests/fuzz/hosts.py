"""Whole roots made of an input, and what every verb that changes nothing says of them.

The first line of an input is the verb. Then it has a line for each thing in the root:
``file PATH=TEXT``, ``link PATH=TARGET``, ``fifo PATH=``, ``dir PATH=``. The fuzzer mangles it all.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from vfiohost import cli

MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
DEVICE = "sys/devices/pci0000:00/0000:65:00.0"
UUID = "b716be33-2f53-4a1c-9d3c-2f2a5f3e8a10"
MTTY = "sys/devices/virtual/mtty/mtty"
MOST_LINES = 60
LONGEST_PATH = 2000
UNPRINTABLE = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")

HOST = f"""\
link sys/bus/pci/devices/0000:65:00.0=../../../devices/pci0000:00/0000:65:00.0
file {DEVICE}/modalias=pci:v000010DEd00002236sv000010DEsd00001482bc03sc02i00
file {DEVICE}/revision=0xa1
file {DEVICE}/numa_node=0
file {DEVICE}/sriov_totalvfs=16
file {DEVICE}/uevent=DRIVER=nouveau
file {DEVICE}/driver_override=(null)
file {DEVICE}/boot_vga=0
link {DEVICE}/driver=../../../bus/pci/drivers/nouveau
link {DEVICE}/iommu_group=../../../kernel/iommu_groups/15
link {DEVICE}/physfn=../0000:65:00.0
link sys/bus/pci/drivers/nouveau/module=../../../../module/nouveau
dir sys/bus/pci/drivers/vfio-pci=
link sys/class/mdev_bus/mtty=../../devices/virtual/mtty/mtty
file {MTTY}/mdev_supported_types/mtty-1/name=Single port serial
file {MTTY}/mdev_supported_types/mtty-1/available_instances=3
file {MTTY}/mdev_supported_types/mtty-1/description=num_heads=4, framebuffer=24576M
file {MTTY}/mdev_supported_types/mtty-1/device_api=vfio-pci
link sys/bus/mdev/devices/{UUID}=../../../devices/virtual/mtty/mtty/{UUID}
link {MTTY}/{UUID}/mdev_type=../mdev_supported_types/mtty-1
file proc/sys/kernel/osrelease=6.12.1
file lib/modules/6.12.1/modules.alias=alias pci:v000010DEd*sv*sd*bc03sc*i* nouveau
file usr/share/misc/pci.ids=10de  NVIDIA Corporation
file proc/sys/kernel/random/boot_id=11111111-1111-1111-1111-111111111111
file dev/vfio/15=
"""

WORDS = (
    b"list --json\n",
    b"recover -n\n",
    *(f"{line}\n".encode() for line in HOST.splitlines()),
    *(b"file |link |fifo |dir |../../../devices/|/|..|.|=|\n|0000:65:00.1|0000:|15".split(b"|")),
    *(b"-1|0x|(null)|DRIVER=|\x1b[31m|\xff\xfe|\x00|99999999999|\xe2\x80\xae|\xc2\x9b".split(b"|")),
    f"\nlink {DEVICE}=/etc\n".encode(),
    f"\nfifo {DEVICE}/uevent=\n".encode(),
)

VERBS = (
    ("list", "-o", "+override,boot-vga"),
    ("list", "--json"),
    ("groups", "--why"),
    ("show", "65:00.0"),
    ("mdev", "types"),
    ("mdev", "list"),
    ("record", "-"),
    ("bind", "-n", "65:00.0"),
    ("restore", "-n", "--all"),
    ("recover", "-n"),
    ("doctor",),
    ("resources",),
    ("print", "libvirt"),
)
"""An input whose first line is none of them is shown to the first."""


def seeds() -> list[bytes]:
    return [f"{' '.join(verb)}\n{HOST}".encode() for verb in VERBS]


def build(root: Path, data: bytes) -> None:
    """Make the root; what cannot be made is left out, and nothing is made outside."""
    inside = f"{os.path.realpath(root)}/"
    for line in data.split(b"\n")[:MOST_LINES]:
        head, _, text = line.partition(b"=")
        kind, _, name = head.partition(b" ")
        path = os.path.join(os.fsencode(root), name.lstrip(b"/"))
        above = os.path.dirname(path)
        if len(path) > LONGEST_PATH:
            continue
        with contextlib.suppress(OSError, ValueError):
            if f"{os.fsdecode(os.path.realpath(above))}/".startswith(inside):
                os.makedirs(above, exist_ok=True)
                make(kind, path, text)


def make(kind: bytes, path: bytes, text: bytes) -> None:
    if kind == b"link":
        os.symlink(text, path)
    elif kind == b"fifo":
        os.mkfifo(path)
    elif kind == b"dir":
        os.mkdir(path)
    else:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with open(os.open(path, flags, 0o600), "wb") as file:
            file.write(text + b"\n")


def read_host(data: bytes) -> str:
    """Show a root to a verb; gives the verb, the exit code and the sentence without its names."""
    first, _, data = data.partition(b"\n")
    argv = next((verb for verb in VERBS if " ".join(verb).encode() == first), VERBS[0])
    with TemporaryDirectory(dir=MEMORY) as folder:
        root = Path(folder) / "root"
        root.mkdir()
        build(root, data)
        code, out, err = run("--root", str(root), *argv)
        assert os.listdir(folder) == ["root"]
    assert code in range(12), err
    assert "Traceback" not in err
    written = out if argv[0] == "record" else out + err
    assert not UNPRINTABLE.search(written), repr(UNPRINTABLE.search(written))
    return f"{argv} {code} {re.sub(r'[^a-z ]+', '', err.partition(chr(10))[0])[-50:]}"


def run(*argv: str) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = out, err
    try:
        code = cli.main(argv)
    finally:
        sys.stdout, sys.stderr = streams
    return code, out.getvalue(), err.getvalue()
