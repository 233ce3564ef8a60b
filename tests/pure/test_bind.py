from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.pure.hosts import (
    DRIVERS,
    MODULES,
    RTX_CARD,
    a10,
    address,
    device,
    rtx,
    snapshot,
)
from vfiohost.errors import NotFoundError, ParseError, PlanRefused, Refusal
from vfiohost.model import Driver, PciAddress, Snapshot, Unavailable
from vfiohost.plan.bind import (
    BindRequest,
    devices_needed,
    plan_bind,
    plan_unbind,
    with_siblings,
)
from vfiohost.plan.types import LoadModule, Origin, Plan, SetNodes, WriteAttr

if TYPE_CHECKING:
    from collections.abc import Callable

VFIO = Driver("vfio-pci", "vfio_pci")
A10 = address("0000:65:00.0")
OTHER_A10 = address("0000:b4:00.0")


def request(*devices: PciAddress, **options: object) -> BindRequest:
    return BindRequest(devices, **options)  # type: ignore[arg-type]


def bind(host: Snapshot, *devices: PciAddress, **options: object) -> Plan:
    return plan_bind(host, request(*devices, **options), MODULES)


def refused(plan: Callable[[], Plan]) -> tuple[Refusal, ...]:
    with pytest.raises(PlanRefused) as caught:
        plan()
    assert isinstance(caught.value.plan, Plan)
    return caught.value.refusals


def lines(plan: Plan) -> list[str]:
    """The plan as what it writes, short."""
    return [
        f"load {step.name}"
        if isinstance(step, LoadModule)
        else "{} < {!r}".format(step.path.removeprefix("sys/bus/pci/"), step.value)
        if isinstance(step, WriteAttr)
        else f"nodes of {step.address}: {step.uid} {step.gid} {step.mode}"
        if isinstance(step, SetNodes)
        else step.shell()
        for step in plan.steps
    ]


def allowed(*words: str) -> frozenset[str]:
    return frozenset(words)


