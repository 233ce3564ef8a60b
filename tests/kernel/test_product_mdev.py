"""Mediated devices on a real kernel: of its samples, and vGPUs of the stand-in for NVIDIA."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.kernel.command import as_json, parameter, vfiohost
from tests.kernel.lab import guest, layout

if TYPE_CHECKING:
    from tests.kernel.lab.vm import Machine

A10 = layout.A10S[0]
UUID = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001"
MDEVS = "/sys/bus/mdev/devices"


@pytest.mark.parametrize(
    ("parent", "kind"), [("mtty", "mtty-1"), ("mdpy", "mdpy-vga"), ("mbochs", "mbochs-small")]
)
def test_mdev_of_a_sample_driver(lab: Machine, parent: str, kind: str) -> None:
    made = vfiohost(lab, "mdev", "create", "-p", parent, "-t", kind).split()
    assert lab.call(guest.listdir, MDEVS) == [made[0]]
    assert made[1:3] == [parent, kind]
    vfiohost(lab, "mdev", "remove", made[0])
    assert lab.call(guest.listdir, MDEVS) == []


def test_vgpus_of_an_a10_until_it_is_full(lab: Machine) -> None:
    lab.call(guest.load, "nvidia", "sriov=1")
    lab.call(guest.store, f"/sys/bus/pci/devices/{A10}/sriov_numvfs", "4")
    made = vfiohost(lab, "mdev", "create", "-p", A10, "-t", "A10-12Q", "-n", "2").splitlines()
    assert [line.split()[1:3] for line in made] == [
        ["0000:03:00.4", "nvidia-596"],
        ["0000:03:00.5", "nvidia-596"],
    ]
    said = vfiohost(lab, "mdev", "create", "-p", A10, "-t", "A10-12Q", exits=4)
    assert "[no-instances]" in said
    listed = vfiohost(lab, "mdev", "list").splitlines()[1:]
    assert [line.split()[0] for line in listed] == [line.split()[0] for line in made]
    for line in made:
        vfiohost(lab, "mdev", "remove", line.split()[0])
    assert lab.call(guest.listdir, MDEVS) == []


def test_types_are_those_of_sysfs(lab: Machine) -> None:
    lab.call(guest.load, "nvidia")
    parents = as_json(lab, "mdev", "types")["parents"]
    assert [parent["name"] for parent in parents] == [layout.T4, "mbochs", "mdpy", "mtty"]
    for parent in parents:
        kernel = lab.call(guest.mdev_types, parent["name"])
        told = {each["type_id"]: each for each in parent["types"]}
        assert told.keys() == kernel.keys()
        for type_id, files in kernel.items():
            assert told[type_id]["name"] == files["name"]
            assert told[type_id]["available_instances"] == int(files["available_instances"])
    text = vfiohost(lab, "mdev", "types", "-p", layout.T4).splitlines()
    assert len(text) == 1 + 13
    assert text[1].split() == [layout.T4, "nvidia-222", "16", "vfio-pci", "GRID", "T4-1B"]


def test_many_are_made_at_once_and_one_by_its_uuid(lab: Machine) -> None:
    create = ("mdev", "create", "-p", "mtty", "-t")
    vfiohost(lab, *create, "Dual_port_serial", "-u", UUID.upper())
    assert lab.call(guest.listdir, MDEVS) == [UUID]
    assert "[uuid-exists]" in vfiohost(lab, *create, "mtty-1", "-u", UUID, exits=4)
    made = as_json(lab, *create, "mtty-1", "-n", "3")["mdevs"]
    uuids = [each["uuid"] for each in made]
    assert lab.call(guest.listdir, MDEVS) == sorted([UUID, *uuids])
    listed = as_json(lab, "mdev", "list")["mdevs"]
    assert {each["uuid"]: each["type_id"] for each in listed} == {
        UUID: "mtty-2",
        **dict.fromkeys(uuids, "mtty-1"),
    }
    assert "[no-instances]" in vfiohost(lab, *create, "mtty-1", "-n", "20", exits=4)
    vfiohost(lab, "mdev", "remove", UUID, *uuids)
    assert lab.call(guest.listdir, MDEVS) == []
    vfiohost(lab, "mdev", "remove", UUID, exits=3)


@pytest.mark.parametrize("name", ["nonsense", "nvidia/vgpu_params"])
def test_attribute_that_is_not_there_takes_the_device_back(lab: Machine, name: str) -> None:
    create = ("mdev", "create", "-p", "mtty", "-t", "mtty-1")
    said = vfiohost(lab, *create, "--attr", f"{name}=1", exits=1)
    assert f"The mediated device has no attribute {name}: " in said
    assert lab.call(guest.listdir, MDEVS) == []


def test_plugin_parameters_of_a_vgpu(lab: Machine) -> None:
    lab.call(guest.load, "nvidia")
    create = ("mdev", "create", "-p", layout.T4, "-t", "T4-8Q", "-u", UUID, "--attr")
    assert "(EINVAL)" in vfiohost(lab, *create, "nvidia/vgpu_params=nonsense", exits=1)
    assert lab.call(guest.listdir, MDEVS) == []
    vfiohost(lab, *create, "nvidia/vgpu_params=enable_uvm=1")
    assert lab.call(guest.read, f"{MDEVS}/{UUID}/nvidia/vgpu_params") == "enable_uvm=1\n"


def test_what_is_defined_starts_with_its_attributes(lab: Machine) -> None:
    lab.call(guest.load, "nvidia")
    offered = lab.call(guest.mdev_types, layout.T4)
    kind = next(each for each, files in offered.items() if files["name"] == "GRID T4-8Q")
    vfiohost(lab, "mdev", "define", "-p", layout.T4, "-t", kind, "-u", UUID, "--auto")
    add = ("mdev", "modify", UUID, "--addattr", "nvidia/vgpu_params", "--value")
    vfiohost(lab, *add, "enable_uvm=1")
    vfiohost(lab, *add, "nonsense")  # the kernel takes the first, and not the second
    assert "(EINVAL)" in vfiohost(lab, "mdev", "start", UUID, exits=1)
    assert lab.call(guest.listdir, MDEVS) == []
    vfiohost(lab, "mdev", "modify", UUID, "--delattr")
    started = vfiohost(lab, "mdev", "start", "--auto").split()
    assert started[:3] == [UUID, layout.T4, kind]
    assert lab.call(guest.read, f"{MDEVS}/{UUID}/nvidia/vgpu_params") == "enable_uvm=1\n"
    again = as_json(lab, "mdev", "start", UUID)
    assert (again["plan"]["steps"], again["mdevs"][0]["type_id"]) == ([], kind)
    vfiohost(lab, "undo")
    assert lab.call(guest.listdir, MDEVS) == []
    vfiohost(lab, "mdev", "create", "-p", "mtty", "-t", "mtty-1", "-u", UUID)
    assert "[uuid-exists]" in vfiohost(lab, "mdev", "start", UUID, exits=4)
    vfiohost(lab, "mdev", "undefine", UUID)


def test_creation_that_the_driver_refuses_leaves_nothing(lab: Machine) -> None:
    lab.call(guest.load, "nvidia")
    parameter(lab, "nvidia", "create_errno", "5")
    said = vfiohost(lab, "mdev", "create", "-p", layout.T4, "-t", "T4-8Q", exits=1)
    assert "(EIO)" in said
    assert lab.call(guest.listdir, MDEVS) == []


def test_t4_carries_one_type_on_its_physical_function(lab: Machine) -> None:
    lab.call(guest.load, "nvidia")
    create = ("mdev", "create", "-p", layout.T4, "-t")
    made = vfiohost(lab, *create, "GRID T4-8Q", "-n", "2").splitlines()
    assert [line.split()[1:3] for line in made] == [[layout.T4, "nvidia-233"]] * 2
    assert "[no-instances]" in vfiohost(lab, *create, "T4-8Q", exits=4)
    assert "[no-instances]" in vfiohost(lab, *create, "T4-4Q", exits=4)
    vfiohost(lab, "mdev", "remove", *(line.split()[0] for line in made))
    vfiohost(lab, *create, "T4-4Q", "-n", "4")
