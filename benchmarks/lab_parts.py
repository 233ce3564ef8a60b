"""What is measured on a real kernel: in a machine of the lab, whose cards are made of memory.

Called in the guest; arguments and results are what JSON carries. Its clock counts instructions (see
:mod:`benchmarks.lab`): what is timed is how many there are, and the waits.
"""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import parts
from benchmarks.measure import Bar, Bench
from tests.kernel.lab import guest, state
from tests.kernel.lab.layout import A10S
from vfiohost import Host

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

FOLDER = Path("/run/vfiohost-benchmarks")
LOOPS = 20
"""How often a process scans this machine."""
VFS = 32
"""Of each A10, with NVIDIA's stand-in as their driver, and so parents of mediated devices."""
GPUS = 8
T4_IDS = "10de:1eb8"
RELEASE_MS = 1000
"""How long nouveau's stand-in takes to let go of a GPU, in :func:`together`."""
_RELEASE = "/sys/module/nouveau/parameters/remove_ms"


def measure(part: str, floor: str, rounds: int) -> dict[str, Any]:
    """Measure one part.

    Args:
        part: its name.
        floor: the program, which was compiled outside.
        rounds: how often each thing is run.

    Returns:
        The fields of each of its ``bars``, and all ``seconds`` that were taken, by what took them.
    """
    FOLDER.mkdir(exist_ok=True)
    bench = Bench(FOLDER, Path(floor), rounds)
    return {"bars": list(PARTS[part](bench)), "seconds": bench.times}


def set_up() -> None:
    """Load what the parts need, and NVIDIA's stand-in."""
    guest.load("vfio_pci")
    guest.load("synthgpu")
    guest.load("nvidia", "sriov=1")


def scan(bench: Bench) -> Iterator[Bar]:
    """``Host.scan()`` without virtual functions and with them, beside the floor."""
    for vfs in (0, VFS):
        count = _with_vfs(vfs)
        medians = parts.scans(bench, "/", LOOPS, f"{count} functions")
        ratio = medians["scan"] / medians["floor"]
        yield Bar("scan", f"{count} functions: times the floor", ratio, 1.5)


def calls(bench: Bench) -> Iterator[Bar]:
    """System calls per function: what those of the virtual functions add."""
    without = _with_vfs(0)
    parts.scan_calls(bench, "/")  # warms up
    few = parts.scan_calls(bench, "/")
    functions = _with_vfs(VFS) - without
    yield from parts.calls_compared(few, parts.scan_calls(bench, "/"), functions)


def commands(bench: Bench) -> Iterator[Bar]:
    """``vfiohost list`` beside the tools that are there."""
    # More of them: the host's files are behind a network's protocol, whose waits differ.
    yield from parts.lists(bench, _with_vfs(0), 3 * bench.rounds)


def udev(bench: Bench) -> Iterator[Bar]:
    """``Host.scan()`` beside libudev."""
    _with_vfs(VFS)
    yield from parts.udev_compared(bench, LOOPS)


def together(bench: Bench) -> Iterator[Bar]:
    """One plan for GPUs whose driver takes its time to let go of each, or does so at once."""
    with _plugged(["t4"] * GPUS), Host() as host:
        gpus = [str(device.address) for device in host.select(T4_IDS)]

        def bind(release_ms: int) -> float:
            guest.store(_RELEASE, str(release_ms))
            stores: list[float] = []
            read_back: list[float] = []
            host.apply(
                host.plan_bind(gpus),
                watch=lambda *_, **__: stores.append(time.perf_counter()),
                progress=lambda _: read_back.append(time.perf_counter()),
            )
            host.apply(host.plan_restore(gpus))
            return read_back[-1] - stores[0]

        what = f"to bind {len(gpus)} GPUs whose driver takes {RELEASE_MS} ms to let go of each"
        at_once = f"to bind {len(gpus)} GPUs whose driver lets go at once"
        runs = {what: lambda: bind(RELEASE_MS), at_once: lambda: bind(0)}
        medians = bench.by_turns(runs)
    yield Bar("together", what, medians[what], 1.6, "s")
    yield Bar(
        "together", "of these, that it takes its time", medians[what] - medians[at_once], None, "s"
    )


@contextmanager
def _plugged(cards: Sequence[str]) -> Iterator[None]:
    """Have these cards in place of the usual ones, and the stand-in for nouveau as their driver."""
    _with_vfs(0)
    _unload("nvidia", "synthgpu")
    guest.load("synthgpu", f"plug={','.join(cards)}")
    guest.load("nouveau")
    try:
        yield
    finally:
        guest.store(_RELEASE, "0")
        _unload("nouveau", "synthgpu")
        set_up()


def _unload(*modules: str) -> None:
    done = guest.run(["modprobe", "-r", *modules])
    if done["status"] != 0:
        raise RuntimeError(done["stderr"])


def _with_vfs(number: int) -> int:
    """Let each A10 have so many virtual functions; the number of all functions."""
    for card in A10S:
        file = f"{state.DEVICES}/{card}/sriov_numvfs"
        if int(guest.read(file)) != number:
            failed = guest.store(file, str(number))
            if failed is not None:
                raise OSError(failed[1], os.strerror(int(failed[1])), file)
    return len(guest.listdir(state.DEVICES))


PARTS: Mapping[str, Callable[[Bench], Iterator[Bar]]] = {
    part.__name__: part for part in (scan, calls, commands, udev, together)
}
"""All parts, by name."""
