"""What the cases are made of: stores and facts by the names of what they are about."""

from __future__ import annotations

import attrs

from tests.kernel.lab.flavours import FLAVOURS
from tests.kernel.lab.layout import (
    NIC,
    NVME,
    TWIN_NICS,
)
from tests.kernel.scenario import (
    Do,
    Ioctl,
    Link,
    Listed,
    Step,
    Store,
    Text,
)

DEVICES = "/sys/bus/pci/devices"
DRIVERS = "/sys/bus/pci/drivers"
MDEVS = "/sys/bus/mdev/devices"
PARENTS = "/sys/class/mdev_bus"
MAKES_VFS = Store("/sys/module/nvidia/parameters/sriov", "1")
"""Have the stand-in for NVIDIA's driver take a plain store to ``sriov_numvfs``."""
UUIDS = tuple(f"3d1d9e1a-4b6f-4c59-a8a0-6f4dbe0c7f{number:02x}" for number in range(32))
UUID = UUIDS[0]
FIRST_NIC, SECOND_NIC = TWIN_NICS


@attrs.frozen
class Case:
    """A scenario for one entry of the list.

    Attributes:
        name: the entry's number and what is shown.
        steps: the scenario.
        flavours: the kernels it is about, when not all.
    """

    name: str
    steps: tuple[Step, ...]
    flavours: tuple[str, ...] = FLAVOURS


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


def numvfs(count: int | str, address: str = NVME) -> Store:
    """Enable VFs, of the disk or another PF."""
    return Store(f"{DEVICES}/{address}/sriov_numvfs", str(count))


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


def bind_iommufd(subject: str, iommufd: str = "A") -> Ioctl:
    """Bind a cdev to an iommufd."""
    return Ioctl("BIND_IOMMUFD", subject, iommufd)


def attach(subject: str, ioas: str) -> Ioctl:
    """Attach a cdev to an IO address space."""
    return Ioctl("ATTACH_IOMMUFD_PT", subject, ioas)


def mdev_is(uuid: str, *, there: bool = True) -> Listed:
    """Whether a mediated device must exist."""
    return Listed(MDEVS, uuid, there)


def left_is(parent: str, type_id: str, count: int) -> Text:
    """How many more devices of a type a parent must offer."""
    path = f"{PARENTS}/{parent}/mdev_supported_types/{type_id}/available_instances"
    return Text(path, str(count))


FREE_NIC = Do(unbind("e1000", NIC))
