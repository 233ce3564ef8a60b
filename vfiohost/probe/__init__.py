"""The evidence that a guest could use a device: do what a virtual machine monitor does, and close.

``types`` is what comes of it; ``steps`` does the work, in a helper process that ``helper`` starts
and waits for; ``causes`` explains what went wrong.
"""

from __future__ import annotations

from vfiohost.probe.probing import paths_of, probe
from vfiohost.probe.types import Cause, Probe, ProbePath, Region, Step

__all__ = ["Cause", "Probe", "ProbePath", "Region", "Step", "paths_of", "probe"]
