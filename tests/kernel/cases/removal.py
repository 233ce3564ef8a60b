"""Section 6: remove and rescan."""

from __future__ import annotations

from tests.kernel.cases.reset import FOUND_AGAIN, has, reset
from tests.kernel.cases.terms import (
    DEVICES,
    DRIVERS,
    FIRST_NIC,
    SECOND_NIC,
    Case,
    driver_is,
    numvfs,
    override,
    to_vfio,
    unbind,
)
from tests.kernel.lab.layout import A10S, EDU, NIC, NVME, NVME_VFS, PCIE_NIC, PORT, RTX3090
from tests.kernel.scenario import (
    Close,
    Do,
    Finish,
    Keep,
    Link,
    Listed,
    Open,
    OpenAgain,
    Store,
    Text,
    Write,
)

EDU_GROUP = "3"
CONSUMER = f"consumer:pci:{RTX3090[1]}"


def remove(address: str, value: str = "1") -> Store:
    """Remove a function."""
    return Store(f"{DEVICES}/{address}/remove", value)


def rescan(value: str = "1", at: str | None = None) -> Store:
    """Look for functions on all buses, or on the bus of one function."""
    path = "/sys/bus/pci" if at is None else f"{DEVICES}/{at}"
    return Store(f"{path}/rescan", value)


def there(address: str) -> Listed:
    """A function must exist."""
    return Listed(DEVICES, address, is_there=True)


def gone(address: str) -> Listed:
    """A function must not exist."""
    return Listed(DEVICES, address, is_there=False)


