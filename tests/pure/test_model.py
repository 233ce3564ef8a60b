from __future__ import annotations

import pickle

import attrs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.pure.hosts import a10, details, device, rtx, snapshot, with_details
from vfiohost.errors import ParseError
from vfiohost.model import (
    PciAddress,
    Unavailable,
    is_dma_managed,
    is_vfio_driver,
    sorted_naturally,
)

addresses = st.builds(
    PciAddress,
    st.integers(0, 0xFFFFFFFF),
    st.integers(0, 0xFF),
    st.integers(0, 0x1F),
    st.integers(0, 7),
)


@given(addresses)
def test_an_address_survives_its_text(address: PciAddress) -> None:
    assert PciAddress.parse(str(address)) == address
    assert PciAddress.parse(str(address).upper()) == address


@given(addresses)
def test_the_short_form_is_the_one_of_domain_0(address: PciAddress) -> None:
    short = str(address).split(":", 1)[1]
    assert PciAddress.parse(short) == attrs.evolve(address, domain=0)


@given(st.lists(addresses, min_size=2))
def test_addresses_sort_by_number(some: list[PciAddress]) -> None:
    assert sorted(some) == sorted(some, key=attrs.astuple)


def test_a_wide_domain_comes_after_all_short_ones() -> None:
    assert PciAddress.parse("ffff:ff:1f.7") < PciAddress.parse("10000:00:00.0")
    assert str(PciAddress.parse("10000:E1:00.0")) == "10000:e1:00.0"


@given(st.text())
def test_other_text_is_a_parse_error_that_names_it(text: str) -> None:
    with pytest.raises(ParseError) as caught:
        PciAddress.parse(text, where="DEV")
    assert caught.value.text == text
    assert str(caught.value).startswith(f"DEV: {text!r} is not a PCI address")


@pytest.mark.parametrize(
    "text",
    ["65:00", "0000:65:20.0", "0000:65:00.8", "000:65:00.0", "123456789:65:00.0", " 65:00.0", ""],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ParseError, match=r"is not a PCI address such as 0000:65:00\.0"):
        PciAddress.parse(text)


@pytest.mark.parametrize(
    ("driver", "is_vfio", "is_managed"),
    [
        ("vfio-pci", True, True),
        ("nvgrace_gpu_vfio_pci", True, True),
        ("mlx5_vfio_pci", True, True),
        ("nvgrace-gpu-vfio-pci", True, True),
        ("pci-stub", False, True),
        ("pcieport", False, True),
        ("nouveau", False, False),
        ("vfio_pci", False, False),
        ("vfio-pci2", False, False),
    ],
)
def test_which_drivers_leave_the_group_alone(driver: str, is_vfio: bool, is_managed: bool) -> None:  # noqa: FBT001
    assert (is_vfio_driver(driver), is_dma_managed(driver)) == (is_vfio, is_managed)


def test_a_group_names_who_blocks_it() -> None:
    group = rtx().groups[1]
    assert not group.is_viable
    blockers = [(str(m.address), m.driver) for m in group.blockers]
    assert blockers == [
        ("0000:01:00.0", "nouveau"),
        ("0000:01:00.1", "snd_hda_intel"),
        ("0000:01:00.2", "xhci_hcd"),
        ("0000:01:00.3", "nvidia-gpu"),
    ]
    assert str(group.endpoints[0].address) == "0000:01:00.0"
    assert len(group.members) == len(group.endpoints) + 1


def test_no_driver_pci_stub_and_vfio_do_not_block() -> None:
    host = snapshot(
        device("0000:01:00.0", "vfio-pci", group=1),
        device("0000:01:00.1", "pci-stub", group=1),
        device("0000:01:00.2", None, group=1),
        device("0000:02:00.0", None),
    )
    assert host.groups[1].is_viable
    assert host.group_of(host.devices[3]) is None


def test_a_function_that_its_driver_has_registered_with_vfio_does_not_block() -> None:
    """``driver_managed_dma`` of NVIDIA's vGPU host driver, and ``vfio_dev_viable`` before 5.19."""
    vf = device("0000:01:00.4", "nvidia", group=1, physfn="0000:01:00.0", brings_vfio=True)
    assert snapshot(vf).groups[1].is_viable
    parent = device("0000:01:00.5", "nvidia", group=1, physfn="0000:01:00.0")
    assert snapshot(vf, parent).groups[1].blockers == (parent,)  # of mediated devices


def test_what_a_driver_brings_goes_with_it() -> None:
    vf = device("0000:01:00.4", "nvidia", group=1, physfn="0000:01:00.0", brings_vfio=True)
    assert vf.on("nvidia") == vf
    assert (vf.on(None).driver, vf.on(None).brings_vfio) == (None, False)
    assert snapshot(vf.on("nouveau")).groups[1].blockers == (vf.on("nouveau"),)
    assert not vf.on(None).on("nvidia").brings_vfio


def test_an_nvswitch_is_no_bridge() -> None:
    assert device("0000:03:00.0", ids="8086:1901", class_code=0x068000).is_bridge
    assert not device("0000:03:00.0", ids="10de:22a3", class_code=0x068000).is_bridge
    assert device("0000:03:00.0", ids="10de:22a3", class_code=0x060400).is_bridge


def test_virtual_functions_are_found_by_their_physical_one() -> None:
    host = snapshot(
        device("0000:65:00.0", "nvidia", group=1),
        device("0000:65:00.4", "nvidia", group=2, physfn="0000:65:00.0"),
        device("0000:65:00.5", "nvidia", group=3, physfn="0000:65:00.0"),
    )
    pf = PciAddress.parse("0000:65:00.0")
    assert [d.address.function for d in host.virtual_functions[pf]] == [4, 5]
    assert [d.is_vf for d in host.devices] == [False, True, True]


@pytest.mark.parametrize(
    ("driver", "uevent", "is_releasing"),
    [
        (None, "vfio-pci", True),
        (None, Unavailable(0, "device locked"), True),
        (None, Unavailable(13, "Permission denied"), False),
        (None, None, False),
        ("vfio-pci", "vfio-pci", False),
    ],
)
def test_a_device_is_releasing_when_its_link_is_gone_but_not_its_driver(
    driver: str | None,
    uevent: str | Unavailable | None,
    is_releasing: bool,  # noqa: FBT001
) -> None:
    host = snapshot(device("0000:65:00.0", driver))
    host = with_details(host, "0000:65:00.0", details(uevent))
    assert host.is_releasing(host.devices[0]) is is_releasing


def test_a_snapshot_survives_pickling() -> None:
    host = a10("nouveau")
    copy = pickle.loads(pickle.dumps(host))
    assert copy == host
    assert copy.pci == host.pci


def test_numbers_in_names_sort_as_numbers() -> None:
    assert sorted_naturally(["nvidia-10", "nvidia-9", "nvidia-0", "nvidia-100", "a"]) == [
        "a",
        "nvidia-0",
        "nvidia-9",
        "nvidia-10",
        "nvidia-100",
    ]


@given(st.lists(st.text()))
@example(["²", "1²", "٣"])
@example(["9" * 5000, "x"])
def test_any_texts_can_be_sorted(texts: list[str]) -> None:
    assert sorted(sorted_naturally(texts)) == sorted(texts)
