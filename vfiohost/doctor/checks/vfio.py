"""VFIO: its modules, their options, and interrupts."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from vfiohost.doctor.checks.iommu import cpu_vendor, is_guest
from vfiohost.doctor.facts import is_on, number
from vfiohost.doctor.findings import Evidence, Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vfiohost.doctor.facts import HostFacts

_DRIVER = "sys/bus/pci/drivers/vfio-pci"
_TAINT_USER = 1 << 6
_USUAL_LIMIT = 65535  # drivers/vfio/vfio_iommu_type1.c: U16_MAX
# As cpu_vendor gives it, without the spaces that arch/x86/kernel/cpu/zhaoxin.c has.
_X86 = ("GenuineIntel", "AuthenticAMD", "HygonGenuine", "CentaurHauls", "Shanghai")
_CHIP = re.compile(r"sys/kernel/irq/\d+/chip_name|proc/interrupts")
_UNSAFE = "allow_unsafe_interrupts"
_IOMMU_MODULES = ("vfio_iommu_type1", "iommufd")


def check_modules(facts: HostFacts) -> Iterator[Finding]:
    """Is vfio-pci there, or can it be."""
    iommufd = "iommu" in (facts.listed("dev") or ())
    node = Evidence("dev/iommu", "is there" if iommufd else "is not there")
    release = facts.snapshot.kernel
    index = f"lib/modules/{release}" if release else "lib/modules"
    if "vfio-pci" in facts.snapshot.drivers:
        kind = "VFIO groups and iommufd" if iommufd else "VFIO groups alone, no iommufd"
        yield Finding(
            "vfio-ready",
            "ok",
            "vfio-pci",
            (Evidence(_DRIVER, "is there"), node),
            f"The driver vfio-pci is there ({kind}).",
        )
    elif facts.loadable is None or not (facts.is_live or facts.loadable.get("vfio_pci")):
        # A recording has few of a host's modules.
        yield Finding(
            "vfio-unknown",
            "info",
            "vfio-pci",
            (Evidence(_DRIVER, "is not there"), Evidence(index, f"has {_what(facts)}")),
            "vfio-pci is not loaded, and nothing tells whether this kernel has it: there is no "
            "whole list of its modules.",
            "modprobe vfio-pci tells. Without any modules, the kernel needs CONFIG_VFIO_PCI=y.",
        )
    elif facts.loadable.get("vfio_pci"):
        yield Finding(
            "vfio-not-loaded",
            "info",
            "vfio-pci",
            (Evidence(_DRIVER, "is not there"), Evidence(index, "has vfio_pci")),
            "vfio-pci is not loaded yet. `vfiohost bind` loads it.",
        )
    else:
        yield Finding(
            "vfio-missing",
            "bad",
            "vfio-pci",
            (Evidence(_DRIVER, "is not there"), Evidence(index, "has no vfio_pci")),
            f"The kernel {release} has no vfio-pci, neither built in nor as a module: no device "
            "can be given to a guest.",
            "Install the rest of the kernel's modules (Ubuntu: linux-modules-extra), or a kernel "
            "with CONFIG_VFIO_PCI. Debian's cloud kernels leave it out. After a kernel update, "
            "boot the new kernel first.",
        )


def _what(facts: HostFacts) -> str:
    return "no index of modules" if facts.loadable is None else "a part of the modules"


def check_interrupts(facts: HostFacts) -> Iterator[Finding]:
    """Are interrupts remapped, or was VFIO told to do without. On Arm that is no question."""
    chips = [path for path in facts.files if _CHIP.fullmatch(path) and facts.text(path)]
    remapped = any((facts.text(chip) or "").startswith("IR-") for chip in chips)
    yield from _unsafe(facts, chips, remapped=remapped)
    if not facts.groups or cpu_vendor(facts) not in _X86:
        return
    if remapped:
        yield Finding(
            "interrupt-remapping",
            "ok",
            "host",
            tuple(map(facts.saw, chips)),
            "Interrupts of PCI devices are remapped.",
        )
    elif not chips:
        yield Finding(
            "interrupts-unknown",
            "info",
            "host",
            (facts.saw("sys/kernel/irq"), facts.saw("proc/interrupts")),
            "No interrupt of a PCI device shows, so it is not known whether interrupts are "
            "remapped; VFIO refuses to give devices away where they are not.",
            "The kernel's log says it: dmesg | grep -iE 'interrupt.remapping|DMAR-IR'.",
        )
    elif not _is_unsafe(facts):
        yield Finding(
            "no-interrupt-remapping",
            "bad",
            "host",
            (*map(facts.saw, chips), facts.saw_words("intremap", "nointremap")),
            "Interrupts of PCI devices are not remapped, so VFIO refuses to give devices away: a "
            "guest could send the host any interrupt (EPERM from VFIO_SET_IOMMU).",
            f"{_how_to_remap(facts)} Where the hardware cannot, "
            "vfio_iommu_type1.allow_unsafe_interrupts=1 is for guests that you trust.",
        )


def _is_unsafe(facts: HostFacts) -> bool:
    return any(is_on(facts.parameter(module, _UNSAFE)[1]) for module in _IOMMU_MODULES)


def _unsafe(facts: HostFacts, chips: list[str], *, remapped: bool) -> Iterator[Finding]:
    """The option matters only while interrupts are not remapped (``iommu_group_has_isolated_msi``).

    VFIO's groups and iommufd each have one.
    """
    for module in _IOMMU_MODULES:
        path, value = facts.parameter(module, _UNSAFE)
        if not is_on(value):
            continue
        yield Finding(
            "unsafe-interrupts",
            "info" if remapped else "warning",
            module,
            (facts.saw(path), *map(facts.saw, chips)),
            f"{module} takes devices even where interrupts are not checked ({_UNSAFE}=Y). Now they "
            "are, so that the option does nothing."
            if remapped
            else f"{module} takes devices although their interrupts may not be checked: a guest "
            f"can send the host any interrupt ({_UNSAFE}=Y).",
            "Take the option off the command line and out of /etc/modprobe.d."
            if remapped
            else f"{_how_to_remap(facts)} Then take the option away. Until then give devices only "
            "to guests that you trust.",
        )


def _how_to_remap(facts: HostFacts) -> str:
    """What makes interrupts safe, by the processor's maker and by what the command line says."""
    off = [f"intremap={word}" for word in facts.options("intremap") if word == "off"]
    off += [name for name, _ in facts.words if name == "nointremap"]
    if off:
        return f"Take {' and '.join(off)} off the kernel's command line and boot again."
    if is_guest(facts):
        return (
            "This host is a virtual machine: give its virtual IOMMU interrupt remapping (QEMU "
            "intel-iommu,intremap=on or amd-iommu,intremap=on, with -machine kernel-irqchip=split)."
        )
    vendor = cpu_vendor(facts)
    if vendor == "GenuineIntel":
        return (
            "Switch interrupt remapping on in the firmware's setup (with VT-d, and x2APIC where "
            "that can be chosen)."
        )
    if vendor in _X86:
        return (
            "On AMD the kernel takes what the firmware's table IVRS says of IO-APICs: dmesg | grep "
            "AMD-Vi tells what it lacks. A firmware update helps, or ivrs_ioapic= on the command "
            "line."
        )
    return "On Arm an interrupt controller with an ITS keeps the interrupts of devices apart."


