"""Section 13: devices opened by their own nodes, iommufd, and VFIO without an IOMMU."""

from __future__ import annotations

from tests.kernel.cases.terms import (
    DEVICES,
    FIRST_NIC,
    MDEVS,
    SECOND_NIC,
    UUID,
    Case,
    attach,
    bind,
    bind_iommufd,
    create,
    driver_is,
    override,
    probe,
    remove,
    to_vfio,
    unbind,
)
from tests.kernel.lab.layout import EDU, NIC, OUTSIDE, PCIE_NIC
from tests.kernel.lab.state import NOIOMMU_MODE
from tests.kernel.lab.vfio_user import NO_IOMMUFD
from tests.kernel.scenario import (
    Close,
    Do,
    Finish,
    Ioctl,
    Link,
    Listed,
    Names,
    Node,
    Open,
    OpenCdev,
    Step,
    Store,
    Text,
)

CDEVS = "/dev/vfio/devices"


def alloc(ioas: str, iommufd: str = "A") -> Do:
    """Allocate an IO address space."""
    return Do(Ioctl("IOAS_ALLOC", iommufd, ioas))


def destroy(ioas: str, iommufd: str = "A") -> Ioctl:
    """Destroy an IO address space."""
    return Ioctl("DESTROY", iommufd, ioas)


def case(name: str, *steps: Step) -> Case:
    """Make a case for the kernel that has all this."""
    return Case(name, steps, ("iommufd",))


ON_VFIO = to_vfio(NIC, "e1000")
OPENED = (*ON_VFIO, Do(OpenCdev(NIC)))
BOUND = (*OPENED, Do(bind_iommufd(NIC)))
ATTACHED = (*BOUND, alloc("x"), Do(attach(NIC, "x")))
TWINS = (
    *to_vfio(FIRST_NIC, "e1000"),
    *to_vfio(SECOND_NIC, "e1000"),
    Do(OpenCdev(FIRST_NIC)),
    Do(OpenCdev(SECOND_NIC)),
    Do(bind_iommufd(FIRST_NIC)),
)
"""Two functions of one group, one of them bound."""
TWINS_BOUND = (*TWINS, Do(bind_iommufd(SECOND_NIC)), alloc("x"), alloc("y"))
MDEV = (Do(create("mdpy", "mdpy-vga", UUID)), Do(OpenCdev(UUID)))
WITHOUT_IOMMU = (
    Do(Store(NOIOMMU_MODE, "1")),
    Do(override(OUTSIDE, "vfio-pci")),
    Do(bind("vfio-pci", OUTSIDE)),
)

