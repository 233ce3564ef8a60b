"""Injected faults, the log of stores, the marker, and what stays between processes."""

from __future__ import annotations

import errno
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from tests.simulation.hosts import NIC, NIC_SIBLING, NVME, NVME_VFS, Shell, answers, small_host
from vfiohost import testing
from vfiohost.errors import NotFoundError, StoreTimeoutError, UnsupportedError
from vfiohost.recording import parse
from vfiohost.testing import Answer, SimulatedKernel

if TYPE_CHECKING:
    from pathlib import Path

UNBIND = "sys/bus/pci/drivers/e1000e/unbind"


def test_a_refusal_strikes_as_often_as_asked_and_changes_nothing(host: Shell) -> None:
    host.kernel.refuse("*/unbind", errno.EPERM, count=2)
    for _ in range(2):
        with answers("EPERM"):
            host.unbind("e1000e", NIC)
        assert host.driver(NIC) == "e1000e"
    host.unbind("e1000e", NIC)
    assert host.driver(NIC) is None


def test_a_refusal_can_be_for_ever_and_for_a_module(host: Shell) -> None:
    host.kernel.refuse("module/igb", errno.EPERM, count=None)
    for _ in range(3):
        with answers("EPERM", "load"):
            host.kernel.load_module("igb", timeout=1)
    host.kernel.clear_faults()
    host.kernel.load_module("igb", timeout=1)
    assert host.exists("sys/bus/pci/drivers/igb")


def test_a_fault_matches_the_path_as_given_and_without_links(host: Shell) -> None:
    host.kernel.refuse("sys/devices/*/driver_override", errno.EIO)
    with answers("EIO"):
        host.override(NIC, "x")
    host.kernel.refuse("sys/bus/pci/devices/*/driver_override", errno.EIO)
    with answers("EIO"):
        host.override(NIC, "x")


def test_a_refused_open_of_a_missing_file_is_still_enoent(host: Shell) -> None:
    host.kernel.refuse("*", errno.EACCES, op="open", count=None)
    with answers("ENOENT", "open"):
        host.bind("no-such-driver", NIC)
    with answers("EACCES", "open"):
        host.bind("e1000e", NIC)


def test_an_ignored_store_succeeds_without_effect(host: Shell) -> None:
    host.kernel.ignore("*/unbind")
    host.unbind("e1000e", NIC)
    assert host.driver(NIC) == "e1000e"


def test_a_delayed_store_comes_back_late(host: Shell) -> None:
    host.kernel.delay("*/unbind", 0.15)
    began = time.monotonic()
    host.unbind("e1000e", NIC)
    assert time.monotonic() - began >= 0.15
    assert host.driver(NIC) is None


def test_a_delay_beyond_the_timeout_goes_on_without_its_caller(host: Shell) -> None:
    host.kernel.delay("*/unbind", 600)
    with pytest.raises(StoreTimeoutError):
        host.unbind("e1000e", NIC, timeout=0.01)
    assert host.driver(NIC) == "e1000e"
    host.end_delays()
    assert host.kernel.pending == []
    assert host.driver(NIC) is None
    assert host.kernel.answers[-1].errno == 0


def test_a_delayed_load(host: Shell) -> None:
    host.kernel.delay("module/igb", 600)
    with pytest.raises(StoreTimeoutError):
        host.kernel.load_module("igb", timeout=0.01)
    assert not host.exists("sys/bus/pci/drivers/igb")


def test_after_store_tells_what_succeeded_and_may_store_itself(host: Shell) -> None:
    seen: list[tuple[str, str]] = []

    def interfere(path: str, value: str) -> None:
        seen.append((path, value))
        host.unbind("e1000e", NIC_SIBLING)

    host.kernel.after_store(interfere)
    with answers("ENODEV"):
        host.unbind("nvme", NIC)
    host.unbind("e1000e", NIC)
    assert seen == [(UNBIND, NIC)]
    assert host.driver(NIC_SIBLING) is None


def test_every_store_is_logged_and_other_processes_see_it(host: Shell, root: Path) -> None:
    assert host.kernel.stores == []
    host.unbind("e1000e", NIC)
    with answers("ENODEV"):
        host.bind("vfio-pci", NIC)
    with answers("ENOENT", "open"):
        host.bind("igb", NIC)
    host.to_vfio(NVME)
    with host.kernel.open_device(NVME), pytest.raises(StoreTimeoutError):
        host.unbind("vfio-pci", NVME, timeout=0)
    other = SimulatedKernel(root)
    assert other.stores[:3] == [
        (UNBIND, NIC),
        ("sys/bus/pci/drivers/vfio-pci/bind", NIC),
        ("sys/bus/pci/drivers/igb/bind", NIC),
    ]
    assert [each.errno for each in other.answers[:3]] == [0, errno.ENODEV, errno.ENOENT]
    assert other.answers[-1] == Answer("store", "sys/bus/pci/drivers/vfio-pci/unbind", NVME, 0)
    assert other.loads == []


