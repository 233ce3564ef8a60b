"""Where no device can be opened, files are opened unseen; what the scan says is the same."""

from __future__ import annotations

import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

PLACE = """
import os, sys
from pathlib import Path
from vfiohost import Host
from tests.native.trees import Tree

tree = Tree(Path(sys.argv[1], "host"))
def replace(folder, name, make):
    (folder / name).unlink(missing_ok=True)
    make(folder / name)

folder = tree.function("0000:01:00.0", bridge="pci0000:00")
replace(folder, "revision", os.mkfifo)
replace(folder, "numa_node", lambda path: os.mknod(path, 0o020600, os.makedev(1, 3)))
replace(folder, "sriov_totalvfs", lambda path: os.mknod(path, 0o140600))
folder = tree.function("0000:02:00.0", bridge="pci0000:00")
replace(folder, "revision", lambda path: path.symlink_to("vendor"))
replace(folder, "numa_node", os.mkdir)
folder = tree.function("0000:03:00.0", bridge="pci0000:00")
replace(folder, "modalias", os.mkfifo)
tree.function("0000:04:00.0", bridge="pci0000:00")
with Host(tree.root) as host:
    snapshot = host.scan()
print(*snapshot.devices, *(p.sentence for p in snapshot.problems), sep="\\n")
"""


def said(folder: Path, option: str) -> list[str]:
    """What is said of a spoiled host on a tmpfs that is mounted with an option, sorted."""
    script = f'mount -t tmpfs -o {option} tmpfs "$1" && shift && exec "$@"'
    python = [sys.executable, "-c", PLACE, str(folder)]
    command = ["unshare", "--mount", "sh", "-c", script, "sh", str(folder), *python]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return sorted(done.stdout.splitlines())


def test_what_is_no_file_is_found_out_afterwards(tmp_path: Path) -> None:
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "--mount", "true"], check=False).returncode:
        pytest.skip("no mount namespace can be made")
    with_nodes = said(tmp_path, "dev")
    assert said(tmp_path, "nodev") == with_nodes
    assert len(with_nodes) == 3 + 6
