"""The configuration space, taken apart: by the C core, on sound, broken and hostile bytes."""

from __future__ import annotations

import random
import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.native.spaces import (
    H100_GUEST,
    Cap,
    express,
    load_dump,
    lspci,
    random_space,
    space,
    words,
)
from tests.recording.machines import RECORDINGS, needs_recordings, unpack
from vfiohost.config_space import Capability, ConfigSpace, Link, decode
from vfiohost.config_space.values import ACS_CONTROLS

if TYPE_CHECKING:
    from pathlib import Path


# ---- what the capabilities say -----------------------------------------------------------------


def test_an_h100_as_its_guest_sees_it() -> None:
    found = decode(load_dump(H100_GUEST.read_text())["0000:00:06.0"])
    assert (found.chain, found.extended_chain, found.size) == ("whole", "whole", 4096)
    assert found.express is not None
    assert found.express.port_name == "endpoint"
    assert found.express.link == Link("32.0 GT/s", 16, "32.0 GT/s", 16)
    assert found.has_flr
    assert found.power is not None
    assert (found.power.state, found.power.pme, found.power.no_soft_reset) == ("D0", (), True)
    assert found.msi is not None
    assert (found.msi.enabled, found.msi.vectors, found.msi.max_vectors) == (False, 1, 16)
    assert found.msix is not None
    assert (found.msix.enabled, found.msix.vectors) == (True, 9)
    assert (found.sriov, found.acs, found.ari_next_function) == (None, None, None)
    assert found.serial == "00-00-00-00-00-00-00-00"
    assert [(c.offset, c.name) for c in found.capabilities if c.id][:3] == [
        (0x40, "power management"),
        (0x48, "MSI"),
        (0x60, "PCI Express"),
    ]


def test_a_virtio_function_has_no_extended_space() -> None:
    found = decode(load_dump(H100_GUEST.read_text())["0000:00:01.0"])
    assert (found.chain, found.extended_chain, found.size) == ("whole", "none", 256)
    assert [c.name for c in found.capabilities] == ["vendor-specific"] * 5 + ["MSI-X"]
    assert found.msix is not None
    assert found.msix.vectors == 2
    assert not found.has_flr


def test_a_physical_function() -> None:
    sriov = words(0x0002, 0, 0x0019, 0, 16, 16, 4, 0, 4, 1, 0, 0x2236) + bytes(32)
    serial = bytes.fromhex("8877665544332211")
    found = decode(
        space(
            [express(0), Cap(0x03, b"\x00\x80abcd")],
            [Cap(0x10, sriov), Cap(0x0E, words(0x0100, 0)), Cap(0x03, serial)],
        )
    )
    assert found.sriov is not None
    assert (found.sriov.enabled, found.sriov.memory_enabled, found.sriov.ari) == (True, True, True)
    assert (found.sriov.initial_vfs, found.sriov.total_vfs, found.sriov.num_vfs) == (16, 16, 4)
    assert (found.sriov.offset, found.sriov.stride) == (4, 1)
    assert found.sriov.vf_device_id == 0x2236
    assert found.ari_next_function == 1
    assert found.serial == "11-22-33-44-55-66-77-88"
    assert found.has_vpd


def test_access_control() -> None:
    found = decode(space([express(4)], [Cap(0x0D, words(0x005F, 0x001D))]))
    assert found.acs is not None
    assert found.acs.able == (*ACS_CONTROLS[:5], "direct translated")
    assert found.acs.on == tuple(ACS_CONTROLS[bit] for bit in (0, 2, 3, 4))
    assert found.express is not None
    assert found.express.port_name == "root port"


def test_power_management() -> None:
    found = decode(space([Cap(0x01, words(0xCA03, 0x0103))])).power
    assert found is not None
    assert (found.state, found.states) == ("D3hot", ("D0", "D1", "D3hot"))
    assert found.pme == ("D0", "D3hot", "D3cold")
    assert (found.pme_on, found.no_soft_reset) == (True, False)


def test_what_is_part_of_the_root_complex_has_no_link() -> None:
    for kind, has_link in ((0, True), (4, True), (9, False), (10, False), (11, False)):
        found = decode(space([express(kind)])).express
        assert found is not None
        assert (found.link is not None) is has_link


