"""Mediated devices: parents, types, creation and removal.

Kernel: ``drivers/vfio/mdev/mdev_sysfs.c``, ``drivers/vfio/mdev/mdev_core.c``. How a parent's types
share what there is follows the table of the recording.
"""

from __future__ import annotations

import errno
import posixpath
from collections import Counter
from typing import TYPE_CHECKING

from vfiohost.testing import groups, kernel_text
from vfiohost.testing.machine import MDEV_DEVICES, MDEV_DRIVERS, AnswerError
from vfiohost.testing.state import Zombie

if TYPE_CHECKING:
    from vfiohost.recording import MdevTable
    from vfiohost.testing.machine import Machine

_PARENTS = "sys/class/mdev_bus"
_TYPES = "mdev_supported_types"
_COUNTED_BY_CORE = frozenset({"mdpy"})  # as max_instances says in samples/vfio-mdev/mdpy.c


# ---- stores -----------------------------------------------------------------------------------


def store_create(machine: Machine, parent: str, type_id: str, data: bytes) -> None:
    """``create_store`` and ``mdev_device_create``: first the UUID, then what is left."""
    uuid = kernel_text.uuid(data)
    if uuid is None:
        raise AnswerError(errno.EINVAL)
    if uuid in machine.state.zombies or machine.mdev_path(uuid) is not None:
        raise AnswerError(errno.EEXIST)
    table = _table(machine, parent)
    if table is None:
        raise AnswerError(errno.ENODEV)
    left = _left(machine, _scope(machine, parent, table), table)
    if not left.get((parent, type_id)):
        raise AnswerError(getattr(errno, table.exhausted))
    _create(machine, parent, type_id, uuid, table)
    _update_counts(machine, parent, table)


def store_remove(machine: Machine, path: str, data: bytes) -> None:
    """``remove_store`` and ``mdev_device_remove``.

    Raises:
        BlockedError: the device is open. It has left the bus; its UUID and its share are taken.
    """
    value = kernel_text.unsigned(data, bits=64)
    if value is None:
        raise AnswerError(errno.EINVAL)
    if value == 0:
        return
    if not machine.is_resumed and _table(machine, posixpath.dirname(path)) is None:
        raise AnswerError(errno.ENODEV)  # the parent is being unregistered
    _remove(machine, path)


def store_unbind(machine: Machine, driver: str, data: bytes) -> None:
    """``unbind_store`` on the mdev bus: what stays is a device that only ``remove`` helps."""
    uuid = kernel_text.name(data)
    path = machine.mdev_path(uuid)
    bound = None if path is None else _driver_of(machine, path)
    if path is None or (bound != driver and not machine.is_resumed):
        raise AnswerError(errno.ENODEV)
    _detach(machine, path)
    parent = posixpath.dirname(path)
    table = _table(machine, parent)
    if table is not None:
        _update_counts(machine, parent, table)


def store_bind(_machine: Machine, _driver: str, _data: bytes) -> None:
    """``bind_store`` on the mdev bus: ``mdev_match`` never matches."""
    raise AnswerError(errno.ENODEV)


def store_drivers_probe(machine: Machine, data: bytes) -> None:
    """``drivers_probe_store`` on the mdev bus: no driver ever takes a device."""
    if machine.mdev_path(kernel_text.name(data)) is None:
        raise AnswerError(errno.ENODEV)


# ---- parents ----------------------------------------------------------------------------------


def register_parent(machine: Machine, path: str, driver: str) -> None:
    """``mdev_register_parent``: offer the types of a device whose driver has just been bound."""
    table = _table_of_device(machine, path)
    if table is None or table.driver != driver:
        return
    tree = machine.tree
    tree.mkdir(MDEV_DEVICES)
    tree.link(f"{_PARENTS}/{posixpath.basename(path)}", path)
    for each in table.types:
        directory = f"{path}/{_TYPES}/{each.type_id}"
        tree.mkdir(f"{directory}/devices")
        tree.write(f"{directory}/create", "", 0o200)
        tree.write(f"{directory}/device_api", f"{table.device_api}\n", 0o444)
        if each.name is not None:
            tree.write(f"{directory}/name", f"{each.name}\n", 0o444)
        if each.description is not None:
            tree.write(f"{directory}/description", f"{each.description}\n", 0o444)
    _ensure_driver(machine, table)
    _update_counts(machine, path, table, only_its_own=True)


def unregister_parent(machine: Machine, path: str) -> None:
    """``mdev_unregister_parent``: remove the devices, then the types.

    Raises:
        BlockedError: one of the devices is open.
    """
    tree = machine.tree
    if not tree.exists(f"{path}/{_TYPES}"):
        return
    tree.remove(f"{_PARENTS}/{posixpath.basename(path)}")
    for uuid, (parent, _) in _devices(machine).items():
        if parent == path:
            _remove(machine, f"{path}/{uuid}")
    tree.remove(f"{path}/{_TYPES}")


