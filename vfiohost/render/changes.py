"""What changes on a host, as text: one line for each change."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vfiohost.model import is_vfio_driver
from vfiohost.render.listing import text_of
from vfiohost.render.table import plain, printable
from vfiohost.watch.changes import (
    DeviceAdded,
    DeviceRemoved,
    DriverChanged,
    DriverRegistered,
    DriverUnregistered,
    GroupChanged,
    MdevCreated,
    MdevRemoved,
    VfsChanged,
)

if TYPE_CHECKING:
    from vfiohost.model import BindingState, MediatedDevice, PciDevice, Unavailable
    from vfiohost.names import PciNames
    from vfiohost.render.table import Paint
    from vfiohost.watch.changes import Change


def change_line(change: Change, names: PciNames | None, paint: Paint = plain) -> str:
    """One change as one line: what it is about, and what became of it.

    Args:
        change: the change.
        names: for the devices' names; ``None`` shows numbers.
        paint: makes colours of kinds.
    """
    return f"{printable(change.subject)}  {_text(change, names, paint)}"


def _text(change: Change, names: PciNames | None, paint: Paint) -> str:  # noqa: PLR0911 - a table
    match change:
        case DeviceAdded():
            return f"added  {printable(_device(change.device, names))}"
        case DeviceRemoved():
            return f"removed  {printable(_device(change.device, names))}"
        case DriverChanged():
            before = _driver(change.before, change.state_before, plain)
            return f"{before} -> {_driver(change.after, change.state, paint)}"
        case GroupChanged():
            return _group(change)
        case VfsChanged():
            return f"virtual functions {change.before} -> {change.after}"
        case MdevCreated():
            return f"mdev created  {printable(_mdev(change.mdev))}"
        case MdevRemoved():
            return f"mdev removed  {printable(_mdev(change.mdev))}"
        case DriverRegistered():
            return f"driver registered{_module(change.module)}"
        case DriverUnregistered():
            return f"driver unregistered{_module(change.module)}"
    return change.kind


def _device(device: PciDevice, names: PciNames | None) -> str:
    vf = f", virtual function of {device.physfn}" if device.is_vf else ""
    name = f" {names.full(device.vendor_id, device.device_id)}" if names else ""
    return f"{device.ids}{name}{vf}"


def _driver(name: str | None | Unavailable, state: BindingState, paint: Paint) -> str:
    if state == "releasing":
        return paint("releasing", "warn")
    if isinstance(name, str):
        return paint(printable(name), "good" if is_vfio_driver(name) else "plain")
    return "none" if name is None else text_of(name)


def _group(change: GroupChanged) -> str:
    if change.before is None:
        return f"joined group {text_of(change.after)}"
    if change.after is None:
        return f"left group {text_of(change.before)}"
    return f"group {text_of(change.before)} -> {text_of(change.after)}"


def _mdev(mdev: MediatedDevice) -> str:
    name = f" ({mdev.type_name})" if isinstance(mdev.type_name, str) else ""
    return f"{text_of(mdev.type_id)}{name} of {mdev.parent}"


def _module(module: str | None) -> str:
    return "" if module is None else f"  module {printable(module)}"
