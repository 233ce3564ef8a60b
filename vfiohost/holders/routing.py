"""Routes and addresses of one network namespace, from the files of ``proc/net``."""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections import defaultdict
from typing import TYPE_CHECKING

import attrs

from vfiohost.holders.reading import text_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from vfiohost.sysfs import Sysfs

_RTF_UP, _RTF_GATEWAY, _RTF_REJECT = 0x1, 0x2, 0x200  # include/uapi/linux/route.h
_RTF_LOCAL = 0x80000000  # include/uapi/linux/ipv6_route.h
_NAMED = 5
_LINK_LOCAL_SCOPE = "20"  # IPV6_ADDR_LINKLOCAL


@attrs.frozen
class Route:
    """A route: where to, as a network; ``is_far``: through a gateway."""

    interface: str
    network: ipaddress.IPv4Network | ipaddress.IPv6Network
    is_far: bool
    via: str

    @property
    def is_default(self) -> bool:
        """Whether it is the way to everywhere else."""
        return self.network.prefixlen == 0


def read_routes(sysfs: Sysfs, folder: str, incomplete: list[str]) -> tuple[Route, ...]:
    """The routes of a namespace: ``route`` (the main table alone) and ``ipv6_route``.

    Args:
        sysfs: the host.
        folder: ``proc/net``, or ``proc/PID/net`` for the namespace of a process.
        incomplete: gets what could not be read.
    """
    return (*_routes4(sysfs, folder, incomplete), *_routes6(sysfs, folder, incomplete))


def _routes4(sysfs: Sysfs, folder: str, incomplete: list[str]) -> Iterator[Route]:
    """``fib_route_seq_show`` in ``net/ipv4/fib_trie.c``: numbers in the machine's byte order."""
    path = f"{folder}/route"
    for line in (text_of(sysfs, path, incomplete) or "").splitlines()[1:]:
        fields = line.split()
        try:
            flags = int(fields[3], 16)
            mask = int(fields[7], 16).bit_count()
            start = socket.inet_ntoa(struct.pack("=I", int(fields[1], 16)))
            network = ipaddress.IPv4Network(f"{start}/{mask}", strict=False)
        except (IndexError, ValueError, struct.error):
            continue  # no line of the kernel's
        if flags & _RTF_UP and not flags & _RTF_REJECT:
            yield Route(fields[0], network, bool(flags & _RTF_GATEWAY), f"/{path}")


def _routes6(sysfs: Sysfs, folder: str, incomplete: list[str]) -> Iterator[Route]:
    """``rt6_info_route`` in ``net/ipv6/route.c``."""
    path = f"{folder}/ipv6_route"
    for line in (text_of(sysfs, path, incomplete) or "").splitlines():
        fields = line.split()
        try:
            flags = int(fields[8], 16)
            start = ipaddress.IPv6Address(int(fields[0], 16))
            network = ipaddress.IPv6Network(f"{start}/{int(fields[1], 16)}", strict=False)
            name = fields[9]
        except (IndexError, ValueError):
            continue
        if flags & _RTF_UP and not flags & (_RTF_REJECT | _RTF_LOCAL):
            yield Route(name, network, bool(flags & _RTF_GATEWAY), f"/{path}")


def read_addresses(
    sysfs: Sysfs, folder: str, routes: Iterable[Route], incomplete: list[str]
) -> dict[str, list[tuple[str, str]]]:
    """The addresses of each interface that others can reach, each with the file that says so.

    An address of the link alone (``fe80::``) is none: the kernel gives one to whatever is up.

    Args:
        sysfs: the host.
        folder: as for :func:`read_routes`.
        routes: the routes of the namespace.
        incomplete: gets what could not be found out.
    """
    found: dict[str, list[tuple[str, str]]] = defaultdict(list)
    near = [r for r in routes if not r.is_far and not r.is_default]
    lost = []
    for address in _addresses4(sysfs, folder, incomplete):
        # No file says which interface has an IPv4 address, but one has the network around it.
        owners = {r.interface for r in near if address in r.network}
        for name in sorted(owners):
            found[name].append((str(address), f"/{folder}/fib_trie"))
        lost += [] if owners else [str(address)]
    if lost:
        more = ", …" if len(lost) > _NAMED else ""
        some = ", ".join(lost[:_NAMED])
        incomplete.append(f"No file says which interface has the address {some}{more}.")
    for line in (text_of(sysfs, f"{folder}/if_inet6", incomplete) or "").splitlines():
        fields = line.split()  # if6_seq_show in net/ipv6/addrconf.c
        try:
            address6 = ipaddress.IPv6Address(int(fields[0], 16))
            scope, name = fields[3], fields[5]
        except (IndexError, ValueError):
            continue
        if not address6.is_loopback and scope != _LINK_LOCAL_SCOPE:
            found[name].append((str(address6), f"/{folder}/if_inet6"))
    return found


def _addresses4(sysfs: Sysfs, folder: str, incomplete: list[str]) -> list[ipaddress.IPv4Address]:
    """The host's own addresses (``fib_trie_seq_show`` in ``net/ipv4/fib_trie.c``), each once."""
    found: dict[ipaddress.IPv4Address, None] = {}
    leaf = ""
    for line in (text_of(sysfs, f"{folder}/fib_trie", incomplete) or "").splitlines():
        if "|-- " in line:
            leaf = line.partition("|-- ")[2].strip()
        elif line.endswith("host LOCAL"):
            try:
                address = ipaddress.IPv4Address(leaf)
            except ValueError:
                continue
            if not address.is_loopback:
                found[address] = None
    return list(found)
