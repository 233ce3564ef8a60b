"""Makes the sysfs of a large host: what a scan reads of it, and what other tools do."""

from __future__ import annotations

import os
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

VFS = 16  # per card
CARDS = 200  # per PCI domain
TYPES = (("nvidia-595", "NVIDIA A10-8Q"), ("nvidia-596", "NVIDIA A10-12Q"))
MODULES = {"nvidia": "nvidia", "mlx5_core": "mlx5_core", "pcieport": None, "vfio-pci": "vfio_pci"}
"""The drivers, and the module that each came with."""

_RESOURCES = "0x0000000000000000 0x0000000000000000 0x0000000000000000\n" * 13


class Kind(NamedTuple):
    """What a function is."""

    ids: str  # vendor, device, subsystem vendor and device
    class_code: str
    driver: str


PORT = Kind("8086 347a 8086 0000", "060400", "pcieport")
GPU = Kind("10de 2236 10de 1482", "030200", "nvidia")
NIC = Kind("15b3 101d 15b3 0016", "020000", "mlx5_core")


class Function(NamedTuple):
    """A function to be made: a root port, a card behind it, or one of its virtual functions."""

    address: str
    path: str  # relative to sys/devices
    kind: Kind
    physfn: str | None

    @property
    def is_card(self) -> bool:
        """It can have virtual functions."""
        return self.kind is not PORT and self.physfn is None


def functions() -> Iterator[Function]:
    """Cards with 16 virtual functions each, every one behind a port of its own, without end.

    Each eighth card is for a network, from the second on; the others are GPUs.
    """
    number = 0
    while True:
        domain, slot = divmod(number, CARDS)
        kind = NIC if number % 8 == 1 else GPU
        port = f"{domain:04x}:00:{slot // 8:02x}.{slot % 8}"
        bridge = f"pci{domain:04x}:00/{port}"
        yield Function(port, bridge, PORT, None)
        card = f"{domain:04x}:{slot + 1:02x}:00.0"
        yield Function(card, f"{bridge}/{card}", kind, None)
        for vf in range(VFS):
            name = f"{domain:04x}:{slot + 1:02x}:{2 + vf // 8:02x}.{vf % 8}"
            yield Function(name, f"{bridge}/{name}", kind, card)
        number += 1


def make(root: Path, count: int) -> None:
    """Make a host with so many PCI functions.

    Args:
        root: a directory, best on a tmpfs: it gets some 25 names per function.
        count: how many.
    """
    bus = root / "sys/bus/pci"
    for folder in ("devices", "slots"):
        (bus / folder).mkdir(parents=True)
    for folder in ("class/mdev_bus", "bus/mdev/devices", "module"):
        (root / "sys" / folder).mkdir(parents=True)
    for driver, module in MODULES.items():
        (bus / "drivers" / driver).mkdir(parents=True)
        if module is not None:
            (root / "sys/module" / module).mkdir()
            (bus / "drivers" / driver / "module").symlink_to(f"../../../../module/{module}")
    release = root / "proc/sys/kernel/osrelease"
    release.parent.mkdir(parents=True)
    release.write_text("6.12.117-amd64\n")
    contents = _Contents(root / "contents")
    for group, function in enumerate(islice(functions(), count)):
        _make_function(root, function, group, contents)


