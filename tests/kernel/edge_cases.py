"""What Linux answers at the edges of bind, driver_override, new_id and mdev: a table of scenarios.

The numbers are those of the acceptance list of the simulated kernel. Each scenario begins in the
first state of a machine of the lab (``lab/layout.py``): every function has the driver that Linux
gives it, no display driver is loaded, ``vfio_pci`` and the mdev samples are.
"""

from __future__ import annotations

import attrs

from tests.kernel.lab.layout import (
    A10S,
    EDU,
    EMPTY_PORT,
    HOST_BRIDGE,
    NIC,
    NVME,
    NVME_VFS,
    PCIE_NIC,
    T4,
    TWIN_NICS,
)
from tests.kernel.scenario import (
    Close,
    Do,
    Finish,
    Link,
    Listed,
    Load,
    Open,
    Step,
    Store,
    Text,
    Unload,
)

DEVICES = "/sys/bus/pci/devices"
DRIVERS = "/sys/bus/pci/drivers"
MDEVS = "/sys/bus/mdev/devices"
PARENTS = "/sys/class/mdev_bus"
UUIDS = tuple(f"3d1d9e1a-4b6f-4c59-a8a0-6f4dbe0c7f{number:02x}" for number in range(32))
UUID = UUIDS[0]
FIRST_NIC, SECOND_NIC = TWIN_NICS


@attrs.frozen
class Case:
    """A scenario for one entry of the list.

    Attributes:
        name: the entry's number and what is shown.
        steps: the scenario.
    """

    name: str
    steps: tuple[Step, ...]


def bind(driver: str, address: str) -> Store:
    """Bind a device to a driver."""
    return Store(f"{DRIVERS}/{driver}/bind", address)


def unbind(driver: str, address: str) -> Store:
    """Unbind a device from a driver."""
    return Store(f"{DRIVERS}/{driver}/unbind", address)


def probe(address: str) -> Store:
    """Have the kernel look for a driver."""
    return Store("/sys/bus/pci/drivers_probe", address)


def override(address: str, driver: str) -> Store:
    """Store a driver_override."""
    return Store(f"{DEVICES}/{address}/driver_override", driver)


def override_is(address: str, driver: str) -> Text:
    """What reading driver_override must give."""
    return Text(f"{DEVICES}/{address}/driver_override", driver)


def driver_is(address: str, driver: str | None) -> Link:
    """Which driver a device must have."""
    return Link(f"{DEVICES}/{address}/driver", driver)


def numvfs(count: int) -> Store:
    """Enable VFs of the disk."""
    return Store(f"{DEVICES}/{NVME}/sriov_numvfs", str(count))


def to_vfio(address: str, native: str | None) -> tuple[Step, ...]:
    """Take a device from its native driver and give it to vfio-pci."""
    free = () if native is None else (Do(unbind(native, address)),)
    return (*free, Do(override(address, "vfio-pci")), Do(bind("vfio-pci", address)))


def create(parent: str, type_id: str, uuid: str) -> Store:
    """Create a mediated device."""
    return Store(f"{PARENTS}/{parent}/mdev_supported_types/{type_id}/create", uuid)


def remove(uuid: str, value: str = "1") -> Store:
    """Remove a mediated device."""
    return Store(f"{MDEVS}/{uuid}/remove", value)


def mdev_is(uuid: str, *, there: bool = True) -> Listed:
    """Whether a mediated device must exist."""
    return Listed(MDEVS, uuid, there)


def left_is(parent: str, type_id: str, count: int) -> Text:
    """How many more devices of a type a parent must offer."""
    path = f"{PARENTS}/{parent}/mdev_supported_types/{type_id}/available_instances"
    return Text(path, str(count))


FREE_NIC = Do(unbind("e1000", NIC))

BIND = (
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
)

