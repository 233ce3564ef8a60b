from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pure.hosts import a10, device, rtx, snapshot
from tests.pure.test_model import addresses
from vfiohost.errors import AmbiguousError, NotFoundError, ParseError, VfioHostError
from vfiohost.selectors import (
    CLASSES,
    ByName,
    matcher,
    parse,
    place_of,
    select,
    select_all,
    select_one,
)

if TYPE_CHECKING:
    from vfiohost.model import PciAddress, PciDevice, Snapshot

UUID = "2c7c1f0e-5a0f-4f5e-9d3c-0123456789ab"
SERVER = snapshot(
    device("0000:00:01.0", "pcieport", ids="8086:1901", class_code=0x060400, group=8),
    device("0000:0a:00.0", ids="144d:a808", class_code=0x010802, group=8),
    device("0000:0a:00.1", ids="8086:10d3", class_code=0x020000, group=8),
    device("0000:65:00.0", ids="10de:2236", class_code=0x030200, group=30),
    device("0000:65:00.1", ids="10de:10f8", class_code=0x040300, group=30),
    device("0000:b4:00.0", ids="10de:2236", class_code=0x030200, group=40),
    device("0001:65:00.0", ids="1a03:2000", class_code=0x030000),
    device("10000:e1:00.0", ids="144d:a808", class_code=0x010802),
)


def hits(text: str, host: Snapshot = SERVER) -> list[str]:
    return [str(d.address) for d in select(parse(text), host)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0000:65:00.0", ["0000:65:00.0"]),
        ("65:00.0", ["0000:65:00.0"]),
        ("B4:00.0", ["0000:b4:00.0"]),
        ("00010000:E1:00.0", ["10000:e1:00.0"]),
        ("0000:0a:*.*", ["0000:0a:00.0", "0000:0a:00.1"]),
        ("0000:0A:*.*", ["0000:0a:00.0", "0000:0a:00.1"]),
        ("*:65:00.?", ["0000:65:00.0", "0000:65:00.1", "0001:65:00.0"]),
        ("65:00.*", ["0000:65:00.0", "0000:65:00.1"]),
        ("*:65:00.[!0]", ["0000:65:00.1"]),
        ("10000:*", ["10000:e1:00.0"]),
        ("class:gpu", ["0000:65:00.0", "0000:b4:00.0"]),
        ("class:display", ["0000:65:00.0", "0000:b4:00.0", "0001:65:00.0"]),
        ("class:vga", ["0001:65:00.0"]),
        ("class:0302", ["0000:65:00.0", "0000:b4:00.0"]),
        ("class:0x030200", ["0000:65:00.0", "0000:b4:00.0"]),
        ("CLASS:GPU", ["0000:65:00.0", "0000:b4:00.0"]),
        ("class:nvme", ["0000:0a:00.0", "10000:e1:00.0"]),
        ("class:storage", ["0000:0a:00.0", "10000:e1:00.0"]),
        ("class:net", ["0000:0a:00.1"]),
        ("class:audio", ["0000:65:00.1"]),
        ("class:bridge", ["0000:00:01.0"]),
        ("10de:2236", ["0000:65:00.0", "0000:b4:00.0"]),
        ("10DE:2236", ["0000:65:00.0", "0000:b4:00.0"]),
        ("group:8", ["0000:0a:00.0", "0000:0a:00.1"]),
        ("class:gpu:1", ["0000:b4:00.0"]),
        ("10de:2236:0", ["0000:65:00.0"]),
        ("group:8:1", ["0000:0a:00.1"]),
        ("0000:0a:*.*:1", ["0000:0a:00.1"]),
        ("65:00.*:0", ["0000:65:00.0"]),
    ],
)
def test_what_a_selector_hits(text: str, expected: list[str]) -> None:
    assert hits(text) == expected


def test_only_an_address_and_a_numbered_set_hit_one_for_sure() -> None:
    assert [parse(t).is_set for t in ("65:00.0", "class:gpu:0", "class:gpu", "65:00.*")] == [
        False,
        False,
        True,
        True,
    ]
    assert str(parse("class:gpu")) == "class:gpu"


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("0000:65:00", "did you mean 0000:65:00.0, or 0000:65:00.* for the whole card?"),
        ("65:00", "did you mean 65:00.0, or 65:00.* for the whole card?"),
        ("*:65:00", "did you mean *:65:00.*?"),
        ("0000:*:00", "did you mean 0000:*:00.*?"),
        ("65:00.8", "a function 0 to 7"),
        ("65:3f.0", "a device 00 to 1f"),
        ("65:0.0", "Did you mean 0000:65:00.0?"),
        ("0000:65:00:0", "Did you mean 0000:65:00.0?"),
        (" 65:00.0\n", "Did you mean 0000:65:00.0?"),
        ("pci_0000_65_00_0", "Did you mean 0000:65:00.0?"),
        ("/sys/bus/pci/devices/0000:65:00.0/", "Did you mean 0000:65:00.0?"),
        ("65:00.0:1", "0000:65:00.0 is one device already"),
        ("65:00.0,66:00.0", "Name several devices as several words."),
        ("0x10de:0x2236", "Did you mean 10de:2236?"),
        ("10de:", "name the device as well"),
        ("8", "Did you mean group:8?"),
        ("iommu_group/8", "Did you mean group:8?"),
        ("group:x", "An IOMMU group is a number"),
        ("gpu", "Did you mean class:gpu?"),
        ("clas:gpu", "Did you mean class:gpu?"),
        ("class:gpus", "Did you mean class:gpu?"),
        ("class:030", "The names of classes are 3d, accelerator,"),
        ("class:", "The names of classes are"),
    ],
)
def test_a_bad_text_says_what_was_probably_meant(text: str, hint: str) -> None:
    with pytest.raises(ParseError) as caught:
        parse(text, where="DEV")
    assert caught.value.hint is not None
    assert hint in caught.value.hint
    assert str(caught.value).startswith(f"DEV: {text!r} is not a")


