"""A server whose devices are all in use: its disk, its network, and both of its GPUs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from vfiohost.recording import File

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vfiohost.recording import Recording

NVME = "0000:17:00.0"
NIC = "0000:31:00.0"
A10S = ("0000:65:00.0", "0000:ca:00.0")

_MOUNTS = """\
22 1 259:2 / / rw,relatime shared:1 - ext4 /dev/nvme0n1p2 rw
40 22 253:0 / /srv/images rw,relatime shared:9 - xfs /dev/mapper/vg-images rw
"""
_ROUTES = """\
Iface	Destination	Gateway 	Flags	RefCnt	Use	Metric	Mask		MTU	Window	IRTT
eno1	00000000	010200C0	0003	0	0	100	00000000	0	0	0
eno1	000200C0	00000000	0001	0	0	100	00FFFFFF	0	0	0
"""
_TRIE = """\
Local:
  +-- 0.0.0.0/0 3 0 5
     |-- 192.0.2.15
        /32 host LOCAL
"""
_SWAPS = """\
Filename				Type		Size		Used		Priority
/dev/nvme0n1p3                          partition	8388604		0		-2
"""

# Of the disk and the interfaces that were recorded.
_REPLACED = (
    *("sys/class/block/", "sys/class/net/", "sys/class/nvme/", "sys/class/ptp/", "sys/dev/"),
    "sys/devices/virtual/nvme-subsystem/",
)


def in_use(host: Recording) -> Recording:
    """The host with its disk mounted, its NIC on the network and a daemon of NVIDIA's on a GPU."""
    paths = {str(f.address): f"sys/devices/{f.path}" for f in host.functions}
    made = [*_disk(paths[NVME]), *_network(paths[NIC]), *_daemon()]
    replaced = (*_REPLACED, f"{paths[NVME]}/", f"{paths[NIC]}/")
    kept = [file for file in host.files if not file.path.startswith(replaced)]
    return attrs.evolve(host, files=(*kept, *made))


def _text(path: str, text: str) -> File:
    return File(path, text.encode())


def _entry(kind: str, path: str) -> File:
    """A device's entry in its class."""
    return File(f"sys/class/{kind}/{path.rpartition('/')[2]}", f"../../../{path}")


def _disk(path: str) -> Iterator[File]:
    disk = f"{path}/nvme/nvme0/nvme0n1"
    mapped = "sys/devices/virtual/block/dm-0"
    partitions = [f"{disk}/nvme0n1p{number}" for number in (2, 3, 4)]
    for number, each in enumerate((disk, *partitions)):
        yield _text(f"{each}/dev", f"259:{number and number + 1}\n")
        yield _entry("block", each)
    yield _text(f"{mapped}/dev", "253:0\n")
    yield _text(f"{mapped}/dm/name", "vg-images\n")
    yield _entry("block", mapped)
    yield File(f"{partitions[2]}/holders/dm-0", "../../../../../../../../virtual/block/dm-0")
    yield _text("proc/1/mountinfo", _MOUNTS)
    yield _text("proc/swaps", _SWAPS)


def _network(path: str) -> Iterator[File]:
    yield _text(f"{path}/net/eno1/flags", "0x1003\n")
    yield _entry("net", f"{path}/net/eno1")
    yield _text("proc/net/route", _ROUTES)
    yield _text("proc/net/fib_trie", _TRIE)


def _daemon() -> Iterator[File]:
    """Which has both GPUs open. The second one was probed first."""
    for address, minor in zip(A10S, (1, 0), strict=True):
        information = f"Model: \t\t NVIDIA A10\nDevice Minor: \t {minor}\n"
        yield _text(f"proc/driver/nvidia/gpus/{address}/information", information)
    yield _text("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnvidia-pd:x:143:143::/:/bin/false\n")
    yield _text("proc/900/comm", "nvidia-persiste\n")
    yield _text("proc/900/cmdline", "/usr/bin/nvidia-persistenced\0--verbose\0")
    yield _text("proc/900/status", "Name:\tnvidia-persiste\nUid:\t143\t143\t143\t143\n")
    yield _text("proc/900/cgroup", "0::/system.slice/nvidia-persistenced.service\n")
    yield File("proc/900/fd/4", "/dev/nvidia0")
    yield _text("proc/1/comm", "systemd\n")
    yield _text("proc/1/cmdline", "/sbin/init\0")
    yield File("proc/1/fd/0", "/dev/null")
