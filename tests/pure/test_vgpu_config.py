"""Declarative vGPU configurations: what is accepted, what is chosen, what is written."""

from __future__ import annotations

import contextlib
import json

import attrs
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.pure.hosts import address, device
from vfiohost.errors import NotFoundError, ParseError, PlanRefused
from vfiohost.vgpu_config import (
    BOARDS,
    Config,
    DeviceFilter,
    Entry,
    default_config,
    mig_parted,
    parse,
    render,
    select,
)
from vfiohost.vgpu_config.tree import MOST_BYTES
from vfiohost.vgpu_config.types import parse_uint

HEAD = "version: v1\nvgpu-configs:\n"


def entry(text: str) -> str:
    return f"{HEAD}  a:\n    - {text}\n"


def counts(text: str) -> str:
    return entry(f"{{devices: all, vgpu-devices: {text}}}")


def filtered(text: str) -> str:
    return entry(f"{{devices: all, device-filter: {text}, vgpu-devices: {{}}}}")


def of(text: str) -> str:
    return entry(f"{{devices: {text}, vgpu-devices: {{}}}}")


ACCEPTED = {
    "empty": "",
    "comment": "# nothing\n",
    "null": "~",
    "empty mapping": "{}",
    "only version": "version: v1",
    "json": '{"version": "v1", "vgpu-configs": {"a": [{"devices": "all", "vgpu-devices": {}}]}}',
    "time-sliced": counts("{A10-4Q: 6}"),
    "several": counts("{A10-4Q: 3, A10-8Q: 1, A10-2B: 1, A10-1A: 1, A100-4C: 1}"),
    "half a GB": counts("{M60-0Q: 16}"),
    "words in the board": counts("{RTX6000-Ada-24Q: 2}"),
    "mig": counts("{A100-1-5C: 4, A100-1-5CME: 1, A100-2-10CNOME: 1, A100-1-5CMEALL: 1}"),
    "mig graphics": counts("{DC-1-24QGFX: 4}"),
    "clear": counts("{}"),
    "clear with null": counts("~"),
    "whole float": counts("{A10-4Q: 2.0}"),
    "hexadecimal": counts("{A10-4Q: 0x2}"),
    "tagged int": counts('{A10-4Q: !!int "2"}'),
    "filter": filtered('"0x223610DE"'),
    "filter with subsystem": filtered('"0x25B610DE:0x14A910DE"'),
    "filters": filtered('["0x223610DE", "0x20B510DE"]'),
    "filter that is none": filtered("MODEL"),
    "no filters": filtered("[]"),
    "null filter": filtered("~"),
    "empty filter": filtered('""'),
    "null among filters": filtered("[~]"),
    "no devices": of("[]"),
    "devices": of("[0, 1]"),
    "negative device": of("[-1]"),
    "null device": of("[~]"),
    "float device": of("[1.0]"),
    "duplicate key": counts("{A10-4Q: 0, A10-4Q: 6}"),
    "second document": "version: v1\n---\nversion: v2\n",
    "anchors": f"{HEAD}  a: &a\n    - {{devices: all, vgpu-devices: {{}}}}\n  b: *a\n",
    "merge": f"{HEAD}  a: [&x {{devices: all, vgpu-devices: {{}}}}, {{<<: *x}}]\n",
    "number for a name": f"{HEAD}  1:\n    - {{devices: all, vgpu-devices: {{}}}}\n",
}

