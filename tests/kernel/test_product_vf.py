"""``vf`` on a real kernel: a disk that takes a plain store, cards that want NVIDIA's script."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.kernel.command import as_json, driver, override, parameter, vfiohost
from tests.kernel.lab import guest, layout, product, vfio_user
from tests.kernel.lab.errors import GuestError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.kernel.lab.vm import Machine

# SR-IOV is the same on the built kernel, and each of these takes seconds.
pytestmark = pytest.mark.flavours("6.12", "6.1")

NVME, VFS = layout.NVME, layout.NVME_VFS
A10 = layout.A10S[0]
A10_VFS = tuple(f"0000:03:00.{number}" for number in range(4, 8))
A10_TOTAL = 32
PCI = "/sys/bus/pci"
PENDING = 6
"""The exit code while the kernel has not come back from an earlier store."""
LOCKED = 8
"""The exit code while a helper of the killed command is still at work."""
PATIENCE = 90.0
RESCAN_SECONDS = 20.0
TO_VFIO = ("--driver", "vfio-pci")
SCRIPT = "/usr/lib/nvidia/sriov-manage"
MARK = "a test of VFs looks from here"


@pytest.fixture
def no_script(lab: Machine) -> Iterator[None]:
    """NVIDIA's open driver comes without it, and takes a plain store."""
    assert lab.call(guest.run, ["mv", SCRIPT, f"{SCRIPT}.away"])["status"] == 0
    yield
    assert lab.call(guest.run, ["mv", f"{SCRIPT}.away", SCRIPT])["status"] == 0


def attribute(lab: Machine, address: str, name: str) -> str:
    return str(lab.call(guest.read, f"{PCI}/devices/{address}/{name}")).strip()


def virtual(lab: Machine, physfn: str) -> dict[str, str | None]:
    """The virtual functions that ``vf list`` knows, with their drivers, as sysfs has them too."""
    (told,) = as_json(lab, "vf", "list", physfn)["physical_functions"]
    found = {each["address"]: each["driver"] for each in told["virtual_functions"]}
    there = lab.call(guest.listdir, f"{PCI}/devices/{physfn}")
    assert sum(name.startswith("virtfn") for name in there) == len(found)
    assert attribute(lab, physfn, "sriov_numvfs") == str(len(found))
    assert {address: driver(lab, address) for address in found} == found
    return found


def probes_by_nvme(lab: Machine) -> int:
    """How many functions the disk's driver has been given since the log was marked."""
    log = str(lab.call(guest.run, ["dmesg"])["stdout"]).rpartition(MARK)[2]
    return sum(f"pci function {vf}" in line for line in log.splitlines() for vf in VFS)


def refused(lab: Machine, *arguments: str) -> str:
    return vfiohost(lab, *arguments, exits=4)


def test_no_driver_gets_at_what_is_meant_for_a_guest(lab: Machine) -> None:
    # The log is a ring: what is counted from its start becomes fewer.
    assert lab.call(guest.store, "/dev/kmsg", MARK) is None
    shown = vfiohost(lab, "vf", "set", NVME, "2", *TO_VFIO).splitlines()
    assert shown[1].split() == f"{NVME} nvme 2 4 {VFS[0]} to {VFS[1]}, on vfio-pci".split()
    assert virtual(lab, NVME) == dict.fromkeys(VFS[:2], "vfio-pci")
    assert [override(lab, vf) for vf in VFS[:2]] == ["vfio-pci", "vfio-pci"]
    assert attribute(lab, NVME, "sriov_drivers_autoprobe") == "1"
    assert probes_by_nvme(lab) == 0
    assert lab.call(vfio_user.open_device, VFS[0], worker="qemu") == "ok"
    lab.call(vfio_user.close, worker="qemu")
    vfiohost(lab, "vf", "clear", NVME)
    vfiohost(lab, "vf", "set", NVME, "2")
    # As the kernel does it, its driver gets them, by and by (PROBE_PREFER_ASYNCHRONOUS).
    deadline = time.monotonic() + 20.0
    while probes_by_nvme(lab) < 2:
        assert time.monotonic() < deadline


