"""vGPUs planned over all three backends, against a card that knows what it holds."""

from __future__ import annotations

import math
from collections import Counter
from itertools import count
from typing import TYPE_CHECKING

import attrs
import pytest
from hypothesis import assume, given, reject
from hypothesis import strategies as st

from tests.pure.hosts import A10_TYPES, a10_type, address, device, snapshot
from vfiohost.errors import NotFoundError, ParseError, PlanRefused
from vfiohost.model import (
    CardTypes,
    CardVgpuType,
    MdevBus,
    MdevParent,
    MediatedDevice,
    Snapshot,
    Unavailable,
    VgpuFacts,
    VgpuFunction,
)
from vfiohost.plan.types import Plan, WriteAttr
from vfiohost.plan.vgpu import plan_vgpu_create, plan_vgpu_remove, plan_vgpus
from vfiohost.plan.vgpu_room import Fill, capacities
from vfiohost.usage import Usage, Use
from vfiohost.vgpus import Backend, VgpuGpu, vgpu_gpus

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

GPU = address("0000:65:00.0")
MEMORY = 24576
VFS = tuple(f"0000:65:00.{n}" for n in range(4, 8))
SIZES = {name: size for name, size, _ in A10_TYPES.values()}
IDS: Mapping[str, Mapping[str, str]] = {
    "mdev": {name: key for key, (name, _, _) in A10_TYPES.items()},
    "vfio-vf": {name: key.removeprefix("nvidia-") for key, (name, _, _) in A10_TYPES.items()},
}


NAMES = {key: name for ids in IDS.values() for name, key in ids.items()}


class RefusedError(Exception):
    """The card has no room for it."""


