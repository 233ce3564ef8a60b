"""Hosts made by hand: an RTX workstation, a server with two A10, and what they are made of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from vfiohost.modalias import ModuleIndex
from vfiohost.model import (
    Details,
    Driver,
    MdevBus,
    MdevParent,
    MdevType,
    MediatedDevice,
    PciAddress,
    PciDevice,
    Snapshot,
    Unavailable,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

ALIASES = """\
# Aliases extracted from modules themselves.
alias char-major-195-* nvidia
alias pci:v000010DEd*sv*sd*bc03sc*i* nvidiafb
alias pci:v000010DEd*sv*sd*bc03sc*i* nouveau
alias pci:v*d*sv*sd*bc04sc03i00* snd_hda_intel
alias pci:v*d*sv*sd*bc0Csc03i30* xhci_pci
alias pci:v000010DEd*sv*sd*bc0Csc80i00* i2c_nvidia_gpu
alias pci:v00008086d000010D3sv*sd*bc*sc*i* e1000e
alias vfio_pci:v*d*sv*sd*bc*sc*i* vfio_pci
alias vfio_pci:v000010DEd00002342sv*sd*bc*sc*i* nvgrace_gpu_vfio_pci
"""

MODULES = ModuleIndex.from_texts(ALIASES, ["vfio", "vfio_pci", "nvidia", "e1000e", "pci_stub"])

DRIVERS = (
    Driver("nouveau", "nouveau"),
    Driver("snd_hda_intel", "snd_hda_intel"),
    Driver("xhci_hcd", "xhci_pci"),
    Driver("nvidia-gpu", "i2c_nvidia_gpu"),
    Driver("pcieport", None),
    Driver("vfio-pci", "vfio_pci"),
)


def address(text: str) -> PciAddress:
    return PciAddress.parse(text)


def device(
    where: str,
    driver: str | None | Unavailable = None,
    *,
    ids: str = "10de:2236",
    class_code: int = 0x030200,
    group: int | None | Unavailable = None,
    physfn: str | None = None,
    total_vfs: int | None = None,
    brings_vfio: bool = False,
) -> PciDevice:
    vendor, dev = (int(part, 16) for part in ids.split(":"))
    at = address(where)
    return PciDevice(
        address=at,
        vendor_id=vendor,
        device_id=dev,
        subsystem_vendor_id=vendor,
        subsystem_device_id=0x1482,
        class_code=class_code,
        revision=0xA1,
        numa_node=None,
        driver=driver,
        iommu_group=group,
        physfn=address(physfn) if physfn else None,
        total_vfs=total_vfs,
        path=f"sys/devices/pci0000:00/{at}",
        brings_vfio=brings_vfio,
    )


def details(
    driver: str | None | Unavailable = None,
    override: str | None | Unavailable = None,
    *,
    boot_vga: bool | None | Unavailable = None,
) -> Details:
    return Details(override, driver, boot_vga, None)


def snapshot(
    *devices: PciDevice,
    drivers: Iterable[Driver] = DRIVERS,
    overrides: Mapping[str, str] | None = None,
    boot_vga: str | None = None,
    mdev: MdevBus | None = None,
) -> Snapshot:
    """A host whose devices have readable details that agree with them."""
    overrides = overrides or {}
    return Snapshot(
        kernel="6.12.0",
        devices=tuple(sorted(devices, key=lambda d: d.address)),
        drivers={d.name: d for d in drivers},
        mdev=mdev,
        details={
            d.address: details(
                d.driver,
                overrides.get(str(d.address)),
                boot_vga=str(d.address) == boot_vga if d.class_code >> 8 == 0x0300 else None,
            )
            for d in devices
        },
    )


def with_details(host: Snapshot, where: str, changed: Details | None) -> Snapshot:
    """A host with other details of one device, or without."""
    at = address(where)
    rest = {a: d for a, d in host.details.items() if a != at}
    return attrs.evolve(host, details=rest | ({at: changed} if changed else {}))


def rtx(**options: object) -> Snapshot:
    """A graphics card with four functions on four drivers, and the port above it."""
    return snapshot(
        device("0000:00:01.0", "pcieport", ids="8086:1901", class_code=0x060400, group=1),
        device("0000:01:00.0", "nouveau", ids="10de:1e84", class_code=0x030000, group=1),
        device("0000:01:00.1", "snd_hda_intel", ids="10de:10f8", class_code=0x040300, group=1),
        device("0000:01:00.2", "xhci_hcd", ids="10de:1ad8", class_code=0x0C0330, group=1),
        device("0000:01:00.3", "nvidia-gpu", ids="10de:1ad9", class_code=0x0C8000, group=1),
        device("0000:02:00.0", "e1000e", ids="8086:10d3", class_code=0x020000, group=2),
        boot_vga="0000:01:00.0",
        **options,  # type: ignore[arg-type]
    )


RTX_CARD = tuple(address(f"0000:01:00.{n}") for n in range(4))


def a10(driver: str | None = None, **options: object) -> Snapshot:
    """Two A10, alone in their groups."""
    return snapshot(
        device("0000:65:00.0", driver, group=30, total_vfs=32),
        device("0000:b4:00.0", driver, group=40, total_vfs=32),
        **options,  # type: ignore[arg-type]
    )


A10_TYPES = {  # type_id: name, framebuffer in MiB, max_instance
    "nvidia-592": ("NVIDIA A10-3Q", 3072, 8),
    "nvidia-595": ("NVIDIA A10-8Q", 8192, 3),
    "nvidia-596": ("NVIDIA A10-12Q", 12288, 2),
    "nvidia-597": ("NVIDIA A10-24Q", 24576, 1),
}


def a10_type(type_id: str, available: int | Unavailable = 1) -> MdevType:
    name, memory, most = A10_TYPES[type_id]
    return MdevType(
        type_id=type_id,
        name=name,
        available_instances=available,
        device_api="vfio-pci",
        description=f"num_heads=4, frl_config=60, framebuffer={memory}M, "
        f"max_resolution=7680x4320, max_instance={most}",
    )


def a10_bus(*existing: tuple[str, str, str], vfs: int = 4) -> MdevBus:
    """Two A10 with virtual functions, and the vGPUs (uuid, VF, type) that exist on them.

    What is left is counted as the driver does: one vGPU for each VF, one type for each GPU.
    """
    types_on: dict[str, list[str]] = {}
    for _, parent, type_id in existing:
        types_on.setdefault(parent.rsplit(".", 1)[0], []).append(type_id)
    taken = {parent for _, parent, _ in existing}
    parents = []
    for bus in ("65", "b4"):
        on_card = types_on.get(f"0000:{bus}:00", [])
        for function in range(4, 4 + vfs):
            name = f"0000:{bus}:00.{function}"
            types = []
            for type_id, (_, _, most) in A10_TYPES.items():
                fits = len(on_card) < most and set(on_card) <= {type_id}
                types.append(a10_type(type_id, int(fits and name not in taken)))
            parents.append(
                MdevParent(
                    name=name,
                    path=f"sys/devices/pci0000:64/{name}",
                    types=tuple(types),
                    address=address(name),
                    physfn=address(f"0000:{bus}:00.0"),
                )
            )
    return MdevBus(
        parents=tuple(parents),
        devices=tuple(
            MediatedDevice(
                uuid=uuid,
                parent=parent,
                type_id=type_id,
                type_name=A10_TYPES[type_id][0],
                driver="nvidia-vgpu-vfio",
                iommu_group=50,
            )
            for uuid, parent, type_id in existing
        ),
    )


def mtty_bus(available: int = 24) -> MdevBus:
    """The kernel's sample driver: a parent that is no PCI device, and two types without text."""
    return MdevBus(
        parents=(
            MdevParent(
                name="mtty",
                path="sys/devices/virtual/mtty/mtty",
                types=(
                    MdevType("mtty-1", "Single port serial", available, "vfio-pci", None),
                    MdevType("mtty-2", "Dual port serial", available // 2, "vfio-pci", None),
                ),
                address=None,
                physfn=None,
            ),
        ),
        devices=(),
    )