def add_virtual_parents(machine: Machine, module: str) -> None:
    """Register the parents that a module makes up when it is loaded, as the samples do."""
    for path, table in _virtual_parents(machine, module).items():
        machine.tree.mkdir(path)
        register_parent(machine, path, table.driver)


def remove_virtual_parents(machine: Machine, module: str) -> None:
    """Unregister those parents when the module is unloaded; their devices go without a word.

    Raises:
        BlockedError: one of the devices is open.
    """
    for path in _virtual_parents(machine, module):
        unregister_parent(machine, path)
        machine.tree.remove(path)
        if not machine.tree.listing(posixpath.dirname(path)):  # the directory of its class
            machine.tree.remove(posixpath.dirname(path))


def remove_drivers(machine: Machine, names: set[str]) -> None:
    """Unregister the drivers on the mdev bus that a module or its PCI drivers have brought."""
    for table in machine.blueprint.tables.values():
        if table.driver in names:
            machine.tree.remove(f"{MDEV_DRIVERS}/{machine.blueprint.mdev_driver(table)}")


def stop(machine: Machine) -> None:
    """What goes with the module mdev."""
    machine.tree.remove("sys/bus/mdev")
    machine.tree.remove(_PARENTS)


def _virtual_parents(machine: Machine, module: str) -> dict[str, MdevTable]:
    """The parents that are no PCI functions and that a module makes up: by path, their tables."""
    known = machine.blueprint
    tables = {path: known.tables.get(name) for path, name in known.virtual_parents.items()}
    return {
        path: table
        for path, table in tables.items()
        if table is not None and table.driver.replace("-", "_") == module
    }


def _table_of_device(machine: Machine, path: str) -> MdevTable | None:
    name = machine.blueprint.virtual_parents.get(path)
    if name is None:
        physfn = machine.physfn_of(path)
        name = machine.blueprint.mdev_table_name(posixpath.basename(path), physfn)
    return machine.blueprint.tables.get(name or "")


def _table(machine: Machine, parent: str) -> MdevTable | None:
    """The table of a parent that is registered."""
    if machine.tree.target(f"{_PARENTS}/{posixpath.basename(parent)}") is None:
        return None
    return _table_of_device(machine, parent)


def complete_drivers(machine: Machine) -> None:
    """Make the drivers on the mdev bus that the registered parents bring."""
    for name in machine.tree.listing(_PARENTS):
        table = _table(machine, machine.tree.resolve(f"{_PARENTS}/{name}"))
        if table is not None:
            _ensure_driver(machine, table)


# ---- devices ----------------------------------------------------------------------------------


def _create(machine: Machine, parent: str, type_id: str, uuid: str, table: MdevTable) -> None:
    tree = machine.tree
    path = f"{parent}/{uuid}"
    tree.write(f"{path}/uevent", "", 0o644)
    tree.write(f"{path}/remove", "", 0o200)
    tree.link(f"{path}/subsystem", "sys/bus/mdev")
    tree.link(f"{MDEV_DEVICES}/{uuid}", path)
    driver = _ensure_driver(machine, table)
    tree.link(f"{path}/driver", f"{MDEV_DRIVERS}/{driver}")
    tree.link(f"{MDEV_DRIVERS}/{driver}/{uuid}", path)
    machine.set_uevent_driver(path, driver)
    # vfio_noiommu_group_alloc gives the groups of emulated devices this name.
    group = groups.new_group(machine, {"name": "vfio-noiommu\n", "type": "unknown\n"})
    groups.join_group(machine, path, group)
    groups.register(machine, path)
    if table.driver == "nvidia":
        tree.write(f"{path}/nvidia/vgpu_params", "\n", 0o644)
    tree.link(f"{parent}/{_TYPES}/{type_id}/devices/{uuid}", path)
    tree.link(f"{path}/mdev_type", f"{parent}/{_TYPES}/{type_id}")


def _ensure_driver(machine: Machine, table: MdevTable) -> str:
    """Make the driver on the mdev bus that gets the devices of a table, and give its name."""
    tree = machine.tree
    driver = machine.blueprint.mdev_driver(table)
    directory = f"{MDEV_DRIVERS}/{driver}"
    for name in ("bind", "unbind"):
        if not tree.exists(f"{directory}/{name}"):
            tree.write(f"{directory}/{name}", "", 0o200)
    # A module of its own, or that of the parent's driver: an open device keeps it loaded.
    for module in (driver.replace("-", "_"), table.driver.replace("-", "_")):
        loaded = tree.exists(f"sys/module/{module}/initstate")
        if loaded and not tree.exists(f"{directory}/module"):
            tree.link(f"{directory}/module", f"sys/module/{module}")
            tree.link(f"sys/module/{module}/drivers/mdev:{driver}", directory)
    return driver


