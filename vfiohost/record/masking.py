"""Serial numbers are masked before a configuration space gets into a recording. Pure.

Others stand in files that are never read (``vpd``, ``net/*/address``, ``serial_number``).
"""

from __future__ import annotations

from vfiohost.config_space import decode

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
