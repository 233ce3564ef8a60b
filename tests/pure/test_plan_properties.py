"""Planners on arbitrary hosts: what holds of every plan, whatever it is about."""

from __future__ import annotations

import copy
from functools import partial
from itertools import combinations, product
from typing import TYPE_CHECKING, cast

import attrs
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.pure.abstract import AbstractHost
from tests.pure.hosts import a10_bus, device, snapshot
from vfiohost.errors import NotFoundError, PlanRefused, Refusal
from vfiohost.modalias import Modalias, ModuleIndex
from vfiohost.model import Driver, MdevBus, PciAddress, Snapshot, Unavailable, is_vfio_driver
from vfiohost.plan.bind import BindRequest, devices_needed, plan_bind, plan_restore, plan_unbind
from vfiohost.plan.changes import PROBE
from vfiohost.plan.hazards import ALLOWABLE
from vfiohost.plan.mdev import CreateRequest, plan_create, plan_remove
from vfiohost.plan.types import Expect, Origin, Plan, WriteAttr
from vfiohost.plan.undo import plan_undo

if TYPE_CHECKING:
    from collections.abc import Callable

ADDRESSES = tuple(f"0000:0{bus}:00.{f}" for bus in (1, 2) for f in (0, 1))
MODULE_OF = {
    "nouveau": "nouveau",
    "nvidia": "nvidia",
    "snd_hda_intel": "snd_hda_intel",
    "pcieport": None,
    "pci-stub": "pci_stub",
    "vfio-pci": "vfio_pci",
    "mlx5_vfio_pci": "mlx5_vfio_pci",
}
NATIVE = ("nouveau", "nvidia", "snd_hda_intel")

# What may be registered, and what a device may then have: driver, override, native drivers. Each is
# one draw, since most of the time of these tests goes into drawing.
REGISTERED = tuple(
    frozenset(found) for n in (1, 3, 5, 7) for found in combinations(sorted(MODULE_OF), n)
)
STATES = {
    registered: tuple(
        product(
            (None, *sorted(registered - {"pcieport"})),
            (None, None, *MODULE_OF, "none", "gone"),
            ((), ("nouveau",), ("nvidia",), ("nouveau", "nvidia")),
        )
    )
    for registered in REGISTERED
}