@attrs.define
class Card:
    """A GPU with NVIDIA's vGPU host driver.

    Attributes:
        backend: how it makes vGPUs.
        is_mixed: it takes several types; then the number of a type is a power of 2, as in the
            tables of NVIDIA's mixed-size mode.
        has_file: its driver's file of all types is there.
        held: (name, place, type name) of its vGPUs.
    """

    backend: Backend
    is_mixed: bool = False
    has_file: bool = False
    held: list[tuple[str, str, str]] = attrs.field(factory=list)

    @property
    def places(self) -> tuple[str, ...]:
        return (str(GPU),) if self.backend == "mdev-pf" else VFS

    @property
    def counts(self) -> Counter[str]:
        return Counter(kind for _, _, kind in self.held)

    def most(self, kind: str) -> int:
        fits = MEMORY // SIZES[kind]
        fits = 2 ** int(math.log2(fits)) if self.is_mixed else fits
        return fits if self.backend == "mdev-pf" else min(fits, len(VFS))

    def left(self, kind: str) -> int:
        """How many more it makes, over all its places."""
        held = self.counts
        if not self.is_mixed and set(held) - {kind}:
            return 0
        free = MEMORY - sum(SIZES[each] * n for each, n in held.items())
        room = min(self.most(kind) - held[kind], free // SIZES[kind])
        return room if self.backend == "mdev-pf" else min(room, len(VFS) - len(self.held))

    def told(self, place: str, kind: str) -> int:
        """What it says of one place."""
        if self.backend == "mdev-pf":
            return self.left(kind)
        return int(self.left(kind) > 0 and all(place != used for _, used, _ in self.held))

    def create(self, name: str, place: str, kind: str) -> None:
        if not self.told(place, kind):
            raise RefusedError(f"{kind} on {place} beside {self.held}")
        self.held.append((name, place, kind))

    def store(self, step: WriteAttr) -> None:
        """What a step's store does."""
        parts = step.path.split("/")
        if parts[-1] == "create":
            self.create(step.value, parts[3], NAMES[parts[5]])
        elif parts[-1] == "remove" or step.value == "0":
            (gone,) = [each for each in self.held if each[0] == parts[4]]
            self.held.remove(gone)
        else:
            self.create(parts[4], parts[4], NAMES[step.value])

    def snapshot(self, *used: str) -> Snapshot:
        """What a scan finds; the vGPUs that a guest has are ``used``."""
        functions = () if self.backend == "mdev-pf" else VFS
        host = snapshot(
            device(str(GPU), "nvidia", total_vfs=len(functions) or None),
            *(device(vf, "nvidia", physfn=str(GPU)) for vf in functions),
            mdev=MdevBus((), ()) if self.backend == "vfio-vf" else self._bus(),
        )
        uses = tuple(Use("vfio-user", name, "QEMU has it", "/proc/7/fd/9") for name in used)
        facts = self._facts() if self.backend == "vfio-vf" else VgpuFacts()
        return attrs.evolve(host, vgpus=facts, usage=Usage(used, uses))

    def gpu(self) -> VgpuGpu:
        (found,) = vgpu_gpus(self.snapshot())
        return found

    def _bus(self) -> MdevBus:
        parents = tuple(
            MdevParent(
                name=place,
                path=f"sys/devices/{place}",
                types=tuple(
                    a10_type(key, self.told(place, name)) for name, key in IDS["mdev"].items()
                ),
                address=address(place),
                physfn=None if self.backend == "mdev-pf" else GPU,
            )
            for place in self.places
        )
        devices = tuple(
            MediatedDevice(name, place, IDS["mdev"][kind], kind, "nvidia-vgpu-vfio", 50)
            for name, place, kind in self.held
        )
        return MdevBus(parents, devices)

    def _facts(self) -> VgpuFacts:
        current = {place: kind for _, place, kind in self.held}
        numbers = {name: int(key) for name, key in IDS["vfio-vf"].items()}
        types = tuple(CardVgpuType(n, name, MEMORY // SIZES[name]) for name, n in numbers.items())
        return VgpuFacts(
            tuple(
                VgpuFunction(
                    address(vf),
                    numbers[current[vf]] if vf in current else 0,
                    tuple((n, name) for name, n in numbers.items() if self.left(name) > 0),
                )
                for vf in VFS
            ),
            (CardTypes(0x2236, None, types),) if self.has_file else (),
        )


def uuids() -> Iterator[str]:
    return (f"00000000-0000-4000-8000-{n:012x}" for n in count(1))


BACKENDS: tuple[Backend, ...] = ("mdev-pf", "mdev-vf", "vfio-vf")
KINDS = st.sampled_from(list(SIZES))


@st.composite
def cards(draw: st.DrawFn) -> Card:
    card = Card(draw(st.sampled_from(BACKENDS)), draw(st.booleans()), draw(st.booleans()))
    ids = uuids()
    for kind in draw(st.lists(KINDS, max_size=4)):
        for place in draw(st.permutations(card.places)):
            if card.told(place, kind):
                card.create(place if card.backend == "vfio-vf" else next(ids), place, kind)
                break
    return card


WANTED = st.dictionaries(KINDS, st.integers(0, 5), max_size=3)


def fresh() -> Iterator[str]:
    return (f"11111111-0000-4000-8000-{n:012x}" for n in count(1))


def planned(
    card: Card, wanted: Mapping[str, int], *used: str, allow: frozenset[str] = frozenset()
) -> Plan:
    offered = {kind.name for kind in card.gpu().types}
    assume(offered >= set(wanted))
    return plan_vgpus(card.snapshot(*used), {GPU: wanted}, fresh=fresh(), allow=allow)


def carry_out(card: Card, plan: Plan) -> None:
    for step in plan.steps:
        assert isinstance(step, WriteAttr)
        card.store(step)


# ---- what every plan keeps to ------------------------------------------------------------------


@given(cards(), WANTED)
def test_a_plan_makes_what_is_wanted_or_says_that_it_is_not_known(
    card: Card, wanted: dict[str, int]
) -> None:
    try:
        plan = planned(card, wanted)
    except PlanRefused as refused:
        codes = {each.code for each in refused.refusals}
        assert codes <= {"no-room", "room-unknown"}
        if codes == {"no-room"}:
            # It says so of what cannot be indeed, whatever has to go before.
            with pytest.raises(RefusedError):
                fill_anew(attrs.evolve(card, held=[]), wanted)
        return
    before = list(card.held)
    try:
        carry_out(card, plan)
    except RefusedError:
        assert set(before) <= set(card.held)  # nothing has gone for it
        assert (card.is_mixed and not before) or "[room-unknown]" in plan.incomplete[0]
    else:
        assert card.counts == +Counter(wanted)


def fill_anew(card: Card, wanted: Mapping[str, int]) -> None:
    ids = uuids()
    for kind in sorted(wanted, key=lambda k: -SIZES[k]):
        for _ in range(wanted[kind]):
            place = next((p for p in card.places if card.told(p, kind)), card.places[0])
            card.create(next(ids), place, kind)


@given(cards(), WANTED)
def test_what_is_right_stays_and_nothing_is_created_before_all_is_removed(
    card: Card, wanted: dict[str, int]
) -> None:
    try:
        plan = planned(card, wanted, allow=frozenset({"room-unknown"}))
    except PlanRefused:
        reject()
    removals = [is_removal(step) for step in plan.steps]
    assert removals == sorted(removals, reverse=True)
    surplus = card.counts - Counter(wanted)
    missing = Counter(wanted) - card.counts
    assert sum(removals) == sum(surplus.values())
    assert len(removals) - sum(removals) == sum(missing.values())


def is_removal(step: object) -> bool:
    assert isinstance(step, WriteAttr)
    return step.path.endswith("/remove") or step.value == "0"


@given(cards(), WANTED)
def test_the_same_request_gives_the_same_plan_in_whatever_order_it_is_said(
    card: Card, wanted: dict[str, int]
) -> None:
    backwards = dict(reversed(wanted.items()))
    assert outcome(card, wanted) == outcome(card, backwards)


def outcome(card: Card, wanted: Mapping[str, int]) -> object:
    try:
        return planned(card, wanted, allow=frozenset({"room-unknown"}))
    except PlanRefused as refused:
        return refused.refusals


@given(cards(), WANTED, st.data())
def test_a_vgpu_that_a_guest_has_never_goes_and_stays_before_those_that_nobody_has(
    card: Card, wanted: dict[str, int], data: st.DataObject
) -> None:
    used = data.draw(st.sets(st.sampled_from([name for name, _, _ in card.held] or [""])))
    used.discard("")
    kept = Counter(kind for name, _, kind in card.held if name in used)
    try:
        plan = planned(card, wanted, *used, allow=frozenset({"room-unknown"}))
    except PlanRefused as refused:
        codes = {each.code for each in refused.refusals}
        assert ("in-use" in codes) == bool(kept - Counter(wanted))
        return
    assert not kept - Counter(wanted)
    removals = [s for s in plan.steps if isinstance(s, WriteAttr) and is_removal(s)]
    gone = {step.path.split("/")[4] for step in removals}
    assert not gone & used


@given(cards())
def test_capacity_claims_no_more_than_there_is_and_excludes_nothing_that_is(card: Card) -> None:
    for each in capacities(card.gpu()):
        left = card.left(NAMES[each.kind.type_id])
        # That it is in mixed-size mode does not show without a vGPU, and is not to be expected.
        assert each.room.least <= left or (card.is_mixed and not card.held)
        assert each.room.may_take(left)
        assert bool(each.room.doubt) == (each.room.least != each.room.most)
        assert bool(each.room.most) or not each.after


@given(cards())
def test_a_single_place_that_counts_is_believed(card: Card) -> None:
    assume(card.backend == "mdev-pf")
    for each in capacities(card.gpu()):
        assert str(each.room) == str(card.left(NAMES[each.kind.type_id]))


# ---- one at a time -----------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_they_go_to_the_lowest_free_places(backend: Backend) -> None:
    card = Card(backend)
    first = plan_vgpu_create(card.snapshot(), GPU, "A10-8Q", 2, fresh=fresh())
    carry_out(card, first)
    second = plan_vgpu_create(card.snapshot(), GPU, "A10-8Q", 1, fresh=uuids())
    carry_out(card, second)
    expected = [str(GPU)] * 3 if backend == "mdev-pf" else list(VFS[:3])
    assert [place for _, place, _ in card.held] == expected
    assert (first.incomplete, second.incomplete) == ((), ())
    carry_out(card, plan_vgpu_remove(card.snapshot(), [card.held[1][0]]))
    carry_out(card, plan_vgpu_create(card.snapshot(), GPU, "A10-8Q", 1, fresh=fresh()))
    assert sorted(place for _, place, _ in card.held) == expected


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_second_type_is_refused_where_the_driver_shows_that_it_takes_one(
    backend: Backend,
) -> None:
    card = Card(backend, has_file=True)
    carry_out(card, plan_vgpu_create(card.snapshot(), GPU, "A10-8Q", 1, fresh=fresh()))
    assert card.gpu().is_mixed is False
    with pytest.raises(PlanRefused) as caught:
        plan_vgpu_create(card.snapshot(), GPU, "A10-3Q", 1, fresh=uuids())
    (refusal,) = caught.value.refusals
    assert refusal.code == "no-room"
    assert "one type at a time" in refusal.sentence
    assert "nvidia-smi vgpu -shm 1" in refusal.remedy


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("is_mixed", [False, True])
def test_two_types_on_an_empty_gpu_are_tried_largest_first(
    backend: Backend, *, is_mixed: bool
) -> None:
    card = Card(backend, is_mixed)
    plan = plan_vgpus(card.snapshot(), {GPU: {"A10-3Q": 1, "A10-12Q": 1}}, fresh=fresh())
    small, large = (card.gpu().find_type(name) for name in ("A10-3Q", "A10-12Q"))
    (note,) = plan.incomplete
    assert note == (
        f"Whether GPU {GPU} has room for 1 more vGPU of {small} beside 1 vGPU of {large} is not "
        "known: whether it takes several types shows only while it has a vGPU. It is tried, and "
        "undone if the driver refuses. [room-unknown]"
    )
    if not is_mixed:
        with pytest.raises(RefusedError):
            carry_out(card, plan)
        return
    carry_out(card, plan)
    assert [kind for _, _, kind in card.held] == [large.name, small.name]


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_is_given_up_for_what_may_not_fit(backend: Backend) -> None:
    card = Card(backend, has_file=True)
    carry_out(card, plan_vgpu_create(card.snapshot(), GPU, "A10-24Q", 1, fresh=fresh()))
    mixed = {"A10-3Q": 1, "A10-12Q": 1}
    with pytest.raises(PlanRefused) as caught:
        plan_vgpus(card.snapshot(), {GPU: mixed}, fresh=uuids())
    (refusal,) = caught.value.refusals
    assert refusal.code == "room-unknown"
    assert "--allow room-unknown" in refusal.remedy
    allowed = plan_vgpus(
        card.snapshot(), {GPU: mixed}, fresh=uuids(), allow=frozenset({"room-unknown"})
    )
    assert [is_removal(step) for step in allowed.steps] == [True, False, False]
    assert len(allowed.incomplete) == 1


def test_where_only_one_more_is_told_more_are_tried() -> None:
    """Of a card with a vGPU and without its driver's file the memory is not known."""
    card = Card("vfio-vf", held=[(VFS[0], VFS[0], "NVIDIA A10-8Q")])
    (capacity,) = capacities(card.gpu())
    assert (str(capacity.room), capacity.room.doubt) == (
        "1-3",
        "its driver says only whether one more fits",
    )
    assert not plan_vgpu_create(card.snapshot(), GPU, "A10-8Q", 1, fresh=fresh()).incomplete
    plan = plan_vgpu_create(card.snapshot(), GPU, "A10-8Q", 3, fresh=fresh())
    assert "[room-unknown]" in plan.incomplete[0]
    with pytest.raises(RefusedError):
        carry_out(card, plan)
    told = attrs.evolve(card, has_file=True, held=[(VFS[0], VFS[0], "NVIDIA A10-8Q")]).gpu()
    assert str(Fill.now(told).room(told.find_type("A10-8Q"))) == "2"


# ---- what could not be read --------------------------------------------------------------------

LOCKED = Unavailable(5, "Input/output error")


def with_types(host: Snapshot, left: Mapping[str, int | Unavailable]) -> Snapshot:
    """A host whose places say other numbers of all types."""
    assert host.mdev is not None
    parents = tuple(
        attrs.evolve(
            parent,
            types=tuple(
                attrs.evolve(t, available_instances=left.get(parent.name, t.available_instances))
                for t in parent.types
            ),
        )
        for parent in host.mdev.parents
    )
    return attrs.evolve(host, mdev=attrs.evolve(host.mdev, parents=parents))


def test_places_that_do_not_tell_come_last_and_are_tried() -> None:
    host = with_types(Card("mdev-vf").snapshot(), {VFS[0]: LOCKED})
    (gpu,) = vgpu_gpus(host)
    assert gpu.silent("nvidia-592") == (VFS[0],)
    room = Fill.now(gpu).room(gpu.find_type("A10-3Q"))
    assert (str(room), room.doubt) == ("1-4", f"what {VFS[0]} can make could not be read")
    plan = plan_vgpu_create(host, GPU, "A10-3Q", 4, fresh=fresh())
    assert [step.path.split("/")[3] for step in plan.steps if isinstance(step, WriteAttr)] == [
        *VFS[1:],
        VFS[0],
    ]
    assert "[room-unknown]" in plan.incomplete[0]


def test_a_gpu_that_does_not_count_is_bound_by_the_most_of_a_type() -> None:
    host = with_types(Card("mdev-pf").snapshot(), {str(GPU): LOCKED})
    (gpu,) = vgpu_gpus(host)
    assert str(Fill.now(gpu).room(gpu.find_type("A10-8Q"))) == "0-3"
    nothing = attrs.evolve(
        gpu,
        framebuffer_mib=None,
        types=tuple(attrs.evolve(t, max_instances=None) for t in gpu.types),
    )
    assert str(Fill.now(nothing).room(nothing.find_type("A10-8Q"))) == "0-?"
    with pytest.raises(PlanRefused) as caught:
        plan_vgpu_create(host, GPU, "A10-8Q", 4, fresh=fresh())
    assert [each.code for each in caught.value.refusals] == ["no-room"]
    assert len(plan_vgpu_create(host, GPU, "A10-8Q", 3, fresh=fresh()).steps) == 3


def test_a_function_that_may_be_a_vgpu_makes_the_room_unknown() -> None:
    host = Card("vfio-vf", has_file=True).snapshot()
    assert host.vgpus is not None
    first, *others = host.vgpus.functions
    functions = (attrs.evolve(first, current=LOCKED), *others)
    host = attrs.evolve(host, vgpus=attrs.evolve(host.vgpus, functions=functions))
    (gpu,) = vgpu_gpus(host)
    assert gpu.unread == (VFS[0],)
    room = Fill.now(gpu).room(gpu.find_type("A10-12Q"))
    assert (str(room), room.doubt) == ("1-2", f"what {VFS[0]} takes of it could not be read")


def test_functions_that_do_not_list_their_types_are_tried_by_the_drivers_file() -> None:
    host = Card("vfio-vf", has_file=True).snapshot()
    assert host.vgpus is not None
    functions = tuple(attrs.evolve(f, creatable=LOCKED) for f in host.vgpus.functions)
    host = attrs.evolve(host, vgpus=attrs.evolve(host.vgpus, functions=functions))
    (gpu,) = vgpu_gpus(host)
    assert str(Fill.now(gpu).room(gpu.find_type("A10-12Q"))) == "0-2"
    plan = plan_vgpu_create(host, GPU, "A10-12Q", 2, fresh=fresh())
    assert plan.subjects == VFS[:2]
    assert "[room-unknown]" in plan.incomplete[0]


# ---- MIG-backed types --------------------------------------------------------------------------


def mig(*held: int, instances: Mapping[int, int]) -> Snapshot:
    """An A100 whose functions offer MIG-backed types while there are GPU instances for them."""
    names = {471: "NVIDIA A100-1-5C", 473: "NVIDIA A100-2-10C", 468: "NVIDIA A100-40C"}
    left = Counter(instances) - Counter(held)
    creatable = tuple((n, names[n]) for n in names if left[n])
    types = tuple(CardVgpuType(n, name, {471: 7, 473: 3}.get(n, 1)) for n, name in names.items())
    functions = tuple(
        VgpuFunction(address(vf), held[index] if index < len(held) else 0, creatable)
        for index, vf in enumerate(VFS)
    )
    host = snapshot(
        device(str(GPU), "nvidia", ids="10de:20f1", total_vfs=len(VFS)),
        *(device(vf, "nvidia", physfn=str(GPU)) for vf in VFS),
        mdev=MdevBus((), ()),
    )
    return attrs.evolve(host, vgpus=VgpuFacts(functions, (CardTypes(0x20F1, None, types),)))


def test_mig_backed_types_go_side_by_side_as_there_are_gpu_instances() -> None:
    host = mig(471, instances={471: 2, 473: 1})
    found = {c.kind.short: c.room for c in capacities(vgpu_gpus(host)[0])}
    assert {name: str(room) for name, room in found.items()} == {
        "A100-1-5C": "1-3",
        "A100-2-10C": "1-3",
        "A100-40C": "0",
    }
    assert "GPU instances" in found["A100-1-5C"].doubt
    plan = plan_vgpus(host, {GPU: {"A100-1-5C": 2, "A100-2-10CME": 1}}, fresh=fresh())
    assert [s.value for s in plan.steps if isinstance(s, WriteAttr)] == ["473", "471"]
    assert any("nvidia-smi mig -lgi" in note for note in plan.incomplete)


def test_a_suffix_counts_where_the_gpu_has_it_and_is_left_out_where_it_has_not() -> None:
    host = mig(471, instances={471: 3})
    (gpu,) = vgpu_gpus(host)
    assert gpu.find_type("A100-1-5CGFX").type_id == "471"
    # What NVIDIA's vGPU device manager makes anew each time is as it shall be.
    assert gpu.has_just({"A100-1-5CGFX": 1})
    assert not plan_vgpus(host, {GPU: {"A100-1-5CGFX": 1}}, fresh=fresh()).steps
    # Two names of one type are two vGPUs.
    both = plan_vgpus(host, {GPU: {"A100-1-5C": 1, "A100-1-5CGFX": 1}}, fresh=fresh())
    assert [s.value for s in both.steps if isinstance(s, WriteAttr)] == ["471"]
    assert not gpu.has_just({"A100-1-5C": 1, "A100-1-5CGFX": 1})
    with_media = attrs.evolve(gpu.types[0], type_id="480", name="NVIDIA A100-1-5CME")
    gpu = attrs.evolve(gpu, types=(*gpu.types, with_media))
    assert gpu.find_type("A100-1-5CME").type_id == "480"
    assert gpu.find_type("A100-1-5CMEALL").type_id == "471"


def test_a_mig_backed_type_without_a_gpu_instance_is_refused_and_never_beside_another() -> None:
    host = mig(471, instances={471: 1})
    for name, said in (("A100-1-5C", "GPU instance"), ("A100-40C", "one type at a time")):
        with pytest.raises(PlanRefused) as caught:
            plan_vgpu_create(host, GPU, name, 1, fresh=fresh())
        (refusal,) = caught.value.refusals
        assert (refusal.code, said in refusal.sentence) == ("no-room", True)


# ---- what makes no sense -----------------------------------------------------------------------


def test_a_request_that_makes_no_sense_is_no_refusal() -> None:
    host = Card("vfio-vf").snapshot()
    with pytest.raises(ParseError, match="at least 1"):
        plan_vgpu_create(host, GPU, "A10-8Q", 0, fresh=fresh())
    with pytest.raises(ParseError, match="no UUIDs"):
        plan_vgpu_create(host, GPU, "A10-8Q", 1, fresh=fresh(), uuids=[next(uuids())])
    with pytest.raises(NotFoundError, match="offers no vGPU type 'A10-9Q'"):
        plan_vgpus(host, {GPU: {"A10-9Q": 1}}, fresh=fresh())
    with pytest.raises(ParseError, match="a number of vGPUs"):
        plan_vgpus(host, {GPU: {"A10-8Q": -1}}, fresh=fresh())
    with pytest.raises(NotFoundError, match="There is none at all"):
        plan_vgpu_remove(host, [VFS[0]])
    with pytest.raises(ParseError, match="room-unknown"):
        plan_vgpus(host, {}, fresh=fresh(), allow=frozenset({"room"}))
