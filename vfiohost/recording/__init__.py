"""A recorded host as one reviewable text file: the values, the parser and the formatter.

Pure: text in, values out, and back without loss. ``vfiohost.record`` makes a recording of a host,
``vfiohost.testing`` expands one into a directory and answers stores on it. The format is described
in ``fixtures/sysfs/README.md``.
"""

from vfiohost.recording.reader import parse
from vfiohost.recording.umockdev import format_umockdev
from vfiohost.recording.values import (
    Attribute,
    File,
    Function,
    Group,
    Mdev,
    MdevTable,
    MdevTableType,
    Module,
    ModuleState,
    Part,
    PciDriver,
    Recording,
    VirtualParent,
    modalias_text,
    uevent_text,
)
from vfiohost.recording.writer import format  # noqa: A004 - the counterpart of parse

__all__ = [
    "Attribute",
    "File",
    "Function",
    "Group",
    "Mdev",
    "MdevTable",
    "MdevTableType",
    "Module",
    "ModuleState",
    "Part",
    "PciDriver",
    "Recording",
    "VirtualParent",
    "format",
    "format_umockdev",
    "modalias_text",
    "parse",
    "uevent_text",
]
