"""What stores change on a host, read the same way from a real one and from a simulated one."""

from __future__ import annotations

from pathlib import Path

MDEV_PARENTS = ("mtty", "mdpy", "mbochs")


def read(root: str, locked: list[str] | None = None) -> dict[str, str]:
    """Read the state as texts by name.

    Args:
        root: ``/``, or the folder of a simulated host.
        locked: devices in the middle of an unbind. Reading their driver_override would wait for its
            end on some kernels.
    """
    top = Path(root)
    state: dict[str, str] = {}
    for device in sorted((top / "sys/bus/pci/devices").iterdir()):
        state[f"{device.name} driver"] = _target(device / "driver")
        state[f"{device.name} group"] = _target(device / "iommu_group")
        if device.name not in (locked or ()):
            state[f"{device.name} override"] = _text(device / "driver_override")
        if (device / "sriov_totalvfs").exists():
            state[f"{device.name} VFs"] = " ".join(_names(device, "virtfn*"))
    for group in sorted((top / "sys/kernel/iommu_groups").iterdir()):
        state[f"group {group.name}"] = " ".join(_names(group / "devices"))
    for mdev in sorted((top / "sys/bus/mdev/devices").iterdir()):
        state[f"mdev {mdev.name}"] = f"{_target(mdev / 'mdev_type')} {_target(mdev / 'driver')}"
    for parent in MDEV_PARENTS:
        for kind in sorted((top / f"sys/class/mdev_bus/{parent}/mdev_supported_types").iterdir()):
            state[f"{kind.name} left"] = _text(kind / "available_instances")
            state[f"{kind.name} devices"] = " ".join(_names(kind / "devices"))
    state["/dev/vfio"] = " ".join(_names(top / "dev/vfio"))
    return state


def _target(link: Path) -> str:
    return link.readlink().name if link.is_symlink() else "-"


def _text(file: Path) -> str:
    try:
        return file.read_text().strip()
    except FileNotFoundError:
        return "-"


def _names(folder: Path, pattern: str = "*") -> list[str]:
    return sorted(path.name for path in folder.glob(pattern))
