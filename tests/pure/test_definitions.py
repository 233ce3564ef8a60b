"""Definitions of mediated devices, as mdevctl keeps them."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfiohost.definitions import MdevDefinition, parse, render, render_all
from vfiohost.errors import ParseError

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
