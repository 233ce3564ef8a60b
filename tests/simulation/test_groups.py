"""Edge cases 53 to 60, 85 and 87: VFIO nodes, and what other processes have open."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

import pytest

from tests.simulation.hosts import (
    GPU,
    NIC,
    NIC_SIBLING,
    NVME,
    UUID,
    Shell,
    answers,
    small_host,
)
from vfiohost import testing
from vfiohost.errors import NotFoundError, StoreTimeoutError
from vfiohost.testing import SimulatedKernel

if TYPE_CHECKING:
    from pathlib import Path

NODE = "dev/vfio/6"


def mode(root: Path, path: str) -> int:
    return (root / path).stat().st_mode & 0o777


def test_53_a_sibling_on_a_host_driver_keeps_the_group_from_vfio(host: Shell) -> None:
    host.to_vfio(NIC)
    with answers("EPERM", "ioctl"):
        host.kernel.open_device(NIC)
    with answers("EPERM", "ioctl"):
        host.kernel.open_group(5)
    host.unbind("e1000e", NIC_SIBLING)
    host.kernel.open_device(NIC).close()
    host.override(NIC_SIBLING, "pci-stub")
    host.bind("pci-stub", NIC_SIBLING)
    host.kernel.open_device(NIC).close()


def test_54_a_group_is_opened_once(host: Shell) -> None:
    host.to_vfio(NVME)
    with host.kernel.open_device(NVME):
        with answers("EBUSY", "open"):
            host.kernel.open_device(NVME)
        with answers("EBUSY", "open"):
            host.kernel.open_group(6)
    host.kernel.open_group(6, owned=False).close()


def test_55_what_is_not_on_vfio_cannot_be_opened(host: Shell) -> None:
    with answers("ENOENT", "open"):
        host.kernel.open_device(NVME)
    with pytest.raises(NotFoundError):
        host.kernel.open_device("0000:77:00.0")
    host.to_vfio(NIC)
    host.unbind("e1000e", NIC_SIBLING)
    with answers("ENODEV", "ioctl"):
        host.kernel.open_device(NIC_SIBLING)


def test_56_a_further_sibling_may_join_while_the_group_is_open(host: Shell) -> None:
    host.unbind("e1000e", NIC_SIBLING)
    host.to_vfio(NIC)
    with host.kernel.open_device(NIC) as holder:
        host.to_vfio(NIC_SIBLING)
        with host.kernel.open_device(NIC_SIBLING, pid=holder.pid):
            assert [each.subject for each in host.kernel.holders] == [NIC, NIC_SIBLING]


def test_57_proc_shows_who_has_what_open(host: Shell, root: Path) -> None:
    host.to_vfio(NVME)
    command = ("/usr/bin/qemu-system-x86_64", "-name", "vm1")
    with host.kernel.open_device(NVME, pid=4711, command=command):
        process = root / "proc/4711"
        targets = sorted(os.readlink(process / "fd" / fd) for fd in os.listdir(process / "fd"))
        assert targets == [
            *["/dev/null"] * 3,
            "/dev/vfio/6",
            "/dev/vfio/vfio",
            "anon_inode:[vfio-device]",
        ]
        assert (process / "comm").read_text() == "qemu-system-x86\n"
        assert (process / "cmdline").read_bytes() == b"/usr/bin/qemu-system-x86_64\0-name\0vm1\0"
        assert host.cat("sys/module/vfio_pci/refcnt") == "1"
    assert not process.exists()
    assert host.cat("sys/module/vfio_pci/refcnt") == "0"


def test_57_a_process_of_the_recording_stays(host: Shell, root: Path) -> None:
    (root / "proc/4711/fd").mkdir(parents=True)
    (root / "proc/4711/fd/5").symlink_to("/dev/null")
    host.to_vfio(NVME)
    host.kernel.open_device(NVME, pid=4711).close()
    assert os.listdir(root / "proc/4711/fd") == ["5"]


def test_58_modes_and_a_node_made_anew_at_each_bind(host: Shell, root: Path) -> None:
    host.to_vfio(NVME)
    assert (mode(root, NODE), mode(root, "dev/vfio/vfio")) == (0o600, 0o666)
    (root / NODE).chmod(0o660)
    host.unbind("vfio-pci", NVME)
    assert not host.exists(NODE)
    host.bind("vfio-pci", NVME)
    assert mode(root, NODE) == 0o600


def test_58_the_node_lives_as_long_as_one_member_is_on_vfio(host: Shell) -> None:
    host.to_vfio(NIC)
    host.to_vfio(NIC_SIBLING)
    host.unbind("vfio-pci", NIC)
    assert host.exists("dev/vfio/5")
    host.unbind("vfio-pci", NIC_SIBLING)
    assert not host.exists("dev/vfio/5")


def test_59_unbind_of_an_open_device_waits_half_done(host: Shell) -> None:
    host.to_vfio(NVME)
    with host.kernel.open_device(NVME):
        with pytest.raises(StoreTimeoutError) as caught:
            host.unbind("vfio-pci", NVME, timeout=0.05)
        assert caught.value.path.endswith("sys/bus/pci/drivers/vfio-pci/unbind")
        assert (caught.value.value, caught.value.pid) == (NVME, None)
        assert host.driver(NVME) is None
        assert NVME not in host.ls("sys/bus/pci/drivers/vfio-pci")
        assert "DRIVER=vfio-pci" in host.uevent(NVME)
        assert host.exists(NODE)
        with pytest.raises(StoreTimeoutError):
            host.unbind("vfio-pci", NVME, timeout=0)
        with pytest.raises(StoreTimeoutError):
            host.numvfs(NVME, "1", timeout=0)
        host.probe(NVME)
        host.override(NVME, "\n")
        assert host.cat(f"sys/bus/pci/devices/{NVME}/driver_override") == "(null)"
    assert "DRIVER=vfio-pci" not in host.uevent(NVME)
    assert not host.exists(NODE)
    assert host.kernel.pending == []


def test_59_no_further_open_while_it_waits(host: Shell) -> None:
    host.to_vfio(NVME)
    with host.kernel.open_device(NVME) as holder:
        with pytest.raises(StoreTimeoutError):
            host.unbind("vfio-pci", NVME, timeout=0)
        with answers("ENODEV", "ioctl"):
            host.kernel.open_device(NVME, pid=holder.pid)


def test_59_a_store_that_waits_comes_back_when_the_holder_closes(host: Shell) -> None:
    host.to_vfio(NVME)
    holder = host.kernel.open_device(NVME)
    closer = threading.Timer(0.2, holder.close)
    began = time.monotonic()
    closer.start()
    host.unbind("vfio-pci", NVME, timeout=60)
    assert 0.15 < time.monotonic() - began < 50
    closer.join()
    assert host.driver(NVME) is None


def test_59_a_bind_that_waits_gets_the_device(host: Shell) -> None:
    host.to_vfio(NVME)
    with host.kernel.open_device(NVME):
        with pytest.raises(StoreTimeoutError):
            host.unbind("vfio-pci", NVME, timeout=0)
        with pytest.raises(StoreTimeoutError):
            host.echo(NVME, "sys/bus/pci/drivers/vfio-pci/bind", timeout=0)
    assert host.driver(NVME) == "vfio-pci"
    assert host.exists(NODE)


def test_59_a_waiting_store_can_still_fail(host: Shell) -> None:
    host.to_vfio(NVME)
    holder = host.kernel.open_device(NVME)
    with pytest.raises(StoreTimeoutError):
        host.unbind("vfio-pci", NVME, timeout=0)
    closer = threading.Timer(0.1, holder.close)
    closer.start()
    with answers("ENOENT"):  # once unbound, nobody can make virtual functions
        host.numvfs(NVME, "1", timeout=10)
    closer.join()


def test_60_a_group_that_is_open_alone_does_not_make_unbind_wait(host: Shell) -> None:
    host.to_vfio(NVME)
    with host.kernel.open_group(6):
        host.unbind("vfio-pci", NVME)
        assert not host.exists(NODE)
        host.override(NVME, "\n")
        host.bind("nvme", NVME)  # the group belongs to nobody any more
        host.to_vfio(NVME)
        assert host.exists(NODE)
        host.kernel.open_device(NVME).close()  # a new node, which nobody has open


def test_83_two_unbinds_at_once_both_succeed(host: Shell) -> None:
    host.to_vfio(NVME)
    holder = host.kernel.open_device(NVME)
    results: list[BaseException | None] = []

    def unbind() -> None:
        try:
            host.unbind("vfio-pci", NVME, timeout=10)
        except BaseException as error:  # noqa: BLE001 - reported below
            results.append(error)
        else:
            results.append(None)

    threads = [threading.Thread(target=unbind) for _ in range(2)]
    for thread in threads:
        thread.start()
    while len(host.kernel.pending) < 2:
        time.sleep(0.01)
    holder.close()
    for thread in threads:
        thread.join()
    assert results == [None, None]


def test_87_vfio_dev_directories_come_and_go(host: Shell) -> None:
    host.to_vfio(NVME)
    host.unbind("e1000e", NIC_SIBLING)
    host.to_vfio(NIC)
    assert host.ls(f"sys/bus/pci/devices/{NVME}/vfio-dev") == ["vfio0"]
    assert host.ls(f"sys/bus/pci/devices/{NIC}/vfio-dev") == ["vfio1"]
    assert not host.exists(f"sys/bus/pci/devices/{NVME}/vfio-dev/vfio0/dev")
    host.unbind("vfio-pci", NVME)
    assert not host.exists(f"sys/bus/pci/devices/{NVME}/vfio-dev")
    assert host.ls("sys/class/vfio-dev") == ["vfio1"]


def test_87_with_iommufd_there_is_a_cdev_too(host: Shell, root: Path) -> None:
    (root / "dev/iommu").touch()
    host.to_vfio(NVME)
    assert host.ls("dev/vfio/devices") == ["vfio0"]
    assert host.cat(f"sys/bus/pci/devices/{NVME}/vfio-dev/vfio0/dev").endswith(":0")
    host.unbind("vfio-pci", NVME)
    assert not host.exists("dev/vfio/devices")


def test_27_enable_is_1_exactly_while_a_device_is_open(host: Shell) -> None:
    device = f"sys/bus/pci/devices/{NVME}"
    host.to_vfio(NVME)
    assert (host.cat(f"{device}/enable"), host.cat(f"{device}/power_state")) == ("0", "D3hot")
    with host.kernel.open_device(NVME):
        assert (host.cat(f"{device}/enable"), host.cat(f"{device}/power_state")) == ("1", "D0")
    assert (host.cat(f"{device}/enable"), host.cat(f"{device}/power_state")) == ("0", "D3hot")


def test_what_is_open_is_known_to_other_objects_and_after_a_restart(
    host: Shell, root: Path
) -> None:
    host.create("mtty", "mtty-1", UUID)
    host.kernel.open_mdev(UUID, pid=4001, command="qemu")
    with pytest.raises(StoreTimeoutError):
        host.remove(UUID, timeout=0)
    other = SimulatedKernel(root)
    (holder,) = other.holders
    assert (holder.pid, holder.subject) == (4001, UUID)
    assert [value for _, value in other.pending] == ["1"]
    holder.close()
    assert (other.holders, other.pending) == ((), [])
    assert host.available("mtty", "mtty-1") == 24
    holder.close()  # twice is harmless


def test_a_device_that_is_on_its_own_driver_is_no_vfio_device(host: Shell) -> None:
    with answers("ENOENT", "open"):
        host.kernel.open_device(GPU)


def test_53_a_process_with_no_container_gets_no_device(host: Shell) -> None:
    host.to_vfio(NVME)
    with host.kernel.open_group(6, owned=False) as group, answers("EINVAL", "ioctl"):
        host.kernel.open_device(NVME, pid=group.pid)


def test_60_a_dead_group_has_no_devices(host: Shell) -> None:
    host.to_vfio(NVME)
    with host.kernel.open_group(6, owned=False) as group:
        host.unbind("vfio-pci", NVME)
        with answers("ENODEV", "ioctl"):
            host.kernel.open_device(NVME, pid=group.pid)


def test_61_the_type_of_a_group_that_nobody_uses(host: Shell) -> None:
    path = "sys/kernel/iommu_groups/6/type"
    with answers("EINVAL"):
        host.echo("bogus", path)
    with answers("EPERM"):
        host.echo("DMA", path)
    host.to_vfio(NVME)
    host.echo("identity\n", path)
    assert host.cat(path) == "identity"
    host.echo("DMA", path)
    with host.kernel.open_device(NVME):
        with answers("EPERM"):
            host.echo("identity", path)
        host.echo("DMA-FQ", path)
    host.echo("identity", path)
    host.echo("auto", path)
    assert host.cat(path) == "DMA-FQ"  # as it was recorded


def test_62_the_group_of_a_mediated_device_has_no_type(host: Shell) -> None:
    host.create("mtty", "mtty-1", UUID)
    group = f"sys/bus/mdev/devices/{UUID}/iommu_group"
    assert (host.cat(f"{group}/type"), host.cat(f"{group}/name")) == ("unknown", "vfio-noiommu")
    with answers("EINVAL"):
        host.echo("identity", f"{group}/type")
    assert host.exists("dev/vfio/4")


@pytest.fixture
def old_host(scratch: Path) -> Shell:
    return Shell(testing.create(small_host("6.1.0-56-amd64"), scratch / "old"))


def test_59_old_kernels_open_what_is_being_unbound(old_host: Shell) -> None:
    old_host.to_vfio(NVME)
    with old_host.kernel.open_device(NVME) as first:
        with pytest.raises(StoreTimeoutError):
            old_host.unbind("vfio-pci", NVME, timeout=0)
        second = old_host.kernel.open_device(NVME, pid=first.pid)
    assert old_host.exists(f"sys/bus/pci/devices/{NVME}/vfio-dev/vfio0")
    second.close()
    assert not old_host.exists(f"sys/bus/pci/devices/{NVME}/vfio-dev")


def test_61_old_kernels_want_a_group_of_one_without_a_driver(old_host: Shell) -> None:
    one, two = (f"sys/kernel/iommu_groups/{number}/type" for number in (6, 5))
    old_host.to_vfio(NVME)
    with answers("EBUSY"):
        old_host.echo("identity", one)
    old_host.unbind("vfio-pci", NVME)
    old_host.echo("identity", one)
    for nic in (NIC, NIC_SIBLING):
        old_host.unbind("e1000e", nic)
    with answers("EINVAL"):
        old_host.echo("identity", two)
