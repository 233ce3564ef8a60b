"""Section 2: driver_override."""

from __future__ import annotations

from tests.kernel.cases.terms import (
    DEVICES,
    FREE_NIC,
    Case,
    bind,
    driver_is,
    numvfs,
    override,
    override_is,
    probe,
    to_vfio,
)
from tests.kernel.lab.layout import (
    NIC,
    NVME_VFS,
)
from tests.kernel.scenario import (
    Do,
    Listed,
    Store,
)

CASES = (
    Case("15-unset", (override_is(NIC, "(null)"),)),
    Case(
        "15-stored-null",
        (
            FREE_NIC,
            Do(override(NIC, "(null)")),
            override_is(NIC, "(null)"),
            Do(bind("e1000", NIC), "write ENODEV"),
        ),
    ),
    Case(
        "16-empty",
        (Do(override(NIC, "vfio-pci")), Do(override(NIC, "")), override_is(NIC, "vfio-pci")),
    ),
    Case(
        "16-newline",
        (Do(override(NIC, "vfio-pci")), Do(override(NIC, "\n")), override_is(NIC, "(null)")),
    ),
    Case(
        "16-nul",
        (Do(override(NIC, "vfio-pci")), Do(override(NIC, "\0")), override_is(NIC, "(null)")),
    ),
    Case("17-longest", (Do(override(NIC, "x" * 4094)), override_is(NIC, "x" * 4094))),
    Case(
        "17-too-long", (Do(override(NIC, "x" * 4095), "write EINVAL"), override_is(NIC, "(null)"))
    ),
    Case("17-more-than-a-page", (Do(override(NIC, "x" * 5000), "write EINVAL"),)),
    Case("18-two-lines", (Do(override(NIC, "vfio-pci\nnvme")), override_is(NIC, "vfio-pci"))),
    Case(
        "18-space",
        (
            FREE_NIC,
            Do(override(NIC, "vfio-pci ")),
            override_is(NIC, "vfio-pci "),
            Do(bind("vfio-pci", NIC), "write ENODEV"),
        ),
    ),
    Case(
        "19-change-while-bound",
        (
            *to_vfio(NIC, "e1000"),
            Do(override(NIC, "e1000")),
            driver_is(NIC, "vfio-pci"),
            Do(override(NIC, "\n")),
            driver_is(NIC, "vfio-pci"),
        ),
    ),
    Case(
        "20-not-loaded",
        (FREE_NIC, Do(override(NIC, "nosuch")), Do(probe(NIC)), driver_is(NIC, None)),
    ),
    Case(
        "21-remove-and-rescan",
        (
            *to_vfio(NIC, "e1000"),
            Do(Store(f"{DEVICES}/{NIC}/remove", "1")),
            Do(Store("/sys/bus/pci/rescan", "1")),
            override_is(NIC, "(null)"),
            driver_is(NIC, "e1000"),
        ),
    ),
    Case(
        "21-vf-made-again",
        (
            Do(numvfs(1)),
            Do(override(NVME_VFS[0], "vfio-pci")),
            Do(numvfs(0)),
            Listed(DEVICES, NVME_VFS[0], is_there=False),
            Do(numvfs(1)),
            override_is(NVME_VFS[0], "(null)"),
        ),
    ),
    Case(
        "22-not-root",
        (Do(Store(f"{DEVICES}/{NIC}/driver_override", "vfio-pci", as_root=False), "open EACCES"),),
    ),
)
