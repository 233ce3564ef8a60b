"""A recording says how its host uses its devices, and nothing that the host's owner has named."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from tests.native.test_holders import NIC, NVME, ROUTES, SERIAL, Machine
from vfiohost import recording
from vfiohost.holders import find_usage
from vfiohost.record import capture
from vfiohost.record.uses import read_uses
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
    host.write("etc/modprobe.d/secret.conf", "options vfio-pci ids=10de:2236 # secret\n")
    host.write("etc/udev/rules.d/10-secret.rules", 'SUBSYSTEM=="vfio", OWNER="secret"\n')
    host.write("etc/libvirt/hooks/qemu.d/secret", "#!/bin/sh\n")
    host.write("etc/driverctl.d/pci-secret", "vfio-pci\n")
    host.write("etc/driverctl.d/pci-0000:65:00.0", "vfio-pci # secret\n")
    host.write("etc/mdevctl.d/0000:65:00.0/secret", "{}")
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
    names |= {"v4": "10.0.1.1", "v6": "fd00:0:0:3::1", "far": "10.1.1.0/24"}
    again = USES.format(enx="enx000000000000", **names).splitlines()
    # Who has a device open is not recorded.
    assert sorted(said(tmp_path / "again")) == sorted(u for u in again if "nvidia-user" not in u)


def test_nothing_that_somebody_has_named_is_recorded(machine: Machine) -> None:
    text = recording.format(captured(machine.root))
    for secret in ("secret", "192.168", "00:11:22", "001122334455", "2001:db8", "beef", BTRFS):
        assert secret not in text


def test_to_record_a_recording_changes_nothing(machine: Machine, tmp_path: Path) -> None:
    once = captured(machine.root)
    expand(once, tmp_path / "again")
    assert captured(tmp_path / "again").files == once.files
    assert recording.parse(recording.format(once)) == once


def _array(host: Machine, name: str, *parts: str) -> str:
    """An array of partitions of the disk, as ``bd_link_disk_holder`` shows it."""
    path = f"sys/devices/virtual/block/{name}"
    host.in_class("block", path)
    for part in parts:
        host.link(
            f"{DISK}/nvme/nvme0/nvme0n1/{part}/holders/{name}", f"{'../' * 7}../../{path[4:]}"
        )
    return path


def test_arrays_that_somebody_has_named_are_counted(machine: Machine, tmp_path: Path) -> None:
    """``disk_name`` in ``block/partitions/core.c``: a number after a letter needs no p."""
    path = _array(machine, "md_secret", "nvme0n1p3", "nvme0n1p4")
    machine.write(f"{path}/dev", "9:127\n")
    machine.in_class("block", f"{path}/md_secret1")
    machine.write(f"{path}/md_secret1/dev", "259:40\n")
    machine.write(f"{path}/md_secret1/partition", "1\n")
    machine.link("dev/md/secret1", "../md_secret1")
    own = f"{DISK}/block/secret"  # of a driver that lets its user give names
    machine.in_class("block", own)
    machine.write(f"{own}/dev", "252:3\n")
    machine.link(f"{own}/subsystem", "../../../../../class/block")
    machine.link("sys/dev/block/252:3", f"../../{own[4:]}")
    machine.link("dev/disk/by-id/md-name-secret", "../../md_secret")
    machine.link(f"sys/fs/btrfs/{BTRFS}/devices/md_secret", "../../../../class/block/md_secret")
    (machine.root / "proc/fs/jbd2/md_secret").mkdir(parents=True)
    mountinfo = (machine.root / "proc/1/mountinfo").read_text()
    line = "30 22 259:40 / /home rw - ext4 /dev/md/secret1 rw\n"
    machine.write("proc/1/mountinfo", mountinfo + line)
    swaps = (machine.root / "proc/swaps").read_text()
    machine.write("proc/swaps", f"{swaps}/dev/disk/by-id/md-name-secret partition 8 0 -3\n")
    found = captured(machine.root)
    assert "secret" not in recording.format(found)
    links = {file.path: file.content for file in found.files}
    assert links["sys/dev/block/252:3"] == f"../../{DISK[4:]}/block/disk0"
    expand(found, tmp_path / "again")
    assert captured(tmp_path / "again").files == found.files
    live = [use for use in said(machine.root) if "md_" in use]
    as_shown = [
        u.replace("md_secret1", "md_array0p1").replace("md_secret", "md_array0") for u in live
    ]
    assert [use for use in said(tmp_path / "again") if "md_" in use] == as_shown
    assert as_shown == [
        "03:00.0 block-holder: md_array0 is made of nvme0n1p3",
        "03:00.0 mount: md_array0 is the journal of a file system that is mounted",
        "03:00.0 swap: the host swaps to /dev/md_array0",
        "03:00.0 mount: md_array0 is part of the btrfs at /home",
        "03:00.0 mount: md_array0p1 is mounted at /home",
    ]


def test_many_chosen_names_stay_as_they_were_counted(machine: Machine, tmp_path: Path) -> None:
    for number in range(12):
        path = _array(machine, f"md_{chr(122 - number)}", "nvme0n1p3")
        machine.write(f"{path}/dev", f"9:{number}\n")
        machine.in_class("net", f"{NIC_PATH}/net/{chr(122 - number)}-acme")
    once = captured(machine.root)
    expand(once, tmp_path / "again")
    assert captured(tmp_path / "again").files == once.files
    paths = {file.path for file in once.files}
    assert {"sys/class/block/md_array11", "sys/class/net/net11"} <= paths


# ---- how much is read ---------------------------------------------------------------------------


def _calls(root: Path) -> int:
    """How many functions are called to read what the host uses: reads of files among them."""
    calls = 0

    def count(_frame: object, event: str, _arg: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    with Sysfs(root) as sysfs:
        sys.setprofile(count)
        try:
            assert list(read_uses(sysfs, [DISK]))
        finally:
            sys.setprofile(None)
    return calls


def _with_disks(root: Path, number: int) -> Path:
    """A host whose NVMe subsystem has namespaces with a partition and a volume each."""
    host = Machine(root)
    host.function("0000:03:00.0", modalias=NVME, bridge="pci0000:00")
    host.in_class("nvme", f"{DISK}/nvme/nvme0")
    host.link(f"{SUBSYSTEM}/nvme0", f"../../../../../{DISK}/nvme/nvme0")
    for n in range(1, number + 1):
        disk = f"{SUBSYSTEM}/nvme0n{n}"
        for path, minor in ((disk, 2 * n), (f"{disk}/nvme0n{n}p1", 2 * n + 1)):
            host.in_class("block", path)
            host.write(f"{path}/dev", f"259:{minor}\n")
        host.in_class("block", f"sys/devices/virtual/block/dm-{n}")
        host.write(f"sys/devices/virtual/block/dm-{n}/dm/name", f"volume-{n}\n")
        host.link(f"{disk}/nvme0n{n}p1/holders/dm-{n}", f"../../../../../../block/dm-{n}")
        host.in_class("net", f"{DISK}/net/acme{n}")
    lines = (
        f"{n} 1 259:{2 * n + 1} / /srv/{n} rw - xfs /dev/none rw" for n in range(1, number + 1)
    )
    host.write("proc/1/mountinfo", "".join(f"{line}\n" for line in lines))
    return host.root


def test_the_work_grows_with_the_number_of_disks_and_not_with_its_square(tmp_path: Path) -> None:
    few, some, many = (_calls(_with_disks(tmp_path / str(n), n)) for n in (20, 40, 80))
    assert many - some == pytest.approx(2 * (some - few), rel=0.02)


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
