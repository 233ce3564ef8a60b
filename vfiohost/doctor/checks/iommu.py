"""The IOMMU: what the firmware offers, what the kernel was told, what came of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vfiohost.doctor.facts import CMDLINE, GROUPS, HostFacts, counted, joined
from vfiohost.doctor.findings import Evidence, Finding
from vfiohost.doctor.sources import ACPI_TABLES, IOMMU_TABLES, IOMMUS
from vfiohost.model import Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vfiohost.model import PciDevice

_CPUINFO = "proc/cpuinfo"
_VENDOR = "sys/class/dmi/id/sys_vendor"
_XEN, _XEN_UUID = "sys/hypervisor/type", "sys/hypervisor/uuid"
# What stands in front of nothing itself: AMD's IOMMUs (class 0806), and virtio's.
_IOMMU_CLASS, _VIRTIO_IOMMU = 0x0806, "1af4:1057"
_INTEL, _AMD = "GenuineIntel", "AuthenticAMD"
_OFF = "off"
# What parse_amd_iommu_options() in drivers/iommu/amd/init.c does not know, yet many guides advise.
_UNKNOWN_TO_AMD = "on"


def check_iommu(facts: HostFacts) -> Iterator[Finding]:
    """Is the IOMMU on; if not, who has to switch it on."""
    if not facts.groups:
        yield _without_groups(facts)
        return
    # A group that could not be read is an Unavailable, and counts for neither.
    outside = [d for d in facts.snapshot.devices if d.iommu_group is None and _has_dma(d)]
    unread = [d for d in facts.snapshot.devices if isinstance(d.iommu_group, Unavailable)]
    how_many = Evidence(GROUPS, counted(len(facts.groups), "group"))
    if outside:
        yield Finding(
            "outside-iommu",
            "warning" if set(outside) & set(facts.devices) else "info",
            joined((d.address for d in outside), 4),
            (how_many, *(Evidence(f"{d.path}/iommu_group", "is not there") for d in outside[:4])),
            f"{joined(d.address for d in outside)}: no IOMMU group, though others have one: no "
            "IOMMU stands in front, so that none of this can be given to a guest.",
            "Put the card into a slot behind another host bridge. On a virtual machine: leave "
            "bypass_iommu=on off that bridge. A firmware that leaves a bridge out of its DMAR or "
            "IVRS table needs an update.",
        )
    else:
        yield Finding(
            "iommu-on",
            "ok",
            "host",
            (how_many, facts.saw(IOMMUS)),
            f"The IOMMU is on. The group of {counted(len(unread), 'function')} could not be read."
            if unread
            else "The IOMMU is on, and every function but bridges and IOMMUs is in a group.",
        )


def check_guest(facts: HostFacts) -> Iterator[Finding]:
    """Is the host itself a virtual machine."""
    if is_guest(facts) and facts.groups:
        yield Finding(
            "guest",
            "info",
            "host",
            _saw_guest(facts),
            "This host is a virtual machine with a virtual IOMMU. Its guests are nested: what they "
            "are given is what this machine was given, and resets and interrupts go through two "
            "hypervisors.",
        )


def check_command_line(facts: HostFacts) -> Iterator[Finding]:
    """Words on the command line that do nothing, or what nobody should want."""
    if _UNKNOWN_TO_AMD in facts.options("amd_iommu"):
        yield Finding(
            "cmdline-unknown-word",
            "info",
            "amd_iommu=on",
            (facts.saw_words("amd_iommu"),),
            "The kernel does not know amd_iommu=on: an AMD IOMMU is on by itself where the "
            "firmware offers it.",
            "Leave it out; it does no harm.",
        )
    if any(name == "pcie_acs_override" for name, _ in facts.words):
        yield Finding(
            "acs-override",
            "warning",
            "pcie_acs_override",
            (facts.saw_words("pcie_acs_override"),),
            "A patched kernel is told to believe in an isolation (ACS) that the hardware does not "
            "promise: devices in separate groups may still reach each other's memory, past the "
            "IOMMU.",
            "Give only guests that trust each other devices of such groups, or leave the option "
            "out and give whole groups away.",
        )


def is_guest(facts: HostFacts) -> bool:
    """Whether the host is a virtual machine, as far as it shows."""
    return _has_hypervisor_flag(facts) or facts.text(_VENDOR) == "QEMU"


def is_arm(facts: HostFacts) -> bool:
    """Whether the host's processors are Arm's (``c_show`` in ``arch/arm64/kernel/cpuinfo.c``)."""
    return any(line.startswith("CPU implementer") for line in facts.lines(_CPUINFO))


def cpu_vendor(facts: HostFacts) -> str | None:
    """``GenuineIntel``, ``AuthenticAMD`` or another; ``None``: not known."""
    for line in facts.lines(_CPUINFO):
        name, _, value = line.partition(":")
        if name.strip() == "vendor_id":
            return value.strip()
    return None


def _has_dma(device: PciDevice) -> bool:
    is_iommu = device.class_code >> 8 == _IOMMU_CLASS or device.ids == _VIRTIO_IOMMU
    return not (device.is_bridge or is_iommu)


def _has_hypervisor_flag(facts: HostFacts) -> bool:
    return any("hypervisor" in line.split() for line in facts.lines(_CPUINFO))


def _saw_guest(facts: HostFacts) -> tuple[Evidence, ...]:
    flag = "has the flag hypervisor" if _has_hypervisor_flag(facts) else None
    cpu = facts.saw(_CPUINFO, flag)
    return (cpu, *(facts.saw(path) for path in (_VENDOR, _XEN) if path in facts.files))


# ---- no groups: why ----------------------------------------------------------------------------


def _without_groups(facts: HostFacts) -> Finding:
    saw = (Evidence(GROUPS, "no group with a PCI function"),)
    unread = [d for d in facts.snapshot.devices if isinstance(d.iommu_group, Unavailable)]
    bare_copy = not facts.is_live and facts.text(CMDLINE) is None
    if unread or bare_copy:
        return Finding(
            "iommu-unknown",
            "info",
            "host",
            (*saw, facts.saw(CMDLINE)),
            "What was read does not tell whether this host has an IOMMU.",
            "Look at the host itself; a copy of its files lacks what is needed.",
        )
    tables = facts.listed(ACPI_TABLES)
    found = [name for name in tables or () if name in IOMMU_TABLES]
    off = _switched_off(facts, found)
    if facts.text(_XEN) == "xen" and facts.text(_XEN_UUID):
        return _on_xen(facts, saw)
    if off:
        return _disabled(facts, off, saw)
    if is_guest(facts) and not {"DMAR", "IVRS", "VIOT"} & set(found):
        return _guest_without(facts, saw)
    return _arm_off(facts, saw) if is_arm(facts) else _unused(facts, found, saw)


def _unused(facts: HostFacts, found: list[str], saw: tuple[Evidence, ...]) -> Finding:
    """Nothing switches it off, and it is not on."""
    if found:
        return _kernel_off(facts, found, saw)
    if facts.listed(ACPI_TABLES) is not None:
        return Finding(
            "iommu-firmware-off",
            "bad",
            "host",
            (*saw, _saw_tables(facts), _saw_line(facts)),
            "The firmware describes no IOMMU to the kernel, so none is used, whatever the command "
            "line says. No device can be given to a guest.",
            "Switch it on in the firmware's setup (Intel: VT-d; AMD: IOMMU, or AMD-Vi, also "
            f"under NBIO; SVM or VT-x is another switch). {_advice(facts)}",
        )
    return Finding(
        "iommu-off",
        "bad",
        "host",
        (*saw, _saw_tables(facts), _saw_line(facts)),
        "No device is in an IOMMU group: the IOMMU is off, or there is none. No device can be "
        "given to a guest.",
        f"Switch it on in the firmware's setup (Intel VT-d, AMD-Vi). {_advice(facts)}",
    )


def _saw_line(facts: HostFacts) -> Evidence:
    return facts.saw_words("intel_iommu", "amd_iommu", "iommu")


def _saw_tables(facts: HostFacts) -> Evidence:
    tables = facts.listed(ACPI_TABLES)
    found = [name for name in tables or () if name in IOMMU_TABLES]
    none = f"none of {', '.join(IOMMU_TABLES)}"
    return facts.saw(ACPI_TABLES, None if tables is None else " ".join(found) or none)


def _switched_off(facts: HostFacts, tables: list[str]) -> list[str]:
    """The words of the command line that switch this host's IOMMU off.

    ``iommu=off`` is for x86 alone; of ``intel_iommu=`` the last word counts
    (``intel_iommu_setup`` in ``drivers/iommu/intel/iommu.c``).
    """
    names = [] if is_arm(facts) else ["iommu"]
    names += ["intel_iommu"] if "DMAR" in tables or "IVRS" not in tables else []
    names += ["amd_iommu"] if "IVRS" in tables or "DMAR" not in tables else []
    found = [name for name in names if _OFF in facts.options(name)]
    switches = [word for word in facts.options("intel_iommu") if word in ("on", _OFF)]
    return [f"{n}={_OFF}" for n in found if n != "intel_iommu" or switches[-1] == _OFF]


def _advice(facts: HostFacts) -> str:
    """What to add to the command line, by the processor's maker."""
    vendor = cpu_vendor(facts)
    if facts.options("intel_iommu").count("on"):
        return "The command line needs nothing more: it has intel_iommu=on."
    if vendor == _AMD:
        return "The command line needs nothing: an AMD IOMMU is then on by itself."
    grub = "(GRUB_CMDLINE_LINUX in /etc/default/grub, then update-grub), and boot again"
    if vendor == _INTEL:
        return f"Then add intel_iommu=on to the kernel's command line {grub}."
    return f"On Intel, add intel_iommu=on to the kernel's command line {grub}; AMD needs no word."


