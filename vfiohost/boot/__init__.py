"""Devices that have their driver from the start of the host on, before another can take them.

driverctl sets its overrides by a service, when the native driver has had the device already. Here a
udev rule sets them, before any event has loaded a module (:mod:`vfiohost.boot.rule`); where the
native driver may be in the initramfs, the rule is carried there (:mod:`vfiohost.boot.initramfs`).
Nothing of vfiohost runs while the host boots.

``devices`` and the makers of texts are pure; ``files`` reads and writes what lies below ``etc``,
``checking`` compares it with the host.
"""

from vfiohost.boot.changes import BootPlan, FileChange, Found, known_devices, known_unit, plan_files
from vfiohost.boot.checking import BootStatus, DeviceCheck, FileCheck, InitramfsCheck, check_boot
from vfiohost.boot.devices import BootDevice, boot_device
from vfiohost.boot.driverctl import SavedOverride
from vfiohost.boot.files import (
    change_files,
    find_generators,
    read_files,
    read_one,
    run_command,
)
from vfiohost.boot.initramfs import GENERATORS, Generator
from vfiohost.boot.rule import parse_rule, rule_text
from vfiohost.boot.unit import UNIT_PATH, unit_text

__all__ = [
    "GENERATORS",
    "UNIT_PATH",
    "BootDevice",
    "BootPlan",
    "BootStatus",
    "DeviceCheck",
    "FileChange",
    "FileCheck",
    "Found",
    "Generator",
    "InitramfsCheck",
    "SavedOverride",
    "boot_device",
    "change_files",
    "check_boot",
    "find_generators",
    "known_devices",
    "known_unit",
    "parse_rule",
    "plan_files",
    "read_files",
    "read_one",
    "rule_text",
    "run_command",
    "unit_text",
]
