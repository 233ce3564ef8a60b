"""The parts of the benchmark: each measures one thing beside what people would use otherwise."""

from __future__ import annotations

import shutil
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

from benchmarks import hosts
from benchmarks.measure import Bar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from benchmarks.measure import Bench

MDEVS = 64
_JOURNALING = ("pwrite64", "fsync", "ftruncate")  # all but the first once a plan
_START = "python3 -c 'import attrs, argparse, json'"
EVENTS = 10_000

_SCAN = """
import sys, time
from vfiohost import Host
with Host(sys.argv[1]) as host:
    for _ in range(1 + int(sys.argv[2])):
        start = time.perf_counter()
        snapshot = host.scan()
        total = sum(device.vendor_id for device in snapshot.devices)
        print(time.perf_counter() - start)
        del snapshot
"""

_PYUDEV = """
import sys, time, pyudev
context = pyudev.Context()
for _ in range(1 + int(sys.argv[1])):
    start = time.perf_counter()
    for device in context.list_devices(subsystem="pci"):
        p = device.properties
        a = device.attributes
        found = (p["PCI_ID"], p["PCI_CLASS"], p.get("PCI_SUBSYS_ID"), p.get("DRIVER"))
        found += (a.get("revision"), a.get("numa_node"), a.get("sriov_totalvfs"))
    print(time.perf_counter() - start)
"""

_NAMES = """
import sys, time
from vfiohost import Host
with Host("/") as host:
    start = time.perf_counter()
    host.names.device(0x10DE, 0x2236)
    first = time.perf_counter() - start
    again = range(0x2230, 0x2238)
    for device in again:
        host.names.device(0x10DE, device)
    start = time.perf_counter()
    for _ in range(1000):
        for device in again:
            host.names.device(0x10DE, device)
    later = (time.perf_counter() - start) / 8000
print(first if sys.argv[1] == "first" else later)
"""

_MDEVS = """
import os, sys
from vfiohost import Host

class Driver:
    '''Answers a store to `create` with three system calls: the device, and two links to it.'''

    give_up = None

    def check_writable(self):
        pass

    def store(self, path, value, **_):
        parent, _, type_id = path.removesuffix('/create').partition('/mdev_supported_types/')
        os.mkdir(f'{root}/{parent}/{value}')
        os.symlink(f'../../../{value}',
                   f'{root}/{parent}/mdev_supported_types/{type_id}/devices/{value}')
        os.symlink(f'../../../{parent.removeprefix("sys/")}/{value}',
                   f'{root}/sys/bus/mdev/devices/{value}')

root, parent, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
uuids = [f'00000000-0000-4000-8000-{number:012x}' for number in range(count)]
with Host(root, kernel=Driver()) as host:
    host.apply(host.plan_mdev_create(parent, 'nvidia-595', uuids=uuids))
"""

_WATCH = """
import os, sys
from vfiohost.watch.uevents import Uevents

EVENTS = int(sys.argv[1])
events = Uevents()
fd = os.open('/sys/class/mem/null/uevent', os.O_WRONLY)
for _ in range(EVENTS):
    os.write(fd, b'change')
count = 0
while True:
    try:
        count += b'SUBSYSTEM=mem' in events._socket.recv(8192)
    except BlockingIOError:
        break
    except OSError:
        pass
print(EVENTS - count)
"""

_IDLE = """
import sys
from vfiohost import Host

def switches():
    lines = open('/proc/self/status').read().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith('voluntary_ctxt')))

with Host() as host, host.watch() as watcher:
    before = switches()
    watcher.wait(timeout=float(sys.argv[1]))
    print(switches() - before - 1)  # the wait's own end
"""


def host(bench: Bench, count: int) -> str:
    """The root of a host with so many functions, which is made when it is first asked for."""
    root = bench.hosts / str(count)
    if not root.exists():
        hosts.make(root, count)
    return str(root)


