"""Which names of disks and interfaces stay in a recording, and which are counted."""

from __future__ import annotations

import pytest

from vfiohost.record.names import shown_disks, shown_files, shown_interfaces

VIRTUAL = "sys/devices/virtual/block"
DISKS = (
    "sda sdab sda1 sdb15 vda xvda1 dasda1 nvme0n1 nvme0c1n1 nvme10n12p3 mmcblk0 mmcblk0boot1 "
    "mmcblk0p1 mmcblk0rpmb md0 md127 md127p1 md_d0 md_d0p1 dm-0 dm-127 loop0 zram0 sr0 nbd0 drbd1 "
    "bcache0 pmem0 pmem0.1 cciss!c0d0 cciss!c0d0p1 rssda"
)


@pytest.mark.parametrize("name", DISKS.split())
def test_names_that_drivers_count_stay(name: str) -> None:
    assert shown_disks({name: f"{VIRTUAL}/{name}"}) == {name: name}


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("md_home", "md_array0"),
        ("md_127", "md_array0"),
        ("md_dacme", "md_array0"),
        ("md_d", "md_array0"),
        ("md127acme", "disk0"),
        ("md12345678", "disk0"),
        ("acme", "disk0"),
        ("sdacmes", "disk0"),
        ("VxVM!acme", "disk0"),
        ("SDA", "disk0"),
        ("nvme0n1acme", "disk0"),
    ],
)
def test_a_disk_that_somebody_named(name: str, shown: str) -> None:
    assert shown_disks({name: f"{VIRTUAL}/{name}"}) == {name: shown}


def test_partitions_are_called_after_their_disk() -> None:
    paths = {
        "md_home": f"{VIRTUAL}/md_home",
        "md_home1": f"{VIRTUAL}/md_home/md_home1",
        "md_7": f"{VIRTUAL}/md_7",
        "md_7p2": f"{VIRTUAL}/md_7/md_7p2",
        "p3": f"{VIRTUAL}/md_7/p3",
        "md0": f"{VIRTUAL}/md0",
        "md0p1": f"{VIRTUAL}/md0/md0p1",
    }
    assert shown_disks(paths) == {
        "md_7": "md_array0",
        "md_7p2": "md_array0p2",
        "md_home": "md_array1",
        "md_home1": "md_array1p1",
        "p3": "disk0",
        "md0": "md0",
        "md0p1": "md0p1",
    }


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
    assert shown_interfaces([name]) == {name: shown}


def test_chosen_names_are_counted() -> None:
    names = ["acme", "lo", "acme2"]
    assert shown_interfaces(names) == {"acme": "net0", "lo": "lo", "acme2": "net1"}


def test_what_was_counted_is_counted_so_again() -> None:
    names = [*(f"acme-{n}" for n in range(12)), *(f"enx{n:012x}" for n in range(12))]
    once = shown_interfaces(names).values()
    assert list(shown_interfaces(sorted(once)).items()) == [(name, name) for name in once]
    disks = shown_disks({f"md_x{n}": f"{VIRTUAL}/md_x{n}" for n in range(12)}).values()
    assert shown_disks({name: f"{VIRTUAL}/{name}" for name in sorted(disks)}) == {
        name: name for name in disks
    }


FILES = {
    "etc/modprobe.d/vfio.conf": "etc/modprobe.d/vfio.conf",
    "etc/modprobe.d/nvidia-installer-disable-nouveau.conf": (
        "etc/modprobe.d/nvidia-installer-disable-nouveau.conf"
    ),
    "etc/modprobe.d/acme-gpu.conf": "etc/modprobe.d/file0.conf",
    "lib/modprobe.d/acme-gpu.conf": "lib/modprobe.d/file0.conf",
    "lib/modprobe.d/customer-7.conf": "lib/modprobe.d/file1.conf",
    "etc/udev/rules.d/99-vfio.rules": "etc/udev/rules.d/99-vfio.rules",
    "etc/udev/rules.d/99-acme.rules": "etc/udev/rules.d/file0.rules",
    "etc/libvirt/hooks/qemu": "etc/libvirt/hooks/qemu",
    "etc/libvirt/hooks/qemu.d/10-acme": "etc/libvirt/hooks/qemu.d/file0",
    "etc/libvirt/hooks/qemu.d/10-gpu": "etc/libvirt/hooks/qemu.d/10-gpu",
    "etc/driverctl.d/pci-0000:65:00.0": "etc/driverctl.d/pci-0000:65:00.0",
    "etc/driverctl.d/pci-acme": None,
    "etc/mdevctl.d/0000:65:00.4/0b5cd3fe-1b2c-4d5e-8f90-123456789abc": (
        "etc/mdevctl.d/0000:65:00.4/0b5cd3fe-1b2c-4d5e-8f90-123456789abc"
    ),
    "etc/mdevctl.d/0000:65:00.4/acme": None,
    "etc/mdevctl.d/acme/0b5cd3fe-1b2c-4d5e-8f90-123456789abc": None,
    "etc/mdevctl.d/scripts.d/acme": None,
    "sys/class/iommu/dmar0": "sys/class/iommu/dmar0",
    "etc/modprobe.d": "etc/modprobe.d",
}


def test_names_of_files_that_somebody_chose_are_counted() -> None:
    assert shown_files(FILES) == FILES
    again = [shown for shown in FILES.values() if shown is not None]
    assert shown_files(again) == {path: path for path in again}
    many = shown_files(f"etc/modprobe.d/acme{n}.conf" for n in range(12)).values()
    assert len(set(many)) == 12
    assert shown_files(filter(None, reversed(many))) == {path: path for path in many}
    taken = shown_files(["etc/modprobe.d/acme.conf", "etc/modprobe.d/file0.conf"])
    assert len(set(taken.values())) == 2
