"""What is measured on a real kernel: in a machine of the lab, whose cards are made of memory.

Called in the guest; arguments and results are what JSON carries. Its clock counts instructions (see
:mod:`benchmarks.lab`): what is timed is how many there are, and the waits.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import parts
from benchmarks.measure import Bar, Bench
from tests.kernel.lab import guest, state
from tests.kernel.lab.layout import A10S
from vfiohost import Host

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

FOLDER = Path("/run/vfiohost-benchmarks")
LOOPS = 20
"""How often a process scans this machine."""
VFS = 32
"""Of each A10, with NVIDIA's stand-in as their driver, and so parents of mediated devices."""
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


def set_up(cards: str, driver: str) -> None:
    """Plug cards into the empty ports, and load the stand-in for a driver."""
    guest.load("vfio_pci")
    guest.load("synthgpu", f"plug={cards}")
    guest.load(driver)


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
    with Host() as host:
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
        medians = bench.by_turns({what: lambda: bind(RELEASE_MS), at_once: lambda: bind(0)})
    yield Bar("together", what, medians[what], 1.6, "s")
    wait = medians[what] - medians[at_once]
    yield Bar("together", "of these, that it takes its time", wait, unit="s")


def _with_vfs(number: int) -> int:
    """Let each A10 have so many virtual functions; the number of all functions."""
    for card in A10S:
        file = f"{state.DEVICES}/{card}/sriov_numvfs"
        if int(guest.read(file)) != number:
            guest.store("/sys/module/nvidia/parameters/sriov", "1")
            failed = guest.store(file, str(number))
            if failed is not None:
                raise OSError(failed[1], os.strerror(int(failed[1])), file)
    return len(guest.listdir(state.DEVICES))


PARTS: Mapping[str, Callable[[Bench], Iterator[Bar]]] = {
    part.__name__: part for part in (scan, calls, commands, udev, together)
}
"""All parts, by name."""


def machine_of(part: str) -> tuple[str, str]:
    """The cards of the machine that a part is measured in, and the module of their driver."""
    if part == together.__name__:
        return ",".join(["t4"] * 8), "nouveau"
    return "a10,a10,rtx3090,rtx2080,t4,l40s", "nvidia"
