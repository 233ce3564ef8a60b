"""What stores change on a host, read the same way from a real one and from a simulated one.

With plain system calls: this runs after each step in an emulated processor, where pathlib takes
several times as long.
"""

from __future__ import annotations

import os

MDEV_PARENTS = ("mtty", "mdpy", "mbochs")
VFIO_FOLDERS = ("dev/vfio", "dev/vfio/devices", "sys/class/vfio", "sys/class/vfio-dev")


def read(root: str, locked: list[str] | None = None) -> dict[str, str]:
    """Read the state as texts by name.

    Args:
        root: ``/``, or the folder of a simulated host.
        locked: devices in the middle of an unbind. Reading their driver_override would wait for its
            end on some kernels.
    """
    top = root.rstrip("/")
    state: dict[str, str] = {}
    for name in _names(devices := f"{top}/sys/bus/pci/devices"):
        state[f"{name} driver"] = _target(f"{devices}/{name}/driver")
        state[f"{name} group"] = _target(f"{devices}/{name}/iommu_group")
        if name not in (locked or ()):
            state[f"{name} override"] = _text(f"{devices}/{name}/driver_override")
    for name in _names(groups := f"{top}/sys/kernel/iommu_groups"):
        state[f"group {name}"] = " ".join(_names(f"{groups}/{name}/devices"))
    for name in _names(mdevs := f"{top}/sys/bus/mdev/devices"):
        state[f"mdev {name} type"] = _target(f"{mdevs}/{name}/mdev_type")
        state[f"mdev {name} driver"] = _target(f"{mdevs}/{name}/driver")
        state[f"mdev {name} group"] = _target(f"{mdevs}/{name}/iommu_group")
    for parent in MDEV_PARENTS:
        for name in _names(types := f"{top}/sys/class/mdev_bus/{parent}/mdev_supported_types"):
            state[f"{name} left"] = _text(f"{types}/{name}/available_instances")
            state[f"{name} devices"] = " ".join(_names(f"{types}/{name}/devices"))
    for folder in VFIO_FOLDERS:
        state[f"/{folder}"] = " ".join(_names(f"{top}/{folder}"))
    return state


def read_vfio(root: str) -> dict[str, str]:
    """Read all that VFIO shows of its groups and devices: links, and numbers of their nodes."""
    top = root.rstrip("/")
    state = {f"/{folder}": " ".join(_names(f"{top}/{folder}")) for folder in VFIO_FOLDERS}
    for bus in ("pci", "mdev"):
        for device in _names(f"{top}/sys/bus/{bus}/devices"):
            state[device] = " ".join(_names(f"{top}/sys/bus/{bus}/devices/{device}/vfio-dev"))
    for kind in ("vfio", "vfio-dev"):
        for name in _names(entries := f"{top}/sys/class/{kind}"):
            state[f"{name} link"] = os.readlink(f"{entries}/{name}")
            state[f"{name} dev"] = _text(f"{entries}/{name}/dev")
            for link in ("device", "subsystem"):
                path = f"{entries}/{name}/{link}"
                state[f"{name} {link}"] = os.readlink(path) if os.path.islink(path) else "-"
    return state


def _target(link: str) -> str:
    try:
        return os.readlink(link).rpartition("/")[2]
    except FileNotFoundError:
        return "-"


def _text(file: str) -> str:
    try:
        with open(file, "rb") as opened:
            return opened.read().decode().strip()
    except FileNotFoundError:
        return "-"


def _names(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []
