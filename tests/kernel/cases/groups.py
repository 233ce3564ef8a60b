"""Section 8: VFIO groups."""

from __future__ import annotations

from tests.kernel.cases.terms import (
    DEVICES,
    DRIVERS,
    FIRST_NIC,
    MDEVS,
    SECOND_NIC,
    UUID,
    Case,
    bind,
    create,
    driver_is,
    override,
    probe,
    to_vfio,
    unbind,
)
from tests.kernel.lab.layout import EDU, NIC
from tests.kernel.scenario import (
    Close,
    Do,
    Finish,
    GetDevice,
    Listed,
    Names,
    Node,
    Open,
    Store,
    Text,
)

TYPE = f"{DEVICES}/{NIC}/iommu_group/type"
NEW_KERNELS = ("6.12", "iommufd")
UEVENT = """\
DRIVER=vfio-pci
PCI_CLASS=20000
PCI_ID=8086:100E
PCI_SUBSYS_ID=1AF4:1100
PCI_SLOT_NAME=0000:00:08.0
MODALIAS=pci:v00008086d0000100Esv00001AF4sd00001100bc02sc00i00"""

STUCK = (*to_vfio(NIC, "e1000"), Do(Open(NIC)), Do(unbind("vfio-pci", NIC), "blocks"))
"""An unbind that waits for the device to be closed."""

