"""Which files are read, and what is kept of each. Pure.

What is kept is what a check looks at, and nothing that identifies the machine or changes from one
second to the next, so that it can stand in a recording. To keep twice changes nothing.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import attrs

from vfiohost.modalias import MODPROBE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Keep = Callable[[bytes], bytes | None]

SECURE_BOOT: Final = "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
ACPI_TABLES: Final = "sys/firmware/acpi/tables"
IOMMUS: Final = "sys/class/iommu"
DRIVERCTL: Final = "etc/driverctl.d"
MDEVCTL: Final = "etc/mdevctl.d"
LIBVIRT_HOOKS: Final = "etc/libvirt/hooks"
UDEV_RULES: Final = "etc/udev/rules.d"
HUGEPAGES: Final = "sys/kernel/mm/hugepages"

IOMMU_TABLES: Final = {"DMAR": "Intel VT-d", "IVRS": "AMD-Vi", "IORT": "Arm SMMU", "VIOT": "virtio"}
"""The ACPI tables that describe an IOMMU."""

_OPEN = "keeps the GPUs open, so that no driver lets go of them"
_LIBVIRT = "libvirt takes devices of guests with managed='yes' and gives them back by itself"

FIGHTING: Final = {
    "virt-handler": "KubeVirt's node agent removes mediated devices that it does not know",
    "vfio-manage": "NVIDIA's GPU Operator binds and unbinds all GPUs of the node",
    "driver-manager": "NVIDIA's GPU Operator takes its driver off all GPUs of the node",
    "nvidia-vgpu-dm": "NVIDIA's vGPU Device Manager removes and makes vGPUs",
}
"""By ``comm`` (15 characters): programs that take away what another has made, and what they do."""

MANAGERS: Final = {
    **FIGHTING,
    "nvidia-persiste": f"nvidia-persistenced {_OPEN}",
    "nv-hostengine": f"NVIDIA's DCGM {_OPEN}",
    "kubevirt-gpu-de": "the device plugin gives out the devices that it saw when it started",
    "libvirtd": _LIBVIRT,
    "virtqemud": _LIBVIRT,
}
"""By ``comm``: programs that use or manage devices, and what they do."""

PEACEFUL: Final = frozenset({"libvirtd", "virtqemud"})
"""Those that go well with vfiohost, and are only good to know of."""


@attrs.frozen
class Source:
    """Files that are read.

    Attributes:
        pattern: a path relative to the root; its last or last but one part may be a glob.
        keep: what is kept of the content; ``None`` drops the file.
        limit: bytes that are read at most; a larger file counts as unreadable.
        slow: the firmware or a driver answers, so that a helper process with a deadline asks.
        most: how many files are read at most, in order of name.
        must: whether it matters that it cannot be read.
    """

    pattern: str
    keep: Keep = bytes
    limit: int = 65536
    slow: bool = False
    most: int = 256
    must: bool = True


def lines_that(pattern: bytes, *, first: bool = False) -> Keep:
    """Keep the lines that begin with a pattern, or only the first of each kind."""
    wanted = re.compile(pattern)

    def keep(content: bytes) -> bytes | None:
        found: dict[bytes, bytes] = {}
        for number, line in enumerate(content.splitlines()):
            if match := wanted.match(line):
                found.setdefault(match[0] if first else b"%d" % number, line.rstrip())
        return b"".join(line + b"\n" for line in found.values()) or None

    return keep


def keep_nothing(_content: bytes) -> bytes:
    """Only that the file is there matters."""
    return b""


_BUILDER = re.compile(rb"\([^()\s]*@[^()\s]*\)")


def keep_nvidia(content: bytes) -> bytes | None:
    """Of the version of NVIDIA's driver all but who has built it: ``(root@this-host)``, often."""
    kept = lines_that(rb"NVRM version:")(content)
    return None if kept is None else re.sub(rb"\s+\n", b"\n", _BUILDER.sub(b"", kept))


_CPU_FLAGS = (b"hypervisor", b"svm", b"vmx")