CASES = (
    Case("38-garbage", (Do(remove(NIC, "x"), "write EINVAL"), driver_is(NIC, "e1000"))),
    Case("38-zero", (Do(remove(NIC, "0")), driver_is(NIC, "e1000"))),
    Case("38-empty", (Do(remove(NIC, "")), driver_is(NIC, "e1000"))),
    Case(
        "38-removes",
        (
            Do(remove(NIC, "2")),
            gone(NIC),
            Listed(f"{DRIVERS}/e1000", NIC, is_there=False),
            Do(remove(NIC), "open ENOENT"),
            Do(rescan()),
            driver_is(NIC, "e1000"),
        ),
    ),
    Case(
        "38-last-of-its-group",
        (
            Do(remove(EDU)),
            Listed("/sys/kernel/iommu_groups", EDU_GROUP, is_there=False),
            Do(rescan()),
        ),
    ),
    Case(
        "38-attribute-open-before",
        (
            Do(Keep(f"{DEVICES}/{EDU}/driver_override")),
            Do(Write("vfio-pci")),
            Do(remove(EDU)),
            Do(Write("vfio-pci"), "write ENODEV"),
            Do(OpenAgain(), "open ENOENT"),
            # What comes back is another device.
            Do(rescan()),
            Do(Write("vfio-pci"), "write ENODEV"),
            Do(OpenAgain(), "open ENOENT"),
            Text(f"{DEVICES}/{EDU}/driver_override", "(null)"),
        ),
    ),
    Case("39-garbage", (Do(rescan("x"), "write EINVAL"), Do(rescan("x", NIC), "write EINVAL"))),
    Case(
        "39-zero",
        (Do(remove(EDU)), Do(rescan("0")), Do(rescan("0", NIC)), gone(EDU), Do(rescan())),
    ),
    Case(
        "39-same-group",
        (Do(remove(EDU)), Do(rescan()), Link(f"{DEVICES}/{EDU}/iommu_group", EDU_GROUP)),
    ),
    Case(
        "39-shared-group",
        (
            Do(remove(FIRST_NIC)),
            Listed(f"{DEVICES}/{SECOND_NIC}/iommu_group/devices", FIRST_NIC, is_there=False),
            Do(rescan()),
            Listed(f"{DEVICES}/{SECOND_NIC}/iommu_group/devices", FIRST_NIC, is_there=True),
            driver_is(FIRST_NIC, "e1000"),
        ),
    ),
    Case(
        "39-of-a-device",
        (
            Do(remove(NIC)),
            Do(rescan(at=PCIE_NIC)),
            gone(NIC),
            Do(rescan(at=EDU)),
            driver_is(NIC, "e1000"),
        ),
    ),
    Case(
        "39-of-a-port",
        (Do(remove(PCIE_NIC)), Do(rescan(at=PORT)), driver_is(PCIE_NIC, "e1000e")),
    ),
    Case(
        "39-port-with-what-is-behind",
        (
            Do(override(PCIE_NIC, "vfio-pci")),
            Do(remove(PORT)),
            gone(PORT),
            gone(PCIE_NIC),
            Do(rescan()),
            driver_is(PORT, "pcieport"),
            driver_is(PCIE_NIC, "e1000e"),
        ),
    ),
    Case(
        "39-nothing-else-is-probed",
        (
            Do(unbind("e1000", NIC)),
            Do(remove(EDU)),
            Do(rescan()),
            driver_is(NIC, None),
            there(EDU),
        ),
    ),
    Case(
        "39-dynamic-id-takes-it",
        (
            Do(Store(f"{DRIVERS}/vfio-pci/new_id", "1234 11e8")),
            Do(remove(EDU)),
            Do(rescan()),
            driver_is(EDU, "vfio-pci"),
            Do(Store(f"{DRIVERS}/vfio-pci/remove_id", "1234 11e8")),
        ),
    ),
    Case(
        "39-first-state",
        (
            *to_vfio(PCIE_NIC, "e1000e"),
            Do(Store(f"{DEVICES}/{PCIE_NIC}/reset_method", "bus")),
            Do(remove(PCIE_NIC)),
            Do(rescan()),
            Text(f"{DEVICES}/{PCIE_NIC}/driver_override", "(null)"),
            Text(f"{DEVICES}/{PCIE_NIC}/reset_method", "pm bus"),
            Text(f"{DEVICES}/{PCIE_NIC}/enable", "1"),
            Text(f"{DEVICES}/{PCIE_NIC}/power_state", "D0"),
        ),
    ),
    Case(
        "39-not-alone-any-more",
        (
            Do(remove(RTX3090[0])),
            there(RTX3090[1]),
            Do(Store(f"{DEVICES}/{RTX3090[1]}/reset_method", "bus flr")),
            Text(f"{DEVICES}/{RTX3090[1]}/reset_method", "bus flr"),
            Do(rescan()),
            Text(f"{DEVICES}/{RTX3090[0]}/reset_method", "flr"),
            *FOUND_AGAIN,
            Text(f"{DEVICES}/{RTX3090[1]}/reset_method", "flr"),
        ),
    ),
    Case(
        "39-links-to-others",
        (
            has(RTX3090[0], CONSUMER),
            Do(remove(RTX3090[1])),
            has(RTX3090[0], CONSUMER, there=False),
            Do(rescan()),
            has(RTX3090[0], CONSUMER),
            has(RTX3090[1], f"supplier:pci:{RTX3090[0]}"),
            Do(remove(RTX3090[0])),
            has(RTX3090[1], f"supplier:pci:{RTX3090[0]}", there=False),
            Do(rescan()),
            has(RTX3090[0], CONSUMER, there=False),
            # The consumer's coming makes them.
            Do(remove(RTX3090[1])),
            Do(rescan()),
            has(RTX3090[0], CONSUMER),
            *FOUND_AGAIN,
            has(RTX3090[0], CONSUMER),
        ),
    ),
    Case(
        "39-driverless",
        (
            Do(remove(A10S[1])),
            Do(rescan()),
            driver_is(A10S[1], None),
            Text(f"{DEVICES}/{A10S[1]}/enable", "0"),
            Text(f"{DEVICES}/{A10S[1]}/power_state", "unknown"),
        ),
    ),
    Case(
        "40-remove-while-open",
        (
            *to_vfio(NIC, "e1000"),
            Do(Open(NIC)),
            Do(remove(NIC), "blocks"),
            there(NIC),
            driver_is(NIC, None),
            has(NIC, "remove", there=False),
            Text(f"{DEVICES}/{NIC}/enable", "1"),
            Do(remove(NIC), "open ENOENT"),
            Do(Close()),
            Do(Finish()),
            gone(NIC),
        ),
    ),
    Case(
        "40-others-wait",
        (
            *to_vfio(NIC, "e1000"),
            Do(Open(NIC)),
            Do(remove(NIC), "blocks"),
            Do(rescan(), "blocks"),
            Do(Close()),
            Do(Finish()),
            Do(Finish()),
            driver_is(NIC, "e1000"),
        ),
    ),
    Case(
        "40-others-wait-to-go",
        (
            *to_vfio(NIC, "e1000"),
            Do(Open(NIC)),
            Do(remove(NIC), "blocks"),
            Do(remove(EDU), "blocks"),
            there(EDU),
            has(EDU, "remove", there=False),
            Do(Close()),
            Do(Finish()),
            Do(Finish()),
            gone(NIC),
            gone(EDU),
        ),
    ),
    Case(
        "40-behind-a-stuck-unbind",
        (
            *to_vfio(NIC, "e1000"),
            Do(Open(NIC)),
            Do(unbind("vfio-pci", NIC), "blocks"),
            Do(remove(NIC), "blocks"),
            Do(Close()),
            Do(Finish()),
            Do(Finish()),
            gone(NIC),
        ),
    ),
    Case(
        "40-reset-waits",
        (
            *to_vfio(PCIE_NIC, "e1000e"),
            Do(Open(PCIE_NIC)),
            Do(remove(PCIE_NIC), "blocks"),
            Do(reset(PCIE_NIC), "blocks"),
            Do(Close()),
            Do(Finish()),
            Do(Finish()),
            gone(PCIE_NIC),
        ),
    ),
    Case(
        "40-numvfs-waits",
        (
            *to_vfio(A10S[1], None),
            Do(Open(A10S[1])),
            Do(remove(A10S[1]), "blocks"),
            Do(numvfs(1, A10S[1]), "blocks"),
            Do(Close()),
            Do(Finish()),
            Do(Finish(), "write ENOENT"),
            gone(A10S[1]),
        ),
    ),
    Case(
        "41-vf",
        (
            Do(numvfs(1)),
            has(NVME_VFS[0], "remove", there=False),
            has(NVME_VFS[0], "rescan", there=False),
            Link(f"{DEVICES}/{NVME_VFS[0]}/physfn", NVME),
            Do(remove(NVME_VFS[0]), "open ENOENT"),
            Do(reset(NVME_VFS[0])),
            Do(numvfs(0)),
        ),
    ),
)
