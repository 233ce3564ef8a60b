"""The udev rule that sets ``driver_override`` before the native driver's module is loaded. Pure.

The rule of a device's own event comes too late where another device has the same driver: udev
handles events side by side, and the other one's event may have loaded the module, whose driver
takes every device that it matches (``drivers/base/dd.c:driver_attach``). So *every* event that may
load a module (it has a MODALIAS) first sets the overrides of all devices that udev has not come to
yet: modules are loaded when the rules of an event are over (``RUN``), and attributes are written
while they are read. When udev has come to a device, its tag says so, and events that come later, on
the running host, leave it alone.

Read in systemd 252 (``src/udev/udev-rules.c``: ``TK_A_ATTR``, ``util_resolve_subsys_kernel``; the
file of a tag is made by ``src/libsystemd/sd-device/device-private.c:device_tag``).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from vfiohost.boot.devices import BootDevice
from vfiohost.boot.words import TAG, comments
from vfiohost.errors import ParseError
from vfiohost.modalias import module_of
from vfiohost.model import PciAddress

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

RULE_PATH = "etc/udev/rules.d/05-vfiohost.rules"
"""Before 80-drivers.rules: what an event loads it loads in the order of the rules."""

_DESCRIBED = re.compile(
    r"#: ([0-9a-f:.]{1,20}) ids=([0-9a-f]{4}):([0-9a-f]{4})"
    r" subsystem=(?:([0-9a-f]{4}):([0-9a-f]{4})|-) class=([0-9a-f]{6})"
    r" driver=(\S+) early=(yes|no) path=(\S+)"
)
_NONE = "-"


def rule_text(devices: Iterable[BootDevice]) -> str:
    """The rule file for some devices.

    Each has a line that describes it (``#:``), by which :func:`parse_rule` finds it again.

    Args:
        devices: which.
    """
    lines = [
        *comments(
            "Gives devices to drivers before others can take them. What every event does that"
        ),
        "# may load a module: set the overrides of the devices that udev has not come to yet.",
        "",
        'ACTION!="add", GOTO="vfiohost_end"',
        'ENV{MODALIAS}!="?*", GOTO="vfiohost_end"',
    ]
    devices = sorted(devices, key=lambda device: device.address)
    for device in devices:
        lines += ["", _description(device), _foreign_line(device)]
    lines += ["", "# What the event of a device itself does: mark it, and have its driver take it."]
    for device in devices:
        lines += ["", *_own_lines(device)]
    return "\n".join([*lines, "", 'LABEL="vfiohost_end"', ""])


def parse_rule(text: str) -> tuple[BootDevice, ...]:
    """The devices that a rule file is about, in its order.

    Raises:
        ParseError: a line that describes a device makes no sense.
    """
    return tuple(_described(line) for line in text.splitlines() if line.startswith("#:"))


def _foreign_line(device: BootDevice) -> str:
    where = f"/sys/{device.path}" if device.path else f"/sys/bus/pci/devices/{device.address}"
    # The attributes of a device that is not the event's own.
    its = f"[pci/{device.address}]"
    return _line(
        f'TEST!="/run/udev/tags/{TAG}/+pci:{device.address}"',
        f'TEST=="{where}"',
        f'TEST!="{where}/driver"',
        *_identity(device, its),
        f'ATTR{{{its}driver_override}}="{device.driver}"',
    )


def _own_lines(device: BootDevice) -> Iterator[str]:
    place = (f'DEVPATH=="/{device.path}"',) if device.path else ()
    this = ('SUBSYSTEM=="pci"', f'KERNEL=="{device.address}"', *place, *_identity(device))
    yield _line(*this, f'TAG+="{TAG}"')
    todo = [f'ATTR{{driver_override}}="{device.driver}"']
    if device.has_driver:
        # The first is for a driver that is there already; one that is loaded looks by itself.
        todo.append(f'ATTR{{[subsystem/pci]drivers_probe}}="{device.address}"')
        todo.append(f'RUN{{builtin}}+="kmod load {module_of(device.driver)}"')
    yield _line(*this, 'TEST!="driver"', *todo)


def _identity(device: BootDevice, of: str = "") -> Iterator[str]:
    subsystem = ("subsystem_vendor", "subsystem_device")
    values = (device.subsystem_vendor, device.subsystem_device)
    yield f'ATTR{{{of}vendor}}=="0x{device.vendor:04x}"'
    yield f'ATTR{{{of}device}}=="0x{device.device:04x}"'
    for name, value in zip(subsystem, values, strict=True):
        if value is not None:
            yield f'ATTR{{{of}{name}}}=="0x{value:04x}"'
    yield f'ATTR{{{of}class}}=="0x{device.class_code:06x}"'


def _line(*parts: str) -> str:
    return ", ".join(parts)


def _description(device: BootDevice) -> str:
    subsystem = _NONE
    if device.subsystem_vendor is not None and device.subsystem_device is not None:
        subsystem = f"{device.subsystem_vendor:04x}:{device.subsystem_device:04x}"
    return (
        f"#: {device.address} ids={device.vendor:04x}:{device.device:04x} subsystem={subsystem}"
        f" class={device.class_code:06x} driver={device.driver}"
        f" early={'yes' if device.early else 'no'} path={device.path or _NONE}"
    )


def _described(line: str) -> BootDevice:
    match = _DESCRIBED.fullmatch(line)
    if match is None:
        raise ParseError(line, "the description of a device", where=RULE_PATH)
    address, *ids, driver, early, path = match.groups()
    vendor, device, subvendor, subdevice, class_code = (int(n or "0", 16) for n in ids)
    has_subsystem = ids[2] is not None
    return BootDevice(
        address=PciAddress.parse(address, where=RULE_PATH),
        vendor=vendor,
        device=device,
        subsystem_vendor=subvendor if has_subsystem else None,
        subsystem_device=subdevice if has_subsystem else None,
        class_code=class_code,
        driver=driver,
        early=early == "yes",
        path=None if path == _NONE else path,
    )
