"""The kernel's uevents, through a real socket, and what is made of them."""

from __future__ import annotations

import fcntl
import gc
import os
import select
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import pytest

from vfiohost import Host, PciAddress, Snapshot, UnsupportedError
from vfiohost.model import PciDevice
from vfiohost.sysfs import Sysfs
from vfiohost.watch import DriverChanged, Watcher
from vfiohost.watch.pace import PAUSE
from vfiohost.watch.uevents import Uevents, subscribe

if TYPE_CHECKING:
    from collections.abc import Iterator

ELSEWHERE = Path("/sys/class/mem/null/uevent")
"""The uevent of a device that is not about us."""
BURST = 10_000
SMALL = 4096
"""A buffer of bytes that a few events fill."""
DEVICE = PciDevice(
    address=PciAddress(0, 0x65, 0, 0),
    vendor_id=0x10DE,
    device_id=0x2236,
    subsystem_vendor_id=None,
    subsystem_device_id=None,
    class_code=0x030200,
    revision=None,
    numa_node=None,
    driver="nouveau",
    iommu_group=15,
    physfn=None,
    total_vfs=None,
    path="sys/devices/pci0000:64/0000:65:00.0",
)


def ours() -> Path:
    """The uevent of a PCI function of this machine; storing ``change`` there changes nothing."""
    for device in sorted(Path("/sys/bus/pci/devices").glob("*")):
        if os.access(device / "uevent", os.W_OK):
            return device / "uevent"
    pytest.skip("no PCI function whose uevent can be written")


def ring(path: Path, times: int = 1) -> None:
    """Let the kernel send events."""
    try:
        fd = os.open(path, os.O_WRONLY)
    except OSError as error:
        pytest.skip(f"{path}: {error.strerror}")
    try:
        for _ in range(times):
            os.write(fd, b"change")
    except OSError as error:
        pytest.skip(f"{path}: {error.strerror}")
    finally:
        os.close(fd)


@pytest.fixture(autouse=True)
def no_events_of_other_tests() -> Iterator[None]:
    """The kernel's events are everybody's: those that ring here go one by one in all workers."""
    with open(ELSEWHERE, "rb") as taken:
        fcntl.flock(taken, fcntl.LOCK_EX)
        yield


@pytest.fixture
def events() -> Iterator[Uevents]:
    found = Uevents()
    yield found
    found.close()


class Machine:
    """A host with one function; each look at it is counted."""

    def __init__(self) -> None:
        self.driver: str | None = "nouveau"
        self.looks = 0

    def look(self) -> Snapshot:
        self.looks += 1
        return Snapshot("6.12.0", (attrs.evolve(DEVICE, driver=self.driver),), {})


# ---- the socket -------------------------------------------------------------------------------


def test_an_event_of_a_function_is_heard_and_others_are_not(events: Uevents) -> None:
    path = ours()
    assert not events.heard()
    ring(ELSEWHERE)
    assert not events.heard()
    ring(path)
    assert select.select([events], [], [], 5.0)[0]
    assert events.heard()
    assert not events.heard()


def test_lost_events_are_heard_of() -> None:
    events = Uevents(buffer=SMALL)
    try:
        ring(ELSEWHERE, 1000)
        with socket.socket(fileno=os.dup(events.fileno())) as same:
            assert same.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) < 2 * SMALL + 1
        assert events.heard()  # ENOBUFS: what was lost may have been about us
        assert not events.heard()
    finally:
        events.close()


def test_a_burst_fits_into_the_usual_buffer(events: Uevents) -> None:
    if os.geteuid() != 0:
        pytest.skip("without CAP_NET_ADMIN the buffer is what net.core.rmem_max allows")
    ring(ELSEWHERE, BURST)
    assert not events.heard()  # none was lost


def test_nothing_stays_open() -> None:
    gc.collect()  # what earlier tests have left open is closed now, and not while it is counted
    before = sorted(os.listdir("/proc/self/fd"))
    events = Uevents()
    events.close()
    events.close()
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_a_missing_libudev_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise ImportError("No library named udev")

    monkeypatch.setattr("pyudev.Context", missing)
    with pytest.raises(UnsupportedError, match="libudev1"):
        Uevents()


