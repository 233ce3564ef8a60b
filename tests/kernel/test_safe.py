"""Nothing hangs, and nothing is left half-way: on a real kernel."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.faults import strike
from tests.kernel.command import driver, drivers, override, parameter, vfiohost
from tests.kernel.lab import guest, hoststate, layout, product, vfio_user

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.kernel.lab.vm import Machine

A10 = layout.A10S[0]
CREATORS, MDPY_INSTANCES = 12, 4
SECONDS_ASKED = 3.0
SECONDS_PENDING = 4.0
"""For ``--timeout 3``, in a Python that runs already and has imported what it needs; without the
seconds in which the computer had no time for the guest."""
PERMITTED = ("--allow", "vfio-user")
STATE = "/var/lib/vfiohost"


def state_of(lab: Machine, address: str) -> str:
    """What ``list`` calls the state of a function."""
    done = lab.call(product.vfiohost, "--json", "list", address)
    (device,) = json.loads(done["stdout"])["devices"]
    return str(device["state"])


def failing(lab: Machine, *words: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run a command that is to fail with ``--json``; how it went, and its error."""
    done = lab.call(product.vfiohost, "--json", *words)
    return done, json.loads(done["stdout"])["error"]


def test_unbind_of_a_device_in_use_comes_back_and_says_who_has_it(lab: Machine) -> None:
    nic = layout.NIC
    vfiohost(lab, "bind", nic)
    seconds, refusals = [], []
    for _ in range(3):  # the first one imports modules, which takes seconds here
        assert lab.call(vfio_user.open_device, nic, worker="qemu") == "ok"
        done, error = failing(lab, "unbind", nic, "--timeout", "3")
        refusals.append(done["seconds"])
        assert (done["status"], driver(lab, nic)) == (4, "vfio-pci")
        assert "python" in error["message"]
        starved = lab.starved()
        done, error = failing(lab, "unbind", nic, *PERMITTED, "--timeout", "3")
        assert done["seconds"] >= SECONDS_ASKED
        seconds.append(done["seconds"] - (lab.starved() - starved))
        assert (done["status"], error["state"]) == (6, "releasing")
        assert error["wait_channel"] == "vfio_unregister_group_dev"
        assert len(error["users"]) == 1
        assert "python" in error["users"][0]
        assert state_of(lab, nic) == "releasing"
        again, same = failing(lab, "unbind", nic, *PERMITTED, "--timeout", "60")
        assert (again["status"], same["pid"]) == (6, error["pid"])
        assert again["seconds"] < 60  # it has not waited
        assert lab.call(product.vfiohost, "recover")["status"] == 6
        lab.call(vfio_user.close, worker="qemu")
        deadline = time.monotonic() + 20
        while state_of(lab, nic) == "releasing":
            assert time.monotonic() < deadline
        assert state_of(lab, nic) == "unbound"
        vfiohost(lab, "recover")
        assert driver(lab, nic) == "vfio-pci"
    # Beyond the wait there is the work of some refusals, however slow the guest is just now.
    most = max(SECONDS_PENDING, SECONDS_ASKED + 3 * min(refusals))
    assert min(seconds) < most, (seconds, refusals)


def test_gpu_in_use_is_left_to_its_driver(lab: Machine) -> None:
    """NVIDIA's driver does not give the unbindLock: nothing hangs, and nothing is changed."""
    lab.call(guest.load, "nvidia")
    parameter(lab, "nvidia", "clients", "1")
    said = vfiohost(lab, "bind", A10, exits=1)
    assert "unbindLock" in said
    assert "asked for 5 times" in said
    assert (driver(lab, A10), override(lab, A10)) == ("nvidia", "(null)")
    parameter(lab, "nvidia", "clients", "0")
    vfiohost(lab, "bind", A10)
    assert driver(lab, A10) == "vfio-pci"
    vfiohost(lab, "undo")
    lock = f"/proc/driver/nvidia/gpus/{A10}/unbindLock"
    assert (driver(lab, A10), lab.call(guest.read, lock)) == ("nvidia", "0\n")


def test_unbind_lock_is_given_back_when_a_later_step_fails(lab: Machine) -> None:
    lab.call(guest.load, "nvidia")
    lab.call(guest.load, "nouveau")
    parameter(lab, "nouveau", "probe_errno", "5")
    done = lab.call(product.vfiohost, "--json", "bind", A10, "--driver", "nouveau")
    said = json.loads(done["stdout"])
    lock = f"/proc/driver/nvidia/gpus/{A10}/unbindLock"
    steps = zip(said["plan"]["steps"], said["report"]["results"], strict=True)
    outcomes = [result["outcome"] for step, result in steps if f"/{step.get('path')}" == lock]
    assert (done["status"], outcomes) == (1, ["undone"])
    assert (driver(lab, A10), lab.call(guest.read, lock)) == ("nvidia", "0\n")


def test_creations_at_once_make_exactly_the_capacity(lab: Machine) -> None:
    create = ["mdev", "create", "-p", "mdpy", "-t", "mdpy-vga", "--timeout", "250"]
    codes = lab.call(strike.run_together, "/", create, CREATORS, within=280)
    assert sorted(codes) == [0] * MDPY_INSTANCES + [4] * (CREATORS - MDPY_INSTANCES)
    assert len(lab.call(guest.listdir, "/sys/bus/mdev/devices")) == MDPY_INSTANCES


@pytest.fixture
def disk(lab: Machine, request: pytest.FixtureRequest) -> Iterator[str]:
    """A small file system where the journals are."""
    lab.call(guest.run, ["mkdir", "-p", "-m", "700", STATE])
    done = lab.call(guest.run, ["mount", "-t", "tmpfs", "-o", request.param, "none", STATE])
    assert done["status"] == 0, done
    yield request.param
    assert lab.call(guest.run, ["umount", STATE])["status"] == 0


@pytest.mark.parametrize(
    ("disk", "statuses", "said"),
    [
        ("mode=700,size=4k", {1}, "(ENOSPC)"),
        ("mode=700,size=8k", {0, 1}, "(ENOSPC)"),  # so much may just be enough
        ("mode=700,size=12k", {0}, ""),
        ("mode=700,ro", {5}, "(EROFS)"),
    ],
    indirect=["disk"],
)
def test_disk_that_is_full_or_cannot_be_written(
    lab: Machine, disk: str, statuses: set[int], said: str
) -> None:
    """Nothing is done that could not be taken back after a crash."""
    nics = (layout.NIC, layout.PCIE_NIC)
    before = lab.call(hoststate.read, "/")
    done = lab.call(product.vfiohost, "bind", *nics, "--once")
    assert done["status"] in statuses, (disk, done)
    if done["status"] == 0:
        assert drivers(lab, *nics) == ["vfio-pci"] * 2
        return
    assert said in done["stderr"]
    assert lab.call(hoststate.read, "/") == before
