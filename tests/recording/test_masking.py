"""Serial numbers in a configuration space do not get into a recording, and everything else does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfiohost.record.masking import mask_config

SERIAL = bytes.fromhex("0123456789abcdef")


def space(
    extended: dict[int, tuple[int, int, bytes]], standard: dict[int, tuple[int, int, bytes]]
) -> bytes:
    """A configuration space: at each offset a capability's id, the next one, and what follows."""
    config = bytearray(b"\xa5" * 4096)
    config[0x06] = 0x10
    config[0x0E] = 0
    config[0x34] = min(standard, default=0)
    config[0x100:0x104] = bytes(4)
    for offset, (number, following, content) in standard.items():
        config[offset : offset + 2 + len(content)] = bytes([number, following]) + content
    for offset, (number, following, content) in extended.items():
        header = (number | 1 << 16 | following << 20).to_bytes(4, "little")
        config[offset : offset + 4 + len(content)] = header + content
    return bytes(config)


def zeroed(config: bytes, offset: int, size: int) -> bytes:
    return config[:offset] + bytes(size) + config[offset + size :]


def test_the_serial_number_is_zeroed_and_nothing_else() -> None:
    config = space(
        {
            0x100: (0x0001, 0x148, b""),
            0x148: (0x0003, 0x158, SERIAL),
            0x158: (0x000B, 0xFF0, SERIAL),
            0xFF0: (0x0003, 0, SERIAL),
        },
        {},
    )
    assert mask_config(config) == zeroed(zeroed(config, 0x14C, 8), 0xFF4, 8)


def test_vital_product_data_that_stand_in_their_register_are_zeroed() -> None:
    config = space({}, {0x40: (0x01, 0x60, b""), 0x60: (0x03, 0, b"\x04\x80SN12")})
    assert mask_config(config) == zeroed(config, 0x64, 4)
    cardbus = bytearray(config)
    cardbus[0x0E], cardbus[0x34], cardbus[0x14] = 0x82, 0, 0x43
    assert mask_config(bytes(cardbus)) == zeroed(bytes(cardbus), 0x64, 4)
    without = bytearray(config)
    without[0x06] = 0
    assert mask_config(bytes(without)) == without


@pytest.mark.parametrize(
    ("extended", "masked"),
    [
        ({0x100: (0x0003, 0x100, SERIAL)}, [0x104]),
        ({0x100: (0x0001, 0x200, b""), 0x200: (0x0003, 0x100, SERIAL)}, [0x204]),
        ({0x100: (0x0003, 0x0FC, SERIAL)}, [0x104]),
        ({0x100: (0x0000, 0x200, b""), 0x200: (0x0003, 0, SERIAL)}, [0x204]),
        ({0x100: (0x0001, 0xFFC, b""), 0xFFC: (0x0003, 0x100, b"")}, []),
        ({0x100: (0xFFFF, 0xFFF, b"")}, []),
    ],
    ids=["to itself", "in a circle", "into the header", "hidden", "at the end", "all ones"],
)
def test_a_chain_that_makes_no_sense(
    extended: dict[int, tuple[int, int, bytes]], masked: list[int]
) -> None:
    config = space(extended, {})
    expected = config
    for offset in masked:
        expected = zeroed(expected, offset, 8)
    assert mask_config(config) == expected


def test_a_standard_chain_that_makes_no_sense() -> None:
    for following in (0x40, 0x00, 0x3C, 0xFC, 0x01):
        config = space({}, {0x40: (0x03, following, b"\x04\x80SN12")})
        assert mask_config(config)[0x44:0x48] == bytes(4)


@pytest.mark.parametrize("size", [0, 1, 63, 64, 255, 256, 257, 259, 260, 263, 4095, 4096, 9000])
def test_any_length(size: int) -> None:
    config = space({0x100: (0x0003, 0, SERIAL)}, {0x40: (0x03, 0, b"\x04\x80SN12")})
    config = (config + config + config)[:size]
    expected = zeroed(config, 0x44, 4) if size >= 0x48 else config
    if size >= 0x104:
        expected = zeroed(expected, 0x104, min(8, size - 0x104))
    assert mask_config(config) == expected


@given(st.binary(max_size=4096))
def test_only_zeros_come_in(config: bytes) -> None:
    masked = mask_config(config)
    assert len(masked) == len(config)
    assert all(new in (old, 0) for old, new in zip(config, masked, strict=True))
