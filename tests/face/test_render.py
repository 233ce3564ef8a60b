"""Tables, colours, shell lines, and a schema that says no to what it does not know."""

from __future__ import annotations

import copy
import io
import shlex
from typing import TYPE_CHECKING

import pytest

from tests.face.support import validator
from vfiohost.cli.output import Output
from vfiohost.plan.types import Store
from vfiohost.render.table import coloured, format_columns, format_table, plain, printable

if TYPE_CHECKING:
    from tests.face.support import Maker, Runner


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_columns_are_aligned_and_the_last_is_not_padded() -> None:
    lines = format_table(
        ["A", "NUMBER", "LAST"],
        [[("long word", "plain"), ("7", "good"), ("x", "plain")], [("b", "plain")] * 3],
        right=["NUMBER"],
    )
    assert lines == [
        "A          NUMBER  LAST",
        "long word       7  x",
        "b               b  b",
    ]
    assert format_columns([["a", "bb"], ["ccc"]]) == ["a    bb", "ccc"]


def test_colours_do_not_count_as_width() -> None:
    rows = [[("vfio-pci", "good"), ("x", "plain")], [("e", "plain"), ("x", "plain")]]
    without = format_table(["D", "X"], rows)  # type: ignore[arg-type]
    painted = format_table(["D", "X"], rows, paint=coloured)  # type: ignore[arg-type]
    assert painted[1] == "\x1b[32mvfio-pci\x1b[0m  x"
    assert painted[2] == without[2] == "e         x"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text", "plain text"),
        ("a\x1b[31mb", "a\\x1b[31mb"),
        ("two\nlines\t", "two\\nlines\\t"),
        ("\u202egnp", "\\u202egnp"),
        ("\udcff", "\\udcff"),
        ("ä€", "ä€"),
    ],
)
def test_nothing_steers_the_terminal(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(text).isprintable()


def test_when_there_is_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    auto = Output(json=False)
    assert auto.paint_for(Terminal()) is coloured
    assert auto.paint_for(io.StringIO()) is plain
    assert auto.paint_for(None) is plain
    assert Output(json=False, color="always").paint_for(io.StringIO()) is coloured
    assert Output(json=False, color="never").paint_for(Terminal()) is plain
    monkeypatch.setenv("NO_COLOR", "1")
    assert auto.paint_for(Terminal()) is plain
    assert Output(json=False, color="always").paint_for(Terminal()) is coloured
    monkeypatch.setenv("NO_COLOR", "")
    assert auto.paint_for(Terminal()) is coloured
    monkeypatch.setenv("TERM", "dumb")
    assert auto.paint_for(Terminal()) is plain


@pytest.mark.parametrize("root", ["/tmp/a10", "a dir/with 'quotes'", "/tmp/a10/"])
@pytest.mark.parametrize("value", ["0000:65:00.0", "\n", "it's > /there"])
def test_a_shell_line_stays_below_its_root(root: str, value: str) -> None:
    store = Store("sys/bus/pci/devices/0000:65:00.0/driver_override", value, None)
    *words, target = shlex.split(store.shell(root))
    assert target == f"{root.rstrip('/')}/{store.path}"
    assert words[-1] == ">"
    assert str(store) == store.shell("/")


def test_the_schema_is_not_vacuous(run: Runner, recorded: Maker) -> None:
    root = recorded("a10-pair-nouveau")
    good = run("list", "65:00.0", "--json", root=root).value

    def spoilt(path: list[str | int], value: object) -> bool:
        bad = copy.deepcopy(good)
        inner = bad
        for key in path[:-1]:
            inner = inner[key]  # type: ignore[index]
        if value is KeyError:
            del inner[path[-1]]  # type: ignore[arg-type]
        else:
            inner[path[-1]] = value  # type: ignore[index]
        return not validator().is_valid(bad)

    assert spoilt(["schema"], "vfiohost/2")
    assert spoilt(["devices"], KeyError)
    assert spoilt(["devices", 0, "driver"], KeyError)
    assert spoilt(["devices", 0, "vendor_id"], "0x10de")
    assert spoilt(["devices", 0, "surprise"], 1)
    assert spoilt(["surprise"], 1)
    assert spoilt(["problems"], KeyError)
    assert spoilt(["error"], {"code": "parse", "message": "x"})
    plan = run("bind", "65:00.0", "-n", "--json", root=root).value
    good = plan
    assert spoilt(["plan"], KeyError)
    assert spoilt(["plan", "steps", 0, "kind"], "format the disk")
    assert spoilt(["dry_run"], KeyError)