REJECTED = {
    "text": "x",
    "list": "[]",
    "missing version": "vgpu-configs:\n  a: [{devices: all, vgpu-devices: {}}]",
    "wrong version": "version: v2",
    "numeric version": "version: 1",
    "null version": "version: ~",
    "unknown field": "version: v1\nbogus: field",
    "other case": "Version: v1",
    "empty configs": "version: v1\nvgpu-configs: {}",
    "null configs": "version: v1\nvgpu-configs:",
    "list of configs": "version: v1\nvgpu-configs: []",
    "empty list": f"{HEAD}  a: []",
    "null list": f"{HEAD}  a:",
    "mapping for a list": f"{HEAD}  a: {{devices: all, vgpu-devices: {{}}}}",
    "text for an entry": entry("A10-4Q"),
    "null entry": entry("~"),
    "empty entry": entry("{}"),
    "unknown key": entry("{bogus: 1, devices: all, vgpu-devices: {}}"),
    "missing devices": entry("{vgpu-devices: {}}"),
    "missing vgpu-devices": entry("{devices: all}"),
    "devices none": of("none"),
    "devices null": of("~"),
    "devices number": of("0"),
    "devices texts": of('["0"]'),
    "devices fraction": of("[0.5]"),
    "devices bool": of("[true]"),
    "devices huge": of("[99999999999999999999]"),
    "filter number": filtered("0x223610DE"),
    "filter numbers": filtered("[0x223610DE]"),
    "filter mapping": filtered("{}"),
    "zero": counts("{A10-4Q: 0}"),
    "negative": counts("{A10-4Q: -1}"),
    "text count": counts('{A10-4Q: "2"}'),
    "fraction": counts("{A10-4Q: 2.5}"),
    "bool count": counts("{A10-4Q: yes}"),
    "null count": counts("{A10-4Q: ~}"),
    "mixed": counts("{A100-1-5C: 1, A100-4C: 1}"),
    "list of types": counts("[A10-4Q]"),
    "T4-2B4": counts("{T4-2B4: 1}"),
    "id for a name": counts("{nvidia-595: 1}"),
    "brand": counts("{NVIDIA A10-4Q: 1}"),
    "small letters": counts("{a10-4q: 1}"),
    "leading zero": counts("{A10-04Q: 1}"),
    "suffix without mig": counts("{A10-4QME: 1}"),
    "word in a mig board": counts("{RTX6000-Ada-1-12Q: 1}"),
    "bad duplicate": counts("{A10-4Q: 6, A10-4Q: 0}"),
    "null key": "version: v1\n~: 1",
    "list for a key": "version: v1\n? [a]\n: 1",
    "unknown alias": "version: *v",
    "itself": "version: v1\nvgpu-configs: &a {a: [*a]}",
    "merge of a number": "version: v1\n<<: 5",
    "no yaml": "version: [",
    "tab": "version: v1\n\tvgpu-configs: {}",
}


@pytest.mark.parametrize("text", ACCEPTED.values(), ids=ACCEPTED)
def test_what_the_vgpu_device_manager_accepts_is_accepted(text: str) -> None:
    config = parse(text)
    assert config.version in {None, "v1"}
    assert parse(render(config)) == config


@pytest.mark.parametrize("text", REJECTED.values(), ids=REJECTED)
def test_what_it_rejects_is_rejected_and_says_where(text: str) -> None:
    with pytest.raises(ParseError) as caught:
        parse(text, "x.yaml")
    assert "x.yaml" in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "A16-8A",
        "A16-8B",
        "A16-8C",
        "A16-8Q",
        "A100-5C",
        "A100-1-5C",
        "A100-1-5CME",
        "A100-1-5CNOME",
        "A100-1-5CMEALL",
        "DC-1-24QGFX",
        "6000D-84Q",
        "RTX6000-Ada-24Q",
    ],
)
def test_the_name_of_a_type_is_taken(name: str) -> None:
    (each,) = parse(counts(f'{{"{name}": 1}}')).configs["a"]
    assert dict(each.vgpu_devices) == {name: 1}


