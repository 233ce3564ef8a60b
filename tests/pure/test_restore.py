from __future__ import annotations

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
from tests.pure.test_bind import lines, refused
from vfiohost.errors import NotFoundError, ParseError
from vfiohost.model import Driver, PciAddress, Snapshot, Unavailable
from vfiohost.plan.bind import plan_restore
from vfiohost.plan.types import Origin, Plan

A10 = address("0000:65:00.0")
ON_VFIO = {"0000:65:00.0": "vfio-pci"}


def restore(host: Snapshot, *devices: PciAddress, origins: tuple[Origin, ...] = ()) -> Plan:
    return plan_restore(host, devices, {o.address: o for o in origins}, MODULES)


def rtx_on_vfio(**options: object) -> Snapshot:
    card = {str(a): "vfio-pci" for a in RTX_CARD}
    devices = (
        device(str(d.address), "vfio-pci", ids=d.ids, class_code=d.class_code, group=1)
        for d in rtx().devices
        if d.address in RTX_CARD
    )
    return snapshot(*devices, overrides=card, **options)  # type: ignore[arg-type]


class TestWithAnOrigin:
    def test_four_functions_get_four_different_drivers(self) -> None:
        before = {d.address: d.driver for d in rtx().devices}
        origins = tuple(Origin(a, str(before[a]), None) for a in RTX_CARD)
        plan = restore(rtx_on_vfio(), *RTX_CARD, origins=origins)
        assert [line for line in lines(plan) if "/bind" in line] == [
            "drivers/nouveau/bind < '0000:01:00.0'",
            "drivers/snd_hda_intel/bind < '0000:01:00.1'",
            "drivers/xhci_hcd/bind < '0000:01:00.2'",
            "drivers/nvidia-gpu/bind < '0000:01:00.3'",
        ]
        assert lines(plan)[:3] == [
            "drivers/vfio-pci/unbind < '0000:01:00.0'",
            "devices/0000:01:00.0/driver_override < '\\n'",
            "drivers/nouveau/bind < '0000:01:00.0'",
        ]
        assert (plan.verb, plan.subjects) == ("restore", tuple(map(str, RTX_CARD)))

    def test_no_driver_comes_back_as_no_driver(self) -> None:
        host = a10("vfio-pci", overrides=ON_VFIO)
        assert lines(restore(host, A10, origins=(Origin(A10, None, None),))) == [
            "drivers/vfio-pci/unbind < '0000:65:00.0'",
            "devices/0000:65:00.0/driver_override < '\\n'",
        ]

    def test_the_override_comes_back_too(self) -> None:
        host = a10("vfio-pci", overrides=ON_VFIO)
        plan = restore(host, A10, origins=(Origin(A10, "nouveau", "pci-stub"),))
        assert lines(plan) == [
            "drivers/vfio-pci/unbind < '0000:65:00.0'",
            "devices/0000:65:00.0/driver_override < 'nouveau'",
            "drivers/nouveau/bind < '0000:65:00.0'",
            "devices/0000:65:00.0/driver_override < 'pci-stub'",
        ]
        assert plan.steps[-1].why == "as it was before"

    def test_vfio_pci_without_an_override_comes_back_through_one(self) -> None:
        plan = restore(a10(), A10, origins=(Origin(A10, "vfio-pci", None),))
        assert lines(plan) == [
            "devices/0000:65:00.0/driver_override < 'vfio-pci'",
            "drivers/vfio-pci/bind < '0000:65:00.0'",
            "devices/0000:65:00.0/driver_override < '\\n'",
        ]

    def test_what_is_as_it_was_is_left_alone(self) -> None:
        assert restore(a10("nouveau"), A10, origins=(Origin(A10, "nouveau", None),)).is_empty

    def test_the_module_of_its_driver_is_loaded(self) -> None:
        host = rtx_on_vfio(drivers=DRIVERS[-1:])
        where = RTX_CARD[2]
        plan = restore(host, where, origins=(Origin(where, "xhci_hcd", None),))
        assert lines(plan)[0] == "load xhci_pci"

    def test_a_driver_that_is_gone_for_good_is_refused(self) -> None:
        host = a10("vfio-pci", overrides=ON_VFIO)
        (refusal,) = refused(lambda: restore(host, A10, origins=(Origin(A10, "gone", None),)))
        assert (refusal.code, refusal.subject) == ("missing-driver", "gone")


