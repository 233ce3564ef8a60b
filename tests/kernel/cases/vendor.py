"""Section 14: virtual functions of NVIDIA's that are vGPUs, by a type that is stored."""

from __future__ import annotations

from tests.kernel.cases.terms import (
    DEVICES,
    MAKES_VFS,
    UUID,
    Case,
    bind,
    bind_iommufd,
    driver_is,
    numvfs,
    unbind,
)
from tests.kernel.lab.layout import L40S, L40S_VFS
from tests.kernel.scenario import (
    Close,
    Do,
    Finish,
    Listed,
    Load,
    Names,
    Open,
    OpenCdev,
    Step,
    Store,
    Text,
)

FLAVOURS = ("6.12", "iommufd")
"""NVIDIA's driver has them from Linux 6.8 on."""
VF, OTHER, THIRD = L40S_VFS[:3]
Q12, Q24, A24, Q48 = "1153", "1155", "1165", "1156"
HEADER = "ID    : vGPU Name"
SIZES = {
    "B": (1, 2),
    "Q": (1, 2, 3, 4, 6, 8, 12, 16, 24, 48),
    "A": (1, 2, 3, 4, 6, 8, 12, 16, 24, 48),
}
NAMES = {
    **dict(
        enumerate((f"NVIDIA L40S-{size}{kind}" for kind in SIZES for size in SIZES[kind]), 1145)
    ),
    2164: "NVIDIA L40S-3B",
}


def vgpu_type(vf: str, text: str) -> Store:
    """Store a type."""
    return Store(f"{DEVICES}/{vf}/nvidia/current_vgpu_type", text)


def type_is(vf: str, type_id: str) -> Text:
    """Which type a function must have; 0 for none."""
    return Text(f"{DEVICES}/{vf}/nvidia/current_vgpu_type", type_id)


def creatable_are(vf: str, *types: str) -> Text:
    """Which types a function must offer."""
    lines = [HEADER, *(f"{each:<5} : {NAMES[int(each)]}" for each in types)]
    return Text(f"{DEVICES}/{vf}/nvidia/creatable_vgpu_types", "\n".join(lines))


def has_folder(address: str, *, there: bool = True) -> Listed:
    """Whether a function must have the files."""
    return Listed(f"{DEVICES}/{address}", "nvidia", there)


def case(name: str, *steps: Step, flavours: tuple[str, ...] = FLAVOURS) -> Case:
    """A case that begins with three virtual functions, which have no type."""
    first = (
        Do(Load("nvidia")),
        Do(MAKES_VFS),
        Do(numvfs(3, L40S)),
        driver_is(VF, "nvidia"),
    )
    return Case(f"88-{name}", (*first, *steps), flavours)