def test_a_conventional_function_may_have_a_function_level_reset() -> None:
    for content, has_flr in ((b"\x06\x03", True), (b"\x06\x01", False), (b"\x06\x02", False)):
        found = decode(space([Cap(0x13, content + bytes(2))], size=256))
        assert (found.af_flr, found.has_flr) == (has_flr, has_flr)


def test_the_first_of_a_kind_counts() -> None:
    config = space([Cap(0x11, words(0x8007)), Cap(0x11, words(0x0000))])
    found = decode(config)
    assert found.msix is not None
    assert (found.msix.vectors, found.msix.enabled) == (8, True)
    assert [c.id for c in found.capabilities] == [0x11, 0x11]


# ---- chains that are broken, and spaces that are cut -------------------------------------------


def linked(*links: tuple[int, int, int]) -> bytes:
    """A space whose standard chain has these links: offset, id, and where it goes on."""
    config = bytearray(space())
    config[0x34] = links[0][0]
    for offset, number, following in links:
        config[offset : offset + 2] = bytes((number, following))
    return bytes(config)


def linked_on(*links: tuple[int, int, int]) -> bytes:
    """A space whose extended chain has these links: offset, id, and where it goes on."""
    config = bytearray(space())
    for offset, number, following in links:
        header = number | 1 << 16 | following << 20
        config[offset : offset + 4] = header.to_bytes(4, "little")
    return bytes(config)


@pytest.mark.parametrize(
    ("links", "chain", "offsets"),
    [
        ([(0x40, 1, 0)], "whole", [0x40]),
        ([(0x43, 1, 0), (0x40, 1, 0)], "whole", [0x40]),
        ([(0x40, 1, 0x40)], "loop", [0x40]),
        ([(0x40, 1, 0x50), (0x50, 5, 0x43)], "loop", [0x40, 0x50]),
        ([(0x40, 1, 0x3C)], "astray", [0x40]),
        ([(0x40, 1, 0x50), (0x50, 0xFF, 0x60)], "astray", [0x40]),
        ([(0xFC, 1, 0x00)], "whole", [0xFC]),
        ([(0x00, 0xDE, 0x10)], "whole", []),
    ],
)
def test_a_standard_chain(
    links: list[tuple[int, int, int]], chain: str, offsets: list[int]
) -> None:
    found = decode(linked(*links))
    assert found.chain == chain
    assert [c.offset for c in found.capabilities] == offsets


@pytest.mark.parametrize(
    ("links", "chain", "offsets"),
    [
        ([(0x100, 1, 0)], "whole", [0x100]),
        ([(0x100, 1, 0x100)], "loop", [0x100]),
        ([(0x100, 1, 0x200), (0x200, 3, 0x103)], "loop", [0x100, 0x200]),
        ([(0x100, 1, 0x0FC)], "astray", [0x100]),
        ([(0x100, 1, 0x200)], "astray", [0x100]),
        ([(0x100, 1, 0xFFF)], "astray", [0x100]),
        ([(0x100, 0, 0x200), (0x200, 3, 0)], "whole", [0x100, 0x200]),
        ([(0x100, 1, 0xFFC), (0xFFC, 3, 0)], "whole", [0x100, 0xFFC]),
    ],
)
def test_an_extended_chain(
    links: list[tuple[int, int, int]], chain: str, offsets: list[int]
) -> None:
    found = decode(linked_on(*links))
    assert found.extended_chain == chain
    assert [c.offset for c in found.capabilities] == offsets
    assert found.serial is None or len(found.serial) == 23


WHOLE = space(
    [express(0), Cap(0x11, words(7) + bytes(8)), Cap(0x01, words(0xC803, 0))],
    [Cap(0x0D, words(0x1F, 0x1D)), Cap(0x03, bytes(8))],
)


