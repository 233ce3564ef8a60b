"""The recorded hosts that come with vfiohost, as simulations."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import attrs
import pytest

from tests.simulation.hosts import (
    NIC,
    NIC_SIBLING,
    PORT,
    QAT,
    UUID,
    UUID_2,
    UUID_3,
    Shell,
    answers,
    small_host,
)
from tests.simulation.pictures import picture
from vfiohost import testing
from vfiohost.testing import fixtures

if TYPE_CHECKING:
    from pathlib import Path

    from vfiohost.recording import Function


def made(name: str, scratch: Path) -> Shell:
    return Shell(testing.create(testing.load(name), scratch / name))


@pytest.mark.parametrize("name", fixtures.names())
def test_every_bound_device_can_be_unbound_and_comes_back_by_itself(
    name: str, scratch: Path
) -> None:
    host = made(name, scratch)
    before = picture(scratch / name, below="sys")
    devices = host.ls("sys/bus/pci/devices")
    bound = {address: host.driver(address) for address in devices}
    seen: Counter[str] = Counter()
    for address, driver in bound.items():
        if driver is not None and seen[driver] < 4:  # not each of 64 virtual functions
            seen[driver] += 1
            host.unbind(driver, address)
            host.probe(address)
    assert {address: host.driver(address) for address in devices} == bound
    after = picture(scratch / name, below="sys")
    different = {path for path in before if before[path] != after.get(path)}
    assert all(path.endswith(("enable", "power_state")) for path in different)
    assert after.keys() == before.keys()


@pytest.mark.parametrize("name", fixtures.names())
def test_a_simulation_shows_all_that_its_recording_shows(name: str, scratch: Path) -> None:
    testing.expand(testing.load(name), scratch / "plain")
    made(name, scratch)
    plain, simulated = picture(scratch / "plain"), picture(scratch / name)
    assert {path: simulated.get(path) for path in plain} == plain


def test_the_a10_pair_binds_to_vfio_pci(scratch: Path) -> None:
    host = made("a10-pair", scratch)
    with answers("ENOENT", "open"):
        host.bind("vfio-pci", "0000:65:00.0")
    host.kernel.load_module("vfio_pci", timeout=5)
    assert host.driver("0000:65:00.0") is None
    host.to_vfio("0000:65:00.0")
    assert host.driver("0000:65:00.0") == "vfio-pci"
    group = host.kernel.sysfs.link_name("sys/bus/pci/devices/0000:65:00.0/iommu_group")
    assert host.exists(f"dev/vfio/{group}")
    host.kernel.open_device("0000:65:00.0").close()


def test_two_a10_12q_fill_an_a10(scratch: Path) -> None:
    host = made("a10-pair-vgpu", scratch)
    vfs = [f"0000:65:00.{function}" for function in (4, 5, 6)]
    type_12q, type_8q = "nvidia-596", "nvidia-595"
    for vf, uuid in zip(vfs[:2], (UUID, UUID_2), strict=True):
        assert host.available(vf, type_12q) == 1
        host.create(vf, type_12q, uuid)
    with answers("EUSERS"):
        host.create(vfs[2], type_12q, UUID_3)
    with answers("EUSERS"):
        host.create(vfs[2], type_8q, UUID_3)
    assert host.available(vfs[2], type_8q) == 0
    other_card = next(
        name for name in host.ls("sys/class/mdev_bus") if not name.startswith("0000:65")
    )
    assert host.available(other_card, type_8q) == 1
    host.remove(UUID)
    assert host.available(vfs[2], type_12q) == 1


def test_the_closed_vgpu_driver_takes_no_store_to_sriov_numvfs(scratch: Path) -> None:
    host = made("a10-pair-vgpu", scratch)
    with answers("ENOENT"):
        host.numvfs("0000:65:00.0", "0")


def test_the_rtx_card_goes_to_vfio_as_a_whole_and_back(scratch: Path) -> None:
    host = made("rtx-workstation", scratch)
    card = [f"0000:01:00.{function}" for function in range(4)]
    drivers = [host.driver(address) for address in card]
    assert len(set(drivers)) == 4
    host.kernel.load_module("vfio_pci", timeout=5)
    host.to_vfio(card[0])
    with answers("EPERM", "ioctl"):
        host.kernel.open_device(card[0])
    for address in card[1:]:
        host.to_vfio(address)
    host.kernel.open_device(card[0]).close()
    for address, driver in zip(card, drivers, strict=True):
        host.unbind("vfio-pci", address)
        host.override(address, "\n")
        host.bind(driver or "", address)
    assert [host.driver(address) for address in card] == drivers


def test_a_host_without_an_iommu_has_nothing_for_vfio(scratch: Path) -> None:
    host = made("no-iommu", scratch)
    host.kernel.load_module("vfio_pci", timeout=5)
    devices = host.ls("sys/bus/pci/devices")
    address = next(a for a in devices if host.driver(a) not in (None, "pcieport"))
    driver = host.driver(address) or ""
    host.unbind(driver, address)
    host.override(address, "vfio-pci")
    with answers("EINVAL"):
        host.bind("vfio-pci", address)


@pytest.mark.parametrize("with_modules", [True, False])
def test_a_partial_recording_is_completed(scratch: Path, *, with_modules: bool) -> None:
    complete = small_host()
    partial = attrs.evolve(
        complete,
        lacks=frozenset({"controls", "driver-links", "drivers", "groups", "subsystem"}),
        modules=complete.modules if with_modules else (),
        functions=tuple(_without(function, "driver_override") for function in complete.functions),
        groups=(),
    )
    host = Shell(testing.create(partial, scratch / "host"))
    for address, driver in ((NIC, "e1000e"), (PORT, "pcieport")):
        assert host.ls(f"sys/bus/pci/drivers/{driver}")[-4:] == [
            "bind",
            "new_id",
            "remove_id",
            "unbind",
        ]
        assert address in host.ls(f"sys/bus/pci/drivers/{driver}")
        host.unbind(driver, address)
        host.bind(driver, address)  # an id table that was not recorded has what was bound
    assert host.ls("sys/kernel/iommu_groups/5/devices") == [NIC, NIC_SIBLING]
    assert host.cat(f"sys/bus/pci/devices/{NIC}/driver_override") == "(null)"
    with answers("ENODEV"):
        host.bind("nvme", QAT)


def test_a_device_without_a_modalias_is_matched_by_its_ids(scratch: Path) -> None:
    recording = small_host()
    recording = attrs.evolve(
        recording,
        functions=tuple(_without(function, "modalias") for function in recording.functions),
    )
    host = Shell(testing.create(recording, scratch / "host"))
    host.unbind("e1000e", NIC)
    host.probe(NIC)
    assert host.driver(NIC) == "e1000e"


def _without(function: Function, name: str) -> Function:
    kept = {key: value for key, value in function.attributes.items() if key != name}
    return attrs.evolve(function, attributes=kept)