CASES = (
    Case(
        "53-sibling-on-a-host-driver",
        (
            *to_vfio(FIRST_NIC, "e1000"),
            Do(Open(FIRST_NIC), "SET_CONTAINER EPERM"),
            Do(unbind("e1000", SECOND_NIC)),
            Do(Open(FIRST_NIC)),
        ),
    ),
    Case(
        "53-sibling-on-pci-stub",
        (
            *to_vfio(FIRST_NIC, "e1000"),
            Do(unbind("e1000", SECOND_NIC)),
            Do(override(SECOND_NIC, "pci-stub")),
            Do(bind("pci-stub", SECOND_NIC)),
            driver_is(SECOND_NIC, "pci-stub"),
            Do(Open(FIRST_NIC)),
        ),
    ),
    Case(
        "53-sibling-on-vfio",
        (
            *to_vfio(FIRST_NIC, "e1000"),
            *to_vfio(SECOND_NIC, "e1000"),
            Do(Open(FIRST_NIC)),
            Do(Open(SECOND_NIC), "open EBUSY"),
            Do(GetDevice(SECOND_NIC)),
        ),
    ),
    Case(
        "54-second-open",
        (
            *to_vfio(NIC, "e1000"),
            Do(Open(NIC, only_group=True)),
            Do(Open(NIC, only_group=True), "open EBUSY"),
            Do(Close()),
            Do(Open(NIC)),
            Do(Open(NIC, only_group=True), "open EBUSY"),
        ),
    ),
    Case(
        "55-no-container",
        (
            *to_vfio(NIC, "e1000"),
            Do(Open(NIC, only_group=True)),
            Do(GetDevice(NIC), "GET_DEVICE_FD EINVAL"),
        ),
    ),
    Case(
        "55-unbound",
        (
            *to_vfio(FIRST_NIC, "e1000"),
            Do(unbind("e1000", SECOND_NIC)),
            Do(Open(SECOND_NIC), "GET_DEVICE_FD ENODEV"),
            Do(Open(FIRST_NIC)),
            Do(GetDevice(SECOND_NIC), "GET_DEVICE_FD ENODEV"),
        ),
    ),
    Case("55-no-node", (Do(Open(NIC), "open ENOENT"),)),
    Case(
        "56-sibling-joins-while-open",
        (
            *to_vfio(FIRST_NIC, "e1000"),
            Do(unbind("e1000", SECOND_NIC)),
            Do(Open(FIRST_NIC)),
            *to_vfio(SECOND_NIC, None),
            driver_is(SECOND_NIC, "vfio-pci"),
            Do(GetDevice(SECOND_NIC)),
        ),
    ),
    Case(
        "58-node-of-the-group",
        (
            *to_vfio(FIRST_NIC, "e1000"),
            *to_vfio(SECOND_NIC, "e1000"),
            Do(unbind("vfio-pci", FIRST_NIC)),
            Node(FIRST_NIC, is_there=True),
            Do(unbind("vfio-pci", SECOND_NIC)),
            Names("/dev/vfio", ("vfio",)),
        ),
    ),
    Case(
        "59-unbind-while-open",
        (
            *STUCK,
            driver_is(NIC, None),
            Listed(f"{DRIVERS}/vfio-pci", NIC, is_there=False),
            Node(NIC, is_there=True),
            Do(probe(NIC)),
            driver_is(NIC, None),
            Do(Close()),
            Do(Finish()),
            Node(NIC, is_there=False),
            Names("/dev/vfio", ("vfio",)),
        ),
    ),
    Case(
        "59-opened-again",
        (
            *STUCK,
            Do(GetDevice(NIC), "GET_DEVICE_FD ENODEV"),
            Names(f"{DEVICES}/{NIC}/vfio-dev", ()),
        ),
        NEW_KERNELS,
    ),
    Case(
        "59-opened-again-on-old-kernels",  # which take a device from its group at the end
        (
            *STUCK,
            Do(GetDevice(NIC)),
            Names(f"{DEVICES}/{NIC}/vfio-dev", ("vfio0",)),
            Do(Close()),
            Do(Finish()),
            Names(f"{DEVICES}/{NIC}/vfio-dev", ()),
        ),
        ("6.1",),
    ),
    Case("59-second-unbind", (*STUCK, Do(unbind("vfio-pci", NIC), "blocks"))),
    Case(
        "59-bind-meanwhile",
        (
            *STUCK,
            Do(bind("vfio-pci", NIC), "blocks"),
            Do(Close()),
            Do(Finish()),
            driver_is(NIC, "vfio-pci"),
            Node(NIC, is_there=True),
        ),
    ),
    Case("59-uevent", (*STUCK, Text(f"{DEVICES}/{NIC}/uevent", UEVENT)), NEW_KERNELS),
    Case("59-override", (*STUCK, Do(override(NIC, "\n")), driver_is(NIC, None)), NEW_KERNELS),
    Case(
        "59-override-on-old-kernels",
        (*STUCK, Do(override(NIC, "\n"), "blocks"), Do(Close()), Do(Finish())),
        ("6.1",),
    ),
    Case(
        "59-number-is-still-taken",
        (*STUCK, *to_vfio(EDU, None), Names(f"{DEVICES}/{EDU}/vfio-dev", ("vfio1",))),
    ),
    Case(
        "60-group-alone",
        (
            *to_vfio(NIC, "e1000"),
            Do(Open(NIC, only_group=True)),
            Do(unbind("vfio-pci", NIC)),
            Node(NIC, is_there=False),
            Do(GetDevice(NIC), "GET_DEVICE_FD ENODEV"),
            Do(bind("vfio-pci", NIC)),
            Node(NIC, is_there=True),
            Do(Open(NIC)),
        ),
    ),
    Case(
        "61-type",
        (
            Do(Store(TYPE, "bogus"), "write EINVAL"),
            Do(Store(TYPE, "identity"), "write EPERM"),
            Do(unbind("e1000", NIC)),
            Do(Store(TYPE, "DMA")),
            Text(TYPE, "DMA"),
            Do(Store(TYPE, "identity\n")),
            Text(TYPE, "identity"),
            *to_vfio(NIC, None),
            Do(Store(TYPE, "auto")),
            Do(Open(NIC)),
            Do(Store(TYPE, "auto"), "write EPERM"),
        ),
        NEW_KERNELS,
    ),
    Case(
        "61-type-on-old-kernels",  # which look at drivers instead of owners, in groups of one
        (
            Do(Store(TYPE, "bogus"), "write EINVAL"),
            Do(Store(TYPE, "identity"), "write EBUSY"),
            *to_vfio(NIC, "e1000"),
            Do(Store(TYPE, "identity"), "write EBUSY"),
            Do(unbind("vfio-pci", NIC)),
            Do(Store(TYPE, "DMA")),
            Text(TYPE, "DMA"),
            Do(Store(TYPE, "auto")),
            Do(unbind("e1000", FIRST_NIC)),
            Do(unbind("e1000", SECOND_NIC)),
            Do(Store(f"{DEVICES}/{FIRST_NIC}/iommu_group/type", "auto"), "write EINVAL"),
        ),
        ("6.1",),
    ),
    Case(
        "62-mdev",
        (
            Do(create("mtty", "mtty-1", UUID)),
            Text(f"{MDEVS}/{UUID}/iommu_group/type", "unknown"),
            Text(f"{MDEVS}/{UUID}/iommu_group/name", "vfio-noiommu"),
            Do(Store(f"{MDEVS}/{UUID}/iommu_group/type", "identity"), "write EINVAL"),
            Node(UUID, is_there=True),
            Node(UUID, is_there=False, noiommu=True),
        ),
    ),
)