def keep_cpu(content: bytes) -> bytes | None:
    """Of ``proc/cpuinfo``: who made the first processor, and its flags on virtualisation."""
    kept = lines_that(rb"(?:vendor_id|CPU implementer|flags)\s*:", first=True)(content) or b""
    lines = []
    for line in kept.splitlines():
        name, _, value = line.partition(b":")
        if name.strip() == b"flags":
            value = b" " + b" ".join(flag for flag in value.split() if flag in _CPU_FLAGS)
        lines.append(name.rstrip() + b"\t:" + value.rstrip())
    return b"".join(line + b"\n" for line in lines) or None


CHIPS: Final = (b"IR-PCI-MSI", b"IR-IO-APIC", b"PCI-MSI", b"IO-APIC")
"""How the chips of interrupts are called on x86, those first that tell most. ``IR-`` stands before
the name where interrupts are remapped, by Intel's IOMMU and by AMD's (``dmar_msi_parent_ops`` in
``drivers/iommu/intel/irq_remapping.c``, ``amdvi_msi_parent_ops`` in ``drivers/iommu/amd/iommu.c``;
before 6.2 ``pci_msi_ir_controller`` in ``arch/x86/kernel/apic/msi.c``): of all devices or none."""
_CHIP = re.compile(rb"(?:^|\s)((?:IR-)?(?:PCI-MSI|IO-APIC))")
_OWN = b"AMD-Vi"


def keep_interrupts(content: bytes) -> bytes | None:
    """Of ``proc/interrupts``, or of one interrupt, the name of the chip that tells most.

    AMD's IOMMU is a PCI device with an interrupt of its own, which is not remapped where all others
    are (``iommu_setup_msi`` in ``drivers/iommu/amd/init.c``): that one tells nothing.
    """
    lines = (line for line in content.splitlines() if _OWN not in line)
    found = {match[1] for line in lines if (match := _CHIP.search(line))}
    return next((chip + b"\n" for chip in CHIPS if chip in found), None)


_FRAMEBUFFER = re.compile(
    rb": (?:BOOTFB|efifb|vesafb|simplefb|simple-framebuffer|simpledrm)", re.IGNORECASE
)


def keep_framebuffer(content: bytes) -> bytes | None:
    """Of ``proc/iomem``: the firmware's framebuffers, and the regions that they lie in."""
    lines = content.splitlines()
    kept = set[int]()
    above: list[tuple[int, int]] = []
    for number, line in enumerate(lines):
        depth = len(line) - len(line.lstrip(b" "))
        above = [(its, each) for its, each in above if its < depth]
        if _FRAMEBUFFER.search(line):
            kept |= {each for _, each in above} | {number}
        above.append((depth, number))
    return b"".join(lines[number].rstrip() + b"\n" for number in sorted(kept)) or None


_MODULES = rb"(?:vfio[\w-]*|iommufd|nvidia[\w-]*|nouveau|pci[-_]stub)"
_MODPROBE = re.compile(rb"\s*(options|blacklist|install|softdep)\s+(" + _MODULES + rb")\b([^\n#]*)")
_SETTING = re.compile(
    rb"\b(?:ids|disable_\w+|enable_\w+|allow_\w+|nointxmask|dma_entry_limit|modeset|pre:|post:)"
    rb"(?:=[\w:,*-]+)?"
)


def keep_modprobe(content: bytes) -> bytes | None:
    """Of ``modprobe.d``: what is said of VFIO and of graphics drivers, without commands."""
    lines = []
    for line in content.splitlines():
        if match := _MODPROBE.match(line):
            words = _SETTING.findall(match[3]) if match[1] == b"options" else []
            lines.append(b" ".join([match[1], match[2], *words]) + b"\n")
    return b"".join(lines) or None


def keep_manager(content: bytes) -> bytes | None:
    """Of a process's ``comm``: the name of a program of :data:`MANAGERS`; others are dropped."""
    name = content.strip()
    return name + b"\n" if name.decode("utf-8", "replace") in MANAGERS else None


