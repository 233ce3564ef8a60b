"""What a running kernel has and an expanded recording may lack.

Recordings of others are often partial: no control files, no back links, no groups. A simulation of
one gets them, since a kernel without them could not be asked anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vfiohost.recording.modes import usual_mode
from vfiohost.testing import bus, groups, mdev, modules, nvidia_proc, parameters, vendor_vgpu
from vfiohost.testing.machine import MDEV_DEVICES, PCI_DEVICES, PCI_DRIVERS

if TYPE_CHECKING:
    from vfiohost.testing.machine import Machine


def boot(machine: Machine) -> None:
    """Complete the tree of a freshly expanded recording, once."""
    if machine.state.booted:
        return
    machine.state.booted = True
    bus.complete_controls(machine, "pci")
    devices = {name: machine.pci_path(name) for name in machine.tree.listing(PCI_DEVICES)}
    for address, path in devices.items():
        if path is not None:
            _complete_function(machine, address, path)
    _register_drivers(machine)
    _show_parameters(machine)
    if machine.tree.exists("dev/vfio/vfio"):
        groups.start(machine)
    for path in devices.values():
        if path is not None and groups.is_on_vfio(machine, path):
            _register_vfio(machine, path)
    vendor_vgpu.boot(machine)
    nvidia_proc.boot(machine, devices)
    if machine.tree.exists(MDEV_DEVICES):
        bus.complete_controls(machine, "mdev")
        mdev.complete_drivers(machine)
    for uuid in machine.tree.listing(MDEV_DEVICES):
        path = machine.mdev_path(uuid)
        if path is not None and machine.tree.target(f"{path}/driver") is not None:
            _register_vfio(machine, path)


def _complete_function(machine: Machine, address: str, path: str) -> None:
    """Links that follow from others, and the attributes that every PCI function has."""
    tree = machine.tree
    wanted = {"driver_override": "(null)\n"}
    if not tree.exists(f"{path}/physfn"):
        wanted |= {"remove": "", "rescan": ""}
    for name, text in wanted.items():
        if not tree.exists(f"{path}/{name}"):
            tree.write(f"{path}/{name}", text, usual_mode(name))
    if not tree.exists(f"{path}/subsystem"):
        tree.link(f"{path}/subsystem", "sys/bus/pci")
    driver = tree.link_name(f"{path}/driver")
    if driver is not None and not tree.exists(f"{PCI_DRIVERS}/{driver}/{address}"):
        tree.link(f"{PCI_DRIVERS}/{driver}/{address}", path)
    group = machine.group_of(path)
    if group is not None and address not in machine.group_members(group):
        groups.join_group(machine, path, group)


def _register_drivers(machine: Machine) -> None:
    """Fix the order in which drivers are asked: built in first, then as they were recorded."""
    tree, loaded = machine.tree, machine.blueprint.modules.values()
    by_state = sorted(loaded, key=lambda module: module.state != "builtin")  # stable
    named = [driver.name for module in by_state for driver in module.drivers]
    present = tree.listing(PCI_DRIVERS)
    order = [name for name in named if name in present]
    machine.state.drivers = order + [name for name in present if name not in order]
    for driver in machine.state.drivers:
        for control in modules.DRIVER_CONTROLS:
            if not tree.exists(f"{PCI_DRIVERS}/{driver}/{control}"):
                tree.write(f"{PCI_DRIVERS}/{driver}/{control}", "", 0o200)


def _show_parameters(machine: Machine) -> None:
    for module in machine.blueprint.modules.values():
        if module.state != "loadable":
            parameters.show(machine, module.name)


def _register_vfio(machine: Machine, path: str) -> None:
    """Give a device that VFIO has at the start its node and its ``vfio-dev`` directory."""
    has_group = machine.group_of(path) is not None
    if has_group and not machine.tree.listing(f"{path}/vfio-dev"):
        groups.register(machine, path)