CASES = (
    case("84-not-bound", *OPENED, alloc("x"), Do(attach(NIC, "x"), "ATTACH_IOMMUFD_PT EINVAL")),
    case("84-no-descriptor", *OPENED, Do(bind_iommufd(NIC, ""), "BIND_IOMMUFD EINVAL")),
    case("84-no-iommufd", *OPENED, Do(bind_iommufd(NIC, NO_IOMMUFD), "BIND_IOMMUFD EBADFD")),
    case("84-second-time", *BOUND, Do(bind_iommufd(NIC), "BIND_IOMMUFD EINVAL")),
    case(
        "84-second-descriptor",
        *BOUND,
        Do(OpenCdev(NIC)),
        Do(bind_iommufd(NIC), "BIND_IOMMUFD EINVAL"),
    ),
    case(
        "84-group-is-open",
        *OPENED,
        Do(Open(NIC, only_group=True)),
        Do(bind_iommufd(NIC), "BIND_IOMMUFD EBUSY"),
        Do(bind_iommufd(NIC, ""), "BIND_IOMMUFD EINVAL"),
        Do(bind_iommufd(NIC, NO_IOMMUFD), "BIND_IOMMUFD EBUSY"),
    ),
    case(
        "84-bound-keeps-the-group",
        *OPENED,
        Do(Open(NIC, only_group=True)),
        Do(Close()),
        Do(OpenCdev(NIC)),
        Do(bind_iommufd(NIC)),
        Do(Open(NIC, only_group=True), "open EBUSY"),
        Do(Open(NIC), "open EBUSY"),
        Do(Close()),
        Do(Open(NIC)),
    ),
    case("84-unknown-id", *BOUND, Do(attach(NIC, "none"), "ATTACH_IOMMUFD_PT ENOENT")),
    case("84-destroy-unknown", *BOUND, Do(destroy("none"), "DESTROY ENOENT")),
    case(
        "84-destroy-attached",
        *ATTACHED,
        Do(destroy("x"), "DESTROY EBUSY"),
        Do(Ioctl("DETACH_IOMMUFD_PT", NIC)),
        Do(destroy("x")),
        Do(attach(NIC, "x"), "ATTACH_IOMMUFD_PT ENOENT"),
        Do(Ioctl("DETACH_IOMMUFD_PT", NIC)),
    ),
    case(
        "84-attach-moves",
        *ATTACHED,
        alloc("y"),
        Do(attach(NIC, "y")),
        Do(destroy("x")),
        Do(destroy("y"), "DESTROY EBUSY"),
    ),
    case(
        "84-group-has-another-iommufd",
        *TWINS,
        Do(bind_iommufd(SECOND_NIC, "B"), "BIND_IOMMUFD EPERM"),
    ),
    case(
        "84-group-has-another-space",
        *TWINS_BOUND,
        Do(attach(FIRST_NIC, "x")),
        Do(attach(SECOND_NIC, "y"), "ATTACH_IOMMUFD_PT EINVAL"),
        Do(attach(SECOND_NIC, "x")),
        Do(destroy("y")),
    ),
    case(
        "84-group-moves-together",
        *TWINS_BOUND,
        Do(attach(FIRST_NIC, "x")),
        Do(attach(SECOND_NIC, "x")),
        Do(attach(FIRST_NIC, "y")),
        Do(destroy("x")),
        Do(destroy("y"), "DESTROY EBUSY"),
    ),
    case(
        "84-sibling-on-a-host-driver",
        *to_vfio(FIRST_NIC, "e1000"),
        Do(OpenCdev(FIRST_NIC)),
        Do(bind_iommufd(FIRST_NIC), "BIND_IOMMUFD EPERM"),
        Do(unbind("e1000", SECOND_NIC)),
        Do(bind_iommufd(FIRST_NIC)),
        Do(bind("e1000", SECOND_NIC), "write EBUSY"),
        Do(probe(SECOND_NIC), "write EINVAL"),
    ),
    case(
        "84-open-alone-owns-nothing",
        *to_vfio(FIRST_NIC, "e1000"),
        Do(unbind("e1000", SECOND_NIC)),
        Do(OpenCdev(FIRST_NIC)),
        Do(bind("e1000", SECOND_NIC)),
        driver_is(SECOND_NIC, "e1000"),
    ),
    case(
        "84-mdev",
        *MDEV,
        alloc("x"),
        Do(attach(UUID, "x"), "ATTACH_IOMMUFD_PT EINVAL"),
        Do(bind_iommufd(UUID)),
        Do(attach(UUID, "none"), "ATTACH_IOMMUFD_PT ENOENT"),
        Do(attach(UUID, "x")),
        Do(destroy("x"), "DESTROY EBUSY"),
        Do(Open(UUID), "open EBUSY"),
    ),
    case(
        "85-unbind-while-a-cdev-is-open",
        *OPENED,
        Do(unbind("vfio-pci", NIC), "blocks"),
        driver_is(NIC, None),
        Names(CDEVS, ()),
        Node(NIC, is_there=True),
        Do(OpenCdev(NIC), "open ENOENT"),
        Do(Close()),
        Do(Finish()),
        Names("/dev/vfio", ("vfio",)),
    ),
    case(
        "85-bind-to-iommufd-meanwhile",
        *to_vfio(PCIE_NIC, "e1000e"),
        Do(OpenCdev(PCIE_NIC)),
        Do(unbind("vfio-pci", PCIE_NIC), "blocks"),
        Do(bind_iommufd(PCIE_NIC), "BIND_IOMMUFD EAGAIN"),
        Do(Close()),
        Do(Finish()),
    ),
    case(
        "85-bind-to-iommufd-without-a-reset",
        *OPENED,
        Do(unbind("vfio-pci", NIC), "blocks"),
        Do(bind_iommufd(NIC)),
        Do(Open(NIC, only_group=True), "open EBUSY"),
    ),
    case("85-unbind-while-bound", *ATTACHED, Do(unbind("vfio-pci", NIC), "blocks")),
    case(
        "85-mdev",
        *MDEV,
        Do(remove(UUID), "blocks"),
        Names(CDEVS, ()),
        Do(bind_iommufd(UUID)),
        Do(Close()),
        Do(Finish()),
        Listed(MDEVS, UUID, is_there=False),
    ),
    case(
        "85-number-is-still-taken",
        *OPENED,
        Do(unbind("vfio-pci", NIC), "blocks"),
        *to_vfio(EDU, None),
        Names(CDEVS, ("vfio1",)),
    ),
    Case(
        "86-off",
        (
            Do(override(OUTSIDE, "vfio-pci")),
            Do(bind("vfio-pci", OUTSIDE), "write EINVAL"),
            Do(probe(OUTSIDE)),
            driver_is(OUTSIDE, None),
        ),
    ),
    case(
        "86-mode",
        Text(NOIOMMU_MODE, "N"),
        Do(Store(NOIOMMU_MODE, "on")),
        Text(NOIOMMU_MODE, "Y"),
        Do(Store(NOIOMMU_MODE, "garbage"), "write EINVAL"),
        Do(Store(NOIOMMU_MODE, "0")),
        Text(NOIOMMU_MODE, "N"),
    ),
    case(
        "86-nodes",
        *WITHOUT_IOMMU,
        driver_is(OUTSIDE, "vfio-pci"),
        Text(f"{DEVICES}/{OUTSIDE}/iommu_group/name", "vfio-noiommu"),
        Text(f"{DEVICES}/{OUTSIDE}/iommu_group/type", "unknown"),
        Node(OUTSIDE, is_there=True, noiommu=True),
        Node(OUTSIDE, is_there=False),
        Listed("/dev/vfio", "devices", is_there=False),
        Names(f"{DEVICES}/{OUTSIDE}/vfio-dev", ("vfio0",)),
        Text(f"{DEVICES}/{OUTSIDE}/vfio-dev/vfio0/dev", None),
        Do(unbind("vfio-pci", OUTSIDE)),
        Link(f"{DEVICES}/{OUTSIDE}/iommu_group", None),
        Names("/dev/vfio", ("vfio",)),
    ),
    case(
        "86-container",
        *WITHOUT_IOMMU,
        Do(Open(OUTSIDE), "SET_IOMMU ENODEV"),
        Do(Open(OUTSIDE, noiommu=True)),
        Do(unbind("vfio-pci", OUTSIDE), "blocks"),
        Do(Close()),
        Do(Finish()),
        Link(f"{DEVICES}/{OUTSIDE}/iommu_group", None),
    ),
    case(
        "86-container-of-the-other-type",
        *ON_VFIO,
        Do(Store(NOIOMMU_MODE, "1")),
        Do(Open(NIC, noiommu=True), "SET_IOMMU ENODEV"),
        Node(NIC, is_there=True),
    ),
    case(
        "86-mode-ends",
        *WITHOUT_IOMMU,
        Do(Store(NOIOMMU_MODE, "0")),
        driver_is(OUTSIDE, "vfio-pci"),
        Do(unbind("vfio-pci", OUTSIDE)),
        Do(bind("vfio-pci", OUTSIDE), "write EINVAL"),
    ),
    case(
        "87-nodes",
        Names("/dev/vfio", ("vfio",)),
        Listed("/dev", "iommu", is_there=True),
        *to_vfio(EDU, None),
        Node(EDU, is_there=True),
        Names(CDEVS, ("vfio0",)),
        Do(create("mtty", "mtty-1", UUID)),
        Names(CDEVS, ("vfio0", "vfio1")),
        Listed(f"{MDEVS}/{UUID}/vfio-dev/vfio1", "dev", is_there=True),
        Do(unbind("vfio-pci", EDU)),
        Names(CDEVS, ("vfio1",)),
        Do(bind("vfio-pci", EDU)),
        Names(f"{DEVICES}/{EDU}/vfio-dev", ("vfio0",)),
    ),
    Case(
        "87-without-iommufd",
        (
            *ON_VFIO,
            Listed("/dev", "iommu", is_there=False),
            Listed("/dev/vfio", "devices", is_there=False),
            Names(f"{DEVICES}/{NIC}/vfio-dev", ("vfio0",)),
            Text(f"{DEVICES}/{NIC}/vfio-dev/vfio0/dev", None),
        ),
        ("6.12", "6.1"),
    ),
)
