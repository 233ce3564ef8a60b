"""What the simulated kernel knows and sysfs does not show. Kept as JSON beside the tree."""

from __future__ import annotations

import json
from math import isfinite
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import attrs

from vfiohost.errors import ParseError

Verb = Literal["none", "store", "load", "unload"]
"""What an operation asks; ``none`` while nobody asks anything."""


@attrs.define
class OpenFile:
    """What a process of the simulated host holds open.

    Attributes:
        number: identifies it.
        pid: the process.
        kind: ``group`` (the group node alone), ``device`` (the device behind it, too), ``cdev`` (a
            device's own node) or ``iommufd``.
        group: the IOMMU group; ``None`` for an iommufd.
        subject: address or mdev UUID of the device; ``None`` for a group alone and an iommufd.
        owned: the group's DMA belongs to the process: it has the group in a container, or the
            cdev is bound to an iommufd.
        descriptors: numbers of the descriptors in ``proc/PID/fd``.
        revoked: the last device has left VFIO: the group node that is open is a dead one.
        iommufd: number of the iommufd that a cdev is bound to.
        ioas: id of the IO address space that it is attached to.
    """

    number: int
    pid: int
    kind: str
    group: int | None
    subject: str | None
    owned: bool
    descriptors: list[int]
    revoked: bool = False
    iommufd: int | None = None
    ioas: int | None = None


@attrs.define
class Pending:
    """A store or module load that has not come back.

    Attributes:
        number: identifies it; its caller looks for the result under this number.
        verb: ``store``, ``load`` or ``unload``.
        path: the attribute without links, or the module.
        value: what was written.
        not_before: when a delayed store goes on, in seconds since 1970; 0 for a blocked one.
        blocked: its rule has run, at least in part.
        locks: devices whose lock it holds.
        abandoned: its caller waits no more.
        as_root: root has opened the attribute.
        attaching: the driver that it is offering devices to.
    """

    number: int
    verb: Verb
    path: str
    value: str
    not_before: float = 0.0
    blocked: bool = False
    locks: list[str] = attrs.field(factory=list)
    abandoned: bool = False
    as_root: bool = True
    attaching: str = ""


@attrs.define
class Fault:
    """A fault that a test asked for.

    Attributes:
        glob: the paths it is for.
        action: ``refuse``, ``ignore`` or ``delay``.
        errno, op: what a refusal answers, and whether to open or to write.
        seconds: how long a delay lasts.
        count: how often it still strikes, or ``None`` for always.
    """

    glob: str
    action: str
    errno: int = 0
    op: str = "write"
    seconds: float = 0.0
    count: int | None = None


@attrs.define
class Hidden:
    """What an attribute would read as that cannot be read now: a FIFO stands in its place."""

    text: str
    mode: int


@attrs.define
class Zombie:
    """A mediated device that is being removed while it is open (edge case of ``remove``).

    Attributes:
        parent: its parent's directory.
        type_id: its type.
        operation: the pending store that removes it.
    """

    parent: str
    type_id: str
    operation: int


