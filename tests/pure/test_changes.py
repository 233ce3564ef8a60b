"""The steps of several changes at once."""

from __future__ import annotations

from vfiohost.model import PciAddress
from vfiohost.plan.changes import DRIVERS, Binding, Change, steps
from vfiohost.plan.types import Expect, LoadModule, WriteAttr

FIRST, SECOND = PciAddress(0, 1, 0, 0), PciAddress(0, 2, 0, 0)
VARIANT = "mlx5_vfio_pci"
LOAD = LoadModule(VARIANT, Expect(f"{DRIVERS}/{VARIANT}", "exists", "yes"), "it brings it")


OVERRIDE = f"sys/bus/pci/devices/{FIRST}/driver_override"


def around_the_load(override: str, wanted: str) -> tuple[list[str], list[str]]:
    """What is stored in the first device's override before and after a load for the second."""
    changes = (
        Change(FIRST, Binding(None, override), Binding(None, wanted)),
        Change(SECOND, Binding(None, None), Binding(VARIANT, VARIANT)),
    )
    plan = steps(changes, [LOAD])
    at = plan.index(LOAD)
    before, after = (
        [s.value for s in part if isinstance(s, WriteAttr) and s.path == OVERRIDE]
        for part in (plan[:at], plan[at:])
    )
    return before, after


def test_a_load_for_another_device_takes_none_whose_override_names_its_driver() -> None:
    assert around_the_load(VARIANT, "other") == (["none"], ["other"])


def test_a_device_that_is_as_it_shall_be_stays_so_when_a_load_would_take_it() -> None:
    assert around_the_load(VARIANT, VARIANT) == (["none"], [VARIANT])


def test_an_override_for_another_driver_is_guard_enough() -> None:
    assert around_the_load("nouveau", "other") == ([], ["other"])
    assert around_the_load("none", "none") == ([], [])
