"""What bind and unbind refuse, all reasons at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import pytest

from tests.pure.hosts import (
    DRIVERS,
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
from tests.pure.test_bind import A10, OTHER_A10, allowed, bind, lines, refused, request
from vfiohost.errors import Refusal
from vfiohost.model import Driver, Unavailable
from vfiohost.plan.bind import plan_bind, plan_unbind
from vfiohost.plan.types import LoadModule, Plan

if TYPE_CHECKING:
    from collections.abc import Callable


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
            "Remove them first: `vfiohost vf clear 0000:65:00.0`.",
        )
        assert self.code(lambda: bind(host, A10)) == expected
        assert self.code(lambda: bind(host, A10, driver="none")) == expected
        assert self.code(lambda: plan_unbind(host, [A10])) == expected

    def test_orphans_have_to_go_first(self) -> None:
        host = snapshot(
            device("0000:65:00.0", group=30, total_vfs=32),
            device("0000:65:00.4", "nvidia", group=31, physfn="0000:65:00.0"),
        )
        refusal = self.code(lambda: bind(host, A10))
        assert refusal.code == "pf-with-vfs"
        assert "vfiohost vf clear 0000:65:00.0" in refusal.remedy
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
            f"Remove them first: `vfiohost mdev remove {uuid}`, or permit it with --allow vgpu.",
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
