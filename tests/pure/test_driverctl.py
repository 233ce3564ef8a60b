"""What driverctl keeps for the boot."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pure.hosts import address
from vfiohost.boot import SavedOverride
from vfiohost.boot.changes import Found
from vfiohost.boot.driverctl import (
    loads_nothing,
    parse_saved,
    plan_export,
    plan_removal,
    read_saved,
    saved,
)
from vfiohost.errors import ParseError, PlanRefused, Refusal
from vfiohost.plan.changes import Binding

A10 = address("65:00.0")
KEPT = SavedOverride("pci", "0000:65:00.0", "vfio-pci")


@pytest.mark.parametrize("text", ["vfio-pci", "vfio-pci\n", "vfio-pci\n\n"])
def test_newlines_at_the_end_do_not_count(text: str) -> None:
    found = parse_saved("pci-0000:65:00.0", text)
    assert (found, found.address) == (KEPT, A10)
    assert (found.path, found.text) == ("etc/driverctl.d/pci-0000:65:00.0", "vfio-pci\n")


def test_a_bus_ends_at_the_first_hyphen() -> None:
    found = parse_saved("usb-1-1:1.0", "usbfs\n")
    assert (found.bus, found.device, found.address) == ("usb", "1-1:1.0", None)
    assert found.path == "etc/driverctl.d/usb-1-1:1.0"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pci", "vfio-pci"),
        ("pci-", "vfio-pci"),
        ("-0000:65:00.0", "vfio-pci"),
        ("pci-65:00.0", "vfio-pci"),
        ("pci-0000:65:00.0~", "vfio-pci"),
        ("pci-10000:E1:00.0", "vfio-pci"),
        ("pci-0000:65:00.0", ""),
        ("pci-0000:65:00.0", "\n"),
        ("pci-0000:65:00.0", "vfio-pci nouveau/"),
        ("pci-0000:65:00.0", " vfio-pci"),
        ("pci-0000:65:00.0", "vfio-pci\nnouveau"),
        ("pci-0000:65:00.0", "auto"),
        ("pci-0000:65:00.0", "(null)"),
    ],
)
def test_what_driverctl_does_nothing_by_is_none(name: str, text: str) -> None:
    with pytest.raises(ParseError, match=f"/etc/driverctl.d/{name}".replace("(", "[(]")):
        parse_saved(name, text)
    found, (problem,) = read_saved({name: Found(text), "pci-0000:65:00.1": Found("none\n")})
    assert [each.driver for each in found] == ["none"]
    assert (problem.subject, problem.path) == (name, f"etc/driverctl.d/{name}")


@given(st.text(max_size=20), st.text(max_size=20))
def test_any_file_is_read_or_refused(name: str, text: str) -> None:
    found, problems = read_saved({f"pci-0000:{name}": Found(text), f"usb-{name}": Found(text)})
    assert len(found) + len(problems) == 2
    for each in found:
        assert parse_saved(each.path.removeprefix("etc/driverctl.d/"), each.text) == each


def test_what_holds_now_is_what_is_kept() -> None:
    assert saved(A10, Binding("nouveau", "vfio-pci")) == KEPT
    for now in (Binding("vfio-pci", None), Binding(None, "a/b")):
        refusal = saved(A10, now)
        assert isinstance(refusal, Refusal)
        assert (refusal.code, refusal.subject) == ("no-override", str(A10))


def test_a_file_is_made_changed_or_left() -> None:
    kinds = [
        plan_export([KEPT], {KEPT.path: there}).changes[0].kind
        for there in (Found(), Found("none\n"), Found("vfio-pci\n"))
    ]
    assert kinds == ["make", "change", "keep"]
    (change,) = plan_removal({"pci-junk": Found("x")}).changes
    assert (change.path, change.before, change.after) == ("etc/driverctl.d/pci-junk", "x", None)


def test_nothing_but_plain_files_is_touched() -> None:
    fifo = Found(kind="a FIFO")
    with pytest.raises(PlanRefused, match="is a FIFO, so it is not replaced") as made:
        plan_export([KEPT], {KEPT.path: fifo})
    with pytest.raises(PlanRefused, match="is a FIFO, so it is not removed") as gone:
        plan_removal({"pci-0000:65:00.0": fifo})
    for refused in (made, gone):
        (reason,) = refused.value.refusals
        assert (reason.code, reason.subject) == ("foreign-file", f"/{KEPT.path}")


def test_a_module_of_another_name_than_its_driver_is_told() -> None:
    kept = [KEPT, SavedOverride("pci", "0000:00:1f.4", "i801_smbus")]
    modules = {"vfio-pci": "vfio_pci", "i801_smbus": "i2c_i801", "ahci": None}
    (told,) = loads_nothing(kept, modules)
    assert "i801_smbus" in told
    assert "i2c_i801" in told
