"""A recorded host as values."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Literal

import attrs

from vfiohost.model import PciAddress

if TYPE_CHECKING:
    from collections.abc import Mapping


@attrs.frozen
class Attribute:
    """A file below a device's directory.

    Attributes:
        content: what a read gives, byte for byte; or a positive errno when the read failed.
        mode: permission bits, or ``None`` for the kernel's usual mode of that attribute.
    """

    content: bytes | int
    mode: int | None = None


@attrs.frozen
class Function:
    """One PCI function of the recorded host.

    The links that follow from these fields are made on expansion and left out of the text: the
    entry in ``bus/pci/devices``, ``subsystem``, ``driver`` and its back link, ``iommu_group`` and
    its back link, ``physfn`` and ``virtfnN``.

    Attributes:
        path: its directory relative to ``sys/devices`` (``pci0000:64/0000:64:00.0/0000:65:00.0``).
        driver: the driver that is bound, or ``None``.
        iommu_group: its group, or ``None``.
        physfn: the physical function, when it is a virtual function.
        vf_index: N of the physical function's ``virtfnN`` link, when it is a virtual function.
        attributes: the files in its directory, by name (``power/control`` for one level down).
        mdev_table: name of the :class:`MdevTable` that its driver offers on it, or ``None``.
    """

    path: str
    driver: str | None = None
    iommu_group: int | None = None
    physfn: PciAddress | None = None
    vf_index: int | None = None
    attributes: Mapping[str, Attribute] = attrs.field(factory=dict)
    mdev_table: str | None = None

    @property
    def address(self) -> PciAddress:
        """Its address: the last component of the path."""
        return PciAddress.parse(self.path.rsplit("/", 1)[-1])


def modalias_text(attributes: Mapping[str, Attribute]) -> bytes | None:
    """The ``modalias`` that Linux gives a function with these ids and this class.

    Args:
        attributes: those of the function; ``vendor``, ``device``, ``subsystem_vendor``,
            ``subsystem_device`` and ``class`` are looked at.

    Returns:
        The text with its newline, or ``None`` when one of the five is missing or no number.
        Form: ``modalias_show`` in ``drivers/pci/pci-sysfs.c``.
    """
    ids = _ids(attributes)
    return None if ids is None else f"{_modalias(*ids)}\n".encode()


def uevent_text(
    address: str, driver: str | None, attributes: Mapping[str, Attribute]
) -> bytes | None:
    """The ``uevent`` that Linux gives a function (``pci_uevent`` in ``drivers/pci/pci-driver.c``).

    Args:
        address: the function's address as it stands in its path.
        driver: the driver that is bound, or ``None``.
        attributes: as for :func:`modalias_text`.

    Returns:
        The lines, or ``None`` where :func:`modalias_text` gives ``None``.
    """
    ids = _ids(attributes)
    if ids is None:
        return None
    vendor, device, subvendor, subdevice, class_code = ids
    bound = f"DRIVER={driver}\n" if driver is not None else ""
    return (
        f"{bound}PCI_CLASS={class_code:04X}\nPCI_ID={vendor:04X}:{device:04X}\n"
        f"PCI_SUBSYS_ID={subvendor:04X}:{subdevice:04X}\nPCI_SLOT_NAME={address}\n"
        f"MODALIAS={_modalias(*ids)}\n"
    ).encode("utf-8", "surrogateescape")


def _modalias(vendor: int, device: int, subvendor: int, subdevice: int, class_code: int) -> str:
    base, sub, interface = class_code.to_bytes(3)
    return (
        f"pci:v{vendor:08X}d{device:08X}sv{subvendor:08X}sd{subdevice:08X}"
        f"bc{base:02X}sc{sub:02X}i{interface:02X}"
    )


def _ids(attributes: Mapping[str, Attribute]) -> tuple[int, int, int, int, int] | None:
    names = ("vendor", "device", "subsystem_vendor", "subsystem_device", "class")
    contents = [attributes[name].content for name in names if name in attributes]
    found = [
        int(content, 16)
        for content in contents
        if isinstance(content, bytes) and _ID.fullmatch(content)
    ]
    if len(found) != len(names):
        return None
    vendor, device, subvendor, subdevice, class_code = found
    return (vendor, device, subvendor, subdevice, class_code)


_ID = re.compile(rb"0x[0-9a-f]{1,6}\n")


ModuleState = Literal["loaded", "loadable", "builtin"]


@attrs.frozen
class PciDriver:
    """A PCI driver that a module brings.

    Attributes:
        name: as in ``bus/pci/drivers`` (``xhci_hcd``).
        matches: modalias patterns of its id table (``pci:v000010DEd*sv*sd*bc03sc02i*``), in order.
        sriov: whether it has a ``sriov_configure`` that takes a store to ``sriov_numvfs``.
    """

    name: str
    matches: tuple[str, ...] = ()
    sriov: bool = False


@attrs.frozen
class Module:
    """A kernel module of the recorded host.

    Attributes:
        name: with underscores (``vfio_pci``); a built-in driver whose module cannot be seen
            stands under its own name.
        state: ``loaded``, ``loadable`` (under ``lib/modules``) or ``builtin``.
        drivers: the PCI drivers that it registers; a module may have none (``vfio``).
        depends: modules that are loaded before it.
        aliases: its lines of ``modules.alias``, the patterns only, in order. Besides ``pci:``
            these are the ``vfio_pci:`` patterns of the VFIO variant drivers.
    """

    name: str
    state: ModuleState = "loaded"
    drivers: tuple[PciDriver, ...] = ()
    depends: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()


@attrs.frozen
class Group:
    """An IOMMU group's own files; its members name it.

    Attributes:
        number: as in ``kernel/iommu_groups``.
        attributes: ``type``, ``reserved_regions``, ``name`` where it exists.
    """

    number: int
    attributes: Mapping[str, Attribute] = attrs.field(factory=dict)


@attrs.frozen
class MdevTableType:
    """One type of a table.

    Attributes:
        type_id: the directory name (``nvidia-595``).
        name: text of ``name``, or ``None`` when the driver gives none.
        max_instances: how many of it alone fit in the table's scope.
        description: text of ``description``, or ``None``.
    """

    type_id: str
    name: str | None
    max_instances: int
    description: str | None = None


@attrs.frozen
class MdevTable:
    """The mediated device types that a driver offers, and how they share what there is.

    Attributes:
        name: under which functions and parents refer to it.
        driver: the driver that offers it when bound (``nvidia``).
        device_api: text of ``device_api``.
        types: in the kernel's order.
        scope: ``parent``: the types of one parent share its capacity; ``physfn``: those of all
            virtual functions of a physical function do.
        homogeneous: once one type is in use in the scope, the others have 0 available.
        per_parent: the most devices that one parent can have, or ``None``.
        exhausted: errno name that ``create`` gives when nothing is left (``EUSERS``, ``ENOSPC``).
    """

    name: str
    driver: str
    device_api: str
    types: tuple[MdevTableType, ...]
    scope: Literal["parent", "physfn"] = "parent"
    homogeneous: bool = False
    per_parent: int | None = None
    exhausted: Literal["EUSERS", "ENOSPC"] = "EUSERS"

    def available(self, type_id: str, in_scope: Mapping[str, int], on_parent: int) -> int:
        """Say how many more devices of a type a parent can make: ``available_instances``.

        Args:
            type_id: one of the table's types.
            in_scope: how many devices of each type exist in the scope (see ``scope``).
            on_parent: how many devices the parent itself has.

        Raises:
            KeyError: the table has no such type, or none of one that is in use.
        """
        sizes = {each.type_id: each.max_instances for each in self.types}
        size = sizes[type_id]
        in_use = {used: count for used, count in in_scope.items() if count}
        if self.homogeneous and in_use.keys() - {type_id}:
            return 0
        if any(not sizes[used] for used in in_use):
            return 0  # more than all is taken
        whole = math.lcm(*(sizes[used] for used in in_use))
        taken = sum(count * whole // sizes[used] for used, count in in_use.items())
        left = max(0, (whole - taken) * size // whole)
        if self.per_parent is not None:
            left = min(left, max(0, self.per_parent - on_parent))
        return left


@attrs.frozen
class VirtualParent:
    """A parent of mediated devices that is no PCI function (``/sys/devices/virtual/mtty/mtty``).

    Attributes:
        path: relative to ``sys/devices`` (``virtual/mtty/mtty``); its last component is its name.
        mdev_table: name of its table.
    """

    path: str
    mdev_table: str


@attrs.frozen
class Mdev:
    """A mediated device that exists on the recorded host.

    Attributes:
        uuid: in lower case.
        parent: name of its parent.
        type_id: its type.
        driver: the driver on the mdev bus, or ``None``.
        iommu_group: its group, or ``None``.
        attributes: the files in its directory, by name.
    """

    uuid: str
    parent: str
    type_id: str
    driver: str | None = None
    iommu_group: int | None = None
    attributes: Mapping[str, Attribute] = attrs.field(factory=dict)


@attrs.frozen
class File:
    """Anything else below the root: parts of ``proc``, ``dev``, ``etc``, ``usr``, other ``sys``.

    Attributes:
        path: relative to the root.
        content: bytes of a file, text of a symbolic link's target, or ``None`` for a directory.
        mode: permission bits, or ``None`` for 0644 (files) and 0755 (directories).
    """

    path: str
    content: bytes | str | None
    mode: int | None = None


Part = Literal["controls", "driver-links", "drivers", "groups", "subsystem"]
"""A part of a tree that follows from the rest, and that a partial recording may lack as a whole:

