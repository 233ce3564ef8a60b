"""``vfiohost show`` on a real kernel: what lspci and sysfs say too, and who is woken by it."""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.kernel.command import as_json, vfiohost
from tests.kernel.lab import guest, layout, product
from tests.kernel.lab.vm import boot

if TYPE_CHECKING:
    from pathlib import Path

    from tests.kernel.conftest import Machines
    from tests.kernel.lab.vm import Machine

BUS = "/sys/bus/pci/devices"
SLEEP_SECONDS = 60.0


def shown(lab: Machine, address: str, *options: str) -> dict[str, Any]:
    """What is known of a device."""
    (found,) = as_json(lab, "show", address, *options)["devices"]
    value: dict[str, Any] = found
    return value


def attribute(lab: Machine, address: str, name: str) -> str:
    """What an attribute of a device says."""
    return str(lab.call(guest.read, f"{BUS}/{address}/{name}")).rstrip("\n")


def test_every_function_is_what_lspci_shows(lab: Machine) -> None:
    listed = [d["address"] for d in as_json(lab, "list")["devices"]]
    said = lab.call(guest.run, ["lspci", "-D", "-vvv", "-n"])["stdout"]
    blocks = {b.split(" ", 1)[0]: b for b in said.split("\n\n") if b.strip()}
    for found in as_json(lab, "show", *listed)["devices"]:
        block = blocks.pop(found["device"]["address"])
        heads = re.findall(r"Capabilities: \[([0-9a-f]+)(?: v(\d+))?\]", block)
        config = found["config"]
        assert config is not None, (found["device"]["address"], found["sleeper"], found["power"])
        assert [(c["offset"], c["version"]) for c in config["capabilities"]] == [
            (int(offset, 16), int(version or 0)) for offset, version in heads
        ]
        assert (config["msix"] is not None) == ("MSI-X: Enable" in block)
        assert (config["acs"] is not None) == ("ACSCap:" in block)
        assert (config["sriov"] is not None) == ("IOVCap:" in block)
    assert not blocks


def test_a_physical_function_is_what_sysfs_shows(lab: Machine) -> None:
    assert lab.call(guest.store, f"{BUS}/{layout.NVME}/sriov_numvfs", "3") is None
    found = shown(lab, layout.NVME)
    sriov = found["config"]["sriov"]
    assert (sriov["enabled"], sriov["num_vfs"]) == (True, 3)
    assert sriov["total_vfs"] == int(attribute(lab, layout.NVME, "sriov_totalvfs"))
    for name in ("offset", "stride"):
        assert found["sriov"][name] == sriov[name]
        assert sriov[name] == int(attribute(lab, layout.NVME, f"sriov_{name}"))
    assert found["virtual_functions"] == list(layout.NVME_VFS[:3])
    assert found["reset"]["methods"] == attribute(lab, layout.NVME, "reset_method").split()
    virtual = shown(lab, layout.NVME_VFS[1])
    assert (virtual["vf_index"], virtual["config"]["answers"]) == (1, True)
    assert virtual["route"] == found["route"]


def test_the_link_is_what_sysfs_shows(lab: Machine) -> None:
    for address in (layout.PCIE_NIC, layout.PORT):
        link = shown(lab, address)["link"]
        for name in ("speed", "width"):
            said = attribute(lab, address, f"current_link_{name}").removesuffix(" PCIe")
            assert str(link[name]) == said


def test_the_group_is_what_sysfs_shows(lab: Machine) -> None:
    group = shown(lab, layout.NVME)["group"]
    folder = f"/sys/kernel/iommu_groups/{group['number']}"
    assert group["type"] == str(lab.call(guest.read, f"{folder}/type")).strip()
    lines = str(lab.call(guest.read, f"{folder}/reserved_regions")).splitlines()
    said = [f"0x{r['start']:>016} 0x{r['end']:>016} {r['kind']}" for r in group["reserved"]]
    assert said == lines
    assert lines


def test_an_ordinary_user_gets_what_is_no_secret(lab: Machine) -> None:
    done = lab.call(product.vfiohost_as_nobody, "--json", "show", layout.PCIE_NIC)
    assert done["status"] == 0, done["stderr"]
    (found,) = json.loads(done["stdout"])["devices"]
    assert (found["config"]["size"], found["config"]["chain"]) == (64, "cut")
    assert found["link"] == shown(lab, layout.PCIE_NIC)["link"]


def states(lab: Machine, *addresses: str) -> list[tuple[str, str]]:
    """Whether functions sleep, and for how long they have been awake."""
    names = ("power/runtime_status", "power/runtime_active_time")
    return [(attribute(lab, a, names[0]), attribute(lab, a, names[1])) for a in addresses]


def test_a_device_in_d3hot_sleeps_on_while_it_is_read(lab: Machine) -> None:
    lab.call(guest.run, ["modprobe", "vfio_pci"])
    vfiohost(lab, "bind", layout.PCIE_NIC)
    deadline = time.monotonic() + SLEEP_SECONDS
    while not asleep(lab, layout.PCIE_NIC):  # the kernel lets it sleep in the background
        assert time.monotonic() < deadline
    before = states(lab, layout.PCIE_NIC)
    assert attribute(lab, layout.PCIE_NIC, "power_state") == "D3hot"
    found = shown(lab, layout.PCIE_NIC)
    assert found["sleeper"] is None
    assert found["config"]["power"]["state"] == "D3hot"
    assert states(lab, layout.PCIE_NIC) == before


def asleep(machine: Machine, *addresses: str) -> bool:
    return all(status == "suspended" for status, _ in states(machine, *addresses))


def with_a_port_that_can_sleep(folder: Path) -> list[str]:
    """Those of the usual machine cannot: the firmware looks after their hotplug."""
    port = "pcie-root-port,id=port0b,chassis=1,addr=0b.0,hotplug=off"
    card = layout.nic("nic3", "e1000e,bus=port0b")
    options = [*layout.base_options(folder), "-smp", "2", "-m", "1G", *layout.IOMMU]
    return [*options, "-device", port, *card]


@pytest.mark.flavours("6.12")
def test_a_port_that_sleeps_is_not_woken_unless_asked_for(machines: Machines) -> None:
    """The kernel lets a root port sleep, as on newer machines, when all behind it does."""
    both = (layout.PORT, layout.PCIE_NIC)
    options = with_a_port_that_can_sleep
    with boot(machines.image, options=options, append="pcie_port_pm=force") as machine:
        machine.call(guest.run, ["modprobe", "vfio_pci"])
        vfiohost(machine, "bind", layout.PCIE_NIC)
        machine.call(guest.store, f"{BUS}/{layout.PORT}/power/control", "auto")
        deadline = time.monotonic() + SLEEP_SECONDS
        while not asleep(machine, *both) and time.monotonic() < deadline:
            time.sleep(0.5)
        before = states(machine, *both)
        assert asleep(machine, *both), before
        found = shown(machine, layout.PCIE_NIC)
        assert (found["sleeper"], found["config"]) == (layout.PORT, None)
        assert states(machine, *both) == before
        text = vfiohost(machine, "show", layout.PCIE_NIC)
        assert f"{layout.PORT} in front of it sleeps" in text
        assert states(machine, *both) == before
        woken = shown(machine, layout.PCIE_NIC, "--wake")
        assert woken["config"]["answers"]
        assert states(machine, layout.PORT)[0][1] != before[0][1]
