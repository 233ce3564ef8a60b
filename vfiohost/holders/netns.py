"""What shows of other network namespaces: containers, and those that ``ip netns`` keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vfiohost.holders.mounts import unescaped
from vfiohost.holders.processes import container_of
from vfiohost.holders.reading import names_in, target_of, text_of
from vfiohost.holders.routing import read_addresses, read_routes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vfiohost.sysfs import Sysfs

_MOST_NAMESPACES = 256
_NAMED = 5
_LOOPBACK = "lo"
_NSFS_FIELDS = 5  # up to the mount point


def other_namespaces(sysfs: Sysfs) -> tuple[str, ...]:
    """The network namespaces that have interfaces besides ``lo`` and are not the host's.

    Reads ``proc/*/ns/net``, of one process of each namespace ``net/dev`` and the files of its
    routes and addresses, and ``proc/1/mountinfo`` for namespaces without any process.

    Args:
        sysfs: the host.

    Returns:
        A phrase for each, of a few of them: who is in it, its interfaces, their addresses. None
        when the links cannot be read, which takes root (``proc_ns_readlink`` in
        ``fs/proc/namespaces.c``).
    """
    own = _namespace(sysfs, 1)
    if own is None:
        return ()
    found: dict[str, int] = {}
    names = names_in(sysfs, "proc")
    for pid in sorted(int(name) for name in names if name.isdecimal() and name.isascii()):
        namespace = _namespace(sysfs, pid)
        if namespace not in (own, None) and len(found) < _MOST_NAMESPACES:
            found.setdefault(str(namespace), pid)
    told = [*_with_processes(sysfs, found), *_without(sysfs, {own, *found})]
    more = len(told) - _NAMED
    return (*told[:_NAMED], *([f"and {more} more namespaces"] if more > 0 else []))


def _namespace(sysfs: Sysfs, pid: int) -> str | None:
    link = target_of(sysfs, f"proc/{pid}/ns/net")
    return None if link is None else link.rpartition("/")[2]


def _with_processes(sysfs: Sysfs, found: dict[str, int]) -> Iterator[str]:
    for pid in found.values():
        folder = f"proc/{pid}/net"
        routes = read_routes(sysfs, folder, [])
        addresses = read_addresses(sysfs, folder, routes, [])
        shown = []
        for name in _interfaces(sysfs, folder):
            its = ", ".join(address for address, _ in addresses.get(name, ())[:_NAMED])
            shown.append(f"{name} ({its})" if its else name)
        if shown:
            container = container_of(text_of(sysfs, f"proc/{pid}/cgroup") or "")
            place = f" in container {container[:12]}" if container else ""
            who = f"pid {pid} ({text_of(sysfs, f'proc/{pid}/comm') or '?'}){place}"
            yield f"{who} {', '.join(shown[:_NAMED])}{', …' if len(shown) > _NAMED else ''}"


def _interfaces(sysfs: Sysfs, folder: str) -> list[str]:
    """The names in ``dev`` (``dev_seq_printf_stats`` in ``net/core/net-procfs.c``)."""
    lines = (text_of(sysfs, f"{folder}/dev") or "").splitlines()[2:]
    names = [line.partition(":")[0].strip() for line in lines]
    return [name for name in names if name not in ("", _LOOPBACK)]


def _without(sysfs: Sysfs, known: set[str]) -> Iterator[str]:
    """The namespaces that only a mount keeps, as ``ip netns add`` makes it: nobody can look in."""
    for line in (text_of(sysfs, "proc/1/mountinfo") or "").splitlines():
        fields = line.split(" ")
        is_one = len(fields) >= _NSFS_FIELDS and fields[3].startswith("net:[")
        if is_one and fields[3] not in known:
            known.add(fields[3])
            yield f"{unescaped(fields[4])} (no process is in it)"
