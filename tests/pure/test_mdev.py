from __future__ import annotations

from time import process_time
from typing import TYPE_CHECKING
from uuid import UUID

import attrs
import pytest

from tests.pure.hosts import a10_bus, a10_type, address, mtty_bus
from tests.pure.test_bind import refused
from vfiohost.errors import AmbiguousError, NotFoundError, ParseError, PlanRefused, Refusal
from vfiohost.model import MdevBus, MdevParent, MdevType, Unavailable
from vfiohost.plan.mdev import CreateRequest, parse_uuid, plan_create, plan_remove
from vfiohost.plan.types import Plan, WriteAttr

if TYPE_CHECKING:
    from collections.abc import Callable

UUIDS = tuple(f"b716be33-2f53-4a1c-9d3c-2f2a5f3e8a1{n}" for n in range(9))
NOTHING = MdevBus((), ())


def create(
    bus: MdevBus,
    parent: str,
    mdev_type: str,
    number: int = 1,
    attributes: tuple[tuple[str, str], ...] = (),
) -> Plan:
    return plan_create(bus, CreateRequest(parent, mdev_type, UUIDS[:number], attributes))


def only(plan: Callable[[], Plan]) -> Refusal:
    (refusal,) = refused(plan)
    return refusal


def where(plan: Plan) -> list[str]:
    """The parents that devices are created on."""
    return [
        step.path.split("/")[3]
        for step in plan.steps
        if isinstance(step, WriteAttr) and step.path.endswith("/create")
    ]


class TestCreate:
    def test_one_device_is_one_store(self) -> None:
        plan = create(mtty_bus(), "mtty", "mtty-1")
        assert (plan.verb, plan.subjects, plan.origins) == ("mdev create", (UUIDS[0],), ())
        (step,) = plan.to_json()["steps"]
        device = f"sys/bus/mdev/devices/{UUIDS[0]}"
        kind = "sys/class/mdev_bus/mtty/mdev_supported_types/mtty-1"
        gone = {"path": device, "kind": "exists", "value": "no"}
        assert step == {
            "kind": "write",
            "path": f"{kind}/create",
            "value": UUIDS[0],
            "before": gone,
            "after": {"path": f"{kind}/devices/{UUIDS[0]}", "kind": "exists", "value": "yes"},
            "undo": {"path": f"{device}/remove", "value": "1", "after": gone},
            "why": "create a mtty-1 (Single port serial) on mtty",
        }

    @pytest.mark.parametrize(
        "name",
        [
            "nvidia-595",
            "NVIDIA A10-8Q",
            "NVIDIA_A10-8Q",
            "A10-8Q",
            "GRID A10-8Q",
            " NVIDIA  A10-8Q ",
        ],
    )
    def test_a_type_is_named_by_id_or_name(self, name: str) -> None:
        plan = create(a10_bus(), "0000:65:00.4", name)
        assert "/nvidia-595/" in str(plan.steps[0])

    @pytest.mark.parametrize("name", ["0000:65:00.4", "65:00.4", "0000:65:00.4".upper()])
    def test_a_parent_is_named_by_its_address(self, name: str) -> None:
        assert where(create(a10_bus(), name, "A10-8Q")) == ["0000:65:00.4"]

    def test_a_parent_in_a_wide_domain_is_found_by_its_address(self) -> None:
        parent = attrs.evolve(
            a10_bus().parents[0],
            name="10000:e1:00.0",
            address=address("10000:e1:00.0"),
            physfn=None,
        )
        bus = MdevBus((parent,), ())
        assert where(create(bus, "10000:E1:00.0", "A10-8Q")) == ["10000:e1:00.0"]

    def test_a_physical_function_stands_for_its_virtual_ones(self) -> None:
        plan = create(a10_bus(), "65:00.0", "A10-12Q", 2)
        assert where(plan) == ["0000:65:00.4", "0000:65:00.5"]

    def test_functions_that_are_taken_are_passed_over(self) -> None:
        bus = a10_bus((UUIDS[8], "0000:65:00.4", "nvidia-595"))
        assert where(create(bus, "65:00.0", "A10-8Q", 2)) == ["0000:65:00.5", "0000:65:00.6"]

    def test_several_devices_on_one_parent(self) -> None:
        assert where(create(mtty_bus(2), "mtty", "Single_port_serial", 2)) == ["mtty", "mtty"]

    def test_attributes_are_written_to_each_device_after_its_creation(self) -> None:
        attributes = (("a", "1"), ("nvidia/vgpu_params", "enable_uvm=1"))
        plan = create(mtty_bus(), "mtty", "mtty-1", 2, attributes)
        writes = [
            (s.path.rsplit("/", 2)[-1], s.value) for s in plan.steps if isinstance(s, WriteAttr)
        ]
        assert writes == [
            ("create", UUIDS[0]),
            ("a", "1"),
            ("vgpu_params", "enable_uvm=1"),
            ("create", UUIDS[1]),
            ("a", "1"),
            ("vgpu_params", "enable_uvm=1"),
        ]
        written = plan.to_json()["steps"][1]
        assert written["path"] == f"sys/bus/mdev/devices/{UUIDS[0]}/a"
        assert (written["before"], written["after"], written["undo"]) == (None, None, None)
        assert plan.notes == ("Others can see the devices before their attributes are set.",)

    def test_upper_case_uuids_are_what_the_kernel_makes_of_them(self) -> None:
        plan = plan_create(mtty_bus(), CreateRequest("mtty", "mtty-1", (UUIDS[0].upper(),)))
        assert plan.subjects == (UUIDS[0],)


