"""Edge cases 84 to 87: devices opened by their own nodes, iommufd, and VFIO without an IOMMU.

What Linux answers is the subject of the lab's cases, which run on both. These tests need no lab.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import attrs
import pytest

from tests.simulation.hosts import (
    NIC,
    NIC_SIBLING,
    NO_GROUP,
    NVME,
    UUID,
    Shell,
    answers,
    small_host,
)
from vfiohost import testing
from vfiohost.errors import KernelError, NotFoundError, StoreTimeoutError
from vfiohost.host import Host
from vfiohost.record import capture
from vfiohost.recording import File, Module
from vfiohost.testing import Cdev, Iommufd, SimulatedKernel

if TYPE_CHECKING:
    from pathlib import Path

MODE = "sys/module/vfio/parameters/enable_unsafe_noiommu_mode"
DEVICES = "sys/bus/pci/devices"


@pytest.fixture
def root(scratch: Path) -> Path:
    """The small host with a kernel that has iommufd, and VFIO without an IOMMU."""
    host = small_host()
    modules = [m for m in host.modules if m.name != "vfio"]
    modules += [Module("iommufd"), Module("vfio", depends=("iommufd",))]
    devices = b"Character devices:\n  1 mem\n252 vfio-dev\n253 vfio\n\nBlock devices:\n253 vfio\n"
    contents = {"proc/devices": devices, MODE: b"N\n", "proc/sys/kernel/tainted": b"1\n"}
    files = tuple(File(path, content) for path, content in contents.items())
    testing.create(attrs.evolve(host, modules=tuple(modules), files=files), scratch / "host")
    return scratch / "host"


@pytest.fixture
def cdev(host: Shell) -> Cdev:
    host.to_vfio(NVME)
    return host.kernel.open_cdev(NVME, pid=4711)


@pytest.fixture
def iommufd(host: Shell) -> Iommufd:
    return host.kernel.open_iommufd(pid=4711)


def free_nics(host: Shell) -> tuple[Cdev, Cdev]:
    host.to_vfio(NIC)
    host.to_vfio(NIC_SIBLING)
    return host.kernel.open_cdev(NIC), host.kernel.open_cdev(NIC_SIBLING)


def test_87_nodes_of_a_kernel_with_iommufd(host: Shell, root: Path) -> None:
    assert (root / "dev/iommu").stat().st_mode & 0o777 == 0o660
    host.to_vfio(NVME)
    device = f"{DEVICES}/{NVME}/vfio-dev/vfio0"
    assert host.ls("dev/vfio/devices") == ["vfio0"]
    assert (host.cat(f"{device}/dev"), host.cat("sys/class/vfio/6/dev")) == ("252:0", "253:0")
    assert os.path.samefile(root / device, root / "sys/class/vfio-dev/vfio0")
    assert os.path.samefile(root / f"{device}/device", root / f"{DEVICES}/{NVME}")
    host.create("mtty", "mtty-1", UUID)
    assert host.ls("dev/vfio/devices") == ["vfio0", "vfio1"]
    assert host.cat("sys/class/vfio/4/dev") == "253:1"
    host.unbind("vfio-pci", NVME)
    host.remove(UUID)
    assert host.ls("dev/vfio") == ["vfio"]
    assert host.ls("sys/class/vfio") == host.ls("sys/class/vfio-dev") == []


def test_a_kernel_without_iommufd_has_no_such_nodes(scratch: Path) -> None:
    kernel = testing.create(small_host(), scratch / "plain")
    Shell(kernel).to_vfio(NVME)
    with answers("ENOENT", "open"):
        kernel.open_cdev(NVME)
    with answers("ENOENT", "open"):
        kernel.open_iommufd()


def test_only_what_is_on_vfio_has_a_node(host: Shell) -> None:
    with answers("ENOENT", "open"):
        host.kernel.open_cdev(NVME)
    with pytest.raises(NotFoundError):
        host.kernel.open_cdev("0000:77:00.0")


def test_84_before_bind_iommufd_nothing_works(cdev: Cdev, iommufd: Iommufd) -> None:
    ioas = iommufd.alloc_ioas()
    with answers("EINVAL", "ioctl"):
        cdev.attach(ioas)
    with answers("EINVAL", "ioctl"):
        cdev.detach()


def test_84_what_bind_iommufd_refuses(host: Shell, cdev: Cdev, iommufd: Iommufd) -> None:
    for given, code in ((None, "EINVAL"), (cdev, "EBADFD")):
        with answers(code, "ioctl"):
            cdev.bind_iommufd(given)
    closed = host.kernel.open_iommufd()
    closed.close()
    with answers("EBADF", "ioctl"):
        cdev.bind_iommufd(closed)
    with host.kernel.open_group(6, owned=False), answers("EBUSY", "ioctl"):
        cdev.bind_iommufd(iommufd)
    cdev.bind_iommufd(iommufd)
    for again in (cdev, host.kernel.open_cdev(NVME)):
        with answers("EINVAL", "ioctl"):
            again.bind_iommufd(iommufd)


def test_a_refused_ioctl_says_which_one(cdev: Cdev) -> None:
    with pytest.raises(KernelError) as caught:
        cdev.bind_iommufd(None)
    assert caught.value.value == "BIND_IOMMUFD"


def test_84_a_bound_device_keeps_its_group(host: Shell, cdev: Cdev, iommufd: Iommufd) -> None:
    host.kernel.open_group(6).close()
    cdev.bind_iommufd(iommufd)
    with answers("EBUSY", "open"):
        host.kernel.open_group(6)
    with answers("EBUSY", "open"):
        host.kernel.open_device(NVME, pid=cdev.pid)
    cdev.close()
    host.kernel.open_device(NVME).close()


def test_84_address_spaces(cdev: Cdev, iommufd: Iommufd) -> None:
    cdev.bind_iommufd(iommufd)
    with answers("ENOENT", "ioctl"):
        cdev.attach(1)
    first, second = iommufd.alloc_ioas(), iommufd.alloc_ioas()
    assert (first, second) == (1, 2)
    cdev.attach(first)
    with answers("EBUSY", "ioctl"):
        iommufd.destroy(first)
    cdev.attach(second)
    iommufd.destroy(first)
    cdev.detach()
    iommufd.destroy(second)
    with answers("ENOENT", "ioctl"):
        iommufd.destroy(second)
    assert iommufd.alloc_ioas() == 1


def test_84_a_group_has_one_iommufd_and_one_address_space(host: Shell) -> None:
    one, other = free_nics(host)
    mine, theirs = host.kernel.open_iommufd(), host.kernel.open_iommufd()
    one.bind_iommufd(mine)
    with answers("EPERM", "ioctl"):
        other.bind_iommufd(theirs)
    other.bind_iommufd(mine)
    first, second = mine.alloc_ioas(), mine.alloc_ioas()
    one.attach(first)
    with answers("EINVAL", "ioctl"):
        other.attach(second)
    other.attach(first)
    one.attach(second)  # takes the other along
    mine.destroy(first)


def test_an_iommufd_lives_as_long_as_something_is_bound_to_it(host: Shell) -> None:
    one, other = free_nics(host)
    iommufd = host.kernel.open_iommufd()
    ioas = iommufd.alloc_ioas()
    one.bind_iommufd(iommufd)
    iommufd.close()
    one.attach(ioas)
    with answers("EBADF", "ioctl"):
        other.bind_iommufd(iommufd)
    with answers("EBADF", "ioctl"):
        iommufd.alloc_ioas()
    one.close()
    with answers("EBADF", "ioctl"):
        one.attach(ioas)


def test_84_a_siblings_driver_keeps_the_group(host: Shell) -> None:
    host.to_vfio(NIC)
    cdev, iommufd = host.kernel.open_cdev(NIC), host.kernel.open_iommufd()
    with answers("EPERM", "ioctl"):
        cdev.bind_iommufd(iommufd)
    host.unbind("e1000e", NIC_SIBLING)
    host.bind("e1000e", NIC_SIBLING)  # a cdev that is merely open owns nothing
    host.unbind("e1000e", NIC_SIBLING)
    cdev.bind_iommufd(iommufd)
    with answers("EBUSY"):
        host.bind("e1000e", NIC_SIBLING)


def test_85_unbind_waits_for_a_cdev_that_is_merely_open(host: Shell, cdev: Cdev) -> None:
    with pytest.raises(StoreTimeoutError):
        host.unbind("vfio-pci", NVME, timeout=0)
    assert not host.exists("dev/vfio/devices")
    assert host.exists("dev/vfio/6")
    with answers("ENOENT", "open"):
        host.kernel.open_cdev(NVME)
    host.to_vfio(NIC)
    assert host.ls(f"{DEVICES}/{NIC}/vfio-dev") == ["vfio1"]  # vfio0 is still taken
    cdev.close()
    assert host.kernel.pending == []
    assert not host.exists("dev/vfio/6")


def test_85_a_device_with_a_reset_is_not_bound_while_its_driver_goes(
    host: Shell, cdev: Cdev, iommufd: Iommufd, root: Path
) -> None:
    with pytest.raises(StoreTimeoutError):
        host.unbind("vfio-pci", NVME, timeout=0)
    (root / DEVICES / NVME / "reset").touch()
    with answers("EAGAIN", "ioctl"):
        cdev.bind_iommufd(iommufd)
    (root / DEVICES / NVME / "reset").unlink()
    cdev.bind_iommufd(iommufd)


def test_what_is_open_shows_in_proc_and_to_other_objects(
    host: Shell, cdev: Cdev, iommufd: Iommufd, root: Path
) -> None:
    targets = {os.readlink(fd) for fd in (root / "proc/4711/fd").iterdir()}
    assert targets == {"/dev/null", "/dev/vfio/devices/vfio0", "/dev/iommu"}
    assert host.cat(f"{DEVICES}/{NVME}/enable") == "0"
    cdev.bind_iommufd(iommufd)
    assert host.cat(f"{DEVICES}/{NVME}/enable") == "1"
    assert host.cat("sys/module/vfio_pci/refcnt") == "1"
    seen, other = SimulatedKernel(root).holders
    assert isinstance(seen, Cdev)
    assert isinstance(other, Iommufd)
    assert (seen.subject, seen.group, other.group) == (NVME, 6, None)
    assert repr(other) == "<Iommufd: pid 4711 has iommufd open>"
    seen.attach(other.alloc_ioas())
    seen.close()
    assert host.cat(f"{DEVICES}/{NVME}/enable") == "0"
    assert host.cat("sys/module/vfio_pci/refcnt") == "0"


def test_a_mediated_device_has_a_node_too(host: Shell, iommufd: Iommufd) -> None:
    host.create("mtty", "mtty-1", UUID)
    cdev = host.kernel.open_cdev(UUID)
    cdev.bind_iommufd(iommufd)
    cdev.attach(iommufd.alloc_ioas())
    with pytest.raises(StoreTimeoutError):
        host.remove(UUID, timeout=0)
    cdev.close()
    assert not host.exists(f"sys/bus/mdev/devices/{UUID}")


def test_86_without_an_iommu(host: Shell, root: Path) -> None:
    host.override(NO_GROUP, "vfio-pci")
    with answers("EINVAL"):
        host.bind("vfio-pci", NO_GROUP)
    host.probe(NO_GROUP)
    assert host.driver(NO_GROUP) is None
    with answers("EINVAL"):
        host.echo("maybe", MODE)
    host.echo("on", MODE)
    assert host.cat(MODE) == "Y"
    host.bind("vfio-pci", NO_GROUP)
    assert host.ls("dev/vfio") == ["noiommu-4", "vfio"]
    assert host.cat(f"{DEVICES}/{NO_GROUP}/iommu_group/name") == "vfio-noiommu"
    assert not host.exists(f"{DEVICES}/{NO_GROUP}/vfio-dev/vfio0/dev")
    assert host.cat("proc/sys/kernel/tainted") == "65"  # with what there was
    with Host(str(root), kernel=host.kernel) as product:
        assert product.vfio_nodes() == {4: "/dev/vfio/noiommu-4"}
    with answers("ENOENT", "open"):
        host.kernel.open_cdev(NO_GROUP)
    with answers("ENODEV", "ioctl"):
        host.kernel.open_device(NO_GROUP)
    with host.kernel.open_device(NO_GROUP, noiommu=True):
        with pytest.raises(StoreTimeoutError):
            host.unbind("vfio-pci", NO_GROUP, timeout=0)
        assert host.ls("dev/vfio") == ["noiommu-4", "vfio"]
    assert host.ls("dev/vfio") == ["vfio"]
    assert not host.exists(f"{DEVICES}/{NO_GROUP}/iommu_group")
    assert not host.exists("sys/kernel/iommu_groups/4")


def test_86_a_host_that_is_recorded_so_comes_back(host: Shell, root: Path) -> None:
    host.echo("1", MODE)
    host.override(NO_GROUP, "vfio-pci")
    host.bind("vfio-pci", NO_GROUP)
    host.create("mtty", "mtty-1", UUID)
    recorded = capture(host.kernel.sysfs, title="t", source="recorded from a test")
    again = Shell(testing.create(recorded, root.parent / "again"))
    assert again.ls("dev/vfio") == host.ls("dev/vfio") == ["9", "devices", "noiommu-4", "vfio"]
    assert again.cat(MODE) == "Y"
    assert again.cat("sys/class/vfio/noiommu-4/dev").startswith("253:")
    again.kernel.open_device(NO_GROUP, noiommu=True).close()


def test_86_a_container_without_an_iommu_takes_no_other_device(host: Shell) -> None:
    host.to_vfio(NVME)
    with answers("ENODEV", "ioctl"):
        host.kernel.open_device(NVME, noiommu=True)


def test_what_the_modules_bring_comes_again_with_them(host: Shell) -> None:
    host.echo("1", MODE)
    with host.kernel.open_iommufd():
        for module in ("vfio_pci", "vfio"):  # here, each names what it needs itself alone
            host.kernel.unload_module(module, timeout=5)
        assert host.exists("dev/iommu")
        assert not host.exists(MODE)
        assert not host.exists("sys/class/vfio")
    host.kernel.unload_module("iommufd", timeout=5)
    assert not host.exists("dev/iommu")
    host.kernel.load_module("vfio_pci", timeout=5)
    assert host.exists("dev/iommu")
    assert host.cat(MODE) == "N"
    host.to_vfio(NVME)
    host.kernel.open_cdev(NVME).close()
