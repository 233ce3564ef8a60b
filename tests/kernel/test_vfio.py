"""VFIO for real: what a probe finds, what a reset does, whose the nodes are."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.kernel.cases.terms import FIRST_NIC, SECOND_NIC, UUIDS
from tests.kernel.command import disk_of, vfiohost
from tests.kernel.lab import guest, layout, product, state, vfio_user

if TYPE_CHECKING:
    from tests.kernel.lab.vm import Machine

DEVICES = "/sys/bus/pci/devices"
DRIVERS = "/sys/bus/pci/drivers"
A10 = layout.A10S[0]
GROUP_STEPS = [
    "open /dev/vfio/vfio",
    "GET_API_VERSION",
    "open /dev/vfio/GROUP",
    "GROUP_GET_STATUS",
    "GROUP_SET_CONTAINER",
    "CHECK_EXTENSION",
    "SET_IOMMU",
    "IOMMU_MAP_DMA",
    "GROUP_GET_DEVICE_FD",
    "DEVICE_GET_INFO",
    "DEVICE_GET_REGION_INFO",
    "DEVICE_GET_IRQ_INFO",
    "IOMMU_UNMAP_DMA",
    "close",
]


PATIENCE = "120"
"""Seconds that a probe may take: it starts a Python, in a processor that may be starved."""


def probed(lab: Machine, *arguments: str, exits: int = 0) -> list[dict[str, Any]]:
    """What the probes of a command have found."""
    words = ("--json", "probe", "--timeout", PATIENCE)
    done = lab.call(product.vfiohost, *words, *arguments, within=300.0)
    assert done["status"] == exits, done["stdout"] + done["stderr"]
    found: list[dict[str, Any]] = json.loads(done["stdout"])["probes"]
    return found


def steps_of(probe: dict[str, Any], group: str) -> list[str]:
    assert {step["outcome"] for step in probe["steps"]} == {"ok"}
    return [str(s["name"]).replace(f"vfio/{group}", "vfio/GROUP") for s in probe["steps"]]


def group_of(lab: Machine, address: str) -> str:
    name: str = lab.call(guest.readlink, f"{DEVICES}/{address}/iommu_group")
    return name


def sizes(lab: Machine, address: str) -> list[int]:
    """The sizes of the BARs, as sysfs says."""
    lines = lab.call(guest.read, f"{DEVICES}/{address}/resource").splitlines()[:6]
    ends = [[int(word, 16) for word in line.split()[:2]] for line in lines]
    return [last - first + 1 for first, last in ends if last]


@pytest.mark.flavours("6.12", "6.1")
def test_a_guest_could_use_an_a10(lab: Machine) -> None:
    vfiohost(lab, "bind", A10)
    (probe,) = probed(lab, A10)
    assert (probe["usable"], probe["path"], probe["noiommu"]) == (True, "group", False)
    assert steps_of(probe, group_of(lab, A10)) == GROUP_STEPS
    bars = [region for region in probe["regions"] if region["name"].startswith("BAR")]
    assert [bar["size"] for bar in bars] == sizes(lab, A10)
    (config,) = [region for region in probe["regions"] if region["name"] == "CONFIG"]
    assert config["size"] in (256, 4096)
    assert probed(lab, A10) == [probe]  # and everything was closed


def test_what_the_kernel_says_of_a_nic(lab: Machine) -> None:
    vfiohost(lab, "bind", layout.PCIE_NIC)
    for probe in probed(lab, layout.PCIE_NIC, "--reset"):
        assert probe["can_reset"] is True
        assert "DEVICE_RESET" in [step["name"] for step in probe["steps"]]
        assert [irq["name"] for irq in probe["irqs"]] == ["INTx", "MSI", "MSI-X", "ERR", "REQ"]
    said = vfiohost(lab, "probe", "--timeout", PATIENCE, layout.PCIE_NIC)
    assert said.startswith(f"{layout.PCIE_NIC}  group  usable\n")
    assert lab.call(guest.read, f"{DEVICES}/{layout.PCIE_NIC}/enable").strip() == "0"


def test_a_reset_that_the_device_cannot_do(lab: Machine) -> None:
    vfiohost(lab, "bind", layout.NIC)
    for probe in probed(lab, layout.NIC, "--reset", exits=11):
        assert (probe["can_reset"], probe["cause"]["code"]) == (False, "no-reset")


@pytest.mark.flavours("iommufd")
def test_both_ways_to_a_device(lab: Machine) -> None:
    vfiohost(lab, "bind", A10)
    group, cdev = probed(lab, A10)
    assert (group["path"], cdev["path"]) == ("group", "cdev")
    assert steps_of(group, group_of(lab, A10)) == GROUP_STEPS
    node = lab.call(vfio_user.cdev_node, A10)
    assert steps_of(cdev, "none") == [
        "open /dev/iommu",
        f"open {node}",
        "DEVICE_BIND_IOMMUFD",
        "IOAS_ALLOC",
        "DEVICE_ATTACH_IOMMUFD_PT",
        "IOAS_MAP",
        "DEVICE_GET_INFO",
        "DEVICE_GET_REGION_INFO",
        "DEVICE_GET_IRQ_INFO",
        "IOAS_UNMAP",
        "close",
    ]
    assert group["regions"] == cdev["regions"] != []
    assert probed(lab, A10, "--path", "cdev") == [cdev]
    assert probed(lab, A10, "--path", "group") == [group]


@pytest.mark.flavours("6.12", "6.1")
def test_a_kernel_without_cdevs(lab: Machine) -> None:
    vfiohost(lab, "bind", layout.NIC)
    (probe,) = probed(lab, layout.NIC, "--path", "cdev", exits=11)
    assert probe["cause"]["code"] == "no-cdev"


@pytest.mark.flavours("iommufd")
def test_without_an_iommu(lab: Machine) -> None:
    lab.call(guest.store, state.NOIOMMU_MODE, "1")
    lab.call(guest.store, f"{DEVICES}/{layout.OUTSIDE}/driver_override", "vfio-pci")
    assert lab.call(guest.store, f"{DRIVERS}/vfio-pci/bind", layout.OUTSIDE) is None
    (probe,) = probed(lab, layout.OUTSIDE)
    assert (probe["usable"], probe["noiommu"], probe["path"]) == (True, True, "group")
    done = {step["name"]: step["detail"] for step in probe["steps"]}
    assert done["CHECK_EXTENSION"] == "noiommu"
    assert not [name for name in done if "MAP" in name]
    assert "it can write to all memory" in vfiohost(
        lab, "probe", "--timeout", PATIENCE, layout.OUTSIDE
    )


def test_a_device_that_is_on_a_host_driver(lab: Machine) -> None:
    (probe,) = probed(lab, layout.NIC, exits=11)
    assert probe["cause"] == {
        "code": "not-bound",
        "sentence": f"{layout.NIC} is on e1000, and only a VFIO driver such as vfio-pci hands it "
        "to a guest.",
        "remedy": f"Bind it: `vfiohost bind {layout.NIC}`.",
    }


def test_a_sibling_on_a_host_driver_is_to_blame(lab: Machine) -> None:
    vfiohost(lab, "bind", FIRST_NIC, "--allow", "shared-group")
    group = group_of(lab, FIRST_NIC)
    for probe in probed(lab, FIRST_NIC, exits=11):
        assert probe["cause"]["code"] == "not-viable"
        assert probe["cause"]["sentence"] == (
            f"IOMMU group {group} is not viable: {SECOND_NIC} on e1000 is a host driver's."
        )
        last = probe["steps"][-1]
        assert (last["outcome"], "EPERM" in last["detail"]) == ("failed", True)
    vfiohost(lab, "bind", SECOND_NIC)
    assert all(probe["usable"] for probe in probed(lab, FIRST_NIC))


def test_who_has_the_device_is_named(lab: Machine) -> None:
    vfiohost(lab, "bind", layout.NIC)
    assert lab.call(vfio_user.open_device, layout.NIC, worker="qemu") == "ok"
    pid = lab.call(guest.pid, worker="qemu")
    probes = probed(lab, layout.NIC, exits=11)
    assert [probe["cause"]["code"] for probe in probes] == ["busy"] * len(probes)
    assert all(f"pid {pid} (" in probe["cause"]["sentence"] for probe in probes)
    lab.call(vfio_user.close, worker="qemu")
    assert all(probe["usable"] for probe in probed(lab, layout.NIC))


def test_a_virtual_function_whose_pf_is_used_needs_the_token(lab: Machine) -> None:
    lab.call(guest.store, "/sys/module/vfio_pci/parameters/enable_sriov", "Y")
    vfiohost(lab, "bind", A10)
    assert lab.call(guest.store, f"{DEVICES}/{A10}/sriov_numvfs", "1") is None
    vf = lab.call(guest.readlink, f"{DEVICES}/{A10}/virtfn0")
    token, other = UUIDS[:2]
    options = f"vf_token={token}"
    assert lab.call(vfio_user.open_device, A10, options=options, worker="qemu") == "ok"
    way = (vf, "--path", "group")
    for words in ((), ("--vf-token", other)):
        (probe,) = probed(lab, *way, *words, exits=11)
        assert probe["cause"]["code"] == "vf-token"
        assert probe["steps"][-1]["name"] == "GROUP_GET_DEVICE_FD"
    (probe,) = probed(lab, *way, "--vf-token", token)
    assert probe["usable"]


def attribute(lab: Machine, address: str, name: str) -> str:
    return str(lab.call(guest.read, f"{DEVICES}/{address}/{name}")).strip()


@pytest.mark.parametrize(
    ("address", "method"),
    [(layout.PCIE_NIC, None), (layout.PCIE_NIC, "pm"), (layout.NVME, None), (layout.NVME, "flr")],
    ids=["e1000e", "e1000e-pm", "nvme", "nvme-flr"],
)
def test_a_reset_leaves_the_methods_as_they_were(
    lab: Machine, address: str, method: str | None
) -> None:
    vfiohost(lab, "bind", address)
    before = attribute(lab, address, "reset_method")
    words = () if method is None else ("--method", method)
    by = "" if method is None else f" by {method}"
    assert vfiohost(lab, "reset", address, *words) == f"{address}  reset{by}\n"
    assert attribute(lab, address, "reset_method") == before
    assert all(probe["usable"] for probe in probed(lab, address))


def test_a_method_that_fails_is_taken_back(lab: Machine) -> None:
    vfiohost(lab, "bind", layout.PCIE_NIC)
    before = attribute(lab, layout.PCIE_NIC, "reset_method")
    assert before.split() == ["pm", "bus"]
    # QEMU's root port: the link does not come up again.
    said = vfiohost(lab, "reset", layout.PCIE_NIC, "--method", "bus", exits=1)
    assert "ENOTTY" in said
    assert attribute(lab, layout.PCIE_NIC, "reset_method") == before
    assert vfiohost(lab, "recover") == "nothing to recover\n"


def test_a_method_that_the_device_does_not_have(lab: Machine) -> None:
    vfiohost(lab, "bind", layout.PCIE_NIC)
    assert "no reset method 'flr'" in vfiohost(
        lab, "reset", layout.PCIE_NIC, "--method", "flr", exits=3
    )


def test_a_device_without_a_way_to_reset_it(lab: Machine) -> None:
    assert "no way to be reset" in vfiohost(lab, "reset", layout.EDU, exits=9)


def test_no_reset_under_a_guest_or_a_host_driver(lab: Machine) -> None:
    assert "[host-driver]" in vfiohost(lab, "reset", layout.PCIE_NIC, exits=4)
    vfiohost(lab, "bind", layout.PCIE_NIC)
    assert lab.call(vfio_user.open_device, layout.PCIE_NIC, worker="qemu") == "ok"
    assert "[vfio-user]" in vfiohost(lab, "reset", layout.PCIE_NIC, exits=4)
    lab.call(vfio_user.close, worker="qemu")
    vfiohost(lab, "reset", layout.PCIE_NIC)


def test_a_disk_is_reset_under_its_driver_when_that_is_permitted(lab: Machine) -> None:
    """nvme has a reset_prepare and a reset_done."""
    vfiohost(lab, "reset", layout.NVME, "--allow", "host-driver")
    disk = f"/dev/{disk_of(lab)}"
    assert lab.call(guest.run, ["dd", f"if={disk}", "of=/dev/null", "count=8"])["status"] == 0


def owner_of(lab: Machine, path: str) -> str:
    return str(lab.call(guest.run, ["stat", "-c", "%u:%g %a %F", path])["stdout"]).strip()


def test_the_nodes_get_an_owner(lab: Machine, flavour: str) -> None:
    vfiohost(lab, "bind", layout.NIC, "--owner", "64055:108", "--mode", "0660")
    mine = "64055:108 660 character special file"
    group = f"/dev/vfio/{group_of(lab, layout.NIC)}"
    assert owner_of(lab, group) == mine
    if flavour == "iommufd":
        assert owner_of(lab, lab.call(vfio_user.cdev_node, layout.NIC)) == mine
    again = vfiohost(lab, "bind", layout.NIC, "--owner", "64055:108", "--mode", "0660", "-v")
    assert "already bound" in again
    vfiohost(lab, "restore", layout.NIC)
    assert lab.call(guest.readlink, f"{DEVICES}/{layout.NIC}/driver") == "e1000"
    vfiohost(lab, "bind", layout.NIC)
    assert owner_of(lab, group) == "0:0 600 character special file"


def test_the_node_of_a_group_gets_back_what_it_had(lab: Machine) -> None:
    """It is there before the second device joins the group, and stays when that leaves it."""
    alone = ("--allow", "shared-group")
    vfiohost(lab, "bind", FIRST_NIC, *alone, "--owner", "64055:108", "--mode", "0640")
    node = f"/dev/vfio/{group_of(lab, FIRST_NIC)}"
    before = "64055:108 640 character special file"
    assert owner_of(lab, node) == before
    vfiohost(lab, "bind", SECOND_NIC, "--owner", "107:107", "--mode", "0660")
    assert owner_of(lab, node) == "107:107 660 character special file"
    vfiohost(lab, "undo")
    assert owner_of(lab, node) == before
    vfiohost(lab, "bind", FIRST_NIC, *alone, "--owner", "107", "--mode", "0600")
    vfiohost(lab, "undo")
    assert owner_of(lab, node) == before


def test_nobody_of_that_name(lab: Machine) -> None:
    said = vfiohost(lab, "bind", layout.NIC, "--owner", "nobody-of-that-name", exits=3)
    assert "nobody-of-that-name" in said
    assert lab.call(guest.readlink, f"{DEVICES}/{layout.NIC}/driver") == "e1000"


def test_a_link_in_place_of_the_node_is_not_followed(lab: Machine) -> None:
    vfiohost(lab, "bind", layout.NIC)
    node = f"/dev/vfio/{group_of(lab, layout.NIC)}"
    victim = "/dev/null"
    before = owner_of(lab, victim)
    lab.call(guest.run, ["mv", node, f"{node}.away"])
    lab.call(guest.run, ["ln", "-s", victim, node])
    try:
        assert "ELOOP" in vfiohost(lab, "bind", layout.NIC, "--owner", "64055", exits=1)
        assert owner_of(lab, victim) == before
    finally:
        lab.call(guest.run, ["mv", f"{node}.away", node])
