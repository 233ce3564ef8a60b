"""What identifies a machine is masked before it gets into a recording. Pure.

Serial numbers and MAC addresses stand in files that are never read (``vpd``, ``net/*/address``,
``serial_number``). Two that are read hold such things too: the kernel's command line, and the
configuration space.
"""

from __future__ import annotations

import re

from vfiohost.config_space import decode

MASK = b"MASKED"
"""What stands on the command line for what was there."""

# ---- the command line --------------------------------------------------------------------------

# Quotes keep spaces together, as in next_arg() of the kernel's lib/cmdline.c.
_WORD = re.compile(rb'(?:"[^"\n]*"?|[^\s"])+')
_NAME = re.compile(rb"[A-Za-z][\w.-]*")

# What tells how a host treats its devices, with dashes as underscores; and words that say nothing.
_KEPT = re.compile(
    rb"(?:(?:intel_|amd_)?iommu(?:[._]\w+)?|iommufd\.\w+|intremap|swiotlb|lockdown|efi"
    rb"|pci|pcie_\w+|pciehp\.\w+|pci_stub\.\w+|vfio\w*\.\w+|mdev\.\w+|kvm\w*\.\w+"
    rb"|(?:nvidia\w*|nouveau|amdgpu|radeon|i915|xe|ast|mgag200|snd_hda_intel|xhci_\w+|nvme)\.\w+"
    rb"|module_blacklist|modprobe\.blacklist|rd\.driver\.\w+|initcall_blacklist|nomodule"
    rb"|nomodeset|video|vga|hugepages|hugepagesz|default_hugepagesz"
    rb"|quiet|splash|ro|rw|nosmt|mitigations)"
)
# A UUID, a MAC address or an IPv4 address, also as a parameter of a driver that is kept.
_IDENTITY = re.compile(
    rb"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|(?:\b[0-9a-f]{2}[:-]){5}[0-9a-f]{2}\b"
    rb"|(?:\b[0-9]{1,3}\.){3}[0-9]{1,3}\b",
    re.IGNORECASE,
)


def mask_cmdline(line: bytes) -> bytes:
    """Mask a kernel's command line (``proc/cmdline``).

    Parameters that tell how the kernel treats devices stay: those of the IOMMU, of PCI, VFIO and
    graphics drivers, and lists of what not to load. Of every other only the name stays. What comes
    after ``--`` is for init and goes.

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
    name, equals, _ = word.partition(b"=")
    if _KEPT.fullmatch(name.replace(b"-", b"_")) and not _IDENTITY.search(word):
        return word
    is_name = equals and _NAME.fullmatch(name) and not _IDENTITY.search(name)
    return name + b"=" + MASK if is_name else MASK


# ---- the configuration space -------------------------------------------------------------------

# Where the fields are in their capabilities (include/uapi/linux/pci_regs.h).
_VPD_DATA = slice(4, 8)
_DSN_SERIAL = slice(4, 12)


def mask_config(config: bytes) -> bytes:
    """Zero the serial numbers in a configuration space.

    These are the one in each Device Serial Number capability (the MAC address of many NICs), and
    the four bytes of vital product data that were read last and still stand in their register.
    What a vendor keeps in registers of its own cannot be known, and stays.

    Args:
        config: 64 bytes (what an ordinary user may read), 256 or 4096, or anything else: a chain of
            capabilities may be broken, lead outside or round in circles.

    Returns:
        The masked bytes, as many.
    """
    masked = bytearray(config)
    for capability in decode(config).capabilities:
        if capability.is_vpd:
            _zero(masked, capability.offset, _VPD_DATA)
        elif capability.is_serial:
            _zero(masked, capability.offset, _DSN_SERIAL)
    return bytes(masked)


def _zero(config: bytearray, offset: int, field: slice) -> None:
    """Zero a field of a capability as far as the configuration space goes."""
    start, stop = (min(offset + edge, len(config)) for edge in (field.start, field.stop))
    config[start:stop] = bytes(stop - start)
