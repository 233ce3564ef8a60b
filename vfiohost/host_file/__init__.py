"""The host file: what a whole host shall be, and in what it differs."""

from __future__ import annotations

from vfiohost.host_file.reading import MOST_BYTES, parse
from vfiohost.host_file.resolving import differences, resolve
from vfiohost.host_file.types import DeviceTable, Difference, HostFile, Ids, MdevTable, Wanted

__all__ = [
    "MOST_BYTES",
    "DeviceTable",
    "Difference",
    "HostFile",
    "Ids",
    "MdevTable",
    "Wanted",
    "differences",
    "parse",
    "resolve",
]
