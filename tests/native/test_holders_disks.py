"""Disks in use that mountinfo does not name; the texts are as Linux 6.12 writes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.native.test_holders import Machine

if TYPE_CHECKING:
    from pathlib import Path

PATH = "sys/devices/pci0000:00/0000:03:00.0"
OTHER = "sys/devices/pci0000:00/0000:04:00.0"
SATA = "pci:v00008086d0000A352sv00001028sd0000085Abc01sc06i01"


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture
def disk(machine: Machine) -> Machine:
    """A SATA disk, sda, with one partition; sdb hangs on another controller."""
    machine.function("0000:03:00.0", modalias=SATA, bridge="pci0000:00")
    block(machine, f"{PATH}/ata1/host0/target0:0:0/0:0:0:0/block/sda", "8:0")
    block(machine, f"{PATH}/ata1/host0/target0:0:0/0:0:0:0/block/sda/sda1", "8:1")
    machine.write("sys/class/block/sda1/partition", "1\n")
    block(machine, f"{OTHER}/ata2/host1/target1:0:0/1:0:0:0/block/sdb", "8:16")
    mount(machine, "22 1 8:16 / / rw,relatime - ext4 /dev/sdb rw")
    return machine


def block(machine: Machine, path: str, number: str) -> None:
    machine.in_class("block", path)
    machine.write(f"{path}/dev", f"{number}\n")
    machine.link(f"sys/dev/block/{number}", f"../../../{path}")


def virtual(machine: Machine, name: str, number: str, *below: str) -> None:
    """A block device that is made of others (bd_link_disk_holder in block/holder.c)."""
    path = f"sys/devices/virtual/block/{name}"
    block(machine, path, number)
    for each in below:
        machine.link(f"sys/class/block/{each}/holders/{name}", f"../../{name}")
        machine.link(f"{path}/slaves/{each}", f"../../{each}")


def mount(machine: Machine, *lines: str) -> None:
    machine.write("proc/1/mountinfo", "".join(f"{line}\n" for line in lines))


def test_a_btrfs_names_one_of_its_disks(disk: Machine) -> None:
    """btrfs_show_devname in fs/btrfs/super.c; btrfs_sysfs_add_device in fs/btrfs/sysfs.c."""
    btrfs = "0:44 /@home /home rw,relatime - btrfs /dev/sdb rw,space_cache=v2,subvol=/@home"
    mount(disk, f"40 22 {btrfs}")
    uuid = "a1b2c3d4-e5f6-4711-8899-aabbccddeeff"
    for name in ("sda1", "sdb"):
        disk.link(f"sys/fs/btrfs/{uuid}/devices/{name}", f"../../../../class/block/{name}")
    (disk.root / "sys/fs/btrfs/features").mkdir()
    (use,) = disk.usage().uses
    assert (use.kind, use.detail) == ("mount", "sda1 is part of the btrfs at /home")
    assert use.via == f"/sys/fs/btrfs/{uuid}/devices/sda1"
    mount(disk, f"22 1 {btrfs.replace('/home rw', '/ rw')}")
    assert disk.said() == ["root-disk: sda1 is part of the btrfs at /"]
    mount(disk, f"22 1 {btrfs.replace('/home rw', '/ rw').replace('/dev/sdb', '/dev/root')}")
    assert disk.said() == ["root-disk: sda1 is part of the btrfs at /"]
    mount(disk, "22 1 8:16 / / rw - ext4 /dev/sdb rw")
    assert disk.said() == [
        "mount: sda1 is part of a btrfs that is mounted, and nothing shows where"
    ]


def test_a_btrfs_of_one_disk_is_mounted_once(disk: Machine) -> None:
    mount(disk, "40 22 0:44 / /srv rw,relatime - btrfs /dev/sda1 rw,subvol=/")
    disk.link("sys/fs/btrfs/a1b2c3d4/devices/sda1", "../../../../class/block/sda1")
    assert disk.said() == ["mount: sda1 is mounted at /srv"]


def test_what_bcache_has(disk: Machine) -> None:
    """register_cache and bcache_device_link in drivers/md/bcache/super.c."""
    disk.write("sys/class/block/sda1/bcache/cache_replacement_policy", "[lru] fifo random\n")
    assert disk.said() == ["block-holder: sda1 is registered with bcache"]
    virtual(disk, "bcache0", "252:0", "sda1")
    disk.link("sys/class/block/bcache0/bcache", "../../../../class/block/sdb/bcache")
    mount(disk, "40 22 252:0 / /srv rw,relatime - ext4 /dev/bcache0 rw")
    assert disk.said() == [
        "block-holder: bcache0 is made of sda1",
        "mount: bcache0 is mounted at /srv",
    ]


@pytest.mark.parametrize(
    ("options", "what"), [("logdev=/dev/sda1", "log"), ("rtdev=/dev/sda1", "realtime section")]
)
def test_what_an_xfs_has_besides_its_disk(disk: Machine, options: str, what: str) -> None:
    """xfs_fs_show_options in fs/xfs/xfs_super.c."""
    line = f"- xfs /dev/sdb rw,attr2,inode64,logbufs=8,logbsize=32k,{options},noquota"
    mount(disk, f"40 22 8:16 / /srv rw,relatime {line}")
    assert disk.said() == [f"mount: sda1 is the {what} of the file system at /srv"]
    disk.link("dev/disk/by-label/fast", "../../sda1")
    by_label = line.replace("/dev/sda1", "/dev/disk/by-label/fast")
    mount(disk, f"22 1 8:16 / / rw,relatime {by_label}")
    assert disk.said() == [f"root-disk: sda1 is the {what} of the file system at /"]


def test_the_journal_of_an_ext4_elsewhere(disk: Machine) -> None:
    """jbd2_journal_init_dev in fs/jbd2/journal.c; one in a file has a number behind a dash."""
    for name in ("sda1", "sdb-8", "sda1-8"):
        disk.write(f"proc/fs/jbd2/{name}/info", "33 transactions (33 requested)\n")
    (use,) = disk.usage().uses
    assert (use.kind, use.via) == ("mount", "/proc/fs/jbd2/sda1")
    (disk.root / "proc/fs/jbd2/sda1/info").unlink()
    (disk.root / "proc/fs/jbd2/sda1").rmdir()
    assert disk.said() == []


def test_partitions_of_a_raid(disk: Machine) -> None:
    """add_partition in block/partitions/core.c; swap_show in mm/swapfile.c."""
    virtual(disk, "md0", "9:0", "sda1", "sdb")
    for number in (1, 2):
        path = f"sys/devices/virtual/block/md0/md0p{number}"
        block(disk, path, f"259:{number}")
        disk.write(f"{path}/partition", f"{number}\n")
    mount(disk, "40 22 259:1 / /srv rw,relatime - ext4 /dev/md0p1 rw")
    head = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
    disk.write("proc/swaps", f"{head}/dev/md0p2   partition\t8388604\t\t0\t\t-2\n")
    disk.process(61, "dd", ["dd"], "/dev/md0p2")
    assert disk.said() == [
        "storage-user: pid 61 (dd): has /dev/md0p2 open",
        "block-holder: md0 is made of sda1",
        "mount: md0p1 is mounted at /srv",
        "swap: the host swaps to /dev/md0p2",
    ]


def test_the_root_at_the_end_of_a_long_stack(disk: Machine) -> None:
    """RAID, encryption, LVM: dm_attr_name_show in drivers/md/dm-sysfs.c."""
    virtual(disk, "md0", "9:0", "sda1", "sdb")
    for number, (name, below) in enumerate((("luks", "md0"), ("vg-root", "dm-0"))):
        virtual(disk, f"dm-{number}", f"253:{number}", below)
        disk.write(f"sys/class/block/dm-{number}/dm/name", f"{name}\n")
    mount(disk, "22 1 253:1 / / rw,relatime - ext4 /dev/mapper/vg-root rw")
    assert disk.said()[-1] == "root-disk: dm-1 (vg-root) is mounted at /"
    mount(disk, "22 1 0:30 / / rw,relatime - btrfs /dev/dm-1 rw")
    assert disk.said()[-1] == "root-disk: dm-1 (vg-root) is mounted at /"


def test_both_paths_to_a_disk(disk: Machine) -> None:
    """Multipath: each path is a disk of its own, kpartx makes the partitions."""
    virtual(disk, "dm-0", "253:0", "sda", "sdb")
    virtual(disk, "dm-1", "253:1", "dm-0")
    disk.write("sys/class/block/dm-0/dm/name", "mpatha\n")
    disk.write("sys/class/block/dm-1/dm/name", "mpatha-part1\n")
    mount(disk, "40 22 253:1 / /srv rw,relatime - ext4 /dev/mapper/mpatha-part1 rw")
    assert disk.said() == [
        "block-holder: dm-0 (mpatha) is made of sda",
        "block-holder: dm-1 (mpatha-part1) is made of dm-0",
        "mount: dm-1 (mpatha-part1) is mounted at /srv",
    ]


def test_a_loop_device_on_a_disk(disk: Machine) -> None:
    """loop_attr_backing_file_show in drivers/block/loop.c; it is no holder."""
    virtual(disk, "loop0", "7:0")
    disk.write("sys/class/block/loop0/loop/backing_file", "/dev/sda1\n")
    mount(disk, "40 22 7:0 / /mnt rw,relatime - ext4 /dev/loop0 rw")
    assert disk.said() == [
        "block-holder: loop0 is made of sda1",
        "mount: loop0 is mounted at /mnt",
    ]
    assert disk.usage().uses[0].via == "/sys/class/block/loop0/loop/backing_file"


def test_the_disk_below_an_overlay(disk: Machine) -> None:
    """ovl_show_options in fs/overlayfs/params.c."""
    overlay = (
        "- overlay overlayroot rw,lowerdir=/media/ro,upperdir=/media/rw/up,workdir=/media/rw/w"
    )
    root = f"22 1 0:25 / / rw,relatime {overlay}"
    data = "41 22 8:1 / /data rw,relatime - ext4 /dev/sda1 rw"
    mount(disk, root, "40 22 8:1 / /media/ro ro,relatime - ext4 /dev/sda1 ro", data)
    assert disk.said() == [
        "root-disk: sda1 is mounted at /media/ro",
        "mount: sda1 is mounted at /data",
    ]
    mount(disk, root)
    assert "which disk is below it is not known" in disk.usage().incomplete[0]
    mount(disk, root, data)
    assert disk.said() == ["mount: sda1 is mounted at /data"]


def test_the_disk_that_has_the_image_of_a_live_system(disk: Machine) -> None:
    virtual(disk, "loop0", "7:0")
    disk.write("sys/class/block/loop0/loop/backing_file", "/run/live/medium/fs.squashfs\n")
    mount(
        disk,
        "22 1 0:25 / / rw - overlay overlay rw,lowerdir=/run/live/rootfs/,upperdir=/run/live",
        "23 22 0:26 / /run rw - tmpfs tmpfs rw",
        "24 23 8:1 / /run/live/medium ro - iso9660 /dev/sda1 ro",
        "25 23 7:0 / /run/live/rootfs ro - squashfs /dev/loop0 ro",
    )
    assert disk.said() == ["root-disk: sda1 is mounted at /run/live/medium"]


def test_the_disk_that_has_the_first_program(disk: Machine) -> None:
    """The root is a tmpfs; what the host runs is on a disk at /nix."""
    disk.link("proc/1/exe", "/nix/store/x-systemd/lib/systemd/systemd")
    mount(
        disk,
        "22 1 0:25 / / rw,relatime - tmpfs none rw,size=2097152k,mode=755",
        "40 22 8:1 / /nix rw,relatime - ext4 /dev/sda1 rw",
    )
    assert disk.said() == ["root-disk: sda1 is mounted at /nix"]


def test_no_file_says_which_disks_a_zfs_pool_has(disk: Machine) -> None:
    mount(disk, "40 22 0:50 / /tank rw,relatime - zfs tank/data rw,xattr,noacl")
    usage = disk.usage()
    assert usage.uses == ()
    (said,) = usage.incomplete
    assert said == "There are ZFS pools here (tank), and no file says on which disks."
    mount(disk, "40 22 8:1 / /srv rw - ext4 /dev/sda1 rw")
    disk.write("proc/spl/kstat/zfs/volumes/io", "12 3 0x00 1 80 1 2\n")  # with zvols alone
    assert disk.said() == ["mount: sda1 is mounted at /srv"]
    mount(disk, "22 1 8:16 / / rw - ext4 /dev/sdb rw")
    assert "ZFS pools here (volumes)" in disk.usage().incomplete[0]


def test_zfs_pools_say_nothing_about_what_is_no_disk(disk: Machine) -> None:
    disk.function()
    mount(disk, "40 22 0:50 / /tank rw,relatime - zfs tank rw")
    assert disk.said("65:00.0") == []


def test_udev_has_seen_the_label_of_a_zfs_pool(disk: Machine) -> None:
    """udev's database: what its builtin blkid has found when the partition last changed."""
    label = "N:sda1\nE:ID_FS_TYPE=zfs_member\nE:ID_FS_LABEL=%s\nE:ID_FS_LABEL_ENC=%s\n"
    disk.write("run/udev/data/b8:1", label % ("rpool", "rpool"))
    assert disk.said() == []  # exported: the label stays
    disk.write("proc/spl/kstat/zfs/rpool/io", "12 3 0x00 1 80 1 2\n")
    (use,) = disk.usage().uses
    assert (use.kind, use.detail) == ("block-holder", "sda1 is part of the ZFS pool rpool")
    assert use.via == "/run/udev/data/b8:1"
    mount(disk, "22 1 0:28 / / rw,relatime - zfs rpool/ROOT/debian rw,xattr,posixacl")
    assert disk.said() == ["root-disk: sda1 is part of the ZFS pool rpool"]


