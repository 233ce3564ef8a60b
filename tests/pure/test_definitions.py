"""Definitions of mediated devices, as mdevctl keeps them."""

from __future__ import annotations

import contextlib
import json
import re
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pure.hosts import a10_bus, mtty_bus
from tests.pure.test_bind import refused
from vfiohost.definitions import (
    MdevDefinition,
    automatic,
    find_defined,
    modified,
    parse,
    plan_start,
    render,
    render_all,
)
from vfiohost.errors import AmbiguousError, NotFoundError, ParseError
from vfiohost.model import MdevBus, MediatedDevice
from vfiohost.plan.types import WriteAttr

UUID = "b716be33-1ef1-43e3-ab79-2b4be04ee4a1"
TEXT = """\
{
  "mdev_type": "i915-GVTg_V5_4",
  "start": "manual",
  "attrs": [
    {
      "assign_adapter": "5"
    },
    {
      "assign_adapter": "6"
    }
  ]
}"""


def test_a_definition_is_read_and_written_byte_for_byte() -> None:
    found = parse(TEXT, "0000:00:02.0", UUID.upper())
    pairs = (("assign_adapter", "5"), ("assign_adapter", "6"))
    assert found == MdevDefinition(UUID, "0000:00:02.0", "i915-GVTg_V5_4", "manual", pairs)
    assert render(found) == TEXT


def test_attributes_may_be_missing_and_are_written() -> None:
    found = parse('{"mdev_type": "mtty-2", "start": "auto"}', "mtty", UUID)
    assert found.attributes == ()
    assert render(found).endswith('"attrs": []\n}')


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        "null",
        '{"start": "auto"}',
        '{"mdev_type": "mtty-2"}',
        '{"mdev_type": 2, "start": "auto"}',
        '{"mdev_type": "mtty-2", "start": "now"}',
        '{"mdev_type": "mtty-2", "start": []}',
        '{"mdev_type": "mtty-2", "start": "auto", "attrs": {"a": "5"}}',
        '{"mdev_type": "mtty-2", "start": "auto", "attrs": [{"a": 5}]}',
        '{"mdev_type": "mtty-2", "start": "auto", "attrs": [{"a": "5", "b": "6"}]}',
        "[" * 20000,
        '{"mdev_type": ' + "9" * 5000 + "}",
        '{"mdev_type": "\\ud800", "start": "auto"}',
        '{"mdev_type": "\udcff", "start": "auto"}',
        '{"mdev_type": "mtty-2", "start": "auto", "attrs": [{"a": "\\udcff"}]}',
    ],
)
def test_what_is_none_is_refused_and_named(text: str) -> None:
    with pytest.raises(ParseError, match=f"/etc/mdevctl.d/mtty/{UUID}"):
        parse(text, "mtty", UUID)


def test_another_name_than_a_uuid_is_refused() -> None:
    with pytest.raises(ParseError, match="backup~"):
        parse(TEXT, "mtty", "backup~")


@given(st.text() | st.recursive(st.none() | st.text() | st.integers(), st.lists).map(json.dumps))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(ParseError):
        parse(text, "mtty", UUID)


WORDS = st.text(min_size=1, max_size=9)


@given(
    st.builds(
        MdevDefinition,
        st.uuids().filter(lambda uuid: uuid.int).map(str),
        WORDS,
        WORDS,
        st.sampled_from(["auto", "manual"]),
        st.lists(st.tuples(WORDS, WORDS), max_size=4).map(tuple),
    )
)
def test_what_is_written_is_read_again(made: MdevDefinition) -> None:
    assert parse(render(made), made.parent, made.uuid) == made
    assert json.loads(render_all([made]))[0][made.parent][0][made.uuid] == json.loads(render(made))


SECOND = UUID.replace("b716", "c716")
PAIRS = (("a", "1"), ("nvidia/vgpu_params", "x=1"), ("a", "2"))
MTTY = MdevDefinition(UUID, "mtty", "mtty-1", "auto", PAIRS)


def with_device(bus: MdevBus, parent: str, type_id: str) -> MdevBus:
    runs = MediatedDevice(UUID, parent, type_id, None, None, None)
    return attrs.evolve(bus, devices=(*bus.devices, runs))


def test_what_mdevctl_could_not_read_is_not_written() -> None:
    with pytest.raises(ParseError, match="UTF-8"):
        render(MdevDefinition(UUID, "mtty", "mtty-1", attributes=(("a", "\udcff"),)))


