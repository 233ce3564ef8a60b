"""vfiohost on a real kernel: the verbs, and what the kernel says of their work."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest

from tests.kernel.command import (
    NO_HWDB,
    as_json,
    driver,
    drivers,
    override,
    parameter,
    vfiohost,
    wait_for_users,
)
from tests.kernel.lab import guest, layout, product, vfio_user
from tests.kernel.lab.errors import GuestError

if TYPE_CHECKING:
    from tests.kernel.lab.vm import Machine

A10, OTHER_A10 = layout.A10S
JOURNAL = "/var/lib/vfiohost/journal"
SECONDS_STUCK = 1.0
"""In a Python that runs already: to start one takes longer than that in an emulated processor."""


def test_list_shows_what_lspci_shows(lab: Machine) -> None:
    listed = vfiohost(lab, "list").splitlines()[1:]
    shown = lab.call(guest.run, ["lspci", "-Dnn"])["stdout"].splitlines()
    assert [line.split()[0] for line in listed] == [line.split()[0] for line in shown]
    for line, other in zip(listed, shown, strict=True):
        assert f"[{line.split()[1]}]" in other


def test_list_lspci_is_what_lspci_prints(lab: Machine) -> None:
    lab.call(guest.load, "nouveau")
    shown = lab.call(guest.run, ["lspci", *NO_HWDB, "-nnk"])["stdout"]
    assert "\n\tKernel modules: nvidiafb, nouveau\n" in shown
    assert vfiohost(lab, "list", "--lspci") == shown


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
    assert override(lab, A10) == "(null)"


def test_dry_run_writes_nothing(lab: Machine) -> None:
    before = vfiohost(lab, "list")
    assert "vfio-pci/bind" in vfiohost(lab, "bind", "03:00.0", "--dry-run")
    assert vfiohost(lab, "list") == before


@pytest.mark.parametrize(("name", "taken"), [("auto", "vfio-pci"), ("nouveau", "nouveau")])
def test_bind_to_a_driver_by_name(lab: Machine, name: str, taken: str) -> None:
    lab.call(guest.load, "nouveau")
    lab.call(guest.load, "nvidia")
    lab.call(guest.store, "/sys/bus/pci/drivers/nouveau/unbind", A10)
    vfiohost(lab, "bind", "03:00.0", "--driver", name)
    assert driver(lab, A10) == taken
    vfiohost(lab, "bind", "03:00.0", "--driver", "nvidia")
    assert (driver(lab, A10), override(lab, A10)) == ("nvidia", "nvidia")
    vfiohost(lab, "bind", "03:00.0", "--driver", "none")
    assert driver(lab, A10) is None
    vfiohost(lab, "restore", "03:00.0")
    assert (driver(lab, A10), override(lab, A10)) == (None, "(null)")


def test_bind_once_leaves_no_override(lab: Machine) -> None:
    vfiohost(lab, "bind", "03:00.0", "--once")
    assert (driver(lab, A10), override(lab, A10)) == ("vfio-pci", "(null)")
    assert lab.call(vfio_user.open_device, A10, worker="qemu") == "ok"


def test_no_load_refuses_a_driver_that_is_not_there(lab: Machine) -> None:
    assert lab.call(guest.run, ["modprobe", "-r", "vfio_pci"])["status"] == 0
    said = vfiohost(lab, "bind", "03:00.0", "--no-load", exits=4)
    assert "vfio_pci" in said
    assert driver(lab, A10) is None
    vfiohost(lab, "bind", "03:00.0")
    assert driver(lab, A10) == "vfio-pci"


def test_unbind_and_undo(lab: Machine) -> None:
    vfiohost(lab, "unbind", layout.NIC, layout.PCIE_NIC)
    assert drivers(lab, layout.NIC, layout.PCIE_NIC) == [None, None]
    assert "already without a driver" in vfiohost(lab, "unbind", layout.NIC)
    vfiohost(lab, "undo")
    assert drivers(lab, layout.NIC, layout.PCIE_NIC) == ["e1000", "e1000e"]
    assert "nothing" in vfiohost(lab, "undo", exits=3).lower()


def test_undo_by_the_id_of_a_plan(lab: Machine) -> None:
    lab.call(guest.load, "nouveau")
    first = as_json(lab, "bind", A10)["report"]["journal_id"]
    vfiohost(lab, "bind", OTHER_A10)
    vfiohost(lab, "undo", first)
    assert drivers(lab, *layout.A10S) == ["nouveau", "vfio-pci"]
    vfiohost(lab, "restore", "--all")
    assert drivers(lab, *layout.A10S) == ["nouveau", "nouveau"]


def test_several_cards_are_one_transaction(lab: Machine) -> None:
    """The second card's driver refuses, so that the first one goes back."""
    lab.call(guest.load, "nouveau")
    parameter(lab, "nouveau", "probe_errno", "5")
    vfiohost(lab, "bind", layout.NIC, layout.EDU, "--driver", "nouveau", exits=1)
    assert drivers(lab, layout.NIC, layout.EDU) == ["e1000", None]
    assert override(lab, layout.NIC) == "(null)"
    assert vfiohost(lab, "recover") == "nothing to recover\n"


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


