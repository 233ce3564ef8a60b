from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import pytest

from tests.pure.hosts import (
    DRIVERS,
    MODULES,
    RTX_CARD,
    a10,
    a10_bus,
    address,
    details,
    device,
    rtx,
    snapshot,
    with_details,
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
from vfiohost.plan.types import LoadModule, Origin, Plan

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


class TestRefusals:
    def code(self, plan: Callable[[], Plan]) -> Refusal:
        (refusal,) = refused(plan)
        return refusal

    def test_a_bridge_is_never_taken_from_the_host(self) -> None:
        host = rtx(drivers=(*DRIVERS, Driver("pci-stub", None)))
        port, shared = address("0000:00:01.0"), allowed("shared-group")
        with_vfio = refused(lambda: bind(host, port, allow=shared))
        assert [(r.code, r.subject) for r in with_vfio] == [("bridge", "0000:00:01.0")]
        assert "is a bridge (class 0604)" in with_vfio[0].sentence
        assert refused(lambda: bind(host, port, driver="none")) == with_vfio
        assert refused(lambda: bind(host, port, driver="pci-stub")) == with_vfio
        assert refused(lambda: plan_unbind(host, [port])) == with_vfio

    def test_a_host_bridge_is_a_bridge_though_the_kernel_would_permit_it(self) -> None:
        host = snapshot(device("0000:00:00.0", class_code=0x060000, group=0))
        assert self.code(lambda: bind(host, address("0000:00:00.0"))).code == "bridge"

    def test_a_bridge_may_get_its_own_driver_back(self) -> None:
        host = snapshot(
            device("0000:00:01.0", class_code=0x060400, group=0),
            device("0000:00:02.0", "pcieport", class_code=0x060400, group=1),
        )
        assert lines(bind(host, address("0000:00:01.0"), driver="pcieport"))

    def test_an_nvswitch_goes_to_a_guest(self) -> None:
        host = snapshot(device("0000:07:00.0", ids="10de:22a3", class_code=0x068000, group=7))
        assert lines(bind(host, address("0000:07:00.0")))

    @pytest.mark.parametrize("driver", ["vfio-pci", "none", "snd_hda_intel"])
    def test_the_console_goes_dark_whoever_takes_the_display(self, driver: str) -> None:
        refusals = refused(
            lambda: bind(rtx(), RTX_CARD[0], driver=driver, allow=allowed("shared-group"))
        )
        assert [r.code for r in refusals] == ["boot-vga"]

    def test_a_display_without_a_driver_still_shows_the_console(self) -> None:
        host = snapshot(
            device("0000:01:00.0", class_code=0x030000, group=1), boot_vga="0000:01:00.0"
        )
        assert self.code(lambda: bind(host, RTX_CARD[0])).sentence == (
            "0000:01:00.0 is the display of the host's console (boot_vga); the screen goes dark."
        )
        assert bind(host, RTX_CARD[0], driver="nouveau").steps
        assert bind(host, RTX_CARD[0], driver="none").steps

    def test_an_unreadable_boot_vga_may_be_the_console(self) -> None:
        unknown = details("nouveau", boot_vga=Unavailable(5, "Input/output error"))
        host = with_details(rtx(), "0000:01:00.0", unknown)
        shared = allowed("shared-group")
        refusal = self.code(lambda: bind(host, RTX_CARD[0], allow=shared))
        assert (refusal.code, refusal.remedy) == ("unreadable", "Permit it with --allow display.")
        assert bind(host, RTX_CARD[0], allow=shared | {"display"}).steps
        absent = details("nouveau", boot_vga=Unavailable(2, "No such file or directory"))
        assert bind(with_details(rtx(), "0000:01:00.0", absent), RTX_CARD[0], allow=shared).steps

    def test_a_physical_function_with_virtual_ones_keeps_its_driver(self) -> None:
        host = snapshot(
            device("0000:65:00.0", "nvidia", group=30, total_vfs=32),
            device("0000:65:00.4", "nvidia", group=31, physfn="0000:65:00.0"),
            device("0000:65:00.5", "nvidia", group=32, physfn="0000:65:00.0"),
        )
        expected = Refusal(
            "pf-with-vfs",
            "0000:65:00.0",
            "0000:65:00.0 has 2 virtual functions; without nvidia they stay behind and cannot be "
            "removed any more.",
            "Remove them first: write 0 to sriov_numvfs of 0000:65:00.0 (or use NVIDIA's "
            "sriov-manage -d).",
        )
        assert self.code(lambda: bind(host, A10)) == expected
        assert self.code(lambda: bind(host, A10, driver="none")) == expected
        assert self.code(lambda: plan_unbind(host, [A10])) == expected

    def test_an_orphaned_one_goes_back_to_its_own_driver_only(self) -> None:
        host = snapshot(
            device("0000:65:00.0", group=30, total_vfs=32),
            device("0000:65:00.4", "nvidia", group=31, physfn="0000:65:00.0"),
        )
        refusal = self.code(lambda: bind(host, A10))
        assert refusal.code == "pf-with-vfs"
        assert "vfiohost restore 0000:65:00.0" in refusal.remedy
        assert bind(host, A10, driver="nvidia").steps

    def test_virtual_functions_of_vfio_pci_would_be_destroyed(self) -> None:
        host = snapshot(
            device("0000:65:00.0", "vfio-pci", group=30, total_vfs=32),
            device("0000:65:00.4", "vfio-pci", group=31, physfn="0000:65:00.0"),
        )
        assert "destroyed" in self.code(lambda: plan_unbind(host, [A10])).sentence

    def test_the_parent_of_mediated_devices_keeps_its_driver(self) -> None:
        uuid = "b716be33-2f53-4a1c-9d3c-2f2a5f3e8a10"
        host = snapshot(
            device("0000:65:00.4", "nvidia", ids="8086:2236", group=31),
            mdev=a10_bus((uuid, "0000:65:00.4", "nvidia-596")),
        )
        where = address("0000:65:00.4")
        refusal = self.code(lambda: plan_unbind(host, [where]))
        assert refusal == Refusal(
            "mdevs-exist",
            "0000:65:00.4",
            f"0000:65:00.4 has 1 mediated device ({uuid}), destroyed when nvidia lets go of it.",
            f"Remove them first: `vfiohost mdev remove {uuid}`.",
        )
        assert host.mdev is not None
        unreadable = attrs.evolve(host, mdev=attrs.evolve(host.mdev, parents=()))
        assert self.code(lambda: plan_unbind(unreadable, [where])) == refusal
        assert plan_unbind(attrs.evolve(host, mdev=a10_bus()), [where]).steps
        assert plan_unbind(attrs.evolve(host, mdev=None), [where]).steps

    @pytest.mark.parametrize("driver", ["nvidia", None])
    def test_a_vgpu_function_cannot_go_to_vfio_pci(self, driver: str | None) -> None:
        host = snapshot(
            device("0000:65:00.0", "nvidia", group=30),
            device("0000:65:00.4", driver, group=31, physfn="0000:65:00.0"),
            mdev=None if driver else a10_bus(),
        )
        refusal = self.code(lambda: bind(host, address("0000:65:00.4")))
        assert refusal.code == "vgpu-vf"
        assert "EINVAL" in refusal.sentence
        assert "0000:65:00.0" in refusal.remedy

    def test_other_virtual_functions_can(self) -> None:
        host = snapshot(
            device("0000:65:00.0", "ixgbe", ids="8086:1563", group=30),
            device("0000:65:10.0", "ixgbevf", ids="8086:1565", group=31, physfn="0000:65:00.0"),
        )
        assert bind(host, address("0000:65:10.0")).steps

    def test_without_an_iommu_there_is_no_vfio(self) -> None:
        host = snapshot(device("0000:65:00.0", "nouveau"))
        refusal = self.code(lambda: bind(host, A10))
        assert (refusal.code, refusal.subject) == ("no-iommu", "0000:65:00.0")
        assert "no device of this host has one" in refusal.sentence
        assert "intel_iommu=on" in refusal.remedy
        assert bind(host, A10, driver="none").steps

    def test_a_device_left_out_of_the_groups_is_told_from_a_host_without(self) -> None:
        host = snapshot(device("0000:65:00.0"), device("0000:66:00.0", group=1))
        assert "others have one" in self.code(lambda: bind(host, A10)).sentence

    @pytest.mark.parametrize(
        ("name", "sentence", "remedy"),
        [
            (
                "vfio_pci",
                (
                    "There is no PCI driver 'vfio_pci': "
                    "vfio_pci is a module, and its driver is called vfio-pci."
                ),
                "Did you mean --driver vfio-pci?",
            ),
            (
                "snd-hda-intel",
                "There is no PCI driver 'snd-hda-intel': it is called snd_hda_intel.",
                "Did you mean --driver snd_hda_intel?",
            ),
            (
                "i2c_i801",
                "There is no PCI driver 'i2c_i801': it is called i801_smbus.",
                "Did you mean --driver i801_smbus?",
            ),
            (
                "vfio-pcii",
                "There is no PCI driver 'vfio-pcii', and no module of that name.",
                "Did you mean vfio-pci? If not, load the module that brings it, then try again.",
            ),
            (
                "zzz",
                "There is no PCI driver 'zzz', and no module of that name.",
                "Load the module that brings it, then try again.",
            ),
        ],
    )
    def test_a_driver_that_is_not_there(self, name: str, sentence: str, remedy: str) -> None:
        refusal = self.code(lambda: bind(a10(), A10, driver=name))
        assert refusal == Refusal("missing-driver", name, sentence, remedy)

    def test_the_module_of_vfio_pci_is_no_driver_before_it_is_loaded_either(self) -> None:
        refusal = self.code(lambda: bind(a10(drivers=[]), A10, driver="vfio_pci"))
        assert refusal.remedy == "Did you mean --driver vfio-pci?"
        refusal = self.code(lambda: bind(a10(), A10, driver="nvgrace-gpu-vfio-pci"))
        assert refusal.remedy == "Did you mean --driver nvgrace_gpu_vfio_pci?"

    def test_a_name_that_is_right_is_not_corrected(self) -> None:
        assert "load pci_stub" in lines(bind(a10(), A10, driver="pci-stub"))
        refusal = self.code(lambda: bind(a10(), A10, driver="pci_stub"))
        assert refusal.remedy == "Did you mean --driver pci-stub?"

    def test_no_module_is_loaded_against_the_users_will(self) -> None:
        refusal = self.code(lambda: bind(a10(drivers=[]), A10, OTHER_A10, load=False))
        assert refusal == Refusal(
            "missing-driver",
            "vfio-pci",
            "The driver vfio-pci is not loaded, and --no-load forbids to load its module.",
            "Leave out --no-load, or load the module vfio_pci first.",
        )

    def test_without_a_list_of_modules_nothing_is_loaded_on_suspicion(self) -> None:
        refusal = self.code(lambda: plan_bind(a10(drivers=[]), request(A10), None))
        assert refusal.code == "missing-driver"
        assert "(vfio_pci, by its name)" in refusal.remedy

    def test_a_bound_driver_is_there_even_if_it_is_not_listed(self) -> None:
        host = snapshot(
            device("0000:65:00.0", group=1), device("0000:66:00.0", "vfio-pci"), drivers=[]
        )
        assert not any(isinstance(s, LoadModule) for s in plan_bind(host, request(A10), None).steps)

    @pytest.mark.parametrize(
        ("override", "uevent", "code"),
        [
            (Unavailable(0, "device locked"), Unavailable(0, "device locked"), "device-locked"),
            (None, Unavailable(0, "device locked"), "device-locked"),
            (Unavailable(13, "Permission denied"), "nouveau", "unreadable"),
        ],
    )
    def test_a_device_that_does_not_answer(
        self, override: Unavailable | None, uevent: str | Unavailable, code: str
    ) -> None:
        host = with_details(a10("nouveau"), "0000:65:00.0", details(uevent, override))
        refusal = self.code(lambda: bind(host, A10))
        assert (refusal.code, refusal.subject) == (code, "0000:65:00.0")
        assert self.code(lambda: plan_unbind(host, [A10])) == refusal

    def test_a_device_on_its_way_out(self) -> None:
        host = with_details(a10(), "0000:65:00.0", details("vfio-pci"))
        refusal = self.code(lambda: bind(host, A10))
        assert refusal.code == "releasing"
        assert refusal.sentence == (
            "0000:65:00.0 is still being released by vfio-pci: a process holds it open."
        )

    def test_a_device_that_nobody_looked_at(self) -> None:
        host = with_details(a10(), "0000:65:00.0", None)
        assert self.code(lambda: bind(host, A10)).code == "unreadable"

    def test_unreadable_links(self) -> None:
        broken = Unavailable(13, "Permission denied")
        host = snapshot(device("0000:65:00.0", broken))
        refusal = self.code(lambda: bind(host, A10))
        assert refusal.sentence == (
            "The driver of 0000:65:00.0 could not be read: Permission denied."
        )
        host = snapshot(device("0000:65:00.0", group=broken))
        assert self.code(lambda: bind(host, A10)).code == "unreadable"

    def test_all_devices_are_looked_at_before_anything_is_refused(self) -> None:
        host = with_details(rtx(), "0000:02:00.0", None)
        devices = (*RTX_CARD[:2], address("0000:00:01.0"), address("0000:02:00.0"))
        codes = {(r.code, r.subject) for r in refused(lambda: bind(host, *devices))}
        assert codes == {
            ("boot-vga", "0000:01:00.0"),
            ("bridge", "0000:00:01.0"),
            ("group-not-viable", "IOMMU group 1"),
            ("unreadable", "0000:02:00.0"),
        }


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
        with pytest.raises(ParseError, match="display and shared-group"):
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
