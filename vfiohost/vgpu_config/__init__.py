"""The declarative vGPU configurations of NVIDIA's vGPU device manager: read, chosen, written."""

from __future__ import annotations

from vfiohost.vgpu_config.boards import BOARDS, Board, default_config
from vfiohost.vgpu_config.reading import MOST_BYTES, parse
from vfiohost.vgpu_config.selecting import Selection, select
from vfiohost.vgpu_config.types import Config, DeviceFilter, Entry
from vfiohost.vgpu_config.writing import mig_parted, render

__all__ = [
    "BOARDS",
    "MOST_BYTES",
    "Board",
    "Config",
    "DeviceFilter",
    "Entry",
    "Selection",
    "default_config",
    "mig_parted",
    "parse",
    "render",
    "select",
]
