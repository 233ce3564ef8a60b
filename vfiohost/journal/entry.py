"""What one journal says: the values, and how a file's text becomes them. Opens no file."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import attrs

from vfiohost.errors import ParseError
from vfiohost.journal.locking import Process
from vfiohost.plan.types import ChangeNodes, Plan, SetNodes, node_changes_from_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vfiohost.plan.types import NodeChange, Step

SCHEMA = "vfiohost.journal/1"
"""The format's name and version, in each header."""

EventKind = Literal["begin", "done", "failed", "pending", "undo-begin", "undone", "undo-failed"]
"""What became of a step."""

EntryResult = Literal["committed", "rolled-back", "half-way", "kept", "recovered", "other-boot"]
"""How a journal ended. ``other-boot``: a reboot took away what it had changed; ``kept``: it was cut
off, and what it did stays, as a person said."""


@attrs.frozen
class Event:
    """One line about one step.

    Attributes:
        kind: what happened.
        step: the step's index in the plan.
        error: the error's text, for ``failed``, ``pending`` and ``undo-failed``.
        helper: for ``pending``, the process that waits in the kernel, if it is known.
        nodes: for ``begin`` of a step that changes nodes: which, and what they have.
    """

    kind: EventKind
    step: int
    error: str | None = None
    helper: Process | None = None
    nodes: tuple[NodeChange, ...] = ()


@attrs.frozen
class JournalEntry:
    """What one journal says.

    Attributes:
        id: sorts in time.
        boot_id: the boot in which it was written.
        time: when it was begun, ISO 8601 in UTC.
        pid: the process that carried out the plan.
        undoes: the id of the journal that the plan takes back, or ``None``.
        plan: the plan.
        events: in order.
        result: how it ended, or ``None`` while it is open.
    """

    id: str
    boot_id: str
    time: str
    pid: int
    undoes: str | None
    plan: Plan
    events: tuple[Event, ...]
    result: EntryResult | None

    @property
    def is_open(self) -> bool:
        """Its process was killed, or is still at it, or the kernel has not come back."""
        return self.result is None

    @property
    def is_left_half_way(self) -> bool:
        """Something could not be taken back, and nobody said that it shall stay."""
        failed = any(event.kind == "undo-failed" for event in self.last_events.values())
        return self.result == "half-way" and failed

    @property
    def last_events(self) -> Mapping[int, Event]:
        """The last event of each step that was begun, by index, in the order of beginning."""
        return {event.step: event for event in self.events}

    @property
    def done_plan(self) -> Plan:
        """The plan with those of its steps that changed something: what an undo has to take back.

        A step that held already was never begun, so it is not ours to take back. Instead of one
        that changed nodes there is what it found and made of each of them.
        """
        done = sorted(i for i, event in self.last_events.items() if event.kind == "done")
        return attrs.evolve(self.plan, steps=tuple(map(self._as_it_was_done, done)))

    @property
    def node_changes(self) -> Mapping[int, tuple[NodeChange, ...]]:
        """What each step that changes nodes was about to change, by its index."""
        return {event.step: event.nodes for event in self.events if event.nodes}

    def _as_it_was_done(self, index: int) -> Step:
        step = self.plan.steps[index]
        if isinstance(step, SetNodes | ChangeNodes):
            return ChangeNodes(step.address, self.node_changes.get(index, ()), step.why)
        return step

    def waiting(self) -> tuple[tuple[Step, Process], ...]:
        """The steps that the kernel has not come back from, and the helper processes that wait.

        Looks at ``/proc`` now: a helper that has ended, or cannot be seen, waits no more.
        """
        return tuple(
            (self.plan.steps[event.step], event.helper)
            for event in self.last_events.values()
            if event.kind == "pending" and event.helper is not None and event.helper.is_alive
        )

    def __str__(self) -> str:
        subjects = " ".join(self.plan.subjects)
        return f"{self.plan.verb} {subjects} (journal {self.id}, pid {self.pid})"


@attrs.frozen
class DamagedJournal:
    """A file in the journal's directory that cannot be trusted or understood.

    Attributes:
        id: its name without the suffix.
        path: as the user would type it.
        reason: a sentence.
        boot_id: the boot in which it was written, or ``None`` when not even that can be read.
    """

    id: str
    path: str
    reason: str
    boot_id: str | None

    def __str__(self) -> str:
        return f"damaged: {self.reason}"


