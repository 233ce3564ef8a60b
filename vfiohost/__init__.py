"""Hand PCI devices and vGPUs of a Linux host to virtual machines, safely.

The names below are the public interface. Each is imported on first use, so that ``import vfiohost``
costs next to nothing::

    from vfiohost import Host

    with Host() as host:
        devices = host.select(["class:gpu"])
        plan = host.plan_bind(devices)          # decides, writes nothing
        print(plan.to_json())
        host.apply(plan)                        # lock, re-check, journal, write, read back
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vfiohost.apply import Recovery
    from vfiohost.config_space import ConfigSpace
    from vfiohost.errors import (
        AmbiguousError,
        ApplyError,
        KernelError,
        LockBusyError,
        NotFoundError,
        ParseError,
        PendingError,
        PlanRefused,
        Refusal,
        RollbackError,
        StalePlanError,
        UnsupportedError,
        VfioHostError,
    )
    from vfiohost.host import Host
    from vfiohost.inspection import Inspection
    from vfiohost.model import (
        Details,
        Driver,
        IommuGroup,
        MdevBus,
        MdevParent,
        MdevType,
        MediatedDevice,
        PciAddress,
        PciDevice,
        Problem,
        Snapshot,
        Unavailable,
    )
    from vfiohost.names import DeviceNames, PciNames
    from vfiohost.plan.types import (
        Access,
        ChangeNodes,
        Expect,
        LoadModule,
        NodeChange,
        Origin,
        Plan,
        Report,
        SetNodes,
        StepResult,
        Store,
        WriteAttr,
    )
    from vfiohost.probe.types import Probe
    from vfiohost.sysfs import Kernel
    from vfiohost.usage import Process, Usage, Use
    from vfiohost.watch import (
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
        Watcher,
    )

__version__ = "0.1.0"

__all__ = [
    "Access",
    "AmbiguousError",
    "ApplyError",
    "Change",
    "ChangeNodes",
    "ConfigSpace",
    "Details",
    "DeviceAdded",
    "DeviceNames",
    "DeviceRemoved",
    "Driver",
    "DriverChanged",
    "DriverRegistered",
    "DriverUnregistered",
    "Expect",
    "GroupChanged",
    "Host",
    "Inspection",
    "IommuGroup",
    "Kernel",
    "KernelError",
    "LoadModule",
    "LockBusyError",
    "MdevBus",
    "MdevCreated",
    "MdevParent",
    "MdevRemoved",
    "MdevType",
    "MediatedDevice",
    "NodeChange",
    "NotFoundError",
    "Origin",
    "ParseError",
    "PciAddress",
    "PciDevice",
    "PciNames",
    "PendingError",
    "Plan",
    "PlanRefused",
    "Probe",
    "Problem",
    "Process",
    "Recovery",
    "Refusal",
    "Report",
    "RollbackError",
    "SetNodes",
    "Snapshot",
    "StalePlanError",
    "StepResult",
    "Store",
    "Unavailable",
    "UnsupportedError",
    "Usage",
    "Use",
    "VfioHostError",
    "VfsChanged",
    "Watcher",
    "WriteAttr",
    "__version__",
]

_HOMES = {
    "vfiohost.apply": ("Recovery",),
    "vfiohost.config_space": ("ConfigSpace",),
    "vfiohost.errors": (
        "AmbiguousError",
        "ApplyError",
        "KernelError",
        "LockBusyError",
        "NotFoundError",
        "ParseError",
        "PendingError",
        "PlanRefused",
        "Refusal",
        "RollbackError",
        "StalePlanError",
        "UnsupportedError",
        "VfioHostError",
    ),
    "vfiohost.host": ("Host",),
    "vfiohost.inspection": ("Inspection",),
    "vfiohost.model": (
        "Details",
        "Driver",
        "IommuGroup",
        "MdevBus",
        "MdevParent",
        "MdevType",
        "MediatedDevice",
        "PciAddress",
        "PciDevice",
        "Problem",
        "Snapshot",
        "Unavailable",
    ),
    "vfiohost.names": ("DeviceNames", "PciNames"),
    "vfiohost.plan.types": (
        "Access",
        "ChangeNodes",
        "Expect",
        "LoadModule",
        "NodeChange",
        "Origin",
        "Plan",
        "Report",
        "SetNodes",
        "StepResult",
        "Store",
        "WriteAttr",
    ),
    "vfiohost.probe.types": ("Probe",),
    "vfiohost.sysfs": ("Kernel",),
    "vfiohost.usage": ("Process", "Usage", "Use"),
    "vfiohost.watch": (
        "Change",
        "DeviceAdded",
        "DeviceRemoved",
        "DriverChanged",
        "DriverRegistered",
        "DriverUnregistered",
        "GroupChanged",
        "MdevCreated",
        "MdevRemoved",
        "VfsChanged",
        "Watcher",
    ),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    """Import the module of a public name when the name is first used (PEP 562)."""
    module = _HOME_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
