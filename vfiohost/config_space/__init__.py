"""The configuration space of a function: what is read of it, when, and what it says.

``values`` is what comes of it, frozen and without I/O; ``decoding`` makes that of bytes, with the
walk of the C core; ``reading`` gets the bytes, where that wakes nothing.
"""

from __future__ import annotations

from vfiohost.config_space.decoding import decode
from vfiohost.config_space.reading import find_sleepers, read_spaces
from vfiohost.config_space.values import Capability, ConfigSpace, Link

__all__ = ["Capability", "ConfigSpace", "Link", "decode", "find_sleepers", "read_spaces"]
