"""What is wrong with a host that is to hand devices to guests: facts in, findings out.

:func:`read_facts` reads, below the root and within bounds; :func:`examine` is pure. The files that
are read are named in :mod:`vfiohost.doctor.sources`, each with what is kept of it, so that a
recording carries the same and the same is found on it.
"""

from vfiohost.doctor.examining import examine
from vfiohost.doctor.facts import HostFacts, Own, guest_devices
from vfiohost.doctor.findings import CODES, Evidence, Finding, Severity
from vfiohost.doctor.reading import read_common, read_facts

__all__ = [
    "CODES",
    "Evidence",
    "Finding",
    "HostFacts",
    "Own",
    "Severity",
    "examine",
    "guest_devices",
    "read_common",
    "read_facts",
]
