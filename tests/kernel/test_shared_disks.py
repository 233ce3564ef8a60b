"""A disk behind two NVMe controllers on a real kernel, and in its simulation: when it goes.

The machine is one of its own: a subsystem with two controllers, a namespace that both have, and one
that the first has alone.
"""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.kernel.lab import guest, layout, observing
from tests.kernel.lab.vm import boot
from vfiohost import recording, testing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.kernel.conftest import Machines
    from tests.kernel.lab.vm import Machine
    from vfiohost.testing import SimulatedKernel

DRIVER = "sys/bus/pci/drivers/nvme"
BLOCKS = "sys/class/block"
SUBSYSTEMS = "sys/devices/virtual/nvme-subsystem"
SHARED, ALONE = 1, 2
"""Their ``nsid``. Which of them has which name is chance: the driver finds namespaces side by side
since Linux 6.12 (``drivers/nvme/host/core.c:nvme_scan_ns_async``), and names them as it does."""
SECONDS = 300.0
# What is done, with the disks and subsystems that are there then. The path of a disk is hidden, and
# is another one each time: a controller that comes back may have another number.
STEPS = [
    ("unbind", 1, {SHARED, ALONE}),
    ("bind", 1, {SHARED, ALONE}),
    ("unbind", 0, {SHARED}),
    ("unbind", 1, set()),
    ("bind", 0, {SHARED, ALONE}),
    ("unbind", 0, set()),
]


def options(folder: Path) -> list[str]:
    """Two controllers of one subsystem, each behind a port of its own."""
    disk = f"file,node-name=disk,filename={folder / 'disk.raw'}"
    nvme = [f"nvme,id=nvme{n},bus=port{n},serial=lab,subsys=both" for n in (0, 1)]
    return [
        *layout.base_options(folder),
        *("-smp", "2", "-m", "1G"),
        *layout.IOMMU,
        *("-device", "pcie-root-port,id=port0,chassis=1,addr=0b.0"),
        *("-device", "pcie-root-port,id=port1,chassis=2,addr=0c.0"),
        *("-blockdev", disk, "-device", "nvme-subsys,id=both"),
        *("-blockdev", f"null-co,node-name=other,read-zeroes=on,size={layout.DISK_MIB << 20}"),
        *("-device", nvme[0], "-device", nvme[1]),
        *("-device", "nvme-ns,bus=nvme0,drive=disk,nsid=1,shared=on"),
        *("-device", "nvme-ns,bus=nvme0,drive=other,nsid=2,shared=off"),
    ]


@pytest.fixture
def machine(machines: Machines) -> Iterator[Machine]:
    with boot(machines.image, options) as booted:
        booted.call(guest.load, "nvme")
        yield booted


def disks(names: list[str]) -> dict[str, str]:
    """The names of the disks, by the part behind the number of their subsystem.

    That number is the one of the controller that came first. A disk's paths are hidden.
    """
    found = (re.fullmatch(r"nvme\d+(n\d+)", name) for name in names)
    return {match[1]: match[0] for match in found if match}


def namespaces(machine: Machine) -> dict[str, int]:
    """The ``nsid`` of each disk that the guest has, by the part of its name as in :func:`disks`."""
    there = disks(machine.call(guest.listdir, f"/{BLOCKS}"))
    texts = {
        disk: machine.call(guest.read_if_there, f"/{BLOCKS}/{name}/nsid")
        for disk, name in there.items()
    }
    return {disk: int(text) for disk, text in texts.items() if text is not None}


def becomes(machine: Machine, wanted: set[int]) -> dict[str, int]:
    """Wait for the disks: the driver looks for them after its probe (``nvme_scan_work``)."""
    deadline = time.monotonic() + 60.0
    while set(namespaces(machine).values()) != wanted and time.monotonic() < deadline:
        time.sleep(0.5)
    found = namespaces(machine)
    assert set(found.values()) == wanted
    return found


# The kernel `iommufd` is built without CONFIG_NVME_MULTIPATH: it gives each controller disks of its
# own, and a recording of it says nothing of subsystems.
@pytest.mark.flavours("6.12", "6.1")
def test_a_shared_disk_goes_with_its_last_controller(machine: Machine, tmp_path: Path) -> None:
    recorded = becomes(machine, {SHARED, ALONE})
    names = machine.call(guest.listdir, f"/{DRIVER}")
    controllers = sorted(name for name in names if name.startswith("0000:"))
    assert len(controllers) == 2
    text = machine.call(observing.record, "two controllers", within=SECONDS)
    simulated = testing.create(recording.parse(text), tmp_path / "host")
    for action, number, wanted in STEPS:
        store = f"{DRIVER}/{action}", controllers[number]
        assert machine.call(guest.store, f"/{store[0]}", store[1]) is None
        becomes(machine, wanted)
        simulated.store(*store, timeout=1)
        assert {recorded[disk] for disk in disks(listing(simulated, BLOCKS))} == wanted
        there = machine.call(guest.listdir, f"/{SUBSYSTEMS}")
        assert bool(there) == bool(wanted)
        assert bool(listing(simulated, SUBSYSTEMS)) == bool(wanted)


def listing(simulated: SimulatedKernel, path: str) -> list[str]:
    folder = Path(simulated.root) / path
    return sorted(each.name for each in folder.iterdir()) if folder.exists() else []