class TestSteps:
    def test_the_old_driver_lets_go_the_override_is_set_the_new_driver_takes(self) -> None:
        plan = bind(a10("nouveau"), A10)
        assert lines(plan) == [
            "drivers/nouveau/unbind < '0000:65:00.0'",
            "devices/0000:65:00.0/driver_override < 'vfio-pci'",
            "drivers/vfio-pci/bind < '0000:65:00.0'",
        ]
        assert (plan.verb, plan.subjects) == ("bind", ("0000:65:00.0",))
        assert plan.origins == (Origin(A10, "nouveau", None),)

    def test_each_step_says_what_it_finds_leaves_and_how_it_is_taken_back(self) -> None:
        unbind, override, bound = bind(a10("nouveau"), A10).to_json()["steps"]
        link = "sys/bus/pci/devices/0000:65:00.0/driver"
        text = "sys/bus/pci/devices/0000:65:00.0/driver_override"
        assert unbind["before"] == {"path": link, "kind": "link", "value": "nouveau"}
        assert unbind["after"] == {"path": link, "kind": "link", "value": None}
        assert unbind["undo"]["path"] == "sys/bus/pci/drivers/nouveau/bind"
        assert unbind["undo"]["after"] == unbind["before"]
        assert override["before"] == {"path": text, "kind": "text", "value": "(null)"}
        assert override["after"] == {"path": text, "kind": "text", "value": "vfio-pci"}
        assert (override["undo"]["path"], override["undo"]["value"]) == (text, "\n")
        assert bound["before"] == unbind["after"]
        assert bound["after"] == {"path": link, "kind": "link", "value": "vfio-pci"}
        assert bound["undo"]["path"] == "sys/bus/pci/drivers/vfio-pci/unbind"

    def test_the_module_is_loaded_first_and_only_once(self) -> None:
        plan = bind(a10("nouveau", drivers=DRIVERS[:-1]), A10, OTHER_A10)
        assert lines(plan)[0] == "load vfio_pci"
        assert sum(isinstance(step, LoadModule) for step in plan.steps) == 1
        load = plan.steps[0]
        assert load.after is not None
        assert str(load.after) == "drivers/vfio-pci exists"

    def test_once_clears_the_override_in_the_end(self) -> None:
        plan = bind(a10("nouveau"), A10, once=True)
        assert lines(plan)[-1] == "devices/0000:65:00.0/driver_override < '\\n'"
        assert lines(plan)[:-1] == lines(bind(a10("nouveau"), A10))
        assert not any("stays set" in note for note in plan.notes)

    def test_an_override_that_stays_is_noted(self) -> None:
        (note,) = bind(a10("nouveau"), A10).notes
        assert note == (
            "The driver_override of 0000:65:00.0 stays set until `vfiohost restore`, or until the "
            "device or the host is started anew."
        )

    def test_a_foreign_override_is_put_back_by_the_undo(self) -> None:
        plan = bind(a10(overrides={"0000:65:00.0": "pci-stub"}), A10)
        override = plan.to_json()["steps"][0]
        assert override["before"]["value"] == "pci-stub"
        assert override["undo"]["value"] == "pci-stub"
        assert plan.origins == (Origin(A10, None, "pci-stub"),)

    def test_none_holds_the_device_without_a_driver(self) -> None:
        assert lines(bind(a10("nouveau"), A10, driver="none")) == [
            "drivers/nouveau/unbind < '0000:65:00.0'",
            "devices/0000:65:00.0/driver_override < 'none'",
        ]

    def test_a_driver_that_could_not_come_back_is_named_by_the_override_first(self) -> None:
        """vfio-pci without an override has no way back, neither in a rollback nor in an undo."""
        assert lines(bind(a10("vfio-pci"), A10, driver="nouveau"))[:2] == [
            "devices/0000:65:00.0/driver_override < 'vfio-pci'",
            "drivers/vfio-pci/unbind < '0000:65:00.0'",
        ]

    def test_a_virtual_function_can_always_go_back(self) -> None:
        """Where its PF has sriov_drivers_autoprobe 0, no driver takes it without an override."""
        host = snapshot(device("0000:65:00.4", "nouveau", group=1, physfn="0000:65:00.0"))
        vf = address("0000:65:00.4")
        assert lines(bind(host, vf))[:2] == [
            "devices/0000:65:00.4/driver_override < 'nouveau'",
            "drivers/nouveau/unbind < '0000:65:00.4'",
        ]

    def test_loading_a_host_driver_does_not_take_the_device_before_its_turn(self) -> None:
        plan = bind(a10(drivers=[VFIO]), A10, driver="nouveau")
        assert lines(plan) == [
            "devices/0000:65:00.0/driver_override < 'none'",
            "load nouveau",
            "devices/0000:65:00.0/driver_override < 'nouveau'",
            "drivers/nouveau/bind < '0000:65:00.0'",
        ]
        assert plan.notes[-1] == (
            "Loading nouveau may also bind 0000:b4:00.0, which has no driver now."
        )
        busy = snapshot(device(str(A10)), device("0000:b4:00.0", "vfio-pci"), drivers=[VFIO])
        assert not any("may also" in n for n in bind(busy, A10, driver="nouveau").notes)

    def test_loading_a_driver_that_the_override_names_already_does_not_either(self) -> None:
        host = a10(drivers=[], overrides={"0000:65:00.0": "vfio-pci"})
        assert lines(bind(host, A10))[:2] == [
            "devices/0000:65:00.0/driver_override < 'none'",
            "load vfio_pci",
        ]


class TestAlreadySo:
    @pytest.mark.parametrize(
        ("driver", "override", "wanted", "once"),
        [
            ("vfio-pci", "vfio-pci", "vfio-pci", False),
            ("vfio-pci", "vfio-pci", "auto", False),
            ("vfio-pci", None, "vfio-pci", True),
            ("nouveau", None, "nouveau", False),
            ("nouveau", "nouveau", "nouveau", False),
            ("nouveau", None, "nouveau", True),
            (None, "none", "none", False),
            (None, None, "none", True),
        ],
    )
    def test_what_is_so_is_left_alone(
        self,
        driver: str | None,
        override: str | None,
        wanted: str,
        once: bool,  # noqa: FBT001
    ) -> None:
        overrides = {"0000:65:00.0": override} if override else {}
        plan = bind(a10(driver, overrides=overrides), A10, driver=wanted, once=once)
        assert plan.is_empty
        assert plan.origins == ()

    def test_an_override_of_vfio_pci_is_completed(self) -> None:
        assert lines(bind(a10("vfio-pci"), A10)) == [
            "devices/0000:65:00.0/driver_override < 'vfio-pci'"
        ]

    def test_what_is_so_is_no_hazard(self) -> None:
        host = rtx(overrides={"0000:01:00.0": "nouveau"})
        assert bind(host, RTX_CARD[0], driver="nouveau").is_empty


