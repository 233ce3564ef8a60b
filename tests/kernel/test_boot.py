"""The machine is what the other tests take it for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.kernel.command import NO_HWDB
from tests.kernel.conftest import kernel_of
from tests.kernel.lab import guest, layout
from tests.kernel.lab.errors import GuestError, LabError, StillRunningError

if TYPE_CHECKING:
    from tests.kernel.conftest import Machines
    from tests.kernel.lab.vm import Machine

DOCUMENTED = """\
{slot} 3D controller [0302]: NVIDIA Corporation GA102GL [A10] [10de:2236] (rev a1)
\tSubsystem: NVIDIA Corporation Device [10de:1482]
\tKernel modules: nvidiafb, nouveau
"""
"""What NVIDIA's documentation shows of an A10 that no driver has taken yet."""


def test_kernel_is_the_one_that_was_asked_for(
    lab: Machine, flavour: str, request: pytest.FixtureRequest
) -> None:
    assert kernel_of(request.node.nodeid) == flavour
    assert lab.release.startswith(f"{flavour}." if flavour[0].isdigit() else "6.12.")
    assert lab.call(guest.read, "/proc/sys/kernel/osrelease").strip() == lab.release


def test_lspci_shows_what_nvidia_documents(lab: Machine) -> None:
    shown = lab.call(guest.run, ["lspci", *NO_HWDB, "-nnk", "-s", "03:00.0"])["stdout"]
    assert shown == DOCUMENTED.format(slot="03:00.0")
    every = lab.call(guest.run, ["lspci", "-n", "-d", "10de:"])["stdout"]
    ids = [line.split(":")[-1][:4] for line in every.splitlines()]
    assert ids == ["2236", "2236", "2204", "1aef", "1e87", "10f8", "1ad8", "1ad9", "1eb8", "26b9"]


def test_functions_without_isolation_share_a_group(lab: Machine) -> None:
    groups = lab.call(guest.groups)
    together = [tuple(group) for group in groups.values()]
    cards = (*layout.A10S, layout.T4, layout.L40S)
    for alone in (layout.NIC, layout.PCIE_NIC, layout.NVME, *cards, layout.EDU):
        assert (alone,) in together
    for group in (layout.TWIN_NICS, layout.RTX3090, layout.RTX2080):
        assert group in together


def test_functions_of_a_card_are_linked_as_consumers(lab: Machine) -> None:
    gpu, *others = layout.RTX2080
    names = lab.call(guest.listdir, f"/sys/bus/pci/devices/{gpu}")
    consumers = [name for name in names if name.startswith("consumer:pci:")]
    assert consumers == [f"consumer:pci:{other}" for other in others]


def pci_parents(lab: Machine) -> list[str]:
    """List the parents of mdevs that are PCI functions: the kernel's samples have others."""
    return [name for name in lab.call(guest.listdir, "/sys/class/mdev_bus") if ":" in name]


def test_every_vf_of_an_a10_is_a_parent_of_vgpus(lab: Machine) -> None:
    pf = layout.A10S[0]
    lab.call(guest.load, "nvidia", "sriov=1")
    assert lab.call(guest.store, f"/sys/bus/pci/devices/{pf}/sriov_numvfs", "32") is None
    vfs = [f"0000:03:{(index + 4) // 8:02x}.{(index + 4) % 8}" for index in range(32)]
    assert pci_parents(lab) == [*vfs, layout.T4]
    groups = [tuple(group) for group in lab.call(guest.groups).values()]
    assert all((vf,) in groups for vf in (pf, *vfs))
    types = lab.call(guest.mdev_types, vfs[31])
    assert types["nvidia-595"] == {
        "name": "NVIDIA A10-8Q",
        "available_instances": "1",
        "description": "num_heads=4, frl_config=60, framebuffer=8192M, max_resolution=7680x4320, "
        "max_instance=3",
        "device_api": "vfio-pci",
    }
    assert list(types) == [f"nvidia-{number}" for number in range(588, 606)]


