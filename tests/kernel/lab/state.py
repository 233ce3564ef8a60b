"""The state in which tests find a machine: made once, and brought back after each test.

These functions are called in the guest.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.kernel.lab import layout
from tests.kernel.lab.guest import attribute, listdir, load, readlink, run, store

DEVICES = "/sys/bus/pci/devices"
DRIVERS = "/sys/bus/pci/drivers"
NOIOMMU_MODE = "/sys/module/vfio/parameters/enable_unsafe_noiommu_mode"
BASE = Path("/run/vfiohost-lab.json")
MODULES = ("synthgpu", "vfio_pci", "pci_stub", "mtty", "mdpy", "mbochs", "e1000", "e1000e", "nvme")
"""What is loaded at first, in this order."""
EXTRAS = ("nvidia", "nouveau", "pci_pf_stub")
"""What tests may load: unloaded after each."""
ENABLE_SRIOV = Path("/sys/module/vfio_pci/parameters/enable_sriov")
PARAMETERS = (
    *("probe_ms", "remove_ms", "create_ms"),
    *("probe_errno", "create_errno", "clients", "max_vfs"),
)
State = dict[str, dict[str, list[str | None]]]
"""What each device has: by kind, then by name."""
SRIOV_MANAGE = Path(__file__).with_name("sriov-manage")


def set_up() -> None:
    """Load the first modules, put NVIDIA's script in its place, and remember the state."""
    for module in MODULES:
        load(module)
    put_sriov_manage()
    BASE.write_text(json.dumps(_capture()))


def put_sriov_manage() -> Path:
    """Put the stand-in for NVIDIA's script where NVIDIA has it, and return its path."""
    place = Path("/usr/lib/nvidia/sriov-manage")
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(SRIOV_MANAGE, place)
    return place


def tidy_up() -> None:
    """Bring the first state back.

    Raises:
        RuntimeError: something cannot be brought back; names what differs.
    """
    base = json.loads(BASE.read_text())
    _tidy_drivers()
    for folder in ("/var/lib/vfiohost", "/run/vfiohost", "/etc/vfiohost", "/run/nvidia"):
        shutil.rmtree(folder, ignore_errors=True)
    for uuid in listdir("/sys/bus/mdev/devices"):
        store(f"/sys/bus/mdev/devices/{uuid}/remove", "1")
    _remove_all_vfs()
    for module in filter(_is_loaded, EXTRAS):
        run(["modprobe", "-r", module])
    for module in MODULES:
        if not _is_loaded(module):
            load(module)
    if base["devices"].keys() - set(listdir(DEVICES)):
        store("/sys/bus/pci/rescan", "1")
    now = _restored(base)
    if now != base:
        differs = [
            f"{key}: {base[kind].get(key)} became {now[kind].get(key)}"
            for kind in base
            for key in sorted(base[kind].keys() | now[kind].keys())
            if base[kind].get(key) != now[kind].get(key)
        ]
        raise RuntimeError(f"cannot bring the first state back: {'; '.join(differs)}")


def _restored(base: State) -> State:
    """Give devices what they had before; what there is then."""
    now = _capture()
    if now == base:
        return now
    for address, found in base["devices"].items():
        if now["devices"].get(address) != found:
            _restore(address, found[0])
    return _capture()


def _is_loaded(module: str) -> bool:
    """Ask without a process of its own: starting one takes a third of a second here."""
    return Path(f"/sys/module/{module}").exists()


def _capture() -> State:
    """Read what tests may change."""
    devices = {
        address: [
            readlink(f"{DEVICES}/{address}/driver"),
            attribute(f"{DEVICES}/{address}/driver_override"),
        ]
        for address in listdir(DEVICES)
    }
    mdevs: dict[str, list[str | None]] = {uuid: [] for uuid in listdir("/sys/bus/mdev/devices")}
    return {"devices": devices, "mdevs": mdevs}


def _tidy_drivers() -> None:
    """Make the drivers behave again."""
    store("/sys/bus/pci/drivers_autoprobe", "1")
    store(NOIOMMU_MODE, "N")
    for module in ("nvidia", "nouveau"):
        for name in PARAMETERS:
            store(f"/sys/module/{module}/parameters/{name}", "0")


def _remove_all_vfs() -> None:
    for pf in (layout.NVME, *layout.A10S, layout.L40S):
        _remove_vfs(pf)
    if ENABLE_SRIOV.exists():
        store(str(ENABLE_SRIOV), "N")  # not earlier: a PF on vfio-pci keeps its VFs then


def _remove_vfs(pf: str) -> None:
    """Remove the VFs of a PF, even orphaned ones: then the PF's driver has to come back first."""
    numvfs = f"{DEVICES}/{pf}/sriov_numvfs"
    store(f"{DEVICES}/{pf}/sriov_drivers_autoprobe", "1")
    if not Path(numvfs).exists() or store(numvfs, "0") is None:
        return
    native = "nvme" if pf == layout.NVME else "nvidia"
    load(native)
    if native == "nvidia":
        store("/sys/module/nvidia/parameters/sriov", "1")
    _restore(pf, native)
    store(numvfs, "0")


def _restore(address: str, driver: str | None) -> None:
    """Give a device its driver back."""
    override = f"{DEVICES}/{address}/driver_override"
    store(override, "\n")
    now = readlink(f"{DEVICES}/{address}/driver")
    if now == driver:
        return
    if now is not None:
        store(f"{DRIVERS}/{now}/unbind", address)
    if driver is not None:
        store(f"{DRIVERS}/{driver}/bind", address)
