"""Loading kernel modules: what they need, the drivers that they bring, what those take at once.

Kernel: ``kernel/module``, ``drivers/base/driver.c`` (``driver_register``).
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from vfiohost.testing import driver_core, groups
from vfiohost.testing.machine import PCI_DRIVERS, AnswerError

if TYPE_CHECKING:
    from vfiohost.recording import Module
    from vfiohost.testing.machine import Machine

DRIVER_CONTROLS = ("bind", "new_id", "remove_id", "unbind")


def load(machine: Machine, name: str) -> None:
    """What ``modprobe NAME`` does; a module that is loaded or built in is no error."""
    module = machine.blueprint.modules.get(name.replace("-", "_"))
    if module is None:
        raise AnswerError(errno.ENOENT, "load")
    if module.state == "builtin" or machine.tree.exists(f"sys/module/{module.name}/initstate"):
        return
    for needed in module.depends:
        load(machine, needed)
    _insert(machine, module)


def _insert(machine: Machine, module: Module) -> None:
    tree = machine.tree
    directory = f"sys/module/{module.name}"
    tree.mkdir(f"{directory}/holders")
    tree.write(f"{directory}/initstate", "live\n", 0o444)
    tree.write(f"{directory}/refcnt", "0\n", 0o444)
    for needed in module.depends:
        if tree.exists(f"sys/module/{needed}/holders"):
            tree.link(f"sys/module/{needed}/holders/{module.name}", directory)
            count(machine, needed, 1)
    if module.name == "vfio":
        groups.start(machine)
    for driver in module.drivers:
        register_driver(machine, driver.name, module.name)


def register_driver(machine: Machine, driver: str, module: str | None) -> None:
    """``driver_register``: its directory, then, with ``drivers_autoprobe``, what it takes."""
    tree = machine.tree
    directory = f"{PCI_DRIVERS}/{driver}"
    if driver not in machine.state.drivers:
        machine.state.drivers.append(driver)
    for name in DRIVER_CONTROLS:
        tree.write(f"{directory}/{name}", "", 0o200)
    if module is not None:
        tree.link(f"{directory}/module", f"sys/module/{module}")
        tree.link(f"sys/module/{module}/drivers/pci:{driver}", directory)
    if tree.text("sys/bus/pci/drivers_autoprobe") != "0":
        driver_core.driver_attach(machine, driver)


def count(machine: Machine, module: str, change: int) -> None:
    """Let a module's ``refcnt`` follow, where it was recorded."""
    path = f"sys/module/{module}/refcnt"
    text = machine.tree.text(path)
    if text is not None and text.isdecimal():
        machine.tree.write(path, f"{max(0, int(text) + change)}\n")