class TestCapacity:
    def test_the_third_12q_does_not_fit_on_an_a10(self) -> None:
        two = ((UUIDS[7], "0000:65:00.4", "nvidia-596"), (UUIDS[8], "0000:65:00.5", "nvidia-596"))
        assert only(lambda: create(a10_bus(*two), "65:00.0", "A10-12Q")) == Refusal(
            "no-instances",
            "65:00.0",
            "GPU 0000:65:00.0 has room for 0 more NVIDIA A10-12Q, and 1 was asked for; 2 devices "
            "(NVIDIA A10-12Q) exist there.",
            "Choose another parent: 0000:b4:00.0 has room for 2.",
        )

    def test_three_at_once_do_not_fit_though_four_functions_are_free(self) -> None:
        refusal = only(lambda: create(a10_bus(), "65:00.0", "A10-12Q", 3))
        assert refusal.sentence == (
            "GPU 0000:65:00.0 has room for 2 more NVIDIA A10-12Q, and 3 were asked for."
        )
        assert refusal.remedy == (
            "Ask for fewer: 0000:65:00.0 has room for 2 and 0000:b4:00.0 has room for 2."
        )

    def test_the_plan_that_comes_with_the_refusal_has_what_fits(self) -> None:
        with pytest.raises(PlanRefused) as caught:
            create(a10_bus(), "65:00.0", "A10-12Q", 3)
        assert isinstance(caught.value.plan, Plan)
        assert where(caught.value.plan) == ["0000:65:00.4", "0000:65:00.5"]

    def test_what_exists_counts(self) -> None:
        bus = a10_bus((UUIDS[8], "0000:65:00.4", "nvidia-596"))
        assert where(create(bus, "65:00.0", "A10-12Q")) == ["0000:65:00.5"]
        refusal = only(lambda: create(bus, "65:00.0", "A10-12Q", 2))
        assert "has room for 1 more NVIDIA A10-12Q, and 2 were asked for; 1 device" in (
            refusal.sentence
        )

    def test_a_gpu_takes_one_type_at_a_time(self) -> None:
        others = [(UUIDS[n], f"0000:{bus}:00.4", "nvidia-595") for n, bus in ((7, "65"), (8, "b4"))]
        refusal = only(lambda: create(a10_bus(*others), "65:00.0", "A10-12Q"))
        assert refusal.sentence.endswith(
            "; 1 device (NVIDIA A10-8Q) exists there, and a GPU takes one type at a time unless it "
            "is in mixed-size mode."
        )
        assert refusal.remedy == f"Make room first: `vfiohost mdev remove {UUIDS[7]}`."

    def test_memory_limits_a_gpu_in_mixed_size_mode(self) -> None:
        """There every free function offers every type that still fits."""
        bus = a10_bus((UUIDS[8], "0000:65:00.4", "nvidia-596"))
        mixed = tuple(
            attrs.evolve(p, types=(a10_type("nvidia-592"), a10_type("nvidia-596")))
            if p.name != "0000:65:00.4"
            else p
            for p in bus.parents
        )
        bus = attrs.evolve(bus, parents=mixed)
        assert where(create(bus, "65:00.0", "A10-3Q", 3)) == [f"0000:65:00.{n}" for n in (5, 6, 7)]
        bus = attrs.evolve(
            bus,
            devices=tuple(
                attrs.evolve(bus.devices[0], uuid=UUIDS[n], type_id="nvidia-597") for n in (7,)
            ),
        )
        types = tuple(attrs.evolve(p, types=(*p.types, a10_type("nvidia-597"))) for p in mixed)
        bus = attrs.evolve(bus, parents=types)
        refusal = only(lambda: create(bus, "65:00.0", "A10-3Q"))
        assert "has room for 0 more NVIDIA A10-3Q" in refusal.sentence

    def test_one_virtual_function_takes_one(self) -> None:
        refusal = only(lambda: create(a10_bus(), "0000:65:00.4", "A10-12Q", 2))
        assert refusal.sentence == (
            "0000:65:00.4 has room for 1 more NVIDIA A10-12Q, and 2 were asked for."
        )
        assert refusal.remedy.startswith("Choose another parent: 0000:65:00.0 has room for 2")

    def test_a_parent_that_is_no_gpu_has_what_the_kernel_says(self) -> None:
        refusal = only(lambda: create(mtty_bus(2), "mtty", "mtty-1", 3))
        assert refusal.sentence == (
            "mtty has room for 2 more Single port serial, and 3 were asked for."
        )
        assert refusal.remedy == "Ask for fewer: mtty has room for 2."

    def test_unreadable_counts_matter_only_if_they_are_needed(self) -> None:
        bus = a10_bus()
        unknown = a10_type("nvidia-596", Unavailable(5, "Input/output error"))
        first = attrs.evolve(bus.parents[0], types=(unknown,))
        bus = attrs.evolve(bus, parents=(first, *bus.parents[1:]))
        assert where(create(bus, "65:00.0", "A10-12Q", 2)) == ["0000:65:00.5", "0000:65:00.6"]
        refusal = only(lambda: create(bus, "65:00.4", "A10-12Q"))
        assert refusal.code == "unreadable"
        assert "0000:65:00.4 (Input/output error)" in refusal.sentence

    @pytest.mark.parametrize(
        "description", [None, "", "framebuffer=12288M", "max_instance=2", "framebuffer=0M"]
    )
    def test_what_a_description_does_not_say_limits_nothing(self, description: str | None) -> None:
        types = (attrs.evolve(a10_type("nvidia-596"), description=description),)
        bus = a10_bus()
        bus = attrs.evolve(bus, parents=tuple(attrs.evolve(p, types=types) for p in bus.parents))
        assert len(where(create(bus, "65:00.0", "A10-12Q", 2))) == 2

    @pytest.mark.parametrize("count", [10**9, 10**30])
    def test_a_count_that_cannot_be_true_fills_no_memory(self, count: int) -> None:
        assert where(create(mtty_bus(count), "mtty", "mtty-1", 3)) == ["mtty"] * 3


