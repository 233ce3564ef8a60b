"""Section 11: reads that block."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.kernel.cases.terms import (
    DEVICES,
    Case,
    driver_is,
    override,
    override_is,
    to_vfio,
    unbind,
)
from tests.kernel.lab.layout import NIC
from tests.kernel.scenario import Answers, Close, Do, Finish, Link, Open, Text

if TYPE_CHECKING:
    from tests.kernel.scenario import Step

NEW, OLD = ("6.12", "iommufd"), ("6.1",)
STUCK = (*to_vfio(NIC, "e1000"), Do(Open(NIC)), Do(unbind("vfio-pci", NIC), "blocks"))
"""A device between two drivers: an unbind waits for the one who has it open."""
OVER = (Do(Close()), Do(Finish()), driver_is(NIC, None), override_is(NIC, "vfio-pci"))


def answers(*names: str, do: bool = True) -> tuple[Step, ...]:
    """Whether attributes of the device answer."""
    return tuple(Answers(f"{DEVICES}/{NIC}/{name}", does=do) for name in names)


CASES = (
    Case(
        "79-plain",
        (
            *STUCK,
            *answers("modalias", "resource", "power_state"),
            Text(f"{DEVICES}/{NIC}/vendor", "0x8086"),
            Text(f"{DEVICES}/{NIC}/enable", "1"),
            driver_is(NIC, None),
            Link(f"{DEVICES}/{NIC}/subsystem", "pci"),
            *OVER,
        ),
    ),
    # The kernel that is built here knows no NUMA.
    Case("79-numa-node", (*STUCK, *answers("numa_node"), *OVER), ("6.12", "6.1")),
    Case("79-locked", (*STUCK, *answers("uevent", "driver_override", do=False), *OVER), OLD),
    Case("79-not-locked", (*STUCK, *answers("uevent"), override_is(NIC, "vfio-pci"), *OVER), NEW),
    Case(
        "79-store-waits",
        (
            *STUCK,
            Do(override(NIC, "none"), "blocks"),
            Do(Close()),
            Do(Finish()),
            Do(Finish()),
            override_is(NIC, "none"),
        ),
        OLD,
    ),
    Case(
        "79-store-does-not-wait",
        (
            *STUCK,
            Do(override(NIC, "none")),
            override_is(NIC, "none"),
            Do(Close()),
            Do(Finish()),
        ),
        NEW,
    ),
)
