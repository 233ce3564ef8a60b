"""The elements of a libvirt domain that give it devices. Pure.

The form is that of libvirt's documentation, ``formatdomain.html#host-device-assignment``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vfiohost.guests.ready import Ready
    from vfiohost.model import MediatedDevice, PciDevice


def libvirt_xml(ready: Ready) -> str:
    """Make a ``<hostdev>`` for each device, to stand below ``<devices>``.

    They are not ``managed``: libvirt leaves the driver as it is, also when the guest ends. A vGPU
    without a mediated device must stay on NVIDIA's driver.

    Args:
        ready: what the guest is to be given.
    """
    lines = [line for device in ready.devices for line in _pci(device)]
    lines += [line for mdev in ready.mdevs for line in _mdev(mdev, ready.api(mdev))]
    return "".join(f"{line}\n" for line in lines)


def _pci(device: PciDevice) -> Iterator[str]:
    at = device.address
    yield f"<!-- {at} {device.ids}, IOMMU group {device.iommu_group} -->"
    yield "<hostdev mode='subsystem' type='pci' managed='no'>"
    yield "  <source>"
    yield (
        f"    <address domain='0x{at.domain:04x}' bus='0x{at.bus:02x}' slot='0x{at.device:02x}' "
        f"function='0x{at.function:x}'/>"
    )
    yield "  </source>"
    yield "</hostdev>"


def _mdev(mdev: MediatedDevice, api: str) -> Iterator[str]:
    name = mdev.type_name if isinstance(mdev.type_name, str) else mdev.type_id
    yield f"<!-- {_comment(f'{name} on {mdev.parent}')} -->"
    yield f"<hostdev mode='subsystem' type='mdev' managed='no' model='{api}'>"
    yield "  <source>"
    yield f"    <address uuid={_attribute(mdev.uuid)}/>"
    yield "  </source>"
    yield "</hostdev>"


def _comment(text: str) -> str:
    """What of a text can stand in a comment: two hyphens would end it."""
    letters = "".join(c if c.isprintable() else "?" for c in text).replace("--", "-?")
    return letters.removesuffix("-")


def _attribute(text: str) -> str:
    """A text as an attribute's value; what XML has no letter for becomes a question mark."""
    letters = "".join(c if c.isprintable() else "?" for c in text)
    for letter, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("'", "&apos;")):
        letters = letters.replace(letter, entity)
    return f"'{letters}'"
