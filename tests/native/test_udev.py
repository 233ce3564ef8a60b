"""Waiting for udev to be done with VFIO nodes."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

from vfiohost import udev
from vfiohost.sysfs import Sysfs

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


class Machine:
    """As much of a Sysfs on ``/`` as the wait looks at."""

    root = "/"

    def __init__(self, nodes: list[str], *, udevd: bool = True) -> None:
        self.nodes = nodes
        self.udevd = udevd

    def exists(self, path: str) -> bool:
        assert path == "run/udev/control"
        return self.udevd

    def listdir(self, path: str) -> list[str]:
        assert path == "sys/class/vfio"
        return list(self.nodes)


def looks(monkeypatch: pytest.MonkeyPatch, done_after: dict[str, int]) -> Counter[str]:
    """Let udev be done with each node after so many looks; count the looks."""
    asked: Counter[str] = Counter()

    def is_done(name: str) -> bool:
        asked[name] += 1
        return asked[name] > done_after[name]

    monkeypatch.setattr(udev, "_database", lambda: is_done)
    return asked


def test_waits_for_the_nodes_that_udev_has_not_dealt_with(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = looks(monkeypatch, {"8": 0, "12": 3})
    assert udev.await_vfio_nodes(Machine(["12", "8"]), timeout=10) == ()  # type: ignore[arg-type]
    assert asked == {"8": 1, "12": 4}


def test_names_what_udev_did_not_deal_with_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    looks(monkeypatch, {"8": 0, "12": 1 << 30})
    began = time.monotonic()
    late = udev.await_vfio_nodes(Machine(["12", "8"]), timeout=0.05)  # type: ignore[arg-type]
    assert late == ("/dev/vfio/12",)
    assert time.monotonic() - began < 5


def test_does_not_wait_where_no_udevd_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = looks(monkeypatch, {"12": 1 << 30})
    machine = Machine(["12"], udevd=False)
    assert udev.await_vfio_nodes(machine, timeout=60) == ()  # type: ignore[arg-type]
    assert not asked


def test_does_not_wait_below_another_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = looks(monkeypatch, {"12": 1 << 30})
    (tmp_path / "run/udev").mkdir(parents=True)
    (tmp_path / "run/udev/control").touch()
    (tmp_path / "sys/class/vfio/12").mkdir(parents=True)
    with Sysfs(tmp_path) as sysfs:
        assert udev.await_vfio_nodes(sysfs, timeout=60) == ()
    assert not asked


def test_a_node_that_is_gone_is_not_waited_for() -> None:
    # The real libudev, asked for a group that no machine has.
    assert udev._database()("no such group")


def test_that_udev_cannot_be_asked_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise ImportError("No library named udev")

    monkeypatch.setattr(udev, "_database", missing)
    assert udev.await_vfio_nodes(Machine(["12"]), timeout=60) == ()  # type: ignore[arg-type]