def test_a_recording_has_no_events(tmp_path: Path) -> None:
    with Sysfs(tmp_path) as sysfs, pytest.raises(UnsupportedError, match="is a recording"):
        subscribe(sysfs)


def test_a_namespace_that_hears_nothing_is_refused() -> None:
    """As in a rootless container."""
    code = "from vfiohost.watch.uevents import Uevents; Uevents()"
    done = in_namespace("-Urn", code)
    assert "UnsupportedError: The kernel tells of its devices only in network" in done.stderr


def test_another_network_namespace_of_the_host_hears_all() -> None:
    path = ours()
    ring(path)
    code = (
        "from vfiohost.watch.uevents import Uevents\n"
        "events = Uevents()\n"
        f"open({str(path)!r}, 'w').write('change')\n"
        "assert events.heard()"
    )
    done = in_namespace("-n", code)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_ordinary_user_hears_too_and_that_some_were_lost() -> None:
    if os.geteuid() != 0:
        pytest.skip("the other tests show it")
    ours_path = ours()
    ring(ELSEWHERE)
    code = (
        "import os, pyudev\n"
        "from vfiohost.watch.uevents import Uevents\n"
        f"ours = os.open({str(ours_path)!r}, os.O_WRONLY)\n"
        f"others = os.open({str(ELSEWHERE)!r}, os.O_WRONLY)\n"
        "os.setresuid(65534, 65534, 65534)\n"
        f"events = Uevents(buffer={SMALL})\n"
        "assert not events.heard()\n"
        "os.write(ours, b'change')\n"
        "assert events.heard()\n"
        "for _ in range(1000): os.write(others, b'change')\n"
        "assert events.heard()\n"
        "assert not events.heard()\n"
    )
    command = [sys.executable, "-P", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def in_namespace(option: str, code: str) -> subprocess.CompletedProcess[str]:
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, option, "true"], check=False).returncode:
        pytest.skip(f"no unshare {option} here")
    command = [unshare, option, sys.executable, "-P", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=False)


# ---- what is made of them ---------------------------------------------------------------------


def test_a_burst_is_answered_by_few_looks_and_every_net_change_is_told(events: Uevents) -> None:
    path, machine = ours(), Machine()
    with Watcher(events, machine.look) as watcher:
        began = time.monotonic()
        ring(path, BURST // 2)
        machine.driver = "vfio-pci"
        ring(path, BURST // 2)
        (change,) = watcher.wait(timeout=20.0)
        assert isinstance(change, DriverChanged)
        assert (change.before, change.after) == ("nouveau", "vfio-pci")
        assert watcher.wait(timeout=PAUSE) == ()
        looks, seconds = machine.looks - 1, time.monotonic() - began
        assert 1 <= looks <= 1 + seconds / PAUSE


def test_an_overflow_is_answered_by_a_look() -> None:
    machine = Machine()
    with Watcher(Uevents(buffer=SMALL), machine.look) as watcher:
        machine.driver = None
        ring(ELSEWHERE, BURST)
        (change,) = watcher.wait(timeout=20.0)
        assert isinstance(change, DriverChanged)
        assert change.after is None


def test_events_of_others_make_no_look(events: Uevents) -> None:
    machine = Machine()
    with Watcher(events, machine.look) as watcher:
        ring(ELSEWHERE, 100)
        assert watcher.wait(timeout=3 * PAUSE) == ()
        assert machine.looks == 1


def test_what_happens_before_the_first_look_is_told_by_it_or_later(events: Uevents) -> None:
    """The socket is there first: an event during the first look is still waiting after it."""
    path, machine = ours(), Machine()

    def look() -> Snapshot:
        seen = machine.look()
        if machine.looks == 1:
            machine.driver = "vfio-pci"
            ring(path)
        return seen

    with Watcher(events, look) as watcher:
        (change,) = watcher.wait(timeout=20.0)
        assert isinstance(change, DriverChanged)
        assert change.before == "nouveau"


def test_this_machine_can_be_watched() -> None:
    path = ours()
    with Host() as host, host.watch() as watcher:
        assert watcher.snapshot.devices
        ring(path, 3)
        assert watcher.wait(timeout=0.5) == ()
