"""The journal: what survives a crash of a plan, and what ``undo`` and ``restore`` know.

One file per plan, ``ROOT/var/lib/vfiohost/journal/ID.jsonl``, one JSON object per line, each line
on the disk before what it announces is done::

    {"schema": "vfiohost.journal/1", "id": "20250102T030405.000006Z-89abcdef", "boot_id": "…",
     "time": "…", "pid": 4242, "undoes": null, "plan": {…}}
    {"event": "begin", "time": "…", "step": 0}
    {"event": "done", "time": "…", "step": 0}
    {"event": "end", "time": "…", "result": "committed"}

The events of a step are ``begin`` (its store may happen from now on), ``done`` (it happened and was
read back), ``failed``, ``pending`` (the kernel has not come back; with the helper that waits: its
``pid``, ``start`` and ``namespace``), ``undo-begin``, ``undone`` and ``undo-failed``. A file
without ``end`` is open: its process was killed, or waits for the kernel. A last line without its
newline was cut off in the middle of the write; what it announced was not begun, so it is ignored.
Anything else that makes no sense makes the file damaged: it is reported and never replayed.

A journal counts for the boot in which it was written: sysfs forgets everything at a reboot.
"""

from __future__ import annotations

from vfiohost.journal.book import JOURNAL_PATH, Journal, JournalWriter
from vfiohost.journal.entry import (
    SCHEMA,
    DamagedJournal,
    EntryResult,
    Event,
    EventKind,
    JournalEntry,
)
from vfiohost.journal.locking import (
    LOCK_PATH,
    HostLock,
    Process,
    check_free,
    holder_of,
    lock,
)

__all__ = [
    "JOURNAL_PATH",
    "LOCK_PATH",
    "SCHEMA",
    "DamagedJournal",
    "EntryResult",
    "Event",
    "EventKind",
    "HostLock",
    "Journal",
    "JournalEntry",
    "JournalWriter",
    "Process",
    "check_free",
    "holder_of",
    "lock",
]
