"""Edge cases 10, 14, 22 and 71: modules that are unloaded, and stores that are not root's."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import attrs
import pytest

from tests.simulation.hosts import (
    GPU,
    GPU_VFS,
    NIC,
    NIC_SIBLING,
    NVME,
    UUID,
    UUID_2,
    Shell,
    answers,
    small_host,
)
from vfiohost import testing
from vfiohost.errors import KernelError, StoreTimeoutError
from vfiohost.recording import Module

if TYPE_CHECKING:
    from pathlib import Path

MODULES = "sys/module"


@pytest.fixture
def host(scratch: Path) -> Shell:
    """The small host, with the modules of its mediated devices and of VFIO's container."""
    recording = small_host()
    more = (
        Module("mdev"),
        Module("mtty", depends=("vfio", "mdev")),
        Module("mdpy", depends=("vfio", "mdev")),
        Module("vfio_iommu_type1", depends=("vfio",)),
    )
    # As in modules.dep, which names what is needed by what is needed, too.
    kept = (
        attrs.evolve(each, depends=(*each.depends, "vfio")) if each.name == "vfio_pci" else each
        for each in recording.modules
    )
    modules = (*kept, *more)
    return Shell(testing.create(attrs.evolve(recording, modules=modules), scratch / "host"))


def unload(host: Shell, name: str) -> None:
    host.kernel.unload_module(name, timeout=1)


def load(host: Shell, name: str) -> None:
    host.kernel.load_module(name, timeout=1)


def loaded(host: Shell, *names: str) -> list[bool]:
    return [host.exists(f"{MODULES}/{name}") for name in names]


@pytest.mark.parametrize("name", ["vfio_pci", "vfio-pci"])
def test_14_unloading_takes_the_driver_from_its_idle_devices(host: Shell, name: str) -> None:
    host.to_vfio(NIC)
    host.to_vfio(NVME)
    unload(host, name)
    assert (host.driver(NIC), host.driver(NVME)) == (None, None)
    assert not host.exists("sys/bus/pci/drivers/vfio-pci")
    assert not host.exists("dev/vfio/5")
    with answers("ENOENT", "open"):
        host.bind("vfio-pci", NIC)
    assert host.cat(f"sys/bus/pci/devices/{NIC}/driver_override") == "vfio-pci"


def test_14_what_it_alone_needed_goes_too(host: Shell) -> None:
    unload(host, "vfio_pci")
    # Others need vfio; what is loaded after it goes before it all the same.
    assert loaded(host, "vfio_pci", "vfio_pci_core", "vfio_iommu_type1") == [False] * 3
    assert loaded(host, "vfio", "mtty", "mdpy") == [True] * 3
    assert host.ls(f"{MODULES}/vfio/holders") == ["mdpy", "mtty"]
    assert host.cat(f"{MODULES}/vfio/refcnt") == "2"
    load(host, "vfio_pci")
    host.to_vfio(NIC)
    assert host.cat(f"{MODULES}/vfio/refcnt") == "4"


def test_14_a_module_with_an_open_device_is_in_use(host: Shell) -> None:
    host.to_vfio(NVME)
    with host.kernel.open_device(NVME):
        with answers("EBUSY", "unload"):
            unload(host, "vfio_pci")
        assert host.driver(NVME) == "vfio-pci"
    unload(host, "vfio_pci")


def test_14_a_stuck_unbind_keeps_the_module_in_use(host: Shell) -> None:
    host.to_vfio(NVME)
    holder = host.kernel.open_device(NVME)
    with pytest.raises(StoreTimeoutError):
        host.unbind("vfio-pci", NVME, timeout=0)
    with answers("EBUSY", "unload"):
        unload(host, "vfio_pci")
    holder.close()
    unload(host, "vfio_pci")


def test_14_a_module_that_others_need_is_in_use(host: Shell) -> None:
    for name in ("vfio", "vfio_pci_core", "mdev", "nvme_core"):
        with answers("EBUSY", "unload"):
            unload(host, name)
    assert loaded(host, "vfio", "vfio_pci_core", "mdev", "nvme_core") == [True] * 4


def test_14_a_group_that_is_open_keeps_vfio_alone(host: Shell) -> None:
    host.to_vfio(NIC)
    for name in ("mtty", "mdpy"):
        unload(host, name)
    with host.kernel.open_group(5, owned=False):
        unload(host, "vfio_pci")
        assert loaded(host, "vfio_pci", "vfio") == [False, True]
        with answers("EBUSY", "unload"):
            unload(host, "vfio")
    unload(host, "vfio")
    assert loaded(host, "vfio") == [False]
    assert not host.exists("dev/vfio")
    load(host, "vfio_pci")  # which takes what has its override
    assert host.ls("dev/vfio") == ["5", "vfio"]
    assert loaded(host, "vfio_iommu_type1") == [True]