def _driver_of(machine: Machine, path: str) -> str | None:
    uuid = posixpath.basename(path)
    return machine.state.releasing.get(uuid) or machine.tree.link_name(f"{path}/driver")


def _remove(machine: Machine, path: str) -> None:
    """``mdev_device_remove_common``."""
    tree, state = machine.tree, machine.state
    parent, uuid = posixpath.split(path)
    if uuid not in state.zombies:
        type_id = tree.link_name(f"{path}/mdev_type") or ""
        state.zombies[uuid] = Zombie(parent, type_id, machine.operation.number)
    tree.remove(f"{path}/remove")
    tree.remove(f"{path}/mdev_type")
    tree.remove(f"{parent}/{_TYPES}/{state.zombies[uuid].type_id}/devices/{uuid}")
    tree.remove(f"{MDEV_DEVICES}/{uuid}")
    _detach(machine, path)
    groups.leave_group(machine, path)
    tree.remove(path)
    del state.zombies[uuid]
    table = _table_of_device(machine, parent)
    if table is not None:
        _update_counts(machine, parent, table)


def _detach(machine: Machine, path: str) -> None:
    """Unbind the mdev's driver, which is what makes it a VFIO device.

    Raises:
        BlockedError: a process has the device open. The links are gone, the rest still stands.
    """
    uuid = posixpath.basename(path)
    machine.lock(uuid)
    driver = _driver_of(machine, path)
    if driver is None:
        return
    machine.tree.remove(f"{MDEV_DRIVERS}/{driver}/{uuid}")
    machine.tree.remove(f"{path}/driver")
    machine.state.releasing[uuid] = driver
    groups.unregister(machine, path)
    groups.leave_group(machine, path)
    machine.set_uevent_driver(path, None)
    del machine.state.releasing[uuid]


# ---- what is left -----------------------------------------------------------------------------


def _devices(machine: Machine) -> dict[str, tuple[str, str]]:
    """All devices: parent's directory and type, by UUID; those being removed included."""
    tree = machine.tree
    found = {
        uuid: (zombie.parent, zombie.type_id) for uuid, zombie in machine.state.zombies.items()
    }
    for uuid in tree.listing(MDEV_DEVICES):
        path = machine.mdev_path(uuid)
        type_id = None if path is None else tree.link_name(f"{path}/mdev_type")
        if path is not None and type_id is not None:
            found[uuid] = (posixpath.dirname(path), type_id)
    return found


def _scope(machine: Machine, parent: str, table: MdevTable) -> list[str]:
    """The directories of the parents that share what there is with this one, itself included."""
    tree = machine.tree
    if table.scope == "parent":
        return [parent]
    physfn = machine.physfn_of(parent) or posixpath.basename(parent)
    others = [tree.resolve(f"{_PARENTS}/{name}") for name in tree.listing(_PARENTS)]
    return [parent] + [
        other
        for other in others
        if other != parent
        and (machine.physfn_of(other) or posixpath.basename(other)) == physfn
        and _table_of_device(machine, other) is table
    ]


def _left(machine: Machine, parents: list[str], table: MdevTable) -> dict[tuple[str, str], int]:
    """How many more devices can be made, by parent and type, where all parents share a scope."""
    known = {each.type_id for each in table.types}
    used = [
        (parent, type_id)
        for uuid, (parent, type_id) in _devices(machine).items()
        if parent in parents and _is_counted(machine, f"{parent}/{uuid}", table)
    ]
    in_scope = Counter(type_id for _, type_id in used if type_id in known)
    on_parent = Counter(parent for parent, _ in used)
    by_number = {
        number: {each: table.available(each, in_scope, number) for each in sorted(known)}
        for number in {on_parent[parent] for parent in parents}
    }
    return {
        (parent, each.type_id): by_number[on_parent[parent]][each.type_id]
        for parent in parents
        for each in table.types
    }


def _is_counted(machine: Machine, path: str, table: MdevTable) -> bool:
    """Whether a device takes its share: most drivers give it back when they let go of a device.

    They count where the VFIO device is made and released (``mtty_release_dev`` in
    ``samples/vfio-mdev/mtty.c``); only for those without ``get_available`` the core counts, until
    the mediated device is gone (``mdev_device_release``).
    """
    return table.driver in _COUNTED_BY_CORE or _driver_of(machine, path) is not None


def _update_counts(
    machine: Machine, parent: str, table: MdevTable, *, only_its_own: bool = False
) -> None:
    """Let ``available_instances`` follow, of every parent that shares with this one."""
    left = _left(machine, _scope(machine, parent, table), table)
    for (directory, type_id), count in left.items():
        path = f"{directory}/{_TYPES}/{type_id}/available_instances"
        if only_its_own and directory != parent:
            continue
        if only_its_own or machine.tree.text(path) not in (None, str(count)):
            machine.tree.write(path, f"{count}\n", 0o444)
