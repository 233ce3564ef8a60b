"""A simulated host for tests: a directory that answers stores as a Linux kernel does.

``create()`` makes one of a recording, :class:`SimulatedKernel` opens it again, and the command
``vfiohost --root DIR`` works on it with every verb. ``load()`` reads the recorded hosts that come
with vfiohost. The pytest plugin brings the fixture ``simulated_host``.
"""

from vfiohost.testing.expand import expand
from vfiohost.testing.fixtures import load
from vfiohost.testing.kernel import Answer, Holder, SimulatedKernel, create, is_simulation

__all__ = ["Answer", "Holder", "SimulatedKernel", "create", "expand", "is_simulation", "load"]
