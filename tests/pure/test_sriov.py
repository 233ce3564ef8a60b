"""Plans for virtual functions: where they will be, in which order, and what is refused."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pure.hosts import ALIASES, address, device
from vfiohost.errors import PlanRefused
from vfiohost.modalias import ModuleIndex
from vfiohost.model import (
    SRIOV_MANAGE,
    Details,
    Driver,
    PciDevice,
    Snapshot,
    SriovFacts,
    Unavailable,
)
from vfiohost.plan.sriov import VfsRequest, plan_vfs
from vfiohost.plan.types import LoadModule, Plan, WriteAttr
from vfiohost.usage import Usage, Use

PF = device("0000:17:00.0", "nvme", ids="1b36:0010", class_code=0x010802, group=4, total_vfs=4)
GPU = device("0000:65:00.0", "nvidia", group=15, total_vfs=32)
FACTS = SriovFacts(num_vfs=0, autoprobe=True, offset=1, stride=1, vf_device=0x10)
DRIVERS = {name: Driver(name, module) for name, module in (("nvme", "nvme"), ("nvidia", "nvidia"))}
MODULES = ModuleIndex.from_texts(
    f"{ALIASES}alias pci:v00001B36d00000010sv*sd*bc*sc*i* nvme\n", ["vfio_pci", "nvme"]
)
VFIO = {"vfio-pci": Driver("vfio-pci", "vfio_pci")}


def vf(number: int, driver: str | None = None) -> PciDevice:
    return device(
        f"0000:17:00.{number}",
        driver,
        ids="1b36:0010",
        class_code=0x010802,
        group=20 + number,
        physfn="0000:17:00.0",
    )


def host(*devices: PciDevice, overrides: dict[str, str] | None = None) -> Snapshot:
    details = {
        d.address: Details((overrides or {}).get(str(d.address)), d.driver, None, None)
        for d in devices
    }
    return Snapshot(None, devices, DRIVERS | VFIO, details=details)


def plan(snapshot: Snapshot, count: object, facts: SriovFacts = FACTS, **options: object) -> Plan:
    physfn = snapshot.devices[0].address
    request = VfsRequest((physfn,), count, **options)  # type: ignore[arg-type]  # as the test has it
    return plan_vfs(snapshot, request, {physfn: facts}, MODULES)


def refusals(
    snapshot: Snapshot, count: object, facts: SriovFacts = FACTS, **options: object
) -> list[str]:
    with pytest.raises(PlanRefused) as refused:
        plan(snapshot, count, facts, **options)
    return [refusal.code for refusal in refused.value.refusals]


def stores(made: Plan) -> list[str]:
    """The steps, in short: the last two components of the path, and the value."""
    return [
        f"{'/'.join(step.path.split('/')[-2:])}={step.value.strip()}"
        for step in made.steps
        if isinstance(step, WriteAttr)
    ]


def test_native_is_one_store() -> None:
    assert stores(plan(host(PF), 2)) == ["0000:17:00.0/sriov_numvfs=2"]


def test_all_is_as_many_as_there_can_be() -> None:
    assert stores(plan(host(PF), "all")) == ["0000:17:00.0/sriov_numvfs=4"]


def test_no_driver_gets_at_them_before_its_turn() -> None:
    assert stores(plan(host(PF), 2, driver="vfio-pci")) == [
        "0000:17:00.0/sriov_drivers_autoprobe=0",
        "0000:17:00.0/sriov_numvfs=2",
        "0000:17:00.1/driver_override=vfio-pci",
        "vfio-pci/bind=0000:17:00.1",
        "0000:17:00.2/driver_override=vfio-pci",
        "vfio-pci/bind=0000:17:00.2",
        "0000:17:00.0/sriov_drivers_autoprobe=1",
    ]


def test_probing_that_is_off_stays_off() -> None:
    facts = attrs.evolve(FACTS, autoprobe=False)
    assert not any("autoprobe" in s for s in stores(plan(host(PF), 1, facts, driver="vfio-pci")))


def test_a_module_is_loaded_once() -> None:
    snapshot = attrs.evolve(host(PF), drivers=DRIVERS)
    made = plan(snapshot, 3, driver="auto")
    assert [step.name for step in made.steps if isinstance(step, LoadModule)] == ["vfio_pci"]


def test_one_by_one_before_all_go() -> None:
    snapshot = host(PF, vf(1, "vfio-pci"), vf(2, "nvme"), overrides={"0000:17:00.1": "vfio-pci"})
    assert stores(plan(snapshot, 0, attrs.evolve(FACTS, num_vfs=2))) == [
        "vfio-pci/unbind=0000:17:00.1",
        "0000:17:00.1/driver_override=",
        "nvme/unbind=0000:17:00.2",
        "0000:17:00.0/sriov_drivers_autoprobe=0",
        "0000:17:00.0/sriov_numvfs=0",
        "0000:17:00.0/sriov_drivers_autoprobe=1",
    ]


def test_another_number_needs_consent() -> None:
    snapshot, facts = host(PF, vf(1)), attrs.evolve(FACTS, num_vfs=1)
    assert refusals(snapshot, 2, facts) == ["vfs-exist"]
    made = stores(plan(snapshot, 2, facts, recreate=True))
    assert [s for s in made if "numvfs" in s] == [
        "0000:17:00.0/sriov_numvfs=0",
        "0000:17:00.0/sriov_numvfs=2",
    ]


def test_the_number_that_there_is() -> None:
    snapshot, facts = host(PF, vf(1, "vfio-pci"), vf(2)), attrs.evolve(FACTS, num_vfs=2)
    assert plan(snapshot, 2, facts).is_empty
    assert stores(plan(snapshot, 2, facts, driver="vfio-pci"))[-1] == "vfio-pci/bind=0000:17:00.2"
    assert plan(host(PF), 0).is_empty


def test_their_own_driver() -> None:
    on_vfio = host(PF, vf(1, "vfio-pci"), overrides={"0000:17:00.1": "vfio-pci"})
    facts = attrs.evolve(FACTS, num_vfs=1)
    assert plan(on_vfio, 1, facts).is_empty
    assert stores(plan(on_vfio, 1, facts, driver="native")) == [
        "vfio-pci/unbind=0000:17:00.1",
        "0000:17:00.1/driver_override=nvme",
        "nvme/bind=0000:17:00.1",
        "0000:17:00.1/driver_override=",
    ]
    assert plan(host(PF, vf(1, "nvme")), 1, facts, driver="native").is_empty


def test_a_driver_that_is_not_there_is_asked_for_once() -> None:
    facts, none = attrs.evolve(FACTS, num_vfs=1), {"0000:17:00.1": "none"}
    lacking = {name: each for name, each in (DRIVERS | VFIO).items() if name != "nvme"}
    physfn = attrs.evolve(PF, driver="pci-stub")
    kept = attrs.evolve(host(physfn, vf(1), overrides=none), drivers=lacking)
    made = plan(kept, 1, facts, driver="native")
    assert stores(made) == [
        "0000:17:00.1/driver_override=",
        "pci/drivers_probe=0000:17:00.1",
    ]
    assert "load the module nvme" in made.notes[0]
    free = attrs.evolve(host(physfn, vf(1)), drivers=lacking)
    assert plan(free, 1, facts, driver="native").is_empty


def test_orphans_are_healed() -> None:
    orphaned = attrs.evolve(PF, driver=None)
    made = plan(host(orphaned, vf(1)), 0, attrs.evolve(FACTS, num_vfs=1))
    text = stores(made)
    assert text.index("nvme/bind=0000:17:00.0") < text.index("0000:17:00.0/sriov_numvfs=0")
    assert "had lost its driver" in made.notes[0]


def test_all_reasons_at_once() -> None:
    snapshot = host(attrs.evolve(PF, iommu_group=None, driver="nvidia"), vf(1))
    facts = attrs.evolve(FACTS, num_vfs=1, has_script=True)
    assert refusals(snapshot, 2, facts, driver="vfio-pci") == ["vfs-exist", "all-vfs", "vgpu-vf"]


@pytest.mark.parametrize(
    ("physfn", "facts", "count", "options", "codes"),
    [
        (attrs.evolve(PF, total_vfs=None), FACTS, 1, {}, ["no-sriov"]),
        (attrs.evolve(PF, total_vfs=0), FACTS, 1, {}, ["no-sriov"]),
        (PF, FACTS, 5, {}, ["too-many-vfs"]),
        (attrs.evolve(PF, driver=None), FACTS, 1, {}, ["no-pf-driver"]),
        (attrs.evolve(PF, driver="vfio-pci"), FACTS, 1, {}, ["pf-for-guests"]),
        (PF, SriovFacts(num_vfs=Unavailable(0, "device locked")), 1, {}, ["unreadable"]),
        (PF, SriovFacts(num_vfs=0, autoprobe=True), 1, {"driver": "vfio-pci"}, ["unreadable"]),
        (PF, FACTS, 1, {"driver": "no-such"}, ["missing-driver"]),
        (attrs.evolve(PF, iommu_group=None), FACTS, 1, {"driver": "vfio-pci"}, ["no-iommu"]),
        (PF, attrs.evolve(FACTS, offset=61000), 1, {"driver": "vfio-pci"}, ["too-many-vfs"]),
    ],
)
def test_refusals(
    physfn: PciDevice, facts: SriovFacts, count: int, options: dict[str, object], codes: list[str]
) -> None:
    assert refusals(host(physfn), count, facts, **options) == codes


def test_vfio_pci_makes_them_where_it_is_told_to() -> None:
    facts = attrs.evolve(FACTS, enable_sriov=True)
    assert stores(plan(host(attrs.evolve(PF, driver="vfio-pci")), 1, facts))


def test_vfio_pci_keeps_those_of_its_own() -> None:
    facts = attrs.evolve(FACTS, enable_sriov=True)
    physfn = attrs.evolve(PF, driver="vfio-pci")
    made = plan(host(physfn), 1, facts, driver="vfio-pci")
    assert [step.split("/")[-1] for step in stores(made)] == [
        "sriov_drivers_autoprobe=0",
        "sriov_numvfs=1",
        "sriov_drivers_autoprobe=1",
    ]
    made = plan(host(physfn), 1, facts, driver="none")
    assert stores(made)[2:4] == [
        "vfio-pci/unbind=0000:17:00.1",
        "0000:17:00.1/driver_override=none",
    ]
    facts = attrs.evolve(facts, num_vfs=1)
    snapshot = host(physfn, vf(1, "vfio-pci"), overrides={"0000:17:00.1": "vfio-pci"})
    assert stores(plan(snapshot, 0, facts))[:2] == [
        "vfio-pci/unbind=0000:17:00.1",
        "0000:17:00.0/sriov_drivers_autoprobe=0",
    ]


def test_orphans_of_nvidias_driver_go_by_its_script() -> None:
    alias = "alias pci:v000010DEd*sv*sd*bc03sc02i00* nvidia\n"
    facts = attrs.evolve(FACTS, num_vfs=32, has_script=True)
    physfn = attrs.evolve(GPU, driver=None)
    request = VfsRequest((physfn.address,), 0)
    index = ModuleIndex.from_texts(alias, ["nvidia"])
    made = plan_vfs(host(physfn), request, {physfn.address: facts}, index)
    assert stores(made) == ["nvidia/bind=0000:65:00.0", "nvidia/sriov-manage=-d 0000:65:00.0"]


def test_what_a_guest_has_open_is_not_destroyed() -> None:
    use = Use("vfio-user", "0000:17:00.1", "it is open", "/proc/7/fd")
    snapshot = host(PF, vf(1, "vfio-pci"), overrides={"0000:17:00.1": "vfio-pci"})
    snapshot = attrs.evolve(snapshot, usage=Usage(("0000:17:00.1",), (use,)))
    facts = attrs.evolve(FACTS, num_vfs=1)
    assert refusals(snapshot, 0, facts) == ["in-use"]
    assert plan(snapshot, 0, facts, allow=frozenset({"vfio-user"})).steps


def test_nvidias_script() -> None:
    facts = attrs.evolve(FACTS, has_script=True)
    (step,) = plan(host(GPU), 32, facts).steps
    assert isinstance(step, WriteAttr)
    assert (step.path, step.value) == (SRIOV_MANAGE, "-e 0000:65:00.0")
    assert step.store.shell() == "/usr/lib/nvidia/sriov-manage -e 0000:65:00.0"
    assert refusals(host(GPU), 4, facts) == ["all-vfs"]
    assert stores(plan(host(GPU), 4)) == ["0000:65:00.0/sriov_numvfs=4"]  # an open driver


def test_a_plan_with_the_script_goes_through_json_and_no_other_program_does() -> None:
    made = plan(host(GPU), 32, attrs.evolve(FACTS, has_script=True))
    data = made.to_json()
    assert Plan.from_json(data) == made
    for value in ("-e 0000:65:00.0; reboot", "-e ALL", "-x 0000:65:00.0", ""):
        data["steps"][0]["value"] = value
        with pytest.raises(ValueError, match="sriov-manage"):
            Plan.from_json(data)


@given(st.integers(0, 0xFFFF), st.integers(1, 512), st.integers(1, 16), st.integers(1, 64))
def test_where_they_will_be(place: int, offset: int, stride: int, count: int) -> None:
    where = f"0000:{place >> 8:02x}:{place >> 3 & 31:02x}.{place & 7}"
    physfn = attrs.evolve(PF, address=address(where), total_vfs=64)
    facts = attrs.evolve(FACTS, offset=offset, stride=stride)
    first = place + offset
    last = first + stride * (count - 1)
    if last >> 8 > 0xFF:
        assert refusals(host(physfn), count, facts, driver="vfio-pci") == ["too-many-vfs"]
        return
    made = stores(plan(host(physfn), count, facts, driver="vfio-pci"))
    found = [address(s.partition("=")[2]) for s in made if "/bind=" in s]
    numbers = [a.bus << 8 | a.device << 3 | a.function for a in found]
    assert numbers == list(range(first, last + 1, stride))
