"""Recording -> directory: the tree that the recorded host would show."""

from __future__ import annotations

import posixpath
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Protocol

import attrs

from vfiohost.errors import ParseError
from vfiohost.model import is_vfio_driver
from vfiohost.recording import Attribute
from vfiohost.recording.modes import usual_mode
from vfiohost.testing.directory import NewDirectory

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping

    from vfiohost.recording import (
        File,
        Function,
        Mdev,
        MdevTable,
        Module,
        Part,
        Recording,
    )

# Any fixed boot will do: journals only compare it.
BOOT_ID = "c0ffee00-5eed-4b00-8a10-000000000001"

_PCI = "sys/bus/pci"
_MDEV = "sys/bus/mdev"
_READ_BITS = 0o444


def expand(recording: Recording, directory: str | os.PathLike[str]) -> None:
    """Make the directory tree of a recorded host.

    What follows from the recording's values is made with it: the bus's links and control files,
    ``driver``, ``iommu_group`` and ``physfn`` with their back links, modules with
    ``lib/modules/RELEASE``, the mediated device types, placeholders in ``dev/vfio``; except the
    parts that the recording ``lacks``. A path that ``recording.files`` names stays as it is there.

    A file that could not be read when it was recorded becomes an empty one without read permission.

    Args:
        recording: the host.
        directory: a new or empty directory.

    Raises:
        ParseError: a path of the recording leads out of the directory, through a link, or twice to
            the same place; or a name is none.
        UnsupportedError: the directory is not empty.
        OSError: the directory cannot be made or written.
    """
    with NewDirectory(directory) as tree:
        _Expansion(recording, tree).run()


class NewTree(Protocol):
    """What a host is expanded into: a new directory, or the tree of one that there is."""

    def __contains__(self, path: str) -> bool:
        """Whether something stands at a path."""

    def directory(self, path: str, mode: int | None = None) -> None:
        """Make a directory and those above it."""

    def file(self, path: str, content: bytes, mode: int = 0o644) -> None:
        """Make a regular file."""

    def link(self, path: str, target: str) -> None:
        """Make a symbolic link with this text."""

    def link_to(self, path: str, target: str) -> None:
        """Make a symbolic link to another path of the tree."""


def expand_function(recording: Recording, function: Function, tree: NewTree) -> None:
    """Make the directory of one function of a host, with its links and control files.

    Args:
        recording: the host, for the rest that concerns the function.
        function: what the directory is to show.
        tree: where it is made.
    """
    _Expansion(recording, tree).one_function(function)


@attrs.frozen
class _Parent:
    """A parent that offers mdev types.

    Attributes:
        name: as in ``class/mdev_bus``.
        path: its directory.
        table: what it offers.
        card: its physical function, when it is a virtual one; else itself.
    """

    name: str
    path: str
    table: MdevTable
    card: str

    @property
    def scope(self) -> tuple[str, str]:
        """What is equal for the parents that share what there is."""
        return (self.table.name, self.card if self.table.scope == "physfn" else self.name)


