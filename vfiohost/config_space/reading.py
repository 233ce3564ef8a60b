"""Gets configuration spaces, where nobody is woken by it.

The kernel resumes the bridge in front of a function to read its configuration space, and the
function itself when that is in D3cold (``pci_config_pm_runtime_get`` in ``drivers/pci/pci.c``, from
``pci_read_config`` in ``drivers/pci/pci-sysfs.c``); attributes that show a register, such as
``current_link_speed``, do the same since Linux 6.18 and read nonsense before. To read may also
wait: while the function is being reset, nobody may access it (``pci_wait_cfg`` in
``drivers/pci/access.c``).
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from vfiohost.config_space.decoding import decode
from vfiohost.errors import KernelError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vfiohost.config_space.values import ConfigSpace
    from vfiohost.model import PciAddress, PciDevice, Snapshot, Unavailable
    from vfiohost.sysfs import Sysfs

# What runtime_status_show() in drivers/base/power/sysfs.c says of those whom no read resumes: they
# are awake, or runtime power management is off for them.
_AWAKE: Final = ("active", "resuming", "unsupported")
# One that is suspended to one of these sleeps on while its registers are read: the kernel resumes
# those in D3cold. "unknown" is what a function has that no driver ever used.
_READABLE: Final = ("D0", "D1", "D2", "D3hot", "unknown")


def find_sleepers(
    sysfs: Sysfs, snapshot: Snapshot, devices: Iterable[PciDevice]
) -> dict[PciAddress, PciAddress]:
    """Find out whom it would wake to read registers of some functions.

    Reads ``power/runtime_status`` and ``power_state``, which the kernel has in memory. On a live
    host a state that cannot be read counts as asleep; in a recording nobody is.

    Args:
        sysfs: the host.
        snapshot: a scan of it.
        devices: which functions.

    Returns:
        Of those that must be left alone, by address: the first function on the way from the root
        that would be woken, maybe the function itself.
    """
    if not _is_live(sysfs):
        return {}
    found = {}
    awake: dict[PciAddress, bool] = {}
    for device in devices:
        for address in device.above:
            if address not in awake and address in snapshot.pci:
                awake[address] = _is_awake(sysfs, snapshot.pci[address])
        above = (a for a in device.above if not awake.get(a, True))
        sleeper = next(above, None)
        if sleeper is None and not _is_readable(sysfs, device):
            sleeper = device.address
        if sleeper is not None:
            found[device.address] = sleeper
    return found


def read_spaces(
    sysfs: Sysfs, devices: Iterable[PciDevice], *, timeout: float
) -> dict[PciAddress, ConfigSpace | None | Unavailable]:
    """Read the configuration spaces of some functions and take them apart. This may wake them.

    Args:
        sysfs: the host.
        devices: which functions.
        timeout: seconds for all of them; what gave no answer in time is ``Unavailable``.

    Returns:
        What each says; ``None`` where there is no ``config``.
    """
    paths = {device.address: f"{device.path}/config" for device in devices}
    contents = sysfs.read_bytes_bounded(paths.values(), timeout=timeout)
    return {address: _decoded(contents[path]) for address, path in paths.items()}


def _decoded(content: bytes | Unavailable) -> ConfigSpace | None | Unavailable:
    if isinstance(content, bytes):
        return decode(content)
    return None if content.errno == errno.ENOENT else content


def _is_live(sysfs: Sysfs) -> bool:
    try:
        return sysfs.is_live()
    except KernelError:
        return True


def _is_awake(sysfs: Sysfs, device: PciDevice) -> bool:
    return _text(sysfs, f"{device.path}/power/runtime_status") in _AWAKE


def _is_readable(sysfs: Sysfs, device: PciDevice) -> bool:
    """Whether a function itself sleeps on while its registers are read."""
    status = _text(sysfs, f"{device.path}/power/runtime_status")
    if status == "suspended":
        return _text(sysfs, f"{device.path}/power_state") in _READABLE
    return status in _AWAKE


def _text(sysfs: Sysfs, path: str) -> str | None:
    try:
        return sysfs.read(path)
    except KernelError:
        return None
