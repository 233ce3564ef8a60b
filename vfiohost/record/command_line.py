"""What stays of the kernel's command line in a recording. Pure.

Whoever runs a host can write anything there: names, addresses, passwords, and drivers' parameters
with serial numbers in them. So only those settings stay that are listed here, as far as they look
as such a setting does; nothing stays because nobody thought of it.
"""

from __future__ import annotations

import re
from typing import Final

MASK: Final = b"MASKED"
"""What stands on the command line for what was there."""

# Quotes keep spaces together, as in next_arg() of the kernel's lib/cmdline.c.
_WORD = re.compile(rb'(?:"[^"\n]*"?|[^\s"])+')
_NAME = re.compile(rb"[A-Za-z][\w.-]*")

_SWITCH = rb"[01YyNn]|on|off"
_NUMBER = rb"-?[0-9]{1,10}|0x[0-9a-fA-F]{1,8}"
_WORDS = rb"[a-z0-9_]{1,40}(?:,[a-z0-9_]{1,40}){0,9}"
_SIZE = rb"[0-9]{1,6}[KkMmGg]?"
_IDS = rb"[0-9a-fA-F]{4}(?::[0-9a-fA-F]{1,8}){1,5}"  # id_table of vfio_pci_fill_ids
_MODULES = rb"[A-Za-z0-9_-]{1,64}"
_PCI = rb"[a-z0-9_-]{1,40}(?:=(?:on|off|pci:|[0-9a-fA-FxKMG:.@;/]){1,200})?"


def _list_of(item: bytes) -> bytes:
    return rb"(?:%b)(?:,(?:%b))*" % (item, item)


# Documentation/admin-guide/kernel-parameters.txt, and the parameters of the drivers; dashes as
# underscores. A name without a value is as good as one with it.
_SETTINGS: Final[tuple[tuple[str, bytes], ...]] = (
    ("iommu intel_iommu amd_iommu amd_iommu_intr intremap", _WORDS),
    ("iommu.passthrough iommu.strict iommu.forcedac", _SWITCH),
    ("swiotlb", rb"(?:[0-9]{1,9},?){1,2}(?:force|noforce)?|force|noforce"),
    ("lockdown mitigations efi", _WORDS),
    ("pci", _list_of(_PCI)),
    ("pcie_acs_override", _list_of(rb"downstream|multifunction|id:[0-9a-f]{4}:[0-9a-f]{4}")),
    ("pcie_aspm pcie_aspm.policy pcie_ports pcie_port_pm", _WORDS),
    ("vfio_pci.ids pci_stub.ids", _list_of(_IDS)),
    ("vfio.enable_unsafe_noiommu_mode", _SWITCH),
    ("vfio_iommu_type1.allow_unsafe_interrupts iommufd.allow_unsafe_interrupts", _SWITCH),
    ("vfio_iommu_type1.disable_hugepages", _SWITCH),
    ("vfio_iommu_type1.dma_entry_limit", _NUMBER),
    ("vfio_pci.disable_vga vfio_pci.disable_idle_d3 vfio_pci.nointxmask", _SWITCH),
    ("vfio_pci.enable_sriov vfio_pci.disable_denylist", _SWITCH),
    ("kvm.ignore_msrs kvm.report_ignored_msrs kvm_intel.nested kvm_amd.nested", _SWITCH),
    ("kvm_intel.ept kvm_intel.enable_apicv kvm_amd.npt kvm_amd.avic", _SWITCH),
    ("nouveau.modeset nvidia_drm.modeset nvidia_drm.fbdev amdgpu.modeset", _NUMBER),
    ("radeon.modeset i915.modeset ast.modeset mgag200.modeset xe.modeset", _NUMBER),
    ("i915.enable_gvt i915.enable_guc i915.max_vfs xe.max_vfs", _NUMBER),
    ("module_blacklist modprobe.blacklist initcall_blacklist", _list_of(_MODULES)),
    ("rd.driver.blacklist rd.driver.pre rd.driver.post", _list_of(_MODULES)),
    ("video", _list_of(rb"(?:efifb|vesafb|simplefb|offb):off")),
    ("vga", rb"normal|ext|ask|%b" % _NUMBER),
    ("hugepages", _list_of(rb"[0-9]{1,4}:[0-9]{1,9}|[0-9]{1,9}")),
    ("hugepagesz default_hugepagesz", _SIZE),
    ("nosmt", rb"force"),
    ("quiet splash ro rw nointremap nomodeset nomodule", rb""),
)
_KEPT = {
    name.encode(): re.compile(rb"(?:=(?:%b))?" % value)
    for names, value in _SETTINGS
    for name in names.split()
}
# A UUID, a MAC address or an IPv4 address, whatever setting it is written as.
_IDENTITY = re.compile(
    rb"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|(?:\b[0-9a-f]{2}[:-]){5}[0-9a-f]{2}\b"
    rb"|(?:\b[0-9]{1,3}\.){3}[0-9]{1,3}\b",
    re.IGNORECASE,
)


def mask_cmdline(line: bytes) -> bytes:
    """Mask a kernel's command line (``proc/cmdline``).

    The settings stay that tell how the kernel treats devices, and that `vfiohost doctor` looks at:
    those of the IOMMU, of PCI and of VFIO, huge pages, what not to load, and few more. Of every
    other only the name stays, of a word without a value nothing. What comes after ``--`` is for
    init and goes.

    Args:
        line: the line as it is read.

    Returns:
        The masked line. To mask it again changes nothing.
    """
    kernel, dashes, init = line.partition(b" -- ")
    end = b"\n" if dashes and line.endswith(b"\n") else b""
    masked = _WORD.sub(lambda match: _mask_word(match[0]), kernel)
    return masked + dashes + (MASK if init.strip() else b"") + end


def _mask_word(word: bytes) -> bytes:
    name, equals, value = word.partition(b"=")
    if _IDENTITY.search(word) is None and _is_kept(name, equals + value):
        return word
    is_name = equals and _NAME.fullmatch(name) and not _IDENTITY.search(name)
    return name + b"=" + MASK if is_name else MASK


def _is_kept(name: bytes, setting: bytes) -> bool:
    known = _KEPT.get(name.replace(b"-", b"_"))
    return known is not None and known.fullmatch(setting.replace(b'"', b"")) is not None
