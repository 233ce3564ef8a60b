"""The permission bits that Linux gives the files of sysfs.

Sources: ``drivers/pci/pci-sysfs.c``, ``drivers/pci/iov.c``, ``drivers/base/core.c``,
``drivers/base/bus.c``, ``drivers/base/power/sysfs.c``, ``drivers/iommu/iommu.c``,
``drivers/vfio/mdev/mdev_sysfs.c`` (Linux 6.12); ``nvidia/`` is from NVIDIA's vGPU documentation.
"""

from __future__ import annotations

import re

_READ_WRITE = frozenset(
    {
        "broken_parity_status",
        "config",
        "d3cold_allowed",
        "driver_override",
        "drivers_autoprobe",
        "enable",
        "link/clkpm",
        "link/l0s_aspm",
        "link/l1_aspm",
        "msi_bus",
        "numa_node",
        "nvidia/current_vgpu_type",
        "power/autosuspend_delay_ms",
        "power/control",
        "power/wakeup",
        "reset_method",
        "resource_alignment",
        "sriov_drivers_autoprobe",
        "sriov_numvfs",
        "sriov_vf_msix_count",
        "type",
        "uevent",
    }
)
_WRITE_ONLY = frozenset(
    {
        "bind",
        "create",
        "drivers_probe",
        "new_id",
        "remove_id",
        "rescan",
        "reset",
        "reset_subordinate",
        "unbind",
    }
)
_MEMORY = re.compile(r"resource[0-5](?:_wc)?|rom|vpd")


def usual_mode(name: str) -> int:
    """The permission bits of an attribute.

    Args:
        name: its path below its device, driver, bus, group or type (``power/control``).
    """
    if name in _READ_WRITE:
        return 0o644
    if name in _WRITE_ONLY:
        return 0o200
    if name == "remove":
        return 0o220
    if _MEMORY.fullmatch(name):
        return 0o600
    return 0o444
