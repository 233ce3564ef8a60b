"""What is mounted, on which nodes, and which of it the host itself runs from."""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING

import attrs

from vfiohost.holders.reading import names_in, target_of, text_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from vfiohost.sysfs import Sysfs

_HOST_MOUNTS = ("/proc/1/mountinfo", "/proc/self/mountinfo")
_MOST_NAMESPACES = 256
_MOST_LINKS = 8
_MOST_BELOW = 64
_OCTAL = re.compile(r"\\([0-7]{3})")
_NUMBER = re.compile(r"[0-9]+:[0-9]+")
_MOUNT_FIELDS = 10  # include those behind the dash, with no optional field
# Options that name further block devices (xfs_fs_show_options in fs/xfs/xfs_super.c). ext4 shows
# nothing of its external journal (ext4_mount_opts in fs/ext4/super.c): that is in proc/fs/jbd2.
_PARTS = {"logdev": "log", "rtdev": "realtime section"}
# ovl_show_options in fs/overlayfs/params.c; the names with "+" since Linux 6.8.
_LAYERS = ("upperdir", "lowerdir", "lowerdir+", "datadir+")


@attrs.frozen
class Mount:
    """A line of ``proc/PID/mountinfo`` (``show_mountinfo`` in ``fs/proc_namespace.c``).

    Attributes:
        number: that of the device (``8:1``); a file system of several devices has one of its own.
        place: where it is mounted.
        kind: the type of the file system.
        source: what is mounted, mostly a node.
        nodes: the nodes that ``source`` names, and those that they are links to.
        parts: what else it is made of: what for, and the nodes.
        layers: the directories that an overlay is made of.
        via: the file that says so.
    """

    number: str
    place: str
    kind: str
    source: str
    nodes: frozenset[str]
    parts: tuple[tuple[str, frozenset[str]], ...]
    layers: tuple[str, ...]
    via: str

    @property
    def is_host(self) -> bool:
        """Whether the host itself has it: the root of a container is none of the host's."""
        return self.via in _HOST_MOUNTS


def read_mounts(
    sysfs: Sysfs, namespaces: Mapping[str, int], incomplete: list[str]
) -> tuple[Mount, ...]:
    """The mounts of the host and of each container, each once.

    Args:
        sysfs: the host.
        namespaces: one process of each mount namespace.
        incomplete: gets what could not be found out.
    """
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
    return tuple(_each_once(sysfs, texts))


def _each_once(sysfs: Sysfs, texts: Mapping[str, str]) -> Iterator[Mount]:
    known: set[tuple[str, str]] = set()
    for file, lines in texts.items():
        here = set()
        for line in lines.splitlines():
            fields = line.split(" ")
            if len(fields) < _MOUNT_FIELDS or "-" not in fields[6:-3]:
                continue
            kind, source, options = fields[fields.index("-", 6) + 1 :][:3]
            here.add((fields[2], source))
            if (fields[2], source) not in known:
                yield _mount(sysfs, (fields[2], fields[4], kind, source), options, f"/{file}")
        known |= here


def _mount(sysfs: Sysfs, fields: tuple[str, str, str, str], options: str, via: str) -> Mount:
    number, place, kind, source = fields
    source = unescaped(source)
    # bcachefs names all of its devices (bch2_show_devname).
    sources = source.split(":") if kind == "bcachefs" else [source]
    told = [(name, unescaped(value)) for name, _, value in _pairs(options)]
    parts = [(_PARTS[name], nodes_of(sysfs, value)) for name, value in told if name in _PARTS]
    layers = [p for name, value in told if name in _LAYERS for p in value.split(":")]
    return Mount(
        number=number,
        place=unescaped(place),
        kind=kind,
        source=source,
        nodes=frozenset().union(*(nodes_of(sysfs, each) for each in sources)),
        parts=tuple(parts),
        layers=tuple(p for p in layers if p.startswith("/")) if kind == "overlay" else (),
        via=via,
    )


def _pairs(options: str) -> Iterator[tuple[str, str, str]]:
    return (option.partition("=") for option in options.split(","))


def nodes_of(sysfs: Sysfs, node: str) -> frozenset[str]:
    """A node's name, and the names that it is a link to: ``/dev/mapper/vg-data``, ``/dev/dm-0``."""
    found = [posixpath.normpath(node)]
    while node.startswith("/dev/") and len(found) <= _MOST_LINKS:
        target = target_of(sysfs, found[-1].lstrip("/"))
        if target is None:
            break
        found.append(f"/{target}")
    return frozenset(found)


def run_from(sysfs: Sysfs, mounts: Sequence[Mount], incomplete: list[str]) -> frozenset[Mount]:
    """The mounts without which the host itself stops.

    These are the one at ``/``, the one that has the program of process 1 (where ``/`` is a tmpfs,
    or ``/usr`` a file system of its own), and those that carry these: the layers of an overlay, the
    file of a loop device. Reads ``proc/1/exe`` and, of the block devices that are found so,
    ``sys/dev/block/NUMBER``, ``slaves`` and ``loop/backing_file``.

    Args:
        sysfs: the host.
        mounts: all mounts.
        incomplete: gets a sentence where an overlay's layers do not show.
    """
    host = [mount for mount in mounts if mount.is_host]
    waiting = [mount for mount in host if mount.place == "/"]
    if (program := target_of(sysfs, "proc/1/exe")) is not None:
        waiting += _around(host, f"/{program}")
    found: set[Mount] = set()
    while waiting:
        mount = waiting.pop()
        if mount in found:
            continue
        found.add(mount)
        layers = [below for path in mount.layers for below in _around(host, path)]
        if mount.layers and not [below for below in layers if below != mount]:
            # The paths are those of the time when it was mounted, often in an initramfs.
            incomplete.append(
                f"The host runs from an overlay of {' and '.join(mount.layers[:2])}, and no mount "
                "there shows: which disk is below it is not known."
            )
        files = _files_below(sysfs, mount.number)
        waiting += [*layers, *(below for path in files for below in _around(host, path))]
    return frozenset(found)


def _around(mounts: Iterable[Mount], path: str) -> list[Mount]:
    """The mount that a file is on, if one shows: the innermost around it, of several the last."""
    around = [m for m in mounts if f"{path}/".startswith(f"{m.place.rstrip('/')}/")]
    return sorted(around, key=lambda mount: len(mount.place))[-1:]


def _files_below(sysfs: Sysfs, number: str) -> Iterator[str]:
    """The files of the loop devices that a block device is made of.

    ``loop_attr_backing_file_show`` in ``drivers/block/loop.c``.
    """
    if _NUMBER.fullmatch(number) is None:
        return
    waiting = [t] if (t := target_of(sysfs, f"sys/dev/block/{number}")) is not None else []
    seen = set[str]()
    while waiting and len(seen) < _MOST_BELOW:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        for place in (path, posixpath.dirname(path)):  # a partition lies below its disk
            file = text_of(sysfs, f"{place}/loop/backing_file")
            if file is not None and file.startswith("/"):
                yield file
        waiting += [f"sys/class/block/{name}" for name in names_in(sysfs, f"{path}/slaves")]


def unescaped(text: str) -> str:
    """A name without the octal numbers that the kernel writes for spaces (``mangle_path``)."""
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)