def test_another_number_there_and_back(lab: Machine) -> None:
    vfiohost(lab, "vf", "set", NVME, "2", *TO_VFIO)
    said = refused(lab, "vf", "set", NVME, "3", *TO_VFIO)
    assert "[vfs-exist]" in said
    assert "--recreate" in said
    vfiohost(lab, "vf", "set", NVME, "3", "--driver", "none", "--recreate")
    assert virtual(lab, NVME) == dict.fromkeys(VFS[:3])
    vfiohost(lab, "undo")
    assert virtual(lab, NVME) == dict.fromkeys(VFS[:2], "vfio-pci")
    vfiohost(lab, "vf", "set", NVME, "all", "--driver", "auto", "--recreate")
    assert virtual(lab, NVME) == dict.fromkeys(VFS, "vfio-pci")
    vfiohost(lab, "vf", "clear", NVME)
    assert virtual(lab, NVME) == {}
    vfiohost(lab, "undo")
    assert virtual(lab, NVME) == dict.fromkeys(VFS, "vfio-pci")
    assert "[too-many-vfs]" in refused(lab, "vf", "set", NVME, "5", "--recreate")


def test_a_dry_run_writes_nothing(lab: Machine) -> None:
    shown = vfiohost(lab, "vf", "set", NVME, "2", *TO_VFIO, "--dry-run")
    assert f"{VFS[1]}/driver_override" in shown
    assert virtual(lab, NVME) == {}


def test_what_a_guest_has_stays(lab: Machine) -> None:
    """Even where it is permitted: its unbind waits, and nothing else does (edge case 51)."""
    vfiohost(lab, "vf", "set", NVME, "2", *TO_VFIO)
    assert lab.call(vfio_user.open_device, VFS[1], worker="qemu") == "ok"
    assert "[in-use]" in refused(lab, "vf", "clear", NVME)
    assert virtual(lab, NVME) == dict.fromkeys(VFS[:2], "vfio-pci")
    words = ("vf", "clear", NVME, "--allow", "vfio-user", "--timeout", "1")
    vfiohost(lab, *words, exits=6)
    assert attribute(lab, NVME, "sriov_numvfs") == "2"
    began = time.monotonic()
    assert lab.call(guest.store, f"{PCI}/rescan", "1") is None
    assert time.monotonic() - began < RESCAN_SECONDS
    lab.kill("qemu")
    deadline = time.monotonic() + PATIENCE
    while (done := lab.call(product.vfiohost, "recover"))["status"] == PENDING:
        assert time.monotonic() < deadline  # the unbind has nothing to wait for any more
    assert done["status"] == 0, done
    assert virtual(lab, NVME) == dict.fromkeys(VFS[:2], "vfio-pci")
    vfiohost(lab, "vf", "clear", NVME)
    assert virtual(lab, NVME) == {}


def test_orphans_are_healed(lab: Machine) -> None:
    """Their driver went and left them; without it nothing can remove them (edge case 46)."""
    vfiohost(lab, "vf", "set", NVME, "2", *TO_VFIO)
    assert lab.call(guest.store, f"{PCI}/drivers/nvme/unbind", NVME) is None
    assert driver(lab, NVME) is None
    vfiohost(lab, "vf", "clear", NVME)
    assert (driver(lab, NVME), virtual(lab, NVME)) == ("nvme", {})


@pytest.mark.usefixtures("no_script")
def test_a_driver_that_makes_fewer(lab: Machine) -> None:
    lab.call(guest.load, "nvidia", "sriov=1", "max_vfs=2")
    said = vfiohost(lab, "vf", "set", A10, "4", exits=1)
    assert "did not have its effect" in said
    assert virtual(lab, A10) == {}
    vfiohost(lab, "vf", "set", A10, "2")
    assert virtual(lab, A10) == dict.fromkeys(A10_VFS[:2], "nvidia")


def test_who_makes_none(lab: Machine) -> None:
    assert "[no-sriov]" in refused(lab, "vf", "set", layout.NIC, "1")
    assert "[no-pf-driver]" in refused(lab, "vf", "set", A10, "1")
    vfiohost(lab, "bind", A10)
    assert "[pf-for-guests]" in refused(lab, "vf", "set", A10, "1")
    vfiohost(lab, "bind", A10, "--driver", "pci-stub")
    said = vfiohost(lab, "vf", "set", A10, "1", exits=1)
    assert "(ENOENT)" in said
    assert virtual(lab, A10) == {}


@pytest.mark.parametrize("wanted", ["native", "vfio-pci", "none"])
def test_virtual_functions_of_a_physical_one_that_a_guest_gets(lab: Machine, wanted: str) -> None:
    """vfio-pci gives them an override of its own (edge case 50)."""
    vfiohost(lab, "bind", A10)
    parameter(lab, "vfio_pci", "enable_sriov", "Y")
    vfiohost(lab, "vf", "set", A10, "2", "--driver", wanted)
    has = None if wanted == "none" else "vfio-pci"
    assert virtual(lab, A10) == dict.fromkeys(A10_VFS[:2], has)
    assert [override(lab, vf) for vf in A10_VFS[:2]] == [has or "none"] * 2
    vfiohost(lab, "vf", "clear", A10)
    assert virtual(lab, A10) == {}
    vfiohost(lab, "undo")
    assert virtual(lab, A10) == dict.fromkeys(A10_VFS[:2], has)


