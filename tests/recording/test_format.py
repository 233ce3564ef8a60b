"""The text format: nothing is lost, the text is canonical, and bad input is named."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.strategies import recordings
from vfiohost import recording
from vfiohost.errors import ParseError
from vfiohost.model import PciAddress
from vfiohost.recording import (
    Attribute,
    File,
    Function,
    Group,
    MdevTable,
    MdevTableType,
    Module,
    PciDriver,
    Recording,
)
from vfiohost.testing import fixtures

if TYPE_CHECKING:
    from collections.abc import Mapping

HEAD = "vfiohost-recording 1\ntitle = t\nsource = s\n"
EMPTY = Recording("t", "s")


@given(recordings())
def test_nothing_is_lost_and_the_text_is_canonical(given_recording: Recording) -> None:
    text = recording.format(given_recording)
    parsed = recording.parse(text)
    assert parsed == given_recording
    assert recording.format(parsed) == text


@settings(max_examples=20)
@given(recordings())
def test_indentation_comments_and_blank_lines_mean_nothing(given_recording: Recording) -> None:
    first, *lines = recording.format(given_recording).split("\n")
    loose = [each for line in lines for each in (f"   {line}", "", "# = remark", "\t# | remark")]
    assert recording.parse("\n".join([first, *loose])) == given_recording


@pytest.mark.parametrize("name", fixtures.names())
def test_the_fixtures_are_canonical(name: str) -> None:
    text = fixtures._files()[name].read_text(encoding="utf-8")
    assert recording.format(recording.parse(text)) == text


def function(name: str, attributes: Mapping[str, Attribute], **fields: Any) -> Function:
    return Function(f"pci0000:00/{name}", attributes=attributes, **fields)


def body(**values: Any) -> str:
    """The text of a recording below its first three lines."""
    return recording.format(attrs.evolve(EMPTY, **values)).removeprefix(HEAD).strip()


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b"0x10de\n", ["revision = 0x10de"]),
        (b"(null)\n", ["revision = (null)"]),
        (b"", ['revision = ""']),
        (b"\n", [r'revision = "\n"']),
        (b"0x10de", ['revision = "0x10de"']),
        (b" x\n", [r'revision = " x\n"']),
        (b"absent\n", [r'revision = "absent\n"']),
        (b"caf\xc3\xa9 \xff\n", [r'revision = "café \xff\n"']),
        (13, ["revision = !EACCES"]),
        (4000, ["revision = !4000"]),
        (b"a\nb\n\n\n", ["revision =", "| a", "| b", "|*2"]),
        (b"z\nz\nz\n", ["revision =", "|*3 z"]),
        (b"a\n b", ["revision =", r'"a\n"', '" b"']),
        (bytes(65), ["revision =", *["x " + "00" * 16] * 4, "x 00"]),
    ],
)
def test_how_contents_are_written(content: bytes | int, lines: list[str]) -> None:
    text = body(groups=(Group(1, {"revision": Attribute(content)}),))
    assert [line.strip() for line in text.split("\n")] == ["group 1", *lines]


def test_permission_bits_stand_behind_the_name() -> None:
    text = body(groups=(Group(1, {"type": Attribute(b"DMA\n", 0o600)}),))
    assert text == "group 1\n  type [0600] = DMA"


def test_a_section_like_another_says_only_what_differs() -> None:
    files = ["vendor", "device", "class", "irq", "enable", "numa_node", "power_state"]
    first = {name: Attribute(b"0\n") for name in files}
    second = {name: first[name] for name in files if name != "irq"}
    physfn = PciAddress(0, 0, 1, 0)
    text = body(
        functions=(
            function("0000:00:01.0", first, driver="nvidia", iommu_group=1),
            function("0000:00:01.4", second, iommu_group=1, physfn=physfn),
        )
    )
    assert text.split("\n\n")[1].split("\n") == [
        "function 0000:00:01.4 like 0000:00:01.0",
        "  driver = none",
        "  physfn = 0000:00:01.0",
        "  irq = absent",
    ]


def test_a_function_is_written_like_none_of_another_kind() -> None:
    files = {name: Attribute(b"0\n") for name in "abcdefgh"}
    other = files | {"device": Attribute(b"0x2237\n")}
    functions = (function("0000:00:01.0", files), function("0000:00:02.0", other))
    assert "like" not in body(functions=functions)


def test_the_usual_uevent_and_aliases_are_not_spelled_out() -> None:
    ids = {"vendor": b"0x10de\n", "device": b"0x2236\n", "class": b"0x030200\n"}
    ids |= {"subsystem_vendor": b"0x10de\n", "subsystem_device": b"0x1482\n"}
    files = {name: Attribute(content) for name, content in ids.items()}
    uevent = (
        b"DRIVER=nvidia\nPCI_CLASS=30200\nPCI_ID=10DE:2236\nPCI_SUBSYS_ID=10DE:1482\n"
        b"PCI_SLOT_NAME=0000:65:00.0\n"
        b"MODALIAS=pci:v000010DEd00002236sv000010DEsd00001482bc03sc02i00\n"
    )
    usual = function("0000:65:00.0", files | {"uevent": Attribute(uevent)}, driver="nvidia")
    assert "  uevent = <usual>" in body(functions=(usual,))
    unusual = attrs.evolve(usual, driver="nouveau")
    assert "    | DRIVER=nvidia" in body(functions=(unusual,))
    driver = PciDriver("nvidia", ("pci:a", "pci:b"))
    assert "  alias = <usual>" in body(
        modules=(Module("nvidia", "loaded", (driver,), (), driver.matches),)
    )


@pytest.mark.parametrize(
    "broken",
    [
        Recording("t", "s", groups=(Group(-1),)),
        Recording("t", "s", groups=(Group(1, {"a": Attribute(b"", 0o10000)}),)),
        Recording("t", "s", functions=(Function("pci0000:00/0000:00:01.0"),) * 2),
        Recording("t", "s", functions=(Function("pci0000:00/1:00:01.0"),)),
    ],
)
def test_what_no_text_can_hold_is_refused(broken: Recording) -> None:
    with pytest.raises(ValueError, match=r"negative|no mode|named once|not a PCI address"):
        recording.format(broken)


FUNCTION = "function 0000:00:01.0 at pci0000:00\n"
MODULE = "module m loaded\n"
TABLE = "mdev-table t\n  driver = d\n  device_api = vfio-pci\n"


@pytest.mark.parametrize(
    ("text", "line", "expected"),
    [
        ("", 1, "the first line of a recording"),
        (f"# a remark\n{HEAD}", 1, "the first line of a recording"),
        ("vfiohost-recording 2\n", 1, "the first line of a recording"),
        ("vfiohost-recording 1\nsource = s\n", 1, "it needs a line 'title"),
        ("vfiohost-recording 1\ntitle = t\n", 1, "it needs a line 'source"),
        (f"{HEAD}kernel = a\nkernel = b\n", 5, "does not have yet"),
        (f"{HEAD}colour = red\n", 4, "one of title, source"),
        (f"{HEAD}lacks = wheels\n", 4, "one of controls"),
        (f"{HEAD}funktion 0000:00:01.0\n", 4, "Did you mean function?"),
        (f"{HEAD}function 00:01.0 at x\n", 4, "a full address in lower case, here 0000:00:01.0"),
        (f"{HEAD}function 0000:00:41.0\n", 4, "a PCI address such as"),
        (f"{HEAD}function 0000:00:01.0 in x\n", 4, "'function ADDRESS [at PARENT]"),
        (f"{HEAD}function 0000:00:01.0 at\n", 4, "'function ADDRESS [at PARENT]"),
        (f"{HEAD}{FUNCTION}{FUNCTION}", 5, "a function that is not there yet"),
        (f"{HEAD}function 0000:00:01.0 like 0000:00:02.0\n", 4, "a function that stands above"),
        (f"{HEAD}{FUNCTION}  iommu_group = many\n", 5, "a number"),
        (f"{HEAD}{FUNCTION}  iommu_group = 1\n  iommu_group = 2\n", 6, "does not have yet"),
        (f"{HEAD}{FUNCTION}  irq = 1\n  irq = 2\n", 6, "does not have yet"),
        (f"{HEAD}{FUNCTION}  driver = none\n", 5, "the section is not like one that has it"),
        (f"{HEAD}{FUNCTION}  irq = absent\n", 5, "the section is not like one that has it"),
        (f"{HEAD}{FUNCTION}  driver [0600] = x\n", 5, "only files have a mode"),
        (f"{HEAD}{FUNCTION}  uevent = <usual>\n", 5, "it follows from vendor"),
        (f"{HEAD}{FUNCTION}  irq = <usual>\n", 5, "a plain text"),
        (f"{HEAD}{FUNCTION}  irq =\n  class = 1\n", 5, "a name with a value or a block"),
        (f"{HEAD}{FUNCTION}  irq = !ENOSUCH\n", 5, "an errno such as !EACCES"),
        (f'{HEAD}{FUNCTION}  irq = "open\n', 5, "between double quotes"),
        (f'{HEAD}{FUNCTION}  irq = "\\q"\n', 5, "one of"),
        (f"{HEAD}{FUNCTION}  irq =\n  |bad\n", 6, "a line of a block"),
        (f"{HEAD}{FUNCTION}  irq =\n  |*99999 x\n", 6, "a line of a block"),
        (f"{HEAD}{FUNCTION}  irq [0999] = 1\n", 5, "a line 'name = value'"),
        (f"{HEAD}{FUNCTION}  nonsense\n", 5, "a line 'name = value'"),
        (f"{HEAD}module m\n", 4, "'module NAME loaded|loadable|builtin'"),
        (f"{HEAD}module m runing\n", 4, "one of loaded, loadable, builtin"),
        (f"{HEAD}{MODULE}  match = x\n", 5, "before a line 'driver"),
        (f"{HEAD}{MODULE}  alias = <usual>\n  alias = x\n", 6, "beside 'alias = <usual>'"),
        (f"{HEAD}{MODULE}  alais = x\n", 5, "Did you mean alias?"),
        (f"{HEAD}{MODULE}  driver = d\n  sriov = perhaps\n", 6, "one of yes, no"),
        (f"{HEAD}group x\n", 4, "a number"),
        (f"{HEAD}group 7\ngroup 07\n", 5, "a group that is not there yet"),
        (f"{HEAD}mdev-table t\n", 4, "it needs a line 'driver"),
        (f"{HEAD}{TABLE}  scope = card\n", 7, "one of parent, physfn"),
        (f"{HEAD}{TABLE}  type = a\n", 4, "it needs a line 'max_instances"),
        (f"{HEAD}mdev u\n  parent = p\n", 4, "it needs a parent and a type"),
        (f"{HEAD}virtual-parent p\n", 4, "it needs a line 'mdev_table"),
        (f"{HEAD}file a\n", 4, "it needs a line 'content"),
        (f"{HEAD}file a\n  content = !EIO\n", 5, "the content of a file"),
        (f"{HEAD}file a\n  content = x\nlink a -> b\n", 6, "a file that is not there yet"),
        (f"{HEAD}link a => b\n", 4, "'->'"),
        (f"{HEAD}link a b\n", 4, "'link PATH -> TARGET'"),
        (f"{HEAD}directory a\n  mode = rwx\n", 5, "permission bits such as 0644"),
        (f'{HEAD}file "a\n', 4, "names with spaces between them"),
        (f'{HEAD}file "a\\x00b"\n', 4, "a text without NUL"),
    ],
)
def test_bad_input_is_named_with_its_line(text: str, line: int, expected: str) -> None:
    with pytest.raises(ParseError, match=re.escape(expected)) as caught:
        recording.parse(text, name="a.host")
    assert caught.value.where == f"a.host line {line}"


REPEATED = f"    |*9999 {'x' * 100}"


@pytest.mark.parametrize(
    ("lines", "line"),
    [
        (["file a", "  content =", *[REPEATED] * 20], 10),
        (["group 1", "  a =", REPEATED, *(f"group {n} like 1" for n in range(2, 20))], 10),
        (
            [
                "group 1",
                *(f"  a{n} = 1" for n in range(300)),
                *(f"group {n} like 1" for n in range(2, 300)),
            ],
            358,
        ),
        (["group 1", f"  a = {'x' * 99_000}", *(f"group {n} like 1" for n in range(2, 99))], 47),
    ],
    ids=["repeated lines", "many like one", "many files like many", "a long line like many"],
)
def test_a_short_text_does_not_fill_the_memory(
    monkeypatch: pytest.MonkeyPatch, lines: list[str], line: int
) -> None:
    """It gives up in the line where it has come to the limit."""
    monkeypatch.setattr("vfiohost.recording.reader.MOST_BYTES", 4 << 20)
    with pytest.raises(ParseError, match="one that comes to at most 4 MiB") as caught:
        recording.parse(HEAD + "\n".join(lines) + "\n")
    assert caught.value.where == f"line {line}"


@pytest.mark.parametrize(
    "text", ['title = "\ud800"', "note = \udcff", "file a\n  content =\n| \ud800"]
)
def test_what_no_file_can_hold_is_refused(text: str) -> None:
    with pytest.raises(ParseError, match="is not UTF-8") as caught:
        recording.parse(f"{HEAD}{text}\n")
    assert caught.value.where == f"line {4 + text.count(chr(10))}"


def test_available_instances_of_types_that_share_a_pool() -> None:
    one, two = MdevTableType("mtty-1", None, 24), MdevTableType("mtty-2", None, 12)
    table = MdevTable("mtty", "mtty", "vfio-pci", (one, two))
    assert table.available("mtty-1", {}, 0) == 24
    assert table.available("mtty-2", {"mtty-1": 1}, 1) == 11
    assert table.available("mtty-1", {"mtty-1": 1, "mtty-2": 11}, 12) == 1
    assert table.available("mtty-2", {"mtty-1": 1, "mtty-2": 11}, 12) == 0


@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=4),
    st.lists(st.integers(0, 9), min_size=4, max_size=4),
)
def test_what_is_available_is_the_share_that_is_left(sizes: list[int], counts: list[int]) -> None:
    types = tuple(MdevTableType(f"t-{n}", None, size) for n, size in enumerate(sizes))
    table = MdevTable("t", "t", "vfio-pci", types)
    in_use = {each.type_id: count for each, count in zip(types, counts, strict=False)}
    taken = sum(Fraction(in_use[each.type_id], each.max_instances) for each in types)
    for each in types:
        left = table.available(each.type_id, in_use, sum(in_use.values()))
        assert left == max(0, math.floor((1 - taken) * each.max_instances))


def test_available_instances_of_a_homogeneous_card_with_one_device_for_each_parent() -> None:
    small, big = MdevTableType("nvidia-595", None, 3), MdevTableType("nvidia-596", None, 2)
    table = MdevTable(
        "a10", "nvidia", "vfio-pci", (small, big), "physfn", homogeneous=True, per_parent=1
    )
    assert table.available("nvidia-595", {}, 0) == 1
    assert table.available("nvidia-595", {"nvidia-595": 2}, 0) == 1
    assert table.available("nvidia-595", {"nvidia-595": 2}, 1) == 0
    assert table.available("nvidia-595", {"nvidia-595": 3}, 0) == 0
    assert table.available("nvidia-596", {"nvidia-595": 1}, 0) == 0


def test_a_file_may_be_a_link_or_a_directory() -> None:
    files = (File("a b", b"x\n", 0o600), File("l", "../x y"), File("d", None, 0o700))
    assert body(files=files).split("\n\n") == [
        'file "a b"\n  mode = 0600\n  content = x',
        'link l -> "../x y"',
        "directory d\n  mode = 0700",
    ]


def test_the_example_of_the_readme_is_a_recording() -> None:
    readme = Path(__file__).parents[2] / "fixtures/sysfs/README.md"
    blocks = [block.strip() for block in readme.read_text(encoding="utf-8").split("```")]
    (example,) = (block for block in blocks if block.startswith("vfiohost-recording "))
    host = recording.parse(example)
    first, second = host.functions
    assert first.attributes.keys() - second.attributes.keys() == {"resource"}
    assert (first.driver, second.driver) == ("nouveau", None)
    assert isinstance(second.attributes["uevent"].content, bytes)
    assert b"PCI_SLOT_NAME=0000:01:00.1" in second.attributes["uevent"].content
    assert [file.path for file in host.files][1:] == ["sys/devices/virtual/some/link", "var/empty"]


@pytest.mark.parametrize(
    "section", ["module a\0b loaded", "link a -> b\0", "directory a\0b", 'directory "a\\x00b"']
)
def test_no_name_has_a_nul_quoted_or_not(section: str) -> None:
    with pytest.raises(ParseError, match="a text without NUL"):
        recording.parse(f"{HEAD}{section}\n")
