"""The bar of the scan: at most three times the least that a C program needs for the same fields."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks import hosts
from benchmarks.scan import build_floor, measure

if TYPE_CHECKING:
    from pathlib import Path


def test_the_scan_is_within_three_times_the_floor(memory: Path, tmp_path: Path) -> None:
    hosts.make(memory / "host", 1000)
    timing = measure(str(memory / "host"), build_floor(tmp_path), rounds=5)
    assert timing.functions == 1000
    assert timing.ratio < 3
