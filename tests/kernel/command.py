"""The command line in the guest, as the tests of the product call it."""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING, Any

from tests.kernel.lab import guest, product
from tests.kernel.waiting import WAITS_FOR_USERS

if TYPE_CHECKING:
    from tests.kernel.lab.vm import Machine

NO_HWDB = ("-O", "hwdb.disable=1")
"""Names from pci.ids alone: udev's database, where it is, gives a card the name of its chip."""


def vfiohost(lab: Machine, *arguments: str, exits: int = 0) -> str:
    """Run the command in the guest; what it printed, when it exits as it should."""
    done = lab.call(product.vfiohost, *arguments)
    assert done["status"] == exits, done["stdout"] + done["stderr"]
    return str(done["stderr" if exits else "stdout"])


def as_json(lab: Machine, *arguments: str) -> Any:
    """Run the command with ``--json``; the object that it printed."""
    return json.loads(vfiohost(lab, "--json", *arguments))


def driver(lab: Machine, address: str) -> str | None:
    """The driver of a function, as sysfs says."""
    name: str | None = lab.call(guest.readlink, f"/sys/bus/pci/devices/{address}/driver")
    return name


def drivers(lab: Machine, *addresses: str) -> list[str | None]:
    """The drivers of several functions."""
    return [driver(lab, address) for address in addresses]


def override(lab: Machine, address: str) -> str:
    """The driver_override of a function, as sysfs says."""
    text = lab.call(guest.read, f"/sys/bus/pci/devices/{address}/driver_override")
    return str(text).rstrip("\n")


def disk_of(lab: Machine) -> str:
    """The name of the disk. It is shared: below its controller is only a path to it, nvme0c0n1."""
    deadline = time.monotonic() + 60.0
    while True:  # the driver looks for it after its probe (nvme_scan_work)
        names: list[str] = lab.call(guest.listdir, "/sys/class/block")
        found = [name for name in names if re.fullmatch(r"nvme\d+n\d+", name)]
        if found:
            return found[0]
        assert time.monotonic() < deadline


def wait_for_users(lab: Machine, worker: str) -> None:
    """Wait until what a worker does waits for those who have a device open."""
    deadline = time.monotonic() + 60.0
    while WAITS_FOR_USERS not in (place := lab.place_of(worker)):
        assert time.monotonic() < deadline, place


def parameter(lab: Machine, module: str, name: str, value: str) -> None:
    """Tell one of the stand-ins how to behave."""
    assert lab.call(guest.store, f"/sys/module/{module}/parameters/{name}", value) is None
