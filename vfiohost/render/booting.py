"""What is installed for the boot, as text and as JSON values."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING, Any

from vfiohost.plan.changes import NO_DRIVER
from vfiohost.render.listing import text_of
from vfiohost.render.table import format_table, plain, printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from vfiohost.boot import (
        BootDevice,
        BootPlan,
        BootStatus,
        DeviceCheck,
        FileChange,
        InitramfsCheck,
        SavedOverride,
    )
    from vfiohost.model import Snapshot
    from vfiohost.names import PciNames
    from vfiohost.render.table import Cell, Paint

_DONE = {"make": "made", "change": "changed", "remove": "removed", "keep": "unchanged"}
_WOULD = {"make": "would make", "change": "would change", "remove": "would remove"}
_FILES = {
    "same": "as it would be made",
    "differs": "is not as it would be made now; `vfiohost boot install` makes it anew",
    "missing": "is missing; `vfiohost boot install` makes it",
    "foreign": "was not made by vfiohost",
    "needless": "is of no use any more; `vfiohost boot install` or `remove` takes it away",
}
_INITRAMFS = {
    "carries": "carries the rule",
    "older": "is older than the files that it is to carry",
    "lacks": "does not carry the rule",
    "stale": "carries a rule still, which takes devices although nothing is installed any more",
    "missing": "No initramfs of this kernel was found in /boot",
    "unknown": "is newer than the files that it is to carry",
}


def dry_run_lines(plan: BootPlan, root: str = "/") -> list[str]:
    """Every file that would be written, with its text."""
    lines = [_device_line(device) for device in plan.devices]
    for change in plan.changes:
        path = os.path.join(root, change.path)
        if change.kind == "keep":
            lines.append(printable(f"unchanged {path}"))
            continue
        lines.append(printable(f"{_WOULD[change.kind]} {path}{_of_mode(change)}"))
        lines += [printable(f"  | {line}") for line in (change.after or "").splitlines()]
    if plan.is_empty:
        lines.append("nothing to do, already so")
    lines += [f"then: {shlex.join(command)}" for command in plan.commands]
    return lines + [printable(f"note: {note}") for note in plan.notes]


def done_lines(plan: BootPlan, root: str = "/", *, made: Sequence[Sequence[str]] = ()) -> list[str]:
    """What was done, and what is left to do.

    Args:
        plan: what was carried out.
        root: of the host.
        made: the commands that have made the initramfs anew.
    """
    lines = [_device_line(device) for device in plan.devices]
    lines += [
        printable(f"{_DONE[change.kind]} {os.path.join(root, change.path)}")
        for change in plan.changes
    ]
    if not plan.changes:
        lines.append("nothing to do: there is nothing for the boot")
    lines += [f"done: {shlex.join(command)}" for command in made]
    left = () if made else plan.commands
    lines += [f"Make the initramfs anew: {shlex.join(command)}" for command in left]
    return lines + [printable(f"note: {note}") for note in plan.notes]


def status_lines(status: BootStatus, paint: Paint = plain) -> list[str]:
    """A line for each device and each file, with what is wrong about it."""
    if status.problem is not None:
        return [printable(f"the rule cannot be read: {status.problem}")]
    lines = [] if status.devices or status.files else ["nothing is installed for the boot"]
    lines += [
        paint(printable(_check_line(check)), "plain" if check.verdict == "right" else "warn")
        for check in status.devices
    ]
    for file in status.files:
        line = printable(f"/{file.path}  {_FILES[file.verdict]}")
        lines.append(paint(line, "dim" if file.verdict == "same" else "warn"))
    if status.initramfs is not None:
        is_good = status.initramfs.verdict in ("carries", "unknown")
        lines += [paint(line, "dim" if is_good else "warn") for line in _told(status.initramfs)]
    return lines


def saved_table(
    saved: Iterable[SavedOverride],
    snapshot: Snapshot,
    names: PciNames | None,
    paint: Paint = plain,
) -> list[str]:
    """A line for each driver that driverctl keeps: device, driver, what it has now, its name."""
    rows: list[list[Cell]] = []
    for each in saved:
        device = snapshot.pci.get(each.address) if each.address is not None else None
        now = "?" if each.address is None else "(not there)"
        if device is not None:
            now = "(none)" if device.driver is None else text_of(device.driver)
        is_so = now == each.driver or (now, each.driver) == ("(none)", NO_DRIVER)
        name = "" if device is None else device.ids
        if names and device is not None:
            name = names.full(device.vendor_id, device.device_id)
        rows.append(
            [
                (f"{each.bus}/{each.device}" if each.address is None else each.device, "plain"),
                (each.driver, "plain"),
                (now, "plain" if is_so else "warn"),
                (name, "plain"),
            ]
        )
    return format_table(["DEVICE", "AT BOOT", "NOW", "NAME"], rows, paint=paint)


def saved_value(saved: SavedOverride, snapshot: Snapshot) -> dict[str, Any]:
    """A driver that driverctl keeps as a JSON value."""
    address = saved.address
    device = None if address is None else snapshot.pci.get(address)
    driver = None if device is None else device.driver
    return {
        "path": f"/{saved.path}",
        "bus": saved.bus,
        "device": saved.device,
        "driver": saved.driver,
        "is_there": None if address is None else device is not None,
        "driver_now": driver if isinstance(driver, str) else None,
    }


def plan_value(plan: BootPlan, made: Sequence[Sequence[str]] = ()) -> dict[str, Any]:
    """A plan as a JSON value.

    Args:
        plan: the plan.
        made: the commands that have made the initramfs anew.
    """
    return {
        "devices": [_device_value(device) for device in plan.devices],
        "files": [
            {"path": f"/{c.path}", "change": c.kind, "mode": f"{c.mode:04o}", "text": c.after}
            for c in plan.changes
        ],
        "commands": [] if made else _commands(plan.commands),
        "commands_done": _commands(made),
        "notes": list(plan.notes),
    }


def status_value(status: BootStatus) -> dict[str, Any]:
    """What was found as a JSON value."""
    found = status.initramfs
    return {
        "devices": [
            _device_value(check.device)
            | {
                "verdict": check.verdict,
                "driver_now": check.driver,
                "differences": list(check.differences),
                "elsewhere": [str(address) for address in check.elsewhere],
            }
            for check in status.devices
        ],
        "files": [{"path": f"/{f.path}", "verdict": f.verdict} for f in status.files],
        "initramfs": None
        if found is None
        else {
            "path": None if found.path is None else f"/{found.path}",
            "verdict": found.verdict,
            "commands": _commands(found.commands),
        },
        "problem": status.problem,
    }


def _of_mode(change: FileChange) -> str:
    return "" if change.after is None else f" (mode {change.mode:04o})"


def _device_line(device: BootDevice) -> str:
    early = ", from the initramfs on" if device.early else ""
    return printable(f"{device.address}  {device.driver} at each boot{early}")


def _check_line(check: DeviceCheck) -> str:
    device = check.device
    has = check.driver or "no driver"
    told = {
        "right": f"has {has}, as it is to have",
        "other-driver": f"has {has}, and is to have {device.driver}",
        "absent": f"is to have {device.driver}: there is no such device",
        "other-device": (
            f"is to have {device.driver}: there is another device, left alone (it has {has}): "
            f"{'; '.join(check.differences)}"
        ),
    }[check.verdict]
    where = ", ".join(str(address) for address in check.elsewhere)
    moved = f". It may have moved to {where}: `vfiohost boot install` it there" if where else ""
    return f"{device.address}  {told}{moved}"


def _told(found: InitramfsCheck) -> Iterator[str]:
    where = "" if found.path is None else f"/{found.path}  "
    yield printable(f"{where}{_INITRAMFS[found.verdict]}")
    if found.is_stale:
        yield from (f"  {shlex.join(command)}" for command in found.commands)


def _commands(commands: Sequence[Sequence[str]]) -> list[str]:
    return [shlex.join(command) for command in commands]


def _device_value(device: BootDevice) -> dict[str, Any]:
    return {
        "address": str(device.address),
        "vendor": f"{device.vendor:04x}",
        "device": f"{device.device:04x}",
        "subsystem_vendor": _hex(device.subsystem_vendor),
        "subsystem_device": _hex(device.subsystem_device),
        "class_code": f"{device.class_code:06x}",
        "driver": device.driver,
        "early": device.early,
        "path": None if device.path is None else f"/sys/{device.path}",
    }


def _hex(value: int | None) -> str | None:
    return None if value is None else f"{value:04x}"
