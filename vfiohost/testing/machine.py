"""What every rule works on, and the two ways in which a rule does not succeed."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

import attrs

from vfiohost.recording import Attribute, modalias_text

if TYPE_CHECKING:
    from vfiohost.errors import KernelOp
    from vfiohost.testing.blueprint import Blueprint
    from vfiohost.testing.state import Pending, State
    from vfiohost.testing.tree import Tree

PCI_DEVICES = "sys/bus/pci/devices"
PCI_DRIVERS = "sys/bus/pci/drivers"
MDEV_DEVICES = "sys/bus/mdev/devices"
MDEV_DRIVERS = "sys/bus/mdev/drivers"

RESCAN_REMOVE = "pci_rescan_remove_lock"
"""The one lock of all that adds and removes PCI functions, beside those of the devices."""


class AnswerError(Exception):
    """The kernel's answer to a store is an errno. What the rule changed is taken back.

    Args:
        number: a positive errno.
        op: what the kernel refuses: ``open``, ``write`` or ``load``.
    """

    def __init__(self, number: int, op: KernelOp = "write") -> None:
        super().__init__(errno.errorcode.get(number, str(number)))
        self.errno = number
        self.op: KernelOp = op


class BlockedError(Exception):
    """The store waits inside the kernel. What the rule changed so far stays and can be seen.

    The rule runs again from its start when something was closed, so every rule that can block
    first looks whether a step is done already.
    """


_NULL = "(null)"


@attrs.define
class Machine:
    """The simulated host while one store is answered.

    Attributes:
        tree: the directory, with the changes so far.
        state: what sysfs does not show.
        blueprint: what the recording knows.
        operation: the store that runs now.
        held: devices whose lock it has taken.
        log: lines for the log of stores.
    """

    tree: Tree
    state: State
    blueprint: Blueprint
    operation: Pending
    held: list[str] = attrs.field(factory=list)
    log: list[dict[str, Any]] = attrs.field(factory=list)

    def start(self, operation: Pending) -> None:
        """Let an operation be the one that runs now."""
        self.operation = operation
        self.held = []

    @property
    def is_resumed(self) -> bool:
        """Whether the operation has been blocked before and now goes on."""
        return self.operation.blocked

    def lock(self, device: str) -> None:
        """Take a device's lock (``device_lock``), or another, until the operation ends.

        Raises:
            BlockedError: a blocked operation holds it.
        """
        if self.is_locked(device):
            raise BlockedError
        self.held.append(device)

    def unlock(self, device: str) -> None:
        """Release a lock before the operation ends (``device_unlock``)."""
        self.held.remove(device)

    def is_locked(self, device: str) -> bool:
        """Whether a blocked operation holds a device's lock."""
        mine = self.operation.number
        return any(device in each.locks for each in self.state.pending if each.number != mine)

    def pci_path(self, address: str) -> str | None:
        """The directory of a PCI function, or ``None`` when there is no such device."""
        return self._bus_path(PCI_DEVICES, address)

    def pci_children(self, path: str) -> list[str]:
        """The directories of the PCI functions behind a bridge."""
        below = ((name, f"{path}/{name}") for name in self.tree.listing(path) if ":" in name)
        return [child for name, child in below if self.pci_path(name) == child]

    def functions(self) -> list[str]:
        """Addresses of the PCI functions, as drivers look at them: ``bus_for_each_dev``."""
        present, late = self.tree.listing(PCI_DEVICES), self.state.found_late
        early = [address for address in present if address not in late]
        return [*early, *(address for address in late if address in present)]

    def has_found(self, address: str) -> None:
        """Let a PCI function be the last one on its bus (``bus_add_device``)."""
        late = self.state.found_late
        self.state.found_late = [*(each for each in late if each != address), address]

    def mdev_path(self, uuid: str) -> str | None:
        """The directory of a mediated device, or ``None`` when there is no such device."""
        return self._bus_path(MDEV_DEVICES, uuid)

    def _bus_path(self, bus: str, name: str) -> str | None:
        if "/" in name or name in ("", ".", "..") or self.tree.target(f"{bus}/{name}") is None:
            return None
        try:
            path = self.tree.resolve(f"{bus}/{name}")
        except OSError:  # a dangling link: no device
            return None
        return path if path.startswith("sys/devices/") else None

    def physfn_of(self, path: str) -> str | None:
        """Address of the physical function of a virtual one, even when it is being removed."""
        leaving = self.state.leaving.get(path.rsplit("/", 1)[-1])
        return leaving or self.tree.link_name(f"{path}/physfn")

    def group_of(self, path: str) -> int | None:
        """Number of a device's IOMMU group."""
        name = self.tree.link_name(f"{path}/iommu_group")
        return int(name) if name is not None and name.isdecimal() else None

    def group_members(self, group: int) -> list[str]:
        """Names of the devices in an IOMMU group."""
        return self.tree.listing(f"sys/kernel/iommu_groups/{group}/devices")

    def driver_of(self, address: str) -> str | None:
        """The kernel's ``dev->driver`` of a PCI function.

        While an unbind is blocked it is still set although the link is gone.
        """
        releasing = self.state.releasing.get(address)
        if releasing is not None:
            return releasing
        path = self.pci_path(address)
        return None if path is None else self.tree.link_name(f"{path}/driver")

    def set_uevent_driver(self, path: str, driver: str | None) -> None:
        """Make the ``DRIVER=`` line of a device's ``uevent`` follow (``dev_uevent``)."""
        text = self.tree.text(f"{path}/uevent")
        if text is None:
            return
        lines = [line for line in text.split("\n") if line and not line.startswith("DRIVER=")]
        if driver is not None:
            lines.insert(0, f"DRIVER={driver}")
        self.tree.write(f"{path}/uevent", "".join(f"{line}\n" for line in lines))

    def modalias(self, path: str) -> str:
        """The modalias of a PCI function, made of its ids where there is no such file."""
        text = self.tree.text(f"{path}/modalias")
        if text is not None:
            return text
        names = ("vendor", "device", "subsystem_vendor", "subsystem_device", "class")
        ids = {name: self.tree.text(f"{path}/{name}") or "0x0000" for name in names}
        made = modalias_text({name: Attribute(f"{text}\n".encode()) for name, text in ids.items()})
        return (made or b"").decode().rstrip("\n")

    def driver_override(self, path: str) -> str | None:
        """The override of a device, or ``None`` when not set."""
        text = self.tree.text(f"{path}/driver_override")
        if text == _NULL and path.rsplit("/", 1)[-1] not in self.state.null_overrides:
            return None
        return text

    def set_override(self, path: str, text: str) -> None:
        """Set the override of a device, or clear it with an empty text.

        The kernel shows an override that is not set as ``(null)``, and lets that text be stored: it
        is a name then, which no driver has.
        """
        address = path.rsplit("/", 1)[-1]
        self.state.null_overrides = [a for a in self.state.null_overrides if a != address]
        if text == _NULL:
            self.state.null_overrides.append(address)
        self.tree.write(f"{path}/driver_override", f"{text or _NULL}\n")
