"""Network interfaces in use: addresses, routes, and the bonds, bridges and VLANs above them."""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections import defaultdict
from typing import TYPE_CHECKING

import attrs

from vfiohost.holders.reading import class_links, names_in, text_of
from vfiohost.usage import Use

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from vfiohost.holders.subjects import Subject
    from vfiohost.sysfs import Sysfs

_NET = "sys/class/net"
_IFF_UP = 0x1  # include/uapi/linux/if.h
_RTF_UP, _RTF_GATEWAY, _RTF_REJECT = 0x1, 0x2, 0x200  # include/uapi/linux/route.h
_RTF_LOCAL = 0x80000000  # include/uapi/linux/ipv6_route.h
_NAMED = 5
_LINK_LOCAL_SCOPE = "20"  # IPV6_ADDR_LINKLOCAL


@attrs.frozen
class _Route:
    """A route: where to, as a network; ``is_far``: through a gateway."""

    interface: str
    network: ipaddress.IPv4Network | ipaddress.IPv6Network
    is_far: bool
    via: str

    @property
    def is_default(self) -> bool:
        return self.network.prefixlen == 0


def network_uses(sysfs: Sysfs, subjects: Sequence[Subject], incomplete: list[str]) -> Iterator[Use]:
    """The uses of the network interfaces of some functions.

    Reads ``sys/class/net`` (``flags``, ``master``, ``upper_*``) and ``proc/net``: ``route`` (the
    main table alone), ``ipv6_route``, ``fib_trie`` and ``if_inet6``.

    Args:
        sysfs: the host.
        subjects: the devices.
        incomplete: gets what could not be found out.
    """
    interfaces = _interfaces(sysfs, subjects, incomplete)
    if not interfaces:
        return
    routes = [*_routes4(sysfs, incomplete), *_routes6(sysfs, incomplete)]
    addresses = _addresses(sysfs, routes, incomplete)
    for subject, names in interfaces.items():
        for name in names:
            found = list(_uses_of(sysfs, subject, name, routes, addresses))
            yield from found
            if not found and _flags(sysfs, name) & _IFF_UP:
                yield Use("interface-up", subject, f"{name} is up", f"/{_NET}/{name}/flags")


def _interfaces(
    sysfs: Sysfs, subjects: Sequence[Subject], incomplete: list[str]
) -> dict[str, list[str]]:
    """The interfaces below each function; by its name."""
    found: dict[str, list[str]] = {}
    functions = [s for s in subjects if s.device is not None]
    for name, path in class_links(sysfs, "net", incomplete) if functions else ():
        for subject in functions:
            if path.startswith(f"{subject.path}/"):
                found.setdefault(subject.name, []).append(name)
    for subject in functions:
        # The directory lasts while there are interfaces in it; sysfs shows those of one namespace.
        folders = names_in(sysfs, subject.path)
        if "net" in folders and not names_in(sysfs, f"{subject.path}/net"):
            incomplete.append(
                f"{subject.name} has an interface in another network namespace (a container's): "
                "what it is used for is not known."
            )
    return found


def _uses_of(
    sysfs: Sysfs,
    subject: str,
    name: str,
    routes: Iterable[_Route],
    addresses: Mapping[str, Sequence[tuple[str, str]]],
) -> Iterator[Use]:
    """The uses of an interface and of those above it."""
    for interface, below in _stack(sysfs, name):
        path = name if interface == name else f"{interface} (on {name})"
        if below is not None:
            detail = f"{below} is a part of {interface}"
            yield Use("network-member", subject, detail, f"/{_NET}/{below}")
        for address, via in addresses.get(interface, ()):
            yield Use("address", subject, f"{path} has the address {address}", via)
        for route in routes:
            if route.interface == interface and route.is_default:
                version = "IPv4" if route.network.version == 4 else "IPv6"  # noqa: PLR2004
                detail = f"{path} has the default route of {version}"
                yield Use("default-route", subject, detail, route.via)
            elif route.interface == interface and route.is_far:
                detail = f"{path} has the route to {route.network}"
                yield Use("route", subject, detail, route.via)


def _stack(sysfs: Sysfs, name: str) -> Iterator[tuple[str, str | None]]:
    """An interface, and those above it with what each is made of: bonds, bridges, VLANs."""
    waiting: list[tuple[str, str | None]] = [(name, None)]
    seen = set()
    while waiting:
        interface, below = waiting.pop(0)
        if interface in seen:
            continue
        seen.add(interface)
        yield interface, below
        names = names_in(sysfs, f"{_NET}/{interface}")
        uppers = [n.removeprefix("upper_") for n in names if n.startswith("upper_")]
        waiting += [(upper, interface) for upper in uppers]


def _flags(sysfs: Sysfs, name: str) -> int:
    try:
        return int(text_of(sysfs, f"{_NET}/{name}/flags") or "0", 16)
    except ValueError:
        return 0


def _routes4(sysfs: Sysfs, incomplete: list[str]) -> Iterator[_Route]:
    """``fib_route_seq_show`` in ``net/ipv4/fib_trie.c``: numbers in the machine's byte order."""
    path = "proc/net/route"
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
            yield _Route(fields[0], network, bool(flags & _RTF_GATEWAY), f"/{path}")


def _routes6(sysfs: Sysfs, incomplete: list[str]) -> Iterator[_Route]:
    """``rt6_info_route`` in ``net/ipv6/route.c``."""
    path = "proc/net/ipv6_route"
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
            yield _Route(name, network, bool(flags & _RTF_GATEWAY), f"/{path}")


def _addresses(
    sysfs: Sysfs, routes: Iterable[_Route], incomplete: list[str]
) -> dict[str, list[tuple[str, str]]]:
    """The addresses of each interface that others can reach, each with the file that says so."""
    found: dict[str, list[tuple[str, str]]] = defaultdict(list)
    near = [r for r in routes if not r.is_far and not r.is_default]
    lost = []
    for address in _addresses4(sysfs, incomplete):
        # No file says which interface has an IPv4 address, but one has the network around it.
        owners = {r.interface for r in near if address in r.network}
        for name in sorted(owners):
            found[name].append((str(address), "/proc/net/fib_trie"))
        lost += [] if owners else [str(address)]
    if lost:
        more = ", …" if len(lost) > _NAMED else ""
        some = ", ".join(lost[:_NAMED])
        incomplete.append(f"No file says which interface has the address {some}{more}.")
    for line in (text_of(sysfs, "proc/net/if_inet6", incomplete) or "").splitlines():
        fields = line.split()  # if6_seq_show in net/ipv6/addrconf.c
        try:
            address6 = ipaddress.IPv6Address(int(fields[0], 16))
            scope, name = fields[3], fields[5]
        except (IndexError, ValueError):
            continue
        if not address6.is_loopback and scope != _LINK_LOCAL_SCOPE:
            found[name].append((str(address6), "/proc/net/if_inet6"))
    return found


def _addresses4(sysfs: Sysfs, incomplete: list[str]) -> list[ipaddress.IPv4Address]:
    """The host's own addresses (``fib_trie_seq_show`` in ``net/ipv4/fib_trie.c``), each once."""
    found: dict[ipaddress.IPv4Address, None] = {}
    leaf = ""
    for line in (text_of(sysfs, "proc/net/fib_trie", incomplete) or "").splitlines():
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
