"""NVIDIA's unbindLock: taken before its driver lets go, given back when it does not."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from tests.faults.places import START
from tests.simulation.hosts import answers
from vfiohost import Host, recording, testing
from vfiohost.errors import ApplyError, UnsupportedError
from vfiohost.plan.types import Plan, WriteAttr

if TYPE_CHECKING:
    from pathlib import Path

A10 = "0000:04:00.0"
LOCK = f"proc/driver/nvidia/gpus/{A10}/unbindLock"
UNBIND = "sys/bus/pci/drivers/nvidia/unbind"


@pytest.fixture
def kernel(scratch: Path) -> testing.SimulatedKernel:
    return testing.create(recording.parse(START.read_text()), scratch / "host")


@pytest.fixture
def host(kernel: testing.SimulatedKernel) -> Host:
    return Host(kernel.root, kernel=kernel)


def driver(host: Host) -> str | None:
    found = host.sysfs.link_name(f"sys/bus/pci/devices/{A10}/driver")
    return None if found is None else str(found)


def test_the_lock_is_there_while_the_driver_has_the_device(kernel: testing.SimulatedKernel) -> None:
    assert kernel.sysfs.read(LOCK) == "0"
    kernel.store(LOCK, "1", timeout=1)
    assert kernel.sysfs.read(LOCK) == "1"
    kernel.store(LOCK, "0", timeout=1)
    assert kernel.sysfs.read(LOCK) == "0"
    kernel.store(UNBIND, A10, timeout=1)
    with answers("ENOENT", "open"):
        kernel.store(LOCK, "1", timeout=1)
    kernel.store("sys/bus/pci/drivers/nvidia/bind", A10, timeout=1)
    assert kernel.sysfs.read(LOCK) == "0"


def test_it_is_a_step_of_the_plan_that_survives_json(host: Host) -> None:
    plan = host.plan_bind(A10)
    steps = [step for step in plan.steps if isinstance(step, WriteAttr)]
    assert [(step.path, step.value, step.tries) for step in steps[1:3]] == [
        (LOCK, "1", 5),
        (UNBIND, A10, 1),
    ]
    assert Plan.from_json(plan.to_json()) == plan


def test_a_lock_that_is_taken_already_is_left_alone(
    host: Host, kernel: testing.SimulatedKernel
) -> None:
    kernel.store(LOCK, "1", timeout=1)
    assert LOCK not in str(host.plan_bind(A10).steps)


def test_it_is_asked_for_again_while_somebody_still_uses_the_gpu(
    host: Host, kernel: testing.SimulatedKernel
) -> None:
    kernel.ignore(LOCK, count=2)
    host.apply(host.plan_bind(A10))
    assert driver(host) == "vfio-pci"
    assert [store for store in kernel.stores if store[0] == LOCK] == [(LOCK, "1")] * 3


def test_five_times_and_then_nothing_is_changed(
    host: Host, kernel: testing.SimulatedKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vfiohost.apply.transaction._PAUSES", (0.01,) * 9)
    kernel.ignore(LOCK, count=None)
    with pytest.raises(ApplyError, match="asked for 5 times") as caught:
        host.apply(host.plan_bind(A10))
    assert "What was done before was taken back" in str(caught.value)
    assert [path for path, _ in kernel.stores].count(LOCK) == 5
    assert driver(host) == "nvidia"


def test_the_kernels_own_users_are_named(
    host: Host, kernel: testing.SimulatedKernel, monkeypatch: pytest.MonkeyPatch, scratch: Path
) -> None:
    monkeypatch.setattr("vfiohost.apply.transaction._PAUSES", (0.01,) * 9)
    (scratch / "host/sys/module/nvidia/holders/nvidia_modeset").mkdir(parents=True)
    kernel.ignore(LOCK, count=None)
    with pytest.raises(ApplyError, match="In use by module nvidia_modeset"):
        host.apply(host.plan_bind(A10))


def test_it_is_given_back_when_the_driver_does_not_let_go(
    host: Host, kernel: testing.SimulatedKernel
) -> None:
    kernel.refuse(UNBIND, errno.EBUSY)
    with pytest.raises(ApplyError):
        host.apply(host.plan_bind(A10))
    assert kernel.sysfs.read(LOCK) == "0"
    assert (LOCK, "0") in kernel.stores


def test_undo_and_undo_of_that(host: Host, kernel: testing.SimulatedKernel) -> None:
    host.apply(host.plan_bind(A10))
    done = host.last_done()
    host.apply(host.plan_undo(done), undoes=done.id)
    assert (driver(host), kernel.sysfs.read(LOCK)) == ("nvidia", "0")


def test_who_wants_the_same_meanwhile_gets_it(host: Host) -> None:
    plan = host.plan_bind(A10)
    host.apply(plan)
    assert host.apply(plan).writes == 0


def test_no_other_file_of_proc_can_be_planned_or_stored(
    host: Host, kernel: testing.SimulatedKernel
) -> None:
    data = host.plan_bind(A10).to_json()
    data["steps"][1]["path"] = f"proc/driver/nvidia/gpus/{A10}/../../../sysrq-trigger"
    with pytest.raises(ValueError, match="below sys/"):
        Plan.from_json(data)
    with pytest.raises(UnsupportedError, match="not below sys"):
        kernel.store("proc/sys/kernel/osrelease", "x", timeout=1)
