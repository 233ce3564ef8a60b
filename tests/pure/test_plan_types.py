from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.pure.test_model import addresses
from vfiohost.errors import ParseError
from vfiohost.plan.types import (
    Access,
    ChangeNodes,
    Expect,
    LoadModule,
    NodeChange,
    Origin,
    Plan,
    Report,
    SetNodes,
    Step,
    StepResult,
    Store,
    WriteAttr,
)

texts = st.text()
names = st.text("abcdefghijklmnopqrstuvwxyz0123456789:._-", min_size=1).filter(
    lambda name: name not in (".", "..")
)
paths = st.lists(names, min_size=1, max_size=4).map(lambda parts: "/".join(["sys", *parts]))
expects = st.builds(Expect, paths, st.sampled_from(["link", "text", "exists"]), st.none() | texts)
stores = st.builds(Store, paths, texts, st.none() | expects)
writes = st.builds(
    WriteAttr,
    path=paths,
    value=texts,
    before=st.none() | expects,
    after=st.none() | expects,
    undo=st.none() | stores,
    why=texts,
)
modules = st.from_regex(r"[a-z0-9_][a-z0-9_-]*", fullmatch=True)
ids = st.integers(0, 2**32 - 2)
accesses = st.builds(Access, ids, ids, st.integers(0, 0o7777))
nodes = st.from_regex(r"dev/vfio/((noiommu-)?[0-9]{1,4}|devices/vfio[0-9]{1,4})", fullmatch=True)
changes = st.builds(NodeChange, nodes, st.integers(0, 2**64 - 1), accesses, accesses)
steps = st.one_of(
    writes,
    st.builds(LoadModule, modules, st.none() | expects, texts),
    st.builds(
        SetNodes,
        addresses,
        st.none() | ids,
        st.none() | ids,
        st.none() | st.integers(0, 0o777),
        texts,
    ),
    st.builds(ChangeNodes, addresses, st.lists(changes, max_size=2).map(tuple), texts),
)
plans = st.builds(
    Plan,
    verb=texts,
    subjects=st.lists(texts, max_size=3).map(tuple),
    steps=st.lists(steps, max_size=4).map(tuple),
    origins=st.lists(
        st.builds(Origin, addresses, st.none() | texts, st.none() | texts), max_size=3
    ).map(tuple),
    notes=st.lists(texts, max_size=3).map(tuple),
    incomplete=st.lists(texts, max_size=2).map(tuple),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


@given(plans)
def test_a_plan_survives_json(plan: Plan) -> None:
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


@given(json_values)
def test_arbitrary_json_is_a_parse_error_at_worst(data: object) -> None:
    with pytest.raises(ParseError):
        Plan.from_json(data)


@given(plans, st.data())
def test_a_plan_with_one_wrong_part_is_a_parse_error_at_worst(
    plan: Plan, data: st.DataObject
) -> None:
    spoiled = json.loads(json.dumps(plan.to_json()))
    node = spoiled
    while isinstance(node, dict | list) and node:
        keys = list(node) if isinstance(node, dict) else range(len(node))
        key = data.draw(st.sampled_from(list(keys)))
        if not isinstance(node[key], dict | list) or data.draw(st.booleans()):
            node[key] = data.draw(json_values)
            break
        node = node[key]
    try:
        read = Plan.from_json(spoiled)
    except ParseError:
        return
    assert Plan.from_json(read.to_json()) == read


@pytest.mark.parametrize(
    "path",
    [
        *("/sys/x", "sys/../../etc/shadow", "..", "", "sys", "sys/", "sys//x", "sys/./x"),
        *(
            "system/x",
            "etc/shadow",
            "proc/sys/kernel/core_pattern",
            "dev/mem",
            "sys/a\0b",
            "sys/\ud800",
        ),
    ],
)
def test_a_path_that_leaves_sysfs_is_refused(path: str) -> None:
    """A journal that somebody has tampered with must not write to the rest of the host."""
    expect, undo = Expect(path, "exists", "yes"), Store(path, "1", None)
    for step in (
        WriteAttr(path, "1", None, None, None, "why"),
        WriteAttr("sys/x", "1", expect, None, None, "why"),
        WriteAttr("sys/x", "1", None, expect, None, "why"),
        WriteAttr("sys/x", "1", None, None, undo, "why"),
        LoadModule("vfio_pci", expect, "why"),
    ):
        data = Plan("bind", (), (step,)).to_json()
        with pytest.raises(ParseError, match="a path "):
            Plan.from_json(data)


@pytest.mark.parametrize("name", ["", "/tmp/evil.ko", "./evil.ko", "-r", "a b", "a\n"])
def test_a_plan_that_was_read_loads_no_file(name: str) -> None:
    data = Plan("bind", (), (LoadModule(name, None, "why"),)).to_json()
    with pytest.raises(ParseError, match="the name of a module"):
        Plan.from_json(data)


def test_a_value_that_has_no_bytes_is_refused() -> None:
    bytes_that_are_no_utf8 = WriteAttr("sys/x", "\udcff", None, None, None, "why")
    plan = Plan("mdev create", (), (bytes_that_are_no_utf8,))
    assert Plan.from_json(plan.to_json()) == plan
    for step in (
        WriteAttr("sys/x", "\ud800", None, None, None, "why"),
        WriteAttr("sys/x", "1", None, None, Store("sys/x", "\ud800", None), "why"),
    ):
        with pytest.raises(ParseError, match="can be written"):
            Plan.from_json(Plan("bind", (), (step,)).to_json())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "link"}, "'link' is not a kind of step"),
        ({"value": 1}, "the field 'value'"),
        ({"before": {"path": "x", "kind": "size", "value": None}}, "a kind of expectation"),
        ({"undo": []}, "an undo"),
    ],
)
def test_the_message_names_the_part_that_is_wrong(change: dict[str, object], message: str) -> None:
    data = Plan("bind", (), (WriteAttr("sys/x", "1", None, None, None, "why"),)).to_json()
    data["steps"][0].update(change)
    with pytest.raises(ParseError, match=message):
        Plan.from_json(data)


