"""Create and remove vGPUs, whichever way their GPUs make them.

A vGPU is either a mediated device or a virtual function that takes a type: one store to ``create``
of a type below a parent, or the type's number to ``nvidia/current_vgpu_type``.

Where it goes is always the same: to the lowest free virtual function. Of several types the largest
comes first, for what is left then fits the small ones.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import attrs

from vfiohost.errors import NotFoundError, ParseError, PlanRefused, Refusal
from vfiohost.model import MdevBus, Unavailable, natural_key
from vfiohost.nvidia import VGPU_TYPE
from vfiohost.plan.hazards import ALLOW_ROOM_UNKNOWN, check_allow
from vfiohost.plan.in_use import ALLOW_VGPU, use_refusals
from vfiohost.plan.mdev import create_step, parse_uuid, remove_step, uuid_refusals
from vfiohost.plan.types import Expect, Plan, Store, WriteAttr
from vfiohost.plan.vgpu_room import Fill, Room, summary
from vfiohost.plan.words import counted
from vfiohost.vgpus import vgpu_gpus

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from vfiohost.model import PciAddress, Snapshot
    from vfiohost.vgpus import Vgpu, VgpuGpu, VgpuType

DEVICES = "sys/bus/pci/devices"
NO_TYPE = "0"
"""What ``current_vgpu_type`` reads, and takes, of a virtual function that is no vGPU."""


def plan_vgpu_create(
    snapshot: Snapshot,
    gpu: PciAddress,
    vgpu_type: str,
    count: int,
    *,
    fresh: Iterator[str],
    uuids: Sequence[str] = (),
) -> Plan:
    """Plan to create vGPUs of one type on one GPU.

    Args:
        snapshot: the host, with its mediated devices and its virtual functions that are vGPUs.
        gpu: the GPU's address.
        vgpu_type: id or name of the type, as :meth:`vfiohost.vgpus.VgpuGpu.find_type` takes it.
        count: how many, at least 1.
        fresh: UUIDs that nothing has, for mediated devices.
        uuids: the UUIDs instead, one for each.

    Returns:
        A plan whose subjects are the vGPUs: UUIDs, or addresses of virtual functions.

    Raises:
        ParseError: the count or a UUID can be none, or the GPU's vGPUs have no UUIDs.
        NotFoundError: there is no such GPU, or it offers no such type.
        AmbiguousError: several of its types have the name.
        PlanRefused: the GPU makes no vGPUs now or has too little room, or a UUID is in use.
    """
    if count < 1:
        raise ParseError(str(count), "a number of vGPUs, at least 1", where="count")
    card = _gpu(snapshot, gpu)
    if card.backend is None:
        raise PlanRefused([_no_vgpus(card)])
    kind = card.find_type(vgpu_type)
    given = tuple(parse_uuid(uuid) for uuid in uuids)
    _check_uuids(card, given, count)
    change = _Change(card, kept=card.vgpus, more=((kind, count),))
    refusals = [*change.refusals(), *uuid_refusals(_bus(snapshot), given)]
    steps = change.creations(iter(given or fresh))
    subjects = tuple(name for name, _ in steps)
    unknown = tuple(map(_tried, change.unknown()))
    plan = Plan("vgpu create", subjects, tuple(step for _, step in steps), incomplete=unknown)
    if refusals:
        raise PlanRefused(refusals, plan)
    return plan


def plan_vgpu_remove(
    snapshot: Snapshot, names: Iterable[str], *, allow: frozenset[str] = frozenset()
) -> Plan:
    """Plan to remove vGPUs.

    Args:
        snapshot: as for :func:`plan_vgpu_create`, with the usage of the vGPUs.
        names: UUIDs in lower case, or full addresses of virtual functions.
        allow: ``vfio-user`` permits to remove one that a process has open.

    Returns:
        A plan whose subjects are the vGPUs, in the order of the request. Undone, they are there
        again, with nothing of what a guest had in them.

    Raises:
        ParseError: an ``allow`` word is unknown.
        NotFoundError: there is no such vGPU.
        PlanRefused: one is in use; the plan that would have been comes with it.
    """
    check_allow(allow)
    known = {vgpu.name: vgpu for gpu in vgpu_gpus(snapshot) for vgpu in gpu.vgpus}
    wanted = tuple(dict.fromkeys(names))
    for name in wanted:
        if name not in known:
            raise _no_vgpu(snapshot, name, known)
    plan = Plan(
        "vgpu remove",
        wanted,
        tuple(_removal(snapshot, known[name]) for name in wanted),
        notes=("Undo creates them again, empty.",) if wanted else (),
        incomplete=_incomplete(snapshot),
    )
    refusals = _in_use(snapshot, wanted, allow)
    if refusals:
        raise PlanRefused(refusals, plan)
    return plan


def plan_vgpus(
    snapshot: Snapshot,
    wanted: Mapping[PciAddress, Mapping[str, int]],
    *,
    fresh: Iterator[str],
    allow: frozenset[str] = frozenset(),
) -> Plan:
    """Plan the vGPUs of some GPUs: those that are wanted, and no other.

    vGPUs that are wanted stay. Of a type that there is too much of go those that nobody uses, the
    highest virtual function first. Whether all that is wanted fits is checked of all GPUs before
    anything is planned to go. Where that cannot be known it is tried if nothing has to go for it,
    with a warning that says so, and refused else.

    Args:
        snapshot: as for :func:`plan_vgpu_create`, with the usage of the GPUs' vGPUs.
        wanted: how many of each type each GPU shall have, by id or name of the type; of a GPU with
            an empty mapping all vGPUs go. GPUs that are not in it are left alone.
        fresh: UUIDs that nothing has, for mediated devices.
        allow: ``vfio-user`` permits to remove a vGPU that a process has open; ``room-unknown``
            permits to remove vGPUs for others of which it is not known whether they fit.

    Returns:
        A plan whose subjects are the GPUs. It first removes and then creates; it is empty when all
        is so already.

    Raises:
        ParseError: a count is negative, or an ``allow`` word is unknown.
        NotFoundError: there is no such GPU, or it offers no such type.
        AmbiguousError: several types of a GPU have a name.
        PlanRefused: for all reasons of all GPUs at once.
    """
    check_allow(allow)
    gpus = {gpu.address: gpu for gpu in vgpu_gpus(snapshot)}
    refusals: list[Refusal] = []
    changes: list[_Change] = []
    for address, counts in sorted(wanted.items()):
        gpu = gpus.get(address) or _gpu(snapshot, address)
        if gpu.backend is None:
            refusals += [_no_vgpus(gpu)] if any(counts.values()) else []
            continue
        change = _difference(snapshot, gpu, counts)
        refusals += [*_unreadable(gpu, change), *change.refusals()]
        changes.append(change)
    going = [vgpu for change in changes for vgpu in change.surplus]
    unknown = [sentence for change in changes for sentence in change.unknown()]
    is_tried = not going or ALLOW_ROOM_UNKNOWN in allow
    refusals += [] if is_tried else [refusal for c in changes for refusal in c.doubtful()]
    refusals += _in_use(snapshot, [vgpu.name for vgpu in going], allow)
    removals = [_removal(snapshot, vgpu) for vgpu in going]
    made = [step for c in changes for _, step in c.creations(fresh)]
    plan = Plan(
        "vgpu set",
        tuple(str(address) for address in sorted(wanted)),
        (*removals, *made),
        incomplete=(*(_incomplete(snapshot) if removals else ()), *map(_tried, unknown)),
    )
    if refusals:
        raise PlanRefused(refusals, plan)
    return plan


@attrs.frozen
class _Change:
    """What shall become of one GPU.

    Attributes:
        gpu: the GPU as it is.
        kept: its vGPUs that stay.
        more: what is created, and how many of each.
    """

    gpu: VgpuGpu
    kept: tuple[Vgpu, ...]
    more: tuple[tuple[VgpuType, int], ...]

    @property
    def surplus(self) -> tuple[Vgpu, ...]:
        """Its vGPUs that go."""
        kept = {vgpu.name for vgpu in self.kept}
        return tuple(vgpu for vgpu in self.gpu.vgpus if vgpu.name not in kept)

    def refusals(self) -> Iterator[Refusal]:
        """The types of which there would be more than can fit."""
        for fill, kind, number in self._rounds():
            if not _room(fill, kind).may_take(number):
                yield _no_room(fill, kind, number)

    def unknown(self) -> Iterator[str]:
        """The types of which it is not known whether so many fit, as sentences."""
        for fill, kind, number in self._rounds():
            room = _room(fill, kind)
            if room.least < number and room.may_take(number):
                yield _unknown(fill, kind, number, room)

    def doubtful(self) -> Iterator[Refusal]:
        """The same as refusals, where something would have to go first."""
        at = str(self.gpu.address)
        for sentence in self.unknown():
            yield Refusal(
                "room-unknown",
                at,
                sentence,
                "See what its driver says when the vGPUs that have to go are gone "
                "(`vfiohost vgpu remove`), or let it be tried all the same: `--allow "
                f"{ALLOW_ROOM_UNKNOWN}`. If the driver refuses, what went is created again, empty.",
            )

    def _rounds(self) -> Iterator[tuple[Fill, VgpuType, int]]:
        """What is created, type by type, with what the GPU has by then."""
        fill = Fill(self.gpu, Counter(str(vgpu.type_id) for vgpu in self.kept))
        for kind, number in _largest_first(self.more):
            yield fill, kind, number
            fill = fill.with_more(kind, _fitting(fill, kind, number))

    def creations(self, uuids: Iterator[str]) -> list[tuple[str, WriteAttr]]:
        """The names of the new vGPUs, of as many as may fit, and the steps that create them."""
        taken = {vgpu.place for vgpu in self.kept} if self.gpu.takes_one_each else set()
        steps = []
        for fill, kind, number in self._rounds():
            for place in self._places(kind, _fitting(fill, kind, number), taken):
                name = place if self.gpu.backend == "vfio-vf" else next(uuids)
                steps.append((name, _creation(self.gpu, kind, place, name)))
        return steps

    def _places(self, kind: VgpuType, number: int, taken: set[str]) -> Iterator[str]:
        """The lowest free places, each as often as it takes a vGPU; they are taken then."""
        if not self.gpu.takes_one_each:
            yield from [self.gpu.places[0].name] * number
            return
        silent = self.gpu.silent(kind.type_id)
        # Those that do not tell come last.
        for place in sorted(self.gpu.places, key=lambda each: each.name in silent):
            if not number:
                return
            # What the driver says of a type is about the GPU with what it has now.
            is_offered = self.surplus or place.name in silent or place.left.get(kind.type_id)
            if place.name not in taken and is_offered:
                taken.add(place.name)
                number -= 1
                yield place.name


def _difference(snapshot: Snapshot, gpu: VgpuGpu, counts: Mapping[str, int]) -> _Change:
    """What has to become of a GPU, so that it has what is wanted."""
    wanted: Counter[str] = Counter()
    for text, number in counts.items():
        if number < 0:
            raise ParseError(str(number), f"a number of vGPUs of type {text}")
        wanted[gpu.find_type(text).type_id] += number
    used = (
        {use.subject for use in snapshot.usage.uses if use.kind in _HELD} if snapshot.usage else ()
    )
    kept: list[Vgpu] = []
    left = Counter(wanted)
    # Those that a guest has come first, so that they stay.
    for vgpu in sorted(gpu.vgpus, key=lambda v: v.name not in used):
        if isinstance(vgpu.type_id, str) and left[vgpu.type_id]:
            left[vgpu.type_id] -= 1
            kept.append(vgpu)
    more = tuple((gpu.by_id[key], number) for key, number in left.items() if number)
    names = {vgpu.name for vgpu in kept}
    return _Change(gpu, tuple(v for v in gpu.vgpus if v.name in names), more)


_HELD = frozenset({"vfio-user", "vfio-group"})


def _largest_first(
    more: Iterable[tuple[VgpuType, int]],
) -> list[tuple[VgpuType, int]]:
    return sorted(more, key=lambda m: (-(m[0].framebuffer_mib or 0), natural_key(m[0].type_id)))


# ---- steps -------------------------------------------------------------------------------------


def _creation(gpu: VgpuGpu, kind: VgpuType, place: str, name: str) -> WriteAttr:
    if gpu.backend != "vfio-vf":
        return create_step(name, place, kind.type_id, kind.name)
    path = _type_path(place)
    return WriteAttr(
        path=path,
        value=kind.type_id,
        before=Expect(path, "text", NO_TYPE),
        after=Expect(path, "text", kind.type_id),
        undo=Store(path, NO_TYPE, Expect(path, "text", NO_TYPE)),
        why=f"make {place} a vGPU: {kind}",
    )


def _removal(snapshot: Snapshot, vgpu: Vgpu) -> WriteAttr:
    for mdev in _bus(snapshot).devices:
        if mdev.uuid == vgpu.name:
            return remove_step(mdev)
    path, type_id = _type_path(vgpu.name), str(vgpu.type_id)
    return WriteAttr(
        path=path,
        value=NO_TYPE,
        before=Expect(path, "text", type_id),
        after=Expect(path, "text", NO_TYPE),
        undo=Store(path, type_id, Expect(path, "text", type_id)),
        why=f"make {vgpu.name} no vGPU any more",
    )


def _type_path(function: str) -> str:
    return f"{DEVICES}/{function}/{VGPU_TYPE}"


# ---- what stands in the way --------------------------------------------------------------------


def _gpu(snapshot: Snapshot, address: PciAddress) -> VgpuGpu:
    gpus = {gpu.address: gpu for gpu in vgpu_gpus(snapshot)}
    if address not in gpus:
        raise NotFoundError("NVIDIA GPU", str(address), near=[str(a) for a in gpus][:3])
    return gpus[address]


def _check_uuids(gpu: VgpuGpu, uuids: Sequence[str], count: int) -> None:
    if uuids and gpu.backend == "vfio-vf":
        raise ParseError(
            uuids[0],
            f"what names a vGPU of GPU {gpu.address}",
            where="UUID",
            hint="Its vGPUs are virtual functions, which have addresses and no UUIDs.",
        )
    if uuids and len(uuids) != count:
        raise ParseError(str(count), f"the number of UUIDs that were given ({len(uuids)})")
    for uuid, number in Counter(uuids).items():
        if number > 1:
            raise ParseError(uuid, "a UUID that is given once", where="UUID")


def _no_vgpus(gpu: VgpuGpu) -> Refusal:
    return Refusal("no-vgpus", str(gpu.address), gpu.why_not, gpu.remedy)


def _room(fill: Fill, kind: VgpuType) -> Room:
    """What may fit, where the GPU may take several types as well."""
    return fill.room(kind, expected=False)


def _fitting(fill: Fill, kind: VgpuType, number: int) -> int:
    most = _room(fill, kind).most
    return number if most is None else min(number, most)


def _no_room(fill: Fill, kind: VgpuType, number: int) -> Refusal:
    gpu, room = fill.gpu, _room(fill, kind).most or 0
    verb = "was" if number == 1 else "were"
    remedy = "See what fits: `vfiohost vgpu capacity`."
    if "one-type" in fill.limits(kind, expected=False):
        remedy = (
            "Choose one type for this GPU, or set it to take several while it has no vGPU "
            f"(`nvidia-smi vgpu -shm 1`), where it can. {remedy}"
        )
    return Refusal(
        "no-room",
        str(gpu.address),
        f"GPU {gpu.address} has room for {counted(room, 'more vGPU')} of {kind}{_beside(fill)}, "
        f"and {number} {verb} asked for: {fill.with_more(kind, room).why_full(kind)}.",
        remedy,
    )


def _unknown(fill: Fill, kind: VgpuType, number: int, room: Room) -> str:
    return (
        f"Whether GPU {fill.gpu.address} has room for {counted(number, 'more vGPU')} of "
        f"{kind}{_beside(fill)} is not known: {room.doubt}."
    )


def _tried(sentence: str) -> str:
    return f"{sentence} It is tried, and undone if the driver refuses. [room-unknown]"


def _beside(fill: Fill) -> str:
    holds = summary(fill.gpu, fill.held)
    return f" beside {holds}" if holds else ""


def _unreadable(gpu: VgpuGpu, change: _Change) -> Iterator[Refusal]:
    """The vGPUs that may be among those that are wanted, or not."""
    for vgpu in change.surplus:
        if isinstance(vgpu.type_id, Unavailable):
            yield Refusal(
                "unreadable",
                vgpu.name,
                f"The type of vGPU {vgpu.name} on GPU {gpu.address} could not be read: "
                f"{vgpu.type_id}.",
                f"Find out why, or remove it: `vfiohost vgpu remove {vgpu.name}`.",
            )


def _in_use(snapshot: Snapshot, names: Sequence[str], allow: frozenset[str]) -> list[Refusal]:
    if snapshot.usage is None:
        return []
    # That a virtual function is a vGPU is what the request is about.
    return list(use_refusals(snapshot.usage, names, allow | {ALLOW_VGPU}))


def _no_vgpu(snapshot: Snapshot, name: str, known: Iterable[str]) -> NotFoundError:
    mdevs = {mdev.uuid for mdev in _bus(snapshot).devices}
    detail = None
    if name in mdevs:
        detail = f"It is another mediated device: `vfiohost mdev remove {name}`."
    elif not list(known):
        detail = "There is none at all."
    return NotFoundError("vGPU", name, detail=detail)


def _incomplete(snapshot: Snapshot) -> tuple[str, ...]:
    return snapshot.usage.incomplete if snapshot.usage else ()


def _bus(snapshot: Snapshot) -> MdevBus:
    return snapshot.mdev or MdevBus((), ())
