from __future__ import annotations

import attrs
import pytest

from tests.pure.hosts import a10_bus, address, device, snapshot
from tests.pure.test_bind import refused
from vfiohost.errors import NotFoundError, ParseError, UnsupportedError
from vfiohost.model import ResetFacts, Snapshot, Unavailable
from vfiohost.plan.reset import plan_reset
from vfiohost.plan.types import Plan, WriteAttr
from vfiohost.usage import Process, Usage, Use

A10 = address("0000:65:00.0")
IDLE = ResetFacts(has_reset=True, methods="flr bus", enable="0")
DEVICE = f"sys/bus/pci/devices/{A10}"


def host(driver: str | None = "vfio-pci") -> Snapshot:
    return snapshot(device(str(A10), driver), overrides={})


def reset(
    where: Snapshot, facts: ResetFacts = IDLE, method: str | None = None, *allow: str
) -> Plan:
    return plan_reset(where, [A10], {A10: facts}, method=method, allow=frozenset(allow))


def stores(plan: Plan) -> list[tuple[str, str, str | None]]:
    """Attribute, value and what takes the step back."""
    return [
        (step.path.removeprefix(f"{DEVICE}/"), step.value, step.undo.value if step.undo else None)
        for step in plan.steps
        if isinstance(step, WriteAttr)
    ]


@pytest.mark.parametrize("driver", [None, "vfio-pci", "nvgrace_gpu_vfio_pci", "pci-stub"])
def test_one_store_resets(driver: str | None) -> None:
    plan = reset(host(driver))
    assert stores(plan) == [("reset", "1", None)]
    assert (plan.verb, plan.subjects) == ("reset", (str(A10),))
    assert plan == Plan.from_json(plan.to_json())


@pytest.mark.parametrize(
    ("chosen", "method", "old"),
    [("flr bus", "bus", "flr bus"), ("flr bus", "flr", "flr bus"), ("", "pm", "\n")],
)
def test_a_method_is_chosen_for_once(chosen: str, method: str, old: str) -> None:
    plan = reset(host(), attrs.evolve(IDLE, methods=chosen), method)
    assert stores(plan) == [
        ("reset_method", method, old),
        ("reset", "1", None),
        ("reset_method", old, None),
    ]
    first, last = plan.steps[0], plan.steps[-1]
    assert isinstance(first, WriteAttr)
    assert isinstance(last, WriteAttr)
    assert (first.before, first.after) == (last.after, last.before)


def test_the_only_method_need_not_be_chosen() -> None:
    assert stores(reset(host(), attrs.evolve(IDLE, methods="flr"), "flr")) == [("reset", "1", None)]


def test_several_devices_are_reset_one_after_the_other() -> None:
    other = address("0000:66:00.0")
    both = snapshot(device(str(A10), None), device(str(other), None), overrides={})
    plan = plan_reset(both, [A10, other], {A10: IDLE, other: IDLE}, method="bus")
    assert [step.path.split("/")[-2] for step in plan.steps if isinstance(step, WriteAttr)] == [
        *[str(A10)] * 3,
        *[str(other)] * 3,
    ]


def test_a_method_that_the_device_has_not() -> None:
    with pytest.raises(NotFoundError, match="no reset method 'pm'") as caught:
        reset(host(), method="pm")
    assert caught.value.near == ("flr", "bus")


@pytest.mark.parametrize(
    ("facts", "method", "said"),
    [
        (ResetFacts(has_reset=False, methods=None, enable="0"), None, "no way to be reset"),
        (ResetFacts(has_reset=True, methods=None, enable="0"), "flr", "lets nobody choose"),
        (ResetFacts(has_reset=True, methods="", enable="0"), None, "switched off"),
    ],
)
def test_what_cannot_be_done(facts: ResetFacts, method: str | None, said: str) -> None:
    with pytest.raises(UnsupportedError, match=said):
        reset(host(), facts, method)


def test_an_old_kernel_resets_by_what_it_has() -> None:
    assert stores(reset(host(), attrs.evolve(IDLE, methods=None))) == [("reset", "1", None)]


@pytest.mark.parametrize("enable", ["1", "2", None])
def test_never_under_a_vfio_user(enable: str | None) -> None:
    facts = attrs.evolve(IDLE, enable=enable)
    assert [r.code for r in refused(lambda: reset(host(), facts))] == ["vfio-user"]


def test_what_cannot_be_told_is_refused() -> None:
    facts = attrs.evolve(IDLE, enable=Unavailable(0, "device locked"))
    assert [r.code for r in refused(lambda: reset(host(), facts))] == ["unreadable"]


def test_enable_of_a_host_driver_says_nothing_and_the_driver_is_protected() -> None:
    on_nvme, facts = host("nvme"), attrs.evolve(IDLE, enable="1")
    assert [r.code for r in refused(lambda: reset(on_nvme, facts))] == ["host-driver"]
    assert stores(reset(on_nvme, facts, None, "host-driver")) == [("reset", "1", None)]


def test_what_a_host_driver_is_used_for_needs_its_own_word() -> None:
    mount = Use("mount", str(A10), "nvme0n1 is mounted at /srv", "/proc/self/mountinfo")
    mounted = attrs.evolve(host("nvme"), usage=Usage((str(A10),), (mount,)))
    (found,) = refused(lambda: reset(mounted, IDLE, None, "host-driver"))
    assert (found.code, found.kind) == ("in-use", "mount")
    assert "--allow storage" in found.remedy
    assert stores(reset(mounted, IDLE, None, "host-driver", "storage")) == [("reset", "1", None)]


def test_a_vfio_user_is_named_and_permitted_by_no_word() -> None:
    qemu = Process(42, "qemu-system-x86_64", "qemu-system-x86")
    use = Use("vfio-user", str(A10), "/dev/vfio/15 is open", "/proc/42/fd/7", qemu)
    used = attrs.evolve(host(), usage=Usage((str(A10),), (use,)))
    facts = attrs.evolve(IDLE, enable="1")
    (found,) = refused(lambda: reset(used, facts, None, "vfio-user"))
    assert found.code == "vfio-user"
    assert "in use by pid 42 (qemu-system-x86_64)" in found.sentence


def test_a_bridge_is_refused() -> None:
    bridge = snapshot(device(str(A10), None, class_code=0x060400), overrides={})
    assert [r.code for r in refused(lambda: reset(bridge))] == ["bridge"]


def test_all_reasons_at_once() -> None:
    vf = device("0000:65:00.4", None, physfn=str(A10))
    card = snapshot(device(str(A10), "nvidia"), vf, overrides={})
    assert [r.code for r in refused(lambda: reset(card))] == ["host-driver", "pf-with-vfs"]


def test_mediated_devices_are_protected() -> None:
    vf = address("0000:65:00.4")
    uuid = "7d3f1e1a-4b6f-4c59-a8a0-6f4dbe0c7f01"
    bus = a10_bus((uuid, str(vf), "nvidia-592"))
    where = snapshot(device(str(vf), None, physfn=str(A10)), overrides={}, mdev=bus)
    (refusal,) = refused(lambda: plan_reset(where, [vf], {vf: IDLE}))
    assert refusal.code == "mdevs-exist"
    assert uuid in refusal.remedy


def test_an_unknown_word() -> None:
    with pytest.raises(ParseError, match="host-drivers"):
        reset(host(), IDLE, None, "host-drivers")