def _disabled(facts: HostFacts, off: list[str], saw: tuple[Evidence, ...]) -> Finding:
    return Finding(
        "iommu-disabled",
        "bad",
        "host",
        (*saw, _saw_line(facts)),
        f"The kernel's command line switches the IOMMU off ({' '.join(off)}). No device can be "
        "given to a guest.",
        f"Remove {' and '.join(off)} from the command line and boot again.",
    )


def _on_xen(facts: HostFacts, saw: tuple[Evidence, ...]) -> Finding:
    return Finding(
        "xen",
        "bad",
        "host",
        (*saw, facts.saw(_XEN), facts.saw(_XEN_UUID)),
        "This is the first domain of a Xen host: the IOMMU is Xen's, and VFIO has nothing to hand "
        "devices to guests with.",
        "Let Xen hand them over (xl pci-assignable-add), or boot Linux without Xen.",
    )


def _arm_off(facts: HostFacts, saw: tuple[Evidence, ...]) -> Finding:
    """An IORT tells little: a server has one for its interrupt controller alone, too."""
    return Finding(
        "iommu-off",
        "bad",
        "host",
        (*saw, _saw_tables(facts), facts.saw(IOMMUS)),
        "No device is in an IOMMU group: the firmware (its table IORT, or the device tree) "
        "describes no SMMU in front of PCI, or the kernel has no driver for it. No device can be "
        "given to a guest.",
        "Switch the SMMU on in the firmware's setup. The kernel needs CONFIG_ARM_SMMU_V3 (or "
        "CONFIG_ARM_SMMU), and no word on its command line; dmesg | grep -i smmu says more.",
    )


