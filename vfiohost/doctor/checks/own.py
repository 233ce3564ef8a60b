"""What vfiohost itself left behind, and what could not be looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vfiohost.doctor.checks.iommu import is_arm
from vfiohost.doctor.findings import Evidence, Finding
from vfiohost.doctor.sources import ACPI_TABLES, EXPECTED
from vfiohost.model import Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vfiohost.doctor.facts import HostFacts

_JOURNAL = "var/lib/vfiohost/journal"
_LOCK = "run/vfiohost/lock"
_SHOWN = 8


def check_journal(facts: HostFacts) -> Iterator[Finding]:
    """Was a run of vfiohost cut off."""
    own = facts.own
    if own.unreadable is not None:
        return
    for text in own.open:
        yield Finding(
            "journal-open",
            "bad",
            "vfiohost",
            (Evidence(_JOURNAL, text),),
            f"A run was cut off, and may have left devices half-way: {text}.",
            "`vfiohost recover` takes back what was done.",
        )
    for text in own.pending:
        yield Finding(
            "journal-pending",
            "bad",
            "vfiohost",
            (Evidence(_JOURNAL, text),),
            f"The kernel still works on what an earlier run asked for: {text}.",
            "Find out who uses the device and end that; then `vfiohost recover`.",
        )
    for text in own.damaged:
        yield Finding(
            "journal-damaged",
            "warning",
            "vfiohost",
            (Evidence(_JOURNAL, text),),
            "A journal makes no sense. It may tell of a run that was cut off, and vfiohost changes "
            "nothing while it is there.",
            "See whether the devices are as they should be, then move the file away.",
        )
    if own.other_boot:
        yield Finding(
            "journal-other-boot",
            "info",
            "vfiohost",
            (Evidence(_JOURNAL, f"{own.other_boot} of another boot"),),
            f"{own.other_boot} run{'s were' if own.other_boot > 1 else ' was'} cut off before the "
            "host was booted. The boot took the changes away.",
            "`vfiohost recover` closes the journal.",
        )
    if not (own.open or own.pending or own.damaged):
        yield Finding(
            "journal-clean",
            "ok",
            "vfiohost",
            (Evidence(_JOURNAL, "nothing is open"),),
            "No run of vfiohost was cut off in this boot.",
        )


def check_lock(facts: HostFacts) -> Iterator[Finding]:
    """Is another vfiohost at work, or was one killed at it."""
    own = facts.own
    if own.lock is None:
        return
    if own.lock_alive:
        yield Finding(
            "lock-held",
            "info",
            "vfiohost",
            (Evidence(_LOCK, own.lock),),
            f"Another vfiohost is changing this host ({own.lock}).",
            "Wait for it, or look at what it waits for.",
        )
        return
    yield Finding(
        "lock-stale",
        "info",
        "vfiohost",
        (Evidence(_LOCK, own.lock),),
        f"A vfiohost was killed while it changed this host ({own.lock}). Its lock is gone with it, "
        "unless a helper process of it still waits in the kernel.",
        "`vfiohost recover` tells, and takes back what it did.",
    )


def check_unreadable(facts: HostFacts) -> Iterator[Finding]:
    """What could not be read, so that nobody takes silence for health."""
    missing = [p for p in EXPECTED if p not in facts.files and p not in facts.names]
    if is_arm(facts):  # its firmware may have a device tree instead
        missing = [path for path in missing if path != ACPI_TABLES]
    if missing and not facts.is_live:
        yield Finding(
            "not-there",
            "info",
            "host",
            tuple(Evidence(path, "is not there") for path in missing),
            "This is a copy of a host, and it lacks files that every host has. What they would say "
            "is not known, neither good nor bad.",
            "Look at the host itself, or have it recorded there by vfiohost record.",
        )
    failed: dict[str, list[str]] = {}
    for path, content in (*facts.files.items(), *facts.names.items()):
        if isinstance(content, Unavailable):
            failed.setdefault(content.why, []).append(path)
    if facts.own.unreadable is not None:
        failed.setdefault(facts.own.unreadable, []).append(_JOURNAL)
    for address, details in facts.snapshot.details.items():
        path = facts.snapshot.pci[address].path
        locked = {"driver_override": details.driver_override, "boot_vga": details.boot_vga}
        for name, value in locked.items():
            if isinstance(value, Unavailable) and not value.errno:
                failed.setdefault(value.why, []).append(f"{path}/{name}")
    for why, paths in failed.items():
        more = f" (and {len(paths) - _SHOWN} more)" if len(paths) > _SHOWN else ""
        yield Finding(
            "unreadable",
            "info",
            "host",
            tuple(Evidence(path, why) for path in paths[:_SHOWN]),
            f"{len(paths)} file{'s' if len(paths) > 1 else ''} could not be read: {why}{more}. "
            "What would be found there is not known, neither good nor bad.",
            "Run it as root.",
        )
