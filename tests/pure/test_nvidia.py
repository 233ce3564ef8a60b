from __future__ import annotations

from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pure.hosts import a10_type, device, mtty_bus
from vfiohost import nvidia
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


FILE = """\
<?xml version="1.0" encoding="utf-8"?>
<!DOCTYPE vgpu SYSTEM "http://www.nvidia.com/dtd/vgpuConfig.dtd" [<!ENTITY a "&b;&b;">]>
<vgpuconfig>
  <vgpuType id="1155" name="NVIDIA L40S-24Q" class="Quadro">
    <devId vendorId="0x10de" deviceId="0x26B9" subsystemVendorId="0x10de" subsystemId="0x1"/>
    <framebuffer>0x5A0000000</framebuffer>
    <fbReservation>0x60000000</fbReservation>
    <profileSize>0x600000000</profileSize>
  </vgpuType>
  <vgpuType id="1150" name="NVIDIA L40S-4Q" class="Quadro">
    <framebuffer>0xE0000000</framebuffer>
    <fbReservation>0x20000000</fbReservation>
  </vgpuType>
  <vgpuType id="1151" name="NVIDIA L40S-6Q" class="Quadro">
    <framebuffer>0x150000000</framebuffer>
  </vgpuType>
  <vgpuType id="7" name="&a;" class="Quadro"></vgpuType>
  <pgpu>
    <devId vendorId="0x10de" deviceId="0x26B9" subsystemVendorId="0x10de" subsystemId="0x0"></devId>
    <supportedVgpu vgpuId="1155">
      <maxVgpus>2</maxVgpus>
      <digest type="signature">38fc</digest>
    </supportedVgpu>
    <supportedVgpu vgpuId="1150"><maxVgpus>12</maxVgpus></supportedVgpu>
    <supportedVgpu vgpuId="1151"><maxVgpus>8</maxVgpus></supportedVgpu>
    <supportedVgpu vgpuId="7"><maxVgpus>1</maxVgpus></supportedVgpu>
  </pgpu>
  <pgpu>
    <devId vendorId="0x10de" deviceId="0x1e78" subsystemVendorId="0x10de" subsystemId="0x13d8"/>
    <supportedVgpu vgpuId="1150"><maxVgpus>1</maxVgpus></supportedVgpu>
  </pgpu>
</vgpuconfig>
"""


def test_the_drivers_file_tells_names_memory_and_how_many() -> None:
    (card,) = nvidia.parse_vgpu_config(FILE, [0x26B9])
    assert (card.device_id, card.subsystem_device_id) == (0x26B9, None)
    assert [(t.number, t.name, t.max_instances, t.framebuffer_mib) for t in card.types] == [
        (1155, "NVIDIA L40S-24Q", 2, 24576),
        (1150, "NVIDIA L40S-4Q", 12, 4096),
        (1151, "NVIDIA L40S-6Q", 8, None),
    ]
    (other,) = nvidia.parse_vgpu_config(FILE, [0x1E78])
    assert other.subsystem_device_id == 0x13D8
    assert nvidia.parse_vgpu_config(FILE, []) == ()


@pytest.mark.parametrize(
    "text",
    [
        "<pgpu " * 500_000,
        "<vgpuType " * 300_000 + "</vgpuType>",
        '<vgpuType id="1" name="' + "x" * 3_000_000,
        "<pgpu>" + '<supportedVgpu vgpuId="1">' * 100_000 + " " * 500_000 + "</pgpu>",
        "<pgpu>" + "<devId" + " " * 3_000_000 + "</pgpu>",
        "</pgpu>" * 400_000,
        "\0\udc80<pgpu></pgpu>",
    ],
)
def test_a_hostile_file_costs_little_and_says_nothing(text: str) -> None:
    begin = process_time()
    assert not any(card.types for card in nvidia.parse_vgpu_config(text, [0x26B9]))
    assert process_time() - begin < 2


@given(st.text() | st.text(alphabet='<>/="pgpuvgpuTypeid 0x1&;'))
def test_any_text_is_a_file_of_some_types(text: str) -> None:
    assert all(card.device_id == 1 for card in nvidia.parse_vgpu_config(text, [1]))
