"""From a path to the rule that answers a store there, and from faults and locks to its outcome."""

from __future__ import annotations

import copy
import errno
import re
import time
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from vfiohost.model import SRIOV_MANAGE
from vfiohost.testing import (
    bus,
    groups,
    hotplug,
    kernel_text,
    mdev,
    modules,
    nvidia_proc,
    parameters,
    power,
    reset,
    sriov,
    sriov_manage,
    vendor_vgpu,
)
from vfiohost.testing.machine import AnswerError, BlockedError

if TYPE_CHECKING:
    from vfiohost.errors import KernelOp
    from vfiohost.testing.machine import Machine
    from vfiohost.testing.state import Fault, Pending

_DRIVER = re.compile(r"sys/bus/(pci|mdev)/drivers/([^/]+)/(bind|unbind|new_id|remove_id)")
_BUS = re.compile(r"sys/bus/(pci|mdev)/(drivers_probe|drivers_autoprobe|rescan)")
_CREATE = re.compile(r"(sys/devices/.+)/mdev_supported_types/([^/]+)/create")
_DEVICE = re.compile(r"(sys/devices/.+/([^/]+))/([^/]+)")
_MDEV = re.compile(r"(sys/devices/.+/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}))/(.+)")

_DRIVER_RULES = {
    ("pci", "bind"): bus.store_bind,
    ("pci", "unbind"): bus.store_unbind,
    ("pci", "new_id"): bus.store_new_id,
    ("pci", "remove_id"): bus.store_remove_id,
    ("mdev", "bind"): mdev.store_bind,
    ("mdev", "unbind"): mdev.store_unbind,
}
_DEVICE_RULES = {
    "driver_override": bus.store_driver_override,
    "remove": hotplug.store_remove,
    "rescan": hotplug.store_device_rescan,
    "reset": reset.store_reset,
    "reset_method": reset.store_method,
    "reset_subordinate": reset.store_subordinate,
    "sriov_numvfs": sriov.store_numvfs,
    "sriov_drivers_autoprobe": sriov.store_drivers_autoprobe,
    "sriov_vf_msix_count": sriov.store_vf_msix_count,
}
_OTHER_RULES = (
    (re.compile(r"sys/kernel/iommu_groups/\d+/type"), groups.store_type),
    (re.compile(r"sys/devices/.+/power/control"), power.store_control),
    (re.compile(re.escape(groups.NOIOMMU_MODE)), groups.store_noiommu_mode),
    (nvidia_proc.LOCK, nvidia_proc.store),
    (vendor_vgpu.STORE_CURRENT, vendor_vgpu.store_current),
    (vendor_vgpu.STORE_PARAMS, vendor_vgpu.store_params),
    (re.compile(re.escape(SRIOV_MANAGE)), sriov_manage.run),
)


def submit(
    machine: Machine, operation: Pending, path: str, *, is_open: bool = False
) -> AnswerError | None:
    """Let the kernel answer an operation for the first time.

    Args:
        machine: the host.
        operation: what is asked.
        path: the path as the caller gave it.
        is_open: the attribute was opened before; the operation has its path without links.

    Returns:
        The refusal; or ``None``: done, or the operation is among the pending ones now.
    """
    machine.start(operation)
    try:
        if is_open:
            _check_still_there(machine)
        elif operation.verb == "store":
            operation.path = open_attribute(machine, path)
        fault = _strike(machine, path)
        if fault is not None and fault.action == "delay":
            operation.not_before = time.time() + fault.seconds
            machine.state.pending.append(operation)
        elif fault is None:
            _run(machine)
    except AnswerError as answer:
        return answer
    except BlockedError:
        operation.blocked = True
        operation.locks = list(machine.held)
        machine.state.pending.append(operation)
    return None


def settle(machine: Machine) -> list[tuple[int, int]]:
    """Go on with the pending operations whose time has come, until none gets any further.

    Returns:
        What has ended now: number of the operation and its errno, 0 for success.
    """
    ended: list[tuple[int, int]] = []
    while True:
        before = len(ended)
        for number in [each.number for each in machine.state.pending]:
            answer = _resume(machine, number)
            if answer is not None:
                ended.append((number, answer))
        if len(ended) == before:
            return ended


def _resume(machine: Machine, number: int) -> int | None:
    """Run one pending operation again; its errno when it has ended."""
    pending = next(each for each in machine.state.pending if each.number == number)
    if pending.not_before > time.time():
        return None
    machine.start(pending)
    answer = 0
    try:
        _check_still_there(machine)
        _run(machine)
    except BlockedError:
        pending.blocked = True
        pending.locks = list(machine.held)
        return None
    except AnswerError as error:
        answer = error.errno
    state = machine.state
    state.pending = [each for each in state.pending if each.number != number]
    if not pending.abandoned:
        state.results[str(number)] = answer
    return answer


