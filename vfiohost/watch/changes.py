"""In what two snapshots of a host differ, as values. Pure.

The order is that in which things depend on each other: drivers that came; what went, vGPUs before
their parents and virtual functions before their physical one; what stayed or came, in order of
address; vGPUs; drivers that went.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import attrs

from vfiohost.model import PciAddress, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from vfiohost.model import BindingState, MediatedDevice, PciDevice, Snapshot

_Thing = TypeVar("_Thing")


@attrs.frozen
class Change:
    """Something that is not as it was.

    Attributes:
        kind: which change it is, as in JSON.
        subject: what it is about: an address, the UUID of a mediated device, a driver's name.
        address: the PCI function: the subject, or the parent of a mediated device; ``None`` where
            there is none.
    """

    kind: ClassVar[str]
    subject: str
    address: PciAddress | None

    def to_json(self) -> dict[str, Any]:
        """The change as a JSON value, in the words of ``schema.json``."""
        address = None if self.address is None else str(self.address)
        return {"kind": self.kind, "subject": self.subject, "address": address, **self._facts()}

    def _facts(self) -> dict[str, Any]:
        """What this kind of change says besides."""
        names = (field.name for field in attrs.fields(type(self))[2:])
        return {name: _plain(getattr(self, name)) for name in names}


@attrs.frozen
class DeviceAdded(Change):
    """A PCI function has come.

    Attributes:
        device: as it is now. Its group and its driver are told by changes of their own.
    """

    kind = "device-added"
    device: PciDevice

    def _facts(self) -> dict[str, Any]:
        return _identity_value(self.device)


@attrs.frozen
class DeviceRemoved(Change):
    """A PCI function has gone.

    Attributes:
        device: as it was last seen.
    """

    kind = "device-removed"
    device: PciDevice

    def _facts(self) -> dict[str, Any]:
        return _identity_value(self.device)


@attrs.frozen
class DriverChanged(Change):
    """A function or a mediated device has another driver, or none, or is about to have none.

    Attributes:
        before, after: the driver's name, or ``None``.
        state_before, state: whether there was and is a driver, or one on its way out.
    """

    kind = "driver-changed"
    before: str | None | Unavailable
    after: str | None | Unavailable
    state_before: BindingState
    state: BindingState


@attrs.frozen
class GroupChanged(Change):
    """A function or a mediated device has joined or left an IOMMU group.

    Attributes:
        before, after: the group's number, or ``None``.
    """

    kind = "group-changed"
    before: int | None | Unavailable
    after: int | None | Unavailable


@attrs.frozen
class VfsChanged(Change):
    """A physical function has another number of virtual functions.

    Attributes:
        before, after: how many.
    """

    kind = "vfs-changed"
    before: int
    after: int


@attrs.frozen
class MdevCreated(Change):
    """A mediated device has come.

    Attributes:
        mdev: as it is now.
    """

    kind = "mdev-created"
    mdev: MediatedDevice

    def _facts(self) -> dict[str, Any]:
        return _mdev_value(self.mdev)


@attrs.frozen
class MdevRemoved(Change):
    """A mediated device has gone.

    Attributes:
        mdev: as it was last seen.
    """

    kind = "mdev-removed"
    mdev: MediatedDevice

    def _facts(self) -> dict[str, Any]:
        return _mdev_value(self.mdev)


@attrs.frozen
class DriverRegistered(Change):
    """The kernel has a PCI driver that it had not.

    Attributes:
        module: the module that brought it, or ``None`` when it is built in.
    """

    kind = "driver-registered"
    module: str | None


@attrs.frozen
class DriverUnregistered(Change):
    """The kernel has a PCI driver no more.

    Attributes:
        module: the module that had brought it, or ``None``.
    """

    kind = "driver-unregistered"
    module: str | None


def changes(before: Snapshot, after: Snapshot) -> tuple[Change, ...]:
    """Say in what a host differs from what it was.

    A device of other ids at the same address has gone and come. One that went and came back as it
    was between two snapshots has not changed.

    Args:
        before: a snapshot, with its mediated devices and with the details of what may be releasing
            (:meth:`vfiohost.Host.with_releasing`).
        after: a later one.

    Returns:
        The changes, none when nothing has changed.
    """
    return tuple(_changes(before, after))


def _changes(before: Snapshot, after: Snapshot) -> Iterator[Change]:
    old, new = _devices(before), _devices(after)
    old_mdevs, new_mdevs = _mdevs(before), _mdevs(after)
    for name in sorted(after.drivers.keys() - before.drivers.keys()):
        yield DriverRegistered(name, None, after.drivers[name].module)
    for mdev in _gone(old_mdevs, new_mdevs):
        yield from _leaves(mdev)
        yield MdevRemoved(mdev.subject, mdev.address, mdev.thing)
    for device in _gone(old, new):
        yield from _leaves(device)
        yield DeviceRemoved(device.subject, device.address, device.thing)
    for key, device in new.items():
        if key not in old:
            yield DeviceAdded(device.subject, device.address, device.thing)
        yield from _moves(old.get(key), device)
    yield from _vfs(before, after, {new[key].thing.address for key in new if key in old})
    for key, mdev in new_mdevs.items():
        if key not in old_mdevs:
            yield MdevCreated(mdev.subject, mdev.address, mdev.thing)
        yield from _moves(old_mdevs.get(key), mdev)
    for name in sorted(before.drivers.keys() - after.drivers.keys()):
        yield DriverUnregistered(name, None, before.drivers[name].module)


@attrs.frozen
class _Seen(Generic[_Thing]):
    """A function or a mediated device, and what of it can change while it stays."""

    subject: str
    address: PciAddress | None
    thing: _Thing
    driver: str | None | Unavailable
    state: BindingState
    group: int | None | Unavailable


# What makes a device another one: its address, or UUID and parent, come first.
_Key = tuple[Any, ...]


def _devices(snapshot: Snapshot) -> dict[_Key, _Seen[PciDevice]]:
    return {
        (d.address, d.ids, d.subsystem_vendor_id, d.subsystem_device_id, d.class_code, d.path): (
            _Seen(str(d.address), d.address, d, d.driver, snapshot.state_of(d), d.iommu_group)
        )
        for d in snapshot.devices
    }


def _mdevs(snapshot: Snapshot) -> dict[_Key, _Seen[MediatedDevice]]:
    devices = () if snapshot.mdev is None else snapshot.mdev.devices
    return {
        (m.parent, m.uuid, m.type_id): (
            _Seen(m.uuid, PciAddress.of_name(m.parent), m, m.driver, _mdev_state(m), m.iommu_group)
        )
        for m in devices
        if _is_finished(m)
    }


def _is_finished(mdev: MediatedDevice) -> bool:
    """Whether the kernel is done with making it, and has not begun to remove it.

    The link to its type comes last and goes first (``mdev_device_create()`` and
    ``mdev_device_remove_common()`` in ``drivers/vfio/mdev/mdev_core.c``).
    """
    return not (isinstance(mdev.type_id, Unavailable) and mdev.type_id.errno == errno.ENOENT)


def _mdev_state(mdev: MediatedDevice) -> BindingState:
    if isinstance(mdev.driver, Unavailable):
        return "unknown"
    return "unbound" if mdev.driver is None else "bound"


def _gone(old: dict[_Key, _Seen[_Thing]], new: Mapping[_Key, object]) -> list[_Seen[_Thing]]:
    """What is there no more, the last first: virtual functions go before their physical one."""
    return [each for key, each in reversed(old.items()) if key not in new]


def _moves(old: _Seen[_Thing] | None, new: _Seen[_Thing]) -> Iterator[Change]:
    """The group, then the driver, of what stays or has come."""
    group, driver, state = (
        (None, None, "unbound") if old is None else (old.group, old.driver, old.state)
    )
    if group != new.group:
        yield GroupChanged(new.subject, new.address, group, new.group)
    if (driver, state) != (new.driver, new.state):
        yield DriverChanged(new.subject, new.address, driver, new.driver, state, new.state)


def _leaves(old: _Seen[_Thing]) -> Iterator[Change]:
    """The driver, then the group, of what has gone."""
    if old.state != "unbound":
        yield DriverChanged(old.subject, old.address, old.driver, None, old.state, "unbound")
    if old.group is not None:
        yield GroupChanged(old.subject, old.address, old.group, None)


def _vfs(before: Snapshot, after: Snapshot, stayed: set[PciAddress]) -> Iterator[VfsChanged]:
    for address in after.pci:
        was = before.virtual_functions.get(address, ()) if address in stayed else ()
        now = after.virtual_functions.get(address, ())
        if len(was) != len(now):
            yield VfsChanged(str(address), address, len(was), len(now))


def _identity_value(device: PciDevice) -> dict[str, Any]:
    return {
        "vendor_id": f"{device.vendor_id:04x}",
        "device_id": f"{device.device_id:04x}",
        "class_code": f"{device.class_code:06x}",
        "physfn": _plain(device.physfn),
        "path": device.path,
    }


def _mdev_value(mdev: MediatedDevice) -> dict[str, Any]:
    return {
        "parent": mdev.parent,
        "type_id": _plain(mdev.type_id),
        "type_name": _plain(mdev.type_name),
    }


def _plain(value: object) -> Any:
    if isinstance(value, Unavailable):
        return {"unavailable": value.why, "errno": value.errno}
    return str(value) if isinstance(value, PciAddress) else value
