"""Stores to the bus: bind, unbind, drivers_probe, driver_override and the dynamic ids.

Kernel: ``drivers/base/bus.c``, ``drivers/base/dd.c``, ``drivers/pci/pci-driver.c``.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from vfiohost.recording.modes import usual_mode
from vfiohost.testing import driver_core, kernel_text, sriov
from vfiohost.testing.machine import AnswerError
from vfiohost.testing.matching import ANY_ID, id_matches, matches, modalias_of

if TYPE_CHECKING:
    from vfiohost.testing.machine import Machine

_IDS = 2  # vendor and device: the fields that an id must have
_ALL_FIELDS = 7  # with driver_data


def complete_controls(machine: Machine, bus: str) -> None:
    """Make the control files of a bus that are not there (``bus_register``)."""
    wanted = {"drivers_autoprobe": "1\n", "drivers_probe": ""}
    if bus == "pci":
        wanted["rescan"] = ""
    for name, text in wanted.items():
        if not machine.tree.exists(f"sys/bus/{bus}/{name}"):
            machine.tree.write(f"sys/bus/{bus}/{name}", text, usual_mode(name))


def store_bind(machine: Machine, driver: str, data: bytes) -> None:
    """``bind_store``: the match comes first, then whether the device is free."""
    address = kernel_text.name(data)
    if machine.pci_path(address) is None or not matches(machine, driver, address):
        raise AnswerError(errno.ENODEV)
    machine.lock(address)
    if machine.driver_of(address) is not None:
        raise AnswerError(errno.EBUSY)
    failure = driver_core.probe(machine, driver, address)
    if failure is not None:
        raise AnswerError(failure.errno)


def store_unbind(machine: Machine, driver: str, data: bytes) -> None:
    """``unbind_store``: once it has waited, it is content if the device has gone meanwhile."""
    address = kernel_text.name(data)
    if not machine.is_resumed and machine.driver_of(address) != driver:
        raise AnswerError(errno.ENODEV)
    # A PF on vfio-pci disables its VFs first (vfio_pci_core_unregister_device).
    driver_core.detach(machine, address, on_remove=sriov.disable_for_vfio)


def store_drivers_probe(machine: Machine, data: bytes) -> None:
    """``drivers_probe_store``: a probe that fails is no error, a group that is owned is."""
    address = kernel_text.name(data)
    if machine.pci_path(address) is None:
        raise AnswerError(errno.ENODEV)
    failure = driver_core.probe_all(machine, address)
    if failure is not None:
        raise AnswerError(errno.EINVAL)


def store_drivers_autoprobe(machine: Machine, bus: str, data: bytes) -> None:
    """``drivers_autoprobe_store``: anything that does not begin with 0 means 1."""
    value = "0\n" if data.startswith(b"0") else "1\n"
    machine.tree.write(f"sys/bus/{bus}/drivers_autoprobe", value)


def store_driver_override(machine: Machine, path: str, data: bytes) -> None:
    """``driver_override_store``: no check of the name, and no effect on a binding."""
    if machine.blueprint.release.override_waits:
        machine.lock(path.rsplit("/", 1)[-1])
    if len(data) >= kernel_text.PAGE_SIZE - 1:
        raise AnswerError(errno.EINVAL)
    text = kernel_text.c_string(data).split(b"\n", 1)[0].decode("utf-8", "surrogateescape")
    if machine.tree.exists(path):  # else it has waited for the removal
        machine.set_override(path, text)


def store_new_id(machine: Machine, driver: str, data: bytes) -> None:
    """``new_id_store``: every free device that has the id is probed at once."""
    if machine.operation.attaching == driver:  # it has been blocked in there
        driver_core.driver_attach(machine, driver)
        return
    fields = kernel_text.hex_fields(data, most=7)
    if len(fields) < _IDS:
        raise AnswerError(errno.EINVAL)
    vendor, device, subvendor, subdevice, class_code, mask = (
        fields[:6] + [0, 0, ANY_ID, ANY_ID, 0, 0][len(fields) :]
    )
    known = machine.state.dynamic_ids.setdefault(driver, [])
    if len(fields) != _ALL_FIELDS:  # with all of them, duplicates are allowed
        ids = (vendor, device, subvendor, subdevice, class_code)
        static = machine.blueprint.in_id_table(driver, modalias_of(*ids))
        if static or any(id_matches(each, ids) for each in known):
            raise AnswerError(errno.EEXIST)
    # Whether a driver_data is known cannot be told from a recording: 0 is, nothing else.
    if fields[6:] not in ([], [0]) and driver != "pci-stub":
        raise AnswerError(errno.EINVAL)
    known.append([vendor, device, subvendor, subdevice, class_code, mask])
    driver_core.driver_attach(machine, driver)


def store_remove_id(machine: Machine, driver: str, data: bytes) -> None:
    """``remove_id_store``: forgets one dynamic id; bound devices stay bound."""
    fields = kernel_text.hex_fields(data, most=6)
    if len(fields) < _IDS:
        raise AnswerError(errno.EINVAL)
    vendor, device, subvendor, subdevice, class_code, mask = (
        fields + [0, 0, ANY_ID, ANY_ID, 0, 0][len(fields) :]
    )
    known = machine.state.dynamic_ids.get(driver, [])
    for position, each in enumerate(known):
        if (
            each[:2] == [vendor, device]
            and subvendor in (ANY_ID, each[2])
            and subdevice in (ANY_ID, each[3])
            and not (each[4] ^ class_code) & mask
        ):
            del known[position]
            return
    raise AnswerError(errno.ENODEV)
