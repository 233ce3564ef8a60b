"""The recorded hosts are found: inside the package in a wheel, else at the top of the source."""

from __future__ import annotations

from pathlib import Path

from vfiohost.testing import fixtures

TOP = Path(__file__).parents[2] / "fixtures" / "sysfs"


def test_every_recorded_host_of_the_source_tree_is_known_by_its_name() -> None:
    expected = {path.stem for path in TOP.glob("*.host")}
    assert expected
    assert set(fixtures.names()) == expected


def test_a_recorded_host_says_where_it_is_from() -> None:
    for name in fixtures.names():
        source = fixtures.load(name).source
        assert source.startswith(("recorded from ", "composed from documented facts: ")), name
