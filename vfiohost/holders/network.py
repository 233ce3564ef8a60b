"""Network interfaces in use: addresses, routes, and the bonds, bridges and VLANs above them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vfiohost.holders.netns import other_namespaces
from vfiohost.holders.reading import class_links, names_in, text_of
from vfiohost.holders.routing import read_addresses, read_routes
from vfiohost.usage import Use

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from vfiohost.holders.routing import Route
    from vfiohost.holders.subjects import Subject
    from vfiohost.sysfs import Sysfs

_NET = "sys/class/net"
_IFF_UP = 0x1  # include/uapi/linux/if.h
_FOLDER = "proc/net"
# Devices below a function that have the interface in its place: virtio's, mlx5's subfunctions.
_CHILDREN = ("virtio", "mlx5_core.sf.")


def network_uses(sysfs: Sysfs, subjects: Sequence[Subject], incomplete: list[str]) -> Iterator[Use]:
    """The uses of the network interfaces of some functions.

    Reads ``sys/class/net`` (``flags``, ``upper_*``) and ``proc/net``: ``route`` (the main table
    alone), ``ipv6_route``, ``fib_trie`` and ``if_inet6``; where an interface is in another network
    namespace, the same of one process of each.

    Args:
        sysfs: the host.
        subjects: the devices.
        incomplete: gets what could not be found out.
    """
    functions = [s for s in subjects if s.device is not None]
    interfaces = _interfaces(sysfs, functions, incomplete)
    yield from _elsewhere(sysfs, functions, incomplete)
    if not interfaces:
        return
    routes = read_routes(sysfs, _FOLDER, incomplete)
    addresses = read_addresses(sysfs, _FOLDER, routes, incomplete)
    for subject, names in interfaces.items():
        for name in names:
            found = list(_uses_of(sysfs, subject, name, routes, addresses))
            yield from found
            if not found and _flags(sysfs, name) & _IFF_UP:
                # What has it up without an address: a capture, a guest's macvtap, AF_XDP, DPDK.
                yield Use("interface-up", subject, f"{name} is up", f"/{_NET}/{name}/flags")


def _interfaces(
    sysfs: Sysfs, functions: Sequence[Subject], incomplete: list[str]
) -> dict[str, list[str]]:
    """The interfaces below each function; by its name."""
    found: dict[str, list[str]] = {}
    for name, path in class_links(sysfs, "net", incomplete) if functions else ():
        for subject in functions:
            if path.startswith(f"{subject.path}/"):
                found.setdefault(subject.name, []).append(name)
    return found


def _elsewhere(sysfs: Sysfs, functions: Sequence[Subject], incomplete: list[str]) -> Iterator[Use]:
    """The interfaces that were moved into other network namespaces: someone uses them there.

    The directory ``net`` lasts while there are interfaces in it, and sysfs shows those of one
    namespace (``net_ns_type_operations`` in ``net/core/net-sysfs.c``). What belongs to the function
    in another namespace, no file says.
    """
    moved = [(s, path) for s in functions for path in _empty(sysfs, s.path)]
    others = other_namespaces(sysfs) if moved else ()
    known = f"; others have: {'; '.join(others)}" if others else ""
    for subject, path in moved:
        detail = f"it has an interface in another network namespace (a container's){known}"
        yield Use("interface-elsewhere", subject.name, detail, f"/{path}")
        incomplete.append(
            f"{subject.name} has an interface in another network namespace (a container's): "
            "which one it is there, and what it is used for, no file says."
        )


def _empty(sysfs: Sysfs, path: str) -> Iterator[str]:
    """The directories ``net`` of a function, its virtio device and subfunctions, if empty."""
    names = names_in(sysfs, path)
    for place in (path, *(f"{path}/{name}" for name in names if name.startswith(_CHILDREN))):
        if "net" in names_in(sysfs, place) and not names_in(sysfs, f"{place}/net"):
            yield f"{place}/net"


def _uses_of(
    sysfs: Sysfs,
    subject: str,
    name: str,
    routes: Iterable[Route],
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