@attrs.define
class State:
    """Everything that lives beside the tree.

    Attributes:
        booted: the tree has been completed.
        next_number: for open files and pending operations.
        drivers: PCI drivers in the order in which they were registered: who is asked first.
        dynamic_ids: by driver: vendor, device, subvendor, subdevice, class, class mask.
        null_overrides: the addresses whose override is the text ``(null)``, which reads like none.
        most_vfs: by address: how many virtual functions a driver really enables.
        failing_probes: driver glob, address glob, errno.
        releasing: by address: the driver that is being unbound, whose link is gone already.
        heterogeneous: the cards that may carry vGPUs of different types.
        vf_tokens: by address of a physical function on vfio-pci: the UUID that its user gave it.
        found_late: the PCI functions that were added after the start, in that order.
        leaving: virtual functions that are being removed, whose link is gone already, with their
            physical function.
        zombies: by UUID.
        hidden: by path.
        vfio_numbers: by address or UUID: N of ``vfioN``, from register until the last user is gone.
        ioas: by number of an iommufd: ids of its IO address spaces; it lives as long as it is open
            or a device is bound to it.
        processes: by pid: whether its directory in ``proc`` was made here.
        open_files, pending, faults: see their classes.
        results: by number of an operation that was pending: its errno, 0 for success.
    """

    booted: bool = False
    next_number: int = 1
    drivers: list[str] = attrs.field(factory=list)
    dynamic_ids: dict[str, list[list[int]]] = attrs.field(factory=dict)
    null_overrides: list[str] = attrs.field(factory=list)
    most_vfs: dict[str, int] = attrs.field(factory=dict)
    failing_probes: list[tuple[str, str, int]] = attrs.field(factory=list)
    releasing: dict[str, str] = attrs.field(factory=dict)
    heterogeneous: list[str] = attrs.field(factory=list)
    vf_tokens: dict[str, str] = attrs.field(factory=dict)
    found_late: list[str] = attrs.field(factory=list)
    leaving: dict[str, str] = attrs.field(factory=dict)
    zombies: dict[str, Zombie] = attrs.field(factory=dict)
    hidden: dict[str, Hidden] = attrs.field(factory=dict)
    vfio_numbers: dict[str, int] = attrs.field(factory=dict)
    ioas: dict[str, list[int]] = attrs.field(factory=dict)
    processes: dict[str, bool] = attrs.field(factory=dict)
    open_files: list[OpenFile] = attrs.field(factory=list)
    pending: list[Pending] = attrs.field(factory=list)
    faults: list[Fault] = attrs.field(factory=list)
    results: dict[str, int] = attrs.field(factory=dict)

    def take_number(self) -> int:
        """A number that was not given out before."""
        number = self.next_number
        self.next_number += 1
        return number

    def to_text(self) -> str:
        """The state as JSON text."""
        return json.dumps(attrs.asdict(self), indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_text(cls, text: str) -> State:
        """Read what :meth:`to_text` wrote.

        Nothing is taken on trust: whoever may write to the directory may write this, too.

        Raises:
            ParseError: it is something else.
        """
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            raise ParseError(text[:60], "JSON") from None
        state: State = _read(value, cls, "state")
        return state


def _read(value: Any, kind: Any, name: str) -> Any:
    """Make a value of a type, as annotations name it, of plain JSON.

    Args:
        value: what JSON has.
        kind: the type: one of the classes above, ``dict[str, T]``, ``list[T]``, a tuple, a union,
            a ``Literal`` or a plain one.
        name: of the value, for the message.

    Raises:
        ParseError: it is of another type.
    """
    origin, args = get_origin(kind), get_args(kind)
    made: Any = _WRONG
    if attrs.has(kind):
        made = _read_object(value, kind)
    elif origin in (dict, list, tuple):
        made = _read_many(value, origin, args, name)
    elif origin is UnionType:
        made = None if value is None else _read(value, args[0], name)
    elif _is_plain(value, kind):
        made = value
    if made is _WRONG:
        raise ParseError(repr(value)[:60], f"what a simulation has as {name!r}")
    return made


def _read_object(value: Any, kind: Any) -> Any:
    kinds = get_type_hints(kind)
    needed = {field.name for field in attrs.fields(kind) if field.default is attrs.NOTHING}
    if isinstance(value, dict) and needed <= value.keys() <= kinds.keys():
        return kind(**{key: _read(each, kinds[key], key) for key, each in value.items()})
    return _WRONG


def _read_many(value: Any, origin: Any, args: tuple[Any, ...], name: str) -> Any:
    if origin is dict and isinstance(value, dict):
        return {key: _read(each, args[1], name) for key, each in value.items()}
    if origin is list and isinstance(value, list):
        return [_read(each, args[0], name) for each in value]
    if origin is tuple and isinstance(value, list) and len(value) == len(args):
        return tuple(_read(each, kind, name) for each, kind in zip(value, args, strict=True))
    return _WRONG


def _is_plain(value: Any, kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return isinstance(value, str) and value in get_args(kind)
    if kind is float:
        return type(value) in (int, float) and isfinite(value)
    return type(value) is kind


_WRONG = object()
