"""The machine as a whole: lockdown, Secure Boot, memory."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from vfiohost.doctor.facts import number
from vfiohost.doctor.findings import Evidence, Finding
from vfiohost.doctor.sources import HUGEPAGES, SECURE_BOOT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vfiohost.doctor.facts import HostFacts

_LOCKDOWN = "sys/kernel/security/lockdown"
_LIMITS = "proc/self/limits"
_STATUS = "proc/self/status"
_MEMINFO = "proc/meminfo"
_OVERCOMMIT = "proc/sys/vm/overcommit_memory"
_CAP_IPC_LOCK = 1 << 14
_HEX = re.compile(r"CapEff:\s*([0-9a-fA-F]{1,16})")
_NEVER = "2"
_POOL = re.compile(rf"({HUGEPAGES}/hugepages-(\d{{1,12}})kB)/nr_hugepages", re.ASCII)
_SECURE = b"\x01"
_EFI_BYTES = 5  # four of attributes, one of data


def check_lockdown(facts: HostFacts) -> Iterator[Finding]:
    """Is the kernel locked down, must modules be signed."""
    mode = re.search(r"\[(\w+)\]", facts.text(_LOCKDOWN) or "")
    if mode is not None and mode[1] != "none":
        yield Finding(
            "lockdown",
            "warning",
            "host",
            (facts.saw(_LOCKDOWN),),
            f"The kernel is locked down ({mode[1]}): modules without a trusted signature are not "
            "loaded (NVIDIA's among them), and not even root may write the configuration space "
            "(setpci) or map the memory of devices through sysfs. Binding, virtual functions and "
            "VFIO go on working.",
            "Sign your modules with a key that is enrolled (mokutil), or switch Secure Boot off.",
        )
        return
    efi = facts.files.get(SECURE_BOOT)
    if isinstance(efi, bytes) and len(efi) == _EFI_BYTES and efi.endswith(_SECURE):
        yield Finding(
            "secure-boot",
            "info",
            "host",
            (Evidence(SECURE_BOOT, "1"), facts.saw(_LOCKDOWN)),
            "Secure Boot is on. Many kernels then load signed modules only: one that was built "
            "here (NVIDIA's vGPU host driver) needs a key that is enrolled.",
            "mokutil --import KEY.der, and sign the modules with it.",
        )


def check_memory(facts: HostFacts) -> Iterator[Finding]:
    """May a guest's memory be locked, and is there room for it."""
    yield from _memlock(facts)
    yield from _hugepages(facts)
    if facts.text(_OVERCOMMIT) == _NEVER:
        yield Finding(
            "overcommit-strict",
            "info",
            "host",
            (facts.saw(_OVERCOMMIT),),
            "The kernel promises no more memory than it has (vm.overcommit_memory=2): a guest "
            "whose memory does not fit at its start fails with ENOMEM, even from huge pages.",
        )


def _memlock(facts: HostFacts) -> Iterator[Finding]:
    line = (facts.text(_LIMITS) or "").removeprefix("Max locked memory").split()
    if not line:
        return
    status = _HEX.search(facts.text(_STATUS) or "")
    exempt = status is not None and bool(int(status[1], 16) & _CAP_IPC_LOCK)
    limit = number(line[0])
    saw = (facts.saw(_LIMITS), facts.saw(_STATUS))
    if limit is None and line[0] != "unlimited":
        return
    if exempt or limit is None:
        who = "this process is exempt (CAP_IPC_LOCK)" if exempt else "there is no limit"
        yield Finding(
            "memlock-unlimited",
            "ok",
            "host",
            saw,
            f"Memory may be locked: {who}. VFIO locks all memory of a guest. What runs as another "
            "user has limits of its own.",
        )
        return
    yield Finding(
        "memlock",
        "warning",
        "host",
        saw,
        f"A process like this one may lock {_size(limit)}, and VFIO locks all memory of a guest: "
        "QEMU started so fails with ENOMEM (VFIO_MAP_DMA) when its guest has more. libvirt raises "
        "the limit for its guests itself.",
        "LimitMEMLOCK=infinity in the unit of the service that starts guests; for users, "
        "`USER - memlock unlimited` in /etc/security/limits.d. It takes a new login.",
    )


class _Pool(NamedTuple):
    """The huge pages of one size: in bytes, how many there are, how many are free."""

    size: int
    total: int
    free: int

    def __str__(self) -> str:
        return f"{self.total} huge pages of {_size(self.size)}"


def _hugepages(facts: HostFacts) -> Iterator[Finding]:
    pools = [*_default_pool(facts), *_other_pools(facts)]
    if not pools:
        return
    read = [path for path in facts.files if path.startswith(f"{HUGEPAGES}/")]
    saw = (facts.saw(_MEMINFO), *map(facts.saw, read))
    full = [pool for pool in pools if pool.total and not pool.free]
    if full:
        yield Finding(
            "hugepages-full",
            "warning",
            "host",
            saw,
            f"All {' and all '.join(map(str, full))} are in use or promised: one more guest that "
            "wants some does not start.",
            "Raise vm.nr_hugepages; soon after boot, or on the command line (hugepages=), the "
            "kernel finds most.",
        )
        return
    some = "".join(f"{pool} are reserved, {pool.free} are free. " for pool in pools if pool.total)
    yield Finding(
        "hugepages",
        "ok",
        "host",
        saw,
        f"{some or 'No huge page is reserved. '}Guests do not need them; with them, mapping a "
        "large guest for VFIO is faster.",
    )


def _default_pool(facts: HostFacts) -> Iterator[_Pool]:
    """Those of the usual size (``hugetlb_report_meminfo`` in ``mm/hugetlb.c``)."""
    found = {
        name: number(value.split()[0]) if value.split() else None
        for name, _, value in (line.partition(":") for line in facts.lines(_MEMINFO))
    }
    size, total, free = map(found.get, ("Hugepagesize", "HugePages_Total", "HugePages_Free"))
    if size is not None and total is not None and free is not None:
        # What is promised to somebody who has not touched it yet counts as free there.
        yield _Pool(size << 10, total, max(free - (found.get("HugePages_Rsvd") or 0), 0))


def _other_pools(facts: HostFacts) -> Iterator[_Pool]:
    """Those of other sizes, which ``proc/meminfo`` leaves out."""
    usual = {pool.size for pool in _default_pool(facts)}
    for path in facts.files:
        match = _POOL.fullmatch(path)
        if match is None or int(match[2]) << 10 in usual:
            continue
        names = ("nr_hugepages", "free_hugepages", "resv_hugepages")
        total, free, promised = (number(facts.text(f"{match[1]}/{name}")) for name in names)
        if total is not None and free is not None:
            yield _Pool(int(match[2]) << 10, total, max(free - (promised or 0), 0))


def _size(number_of_bytes: int) -> str:
    for unit, size in (("PiB", 50), ("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if number_of_bytes >> size:
            return f"{number_of_bytes / (1 << size):.5g} {unit}"
    return f"{number_of_bytes} bytes"
