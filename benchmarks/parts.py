"""The parts of the benchmark: each measures one thing beside what people would use otherwise."""

from __future__ import annotations

import shutil
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

from benchmarks import hosts
from benchmarks.measure import Bar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from benchmarks.measure import Bench, TreeBench

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


def host(bench: TreeBench, count: int) -> str:
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


def scan(bench: TreeBench) -> Iterator[Bar]:
    """``Host.scan()`` with a field of each function read, beside the floor."""
    ratios: dict[int, float] = {}
    for count in bench.sizes:
        medians = scans(bench, host(bench, count), max(1, 4_000 // count), f"{count:,} functions")
        ratios[count] = medians["scan"] / medians["floor"]
        most = 1.5 if count == bench.large else None
        yield Bar("scan", f"{count:,} functions: times the floor", ratios[count], most)
    what = f"a function of {bench.large:,}: times one of {bench.small}, each in floors"
    yield Bar("scan", what, ratios[bench.large] / ratios[bench.small], 1.2)


def scans(bench: Bench, root: str, loops: int, what: str) -> dict[str, float]:
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


def calls(bench: TreeBench) -> Iterator[Bar]:
    """System calls per function: the slope between two sizes, so that no start counts.

    Only while nobody renames anything: ``openat2(2)`` says EAGAIN then, and is asked again.
    """
    small, large = bench.sizes[-2:]
    scan_calls(bench, host(bench, small))  # warms up
    few, many = (scan_calls(bench, host(bench, size)) for size in (small, large))
    yield from calls_compared(few, many, large - small)


def scan_calls(bench: Bench, root: str) -> tuple[int, int]:
    """How many system calls the floor makes for a host, and a process that scans it once."""
    commands = ([bench.floor, root, "0"], bench.python("-c", _SCAN, root, "0"))
    floor, ours = (bench.calls(command).total() for command in commands)
    return floor, ours


def calls_compared(few: tuple[int, int], many: tuple[int, int], functions: int) -> Iterator[Bar]:
    """What so many functions more cost the floor, and us above it."""
    floor, ours = ((after - before) / functions for before, after in zip(few, many, strict=True))
    yield Bar("calls", "of the floor, a function", floor, unit="calls")
    yield Bar("calls", "of Host.scan() above the floor's, a function", ours - floor, 1, "calls")


def memory(bench: TreeBench) -> Iterator[Bar]:
    """The most memory while a scan is made and held, above the bare interpreter's."""
    idle = bench.peak("pass")
    held = "from vfiohost import Host; import sys; held = Host(sys.argv[1]).scan()"
    for count in (bench.small, bench.large):
        most = 40 if count == bench.large else None
        value = bench.peak(held, host(bench, count)) - idle
        yield Bar("memory", f"a scan of {count:,} above the interpreter", value, most, "MB")


def commands(bench: TreeBench) -> Iterator[Bar]:
    """Whole processes on the same ``/sys``: ours beside the tools that are there."""
    with mounted(host(bench, bench.small)):
        yield from lists(bench, bench.small, bench.rounds)
    runs = {
        "vfiohost list --json": bench.vfiohost("list", "--json"),
        "vfiohost mdev types": bench.vfiohost("mdev", "types"),
    }
    peers = (("lspci", "-Dnnk"), ("mdevctl", "types"))
    with mounted(host(bench, bench.large)):
        yield from _beside(bench, runs, peers, bench.large, max(1, bench.rounds // 3))


def lists(bench: Bench, count: int, rounds: int) -> Iterator[Bar]:
    """``vfiohost list`` of a few functions, most of which is its start."""
    start = bench.python("-c", _START.partition("'")[2].rstrip("'"))
    runs = {_START: start, "vfiohost list": bench.vfiohost("list")}
    peers = (("driverctl", "list-devices"), ("dpdk-devbind.py", "--status"))
    yield from _beside(bench, runs, peers, count, rounds)


def _beside(
    bench: Bench,
    runs: dict[str, list[str]],
    peers: Iterable[tuple[str, ...]],
    count: int,
    rounds: int,
) -> Iterator[Bar]:
    """Our commands beside those tools that are there, on a ``/sys`` with so many functions."""
    runs |= {" ".join(words): list(words) for words in peers if shutil.which(words[0])}
    named = {name: f"{name} ({count:,})" for name in runs}
    timed = {named[name]: bench.process(words) for name, words in runs.items()}
    medians = bench.by_turns(timed, rounds=rounds)
    asked = (
        ("vfiohost list", _START, 1.5),
        ("vfiohost list", "driverctl list-devices", 1.0),
        ("vfiohost list", "dpdk-devbind.py --status", 1 / 3),
        ("vfiohost list --json", "lspci -Dnnk", 0.7),
        ("vfiohost mdev types", "mdevctl types", None),
    )
    for ours, other, most in asked:
        if ours in runs and other in runs:
            what = f"{ours} of {count:,}: times {other}"
            yield Bar("commands", what, medians[named[ours]] / medians[named[other]], most)


def names(bench: TreeBench) -> Iterator[Bar]:
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
    yield from udev_compared(bench, 100)


def udev_compared(bench: Bench, loops: int) -> Iterator[Bar]:
    """Scans of this machine and the floor, so many in a process, and a quarter of it for pyudev."""
    ours = scans(bench, "/", loops, "this machine")
    command = bench.python("-c", _PYUDEV, str(loops // 4))
    name = "pyudev of this machine"
    peer = bench.by_turns({name: lambda: bench.loop_seconds(command)})[name]
    yield Bar("udev", "Host.scan(): times pyudev", ours["scan"] / peer)
    yield Bar("udev", "Host.scan(): times the floor", ours["scan"] / ours["floor"])


def mdevs(bench: TreeBench) -> Iterator[Bar]:
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


PARTS: Mapping[str, Callable[[TreeBench], Iterator[Bar]]] = {
    part.__name__: part for part in (scan, calls, memory, commands, names, udev, mdevs, watch)
}
"""All parts, by name."""
