from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pure.hosts import ALIASES, MODULES, device
from vfiohost.errors import ParseError
from vfiohost.modalias import Modalias, ModuleIndex, ModuleLookup, module_name

A10 = "pci:v000010DEd00002236sv000010DEsd00001482bc03sc02i00"

hex8 = st.integers(0, 0xFFFFFFFF).map("{:08X}".format)
hex2 = st.integers(0, 0xFF).map("{:02X}".format)
modaliases = st.builds(Modalias, hex8, hex8, hex8, hex8, hex2, hex2, hex2)


def test_a_modalias_is_taken_apart() -> None:
    parsed = Modalias.parse(A10 + "\n")
    assert parsed.fields == ("000010DE", "00002236", "000010DE", "00001482", "03", "02", "00")
    assert parsed == Modalias.of(device("0000:65:00.0"))


@given(modaliases)
def test_text_and_value_say_the_same(modalias: Modalias) -> None:
    assert Modalias.parse(str(modalias)) == modalias


@pytest.mark.parametrize("text", ["", "usb:v1D6Bp0002", A10[:-1], "pci:", A10.lower()])
def test_what_is_no_modalias_is_refused(text: str) -> None:
    with pytest.raises(ParseError, match="modalias of a PCI device"):
        Modalias.parse(text)


@pytest.mark.parametrize(
    ("pattern", "is_match"),
    [
        ("pci:v000010DEd00002236sv*sd*bc*sc*i*", True),
        ("v000010DEd00002236sv*sd*bc*sc*i*", True),
        ("pci:v000010DEd*sv*sd*bc03sc02i00*", True),
        ("pci:v000010DEd*sv*sd*bc03sc00i00*", False),
        ("pci:v000010DEd000022[0-3]6sv*sd*bc*sc*i*", True),
        ("pci:v000010DEd0000223?sv*sd*bc*sc*i*", True),
        ("pci:v000010DEd00002237sv*sd*bc*sc*i*", False),
        ("pci:*", True),
        ("pci:v000010DE*bc03*", True),
        ("pci:v00008086*", False),
    ],
)
def test_patterns_are_globs(pattern: str, is_match: bool) -> None:  # noqa: FBT001
    assert Modalias.parse(A10).matches(pattern) is is_match


def test_candidates_are_in_file_order_and_of_the_pci_bus() -> None:
    assert MODULES.candidates(A10) == ("nvidiafb", "nouveau")
    audio = device("0000:01:00.1", ids="10de:10f8", class_code=0x040300)
    assert MODULES.candidates(Modalias.of(audio)) == ("snd_hda_intel",)


def test_a_module_with_two_matching_aliases_is_named_once() -> None:
    text = "alias pci:v*d*sv*sd*bc03sc*i* a\nalias pci:v000010DEd* b\nalias pci:v000010DE* a\n"
    assert ModuleIndex.from_texts(text, ()).candidates(A10) == ("a", "b")


def test_the_best_vfio_module_is_the_most_particular_one() -> None:
    grace = device("0000:01:00.0", ids="10de:2342")
    assert MODULES.best_vfio_module(Modalias.of(grace)) == "nvgrace_gpu_vfio_pci"
    assert MODULES.best_vfio_module(A10) == "vfio_pci"


def test_of_equally_good_vfio_modules_the_first_is_best() -> None:
    line = "alias vfio_pci:v000010DEd*sv*sd*bc*sc*i* {}\n"
    index = ModuleIndex.from_texts(line.format("z_vfio_pci") + line.format("a_vfio_pci"), ())
    assert index.best_vfio_module(A10) == "z_vfio_pci"


@pytest.mark.parametrize("text", ["", "alias vfio_pci:nonsense x\n", "alias pci:* x\n"])
def test_without_a_vfio_alias_there_is_no_best_one(text: str) -> None:
    assert ModuleIndex.from_texts(text, ()).best_vfio_module(A10) is None


def test_modules_are_known_by_name_and_by_path() -> None:
    index = ModuleIndex.from_texts(ALIASES, ["kernel/drivers/vfio/pci/vfio-pci.ko.xz", "kvm"])
    assert all(index.knows(m) for m in ("vfio_pci", "vfio-pci", "kvm", "nouveau", "nvidiafb"))
    assert not index.knows("vfio_pcii")
    assert not index.knows("")
    assert module_name("kernel/a/i2c-designware-pci.ko") == "i2c_designware_pci"


def test_thirty_thousand_lines_hide_none_that_match() -> None:
    lines = [f"alias usb:v{n:04X}p*d*dc*dsc*dp*ic*isc*ip*in* usb_{n}" for n in range(18_000)]
    lines += [f"alias pci:v00008086d{n:08X}sv*sd*bc*sc*i* m{n}" for n in range(11_800)]
    lines += [f"alias pci:v*d*sv*sd*bc{n:02X}sc*i* class{n}" for n in range(200)]
    nic = Modalias.of(device("0000:02:00.0", ids="8086:10d3", class_code=0x020000))
    index = ModuleIndex.from_texts("\n".join(lines) + "\n", ())
    assert index.candidates(nic) == ("m4307", "class2")