@pytest.mark.parametrize(
    "name",
    [
        "",
        "bogus",
        "A16-8E",
        "A100-5c",
        " A100-5C",
        "A100 -5C",
        "A100- 5C",
        "A100-5C ",
        " A100-1-5C",
        "A100 -1-5C",
        "A100- 1-5C",
        "A100-1 -5C",
        "A100-1- 5C",
        "A100-1-5 C",
        "A100-1-5C ",
        "A100-1-5Cme",
        "A100-1-5C ME",
        "A100-1-5Cab",
        "A100-0-5C",
        "A100-10-5C",
        "A100-1-05C",
        "A100-1-5CMEGFX",
        "RTX6000-4-24Q-Ada",
        "A10-8Q\\n",
    ],
)
def test_what_is_like_the_name_of_a_type_is_not_taken(name: str) -> None:
    with pytest.raises(ParseError, match=r"x\.yaml, line "):
        parse(counts(f'{{"{name}": 1}}'), "x.yaml")


def test_all_counts_of_an_entry_are_at_least_one() -> None:
    with pytest.raises(ParseError, match="a count of A100-5C"):
        parse(counts("{A100-5C: 0, A100-8C: 0}"))


def test_an_error_names_file_line_column_key_and_what_was_expected() -> None:
    text = f"{HEAD}  a:\n    - devices: all\n      vgpu-devices:\n        A10-4Q: 0\n"
    with pytest.raises(ParseError) as caught:
        parse(text, "gpus.yaml")
    assert str(caught.value) == (
        "gpus.yaml, line 6, column 17: '0' is not a count of A10-4Q: a number from 1."
    )
    with pytest.raises(ParseError, match=r"line 4, column 9: 'device' .* Did you mean devices\?"):
        parse(f"{HEAD}  a:\n    - {{device: all}}".replace("- {", "- { "), "gpus.yaml")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (ACCEPTED["filter that is none"], "'MODEL' never fits a GPU"),
        (ACCEPTED["duplicate key"], "'A10-4Q' is there already"),
        (ACCEPTED["second document"], "another document begins here"),
    ],
)
def test_what_does_not_do_what_it_seems_to_is_warned_about(text: str, said: str) -> None:
    (warning,) = parse(text, "x.yaml").warnings
    assert said in warning
    assert warning.startswith("x.yaml, line ")


@pytest.mark.parametrize(
    "text",
    [
        "x" * (MOST_BYTES + 1),
        "[" * 5000,
        "- " * 5000,
        "a: &a [x]\n"
        + "".join(f"b{n}: &b{n} [{', '.join([f'*b{n - 1}'] * 9)}]\n" for n in range(1, 9)),
        "a: &b0 [x,x,x,x,x,x,x,x,x]\n"
        + "".join(f"b{n}: &b{n} [{', '.join([f'*b{n - 1}'] * 9)}]\n" for n in range(1, 30)),
        "version: 1" + "0" * 10000,
        "version: \x00",
        "version: \udc80",
        'version: "\\UFFFFFFFF"',
        "%YAML 1." + "9" * 5000 + "\n---\nversion: v1",
    ],
)
def test_a_hostile_text_costs_little(text: str) -> None:
    with pytest.raises(ParseError):
        parse(text)


@given(st.text() | st.text(alphabet="version: 1\n-[]{}&*a<!|>'\"?,#%@`\t~"))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(ParseError):
        parse(text)
    with contextlib.suppress(ParseError):
        parse(f"{HEAD}  {text}")


NAMES = st.from_regex(r"\A[A-Z0-9]{1,6}(-Ada)?-(0|[1-9][0-9]{0,2})[ABCQ]\Z")
MIG_NAMES = st.from_regex(r"\A[A-Z0-9]{1,6}-[1-9]-(0|[1-9][0-9]{0,2})[ABCQ](ME|NOME|MEALL|GFX)?\Z")
COUNTS = st.integers(1, 1 << 40)
# YAML has no way to write half of a surrogate pair.
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
ENTRIES = st.builds(
    Entry,
    st.just("all") | st.lists(st.integers(-5, 99)).map(tuple),
    st.dictionaries(NAMES, COUNTS, max_size=3) | st.dictionaries(MIG_NAMES, COUNTS, max_size=3),
    st.lists(st.builds(DeviceFilter, TEXTS), max_size=3).map(tuple),
)
CONFIGS = st.dictionaries(
    TEXTS.filter(lambda text: text != "<<"), st.lists(ENTRIES, min_size=1, max_size=3).map(tuple)
).map(Config)


