"""Plans are data: what will be written, what must hold before, what must hold after.

Every change in this domain is one store to one sysfs attribute, the load of one module, or another
owner of VFIO nodes. Paths are relative to the root and never start with a slash.
"""

from __future__ import annotations

import re
import shlex
from typing import Any, Literal, get_args

import attrs

from vfiohost.errors import ParseError
from vfiohost.model import SRIOV_MANAGE, PciAddress
from vfiohost.nvidia import UNBIND_LOCK

ExpectKind = Literal["link", "text", "exists"]

_ADDRESS = r"[0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]"
_UNBIND_LOCK = re.compile(UNBIND_LOCK.format(address=_ADDRESS))
_SCRIPT_ARGUMENTS = re.compile(rf"-[ed] {_ADDRESS}")
_MOST_TRIES = 10
_USUAL = {"tries": 1, "gates": False, "device_is_new": False}  # what a step says only otherwise
_MOST_ID = 2**32 - 2  # -1 means "leave it" to chown(2)
_MOST_MODE = 0o777
_ALL_MODES = 0o7777  # what a node may have had before
_MOST_INODE = 2**64 - 1
_NODE = re.compile(r"dev/vfio/(?:(?:noiommu-)?[0-9]{1,10}|devices/vfio[0-9]{1,10})")

_MODULE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.,+-]*")


@attrs.frozen
class Expect:
    """A fact about one file that apply checks before and after a step.

    Attributes:
        path: relative to the root.
        kind: ``link``: the last component of the symbolic link's target; ``text``: the content
            without its trailing newline; ``exists``: ``yes`` or ``no``.
        value: what it must be. ``None`` means: no such link or file.
    """

    path: str
    kind: ExpectKind
    value: str | None

    def __str__(self) -> str:
        name = _short(self.path)
        if self.kind == "exists":
            return f"{name} {'exists' if self.value == 'yes' else 'does not exist'}"
        if self.value is None:
            return f"{name} is not there"
        return f"{name} {'->' if self.kind == 'link' else '='} {self.value}"


@attrs.frozen
class Store:
    """One write(2) of one value to one attribute; or one run of NVIDIA's ``sriov-manage``.

    Attributes:
        path: the attribute, relative to the root; or :data:`vfiohost.nvidia.SRIOV_MANAGE`.
        value: what is written, as is: no newline is added; or the script's arguments.
        after: what must hold afterwards, or ``None`` when nothing can be read back.
    """

    path: str
    value: str
    after: Expect | None

    def __str__(self) -> str:
        return self.shell()

    def shell(self, root: str = "/") -> str:
        """The store as a shell line that a person can paste.

        Args:
            root: the root directory. It stands in the line, so that what is pasted from a
                simulation cannot reach the host.
        """
        file = shlex.quote(f"{root.rstrip('/')}/{self.path}")
        if self.path == SRIOV_MANAGE:
            return f"{file} {self.value}"
        # Not `echo VALUE`: /bin/sh may read options and backslashes in it.
        said = "echo" if self.value == "\n" else f"printf %s {shlex.quote(self.value)}"
        return f"{said} > {file}"


@attrs.frozen
class WriteAttr:
    """A step that stores one value.

    Attributes:
        path, value: the store.
        before: what must hold when the step begins; another value means the plan is stale.
        after: what must hold when the store has succeeded.
        undo: the store that takes the step back, or ``None`` when nothing has to be taken back.
        why: the reason, as a phrase for people.
        tries: how often it is stored, with growing pauses, until ``after`` holds. More than once is
            for attributes that accept a value and decide by themselves whether to take it.
        gates: the steps before it are taken back only if it could be: what they bring back would
            meet something else than it left.
        device_is_new: an earlier step makes the device. When it is gone, so is what this step did.
    """

    path: str
    value: str
    before: Expect | None
    after: Expect | None
    undo: Store | None
    why: str
    tries: int = 1
    gates: bool = False
    device_is_new: bool = False

    @property
    def store(self) -> Store:
        """The step's own store."""
        return Store(self.path, self.value, self.after)


@attrs.frozen
class LoadModule:
    """A step that loads a kernel module. It is never undone: removing modules unbinds devices.

    Attributes:
        name: the module (``vfio_pci``).
        after: what must hold afterwards, for example that the driver's directory exists.
        why: the reason, as a phrase for people.
    """

    name: str
    after: Expect | None
    why: str


