"""Edge cases 51 and 79: reading what needs the lock of a device that a stuck store holds."""

from __future__ import annotations

import os
import stat
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from tests.simulation.hosts import NIC, NVME, NVME_VFS, QAT, Shell, small_host
from tests.simulation.test_crash import in_child, visible
from vfiohost import Host, testing
from vfiohost.details_scan import with_details
from vfiohost.errors import StoreTimeoutError
from vfiohost.model import PciAddress, Unavailable
from vfiohost.testing import SimulatedKernel
from vfiohost.testing.releases import release_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from vfiohost.testing import Holder

OLD = "6.1.0-37-amd64"
DEVICES = "sys/bus/pci/devices"
OVERRIDE = f"{DEVICES}/{QAT}/driver_override"
UEVENT = f"{DEVICES}/{QAT}/uevent"
LOCKED = Unavailable(0, "device locked")


@pytest.fixture
def old(scratch: Path) -> Shell:
    """A host whose kernel takes the lock for more."""
    return old_host(scratch / "old")


def old_host(root: Path) -> Shell:
    return Shell(testing.create(small_host(OLD), root))


def get_stuck(host: Shell) -> Holder:
    """Open a device, and unbind it."""
    host.echo("Y", "sys/module/vfio_pci/parameters/enable_sriov")
    host.to_vfio(NVME)
    holder = host.kernel.open_device(NVME)
    with pytest.raises(StoreTimeoutError):
        host.unbind("vfio-pci", NVME, timeout=0)
    return holder


def is_fifo(host: Shell, path: str) -> bool:
    return stat.S_ISFIFO(os.stat(f"{host.kernel.root}/{path}").st_mode)


def hidden(host: Shell, address: str = NVME) -> list[str]:
    """The attributes of a device that cannot be read."""
    folder = f"{DEVICES}/{address}"
    return [name for name in host.ls(folder) if is_fifo(host, f"{folder}/{name}")]


class Reader:
    """Somebody who has begun to read: a FIFO that is open needs no process that waits."""

    def __init__(self, host: Shell, path: str) -> None:
        self._fd = os.open(f"{host.kernel.root}/{path}", os.O_RDONLY | os.O_NONBLOCK)

    def read(self) -> bytes:
        return os.read(self._fd, 65536)

    def close(self) -> None:
        os.close(self._fd)


@pytest.fixture
def reader(old: Shell) -> Iterator[Reader]:
    """Somebody who waits for the override of a device that is stuck."""
    get_stuck(old)
    reader = Reader(old, f"{DEVICES}/{NVME}/driver_override")
    yield reader
    reader.close()


def test_79_before_6_12_two_attributes_more_wait(old: Shell) -> None:
    with get_stuck(old):
        assert hidden(old) == ["driver_override", "sriov_numvfs", "uevent"]
        assert hidden(old, NIC) == []
    assert hidden(old) == []
    assert old.uevent(NVME)[0] != "DRIVER=vfio-pci"


def test_79_since_6_12_they_answer(host: Shell) -> None:
    with get_stuck(host):
        assert hidden(host) == ["sriov_numvfs"]
        assert host.uevent(NVME)[0] == "DRIVER=vfio-pci"
    assert hidden(host) == []


@pytest.mark.parametrize(
    ("kernel", "waits"),
    [
        ("6.1.0-37-amd64", True),
        ("5.15.0-97-generic", True),
        ("6.11.10", True),
        ("6.12.0-rc1", False),
        ("6.12.117+deb12-amd64", False),
        ("7.0", False),
        (None, False),
        ("unknown", False),
    ],
)
def test_facts_of_a_release(kernel: str | None, waits: bool) -> None:  # noqa: FBT001
    release = release_of(kernel)
    assert release.override_waits is waits
    assert ("uevent" in release.locked_reads) is waits
    assert "sriov_numvfs" in release.locked_reads


def test_a_plain_read_waits_and_gets_what_the_file_holds_then(old: Shell) -> None:
    path = f"{DEVICES}/{NVME}/driver_override"
    with get_stuck(old):
        command = ["cat", f"{old.kernel.root}/{path}"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as cat:
            with pytest.raises(subprocess.TimeoutExpired):
                cat.wait(0.3)
            with pytest.raises(StoreTimeoutError):
                old.echo("none", path, timeout=0)
            old.kernel.holders[0].close()
            assert cat.communicate(timeout=10)[0] == "none\n"
    assert old.cat(path) == "none"


def test_who_waits_is_not_forgotten_by_other_stores(old: Shell, reader: Reader) -> None:
    old.unbind("e1000e", NIC)
    assert SimulatedKernel(old.kernel.root).pending != []
    old.kernel.holders[0].close()
    assert reader.read() == b"vfio-pci\n"


def test_a_device_that_goes_leaves_its_readers_nothing(old: Shell) -> None:
    vf = NVME_VFS[0]
    old.numvfs(NVME, "1")
    old.to_vfio(vf)
    with old.kernel.open_device(vf):
        with pytest.raises(StoreTimeoutError):
            old.numvfs(NVME, "0", timeout=0)
        assert hidden(old, vf) == ["driver_override", "uevent"]
        reader = Reader(old, f"{DEVICES}/{vf}/uevent")
    assert reader.read() == b""
    reader.close()
    assert not old.exists(f"{DEVICES}/{vf}")


def test_vfiohost_waits_for_nothing(old: Shell) -> None:
    address = PciAddress.parse(NVME)
    with get_stuck(old), Host(old.kernel.root, kernel=old.kernel) as host:
        began = time.monotonic()
        snapshot = host.with_releasing(host.scan())
        assert snapshot.is_releasing(next(d for d in snapshot.devices if d.address == address))
        details = with_details(host.sysfs, host.scan(), [address], timeout=60).details[address]
        assert (details.driver_override, details.uevent_driver) == (LOCKED, LOCKED)
        assert time.monotonic() - began < 30


def test_a_kill_while_readers_are_answered_leaves_none_behind(scratch: Path) -> None:
    killed, number = True, 0
    while killed:
        number += 4
        host = old_host(scratch / str(number))
        holder = get_stuck(host)
        before = visible(scratch / str(number))
        reader = Reader(host, f"{DEVICES}/{NVME}/driver_override")
        killed = in_child(holder.close, killed_at=number)
        SimulatedKernel(host.kernel.root)  # finishes what has begun
        if visible(scratch / str(number)) == before:
            holder.close()
        assert reader.read() == b"vfio-pci\n"
        assert reader.read() == b""
        reader.close()
        assert hidden(host) == []
    assert number > 20


def test_a_kill_while_attributes_are_hidden_leaves_before_or_after(scratch: Path) -> None:
    host = old_host(scratch / "host")
    host.to_vfio(NVME)
    host.kernel.open_device(NVME)

    def unbind() -> None:
        with pytest.raises(StoreTimeoutError):
            host.unbind("vfio-pci", NVME, timeout=0)

    killed, number = True, 0
    while killed:
        number += 1
        killed = in_child(unbind, killed_at=number)
        survivor = Shell(SimulatedKernel(host.kernel.root))
        is_stuck = survivor.driver(NVME) is None
        assert hidden(survivor) == (["driver_override", "sriov_numvfs", "uevent"] * is_stuck)
        if is_stuck:
            break
    assert number > 5
    host.kernel.holders[0].close()
    assert hidden(host) == []
