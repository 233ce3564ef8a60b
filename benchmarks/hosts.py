"""Makes the sysfs of a large host: as much of it as a scan looks at."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

VFS = 16  # per card
CARDS = 200  # per PCI domain
TYPES = (("nvidia-595", "NVIDIA A10-8Q"), ("nvidia-596", "NVIDIA A10-12Q"))


class Function(NamedTuple):
    """A function to be made: a root port, a card behind it, or one of its virtual functions."""

    address: str
    path: str  # relative to sys/devices
    ids: str  # as in modalias
    class_code: str
    driver: str
    physfn: str | None


def functions() -> Iterator[Function]:
    """Cards with 16 virtual functions each, every one behind a port of its own, without end."""
    number = 0
    while True:
        domain, slot = divmod(number, CARDS)
        port = f"{domain:04x}:00:{slot // 8:02x}.{slot % 8}"
        bridge = f"pci{domain:04x}:00/{port}"
        yield Function(port, bridge, "8086 347a 8086 0000", "060400", "pcieport", None)
        card = f"{domain:04x}:{slot + 1:02x}:00.0"
        yield Function(card, f"{bridge}/{card}", "10de 2236 10de 1482", "030200", "nvidia", None)
        for vf in range(VFS):
            name = f"{domain:04x}:{slot + 1:02x}:{2 + vf // 8:02x}.{vf % 8}"
            ids = "10de 2236 10de 0000"
            yield Function(name, f"{bridge}/{name}", ids, "030200", "nvidia", card)
        number += 1


def make(root: Path, count: int) -> None:
    """Make a host with so many PCI functions.

    Args:
        root: a directory, best on a tmpfs: it gets about ten files and links per function.
        count: how many.
    """
    bus = root / "sys/bus/pci"
    (bus / "devices").mkdir(parents=True)
    (root / "sys/class/mdev_bus").mkdir(parents=True)
    for driver in ("nvidia", "pcieport", "vfio-pci"):
        (bus / "drivers" / driver).mkdir(parents=True)
    release = root / "proc/sys/kernel/osrelease"
    release.parent.mkdir(parents=True)
    release.write_text("6.12.117-amd64\n")
    for group, function in enumerate(islice(functions(), count)):
        _make_function(root, function, group)


def _make_function(root: Path, function: Function, group: int) -> None:
    folder = root / "sys/devices" / function.path
    folder.mkdir(parents=True)
    up = "../" * (function.path.count("/") + 2)
    base, sub, interface = (function.class_code[i : i + 2].upper() for i in (0, 2, 4))
    vendor, device, subvendor, subdevice = (i.upper().zfill(8) for i in function.ids.split())
    files = {
        "modalias": f"pci:v{vendor}d{device}sv{subvendor}sd{subdevice}"
        f"bc{base}sc{sub}i{interface.lower()}",
        "revision": "0xa1",
        "numa_node": str(group % 2),
    }
    if function.driver == "nvidia" and function.physfn is None:
        files["sriov_totalvfs"] = str(VFS)
    for name, text in files.items():
        (folder / name).write_text(f"{text}\n")
    iommu = root / f"sys/kernel/iommu_groups/{group}/devices"
    iommu.mkdir(parents=True)
    links = {
        folder / "driver": f"{up}bus/pci/drivers/{function.driver}",
        folder / "iommu_group": f"{up}kernel/iommu_groups/{group}",
        iommu / function.address: f"../../../../devices/{function.path}",
        root / f"sys/bus/pci/devices/{function.address}": f"../../../devices/{function.path}",
    }
    if function.physfn is not None:
        links[folder / "physfn"] = f"../{function.physfn}"
        links[root / f"sys/class/mdev_bus/{function.address}"] = f"../../devices/{function.path}"
        _make_types(folder)
    for link, target in links.items():
        link.symlink_to(target)


def _make_types(folder: Path) -> None:
    for type_id, name in TYPES:
        (folder / "mdev_supported_types" / type_id).mkdir(parents=True)
        for file, text in {"name": name, "available_instances": "1"}.items():
            (folder / "mdev_supported_types" / type_id / file).write_text(f"{text}\n")
