"""What random sequences on real kernels have found in the simulation: see docs/lab.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.simulation.hosts import NIC, NIC_SIBLING, NVME, NVME_VFS, UUID, Shell, answers
from vfiohost.errors import StoreTimeoutError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vfiohost.testing import Holder

DRIVERS = "sys/bus/pci/drivers"


@pytest.mark.parametrize("verb", ["bind", "unbind"])
def test_no_device_has_a_name_longer_than_a_files(host: Shell, verb: str) -> None:
    # bus_find_device_by_name (drivers/base/bus.c) compares names; it opens no file.
    with answers("ENODEV"):
        host.echo("x" * 256, f"{DRIVERS}/e1000e/{verb}")


@pytest.fixture
def held(host: Shell) -> Iterator[Holder]:
    """A NIC in the middle of an unbind: a process has it open. Its sibling is free."""
    host.unbind("e1000e", NIC_SIBLING)
    host.to_vfio(NIC)
    with host.kernel.open_device(NIC) as holder:
        with pytest.raises(StoreTimeoutError):
            host.unbind("vfio-pci", NIC, timeout=0)
        yield holder


def test_new_id_waits_for_a_device_that_it_matches_by_its_override(
    host: Shell, held: Holder
) -> None:
    # __driver_attach (drivers/base/dd.c) matches first, then takes the lock, then looks whether the
    # device is free.
    with pytest.raises(StoreTimeoutError):
        host.echo("ffff 0001", f"{DRIVERS}/vfio-pci/new_id", timeout=0)
    assert host.driver(NIC) is None
    held.close()
    assert [answer.errno for answer in host.kernel.answers[-2:]] == [0, 0]
    assert host.driver(NIC) == "vfio-pci"


def test_new_id_that_has_waited_is_no_duplicate_of_itself(host: Shell, held: Holder) -> None:
    with pytest.raises(StoreTimeoutError):
        host.echo("8086 10d3", f"{DRIVERS}/vfio-pci/new_id", timeout=0)
    held.close()
    assert host.kernel.answers[-1].errno == 0
    assert host.driver(NIC_SIBLING) == "vfio-pci"
    with answers("EEXIST"):
        host.echo("8086 10d3", f"{DRIVERS}/vfio-pci/new_id")


def test_a_module_load_waits_for_a_device_that_it_matches(host: Shell, held: Holder) -> None:
    host.override(NIC, "igb")
    with pytest.raises(StoreTimeoutError):
        host.kernel.load_module("igb", timeout=0)
    held.close()
    assert host.kernel.pending == []
    assert host.exists(f"{DRIVERS}/igb")


def test_a_driver_waits_for_no_device_that_it_does_not_match(host: Shell, held: Holder) -> None:
    host.echo("8086 37c8", f"{DRIVERS}/e1000e/new_id", timeout=0)


def test_an_id_table_of_classes_has_no_id_without_its_class(host: Shell) -> None:
    # new_id_store (drivers/pci/pci-driver.c) looks an id up with the class that was written, 0.
    with answers("EEXIST"):
        host.echo("8086 5845 ffffffff ffffffff 010802 ffffff", f"{DRIVERS}/nvme/new_id")
    host.echo("8086 5845", f"{DRIVERS}/nvme/new_id")


@pytest.mark.parametrize(
    ("parent", "type_id", "left"), [("mtty", "mtty-2", 12), ("mdpy", "mdpy-hd", 3)]
)
def test_who_counts_mdevs_says_when_a_share_is_given_back(
    host: Shell, parent: str, type_id: str, left: int
) -> None:
    # mtty_release_dev gives it back with the driver, mdev_device_release with the device.
    host.create(parent, type_id, UUID)
    host.echo(UUID, f"sys/bus/mdev/drivers/{parent}/unbind")
    assert host.available(parent, type_id) == left
    host.remove(UUID)
    assert host.available(parent, type_id) == max(left, 4)


def test_a_vf_that_is_being_removed_has_no_link_to_its_pf(host: Shell) -> None:
    # pci_iov_remove_virtfn (drivers/pci/iov.c) removes both links before it stops the device.
    host.numvfs(NVME, "2")
    vf = NVME_VFS[0]
    host.to_vfio(vf)
    with host.kernel.open_device(vf):
        with pytest.raises(StoreTimeoutError):
            host.numvfs(NVME, "0", timeout=0)
        assert not host.exists(f"sys/bus/pci/devices/{NVME}/virtfn0")
        assert host.exists(f"sys/bus/pci/devices/{vf}")
        assert not host.exists(f"sys/bus/pci/devices/{vf}/physfn")
    assert not host.exists(f"sys/bus/pci/devices/{vf}")


def test_a_driver_looks_at_functions_in_the_order_in_which_they_were_found(host: Shell) -> None:
    # bus_add_device (drivers/base/bus.c) puts a device at the end of the list.
    host.unbind("e1000e", NIC_SIBLING)
    host.override(NIC_SIBLING, "vfio-pci")
    host.echo("1", f"sys/bus/pci/devices/{NIC}/remove")
    host.echo("0", "sys/bus/pci/drivers_autoprobe")
    host.echo("1", "sys/bus/pci/rescan")
    host.unbind("e1000e", NIC)
    host.override(NIC, "vfio-pci")
    host.echo("ffff 0001", f"{DRIVERS}/vfio-pci/new_id")
    numbers = [host.ls(f"sys/bus/pci/devices/{address}/vfio-dev") for address in (NIC_SIBLING, NIC)]
    assert numbers == [["vfio0"], ["vfio1"]]


def test_a_group_that_is_not_viable_is_refused_before_its_device(host: Shell) -> None:
    # VFIO_GROUP_SET_CONTAINER comes first: vfio_group_ioctl_set_container (drivers/vfio/group.c).
    host.to_vfio(NIC)
    with answers("EPERM", "ioctl"):
        host.kernel.open_device(NIC_SIBLING)
    host.unbind("e1000e", NIC_SIBLING)
    with answers("ENODEV", "ioctl"):
        host.kernel.open_device(NIC_SIBLING)


def test_an_unbind_that_waited_for_a_device_that_has_gone_is_content(host: Shell) -> None:
    # unbind_store (drivers/base/bus.c) looks at the device before it waits, and not again.
    host.numvfs(NVME, "2")
    vf = NVME_VFS[0]
    host.to_vfio(vf)
    with host.kernel.open_device(vf):
        with pytest.raises(StoreTimeoutError):
            host.numvfs(NVME, "0", timeout=0)
        with pytest.raises(StoreTimeoutError):
            host.unbind("vfio-pci", vf, timeout=0)
    assert not host.exists(f"sys/bus/pci/devices/{vf}")
    assert [answer.errno for answer in host.kernel.answers[-2:]] == [0, 0]