def test_a_pending_store_has_no_answer_yet(host: Shell) -> None:
    host.to_vfio(NVME)
    with host.kernel.open_device(NVME):
        with pytest.raises(StoreTimeoutError):
            host.unbind("vfio-pci", NVME, timeout=0)
        assert host.kernel.answers[-1].errno is None


def test_state_and_faults_are_kept_for_another_process(host: Shell, root: Path) -> None:
    host.kernel.refuse("*/unbind", errno.EPERM)
    host.kernel.limit_vfs(NVME, 1)
    script = f"""
import sys
from vfiohost.testing import SimulatedKernel
from vfiohost.errors import KernelError
kernel = SimulatedKernel(sys.argv[1])
try:
    kernel.store("{UNBIND}", "{NIC}", timeout=5)
except KernelError as error:
    print(error.code)
kernel.store("sys/bus/pci/devices/{NVME}/sriov_numvfs", "3", timeout=5)
kernel.store("sys/bus/pci/drivers/vfio-pci/new_id", "8086 10d3", timeout=5)
"""
    ran = subprocess.run(
        [sys.executable, "-c", script, root], capture_output=True, text=True, check=True
    )
    assert ran.stdout == "EPERM\n"
    assert host.exists(f"sys/bus/pci/devices/{NVME_VFS[0]}")
    assert not host.exists(f"sys/bus/pci/devices/{NVME_VFS[1]}")
    host.unbind("e1000e", NIC)
    host.probe(NIC)
    host.unbind("e1000e", NIC)
    host.bind("vfio-pci", NIC)  # through the dynamic id


def test_two_processes_do_not_tear_each_others_stores(host: Shell, root: Path) -> None:
    script = """
import sys
from vfiohost.testing import SimulatedKernel
from vfiohost.errors import KernelError
kernel = SimulatedKernel(sys.argv[1])
for _ in range(15):
    for verb in ("unbind", "bind"):
        try:
            kernel.store(f"sys/bus/pci/drivers/e1000e/{verb}", sys.argv[2], timeout=5)
        except KernelError as error:
            assert error.code in ("ENODEV", "EBUSY"), error
"""
    racers = [subprocess.Popen([sys.executable, "-c", script, root, NIC]) for _ in range(2)]
    assert [racer.wait() for racer in racers] == [0, 0]
    assert len(host.kernel.stores) == 60
    bound = host.driver(NIC) == "e1000e"
    assert (NIC in host.ls("sys/bus/pci/drivers/e1000e")) == bound
    assert ("DRIVER=e1000e" in host.uevent(NIC)) == bound


def test_a_simulation_knows_itself(host: Shell, root: Path, scratch: Path) -> None:
    host.kernel.check_writable()
    assert testing.is_simulation(root)
    testing.expand(small_host(), scratch / "plain")
    assert not testing.is_simulation(scratch / "plain")
    assert not testing.is_simulation(scratch / "nowhere")
    assert not testing.is_simulation("/")
    with pytest.raises(UnsupportedError, match="vfiohost sim"):
        SimulatedKernel(scratch / "plain")
    with pytest.raises(NotFoundError):
        SimulatedKernel(scratch / "nowhere")


def test_create_refuses_a_directory_that_is_not_empty(scratch: Path) -> None:
    (scratch / "keep").write_text("mine")
    with pytest.raises(UnsupportedError):
        testing.create(small_host(), scratch)
    assert [path.name for path in scratch.iterdir()] == ["keep"]


def test_the_marker_holds_the_recording(root: Path) -> None:
    assert parse((root / ".vfiohost-sim/recording.host").read_text()) == small_host()


def test_a_store_beside_sys_reaches_no_kernel(host: Shell, root: Path) -> None:
    before = (root / "proc/sys/kernel/osrelease").read_text()
    for path in ("proc/sys/kernel/osrelease", ".vfiohost-sim/state.json"):
        with pytest.raises(UnsupportedError, match="not below sys"):
            host.echo("x", path)
    assert (root / "proc/sys/kernel/osrelease").read_text() == before
    with answers("EISDIR", "open"):
        host.echo("x", "sys/bus/pci")