- ``controls``: the files to write to (``bus/pci/drivers_probe``, ``bus/pci/drivers/D/bind`` …);
- ``driver-links``: the links in ``bus/pci/drivers/D`` to the functions and the module;
- ``drivers``: the directory ``bus/pci/drivers``;
- ``groups``: the directory ``kernel/iommu_groups``;
- ``subsystem``: the ``subsystem`` link of every function.
"""


@attrs.frozen
class Recording:
    """A recorded host.

    Attributes:
        title: one line that says what is special.
        source: ``recorded from …`` or ``composed from documented facts: …``.
        notes: further remarks for the reader.
        kernel: the kernel release, or ``None`` when unknown.
        lacks: what a complete host has and this recording's tree does not have.
        functions: in order of address.
        modules: in the order of ``modules.alias``: it decides which module comes first.
        groups: by number.
        mdev_tables, virtual_parents, mdevs: the mediated device world.
        files: everything else, by path.
    """

    title: str
    source: str
    notes: tuple[str, ...] = ()
    kernel: str | None = None
    lacks: frozenset[Part] = frozenset()
    functions: tuple[Function, ...] = ()
    modules: tuple[Module, ...] = ()
    groups: tuple[Group, ...] = ()
    mdev_tables: tuple[MdevTable, ...] = ()
    virtual_parents: tuple[VirtualParent, ...] = ()
    mdevs: tuple[Mdev, ...] = ()
    files: tuple[File, ...] = ()
