"""``watch`` on a real kernel: what its events lead to is what sysfs says."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from tests.kernel.command import driver, vfiohost
from tests.kernel.lab import guest, layout, observing, vfio_user

if TYPE_CHECKING:
    from tests.kernel.lab.vm import Machine

A10, OTHER_A10 = layout.A10S
UEVENT = "/sys/bus/pci/devices/{}/uevent"
NUMVFS = f"/sys/bus/pci/devices/{A10}/sriov_numvfs"
BURST = 10_000


def watch(lab: Machine, *devices: str, buffer: int | None = None) -> None:
    lab.call(observing.watch, *devices, buffer=buffer, worker="watcher")


def told(lab: Machine, **until: Any) -> list[dict[str, Any]]:
    """What has been told, up to a change that has these fields."""
    answer = lab.call(observing.told, until or None, worker="watcher")
    changes: list[dict[str, Any]] = answer["changes"]
    if until:
        assert any(until.items() <= each.items() for each in changes), changes
    return changes


def moves(changes: list[dict[str, Any]], subject: str) -> list[tuple[Any, Any]]:
    """The drivers that a function had, one after the other."""
    mine = [c for c in changes if c["kind"] == "driver-changed" and c["subject"] == subject]
    return [(c["before"], c["after"]) for c in mine]


def test_bind_and_unbind(lab: Machine) -> None:
    lab.call(guest.load, "nouveau")
    watch(lab)
    vfiohost(lab, "bind", A10)
    seen = told(lab, subject=A10, after="vfio-pci")
    vfiohost(lab, "unbind", A10)
    seen += told(lab, subject=A10, state="unbound")
    path = moves(seen, A10)
    assert path[0][0] == "nouveau"
    assert path[-1] == ("vfio-pci", None)
    assert all(before[1] == after[0] for before, after in pairwise(path))
    assert told(lab) == []


def test_virtual_functions(lab: Machine) -> None:
    lab.call(guest.load, "nvidia", "sriov=1")
    watch(lab)
    assert lab.call(guest.store, NUMVFS, "4") is None
    came = told(lab, kind="vfs-changed", subject=A10, after=4) + told(lab)
    vfs = [f"0000:03:00.{number}" for number in (4, 5, 6, 7)]
    added = {c["subject"]: c for c in came if c["kind"] == "device-added"}
    assert sorted(added) == vfs
    for vf in vfs:
        group = lab.call(guest.readlink, f"/sys/bus/pci/devices/{vf}/iommu_group")
        joined = [c["after"] for c in came if c["kind"] == "group-changed" and c["subject"] == vf]
        assert joined == [int(group)]
        taken = moves(came, vf)
        assert (taken[-1][1] if taken else None) == driver(lab, vf)
    assert lab.call(guest.store, NUMVFS, "0") is None
    went = told(lab, kind="device-removed", subject=vfs[0]) + told(lab)
    assert sorted(c["subject"] for c in went if c["kind"] == "device-removed") == vfs
    counts = [(c["before"], c["after"]) for c in went if c["kind"] == "vfs-changed"]
    assert (counts[0][0], counts[-1][1]) == (4, 0)


def test_mediated_devices(lab: Machine) -> None:
    watch(lab)
    made = vfiohost(lab, "mdev", "create", "-p", "mtty", "-t", "mtty-2").split()[0]
    came = told(lab, kind="driver-changed", subject=made)
    (created,) = (c for c in came if c["kind"] == "mdev-created")
    assert (created["subject"], created["parent"], created["type_id"], created["address"]) == (
        *(made, "mtty", "mtty-2"),
        None,
    )
    vfiohost(lab, "mdev", "remove", made)
    told(lab, kind="mdev-removed", subject=made)


@pytest.mark.flavours("6.12", "iommufd")
def test_a_driver_that_waits_for_a_guest_is_releasing(lab: Machine) -> None:
    """Linux 6.1 sends nothing before the end (device_del() in vfio_unregister_group_dev())."""
    vfiohost(lab, "bind", A10)
    assert lab.call(vfio_user.open_device, A10, worker="qemu") == "ok"
    watch(lab, A10)
    words = ("unbind", A10, "--allow", "vfio-user", "--timeout", "1")
    vfiohost(lab, *words, exits=6)
    seen = told(lab, subject=A10, state="releasing")
    lab.kill("qemu")
    seen += told(lab, subject=A10, state="unbound")
    assert moves(seen, A10) == [("vfio-pci", None), (None, None)]


def test_a_driver_that_is_unloaded(lab: Machine) -> None:
    lab.call(guest.load, "nouveau")
    watch(lab)
    assert lab.call(guest.run, ["modprobe", "-r", "nouveau"])["status"] == 0
    went = told(lab, kind="driver-unregistered", subject="nouveau")
    assert moves(went, A10) == [("nouveau", None)]


@pytest.mark.parametrize("buffer", [None, 4096])
def test_a_burst_hides_nothing(lab: Machine, buffer: int | None) -> None:
    """All of it waits in the socket, or most of it is lost there."""
    lab.call(guest.load, "nouveau")
    vfiohost(lab, "bind", OTHER_A10)
    watch(lab, buffer=buffer)
    lab.call(observing.ring, UEVENT.format(A10), BURST // 2)
    vfiohost(lab, "bind", A10)
    vfiohost(lab, "restore", OTHER_A10)
    lab.call(observing.ring, UEVENT.format(A10), BURST // 2)
    # To take so many events out of the socket may be more than a second's work.
    seen = told(lab, subject=OTHER_A10, after="nouveau")
    answer = lab.call(observing.told, worker="watcher")
    seen += answer["changes"]
    assert moves(seen, A10) == [("nouveau", "vfio-pci")]
    assert moves(seen, OTHER_A10) == [("vfio-pci", "nouveau")]
    assert answer["looks"] <= 4  # the first, the one that tells, and one or two after it
