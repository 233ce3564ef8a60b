"""Functions that go and come: ``remove`` and ``rescan``.

Kernel: ``drivers/pci/pci-sysfs.c``, ``drivers/pci/remove.c``, ``drivers/pci/probe.c``,
``drivers/pci/bus.c``.
"""

from __future__ import annotations

import errno
import posixpath
from typing import TYPE_CHECKING

import attrs

from vfiohost.recording import Attribute, uevent_text
from vfiohost.testing import driver_core, groups, kernel_text, reset, sriov
from vfiohost.testing.expansion import expand_function
from vfiohost.testing.machine import RESCAN_REMOVE, AnswerError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vfiohost.recording import Function
    from vfiohost.testing.machine import Machine
    from vfiohost.testing.tree import Tree

# What a function has that has just been found, where it has such a file at all.
_NEW = {
    "driver_override": b"(null)\n",
    "enable": b"0\n",
    "sriov_drivers_autoprobe": b"1\n",
    "sriov_numvfs": b"0\n",
}


def store_remove(machine: Machine, path: str, data: bytes) -> None:
    """``remove_store``: the attribute goes first, then what is behind a bridge, then the device.

    Raises:
        BlockedError: a process has a device open, or another removal or rescan is under way.
    """
    if not _says_yes(data):
        return
    machine.tree.remove(f"{path}/remove")  # device_remove_file_self
    machine.lock(RESCAN_REMOVE)
    if machine.pci_path(posixpath.basename(path)) == path:  # else it went with its bridge
        _stop(machine, path)
        _destroy(machine, path)


def store_rescan(machine: Machine, data: bytes) -> None:
    """``rescan_store`` of the bus: look at every bus of the host."""
    _rescan(machine, "sys/devices", data)


def store_device_rescan(machine: Machine, path: str, data: bytes) -> None:
    """``dev_rescan_store``: look at the bus that a device is on, and at those below."""
    _rescan(machine, posixpath.dirname(path), data)


def _says_yes(data: bytes) -> bool:
    value = kernel_text.unsigned(data, bits=64)
    if value is None:
        raise AnswerError(errno.EINVAL)
    return value != 0


# ---- removal ----------------------------------------------------------------------------------


def _stop(machine: Machine, path: str) -> None:
    """``pci_stop_bus_device``: take the drivers away, the last device behind a bridge first."""
    for below in reversed(machine.pci_children(path)):
        _stop(machine, below)
    driver_core.detach(machine, posixpath.basename(path), on_remove=sriov.disable_for_vfio)


def _destroy(machine: Machine, path: str) -> None:
    """``pci_remove_bus_device``."""
    for below in machine.pci_children(path):
        _destroy(machine, below)
    for other, link in _device_links(machine, path):
        machine.tree.remove(f"{path}/{link}")
        machine.tree.remove(f"{other}/{_other_end(link, path)}")
    driver_core.destroy(machine, path)


def _device_links(machine: Machine, path: str) -> Iterator[tuple[str, str]]:
    """The devices that one is linked with as supplier or consumer, and the names of its links."""
    for name in machine.tree.listing(path):
        kind, _, address = name.partition(":pci:")
        other = machine.pci_path(address) if kind in ("consumer", "supplier") else None
        if other is not None:
            yield other, name


def _other_end(link: str, path: str) -> str:
    kind = "supplier" if link.startswith("consumer:") else "consumer"
    return f"{kind}:pci:{posixpath.basename(path)}"


# ---- rescan -----------------------------------------------------------------------------------


def _rescan(machine: Machine, bus: str, data: bytes) -> None:
    """``pci_rescan_bus``: first all devices are added, then each one is offered to the drivers."""
    if not _says_yes(data):
        return
    machine.lock(RESCAN_REMOVE)
    for path in list(_find(machine, bus)):
        driver_core.probe_all(machine, posixpath.basename(path))


def _find(machine: Machine, bus: str) -> Iterator[str]:
    """Add the devices below a bus that were recorded and are not there, and give their paths.

    Virtual functions do not answer to a scan; they come with ``sriov_numvfs``.
    """
    recorded = machine.blueprint.functions.items()
    for address, function in sorted(recorded, key=lambda item: item[1].path.count("/")):
        path = f"sys/devices/{function.path}"
        bridge = posixpath.dirname(path)
        if (
            function.physfn is None
            and path.startswith(f"{bus}/")
            and machine.pci_path(address) is None
            and (_is_root(bridge) or machine.tree.exists(bridge))
        ):
            _add(machine, path, function)
            yield path


def _is_root(path: str) -> bool:
    """Whether a bridge is a host bridge (``pci0000:00``), which is no PCI function itself."""
    return ":" in posixpath.basename(path) and "." not in posixpath.basename(path)


def _add(machine: Machine, path: str, function: Function) -> None:
    """``pci_device_add``: the device as it was recorded, with nothing of what was done to it."""
    found = dict(function.attributes)
    new = {**_NEW, "power_state": machine.blueprint.release.new_power_state}
    found |= {name: Attribute(content) for name, content in new.items() if name in found}
    found["driver_override"] = Attribute(_NEW["driver_override"])
    found["uevent"] = Attribute(uevent_text(posixpath.basename(path), None, found) or b"")
    bare = attrs.evolve(function, driver=None, iommu_group=None, attributes=found)
    expand_function(machine.blueprint.recording, bare, _Into(machine.tree))
    machine.has_found(posixpath.basename(path))
    reset.set_default_methods(machine, path)
    _join_group(machine, path, function.iommu_group)
    _link_suppliers(machine, path)


def _join_group(machine: Machine, path: str, recorded: int | None) -> None:
    """``iommu_group_get_for_dev``: the group of a device that it shared one with, or a new one."""
    if recorded is None:
        return
    for address, function in machine.blueprint.functions.items():
        sibling = machine.pci_path(address)
        if function.iommu_group == recorded and sibling is not None:
            group = machine.group_of(sibling)
            if group is not None:
                groups.join_group(machine, path, group)
                return
    files = machine.blueprint.group_files(recorded)
    groups.join_group(machine, path, groups.new_group(machine, files))


def _link_suppliers(machine: Machine, path: str) -> None:
    """Link a device with its suppliers, at both ends: quirks do so when the consumer is added."""
    at_supplier = f"consumer:pci:{posixpath.basename(path)}"
    for file in machine.blueprint.recording.files:
        directory, name = posixpath.split(file.path)
        if directory == path and name.startswith("supplier:pci:"):
            is_there = machine.pci_path(name.removeprefix("supplier:pci:")) is not None
        else:
            is_there = name == at_supplier and machine.tree.exists(directory)
        if is_there and isinstance(file.content, str):
            machine.tree.link_text(file.path, file.content)


class _Into:
    """The tree of a host, for what is expanded into it (:class:`expansion.NewTree`)."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree

    def __contains__(self, path: str) -> bool:
        return self._tree.exists(path)

    def directory(self, path: str, mode: int | None = None) -> None:
        self._tree.mkdir(path, 0o755 if mode is None else mode)

    def file(self, path: str, content: bytes, mode: int = 0o644) -> None:
        self._tree.write(path, content.decode("utf-8", "surrogateescape"), mode)

    def link(self, path: str, target: str) -> None:
        self._tree.link_text(path, target)

    def link_to(self, path: str, target: str) -> None:
        self._tree.link(path, target)