class _Expansion:
    """One run of :func:`expand`."""

    def __init__(self, recording: Recording, tree: NewTree) -> None:
        self.recording = recording
        self.tree = tree
        self.recorded = {file.path for file in recording.files}
        self.tables = {table.name: table for table in recording.mdev_tables}
        self.paths = {f.address: f.path for f in recording.functions}
        # Groups of functions without an IOMMU; those of mediated devices have this name, too.
        self.noiommu = {
            group.number
            for group in recording.groups
            if group.attributes.get("name", Attribute(b"")).content == b"vfio-noiommu\n"
        }
        self.members: dict[int, list[str]] = defaultdict(list)
        self.offering = {parent.name: parent for parent in self._parents()}

    def run(self) -> None:
        for file in self.recording.files:
            self._recorded(file)
        self._proc()
        self._modules()
        self._bus()
        for module in self.recording.modules:
            if module.state != "loadable":
                self._drivers(module)
        for function in self.recording.functions:
            self._function(function)
        self._mdev_bus()
        self._groups()

    def one_function(self, function: Function) -> None:
        directory = f"sys/devices/{function.path}"
        for file in self.recording.files:
            # Links lead to others, and what lies deeper is made by a driver.
            if posixpath.dirname(file.path) == directory and isinstance(file.content, bytes):
                self._recorded(file)
        self._function(function)

    # -- what the values of the recording say directly

    def _recorded(self, file: File) -> None:
        if file.content is None:
            self.tree.directory(file.path, file.mode)
        elif isinstance(file.content, str):
            self.tree.link(file.path, file.content)
        else:
            self.tree.file(file.path, file.content, 0o644 if file.mode is None else file.mode)

    def _file(self, path: str, content: bytes | str, mode: int | None = None) -> None:
        if path not in self.recorded:
            data = content if isinstance(content, bytes) else _bytes(f"{content}\n")
            name = posixpath.basename(path)
            self.tree.file(path, data, usual_mode(name) if mode is None else mode)

    def _link(self, path: str, target: str) -> None:
        if path not in self.recorded:
            self.tree.link_to(path, target)

    def _directory(self, path: str) -> None:
        if path not in self.recorded:
            self.tree.directory(path)

    def _attributes(self, directory: str, attributes: Mapping[str, Attribute]) -> None:
        for name, attribute in attributes.items():
            mode = usual_mode(name) if attribute.mode is None else attribute.mode
            if isinstance(attribute.content, int):
                self._file(f"{directory}/{name}", b"", mode & ~_READ_BITS)
            else:
                self._file(f"{directory}/{name}", attribute.content, mode)

    def _has(self, part: Part) -> bool:
        return part not in self.recording.lacks

    # -- proc, modules and drivers

    def _proc(self) -> None:
        if self.recording.kernel is not None:
            self._file("proc/sys/kernel/osrelease", self.recording.kernel)
        self._file("proc/sys/kernel/random/boot_id", BOOT_ID)

    def _modules(self) -> None:
        modules = self.recording.modules
        loaded = [module for module in modules if module.state == "loaded"]
        for module in loaded:
            directory = f"sys/module/{_name(module.name)}"
            users = [user.name for user in loaded if module.name in user.depends]
            self._directory(f"{directory}/holders")
            for user in users:
                self._link(f"{directory}/holders/{_name(user)}", f"sys/module/{user}")
            self._file(f"{directory}/initstate", "live")
            self._file(f"{directory}/refcnt", str(len(users)))
        if self.recording.kernel is not None and modules:
            self._module_index(f"lib/modules/{_name(self.recording.kernel)}")

    def _module_index(self, directory: str) -> None:
        """What ``depmod`` makes: names and paths as ``modprobe`` and ``lspci`` read them."""
        dep, alias, builtin = [], ["# Aliases extracted from modules themselves.\n"], []
        for module in self.recording.modules:
            path = f"kernel/{module.name}.ko"
            if module.state == "builtin":
                builtin.append(f"{path}\n")
                continue
            needs = "".join(f" kernel/{name}.ko" for name in module.depends)
            dep.append(f"{path}:{needs}\n")
            alias += [f"alias {pattern} {module.name}\n" for pattern in module.aliases]
        for name, lines in (("dep", dep), ("alias", alias), ("builtin", builtin)):
            self._file(f"{directory}/modules.{name}", _bytes("".join(lines)), 0o644)

    def _bus(self) -> None:
        self._directory(f"{_PCI}/devices")
        if self._has("drivers"):
            self._directory(f"{_PCI}/drivers")
        if self._has("controls"):
            self._file(f"{_PCI}/drivers_autoprobe", "1")
            for name in ("drivers_probe", "rescan"):
                self._file(f"{_PCI}/{name}", b"")

    def _drivers(self, module: Module) -> None:
        if not self._has("drivers"):
            return
        for driver in module.drivers:
            directory = f"{_PCI}/drivers/{_name(driver.name)}"
            self._driver_directory(directory, ("bind", "new_id", "remove_id", "unbind"))
            if module.state == "loaded" and self._has("driver-links"):
                self._link(f"{directory}/module", f"sys/module/{module.name}")
                self._link(f"sys/module/{module.name}/drivers/pci:{driver.name}", directory)

    def _driver_directory(self, directory: str, controls: tuple[str, ...]) -> None:
        self._directory(directory)
        if self._has("controls"):
            for name in controls:
                self._file(f"{directory}/{name}", b"")

    # -- functions and groups

    def _function(self, function: Function) -> None:
        address = str(function.address)
        directory = f"sys/devices/{function.path}"
        self._directory(directory)
        self._link(f"{_PCI}/devices/{address}", directory)
        self._attributes(directory, function.attributes)
        if self._has("subsystem"):
            self._link(f"{directory}/subsystem", _PCI)
        if function.driver is not None:
            driver = f"{_PCI}/drivers/{_name(function.driver)}"
            self._link(f"{directory}/driver", driver)
            if self._has("drivers") and self._has("driver-links"):
                self._link(f"{driver}/{address}", directory)
        if function.physfn is not None:
            self._physfn(function, directory)
        elif self._has("controls"):
            for name in ("remove", "rescan"):
                if name not in function.attributes:
                    self._file(f"{directory}/{name}", b"")
        if "reset_method" in function.attributes and "reset" not in function.attributes:
            self._file(f"{directory}/reset", b"")
        prefix = "noiommu-" if function.iommu_group in self.noiommu else ""
        self._join(directory, function.iommu_group, function.driver, prefix)

    def _physfn(self, function: Function, directory: str) -> None:
        parent = None if function.physfn is None else self.paths.get(function.physfn)
        if parent is None:
            raise ParseError(str(function.physfn), "the address of a recorded function")
        self._link(f"{directory}/physfn", f"sys/devices/{parent}")
        if function.vf_index is not None:
            self._link(f"sys/devices/{parent}/virtfn{function.vf_index}", directory)

    def _join(
        self, directory: str, number: int | None, driver: str | None, prefix: str = ""
    ) -> None:
        """Put a device into its group; a VFIO driver gives the group its node."""
        if number is None:
            return
        self._link(f"{directory}/iommu_group", f"sys/kernel/iommu_groups/{number}")
        self.members[number].append(directory)
        node = f"dev/vfio/{prefix}{number}"
        if driver is not None and is_vfio_driver(driver) and node not in self.tree:
            self._file(node, b"", 0o600)

    def _groups(self) -> None:
        if any(m.name == "vfio" and m.state != "loadable" for m in self.recording.modules):
            self._file("dev/vfio/vfio", b"", 0o666)
        if not self._has("groups"):
            return
        self._directory("sys/kernel/iommu_groups")
        for number in self.members.keys() | {group.number for group in self.recording.groups}:
            self._directory(f"sys/kernel/iommu_groups/{number}/devices")
        for number, members in self.members.items():
            for member in members:
                name = posixpath.basename(member)
                self._link(f"sys/kernel/iommu_groups/{number}/devices/{name}", member)
        for group in self.recording.groups:
            self._attributes(f"sys/kernel/iommu_groups/{group.number}", group.attributes)

    # -- mediated devices

    def _parents(self) -> Iterator[_Parent]:
        """The parents that offer types now."""
        for function in self.recording.functions:
            table = self._table(function.mdev_table)
            if table is not None and table.driver == function.driver:
                name = str(function.address)
                card = name if function.physfn is None else str(function.physfn)
                yield _Parent(name, f"sys/devices/{function.path}", table, card)
        for parent in self.recording.virtual_parents:
            table = self._table(parent.mdev_table)
            if table is not None:
                name = posixpath.basename(parent.path)
                yield _Parent(name, f"sys/devices/{parent.path}", table, name)

    def _table(self, name: str | None) -> MdevTable | None:
        if name is None:
            return None
        if name not in self.tables:
            raise ParseError(name, "the name of a recorded mdev-table")
        return self.tables[name]

    def _mdev_bus(self) -> None:
        in_scope: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        on_parent: Counter[str] = Counter()
        for mdev in self.recording.mdevs:
            parent = self._parent_of(mdev)
            in_scope[parent.scope][mdev.type_id] += 1
            on_parent[parent.name] += 1
        for parent in self.offering.values():
            self._mdev_types(parent, in_scope[parent.scope], on_parent[parent.name])
        for mdev in self.recording.mdevs:
            self._mdev(mdev)

    def _parent_of(self, mdev: Mdev) -> _Parent:
        parent = self.offering.get(mdev.parent)
        if parent is None:
            raise ParseError(mdev.parent, "the name of a parent that offers mdev types")
        if all(each.type_id != mdev.type_id for each in parent.table.types):
            raise ParseError(mdev.type_id, f"a type that {parent.name} offers")
        return parent

    def _mdev_types(self, parent: _Parent, in_scope: Counter[str], on_parent: int) -> None:
        table = parent.table
        self._link(f"sys/class/mdev_bus/{parent.name}", parent.path)
        self._directory(f"{_MDEV}/devices")
        for each in table.types:
            type_directory = f"{parent.path}/mdev_supported_types/{_name(each.type_id)}"
            self._directory(f"{type_directory}/devices")
            self._file(f"{type_directory}/create", b"")
            self._file(f"{type_directory}/device_api", table.device_api)
            left = table.available(each.type_id, in_scope, on_parent)
            self._file(f"{type_directory}/available_instances", str(left))
            if each.name is not None:
                self._file(f"{type_directory}/name", each.name)
            if each.description is not None:
                self._file(f"{type_directory}/description", each.description)

    def _mdev(self, mdev: Mdev) -> None:
        parent = self._parent_of(mdev).path
        directory = f"{parent}/{_name(mdev.uuid)}"
        type_directory = f"{parent}/mdev_supported_types/{_name(mdev.type_id)}"
        self._directory(directory)
        self._attributes(directory, mdev.attributes)
        self._link(f"{_MDEV}/devices/{mdev.uuid}", directory)
        self._link(f"{directory}/mdev_type", type_directory)
        self._link(f"{type_directory}/devices/{mdev.uuid}", directory)
        self._link(f"{directory}/subsystem", _MDEV)
        if "remove" not in mdev.attributes:
            self._file(f"{directory}/remove", b"", 0o200)
        if mdev.driver is not None:
            driver = f"{_MDEV}/drivers/{_name(mdev.driver)}"
            if driver not in self.tree:
                self._driver_directory(driver, ("bind", "unbind"))
            self._link(f"{directory}/driver", driver)
            self._link(f"{driver}/{mdev.uuid}", directory)
        self._join(directory, mdev.iommu_group, "vfio-pci" if mdev.driver else None)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _name(name: str) -> str:
    """A name that is one component of a path."""
    if "/" in name:
        raise ParseError(name, "a name without a slash")
    return name
