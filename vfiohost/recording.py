"""A recorded host as one reviewable text file: the values, the parser and the formatter.

Pure: text in, values out, and back without loss. ``vfiohost.record`` makes a recording of a host,
``vfiohost.testing`` expands one into a directory and answers stores on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import attrs

from vfiohost.model import PciAddress


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
        name: with underscores (``vfio_pci``).
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


@attrs.frozen
class Recording:
    """A recorded host.

    Attributes:
        title: one line that says what is special.
        source: ``recorded from …`` or ``composed from documented facts: …``.
        kernel: the kernel release, or ``None`` when unknown.
        functions: in order of address.
        modules: by name.
        groups: by number.
        mdev_tables, virtual_parents, mdevs: the mediated device world.
        files: everything else, by path.
    """

    title: str
    source: str
    kernel: str | None = None
    functions: tuple[Function, ...] = ()
    modules: tuple[Module, ...] = ()
    groups: tuple[Group, ...] = ()
    mdev_tables: tuple[MdevTable, ...] = ()
    virtual_parents: tuple[VirtualParent, ...] = ()
    mdevs: tuple[Mdev, ...] = ()
    files: tuple[File, ...] = ()
