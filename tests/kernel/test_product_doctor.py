"""``vfiohost doctor`` on a real kernel."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.kernel.command import vfiohost
from tests.kernel.lab import guest, layout, product
from tests.kernel.lab.vm import boot

if TYPE_CHECKING:
    from pathlib import Path

    from tests.kernel.conftest import Machines
    from tests.kernel.lab.vm import Machine

SECONDS = 60.0


def findings(lab: Machine, *arguments: str) -> tuple[dict[str, Any], int]:
    """What the doctor found, by code and subject, and its exit code."""
    done = lab.call(product.vfiohost, "--json", "doctor", *arguments, within=SECONDS)
    assert done["stderr"] == ""
    value = json.loads(done["stdout"])
    assert "error" not in value
    assert value["exit_code"] == done["status"]
    return {f"{f['code']} {f['subject']}": f for f in value["findings"]}, int(done["status"])


def test_the_machine_is_seen_as_it_is(lab: Machine) -> None:
    found, status = findings(lab)
    bad = {f["code"] for f in found.values() if f["severity"] == "bad"}
    assert (status, bad) == (0, set())
    assert {"guest host", "interrupt-remapping host", "memlock-unlimited host"} <= found.keys()
    (outside,) = (f for f in found.values() if f["code"] == "outside-iommu")
    assert layout.OUTSIDE in outside["sentence"]
    table, iommus = (
        lab.call(guest.listdir, path) for path in ("/sys/firmware/acpi/tables", "/sys/class/iommu")
    )
    assert "DMAR" in table
    assert iommus == ["dmar0"]
    assert "Traceback" not in vfiohost(lab, "doctor", "--all")


def with_an_iommu_of_amd(folder: Path) -> list[str]:
    device = ("-device", "amd-iommu,intremap=on")
    return [*layout.base_options(folder), "-smp", "2", "-m", "1G", *device]


@pytest.mark.flavours("6.12")
@pytest.mark.parametrize("words", ["", "intremap=off"])
def test_an_iommu_of_amd(machines: Machines, words: str) -> None:
    """It is a PCI device in no group, and its own interrupt comes first and is never remapped."""
    with boot(machines.image, options=with_an_iommu_of_amd, append=words) as machine:
        interrupts = machine.call(guest.read, "/proc/interrupts")
        (own,) = (line for line in interrupts.splitlines() if line.endswith("AMD-Vi"))
        assert " PCI-MSI" in own
        assert ("IR-PCI-MSI" in interrupts) == (words == "")
        found, status = findings(machine)
        assert {"guest host", "iommu-on host"} <= found.keys()
        assert ("interrupt-remapping host" in found) == (words == "")
        assert ("no-interrupt-remapping host" in found) == (words != "")
        assert status == (11 if words else 0)


def test_access_control_of_a_port_is_what_lspci_shows(lab: Machine) -> None:
    """The card's two functions share a group; the port above is read to see whether it is why."""
    card = layout.RTX3090[0]
    group = lab.call(guest.readlink, f"/sys/bus/pci/devices/{card}/iommu_group")
    found, _ = findings(lab, card)
    seen = {e["path"]: e["value"] for e in found[f"group-one-card group {group}"]["evidence"]}
    ((path, said),) = ((path, said) for path, said in seen.items() if path.endswith("/config"))
    port = path.split("/")[-2]
    assert path.split("/")[-3].startswith("pci")
    shown = lab.call(guest.run, ["lspci", "-vvs", port])["stdout"]
    assert said.startswith("root port")
    assert ("Access Control Services" in shown) == ("ACS capability 0x" in said), said + shown


def test_reset_methods_are_those_of_the_kernel(lab: Machine) -> None:
    found, _ = findings(lab, layout.EDU, layout.NVME, layout.PCIE_NIC)
    assert f"no-reset {layout.EDU}" in found
    assert f"reset-ready {layout.NVME}" in found
    methods = lab.call(guest.read, f"/sys/bus/pci/devices/{layout.NVME}/reset_method").split()
    assert " ".join(methods) in found[f"reset-ready {layout.NVME}"]["sentence"]


def test_room_for_virtual_functions_is_seen(lab: Machine) -> None:
    found, _ = findings(lab, layout.NVME)
    assert f"sriov-ready {layout.NVME}" in found
    path = f"/sys/bus/pci/devices/{layout.NVME}/sriov_numvfs"
    assert lab.call(guest.store, path, "1") is None


def test_a_dynamic_id_leaves_a_trace(lab: Machine) -> None:
    lab.call(guest.run, ["modprobe", "vfio_pci"])
    lab.call(guest.store, f"/sys/bus/pci/devices/{layout.NIC}/driver/unbind", layout.NIC)
    ids = lab.call(guest.read, f"/sys/bus/pci/devices/{layout.NIC}/device").strip()[2:]
    assert lab.call(guest.store, "/sys/bus/pci/drivers/vfio-pci/new_id", f"8086 {ids}") is None
    found, _ = findings(lab)
    assert f"stray-vfio {layout.NIC}" in found
    assert f"8086 {ids}" in found[f"stray-vfio {layout.NIC}"]["remedy"]
    lab.call(guest.store, "/sys/bus/pci/drivers/vfio-pci/remove_id", f"8086 {ids}")


def test_what_sleeps_is_not_woken(lab: Machine) -> None:
    lab.call(guest.run, ["modprobe", "vfio_pci"])
    vfiohost(lab, "bind", layout.PCIE_NIC)
    status = f"/sys/bus/pci/devices/{layout.PCIE_NIC}/power/runtime_status"
    active = f"/sys/bus/pci/devices/{layout.PCIE_NIC}/power/runtime_active_time"
    deadline = time.monotonic() + SECONDS
    while lab.call(guest.read, status).strip() != "suspended":  # in the background
        assert time.monotonic() < deadline
    before = lab.call(guest.read, active)
    found, _ = findings(lab, layout.PCIE_NIC)
    assert f"reset-ready {layout.PCIE_NIC}" in found
    assert lab.call(guest.read, status).strip() == "suspended"
    assert lab.call(guest.read, active) == before


def test_an_ordinary_user_is_told_what_is_missing(lab: Machine) -> None:
    done = lab.call(product.vfiohost_as_nobody, "--json", "doctor", within=SECONDS)
    assert done["stderr"] == ""
    found = {f["code"] for f in json.loads(done["stdout"])["findings"]}
    assert {"guest", "outside-iommu", "memlock"} <= found
    assert "memlock-unlimited" not in found
