"""Functions in the words of ``lspci -nnk``, as pciutils 3.9.0 (Debian 12) prints them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vfiohost.render.table import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from vfiohost.lspci import LspciFacts
    from vfiohost.model import PciAddress, PciDevice
    from vfiohost.names import PciNames

_NO_CARD = (None, 0, 0xFFFF)
"""Subsystem vendors of which lspci says nothing (``lspci.c:show_terse``)."""


def lspci_text(
    devices: Iterable[PciDevice],
    facts: Mapping[PciAddress, LspciFacts],
    names: PciNames | None,
    *,
    domains: bool,
) -> str:
    r"""The text that ``lspci -nnk`` prints of functions, each line with its end.

    It is the same byte for byte, but that control characters read ``\x1b`` here, and that a
    ``label`` ends its line where lspci goes on if the kernel has not ended it.

    Args:
        devices: what to show, in this order.
        facts: of each of them.
        names: the names; ``None`` gives the text of ``lspci -nk``.
        domains: whether to show the PCI domain. lspci does when any function of the host, shown or
            not, is in one other than 0000.
    """
    lines = (
        line for device in devices for line in _block(device, facts[device.address], names, domains)
    )
    return "".join(f"{line}\n" for line in lines)


def _block(
    device: PciDevice,
    facts: LspciFacts,
    names: PciNames | None,
    domains: bool,  # noqa: FBT001
) -> Iterator[str]:
    address = str(device.address)
    slot = address if domains else address.partition(":")[2]
    revision = f" (rev {facts.revision:02x})" if facts.revision else ""
    yield f"{slot} {printable(_kind(device, names))}{revision}"
    if facts.label is not None:
        yield f"\tDeviceName: {printable(facts.label)}"
    if device.subsystem_vendor_id not in _NO_CARD:
        yield f"\tSubsystem: {printable(_card(device, names))}"
    if isinstance(device.driver, str):
        yield f"\tKernel driver in use: {printable(device.driver)}"
    if facts.modules:
        yield f"\tKernel modules: {printable(', '.join(facts.modules))}"


def _kind(device: PciDevice, names: PciNames | None) -> str:
    if names is None:
        return f"{device.class_code >> 8:04x}: {device.ids}"
    numbered = names.numbered_device(device.vendor_id, device.device_id)
    return f"{names.numbered_class(device.class_code)}: {numbered}"


def _card(device: PciDevice, names: PciNames | None) -> str:
    ids = (device.subsystem_vendor_id or 0, device.subsystem_device_id or 0)
    if names is None:
        return f"{ids[0]:04x}:{ids[1]:04x}"
    return names.numbered_subsystem(device.vendor_id, device.device_id, *ids)
