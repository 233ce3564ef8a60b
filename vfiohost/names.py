"""Names of vendors, devices and classes from ``pci.ids``. Pure: it is given the file's content.

The file has some 40,000 lines; a command needs a few dozen names of it. So nothing is parsed ahead:
a lookup cuts out the block of one vendor (or class) and searches only there. The words for what is
not in the file are those of lspci (pciutils, ``lib/names.c``).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple, cast

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from vfiohost.model import PciDevice

    _Look = TypeVar("_Look", bound=Callable[..., str | None])

WELL_KNOWN_PATHS = (
    "usr/share/misc/pci.ids",
    "usr/share/hwdata/pci.ids",
    "usr/share/pci.ids",
    "var/lib/pciutils/pci.ids",
)
"""Where distributions keep the file, relative to the root, in the order in which they are tried."""


class DeviceNames(NamedTuple):
    """The names of one PCI function.

    Attributes:
        class_name: ``VGA compatible controller``.
        vendor: ``NVIDIA Corporation``.
        device: ``GA102GL [A10]``.
        subsystem: the card's own name, or ``None`` when the card gives no subsystem ids.
    """

    class_name: str
    vendor: str
    device: str
    subsystem: str | None


def _remembered(look: _Look) -> _Look:
    """A lookup that looks but once for the same numbers."""
    kind: str = look.__name__

    def found(self: PciNames, *numbers: int) -> str | None:
        key: tuple[str | int, ...] = (kind, *numbers)
        if key not in self._found:
            self._found[key] = look(self, *numbers)
        return self._found[key]

    return cast("_Look", found)


class PciNames:
    """The names of ``pci.ids``, found as they are asked for.

    It holds no file and no lock: share it between threads and pickle it as you like.
    """

    def __init__(self, content: bytes) -> None:
        """Take the content of a ``pci.ids`` file, in UTF-8; an empty one knows no names."""
        # Bytes: to decode a million letters takes longer than to find a dozen names among them.
        self._content = content
        self._blocks: dict[str, bytes] = {}
        self._of: dict[tuple[int | None, ...], DeviceNames] = {}
        self._found: dict[tuple[str | int, ...], str | None] = {}

    @classmethod
    def from_text(cls, text: str) -> PciNames:
        """Take the text of a ``pci.ids`` file; an empty one knows no names."""
        return cls(text.encode("utf-8", "backslashreplace"))

    def vendor(self, vendor_id: int) -> str:
        """The vendor's name (``NVIDIA Corporation``), or ``Vendor 10de``."""
        return self._vendor(vendor_id) or f"Vendor {vendor_id:04x}"

    def device(self, vendor_id: int, device_id: int) -> str:
        """The device's name (``GA102GL [A10]``), or ``Device 2236``."""
        return self._device(vendor_id, device_id) or f"Device {device_id:04x}"

    def known_device(self, vendor_id: int, device_id: int) -> str | None:
        """The device's name, or ``None``: the file does not have it."""
        return self._device(vendor_id, device_id)

    def known_devices(self, vendor_id: int) -> dict[int, str]:
        """The names of all devices of a vendor that the file has, by their ids."""
        found: dict[int, str] = {}
        for match in re.finditer(_DEVICE, self._block(f"{vendor_id:04x}")):
            name = match[2].decode("utf-8", "backslashreplace").strip()
            if name:
                found.setdefault(int(match[1], 16), name)
        return found

    def full(self, vendor_id: int, device_id: int) -> str:
        """Vendor and device as lspci prints them (``NVIDIA Corporation GA102GL [A10]``)."""
        vendor = self._vendor(vendor_id)
        if vendor is None:
            return f"Device {vendor_id:04x}:{device_id:04x}"
        return f"{vendor} {self.device(vendor_id, device_id)}"

    def subsystem(
        self, vendor_id: int, device_id: int, subvendor_id: int, subdevice_id: int
    ) -> str:
        """The name of the card that carries the device, or ``NVIDIA Corporation Device 1482``.

        A card with the ids of the device itself has the device's name.

        Args:
            vendor_id: the device's vendor.
            device_id: the device.
            subvendor_id: vendor of the card.
            subdevice_id: the card, as its vendor numbers it.
        """
        known = self._card(vendor_id, device_id, subvendor_id, subdevice_id)
        vendor = self._vendor(subvendor_id)
        if vendor is None:
            return known or f"Device {subvendor_id:04x}:{subdevice_id:04x}"
        return f"{vendor} {known or f'Device {subdevice_id:04x}'}"

    def class_name(self, class_code: int) -> str:
        """What a 24 bit class code means, without the programming interface.

        A class whose base alone is known reads ``Display controller [0399]``, an unknown one
        ``Class ff99``, as with lspci.
        """
        base, sub = class_code >> 16, class_code >> 8 & 0xFF
        found = self._class(base, sub)
        if found is not None:
            return found
        base_name = self._class_base(base)
        number = f"{base:02x}{sub:02x}"
        return f"{base_name} [{number}]" if base_name else f"Class {number}"

    def numbered_class(self, class_code: int) -> str:
        """The class with its number, as ``lspci -nn`` prints it: ``3D controller [0302]``."""
        name = self._class(class_code >> 16, class_code >> 8 & 0xFF)
        name = name or self._class_base(class_code >> 16) or "Class"
        return _cut_as_lspci(f"{name} [{class_code >> 8:04x}]", _NAME_BUFFER)

    def numbered_device(self, vendor_id: int, device_id: int) -> str:
        """Vendor and device with their numbers, as ``lspci -nn`` prints them.

        Returns:
            ``NVIDIA Corporation GA102GL [A10] [10de:2236]``, or ``NVIDIA Corporation Device
            [10de:2236]``, or ``Device [10de:2236]``.
        """
        pair = _numbered(
            self._vendor(vendor_id), self._device(vendor_id, device_id), vendor_id, device_id
        )
        return _cut_as_lspci(pair, _NAME_BUFFER)

    def numbered_subsystem(
        self, vendor_id: int, device_id: int, subvendor_id: int, subdevice_id: int
    ) -> str:
        """The card with its numbers, as ``lspci -nn`` prints it: ``NVIDIA … A10 [10de:1482]``.

        Args:
            vendor_id: the device's vendor.
            device_id: the device.
            subvendor_id: vendor of the card.
            subdevice_id: the card, as its vendor numbers it.
        """
        known = self._card(vendor_id, device_id, subvendor_id, subdevice_id)
        pair = _numbered(self._vendor(subvendor_id), known, subvendor_id, subdevice_id)
        return _cut_as_lspci(pair, _SUBSYSTEM_BUFFER)

    def of(self, device: PciDevice) -> DeviceNames:
        """All names of one function."""
        subvendor, subdevice = device.subsystem_vendor_id, device.subsystem_device_id
        key = (device.class_code, device.vendor_id, device.device_id, subvendor, subdevice)
        found = self._of.get(key)
        if found is not None:
            return found
        found = self._of[key] = DeviceNames(
            class_name=self.class_name(device.class_code),
            vendor=self.vendor(device.vendor_id),
            device=self.device(device.vendor_id, device.device_id),
            subsystem=self.subsystem(device.vendor_id, device.device_id, subvendor, subdevice)
            if subvendor and subdevice is not None
            else None,
        )
        return found

    # The lookups below give None for what the file does not have.

    @_remembered
    def _vendor(self, vendor_id: int) -> str | None:
        return self._heading(f"{vendor_id:04x}")

    @_remembered
    def _device(self, vendor_id: int, device_id: int) -> str | None:
        return self._line(f"{vendor_id:04x}", f"\t{device_id:04x}  ")

    def _card(
        self, vendor_id: int, device_id: int, subvendor_id: int, subdevice_id: int
    ) -> str | None:
        known = self._subsystem(vendor_id, device_id, subvendor_id, subdevice_id)
        if known is None and (vendor_id, device_id) == (subvendor_id, subdevice_id):
            known = self._device(vendor_id, device_id)
        return known

    @_remembered
    def _subsystem(
        self, vendor_id: int, device_id: int, subvendor_id: int, subdevice_id: int
    ) -> str | None:
        block = self._block(f"{vendor_id:04x}")
        inner = _cut(block, f"\t{device_id:04x}  ", _INNER_BLOCK_END)
        return _after(inner, f"\t\t{subvendor_id:04x} {subdevice_id:04x}  ")

    @_remembered
    def _class_base(self, base: int) -> str | None:
        return self._heading(f"C {base:02x}")

    @_remembered
    def _class(self, base: int, sub: int) -> str | None:
        return self._line(f"C {base:02x}", f"\t{sub:02x}  ")

    def _heading(self, head: str) -> str | None:
        return _after(self._block(head), f"{head}  ")

    def _line(self, head: str, start: str) -> str | None:
        return _after(self._block(head), start)

    def _block(self, head: str) -> bytes:
        """The line of a vendor or class, and the indented lines below it."""
        block = self._blocks.get(head)
        if block is None:
            block = self._blocks[head] = _cut(self._content, f"{head}  ", _BLOCK_END)
        return block


