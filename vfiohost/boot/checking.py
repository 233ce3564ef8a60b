"""Whether a host is as its files for the boot say, and starts as they say."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING, Literal

import attrs

from vfiohost import native
from vfiohost.boot.changes import PATHS, Found, known_devices, known_unit, wanted_files
from vfiohost.boot.files import find_generators, read_files
from vfiohost.boot.rule import RULE_PATH
from vfiohost.errors import KernelError, ParseError
from vfiohost.model import Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from vfiohost.boot.devices import BootDevice
    from vfiohost.boot.initramfs import Generator
    from vfiohost.model import PciAddress, Snapshot
    from vfiohost.sysfs import Sysfs

_LIST_SECONDS = 60.0

DeviceVerdict = Literal["right", "other-driver", "other-device", "absent"]
"""``right``: it has what it is to have. ``other-driver``: the host or a person gave it another one.
``other-device``: at its address is another device. ``absent``: at its address is none."""

FileVerdict = Literal["same", "differs", "missing", "foreign", "needless"]
"""``same``: as it would be made now. ``needless``: it is there, and would not be made now."""

InitramfsVerdict = Literal["carries", "older", "lacks", "stale", "missing", "unknown"]
"""``older``: made before a file that it is to carry was written. ``lacks``: its list of files does
not have the rule. ``stale``: it has one, and nothing is installed any more. ``unknown``: it is
newer, and nobody here can list it."""


@attrs.frozen
class DeviceCheck:
    """A device that is to have a driver at boot, and what there is.

    Attributes:
        device: as it is in the rule.
        verdict: what was found.
        driver: the driver that the device at its address has now, or ``None``.
        differences: in what the device at its address is another one.
        elsewhere: where devices of its kind are that have no place in the rule themselves; one of
            them may be the one that is meant.
    """

    device: BootDevice
    verdict: DeviceVerdict
    driver: str | None
    differences: tuple[str, ...] = ()
    elsewhere: tuple[PciAddress, ...] = ()


@attrs.frozen
class FileCheck:
    """A file for the boot: ``path`` relative to the root, and its ``verdict``."""

    path: str
    verdict: FileVerdict


@attrs.frozen
class InitramfsCheck:
    """The initramfs of the kernel that runs.

    Attributes:
        path: relative to the root, or ``None``: none was found.
        verdict: whether it carries what it should.
        commands: what makes it anew.
    """

    path: str | None
    verdict: InitramfsVerdict
    commands: tuple[tuple[str, ...], ...]

    @property
    def is_stale(self) -> bool:
        """It must be made anew, or the host does not start as its files say."""
        return self.verdict in {"older", "lacks", "stale"}


@attrs.frozen
class BootStatus:
    """What is installed for the boot, and whether it is and does what it should.

    Attributes:
        devices: those of the rule, in its order.
        files: those that are there or should be.
        initramfs: ``None`` where no device needs it, and it has nothing of the kind either.
        problem: why the rule cannot be read, as a sentence, or ``None``.
    """

    devices: tuple[DeviceCheck, ...]
    files: tuple[FileCheck, ...]
    initramfs: InitramfsCheck | None
    problem: str | None = None

    @property
    def is_bad(self) -> bool:
        """A device has not what it is to have, or will not have it after the next boot."""
        is_stale = self.initramfs is not None and self.initramfs.is_stale
        return is_stale or any(check.verdict != "right" for check in self.devices)

    @property
    def has_drifted(self) -> bool:
        """A file is not as it would be made now."""
        return self.problem is not None or any(check.verdict != "same" for check in self.files)


def check_boot(sysfs: Sysfs, snapshot: Snapshot) -> BootStatus:
    """Look at the files, the devices, and the initramfs of the kernel that runs.

    Files: those of :data:`vfiohost.boot.changes.PATHS`, ``boot/initrd.img-RELEASE`` and the like.
    On this machine itself, lsinitramfs or lsinitrd is asked as well, where it is installed.

    Args:
        sysfs: the host.
        snapshot: the host as it is.
    """
    found, generators = read_files(sysfs), find_generators(sysfs)
    problem: str | None = None
    devices: tuple[BootDevice, ...] = ()
    try:
        devices = known_devices(found)
    except ParseError as error:
        problem = str(error)
    files = () if problem else tuple(_check_files(devices, found, generators))
    is_early = any(device.early for device in devices)
    return BootStatus(
        tuple(check_device(device, devices, snapshot) for device in devices),
        files,
        _check_initramfs(sysfs, snapshot, found, generators, is_needed=is_early),
        problem,
    )


def check_device(
    device: BootDevice, devices: Sequence[BootDevice], snapshot: Snapshot
) -> DeviceCheck:
    """Compare one device of the rule with what is at its address. Pure.

    Args:
        device: the device.
        devices: all devices of the rule.
        snapshot: the host as it is.
    """
    there = snapshot.pci.get(device.address)
    differences = () if there is None else device.differs(there)
    if there is None or differences:
        taken = {known.address for known in devices}
        elsewhere = tuple(
            d.address
            for d in snapshot.devices
            if (d.vendor_id, d.device_id, d.class_code)
            == (device.vendor, device.device, device.class_code)
            and d.address not in taken
        )
        driver = None if there is None else _driver(there.driver)
        verdict: DeviceVerdict = "absent" if there is None else "other-device"
        return DeviceCheck(device, verdict, driver, differences, elsewhere)
    driver = _driver(there.driver)
    is_right = driver == (device.driver if device.has_driver else None)
    return DeviceCheck(device, "right" if is_right else "other-driver", driver)


def _driver(driver: str | None | Unavailable) -> str | None:
    return None if isinstance(driver, Unavailable) else driver


def _check_files(
    devices: Sequence[BootDevice], found: Mapping[str, Found], generators: Sequence[Generator]
) -> Iterator[FileCheck]:
    wanted = wanted_files(devices, generators, known_unit(found))
    for path in PATHS:
        there = found[path]
        if path not in wanted:
            if there.is_ours:
                yield FileCheck(path, "needless")
        elif there.is_foreign:
            yield FileCheck(path, "foreign")
        elif there.text is None:
            yield FileCheck(path, "missing")
        else:
            yield FileCheck(path, "same" if there.text == wanted[path][0] else "differs")


def _check_initramfs(
    sysfs: Sysfs,
    snapshot: Snapshot,
    found: Mapping[str, Found],
    generators: Sequence[Generator],
    *,
    is_needed: bool,
) -> InitramfsCheck | None:
    """What the initramfs has of the rule; ``None`` where it need not have it, and has none."""
    commands = tuple(generator.command for generator in generators)
    times = [(path, made) for path in _places(snapshot.kernel) if (made := _written(sysfs, path))]
    if not times:
        return InitramfsCheck(None, "missing", commands) if is_needed else None
    path, made = times[0]
    ours = [there.changed for there in found.values() if there.is_ours]
    is_older = made < max(ours, default=0)
    if is_needed and is_older:
        return InitramfsCheck(path, "older", commands)
    listed = _listed(f"/{path}", generators) if sysfs.root == "/" else "unknown"
    if is_needed:
        return InitramfsCheck(path, listed, commands)
    if listed == "carries" and (is_older or not ours):
        # It was carried unasked, or before the files were taken away.
        return InitramfsCheck(path, "older" if ours else "stale", commands)
    return None


def _places(kernel: str | None) -> tuple[str, ...]:
    if kernel is None or "/" in kernel:
        return ()
    return (f"boot/initrd.img-{kernel}", f"boot/initramfs-{kernel}.img", f"boot/initrd-{kernel}")


def _written(sysfs: Sysfs, path: str) -> int | None:
    """When a file was written, in nanoseconds since 1970; ``None`` where there is none."""
    try:
        fd = native.open_in(sysfs.fd, path, os.O_PATH, shown=sysfs.shown(path))
    except KernelError:
        return None
    try:
        return os.fstat(fd).st_mtime_ns
    finally:
        os.close(fd)


def _listed(image: str, generators: Sequence[Generator]) -> InitramfsVerdict:
    """Whether the list of what an initramfs carries has the rule."""
    for generator in generators:
        name, *words = generator.lists
        program = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/bin:/usr/sbin")
        if program is None:
            continue
        try:
            done = subprocess.run(  # noqa: S603 - no shell, and the words are ours
                [program, *words, image],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=True,
                timeout=_LIST_SECONDS,
            )
        except (OSError, subprocess.SubprocessError):
            continue
        rule = RULE_PATH.rpartition("/")[2].encode()
        return "carries" if rule in done.stdout else "lacks"
    return "unknown"
