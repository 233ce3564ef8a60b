"""Section 7: SR-IOV."""

from __future__ import annotations

from tests.kernel.cases.terms import (
    DEVICES,
    FIRST_NIC,
    MAKES_VFS,
    UUIDS,
    Case,
    bind,
    driver_is,
    numvfs,
    override,
    override_is,
    probe,
    to_vfio,
    unbind,
)
from tests.kernel.lab.layout import A10S, EDU, NIC, NVME, NVME_VFS
from tests.kernel.scenario import (
    Answers,
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
)

ENABLE_SRIOV = "/sys/module/vfio_pci/parameters/enable_sriov"
VF = NVME_VFS[0]
A10 = A10S[0]
A10_VF = A10.replace("00.0", "00.4")
"""The first one: its card's offset is 4."""


def numvfs_is(count: int, address: str = NVME) -> Text:
    """What reading sriov_numvfs must give."""
    return Text(f"{DEVICES}/{address}/sriov_numvfs", str(count))


def vfs_are(count: int, address: str = NVME) -> tuple[Step, ...]:
    """How many VFs a PF must have, by its links and by its own count."""
    links = (
        Listed(f"{DEVICES}/{address}", f"virtfn{count - 1}", is_there=True),
        Listed(f"{DEVICES}/{address}", f"virtfn{count}", is_there=False),
    )
    return (*links[count == 0 :], numvfs_is(count, address))


def autoprobe(value: str, address: str = NVME) -> Store:
    """Let the kernel look for drivers of new VFs, or not."""
    return Store(f"{DEVICES}/{address}/sriov_drivers_autoprobe", value)


IDLE_VF = (Do(autoprobe("0")), Do(numvfs(1)))
"""A VF that no driver has been asked to take."""
OPEN_VF = (*IDLE_VF, *to_vfio(VF, None), Do(Open(VF)))
PF_OF_VFIO = (Do(Store(ENABLE_SRIOV, "Y")), *to_vfio(NVME, "nvme"), Do(numvfs(2)))
A10_OF_VFIO = (Do(Store(ENABLE_SRIOV, "Y")), *to_vfio(A10, None), Do(numvfs(2, A10)))
"""A card to open: the disk's VFs do not come back from a reset of their PF."""
TOKEN, OTHER_TOKEN = (f"vf_token={uuid}" for uuid in UUIDS[:2])
UNSUPPORTED = "write ENOTSUP"
"""EOPNOTSUPP: Python has the other name of the same number."""