@attrs.frozen
class SetNodes:
    """A step that gives a device's VFIO nodes an owner, a group and a mode.

    Which nodes these are, and what they have, only shows when a VFIO driver has the device. Before
    they are changed the journal gets both, as :class:`NodeChange`, which takes the step back.

    Attributes:
        address: the device.
        uid, gid: numbers of user and group, or ``None``: as it is.
        mode: permission bits, or ``None``: as it is.
        why: the reason, as a phrase for people.
    """

    address: PciAddress
    uid: int | None
    gid: int | None
    mode: int | None
    why: str

    @property
    def after(self) -> None:
        """Nothing that an :class:`Expect` could tell; apply looks at the nodes themselves."""
        return

    def shell(self, root: str = "/") -> str:
        """The step as a shell line that a person can paste; see :meth:`Store.shell`."""
        base = root.rstrip("/")
        device = shlex.quote(f"{base}/sys/bus/pci/devices/{self.address}")
        owner = f"{_or_nothing(self.uid)}:{_or_nothing(self.gid)}".removesuffix(":")
        does = [f'chown {owner} "$n"'] if owner else []
        does += [] if self.mode is None else [f'chmod {self.mode:04o} "$n"']
        return (
            f"d={device}; v={shlex.quote(f'{base}/dev/vfio')}; "
            'g=$(basename "$(readlink "$d/iommu_group")"); '
            'for n in "$v/$g" "$v/noiommu-$g" "$v/devices/$(ls "$d/vfio-dev")"; '
            f'do test ! -e "$n" || {{ {" && ".join(does)}; }}; done'
        )


def _or_nothing(number: int | None) -> str:
    return "" if number is None else str(number)


@attrs.frozen
class Access:
    """Whose a node is, and who may open it.

    Attributes:
        uid, gid: numbers of user and group.
        mode: permission bits.
    """

    uid: int
    gid: int
    mode: int

    def __str__(self) -> str:
        return f"of {self.uid}:{self.gid} with mode {self.mode:04o}"


@attrs.frozen
class NodeChange:
    """What one VFIO node has before a change, and after it.

    Attributes:
        path: the node, relative to the root.
        inode: its inode's number; a node that the kernel has made anew has another one.
        before, after: what it has; of what is the same in both nothing is known or changed.
    """

    path: str
    inode: int
    before: Access
    after: Access

    def reversed(self) -> NodeChange:
        """The way back."""
        return NodeChange(self.path, self.inode, self.after, self.before)

    def shell(self, root: str = "/") -> str:
        """The change as a shell line that a person can paste; see :meth:`Store.shell`."""
        node = shlex.quote(f"{root.rstrip('/')}/{self.path}")
        old, new = self.before, self.after
        uid = "" if old.uid == new.uid else str(new.uid)
        gid = "" if old.gid == new.gid else f":{new.gid}"
        does = [f"chown {uid}{gid} {node}"] if uid or gid else []
        does += [] if old.mode == new.mode else [f"chmod {new.mode:04o} {node}"]
        return " && ".join(does)


@attrs.frozen
class ChangeNodes:
    """A step that changes VFIO nodes that are known, as one that takes :class:`SetNodes` back.

    A node that is gone, or that the kernel has made anew, is left alone: what was done to it went
    with it.

    Attributes:
        address: the device.
        changes: one for each node.
        why: the reason, as a phrase for people.
    """

    address: PciAddress
    changes: tuple[NodeChange, ...]
    why: str

    @property
    def after(self) -> None:
        """Nothing that an :class:`Expect` could tell; apply looks at the nodes themselves."""
        return

    def reversed(self, why: str) -> ChangeNodes:
        """The step that takes this one back."""
        changes = tuple(change.reversed() for change in reversed(self.changes))
        return ChangeNodes(self.address, changes, why)

    def shell(self, root: str = "/") -> str:
        """The step as a shell line that a person can paste; see :meth:`Store.shell`."""
        return "; ".join(change.shell(root) for change in self.changes)


Step = WriteAttr | LoadModule | SetNodes | ChangeNodes


@attrs.frozen
class Origin:
    """What a device had before a plan changed it: what ``restore`` brings back.

    Attributes:
        address: the device.
        driver: the driver it had, or ``None``.
        driver_override: the override it had, or ``None`` when not set.
    """

    address: PciAddress
    driver: str | None
    driver_override: str | None


