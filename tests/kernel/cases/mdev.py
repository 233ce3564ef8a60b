"""Section 9: mediated devices."""

from __future__ import annotations

from tests.kernel.cases.terms import (
    MDEVS,
    PARENTS,
    UUID,
    UUIDS,
    Case,
    create,
    driver_is,
    left_is,
    mdev_is,
    remove,
)
from tests.kernel.lab.layout import (
    A10S,
    T4,
)
from tests.kernel.scenario import (
    Close,
    Do,
    Finish,
    Link,
    Listed,
    Load,
    Open,
    Store,
    Text,
    Unload,
)

CASES = (
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
        "71-load-again",
        (
            Do(create("mtty", "mtty-1", UUID)),
            Do(Unload("mtty")),
            Link(f"{PARENTS}/mtty", None),
            Listed("/sys/bus/mdev/drivers", "mtty", is_there=False),
            Do(Load("mtty")),
            mdev_is(UUID, there=False),
            left_is("mtty", "mtty-1", 24),
            Do(create("mtty", "mtty-1", UUID)),
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
