"""Loading and unloading kernel modules: what they need, and the drivers that they bring.

Kernel: ``kernel/module``, ``drivers/base/driver.c`` (``driver_register``), ``drivers/base/dd.c``
(``driver_detach``). What one command does is that of kmod's ``modprobe``.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from vfiohost.testing import bus, driver_core, groups, mdev, parameters, sriov
from vfiohost.testing.machine import PCI_DEVICES, PCI_DRIVERS, AnswerError

if TYPE_CHECKING:
    from vfiohost.recording import Module
    from vfiohost.testing.machine import Machine

DRIVER_CONTROLS = ("bind", "new_id", "remove_id", "unbind")

# MODULE_SOFTDEP("post: …"): loaded after a module, unloaded before it; here of vfio_main.c.
_AFTER = {"vfio": ("vfio_iommu_type1",)}


def load(machine: Machine, name: str) -> None:
    """What ``modprobe NAME`` does; a module that is loaded or built in is no error."""
    module = machine.blueprint.modules.get(name.replace("-", "_"))
    if module is None:
        raise AnswerError(errno.ENOENT, "load")
    if module.state == "builtin" or _is_loaded(machine, module.name):
        if machine.operation.attaching in [driver.name for driver in module.drivers]:
            driver_core.driver_attach(machine, machine.operation.attaching)
        return
    for needed in module.depends:
        load(machine, needed)
    _insert(machine, module)
    for other in _AFTER.get(module.name, ()):
        if other in machine.blueprint.modules:
            load(machine, other)


def unload(machine: Machine, name: str) -> None:
    """What ``modprobe -r NAME`` does: its drivers let go of all their devices, unless one is open.

    The modules that it needs go too when nobody else needs them. That it is not loaded is no error.
    """
    module = machine.blueprint.modules.get(name.replace("-", "_"))
    if module is None or module.state == "builtin":
        raise AnswerError(errno.ENOENT, "unload")
    if not _is_loaded(machine, module.name):
        return
    if not _delete(machine, module):
        raise AnswerError(errno.EBUSY, "unload")
    for needed in reversed(module.depends):
        if needed in machine.blueprint.modules and _is_loaded(machine, needed):
            _delete(machine, machine.blueprint.modules[needed])


def _is_loaded(machine: Machine, name: str) -> bool:
    return machine.tree.exists(f"sys/module/{name}/initstate")


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
    if module.name == "mdev":
        bus.complete_controls(machine, "mdev")
    parameters.show(machine, module.name)
    for driver in module.drivers:
        register_driver(machine, driver.name, module.name)
    mdev.add_virtual_parents(machine, module.name)


def _delete(machine: Machine, module: Module) -> bool:
    """``delete_module``; whether nobody uses it, so that it goes."""
    tree = machine.tree
    for other in _AFTER.get(module.name, ()):
        if _is_loaded(machine, other):
            _delete(machine, machine.blueprint.modules[other])
    if _is_in_use(machine, module.name):
        return False
    mdev.remove_virtual_parents(machine, module.name)
    for driver in module.drivers:
        _unregister_driver(machine, driver.name)
    mdev.remove_drivers(machine, {module.name, *(driver.name for driver in module.drivers)})
    if module.name == "vfio":
        groups.stop(machine)
    if module.name == "iommufd":
        tree.remove("dev/iommu")
    if module.name == "mdev":
        mdev.stop(machine)
    for needed in module.depends:
        if tree.exists(f"sys/module/{needed}/holders/{module.name}"):
            tree.remove(f"sys/module/{needed}/holders/{module.name}")
            count(machine, needed, -1)
    tree.remove(f"sys/module/{module.name}")
    return True


def _is_in_use(machine: Machine, name: str) -> bool:
    """Whether other modules or open files hold a module (``try_stop_module``)."""
    text = machine.tree.text(f"sys/module/{name}/refcnt") or "0"
    files = machine.state.open_files
    opened = {
        "vfio": [f for f in files if f.kind != "iommufd"],  # the nodes and the container are its
        "vfio_iommu_type1": [f for f in files if f.owned and f.kind != "cdev"],
        "iommufd": [f for f in files if f.kind == "iommufd" or f.iommufd is not None],
    }
    return (
        text != "0"
        or bool(machine.tree.listing(f"sys/module/{name}/holders"))
        or bool(opened.get(name))
    )


def _unregister_driver(machine: Machine, driver: str) -> None:
    """``driver_unregister``: what was bound last is unbound first."""
    bound = [a for a in machine.tree.listing(PCI_DEVICES) if machine.driver_of(a) == driver]
    for address in reversed(bound):
        driver_core.detach(machine, address, on_remove=sriov.disable_for_vfio)
    if driver in machine.state.drivers:
        machine.state.drivers.remove(driver)
    machine.state.dynamic_ids.pop(driver, None)
    machine.tree.remove(f"{PCI_DRIVERS}/{driver}")


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
