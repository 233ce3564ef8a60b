"""The targets written in C: built with a fuzzer (clang), or to replay inputs (any compiler)."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from tests.fuzz.mutation import Found

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

HERE = Path(__file__).parent
CSRC = HERE.parents[1] / "csrc"
FLAGS = ["-std=gnu11", "-g", "-O1", "-Wall", "-Wextra", "-Werror", "-fno-sanitize-recover=all"]
FLAGS += [f"-I{CSRC}"]
SANITIZERS = "-fsanitize=address,undefined"
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else tempfile.gettempdir()

_EDGES = re.compile(r"\((\d+) inline 8-bit counters\)")
_COVERED = re.compile(r"cov: (\d+)")
_DONE = re.compile(r"stat::number_of_executed_units: +(\d+)")
_CRASH = re.compile(r"^(?:SUMMARY|.*Assertion `.*)$", re.MULTILINE)


@attrs.frozen
class Program:
    """A target of the fuzzer.

    Attributes:
        name: of its source and of its corpus.
        what: what is fuzzed, for the table.
        words: libFuzzer's dictionary.
        seeds: inputs to begin with, besides the corpus.
        longest: bytes of an input.
        share: its part of the time, in parts of the usual one.
    """

    name: str
    what: str
    words: Sequence[str]
    longest: int
    seeds: Sequence[bytes] = ()
    share: float = 1.0


MODALIAS = b"pci:v000010DEd00002236sv000010DEsd00001482bc03sc02i00\n"
ADDRESSES = (b"0000:65:00.0", b"10000:e1:1f.7")


def _said(text: bytes) -> bytes:
    """A text that scan.c's target answers with: no errno, the length, the text."""
    return bytes([0, len(text)]) + text


def _host(*, is_sysfs: bool, aliased: bool) -> bytes:
    """A sound host of two functions, as scan.c's target takes it."""

    def attribute(text: bytes) -> bytes:
        return (b"\0" if is_sysfs else b"\0\0\0") + _said(text)

    absent = b"\xd0"  # ENOENT
    entries = b"".join(bytes([len(name)]) + name for name in ADDRESSES)
    made = [bytes([is_sysfs, 0, 0, len(ADDRESSES)]), entries]
    for name in ADDRESSES:
        made += [_said(b"../../../devices/pci0000:64/" + name), b"\0"]
        ids = (b"0x10de\n", b"0x2236\n", b"0x030200\n", b"0x10de\n", b"0x1482\n")
        made += [attribute(MODALIAS)] if aliased else [absent, *map(attribute, ids)]
        made += map(attribute, (b"0xa1\n", b"-1\n", b"16\n"))
        made += [_said(b"../drivers/nouveau"), _said(b"../groups/15"), _said(b"../" + name)]
    return b"".join(made)


def _parent(*, is_sysfs: bool) -> bytes:
    """A sound parent of two types of mediated devices, as scan.c's target takes it."""
    name, types = ADDRESSES[0], (b"nvidia-595", b"nvidia-596")
    files = (b"NVIDIA A10-8Q\n", b"3\n", b"vfio-pci\n", b"num_heads=4\n")
    entries = b"".join(bytes([len(each)]) + each for each in types)
    made = [bytes([is_sysfs | 2]), _said(b"../../devices/pci0000:64/" + name), b"\0"]
    made += [_said(b"../" + ADDRESSES[1]), b"\0", bytes([0, len(types)]), entries]
    for _ in types:
        made += [b"\0", *((b"" if is_sysfs else b"\0\0") + _said(file) for file in files)]
    return b"".join(made)