def keep_first_domain(content: bytes) -> bytes | None:
    """Of the UUID of a Xen domain, only that of the first one: zeros."""
    return content if not content.strip(b"0-\n") else None


def keep_word(content: bytes) -> bytes | None:
    """Of a file of driverctl: its first word, the name of a driver."""
    words = content.split(maxsplit=1)
    return words[0] + b"\n" if words else None


def keep_mention(content: bytes) -> bytes | None:
    """Of udev's rules: only that they speak of VFIO or of driver overrides."""
    text = b"\n".join(line for line in content.splitlines() if not line.lstrip().startswith(b"#"))
    found = [word for word in (b"driver_override", b"vfio") if word in text.lower()]
    return b" ".join(found) + b"\n" if found else None


COMMON: Final[tuple[Source, ...]] = (
    Source("proc/cpuinfo", keep_cpu, limit=8 << 20),
    Source("sys/class/dmi/id/sys_vendor"),
    Source("sys/hypervisor/type"),
    Source("sys/hypervisor/uuid", keep_first_domain),
    Source("sys/module/vfio/parameters/enable_unsafe_noiommu_mode"),
    Source("sys/module/vfio_iommu_type1/parameters/*"),
    Source("sys/module/iommufd/parameters/*"),
    Source("sys/module/vfio_pci/parameters/*"),
    Source("sys/module/nvidia_drm/parameters/modeset"),
    Source("proc/sys/kernel/tainted"),
    Source("sys/kernel/security/lockdown"),
    Source(SECURE_BOOT, slow=True),
    Source("proc/self/limits", lines_that(rb"Max locked memory")),
    Source("proc/self/status", lines_that(rb"CapEff:")),
    Source("proc/meminfo", lines_that(rb"(?:HugePages_(?:Total|Free|Rsvd)|Hugepagesize):")),
    *(Source(f"{HUGEPAGES}/*/{kind}_hugepages") for kind in ("nr", "free", "resv")),
    Source("proc/sys/vm/overcommit_memory"),
    Source("proc/fb"),
    Source("proc/iomem", keep_framebuffer, limit=4 << 20),
    Source("proc/driver/nvidia/version", keep_nvidia),
    Source(f"{DRIVERCTL}/pci-*", keep_word, limit=4096),
    *(Source(f"{directory}/*.conf", keep_modprobe) for directory in MODPROBE),
    Source(f"{UDEV_RULES}/*.rules", keep_mention),
    Source(f"{MDEVCTL}/*/*", keep_nothing),
    Source(f"{LIBVIRT_HOOKS}/*", keep_nothing),
    *(Source(f"{LIBVIRT_HOOKS}/{kind}.d/*", keep_nothing) for kind in ("daemon", "qemu")),
    # A process may end while it is looked at, and on many hosts others are hidden.
    Source("proc/[0-9]*/comm", keep_manager, limit=4096, most=1 << 17, must=False),
)
"""What is read of every host, and stands in a recording."""

FIRST_KERNEL_THREAD: Final = "proc/2/comm"
"""Says ``kthreadd`` where all processes can be seen."""

MORE: Final[tuple[Source, ...]] = (
    Source("proc/cmdline"),  # a recording has it, masked
    Source(FIRST_KERNEL_THREAD, must=False),
)
"""What is read besides."""

EXPECTED: Final[tuple[str, ...]] = (
    "proc/cmdline",
    "proc/cpuinfo",
    "proc/meminfo",
    ACPI_TABLES,
    "sys/module",
)
"""What every running PC has; a copy may lack it."""

LISTED: Final[tuple[str, ...]] = (ACPI_TABLES, IOMMUS, "sys/module", "dev/vfio", "dev")
"""The directories that are looked into."""

KEPT_NAMES: Final[dict[str, Callable[[Iterable[str]], tuple[str, ...]]]] = {
    ACPI_TABLES: lambda names: tuple(n for n in sorted(names) if n in IOMMU_TABLES),
    IOMMUS: lambda names: tuple(sorted(names)),
}
"""The directories that a recording carries, and which names of them."""
