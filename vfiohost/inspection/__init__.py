"""All that is known of a device, for who wants to know before it is handed over.

``types`` is what comes of it, frozen and without I/O; ``reading`` gathers it. Nothing here wakes a
device unless that is asked for.
"""

from __future__ import annotations

from vfiohost.inspection.reading import inspect
from vfiohost.inspection.types import Inspection, Power, Region, ReservedRegion, VirtualFunctions

__all__ = ["Inspection", "Power", "Region", "ReservedRegion", "VirtualFunctions", "inspect"]