class TestStart:
    def test_the_device_is_created_and_then_gets_its_attributes_in_order(self) -> None:
        plan = plan_start(mtty_bus(), [MTTY])
        steps = [step for step in plan.steps if isinstance(step, WriteAttr)]
        assert (plan.verb, plan.subjects) == ("mdev start", (UUID,))
        device = f"sys/bus/mdev/devices/{UUID}"
        assert [(step.path, step.value) for step in steps] == [
            ("sys/class/mdev_bus/mtty/mdev_supported_types/mtty-1/create", UUID),
            (f"{device}/a", "1"),
            (f"{device}/nvidia/vgpu_params", "x=1"),
            (f"{device}/a", "2"),
        ]
        assert steps[0].undo is not None
        assert (steps[0].undo.path, steps[0].undo.value) == (f"{device}/remove", "1")

    def test_one_that_runs_as_it_is_defined_stays_as_it_is(self) -> None:
        plan = plan_start(with_device(mtty_bus(), "mtty", "mtty-1"), [MTTY])
        assert plan.is_empty
        assert plan.subjects == (UUID,)

    @pytest.mark.parametrize("runs", [("mtty", "mtty-2"), ("mdpy", "mtty-1")])
    def test_another_one_of_its_uuid_is_refused(self, runs: tuple[str, str]) -> None:
        (reason,) = refused(lambda: plan_start(with_device(mtty_bus(), *runs), [MTTY]))
        assert (reason.code, reason.subject) == ("uuid-exists", UUID)
        assert f"as {runs[1]} on {runs[0]}" in reason.sentence

    def test_parent_and_type_are_meant_letter_for_letter(self) -> None:
        for parent, mdev_type, said in (
            ("MTTY", "mtty-1", "Did you mean mtty?"),
            ("mtty", "Single port serial", "Did you mean"),
            ("65:00.4", "nvidia-595", "There is no parent"),
            ("0000:65:00.0", "nvidia-595", "There is no parent"),
        ):
            bus = a10_bus() if "65" in parent else mtty_bus()
            wanted = MdevDefinition(UUID, parent, mdev_type)
            with pytest.raises(NotFoundError, match=re.escape(said)):
                plan_start(bus, [wanted])

    def test_what_does_not_fit_together_is_refused(self) -> None:
        bus = mtty_bus()
        many = [MdevDefinition(f"{n:08x}{UUID[8:]}", "mtty", "mtty-2") for n in range(1, 14)]
        (reason,) = refused(lambda: plan_start(bus, many))
        assert (reason.code, reason.subject) == ("no-instances", "mtty")
        assert len(plan_start(bus, many[:12]).steps) == 12

    def test_virtual_functions_share_what_their_card_has(self) -> None:
        bus = a10_bus()
        parents = [p.name for p in bus.parents if p.physfn == bus.parents[0].physfn][:3]
        many = [
            MdevDefinition(f"{n:08x}{UUID[8:]}", parent, "nvidia-596")
            for n, parent in enumerate(parents, 1)
        ]
        (reason,) = refused(lambda: plan_start(bus, many))
        assert reason.code == "no-instances"
        assert "room for 2 more" in reason.sentence
        assert len(plan_start(bus, many[:2]).steps) == 2

    def test_an_attribute_that_leaves_the_device_is_none(self) -> None:
        with pytest.raises(ParseError, match="attribute"):
            plan_start(mtty_bus(), [attrs.evolve(MTTY, attributes=(("../x", "1"),))])


def test_what_starts_by_itself_is_what_has_its_parent() -> None:
    elsewhere = attrs.evolve(MTTY, uuid=SECOND, parent="0000:00:02.0")
    by_hand = attrs.evolve(MTTY, uuid=SECOND, start="manual")
    known = (MTTY, elsewhere, by_hand)
    assert automatic(known, mtty_bus()) == ((MTTY,), (elsewhere,))
    assert automatic((elsewhere, by_hand), mtty_bus(), "mtty") == ((), ())
    with pytest.raises(NotFoundError, match="'nope'"):
        automatic(known, mtty_bus(), "nope")
    bus = a10_bus()
    first, second = (attrs.evolve(MTTY, parent=parent.name) for parent in bus.parents[:2])
    with pytest.raises(AmbiguousError, match=f"--parent {second.parent}"):
        automatic((first, second), bus)


def test_a_uuid_may_be_defined_on_several_parents() -> None:
    known = (MTTY, attrs.evolve(MTTY, parent="mdpy"))
    assert find_defined(known, UUID.upper(), "mdpy") == known[1]
    with pytest.raises(AmbiguousError, match="--parent mtty, --parent mdpy"):
        find_defined(known, UUID)
    with pytest.raises(NotFoundError, match="It is defined on mtty"):
        find_defined(known[:1], UUID, "nope")


class TestModify:
    @pytest.mark.parametrize(
        ("change", "pairs"),
        [
            ({"add": ("b", "3")}, "a=1 p=x a=2 b=3"),
            ({"add": ("b", "3"), "index": 0}, "b=3 a=1 p=x a=2"),
            ({"add": ("b", "3"), "index": 3}, "a=1 p=x a=2 b=3"),
            ({"delete": True}, "a=1 p=x"),
            ({"delete": True, "index": 0}, "p=x a=2"),
            ({"start": "manual"}, "a=1 p=x a=2"),
        ],
    )
    def test_attributes_have_numbers(self, change: dict[str, Any], pairs: str) -> None:
        before = attrs.evolve(MTTY, attributes=(("a", "1"), ("p", "x"), ("a", "2")))
        after = modified(before, **change)
        assert " ".join(f"{name}={value}" for name, value in after.attributes) == pairs
        assert after.start == change.get("start", "auto")

    def test_type_alone(self) -> None:
        assert modified(MTTY, mdev_type="mtty-2") == attrs.evolve(MTTY, mdev_type="mtty-2")

    @pytest.mark.parametrize(
        "change", [{"delete": True, "index": 3}, {"add": PAIRS[0], "index": 4}]
    )
    def test_what_is_not_there_is_said(self, change: dict[str, Any]) -> None:
        with pytest.raises(NotFoundError, match="It has 0: a=1"):
            modified(MTTY, **change)

    def test_nothing_can_be_taken_from_none(self) -> None:
        with pytest.raises(NotFoundError, match="It has no attributes"):
            modified(attrs.evolve(MTTY, attributes=()), delete=True)