def _space(size: int, *dwords: tuple[int, int]) -> bytes:
    """A configuration space, as config.c's target takes it: its size, and what is not zero."""
    return size.to_bytes(2, "little") + b"".join(
        (offset // 4).to_bytes(2, "little") + value.to_bytes(4, "little")
        for offset, value in ((0x04, 0x00100000), (0x34, 0x40), *dwords)
    )


def _spaces() -> Iterator[bytes]:
    """Spaces with each of the capabilities that are decoded, of several sizes, sound and broken."""
    standard = [(0x40, 0xC8035001), (0x50, 0x00887005), (0x70, 0x8007A011), (0xA0, 0x00420010)]
    extended = [(0x100, 0x12010003), (0x120, 0x1401000D), (0x140, 0x1601000E), (0x160, 0x00010010)]
    for size in (64, 256, 4096, 0xA6, 0x102, 0x17B):
        yield _space(size, *standard, *extended)
    for offset in (0x40, 0x100):
        for header in (0x00014001, 0x10010001, 0x0FC13C01, 0xFFFFFFFF, 0xFFC1FC01):
            yield _space(4096, (offset, header))


_WORDS: tuple[str, ...] = (
    "pci:v000010DE",
    "d00002236",
    "sv000010DE",
    "sd00001482",
    "bc03",
    "sc02",
    "i00",
    "0x",
    "0000:65:00.0",
    "10000:e1:00.0",
    "../../../devices/pci0000:64/",
    "../../../",
    "../../devices/pci0000:64/",
    "../drivers/nvidia",
    "-1\\x0a",
)
_TEXTS = (MODALIAS, *ADDRESSES, b"0x10de\n", b"65535\n")
_HOSTS = (
    *(_host(is_sysfs=a, aliased=b) for a in (False, True) for b in (False, True)),
    *(_parent(is_sysfs=a) for a in (False, True)),
)
_CAPABILITIES = (
    "\\x01\\x50",
    "\\x05\\x70",
    "\\x10\\x00\\x42\\x00",
    "\\x11\\x00",
    "\\x13\\x06\\x03",
    "\\x03\\x00\\x01\\x10",
    "\\x10\\x00\\x01\\x20",
    "\\x0d\\x00\\x01\\x10",
    "\\xff\\xff\\xff\\xff",
)
ALL = (
    Program("parsers", "`scan.c`: addresses, numbers, modaliases", _WORDS, 128, _TEXTS, 3),
    Program("scan", "`scan.c`, `mdev.c`: a whole scan of made-up answers", _WORDS, 4096, _HOSTS, 4),
    Program("read", "`read.c`: a file that changes, fails, never ends", ("\\xff",), 512),
    Program("open", "`open.c`: the walk against the kernel's `openat2`", ("\\xff",), 256, share=2),
    Program("config", "`config.c`: a configuration space", _CAPABILITIES, 1024, tuple(_spaces())),
)


def compiler() -> str | None:
    """Clang, which has libFuzzer; the newest where only numbered ones are installed."""
    folders = [Path(folder) for folder in os.environ.get("PATH", "").split(os.pathsep) if folder]
    named = [str(path) for folder in folders for path in sorted(folder.glob("clang-[0-9]*"))]
    plain = shutil.which("clang")
    return plain or (named[-1] if named else None)


def build(program: Program, folder: Path, *, command: Sequence[str], fuzzer: bool) -> Path:
    """Build a target.

    Args:
        program: which.
        folder: where the executable comes to lie.
        command: the compiler.
        fuzzer: with libFuzzer, which needs clang; else with ``replay.c``.
    """
    made = folder / program.name
    sources = [HERE / "targets" / f"{program.name}.c"]
    sources += [] if fuzzer else [HERE / "targets" / "replay.c"]
    sanitizers = SANITIZERS.replace("=", "=fuzzer,") if fuzzer else SANITIZERS
    subprocess.run([*command, *FLAGS, sanitizers, "-o", made, *sources], check=True)
    return made


def unpack(inputs: Iterable[bytes], folder: Path) -> list[Path]:
    """Write inputs to files of their own."""
    folder.mkdir(exist_ok=True)
    paths = []
    for number, data in enumerate(inputs):
        paths.append(folder / f"{number:05}")
        paths[-1].write_bytes(data)
    return paths


def environment(folder: Path) -> dict[str, str]:
    """What the targets need: a place for trees, on a tmpfs if possible."""
    return {**os.environ, "VFIOHOST_FUZZ_DIR": str(folder), "UBSAN_OPTIONS": "print_stacktrace=1"}


def fuzz(program: Program, corpus: Sequence[bytes], seconds: float, seed: int) -> Found:
    """Fuzz a target for a time, and minimise what was found.

    Raises:
        RuntimeError: there is no clang, or the fuzzer says nothing that can be counted.
    """
    clang = compiler()
    if clang is None:
        raise RuntimeError("There is no clang, whose fuzzer this needs: apt-get install clang")
    with tempfile.TemporaryDirectory(dir=MEMORY, prefix="vfiohost-fuzz-") as name:
        folder = Path(name)
        made = build(program, folder, command=[clang], fuzzer=True)
        unpack([*program.seeds, *corpus], folder / "corpus")
        words = "".join(f'"{word}"\n' for word in program.words)
        (folder / "words").write_text(words)
        options = [f"-max_total_time={max(1, round(seconds))}", f"-max_len={program.longest}"]
        options += ["-print_final_stats=1", "-timeout=5", f"-seed={seed}", "-rss_limit_mb=2048"]
        options += [f"-dict={folder / 'words'}", f"-artifact_prefix={folder}/crash-"]
        said = run([made, *options, folder / "corpus"], folder)
        (folder / "small").mkdir()
        merged = run([made, "-merge=1", folder / "small", folder / "corpus"], folder)
        found = Found(
            executions=int(last(_DONE, said)),
            seconds=seconds,
            covered=int(last(_COVERED, said)),
            edges=int(last(_EDGES, said)),
            corpus=[path.read_bytes() for path in (folder / "small").iterdir()],
        )
        for crash in folder.glob("crash-*"):
            summary = " ".join(_CRASH.findall(said + merged)[-2:])
            found.crashes.append((crash.read_bytes(), summary or said[-300:]))
        return found


def run(command: Sequence[str | Path], folder: Path) -> str:
    """Run a target; what it says."""
    done = subprocess.run(
        command,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=folder,
        env=environment(folder),
    )
    return done.stdout.decode("utf-8", "backslashreplace")


def last(pattern: re.Pattern[str], text: str) -> str:
    found: list[str] = pattern.findall(text)
    if not found:
        raise RuntimeError(f"The fuzzer did not say {pattern.pattern!r}, but: {text[-600:]}")
    return found[-1]