CASES = (
    case(
        "first-state",
        Names(f"{DEVICES}/{VF}/nvidia", ("creatable_vgpu_types", "current_vgpu_type")),
        has_folder(L40S, there=False),
        type_is(VF, "0"),
        creatable_are(VF, *map(str, NAMES)),
        creatable_are(THIRD, *map(str, NAMES)),
    ),
    case(
        "what-a-function-without-a-type-takes",
        *(
            step
            for text in (Q24, f"{Q24}\n", f"+{Q24}", f"0{Q24}", str((1 << 32) + int(Q24)))
            for step in (Do(vgpu_type(VF, text)), type_is(VF, Q24), Do(vgpu_type(VF, "0")))
        ),
        Do(vgpu_type(VF, "")),
        type_is(VF, "0"),
    ),
    case(
        "what-it-does-not-take",
        *(
            Do(vgpu_type(VF, text), f"write {number}")
            for number, texts in (
                ("EPERM", ("0", "-0", "00\n")),
                ("EINVAL", ("999", f"-{Q24}", "0x483", "NVIDIA L40S-24Q")),
                ("EINVAL", (f" {Q24}", f"{Q24}\n\n", f"{Q24}x", "\n", "-", "-+1")),
                ("EINVAL", (str(1 << 32), str((1 << 63) - 1), str(-1 << 63))),
                ("ERANGE", (str(1 << 63), str((-1 << 63) - 1), f"{1 << 64}x", "9" * 4095)),
            )
            for text in texts
        ),
        type_is(VF, "0"),
    ),
    case(
        "what-one-with-a-type-takes",
        Do(vgpu_type(VF, Q24)),
        Do(vgpu_type(VF, Q24), "write EPERM"),
        Do(vgpu_type(VF, Q12), "write EPERM"),
        Do(vgpu_type(VF, "999"), "write EPERM"),
        Do(vgpu_type(VF, "x"), "write EINVAL"),
        type_is(VF, Q24),
        Do(vgpu_type(VF, "0\n")),
        type_is(VF, "0"),
    ),
    case(
        "lists-shrink",
        Do(vgpu_type(VF, Q24)),
        *(creatable_are(vf, Q24) for vf in (VF, OTHER, THIRD)),
        Do(vgpu_type(OTHER, Q12), "write EINVAL"),
        Do(vgpu_type(OTHER, A24), "write EINVAL"),
        Do(vgpu_type(OTHER, Q24)),
        *(creatable_are(vf) for vf in (VF, OTHER, THIRD)),
        Do(vgpu_type(THIRD, Q24), "write EINVAL"),
        Do(vgpu_type(VF, "0")),
        creatable_are(THIRD, Q24),
        Do(vgpu_type(OTHER, "0")),
        creatable_are(THIRD, *map(str, NAMES)),
    ),
    case(
        "whole-card",
        Do(vgpu_type(OTHER, Q48)),
        creatable_are(VF),
        Do(vgpu_type(VF, Q48), "write EINVAL"),
        Do(vgpu_type(OTHER, "0")),
        Do(vgpu_type(VF, Q48)),
        type_is(VF, Q48),
    ),
    case("open-without-a-type", Do(Open(VF), "GET_DEVICE_FD ENODEV"), Do(Close())),
    case(
        "while-open",
        Do(vgpu_type(VF, Q24)),
        Do(Open(VF)),
        Do(vgpu_type(VF, "0"), "write EBUSY"),
        Do(vgpu_type(VF, Q12), "write EPERM"),
        type_is(VF, Q24),
        Do(vgpu_type(OTHER, Q24)),
        Do(Close()),
        Do(vgpu_type(VF, "0")),
        Do(Open(VF), "GET_DEVICE_FD ENODEV"),
        Do(Close()),
    ),
    case(
        "own-node",
        Do(OpenCdev(VF)),
        Do(bind_iommufd(VF), "BIND_IOMMUFD ENODEV"),
        Do(vgpu_type(VF, Q24)),
        Do(bind_iommufd(VF)),
        Do(vgpu_type(VF, "0"), "write EBUSY"),
        Do(Close()),
        Do(vgpu_type(VF, "0")),
        flavours=("iommufd",),
    ),
    case(
        "no-token-is-asked-for",
        Do(vgpu_type(VF, Q24)),
        Do(Open(VF, options=f"vf_token={UUID}")),
        Do(vgpu_type(VF, "0"), "write EBUSY"),
        Do(Close()),
    ),
    case(
        "unbind-ends-it",
        Do(vgpu_type(VF, Q48)),
        Do(unbind("nvidia", VF)),
        has_folder(VF, there=False),
        creatable_are(OTHER, *map(str, NAMES)),
        Do(bind("nvidia", VF)),
        type_is(VF, "0"),
    ),
    case(
        "unbind-while-open",
        Do(vgpu_type(VF, Q48)),
        Do(Open(VF)),
        Do(unbind("nvidia", VF), "blocks"),
        type_is(VF, Q48),
        creatable_are(OTHER),
        Do(Close()),
        Do(Finish()),
        has_folder(VF, there=False),
        creatable_are(OTHER, *map(str, NAMES)),
    ),
    case(
        "removal-while-open",
        Do(vgpu_type(OTHER, Q24)),
        Do(Open(OTHER)),
        Do(numvfs(0, L40S), "blocks"),
        Listed(DEVICES, VF, is_there=False),
        type_is(OTHER, Q24),
        creatable_are(THIRD, Q24),
        Do(Close()),
        Do(Finish()),
        Listed(DEVICES, OTHER, is_there=False),
        Do(numvfs(1, L40S)),
        type_is(VF, "0"),
    ),
    case(
        "root-alone",
        Do(Store(f"{DEVICES}/{VF}/nvidia/current_vgpu_type", Q24, as_root=False), "open EACCES"),
        Do(Store(f"{DEVICES}/{VF}/nvidia/creatable_vgpu_types", Q24), "open EACCES"),
        type_is(VF, "0"),
    ),
)