class TestWhatIsNotThere:
    @pytest.mark.parametrize(
        ("parent", "message"),
        [
            ("MTTY", r"Did you mean mtty\?"),
            ("mtt", r"Did you mean mtty\?"),
            ("0000:65:00.1", "'0000:65:00.1' on this host"),
        ],
    )
    def test_the_parent(self, parent: str, message: str) -> None:
        with pytest.raises(NotFoundError, match=message):
            create(mtty_bus(), parent, "mtty-1")

    def test_a_near_address_is_offered(self) -> None:
        with pytest.raises(NotFoundError) as caught:
            create(a10_bus(), "0000:65:00.1", "A10-8Q")
        assert caught.value.near[0] == "0000:65:00.0"

    def test_a_host_without_mediated_devices(self) -> None:
        with pytest.raises(NotFoundError, match="No device of this host can make mediated devices"):
            create(NOTHING, "65:00.0", "A10-8Q")

    def test_the_parent_comes_before_the_type_and_both_before_the_rest(self) -> None:
        bus = a10_bus((UUIDS[0], "0000:65:00.4", "nvidia-597"))
        with pytest.raises(NotFoundError, match="parent of mediated devices"):
            create(bus, "nosuch", "nosuch")
        with pytest.raises(NotFoundError, match="mdev type"):
            create(bus, "65:00.0", "nosuch", 9)

    @pytest.mark.parametrize(
        ("name", "near"),
        [
            ("A10-8q", "A10-8Q"),
            ("A10-8", "A10-8Q"),
            ("nvidia-59", "nvidia-59"),
            ("NVIDIA-595", "nvidia-595"),
            ("nvidia 595", "nvidia-595"),
        ],
    )
    def test_the_type(self, name: str, near: str) -> None:
        with pytest.raises(NotFoundError) as caught:
            create(a10_bus(), "65:00.0", name)
        assert any(near in text for text in caught.value.near)
        assert (
            "65:00.0 offers nvidia-592 (NVIDIA A10-3Q), nvidia-595 (NVIDIA A10-8Q), "
            "nvidia-596 (NVIDIA A10-12Q) and nvidia-597 (NVIDIA A10-24Q)." in str(caught.value)
        )

    def test_a_type_of_another_parent_is_said_to_be_there(self) -> None:
        bus = MdevBus((*a10_bus(vfs=1).parents, *mtty_bus().parents), ())
        with pytest.raises(NotFoundError, match=r"mtty would\."):
            create(bus, "65:00.0", "mtty-1")

    def test_a_name_of_several_types_is_ambiguous(self) -> None:
        types = tuple(MdevType(i, "Same", 1, "vfio-pci", None) for i in ("x-1", "x-2"))
        bus = MdevBus((MdevParent("x", "sys/devices/x", types, None, None),), ())
        with pytest.raises(AmbiguousError, match="x-1, x-2"):
            create(bus, "x", "Same")
        assert where(create(bus, "x", "x-2")) == ["x"]