@pytest.mark.parametrize("text", ["nonsense", "", "[", "65:00.[0", "group:²", "class:gpu:x:1"])
def test_a_text_without_a_guess_still_says_what_is_expected(text: str) -> None:
    with pytest.raises(ParseError, match=r"class:gpu.*10de:2236.*group:8"):
        parse(text)


@pytest.mark.parametrize(
    ("text", "near", "detail"),
    [
        ("0000:65:00.2", ["0000:65:00.0", "0000:65:00.1"], None),
        ("e1:00.0", ["10000:e1:00.0"], "Without a domain, 0000 is meant."),
        ("0001:b4:00.0", ["0000:b4:00.0"], None),
        ("10de:2237", ["10de:2236", "10de:10f8"], None),
        ("10d3:2236", ["10de:2236"], None),
        ("group:31", ["group:8", "group:30", "group:40"], None),
        ("class:usb", [], None),
        ("ff:*.*", [], None),
        ("10de:*", [], "A glob is about addresses; vendor and device are named in full."),
        ("class:gpu:3", [], "The set has 2: 0 is 0000:65:00.0, 1 is 0000:b4:00.0."),
    ],
)
def test_a_selector_that_hits_nothing_names_what_is_close(
    text: str, near: list[str], detail: str | None
) -> None:
    with pytest.raises(NotFoundError) as caught:
        select(parse(text), SERVER)
    assert caught.value.key == text
    assert list(caught.value.near)[: len(near)] == near
    assert bool(caught.value.near) == bool(near)
    if detail is None:
        assert caught.value.detail is None or text.startswith("group")
    else:
        assert detail in (caught.value.detail or "")


def test_a_group_of_bridges_and_a_host_without_groups_are_named_as_such() -> None:
    port = snapshot(device("0000:00:01.0", "pcieport", class_code=0x060400, group=3))
    with pytest.raises(NotFoundError, match="IOMMU group 3 has only bridges"):
        select(parse("group:3"), port)
    with pytest.raises(NotFoundError, match="the IOMMU is off"):
        select(parse("group:3"), snapshot(device("0000:65:00.0")))


def test_accelerators_are_offered_where_there_is_no_gpu() -> None:
    host = snapshot(device("0000:65:00.0", ids="1002:74a1", class_code=0x120000))
    with pytest.raises(NotFoundError, match=r"Did you mean class:accelerator\?"):
        select(parse("class:gpu"), host)


def test_gpus_are_whole_ones_and_not_the_servers_console() -> None:
    host = snapshot(
        device("0000:03:00.0", ids="102b:0538", class_code=0x030000),
        device("0000:04:00.0", ids="19e5:1711", class_code=0x030000),
        device("0000:65:00.0"),
        device("0000:65:00.4", physfn="0000:65:00.0"),
        device("0000:66:00.0", ids="1002:740f", class_code=0x038000),
        device("0000:67:00.0", ids="8086:56a0", class_code=0x030000),
    )
    assert hits("class:gpu", host) == ["0000:65:00.0", "0000:66:00.0", "0000:67:00.0"]
    assert hits("class:gpu:1", host) == ["0000:66:00.0"]
    assert len(hits("class:display", host)) == 6
    with pytest.raises(NotFoundError, match=r"Did you mean class:display\?"):
        select(parse("class:gpu"), snapshot(host.devices[0]))


def test_several_selectors_hit_each_device_once_in_the_order_of_the_request() -> None:
    found = select_all(["b4:00.0", "class:display", "10de:2236"], SERVER)
    assert [str(d.address) for d in found] == ["0000:b4:00.0", "0000:65:00.0", "0001:65:00.0"]
    assert select_all([], SERVER) == ()


