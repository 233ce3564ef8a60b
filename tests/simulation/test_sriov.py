"""Edge cases 42 to 51: SR-IOV."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import pytest

from tests.simulation.hosts import (
    GPU,
    GPU_VFS,
    NIC,
    NVME,
    NVME_VFS,
    Shell,
    answers,
    attributes,
    small_host,
)
from vfiohost import testing
from vfiohost.errors import StoreTimeoutError
from vfiohost.recording import Attribute, Function, Module, PciDriver

if TYPE_CHECKING:
    from pathlib import Path

DEVICE = f"sys/bus/pci/devices/{NVME}"
ENABLE_SRIOV = "sys/module/vfio_pci/parameters/enable_sriov"


@pytest.mark.parametrize(
    "value", ["garbage", "-1", "70000", "65536", "0x", "08", "1 2", "\n", "2\n\n"]
)
def test_42_garbage_is_einval(host: Shell, value: str) -> None:
    with answers("EINVAL"):
        host.numvfs(NVME, value)
    assert host.cat(f"{DEVICE}/sriov_numvfs") == "0"


@pytest.mark.parametrize("value", ["2", "0x2", "02", "+2", "2\n", "2\0junk"])
def test_42_numbers_are_read_with_base_0(host: Shell, value: str) -> None:
    host.numvfs(NVME, value)
    assert host.cat(f"{DEVICE}/sriov_numvfs") == "2"


@pytest.mark.parametrize("value", ["5", "010", "65535"])
def test_42_more_than_there_can_be_is_erange(host: Shell, value: str) -> None:
    with answers("ERANGE"):
        host.numvfs(NVME, value)


def test_43_the_same_value_is_no_change_even_without_a_driver(host: Shell) -> None:
    host.numvfs(NVME, "0")
    host.numvfs(NVME, "2")
    host.unbind("nvme", NVME)
    host.numvfs(NVME, "2")
    assert host.cat(f"{DEVICE}/sriov_numvfs") == "2"


@pytest.mark.parametrize("value", ["1", "3"])
def test_44_another_number_is_ebusy(host: Shell, value: str) -> None:
    host.numvfs(NVME, "2")
    with answers("EBUSY"):
        host.numvfs(NVME, value)
    assert [name for name in host.ls(DEVICE) if name.startswith("virtfn")] == ["virtfn0", "virtfn1"]


def test_45_no_driver_is_enoent(host: Shell) -> None:
    host.unbind("nvme", NVME)
    with answers("ENOENT"):
        host.numvfs(NVME, "1")


def test_45_a_driver_without_sriov_configure_is_enoent(host: Shell) -> None:
    host.to_vfio(NVME)
    with answers("ENOENT"):
        host.numvfs(NVME, "1")
    host.unbind("vfio-pci", NVME)
    host.override(NVME, "pci-stub")
    host.bind("pci-stub", NVME)
    with answers("ENOENT"):
        host.numvfs(NVME, "1")


def test_45_a_device_that_is_no_pf_has_no_such_file(host: Shell) -> None:
    with answers("ENOENT", "open"):
        host.numvfs(NIC, "1")


def test_45_a_driver_may_enable_fewer_and_the_store_succeeds(host: Shell) -> None:
    host.kernel.limit_vfs(NVME, 1)
    host.numvfs(NVME, "3")
    assert host.cat(f"{DEVICE}/sriov_numvfs") == "1"
    assert not host.exists(f"{DEVICE}/virtfn1")


def test_45_no_bus_left_is_enomem(scratch: Path) -> None:
    recording = small_host()
    functions = tuple(
        attrs.evolve(f, attributes={**f.attributes, "subordinate_bus_number": Attribute(b"4\n")})
        if f.path.endswith("00:01.0")
        else attrs.evolve(
            f,
            attributes={
                **f.attributes,
                "sriov_offset": Attribute(b"640\n"),
                "sriov_stride": Attribute(b"64\n"),
            },
        )
        if f.path.endswith(NVME)
        else f
        for f in recording.functions
    )
    recording = attrs.evolve(recording, functions=functions)
    host = Shell(testing.create(recording, scratch / "host"))
    with answers("ENOMEM"):  # 02:00.0 + 640 + 3 * 64 is on bus 05
        host.numvfs(NVME, "4")
    host.numvfs(NVME, "2")
    assert host.exists("sys/bus/pci/devices/0000:04:10.0")
    assert host.exists("sys/bus/pci/devices/0000:04:18.0")


def test_46_unbinding_the_pf_leaves_orphans(host: Shell) -> None:
    host.numvfs(NVME, "2")
    host.unbind("nvme", NVME)
    assert host.driver(NVME_VFS[0]) == "nvme"
    with answers("ENOENT"):
        host.numvfs(NVME, "0")
    host.override(NVME, "vfio-pci")
    with answers("EBUSY"):
        host.bind("vfio-pci", NVME)
    host.override(NVME, "\n")
    host.bind("nvme", NVME)
    host.numvfs(NVME, "0")
    assert not host.exists(f"sys/bus/pci/devices/{NVME_VFS[0]}")


def test_47_virtual_functions_come_complete(host: Shell) -> None:
    host.numvfs(NVME, "4")
    sysfs = host.kernel.sysfs
    for index, address in enumerate(NVME_VFS):
        device = f"sys/bus/pci/devices/{address}"
        assert sysfs.link_name(f"{DEVICE}/virtfn{index}") == address
        assert sysfs.link_name(f"{device}/physfn") == NVME
        assert sysfs.link_name(f"{device}/subsystem") == "pci"
        assert host.cat(f"{device}/vendor") == "0x8086"
        assert host.cat(f"{device}/device") == "0x5846"
        assert host.cat(f"{device}/modalias").startswith("pci:v00008086d00005846")
        assert host.uevent(address)[0] == "DRIVER=nvme"
        assert f"PCI_SLOT_NAME={address}" in host.uevent(address)
        group = sysfs.link_name(f"{device}/iommu_group")
        assert host.ls(f"sys/kernel/iommu_groups/{group}/devices") == [address]
        assert host.cat(f"sys/kernel/iommu_groups/{group}/type") == "DMA-FQ"


def test_47_virtual_functions_go_without_a_trace(host: Shell, root: Path) -> None:
    before = sorted(str(p) for p in (root / "sys").rglob("*"))
    host.numvfs(NVME, "4")
    host.numvfs(NVME, "0")
    assert sorted(str(p) for p in (root / "sys").rglob("*")) == before


def test_48_without_sriov_drivers_autoprobe_only_an_override_binds(host: Shell) -> None:
    vf = NVME_VFS[0]
    host.echo("0", f"{DEVICE}/sriov_drivers_autoprobe")
    host.numvfs(NVME, "1")
    assert host.driver(vf) is None
    with answers("ENODEV"):
        host.bind("nvme", vf)
    host.probe(vf)
    assert host.driver(vf) is None
    host.override(vf, "vfio-pci")
    host.bind("vfio-pci", vf)
    assert host.driver(vf) == "vfio-pci"


def test_48_sriov_drivers_autoprobe_reads_a_boolean(host: Shell) -> None:
    path = f"{DEVICE}/sriov_drivers_autoprobe"
    for value in ("garbage", "2", "o", "\n"):
        with answers("EINVAL"):
            host.echo(value, path)
    for value, reads in (
        ("n", "0"),
        ("Y", "1"),
        ("off", "0"),
        ("on", "1"),
        ("0", "0"),
        ("1x", "1"),
    ):
        host.echo(value, path)
        assert host.cat(path) == reads


def test_49_msix_vectors_of_a_vf(scratch: Path) -> None:
    recording = small_host()
    modules = (
        *recording.modules,
        Module("mlx5_core", "loaded", (PciDriver("mlx5_core", sriov=True),)),
    )
    host = Shell(testing.create(attrs.evolve(recording, modules=modules), scratch / "host"))
    count = f"sys/bus/pci/devices/{NVME_VFS[0]}/sriov_vf_msix_count"
    host.numvfs(NVME, "1")
    with answers("EINVAL"):
        host.echo("-1", count)
    with answers("EOPNOTSUPP"):
        host.echo("4", count)
    host.unbind("nvme", NVME)
    with answers("EOPNOTSUPP"):
        host.echo("4", count)
    host.override(NVME, "mlx5_core")
    host.bind("mlx5_core", NVME)
    with answers("EBUSY"):
        host.echo("4", count)
    host.unbind("nvme", NVME_VFS[0])
    host.echo("4", count)


def test_50_a_pf_on_vfio_pci_with_enable_sriov_captures_its_vfs(host: Shell) -> None:
    host.echo("1", ENABLE_SRIOV)
    assert host.cat(ENABLE_SRIOV) == "Y"
    host.to_vfio(NVME)
    host.numvfs(NVME, "2")
    for vf in NVME_VFS[:2]:
        assert host.cat(f"sys/bus/pci/devices/{vf}/driver_override") == "vfio-pci"
        assert host.driver(vf) == "vfio-pci"
    host.unbind("vfio-pci", NVME)
    assert not host.exists(f"sys/bus/pci/devices/{NVME_VFS[0]}")
    assert host.cat(f"{DEVICE}/sriov_numvfs") == "0"


def test_51_numvfs_0_waits_for_an_open_vf(host: Shell) -> None:
    host.numvfs(NVME, "2")
    vf = NVME_VFS[1]
    host.to_vfio(vf)
    with host.kernel.open_device(vf):
        with pytest.raises(StoreTimeoutError) as caught:
            host.numvfs(NVME, "0", timeout=0.05)
        assert caught.value.pid is None
        assert not host.exists(f"{DEVICE}/virtfn0")
        assert not host.exists(f"{DEVICE}/virtfn1")
        assert not host.exists(f"sys/bus/pci/devices/{NVME_VFS[0]}")
        assert host.exists(f"sys/bus/pci/devices/{vf}")
        assert host.driver(vf) is None
        assert "DRIVER=vfio-pci" in host.uevent(vf)
        with answers("EAGAIN", "open"):
            host.cat(f"{DEVICE}/sriov_numvfs")
        assert host.cat(f"{DEVICE}/sriov_totalvfs") == "4"
        with pytest.raises(StoreTimeoutError):  # the PF's lock is held
            host.unbind("nvme", NVME, timeout=0)
        host.probe(NVME)  # no lock needed: it has a driver
    assert host.kernel.pending == []
    assert host.cat(f"{DEVICE}/sriov_numvfs") == "0"
    assert not host.exists(f"sys/bus/pci/devices/{vf}")
    assert host.driver(NVME) is None  # the unbind that waited came through, too


def test_83_numvfs_succeeds_even_when_every_probe_fails(host: Shell) -> None:
    host.kernel.fail_probe("nvme", "*", 5)
    host.numvfs(NVME, "2")
    assert [host.driver(vf) for vf in NVME_VFS[:2]] == [None, None]


def test_recorded_virtual_functions_come_back_as_they_were(host: Shell, root: Path) -> None:
    def picture() -> dict[str, str]:
        return {
            str(path.relative_to(root)): str(path.readlink())
            if path.is_symlink()
            else path.read_text()
            for path in sorted((root / "sys").rglob("*"))
            if path.is_symlink() or path.is_file()
        }

    before = picture()
    host.numvfs(GPU, "0")
    assert not host.exists(f"sys/bus/pci/devices/{GPU_VFS[0]}")
    assert not host.exists(f"sys/class/mdev_bus/{GPU_VFS[0]}")
    host.numvfs(GPU, "2")
    assert picture() == before


def test_virtual_functions_take_the_lowest_free_groups(host: Shell) -> None:
    host.numvfs(NVME, "4")
    numbers = [
        host.kernel.sysfs.link_name(f"sys/bus/pci/devices/{vf}/iommu_group") for vf in NVME_VFS
    ]
    assert numbers == ["4", "9", "10", "11"]


def test_an_address_that_is_taken_is_no_place_for_a_vf(scratch: Path) -> None:
    recording = small_host()
    squatter = Function(
        path=f"pci0000:00/0000:00:01.0/{NVME_VFS[1]}", attributes=attributes("nic", 0x10D3)
    )
    recording = attrs.evolve(recording, functions=(*recording.functions, squatter))
    host = Shell(testing.create(recording, scratch / "host"))
    with answers("EEXIST"):
        host.numvfs(NVME, "2")
    assert not host.exists(f"sys/bus/pci/devices/{NVME_VFS[0]}")
    assert host.cat(f"{DEVICE}/sriov_numvfs") == "0"


@pytest.mark.parametrize(
    ("text", "shown"), [("1", "Y"), ("n\n", "N"), ("on", "Y"), ("of", "N"), ("yes", "Y")]
)
def test_50_the_parameter_is_a_boolean(host: Shell, text: str, shown: str) -> None:
    host.echo(text, ENABLE_SRIOV)
    assert host.cat(ENABLE_SRIOV) == shown
    with answers("EINVAL"):
        host.echo("x", ENABLE_SRIOV)
    with answers("ENOENT", "open"):
        host.echo("1", "sys/module/vfio_pci/parameters/none")
    assert host.cat(ENABLE_SRIOV) == shown


def test_81_stores_on_two_cards_wait_for_each_other(host: Shell) -> None:
    vf = NVME_VFS[0]
    host.numvfs(NVME, "1")
    host.to_vfio(vf)
    with host.kernel.open_device(vf):
        with pytest.raises(StoreTimeoutError):
            host.numvfs(NVME, "0", timeout=0)
        with pytest.raises(StoreTimeoutError):
            host.numvfs(GPU, "0", timeout=0)
        assert host.exists(f"sys/bus/pci/devices/{GPU}/virtfn0")
        with answers("EAGAIN", "open"):
            host.cat(f"sys/bus/pci/devices/{GPU}/sriov_numvfs")
        host.unbind("e1000e", NIC)  # which has nothing to do with it
    assert host.kernel.pending == []
    assert host.cat(f"sys/bus/pci/devices/{GPU}/sriov_numvfs") == "0"
