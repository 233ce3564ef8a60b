"""vfiohost on a real kernel: the verbs, and what the kernel says of their work."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.kernel.lab import guest, layout, product, vfio_user

if TYPE_CHECKING:
    from tests.kernel.lab.vm import Machine

A10 = layout.A10S[0]
SECONDS_STUCK = 5.0
"""A second on a server; the processor here is an emulated one that shares its time with others."""


def vfiohost(lab: Machine, *arguments: str, exits: int = 0) -> str:
    """Run the command in the guest; what it printed, when it exits as it should."""
    done = lab.call(product.vfiohost, *arguments)
    assert done["status"] == exits, done["stderr"]
    return str(done["stderr" if exits else "stdout"])


def as_json(lab: Machine, *arguments: str) -> Any:
    return json.loads(vfiohost(lab, "--json", *arguments))


def driver(lab: Machine, address: str) -> str | None:
    name: str | None = lab.call(guest.readlink, f"/sys/bus/pci/devices/{address}/driver")
    return name


def test_list_shows_what_lspci_shows(lab: Machine) -> None:
    listed = vfiohost(lab, "list").splitlines()[1:]
    shown = lab.call(guest.run, ["lspci", "-Dnn"])["stdout"].splitlines()
    assert [line.split()[0] for line in listed] == [line.split()[0] for line in shown]
    for line, other in zip(listed, shown, strict=True):
        assert f"[{line.split()[1]}]" in other


def test_a10_goes_to_a_guest_and_comes_back(lab: Machine) -> None:
    lab.call(guest.load, "nouveau")
    assert driver(lab, A10) == "nouveau"
    group = lab.call(guest.readlink, f"/sys/bus/pci/devices/{A10}/iommu_group")
    moved = vfiohost(lab, "bind", "03:00.0")
    assert moved == f"{A10}  nouveau -> vfio-pci  group {group}  /dev/vfio/{group}\n"
    assert lab.call(vfio_user.group_flags, group) & 1
    assert lab.call(vfio_user.open_device, A10, worker="qemu") == "ok"
    lab.call(vfio_user.close, worker="qemu")
    assert "already bound" in vfiohost(lab, "bind", "03:00.0")
    assert vfiohost(lab, "restore", "03:00.0") == f"{A10}  vfio-pci -> nouveau  group {group}\n"
    assert driver(lab, A10) == "nouveau"
    override = lab.call(guest.read, f"/sys/bus/pci/devices/{A10}/driver_override")
    assert override == "(null)\n"


def test_dry_run_writes_nothing(lab: Machine) -> None:
    before = vfiohost(lab, "list")
    assert "vfio-pci/bind" in vfiohost(lab, "bind", "03:00.0", "--dry-run")
    assert vfiohost(lab, "list") == before


def test_viable_means_what_the_kernel_calls_viable(lab: Machine) -> None:
    lab.call(guest.load, "nouveau")
    audio = layout.RTX3090[1]
    vfiohost(lab, "bind", audio, "--allow", "shared-group")
    for address in (audio, layout.RTX3090[0]):
        group = lab.call(guest.readlink, f"/sys/bus/pci/devices/{address}/iommu_group")
        (row,) = [
            line for line in vfiohost(lab, "groups").splitlines()[1:] if line.split()[0] == group
        ]
        viable = bool(lab.call(vfio_user.group_flags, group) & 1)
        assert row.split()[1] == ("yes" if viable else "no")
        vfiohost(lab, "bind", layout.RTX3090[0], "--group", "--allow", "display")
        assert lab.call(vfio_user.group_flags, group) & 1


def test_shared_group_is_refused_and_taken_as_a_whole(lab: Machine) -> None:
    said = vfiohost(lab, "bind", "00:0a.0", exits=4)
    assert "[group-not-viable]" in said
    assert [driver(lab, nic) for nic in layout.TWIN_NICS] == ["e1000", "e1000"]
    vfiohost(lab, "bind", "00:0a.0", "--group")
    assert [driver(lab, nic) for nic in layout.TWIN_NICS] == ["vfio-pci", "vfio-pci"]
    vfiohost(lab, "undo")
    assert [driver(lab, nic) for nic in layout.TWIN_NICS] == ["e1000", "e1000"]


def test_pf_with_vfs_is_refused(lab: Machine) -> None:
    lab.call(guest.store, f"/sys/bus/pci/devices/{layout.NVME}/sriov_numvfs", "2")
    assert "[pf-with-vfs]" in vfiohost(lab, "bind", layout.NVME, exits=4)
    assert driver(lab, layout.NVME) == "nvme"


def test_bind_that_the_driver_refuses_is_taken_back(lab: Machine) -> None:
    lab.call(guest.load, "nouveau")
    lab.call(guest.store, "/sys/module/nouveau/parameters/probe_errno", "5")
    said = vfiohost(lab, "bind", layout.EDU, "--driver", "nouveau", exits=1)
    assert "(EIO)" in said
    assert driver(lab, layout.EDU) is None


def test_unbind_that_hangs_is_reported_as_pending(lab: Machine) -> None:
    lab.call(guest.load, "nvidia")
    lab.call(guest.store, "/sys/module/nvidia/parameters/clients", "1")
    done = lab.call(product.vfiohost, "--timeout", "2", "bind", "03:00.0")
    assert done["status"] == 6
    assert "03:00.0" in done["stderr"]
    lab.call(guest.store, "/sys/module/nvidia/parameters/clients", "0")
    vfiohost(lab, "recover")
    assert driver(lab, A10) == "nvidia"


@pytest.mark.parametrize(
    ("parent", "kind"), [("mtty", "mtty-1"), ("mdpy", "mdpy-vga"), ("mbochs", "mbochs-small")]
)
def test_mdev_of_a_sample_driver(lab: Machine, parent: str, kind: str) -> None:
    made = vfiohost(lab, "mdev", "create", "-p", parent, "-t", kind).split()
    assert lab.call(guest.listdir, "/sys/bus/mdev/devices") == [made[0]]
    assert made[1:3] == [parent, kind]
    vfiohost(lab, "mdev", "remove", made[0])
    assert lab.call(guest.listdir, "/sys/bus/mdev/devices") == []


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
    assert lab.call(guest.listdir, "/sys/bus/mdev/devices") == []


def test_json_of_a_listing_names_every_function(lab: Machine) -> None:
    listed = as_json(lab, "list")
    assert listed["schema"] == "vfiohost/1"
    addresses = [device["address"] for device in listed["devices"]]
    assert addresses == lab.call(guest.listdir, "/sys/bus/pci/devices")


def test_list_answers_while_an_unbind_is_stuck(lab: Machine) -> None:
    vfiohost(lab, "bind", layout.NIC)
    assert lab.call(vfio_user.open_device, layout.NIC, worker="qemu") == "ok"
    unbind = lab.submit(
        guest.store, "/sys/bus/pci/drivers/vfio-pci/unbind", layout.NIC, worker="stuck"
    )
    assert not unbind.done(within=2.0)
    listed = lab.call(product.vfiohost, "list", within=20.0)
    assert listed["status"] == 0
    (line,) = [line for line in listed["stdout"].splitlines() if line.startswith(layout.NIC)]
    assert " releasing " in line
    assert listed["seconds"] < SECONDS_STUCK
    lab.call(vfio_user.close, worker="qemu")
    assert unbind.result() is None
