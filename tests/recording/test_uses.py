"""A recording says how its host uses its devices, and nothing that the host's owner has named."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.native.test_holders import NIC, NVME, ROUTES, SERIAL, Machine
from vfiohost import recording
from vfiohost.holders import find_usage
from vfiohost.record import capture, networks
from vfiohost.scan import scan
from vfiohost.sysfs import Sysfs
from vfiohost.testing import expand

if TYPE_CHECKING:
    from pathlib import Path

    from vfiohost.recording import Recording

DISK = "sys/devices/pci0000:00/0000:03:00.0"
NIC_PATH = "sys/devices/pci0000:00/0000:05:00.0"
GPU = "sys/devices/pci0000:64/0000:65:00.0"
LINE = "sys/devices/pci0000:00/0000:07:00.0"
SUBSYSTEM = "sys/devices/virtual/nvme-subsystem/nvme-subsys0"
BTRFS = "0f6a3c1e-7e0b-4f7e-9a55-5ec2e7000001"


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A host that has all that holders look at in use, with names that are nobody's business."""
    host = Machine(tmp_path / "host")
    _disk(host)
    _network(host)
    host.function()
    host.bound("nvidia")
    text = "Model: \t NVIDIA A10\nGPU UUID: \t GPU-secret\nDevice Minor: \t 3\nGPU Excluded: No\n"
    host.write("proc/driver/nvidia/gpus/0000:65:00.0/information", text)
    host.process(460, "secret", ["secret"], "/dev/nvidia3")
    host.in_class("drm", f"{GPU}/drm/card1")
    host.in_class("graphics", f"{GPU}/graphics/fb0")
    for name, bind in (("dummy device", "0"), ("frame buffer device", "1")):
        path = f"sys/devices/virtual/vtconsole/vtcon{bind}"
        host.in_class("vtconsole", path)
        host.write(f"{path}/name", f"(M) {name}\n")
        host.write(f"{path}/bind", f"{bind}\n")
    host.function("0000:07:00.0", modalias=SERIAL, bridge="pci0000:00")
    host.in_class("tty", f"{LINE}/tty/ttyS4")
    host.write("proc/consoles", "tty0 -WU (EC p) 4:1\nttyS4 -W- (E p) 4:68\n")
    host.link("sys/dev/char/4:68", f"../../{LINE.removeprefix('sys/')}/tty/ttyS4")
    host.link(f"{LINE}/tty/ttyS4/subsystem", "../../../../../../class/tty")
    return host


def _disk(host: Machine) -> None:
    host.function("0000:03:00.0", modalias=NVME, bridge="pci0000:00")
    disk = f"{DISK}/nvme/nvme0/nvme0n1"
    host.in_class("nvme", f"{DISK}/nvme/nvme0")
    blocks = {
        disk: "259:0",
        f"{SUBSYSTEM}/nvme0n2": "259:9",
        "sys/devices/virtual/block/sr0": "1:1",
    }
    blocks |= {f"{disk}/nvme0n1p{n}": f"259:{n}" for n in range(1, 5)}
    blocks["sys/devices/virtual/block/dm-0"] = "253:0"
    for path, number in blocks.items():
        host.in_class("block", path)
        host.write(f"{path}/dev", f"{number}\n")
    for n in range(1, 5):
        host.write(f"{disk}/nvme0n1p{n}/partition", f"{n}\n")
    host.link(f"{SUBSYSTEM}/nvme0", f"../../../../../{DISK}/nvme/nvme0")
    host.write("sys/devices/virtual/block/dm-0/dm/name", "secret-vg-data\n")
    host.link(f"{disk}/nvme0n1p3/holders/dm-0", "../../../../../../../virtual/block/dm-0")
    host.link(f"sys/fs/btrfs/{BTRFS}/devices/nvme0n1p4", "../../../../class/block/nvme0n1p4")
    host.write(
        "proc/1/mountinfo",
        "22 1 259:1 / / rw,relatime shared:1 - ext4 /dev/nvme0n1p1 rw,secret=1\n"
        "23 22 253:0 / /srv/secret rw - xfs /dev/mapper/secret-vg-data rw\n"
        "24 22 0:40 /secret /home rw - btrfs /dev/nvme0n1p4 rw\n"
        "25 22 259:9 / /fast/secret rw - ext4 /dev/nvme0n2 rw\n"
        "26 22 1:1 / /cdrom rw - iso9660 /dev/sr0 rw\n",
    )
    swaps = "Filename Type Size Used Priority\n/dev/nvme0n1p2 partition 8388604 7 -2\n"
    host.write("proc/swaps", f"{swaps}/swap-secret file 10 0 -3\n")


def _network(host: Machine) -> None:
    host.function("0000:05:00.0", modalias=NIC, bridge="pci0000:00")
    host.function("0000:05:00.1", modalias=NIC, bridge="pci0000:00")
    other = f"{NIC_PATH[:-1]}1/usb1/net/enx001122334455"
    for path, flags in ((f"{NIC_PATH}/net/eth0", "0x1003"), (other, "0x1003")):
        host.in_class("net", path)
        host.write(f"{path}/flags", f"{flags}\n")
        host.write(f"{path}/address", "00:11:22:33:44:55\n")
    host.in_class("net", "sys/devices/virtual/net/br0")
    host.in_class("net", "sys/devices/virtual/net/lo")
    host.link(f"{NIC_PATH}/net/eth0/upper_br0", "../../../../../virtual/net/br0")
    host.write(
        "proc/net/route",
        ROUTES + "br0\t00000000\tFE01A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n"
        "br0\t0001A8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0\n"
        "br0\t0002A8C0\tFE01A8C0\t0003\t0\t0\t100\t00FFFFFF\t0\t0\t0\n",
    )
    host.write("proc/net/fib_trie", "     |-- 192.168.1.77\n        /32 host LOCAL\n")
    address = f"20010db8{'0' * 20}beef 03 40 00 80 enx001122334455\n"
    host.write("proc/net/if_inet6", address)
    zeros, gateway = "0" * 32, f"fe80{'0' * 27}2"
    host.write(
        "proc/net/ipv6_route",
        f"{zeros} 00 {zeros} 00 {gateway} 400 1 0 00000003 enx001122334455\n",
    )