class _Contents(dict[bytes, str]):
    """A file for each content, to which all files with that content are hard links.

    A file on a tmpfs takes a page at least, and a quarter of a million of them a gigabyte.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        folder.mkdir()
        self._folder = folder

    def __missing__(self, content: bytes) -> str:
        path = self._folder / str(len(self))
        path.write_bytes(content)
        return self.setdefault(content, str(path))


def _make_function(root: Path, function: Function, group: int, contents: _Contents) -> None:
    folder = f"{root}/sys/devices/{function.path}"
    os.makedirs(folder)
    up = "../" * (function.path.count("/") + 2)
    for name, content in _attributes(function, group).items():
        os.link(contents[content], f"{folder}/{name}")
    iommu = f"{root}/sys/kernel/iommu_groups/{group}/devices"
    os.makedirs(iommu)
    links = {
        f"{folder}/driver": f"{up}bus/pci/drivers/{function.kind.driver}",
        f"{folder}/iommu_group": f"{up}kernel/iommu_groups/{group}",
        f"{folder}/subsystem": f"{up}bus/pci",
        f"{iommu}/{function.address}": f"../../../../devices/{function.path}",
        f"{root}/sys/bus/pci/devices/{function.address}": f"../../../devices/{function.path}",
    }
    if function.physfn is not None:
        links[f"{folder}/physfn"] = f"../{function.physfn}"
        if function.kind is GPU:
            parent = f"{root}/sys/class/mdev_bus/{function.address}"
            links[parent] = f"../../devices/{function.path}"
            _make_types(folder, contents)
    for link, target in links.items():
        os.symlink(target, link)


def _attributes(function: Function, group: int) -> dict[str, bytes]:
    """The files of a function."""
    vendor, device, subvendor, subdevice = function.kind.ids.split()
    if function.physfn is not None:
        subdevice = "0000"
    class_code, address = function.kind.class_code, function.address
    base, sub, interface = (class_code[i : i + 2].upper() for i in (0, 2, 4))
    modalias = (
        f"pci:v{vendor.upper():0>8}d{device.upper():0>8}"
        f"sv{subvendor.upper():0>8}sd{subdevice.upper():0>8}"
        f"bc{base}sc{sub}i{interface.lower()}"
    )
    uevent = (
        f"DRIVER={function.kind.driver}\nPCI_CLASS={class_code.lstrip('0').upper()}\n"
        f"PCI_ID={vendor}:{device}\nPCI_SUBSYS_ID={subvendor}:{subdevice}\n"
        f"PCI_SLOT_NAME={address}\nMODALIAS={modalias}"
    )
    texts = {
        "modalias": modalias,
        "revision": "0xa1",
        "numa_node": str(group % 2),
        "vendor": f"0x{vendor}",
        "device": f"0x{device}",
        "subsystem_vendor": f"0x{subvendor}",
        "subsystem_device": f"0x{subdevice}",
        "class": f"0x{class_code}",
        "irq": "0",
        "resource": _RESOURCES.rstrip("\n"),
        "driver_override": "(null)",
        "uevent": uevent,
    }
    if function.is_card:
        texts |= {"sriov_totalvfs": str(VFS), "sriov_numvfs": str(VFS)}
    contents = {name: f"{text}\n".encode() for name, text in texts.items()}
    contents["config"] = _config(function, subdevice)
    return contents


def _config(function: Function, subdevice: str) -> bytes:
    """The configuration space, as far as it is the same for every function; no capabilities."""
    vendor, device, subvendor, _ = (int(i, 16) for i in function.kind.ids.split())
    area = bytearray(256)
    area[0:4] = vendor.to_bytes(2, "little") + device.to_bytes(2, "little")
    area[8:12] = b"\xa1" + bytes.fromhex(function.kind.class_code)[::-1]
    if function.kind is PORT:
        area[14] = 1
    else:
        area[44:48] = subvendor.to_bytes(2, "little") + bytes.fromhex(subdevice)[::-1]
    return bytes(area)


def _make_types(folder: str, contents: _Contents) -> None:
    for type_id, name in TYPES:
        at = f"{folder}/mdev_supported_types/{type_id}"
        os.makedirs(f"{at}/devices")
        files = {
            "name": name,
            "available_instances": "1",
            "device_api": "vfio-pci",
            "description": "num_heads=4, frl_config=60, framebuffer=8192M",
        }
        for file, text in files.items():
            os.link(contents[f"{text}\n".encode()], f"{at}/{file}")
        os.link(contents[b""], f"{at}/create")
