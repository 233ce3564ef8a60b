"""Edge cases 1 to 14: bind, unbind, drivers_probe, drivers_autoprobe, module loads."""

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
    NO_GROUP,
    NVME,
    PORT,
    QAT,
    Shell,
    answers,
    small_host,
)
from vfiohost import testing

if TYPE_CHECKING:
    from pathlib import Path


def test_1_bind_without_a_match_is_enodev(host: Shell) -> None:
    host.unbind("e1000e", NIC)
    with answers("ENODEV"):
        host.bind("vfio-pci", NIC)
    with answers("ENODEV"):
        host.bind("nvme", NIC)


@pytest.mark.parametrize(
    "name",
    [
        "0000:0a:00.0",
        "01:00.0",
        "0000:0A:00.0",
        f"{NIC} {NIC}",
        f" {NIC}",
        f"{NIC}\n\n",
        "..",
        "",
        "\n",
        f"../../{NIC}",
        "x" * 300,
    ],
)
def test_2_a_name_is_compared_exactly(host: Shell, name: str) -> None:
    host.unbind("e1000e", NIC)
    if name == "":
        host.bind("e1000e", name)  # an empty write does not reach the attribute
    else:
        with answers("ENODEV"):
            host.bind("e1000e", name)
    assert host.driver(NIC) is None


@pytest.mark.parametrize("name", [f"{NIC}\n", f"{NIC}\0", f"{NIC}\0garbage"])
def test_2_one_newline_or_what_follows_a_nul_does_not_count(host: Shell, name: str) -> None:
    host.unbind("e1000e", NIC)
    host.bind("e1000e", name)
    assert host.driver(NIC) == "e1000e"


def test_3_bind_when_bound_is_ebusy_if_it_matches_and_enodev_if_not(host: Shell) -> None:
    with answers("EBUSY"):
        host.bind("e1000e", NIC)
    with answers("ENODEV"):
        host.bind("vfio-pci", NIC)
    host.override(NIC, "vfio-pci")
    with answers("EBUSY"):
        host.bind("vfio-pci", NIC)
    with answers("ENODEV"):
        host.bind("e1000e", NIC)
    assert host.driver(NIC) == "e1000e"


def test_4_unbind_of_what_the_driver_does_not_have_is_enodev(host: Shell) -> None:
    with answers("ENODEV"):
        host.unbind("nvme", NIC)
    with answers("ENODEV"):
        host.unbind("e1000e", "0000:77:00.0")
    host.unbind("e1000e", NIC)
    with answers("ENODEV"):
        host.unbind("e1000e", NIC)


def test_4_unbind_takes_both_links_and_the_uevent_line(host: Shell) -> None:
    assert "DRIVER=e1000e" in host.uevent(NIC)
    host.unbind("e1000e", NIC)
    assert host.driver(NIC) is None
    assert NIC not in host.ls("sys/bus/pci/drivers/e1000e")
    assert not any(line.startswith("DRIVER=") for line in host.uevent(NIC))
    assert f"PCI_SLOT_NAME={NIC}" in host.uevent(NIC)


def test_4_unbind_through_the_devices_own_link(host: Shell) -> None:
    host.echo(NIC, f"sys/bus/pci/devices/{NIC}/driver/unbind")
    assert host.driver(NIC) is None


def test_5_a_driver_that_is_not_loaded_is_enoent_at_open(host: Shell) -> None:
    with answers("ENOENT", "open"):
        host.bind("igb", NIC)
    with answers("ENOENT", "open"):
        host.unbind("vfio_pci", NIC)


def test_5_an_override_with_the_modules_name_never_matches(host: Shell) -> None:
    host.unbind("e1000e", NIC)
    host.override(NIC, "vfio_pci")
    with answers("ENODEV"):
        host.bind("vfio-pci", NIC)


def test_6_drivers_probe(host: Shell) -> None:
    with answers("ENODEV"):
        host.probe("0000:77:00.0")
    host.probe(NIC)
    assert host.driver(NIC) == "e1000e"
    host.probe(QAT)
    assert host.driver(QAT) is None
    host.unbind("e1000e", NIC)
    host.probe(NIC)
    assert host.driver(NIC) == "e1000e"


def test_6_a_probe_that_fails_is_swallowed(host: Shell) -> None:
    host.numvfs(NVME, "2")
    host.unbind("nvme", NVME)
    host.override(NVME, "vfio-pci")
    with answers("EBUSY"):
        host.bind("vfio-pci", NVME)
    host.probe(NVME)
    assert host.driver(NVME) is None


def test_7_an_owned_group_is_ebusy_for_bind_and_einval_for_drivers_probe(host: Shell) -> None:
    host.unbind("e1000e", NIC_SIBLING)
    host.to_vfio(NIC)
    with host.kernel.open_device(NIC):
        with answers("EBUSY"):
            host.bind("e1000e", NIC_SIBLING)
        with answers("EINVAL"):
            host.probe(NIC_SIBLING)
        assert host.driver(NIC_SIBLING) is None
    host.bind("e1000e", NIC_SIBLING)
    assert host.driver(NIC_SIBLING) == "e1000e"


def test_8_vfio_pci_refuses_ports_and_denylisted_devices(host: Shell) -> None:
    host.unbind("pcieport", PORT)
    for address in (PORT, QAT):
        host.override(address, "vfio-pci")
        with answers("EINVAL"):
            host.bind("vfio-pci", address)
        host.probe(address)
        assert host.driver(address) is None


def test_8_disable_denylist_admits_them(host: Shell, root: Path) -> None:
    parameter = "sys/module/vfio_pci/parameters/disable_denylist"
    with answers("EACCES", "open"):
        host.echo("1", parameter)  # it can be given to modprobe alone
    (root / parameter).write_text("Y\n")
    host.to_vfio(QAT)
    assert host.driver(QAT) == "vfio-pci"