class TestUuids:
    def test_a_uuid_that_is_in_use_anywhere(self) -> None:
        bus = a10_bus((UUIDS[0], "0000:b4:00.4", "nvidia-595"))
        assert only(lambda: create(bus, "65:00.0", "A10-8Q")) == Refusal(
            "uuid-exists",
            UUIDS[0],
            f"A mediated device {UUIDS[0]} exists already, on 0000:b4:00.4.",
            f"Choose another UUID, or remove it first: `vfiohost mdev remove {UUIDS[0]}`.",
        )

    def test_all_reasons_come_at_once(self) -> None:
        bus = a10_bus((UUIDS[1], "0000:65:00.4", "nvidia-597"))
        found = refused(lambda: create(bus, "65:00.0", "A10-12Q", 3))
        assert [r.code for r in found] == ["no-instances", "uuid-exists"]

    @pytest.mark.parametrize(
        ("text", "hint"),
        [
            (UUIDS[0].replace("-", ""), f"Did you mean {UUIDS[0]}?"),
            (f"{{{UUIDS[0].upper()}}}", f"Did you mean {UUIDS[0]}?"),
            (f"{UUIDS[0]}\n", f"Did you mean {UUIDS[0]}?"),
            (f"urn:uuid:{UUIDS[0]}", f"Did you mean {UUIDS[0]}?"),
            ("00000000-0000-0000-0000-000000000000", "The nil UUID names no device."),
            (UUIDS[0][:-1], None),
            ("", None),
        ],
    )
    def test_what_is_no_uuid(self, text: str, hint: str | None) -> None:
        with pytest.raises(ParseError) as caught:
            parse_uuid(text)
        assert caught.value.hint == hint
        with pytest.raises(ParseError):
            plan_create(mtty_bus(), CreateRequest("mtty", "mtty-1", (text,)))
        with pytest.raises(ParseError):
            plan_remove(mtty_bus(), [text])

    def test_the_number_has_to_fit(self) -> None:
        with pytest.raises(ParseError, match=r"the number of UUIDs that were given \(1\)"):
            plan_create(mtty_bus(), CreateRequest("mtty", "mtty-1", UUIDS[:1], count=2))
        with pytest.raises(ParseError, match="at least 1"):
            plan_create(mtty_bus(), CreateRequest("mtty", "mtty-1", ()))
        twice = (UUIDS[0], UUIDS[0].upper())
        with pytest.raises(ParseError, match="a UUID that is given once"):
            plan_create(mtty_bus(), CreateRequest("mtty", "mtty-1", twice))

    def test_thousands_are_no_trouble(self) -> None:
        uuids = tuple(str(UUID(int=n + 1)) for n in range(20_000))
        start = process_time()
        assert len(plan_create(mtty_bus(20_000), CreateRequest("mtty", "mtty-1", uuids)).steps)
        assert process_time() - start < 5