def test_stores_read_as_shell_lines() -> None:
    bind = Store("sys/bus/pci/drivers/vfio-pci/bind", "0000:65:00.0", None)
    assert str(bind) == "printf %s 0000:65:00.0 > /sys/bus/pci/drivers/vfio-pci/bind"
    clear = Store("sys/bus/pci/devices/0000:65:00.0/driver_override", "\n", None)
    assert str(clear) == "echo > /sys/bus/pci/devices/0000:65:00.0/driver_override"


@given(texts.filter(lambda t: "\0" not in t).filter(lambda t: t.isascii()))
@example("\n")
@example("-n\n")
@example("a\\tb\n")
@example("it's\n")
@example("two\nlines\n")
def test_the_shell_line_writes_what_the_store_writes(
    tmp_path_factory: pytest.TempPathFactory, value: str
) -> None:
    file = Path(tmp_path_factory.getbasetemp(), "attribute")
    line = str(Store(str(file)[1:], value, None))
    subprocess.run(["/bin/sh", "-c", line], check=True)
    assert file.read_bytes() == value.encode()


def test_expectations_read_as_sentences() -> None:
    link = "sys/bus/pci/devices/0000:65:00.0/driver"
    assert str(Expect(link, "link", "nouveau")) == "0000:65:00.0/driver -> nouveau"
    assert str(Expect(link, "link", None)) == "0000:65:00.0/driver is not there"
    assert str(Expect("sys/a/b", "text", "(null)")) == "a/b = (null)"
    assert str(Expect("sys/a/b", "exists", "no")) == "a/b does not exist"
    assert str(Expect("sys/a/b", "exists", "yes")) == "a/b exists"


def test_a_report_counts_what_was_changed() -> None:
    step: Step = WriteAttr("sys/x", "1", None, None, None, "why")
    plan = Plan("bind", (), (step, step, step))
    outcomes = (StepResult(step, "done"), StepResult(step, "already"), StepResult(step, "undone"))
    assert Report(plan, outcomes).writes == 1
    assert not plan.is_empty
    assert Plan("bind", (), ()).is_empty
