"""``python -m vfiohost.cli`` is the same as ``vfiohost``."""

from __future__ import annotations

from vfiohost.cli import command

command()