@pytest.mark.parametrize(
    "attribute",
    [
        ("a/b", "1"),
        ("../x", "1"),
        ("..", "1"),
        (".", "1"),
        ("", "1"),
        ("/etc/x", "1"),
        ("remove", "1"),
        ("mdev_type", "1"),
        ("nvidia/../remove", "1"),
        ("a", ""),
        ("a", "\0"),
        ("a", "\ud800"),
    ],
)
def test_what_can_be_no_attribute(attribute: tuple[str, str]) -> None:
    with pytest.raises(ParseError, match="attribute: "):
        create(mtty_bus(), "mtty", "mtty-1", 1, (attribute,))


class TestRemove:
    BUS = a10_bus(
        (UUIDS[0], "0000:65:00.4", "nvidia-596"), (UUIDS[1], "0000:b4:00.4", "nvidia-595")
    )

    def test_a_removal_is_undone_by_a_creation(self) -> None:
        plan = plan_remove(self.BUS, [UUIDS[0].upper()])
        assert (plan.verb, plan.subjects) == ("mdev remove", (UUIDS[0],))
        (step,) = plan.to_json()["steps"]
        device = f"sys/bus/mdev/devices/{UUIDS[0]}"
        kind = "sys/class/mdev_bus/0000:65:00.4/mdev_supported_types/nvidia-596"
        there = {"path": f"{kind}/devices/{UUIDS[0]}", "kind": "exists", "value": "yes"}
        assert (step["path"], step["value"]) == (f"{device}/remove", "1")
        assert step["before"] == there
        assert step["after"] == {"path": device, "kind": "exists", "value": "no"}
        assert step["undo"] == {
            "path": f"{kind}/create",
            "value": UUIDS[0],
            "after": there,
        }
        assert plan.notes == ("Undo creates the devices again, without their attributes.",)

    def test_several_in_request_order_and_each_once(self) -> None:
        plan = plan_remove(self.BUS, [UUIDS[1], UUIDS[0], UUIDS[1]])
        assert plan.subjects == (UUIDS[1], UUIDS[0])
        assert len(plan.steps) == 2

    def test_one_that_is_not_there(self) -> None:
        with pytest.raises(NotFoundError) as caught:
            plan_remove(self.BUS, [UUIDS[0], UUIDS[2]])
        assert caught.value.key == UUIDS[2]
        assert set(caught.value.near) == {UUIDS[0], UUIDS[1]}
        with pytest.raises(NotFoundError, match="There is none at all"):
            plan_remove(NOTHING, [UUIDS[0]])

    def test_one_whose_type_is_unreadable_has_no_undo(self) -> None:
        odd = attrs.evolve(self.BUS.devices[0], type_id=Unavailable(2, "No such file"))
        plan = plan_remove(attrs.evolve(self.BUS, devices=(odd,)), [UUIDS[0]])
        (step,) = plan.steps
        assert isinstance(step, WriteAttr)
        assert step.undo is None
        assert any("has no undo" in note for note in plan.notes)

    def test_nothing_to_remove_is_an_empty_plan(self) -> None:
        assert plan_remove(NOTHING, []) == Plan("mdev remove", (), ())
