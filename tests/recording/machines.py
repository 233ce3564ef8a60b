"""Recordings of real machines as trees, where ``VFIOHOST_RECORDINGS`` says that there are some."""

from __future__ import annotations

import os
import re
import tarfile
from pathlib import Path
from typing import Any

import pytest

RECORDINGS = ["accel-nvidia", "intel-i7-1270p-iommu", "arm-pcidomain32bits", "xeon-phi-nvme"]

needs_recordings = pytest.mark.skipif(
    "VFIOHOST_RECORDINGS" not in os.environ, reason="no recordings of machines"
)

# Of thousands of files, those that have to do with PCI functions.
_WANTED = re.compile(
    r"(?:.*/)?(?:proc/sys/.*|proc/cmdline|sys/bus/pci/.*|sys/kernel/iommu_groups/.*"
    r"|sys/devices/pci[^/]*(?:/(?:pci)?[0-9a-f]+:[^/]+)*(?:/power)?/[^/]+)"
)


def unpack(name: str, directory: Path) -> Path:
    """Unpack one of the recordings, and say where its root is."""
    (archive,) = Path(os.environ["VFIOHOST_RECORDINGS"]).glob(f"{name}.tar.*")
    with tarfile.open(archive) as packed:
        # Some of its links are absolute. Python 3.11.2 does not know filters yet.
        filtered: dict[str, Any] = {"filter": "tar"} if hasattr(tarfile, "tar_filter") else {}
        wanted = [each for each in packed.getmembers() if _WANTED.fullmatch(each.name)]
        packed.extractall(directory, wanted, **filtered)
    (root,) = (p.parents[3] for p in directory.rglob("sys/bus/pci/devices"))
    return root