def test_one_device_is_asked_for_and_several_are_ambiguous() -> None:
    assert select_one("class:vga", SERVER).ids == "1a03:2000"
    with pytest.raises(AmbiguousError) as caught:
        select_one("10de:2236", SERVER)
    assert caught.value.matches == ("0000:65:00.0", "0000:b4:00.0")


def at(place: str, address: str) -> PciDevice:
    return attrs.evolve(device(address), path=f"sys/devices/{place}/{address}")


def test_a_place_stays_when_buses_are_numbered_anew() -> None:
    place = "path:pci0000:64/02.0/00.0"
    before = snapshot(at("pci0000:64/0000:64:02.0", "0000:65:00.0"))
    after = snapshot(
        at("pci0000:64/0000:64:02.0", "0000:67:00.0"), at("pci0000:00", "0000:65:00.0")
    )
    assert hits(place, before) == ["0000:65:00.0"]
    assert hits(place, after) == ["0000:67:00.0"]
    assert place_of(after.devices[1]) == place.removeprefix("path:")
    odd = snapshot(at("pci0000:00/0000:00:0e.0/pci10000:e0", "10000:e1:00.0"))
    assert hits("path:pci0000:00/0e.0/pci10000:e0/00.0", odd) == ["10000:e1:00.0"]
    with pytest.raises(NotFoundError, match=r"Did you mean path:pci0000:64/02\.0/00\.0\?"):
        hits("path:pci0000:64/02.0/00.1", before)
    assert place_of(attrs.evolve(device("0000:65:00.0"), path="elsewhere/0000:65:00.0")) is None


def test_a_virtual_function_has_its_place_by_its_physical_one() -> None:
    port = "pci0000:64/0000:64:02.0"
    physfn = at(port, "0000:65:00.0")
    # On the next bus, in the slot of the physical function: SR-IOV takes bus numbers as it needs.
    vfs = [
        attrs.evolve(at(port, where), physfn=physfn.address)
        for where in ("0000:65:01.0", "0000:66:00.0")
    ]
    host = snapshot(physfn, *vfs)
    place = "path:pci0000:64/02.0/00.0"
    assert hits(place, host) == ["0000:65:00.0"]
    assert hits(f"{place}/vf0", host) == ["0000:65:01.0"]
    assert hits(f"{place}/vf1", host) == ["0000:66:00.0"]
    assert [place_of(vf) for vf in vfs] == [None, None]
    for beyond in ("vf2", "vf01"):
        with pytest.raises(NotFoundError):
            hits(f"{place}/{beyond}", host)
    is_meant = matcher([f"{place}/vf1"], host)
    assert [is_meant(each) for each in host.devices] == [False, False, True]


@pytest.mark.parametrize(
    ("text", "kind", "name"),
    [
        ("eth0", "interface", "eth0"),
        ("enp65s0f0np0", "interface", "enp65s0f0np0"),
        ("net:LAN", "interface", "LAN"),
        ("/dev/nvme0n1", "node", "/dev/nvme0n1"),
        ("/dev/disk/by-id/nvme-X_S5", "node", "/dev/disk/by-id/nvme-X_S5"),
        ("slot:3-1", "slot", "3-1"),
        ("serial:S5GXNX0T", "serial", "S5GXNX0T"),
        (f"GPU-{UUID.upper()}", "gpu", f"GPU-{UUID.upper()}"),
    ],
)
def test_names_are_looked_up_as_they_are_given(text: str, kind: str, name: str) -> None:
    asked = []

    def lookup(by: ByName) -> list[PciAddress]:
        asked.append((by.kind, by.name))
        return [SERVER.devices[3].address]

    assert select_all([text, "group:30"], SERVER, lookup) == SERVER.devices[3:5]
    assert asked == [(kind, name)]
    with pytest.raises(NotFoundError, match="take a host"):
        select(parse(text), SERVER)


def test_every_class_name_hits_the_class_that_it_names() -> None:
    for name, codes in CLASSES.items():
        host = snapshot(device("0000:01:00.0", class_code=int(codes[0].ljust(6, "0"), 16)))
        assert hits(f"class:{name}", host) == ["0000:01:00.0"]


selector_like = st.text("0123456789abcdefABCDEF:.*?[]!-clspugroxn ", max_size=24)


@given(st.text() | selector_like)
def test_any_text_is_a_selector_or_an_error_of_ours(text: str) -> None:
    for host in (SERVER, rtx(), a10(), snapshot()):
        found: tuple[PciDevice, ...] | VfioHostError
        try:
            found = select(parse(text), host)
        except VfioHostError as error:
            found = error
        if isinstance(found, VfioHostError):
            name = text.partition(":")[2]  # of ``net:lan``
            assert repr(text) in str(found) or repr(name) in str(found)
        else:
            assert found
            assert set(found) <= set(host.devices)


@given(addresses)
def test_every_address_hits_its_device(address: PciAddress) -> None:
    host = snapshot(device(str(address)), device("0000:65:00.0"))
    assert select(parse(str(address).upper()), host) == (host.pci[address],)
