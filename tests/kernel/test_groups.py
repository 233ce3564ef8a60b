"""Groups and VFIO's nodes on a real kernel: what vfiohost says of them, and what it says itself."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.kernel.cases.terms import FIRST_NIC, SECOND_NIC, UUID, create, to_vfio
from tests.kernel.cases.terms import bind as bind_to
from tests.kernel.lab import guest, hoststate, layout, product, state, vfio_user
from tests.kernel.lab.errors import GuestError
from tests.kernel.scenario import Do, RealKernel, Step, Store, run
from tests.kernel.simulated import Simulated
from vfiohost import testing

if TYPE_CHECKING:
    from pathlib import Path

    from tests.kernel.lab.vm import Machine
    from vfiohost.recording import Recording

DEVICES = "/sys/bus/pci/devices"
DRIVERS = "/sys/bus/pci/drivers"
TRANSPORT = ("0000:00:02.0", "0000:00:03.0")
"""The guest's way to its files and to the tests: these stay with their drivers."""
TAINT_USER = 1 << 6


def groups(lab: Machine) -> dict[str, Any]:
    """What vfiohost says of each group."""
    done = lab.call(product.vfiohost, "--json", "groups")
    assert done["status"] == 0, done["stderr"]
    return {str(group["number"]): group for group in json.loads(done["stdout"])["groups"]}


def group_of(lab: Machine, address: str) -> str:
    name: str = lab.call(guest.readlink, f"{DEVICES}/{address}/iommu_group")
    return name


def unbind(lab: Machine, address: str) -> None:
    driver = lab.call(guest.readlink, f"{DEVICES}/{address}/driver")
    if driver is not None:
        assert lab.call(guest.store, f"{DRIVERS}/{driver}/unbind", address) is None


def bind(lab: Machine, address: str, driver: str) -> bool:
    """Take a device from its driver and give it to another; tell whether that one takes it."""
    unbind(lab, address)
    lab.call(guest.store, f"{DEVICES}/{address}/driver_override", driver)
    return lab.call(guest.store, f"{DRIVERS}/{driver}/bind", address) is None


def compare(lab: Machine) -> dict[str, bool]:
    """Compare vfiohost's verdict on every group that has a node with the kernel's own."""
    found = groups(lab)
    nodes = [name for name in lab.call(guest.listdir, "/dev/vfio") if name.isdigit()]
    said = {name: bool(lab.call(vfio_user.group_flags, name) & 1) for name in nodes}
    assert {name: found[name]["viable"] for name in nodes} == said
    return said


def test_every_group_is_as_viable_as_the_kernel_says(lab: Machine) -> None:
    lab.call(guest.load, "nouveau")
    members = {name: group["members"] for name, group in groups(lab).items()}
    ends = {
        name: [each["address"] for each in members[name] if each["class_code"] != "060400"]
        for name in members
    }
    ours = {name: ends[name] for name in ends if ends[name] and ends[name][0] not in TRANSPORT}
    for addresses in ours.values():  # the others of the group keep their drivers
        assert bind(lab, addresses[-1], "vfio-pci"), addresses
    said = compare(lab)
    assert said.keys() == ours.keys()
    shared = {group_of(lab, card[0]) for card in (layout.TWIN_NICS, layout.RTX3090, layout.RTX2080)}
    assert {name for name, viable in said.items() if not viable} == shared


@pytest.mark.parametrize(
    ("driver", "viable"),
    [("e1000", False), (None, True), ("pci-stub", True), ("vfio-pci", True)],
    ids=["host", "none", "pci-stub", "vfio-pci"],
)
def test_a_sibling_decides_whether_a_group_is_viable(
    lab: Machine,
    driver: str | None,
    viable: bool,  # noqa: FBT001 - a parameter of pytest
) -> None:
    assert bind(lab, FIRST_NIC, "vfio-pci")
    unbind(lab, SECOND_NIC)
    assert driver is None or bind(lab, SECOND_NIC, driver)
    group = group_of(lab, FIRST_NIC)
    assert compare(lab) == {group: viable}
    assert lab.call(product.group_status, group) == [viable, False]


def test_vfiohost_asks_a_group_as_anybody_does(lab: Machine) -> None:
    group = group_of(lab, layout.NIC)
    with pytest.raises(GuestError, match=r"Cannot open /dev/vfio/\d+: .*ENOENT"):
        lab.call(product.group_status, group)
    assert bind(lab, layout.NIC, "vfio-pci")
    assert lab.call(product.group_status, group) == [True, False]
    assert lab.call(vfio_user.open_device, layout.NIC, worker="user") == "ok"
    with pytest.raises(GuestError, match=r"Cannot open /dev/vfio/\d+: .*EBUSY"):
        lab.call(product.group_status, group)