@given(CONFIGS)
def test_what_is_written_is_read_again(config: Config) -> None:
    assert parse(render(config)) == config


@given(CONFIGS)
def test_others_read_what_is_written(config: Config) -> None:
    data = yaml.safe_load(render(config))
    found = data.get("vgpu-configs", {})
    assert list(found) == list(config.configs)
    assert all(
        each["vgpu-devices"] == dict(entry.vgpu_devices)
        for name, entries in config.configs.items()
        for each, entry in zip(found[name], entries, strict=True)
    )


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0x223610DE", 0x223610DE),
        ("0X10", 16),
        ("0b11", 3),
        ("0o17", 15),
        ("017", 15),
        ("10", 10),
        ("0", 0),
        ("1_000", 1000),
        ("0x_1", 1),
        ("0xFFFFFFFF", 0xFFFFFFFF),
        ("0x100000000", None),
        ("1__0", None),
        ("1_", None),
        ("+1", None),
        (" 1", None),
        ("0x", None),
        ("08", None),
        ("MODEL", None),
        ("", None),
        ("9" * 5000, None),
    ],
)
def test_numbers_of_filters_are_read_as_go_does(text: str, number: int | None) -> None:
    assert parse_uint(text) == number


T4 = device("0000:3b:00.0", "nvidia", ids="10de:1eb8")
A10 = device("0000:65:00.0", "nvidia")
OTHER = device("0000:ca:00.0", "nvidia")
A16 = attrs.evolve(
    device("0000:06:00.0", "nvidia", ids="10de:25b6"),
    subsystem_vendor_id=0x10DE,
    subsystem_device_id=0x14A9,
)
A2 = attrs.evolve(A16, address=address("0000:05:00.0"), subsystem_device_id=0x157E)


def entries(text: str) -> tuple[Entry, ...]:
    return parse(entry(text)).configs["a"]


def test_filters_and_positions_choose_gpus_and_the_others_are_named() -> None:
    all_of_a_kind = entries(
        '{device-filter: "0x223610DE", devices: all, vgpu-devices: {A10-4Q: 6}}'
    )
    found = select(all_of_a_kind, [OTHER, T4, A10])
    assert found.wanted == {A10.address: {"A10-4Q": 6}, OTHER.address: {"A10-4Q": 6}}
    assert found.uncovered == (T4.address,)
    # A position is one among all GPUs, not among those of the filter.
    second = entries('{device-filter: "0x223610DE", devices: [1], vgpu-devices: {}}')
    assert select(second, [OTHER, T4, A10]).wanted == {A10.address: {}}
    assert not select(
        entries("{device-filter: MODEL, devices: all, vgpu-devices: {}}"), [A10]
    ).wanted


def test_a_position_that_no_gpu_has_is_about_none() -> None:
    found = select(entries("{devices: [7, -1], vgpu-devices: {A10-4Q: 6}}"), [A10, OTHER])
    assert (dict(found.wanted), found.uncovered) == ({}, (A10.address, OTHER.address))


def test_one_of_several_filters_is_enough() -> None:
    several = entries('{device-filter: [MODEL, "0x1EB810DE"], devices: all, vgpu-devices: {}}')
    assert select(several, [A10, T4]).wanted == {T4.address: {}}
    other = entries('{device-filter: "0x25B610DE:0x157E10DE", devices: all, vgpu-devices: {}}')
    assert select(other, [A16, A2]).wanted == {A2.address: {}}


def test_a_subsystem_tells_boards_apart() -> None:
    found = select(default_config().configs["default"], [A16, A2])
    assert found.wanted == {A16.address: {"A16-8Q": 2}, A2.address: {"A2-8Q": 2}}