class TestAuto:
    def test_auto_is_the_variant_driver_of_the_card(self) -> None:
        grace = snapshot(device("0009:01:00.0", ids="10de:2342", group=3))
        plan = bind(grace, address("0009:01:00.0"), driver="auto")
        assert lines(plan)[0] == "load nvgrace_gpu_vfio_pci"
        assert lines(plan)[-1] == "drivers/nvgrace_gpu_vfio_pci/bind < '0009:01:00.0'"
        assert plan.notes[0] == "auto means nvgrace_gpu_vfio_pci for 0009:01:00.0."

    def test_auto_is_named_as_the_driver_that_the_module_registered(self) -> None:
        grace = snapshot(
            device("0009:01:00.0", ids="10de:2342", group=3),
            drivers=[Driver("nvgrace-gpu", "nvgrace_gpu_vfio_pci")],
        )
        plan = bind(grace, address("0009:01:00.0"), driver="auto")
        assert lines(plan)[-1] == "drivers/nvgrace-gpu/bind < '0009:01:00.0'"

    def test_auto_is_vfio_pci_for_other_cards_and_without_a_list_of_modules(self) -> None:
        assert lines(bind(a10(), A10, driver="auto")) == lines(bind(a10(), A10))
        plan = plan_bind(a10(), request(A10, driver="auto"), None)
        assert lines(plan) == lines(bind(a10(), A10))
        assert plan.notes[0] == "There is no list of this kernel's modules: auto means vfio-pci."


class TestGroup:
    def test_a_card_alone_is_refused_for_all_reasons_at_once(self) -> None:
        assert refused(lambda: bind(rtx(), RTX_CARD[0])) == (
            Refusal(
                "boot-vga",
                "0000:01:00.0",
                "0000:01:00.0 is the display of the host's console (boot_vga); the screen goes "
                "dark when nouveau lets go of it.",
                "Permit it with --allow display.",
            ),
            Refusal(
                "group-not-viable",
                "IOMMU group 1",
                "IOMMU group 1 would not be viable: 0000:01:00.1 on snd_hda_intel, 0000:01:00.2 on "
                "xhci_hcd and 0000:01:00.3 on nvidia-gpu stay behind, and a guest gets the whole "
                "group or nothing.",
                "Bind all endpoints of the group with --group, or permit it with --allow "
                "shared-group.",
            ),
        )

    def test_the_plan_that_would_have_been_comes_with_the_refusals(self) -> None:
        with pytest.raises(PlanRefused) as caught:
            bind(rtx(), RTX_CARD[0])
        assert isinstance(caught.value.plan, Plan)
        assert lines(caught.value.plan)[0] == "drivers/nouveau/unbind < '0000:01:00.0'"

    def test_the_whole_group_is_bound_but_for_its_bridge(self) -> None:
        plan = bind(rtx(), RTX_CARD[0], group=True, allow=allowed("display"))
        assert plan.subjects == tuple(map(str, RTX_CARD))
        assert [line for line in lines(plan) if "vfio-pci/bind" in line] == [
            f"drivers/vfio-pci/bind < '{a}'" for a in RTX_CARD
        ]
        assert [o.driver for o in plan.origins] == [
            "nouveau",
            "snd_hda_intel",
            "xhci_hcd",
            "nvidia-gpu",
        ]

    def test_several_devices_are_judged_together(self) -> None:
        assert (
            bind(rtx(), *RTX_CARD, allow=allowed("display")).subjects
            == bind(rtx(), RTX_CARD[0], group=True, allow=allowed("display")).subjects
        )

    def test_what_is_permitted_is_noted(self) -> None:
        plan = bind(rtx(), RTX_CARD[0], allow=allowed("display", "shared-group"))
        assert any(n.startswith("IOMMU group 1 would not be viable: ") for n in plan.notes)

    def test_a_host_driver_needs_no_viable_group(self) -> None:
        host = rtx(overrides={"0000:01:00.1": "none"})
        assert not bind(host, RTX_CARD[1], driver="e1000e", load=True).is_empty

    def test_an_unbound_sibling_does_not_block_but_is_noted(self) -> None:
        host = snapshot(device("0000:01:00.0", group=1), device("0000:01:00.1", group=1))
        plan = bind(host, RTX_CARD[0])
        assert (
            "0000:01:00.1 is in IOMMU group 1 as well: the host cannot use the group while a guest "
            "has it."
        ) in plan.notes

    def test_a_vgpu_beside_it_blocks_only_while_its_driver_brings_vfio(self) -> None:
        vgpu = device("0000:02:00.4", "nvidia", group=1, physfn="0000:02:00.0", brings_vfio=True)
        free = device("0000:01:00.0", group=1)
        assert not bind(snapshot(free, vgpu), free.address).is_empty
        unused = vgpu.on(None).on("nvidia")
        (refusal,) = refused(lambda: bind(snapshot(free, unused), free.address))
        assert refusal.code == "group-not-viable"

    def test_a_bridge_that_blocks_has_to_be_unbound_by_hand(self) -> None:
        """``vfiohost unbind`` would refuse it, so that it is no remedy."""
        host = snapshot(
            device("0000:00:01.0", "shpchp", class_code=0x060400, group=1),
            device("0000:01:00.0", group=1),
        )
        (refusal,) = refused(lambda: bind(host, RTX_CARD[0], group=True))
        assert refusal.code == "group-not-viable"
        assert refusal.remedy == (
            "If the host can do without the bridge's driver, unbind it by hand "
            "(printf %s 0000:00:01.0 > /sys/bus/pci/drivers/shpchp/unbind), or permit it with "
            "--allow shared-group."
        )

    def test_a_sibling_whose_driver_is_unreadable_blocks(self) -> None:
        host = snapshot(
            device("0000:01:00.0", group=1),
            device("0000:01:00.1", Unavailable(13, "Permission denied"), group=1),
        )
        (refusal,) = refused(lambda: bind(host, RTX_CARD[0]))
        assert (refusal.code, refusal.subject) == ("unreadable", "IOMMU group 1")
        assert "0000:01:00.1" in refusal.sentence

    def test_a_host_driver_is_not_forced_on_the_siblings(self) -> None:
        (refusal,) = refused(
            lambda: bind(rtx(), RTX_CARD[0], driver="nouveau", group=True, allow=allowed("display"))
        )
        assert refusal.code == "group-driver"
        assert "0000:01:00.1, 0000:01:00.2 and 0000:01:00.3" in refusal.sentence

    def test_details_are_needed_of_the_siblings_too(self) -> None:
        assert devices_needed(rtx(), request(RTX_CARD[2])) == (RTX_CARD[2],)
        assert devices_needed(rtx(), request(RTX_CARD[2], group=True)) == (
            RTX_CARD[2],
            *RTX_CARD[:2],
            RTX_CARD[3],
        )
        assert with_siblings(rtx(), [RTX_CARD[1], RTX_CARD[0]])[0] == RTX_CARD[1]
        assert devices_needed(a10(), request(A10, A10)) == (A10,)


