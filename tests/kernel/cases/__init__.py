"""What Linux answers at the edges: a table of scenarios, by the sections of the acceptance list.

The numbers are those of the acceptance list of the simulated kernel. Each scenario begins in the
first state of a machine of the lab (``lab/layout.py``): every function has the driver that Linux
gives it, no display driver is loaded, ``vfio_pci`` and the mdev samples are.
"""

from tests.kernel.cases import (
    bind,
    blocked_reads,
    dynamic_ids,
    groups,
    iommufd,
    mdev,
    override,
    removal,
    reset,
    side_by_side,
    sriov,
    vendor,
)

CASES = (
    *bind.CASES,
    *override.CASES,
    *dynamic_ids.CASES,
    *reset.CASES,
    *removal.CASES,
    *sriov.CASES,
    *groups.CASES,
    *mdev.CASES,
    *blocked_reads.CASES,
    *side_by_side.CASES,
    *iommufd.CASES,
    *vendor.CASES,
)