@pytest.mark.parametrize(
    "path",
    [
        "sys/kernel/config/nvmet/subsystems/fast/namespaces/1/device_path",
        "sys/kernel/config/target/core/iblock_0/fast/udev_path",
    ],
)
def test_a_disk_that_other_hosts_have(disk: Machine, path: str) -> None:
    disk.link("dev/disk/by-id/ata-X-part1", "../../sda1")
    disk.write(path, "/dev/disk/by-id/ata-X-part1\n")
    disk.write(f"{path.rpartition('/')[0]}/enable", "0\n")
    assert disk.said() == []
    disk.write(f"{path.rpartition('/')[0]}/enable", "1\n")
    (use,) = disk.usage().uses
    assert (use.kind, use.via) == ("block-holder", f"/{path}")
    assert use.detail == "the kernel exports sda1 to other hosts"


def test_texts_that_make_no_sense(disk: Machine) -> None:
    mount(
        disk,
        "40 22 ../../.. / /x rw - xfs /dev/../../sda1 rw,logdev=,rtdev=/dev/\\000x,=",
        "41 22 8:1 / / rw - overlay o rw,lowerdir=::relative,upperdir=",
        "42 22 0:1 / \\057 rw - btrfs  rw",
    )
    disk.link("dev/a", "b")
    disk.link("dev/b", "a")
    virtual(disk, "loop0", "7:0")
    disk.write("sys/class/block/loop0/loop/backing_file", "\0\n")
    disk.write("proc/swaps", "Filename\n/dev/a\n\n")
    assert "root-disk: sda1 is mounted at /" in disk.said()
