"""Recording network interfaces: whether they are up, what is above them, addresses and routes.

The addresses are replaced: of each interface it is kept how many it has, whether a default route
goes through it, and how many other routes to somewhere else. Names that the kernel or udev gives
stay, for they tell of the hardware alone; a name that holds a MAC address (``enx001122334455``)
becomes one that holds a number, and one that somebody has chosen becomes ``net0``, ``net1``.
"""

from __future__ import annotations

import ipaddress
import posixpath
import struct
from typing import TYPE_CHECKING

import attrs

from vfiohost.holders import class_links, read_addresses, read_routes
from vfiohost.record.names import counted_order, shown_interfaces
from vfiohost.record.reading import names_in, text_of
from vfiohost.recording import File

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from vfiohost.record.places import Places
    from vfiohost.sysfs import Sysfs

_NET = "sys/class/net"
_FOLDER = "proc/net"
_UPPER = "upper_"
_UP, _GATEWAY = 0x1, 0x2  # include/uapi/linux/route.h
_GLOBAL_SCOPE = "00"
_VERSIONS = (4, 6)
_MOST_INTERFACES = 254
_MOST_ADDRESSES = 253
_HEADER = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"


def read_networks(sysfs: Sysfs, places: Places) -> Iterator[File]:
    """The interfaces of functions, and those above them.

    Reads ``sys/class/net`` (``flags``, ``upper_*``) and ``proc/net`` (``route``, ``ipv6_route``,
    ``fib_trie``, ``if_inet6``).

    Args:
        sysfs: the host.
        places: its functions.
    """
    targets = dict(class_links(sysfs, "net"))
    uppers: dict[str, list[str]] = {}
    waiting = [name for name, target in targets.items() if places.has(target)]
    for name in waiting:  # grows meanwhile
        if name not in uppers:
            uppers[name] = [upper for upper in _uppers(sysfs, name) if upper in targets]
            waiting += uppers[name]
    shown = shown_interfaces(uppers)
    for name, its_uppers in uppers.items():
        path = posixpath.join(posixpath.dirname(targets[name]), shown[name])
        yield places.link(f"{_NET}/{shown[name]}", path)
        yield File(path, None)
        flags = text_of(sysfs, f"{targets[name]}/flags")
        if flags is not None:
            yield File(f"{path}/flags", f"{flags}\n".encode())
        for upper in its_uppers:
            above = posixpath.join(posixpath.dirname(targets[upper]), shown[upper])
            yield places.link(f"{path}/{_UPPER}{shown[upper]}", above)
    yield from _tables(_interfaces(sysfs, shown))


def _uppers(sysfs: Sysfs, name: str) -> list[str]:
    names = names_in(sysfs, f"{_NET}/{name}")
    return [n.removeprefix(_UPPER) for n in names if n.startswith(_UPPER)]


# ---- addresses and routes ----------------------------------------------------------------------


@attrs.frozen
class _Interface:
    """What a recorded interface has: how many addresses, which routes; by version of IP."""

    name: str
    number: int
    addresses: Mapping[int, int]
    has_default: Mapping[int, bool]
    far_routes: Mapping[int, int]

    def gateway4(self) -> ipaddress.IPv4Address:
        return ipaddress.IPv4Address(f"10.0.{self.number}.254")


def _interfaces(sysfs: Sysfs, shown: Mapping[str, str]) -> Sequence[_Interface]:
    routes = read_routes(sysfs, _FOLDER, [])
    addresses = read_addresses(sysfs, _FOLDER, routes, [])
    found: list[_Interface] = []
    ordered = {shown[name]: name for name in shown}
    for as_shown in counted_order(ordered)[:_MOST_INTERFACES]:
        name = ordered[as_shown]
        mine = [route for route in routes if route.interface == name]
        its = addresses.get(name, ())
        versions: list[int] = [ipaddress.ip_address(address).version for address, _ in its]
        far: list[int] = [r.network.version for r in mine if r.is_far and not r.is_default]
        default: list[int] = [r.network.version for r in mine if r.is_default]
        found.append(
            _Interface(
                name=as_shown,
                number=len(found) + 1,
                addresses={v: min(versions.count(v), _MOST_ADDRESSES) for v in _VERSIONS},
                has_default={v: v in default for v in _VERSIONS},
                far_routes={v: min(far.count(v), _MOST_ADDRESSES) for v in _VERSIONS},
            )
        )
    return found


def _tables(interfaces: Sequence[_Interface]) -> Iterator[File]:
    """The files of ``proc/net`` that say it, each where it has something to say."""
    contents = {
        "fib_trie": [line for each in interfaces for line in _trie(each)],
        "if_inet6": [line for each in interfaces for line in _addresses6(each)],
        "ipv6_route": [line for each in interfaces for line in _routes6(each)],
        "route": [line for each in interfaces for line in _routes4(each)],
    }
    for name, lines in contents.items():
        if lines:
            text = "".join([_HEADER if name == "route" else "", *lines])
            yield File(f"{_FOLDER}/{name}", text.encode())


def _trie(interface: _Interface) -> Iterator[str]:
    """``fib_trie_seq_show`` in ``net/ipv4/fib_trie.c``."""
    for number in range(interface.addresses[4]):
        yield f"           |-- 10.0.{interface.number}.{number + 1}\n"
        yield "              /32 host LOCAL\n"


def _routes4(interface: _Interface) -> Iterator[str]:
    """``fib_route_seq_show``: numbers in the machine's byte order."""
    if interface.addresses[4]:
        yield _route4(interface, f"10.0.{interface.number}.0/24", is_far=False)
    if interface.has_default[4]:
        yield _route4(interface, "0.0.0.0/0", is_far=True)
    for number in range(interface.far_routes[4]):
        yield _route4(interface, f"10.{number + 1}.{interface.number}.0/24", is_far=True)


def _route4(interface: _Interface, destination: str, *, is_far: bool) -> str:
    network = ipaddress.IPv4Network(destination)
    gateway = interface.gateway4() if is_far else ipaddress.IPv4Address(0)
    numbers = (network.network_address, gateway, network.netmask)
    start, via, mask = (struct.unpack("=I", number.packed)[0] for number in numbers)
    flags = _UP | _GATEWAY if is_far else _UP
    return f"{interface.name}\t{start:08X}\t{via:08X}\t{flags:04X}\t0\t0\t0\t{mask:08X}\t0\t0\t0\n"


def _addresses6(interface: _Interface) -> Iterator[str]:
    """``if6_seq_show`` in ``net/ipv6/addrconf.c``."""
    for number in range(interface.addresses[6]):
        address = ipaddress.IPv6Address(f"fd00:0:0:{interface.number:x}::{number + 1:x}")
        digits, index = int(address), interface.number
        yield f"{digits:032x} {index:02x} 40 {_GLOBAL_SCOPE} 80 {interface.name:>8}\n"


def _routes6(interface: _Interface) -> Iterator[str]:
    """``rt6_info_route`` in ``net/ipv6/route.c``."""
    gateway = int(ipaddress.IPv6Address(f"fd00:0:0:{interface.number:x}::ffff"))
    starts = [0] if interface.has_default[6] else []
    starts += [
        int(ipaddress.IPv6Address(f"fd00:{number + 1:x}:0:{interface.number:x}::"))
        for number in range(interface.far_routes[6])
    ]
    for start in starts:
        length = 64 if start else 0
        yield (
            f"{start:032x} {length:02x} {0:032x} 00 {gateway:032x} 00000400 00000001 00000000 "
            f"{_UP | _GATEWAY:08x} {interface.name:>8}\n"
        )