def _guest_without(facts: HostFacts, saw: tuple[Evidence, ...]) -> Finding:
    line = "Then boot it with intel_iommu=on on its command line, which a virtual VT-d needs"
    has = "on" in facts.options("intel_iommu")
    return Finding(
        "guest-without-viommu",
        "bad",
        "host",
        (*saw, *_saw_guest(facts), _saw_tables(facts), _saw_line(facts)),
        "This host is a virtual machine without a virtual IOMMU. Its devices cannot be given to "
        "guests inside it.",
        "Give the machine one: QEMU -machine virt,iommu=smmuv3; libvirt <iommu model='smmuv3'/>. "
        "In a cloud, take a bare-metal machine."
        if is_arm(facts)
        else "Give the machine one: QEMU -machine q35,kernel-irqchip=split -device "
        "intel-iommu,intremap=on,caching-mode=on; libvirt <iommu model='intel'/>. "
        f"{'Its command line is right (intel_iommu=on)' if has else line}. "
        "In a cloud, take a bare-metal machine.",
    )


def _kernel_off(facts: HostFacts, found: list[str], saw: tuple[Evidence, ...]) -> Finding:
    kind = " and ".join(f"{IOMMU_TABLES[name]} ({name})" for name in found)
    evidence = (*saw, facts.saw(ACPI_TABLES, " ".join(found)), _saw_line(facts))
    if "DMAR" in found and "on" not in facts.options("intel_iommu"):
        return Finding(
            "iommu-kernel-off",
            "bad",
            "host",
            evidence,
            f"The firmware offers an IOMMU, {kind}, and the kernel does not use it: nobody told it "
            "to. No device can be given to a guest.",
            "Add intel_iommu=on to the kernel's command line (GRUB_CMDLINE_LINUX in "
            "/etc/default/grub, then update-grub), and boot again.",
        )
    return Finding(
        "iommu-failed",
        "bad",
        "host",
        evidence,
        f"The firmware offers an IOMMU, {kind}, nothing on the command line is against it, and "
        "there are no groups: the kernel could not make use of it.",
        "The kernel's log says why: dmesg | grep -iE 'dmar|amd-vi|iommu|smmu'. A firmware update, "
        "or a kernel with that driver, is the usual cure.",
    )
