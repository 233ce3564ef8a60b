"""A simulated host for tests: a directory that answers stores as a Linux kernel does.

``create()`` makes one of a recording, :class:`SimulatedKernel` opens it again, and the command
``vfiohost --root DIR`` works on it with every verb. The pytest plugin brings the fixture
``simulated_host``.
"""

from vfiohost.testing.expand import expand
from vfiohost.testing.kernel import Answer, Holder, SimulatedKernel, create, is_simulation

__all__ = ["Answer", "Holder", "SimulatedKernel", "create", "expand", "is_simulation"]