@contextmanager
def mounted(root: str) -> Iterator[None]:
    """Let ``/sys`` be that of a host, for tools that know no other; see ``__main__``."""
    subprocess.run(["mount", "--bind", f"{root}/sys", "/sys"], check=True)  # noqa: S603, S607 - in a namespace of our own
    try:
        yield
    finally:
        subprocess.run(["umount", "/sys"], check=True)  # noqa: S607 - as above


def scan(bench: Bench) -> Iterator[Bar]:
    """``Host.scan()`` with a field of each function read, beside the floor."""
    ratios: dict[int, float] = {}
    for count in bench.sizes:
        medians = _scans(bench, host(bench, count), max(1, 4_000 // count), f"{count:,} functions")
        ratios[count] = medians["scan"] / medians["floor"]
        most = 1.5 if count == bench.large else None
        yield Bar("scan", f"{count:,} functions: times the floor", ratios[count], most)
    what = f"a function of {bench.large:,}: times one of {bench.small}, each in floors"
    yield Bar("scan", what, ratios[bench.large] / ratios[bench.small], 1.2)


def _scans(bench: Bench, root: str, loops: int, what: str) -> dict[str, float]:
    """The medians of loops of the floor and scans of a host, in processes by turns."""
    medians = bench.by_turns(
        {
            f"floor of {what}": lambda: bench.loop_seconds([bench.floor, root, str(loops)]),
            f"scan of {what}": lambda: bench.loop_seconds(
                bench.python("-c", _SCAN, root, str(loops))
            ),
        }
    )
    return {name.partition(" ")[0]: seconds for name, seconds in medians.items()}


def calls(bench: Bench) -> Iterator[Bar]:
    """System calls per function: the slope between two sizes, so that no start counts."""
    small, large = bench.sizes[-2:]

    def slope(command: Callable[[str], list[str]]) -> float:
        counts = [bench.calls(command(host(bench, size))).total() for size in (small, small, large)]
        return (counts[2] - counts[1]) / (large - small)

    floor = slope(lambda root: [bench.floor, root, "0"])
    ours = slope(lambda root: bench.python("-c", _SCAN, root, "0"))
    yield Bar("calls", "of the floor, a function", floor, unit="calls")
    yield Bar("calls", "of Host.scan() above the floor's, a function", ours - floor, 1, "calls")


def memory(bench: Bench) -> Iterator[Bar]:
    """The most memory while a scan is made and held, above the bare interpreter's."""
    idle = bench.peak("pass")
    held = "from vfiohost import Host; import sys; held = Host(sys.argv[1]).scan()"
    for count in (bench.small, bench.large):
        most = 40 if count == bench.large else None
        value = bench.peak(held, host(bench, count)) - idle
        yield Bar("memory", f"a scan of {count:,} above the interpreter", value, most, "MB")


def commands(bench: Bench) -> Iterator[Bar]:
    """Whole processes on the same ``/sys``: ours beside the tools that are there."""
    start = bench.python("-c", _START.partition("'")[2].rstrip("'"))
    lists = bench.vfiohost("list")
    small = {_START: start, "vfiohost list": lists}
    large = {
        "vfiohost list --json": [*lists, "--json"],
        "vfiohost mdev types": bench.vfiohost("mdev", "types"),
    }
    small_peers = (("driverctl", "list-devices"), ("dpdk-devbind.py", "--status"))
    large_peers = (("lspci", "-Dnnk"), ("mdevctl", "types"))
    for count, runs, peers in (
        (bench.small, small, small_peers),
        (bench.large, large, large_peers),
    ):
        runs |= {" ".join(words): list(words) for words in peers if shutil.which(words[0])}
        with mounted(host(bench, count)):
            medians = bench.by_turns(
                {f"{name} ({count:,})": bench.process(words) for name, words in runs.items()},
                rounds=bench.rounds if count == bench.small else max(1, bench.rounds // 3),
            )
        yield from _compared(count, {n.rpartition(" (")[0]: m for n, m in medians.items()})


def _compared(count: int, medians: Mapping[str, float]) -> Iterator[Bar]:
    asked = (
        ("vfiohost list", _START, 1.5),
        ("vfiohost list", "driverctl list-devices", 1.0),
        ("vfiohost list", "dpdk-devbind.py --status", 1 / 3),
        ("vfiohost list --json", "lspci -Dnnk", 0.7),
        ("vfiohost mdev types", "mdevctl types", None),
    )
    for ours, other, most in asked:
        if ours in medians and other in medians:
            what = f"{ours} of {count:,}: times {other}"
            yield Bar("commands", what, medians[ours] / medians[other], most)


def names(bench: Bench) -> Iterator[Bar]:
    """Names of ``pci.ids``: the first in a process, and those after it."""
    if not shutil.which("lspci"):
        return
    root = host(bench, bench.small)
    with mounted(root):
        medians = bench.by_turns(
            {
                "first name": lambda: bench.told(_NAMES, "first"),
                "later name": lambda: bench.told(_NAMES, "later"),
                "lspci -s 00:00.0": bench.process(["lspci", "-s", "00:00.0"]),
            }
        )
    yield Bar("names", "a name after the first", medians["later name"] * 1e6, 2, "us")
    ratio = medians["first name"] / medians["lspci -s 00:00.0"]
    yield Bar("names", "the first name: times the start of lspci", ratio, 1)


def udev(bench: Bench) -> Iterator[Bar]:
    """This machine's own ``/sys``, which alone libudev reads."""
    loops = 100
    ours = _scans(bench, "/", loops, "this machine")
    command = bench.python("-c", _PYUDEV, str(loops))
    name = "pyudev of this machine"
    peer = bench.by_turns({name: lambda: bench.loop_seconds(command)})[name]
    yield Bar("udev", "Host.scan(): times pyudev", ours["scan"] / peer)
    yield Bar("udev", "Host.scan(): times the floor", ours["scan"] / ours["floor"])


def mdevs(bench: Bench) -> Iterator[Bar]:
    """System calls for one mediated device more, without those of the stand-in for a driver."""
    counted = []
    for turn, count in enumerate((MDEVS, MDEVS, 2 * MDEVS)):
        root = bench.hosts / f"mdevs{turn}"
        hosts.make(root, bench.small)
        parent = next(root.glob("sys/class/mdev_bus/*")).name
        available = f"mdev_supported_types/{hosts.TYPES[0][0]}/available_instances"
        file = root / "sys/class/mdev_bus" / parent / available
        file.unlink()
        file.write_text(f"{count}\n")
        counted.append(bench.calls(bench.python("-c", _MDEVS, str(root), parent, str(count))))
    more = counted[2] - counted[1]
    journal = sum(more[name] / MDEVS for name in _JOURNALING)
    looks = more.total() / MDEVS - journal - 3
    yield Bar("mdevs", "to create one device more, beyond the store", looks + journal, 4, "calls")
    yield Bar("mdevs", "of these, to look before the store and after it", looks, unit="calls")
    yield Bar("mdevs", "of these, to have it in the journal, on the disk", journal, unit="calls")


def watch(bench: Bench) -> Iterator[Bar]:
    """The kernel's events: a burst that nobody reads meanwhile, and nothing at all."""
    lost = bench.told(_WATCH, str(EVENTS))
    yield Bar("watch", f"lost of a burst of {EVENTS:,} events", lost, 0, "events")
    woken = bench.told(_IDLE, "3")
    yield Bar("watch", "woken up in three seconds without an event", woken, 0, "times")


PARTS: Mapping[str, Callable[[Bench], Iterator[Bar]]] = {
    part.__name__: part for part in (scan, calls, memory, commands, names, udev, mdevs, watch)
}
"""All parts, by name."""
