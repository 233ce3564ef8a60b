"""A kernel without openat2(2) and close_range(2), and a container whose filter forbids them."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.native.trees import Tree

# openat2 and close_range have the same numbers on all architectures that we run on.
PROGRAM = """
import ctypes, json, os, struct, sys

CLOSE_RANGE, OPENAT2, ALLOW, ERRNO = 436, 437, 0x7FFF0000, 0x00050000

def forbid(error):
    load, equal, answer = 0x20, 0x15, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_RET|K
    code = [(load, 0, 0, 0), (equal, 2, 0, CLOSE_RANGE), (equal, 1, 0, OPENAT2),
            (answer, 0, 0, ALLOW), (answer, 0, 0, ERRNO | error)]
    filters = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *c) for c in code))
    program = struct.pack("H6xQ", len(code), ctypes.addressof(filters))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
    if libc.prctl(22, 2, program, 0, 0) != 0:  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
        print(json.dumps(None))
        sys.exit()
    assert libc.syscall(OPENAT2, 0, 0, 0, 0) == -1 and ctypes.get_errno() == error

from vfiohost import native
from vfiohost.errors import KernelError
from vfiohost.native import helpers
from vfiohost.details_scan import with_details
from vfiohost.scan import scan
from vfiohost.sysfs import Sysfs

forbid(int(sys.argv[2]))
with Sysfs(sys.argv[1]) as sysfs:
    found = scan(sysfs)
    addresses = [device.address for device in found.devices]
    snapshot = with_details(sysfs, found, addresses, timeout=20)
    try:
        sysfs.read("out")
        leaked = True
    except KernelError as error:
        leaked = error.code
    helpers.store_bounded(sysfs.fd, "attribute", b"new", timeout=20, only_sysfs=False, shown="x")
    print(json.dumps([[str(d.address) for d in snapshot.devices],
                      [str(d.driver_override) for d in snapshot.details.values()],
                      leaked, sysfs.read("link"), len(snapshot.problems)]))
"""


@pytest.mark.parametrize("error", [errno.ENOSYS, errno.EPERM], ids=errno.errorcode.get)
def test_all_works_without_openat2(tree: Tree, error: int) -> None:
    tree.function(driver_override="vfio-pci\n")
    tree.function("10000:e1:00.0", bridge="pci10000:00", driver_override="(null)\n")
    tree.write("attribute", "old")
    tree.link("link", "/../../attribute")
    tree.link("out", f"{tree.root}/attribute")
    command = [sys.executable, "-c", PROGRAM, str(tree.root), str(error)]
    told = json.loads(subprocess.check_output(command, text=True))
    if told is None:
        pytest.skip("this kernel takes no seccomp filters")
    assert told == [["0000:65:00.0", "10000:e1:00.0"], ["vfio-pci", "None"], "ENOENT", "new", 0]