@given(st.text(), modaliases)
def test_no_text_is_too_odd(text: str, modalias: Modalias) -> None:
    index = ModuleIndex.from_texts(text, text.splitlines())
    assert index.candidates(modalias) == ModuleIndex.from_texts(text, ()).candidates(modalias)
    assert isinstance(modalias.matches(text), bool)


ids = st.sampled_from(
    ["*", "000010DE", "00002236", "0000223?", "000022[0-3]6", "00002236*", "10DE"]
)
patterns = st.one_of(
    st.builds("v{}d{}sv{}sd*bc*sc*i*".format, ids, ids, ids),
    st.builds("v{}*".format, ids),
    st.builds("v{}d{}".format, ids, ids),
    st.just("*"),
)
lines = st.lists(st.tuples(st.sampled_from(["pci", "vfio_pci", "usb"]), patterns), max_size=12)


@given(lines, st.sampled_from(["000010DE", "00008086"]), st.sampled_from(["00002236", "00002237"]))
def test_a_search_finds_what_a_look_at_each_line_finds(
    lines: list[tuple[str, str]], vendor: str, device: str
) -> None:
    modalias = Modalias(vendor, device, "000010DE", "00001482", "03", "02", "00")
    text = "\n".join(f"alias {bus}:{line} m{number}" for number, (bus, line) in enumerate(lines))
    assert ModuleIndex.from_texts(text, ()).matching(modalias) == [
        (line, f"m{number}")
        for number, (bus, line) in enumerate(lines)
        if bus == "pci" and modalias.matches(line)
    ]


def test_a_pattern_of_megabytes_is_none_of_the_kernels() -> None:
    """To make a regular expression of it would take minutes, and gigabytes."""
    modalias = Modalias.parse(A10)
    assert modalias.matches(f"pci:v000010DEd*{'*' * 200}")
    began = time.monotonic()
    for fields in ("*" * (1 << 22), f"v{'[0-9]' * (1 << 20)}d*sv*sd*bc*sc*i*"):
        assert not modalias.matches(f"pci:{fields}")
    assert time.monotonic() - began < 1


BUILT_IN = "pcieportdrv.alias=pci:v*d*sv*sd*bc06sc04i00*\0pcieportdrv.license=GPL\0"
CONFIG = """\
# alias pci:* commented_out
alias pci:v0000\\
10DEd*  mine
alias pci:v000010DEd*i00 without_the_newline
blacklist nouveau
alias incomplete
"""
PORT = "pci:v00008086d00003C02sv00000000sd00000000bc06sc04i00"


def test_the_first_source_that_knows_the_modalias_answers_alone() -> None:
    lookup = ModuleLookup("blacklist nouveau\n", MODULES, BUILT_IN)
    assert lookup.modules(A10) == ("nvidiafb", "nouveau")
    assert lookup.modules(A10 + "\n") == ("nvidiafb", "nouveau")
    assert ModuleLookup(CONFIG, MODULES, BUILT_IN).modules(A10) == ("mine",)
    assert lookup.modules(PORT) == ("pcieportdrv",)
    assert ModuleLookup(CONFIG, MODULES, "").modules(PORT) == ()


def test_lspci_sees_no_module_whose_pattern_ends_before_the_newline() -> None:
    aliases = f"alias {A10} exact\nalias {A10}* open_ended\nalias pci:*sc02i00 exact_too\n"
    index = ModuleIndex.from_texts(aliases, ())
    assert index.candidates(A10) == ("exact", "open_ended", "exact_too")
    assert ModuleLookup("", index, "").modules(A10) == ("open_ended",)


def test_without_the_kernels_modules_and_for_no_pci_device_there_is_none() -> None:
    assert ModuleLookup(CONFIG, None, BUILT_IN).modules(A10) == ()
    for text in ("", "usb:v1D6Bp0002", A10.lower()):
        assert ModuleLookup("alias * any\n", MODULES, BUILT_IN).modules(text) == ()


@given(st.text(), st.text(), modaliases)
def test_no_configuration_is_too_odd(config: str, builtin: str, modalias: Modalias) -> None:
    found = ModuleLookup(f"{config}\nalias * x", MODULES, builtin).modules(str(modalias))
    assert found or "\\" in config


def test_a_configured_pattern_of_megabytes_matches_nothing() -> None:
    began = time.monotonic()
    assert ModuleLookup(f"alias {'*' * (1 << 22)} x", MODULES, "").modules(PORT) == ()
    assert time.monotonic() - began < 1