def test_nvidias_driver_takes_its_script_alone(lab: Machine) -> None:
    lab.call(guest.load, "nvidia")
    error = lab.call(guest.store, f"{PCI}/devices/{A10}/sriov_numvfs", "1")
    assert error is not None
    assert "[all-vfs]" in refused(lab, "vf", "set", A10, "4")
    assert "[vgpu-vf]" in refused(lab, "vf", "set", A10, "all", *TO_VFIO)
    vfiohost(lab, "vf", "set", A10, "all")
    made = virtual(lab, A10)
    assert (len(made), set(made.values()), driver(lab, A10)) == (A10_TOTAL, {"nvidia"}, "nvidia")
    vfiohost(lab, "undo")
    assert (virtual(lab, A10), driver(lab, A10)) == ({}, "nvidia")
    vfiohost(lab, "vf", "set", A10, str(A10_TOTAL))
    vfiohost(lab, "vf", "clear", A10)
    assert (virtual(lab, A10), driver(lab, A10)) == ({}, "nvidia")


def test_a_gpu_that_somebody_has_is_not_taken_for_the_script(lab: Machine) -> None:
    lab.call(guest.load, "nvidia")
    parameter(lab, "nvidia", "clients", "1")
    said = vfiohost(lab, "vf", "set", A10, "all", exits=1)
    assert "unbindLock" in said
    assert (virtual(lab, A10), driver(lab, A10)) == ({}, "nvidia")
    parameter(lab, "nvidia", "clients", "0")
    vfiohost(lab, "vf", "set", A10, "all")
    assert len(virtual(lab, A10)) == A10_TOTAL


def test_vgpus_keep_their_virtual_functions(lab: Machine) -> None:
    lab.call(guest.load, "nvidia")
    vfiohost(lab, "vf", "set", A10, "all")
    made = vfiohost(lab, "mdev", "create", "-p", A10, "-t", "A10-12Q").split()
    assert made[1] == A10_VFS[0]
    said = refused(lab, "vf", "clear", A10)
    assert made[0] in said
    vfiohost(lab, "mdev", "remove", made[0])
    vfiohost(lab, "vf", "clear", A10)
    assert virtual(lab, A10) == {}


@pytest.mark.usefixtures("no_script")
def test_a_kill_while_the_kernel_makes_them(lab: Machine) -> None:
    lab.call(guest.load, "nvidia", "sriov=1")
    kill_and_recover(lab, "vf", "set", A10, "4")


def test_a_kill_while_the_script_makes_them(lab: Machine) -> None:
    lab.call(guest.load, "nvidia")
    kill_and_recover(lab, "vf", "set", A10, "all")


def kill_and_recover(lab: Machine, *arguments: str) -> None:
    """Kill the command when there is the first virtual function; it can all be taken back."""
    parameter(lab, "nvidia", "probe_ms", "1000")
    change = lab.submit(product.vfiohost, *arguments, worker="victim")
    deadline = time.monotonic() + PATIENCE
    while lab.call(guest.readlink, f"{PCI}/devices/{A10}/virtfn0") is None:
        assert time.monotonic() < deadline
    lab.kill("victim")
    with pytest.raises(GuestError, match="status -9"):
        change.result()
    parameter(lab, "nvidia", "probe_ms", "0")
    while (done := lab.call(product.vfiohost, "recover"))["status"] == LOCKED:
        assert time.monotonic() < deadline
    assert done["status"] == 0, done
    assert (virtual(lab, A10), driver(lab, A10)) == ({}, "nvidia")
    assert vfiohost(lab, "recover") == "nothing to recover\n"


def test_one_gpu_for_each_kind_of_work(lab: Machine) -> None:
    """The script, and what is bound after it, are stages of one change."""
    lab.call(guest.load, "nvidia")
    vfiohost(lab, "mode", "vm-vgpu", A10)
    assert len(virtual(lab, A10)) == A10_TOTAL
    vfiohost(lab, "mode", "vm-passthrough", A10, layout.RTX2080[0])
    assert (virtual(lab, A10), driver(lab, A10)) == ({}, "vfio-pci")
    assert {driver(lab, function) for function in layout.RTX2080} == {"vfio-pci"}
    vfiohost(lab, "mode", "container", A10)
    assert (virtual(lab, A10), driver(lab, A10)) == ({}, "nvidia")
    vfiohost(lab, "mode", "vm-vgpu", A10)
    assert (len(virtual(lab, A10)), driver(lab, A10)) == (A10_TOTAL, "nvidia")
