"""Disks in use: mounts, swap, and what dm, LVM and md have made of them."""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING

import attrs

from vfiohost.holders.reading import class_links, names_in, text_of
from vfiohost.holders.subjects import owners
from vfiohost.usage import Use

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from vfiohost.holders.subjects import Subject
    from vfiohost.sysfs import Sysfs
    from vfiohost.usage import UseKind

_BLOCK = "sys/class/block"
_HOST_MOUNTS = ("/proc/1/mountinfo", "/proc/self/mountinfo")
_MOST_NAMESPACES = 256
_OCTAL = re.compile(r"\\([0-7]{3})")
_MOUNT_FIELDS = 10  # include those behind the dash, with no optional field


@attrs.frozen
class _Mount:
    """A line of ``proc/PID/mountinfo`` (``show_mountinfo`` in ``fs/proc_namespace.c``)."""

    number: str
    place: str
    kind: str
    source: str
    via: str

    @property
    def is_root(self) -> bool:
        """The host's own root: that of a container is none."""
        return self.place == "/" and self.via in _HOST_MOUNTS


def storage_uses(
    sysfs: Sysfs,
    subjects: Sequence[Subject],
    namespaces: Mapping[str, int],
    incomplete: list[str],
) -> Iterator[Use]:
    """The uses of the block devices of some functions.

    Reads ``sys/class/block``, ``holders`` of each block device and what those hold in turn,
    ``proc/swaps``, and ``mountinfo`` of process 1 and of one process of each other mount namespace.

    Args:
        sysfs: the host.
        subjects: the devices.
        namespaces: one process of each mount namespace.
        incomplete: gets what could not be found out.
    """
    disks = disks_of(sysfs, subjects, incomplete)
    if not disks:
        return
    mounts = list(_mounts(sysfs, namespaces, incomplete))
    swaps = _swaps(sysfs, incomplete)
    for subject, names in disks.items():
        for name, shown, above in stacks(sysfs, names):
            if above is not None:
                detail = f"{shown} is made of {above}"
                yield Use("block-holder", subject, detail, f"/{_BLOCK}/{above}/holders/{name}")
            yield from _uses_of(sysfs, subject, name, mounts, swaps)
    if any(mount.kind == "zfs" for mount in mounts):
        incomplete.append("There are ZFS file systems here, and no file says on which disks.")


def disks_of(
    sysfs: Sysfs, subjects: Sequence[Subject], incomplete: list[str]
) -> dict[str, list[str]]:
    """The block devices below each function, partitions too; by its name."""
    found: dict[str, list[str]] = {}
    functions = [s for s in subjects if s.device is not None]
    if not functions:
        return found
    for name, path in class_links(sysfs, "block", incomplete):
        for subject in owners(sysfs, path, functions):
            found.setdefault(subject.name, []).append(name)
    return found


def stacks(sysfs: Sysfs, names: Iterable[str]) -> Iterator[tuple[str, str, str | None]]:
    """Block devices and all that is made of them: name, name for people, what it is made of."""
    waiting: list[tuple[str, str | None]] = [(name, None) for name in names]
    seen = set()
    while waiting:
        name, above = waiting.pop(0)
        if name in seen:
            continue
        seen.add(name)
        mapped = text_of(sysfs, f"{_BLOCK}/{name}/dm/name")
        yield name, _shown(name, mapped), above
        waiting += [(holder, name) for holder in names_in(sysfs, f"{_BLOCK}/{name}/holders")]


def _uses_of(
    sysfs: Sysfs, subject: str, name: str, mounts: Iterable[_Mount], swaps: Iterable[str]
) -> Iterator[Use]:
    """The uses of one block device."""
    number = text_of(sysfs, f"{_BLOCK}/{name}/dev")
    mapped = text_of(sysfs, f"{_BLOCK}/{name}/dm/name")
    nodes = {f"/dev/{name}", *([f"/dev/mapper/{mapped}"] if mapped else [])}
    shown = _shown(name, mapped)
    for mount in mounts:
        # A file system of several disks has a number of its own (btrfs), but names one of them.
        if mount.number == number or mount.source in nodes:
            kind: UseKind = "root-disk" if mount.is_root else "mount"
            yield Use(kind, subject, f"{shown} is mounted at {mount.place}", mount.via)
    for node in sorted(nodes.intersection(swaps)):
        yield Use("swap", subject, f"the host swaps to {node}", "/proc/swaps")


def _mounts(sysfs: Sysfs, namespaces: Mapping[str, int], incomplete: list[str]) -> Iterator[_Mount]:
    """The mounts of the host and of each container, each once."""
    text = text_of(sysfs, "proc/1/mountinfo")
    path = "proc/self/mountinfo" if text is None else "proc/1/mountinfo"
    text = text_of(sysfs, path, incomplete) if text is None else text
    if text is None:
        incomplete.append("/proc/1/mountinfo cannot be read: what is mounted is not known.")
    texts = {} if text is None else {path: text}
    others = [pid for pid in sorted(namespaces.values()) if pid != 1]
    if len(others) > _MOST_NAMESPACES:
        incomplete.append(f"Only {_MOST_NAMESPACES} of {len(others)} mount namespaces were read.")
    for pid in others[:_MOST_NAMESPACES]:
        other = f"proc/{pid}/mountinfo"
        texts[other] = text_of(sysfs, other) or ""
    known: set[tuple[str, str]] = set()
    for file, lines in texts.items():
        found = [m for line in lines.splitlines() if (m := _mount(line, f"/{file}")) is not None]
        yield from (mount for mount in found if (mount.number, mount.source) not in known)
        known.update((mount.number, mount.source) for mount in found)


def _shown(name: str, mapped: str | None) -> str:
    return f"{name} ({mapped})" if mapped else name


def _mount(line: str, via: str) -> _Mount | None:
    fields = line.split(" ")
    if len(fields) < _MOUNT_FIELDS or "-" not in fields[6:-3]:
        return None
    kind, source = fields[fields.index("-", 6) + 1 :][:2]
    return _Mount(fields[2], _unescaped(fields[4]), kind, _unescaped(source), via)


def _swaps(sysfs: Sysfs, incomplete: list[str]) -> list[str]:
    """The nodes in ``proc/swaps`` (``swap_show`` in ``mm/swapfile.c``)."""
    lines = (text_of(sysfs, "proc/swaps", incomplete) or "").splitlines()[1:]
    return [posixpath.normpath(_unescaped(line.split()[0])) for line in lines if line.split()]


def _unescaped(text: str) -> str:
    """A name without the octal numbers that the kernel writes for spaces (``mangle_path``)."""
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)