@attrs.frozen
class World:
    """A host as the planners see it, and as it really is."""

    host: Snapshot
    modules: ModuleIndex | None
    truth: AbstractHost


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Hosts of four devices in a state that some history can have brought about."""
    has_modules = draw(st.booleans())
    registered = draw(st.sampled_from(REGISTERED))
    by_override_only = draw(st.sets(st.sampled_from(ADDRESSES), max_size=2))
    devices, overrides, natives = [], {}, {}
    for n, where in enumerate(ADDRESSES):
        driver, override, known = draw(st.sampled_from(STATES[registered]))
        natives[where] = frozenset(known)
        if not has_modules and driver in NATIVE:
            # Without a list of modules, a host driver is believed to know the device's ids: it is
            # the only way in which it can have got it but for an override that was taken back.
            natives[where] |= {driver}
        overrides[where] = override
        # Bridges, missing groups and boot displays are hazards; here the steps are looked at.
        physfn = "0000:0f:00.0" if where in by_override_only else None
        devices.append(device(where, driver, ids=f"15b3:{n:04x}", group=n // 2, physfn=physfn))
    host = snapshot(
        *devices,
        drivers=[Driver(name, MODULE_OF[name]) for name in sorted(registered)],
        overrides={k: v for k, v in overrides.items() if v is not None},
    )
    lines = [
        f"alias {Modalias.of(d)} {name}"
        for d in host.devices
        for name in sorted(natives[str(d.address)])
    ]
    lines.append("alias vfio_pci:v*d*sv*sd*bc*sc*i* vfio_pci")
    names = [module for module in MODULE_OF.values() if module]
    return World(
        host,
        ModuleIndex.from_texts("\n".join(lines) + "\n", names) if has_modules else None,
        AbstractHost(
            bound={str(d.address): d.driver for d in host.devices},  # type: ignore[misc]
            overrides=overrides,
            natives=natives,
            modules=MODULE_OF,
            registered=set(registered) | {d.driver for d in devices if isinstance(d.driver, str)},
            by_override_only=frozenset(by_override_only),
        ),
    )


some_devices = st.lists(
    st.sampled_from(ADDRESSES).map(PciAddress.parse), min_size=1, max_size=4
).map(tuple)
requests = st.builds(
    BindRequest,
    devices=some_devices,
    driver=st.sampled_from([*MODULE_OF, "none", "auto"]),
    group=st.booleans(),
    once=st.booleans(),
    allow=st.just(ALLOWABLE),
)
origin_maps = st.dictionaries(
    st.sampled_from(ADDRESSES).map(PciAddress.parse),
    st.tuples(
        st.none() | st.sampled_from(list(MODULE_OF)),
        st.none() | st.sampled_from([*MODULE_OF, "none", "gone"]),
    ),
).map(lambda found: {a: Origin(a, *binding) for a, binding in found.items()})


def planned(plan: Plan | PlanRefused) -> Plan:
    """The plan; a host on which there is none is of no use to the test."""
    assume(not isinstance(plan, PlanRefused))
    assert isinstance(plan, Plan)
    return plan


def outcome(make: Callable[[], Plan]) -> tuple[Plan, tuple[Refusal, ...]]:
    """A plan, or the plan that would have been, and why it was refused."""
    try:
        return make(), ()
    except PlanRefused as refused:
        return cast("Plan", refused.plan), refused.refusals


def bind(world: World, request: BindRequest) -> Plan | PlanRefused:
    try:
        return plan_bind(world.host, request, world.modules)
    except PlanRefused as refusal:
        return refusal


def restore(
    world: World, devices: tuple[PciAddress, ...], origins: dict[PciAddress, Origin]
) -> Plan | PlanRefused:
    try:
        return plan_restore(world.host, devices, origins, world.modules)
    except PlanRefused as refusal:
        return refusal


def later(world: World, truth: AbstractHost) -> World:
    return attrs.evolve(world, host=truth.seen(world.host))


def check_every_undo(truth: AbstractHost, plan: Plan) -> None:
    """Stopped after any step, the undos of the steps in reverse bring everything back."""
    before = truth.state(plan.subjects)
    for stop in range(len(plan.steps) + 1):
        host = truth.copy()
        for step in plan.steps[:stop]:
            host.do(step)
        for step in reversed(plan.steps[:stop]):
            # Where nothing took a probed device, what the undo is to reach holds already.
            probed = step.value if isinstance(step, WriteAttr) and step.path == PROBE else None
            if probed is None or host.bound[probed] is not None:
                host.undo(step)
        assert host.state(plan.subjects) == before


def check_plan_undo(truth: AbstractHost, plan: Plan) -> None:
    """The undo of the whole plan is a plan in its own right, and so is the undo of that."""
    host = truth.copy()
    before = host.state(plan.subjects)
    host.run(plan)
    after = host.state(plan.subjects)
    undo = plan_undo(plan)
    host.run(undo)
    assert host.state(plan.subjects) == before
    host.run(plan_undo(undo))
    assert host.state(plan.subjects) == after


def drivers_in(plan: Plan) -> bool:
    return any(isinstance(step, WriteAttr) and step.path == PROBE for step in plan.steps)


@given(worlds(), requests)
def test_a_bind_ends_with_what_was_asked_for(world: World, request: BindRequest) -> None:
    plan = planned(bind(world, request))
    host = world.truth.copy()
    host.run(plan)
    wanted = {"none": None, "auto": "vfio-pci"}.get(request.driver, request.driver)
    for driver, override in host.state(plan.subjects):
        assert driver == wanted
        if request.once:
            assert override is None
        elif override is None:
            assert wanted is not None
            assert not is_vfio_driver(wanted)
        else:
            assert override == (wanted or "none")


@given(worlds(), requests)
def test_a_bind_that_was_done_has_nothing_left_to_do(world: World, request: BindRequest) -> None:
    host = world.truth.copy()
    host.run(planned(bind(world, request)))
    again = bind(later(world, host), request)
    # --group with a host driver is refused whatever the state.
    assert isinstance(again, Plan)
    assert again.is_empty
    assert again.origins == ()


@given(worlds(), requests)
def test_each_step_of_a_bind_can_be_taken_back(world: World, request: BindRequest) -> None:
    plan = planned(bind(world, request))
    check_every_undo(world.truth, plan)
    check_plan_undo(world.truth, plan)


@given(worlds(), requests)
def test_origins_are_the_state_before_of_what_changes(world: World, request: BindRequest) -> None:
    plan = planned(bind(world, request))
    host = world.truth.copy()
    before = dict(zip(plan.subjects, host.state(plan.subjects), strict=True))
    host.run(plan)
    after = dict(zip(plan.subjects, host.state(plan.subjects), strict=True))
    changed = {subject: old for subject, old in before.items() if after[subject] != old}
    assert {str(o.address): (o.driver, o.driver_override) for o in plan.origins} == changed


@given(worlds(), requests)
def test_restore_brings_back_what_bind_took(world: World, request: BindRequest) -> None:
    plan = planned(bind(world, request))
    host = world.truth.copy()
    before = host.state(plan.subjects)
    host.run(plan)
    devices = devices_needed(world.host, request)
    origins = {o.address: o for o in plan.origins}
    assume(len(origins) == len(devices))
    host.run(planned(restore(later(world, host), devices, origins)))
    assert host.state(plan.subjects) == before


@given(worlds(), some_devices, origin_maps)
def test_a_restore_can_be_taken_back_and_is_done_once(
    world: World, devices: tuple[PciAddress, ...], origins: dict[PciAddress, Origin]
) -> None:
    # Where an origin's host driver had the device without an override, its ids are known.
    natives = world.truth.natives
    assume(
        all(
            o.driver is None
            or o.driver_override is not None
            or o.driver in natives[str(a)]
            or o.driver in ("pci-stub", "vfio-pci", "mlx5_vfio_pci")
            for a, o in origins.items()
        )
    )
    plan = planned(restore(world, devices, origins))
    check_every_undo(world.truth, plan)
    if drivers_in(plan):
        return  # What the kernel chooses is not foreseen.
    check_plan_undo(world.truth, plan)
    host = world.truth.copy()
    host.run(plan)
    again = restore(later(world, host), devices, origins)
    assert isinstance(again, Plan)
    assert again.is_empty


@given(worlds(), some_devices)
def test_an_unbind_leaves_the_override_and_can_be_taken_back(
    world: World, devices: tuple[PciAddress, ...]
) -> None:
    plan = plan_unbind(world.host, devices, ALLOWABLE, world.modules)
    host = world.truth.copy()
    before = host.state(plan.subjects)
    host.run(plan)
    assert host.state(plan.subjects) == [(None, override) for _, override in before]
    check_every_undo(world.truth, plan)
    check_plan_undo(world.truth, plan)
    assert plan_unbind(host.seen(world.host), devices, ALLOWABLE, world.modules).is_empty


@given(worlds(), requests, some_devices, origin_maps)
def test_planners_are_pure(
    world: World,
    request: BindRequest,
    devices: tuple[PciAddress, ...],
    origins: dict[PciAddress, Origin],
) -> None:
    for make in (
        lambda world: plan_bind(world.host, request, world.modules),
        lambda world: plan_restore(world.host, devices, origins, world.modules),
        lambda world: plan_unbind(world.host, devices, frozenset(), world.modules),
    ):
        once, twice = (outcome(partial(make, w)) for w in (world, copy.deepcopy(world)))
        assert once == twice


broken = st.builds(Unavailable, st.sampled_from([0, 2, 5, 13]), st.just("broken"))


@st.composite
def broken_hosts(draw: st.DrawFn) -> Snapshot:
    """Hosts on which anything may be unreadable, and of any class."""
    host = draw(worlds()).host
    changed = [
        attrs.evolve(
            d,
            class_code=draw(st.sampled_from([0x030000, 0x030200, 0x060400, 0x068000, 0x010802])),
            driver=draw(st.just(d.driver) | broken),
            iommu_group=draw(st.none() | st.just(d.iommu_group) | broken),
            physfn=draw(st.none() | st.sampled_from([e.address for e in host.devices]) | broken),
        )
        for d in host.devices
    ]
    details = {
        a: attrs.evolve(
            known,
            driver_override=draw(st.just(known.driver_override) | broken),
            uevent_driver=draw(st.none() | st.just("vfio-pci") | broken),
            boot_vga=draw(st.none() | st.booleans() | broken),
            modalias=draw(st.none() | st.just("nonsense") | broken),
        )
        for a, known in host.details.items()
        if draw(st.booleans())
    }
    return attrs.evolve(host, devices=tuple(changed), details=details)


@given(broken_hosts(), requests, some_devices, st.booleans())
def test_whatever_is_broken_there_is_a_plan_or_a_refusal(
    host: Snapshot,
    request: BindRequest,
    devices: tuple[PciAddress, ...],
    permitted: bool,  # noqa: FBT001
) -> None:
    allow = ALLOWABLE if permitted else frozenset()
    request = attrs.evolve(request, allow=allow)
    modules = ModuleIndex.from_texts("", ())
    results = (
        outcome(lambda: plan_bind(host, request, modules)),
        outcome(lambda: plan_unbind(host, devices, allow)),
        outcome(lambda: plan_restore(host, devices, {}, None, allow)),
    )
    for plan, refusals in results:
        assert Plan.from_json(plan.to_json()) == plan
        assert len(set(refusals)) == len(refusals)
        assert all(all((r.code, r.subject, r.sentence, r.remedy)) for r in refusals)


def run_mdev(bus: dict[str, tuple[str, str]], plan: Plan) -> None:
    """Carry out a plan of creations and removals on (parent, type) by UUID."""

    def holds(expect: Expect | None) -> bool:
        if expect is None:
            return True
        parts = expect.path.split("/")
        known = bus.get(parts[-1])
        # Among all, or among those that a parent has of a type.
        is_among = known is not None if parts[1] == "bus" else known == (parts[3], parts[5])
        return is_among == (expect.value == "yes")

    for step in plan.steps:
        assert isinstance(step, WriteAttr)
        assert holds(step.before)
        parts = step.path.split("/")
        if parts[-1] == "create":
            bus[step.value] = (parts[3], parts[5])
        elif parts[-1] == "remove":
            del bus[parts[4]]
        assert holds(step.after)


uuids = st.uuids(version=4).map(str)


@st.composite
def mdev_hosts(draw: st.DrawFn) -> MdevBus:
    """Two A10 with some vGPUs of one type each."""
    existing = [
        (draw(uuids), f"0000:{bus}:00.{4 + n}", type_id)
        for bus in ("65", "b4")
        for type_id, most in (draw(st.sampled_from([("nvidia-595", 3), ("nvidia-596", 2)])),)
        for n in range(draw(st.integers(0, most)))
    ]
    return a10_bus(*existing)


@given(mdev_hosts(), st.lists(uuids, min_size=1, max_size=4, unique=True), st.booleans())
def test_created_devices_fit_and_can_be_taken_back(
    bus: MdevBus,
    new: list[str],
    eight: bool,  # noqa: FBT001
) -> None:
    type_id = "nvidia-595" if eight else "nvidia-596"
    request = CreateRequest("0000:65:00.0", type_id, tuple(new), (("a", "1"),))
    before = {d.uuid: (d.parent, str(d.type_id)) for d in bus.devices}
    on_gpu = [kind for parent, kind in before.values() if parent.startswith("0000:65")]
    fits = len(on_gpu) + len(new) <= (3 if eight else 2) and set(on_gpu) <= {type_id}
    if not fits:
        with pytest.raises(PlanRefused):
            plan_create(bus, request)
        return
    plan = plan_create(bus, request)
    assert plan == plan_create(copy.deepcopy(bus), request)
    now = dict(before)
    run_mdev(now, plan)
    parents = [parent for parent, _ in now.values()]
    assert len(set(parents)) == len(parents) == len(before) + len(new)
    run_mdev(now, plan_undo(plan))
    assert now == before


@given(mdev_hosts(), st.data())
def test_removed_devices_can_be_brought_back(bus: MdevBus, data: st.DataObject) -> None:
    known = [d.uuid for d in bus.devices]
    chosen = data.draw(st.lists(st.sampled_from(known), unique=True)) if known else []
    before = {d.uuid: (d.parent, str(d.type_id)) for d in bus.devices}
    now = dict(before)
    plan = plan_remove(bus, chosen)
    run_mdev(now, plan)
    assert set(now) == set(before) - set(chosen)
    run_mdev(now, plan_undo(plan))
    assert now == before
    with pytest.raises(NotFoundError):
        plan_remove(bus, ["12345678-1234-1234-1234-123456789abc"])