@pytest.mark.parametrize("size", [*range(0x100), 0x100, 0x103, 0x104, 0x107, 0x108, 0x10C, 0x117])
def test_a_space_that_is_cut(size: int) -> None:
    """What was read is as in the whole space; of the rest it is said that it is not known."""
    whole, found = decode(WHOLE), decode(WHOLE[:size])
    assert found.size == size
    assert found.capabilities == tuple(
        c for c in whole.capabilities if c.offset + (4 if c.is_extended else 2) <= size
    )
    for name in ("express", "power", "msix", "acs", "serial"):
        value = getattr(found, name)
        assert value is None or value == getattr(whole, name)
    if size >= 0x40:
        standard = [c for c in whole.capabilities if not c.is_extended]
        is_cut = any(c.offset + 2 > size for c in standard)
        assert found.chain == ("cut" if is_cut else "whole")
    extended = [c for c in whole.capabilities if c.is_extended]
    is_cut = any(c.offset + 4 > size for c in extended)
    ends = "none" if size == 0x100 else "cut" if is_cut else "whole"
    assert found.extended_chain == (ends if size else "none")


def test_what_an_ordinary_user_gets() -> None:
    found = decode(WHOLE[:64])
    assert (found.chain, found.extended_chain, found.capabilities) == ("cut", "cut", ())
    assert (found.answers, found.command) == (True, 0x0406)


@pytest.mark.parametrize("size", [0, 1, 64, 256, 4096])
def test_ones_are_no_answer(size: int) -> None:
    found = decode(b"\xff" * size)
    assert found == ConfigSpace(size, answers=False, command=None, chain="none",
                                extended_chain="none", capabilities=())  # fmt: skip


def test_a_virtual_function_has_no_vendor_of_its_own_and_answers() -> None:
    """Its ids read ffff (PCI Express Base Specification, 9.3.4.1)."""
    config = bytearray(WHOLE)
    config[0:4] = b"\xff" * 4
    assert decode(bytes(config)).answers
    assert decode(bytes(config)).capabilities == decode(WHOLE).capabilities


def test_cardbus_has_its_pointer_elsewhere() -> None:
    config = bytearray(linked((0x40, 1, 0)))
    config[0x0E], config[0x34], config[0x14] = 0x82, 0, 0x40
    assert [c.id for c in decode(bytes(config)).capabilities] == [1]


def test_without_the_bit_in_the_status_register_there_is_no_chain() -> None:
    config = bytearray(linked((0x40, 1, 0)))
    config[0x06] = 0
    assert (decode(bytes(config)).chain, decode(bytes(config)).capabilities) == ("none", ())


def test_the_longest_chains() -> None:
    config = bytearray(
        linked(*((o, 1, o + 4 if o < 0xFC else 0x40) for o in range(0x40, 0x100, 4)))
    )
    on = linked_on(*((o, 1, o + 4 if o < 0xFFC else 0x100) for o in range(0x100, 0x1000, 4)))
    config[0x100:] = on[0x100:]
    found = decode(bytes(config))
    assert (found.chain, found.extended_chain) == ("loop", "loop")
    assert len(found.capabilities) == 48 + 960


# ---- anything ----------------------------------------------------------------------------------

_HEADER = st.binary(min_size=64, max_size=64).map(
    lambda b: bytes((*b[:6], b[6] | 0x10, *b[7:0x34], b[0x34] | 0x40, *b[0x35:]))
)
ANYTHING = st.one_of(
    st.binary(max_size=300),
    st.builds(lambda *parts: b"".join(parts), _HEADER, st.binary(max_size=4200)),
    st.builds(
        lambda seed, size, flips: _flipped(random_space(random.Random(seed))[:size], flips),
        st.integers(0, 1 << 32),
        st.integers(0, 4096),
        st.lists(st.tuples(st.integers(0, 4095), st.integers(0, 255)), max_size=20),
    ),
)


def _flipped(config: bytes, flips: list[tuple[int, int]]) -> bytes:
    made = bytearray(config)
    for offset, value in flips:
        if offset < len(made):
            made[offset] = value
    return bytes(made)


@given(ANYTHING)
def test_anything_is_taken_apart(config: bytes) -> None:
    found = decode(config)
    offsets = [c.offset for c in found.capabilities]
    assert len(offsets) == len(set(offsets)) <= 48 + 960
    assert all(o % 4 == 0 and 0x40 <= o <= min(len(config), 4096) - 2 for o in offsets)
    assert decode(config) == found
    for capability in found.capabilities:
        at = capability.offset
        if capability.is_extended:
            header = int.from_bytes(config[at : at + 4], "little")
            assert capability == Capability(header & 0xFFFF, at, header >> 16 & 0xF)
        else:
            assert capability == Capability(config[at], at)


