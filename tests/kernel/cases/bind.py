"""Section 1: bind, unbind and probe."""

from __future__ import annotations

from tests.kernel.cases.terms import (
    DEVICES,
    DRIVERS,
    FIRST_NIC,
    FREE_NIC,
    SECOND_NIC,
    Case,
    bind,
    driver_is,
    numvfs,
    override,
    probe,
    to_vfio,
    unbind,
)
from tests.kernel.lab.layout import (
    EDU,
    EMPTY_PORT,
    HOST_BRIDGE,
    NIC,
    NVME,
    PCIE_NIC,
)
from tests.kernel.scenario import (
    Close,
    Do,
    Listed,
    Load,
    Open,
    Store,
    Text,
    Unload,
)

CASES = (
    Case("1-no-match", (FREE_NIC, Do(bind("vfio-pci", NIC), "write ENODEV"), driver_is(NIC, None))),
    Case("2-nonexistent", (Do(bind("e1000", "0000:00:1e.7"), "write ENODEV"),)),
    Case("2-short", (FREE_NIC, Do(bind("e1000", NIC[5:]), "write ENODEV"))),
    Case(
        "2-upper-case",
        (
            Do(unbind("e1000", FIRST_NIC)),
            Do(bind("e1000", FIRST_NIC.upper()), "write ENODEV"),
            driver_is(FIRST_NIC, None),
        ),
    ),
    Case("2-two-words", (FREE_NIC, Do(bind("e1000", f"{NIC} {FIRST_NIC}"), "write ENODEV"))),
    Case("2-newline", (FREE_NIC, Do(bind("e1000", f"{NIC}\n")), driver_is(NIC, "e1000"))),
    Case("2-two-newlines", (FREE_NIC, Do(bind("e1000", f"{NIC}\n\n"), "write ENODEV"))),
    Case("3-bound-native", (Do(bind("e1000", NIC), "write EBUSY"), driver_is(NIC, "e1000"))),
    Case(
        "3-bound-by-override",
        (*to_vfio(NIC, "e1000"), Do(bind("vfio-pci", NIC), "write EBUSY")),
    ),
    Case(
        "3-bound-to-another-that-matches",
        (Do(override(NIC, "vfio-pci")), Do(bind("vfio-pci", NIC), "write EBUSY")),
    ),
    Case("3-bound-no-match", (Do(bind("vfio-pci", NIC), "write ENODEV"), driver_is(NIC, "e1000"))),
    Case("4-not-the-owner", (Do(unbind("e1000e", NIC), "write ENODEV"), driver_is(NIC, "e1000"))),
    Case("4-nonexistent", (Do(unbind("e1000", "0000:00:1e.7"), "write ENODEV"),)),
    Case("4-second-time", (FREE_NIC, Do(unbind("e1000", NIC), "write ENODEV"))),
    Case("5-no-such-driver", (Do(bind("nosuch", NIC), "open ENOENT"),)),
    Case(
        "5-module-for-driver",
        (
            FREE_NIC,
            Do(bind("vfio_pci", NIC), "open ENOENT"),
            Do(override(NIC, "vfio_pci")),
            Do(bind("vfio-pci", NIC), "write ENODEV"),
            Do(probe(NIC)),
            driver_is(NIC, None),
        ),
    ),
    Case("6-probe-nonexistent", (Do(probe("0000:00:1e.7"), "write ENODEV"),)),
    Case("6-probe-bound", (Do(probe(NIC)), driver_is(NIC, "e1000"))),
    Case("6-probe-no-match", (Do(probe(EDU)), driver_is(EDU, None))),
    Case(
        "6-probe-swallows-the-error",
        (
            Do(numvfs(2)),
            Do(unbind("nvme", NVME)),
            Do(override(NVME, "vfio-pci")),
            Do(bind("vfio-pci", NVME), "write EBUSY"),
            Do(probe(NVME)),
            driver_is(NVME, None),
        ),
    ),
    Case(
        "7-group-has-a-user",
        (
            *to_vfio(FIRST_NIC, "e1000"),
            Do(unbind("e1000", SECOND_NIC)),
            Do(Open(FIRST_NIC)),
            Do(bind("e1000", SECOND_NIC), "write EBUSY"),
            Do(probe(SECOND_NIC), "write EINVAL"),
            driver_is(SECOND_NIC, None),
            Do(Close()),
            Do(bind("e1000", SECOND_NIC)),
        ),
    ),
    Case(
        "8-bridge",
        (
            Do(unbind("pcieport", EMPTY_PORT)),
            Do(override(EMPTY_PORT, "vfio-pci")),
            Do(bind("vfio-pci", EMPTY_PORT), "write EINVAL"),
            driver_is(EMPTY_PORT, None),
        ),
    ),
    Case("9-host-bridge", (*to_vfio(HOST_BRIDGE, None), driver_is(HOST_BRIDGE, "vfio-pci"))),
    Case(
        "10-load-after-override",
        (
            Do(Unload("e1000e")),
            Do(override(PCIE_NIC, "vfio-pci")),
            Do(Load("e1000e")),
            driver_is(PCIE_NIC, None),
            Do(probe(PCIE_NIC)),
            driver_is(PCIE_NIC, "vfio-pci"),
        ),
    ),
    Case(
        "10-no-probe-after-override",
        (Do(override(EDU, "vfio-pci")), driver_is(EDU, None)),
    ),
    Case(
        "11-autoprobe-garbage",
        (
            Do(Store("/sys/bus/pci/drivers_autoprobe", "0x")),
            Text("/sys/bus/pci/drivers_autoprobe", "0"),
            Do(Store("/sys/bus/pci/drivers_autoprobe", "garbage")),
            Text("/sys/bus/pci/drivers_autoprobe", "1"),
        ),
    ),
    Case(
        "11-autoprobe-and-hotplug",
        (
            Do(Store("/sys/bus/pci/drivers_autoprobe", "0")),
            Do(Store(f"{DEVICES}/{NIC}/remove", "1")),
            Do(Store("/sys/bus/pci/rescan", "1")),
            driver_is(NIC, "e1000"),
        ),
    ),
    Case(
        "11-autoprobe-and-load",
        (
            Do(Unload("e1000e")),
            Do(Store("/sys/bus/pci/drivers_autoprobe", "0")),
            Do(Load("e1000e")),
            driver_is(PCIE_NIC, None),
        ),
    ),
    Case(
        "14-unload-unbinds",
        (*to_vfio(NIC, "e1000"), Do(Unload("vfio_pci")), driver_is(NIC, None)),
    ),
    Case(
        "14-unload-while-open",
        (
            *to_vfio(NIC, "e1000"),
            Do(Open(NIC)),
            Do(Unload("vfio_pci"), "fails"),
            driver_is(NIC, "vfio-pci"),
            Do(Close()),
        ),
    ),
    Case(
        "14-unload-needed",
        (Do(Unload("vfio"), "fails"), Listed(DRIVERS, "vfio-pci", is_there=True)),
    ),
    Case(
        "14-unload-with-what-it-needs",
        (
            Do(Unload("vfio_pci")),
            Listed(DRIVERS, "vfio-pci", is_there=False),
            *(
                Listed("/sys/module", name, is_there=False)
                for name in ("vfio_pci", "vfio_pci_core")
            ),
            Listed("/sys/module", "vfio", is_there=True),
            Do(Load("vfio_pci")),
            *to_vfio(NIC, "e1000"),
            driver_is(NIC, "vfio-pci"),
        ),
    ),
    Case(
        "14-unload-not-loaded",
        (Do(Unload("nouveau")), Listed("/sys/module", "nouveau", is_there=False)),
    ),
    Case("14-unload-no-module", (Do(Unload("nosuch"), "fails"),)),
)