def test_entries_that_contradict_each_other_are_refused_unless_the_gpu_decides() -> None:
    both = (Entry("all", {"A16-8Q": 2}), Entry("all", {"A2-8Q": 2}))
    with pytest.raises(PlanRefused) as caught:
        select(both, [A16])
    assert "2 x A16-8Q and 2 x A2-8Q" in caught.value.refusals[0].sentence
    found = select(both, [A16], lambda _, name: name.startswith("A16-"))
    assert found.wanted == {A16.address: {"A16-8Q": 2}}


def test_a_configuration_is_named_where_there_are_several() -> None:
    config = parse(f"{HEAD}  aa: &a [{{devices: all, vgpu-devices: {{}}}}]\n  ab: *a\n")
    assert config.choose("aa") == ("aa", config.configs["aa"])
    with pytest.raises(ParseError, match="-c NAME"):
        config.choose(None)
    with pytest.raises(NotFoundError, match=r"no vGPU configuration 'ac'. Did you mean"):
        config.choose("ac")
    with pytest.raises(NotFoundError):
        parse("").choose(None)


def test_the_gpu_instances_of_mig_backed_types_are_left_to_mig_parted() -> None:
    made = (
        Entry(
            "all",
            {
                "A100-1-5C": 4,
                "A100-1-5CME": 1,
                "A100-2-10CNOME": 1,
                "A100-1-5CMEALL": 1,
                "DC-1-24Q": 1,
                "DC-1-24A": 2,
                "DC-1-24QGFX": 3,
            },
            (DeviceFilter("0x20F110DE"),),
        ),
        Entry((0, 1), {"A10-4Q": 6}),
    )
    text = mig_parted("mine", made)
    assert text.splitlines()[:6] == [
        "version: v1",
        "mig-configs:",
        "  mine:",
        '    - device-filter: "0x20F110DE"',
        "      devices: all",
        "      mig-enabled: true",
    ]
    assert yaml.safe_load(text) == {
        "version": "v1",
        "mig-configs": {
            "mine": [
                {
                    "device-filter": "0x20F110DE",
                    "devices": "all",
                    "mig-enabled": True,
                    "mig-devices": {
                        "1g.5gb": 4,
                        "1g.5gb+me": 1,
                        "2g.10gb-me": 1,
                        "1g.5gb+me.all": 1,
                        "1g.24gb": 3,
                        "1g.24gb+gfx": 3,
                    },
                },
                {"devices": [0, 1], "mig-enabled": False, "mig-devices": {}},
            ]
        },
    }


DEFAULT = """
1DB1 V100X-8Q:2; 1DB3 V100L-8Q:2; 1DB4 V100-8Q:2; 1DB5 V100DX-16Q:2; 1DB6 V100D-16Q:2;
1DF6 V100S-16Q:2; 1E78 RTX8000P-24Q:2; 1E78 RTX6000P-12Q:2; 1EB8 T4-8Q:2; 20B0 A100X-20C:2;
20B2 A100DX-40C:2; 20B5,20B8 A100D-40C:2; 20B7,20B9 A30-12C:2; 20F1 A100-20C:2; 20F3 A800DX-40C:2;
20F5,20FD A800D-40C:2; 20F6 A800-20C:2; 2230 RTXA6000-24Q:2; 2231 RTXA5000-12Q:2;
2233 RTXA5500-12Q:2; 2235 A40-24Q:2; 2236 A10-12Q:2; 2321 H100L-47C:2; 2322 H800-40C:2;
2324 H800XM-40C:2; 2329 H20-48C:2; 232C H20X-70C:2; 2330,2336 H100XM-40C:2; 2331 H100-40C:2;
2335 H200X-70C:2; 2337 H100XS-32C:2; 2339 H100XL-47C:2; 233A H800L-47C:2; 233B H200-70C:2;
2342 GH200-96C:1; 2348 GH200L-144C:1; 25B6 A16-8Q:2; 25B6 A2-8Q:2; 26B1 RTX6000-Ada-24Q:2;
26B2 RTX5000-Ada-16Q:2; 26B3 RTX5880-Ada-24Q:2; 26B5 L40-24Q:2; 26B9 L40S-24Q:2; 26BA L20-24Q:2;
27B6 L2-12Q:2; 27B8 L4-12Q:2; 2901 B200X-180C:1; 2941 GB200-189C:1; 2BB5 DC-48Q:2; 2BB9 6000D-84Q:1;
2C3A DC-16Q:2; 3182 B300X-269C:1
"""


