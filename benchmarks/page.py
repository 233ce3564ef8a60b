"""What was measured: as lines, as a page of the documentation, and as a picture."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.measure import Bar

_BEGIN = "<!-- measured: written by python -m benchmarks --page docs -->"
_END = "<!-- measured: end -->"
_LAB_BEGIN = "<!-- in the lab: written by python -m benchmarks --lab KERNEL --page docs -->"
_LAB_END = "<!-- in the lab: end -->"


def bar_line(bar: Bar, *, is_judged: bool = True) -> str:
    """A bar as a line of a terminal; a machine that is emulated says nothing of what is met."""
    is_silent = bar.most is None or not is_judged
    verdict = "" if is_silent else f"  {'met' if bar.is_met else 'NOT MET'}"
    return f"{bar.part:9} {bar.what:64} {_value(bar):>12} {_most(bar):>12}{verdict}"


def machine() -> dict[str, str]:
    """What the numbers depend on."""
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "processor": f"{models[0] if models else platform.machine()}, {os.cpu_count()} cores",
        "kernel": platform.release(),
        "python": platform.python_version(),
        "lspci": _version(["lspci", "--version"]),
        "driverctl": _version(["dpkg-query", "-Wf", "${Version}", "driverctl"]),
        "dpdk": _version(["dpkg-query", "-Wf", "${Version}", "dpdk"]),
        "mdevctl": _version(["mdevctl", "--version"]),
    }


def write_page(folder: Path, bars: Sequence[Bar], facts: dict[str, str], rounds: int) -> None:
    """Write the table of ``benchmarks.md`` anew, between its marks, and the picture."""
    rows = [
        f"| {bar.part} | {bar.what} | {_value(bar)} | {_most(bar) or '-'} | {_verdict(bar)} |"
        for bar in bars
    ]
    table = ["| part | what | measured | at most | |", "|---|---|---:|---:|---|", *rows]
    _put(
        folder, (_BEGIN, _END), [*table, "", f"Medians of {rounds} runs by turns: {_told(facts)}."]
    )
    (folder / "benchmarks.svg").write_text(picture([b for b in bars if b.most]))


def write_lab_page(folder: Path, bars: Sequence[Bar], facts: dict[str, str], rounds: int) -> None:
    """Write the lab's table of ``benchmarks.md`` anew, between its marks: without a verdict."""
    rows = [f"| {bar.part} | {bar.what} | {_value(bar)} | {_most(bar) or '-'} |" for bar in bars]
    table = ["| part | what | measured | asked elsewhere |", "|---|---|---:|---:|", *rows]
    runs = f"Runs of each, after one to warm up: {rounds}; {_told(facts)}."
    _put(folder, (_LAB_BEGIN, _LAB_END), [*table, "", runs])


def _put(folder: Path, marks: tuple[str, str], lines: Sequence[str]) -> None:
    """Write lines of ``benchmarks.md`` anew."""
    page = folder / "benchmarks.md"
    begin, end = marks
    before, _, rest = page.read_text().partition(begin)
    after = rest.partition(end)[2]
    page.write_text("\n".join([f"{before}{begin}", *lines, f"{end}{after}"]))


def _told(facts: dict[str, str]) -> str:
    return "; ".join(f"{name} {text}" for name, text in facts.items() if text)


def picture(bars: Sequence[Bar]) -> str:
    """Each bar as the share of what it may be; the line is what it may be."""
    height, top, full = 22, 26, 300
    size = f'width="860" height="{top + height * len(bars) + 10}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{420 + full}" y="16" text-anchor="middle">at most</text>',
    ]
    for row, bar in enumerate(bars):
        y = top + row * height
        share = min(bar.value / bar.most, 1.3) if bar.most else 0.0
        colour = "#3b7d4f" if bar.is_met else "#b5442e"
        what = f"{bar.part}: {bar.what}".replace("&", "&amp;").replace("<", "&lt;")
        width = max(1, round(share * full))
        lines += [
            f'<text x="410" y="{y + 14}" text-anchor="end">{what}</text>',
            f'<rect x="420" y="{y + 3}" width="{width}" height="{height - 8}" fill="{colour}"/>',
        ]
    bottom = top + height * len(bars)
    x = 420 + full
    lines.append(f'<line x1="{x}" y1="{top}" x2="{x}" y2="{bottom}" stroke="black"/>')
    return "\n".join([*lines, "</svg>", ""])


def _value(bar: Bar) -> str:
    digits = 0 if bar.unit in ("events", "times") else 1 if bar.unit in ("MB", "calls") else 2
    return f"{bar.value:.{digits}f}{f' {bar.unit}' if bar.unit else ''}"


def _most(bar: Bar) -> str:
    if bar.most is None:
        return ""
    return f"{bar.most:.3g}{f' {bar.unit}' if bar.unit else ''}"


def _verdict(bar: Bar) -> str:
    if bar.most is None:
        return ""
    return "met" if bar.is_met else "not met"


def _version(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - fixed
    except OSError:
        return ""
    return done.stdout.strip().split(" ")[-1] if done.returncode == 0 else ""