# The buffers that lspci gives to a name (lspci.c:show_terse), in bytes with the final NUL.
_NAME_BUFFER = 128
_SUBSYSTEM_BUFFER = 256


def _numbered(vendor: str | None, name: str | None, vendor_id: int, number: int) -> str:
    """Names and numbers as in lspci's ``format_name_pair``: no name counts without its vendor's."""
    words = ["Device"] if vendor is None else [vendor, name or "Device"]
    return f"{' '.join(words)} [{vendor_id:04x}:{number:04x}]"


def _cut_as_lspci(text: str, size: int) -> str:
    """What of a name fits lspci's buffer (``lib/names.c:format_name``): the rest is dots."""
    encoded = text.encode()
    if len(encoded) < size:
        return text
    return encoded[: size - 4].decode("utf-8", "backslashreplace") + "..."


# Where a block ends: at the next line that is not indented so far. Comments and empty lines end
# nothing in the file.
_BLOCK_END = rb"\n[^\t#\r\n]"
_DEVICE = rb"(?m)^\t([0-9a-f]{4})  (.*)$"
_INNER_BLOCK_END = rb"\n(?:\t[^\t]|[^\t#\r\n])"


def _begin_of_line(content: bytes, start: str) -> int:
    """Where the first line that begins with ``start`` begins, or -1."""
    head = start.encode()
    if content.startswith(head):
        return 0
    # The classes are at the end of the file, behind a million letters of vendors.
    found = content.rfind(b"\n" + head) if start[0] == "C" else content.find(b"\n" + head)
    return found + 1 if found >= 0 else -1


def _cut(content: bytes, start: str, end: bytes) -> bytes:
    """The line that begins with ``start``, up to where ``end`` matches."""
    begin = _begin_of_line(content, start)
    if begin < 0:
        return b""
    match = re.compile(end).search(content, begin)
    return content[begin : match.start()] if match else content[begin:]


def _after(content: bytes, start: str) -> str | None:
    """What stands after ``start`` on the first line that begins with it."""
    begin = _begin_of_line(content, start)
    if begin < 0:
        return None
    begin += len(start)
    end = content.find(b"\n", begin)
    line = content[begin:] if end < 0 else content[begin:end]
    return line.decode("utf-8", "backslashreplace").strip() or None