def _check_still_there(machine: Machine) -> None:
    """A write to an open attribute of a device that has gone is ENODEV (``kernfs_get_active``).

    A store that waits in there goes on: the removal waits for it in turn (``kernfs_drain``), or was
    itself what took its attribute away.
    """
    operation = machine.operation
    is_new = operation.verb == "store" and not machine.is_resumed
    if is_new and not machine.tree.exists(operation.path):
        raise AnswerError(errno.ENODEV)


def _run(machine: Machine) -> None:
    """Run the rule; an errno leaves nothing of what it did."""
    tree, state = machine.tree.savepoint(), copy.deepcopy(machine.state)
    try:
        if machine.operation.verb == "load":
            modules.load(machine, machine.operation.path)
        elif machine.operation.verb == "unload":
            modules.unload(machine, machine.operation.path)
        else:
            _answer(machine)
    except AnswerError:
        machine.tree.roll_back(tree)
        machine.state = state
        raise


def open_attribute(machine: Machine, path: str) -> str:
    """open(2) for writing: the path without links (``kernfs_fop_open``).

    Raises:
        AnswerError: there is no such file, or it may not be written.
    """
    try:
        resolved = machine.tree.resolve(path)
    except OSError as error:
        raise AnswerError(error.errno or errno.EIO, "open") from error
    if machine.tree.kind(resolved) == "directory":
        raise AnswerError(errno.EISDIR, "open")
    # Root may open anything on most file systems; kernfs looks at the mode all the same.
    writable = 0o222 if machine.operation.as_root else 0o002
    if not machine.tree.mode(resolved) & writable:
        raise AnswerError(errno.EACCES, "open")
    return resolved


def _strike(machine: Machine, path: str) -> Fault | None:
    """The injected fault that is for this store, if there is one; a refusal is raised."""
    names = {path, machine.operation.path}
    if machine.operation.verb != "store":
        names = {f"module/{path}"}
    for fault in machine.state.faults:
        if fault.count != 0 and any(fnmatchcase(name, fault.glob) for name in names):
            if fault.count is not None:
                fault.count -= 1
            if fault.action == "refuse":
                raise AnswerError(fault.errno, _op(machine, fault))
            return fault
    return None


def _op(machine: Machine, fault: Fault) -> KernelOp:
    if machine.operation.verb in ("load", "unload"):
        return machine.operation.verb
    return "open" if fault.op == "open" else "write"


def _answer(machine: Machine) -> None:
    path = machine.operation.path
    data = kernel_text.one_page(machine.operation.value.encode("utf-8", "surrogateescape"))
    # sysfs_kf_write does not call the attribute for an empty write
    if not data or _store_elsewhere(machine, path, data):
        return
    if match := _DRIVER.fullmatch(path):
        rule = _DRIVER_RULES.get((match[1], match[3]))
        if rule is not None:
            rule(machine, match[2], data)
            return
    elif match := _BUS.fullmatch(path):
        _store_bus(machine, match[1], match[2], data)
        return
    elif match := _CREATE.fullmatch(path):
        mdev.store_create(machine, match[1], match[2], data)
        return
    elif parameters.store(machine, path, data) or (
        (match := _MDEV.fullmatch(path)) and _store_mdev(machine, match, data)
    ):
        return
    elif match := _DEVICE.fullmatch(path):
        device_rule = _DEVICE_RULES.get(match[3])
        is_there = machine.pci_path(match[2]) == match[1] or machine.is_resumed
        if device_rule is not None and is_there:
            device_rule(machine, match[1], data)
            return
    raise AnswerError(errno.EIO)  # dev_attr_store of an attribute without a store function


def _store_elsewhere(machine: Machine, path: str, data: bytes) -> bool:
    """A store that is not about a bus or a device."""
    rule = next((rule for pattern, rule in _OTHER_RULES if pattern.fullmatch(path)), None)
    if rule is not None:
        rule(machine, path, data)
    return rule is not None


def _store_bus(machine: Machine, name: str, control: str, data: bytes) -> None:
    if control == "drivers_autoprobe":
        bus.store_drivers_autoprobe(machine, name, data)
    elif control == "rescan":
        hotplug.store_rescan(machine, data)
    elif name == "pci":
        bus.store_drivers_probe(machine, data)
    else:
        mdev.store_drivers_probe(machine, data)


def _store_mdev(machine: Machine, match: re.Match[str], data: bytes) -> bool:
    """A store below a mediated device: its removal, or an attribute of its driver's."""
    path, uuid, name = match.groups()
    if name == "remove":
        mdev.store_remove(machine, path, data)
        return True
    if machine.mdev_path(uuid) != path or name == "uevent":
        return False
    text = kernel_text.c_string(data).decode("utf-8", "surrogateescape").removesuffix("\n")
    machine.tree.write(f"{path}/{name}", f"{text}\n")
    return True