def check_options(facts: HostFacts) -> Iterator[Finding]:
    """VFIO's module parameters that change what guests get."""
    path, mode = facts.parameter("vfio", "enable_unsafe_noiommu_mode")
    if is_on(mode):
        tainted = number(facts.text("proc/sys/kernel/tainted")) or 0
        used = (
            " It may have been used: the kernel has the taint U." if tainted & _TAINT_USER else ""
        )
        yield Finding(
            "noiommu-mode",
            "warning",
            "vfio",
            (facts.saw(path), facts.saw("proc/sys/kernel/tainted")),
            "VFIO may hand devices out without an IOMMU: whoever has such a device can read and "
            f"write all memory of the host.{used} Virtual machines cannot use it.",
            "echo N > /sys/module/vfio/parameters/enable_unsafe_noiommu_mode, and take the option "
            "out of /etc/modprobe.d.",
        )
    path, limit = facts.parameter("vfio_iommu_type1", "dma_entry_limit")
    if (most := number(limit)) is not None and most < _USUAL_LIMIT:
        yield Finding(
            "vfio-limit",
            "warning",
            "vfio_iommu_type1",
            (facts.saw(path),),
            f"A guest may have {most} mappings, where {_USUAL_LIMIT} are usual: a large one fails "
            "with ENOSPC.",
            f"echo {_USUAL_LIMIT} > /sys/module/vfio_iommu_type1/parameters/dma_entry_limit",
        )
    path, sriov = facts.parameter("vfio_pci", "enable_sriov")
    if is_on(sriov):
        yield Finding(
            "vfio-sriov",
            "info",
            "vfio_pci",
            (facts.saw(path),),
            "A physical function on vfio-pci can make virtual functions (enable_sriov=Y). They go "
            "to vfio-pci by themselves, and who opens one must know the token of the physical "
            "function's user.",
        )
