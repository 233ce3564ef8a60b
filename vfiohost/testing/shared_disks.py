"""Disks that several NVMe controllers share: each is there while one of them has a path to it.

Such a disk (``nvme0n1``) lies below its subsystem, and below each controller a hidden one, its path
(``nvme0c0n1``: ``nvme_alloc_ns`` in ``drivers/nvme/host/core.c``). It comes with its first path
(``nvme_mpath_set_live`` in ``drivers/nvme/host/multipath.c``) and goes with the last one
(``nvme_ns_remove``, ``nvme_mpath_shutdown_disk``; since Linux 6.16 ``nvme_mpath_remove_disk`` and
``nvme_remove_head``, at once unless ``delayed_removal_secs`` says otherwise). The subsystem goes
with its last controller and its last disk (``nvme_destroy_subsystem``).
"""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vfiohost.recording import File
    from vfiohost.testing.tree import Tree

_SUBSYSTEM = r"sys/devices/virtual/nvme-subsystem/[^/]+"
_DISK = re.compile(rf"(({_SUBSYSTEM})/(nvme[0-9]+n[0-9]+))(?:/.*)?")
_CONTROLLER = re.compile(rf"({_SUBSYSTEM})/nvme[0-9]+")
_PATH = re.compile(r"(.*/nvme[0-9]+/(nvme[0-9]+)c[0-9]+(n[0-9]+))(?:/.*)?")


@attrs.frozen
class Shared:
    """A directory that stands while one of its props does.

    Attributes:
        path: the directory, relative to the root.
        files: what it is made of: what lies below it, and the links that lead there.
        props: of a disk its paths, or the controllers of its subsystem where no path was recorded;
            of a subsystem the links to its controllers.
    """

    path: str
    files: tuple[File, ...]
    props: tuple[str, ...]

    def stands(self, tree: Tree) -> bool:
        """Whether one of its props is there."""
        return any(map(tree.exists, self.props))


def shared_disks(files: Iterable[File]) -> tuple[Shared, ...]:
    """The disks of NVMe subsystems, and after them the subsystems themselves.

    Args:
        files: those of a recording.
    """
    found: dict[str, list[File]] = {}
    paths: dict[str, set[str]] = {}
    controllers: dict[str, set[str]] = {}
    for file in files:
        target = _target(file)
        for place in (file.path, target):
            if match := _PATH.fullmatch(place):
                paths.setdefault(match[2] + match[3], set()).add(match[1])
        if match := _DISK.fullmatch(file.path) or _DISK.fullmatch(target):
            found.setdefault(match[1], []).append(file)
        elif target and (match := _CONTROLLER.fullmatch(file.path)):
            controllers.setdefault(match[1], set()).add(file.path)
    shared = []
    for disk, its in found.items():
        subsystem, name = posixpath.split(disk)
        props = paths.get(name) or controllers.get(subsystem, set())
        shared.append(Shared(disk, tuple(its), tuple(sorted(props))))
    shared += [Shared(path, (), tuple(sorted(links))) for path, links in controllers.items()]
    return tuple(each for each in shared if each.props)


def _target(file: File) -> str:
    """Where a link leads, as a path from the root; of what is none, nothing."""
    if not isinstance(file.content, str):
        return ""
    return posixpath.normpath(posixpath.join(posixpath.dirname(file.path), file.content))
