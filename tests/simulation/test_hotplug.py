"""Edge cases 21 and 38 to 41: functions that are removed, and found again."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import attrs
import pytest

from tests.simulation.hosts import (
    GPU,
    GPU_VFS,
    HOST_BRIDGE,
    NIC,
    NIC_SIBLING,
    NVME,
    NVME_VFS,
    PORT,
    QAT,
    UUID,
    Shell,
    answers,
    having,
    small_host,
)
from vfiohost import testing
from vfiohost.errors import StoreTimeoutError
from vfiohost.recording import File

if TYPE_CHECKING:
    from pathlib import Path

GROUPS = "sys/kernel/iommu_groups"


def at(address: str, name: str) -> str:
    return f"sys/bus/pci/devices/{address}/{name}"


def group(host: Shell, address: str) -> str | None:
    return host.kernel.sysfs.link_name(at(address, "iommu_group"))


@pytest.mark.parametrize("value", ["x", "-1", "", "0", "0\n"])
def test_38_only_a_number_that_is_not_zero_removes(host: Shell, value: str) -> None:
    if value in ("x", "-1"):
        with answers("EINVAL"):
            host.remove_function(NIC, value)
    else:
        host.remove_function(NIC, value)
    assert host.driver(NIC) == "e1000e"


@pytest.mark.parametrize("value", ["1", "2", "0x10\n"])
def test_38_nothing_of_a_removed_function_is_left(host: Shell, value: str) -> None:
    host.remove_function(NVME, value)
    assert not host.exists(at(NVME, ""))
    assert NVME not in host.ls("sys/bus/pci/drivers/nvme")
    assert not host.exists(f"{GROUPS}/6")
    assert NVME not in host.ls(at(PORT, ""))
    with answers("ENOENT", "open"):
        host.remove_function(NVME)
    with answers("ENODEV"):
        host.probe(NVME)


def test_38_its_group_lives_as_long_as_another_is_in_it(host: Shell) -> None:
    host.remove_function(NIC)
    assert host.ls(f"{GROUPS}/5/devices") == [NIC_SIBLING]
    host.remove_function(NIC_SIBLING)
    assert not host.exists(f"{GROUPS}/5")


def test_38_an_attribute_that_was_open_belongs_to_the_removed_device(host: Shell) -> None:
    with host.kernel.open_attribute(at(QAT, "driver_override")) as attribute:
        attribute.write("vfio-pci", timeout=1)
        assert host.cat(at(QAT, "driver_override")) == "vfio-pci"
        host.remove_function(QAT)
        with answers("ENODEV"):
            attribute.write("none", timeout=1)
        host.rescan()
        with answers("ENODEV"):
            attribute.write("none", timeout=1)
    assert host.cat(at(QAT, "driver_override")) == "(null)"
    attribute.close()


def test_38_opening_an_attribute_can_fail(host: Shell) -> None:
    with answers("ENOENT", "open"):
        host.kernel.open_attribute(at(QAT, "nothing"))
    with answers("EACCES", "open"):
        host.kernel.open_attribute(at(QAT, "modalias"))
    assert host.kernel.stores == []


@pytest.mark.parametrize("path", ["sys/bus/pci/rescan", at(NIC, "rescan")])
def test_39_only_a_number_that_is_not_zero_rescans(host: Shell, path: str) -> None:
    host.remove_function(QAT)
    with answers("EINVAL"):
        host.echo("x", path)
    host.echo("0", path)
    assert not host.exists(at(QAT, ""))
    host.echo("1", path)
    assert host.exists(at(QAT, ""))


def test_21_a_function_comes_back_as_it_was_found_first(host: Shell) -> None:
    files = {name: host.cat(at(NVME, name)) for name in ("uevent", "modalias", "enable", "class")}
    names = host.ls(at(NVME, ""))
    host.to_vfio(NVME)
    host.echo("0", at(NVME, "sriov_drivers_autoprobe"))
    host.remove_function(NVME)
    host.rescan()
    assert host.driver(NVME) == "nvme"
    assert host.cat(at(NVME, "driver_override")) == "(null)"
    assert host.cat(at(NVME, "sriov_drivers_autoprobe")) == "1"
    assert {name: host.cat(at(NVME, name)) for name in files} == files
    assert host.ls(at(NVME, "")) == names
    assert host.ls("dev/vfio") == ["vfio"]


def test_11_autoprobe_does_not_keep_drivers_from_what_is_found(host: Shell) -> None:
    host.echo("0", "sys/bus/pci/drivers_autoprobe")
    host.remove_function(NIC)
    host.rescan()
    assert host.driver(NIC) == "e1000e"


def test_39_a_dynamic_id_takes_what_comes_back(host: Shell) -> None:
    host.echo("8086 37c8", "sys/bus/pci/drivers/pci-stub/new_id")
    assert host.driver(QAT) == "pci-stub"
    host.remove_function(QAT)
    host.rescan()
    assert host.driver(QAT) == "pci-stub"


def test_39_a_driver_that_fails_leaves_it_without_one(host: Shell) -> None:
    host.kernel.fail_probe("nvme", "*", errno.EIO)
    host.remove_function(NVME)
    host.rescan()
    assert host.driver(NVME) is None
    assert host.uevent(NVME)[0].startswith("PCI_CLASS=")
    assert host.cat(at(NVME, "power_state")) == "unknown"


def test_39_what_has_been_there_is_not_probed(host: Shell) -> None:
    host.unbind("e1000e", NIC)
    host.rescan()
    assert host.driver(NIC) is None


def test_39_a_function_joins_the_one_that_it_shared_a_group_with(host: Shell) -> None:
    host.remove_function(NIC)
    host.rescan()
    assert group(host, NIC) == group(host, NIC_SIBLING) == "5"


def test_39_a_new_group_has_the_lowest_free_number(host: Shell) -> None:
    host.remove_function(NVME)
    host.remove_function(HOST_BRIDGE)
    host.rescan()
    # 4 was free all the time; the host bridge is found before the disk.
    assert (group(host, HOST_BRIDGE), group(host, NVME)) == ("0", "4")
    assert host.cat(f"{GROUPS}/4/type") == "DMA-FQ"
    assert host.ls(f"{GROUPS}/4/devices") == [NVME]


def test_39_a_device_looks_at_its_own_bus_and_below(host: Shell) -> None:
    host.remove_function(QAT)
    host.remove_function(HOST_BRIDGE)
    host.echo("1", at(NIC, "rescan"))
    assert host.exists(at(QAT, ""))
    assert not host.exists(at(HOST_BRIDGE, ""))
    host.remove_function(QAT)
    host.echo("1", at(PORT, "rescan"))
    assert host.exists(at(QAT, ""))
    assert host.exists(at(HOST_BRIDGE, ""))


def test_39_a_port_goes_and_comes_with_what_is_behind_it(host: Shell) -> None:
    before = host.ls("sys/bus/pci/devices")
    host.create(GPU_VFS[0], "nvidia-594", UUID)
    host.numvfs(NVME, "1")
    host.remove_function(PORT)
    assert host.ls("sys/bus/pci/devices") == [HOST_BRIDGE]
    assert host.ls(GROUPS) == ["0"]
    assert host.ls("sys/bus/mdev/devices") == []
    assert not [name for name in host.ls("sys/bus/pci/drivers/nvidia") if ":" in name]
    host.rescan()
    # Virtual functions do not answer to a scan.
    assert host.ls("sys/bus/pci/devices") == [a for a in before if a not in GPU_VFS]
    assert host.cat(at(GPU, "sriov_numvfs")) == host.cat(at(NVME, "sriov_numvfs")) == "0"
    assert (host.driver(PORT), host.driver(GPU)) == ("pcieport", "nvidia")
    host.numvfs(GPU, "2")
    host.create(GPU_VFS[0], "nvidia-594", UUID)


def test_39_links_between_functions_go_and_come_with_the_consumer(scratch: Path) -> None:
    recording = small_host()
    paths = {str(each.address): f"sys/devices/{each.path}" for each in recording.functions}
    consumer, supplier = f"consumer:pci:{NIC_SIBLING}", f"supplier:pci:{NIC}"
    link = f"sys/devices/virtual/devlink/pci:{NIC}--pci:{NIC_SIBLING}"
    files = (
        File(f"{paths[NIC]}/{consumer}", f"../../../virtual/devlink/{link.rsplit('/', 1)[-1]}"),
        File(
            f"{paths[NIC_SIBLING]}/{supplier}",
            f"../../../virtual/devlink/{link.rsplit('/', 1)[-1]}",
        ),
        File(link, None),
    )
    recording = attrs.evolve(recording, files=(*recording.files, *files))
    host = Shell(testing.create(recording, scratch / "host"))

    def links() -> tuple[bool, bool]:
        return consumer in host.ls(at(NIC, "")), supplier in host.ls(at(NIC_SIBLING, ""))

    assert links() == (True, True)
    host.remove_function(NIC_SIBLING)
    assert consumer not in host.ls(at(NIC, ""))
    host.rescan()
    assert links() == (True, True)
    host.remove_function(NIC)
    assert supplier not in host.ls(at(NIC_SIBLING, ""))
    host.rescan()  # a quirk of the consumer makes them
    assert links() == (False, False)
    host.remove_function(PORT)
    host.rescan()
    assert links() == (True, True)


def test_39_bus_reset_is_for_a_function_that_is_found_alone(scratch: Path) -> None:
    recording = having(
        small_host(),
        {NIC: {"reset_method": b"pm bus\n"}, NIC_SIBLING: {"reset_method": b"pm\n"}},
    )
    host = Shell(testing.create(recording, scratch / "host"))
    host.remove_function(NIC)
    host.rescan()
    assert host.cat(at(NIC, "reset_method")) == "pm"
    host.remove_function(NIC)
    host.remove_function(NIC_SIBLING)
    host.rescan()
    assert host.cat(at(NIC, "reset_method")) == "pm bus"
    host.remove_function(NIC)
    host.echo("default", at(NIC_SIBLING, "reset_method"))
    assert host.cat(at(NIC_SIBLING, "reset_method")) == "pm bus"


def test_40_removal_of_an_open_device_waits_half_done(host: Shell) -> None:
    host.to_vfio(NVME)
    holder = host.kernel.open_device(NVME)
    with pytest.raises(StoreTimeoutError):
        host.remove_function(NVME, timeout=0)
    assert host.driver(NVME) is None
    assert host.uevent(NVME)[0] == "DRIVER=vfio-pci"
    assert host.cat(at(NVME, "enable")) == "1"
    assert not host.exists(at(NVME, "remove"))
    with answers("ENOENT", "open"):
        host.remove_function(NVME)
    host.override(NVME, "none")  # it is all there still
    holder.close()
    assert not host.exists(at(NVME, ""))
    assert host.kernel.pending == []
    assert host.kernel.answers[-3].errno == 0


def test_40_all_that_adds_and_removes_waits_behind_it(host: Shell) -> None:
    host.to_vfio(NVME)
    holder = host.kernel.open_device(NVME)
    removals = [at(address, "remove") for address in (NVME, QAT, PORT)]
    for path in (removals[0], "sys/bus/pci/rescan", *removals[1:]):
        with pytest.raises(StoreTimeoutError):
            host.echo("1", path, timeout=0)
    host.rescan("0")
    assert host.exists(at(QAT, "vendor"))
    assert not host.exists(at(QAT, "remove"))
    holder.close()
    # In the order in which they came: the disk was found again, then all was removed.
    assert host.ls("sys/bus/pci/devices") == [HOST_BRIDGE]
    assert [answer.errno for answer in host.kernel.answers[-5:]] == [0, 0, 0, 0, 0]


def test_40_a_removal_that_waits_finds_its_device_gone_with_the_port(host: Shell) -> None:
    host.to_vfio(NVME)
    holder = host.kernel.open_device(NVME)
    for address in (PORT, QAT):
        with pytest.raises(StoreTimeoutError):
            host.remove_function(address, timeout=0)
    holder.close()
    assert host.ls("sys/bus/pci/devices") == [HOST_BRIDGE]
    assert [answer.errno for answer in host.kernel.answers[-2:]] == [0, 0]


def test_40_removal_waits_behind_a_stuck_unbind(host: Shell) -> None:
    host.to_vfio(NVME)
    holder = host.kernel.open_device(NVME)
    with pytest.raises(StoreTimeoutError):
        host.unbind("vfio-pci", NVME, timeout=0)
    with pytest.raises(StoreTimeoutError):
        host.remove_function(NVME, timeout=0)
    holder.close()
    assert not host.exists(at(NVME, ""))
    assert [answer.errno for answer in host.kernel.answers[-2:]] == [0, 0]


def test_40_a_removal_waits_for_the_user_of_a_mediated_device(host: Shell) -> None:
    host.create(GPU_VFS[0], "nvidia-594", UUID)
    holder = host.kernel.open_mdev(UUID)
    with pytest.raises(StoreTimeoutError):
        host.remove_function(PORT, timeout=0)
    holder.close()
    assert host.ls("sys/bus/pci/devices") == [HOST_BRIDGE]


def test_40_a_physical_function_on_vfio_takes_its_virtual_ones_along(host: Shell) -> None:
    host.echo("Y", "sys/module/vfio_pci/parameters/enable_sriov")
    host.to_vfio(NVME)
    host.numvfs(NVME, "2")
    token = f"vf_token={UUID}"
    host.kernel.open_device(NVME, options=token).close()
    holder = host.kernel.open_device(NVME_VFS[1], options=token)
    with pytest.raises(StoreTimeoutError):
        host.remove_function(NVME, timeout=0)
    assert not host.exists(at(NVME_VFS[0], ""))
    holder.close()
    assert not host.exists(at(NVME, ""))
    assert not host.exists(at(NVME_VFS[1], ""))


def test_41_virtual_functions_cannot_be_removed(host: Shell) -> None:
    host.numvfs(NVME, "1")
    for address in (*GPU_VFS, NVME_VFS[0]):
        with answers("ENOENT", "open"):
            host.remove_function(address)
        with answers("ENOENT", "open"):
            host.echo("1", at(address, "rescan"))


def test_a_recording_without_control_files_gets_them(scratch: Path) -> None:
    recording = attrs.evolve(small_host(), lacks=frozenset({"controls"}))
    host = Shell(testing.create(recording, scratch / "host"))
    host.remove_function(NIC)
    host.rescan()
    assert host.driver(NIC) == "e1000e"
