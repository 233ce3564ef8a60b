"""What stores change on a host, read the same way from a real one and from a simulated one.

With plain system calls: this runs after each step in an emulated processor, where pathlib takes
several times as long.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tests.kernel.lab.layout import A10S, L40S, L40S_VFS, NVME, T4

if TYPE_CHECKING:
    from collections.abc import Collection

VFIO_FOLDERS = ("dev/vfio", "dev/vfio/devices", "sys/class/vfio", "sys/class/vfio-dev")
PFS = (NVME, A10S[0], L40S)
TYPES = {"mtty": None, "mdpy": None, "mbochs": None, T4: ("nvidia-222", "nvidia-232", "nvidia-234")}
"""The types that are watched, by parent; ``None`` for all. NVIDIA's are many, and count alike."""
STAND_INS = ("nvidia", "nouveau")
"""Drivers that do not enable their devices, as those do that they stand in for."""
VF_TYPES = ("nvidia-588", "nvidia-595", "nvidia-597")


def read(root: str, locked: Collection[str] = ()) -> dict[str, str]:
    """Read the state as texts by name.

    Args:
        root: ``/``, or the folder of a simulated host.
        locked: devices in the middle of something. Reading what takes their lock would wait for its
            end: ``driver_override`` on older kernels, ``sriov_numvfs`` on all.
    """
    top = root.rstrip("/")
    state: dict[str, str] = {}
    _read_functions(state, f"{top}/sys/bus/pci/devices", locked)
    for name in _names(drivers := f"{top}/sys/bus/pci/drivers"):
        bound = [each for each in _names(f"{drivers}/{name}") if ":" in each]
        state[f"driver {name}"] = " ".join(bound)
    for name in _names(groups := f"{top}/sys/kernel/iommu_groups"):
        state[f"group {name}"] = " ".join(_names(f"{groups}/{name}/devices"))
    for name in _names(mdevs := f"{top}/sys/bus/mdev/devices"):
        links = (_target(f"{mdevs}/{name}/{link}") for link in ("mdev_type", "driver"))
        state[f"mdev {name}"] = " ".join((*links, _target(f"{mdevs}/{name}/iommu_group")))
    for name in L40S_VFS:
        folder = f"{top}/sys/bus/pci/devices/{name}/nvidia"
        state[f"{name} type"] = _text(f"{folder}/current_vgpu_type")
        state[f"{name} creatable"] = _ids(_text(f"{folder}/creatable_vgpu_types"))
    for name in _names(parents := f"{top}/sys/class/mdev_bus"):
        _read_types(state, name, f"{parents}/{name}/mdev_supported_types")
    state["autoprobe"] = _text(f"{top}/sys/bus/pci/drivers_autoprobe")
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


def _read_functions(state: dict[str, str], devices: str, locked: Collection[str]) -> None:
    for name in _names(devices):
        state[f"{name} driver"] = driver = _target(f"{devices}/{name}/driver")
        state[f"{name} group"] = _target(f"{devices}/{name}/iommu_group")
        if driver not in STAND_INS:
            state[f"{name} enable"] = _text(f"{devices}/{name}/enable")
        state[f"{name} physfn"] = _target(f"{devices}/{name}/physfn")
        if name not in locked:
            state[f"{name} override"] = _text(f"{devices}/{name}/driver_override")
    for name in PFS:
        links = [each for each in _names(f"{devices}/{name}") if each.startswith("virtfn")]
        state[f"{name} virtfn"] = " ".join(
            f"{link}={_target(f'{devices}/{name}/{link}')}" for link in links
        )
        autoprobe = _text(f"{devices}/{name}/sriov_drivers_autoprobe")
        state[f"{name} sriov_drivers_autoprobe"] = autoprobe
        if name not in locked:
            state[f"{name} numvfs"] = _text(f"{devices}/{name}/sriov_numvfs")


def _read_types(state: dict[str, str], parent: str, types: str) -> None:
    for name in TYPES.get(parent, VF_TYPES) or _names(types):
        left = _text(f"{types}/{name}/available_instances")
        state[f"{parent} {name}"] = " ".join((left, *_names(f"{types}/{name}/devices")))


def _ids(creatable: str) -> str:
    return " ".join(line.split()[0] for line in creatable.splitlines())


def _target(link: str) -> str:
    try:
        return os.readlink(link).rpartition("/")[2]
    except OSError:
        return "-"


def _text(file: str) -> str:
    try:
        fd = os.open(file, os.O_RDONLY | os.O_NONBLOCK)  # a simulated wait is a FIFO
    except OSError:
        return "-"
    try:
        return os.read(fd, 4096).decode().strip()
    except OSError:
        return "-"
    finally:
        os.close(fd)


def _names(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []
