"""A device that is to have a driver at boot: where it is, how it is known again. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import attrs

from vfiohost.errors import ParseError
from vfiohost.plan.changes import NO_DRIVER
from vfiohost.plan.drivers import check_name

if TYPE_CHECKING:
    from vfiohost.model import PciAddress, PciDevice

# What stands in a rule or a line of a shell as it is: nothing that either gives a meaning. udev
# reads * ? [ ] | in what it compares, $ and % in what it writes.
_WORD = re.compile(r"[A-Za-z0-9_.-]+")
_PATH = re.compile(r"devices(?:/[A-Za-z0-9_.:-]+)+")
_MAX_TEXT = 4096

# Base classes whose drivers an initramfs has for the host's own start: storage, network, display,
# and USB controllers (initramfs-tools: MODULES=most in hook-functions; dracut: kernel-modules).
_EARLY_CLASSES = frozenset({0x01, 0x02, 0x03})
_USB_CLASS = 0x0C03


def _check_driver(_device: object, _field: object, text: str) -> None:
    check_name(text)
    if len(text) > _MAX_TEXT or not _WORD.fullmatch(text):
        what = "the name of a driver, of letters, digits, '_', '.' and '-'"
        raise ParseError(text, what, where="boot")


def _check_path(_device: object, _field: object, text: str | None) -> None:
    if text is not None and (len(text) > _MAX_TEXT or not _PATH.fullmatch(text) or ".." in text):
        raise ParseError(text, "the path of a device below /sys", where="boot")


@attrs.frozen
class BootDevice:
    """A device that is to have a driver at boot, and what it must be to get it.

    An address alone says little: buses are numbered anew when a card is added or taken out. A
    device that is not as it is described here is left alone.

    Attributes:
        address: where it sits.
        vendor, device: its ids, 16 bits each.
        subsystem_vendor, subsystem_device: 16 bits each, or ``None``: not compared.
        class_code: 24 bits.
        driver: the driver that it is to have; ``none`` keeps every driver off.
        early: the driver that it has to be kept from may be in the initramfs.
        path: its directory below ``/sys`` (``devices/pci0000:00/…``), which tells it from another
            one of its kind that has got its address; ``None``: not compared.

    Raises:
        ParseError: a name or path has characters that udev or a shell would read as more than that.
    """

    address: PciAddress
    vendor: int
    device: int
    subsystem_vendor: int | None
    subsystem_device: int | None
    class_code: int
    driver: str = attrs.field(validator=_check_driver)
    early: bool = False
    path: str | None = attrs.field(default=None, validator=_check_path)

    @property
    def has_driver(self) -> bool:
        """A driver is to take it, and not only to be kept off."""
        return self.driver != NO_DRIVER

    def differs(self, found: PciDevice) -> tuple[str, ...]:
        """In what a device that is on the host is another one than this; empty: it is this one."""
        pairs: tuple[tuple[str, object, object], ...] = (
            ("vendor and device", f"{self.vendor:04x}:{self.device:04x}", found.ids),
            ("class", f"{self.class_code:06x}", f"{found.class_code:06x}"),
            (
                "subsystem",
                _subsystem(self.subsystem_vendor, self.subsystem_device),
                _subsystem(found.subsystem_vendor_id, found.subsystem_device_id),
            ),
            ("place", self.path, found.path.removeprefix("sys/")),
        )
        return tuple(
            f"{what} {have} instead of {want}"
            for what, want, have in pairs
            if want is not None and want != have
        )


def boot_device(device: PciDevice, driver: str, *, early: bool | None = None) -> BootDevice:
    """Describe a device of the host, so that it is known again at the next boot.

    Args:
        device: the device.
        driver: what it is to have.
        early: see :class:`BootDevice`; by default it goes by the device's class.

    Raises:
        ParseError: as :class:`BootDevice`.
    """
    return BootDevice(
        address=device.address,
        vendor=device.vendor_id,
        device=device.device_id,
        subsystem_vendor=device.subsystem_vendor_id,
        subsystem_device=device.subsystem_device_id,
        class_code=device.class_code,
        driver=driver,
        early=is_early_class(device.class_code) if early is None else early,
        path=device.path.removeprefix("sys/"),
    )


def is_early_class(class_code: int) -> bool:
    """Whether an initramfs may have the drivers of a class (24 bits) for the host's own start."""
    return class_code >> 16 in _EARLY_CLASSES or class_code >> 8 == _USB_CLASS


def _subsystem(vendor: int | None, device: int | None) -> str | None:
    return None if vendor is None or device is None else f"{vendor:04x}:{device:04x}"