def test_a_device_alone_keeps_its_group(lab: Machine) -> None:
    assert bind(lab, layout.NIC, "vfio-pci")
    assert lab.call(vfio_user.open_device, layout.NIC, worker="user") == "ok"
    lab.call(vfio_user.close_group, worker="user")
    assert lab.call(vfio_user.open_device, layout.NIC, worker="other") == "open EBUSY"
    lab.call(vfio_user.close, worker="user")
    assert lab.call(vfio_user.open_device, layout.NIC, worker="other") == "ok"


@pytest.mark.parametrize(
    ("address", "can_reset"), [(layout.NIC, False), (layout.PCIE_NIC, True)], ids=["NIC", "PCIe"]
)
def test_vfiohost_says_of_a_device_what_the_kernel_says(
    lab: Machine,
    address: str,
    can_reset: bool,  # noqa: FBT001 - a parameter of pytest
) -> None:
    assert bind(lab, address, "vfio-pci")
    assert lab.call(vfio_user.open_device, address, worker="user") == "ok"
    said = lab.call(product.device_info, worker="user")
    assert said["numbers"] == lab.call(vfio_user.device_info, worker="user")
    assert said["numbers"][1:] == [9, 5]  # VFIO_PCI_NUM_REGIONS, VFIO_PCI_NUM_IRQS
    assert (said["is_pci"], said["can_reset"]) == (True, can_reset)


@pytest.mark.flavours("iommufd")
def test_vfiohost_asks_a_cdev_that_is_bound(lab: Machine) -> None:
    assert bind(lab, layout.PCIE_NIC, "vfio-pci")
    assert lab.call(vfio_user.open_cdev, layout.PCIE_NIC, worker="user") == "ok"
    with pytest.raises(GuestError, match="EINVAL"):
        lab.call(product.device_info, layout.PCIE_NIC, worker="user")
    bound = lab.call(vfio_user.ioctl, "BIND_IOMMUFD", layout.PCIE_NIC, "A", worker="user")
    assert bound == "ok"
    said = lab.call(product.device_info, layout.PCIE_NIC, worker="user")
    assert said["numbers"] == lab.call(vfio_user.device_info, layout.PCIE_NIC, worker="user")
    assert said["is_pci"]


@pytest.mark.flavours("iommufd")
def test_without_an_iommu_the_kernel_is_tainted_and_the_group_is_asked_all_the_same(
    lab: Machine,
) -> None:
    lab.call(guest.store, state.NOIOMMU_MODE, "1")
    assert bind(lab, layout.OUTSIDE, "vfio-pci")
    assert int(lab.call(guest.read, "/proc/sys/kernel/tainted")) & TAINT_USER
    assert lab.call(product.group_status, group_of(lab, layout.OUTSIDE)) == [True, False]


def test_simulated_nodes_are_the_real_ones(
    lab: Machine, recorded: Recording, tmp_path: Path, flavour: str
) -> None:
    steps: list[Step] = [
        *to_vfio(layout.NIC, "e1000"),
        *to_vfio(FIRST_NIC, "e1000"),
        *to_vfio(SECOND_NIC, "e1000"),
        Do(create("mtty", "mtty-1", UUID)),
    ]
    if flavour == "iommufd":
        steps.append(Do(Store(state.NOIOMMU_MODE, "1")))
        steps.extend(to_vfio(layout.OUTSIDE, None))
    steps.append(Do(Store(f"{DRIVERS}/vfio-pci/unbind", FIRST_NIC)))
    steps.append(Do(bind_to("vfio-pci", FIRST_NIC)))
    simulated = testing.create(recorded, tmp_path / "host")
    run(steps, RealKernel(lab))
    run(steps, Simulated(simulated))
    real = lab.call(hoststate.read_vfio, "/")
    assert hoststate.read_vfio(simulated.root) == real
    assert real["/sys/class/vfio-dev"].split()[0] == "vfio0"


@pytest.mark.flavours("iommufd")
def test_nodes_have_the_numbers_that_sysfs_shows(lab: Machine) -> None:
    assert bind(lab, layout.NIC, "vfio-pci")
    shown = lab.call(guest.read, f"{DEVICES}/{layout.NIC}/vfio-dev/vfio0/dev").strip()
    node = vfio_user.cdev_node(layout.NIC)
    listed = lab.call(guest.run, ["stat", "-c", "%Hr:%Lr %F %a", node])["stdout"].strip()
    assert listed == f"{shown} character special file 600"