def test_the_default_is_that_of_nvidia_but_for_filters_that_fit_two_boards() -> None:
    wanted = {
        (ids.strip(), kind.strip())
        for ids, kind in (part.strip().split(" ") for part in DEFAULT.split(";"))
    }
    found = set()
    for each in default_config().configs["default"]:
        ids = ",".join(f.text.partition(":")[0].removeprefix("0x")[:4] for f in each.device_filter)
        ((name, count),) = each.vgpu_devices.items()
        found.add((ids, f"{name}:{count}"))
    assert found == wanted
    filters = [f.text for e in default_config().configs["default"] for f in e.device_filter]
    assert len(set(filters)) == len(filters)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("A10-4Q", 6),
        ("A10-8Q", 3),
        ("A40-1Q", 32),
        ("A40-2Q", 24),
        ("RTX8000P-4C", 8),
        ("RTX8000P-4Q", 12),
        ("H100L-15C", 6),
        ("H20-32C", 3),
        ("A100D-1-10C", 7),
        ("A100D-1-10CME", 1),
        ("A100D-1-20C", 4),
        ("A30-2-12CME", 1),
        ("GH200-3-48C", 2),
        ("V100S-32C", 1),
        ("H200X-8C", 16),
        ("H200-4C", 32),
        ("H20X-28C", 5),
        ("H200X-3-71C", 2),
        ("GH200L-1-36C", 4),
        ("B200X-1-23CME", 1),
        ("B200X-180C", 1),
        ("GB200-2-47C", 3),
        ("6000D-1-42Q", 2),
        ("6000D-84C", 1),
        ("DC-3Q", 32),
        ("DC-96Q", 1),
        ("DC-1-2Q", 48),
        ("DC-1-24C", 4),
        ("DC-2-12Q", 8),
        ("DC-4-32C", 3),
    ],
)
def test_each_type_has_a_configuration_that_fills_one_gpu(name: str, count: int) -> None:
    (each,) = default_config().configs[name]
    assert (each.devices, dict(each.vgpu_devices)) == ("all", {name: count})


def test_a_type_of_two_boards_has_an_entry_for_each() -> None:
    found = default_config().configs["DC-16Q"]
    assert [(e.device_filter[0].text, dict(e.vgpu_devices)) for e in found] == [
        ("0x2BB510DE", {"DC-16Q": 6}),
        ("0x2C3A10DE", {"DC-16Q": 2}),
    ]
    large, small = (device(at, "nvidia", ids=f"10de:{ids}") for at, ids in DC_BOARDS)
    assert select(found, [large, small]).wanted == {
        large.address: {"DC-16Q": 6},
        small.address: {"DC-16Q": 2},
    }


DC_BOARDS = (("0000:05:00.0", "2bb5"), ("0000:06:00.0", "2c3a"))


def test_only_one_name_is_that_of_two_boards_and_all_are_read_again() -> None:
    owners: dict[str, set[str]] = {}
    for board in BOARDS:
        for name, _ in board.types():
            assert board.name not in owners.setdefault(name, set()) or board.name == "DC"
            owners[name].add(board.name)
    assert all(len(names) == 1 for names in owners.values())
    config = default_config()
    # NVIDIA's file before vGPU 20 has 667; the RTX PRO 4500 and the B300 came with that.
    later = {"B300X-269C", "DC-1-16C", "DC-2-8C", "DC-2-32C"}
    assert len(config.configs.keys() - later) == 667
    assert parse(render(config)) == config
    assert not parse(render(config)).warnings
    assert json.dumps(yaml.safe_load(render(config)))
