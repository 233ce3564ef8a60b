"""Reads of functions what may block, or what only some questions need; with a deadline."""

from __future__ import annotations

import errno
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

import attrs

from vfiohost.errors import KernelError
from vfiohost.model import (
    SRIOV_MANAGE,
    Details,
    PciAddress,
    ResetFacts,
    Snapshot,
    SriovFacts,
    Unavailable,
)
from vfiohost.nvidia import DRIVER as NVIDIA
from vfiohost.nvidia import UNBIND_LOCK
from vfiohost.reads import DEVICES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from vfiohost.sysfs import Sysfs

T = TypeVar("T")

ENABLE_SRIOV: Final = "sys/module/vfio_pci/parameters/enable_sriov"


def with_details(
    sysfs: Sysfs, snapshot: Snapshot, addresses: Iterable[PciAddress], *, timeout: float = 2.0
) -> Snapshot:
    """Add :class:`~vfiohost.model.Details` of some functions to a snapshot.

    Reads ``driver_override``, ``uevent``, ``boot_vga`` and ``modalias`` in a helper process: the
    first two wait for the device lock on kernels up to at least 6.1. Of devices on NVIDIA's driver
    its ``unbindLock`` below ``proc`` is read, too.

    Args:
        sysfs: the host.
        snapshot: what was scanned.
        addresses: whose details; those that the snapshot has already are read again.
        timeout: seconds for all of them; a millisecond more is given for each attribute, so that
            thousands of functions that answer are not taken for one that does not.

    Returns:
        The snapshot with the details. An attribute that did not answer in time is
        ``Unavailable(0, "device locked")``. A ``driver_override`` that is not there is
        ``Unavailable(ENOENT, …)``, since it cannot be set; the others are ``None`` then. So is the
        driver in the ``uevent`` of a device that had none when it was scanned, and has one now.
    """
    wanted = tuple(dict.fromkeys(addresses))
    # Those that no lock guards come first: they are answered whatever happens to the others.
    names = ("modalias", "boot_vga", "driver_override", "uevent")
    paths = [f"{DEVICES}/{address}/{name}" for name in names for address in wanted]
    locks = {a: UNBIND_LOCK.format(address=a) for a in wanted if _is_on_nvidia(snapshot, a)}
    texts = sysfs.read_bounded([*locks.values(), *paths], timeout=timeout + len(paths) / 1000)
    details = {
        address: _details({name: texts[f"{DEVICES}/{address}/{name}"] for name in names})
        for address in wanted
    }
    for address in filter(partial(_is_driverless, snapshot), wanted):
        if isinstance(details[address].uevent_driver, str) and _has_link(sysfs, address):
            # Bound since the snapshot was made: no driver is on its way out.
            details[address] = attrs.evolve(details[address], uevent_driver=None)
    for address, path in locks.items():
        lock = _parsed(texts[path], _flag)
        details[address] = attrs.evolve(details[address], unbind_lock=lock)
    return attrs.evolve(snapshot, details={**snapshot.details, **details})


def _is_on_nvidia(snapshot: Snapshot, address: PciAddress) -> bool:
    device = snapshot.pci.get(address)
    return device is not None and device.driver == NVIDIA


def _is_driverless(snapshot: Snapshot, address: PciAddress) -> bool:
    device = snapshot.pci.get(address)
    return device is not None and device.driver is None


def _has_link(sysfs: Sysfs, address: PciAddress) -> bool:
    try:
        return sysfs.link_name(f"{DEVICES}/{address}/driver") is not None
    except KernelError:
        return False  # nothing is known of it


def _details(texts: dict[str, str | Unavailable]) -> Details:
    override = texts["driver_override"]
    return Details(
        driver_override=None if override in ("(null)", "") else override,
        uevent_driver=_parsed(texts["uevent"], _uevent_driver),
        boot_vga=_parsed(texts["boot_vga"], _flag),
        modalias=_parsed(texts["modalias"], str),
    )


def _parsed(
    text: str | Unavailable, parse: Callable[[str], T | None | Unavailable]
) -> T | None | Unavailable:
    """Parse what was read; a file that is not there gives ``None``."""
    if isinstance(text, Unavailable):
        return None if text.errno == errno.ENOENT else text
    return parse(text)


def _uevent_driver(text: str) -> str | None:
    prefix = "DRIVER="
    lines = (line for line in text.splitlines() if line.startswith(prefix))
    return next((line.removeprefix(prefix) for line in lines), None)


def _flag(text: str) -> bool | Unavailable:
    return {"0": False, "1": True}.get(text, Unavailable(0, "malformed"))


def read_reset(
    sysfs: Sysfs, addresses: Sequence[PciAddress], *, timeout: float
) -> dict[PciAddress, ResetFacts]:
    """Read what a reset depends on: ``reset``, ``reset_method``, ``enable`` of each device.

    Args:
        sysfs: the host.
        addresses: the devices.
        timeout: seconds for all of them; what gave no answer in time is ``Unavailable``.
    """
    names = ("reset_method", "enable")
    paths = {(a, name): f"{DEVICES}/{a}/{name}" for a in addresses for name in names}
    texts = sysfs.read_bounded(paths.values(), timeout=timeout)

    def text(address: PciAddress, name: str) -> str | None | Unavailable:
        found = texts[paths[address, name]]
        is_absent = isinstance(found, Unavailable) and found.errno == errno.ENOENT
        return None if is_absent else found

    return {
        a: ResetFacts(sysfs.exists(f"{DEVICES}/{a}/reset"), *(text(a, name) for name in names))
        for a in addresses
    }


def read_sriov(
    sysfs: Sysfs, addresses: Sequence[PciAddress], *, timeout: float
) -> dict[PciAddress, SriovFacts]:
    """Read what making virtual functions depends on.

    Files: ``sriov_numvfs``, ``sriov_drivers_autoprobe``, ``sriov_offset``, ``sriov_stride`` and
    ``sriov_vf_device`` of each device (``drivers/pci/iov.c``), the parameter ``enable_sriov`` of
    vfio-pci, and whether there is NVIDIA's ``sriov-manage``.

    Args:
        sysfs: the host.
        addresses: physical functions.
        timeout: seconds for all of them; ``sriov_numvfs`` takes the device lock to be shown.
    """
    names = ("numvfs", "drivers_autoprobe", "offset", "stride", "vf_device")
    paths = {(a, name): f"{DEVICES}/{a}/sriov_{name}" for a in addresses for name in names}
    texts = sysfs.read_bounded([*paths.values(), ENABLE_SRIOV], timeout=timeout)

    def number(address: PciAddress, name: str, base: int = 10) -> int | None | Unavailable:
        text = texts[paths[address, name]]
        if isinstance(text, Unavailable):
            return None if text.errno == errno.ENOENT else text
        try:
            return int(text, base)
        except ValueError:
            return Unavailable(0, "not a number")

    def known(address: PciAddress, name: str, base: int = 10) -> int | None:
        found = number(address, name, base)
        return None if isinstance(found, Unavailable) else found

    has_script = sysfs.exists(SRIOV_MANAGE)
    enable = texts[ENABLE_SRIOV]
    return {
        a: SriovFacts(
            num_vfs=number(a, "numvfs") or 0,
            autoprobe=None if (probe := known(a, "drivers_autoprobe")) is None else bool(probe),
            offset=known(a, "offset"),
            stride=known(a, "stride"),
            vf_device=known(a, "vf_device", 16),
            has_script=has_script,
            enable_sriov=isinstance(enable, str) and enable.strip() == "Y",
        )
        for a in addresses
    }
