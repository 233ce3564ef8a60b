"""Recording mediated devices, their parents and what these offer."""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING, Literal

import attrs

from vfiohost.model import sorted_naturally
from vfiohost.record.reading import link_name, names_in, number_of, target_of, text_of
from vfiohost.recording import Mdev, MdevTable, MdevTableType, VirtualParent

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from vfiohost.sysfs import Sysfs

_DEVICES = "sys/bus/mdev/devices"
_PARENTS = "sys/class/mdev_bus"


@attrs.frozen
class Parent:
    """A parent of mediated devices and the types that it offers.

    Attributes:
        name: as in ``class/mdev_bus``.
        path: relative to the root.
        driver: the driver that offers the types.
        device_api, types: what it offers.
        is_vf: whether it is a virtual function.
    """

    name: str
    path: str
    driver: str
    device_api: str
    types: tuple[MdevTableType, ...]
    is_vf: bool


def read_parents(sysfs: Sysfs) -> list[Parent]:
    """The parents, by name."""
    parents = []
    for name in sorted_naturally(names_in(sysfs, _PARENTS)):
        path = target_of(sysfs, f"{_PARENTS}/{name}")
        if path is None or not path.startswith("sys/devices/"):
            continue
        directory = f"{path}/mdev_supported_types"
        types = sorted_naturally(names_in(sysfs, directory))
        if types:
            parents.append(
                Parent(
                    name=name,
                    path=path,
                    # mdev_type_add() in mdev_sysfs.c names a type after the driver of its parent.
                    driver=link_name(sysfs, f"{path}/driver") or types[0].partition("-")[0],
                    device_api=text_of(sysfs, f"{directory}/{types[0]}/device_api") or "",
                    types=tuple(_read_type(sysfs, f"{directory}/{each}") for each in types),
                    is_vf=link_name(sysfs, f"{path}/physfn") is not None,
                )
            )
    return parents


def _read_type(sysfs: Sysfs, directory: str) -> MdevTableType:
    description = text_of(sysfs, f"{directory}/description")
    most = re.search(r"max_instance=([0-9]{1,9})\b", description or "")
    left = number_of(text_of(sysfs, f"{directory}/available_instances")) or 0
    return MdevTableType(
        type_id=posixpath.basename(directory),
        name=text_of(sysfs, f"{directory}/name"),
        max_instances=int(most[1]) if most else left + len(names_in(sysfs, f"{directory}/devices")),
        description=description,
    )


class Tables:
    """One table for all the parents that offer the same.

    Attributes:
        tables: in order of the parents.
        names: by path of the parent, the name of its table.
    """

    def __init__(self, parents: Iterable[Parent]) -> None:
        self.tables: list[MdevTable] = []
        self.names: dict[str, str] = {}
        for parent in parents:
            table = _table(parent)
            known = next((t for t in self.tables if attrs.evolve(table, name=t.name) == t), None)
            if known is None:
                same = sum(t.driver == table.driver for t in self.tables)
                known = attrs.evolve(table, name=f"{table.name}-{same + 1}") if same else table
                self.tables.append(known)
            self.names[parent.path] = known.name

    def virtual_parents(self, functions: Iterable[str]) -> Iterator[VirtualParent]:
        """The parents that are none of the functions, whose directories are given."""
        known = set(functions)
        for path, table in self.names.items():
            if path not in known:
                yield VirtualParent(path.removeprefix("sys/devices/"), table)


def _table(parent: Parent) -> MdevTable:
    """What sysfs does not show of how the types share is what is known of the drivers."""
    exhausted: Literal["ENOSPC", "EUSERS"] = "ENOSPC" if parent.driver == "mtty" else "EUSERS"
    return MdevTable(
        name=parent.driver,
        driver=parent.driver,
        device_api=parent.device_api,
        types=parent.types,
        scope="physfn" if parent.is_vf else "parent",
        homogeneous=parent.driver == "nvidia",
        per_parent=1 if parent.is_vf else None,
        exhausted=exhausted,
    )


def read_mdevs(sysfs: Sysfs) -> Iterator[Mdev]:
    """The mediated devices, by UUID. One without a type, being removed, is left out."""
    for uuid in names_in(sysfs, _DEVICES):
        path = target_of(sysfs, f"{_DEVICES}/{uuid}")
        type_id = link_name(sysfs, f"{path}/mdev_type")
        if path is None or type_id is None:
            continue
        yield Mdev(
            uuid=uuid,
            parent=posixpath.basename(posixpath.dirname(path)),
            type_id=type_id,
            driver=link_name(sysfs, f"{path}/driver"),
            iommu_group=number_of(link_name(sysfs, f"{path}/iommu_group")),
        )
