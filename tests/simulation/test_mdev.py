"""Edge cases 64 to 73: mediated devices."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import attrs
import pytest

from tests.simulation.hosts import (
    GPU_VFS,
    UUID,
    UUID_2,
    UUID_3,
    Shell,
    answers,
    small_host,
)
from vfiohost import testing
from vfiohost.errors import StoreTimeoutError

if TYPE_CHECKING:
    from pathlib import Path

VF, OTHER_VF = GPU_VFS
REMOVE = f"sys/bus/mdev/devices/{UUID}/remove"


def uuids(count: int) -> list[str]:
    return [f"00000000-0000-4000-8000-{number:012x}" for number in range(count)]


def test_64_a_uuid_that_is_taken_is_eexist_everywhere(host: Shell) -> None:
    host.create("mtty", "mtty-1", UUID)
    for parent, type_id in (("mtty", "mtty-1"), ("mtty", "mtty-2"), ("mdpy", "mdpy-hd")):
        with answers("EEXIST"):
            host.create(parent, type_id, UUID)
    with answers("EEXIST"):
        host.create("mtty", "mtty-1", UUID.upper())


@pytest.mark.parametrize("text", [UUID.upper(), f"{UUID}\n", f"{UUID}x"])
def test_65_upper_case_and_one_more_byte_are_taken(host: Shell, text: str) -> None:
    host.create("mtty", "mtty-1", text)
    assert host.ls("sys/bus/mdev/devices") == [UUID]


@pytest.mark.parametrize(
    "text",
    [UUID.replace("-", ""), f"{{{UUID}}}", f"{UUID}\n\n", "garbage", UUID[:-1], f" {UUID}", "\n"],
)
def test_65_anything_else_is_einval(host: Shell, text: str) -> None:
    with answers("EINVAL"):
        host.create("mtty", "mtty-1", text)
    assert host.ls("sys/bus/mdev/devices") == []


def test_65_the_nil_uuid_is_taken_and_an_empty_write_does_nothing(host: Shell) -> None:
    nil = "00000000-0000-0000-0000-000000000000"
    host.create("mtty", "mtty-1", nil)
    host.create("mtty", "mtty-1", "")
    assert host.ls("sys/bus/mdev/devices") == [nil]


def test_66_mtty_is_enospc_when_exhausted_and_its_types_share_a_pool(host: Shell) -> None:
    for uuid in uuids(11):
        host.create("mtty", "mtty-2", uuid)
    assert (host.available("mtty", "mtty-1"), host.available("mtty", "mtty-2")) == (2, 1)
    host.create("mtty", "mtty-1", UUID)
    assert (host.available("mtty", "mtty-1"), host.available("mtty", "mtty-2")) == (1, 0)
    with answers("ENOSPC"):
        host.create("mtty", "mtty-2", UUID_2)
    host.create("mtty", "mtty-1", UUID_2)
    with answers("ENOSPC"):
        host.create("mtty", "mtty-1", UUID_3)


def test_66_mdpy_is_eusers_when_exhausted(host: Shell) -> None:
    for uuid in uuids(4):
        host.create("mdpy", "mdpy-hd", uuid)
    with answers("EUSERS"):
        host.create("mdpy", "mdpy-vga", UUID)


def test_66_the_uuid_is_looked_at_before_what_is_left(host: Shell) -> None:
    for uuid in uuids(4):
        host.create("mdpy", "mdpy-hd", uuid)
    with answers("EEXIST"):
        host.create("mdpy", "mdpy-hd", uuids(1)[0])
    with answers("EINVAL"):
        host.create("mdpy", "mdpy-hd", "garbage")


def test_66_nvidia_types_are_homogeneous_and_one_per_vf(host: Shell) -> None:
    def left() -> list[tuple[int, int]]:
        return [
            (host.available(vf, "nvidia-594"), host.available(vf, "nvidia-596")) for vf in GPU_VFS
        ]

    assert left() == [(1, 1), (1, 1)]
    host.create(VF, "nvidia-596", UUID)
    assert left() == [(0, 0), (0, 1)]
    with answers("EUSERS"):
        host.create(VF, "nvidia-596", UUID_2)
    with answers("EUSERS"):
        host.create(OTHER_VF, "nvidia-594", UUID_2)
    host.create(OTHER_VF, "nvidia-596", UUID_2)
    assert left() == [(0, 0), (0, 0)]
    host.remove(UUID)
    host.remove(UUID_2)
    assert left() == [(1, 1), (1, 1)]


def test_66_a_type_that_is_not_there_is_enoent_at_open(host: Shell) -> None:
    with answers("ENOENT", "open"):
        host.create("mtty", "mtty-3", UUID)
    with answers("ENOENT", "open"):
        host.create("no-such-parent", "mtty-1", UUID)


def test_67_remove(host: Shell) -> None:
    with answers("ENOENT", "open"):
        host.remove(UUID)
    host.create("mtty", "mtty-1", UUID)
    for value in ("garbage", "-1", "1 1", "\n"):
        with answers("EINVAL"):
            host.echo(value, REMOVE)
    host.echo("0", REMOVE)
    assert host.ls("sys/bus/mdev/devices") == [UUID]
    host.echo("0x10\n", REMOVE)  # any number but 0
    assert host.ls("sys/bus/mdev/devices") == []


def test_68_69_remove_waits_for_an_open_device_and_leaves_an_invisible_zombie(host: Shell) -> None:
    host.create("mtty", "mtty-1", UUID)
    group = host.kernel.sysfs.link_name(f"sys/bus/mdev/devices/{UUID}/iommu_group")
    with host.kernel.open_mdev(UUID):
        with pytest.raises(StoreTimeoutError):
            host.remove(UUID, timeout=0.05)
        assert host.ls("sys/bus/mdev/devices") == []
        assert host.available("mtty", "mtty-1") == 23
        assert host.exists(f"dev/vfio/{group}")
        with answers("EEXIST"):
            host.create("mtty", "mtty-1", UUID)
        with answers("EEXIST"):
            host.create("mdpy", "mdpy-hd", UUID)
        with answers("ENOENT", "open"):
            host.remove(UUID)
    assert host.available("mtty", "mtty-1") == 24
    assert not host.exists(f"dev/vfio/{group}")
    host.create("mtty", "mtty-1", UUID)


def test_68_while_the_parent_goes_remove_is_enodev(scratch: Path) -> None:
    recording = small_host()
    table = attrs.evolve(recording.mdev_tables[0], scope="parent", per_parent=None)
    recording = attrs.evolve(recording, mdev_tables=(table, *recording.mdev_tables[1:]))
    host = Shell(testing.create(recording, scratch / "host"))
    host.create(VF, "nvidia-594", UUID)
    host.create(VF, "nvidia-594", UUID_2)
    with host.kernel.open_mdev(UUID):
        with pytest.raises(StoreTimeoutError):
            host.unbind("nvidia", VF, timeout=0)
        with answers("ENODEV"):
            host.remove(UUID_2)
    assert host.ls("sys/bus/mdev/devices") == []


def test_68_a_write_that_comes_after_the_removal_is_enodev(host: Shell) -> None:
    host.create("mtty", "mtty-1", UUID)
    host.kernel.delay("*/remove", 600)
    with pytest.raises(StoreTimeoutError):
        host.remove(UUID, timeout=0)
    host.remove(UUID)
    host.end_delays()
    assert host.kernel.pending == []
    late, _ = host.kernel.answers[-2:]
    assert late.errno == errno.ENODEV
    assert host.available("mtty", "mtty-1") == 24


def test_70_a_driverless_mdev_can_only_be_removed(host: Shell) -> None:
    host.create("mtty", "mtty-1", UUID)
    host.echo(UUID, "sys/bus/mdev/drivers/mtty/unbind")
    device = f"sys/bus/mdev/devices/{UUID}"
    assert not host.exists(f"{device}/driver")
    assert not host.exists(f"{device}/iommu_group")
    with answers("ENODEV"):
        host.echo(UUID, "sys/bus/mdev/drivers/mtty/bind")
    with answers("ENODEV"):
        host.echo(UUID, "sys/bus/mdev/drivers/mtty/unbind")
    host.echo(UUID, "sys/bus/mdev/drivers_probe")
    assert not host.exists(f"{device}/driver")
    host.remove(UUID)
    assert host.available("mtty", "mtty-1") == 24


def test_71_unbinding_the_parents_driver_removes_idle_mdevs_and_the_types(host: Shell) -> None:
    host.create(VF, "nvidia-596", UUID)
    host.unbind("nvidia", VF)
    assert host.ls("sys/bus/mdev/devices") == []
    assert not host.exists(f"sys/class/mdev_bus/{VF}")
    assert not host.exists(f"sys/bus/pci/devices/{VF}/mdev_supported_types")
    assert host.available(OTHER_VF, "nvidia-594") == 1
    host.bind("nvidia", VF)
    assert host.available(VF, "nvidia-596") == 1


def test_71_an_open_mdev_keeps_the_parents_driver_waiting(host: Shell) -> None:
    host.create(VF, "nvidia-596", UUID)
    with host.kernel.open_mdev(UUID):
        with pytest.raises(StoreTimeoutError):
            host.unbind("nvidia", VF, timeout=0.05)
        assert not host.exists(f"sys/class/mdev_bus/{VF}")
        assert host.driver(VF) is None
        assert "DRIVER=nvidia" in host.uevent(VF)
        types = f"sys/bus/pci/devices/{VF}/mdev_supported_types"
        with answers("ENODEV"):  # the parent is being unregistered
            host.echo(UUID_2, f"{types}/nvidia-596/create")
    assert not host.exists(f"sys/bus/pci/devices/{VF}/mdev_supported_types")
    assert "DRIVER=nvidia" not in host.uevent(VF)


def test_72_a_virtual_parent_and_what_a_new_device_has(host: Shell) -> None:
    host.create("mtty", "mtty-1", UUID)
    device = f"sys/bus/mdev/devices/{UUID}"
    sysfs = host.kernel.sysfs
    assert sysfs.readlink(device) == f"../../../devices/virtual/mtty/mtty/{UUID}"
    assert sysfs.link_name(f"{device}/mdev_type") == "mtty-1"
    assert sysfs.link_name(f"{device}/driver") == "mtty"
    assert sysfs.link_name(f"{device}/subsystem") == "mdev"
    types = "sys/class/mdev_bus/mtty/mdev_supported_types"
    assert host.ls(f"{types}/mtty-1/devices") == [UUID]
    assert host.ls("sys/bus/mdev/drivers/mtty") == [UUID, "bind", "unbind"]
    assert not host.exists(f"{types}/mtty-1/description")
    group = sysfs.link_name(f"{device}/iommu_group")
    assert host.cat(f"sys/kernel/iommu_groups/{group}/name") == "vfio-noiommu"
    assert host.cat(f"sys/kernel/iommu_groups/{group}/type") == "unknown"
    assert host.exists(f"dev/vfio/{group}")


def test_73_attributes_of_the_device_can_be_written_after_it_was_made(host: Shell) -> None:
    host.create(VF, "nvidia-596", UUID)
    parameters = f"sys/bus/mdev/devices/{UUID}/nvidia/vgpu_params"
    host.echo("enable_uvm=1\n", parameters)
    assert host.cat(parameters) == "enable_uvm=1"


def test_a_device_leaves_nothing_behind(host: Shell, root: Path) -> None:
    before = sorted(str(p) for p in root.rglob("*"))
    host.create("mdpy", "mdpy-hd", UUID)
    host.remove(UUID)
    assert sorted(str(p) for p in root.rglob("*")) == before
