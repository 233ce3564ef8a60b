"""Which uses stand in the way of a change, what permits them, and what is said about them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import pytest

from tests.pure.hosts import MODULES, a10, a10_bus, address, device, snapshot
from tests.pure.test_bind import A10, bind, refused
from vfiohost.plan.bind import plan_unbind
from vfiohost.plan.hazards import ALLOWABLE
from vfiohost.plan.in_use import stops
from vfiohost.plan.mdev import plan_remove
from vfiohost.plan.restore import plan_restore
from vfiohost.plan.types import Origin
from vfiohost.plan.undo import devices_changed, plan_undo
from vfiohost.usage import Process, Usage, Use

if TYPE_CHECKING:
    from vfiohost.model import Snapshot
    from vfiohost.usage import UseKind

QEMU = Process(4242, "qemu-system-x86_64 -name web", "qemu-system-x86", "root")
UUID = "b716be33-2f53-4a1c-9d3c-2f2a5f3e8a10"


def used(
    host: Snapshot, *uses: tuple[UseKind, str], process: Process | None = None, unknown: str = ""
) -> Snapshot:
    """The host, with uses of the first A10 unless another subject is named."""
    made = tuple(Use(k, s or str(A10), f"{k} detail", f"/proc/{k}", process) for k, s in uses)
    subjects = tuple(dict.fromkeys(use.subject for use in made))
    return attrs.evolve(host, usage=Usage(subjects, made, (unknown,) if unknown else ()))


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        ("vfio-user", "vfio-user"),
        ("vfio-group", "vfio-user"),
        ("drm", "display"),
        ("sound", "display"),
        ("console", "console"),
        ("storage-user", "storage"),
        ("mount", "storage"),
        ("swap", "storage"),
        ("block-holder", "storage"),
        ("address", "network"),
        ("route", "network"),
        ("default-route", "network"),
        ("network-member", "network"),
        ("interface-up", "network"),
        ("interface-elsewhere", "network"),
        ("node", "node"),
    ],
)
def test_each_kind_has_one_word(kind: UseKind, word: str) -> None:
    host = used(a10("nouveau"), (kind, ""), process=QEMU)
    (refusal,) = refused(lambda: bind(host, A10, allow=ALLOWABLE - {word}))
    assert (refusal.code, refusal.kind, refusal.via) == ("in-use", kind, f"/proc/{kind}")
    assert refusal.detail == f"pid 4242 (qemu-system-x86_64 -name web): {kind} detail"
    assert refusal.remedy.endswith(f"end pid 4242, or permit it with --allow {word}.")
    assert bind(host, A10, allow=frozenset({word})).steps


@pytest.mark.parametrize("kind", ["nvidia-user", "root-disk"])
def test_two_kinds_are_permitted_by_none(kind: UseKind) -> None:
    host = used(a10("nvidia"), (kind, ""))
    (refusal,) = refused(lambda: bind(host, A10, allow=ALLOWABLE))
    assert refusal.kind == kind
    assert "--allow" not in refusal.remedy


@pytest.mark.parametrize("kind", ["sound-control", "vf", "mdev", "vgpu-manager"])
def test_what_ends_nothing_is_no_hindrance(kind: UseKind) -> None:
    assert bind(used(a10("nouveau"), (kind, "")), A10).steps


def test_one_refusal_for_all_of_a_kind() -> None:
    uses: list[tuple[UseKind, str]] = [("mount", "")] * 12
    (refusal,) = refused(lambda: plan_unbind(used(a10("nouveau"), *uses), [A10]))
    assert refusal.sentence.endswith("mount detail and 5 more.")


def test_what_another_device_is_used_for_does_not_matter() -> None:
    assert bind(used(a10("nouveau"), ("mount", "0000:b4:00.0")), A10).steps


def test_a_device_that_nothing_is_taken_from() -> None:
    host = used(a10(), ("vfio-group", ""), unknown="Somebody hides.")
    plan = bind(host, A10)
    assert plan.steps
    assert "Somebody hides." not in plan.incomplete
    there = used(a10("vfio-pci", overrides={str(A10): "vfio-pci"}), ("vfio-user", ""))
    assert bind(there, A10).is_empty


def test_a_framebuffer_of_the_firmware_keeps_the_memory_of_a_device_without_driver() -> None:
    (refusal,) = refused(lambda: bind(used(a10(), ("framebuffer", "")), A10))
    assert refusal.kind == "framebuffer"


def test_what_is_not_known_is_said() -> None:
    plan = bind(used(a10("nouveau"), unknown="Somebody hides."), A10)
    assert plan.incomplete == ("Somebody hides.",)


def test_restore_takes_from_a_guest_too() -> None:
    host = used(a10("vfio-pci"), ("vfio-user", ""), process=QEMU)
    (refusal,) = refused(lambda: plan_restore(host, [A10], {}, MODULES))
    assert refusal.remedy.startswith("Shut down the guest: end pid 4242, or permit it with")


def test_virtual_functions_and_vgpus_go_with_their_card() -> None:
    vf = "0000:65:00.4"
    host = snapshot(
        device(str(A10), "vfio-pci", group=30, total_vfs=32),
        device(vf, "vfio-pci", group=31, physfn=str(A10)),
        mdev=a10_bus((UUID, vf, "nvidia-596")),
    )
    host = used(host, ("vfio-user", vf), ("vfio-user", UUID), process=QEMU)
    found = refused(lambda: plan_unbind(host, [A10]))
    assert [(r.code, r.subject) for r in found] == [
        ("pf-with-vfs", str(A10)),
        ("mdevs-exist", str(A10)),
        ("in-use", vf),
        ("in-use", UUID),
    ]
    assert found[2].sentence.startswith(f"{vf} goes with {A10} and is in use: pid 4242 (")
    found = refused(lambda: plan_unbind(host, [address(vf)], frozenset({"vgpu"})))
    assert [r.subject for r in found] == [vf, UUID]


def test_a_vgpu_that_is_open_is_not_removed() -> None:
    bus = a10_bus((UUID, "0000:65:00.4", "nvidia-596"))
    usage = Usage((UUID,), (Use("vfio-user", UUID, "has it open", "/proc/1/fd/3", QEMU),), ("x",))
    (refusal,) = refused(lambda: plan_remove(bus, [UUID], usage=usage))
    assert (refusal.code, refusal.subject) == ("in-use", UUID)
    plan = plan_remove(bus, [UUID], usage=usage, allow=frozenset({"vfio-user"}))
    assert (len(plan.steps), plan.incomplete) == (1, ("x",))


def test_an_undo_is_judged_as_any_change() -> None:
    plan = bind(a10("nouveau"), A10)
    undo = plan_undo(plan)
    assert devices_changed(undo) == (A10,)
    bound = a10("vfio-pci", overrides={str(A10): "vfio-pci"})
    use = Use("vfio-user", str(A10), "has it open", "/proc/1/fd/3", QEMU)
    used_now = attrs.evolve(bound, usage=Usage((str(A10),), (use,), ("Something is hidden.",)))
    (refusal,) = refused(lambda: plan_undo(plan, snapshot=used_now))
    assert refusal.kind == "vfio-user"
    allowed = plan_undo(plan, snapshot=used_now, allow=frozenset({"vfio-user"}))
    assert (allowed.steps, allowed.incomplete) == (undo.steps, ("Something is hidden.",))
    other = attrs.evolve(use, subject="0000:b4:00.0")
    assert plan_undo(plan, snapshot=attrs.evolve(bound, usage=Usage((), (other,)))) == undo


def test_an_undo_does_not_take_a_card_from_its_virtual_functions() -> None:
    plan = plan_restore(
        a10("vfio-pci", overrides={str(A10): "vfio-pci"}),
        [A10],
        {A10: Origin(A10, "nvidia", None)},
        MODULES,
    )
    vf = device("0000:65:00.4", None, physfn=str(A10))
    now = snapshot(device(str(A10), "nvidia", total_vfs=32, group=30), vf)
    (refusal,) = refused(lambda: plan_undo(plan, snapshot=now))
    assert refusal.code == "pf-with-vfs"


@pytest.mark.parametrize(
    ("process", "expected"),
    [
        (QEMU, "end pid 4242"),
        (attrs.evolve(QEMU, unit="nvidia-dcgm.service"), "`systemctl stop nvidia-dcgm`"),
        (attrs.evolve(QEMU, unit="user@1000.service"), "end pid 4242"),
        (
            attrs.evolve(QEMU, unit="web.service", manager="ada"),
            "`systemctl --user -M ada@ stop web`",
        ),
        (attrs.evolve(QEMU, unit="session-2.scope"), "end pid 4242"),
        (attrs.evolve(QEMU, name="nvidia-persiste"), "`systemctl stop nvidia-persistenced`"),
        (attrs.evolve(QEMU, name="nv-hostengine"), "`systemctl stop nvidia-dcgm`"),
        (
            attrs.evolve(QEMU, name="nv-hostengine", container="4a3e" * 16, unit="x.service"),
            "stop container 4a3e4a3e4a3e",
        ),
    ],
)
def test_what_stops_a_process(process: Process, expected: str) -> None:
    assert stops(process) == expected