def test_vgpus_of_a_card_are_of_one_type(lab: Machine) -> None:
    pf = layout.A10S[0]
    lab.call(guest.load, "nvidia", "sriov=1")
    lab.call(guest.store, f"/sys/bus/pci/devices/{pf}/sriov_numvfs", "4")
    left = []
    for number in range(4):
        vf = f"0000:03:00.{number + 4}"
        types = lab.call(guest.mdev_types, vf)
        left.append({name for name in types if types[name]["available_instances"] == "1"})
        uuid = f"83b8f4f2-509f-382f-3c1e-e6bfe0fa100{number}"
        path = f"/sys/class/mdev_bus/{vf}/mdev_supported_types/nvidia-595/create"
        # Three vGPUs of 8 GiB fill a card of 24 GiB.
        assert lab.call(guest.store, path, uuid) == (["write", 87] if number == 3 else None)
    assert left == [set(types), {"nvidia-595"}, {"nvidia-595"}, set()]


def test_raw_sriov_store_is_refused_as_by_nvidias_driver(lab: Machine) -> None:
    lab.call(guest.load, "nvidia")
    path = f"/sys/bus/pci/devices/{layout.A10S[0]}/sriov_numvfs"
    assert lab.call(guest.store, path, "4") == ["write", 2]


def test_stand_in_for_sriov_manage_enables_every_vf(lab: Machine) -> None:
    lab.call(guest.load, "nvidia")
    pf = layout.A10S[1]
    done = lab.call(guest.run, ["/usr/lib/nvidia/sriov-manage", "-e", pf])
    assert done == {"status": 0, "stdout": f"Enabling VFs on {pf}\n", "stderr": ""}
    assert len(pci_parents(lab)) == 33
    assert lab.call(guest.readlink, f"/sys/bus/pci/devices/{pf}/driver") == "nvidia"
    lab.call(guest.store, "/sys/module/nvidia/parameters/clients", "1")
    done = lab.call(guest.run, ["/usr/lib/nvidia/sriov-manage", "-d", pf])
    assert (done["status"], done["stderr"]) == (1, f"Cannot obtain unbindLock for {pf}\n")


def test_a_driver_whose_card_is_in_use_holds_an_unbind_up(lab: Machine) -> None:
    lab.call(guest.load, "nvidia")
    lab.call(guest.store, "/sys/module/nvidia/parameters/clients", "1")
    path, pf = "/sys/bus/pci/drivers/nvidia/unbind", layout.A10S[0]
    unbind = lab.submit(guest.store, path, pf, worker="unbinder")
    with pytest.raises(StillRunningError):
        unbind.result(within=2.0)
    lab.call(guest.store, "/sys/module/nvidia/parameters/clients", "0")
    assert unbind.result() is None
    assert lab.call(guest.readlink, f"/sys/bus/pci/devices/{pf}/driver") is None


def test_probe_and_remove_do_what_the_parameters_say(lab: Machine) -> None:
    lab.call(guest.load, "nouveau", "probe_errno=5")
    bind, gpu = "/sys/bus/pci/drivers/nouveau/bind", layout.RTX3090[0]
    assert lab.call(guest.store, bind, gpu) == ["write", 5]
    assert lab.call(guest.store, "/sys/bus/pci/drivers_probe", gpu) is None
    assert lab.call(guest.readlink, f"/sys/bus/pci/devices/{gpu}/driver") is None
    lab.call(guest.store, "/sys/module/nouveau/parameters/probe_errno", "0")
    assert lab.call(guest.store, bind, gpu) is None
    lab.call(guest.store, "/sys/module/nouveau/parameters/remove_ms", "1500")
    unbind = lab.submit(guest.store, "/sys/bus/pci/drivers/nouveau/unbind", gpu)
    assert not unbind.done(within=0.5)
    assert unbind.result() is None


def test_exceptions_of_the_guest_arrive_with_their_errno(lab: Machine) -> None:
    with pytest.raises(GuestError, match="FileNotFoundError in the guest") as caught:
        lab.call(guest.read, "/sys/nothing")
    assert caught.value.errno == 2


def test_a_panic_fails_the_test_and_shows_the_console(lab: Machine, machines: Machines) -> None:
    with pytest.raises(LabError, match="Kernel panic - not syncing: sysrq triggered crash"):
        lab.call(guest.store, "/proc/sysrq-trigger", "c", within=30.0)
    assert not lab.is_alive
    machines.drop()


def test_the_next_test_has_a_machine_again(lab: Machine) -> None:
    assert lab.is_alive
