"""The journals of one host: written under the lock, read by anybody who may."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import attrs

from vfiohost.errors import KernelError, NotFoundError, ParseError, UnsupportedError
from vfiohost.journal.entry import (
    SCHEMA,
    DamagedJournal,
    EntryResult,
    Event,
    JournalEntry,
    boot_id_of,
    has_ended,
    parse,
)
from vfiohost.journal.files import (
    DURABLE,
    as_kernel_error,
    open_directory,
    open_file,
    read_whole,
    write_durably,
)
from vfiohost.model import PciAddress
from vfiohost.plan.types import ChangeNodes, Origin, Plan, WriteAttr, node_changes_to_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from vfiohost.sysfs import Sysfs

JOURNAL_PATH = "var/lib/vfiohost/journal"
"""The directory of the journals, relative to the root."""

_BOOT_ID = "proc/sys/kernel/random/boot_id"
_NO_BOOT_ID = "unknown"
_SUFFIX = ".jsonl"
_UNFINISHED = ".new"
_WRITING = os.O_RDWR | DURABLE
_LAST = datetime(9000, 1, 1, tzinfo=UTC)
_STAMP = "%Y%m%dT%H%M%S.%fZ"
_LIMIT = 64 << 20  # bytes of one journal; about 50,000 steps
_OF_A_STEP = 1024  # bytes of what can happen to a step: begun, failed with a reason, taken back
_KEEP = 100
_PRUNE_ABOVE = 200


class JournalWriter:
    """An open journal that lines are added to. Made by :class:`Journal`; close it after use."""

    def __init__(
        self, entry_id: str, fd: int, size: int, *, shown: str, now: Callable[[], datetime]
    ) -> None:
        self.id = entry_id
        self._fd = fd
        self._size = size
        self._shown = shown
        self._now = now
        self._is_torn = True  # there may be more than counts: what a crash or a failed write left

    def record(self, event: Event) -> None:
        """Add a line about a step; on return it is on the disk.

        Raises:
            KernelError: it could not be written durably. Nothing of it counts.
        """
        line: dict[str, Any] = {"event": event.kind, "time": self._time(), "step": event.step}
        if event.error is not None:
            line["error"] = event.error
        if event.helper is not None:
            line |= attrs.asdict(event.helper)
        if event.nodes:
            line["nodes"] = node_changes_to_json(event.nodes)
        self._append(line)

    def end(self, result: EntryResult) -> None:
        """Close the journal: after this it is never replayed.

        Raises:
            KernelError: it could not be written durably. The journal stays open.
        """
        self._append({"event": "end", "time": self._time(), "result": result})

    def close(self) -> None:
        """Close the file; a journal that has not ended stays open for ``recover``."""
        os.close(self._fd)

    def _append(self, line: dict[str, Any]) -> None:
        data = json.dumps(line).encode() + b"\n"
        if self._is_torn:
            with as_kernel_error("write", self._shown):
                os.ftruncate(self._fd, self._size)
        self._is_torn = True
        write_durably(self._fd, data, self._size, shown=self._shown)
        self._is_torn = False
        self._size += len(data)

    def _time(self) -> str:
        return self._now().isoformat()


class Journal:
    """The journals of one host.

    Nothing is made on the host before :meth:`begin`; a host without journals reads as empty.

    Args:
        sysfs: the host. Its ``proc/sys/kernel/random/boot_id`` names the boot; a root without that
            file has one boot that never ends.
        now: the clock, in UTC.
        token: eight random hexadecimal digits.
    """

    def __init__(
        self,
        sysfs: Sysfs,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        token: Callable[[], str] = lambda: os.urandom(4).hex(),
    ) -> None:
        self._sysfs = sysfs
        self._now = now
        self._token = token

    @property
    def boot_id(self) -> str:
        """The boot that the host is in."""
        try:
            return self._sysfs.read(_BOOT_ID)
        except KernelError as exc:
            if exc.errno != errno.ENOENT:
                raise
            if self._sysfs.is_live():
                raise UnsupportedError(
                    f"There is no {self._sysfs.shown(_BOOT_ID)}, so that what was changed in this "
                    "boot could not be told from what an earlier one had changed. Mount /proc."
                ) from exc
            return _NO_BOOT_ID

    # -- writing: only under the lock ------------------------------------------------------------

    def begin(self, plan: Plan, *, undoes: str | None = None) -> JournalWriter:
        """Start the journal of a plan, and remove old ones when there are many.

        Args:
            plan: the plan that is about to be carried out.
            undoes: the id of the journal that it takes back, or ``None``.

        Returns:
            The writer; the caller closes it.

        Raises:
            KernelError: it could not be written durably: nothing may be changed then.
            UnsupportedError: the directory is not private to us, or the plan is too long.
        """
        directory = open_directory(self._sysfs, JOURNAL_PATH, create=True)
        try:
            names = _names(directory)
            if len(names) > _PRUNE_ABOVE:
                self._prune(directory)
            entry_id = self._next_id(names)
            header = self._header(entry_id, plan, undoes)
            if len(header) + _OF_A_STEP * len(plan.steps) > _LIMIT:
                raise UnsupportedError(
                    f"A plan of {len(plan.steps):,} steps is more than a journal holds "
                    f"({_LIMIT >> 20} MiB). Do it in parts."
                )
            return self._create(directory, entry_id, header)
        finally:
            os.close(directory)

    def _header(self, entry_id: str, plan: Plan, undoes: str | None) -> bytes:
        header = {
            "schema": SCHEMA,
            "id": entry_id,
            "boot_id": self.boot_id,
            "time": self._now().isoformat(),
            "pid": os.getpid(),
            "undoes": undoes,
            "plan": plan.to_json(),
        }
        return json.dumps(header).encode() + b"\n"

    def _create(self, directory: int, entry_id: str, header: bytes) -> JournalWriter:
        """Make the file under another name first, so that one that exists has its whole header."""
        name, shown = entry_id + _SUFFIX, self._shown(entry_id)
        unfinished = entry_id + _UNFINISHED
        fd = open_file(directory, unfinished, _WRITING | os.O_CREAT | os.O_EXCL, shown=shown)
        try:
            write_durably(fd, header, 0, shown=shown)
            with as_kernel_error("write", shown):
                os.rename(unfinished, name, src_dir_fd=directory, dst_dir_fd=directory)
                os.fsync(directory)
        except BaseException:
            os.close(fd)
            for made in (unfinished, name):
                with contextlib.suppress(OSError):
                    os.unlink(made, dir_fd=directory)
            raise
        return JournalWriter(entry_id, fd, len(header), shown=shown, now=self._now)

    def _next_id(self, names: list[str]) -> str:
        """An id that sorts after all that exist, even when the clock was set back."""
        stamp = self._now().astimezone(UTC)
        for made in filter(None, map(_time_of, names)):
            if made > _LAST:
                raise UnsupportedError(
                    f"A journal in {self._sysfs.shown(JOURNAL_PATH)} is named for {made:%d %B %Y}: "
                    "none could come after it. Look at it, then move it away."
                )
            stamp = max(stamp, made + timedelta(microseconds=1))
        return f"{stamp.strftime(_STAMP)}-{self._token()}"

    def reopen(self, entry: JournalEntry) -> JournalWriter:
        """Go on writing an open journal, for ``recover``.

        Raises:
            KernelError: it cannot be opened for writing.
            UnsupportedError: it is not private to us.
        """
        shown = self._shown(entry.id)
        directory = open_directory(self._sysfs, JOURNAL_PATH, create=False)
        try:
            fd = open_file(directory, entry.id + _SUFFIX, _WRITING, shown=shown)
        finally:
            os.close(directory)
        try:
            size = read_whole(fd, _LIMIT, shown=shown).rfind(b"\n") + 1
        except BaseException:
            os.close(fd)
            raise
        return JournalWriter(entry.id, fd, size, shown=shown, now=self._now)

    def _prune(self, directory: int) -> None:
        """Remove what has ended or is of another boot, but for the newest and the needed ones."""
        entries = self.entries()
        first, restores = _first_origins(_of_boot(entries, self.boot_id))
        needed = {*restores.values(), *(entry_id for entry_id, _ in first.values())}
        for entry in entries[:-_KEEP]:
            if isinstance(entry, DamagedJournal) or entry.id in needed:
                continue
            is_unfinished = entry.is_open or entry.is_left_half_way
            if is_unfinished and entry.boot_id == self.boot_id:
                continue
            with as_kernel_error("write", self._shown(entry.id)):
                os.unlink(entry.id + _SUFFIX, dir_fd=directory)
        for name in os.listdir(directory):
            # Left by a process that was killed while it made a journal; we hold the lock.
            if name.endswith(_UNFINISHED):
                with as_kernel_error("write", self._shown(name)):
                    os.unlink(name, dir_fd=directory)

    # -- reading: without the lock ---------------------------------------------------------------

    def entries(self) -> tuple[JournalEntry | DamagedJournal, ...]:
        """All journals of all boots, oldest first.

        Raises:
            KernelError: the directory cannot be read (EACCES for an ordinary user).
            UnsupportedError: the directory is not private to us.
        """
        return tuple(self._entry(name, raw) for name, raw in self._files())

    def open_entries(self) -> tuple[JournalEntry | DamagedJournal, ...]:
        """The journals that have not ended, of all boots, and the damaged ones; oldest first.

        Raises:
            KernelError, UnsupportedError: as :meth:`entries`.
        """
        found = (
            self._entry(name, raw)
            for name, raw in self._files()
            if isinstance(raw, str) or not has_ended(raw)
        )
        return tuple(e for e in found if isinstance(e, DamagedJournal) or e.is_open)

    def unfinished(self) -> tuple[JournalEntry | DamagedJournal, ...]:
        """What ``recover`` has to look at: :meth:`open_entries`, and what was left half-way.

        The latter are those of this boot: a reboot takes away what was left. Oldest first.

        Raises:
            KernelError, UnsupportedError: as :meth:`entries`.
        """
        boot_id = self.boot_id
        return tuple(
            e
            for e in self.entries()
            if isinstance(e, DamagedJournal)
            or e.is_open
            or (e.is_left_half_way and e.boot_id == boot_id)
        )

    def damaged(self) -> tuple[DamagedJournal, ...]:
        """The journals that cannot be understood and may be of this boot, oldest first.

        Raises:
            KernelError, UnsupportedError: as :meth:`entries`.
        """
        boots = (self.boot_id, None)
        entries = self.entries()
        return tuple(e for e in entries if isinstance(e, DamagedJournal) and e.boot_id in boots)

    def get(self, entry_id: str) -> JournalEntry:
        """The journal with this id.

        Raises:
            NotFoundError: there is none, or it is damaged.
            KernelError, UnsupportedError: as :meth:`entries`.
        """
        for name, raw in self._files():
            if name == entry_id + _SUFFIX:
                entry = self._entry(name, raw)
                if isinstance(entry, JournalEntry):
                    return entry
                raise NotFoundError("journal", entry_id, detail=entry.reason)
        raise NotFoundError("journal", entry_id)

    def origins(self) -> Mapping[PciAddress, Origin]:
        """What each device had before vfiohost first changed it: what ``restore`` brings back.

        For each address it is the origin in the oldest plan of this boot since the last committed
        plan with the verb ``restore`` about that address. Plans that were rolled back, recovered or
        undone do not count, and neither do undo plans; plans that ended half-way or are still open
        do, because the device may be as they left it.

        Raises:
            KernelError, UnsupportedError: as :meth:`entries`.
        """
        first, _ = _first_origins(_of_boot(self.entries(), self.boot_id))
        return MappingProxyType({address: origin for address, (_, origin) in first.items()})

    def last_committed(self) -> JournalEntry | None:
        """What ``undo`` takes back: the newest committed plan of this boot that is not undone.

        An undo is not offered itself, so that undo after undo goes back plan by plan. Whoever names
        it can have it undone, too: then the first plan is in effect again. A plan that left nothing
        to take back (it only loaded a module) is passed over.

        Raises:
            KernelError, UnsupportedError: as :meth:`entries`.
        """
        for entry in reversed(self.undoable()):
            if entry.undoes is None:
                return entry
        return None

    def undoable(self) -> tuple[JournalEntry, ...]:
        """The plans of this boot that can be undone, and the undos that can, oldest first.

        Raises:
            KernelError, UnsupportedError: as :meth:`entries`.
        """
        return tuple(
            entry
            for entry in _in_effect(_of_boot(self.entries(), self.boot_id))
            if entry.result == "committed" and _can_be_undone(entry.done_plan)
        )

    def _files(self) -> Iterator[tuple[str, bytes | str]]:
        """Name and content of each journal, oldest first; a sentence where it cannot be read."""
        try:
            directory = open_directory(self._sysfs, JOURNAL_PATH, create=False)
        except KernelError as exc:
            if exc.errno == errno.ENOENT:
                return
            raise
        try:
            for name in _names(directory):
                shown = self._shown(name.removesuffix(_SUFFIX))
                try:
                    fd = open_file(directory, name, os.O_RDONLY, shown=shown)
                    try:
                        yield name, read_whole(fd, _LIMIT, shown=shown)
                    finally:
                        os.close(fd)
                except (KernelError, UnsupportedError) as exc:
                    if isinstance(exc, KernelError) and exc.errno == errno.ENOENT:
                        continue  # pruned between listing and opening
                    yield name, str(exc)
        finally:
            os.close(directory)

    def _entry(self, name: str, raw: bytes | str) -> JournalEntry | DamagedJournal:
        entry_id = name.removesuffix(_SUFFIX)
        shown = self._shown(entry_id)
        if isinstance(raw, str):
            return DamagedJournal(entry_id, shown, raw, None)
        try:
            return parse(entry_id, raw, shown)
        except ParseError as exc:
            return DamagedJournal(entry_id, shown, str(exc), boot_id_of(raw))

    def _shown(self, entry_id: str) -> str:
        return self._sysfs.shown(f"{JOURNAL_PATH}/{entry_id}{_SUFFIX}")


def _names(directory: int) -> list[str]:
    return sorted(name for name in os.listdir(directory) if name.endswith(_SUFFIX))


def _time_of(name: str) -> datetime | None:
    """When a journal was begun, by its name; ``None`` when the name is not one of ours."""
    try:
        return datetime.strptime(name.partition("-")[0], _STAMP).replace(tzinfo=UTC)
    except ValueError:
        return None


def _of_boot(
    entries: tuple[JournalEntry | DamagedJournal, ...], boot_id: str
) -> list[JournalEntry]:
    return [e for e in entries if isinstance(e, JournalEntry) and e.boot_id == boot_id]


def _in_effect(entries: list[JournalEntry]) -> list[JournalEntry]:
    """The plans and undos that may have left something on the host and that are not undone."""
    undone: set[str] = set()
    for entry in reversed(entries):  # an undo that is undone itself undoes nothing
        if entry.undoes is not None and entry.result == "committed" and entry.id not in undone:
            undone.add(entry.undoes)
    left = ("committed", "half-way", "kept", None)
    return [e for e in entries if e.id not in undone and e.result in left]


def _first_origins(
    entries: list[JournalEntry],
) -> tuple[dict[PciAddress, tuple[str, Origin]], dict[PciAddress, str]]:
    """What each device had first, and in which journal that stands; and who last restored it.

    Without the restores an older origin would come up again.
    """
    first: dict[PciAddress, tuple[str, Origin]] = {}
    restores: dict[PciAddress, str] = {}
    for entry in _in_effect(entries):
        if entry.undoes is not None:
            continue
        if entry.plan.verb != "restore":
            for origin in entry.plan.origins:
                first.setdefault(origin.address, (entry.id, origin))
        elif entry.result == "committed":
            for address in _addresses(entry.plan):
                restores[address] = entry.id
                first.pop(address, None)
    return first, restores


def _addresses(plan: Plan) -> set[PciAddress]:
    """The devices that a plan is about."""
    found = {origin.address for origin in plan.origins}
    for subject in plan.subjects:
        try:
            found.add(PciAddress.parse(subject))
        except ParseError:
            continue  # a subject may also be an mdev parent or a UUID
    return found


def _can_be_undone(plan: Plan) -> bool:
    if plan.verb == "reset":
        return False  # its own last step has brought the method back, and a reset is for good
    return any(
        step.undo is not None if isinstance(step, WriteAttr) else isinstance(step, ChangeNodes)
        for step in plan.steps
    )