def has_ended(raw: bytes) -> bool:
    """Whether the last whole line is an ``end``, without reading the (long) header."""
    last = raw[: raw.rfind(b"\n") + 1].splitlines()[-1:]
    try:
        return bool(last) and json.loads(last[0]).get("event") == "end"
    except (ValueError, AttributeError, RecursionError):
        return False


def parse(entry_id: str, raw: bytes, shown: str) -> JournalEntry:
    """Read a journal's text.

    Raises:
        ParseError: a whole line is not what it should be; it names file and line.
    """
    lines = raw.split(b"\n")[:-1]  # what follows the last newline was cut off, or is nothing
    if not lines:
        raise ParseError("", "a journal with a header line", where=shown)
    header = _json_object(lines[0], f"{shown}, line 1")
    if header.get("schema") != SCHEMA:
        raise ParseError(
            str(header.get("schema")),
            f"the journal format of this version of vfiohost ({SCHEMA})",
            where=shown,
        )
    if header.get("id") != entry_id:
        raise ParseError(str(header.get("id")), f"the journal's id {entry_id}", where=shown)
    plan = _plan(header, shown)
    events: list[Event] = []
    result: EntryResult | None = None
    for number, line in enumerate(lines[1:], start=2):
        where = f"{shown}, line {number}"
        fields = _json_object(line, where)
        if fields.get("event") == "end":
            if fields.get("result") not in get_args(EntryResult):
                raise ParseError(str(fields.get("result")), "the result of a journal", where=where)
            result = cast("EntryResult", fields["result"])
        else:
            events.append(_event(fields, len(plan.steps), where))
            result = None  # interrupted right after its end, and taken back
    undoes = header.get("undoes")
    return JournalEntry(
        id=entry_id,
        boot_id=_text(header, "boot_id", shown),
        time=_text(header, "time", shown),
        pid=_number(header, "pid", shown),
        undoes=None if undoes is None else _text(header, "undoes", shown),
        plan=plan,
        events=tuple(events),
        result=result,
    )


def boot_id_of(raw: bytes) -> str | None:
    """The boot id of a damaged journal, if its header still has one."""
    try:
        boot_id = _json_object(raw.partition(b"\n")[0], "").get("boot_id")
    except ParseError:
        return None
    return boot_id if isinstance(boot_id, str) else None


def _plan(header: dict[str, Any], shown: str) -> Plan:
    try:
        return Plan.from_json(header.get("plan"))
    except ParseError as exc:
        raise ParseError(exc.text, exc.expected, where=f"{shown}, line 1") from exc


def _event(fields: dict[str, Any], steps: int, where: str) -> Event:
    kind = fields.get("event")
    if kind not in get_args(EventKind):
        raise ParseError(str(kind), "the name of a journal event", where=where)
    step = _number(fields, "step", where)
    if not 0 <= step < steps:
        raise ParseError(str(step), f"the index of one of {steps} steps", where=where)
    error, helper = None, None
    if "error" in fields:
        error = _text(fields, "error", where)
    if "pid" in fields:
        helper = Process(
            _number(fields, "pid", where),
            None if fields.get("start") is None else _number(fields, "start", where),
            None if fields.get("namespace") is None else _number(fields, "namespace", where),
        )
    try:
        nodes = node_changes_from_json(fields.get("nodes", []))
    except ParseError as exc:
        raise ParseError(exc.text, exc.expected, where=where) from exc
    return Event(cast("EventKind", kind), step, error, helper, nodes)


def _text(fields: dict[str, Any], key: str, where: str) -> str:
    value = fields.get(key)
    if not isinstance(value, str):
        raise ParseError(repr(value), f"a text (the field {key!r})", where=where)
    return value


def _number(fields: dict[str, Any], key: str, where: str) -> int:
    value = fields.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ParseError(repr(value), f"a number (the field {key!r})", where=where)
    return value


def _json_object(line: bytes, where: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        shown = line[:60].decode(errors="backslashreplace")
        raise ParseError(shown, "a line of a journal (a JSON object)", where=where)
    return value
