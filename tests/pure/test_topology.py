"""Where functions are, and how a tree shows it."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any
from xml.etree import ElementTree as ET

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pure.hosts import details, device, snapshot
from vfiohost.model import PciAddress, PciDevice, Snapshot
from vfiohost.render.table import coloured
from vfiohost.render.tree import columns_of, cut, tree_lines, tree_rows
from vfiohost.render.tree_svg import tree_svg
from vfiohost.topology import topology

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def at(path: str, driver: str | None = None, **more: Any) -> PciDevice:
    made = device(path.rpartition("/")[2], driver)
    return attrs.evolve(made, path=f"sys/devices/{path}", **more)


SWITCH = snapshot(
    at("pci0000:00/0000:00:00.0", class_code=0x060000),
    at("pci0000:64/0000:64:02.0", "pcieport", class_code=0x060400, numa_node=1),
    at("pci0000:64/0000:64:02.0/0000:65:00.0", "pcieport", class_code=0x060400, iommu_group=7),
    at("pci0000:64/0000:64:02.0/0000:65:00.0/0000:66:00.0", "vfio-pci", iommu_group=7),
    at("pci0000:64/0000:64:02.0/0000:65:00.0/0000:66:00.1", class_code=0x040300, iommu_group=7),
    *(
        at(
            f"pci0000:64/0000:64:02.0/0000:65:00.0/0000:66:01.{n}",
            "nvidia" if n < 3 else None,
            physfn=PciAddress.parse("0000:66:00.0"),
            iommu_group=20 + n,
        )
        for n in range(4)
    ),
)


def lines(host: Snapshot, *chosen: str, width: int | None = None, ascii_only: bool = False) -> str:
    picked = [PciAddress.parse(text) for text in chosen] or None
    rows = tree_rows(topology(host, picked), host, None)
    return "\n".join(tree_lines(rows, width=width, ascii_only=ascii_only))


def test_functions_hang_on_bridges_and_virtual_ones_on_their_physical_one() -> None:
    assert lines(SWITCH) == (
        "DEVICE             DRIVER    GROUP  NAME\n"
        "pci0000:00\n"
        "└─ 00:00.0         -             -  0600: 10de:2236\n"
        "pci0000:64                          NUMA node 1\n"
        "└─ 64:02.0         pcieport      -  0604: 10de:2236\n"
        "   └─ 65:00.0      pcieport      7  0604: 10de:2236\n"
        "      ├─ 66:00.0   vfio-pci      7  0302: 10de:2236\n"
        "      │  ├─ 3 VFs  nvidia    20-22  66:01.0 to 66:01.2\n"
        "      │  └─ 1 VF   -            23  66:01.3\n"
        "      └─ 66:00.1   -             7  0403: 10de:2236"
    )


def test_what_is_chosen_has_all_above_and_below_it() -> None:
    assert "66:00.1" not in lines(SWITCH, "0000:66:00.0")
    assert "3 VFs" in lines(SWITCH, "0000:66:00.0")
    assert lines(SWITCH, "0000:66:01.3").splitlines()[-1].split() == [
        "└─",
        "1",
        "VF",
        "-",
        "23",
        "66:01.3",
    ]
    assert "66:00.1" in lines(SWITCH, "0000:64:02.0")
    assert "pci0000:00" not in lines(SWITCH, "0000:64:02.0")


def test_ascii_and_width() -> None:
    drawn = lines(SWITCH, width=36, ascii_only=True)
    assert drawn.isascii()
    assert "      |  `- 1 VF   -            23" in drawn.splitlines()
    assert "66:01.3" in lines(SWITCH, width=46)
    assert max(map(len, drawn.splitlines())) <= 36


@pytest.mark.parametrize(
    ("text", "width", "shown"),
    [
        ("abcdef", 6, "abcdef"),
        ("abcdef", 5, "abcd…"),
        ("abcdef", 1, "…"),
        ("abcdef", 0, ""),
        ("漢字漢字", 5, "漢字…"),
        ("漢字漢字", 4, "漢…"),
        ("e\u0301e\u0301", 2, "e\u0301e\u0301"),
    ],
)
def test_a_text_is_cut_by_columns(text: str, width: int, shown: str) -> None:
    assert cut(text, width) == shown
    assert columns_of(shown) <= max(width, 0)


def test_an_override_is_marked() -> None:
    host = snapshot(device("0000:01:00.0", "nouveau"), device("0000:02:00.0", "vfio-pci"))
    made = {
        host.devices[0].address: details("nouveau", "vfio-pci"),
        host.devices[1].address: details("vfio-pci", "vfio-pci"),
    }
    shown = lines(attrs.evolve(host, details=made))
    assert "nouveau -> vfio-pci*" in shown
    assert "vfio-pci* " in shown
    assert shown.splitlines()[-1] == "* driver_override is set"


components = st.sampled_from(["pci0000:00", "pci10000:e0", "x", "0000:00:01.0", "0000:00:02.0"])
addresses = st.builds(
    PciAddress,
    st.sampled_from([0, 1, 0x10000]),
    st.integers(0, 3),
    st.integers(0, 3),
    st.integers(0, 7),
)


@st.composite
def hosts(draw: st.DrawFn) -> Snapshot:
    """Hosts with any paths and any physical functions, sensible or not."""
    found = draw(st.lists(addresses, max_size=12, unique=True))
    devices = []
    for address in sorted(found):
        above = "/".join(
            draw(st.lists(components | st.sampled_from([str(a) for a in found]), max_size=4))
        )
        physfn = draw(st.none() | st.sampled_from(found))
        driver = draw(st.none() | st.sampled_from(["vfio-pci", "nvidia", "名前\x1b[0m"]))
        devices.append(
            attrs.evolve(
                device(str(address), driver),
                path="/".join(filter(None, ["sys/devices", above, str(address)])),
                physfn=physfn,
                iommu_group=draw(st.none() | st.integers(0, 5)),
            )
        )
    return snapshot(*devices)


@given(hosts())
def test_each_function_is_shown_once(host: Snapshot) -> None:
    shown = Counter(d.address for row in tree_rows(topology(host), host, None) for d in row.devices)
    assert shown == Counter(host.pci.keys())


@given(hosts(), st.integers(1, 120), st.booleans())
def test_no_line_is_wider_than_it_may_be(host: Snapshot, width: int, ascii_only: bool) -> None:  # noqa: FBT001
    rows = tree_rows(topology(host), host, None)
    plain = tree_lines(rows, width=width, ascii_only=ascii_only)
    assert all(columns_of(line) <= width for line in plain)
    painted = tree_lines(rows, width=width, ascii_only=ascii_only, paint=coloured)
    assert [_COLOUR.sub("", line).rstrip() for line in painted] == plain


@given(hosts())
def test_the_picture_is_xml_and_names_each_row(host: Snapshot) -> None:
    rows = tree_rows(topology(host), host, None)
    root = ET.fromstring(tree_svg(rows, "a <host> & \x1b"))
    texts = Counter(element.text for element in root.iter("{http://www.w3.org/2000/svg}text"))
    assert texts["a <host> & \\x1b"] == 1
    for row in rows:
        assert row.label in texts
