"""Facts made by hand, and what it takes to make each code appear and not appear."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from tests.pure.hosts import DRIVERS, details, device, snapshot
from vfiohost.config_space import decode
from vfiohost.doctor import HostFacts, Own
from vfiohost.doctor.sources import ACPI_TABLES, IOMMUS, SECURE_BOOT
from vfiohost.model import MdevBus, MdevParent, MdevType, Snapshot, Unavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vfiohost.model import Details, PciDevice

GPU, VF, OTHER = "0000:65:00.0", "0000:65:00.4", "0000:66:00.0"
PORT = "0000:64:02.0"
INTEL = b"vendor_id\t: GenuineIntel\nflags\t:\n"
AMD = b"vendor_id\t: AuthenticAMD\nflags\t:\n"
ARM = b"CPU implementer\t: 0x41\n"
ZEROS = b"00000000-0000-0000-0000-000000000000\n"
GUEST = b"vendor_id\t: GenuineIntel\nflags\t: hypervisor\n"
IRQ = "sys/kernel/irq/30/chip_name"
TYPE1 = "sys/module/vfio_iommu_type1/parameters"
NO_VFIO = tuple(d for d in DRIVERS if d.name != "vfio-pci")
VF_ROOM = (
    b"0x00000000fd000000 0x00000000fdffffff 0x0000000000040200\n" * 7
    + b"0x0000000190000000 0x0000000191ffffff 0x000000000014220c\n" * 6
)
NO_VF_ROOM = (
    b"0x00000000fd000000 0x00000000fdffffff 0x0000000000040200\n" * 7
    + b"0x0000000000000000 0x00000000003fffff 0x000000000014220c\n" * 6
)
MEMINFO = b"HugePages_Total:  %d\nHugePages_Free:  %d\nHugepagesize:  2048 kB\n"


def gpu(driver: str | None = None, **fields: Any) -> PciDevice:
    return device(GPU, driver, **({"group": 15} | fields))


def at(where: PciDevice, *parents: str) -> PciDevice:
    """The device behind other bridges."""
    path = "/".join(("sys/devices/pci0000:64", *parents, str(where.address)))
    return attrs.evolve(where, path=path)


def port(group: int = 14) -> PciDevice:
    bridge = device(PORT, "pcieport", ids="8086:3420", class_code=0x060400, group=group)
    return attrs.evolve(bridge, path=f"sys/devices/pci0000:64/{PORT}")


def of(where: str, name: str) -> str:
    """An attribute of a device of :func:`tests.pure.hosts.device`."""
    return f"sys/devices/pci0000:00/{where}/{name}"


def facts(
    *devices: PciDevice,
    files: Mapping[str, bytes | Unavailable] | None = None,
    names: Mapping[str, tuple[str, ...] | Unavailable] | None = None,
    host: Snapshot | None = None,
    **fields: Any,
) -> HostFacts:
    """A running host with these devices, or an A10 alone in its group."""
    made = host if host is not None else snapshot(*(devices or (gpu(),)))
    told: dict[str, bytes | Unavailable] = {
        "proc/cmdline": b"quiet\n",
        "proc/cpuinfo": INTEL,
        "proc/2/comm": b"kthreadd\n",
        "proc/meminfo": MEMINFO % (0, 0),
        IRQ: b"IR-PCI-MSI\n",
        **dict(files or {}),
    }
    listed: dict[str, tuple[str, ...] | Unavailable] = {
        ACPI_TABLES: ("DMAR",),
        IOMMUS: ("dmar0",),
        "sys/module": (),
    }
    spaces = {
        path: decode(content)
        for path, content in told.items()
        if path.endswith("/config") and isinstance(content, bytes)
    }
    return HostFacts(
        snapshot=made,
        subjects=tuple(d.address for d in made.devices if not d.is_bridge and not d.is_vf),
        files=told,
        names=listed | dict(names or {}),
        spaces=spaces,
        **({"is_live": True} | fields),
    )


def line(text: str, *devices: PciDevice, **fields: Any) -> HostFacts:
    """A host with this command line."""
    return facts(*devices, files={"proc/cmdline": f"{text}\n".encode()}, **fields)


def told(path: str, content: bytes | Unavailable, *devices: PciDevice, **fields: Any) -> HostFacts:
    """A host where one file says this."""
    return facts(*devices, files={path: content}, **fields)


def with_details(host: HostFacts, **changed: Any) -> HostFacts:
    """The host with other details of the GPU."""
    (address,) = (d.address for d in host.snapshot.devices if str(d.address) == GPU)
    known: Details = attrs.evolve(details("vfio-pci"), **changed)
    return attrs.evolve(host, snapshot=attrs.evolve(host.snapshot, details={address: known}))


def with_types(host: HostFacts) -> HostFacts:
    """The host with mediated device types on the GPU's virtual function."""
    vf = next(d for d in host.snapshot.devices if d.is_vf)
    kind = MdevType("nvidia-595", "NVIDIA A10-8Q", 1, "vfio-pci", None)
    parent = MdevParent(str(vf.address), vf.path, (kind,), vf.address, gpu().address)
    bus = MdevBus((parent,), ())
    return attrs.evolve(host, snapshot=attrs.evolve(host.snapshot, mdev=bus))


