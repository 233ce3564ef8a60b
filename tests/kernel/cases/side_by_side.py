"""Section 12: what runs side by side, and what waits. 82, a deadlock of the kernel, is left out."""

from __future__ import annotations

from tests.kernel.cases.sriov import A10, ENABLE_SRIOV, OPEN_VF, vfs_are
from tests.kernel.cases.terms import (
    DEVICES,
    FIRST_NIC,
    Case,
    bind,
    driver_is,
    numvfs,
    probe,
    to_vfio,
    unbind,
)
from tests.kernel.lab.layout import A10S, EDU, NIC, NVME, RTX2080, RTX3090, T4
from tests.kernel.scenario import Answers, Close, Do, Finish, Load, Open, Store, Together

GPUS = (*A10S, RTX3090[0], RTX2080[0])
SIDE_BY_SIDE, ONE_BY_ONE = "side by side", "one by one"


def stand_in(module: str, parameter: str, value: int) -> Do:
    """Tell a driver of the lab how to behave."""
    return Do(Store(f"/sys/module/{module}/parameters/{parameter}", str(value)))


def unbind_all(*, one_file: bool = False) -> Together:
    """Unbind four cards at once."""
    return Together(tuple(unbind("nouveau", gpu) for gpu in GPUS), one_file=one_file)


NOUVEAU = Do(Load("nouveau"))
STUCK = (*to_vfio(NIC, "e1000"), Do(Open(NIC)), Do(unbind("vfio-pci", NIC), "blocks"))

CASES = (
    Case(
        "80-unbinds",
        (NOUVEAU, stand_in("nouveau", "remove_ms", 1000), Do(unbind_all(), SIDE_BY_SIDE)),
    ),
    Case(
        "80-unbinds-through-one-file",
        (
            NOUVEAU,
            stand_in("nouveau", "remove_ms", 1000),
            Do(unbind_all(one_file=True), ONE_BY_ONE),
        ),
    ),
    Case(
        "80-binds",
        (
            NOUVEAU,
            *(Do(unbind("nouveau", gpu)) for gpu in GPUS),
            stand_in("nouveau", "probe_ms", 1000),
            Do(Together(tuple(bind("nouveau", gpu) for gpu in GPUS)), SIDE_BY_SIDE),
        ),
    ),
    Case(
        "80-beside-a-stuck-one",
        (
            *STUCK,
            Do(unbind("e1000", FIRST_NIC)),
            Do(bind("e1000", FIRST_NIC)),
            *to_vfio(EDU, None),
            Do(Close()),
            Do(Finish()),
        ),
    ),
    Case(
        "81-numvfs-of-two-cards",
        (
            Do(Load("nvidia")),
            stand_in("nvidia", "sriov", 1),
            stand_in("nvidia", "probe_ms", 500),
            Do(Together(tuple(numvfs(2, a10) for a10 in A10S)), ONE_BY_ONE),
        ),
    ),
    Case(
        "81-numvfs-beside-a-stuck-one",
        (
            Do(Store(ENABLE_SRIOV, "Y")),
            *to_vfio(A10, None),
            *OPEN_VF,
            Do(numvfs(0), "blocks"),
            Do(numvfs(1, A10), "blocks"),
            Do(unbind("e1000", NIC)),
            Do(bind("e1000", NIC)),
            Do(Close()),
            Do(Finish()),
            Do(Finish()),
            *vfs_are(0),
            *vfs_are(1, A10),
        ),
    ),
    Case(
        "81-read-waits-for-an-unbind",
        (
            *to_vfio(NVME, "nvme"),
            Do(Open(NVME)),
            Do(unbind("vfio-pci", NVME), "blocks"),
            Answers(f"{DEVICES}/{NVME}/sriov_numvfs", does=False),
            Answers(f"{DEVICES}/{NVME}/sriov_totalvfs"),
            Do(Close()),
            Do(Finish()),
            *vfs_are(0),
        ),
    ),
    Case(
        "83-two-unbinds",
        (
            NOUVEAU,
            stand_in("nouveau", "remove_ms", 1000),
            # The second waits for the first, and has nothing left to do.
            Do(Together((unbind("nouveau", T4),) * 2), SIDE_BY_SIDE),
            driver_is(T4, None),
        ),
    ),
    Case(
        "83-two-binds",
        (
            NOUVEAU,
            Do(unbind("nouveau", T4)),
            stand_in("nouveau", "probe_ms", 1000),
            Do(Together((bind("nouveau", T4),) * 2), "ok, write EBUSY"),
            driver_is(T4, "nouveau"),
        ),
    ),
    Case(
        "83-behind-a-stuck-unbind",
        (
            *STUCK,
            Do(unbind("vfio-pci", NIC), "blocks"),
            Do(bind("vfio-pci", NIC), "blocks"),
            Do(bind("vfio-pci", NIC), "blocks"),
            Do(Close()),
            Do(Finish()),
            Do(Finish()),
            Do(Finish()),
            Do(Finish(), "write EBUSY"),
            driver_is(NIC, "vfio-pci"),
        ),
    ),
    Case(
        "83-probe-fails",
        (
            NOUVEAU,
            Do(unbind("nouveau", T4)),
            stand_in("nouveau", "probe_errno", 5),
            Do(bind("nouveau", T4), "write EIO"),
            driver_is(T4, None),
            Do(probe(T4)),
            driver_is(T4, None),
            stand_in("nouveau", "probe_errno", 0),
            Do(probe(T4)),
            driver_is(T4, "nouveau"),
        ),
    ),
    Case(
        "83-probes-of-vfs-fail",
        (
            Do(Load("nvidia")),
            stand_in("nvidia", "sriov", 1),
            stand_in("nvidia", "probe_errno", 5),
            Do(numvfs(2, A10)),
            *vfs_are(2, A10),
            driver_is(A10.replace("00.0", "00.4"), None),
        ),
    ),
)
