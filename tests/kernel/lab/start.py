"""The state in which random sequences start: richer than that of other tests, so that they get far.

NVIDIA's stand-in is loaded and takes stores to ``sriov_numvfs``; the disk, the first A10 and the
L40S have virtual functions. Called in the guest.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.kernel.lab import hoststate
from tests.kernel.lab.guest import listdir, load, run, store
from tests.kernel.lab.layout import A10S, EDU, L40S, L40S_VFS, NVME, NVME_VFS, RTX3090, T4
from tests.kernel.lab.state import DEVICES, DRIVERS

if TYPE_CHECKING:
    from collections.abc import Sequence

PFS = {NVME: ("nvme", 2), A10S[0]: ("nvidia", 2), L40S: ("nvidia", 3)}
"""Which driver they have at the start, and how many virtual functions."""
REMOVABLE = (EDU, T4, A10S[1], *RTX3090)
"""What sequences may remove. None has virtual functions: removals, slow binds and stores to
``sriov_numvfs`` at once can deadlock Linux."""
EXTRAS = ("nouveau",)
MODULES = ("mtty", "mdpy", "mbochs")
"""What sequences may load, and unload."""
BASE = Path("/run/vfiohost-start.json")
SETTLE_SECONDS = 30.0


def begin() -> dict[str, str]:
    """Bring a machine from its first state to this one, and return what it is like."""
    load("nvidia", "sriov=1")
    _make_again(REMOVABLE)
    settle()
    state = hoststate.read("/")
    BASE.write_text(json.dumps([state, _order(), _numbers()]))
    return state


def restore(ids: list[list[str]]) -> None:
    """Bring this state back after a sequence: undo what is different, and nothing else.

    Args:
        ids: drivers and ids that were added; nothing shows them.

    Raises:
        RuntimeError: it does not come back; names what differs.
    """
    base: dict[str, str]
    base, order, numbers = json.loads(BASE.read_text())
    for driver, identity in ids:
        while store(f"{DRIVERS}/{driver}/remove_id", identity) is None:
            pass
    for address in listdir(DEVICES):  # a stored "(null)" reads as if there were none
        store(f"{DEVICES}/{address}/driver_override", "\n")
    settle()
    for _ in range(3):  # what comes back may have to be undone, too
        state = hoststate.read("/")
        if state == base and _order() == order and _numbers() == numbers:
            return
        _undo(base, state)
        if _order() != order or _numbers() != numbers:
            _make_again(REMOVABLE)
        settle()
    state = hoststate.read("/")
    if state != base or _order() != order or _numbers() != numbers:
        keys = sorted(key for key in base.keys() | state.keys() if base.get(key) != state.get(key))
        texts = [f"{key}: {base.get(key)} became {state.get(key)}" for key in keys]
        raise RuntimeError(f"the start does not come back: {'; '.join(texts)}")


def settle() -> None:
    """Wait until the driver of the disk has let go of its virtual functions.

    They are offline. Since Linux 6.2 its probe says so; before, it took them, tried in the
    background, and let go of them then (``nvme_remove_dead_ctrl`` in ``drivers/nvme/host/pci.c``).

    Raises:
        RuntimeError: it does not let go.
    """
    deadline = time.monotonic() + SETTLE_SECONDS
    while any(Path(f"{DRIVERS}/nvme/{address}").exists() for address in NVME_VFS):
        if time.monotonic() > deadline:
            raise RuntimeError("nvme keeps a virtual function that is offline")
        time.sleep(0.02)


def _undo(base: dict[str, str], state: dict[str, str]) -> None:
    for uuid in listdir("/sys/bus/mdev/devices"):
        store(f"/sys/bus/mdev/devices/{uuid}/remove", "1")
    for address in L40S_VFS:
        store(f"{DEVICES}/{address}/nvidia/current_vgpu_type", "0")
    store("/sys/bus/pci/drivers_autoprobe", "1")
    for module in filter(_is_loaded, EXTRAS):
        run(["modprobe", "-r", module])
    for module in MODULES:
        if not _is_loaded(module):
            load(module)
    for pf in PFS:
        store(f"{DEVICES}/{pf}/sriov_drivers_autoprobe", "1")
    addresses = [key.split()[0] for key in base if key.endswith(" driver")]
    for address in addresses:
        _give_back(address, base, state)
    kinds = ("group", "numvfs", "virtfn")
    keys = [key for key in base if key.split()[-1] in kinds or key.startswith("group ")]
    if any(base[key] != state.get(key) for key in keys):
        _make_again(REMOVABLE)


def _order() -> list[str]:
    """List the functions in the order in which the kernel has found them, and drivers look at them.

    Nothing shows that order but the numbers of their folders' inodes: ``kernfs`` counts up.
    """
    return sorted(listdir(DEVICES), key=lambda name: os.stat(f"{DEVICES}/{name}").st_ino)


def drivers() -> list[str]:
    """List the PCI drivers in the order in which they were registered, and are asked.

    Nothing shows that order, either, but the numbers of their folders' inodes.
    """
    return sorted(listdir(DRIVERS), key=lambda name: os.stat(f"{DRIVERS}/{name}").st_ino)


def _numbers() -> list[list[str]]:
    """List the VFIO devices of the functions that have some at the start.

    Each has the least number that was free when it was made: of a function that was bound again
    meanwhile it may be another, which nothing but making the function again changes.
    """
    return [listdir(f"{DEVICES}/{address}/vfio-dev") for address in L40S_VFS]


def _is_loaded(module: str) -> bool:
    return Path(f"/sys/module/{module}").exists()


def _give_back(address: str, base: dict[str, str], state: dict[str, str]) -> None:
    """Give a function its driver back."""
    driver, now = base[f"{address} driver"], state.get(f"{address} driver", "-")
    if driver == now:
        return
    if now != "-":
        store(f"{DRIVERS}/{now}/unbind", address)
    if driver != "-":
        store(f"{DRIVERS}/{driver}/bind", address)


def _make_again(addresses: Sequence[str]) -> None:
    """Find functions again and make all virtual ones, so that their order and groups are the same.

    Raises:
        RuntimeError: the virtual functions cannot be made.
    """
    for pf in PFS:
        store(f"{DEVICES}/{pf}/sriov_numvfs", "0")
    for address in addresses:
        store(f"{DEVICES}/{address}/remove", "1")
    _need("/sys/bus/pci/rescan", "1")
    for pf, (_, count) in PFS.items():
        _need(f"{DEVICES}/{pf}/sriov_numvfs", str(count))


def _need(path: str, value: str) -> None:
    failed = store(path, value)
    if failed is not None:
        raise RuntimeError(f"storing {value} in {path} failed: {failed}")
