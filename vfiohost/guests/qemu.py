"""The arguments of QEMU that give its guest devices. Pure.

The options are those of ``hw/vfio/pci.c``: ``host`` for a PCI function, ``sysfsdev`` for a mediated
device, and for a function in a PCI domain that ``host`` has no place for, such as Intel VMD's.
"""

from __future__ import annotations

from shlex import quote
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vfiohost.guests.ready import Ready
    from vfiohost.model import PciAddress

_MAX_DOMAIN = 0xFFFF


def qemu_arguments(ready: Ready) -> str:
    """Make a ``-device`` for each device, one on each line, quoted for a shell.

    Args:
        ready: what the guest is to be given.
    """
    values = [f"vfio-pci,{_where(device.address)}" for device in ready.devices]
    values += [
        f"{ready.api(mdev)},sysfsdev={_option(f'/sys/bus/mdev/devices/{mdev.uuid}')}"
        for mdev in ready.mdevs
    ]
    return "".join(f"-device {quote(value)}\n" for value in values)


def _where(address: PciAddress) -> str:
    # hw/core/qdev-properties-system.c:set_pci_host_devaddr takes domains of 16 bits alone.
    if address.domain <= _MAX_DOMAIN:
        return f"host={address}"
    return f"sysfsdev=/sys/bus/pci/devices/{address}"


def _option(text: str) -> str:
    """A text as the value of an option, where a comma is written twice (``util/keyval.c``)."""
    return text.replace(",", ",,")
