"""Which steps may be under way at the same time: the pure part."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfiohost import Host
from vfiohost.apply.lanes import lanes, named, related, stages, stands_alone
from vfiohost.model import SRIOV_MANAGE, PciAddress
from vfiohost.plan.types import LoadModule, SetNodes, WriteAttr

if TYPE_CHECKING:
    from collections.abc import Callable

    from vfiohost.plan.types import Plan, Step
    from vfiohost.testing import SimulatedKernel

ADDRESSES = [f"0000:{bus:02x}:00.{function}" for bus in range(6) for function in range(2)]
UUIDS = [f"aaaaaaaa-0000-4000-8000-00000000000{number}" for number in range(4)]


def write(path: str, value: str = "1") -> WriteAttr:
    return WriteAttr(path, value, None, None, None, "")


def unbind(address: str) -> WriteAttr:
    return write("sys/bus/pci/drivers/nvidia/unbind", address)


def create(uuid: str, parent: str) -> WriteAttr:
    return write(f"sys/class/mdev_bus/{parent}/mdev_supported_types/nvidia-595/create", uuid)


ALONE: list[Step] = [
    LoadModule("vfio_pci", None, ""),
    write("sys/bus/pci/drivers/vfio-pci/new_id", "10de 2236"),
    write("sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "Y"),
    write(f"sys/bus/pci/devices/{ADDRESSES[0]}/sriov_numvfs", "4"),
    write(f"sys/bus/pci/devices/{ADDRESSES[0]}/remove"),
    write(f"sys/bus/pci/devices/{ADDRESSES[0]}/rescan"),
    write("sys/bus/pci/rescan"),
    write("sys/class/pci_bus/0000:01/rescan"),
    write(f"sys/bus/pci/devices/{ADDRESSES[0]}/reset"),
    write(SRIOV_MANAGE, f"-e {ADDRESSES[0]}"),
]
OF_DEVICES: list[Step] = [
    unbind(ADDRESSES[0]),
    write("sys/bus/pci/drivers_probe", ADDRESSES[0]),
    write(f"sys/bus/pci/devices/{ADDRESSES[0]}/driver_override", "vfio-pci"),
    write(f"sys/bus/pci/devices/{ADDRESSES[0]}/reset_method", "bus"),
    write(f"proc/driver/nvidia/gpus/{ADDRESSES[0]}/unbindLock"),
    SetNodes(PciAddress.parse(ADDRESSES[0]), 1000, None, None, ""),
    create(UUIDS[0], "mtty"),
    write(f"sys/bus/mdev/devices/{UUIDS[0]}/remove"),
]


@pytest.mark.parametrize("step", ALONE, ids=lambda step: getattr(step, "path", "module"))
def test_nothing_is_under_way_with_what_may_change_everything(step: Step) -> None:
    assert stands_alone(step)


@pytest.mark.parametrize("step", OF_DEVICES, ids=lambda step: getattr(step, "path", "nodes"))
def test_what_is_about_a_device_leaves_others_alone(step: Step) -> None:
    assert not stands_alone(step)


steps_of_devices = st.one_of(
    st.builds(unbind, st.sampled_from(ADDRESSES)),
    st.builds(create, st.sampled_from(UUIDS), st.sampled_from(["mtty", *ADDRESSES])),
    st.builds(lambda uuid: write(f"sys/bus/mdev/devices/{uuid}/remove"), st.sampled_from(UUIDS)),
)


@given(st.lists(st.one_of(steps_of_devices, st.sampled_from(ALONE)), max_size=30))
def test_stages_are_the_whole_plan_in_its_order(steps: list[Step]) -> None:
    parts = list(stages(steps))
    assert [index for part in parts for index in part] == list(range(len(steps)))
    for part in parts:
        assert len(part) == 1 or not any(stands_alone(steps[index]) for index in part)


bonds = st.dictionaries(
    st.sampled_from([*ADDRESSES, *UUIDS]),
    st.sets(st.sampled_from(["group 1", "group 2", "slot 1", *ADDRESSES]), max_size=2),
)


@given(st.lists(steps_of_devices, max_size=20), bonds)
def test_lanes_have_nothing_in_common_and_keep_their_order(
    steps: list[Step], bonds: dict[str, set[str]]
) -> None:
    first = {uuid: step for step in reversed(steps) for uuid in named(step) & set(UUIDS)}
    to_come = {uuid for uuid, step in first.items() if len(named(step)) > 1}
    bonds = {thing: bonds[thing] for thing in bonds.keys() - to_come}

    def ask(thing: str) -> set[str]:
        assert thing not in to_come  # nobody knows but the step, which names its parent
        return bonds.get(thing, set())

    found = lanes(steps, range(len(steps)), ask)
    assert sorted(index for lane in found for index in lane) == list(range(len(steps)))
    assert all(lane == sorted(lane) for lane in found)
    reached = [set().union(*(reach(steps[i], bonds) for i in lane)) for lane in found]
    for one in range(len(found)):
        for other in range(one):
            assert not reached[one] & reached[other]
    assert len(found) == len(components(steps, bonds))


def reach(step: Step, bonds: dict[str, set[str]]) -> set[str]:
    """What a step names, and what that is bound to."""
    return set(named(step)).union(*(bonds.get(thing, set()) for thing in named(step)))


def components(steps: list[Step], bonds: dict[str, set[str]]) -> list[set[str]]:
    """The same by brute force: sets of things, joined for as long as two of them meet."""
    found = [reach(step, bonds) for step in steps]
    while True:
        pair = next(
            ((a, b) for a in range(len(found)) for b in range(a) if found[a] & found[b]), None
        )
        if pair is None:
            return found
        found[pair[1]] |= found.pop(pair[0])


def lanes_of(host: Host, plan: Plan) -> list[int]:
    """How many lanes each stage of a plan has."""
    return [
        len(lanes(plan.steps, stage, partial(related, host.sysfs))) for stage in stages(plan.steps)
    ]


@pytest.fixture
def lanes_on(
    simulated_host: Callable[[str], SimulatedKernel],
) -> Callable[[str, Callable[[Host], Plan]], list[int]]:
    def count(name: str, make: Callable[[Host], Plan]) -> list[int]:
        kernel = simulated_host(name)
        with Host(kernel.root, kernel=kernel) as host:
            return lanes_of(host, make(host))

    return count


def test_eight_gpus_with_groups_of_their_own_have_eight_lanes(
    lanes_on: Callable[[str, Callable[[Host], Plan]], list[int]],
) -> None:
    assert max(lanes_on("hgx-h100", lambda host: host.plan_bind("10de:2330"))) == 8


def test_the_virtual_functions_of_a_card_have_one_lane(
    lanes_on: Callable[[str, Callable[[Host], Plan]], list[int]],
) -> None:
    found = lanes_on(
        "a10-pair-vgpu", lambda host: host.plan_mdev_create("65:00.0", "A10-4Q", count=6)
    )
    assert found == [1]


def test_without_groups_all_devices_have_one_lane(
    lanes_on: Callable[[str, Callable[[Host], Plan]], list[int]],
) -> None:
    found = lanes_on(
        "no-iommu", lambda host: host.plan_unbind(["10de:1eb8", "1b36:0010"], allow={"storage"})
    )
    assert max(found) == 1


def test_mediated_devices_of_two_parents_have_two_lanes(
    simulated_host: Callable[[str], SimulatedKernel],
) -> None:
    kernel = simulated_host("t4-v100-vgpu")
    with Host(kernel.root, kernel=kernel) as host:
        bus = host.scan(mdev=True).mdev
        assert bus is not None
        made: list[Step] = []
        for parent in bus.parents[:2]:
            free = next(t for t in parent.types if t.available_instances)
            plan = host.plan_mdev_create(parent.name, free.type_id, count=2)
            made += plan.steps
        assert lanes(made, range(4), partial(related, host.sysfs)) == [[0, 1], [2, 3]]
        for step in made:
            assert isinstance(step, WriteAttr)
            kernel.store(step.path, step.value, timeout=1)
        gone = host.plan_mdev_remove([step.value for step in made if isinstance(step, WriteAttr)])
        assert lanes(gone.steps, range(4), partial(related, host.sysfs)) == [[0, 1], [2, 3]]
