"""Configuration spaces for tests: made-up ones, recorded ones, and what lspci makes of them."""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import pytest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

H100_GUEST = Path(__file__).with_name("h100-guest.lspci")


@attrs.frozen
class Cap:
    """A capability to be made: what follows its id and pointer (standard) or header (extended)."""

    id: int
    content: bytes
    version: int = 1


def space(
    standard: Sequence[Cap] = (), extended: Sequence[Cap] = (), *, size: int = 4096, gap: int = 0
) -> bytes:
    """A configuration space with two sound chains, the links ``gap`` dwords apart."""
    config = bytearray(size)
    config[0x00:0x10] = bytes.fromhex("de103622 0604 1000 a1000203 00000000")
    config[0x2C:0x30] = bytes.fromhex("de108214")
    pointer, offset = 0x34, 0x40
    for cap in standard:
        config[pointer] = offset
        config[offset] = cap.id
        config[offset + 2 : offset + 2 + len(cap.content)] = cap.content
        pointer, offset = offset + 1, _after(offset + 2 + len(cap.content), gap)
        assert offset <= 0x100
    offset = 0x100
    for cap in extended:
        following = _after(offset + 4 + len(cap.content), gap)
        header = cap.id | cap.version << 16 | (following << 20 if cap is not extended[-1] else 0)
        config[offset : offset + 4] = header.to_bytes(4, "little")
        config[offset + 4 : offset + 4 + len(cap.content)] = cap.content
        offset = following
        assert offset <= size
    return bytes(config)


def _after(end: int, gap: int) -> int:
    return (end + 3) // 4 * 4 + 4 * gap


def words(*numbers: int) -> bytes:
    """Registers of 16 bits."""
    return b"".join(number.to_bytes(2, "little") for number in numbers)


def express(kind: int, *, version: int = 2, rng: random.Random | None = None) -> Cap:
    """A PCI Express capability; what is in its registers is chance."""
    body = bytearray((rng or random.Random(kind)).randbytes(0x3C - 2))
    body[0:2] = (version | kind << 4).to_bytes(2, "little")
    return Cap(0x10, bytes(body))


def random_space(rng: random.Random) -> bytes:
    """A sound space with any of the capabilities that are decoded, and chance in registers."""
    kind = rng.choice((0, 1, 4, 5, 6, 7, 8, 9, 10))
    standard = [express(kind, version=rng.choice((1, 2)), rng=rng)]
    for number, size in ((0x01, 6), (0x05, 22), (0x11, 10), (0x09, 14), (0x03, 6), (0x13, 4)):
        if rng.random() < 0.6:
            body = bytearray(rng.randbytes(size))
            if number == 0x09:
                body[0] = size + 2
            if number == 0x13:
                body[0] = 6
            standard.append(Cap(number, bytes(body)))
    extended = []
    for number, size in ((0x01, 0x44), (0x03, 8), (0x0D, 4), (0x0E, 4), (0x10, 60), (0x7E, 8)):
        if rng.random() < 0.6:
            extended.append(Cap(number, rng.randbytes(size), rng.randrange(16)))
    rng.shuffle(standard)
    rng.shuffle(extended)
    return space(standard, extended, gap=rng.randrange(2))


def load_dump(text: str) -> dict[str, bytes]:
    """The spaces of a file like ``h100-guest.lspci``, by address."""
    found: dict[str, bytearray] = {}
    current = bytearray()
    for line in text.splitlines():
        if head := re.fullmatch(r"([0-9a-f:.]{7,}) .*\((\d+) bytes\)", line):
            current = found[head[1]] = bytearray(int(head[2]))
        elif row := re.fullmatch(r"([0-9a-f]+): ([0-9a-f ]+)", line):
            offset, content = int(row[1], 16), bytes.fromhex(row[2])
            current[offset : offset + len(content)] = content
    return {address: bytes(config) for address, config in found.items()}


def lspci(spaces: Mapping[str, bytes], folder: Path) -> dict[str, str]:
    """What ``lspci -vvv`` says of spaces, by address; a space has 64, 256 or 4096 bytes."""
    if shutil.which("lspci") is None:
        if os.environ.get("CI"):
            pytest.fail("there is no lspci")
        pytest.skip("there is no lspci")
    dump = folder / "dump"
    with dump.open("w") as file:
        for address, config in spaces.items():
            file.write(f"{address} x\n")
            for offset in range(0, len(config), 16):
                file.write(f"{offset:02x}: {config[offset : offset + 16].hex(' ')}\n")
            file.write("\n")
    done = subprocess.run(
        ["lspci", "-D", "-F", dump, "-vvv", "-n"], check=True, capture_output=True, text=True
    )
    blocks = (block for block in done.stdout.split("\n\n") if block.strip())
    return {block.split(" ", 1)[0]: block for block in blocks}