def test_14_what_is_not_there_cannot_be_unloaded(host: Shell) -> None:
    for name in ("no_such_module", "pcieportdrv"):  # the second one is built in
        with answers("ENOENT", "unload"):
            unload(host, name)
    unload(host, "igb")  # not loaded: nothing to do
    assert host.kernel.answers[-1].verb == "unload"
    assert (host.kernel.stores, host.kernel.loads) == ([], [])


def test_14_unloading_can_be_refused(host: Shell) -> None:
    host.kernel.refuse("module/nvme", 1)
    with pytest.raises(KernelError, match="Cannot unload module nvme: Operation not permitted"):
        unload(host, "nvme")
    assert host.driver(NVME) == "nvme"


def test_10_a_driver_that_is_loaded_again_takes_what_no_override_keeps(host: Shell) -> None:
    unload(host, "e1000e")
    assert (host.driver(NIC), host.driver(NIC_SIBLING)) == (None, None)
    host.override(NIC, "vfio-pci")
    load(host, "e1000e")
    assert (host.driver(NIC), host.driver(NIC_SIBLING)) == (None, "e1000e")


def test_11_without_autoprobe_a_driver_that_is_loaded_takes_nothing(host: Shell) -> None:
    unload(host, "e1000e")
    host.echo("0", "sys/bus/pci/drivers_autoprobe")
    load(host, "e1000e")
    assert host.driver(NIC) is None


def test_24_dynamic_ids_go_with_the_driver(host: Shell) -> None:
    host.echo("1234 5678", "sys/bus/pci/drivers/vfio-pci/new_id")
    unload(host, "vfio_pci")
    load(host, "vfio_pci")
    host.echo("1234 5678", "sys/bus/pci/drivers/vfio-pci/new_id")  # else it would exist


def test_71_idle_mediated_devices_go_without_a_word(host: Shell) -> None:
    host.create("mtty", "mtty-1", UUID)
    host.create("mdpy", "mdpy-hd", UUID_2)
    unload(host, "mtty")
    assert host.ls("sys/bus/mdev/devices") == [UUID_2]
    assert "mtty" not in host.ls("sys/class/mdev_bus")
    assert host.ls("sys/bus/mdev/drivers") == ["mdpy", "nvidia-vgpu-vfio"]
    assert not host.exists("sys/devices/virtual/mtty")
    load(host, "mtty")
    assert host.available("mtty", "mtty-1") == 24
    host.create("mtty", "mtty-1", UUID)


def test_71_the_vgpus_of_a_driver_go_with_it(host: Shell) -> None:
    host.create(GPU_VFS[0], "nvidia-594", UUID)
    unload(host, "nvidia")
    assert not host.exists(f"sys/bus/mdev/devices/{UUID}")
    assert host.ls("sys/class/mdev_bus") == ["mdpy", "mtty"]
    assert host.ls("sys/bus/mdev/drivers") == ["mdpy", "mtty"]
    assert {host.driver(address) for address in (GPU, *GPU_VFS)} == {None}
    load(host, "nvidia")
    host.create(GPU_VFS[0], "nvidia-594", UUID)


@pytest.mark.parametrize(
    ("parent", "type_id", "module"),
    [("mtty", "mtty-1", "mtty"), (GPU_VFS[0], "nvidia-594", "nvidia")],
)
def test_71_an_open_mediated_device_keeps_its_module(
    host: Shell, parent: str, type_id: str, module: str
) -> None:
    host.create(parent, type_id, UUID)
    holder = host.kernel.open_mdev(UUID)
    with answers("EBUSY", "unload"):
        unload(host, module)
    # Nor does it go while a removal waits for the device that nobody sees any more.
    with pytest.raises(StoreTimeoutError):
        host.remove(UUID, timeout=0)
    with answers("EBUSY", "unload"):
        unload(host, module)
    holder.close()
    unload(host, module)
    assert host.ls("sys/bus/mdev/devices") == []


def test_71_without_any_parent_the_bus_goes(host: Shell) -> None:
    for name in ("mtty", "mdpy"):
        unload(host, name)
    assert loaded(host, "mdev") == [False]
    assert not host.exists("sys/bus/mdev")
    load(host, "mtty")
    host.create("mtty", "mtty-1", UUID)
    assert host.cat("sys/bus/mdev/drivers_autoprobe") == "1"


def test_22_an_ordinary_user_may_not_open_an_attribute(host: Shell) -> None:
    path = f"sys/bus/pci/devices/{NIC}/driver_override"
    with answers("EACCES", "open"):
        host.kernel.store(path, "vfio-pci", timeout=1, as_root=False)
    assert host.cat(path) == "(null)"
    with answers("ENOENT", "open"):  # that comes first
        host.kernel.store(f"{path}s", "vfio-pci", timeout=1, as_root=False)


def test_22_he_may_where_the_mode_says_so(host: Shell) -> None:
    path = f"sys/bus/pci/devices/{NIC}/driver_override"
    os.chmod(os.path.join(host.kernel.root, path), 0o666)
    host.kernel.store(path, "vfio-pci", timeout=1, as_root=False)
    assert host.cat(path) == "vfio-pci"