@attrs.frozen
class Plan:
    """What a request comes down to. An empty plan means: already so.

    Attributes:
        verb: the command that it carries out (``bind``, ``restore``, ``mdev create``).
        subjects: the devices, parents or UUIDs that it is about, as text, in request order.
        steps: in the order in which they are carried out.
        origins: the state before, of each device whose driver or override the plan changes.
        notes: things that the person should know but that stand in the way of nothing.
        incomplete: what could not be found out, as sentences: of who uses the devices, so that
            there may be more users than were judged; of what they had before; or of whether there
            is room for all of it.
    """

    verb: str
    subjects: tuple[str, ...]
    steps: tuple[Step, ...]
    origins: tuple[Origin, ...] = ()
    notes: tuple[str, ...] = ()
    incomplete: tuple[str, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Nothing has to be done."""
        return not self.steps

    def to_json(self) -> dict[str, Any]:
        """The plan as plain JSON values; :meth:`from_json` reads it back."""
        return {
            "verb": self.verb,
            "subjects": list(self.subjects),
            "steps": [_step_to_json(s) for s in self.steps],
            "origins": [
                {
                    "address": str(o.address),
                    "driver": o.driver,
                    "driver_override": o.driver_override,
                }
                for o in self.origins
            ],
            "notes": list(self.notes),
            "incomplete": list(self.incomplete),
        }

    @classmethod
    def from_json(cls, data: Any) -> Plan:
        """Read what :meth:`to_json` wrote.

        Nothing is taken on trust: a plan that was read stores nowhere but below ``sys/``, and names
        modules but no files of modules.

        Raises:
            ParseError: the data is no plan; it names the part that is wrong.
        """
        fields = _object(data, "a plan")
        return cls(
            verb=_text(fields, "verb"),
            subjects=tuple(_texts(fields, "subjects")),
            steps=tuple(_step_from_json(s) for s in _list(fields, "steps")),
            origins=tuple(
                Origin(
                    PciAddress.parse(_text(o, "address")),
                    _optional(o, "driver"),
                    _optional(o, "driver_override"),
                )
                for o in (_object(x, "an origin") for x in _list(fields, "origins"))
            ),
            notes=tuple(_texts(fields, "notes")),
            incomplete=tuple(_texts(fields, "incomplete")),
        )


Outcome = Literal["done", "already", "failed", "undone", "undo-failed", "pending", "not-run"]


@attrs.frozen
class StepResult:
    """What became of one step.

    Attributes:
        step: the step.
        outcome: ``done``; ``already`` (held before, nothing written); ``failed``; ``undone``;
            ``undo-failed``; ``pending`` (the kernel has not come back); ``not-run``.
        error: the error's text, where there was one.
    """

    step: Step
    outcome: Outcome
    error: str | None = None


@attrs.frozen
class Report:
    """What became of a plan.

    Attributes:
        plan: the plan.
        results: one per step, in order.
        journal_id: under which ``undo`` and ``recover`` know it, or ``None`` when nothing was
            written.
    """

    plan: Plan
    results: tuple[StepResult, ...]
    journal_id: str | None = None

    @property
    def writes(self) -> int:
        """How many steps changed something that was not undone."""
        return sum(r.outcome == "done" for r in self.results)


def _short(path: str) -> str:
    """The last two components of a path, which is how people name an attribute."""
    return "/".join(path.split("/")[-2:])


def _step_to_json(step: Step) -> dict[str, Any]:
    if isinstance(step, SetNodes):
        return {"kind": "nodes", **attrs.asdict(step, recurse=False), "address": str(step.address)}
    if isinstance(step, ChangeNodes):
        return {
            "kind": "node-changes",
            "address": str(step.address),
            "changes": node_changes_to_json(step.changes),
            "why": step.why,
        }
    kind = "write" if isinstance(step, WriteAttr) else "load"
    fields = {"kind": kind, **attrs.asdict(step)}
    return {name: value for name, value in fields.items() if _USUAL.get(name, ...) != value}


def _step_from_json(data: Any) -> Step:
    fields = _object(data, "a step")
    kind = _text(fields, "kind")
    if kind == "load":
        return LoadModule(_module(fields), _expect(fields.get("after")), _text(fields, "why"))
    if kind == "nodes":
        return _nodes(fields)
    if kind == "node-changes":
        address = PciAddress.parse(_text(fields, "address"))
        changes = node_changes_from_json(fields.get("changes"))
        return ChangeNodes(address, changes, _text(fields, "why"))
    if kind != "write":
        raise ParseError(kind, "a kind of step ('write', 'load', 'nodes' or 'node-changes')")
    undo = fields.get("undo")
    return WriteAttr(
        path=(stored := _store(fields)).path,
        value=stored.value,
        before=_expect(fields.get("before")),
        after=_expect(fields.get("after")),
        undo=None if undo is None else _store(_object(undo, "an undo")),
        why=_text(fields, "why"),
        tries=_tries(fields),
        gates=_flag(fields, "gates"),
        device_is_new=_flag(fields, "device_is_new"),
    )


def _flag(fields: dict[str, Any], name: str) -> bool:
    value = fields.get(name, False)
    if not isinstance(value, bool):
        raise ParseError(repr(value), f"true or false (the field {name!r})")
    return value


def _tries(fields: dict[str, Any]) -> int:
    value = fields.get("tries", 1)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _MOST_TRIES:
        raise ParseError(repr(value), f"a number of tries from 1 to {_MOST_TRIES}")
    return value


def _nodes(fields: dict[str, Any]) -> SetNodes:
    return SetNodes(
        PciAddress.parse(_text(fields, "address")),
        _number(fields, "uid", _MOST_ID),
        _number(fields, "gid", _MOST_ID),
        _number(fields, "mode", _MOST_MODE),
        _text(fields, "why"),
    )


def node_changes_to_json(changes: tuple[NodeChange, ...]) -> list[dict[str, Any]]:
    """Changes of nodes as plain JSON values; :func:`node_changes_from_json` reads them back."""
    return [attrs.asdict(change) for change in changes]


def node_changes_from_json(data: Any) -> tuple[NodeChange, ...]:
    """Read what :func:`node_changes_to_json` wrote; only VFIO's nodes are changed.

    Raises:
        ParseError: the data is none of it; it names the part that is wrong.
    """
    if not isinstance(data, list):
        raise ParseError(repr(data), "a list of changes of nodes")
    return tuple(_node_change(_object(change, "a change of a node")) for change in data)


def _node_change(fields: dict[str, Any]) -> NodeChange:
    path = _text(fields, "path")
    if not _NODE.fullmatch(path):
        raise ParseError(path, "the path of a VFIO node, such as dev/vfio/15")
    inode = _needed(fields, "inode", _MOST_INODE)
    return NodeChange(path, inode, _access(fields.get("before")), _access(fields.get("after")))


def _access(data: Any) -> Access:
    fields = _object(data, "owner and mode of a node")
    return Access(
        _needed(fields, "uid", _MOST_ID),
        _needed(fields, "gid", _MOST_ID),
        _needed(fields, "mode", _ALL_MODES),
    )


def _number(fields: dict[str, Any], key: str, most: int) -> int | None:
    return None if fields.get(key) is None else _needed(fields, key, most)


def _needed(fields: dict[str, Any], key: str, most: int) -> int:
    value = fields.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise ParseError(repr(value), f"a number from 0 to {most} (the field {key!r})")
    return value


def _store(fields: dict[str, Any]) -> Store:
    value, after = _value(fields), _expect(fields.get("after"))
    if fields.get("path") != SRIOV_MANAGE:
        return Store(_path(fields), value, after)
    if not _SCRIPT_ARGUMENTS.fullmatch(value):
        raise ParseError(value, "arguments of sriov-manage, such as -e 0000:65:00.0")
    return Store(SRIOV_MANAGE, value, after)


def _expect(data: Any) -> Expect | None:
    if data is None:
        return None
    fields = _object(data, "an expectation")
    kind = _text(fields, "kind")
    known = next((k for k in get_args(ExpectKind) if k == kind), None)
    if known is None:
        raise ParseError(kind, "a kind of expectation ('link', 'text' or 'exists')")
    return Expect(_path(fields), known, _optional(fields, "value"))


def is_writable(value: str) -> bool:
    """Say whether a text has bytes that can be stored: all has, but half of a surrogate pair."""
    try:
        value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


def _path(fields: dict[str, Any]) -> str:
    # A plan that was read is carried out as root: it has no business outside sysfs, but for the
    # one file of procfs that planners write.
    path = _text(fields, "path")
    if _UNBIND_LOCK.fullmatch(path):
        return path
    components = path.split("/")
    if components[0] != "sys" or len(components) == 1 or {"", ".", ".."}.intersection(components):
        raise ParseError(path, "a path relative to the root, below sys/ and without '..'")
    if "\0" in path or not is_writable(path):
        raise ParseError(path, "a path of characters that can stand in one")
    return path


def _value(fields: dict[str, Any]) -> str:
    value = _text(fields, "value")
    if not is_writable(value):
        raise ParseError(value, "a text that can be written (the field 'value')")
    return value


def _module(fields: dict[str, Any]) -> str:
    # modprobe takes a path for a module's file, wherever it is (kmod 30).
    name = _text(fields, "name")
    if not _MODULE.fullmatch(name):
        raise ParseError(name, "the name of a module, such as vfio_pci")
    return name


def _object(data: Any, what: str) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise ParseError(repr(data), f"{what} (a JSON object)")
    return data


def _list(fields: dict[str, Any], key: str) -> list[Any]:
    value = fields.get(key)
    if not isinstance(value, list):
        raise ParseError(repr(value), f"a list (the field {key!r})")
    return value


def _texts(fields: dict[str, Any], key: str) -> list[str]:
    values = _list(fields, key)
    for value in values:
        if not isinstance(value, str):
            raise ParseError(repr(value), f"a text (in the field {key!r})")
    return values


def _text(fields: dict[str, Any], key: str) -> str:
    value = fields.get(key)
    if not isinstance(value, str):
        raise ParseError(repr(value), f"a text (the field {key!r})")
    return value


def _optional(fields: dict[str, Any], key: str) -> str | None:
    value = fields.get(key)
    if value is not None and not isinstance(value, str):
        raise ParseError(repr(value), f"a text or null (the field {key!r})")
    return value
