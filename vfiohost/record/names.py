"""The names of disks, interfaces and configuration files in a recording. Pure.

Those that the kernel and udev give stay, those that a host's owner may have chosen are counted.
What was counted once is counted so again, so that to record a recording changes nothing.
"""

from __future__ import annotations

import posixpath
import re
from collections import defaultdict
from itertools import count
from typing import TYPE_CHECKING

from vfiohost.doctor.sources import DRIVERCTL, LIBVIRT_HOOKS, MDEVCTL, UDEV_RULES
from vfiohost.modalias import MODPROBE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

# A disk whose name ends in a digit has a "p" before the number of a partition (disk_name in
# block/partitions/core.c, bdevname before Linux 5.18).
_LETTERS = r"(?:sd|vd|xvd|hd|dasd|rssd)[a-z]{1,4}"
_NUMBERS = (
    r"(?:bcache|dm-|drbd|loop|md|md_d|mtdblock|nbd|nullb|ram|rbd|rnbd|sr|ublkb|zd|zram)[0-9]{1,7}"
    r"|nvme[0-9]{1,5}(?:c[0-9]{1,5})?n[0-9]{1,10}|mmcblk[0-9]{1,3}(?:(?:boot|gp)[0-9])?"
    r"|pmem[0-9]{1,4}(?:\.[0-9]{1,4})?|cciss!c[0-9]{1,3}d[0-9]{1,3}"
)
_GIVEN_DISK = re.compile(
    rf"{_LETTERS}(?:[0-9]{{1,3}})?|(?:{_NUMBERS})(?:p[0-9]{{1,3}})?|mmcblk[0-9]{{1,3}}rpmb"
)
_BY_MAC = re.compile(r"enx[0-9a-f]{12}")
# What drivers give, and udev by firmware, slot and path (systemd.net-naming-scheme(7)).
_GIVEN_INTERFACE = re.compile(
    r"lo|(?:eth|wlan|wwan|usb|ib|bond|team|br|virbr|docker|dummy|tun|tap|wg|sit|gre)[0-9]{1,4}"
    r"|(?:en|ib|wl|ww)(?:[os][0-9]{1,5}|(?:P[0-9]{1,5})?p[0-9]{1,3}s[0-9]{1,3})"
    r"(?:[a-z]{1,2}[0-9]{1,5}){0,6}"
)
# What names of files in etc are made of that say what the file is about, and no more.
_PLAIN_FILE = re.compile(
    r"(?:(?:amd|blacklist|conf|d|daemon|disable|disabled|dist|driver|drivers|drm|fb|fbdev|file|gpu"
    r"|framebuffer|graphics|hooks|initramfs|installer|intel|iommu|iommufd|kms|kvm|libvirt|libxl|lxc"
    r"|mdev|modeset|network|nouveau|nvidia|options|override|passthrough|pci|pve|qemu|rules|sriov"
    r"|udev|vfio|vfiohost|vgpu|[0-9]{1,4})(?:[._-]|$))+"
)
_DRIVERCTL_FILE = re.compile(r"pci-[0-9a-fA-F]{4,8}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7]")
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_PARENT = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]|mtty|mdpy|mbochs|matrix")
_PARTITION = re.compile(r"p?([0-9]{1,3})")
_ARRAY = "md_"
_HOOKS = tuple(f"{LIBVIRT_HOOKS}{more}" for more in ("", "/daemon.d", "/qemu.d"))
_FOLDERS = frozenset({*MODPROBE, UDEV_RULES, *_HOOKS})


def shown_disks(paths: Mapping[str, str]) -> dict[str, str]:
    """The names of block devices in a recording, by those of the host.

    What a driver counts stays. An array can have a name that somebody chose (``md_NAME``:
    ``add_named_array`` in ``drivers/md/md.c``; mdadm makes such where ``mdadm.conf`` says
    ``CREATE names=yes``), and so can the devices of other drivers: those are counted, and their
    partitions are called after them.

    Args:
        paths: name and directory of each device.
    """
    names = {path: name for name, path in paths.items()}
    parents = {name: names.get(posixpath.dirname(path)) for name, path in paths.items()}
    counts: defaultdict[str, int] = defaultdict(int)
    shown: dict[str, str] = {}
    for name in counted_order(paths):  # a partition after its disk, whose name is shorter
        disk, number = _as_partition(name, parents[name])
        if _GIVEN_DISK.fullmatch(name):
            shown[name] = name
        elif disk in shown:
            shown[name] = f"{shown[disk]}p{number}"
        else:
            kind = "md_array" if name.startswith(_ARRAY) else "disk"
            shown[name] = f"{kind}{counts[kind]}"
            counts[kind] += 1
    return shown


def _as_partition(name: str, disk: str | None) -> tuple[str, str]:
    """The disk and the number of a partition; of what is none, nothing."""
    if disk is None or not name.startswith(disk):
        return "", ""
    match = _PARTITION.fullmatch(name.removeprefix(disk))
    return ("", "") if match is None else (disk, match[1])


def shown_interfaces(names: Iterable[str]) -> dict[str, str]:
    """The names of network interfaces in a recording, by those of the host.

    Those made of a MAC address are counted as such, and those that somebody chose.
    """
    by_mac, chosen = count(), count()
    shown = {}
    for name in counted_order(names):
        if _BY_MAC.fullmatch(name):
            shown[name] = f"enx{next(by_mac):012}"
        else:
            shown[name] = name if _GIVEN_INTERFACE.fullmatch(name) else f"net{next(chosen)}"
    return shown


def shown_files(paths: Iterable[str]) -> dict[str, str | None]:
    """The paths of configuration files in a recording, by those of the host.

    A name that is made of words which say what the file is about stays (``vfio.conf``), any other
    is counted, the same in each directory: of ``modprobe.d`` there are several, and the first file
    of a name counts. Of what driverctl and mdevctl keep by device, that stays which can be theirs.

    Args:
        paths: relative to the root; those of other directories stay as they are.

    Returns:
        By path; ``None``: the file is none of theirs, and left out.
    """
    paths = list(paths)
    chosen = {posixpath.basename(path) for path in paths if posixpath.dirname(path) in _FOLDERS}
    numbers: defaultdict[str, Iterator[int]] = defaultdict(count)
    counted = {}
    for name in counted_order(name for name in chosen if not _PLAIN_FILE.fullmatch(name)):
        ending = next((each for each in (".conf", ".rules") if name.endswith(each)), "")
        counted[name] = f"file{next(numbers[ending])}{ending}"
    return {path: _shown_file(path, counted) for path in paths}


def _shown_file(path: str, counted: Mapping[str, str]) -> str | None:
    folder, name = posixpath.split(path)
    if folder in _FOLDERS:
        return posixpath.join(folder, counted.get(name, name))
    if folder == DRIVERCTL:
        return path if _DRIVERCTL_FILE.fullmatch(name) else None
    if posixpath.dirname(folder) == MDEVCTL:
        is_one = _UUID.fullmatch(name) and _PARENT.fullmatch(posixpath.basename(folder))
        return path if is_one else None
    return path


def counted_order(names: Iterable[str]) -> list[str]:
    """Names in an order in which those that end in numbers stay when they are counted again."""
    return sorted(names, key=lambda name: (len(name), name))
