from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pure.hosts import a10_type, device, mtty_bus
from vfiohost.errors import ParseError
from vfiohost.nvidia import (
    VgpuDescription,
    VgpuTypeName,
    describe,
    framebuffer_mib,
    is_gpu,
    is_nvswitch,
    short_name,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A10-8Q", VgpuTypeName("A10", None, 8, "Q", None)),
        ("NVIDIA A10-24C", VgpuTypeName("A10", None, 24, "C", None)),
        ("NVIDIA_A10-8Q", VgpuTypeName("A10", None, 8, "Q", None)),
        ("GRID T4-2B", VgpuTypeName("T4", None, 2, "B", None)),
        ("M60-0Q", VgpuTypeName("M60", None, 0, "Q", None)),
        ("RTX6000-Ada-24Q", VgpuTypeName("RTX6000-Ada", None, 24, "Q", None)),
        ("A100-1-5C", VgpuTypeName("A100", 1, 5, "C", None)),
        ("A100-1-5CME", VgpuTypeName("A100", 1, 5, "C", "ME")),
        ("H100XM-7-80CMEALL", VgpuTypeName("H100XM", 7, 80, "C", "MEALL")),
        ("DC-1-12QGFX", VgpuTypeName("DC", 1, 12, "Q", "GFX")),
        ("DC-1-12QNOME", VgpuTypeName("DC", 1, 12, "Q", "NOME")),
    ],
)
def test_names_of_vgpu_types_are_taken_apart(text: str, expected: VgpuTypeName) -> None:
    parsed = VgpuTypeName.parse(text)
    assert parsed == expected
    assert parsed.is_mig == (expected.slices is not None)
    assert str(parsed) == short_name(text)


@pytest.mark.parametrize(
    "text", ["T4-2B4", "A10-8", "A10-8X", "A10-08Q", "A10-8QME", "a10-8Q", "A10", "", "mtty-1"]
)
def test_what_is_no_name_of_a_vgpu_type(text: str) -> None:
    with pytest.raises(ParseError, match="the name of a vGPU type, such as A10-8Q"):
        VgpuTypeName.parse(text)


def test_a_description_is_taken_apart() -> None:
    text = (
        "num_heads=4, frl_config=60, framebuffer=24576M, max_resolution=7680x4320, max_instance=1"
    )
    assert VgpuDescription.parse(text) == VgpuDescription(4, 60, 24576, "7680x4320", 1)


@given(st.text())
def test_a_description_of_any_text_says_at_least_nothing(text: str) -> None:
    parsed = VgpuDescription.parse(text)
    assert parsed.framebuffer_mib is None or "framebuffer" in text


def test_numbers_that_make_no_sense_are_not_known() -> None:
    parsed = VgpuDescription.parse(f"framebuffer={'9' * 5000}M, max_instance=-1, num_heads=four")
    assert parsed == VgpuDescription(None, None, None, None, None)


def test_framebuffer() -> None:
    assert framebuffer_mib(a10_type("nvidia-595")) == 8192
    assert framebuffer_mib(mtty_bus().parents[0].types[0]) is None
    assert describe(a10_type("nvidia-596")).max_instance == 2


def test_gpus_and_switches() -> None:
    assert is_gpu(device("0000:65:00.0", class_code=0x030200))
    assert is_gpu(device("0000:65:00.0", class_code=0x030000))
    assert not is_gpu(device("0000:65:00.4", class_code=0x030200, physfn="0000:65:00.0"))
    assert not is_gpu(device("0000:65:00.1", class_code=0x040300))
    assert not is_gpu(device("0000:65:00.0", ids="1002:73bf", class_code=0x030000))
    assert is_nvswitch(device("0000:07:00.0", ids="10de:22a3", class_code=0x068000))
    assert not is_nvswitch(device("0000:07:00.0", ids="10de:22a3", class_code=0x060400))