def test_lock_of_another_process_is_respected(lab: Machine) -> None:
    lab.call(product.hold_lock, "the nightly job", worker="other")
    said = vfiohost(lab, "bind", "03:00.0", "--timeout", "1", exits=8)
    assert "the nightly job" in said
    assert driver(lab, A10) is None
    vfiohost(lab, "list")
    lab.kill("other")
    vfiohost(lab, "bind", "03:00.0")
    assert driver(lab, A10) == "vfio-pci"


def test_what_a_kill_leaves_is_recovered(lab: Machine) -> None:
    lab.call(guest.load, "nouveau")
    parameter(lab, "nouveau", "clients", "1")
    bind = lab.submit(product.vfiohost, "bind", "03:00.0", worker="victim")
    deadline = time.monotonic() + 60.0
    while driver(lab, A10) == "nouveau":  # the unbind has begun when the link is gone
        assert time.monotonic() < deadline
    lab.kill("victim")
    with pytest.raises(GuestError, match="status -9"):
        bind.result()
    parameter(lab, "nouveau", "clients", "0")
    deadline = time.monotonic() + 60.0
    bind_other = ("bind", OTHER_A10, "--timeout", "0.1")
    while (done := lab.call(product.vfiohost, *bind_other))["status"] == 8:
        assert "a process that it has started still has the lock" in done["stderr"]
        assert time.monotonic() < deadline
    assert (done["status"], driver(lab, OTHER_A10)) == (1, "nouveau")
    assert "`vfiohost recover`" in done["stderr"]
    assert len(as_json(lab, "recover", "--dry-run")["recoveries"]) == 1
    vfiohost(lab, "recover")
    assert (driver(lab, A10), override(lab, A10)) == ("nouveau", "(null)")
    vfiohost(lab, "bind", OTHER_A10)
    assert driver(lab, OTHER_A10) == "vfio-pci"


def test_groups_are_those_of_the_kernel(lab: Machine) -> None:
    kernel = lab.call(guest.groups)
    told = as_json(lab, "groups")["groups"]
    assert {str(g["number"]): [m["address"] for m in g["members"]] for g in told} == kernel
    shown = vfiohost(lab, "groups").splitlines()[1:]
    assert [line.split()[0] for line in shown] == sorted(kernel, key=int)
    why = vfiohost(lab, "groups", "--why")
    assert f"{layout.NIC} e1000 (blocks)" in why
    assert f"{layout.PORT} pcieport (bridge)" in why


def test_json_of_a_listing_names_every_function(lab: Machine) -> None:
    listed = as_json(lab, "list")
    assert listed["schema"] == "vfiohost/1"
    addresses = [device["address"] for device in listed["devices"]]
    assert addresses == lab.call(guest.listdir, "/sys/bus/pci/devices")


def test_list_answers_while_an_unbind_is_stuck(lab: Machine) -> None:
    vfiohost(lab, "bind", layout.NIC)
    # The first one imports modules.
    usual = [lab.call(product.vfiohost, "list")["seconds"] for _ in range(3)]
    assert lab.call(vfio_user.open_device, layout.NIC, worker="qemu") == "ok"
    unbind = lab.submit(
        guest.store, "/sys/bus/pci/drivers/vfio-pci/unbind", layout.NIC, worker="stuck"
    )
    wait_for_users(lab, "stuck")
    seconds = []
    for _ in range(3):
        starved = lab.starved()
        listed = lab.call(product.vfiohost, "list")
        assert listed["status"] == 0
        (line,) = [line for line in listed["stdout"].splitlines() if line.startswith(layout.NIC)]
        assert " releasing " in line
        seconds.append(listed["seconds"] - (lab.starved() - starved))
    # A guest that is slow just now is so for every list.
    assert min(seconds) < max(SECONDS_STUCK, 3 * min(usual)), (seconds, usual)
    lab.call(vfio_user.close, worker="qemu")
    assert unbind.result() is None


def test_slow_drivers_let_go_side_by_side(lab: Machine) -> None:
    """Each card is asked before the first has been let go of; twins of one group follow."""
    lab.call(guest.load, "nouveau")
    cards = (*layout.A10S, layout.RTX3090[0], layout.RTX2080[0], layout.T4, layout.L40S)
    parameter(lab, "nouveau", "clients", "1")
    words = ("--json", "unbind", *cards, *layout.TWIN_NICS, "--allow", "display")
    change = lab.submit(product.vfiohost, *words, worker="changer")
    deadline = time.monotonic() + 60.0
    while any(drivers(lab, *cards)):  # an unbind has begun when the link is gone
        assert time.monotonic() < deadline
    parameter(lab, "nouveau", "clients", "0")
    done = change.result()
    assert done["status"] == 0, done
    report = json.loads(done["stdout"])["report"]
    assert drivers(lab, *cards, *layout.TWIN_NICS) == [None] * 8
    (name,) = lab.call(guest.listdir, JOURNAL)
    header, *lines = map(json.loads, lab.call(guest.read, f"{JOURNAL}/{name}").splitlines())
    assert header["id"] == report["journal_id"]
    events = [(line["event"], line["step"]) for line in lines if line["event"] != "end"]
    of_cards = [event for event, step in events if step < len(cards)]
    assert of_cards == ["begin"] * len(cards) + ["done"] * len(cards)
    of_twins = [(event, step) for event, step in events if step >= len(cards)]
    assert of_twins == [(event, step) for step in (6, 7) for event in ("begin", "done")]
    vfiohost(lab, "undo")
    assert drivers(lab, *cards) == ["nouveau"] * len(cards)
