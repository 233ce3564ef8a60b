"""SR-IOV: making and removing virtual functions.

Kernel: ``drivers/pci/iov.c``, ``drivers/vfio/pci/vfio_pci_core.c``.
"""

from __future__ import annotations

import errno
import posixpath
from typing import TYPE_CHECKING

from vfiohost.model import PciAddress
from vfiohost.recording import Attribute, modalias_text, uevent_text
from vfiohost.recording.modes import usual_mode
from vfiohost.testing import driver_core, groups, kernel_text, parameters, vendor_vgpu
from vfiohost.testing.machine import PCI_DEVICES, RESCAN_REMOVE, AnswerError

if TYPE_CHECKING:
    from vfiohost.recording import Function
    from vfiohost.testing.machine import Machine

_LAST_BUS = 0xFF

# Drivers with a sriov_set_msix_vec_count (Linux 6.12).
_SETS_MSIX_VECTORS = frozenset({"ice", "mlx5_core"})

# What a VF takes over from its PF when no VF of the card was recorded.
_INHERITED = (
    "class",
    "local_cpulist",
    "local_cpus",
    "numa_node",
    "revision",
    "subsystem_device",
    "subsystem_vendor",
    "vendor",
)


def store_numvfs(machine: Machine, path: str, data: bytes) -> None:
    """``sriov_numvfs_store``."""
    wanted = kernel_text.unsigned(data, bits=16)
    if wanted is None:
        raise AnswerError(errno.EINVAL)
    # What it has waited for may have been the function's removal.
    if not machine.is_resumed and wanted > number(machine, f"{path}/sriov_totalvfs"):
        raise AnswerError(errno.ERANGE)
    address = posixpath.basename(path)
    machine.lock(address)
    now = driver_core.num_vfs(machine, path)
    if wanted == now:
        return
    if not _can_configure(machine, machine.driver_of(address)):
        raise AnswerError(errno.ENOENT)
    if now and wanted:
        raise AnswerError(errno.EBUSY)
    machine.lock(RESCAN_REMOVE)
    if wanted == 0:
        disable(machine, address)
        return
    enable(machine, path, min(wanted, machine.state.most_vfs.get(address, wanted)))


def store_drivers_autoprobe(machine: Machine, path: str, data: bytes) -> None:
    """``sriov_drivers_autoprobe_store``."""
    value = kernel_text.boolean(data)
    if value is None:
        raise AnswerError(errno.EINVAL)
    machine.tree.write(f"{path}/sriov_drivers_autoprobe", f"{value:d}\n")


def store_vf_msix_count(machine: Machine, path: str, data: bytes) -> None:
    """``sriov_vf_msix_count_store`` on a virtual function."""
    value = kernel_text.unsigned(data, bits=31)
    if value is None:
        raise AnswerError(errno.EINVAL)
    physfn = machine.physfn_of(path) or ""
    machine.lock(physfn)
    if machine.driver_of(physfn) not in _SETS_MSIX_VECTORS:
        raise AnswerError(errno.EOPNOTSUPP)
    machine.lock(posixpath.basename(path))
    if machine.driver_of(posixpath.basename(path)) is not None:
        raise AnswerError(errno.EBUSY)


def disable(machine: Machine, address: str) -> None:
    """``sriov_disable``: remove the virtual functions, the first one first.

    Raises:
        BlockedError: one of them is open. Its links ``virtfnN`` and ``physfn`` are gone already
            (``pci_iov_remove_virtfn``).
    """
    tree = machine.tree
    path = machine.pci_path(address)
    if path is None:
        return
    for index in range(driver_core.num_vfs(machine, path)):
        vf = _vf_address(machine, path, index)
        tree.remove(f"{path}/virtfn{index}")
        vf_path = machine.pci_path(vf)
        if vf_path is None:
            continue
        machine.state.leaving[vf] = address
        tree.remove(f"{vf_path}/physfn")
        driver_core.detach(machine, vf)
        driver_core.destroy(machine, vf_path)
        del machine.state.leaving[vf]
    if tree.exists(f"{path}/sriov_numvfs"):
        tree.write(f"{path}/sriov_numvfs", "0\n")


def disable_for_vfio(machine: Machine, address: str) -> None:
    """What vfio-pci does when it is unbound from a physical function."""
    if machine.state.releasing.get(address) == "vfio-pci":
        disable(machine, address)


def _can_configure(machine: Machine, driver: str | None) -> bool:
    """Whether the driver has a ``sriov_configure`` that does something."""
    if driver == "vfio-pci":
        return parameters.is_set(machine, "vfio_pci", "enable_sriov")
    known = machine.blueprint.drivers.get(driver or "")
    return known is not None and known.sriov


def number(machine: Machine, path: str) -> int:
    """The number in a file; 0 where there is none."""
    text = machine.tree.text(path)
    return int(text) if text is not None and text.isdecimal() else 0


