"""Section 3: new_id and remove_id."""

from __future__ import annotations

from tests.kernel.cases.terms import (
    DRIVERS,
    FIRST_NIC,
    SECOND_NIC,
    Case,
    driver_is,
    override,
    probe,
    unbind,
)
from tests.kernel.lab.layout import (
    EDU,
    NIC,
)
from tests.kernel.scenario import (
    Do,
    Store,
)

NEW_ID, REMOVE_ID = f"{DRIVERS}/vfio-pci/new_id", f"{DRIVERS}/vfio-pci/remove_id"
E1000_ID = "8086 100e"

CASES = (
    Case("23-one-field", (Do(Store(NEW_ID, "8086"), "write EINVAL"),)),
    Case("23-garbage", (Do(Store(NEW_ID, "garbage"), "write EINVAL"),)),
    Case(
        "23-already-dynamic",
        (
            Do(Store(NEW_ID, "1234 5678")),
            Do(Store(NEW_ID, "1234 5678"), "write EEXIST"),
            Do(Store(REMOVE_ID, "1234 5678")),
        ),
    ),
    Case("23-in-the-table", (Do(Store(f"{DRIVERS}/e1000/new_id", E1000_ID), "write EEXIST"),)),
    Case(
        "23-unknown-driver-data",
        (Do(Store(f"{DRIVERS}/e1000/new_id", "1234 5678 0 0 0 0 77"), "write EINVAL"),),
    ),
    Case(
        "24-binds-every-unbound",
        (
            Do(unbind("e1000", FIRST_NIC)),
            Do(unbind("e1000", SECOND_NIC)),
            Do(override(SECOND_NIC, "none")),
            Do(Store(NEW_ID, E1000_ID)),
            driver_is(FIRST_NIC, "vfio-pci"),
            driver_is(SECOND_NIC, None),
            driver_is(NIC, "e1000"),
            Do(Store(REMOVE_ID, E1000_ID)),
            driver_is(FIRST_NIC, "vfio-pci"),
        ),
    ),
    Case("25-unknown", (Do(Store(REMOVE_ID, "1234 5678"), "write ENODEV"),)),
    Case(
        "25-probe-returns-it",
        (
            Do(Store(NEW_ID, "1234 11e8")),
            driver_is(EDU, "vfio-pci"),
            Do(unbind("vfio-pci", EDU)),
            Do(probe(EDU)),
            driver_is(EDU, "vfio-pci"),
            Do(Store(REMOVE_ID, "1234 11e8")),
        ),
    ),
)