def captured(root: Path) -> Recording:
    with Sysfs(root) as sysfs:
        return capture(sysfs, title="t", source="recorded from a test", modes=True)


def said(root: Path) -> list[str]:
    with Sysfs(root) as sysfs:
        snapshot = scan(sysfs, mdev=True)
        usage = find_usage(sysfs, snapshot, snapshot.pci)
        return [f"{use.subject[5:]} {use.kind}: {use.detail}" for use in usage.uses]


USES = """\
03:00.0 mount: nvme0n2 is mounted at {fast}
03:00.0 root-disk: nvme0n1p1 is mounted at /
03:00.0 swap: the host swaps to /dev/nvme0n1p2
03:00.0 mount: nvme0n1p4 is mounted at /home
03:00.0 block-holder: dm-0 ({volume}) is made of nvme0n1p3
03:00.0 mount: dm-0 ({volume}) is mounted at {srv}
05:00.0 network-member: eth0 is a part of br0
05:00.0 address: br0 (on eth0) has the address {v4}
05:00.0 default-route: br0 (on eth0) has the default route of IPv4
05:00.0 route: br0 (on eth0) has the route to {far}
05:00.1 address: {enx} has the address {v6}
05:00.1 default-route: {enx} has the default route of IPv6
07:00.0 console: the kernel's messages go to ttyS4
65:00.0 nvidia-user: has /dev/nvidia3 open
65:00.0 console: the kernel's text console is on fb0
"""


def test_the_uses_of_a_host_are_those_of_its_recording(machine: Machine, tmp_path: Path) -> None:
    names = {"volume": "secret-vg-data", "srv": "/srv/secret", "fast": "/fast/secret"}
    names |= {"v4": "192.168.1.77", "v6": "2001:db8::beef", "far": "192.168.2.0/24"}
    live = USES.format(enx="enx001122334455", **names).splitlines()
    assert sorted(said(machine.root)) == sorted(live)
    expand(captured(machine.root), tmp_path / "again")
    names = {"volume": "volume0", "srv": "/masked/0", "fast": "/masked/1"}
    names |= {"v4": "10.0.3.1", "v6": "fd00:0:0:1::1", "far": "10.1.3.0/24"}
    again = USES.format(enx="enx000000000000", **names).splitlines()
    # Who has a device open is not recorded.
    assert sorted(said(tmp_path / "again")) == sorted(u for u in again if "nvidia-user" not in u)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        *((name, name) for name in ("lo", "eth0", "eno1", "ens3f0", "enp65s0f1np1", "wlp3s0")),
        *((name, name) for name in ("enP2p1s0", "enp1s0f0v3", "ibp1s0", "br0", "bond1", "virbr0")),
        ("enx001122334455", "enx000000000000"),
        *((name, "net0") for name in ("acme-dmz", "br-acme", "ENX001122334455", "eth0.4012")),
        *((name, "net0") for name in ("mac001122334455", "veth1a2b3c4", "net0", "00-11-22-33-44")),
    ],
)
def test_which_names_of_interfaces_stay(name: str, shown: str) -> None:
    assert networks._shown([name]) == {name: shown}


def test_chosen_names_are_counted() -> None:
    assert networks._shown(["acme", "lo", "acme2"]) == {"acme": "net0", "lo": "lo", "acme2": "net1"}


def test_nothing_that_somebody_has_named_is_recorded(machine: Machine) -> None:
    text = recording.format(captured(machine.root))
    for secret in ("secret", "192.168", "00:11:22", "001122334455", "2001:db8", "beef", BTRFS):
        assert secret not in text


def test_to_record_a_recording_changes_nothing(machine: Machine, tmp_path: Path) -> None:
    once = captured(machine.root)
    expand(once, tmp_path / "again")
    assert captured(tmp_path / "again").files == once.files
    assert recording.parse(recording.format(once)) == once


def test_only_devices_of_functions_are_recorded(machine: Machine) -> None:
    paths = {file.path for file in captured(machine.root).files}
    assert "sys/class/net/br0" in paths  # above one
    assert not {"sys/class/net/lo", "sys/class/block/sr0"} & paths


def test_a_disk_that_nobody_uses_is_known_to_be_free(machine: Machine, tmp_path: Path) -> None:
    machine.write("proc/1/mountinfo", "26 22 1:1 / /cdrom rw - iso9660 /dev/sr0 rw\n")
    expand(captured(machine.root), tmp_path / "again")
    assert (tmp_path / "again/proc/self/mountinfo").read_text() == ""
    (machine.root / "proc/1/mountinfo").unlink()
    assert "proc/self/mountinfo" not in {file.path for file in captured(machine.root).files}