NO_GROUP = gpu(group=None)
ALONE = facts()
NVIDIA = gpu("nvidia", total_vfs=32)
NVIDIA_VF = device(VF, "nvidia", group=16, physfn=GPU)
VGPU_MODULES = {"sys/module": ("nvidia", "nvidia_vgpu_vfio")}
VGPU_HOST = facts(NVIDIA, NVIDIA_VF, names=VGPU_MODULES)
VENDOR_VFIO = facts(NVIDIA, NVIDIA_VF, names=VGPU_MODULES | {NVIDIA_VF.path: ("nvidia", "vendor")})
TWO_CARDS = (port(15), at(gpu("nouveau"), PORT), at(device(OTHER, group=15), PORT))
ONE_CARD = (gpu("nouveau"), device("0000:65:00.1", "snd_hda_intel", group=15, class_code=0x040300))
ON_VFIO = gpu("vfio-pci")
SET_BY_US = with_details(facts(ON_VFIO), driver_override="vfio-pci")

CASES: dict[str, tuple[HostFacts, HostFacts]] = {
    "iommu-on": (ALONE, facts(NO_GROUP)),
    "iommu-firmware-off": (
        facts(NO_GROUP, names={ACPI_TABLES: ()}),
        facts(NO_GROUP, names={ACPI_TABLES: ("DMAR",)}),
    ),
    "iommu-kernel-off": (facts(NO_GROUP), line("intel_iommu=on", NO_GROUP)),
    "iommu-disabled": (line("quiet iommu=off", NO_GROUP), line("iommu=pt", NO_GROUP)),
    "iommu-failed": (line("intel_iommu=on,sm_on", NO_GROUP), facts(NO_GROUP)),
    "iommu-off": (
        facts(NO_GROUP, names={ACPI_TABLES: Unavailable(13, "Permission denied")}),
        facts(NO_GROUP),
    ),
    "iommu-unknown": (
        attrs.evolve(facts(NO_GROUP), files={}, is_live=False),
        facts(NO_GROUP, is_live=False),
    ),
    "guest-without-viommu": (
        told("proc/cpuinfo", GUEST, NO_GROUP, names={ACPI_TABLES: ()}),
        told("proc/cpuinfo", GUEST, NO_GROUP),
    ),
    "xen": (
        facts(NO_GROUP, files={"sys/hypervisor/type": b"xen\n", "sys/hypervisor/uuid": ZEROS}),
        told("sys/hypervisor/type", b"xen\n", NO_GROUP),
    ),
    "guest": (told("proc/cpuinfo", GUEST), ALONE),
    "outside-iommu": (facts(gpu(), device(OTHER)), facts(gpu(), device(OTHER, group=17))),
    "cmdline-unknown-word": (line("amd_iommu=on"), line("amd_iommu=pgtbl_v2")),
    "acs-override": (line("pcie_acs_override=downstream"), ALONE),
    "groups-separate": (ALONE, facts(*TWO_CARDS)),
    "group-one-card": (facts(*ONE_CARD), facts(*TWO_CARDS)),
    "group-shared": (facts(*TWO_CARDS), facts(*ONE_CARD)),
    "vfio-ready": (ALONE, facts(host=snapshot(gpu(), drivers=NO_VFIO))),
    "vfio-not-loaded": (
        facts(host=snapshot(gpu(), drivers=NO_VFIO), loadable={"vfio_pci": True}),
        facts(loadable={"vfio_pci": True}),
    ),
    "vfio-missing": (
        facts(host=snapshot(gpu(), drivers=NO_VFIO), loadable={"vfio_pci": False}),
        facts(loadable={"vfio_pci": False}),
    ),
    "vfio-unknown": (facts(host=snapshot(gpu(), drivers=NO_VFIO)), ALONE),
    "no-interrupt-remapping": (told(IRQ, b"PCI-MSI\n"), told(IRQ, b"IR-PCI-MSI\n")),
    "interrupt-remapping": (told(IRQ, b"IR-PCI-MSI\n"), told(IRQ, b"PCI-MSI\n")),
    "interrupts-unknown": (
        told(IRQ, Unavailable(13, "Permission denied")),
        told("proc/interrupts", b"PCI-MSI\n"),
    ),
    "unsafe-interrupts": (
        told(f"{TYPE1}/allow_unsafe_interrupts", b"Y\n"),
        told(f"{TYPE1}/allow_unsafe_interrupts", b"N\n"),
    ),
    "noiommu-mode": (
        told("sys/module/vfio/parameters/enable_unsafe_noiommu_mode", b"Y\n"),
        told("sys/module/vfio/parameters/enable_unsafe_noiommu_mode", b"N\n"),
    ),
    "vfio-limit": (
        told(f"{TYPE1}/dma_entry_limit", b"4096\n"),
        told(f"{TYPE1}/dma_entry_limit", b"65535\n"),
    ),
    "vfio-sriov": (told("sys/module/vfio_pci/parameters/enable_sriov", b"Y\n"), ALONE),
    "lockdown": (
        told("sys/kernel/security/lockdown", b"none [integrity] confidentiality\n"),
        told("sys/kernel/security/lockdown", b"[none] integrity confidentiality\n"),
    ),
    "secure-boot": (
        told(SECURE_BOOT, b"\x06\0\0\0\x01"),
        told(SECURE_BOOT, b"\x06\0\0\0\0"),
    ),
    "memlock": (
        told("proc/self/limits", b"Max locked memory 8388608 8388608 bytes\n"),
        told("proc/self/limits", b"Max locked memory unlimited unlimited bytes\n"),
    ),
    "memlock-unlimited": (
        facts(
            files={
                "proc/self/limits": b"Max locked memory 8388608 8388608 bytes\n",
                "proc/self/status": b"CapEff:\t000001ffffffffff\n",
            }
        ),
        told("proc/self/limits", b"Max locked memory 8388608 8388608 bytes\n"),
    ),
    "hugepages-full": (
        told("proc/meminfo", MEMINFO % (512, 0)),
        told("proc/meminfo", MEMINFO % (512, 1)),
    ),
    "hugepages": (ALONE, told("proc/meminfo", MEMINFO % (512, 0))),
    "overcommit-strict": (
        told("proc/sys/vm/overcommit_memory", b"2\n"),
        told("proc/sys/vm/overcommit_memory", b"0\n"),
    ),
    "sriov-off": (facts(gpu(total_vfs=0)), facts(gpu(total_vfs=32))),
    "vf-bars-unassigned": (
        told(of(GPU, "resource"), NO_VF_ROOM, gpu(total_vfs=32)),
        told(of(GPU, "resource"), VF_ROOM, gpu(total_vfs=32)),
    ),
    "sriov-ready": (
        told(of(GPU, "resource"), VF_ROOM, gpu(total_vfs=32)),
        told(of(GPU, "resource"), NO_VF_ROOM, gpu(total_vfs=32)),
    ),
    "no-reset": (
        facts(names={gpu().path: ("remove", "uevent")}),
        facts(names={gpu().path: ("uevent",)}),
    ),
    "reset-bus-only": (
        told(f"{TWO_CARDS[1].path}/reset_method", b"bus\n", *TWO_CARDS),
        told(f"{at(gpu(), PORT).path}/reset_method", b"bus\n", port(), at(gpu(), PORT)),
    ),
    "reset-ready": (
        told(of(GPU, "reset_method"), b"flr bus\n"),
        told(of(GPU, "reset_method"), b"\n"),
    ),
    "d3cold": (told(of(GPU, "power_state"), b"D3cold\n"), told(of(GPU, "power_state"), b"D3hot\n")),
    "d3cold-allowed": (
        told(of(GPU, "d3cold_allowed"), b"1\n", ON_VFIO),
        facts(
            ON_VFIO,
            files={
                of(GPU, "d3cold_allowed"): b"1\n",
                "sys/module/vfio_pci/parameters/disable_idle_d3": b"Y\n",
            },
        ),
    ),
    "framebuffer": (
        facts(
            files={
                of(GPU, "resource"): VF_ROOM,
                "proc/iomem": b"  fd000000-fd2fffff : BOOTFB\n",
            }
        ),
        facts(
            files={
                of(GPU, "resource"): VF_ROOM,
                "proc/iomem": b"  a0000000-a02fffff : BOOTFB\n",
            }
        ),
    ),
    "boot-vga": (with_details(ALONE, boot_vga=True), with_details(ALONE, boot_vga=False)),
    "driverctl": (
        told(f"etc/driverctl.d/pci-{GPU}", b"vfio-pci\n", ON_VFIO),
        told(f"etc/driverctl.d/pci-{GPU}", b"vfio-pci\n", gpu("nouveau")),
    ),
    "driverctl-differs": (
        told(f"etc/driverctl.d/pci-{GPU}", b"vfio-pci\n", gpu("nouveau")),
        told(f"etc/driverctl.d/pci-{GPU}", b"none\n"),
    ),
    "vfio-ids": (
        line("vfio-pci.ids=10DE:2236,10de:1aef"),
        line("vfio-pci.ids=10de:2236", gpu(), device(OTHER, group=17)),
    ),
    "vfio-ids-several": (
        told(
            "etc/modprobe.d/vfio.conf",
            b"options vfio-pci disable_idle_d3=1 ids=10de:2236\n",
            gpu(),
            device(OTHER, group=17),
        ),
        told("etc/modprobe.d/vfio.conf", b"options vfio-pci ids=10de:2236\n"),
    ),
    "stray-vfio": (with_details(facts(ON_VFIO), driver_override=None), SET_BY_US),
    "manager-running": (told("proc/812/comm", b"virt-handler\n"), ALONE),
    "processes-hidden": (told("proc/2/comm", b"sh\n"), ALONE),
    "mdevctl": (told(f"etc/mdevctl.d/{VF}/0b5cd3fe", b""), told("etc/mdevctl.d/scripts.d/x", b"")),
    "libvirt-hooks": (told("etc/libvirt/hooks/qemu", b""), ALONE),
    "udev-rules": (told("etc/udev/rules.d/99-vfio.rules", b"vfio\n"), ALONE),
    "nvidia-driver": (VGPU_HOST, facts(names={"sys/module": ("nouveau",)})),
    "vgpu-mdev": (with_types(VGPU_HOST), VENDOR_VFIO),
    "vgpu-vendor-vfio": (VENDOR_VFIO, with_types(VGPU_HOST)),
    "vgpu-no-vfs": (facts(NVIDIA, names=VGPU_MODULES), VENDOR_VFIO),
    "nouveau-beside-nvidia": (facts(names={"sys/module": ("nouveau", "nvidia")}), VGPU_HOST),
    "nvidia-modeset": (
        told("sys/module/nvidia_drm/parameters/modeset", b"Y\n", NVIDIA, names=VGPU_MODULES),
        told("sys/module/nvidia_drm/parameters/modeset", b"N\n", NVIDIA, names=VGPU_MODULES),
    ),
    "journal-open": (facts(own=Own(open=("bind 65:00.0",))), ALONE),
    "journal-pending": (facts(own=Own(pending=("unbind 65:00.0",))), ALONE),
    "journal-damaged": (facts(own=Own(damaged=("x.jsonl: line 3",))), ALONE),
    "journal-other-boot": (facts(own=Own(other_boot=2)), ALONE),
    "journal-clean": (ALONE, facts(own=Own(open=("bind 65:00.0",)))),
    "lock-held": (facts(own=Own(lock="pid 4", lock_alive=True)), facts(own=Own(lock="pid 4"))),
    "lock-stale": (facts(own=Own(lock="pid 4")), facts(own=Own(lock="pid 4", lock_alive=True))),
    "not-there": (
        attrs.evolve(ALONE, files={"proc/cmdline": b"quiet\n"}, is_live=False),
        attrs.evolve(ALONE, is_live=False),
    ),
    "unreadable": (told("proc/iomem", Unavailable(13, "Permission denied")), ALONE),
}
"""For each code a host on which it is found, and one very like it on which it is not."""