@given(ANYTHING, st.integers(0, 4096))
def test_what_is_cut_off_changes_nothing_before_it(config: bytes, size: int) -> None:
    whole, cut = decode(config), decode(config[:size])
    standard = [c for c in cut.capabilities if not c.is_extended]
    assert standard == [c for c in whole.capabilities if not c.is_extended][: len(standard)]
    for name in ("express", "power", "msi", "msix", "sriov", "acs", "serial"):
        if whole.answers and getattr(cut, name) is not None:
            assert getattr(cut, name) == getattr(whole, name)


# ---- what lspci says ---------------------------------------------------------------------------

_PORTS = {
    "Endpoint": "endpoint",
    "Legacy Endpoint": "legacy endpoint",
    "Root Port": "root port",
    "Upstream Port": "upstream port",
    "Downstream Port": "downstream port",
    "PCI-Express to PCI/PCI-X Bridge": "PCIe-to-PCI bridge",
    "PCI/PCI-X to PCI-Express Bridge": "PCI-to-PCIe bridge",
    "Root Complex Integrated Endpoint": "root complex integrated endpoint",
    "Root Complex Event Collector": "root complex event collector",
}


def check_against_lspci(config: bytes, said: str) -> int:
    """Compare everything that both decode; returns how much that was."""
    found = decode(config)
    pairs: list[tuple[object, object]] = []

    def compare(pattern: str, *ours: object) -> None:
        match = re.search(pattern, said)
        if match is not None:
            pairs.append((tuple(map(str, ours)), match.groups()))

    heads = re.findall(r"Capabilities: \[([0-9a-f]+)(?: v(\d+))?\](?! <chain| <access)", said)
    listed = [(c.offset, c.version) for c in found.capabilities]
    pairs.append((listed, [(int(o, 16), int(v or 0)) for o, v in heads]))
    if found.power is not None:
        states = found.power.states
        compare(r"Flags: PMEClk.* D1(.) D2(.)", _sign("D1" in states), _sign("D2" in states))
        names = ("D0", "D1", "D2", "D3hot", "D3cold")
        wakes = ",".join(f"{name}{_sign(name in found.power.pme)}" for name in names)
        compare(r"PME\((.*)\)", wakes)
        compare(
            r"Status: (D\d) NoSoftRst(.) PME-Enable(.)",
            found.power.state.removesuffix("hot"),
            _sign(found.power.no_soft_reset),
            _sign(found.power.pme_on),
        )
    if found.msi is not None:
        compare(
            r"MSI: Enable(.) Count=(\d+)/(\d+) Maskable(.) 64bit(.)",
            _sign(found.msi.enabled),
            found.msi.vectors,
            found.msi.max_vectors,
            _sign(found.msi.maskable),
            _sign(found.msi.is_64bit),
        )
    if found.msix is not None:
        compare(
            r"MSI-X: Enable(.) Count=(\d+) Masked(.)",
            _sign(found.msix.enabled),
            found.msix.vectors,
            _sign(found.msix.masked),
        )
    if found.af_flr is not None:
        both = re.search(r"AFCap: TP(.) FLR(.)", said)
        assert both is not None
        pairs.append((found.af_flr, both.groups() == ("+", "+")))
    if found.acs is not None:
        for register, value in (("ACSCap", found.acs.capability), ("ACSCtl", found.acs.control)):
            compare(
                rf"{register}:\s+SrcValid(.) TransBlk(.) ReqRedir(.) CmpltRedir(.) UpstreamFwd(.)"
                r" EgressCtrl(.) DirectTrans(.)",
                *(_sign(value >> bit & 1) for bit in range(7)),
            )
    compare(r"ARICap:.* Next Function: (\d+)", found.ari_next_function)
    compare(r"Device Serial Number (\S+)", found.serial)
    pairs += _express_pairs(found, said)
    pairs += _sriov_pairs(found, said)
    for ours, theirs in pairs:
        assert ours == theirs, said
    return len(pairs)


def _sign(flag: object) -> str:
    return "+" if flag else "-"