CASES = (
    *(
        Case(f"42-{name}", (Do(numvfs(text), "write EINVAL"), *vfs_are(0)))
        for name, text in (("garbage", "garbage"), ("negative", "-1"), ("17-bits", "70000"))
    ),
    Case("42-hexadecimal", (Do(autoprobe("0")), Do(numvfs("0x2")), *vfs_are(2))),
    Case("42-octal", (Do(autoprobe("0")), Do(numvfs("03\n")), *vfs_are(3))),
    Case("42-too-many", (Do(numvfs(5), "write ERANGE"), *vfs_are(0))),
    Case("43-same", (*IDLE_VF, Do(numvfs(1)), *vfs_are(1))),
    Case("43-none", (Do(numvfs(0)), *vfs_are(0))),
    Case("43-none-without-driver", (Do(unbind("nvme", NVME)), Do(numvfs(0)), *vfs_are(0))),
    Case(
        "43-same-without-driver", (*IDLE_VF, Do(unbind("nvme", NVME)), Do(numvfs(1)), *vfs_are(1))
    ),
    *(
        Case(
            f"44-two-to-{name}",
            (
                Do(autoprobe("0")),
                Do(numvfs(2)),
                Do(numvfs(count), "write EBUSY"),
                *vfs_are(2),
                Do(numvfs(0)),
                Do(numvfs(count)),
                *vfs_are(count),
            ),
        )
        for name, count in (("three", 3), ("one", 1))
    ),
    Case("45-no-driver", (Do(unbind("nvme", NVME)), Do(numvfs(1), "write ENOENT"))),
    Case(
        "45-driver-that-cannot",
        (
            Do(Load("nouveau")),
            driver_is(A10, "nouveau"),
            Do(numvfs(1, A10), "write ENOENT"),
            *vfs_are(0, A10),
        ),
    ),
    Case("45-vfio-that-may-not", (*to_vfio(NVME, "nvme"), Do(numvfs(1), "write ENOENT"))),
    Case(
        "45-range-before-driver",
        (Do(unbind("nvme", NVME)), Do(numvfs(5), "write ERANGE")),
    ),
    Case(
        "45-fewer-than-asked",
        (
            Do(Load("nvidia")),
            Do(MAKES_VFS),
            Do(Store("/sys/module/nvidia/parameters/max_vfs", "3")),
            Do(numvfs(8, A10)),
            *vfs_are(3, A10),
        ),
    ),
    Case(
        "46-orphans",
        (
            Do(autoprobe("0")),
            Do(numvfs(2)),
            Do(unbind("nvme", NVME)),
            *vfs_are(2),
            Do(numvfs(0), "write ENOENT"),
            Do(override(NVME, "vfio-pci")),
            Do(bind("vfio-pci", NVME), "write EBUSY"),
            Do(override(NVME, "\n")),
            Do(bind("nvme", NVME)),
            Do(numvfs(0)),
            *vfs_are(0),
            Listed(DEVICES, VF, is_there=False),
        ),
    ),
    Case(
        "48-autoprobe-off",
        (
            *IDLE_VF,
            driver_is(VF, None),
            Do(bind("nvme", VF), "write ENODEV"),
            Do(probe(VF)),
            driver_is(VF, None),
            Do(override(VF, "vfio-pci")),
            driver_is(VF, None),
            Do(bind("vfio-pci", VF)),
            driver_is(VF, "vfio-pci"),
        ),
    ),
    Case(
        "48-autoprobe-texts",
        (
            Do(autoprobe("garbage"), "write EINVAL"),
            Text(f"{DEVICES}/{NVME}/sriov_drivers_autoprobe", "1"),
            Do(autoprobe("no")),
            Text(f"{DEVICES}/{NVME}/sriov_drivers_autoprobe", "0"),
            Do(autoprobe("y\n")),
            Text(f"{DEVICES}/{NVME}/sriov_drivers_autoprobe", "1"),
        ),
    ),
    Case(
        "49-vectors-unsupported",
        (
            *IDLE_VF,
            Do(Store(f"{DEVICES}/{VF}/sriov_vf_msix_count", "x"), "write EINVAL"),
            Do(Store(f"{DEVICES}/{VF}/sriov_vf_msix_count", "-1"), "write EINVAL"),
            Do(Store(f"{DEVICES}/{VF}/sriov_vf_msix_count", "4"), UNSUPPORTED),
            *to_vfio(VF, None),
            Do(Store(f"{DEVICES}/{VF}/sriov_vf_msix_count", "4"), UNSUPPORTED),
        ),
    ),
    Case(
        "50-captured",
        (
            *PF_OF_VFIO,
            *vfs_are(2),
            override_is(VF, "vfio-pci"),
            driver_is(VF, "vfio-pci"),
            driver_is(NVME_VFS[1], "vfio-pci"),
        ),
    ),
    Case(
        "50-captured-a10",
        (
            *A10_OF_VFIO,
            Do(numvfs(0, A10)),
            Do(numvfs(32, A10)),
            *vfs_are(32, A10),
            Link(f"{DEVICES}/{A10}/virtfn0", A10_VF),
            Link(f"{DEVICES}/{A10}/virtfn31", A10.replace("00.0", "04.3")),
            Link(f"{DEVICES}/{A10_VF}/physfn", A10),
            Text(f"{DEVICES}/{A10_VF}/device", "0x2236"),
            override_is(A10_VF, "vfio-pci"),
            driver_is(A10_VF, "vfio-pci"),
            Do(numvfs(0, A10)),
            *vfs_are(0, A10),
        ),
    ),
    Case("50-parameter-garbage", (Do(Store(ENABLE_SRIOV, "x"), "write EINVAL"),)),
    Case(
        "50-token",
        (
            *A10_OF_VFIO,
            Do(Open(A10_VF), "GET_DEVICE_FD EACCES"),
            Do(Open(A10_VF, options=TOKEN), "GET_DEVICE_FD EACCES"),
            Do(Open(A10, options=TOKEN)),
            Do(Open(A10_VF), "GET_DEVICE_FD EACCES"),
            Do(Open(A10_VF, options=OTHER_TOKEN), "GET_DEVICE_FD EACCES"),
            Do(Open(A10_VF, options=TOKEN)),
            Do(Close()),
        ),
    ),
    Case(
        "50-token-stays",
        (
            *A10_OF_VFIO,
            Do(Open(A10, options=TOKEN)),
            Do(Open(A10_VF, options=TOKEN)),
            Do(Close()),
            Do(Open(A10)),
            Do(Open(A10_VF, options=OTHER_TOKEN), "GET_DEVICE_FD EACCES"),
            Do(Open(A10_VF, options=TOKEN)),
            Do(Close()),
        ),
    ),
    *(
        Case(f"50-{name}", (*A10_OF_VFIO, Do(Open(A10_VF, options=text), "GET_DEVICE_FD EINVAL")))
        for name, text in (
            ("unknown-option", "colour=red"),
            ("short-token", "vf_token=1234"),
            ("second-token", f"{TOKEN} {TOKEN}"),
        )
    ),
    Case(
        "50-token-of-no-vf",
        (*to_vfio(EDU, None), Do(Open(EDU, options=TOKEN), "GET_DEVICE_FD EINVAL")),
    ),
    Case(
        "50-unbind-removes",
        (
            *PF_OF_VFIO,
            Do(unbind("vfio-pci", NVME)),
            *vfs_are(0),
            Listed(DEVICES, VF, is_there=False),
        ),
    ),
    Case(
        "51-numvfs-while-open",
        (
            *OPEN_VF,
            Do(numvfs(0), "blocks"),
            Listed(f"{DEVICES}/{NVME}", "virtfn0", is_there=False),
            Answers(f"{DEVICES}/{NVME}/sriov_numvfs", does=False),
            Answers(f"{DEVICES}/{NVME}/sriov_vf_total_msix", does=False),
            Text(f"{DEVICES}/{NVME}/sriov_totalvfs", "4"),
            Answers(f"{DEVICES}/{NVME}/vendor"),
            Do(Close()),
            Do(Finish()),
            *vfs_are(0),
            Listed(DEVICES, VF, is_there=False),
        ),
    ),
    *(
        Case(
            f"51-override-of-the-pf-{name}",
            (
                *OPEN_VF,
                Do(numvfs(0), "blocks"),
                Answers(f"{DEVICES}/{NVME}/driver_override", does=does),
                Answers(f"{DEVICES}/{NVME}/uevent", does=does),
                Do(Close()),
                Do(Finish()),
            ),
            flavours=flavours,
        )
        for name, does, flavours in (
            ("answers", True, ("6.12", "iommufd")),
            ("blocks", False, ("6.1",)),
        )
    ),
    Case(
        "51-rescan-waits",
        (
            *OPEN_VF,
            Do(numvfs(0), "blocks"),
            Do(Store("/sys/bus/pci/rescan", "1"), "blocks"),
            Do(unbind("e1000", NIC)),
            Do(bind("e1000", NIC)),
            Do(Close()),
            Do(Finish()),
            Do(Finish()),
            driver_is(FIRST_NIC, "e1000"),
        ),
    ),
)