OVERRIDE = (
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

NEW_ID, REMOVE_ID = f"{DRIVERS}/vfio-pci/new_id", f"{DRIVERS}/vfio-pci/remove_id"
E1000_ID = "8086 100e"

DYNAMIC_IDS = (
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

MDEV = (
    *(
        Case(
            f"64-{name}",
            (
                Do(create("mtty", "mtty-1", UUID)),
                Do(create(parent, type_id, UUID), "write EEXIST"),
            ),
        )
        for name, parent, type_id in (
            ("same-type", "mtty", "mtty-1"),
            ("other-type", "mtty", "mtty-2"),
            ("other-parent", "mdpy", "mdpy-vga"),
        )
    ),
    Case("65-upper-case", (Do(create("mtty", "mtty-1", UUID.upper())), mdev_is(UUID))),
    Case("65-newline", (Do(create("mtty", "mtty-1", f"{UUID}\n")), mdev_is(UUID))),
    *(
        Case(f"65-{name}", (Do(create("mtty", "mtty-1", text), "write EINVAL"),))
        for name, text in (
            ("no-dashes", UUID.replace("-", "")),
            ("braces", f"{{{UUID}}}"),
            ("two-newlines", f"{UUID}\n\n"),
            ("garbage", "garbage"),
        )
    ),
    Case(
        "65-nil",
        (
            Do(
                create(
                    "mtty",
                    "mtty-1",
                    nil := UUID.translate(dict.fromkeys(map(ord, "0123456789abcdef"), "0")),
                )
            ),
            mdev_is(nil),
        ),
    ),
    Case("65-empty", (Do(create("mtty", "mtty-1", "")), left_is("mtty", "mtty-1", 24))),
    Case(
        "66-driver-counts",
        (
            left_is("mtty", "mtty-2", 12),
            *(Do(create("mtty", "mtty-2", uuid)) for uuid in UUIDS[:12]),
            left_is("mtty", "mtty-1", 0),
            Do(create("mtty", "mtty-2", UUIDS[12]), "write ENOSPC"),
            mdev_is(UUIDS[12], there=False),
        ),
    ),
    Case(
        "66-core-counts",
        (
            left_is("mdpy", "mdpy-vga", 4),
            *(Do(create("mdpy", "mdpy-vga", uuid)) for uuid in UUIDS[:4]),
            left_is("mdpy", "mdpy-xga", 0),
            Do(create("mdpy", "mdpy-xga", UUIDS[4]), "write EUSERS"),
        ),
    ),
    Case(
        "66-shared-pool",
        (
            left_is("mtty", "mtty-1", 24),
            Do(create("mtty", "mtty-2", UUID)),
            left_is("mtty", "mtty-1", 22),
            left_is("mtty", "mtty-2", 11),
            Do(remove(UUID)),
            left_is("mtty", "mtty-1", 24),
        ),
    ),
    Case("67-garbage", (Do(create("mtty", "mtty-1", UUID)), Do(remove(UUID, "x"), "write EINVAL"))),
    Case("67-zero", (Do(create("mtty", "mtty-1", UUID)), Do(remove(UUID, "0")), mdev_is(UUID))),
    Case("67-nonexistent", (Do(remove(UUID), "open ENOENT"),)),
    Case(
        "68-remove-while-open",
        (
            Do(create("mdpy", "mdpy-vga", UUID)),
            Do(Open(UUID)),
            Do(remove(UUID), "blocks"),
            Do(Close()),
            Do(Finish()),
            mdev_is(UUID, there=False),
            left_is("mdpy", "mdpy-vga", 4),
        ),
    ),
    Case(
        "69-invisible",
        (
            Do(create("mdpy", "mdpy-vga", UUID)),
            Do(Open(UUID)),
            Do(remove(UUID), "blocks"),
            mdev_is(UUID, there=False),
            left_is("mdpy", "mdpy-vga", 3),
            Do(create("mtty", "mtty-1", UUID), "write EEXIST"),
            Do(Close()),
            Do(Finish()),
        ),
    ),
    Case(
        "70-no-way-back",
        (
            Do(create("mtty", "mtty-1", UUID)),
            Do(Store("/sys/bus/mdev/drivers/mtty/unbind", UUID)),
            Link(f"{MDEVS}/{UUID}/driver", None),
            Do(Store("/sys/bus/mdev/drivers/mtty/bind", UUID), "write ENODEV"),
            mdev_is(UUID),
            Do(remove(UUID)),
        ),
    ),
    Case(
        "71-unload-removes",
        (
            Do(create("mtty", "mtty-1", UUID)),
            Do(Unload("mtty")),
            mdev_is(UUID, there=False),
        ),
    ),
    Case(
        "71-unload-while-open",
        (
            Do(create("mdpy", "mdpy-vga", UUID)),
            Do(Open(UUID)),
            Do(Unload("mdpy"), "fails"),
            mdev_is(UUID),
            Do(Close()),
        ),
    ),
    Case(
        "72-virtual-parent",
        (
            Link(f"{PARENTS}/mtty", "mtty"),
            Text(f"{PARENTS}/mtty/mdev_supported_types/mtty-1/description", None),
            Text(f"{PARENTS}/mtty/mdev_supported_types/mtty-1/device_api", "vfio-pci"),
            Text(f"{PARENTS}/mtty/mdev_supported_types/mtty-1/name", "Single port serial"),
        ),
    ),
    Case(
        "72-pci-parent",
        (
            Do(Load("nvidia")),
            driver_is(A10S[0], "nvidia"),
            left_is(T4, "nvidia-232", 4),
            Do(create(T4, "nvidia-232", UUID)),
            left_is(T4, "nvidia-232", 3),
            left_is(T4, "nvidia-231", 0),
            Do(create(T4, "nvidia-231", UUIDS[1]), "write EUSERS"),
        ),
    ),
)

CASES = (*BIND, *OVERRIDE, *DYNAMIC_IDS, *MDEV)