def _express_pairs(found: ConfigSpace, said: str) -> list[tuple[object, object]]:
    head = re.search(
        r"Express \(v\d\) ([A-Za-z/X -]+?)(?: \(Slot.\))?(?:, MSI|$)", said, re.MULTILINE
    )
    express = found.express
    if express is None or head is None:
        return [(express, head)]
    pairs: list[tuple[object, object]] = [(express.port_name, _PORTS[head[1]])]
    for pattern, ours in (
        (r"DevCap:\s+MaxPayload (\d+) bytes", express.max_payload),
        (r"\n\t\t\tMaxPayload (\d+) bytes, MaxReadReq", express.payload),
        (r" FLReset(.) SlotPowerLimit", _sign(express.flr)),
        (r" ARIFwd(.)\n(?:.*\n)*?\t\tDevCtl2", _sign(express.ari_forwarding)),
        (r"DevCtl2:.* ARIFwd(.)", _sign(express.ari_forwarding_on)),
    ):
        match = re.search(pattern, said)
        if match is not None:
            pairs.append((str(ours), match[1]))
    link = express.link
    pairs.append((link is not None, "LnkCap:" in said))
    if link is not None:
        for register, speed, width in (
            ("LnkCap", link.max_speed, link.max_width),
            ("LnkSta", link.speed, link.width),
        ):
            match = re.search(rf"{register}:\s+.*?Speed (\S+?)(?: \(.*?\))?, Width x(\d+)", said)
            assert match is not None
            theirs = match[1].replace("GT/s", " GT/s")
            ours = "unknown" if speed is None else speed.replace(".0 ", " ")
            pairs.append(((ours, str(width)), (theirs, match[2])))
    return pairs


def _sriov_pairs(found: ConfigSpace, said: str) -> list[tuple[object, object]]:
    match = re.search(
        r"IOVCtl:\s+Enable(.) .*MSE(.) ARIHierarchy(.)[^\n]*\n.*\n"
        r"\s+Initial VFs: (\d+), Total VFs: (\d+), Number of VFs: (\d+),.*\n"
        r"\s+VF offset: (\d+), stride: (\d+), Device ID: ([0-9a-f]{4})",
        said,
    )
    sriov = found.sriov
    if sriov is None:
        return [(None, match)]
    assert match is not None, said
    ours = (
        _sign(sriov.enabled),
        _sign(sriov.memory_enabled),
        _sign(sriov.ari),
        *map(str, (sriov.initial_vfs, sriov.total_vfs, sriov.num_vfs)),
        *map(str, (sriov.offset, sriov.stride)),
        f"{sriov.vf_device_id:04x}",
    )
    return [(ours, match.groups())]


def test_lspci_says_the_same_of_a_guest(tmp_path: Path) -> None:
    spaces = load_dump(H100_GUEST.read_text())
    said = lspci(spaces, tmp_path)
    assert said.keys() == spaces.keys()
    assert check_against_lspci(spaces["0000:00:06.0"], said["0000:00:06.0"]) > 12
    assert check_against_lspci(spaces["0000:00:01.0"], said["0000:00:01.0"]) > 1


def test_lspci_says_the_same_of_spaces_of_all_kinds(tmp_path: Path) -> None:
    rng = random.Random(1)
    spaces = {f"0000:{n >> 5:02x}:{n & 31:02x}.0": random_space(rng) for n in range(600)}
    said = lspci(spaces, tmp_path)
    compared = [check_against_lspci(config, said[address]) for address, config in spaces.items()]
    assert min(compared) > 5
    assert max(compared) >= 20


@needs_recordings
@pytest.mark.parametrize("name", RECORDINGS)
def test_lspci_says_the_same_of_recorded_machines(name: str, tmp_path: Path) -> None:
    root = unpack(name, tmp_path)
    spaces = {}
    for path in root.glob("sys/devices/pci*/**/config"):
        content = path.read_bytes()
        if len(content) in (64, 128, 256, 4096):
            spaces[path.parent.name] = content
    if spaces:
        said = lspci(spaces, tmp_path)
        assert sum(check_against_lspci(c, said[address]) for address, c in spaces.items())
    else:
        assert name in ("accel-nvidia", "intel-i7-1270p-iommu")