def _vf_address(machine: Machine, path: str, index: int) -> str:
    """``pci_iov_virtfn_bus`` and ``pci_iov_virtfn_devfn``: the bus may be a later one."""
    recorded = machine.blueprint.recorded_vf(posixpath.basename(path), index)
    if recorded is not None:
        return posixpath.basename(recorded.path)
    physfn = PciAddress.parse(posixpath.basename(path))
    offset = number(machine, f"{path}/sriov_offset") or 1
    stride = number(machine, f"{path}/sriov_stride") or 1
    place = physfn.device * 8 + physfn.function + offset + stride * index
    bus = physfn.bus + (place >> 8)
    if bus > _last_bus(machine, path):
        raise AnswerError(errno.ENOMEM)
    return str(PciAddress(physfn.domain, bus, place >> 3 & 0x1F, place & 7))


def _last_bus(machine: Machine, path: str) -> int:
    """The last bus number below the port that a device hangs on."""
    port = posixpath.dirname(path)
    return number(machine, f"{port}/subordinate_bus_number") or _LAST_BUS


def enable(machine: Machine, path: str, count: int) -> None:
    """``sriov_enable``."""
    addresses = [_vf_address(machine, path, index) for index in range(count)]
    if any(machine.pci_path(address) is not None for address in addresses):
        raise AnswerError(errno.EEXIST)
    for index, address in enumerate(addresses):
        _add_vf(machine, path, index, address)
    machine.tree.write(f"{path}/sriov_numvfs", f"{count}\n")


def _add_vf(machine: Machine, physfn: str, index: int, address: str) -> None:
    """``pci_iov_add_virtfn``: the device, its links, its group, then its driver."""
    tree = machine.tree
    path = f"{posixpath.dirname(physfn)}/{address}"
    template = machine.blueprint.vf_template(posixpath.basename(physfn), index)
    attributes = _vf_attributes(machine, physfn, address, template)
    tree.mkdir(path)
    for name, attribute in attributes.items():
        content = attribute.content if isinstance(attribute.content, bytes) else b""
        mode = usual_mode(name) if attribute.mode is None else attribute.mode
        tree.mkdir(posixpath.dirname(f"{path}/{name}"))
        tree.write(f"{path}/{name}", content.decode("utf-8", "surrogateescape"), mode)
    tree.link(f"{path}/subsystem", "sys/bus/pci")
    tree.link(f"{PCI_DEVICES}/{address}", path)
    machine.has_found(address)
    tree.link(f"{physfn}/virtfn{index}", path)
    tree.link(f"{path}/physfn", physfn)
    _join_own_group(machine, physfn, path)
    if machine.driver_of(posixpath.basename(physfn)) == "vfio-pci":
        tree.write(f"{path}/driver_override", "vfio-pci\n")  # vfio_pci_bus_notifier
    # pci_bus_add_device asks all drivers, whatever drivers_autoprobe says.
    driver_core.probe_all(machine, address)


def _join_own_group(machine: Machine, physfn: str, path: str) -> None:
    """Give a virtual function a group of its own, as a card with ACS has it."""
    group = machine.group_of(physfn)
    if group is None:
        return
    source = f"sys/kernel/iommu_groups/{group}"
    copied = {name: machine.tree.text(f"{source}/{name}") for name in ("type", "reserved_regions")}
    files = {name: f"{text}\n" for name, text in copied.items() if text is not None}
    groups.join_group(machine, path, groups.new_group(machine, files))


def _vf_attributes(
    machine: Machine, physfn: str, address: str, template: Function | None
) -> dict[str, Attribute]:
    """The files of a new virtual function: those of a recorded one, or what its PF implies."""
    if template is not None:
        found = {
            name: attribute
            for name, attribute in template.attributes.items()
            if posixpath.dirname(name) != vendor_vgpu.FOLDER  # which comes with the driver
        }
    else:
        texts = {name: machine.tree.text(f"{physfn}/{name}") for name in _INHERITED}
        texts["device"] = f"0x{_vf_device(machine, physfn):04x}"
        found = {
            name: Attribute(f"{text}\n".encode())
            for name, text in texts.items()
            if text is not None
        }
        found["modalias"] = Attribute(modalias_text(found) or b"")
        found["sriov_vf_msix_count"] = Attribute(b"", 0o200)
        if machine.tree.exists(f"{physfn}/reset_method"):
            found["reset_method"] = Attribute(b"flr\n")  # which every virtual function has
    if "reset_method" in found:
        found["reset"] = Attribute(b"")
    found["driver_override"] = Attribute(b"(null)\n")
    if template is None or "uevent" in found:
        found["uevent"] = Attribute(uevent_text(address, None, found) or b"")
    state = machine.blueprint.release.new_power_state
    for name, text in (("enable", b"0\n"), ("power_state", state)):
        if template is None or name in found:
            found[name] = Attribute(text)
    return found


def _vf_device(machine: Machine, physfn: str) -> int:
    text = machine.tree.text(f"{physfn}/sriov_vf_device")
    if text is None:
        text = machine.tree.text(f"{physfn}/device") or "0"
    return int(text, 16)