def test_8_vfio_pci_refuses_the_vfs_of_nvidias_host_driver(host: Shell) -> None:
    vf = GPU_VFS[0]
    host.unbind("nvidia", vf)
    host.override(vf, "vfio-pci")
    with answers("EINVAL"):
        host.bind("vfio-pci", vf)
    host.override(vf, "\n")
    host.bind("nvidia", vf)
    assert host.driver(vf) == "nvidia"


def test_9_a_host_bridge_can_be_bound(host: Shell) -> None:
    host.to_vfio(HOST_BRIDGE)
    assert host.driver(HOST_BRIDGE) == "vfio-pci"


def test_10_a_module_that_is_loaded_later_leaves_overridden_devices_alone(host: Shell) -> None:
    for address in (NIC, NIC_SIBLING):
        host.unbind("e1000e", address)
    host.override(NIC, "vfio-pci")
    host.kernel.load_module("igb", timeout=1)
    assert host.driver(NIC) is None
    assert host.driver(NIC_SIBLING) == "igb"


def test_10_an_override_alone_binds_nothing(host: Shell) -> None:
    host.override(QAT, "pci-stub")
    assert host.driver(QAT) is None
    host.probe(QAT)
    assert host.driver(QAT) == "pci-stub"


@pytest.mark.parametrize(("value", "reads"), [("0", "0"), ("00x", "0"), ("1", "1"), ("n", "1")])
def test_11_drivers_autoprobe_takes_anything(host: Shell, value: str, reads: str) -> None:
    host.echo(value, "sys/bus/pci/drivers_autoprobe")
    assert host.cat("sys/bus/pci/drivers_autoprobe") == reads


def test_11_autoprobe_off_stops_only_the_registration_of_a_driver(host: Shell) -> None:
    host.unbind("e1000e", NIC)
    host.echo("0", "sys/bus/pci/drivers_autoprobe")
    host.kernel.load_module("igb", timeout=1)
    assert host.driver(NIC) is None
    host.numvfs(NVME, "1")  # a device that appears is probed all the same
    assert host.driver("0000:02:00.1") == "nvme"
    host.probe(NIC)
    assert host.driver(NIC) == "e1000e"


def test_13_nothing_protects_a_device_that_is_in_use(host: Shell) -> None:
    host.unbind("nvme", NVME)
    assert host.driver(NVME) is None


def test_83_a_probe_that_fails_with_eio(host: Shell) -> None:
    host.unbind("e1000e", NIC)
    host.kernel.fail_probe("e1000e", NIC, errno.EIO)
    with answers("EIO"):
        host.bind("e1000e", NIC)
    host.probe(NIC)
    assert host.driver(NIC) is None
    host.kernel.clear_faults()
    host.bind("e1000e", NIC)
    assert host.driver(NIC) == "e1000e"


def test_86_without_an_iommu_vfio_pci_is_einval(host: Shell) -> None:
    host.override(NO_GROUP, "vfio-pci")
    with answers("EINVAL"):
        host.bind("vfio-pci", NO_GROUP)
    host.probe(NO_GROUP)
    assert host.driver(NO_GROUP) is None


def test_a_driver_that_an_override_forces_on_a_strange_device_says_enodev(host: Shell) -> None:
    host.override(QAT, "e1000e")
    with answers("ENODEV"):
        host.bind("e1000e", QAT)


def test_every_driver_of_the_host_comes_back(host: Shell) -> None:
    for address, driver in ((NIC, "e1000e"), (NVME, "nvme"), (GPU, "nvidia"), (PORT, "pcieport")):
        host.unbind(driver, address)
        host.bind(driver, address)
        assert host.driver(address) == driver
        assert host.uevent(address)[0] == f"DRIVER={driver}"


def test_loading_a_module_brings_what_it_needs_and_its_driver(tmp_path: Path) -> None:
    recording = small_host()
    loadable = {"vfio", "vfio_pci_core", "vfio_pci"}
    modules = tuple(
        attrs.evolve(module, state="loadable") if module.name in loadable else module
        for module in recording.modules
    )
    host = Shell(testing.create(attrs.evolve(recording, modules=modules), tmp_path / "host"))
    assert not host.exists("dev/vfio/vfio")
    host.kernel.load_module("vfio-pci", timeout=1)
    assert host.exists("dev/vfio/vfio")
    assert host.cat("sys/module/vfio_pci_core/refcnt") == "1"
    assert host.ls("sys/module/vfio/holders") == ["vfio_pci_core"]
    module = host.kernel.sysfs.link_name("sys/bus/pci/drivers/vfio-pci/module")
    assert module == "vfio_pci"
    host.to_vfio(NIC)
    host.kernel.load_module("vfio_pci", timeout=1)  # loaded already
    assert host.driver(NIC) == "vfio-pci"


def test_loading_an_unknown_module_is_enoent_and_a_builtin_one_is_fine(host: Shell) -> None:
    with answers("ENOENT", "load"):
        host.kernel.load_module("no_such_module", timeout=1)
    host.kernel.load_module("pci-stub", timeout=1)
    assert host.kernel.loads == ["no_such_module", "pci-stub"]


def test_a_variant_driver_is_a_vfio_driver(host: Shell) -> None:
    host.kernel.load_module("nvgrace_gpu_vfio_pci", timeout=1)
    host.unbind("e1000e", NIC)
    host.override(NIC, "nvgrace_gpu_vfio_pci")
    host.bind("nvgrace_gpu_vfio_pci", NIC)
    assert host.exists("dev/vfio/5")
