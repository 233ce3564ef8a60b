"""What guests can be given, in the words of other tools."""

from __future__ import annotations

import attrs
import pytest

from tests.pure.hosts import device
from vfiohost.guests.resources import device_resource, mdev_resource
from vfiohost.names import PciNames


@pytest.mark.parametrize(
    ("name", "resource"),
    [
        ("GA102GL [A10]", "GA102GL_A10"),
        ("GH100-88K-A1", "GH10088KA1"),
        ("TU102GL [Quadro RTX 6000/8000]", "TU102GL_QUADRO_RTX_6000_8000"),
        ("GA100 [A100 PCIe 40GB]", "GA100_A100_PCIE_40GB"),
        ("GH100 [GH200 120GB / 480GB]", "GH100_GH200_120GB___480GB"),
        ("stra\xdfe \xe9", "STRAE_"),
        ("[]", "2236"),
    ],
)
def test_a_name_is_the_device_plugins(name: str, resource: str) -> None:
    names = PciNames.from_text(f"10de  NVIDIA Corporation\n\t2236  {name}\n")
    gpu = attrs.evolve(device("0000:65:00.0"), vendor_id=0x10DE, device_id=0x2236)
    assert device_resource(gpu, names) == f"nvidia.com/{resource}"


def test_a_device_without_a_name_goes_by_its_number() -> None:
    gpu = attrs.evolve(device("0000:65:00.0"), vendor_id=0x10DE, device_id=0x2571)
    assert device_resource(gpu, PciNames(b"")) == "nvidia.com/2571"


def test_a_vgpus_name_keeps_case_and_hyphens() -> None:
    assert mdev_resource("NVIDIA  RTX6000-Ada-24Q\n") == "nvidia.com/NVIDIA_RTX6000-Ada-24Q"
