"""Section 5: reset."""

from __future__ import annotations

from tests.kernel.cases.terms import DEVICES, Case, driver_is, numvfs, to_vfio, unbind
from tests.kernel.lab.layout import (
    A10S,
    EDU,
    EMPTY_PORT,
    NIC,
    NVME,
    NVME_VFS,
    PCIE_NIC,
    PORT,
    RTX3090,
)
from tests.kernel.scenario import Close, Do, Finish, Listed, Open, Store, Text


def reset(address: str, value: str = "1") -> Store:
    """Reset a function."""
    return Store(f"{DEVICES}/{address}/reset", value)


def reset_bus(port: str, value: str = "1") -> Store:
    """Reset all that is behind a port."""
    return Store(f"{DEVICES}/{port}/reset_subordinate", value)


def method(address: str, names: str) -> Store:
    """Choose the ways to reset a function."""
    return Store(f"{DEVICES}/{address}/reset_method", names)


def method_is(address: str, names: str | None) -> Text:
    """Which ways to reset a function there must be."""
    return Text(f"{DEVICES}/{address}/reset_method", names)


def has(address: str, name: str, *, there: bool = True) -> Listed:
    """Whether a function must have an attribute."""
    return Listed(f"{DEVICES}/{address}", name, there)


STUCK = (
    *to_vfio(PCIE_NIC, "e1000e"),
    Do(Open(PCIE_NIC)),
    Do(unbind("vfio-pci", PCIE_NIC), "blocks"),
)

FOUND_AGAIN = tuple(
    Do(Store(path, "1"))
    for path in (*(f"{DEVICES}/{address}/remove" for address in RTX3090), "/sys/bus/pci/rescan")
)
"""Both functions of a card in the order of a boot: what was found first was alone then."""

CASES = (
    *(
        Case(f"34-{name}", (Do(reset(NVME, text), outcome), driver_is(NVME, "nvme")))
        for name, text, outcome in (
            ("zero", "0", "write EINVAL"),
            ("two", "2", "write EINVAL"),
            ("garbage", "x", "write EINVAL"),
            ("empty", "", "ok"),
            ("hexadecimal", "0x1\n", "ok"),
        )
    ),
    Case("34-bound", (Do(reset(NVME)), driver_is(NVME, "nvme"))),
    Case(
        "34-while-open",
        (
            *to_vfio(PCIE_NIC, "e1000e"),
            Do(Open(PCIE_NIC)),
            Do(reset(PCIE_NIC)),
            driver_is(PCIE_NIC, "vfio-pci"),
            Do(Close()),
        ),
    ),
    Case(
        "34-wakes",
        (
            Do(Store(f"{DEVICES}/{A10S[0]}/remove", "1")),
            Do(Store("/sys/bus/pci/rescan", "1")),
            Text(f"{DEVICES}/{A10S[0]}/power_state", "unknown"),
            Do(reset(A10S[0])),
            Text(f"{DEVICES}/{A10S[0]}/power_state", "D0"),
        ),
    ),
    Case(
        "34-behind-a-stuck-unbind",
        (
            *STUCK,
            Do(reset(PCIE_NIC), "blocks"),
            Do(Close()),
            Do(Finish()),
            Do(Finish()),
            driver_is(PCIE_NIC, None),
        ),
    ),
    *(
        Case(f"35-{name}", (has(address, "reset", there=False), method_is(address, None)))
        for name, address in (("edu", EDU), ("conventional", NIC))
    ),
    *(
        Case(f"35-{name}", (has(address, "reset"), method_is(address, names)))
        for name, address, names in (("e1000e", PCIE_NIC, "pm bus"), ("pf", NVME, "flr bus"))
    ),
    Case(
        "35-vf",
        (
            Do(numvfs(1)),
            has(NVME_VFS[0], "reset"),
            method_is(NVME_VFS[0], "flr"),
            Do(reset(NVME_VFS[0])),
            # Now the disk is not alone on its bus any more.
            Do(method(NVME, "bus"), "write EINVAL"),
            Do(numvfs(0)),
        ),
    ),
    *(
        Case(
            f"36-{name}",
            (
                Do(method(PCIE_NIC, "bus")),
                Do(method(PCIE_NIC, text), "write EINVAL"),
                method_is(PCIE_NIC, "bus"),
                Do(method(PCIE_NIC, "default")),
                method_is(PCIE_NIC, "pm bus"),
            ),
        )
        for name, text in (
            ("unsupported", "flr"),
            ("unknown", "nosuch"),
            ("one-of-two-unsupported", "pm flr"),
            ("comma", "pm,bus"),
            ("too-many", " ".join(["pm"] * 8)),
        )
    ),
    *(
        Case(
            f"36-{name}",
            (
                Do(method(PCIE_NIC, text)),
                method_is(PCIE_NIC, found),
                Do(method(PCIE_NIC, "default")),
                method_is(PCIE_NIC, "pm bus"),
            ),
        )
        for name, text, found in (
            ("several", "bus pm", "bus pm"),
            ("spaces", " bus  pm \n", "bus pm"),
            ("twice", "pm pm", "pm pm"),
            ("only-a-space", " ", ""),
            ("empty", "", "pm bus"),
        )
    ),
    Case(
        "36-none",
        (
            Do(method(PCIE_NIC, "\n")),
            method_is(PCIE_NIC, ""),
            has(PCIE_NIC, "reset"),
            Do(reset(PCIE_NIC), "write ENOTTY"),
            Do(reset(PCIE_NIC, "0"), "write EINVAL"),
            Do(method(PCIE_NIC, "default\n")),
            method_is(PCIE_NIC, "pm bus"),
            Do(reset(PCIE_NIC)),
        ),
    ),
    Case(
        "36-bus-of-several",
        (
            Do(method(RTX3090[0], "bus"), "write EINVAL"),
            # It was alone when Linux found it, which was before the audio function.
            Do(method(RTX3090[0], "default")),
            method_is(RTX3090[0], "flr"),
            *FOUND_AGAIN,
            method_is(RTX3090[0], "flr bus"),
        ),
    ),
    Case(
        "36-next-method",
        (
            # QEMU's port does not bring its link up again: the next method has its turn.
            Do(method(PCIE_NIC, "bus")),
            Do(reset(PCIE_NIC), "write ENOTTY"),
            Do(method(PCIE_NIC, "bus pm")),
            Do(reset(PCIE_NIC)),
            Do(method(PCIE_NIC, "default")),
        ),
    ),
    Case(
        "37-link-does-not-come-back",
        (
            Do(reset_bus(PORT, "x"), "write EINVAL"),
            Do(reset_bus(PORT, "0")),
            Do(reset_bus(PORT), "write ENOTTY"),
            driver_is(PCIE_NIC, "e1000e"),
        ),
    ),
    Case(
        "37-nothing-behind",
        (Do(reset_bus(EMPTY_PORT, "2")), driver_is(EMPTY_PORT, "pcieport")),
    ),
    Case("37-busy", (*STUCK, Do(reset_bus(PORT), "write EAGAIN"), Do(Close()))),
    Case("37-no-bridge", (Do(reset_bus(PCIE_NIC), "open ENOENT"),)),
)