class TestBadRequests:
    @pytest.mark.parametrize(
        "name", ["", "..", "../vfio", "a/b", "vfio-pci ", "a\nb", "(null)", "a\0", "."]
    )
    def test_what_can_be_no_driver(self, name: str) -> None:
        with pytest.raises(ParseError, match="the name of a driver"):
            bind(a10(), A10, driver=name)

    def test_what_cannot_be_allowed(self) -> None:
        with pytest.raises(ParseError, match=r"Did you mean display\?"):
            bind(a10(), A10, allow=allowed("displays"))
        with pytest.raises(ParseError, match="vfio-user, vgpu"):
            plan_unbind(a10(), [A10], allowed("everything"))

    def test_a_device_that_is_not_there(self) -> None:
        with pytest.raises(NotFoundError, match=r"Did you mean 0000:65:00\.0"):
            bind(a10(), address("0000:65:00.1"))


class TestUnbind:
    def test_the_override_stays_as_it_is(self) -> None:
        host = a10("vfio-pci", overrides={"0000:65:00.0": "vfio-pci"})
        plan = plan_unbind(host, [A10], modules=MODULES)
        assert lines(plan) == ["drivers/vfio-pci/unbind < '0000:65:00.0'"]
        assert (plan.verb, plan.origins) == ("unbind", (Origin(A10, "vfio-pci", "vfio-pci"),))

    def test_a_driver_without_ids_has_its_way_back_prepared(self) -> None:
        plan = plan_unbind(a10("vfio-pci"), [A10])
        assert lines(plan) == [
            "devices/0000:65:00.0/driver_override < 'vfio-pci'",
            "drivers/vfio-pci/unbind < '0000:65:00.0'",
            "devices/0000:65:00.0/driver_override < '\\n'",
        ]
        assert plan.steps[-1].why == "as it was before"

    def test_a_device_without_driver_is_left_alone(self) -> None:
        assert plan_unbind(a10(), [A10, OTHER_A10]).is_empty

    def test_the_display_is_protected(self) -> None:
        assert [r.code for r in refused(lambda: plan_unbind(rtx(), RTX_CARD))] == ["boot-vga"]
        assert plan_unbind(rtx(), RTX_CARD, allowed("display")).steps