class TestWithoutAnOrigin:
    def test_the_only_native_driver_that_is_loaded_takes_it(self) -> None:
        assert lines(restore(a10("vfio-pci", overrides=ON_VFIO), A10)) == [
            "drivers/vfio-pci/unbind < '0000:65:00.0'",
            "devices/0000:65:00.0/driver_override < '\\n'",
            "drivers/nouveau/bind < '0000:65:00.0'",
        ]

    def test_of_several_native_drivers_the_kernel_chooses(self) -> None:
        both = (*DRIVERS, Driver("nvidiafb", "nvidiafb"))
        plan = restore(a10("vfio-pci", overrides=ON_VFIO, drivers=both), A10)
        assert lines(plan) == [
            "drivers/vfio-pci/unbind < '0000:65:00.0'",
            "devices/0000:65:00.0/driver_override < '\\n'",
            "drivers_probe < '0000:65:00.0'",
        ]
        assert restore(a10("nouveau", drivers=both), A10).is_empty
        probe = plan.to_json()["steps"][-1]
        assert probe["after"] is None
        assert probe["undo"]["path"] == "sys/bus/pci/devices/0000:65:00.0/driver/unbind"

    def test_where_nothing_is_known_the_kernel_chooses(self) -> None:
        assert lines(plan_restore(a10(), [A10], {}, None)) == ["drivers_probe < '0000:65:00.0'"]

    def test_no_module_is_loaded_and_it_says_which_one_would_fit(self) -> None:
        plan = restore(a10("vfio-pci", overrides=ON_VFIO, drivers=DRIVERS[-1:]), A10)
        assert lines(plan) == [
            "drivers/vfio-pci/unbind < '0000:65:00.0'",
            "devices/0000:65:00.0/driver_override < '\\n'",
            "drivers_probe < '0000:65:00.0'",
        ]
        assert plan.notes == (
            (
                "0000:65:00.0 gets no driver, unless one that is loaded takes it: nvidiafb and "
                "nouveau would fit, but are not loaded; load the module nvidiafb to have its "
                "driver."
            ),
        )

    def test_a_driver_that_comes_with_the_plan_counts_as_loaded(self) -> None:
        other = address("0000:ca:00.0")
        host = snapshot(
            device("0000:65:00.0", group=30),
            device("0000:ca:00.0", group=31),
            drivers=[Driver("vfio-pci", "vfio_pci")],
        )
        plan = restore(host, A10, other, origins=(Origin(A10, "nouveau", None),))
        assert plan.notes == ()
        assert [line for line in lines(plan) if "override" not in line] == [
            "load nouveau",
            "drivers/nouveau/bind < '0000:65:00.0'",
            "drivers/nouveau/bind < '0000:ca:00.0'",
        ]
        assert lines(restore(host, other)) == []

    def test_a_native_driver_keeps_the_device_and_loses_the_override(self) -> None:
        host = a10("nouveau", overrides={"0000:65:00.0": "vfio-pci"})
        assert lines(restore(host, A10)) == ["devices/0000:65:00.0/driver_override < '\\n'"]
        assert restore(a10("nouveau"), A10).is_empty

    def test_a_forced_host_driver_is_replaced_by_the_native_one(self) -> None:
        host = a10(
            "e1000e",
            overrides={"0000:65:00.0": "e1000e"},
            drivers=(*DRIVERS, Driver("e1000e", "e1000e")),
        )
        assert lines(restore(host, A10))[-1] == "drivers/nouveau/bind < '0000:65:00.0'"

    def test_a_bridge_comes_back_from_vfio_pci(self) -> None:
        port = device("0000:00:01.0", "vfio-pci", ids="8086:1901", class_code=0x060400, group=1)
        host = snapshot(port, overrides={"0000:00:01.0": "vfio-pci"})
        assert lines(restore(host, port.address))[-1] == "drivers_probe < '0000:00:01.0'"


class TestRefusals:
    def test_a_physical_function_with_virtual_ones(self) -> None:
        host = snapshot(
            device("0000:65:00.0", "nvidia", group=30, total_vfs=32),
            device("0000:65:00.4", "nvidia", group=31, physfn="0000:65:00.0"),
        )
        (refusal,) = refused(lambda: restore(host, A10, origins=(Origin(A10, "nouveau", None),)))
        assert refusal.code == "pf-with-vfs"

    def test_an_orphaned_physical_function_is_brought_back(self) -> None:
        host = snapshot(
            device("0000:65:00.0", group=30, total_vfs=32),
            device("0000:65:00.4", "nvidia", group=31, physfn="0000:65:00.0"),
        )
        plan = restore(host, A10, origins=(Origin(A10, "nouveau", None),))
        assert lines(plan) == ["drivers/nouveau/bind < '0000:65:00.0'"]

    def test_the_display_of_the_console_and_its_mediated_devices(self) -> None:
        uuid = "b716be33-2f53-4a1c-9d3c-2f2a5f3e8a10"
        host = snapshot(
            device("0000:65:00.4", "nvidia", class_code=0x030000, group=30),
            boot_vga="0000:65:00.4",
            mdev=a10_bus((uuid, "0000:65:00.4", "nvidia-596")),
        )
        where = address("0000:65:00.4")
        origin = Origin(where, None, None)
        found = refused(lambda: restore(host, where, origins=(origin,)))
        assert [r.code for r in found] == ["boot-vga", "mdevs-exist"]

    def test_a_device_that_does_not_answer(self) -> None:
        locked = details(Unavailable(0, "device locked"), Unavailable(0, "device locked"))
        host = with_details(a10("vfio-pci"), "0000:65:00.0", locked)
        (refusal,) = refused(lambda: restore(host, A10))
        assert refusal.code == "device-locked"

    def test_bad_requests(self) -> None:
        with pytest.raises(NotFoundError):
            restore(a10(), address("0000:66:00.0"))
        with pytest.raises(ParseError, match="allow"):
            plan_restore(a10(), [A10], {}, MODULES, frozenset({"bridge"}))
