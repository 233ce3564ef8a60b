"""What changes on a host, told as it happens.

``changes`` says in what two snapshots differ (pure), ``pace`` when to look again (pure),
``uevents`` is the kernel's doorbell, ``watcher`` waits for it, scans, and tells the difference.
An event never says what is: it says that it is time to look. So what is told is true, in a defined
order, and complete even when events were lost.
"""

from __future__ import annotations

from vfiohost.watch.changes import (
    Change,
    DeviceAdded,
    DeviceRemoved,
    DriverChanged,
    DriverRegistered,
    DriverUnregistered,
    GroupChanged,
    MdevCreated,
    MdevRemoved,
    VfsChanged,
    changes,
)
from vfiohost.watch.watcher import Events, TellsChanges, Watcher

__all__ = [
    "Change",
    "DeviceAdded",
    "DeviceRemoved",
    "DriverChanged",
    "DriverRegistered",
    "DriverUnregistered",
    "Events",
    "GroupChanged",
    "MdevCreated",
    "MdevRemoved",
    "TellsChanges",
    "VfsChanged",
    "Watcher",
    "changes",
]
