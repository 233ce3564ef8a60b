"""A store is all or nothing, whenever its caller is killed."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from tests.simulation.hosts import NIC, NVME, UUID, small_host
from tests.simulation.pictures import picture
from vfiohost import testing
from vfiohost.testing import SimulatedKernel

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from vfiohost.recording import Recording

# Everything that the simulation changes a file system with.
CHANGES = (
    "chmod",
    "fchmod",
    "link",
    "mkdir",
    "mkfifo",
    "open",
    "rename",
    "rmdir",
    "symlink",
    "unlink",
)

STORES = {
    "unbind": ("sys/bus/pci/drivers/e1000e/unbind", NIC),
    "create": ("sys/devices/virtual/mtty/mtty/mdev_supported_types/mtty-1/create", UUID),
    "numvfs": (f"sys/bus/pci/devices/{NVME}/sriov_numvfs", "1"),
}


def tiny_host() -> Recording:
    """The parts of the small host that the stores here need: creating it is most of the work."""
    recording = small_host()
    return attrs.evolve(
        recording,
        functions=tuple(f for f in recording.functions if f.path.endswith((NIC, NVME))),
        virtual_parents=recording.virtual_parents[:1],
        groups=(),
        modules=tuple(m for m in recording.modules if m.name in ("e1000e", "nvme_core", "nvme")),
    )


def kill_at(number: int) -> None:
    """Let this process be killed right before it changes the file system for the nth time."""
    left = number
    opening = os.open

    def armed(change: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **options: Any) -> Any:
            nonlocal left
            left -= change is not opening or bool(args[1] & os.O_CREAT)
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return change(*args, **options)

        return run

    for name in CHANGES:
        setattr(os, name, armed(getattr(os, name)))


def in_child(work: Callable[[], object], *, killed_at: int) -> bool:
    """Do something in a forked child; whether it was killed before it ended."""
    child = os.fork()
    if child == 0:
        try:
            kill_at(killed_at)
            work()
        except BaseException:  # noqa: BLE001 - the child must end here, whatever happens
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def visible(root: Path) -> dict[str, str]:
    """The host without what the simulation keeps for itself."""
    return {path: what for path, what in picture(root).items() if ".vfiohost-sim" not in path}


@pytest.mark.parametrize("store", STORES)
def test_a_kill_at_any_moment_leaves_before_or_after(scratch: Path, store: str) -> None:
    path, value = STORES[store]
    kernel = testing.create(tiny_host(), scratch / "clean")
    before = visible(scratch / "clean")
    kernel.store(path, value, timeout=5)
    after = visible(scratch / "clean")
    assert before != after

    outcomes = [False]
    number = 0
    killed = True
    while killed:
        number += 5 if outcomes[-1] else 1  # most of the work is done twice: look at it in samples
        root = scratch / str(number)
        kernel = testing.create(tiny_host(), root)
        killed = in_child(lambda: kernel.store(path, value, timeout=5), killed_at=number)  # noqa: B023
        survivor = SimulatedKernel(root)
        now = visible(root)
        assert now in (before, after)
        assert survivor.stores == ([(path, value)] if now == after else [])
        if now == before:
            survivor.store(path, value, timeout=5)  # nothing is in the way of another try
            assert visible(root) == after
        outcomes.append(now == after)
    assert outcomes[-1] is True
    assert outcomes == sorted(outcomes)  # one moment at which it becomes true, for good
    assert number > 10


def test_a_kill_while_a_killed_store_is_finished(scratch: Path) -> None:
    path, value = STORES["create"]
    kernel = testing.create(tiny_host(), scratch / "clean")
    kernel.store(path, value, timeout=5)
    after = visible(scratch / "clean")
    middle = 20
    for number in range(1, 1000, 5):
        root = scratch / str(number)
        kernel = testing.create(tiny_host(), root)
        assert in_child(lambda: kernel.store(path, value, timeout=5), killed_at=middle)  # noqa: B023
        assert (root / ".vfiohost-sim/redo.json").exists()
        assert visible(root) != after
        killed = in_child(lambda: SimulatedKernel(root), killed_at=number)  # noqa: B023
        SimulatedKernel(root)
        assert visible(root) == after
        if not killed:
            break
    assert number > 10


def test_a_half_made_simulation_is_none(scratch: Path) -> None:
    for number in range(1, 10_000, 7):
        root = scratch / str(number)
        if not in_child(lambda: testing.create(tiny_host(), root), killed_at=number):  # noqa: B023
            break
        if testing.is_simulation(root):
            SimulatedKernel(root).store(*STORES["unbind"], timeout=5)
    assert testing.is_simulation(root)


def test_an_interrupt_in_the_middle_leaves_no_torn_host(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, value = STORES["create"]
    testing.create(tiny_host(), scratch / "clean").store(path, value, timeout=5)
    kernel = testing.create(tiny_host(), scratch / "host")
    rename, renamed = os.rename, []

    def interrupted(*args: Any, **options: Any) -> None:
        renamed.append(args)
        if len(renamed) == 5:
            raise KeyboardInterrupt
        rename(*args, **options)

    monkeypatch.setattr(os, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        kernel.store(path, value, timeout=5)
    assert visible(scratch / "host") == visible(scratch / "clean")
