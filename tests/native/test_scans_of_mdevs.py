"""Many mediated devices are created after one scan, and with no other look at the whole host."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from benchmarks import hosts
from vfiohost import Host, Kernel, host_view
from vfiohost.scan import scan

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest

    from vfiohost.model import Snapshot
    from vfiohost.sysfs import Sysfs

MANY = 64


class Driver(Kernel):
    """Answers a store to ``create`` as an mdev driver does."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.give_up = lambda _: False

    def check_writable(self) -> None:
        pass

    def store(self, path: str, value: str, *, timeout: float, keep_fd: int | None = None) -> None:
        parent, _, type_id = path.removesuffix("/create").partition("/mdev_supported_types/")
        os.mkdir(self.root / parent / value)
        os.symlink(f"../mdev_supported_types/{type_id}", self.root / parent / value / "mdev_type")
        made = self.root / parent / "mdev_supported_types" / type_id / "devices"
        os.symlink(f"../../../{value}", made / value)
        folder = (self.root / parent).resolve().relative_to(self.root / "sys")
        os.symlink(f"../../../{folder}/{value}", self.root / "sys/bus/mdev/devices" / value)

    def load_module(self, name: str, *, timeout: float, keep_fd: int | None = None) -> None:
        raise AssertionError(name)


def counting(function: Callable[..., Snapshot], calls: list[bool]) -> Callable[..., Snapshot]:
    def counted(sysfs: Sysfs, *, mdev: bool = False) -> Snapshot:
        calls.append(mdev)
        return function(sysfs, mdev=mdev)

    return counted


def test_one_scan(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hosts.make(memory, 20)
    parent = next((memory / "sys/class/mdev_bus").iterdir())
    available = parent / "mdev_supported_types/nvidia-595/available_instances"
    available.unlink()
    available.write_text(f"{MANY}\n")
    scans: list[bool] = []
    monkeypatch.setattr(host_view, "scan", counting(scan, scans))
    with Host(memory, kernel=Driver(memory)) as host:
        report = host.apply(host.plan_mdev_create(parent.name, "nvidia-595", count=MANY))
        assert report.writes == MANY
        assert scans == [True]
        bus = host.scan(mdev=True).mdev
    assert bus is not None
    assert len(bus.devices) == MANY
