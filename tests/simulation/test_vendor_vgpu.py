"""Edge case 88: vGPUs without mediated devices, by the type of a virtual function."""

from __future__ import annotations

import errno
import re
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.simulation.hosts import Shell, answers, having
from vfiohost import recording, testing
from vfiohost.errors import KernelError, StoreTimeoutError
from vfiohost.model import PciAddress
from vfiohost.record import capture
from vfiohost.recording import Module, PciDriver
from vfiohost.scan import scan
from vfiohost.sysfs import Sysfs
from vfiohost.testing import vendor_vgpu

if TYPE_CHECKING:
    from vfiohost.recording import Recording

CARD = "0000:c1:00.0"
VFS = tuple(f"0000:c1:00.{number}" for number in (4, 5, 6, 7))
DEVICES = "sys/bus/pci/devices"
HEADER = "ID    : vGPU Name"
Q12, Q24, A24, Q48, B3 = "1153", "1155", "1165", "1156", "2164"
MOST = 32


def l40s(*, sriov: bool = False, count: int = 32) -> Recording:
    """The recorded host; ``sriov``: its driver takes a plain store; ``count``: of its functions."""
    found = testing.load("l40s-vgpu")
    modules = tuple(
        attrs.evolve(
            module, drivers=tuple(attrs.evolve(each, sriov=sriov) for each in module.drivers)
        )
        if module.name == "nvidia"
        else module
        for module in found.modules
    )
    functions = tuple(each for each in found.functions if (each.vf_index or 0) < count)
    found = attrs.evolve(found, modules=modules, functions=functions)
    return having(found, {CARD: {"sriov_numvfs": f"{count}\n".encode()}})


def start(scratch: Path, found: Recording | None = None) -> Shell:
    return Shell(testing.create(found or l40s(count=4), scratch / "host"))


@pytest.fixture
def host(scratch: Path) -> Shell:
    return start(scratch)


def path(vf: str, name: str = "current_vgpu_type") -> str:
    return f"{DEVICES}/{vf}/nvidia/{name}"


def assign(host: Shell, vf: str, type_id: str) -> str:
    try:
        host.echo(type_id, path(vf))
    except KernelError as error:
        return errno.errorcode[error.errno or 0] if error.op == "write" else str(error)
    return "ok"


def current(host: Shell, vf: str) -> str:
    return host.cat(path(vf))


def creatable(host: Shell, vf: str) -> list[str]:
    """The ids; the form is checked at once."""
    header, *lines = host.cat(path(vf, "creatable_vgpu_types")).split("\n")
    assert header == HEADER
    assert all(re.fullmatch(r"\d{4}  : NVIDIA L40S-\d+[ABQ]", line) for line in lines)
    return [line[:4] for line in lines]


# ---- what a store answers ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "outcome"),
    [
        (Q24, "ok"),
        (f"{Q24}\n", "ok"),
        (f"+{Q24}", "ok"),
        (f"0{Q24}", "ok"),
        (str((1 << 32) + int(Q24)), "ok"),  # it is cut off to 32 bits
        (f"{Q24}\n\n", "EINVAL"),
        (f" {Q24}", "EINVAL"),
        (f"{Q24}x", "EINVAL"),
        ("0x483", "EINVAL"),
        ("", "nothing"),
        ("\n", "EINVAL"),
        ("-", "EINVAL"),
        ("-+1", "EINVAL"),
        ("NVIDIA L40S-24Q", "EINVAL"),
        ("-1155", "EINVAL"),
        ("999", "EINVAL"),
        (str(1 << 32), "EINVAL"),
        (str((1 << 63) - 1), "EINVAL"),
        (str(1 << 63), "ERANGE"),
        (str(-1 << 63), "EINVAL"),
        (str((-1 << 63) - 1), "ERANGE"),
        (f"{1 << 64}x", "ERANGE"),
        ("9" * 4096, "ERANGE"),
        ("0", "EPERM"),
        ("-0", "EPERM"),
        ("00\n", "EPERM"),
    ],
)
def test_88_what_a_function_without_a_type_takes(host: Shell, value: str, outcome: str) -> None:
    said = assign(host, VFS[0], value)
    assert said == ("ok" if outcome == "nothing" else outcome)
    assert current(host, VFS[0]) == (Q24 if outcome == "ok" else "0")


@pytest.mark.parametrize(
    ("value", "outcome"),
    [("0", "ok"), ("0\n", "ok"), (Q24, "EPERM"), (Q12, "EPERM"), ("999", "EPERM"), ("x", "EINVAL")],
)
def test_88_what_one_with_a_type_takes(host: Shell, value: str, outcome: str) -> None:
    host.echo(Q24, path(VFS[0]))
    assert assign(host, VFS[0], value) == outcome
    assert current(host, VFS[0]) == ("0" if outcome == "ok" else Q24)


@pytest.mark.parametrize("name", ["current_vgpu_type", "vgpu_params"])
def test_only_root_may_store(host: Shell, name: str) -> None:
    host.echo(Q24, path(VFS[0]))
    with answers("EACCES", "open"):
        host.kernel.store(path(VFS[0], name), "0", timeout=1, as_root=False)


def test_what_can_be_made_is_only_read(host: Shell) -> None:
    with answers("EACCES", "open"):
        host.echo(Q24, path(VFS[0], "creatable_vgpu_types"))


def test_the_card_itself_has_no_such_folder(host: Shell) -> None:
    assert not host.exists(f"{DEVICES}/{CARD}/nvidia")


# ---- what is left -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made", "left"),
    [
        ([], None),
        ([Q48], []),
        ([Q24], [Q24]),
        ([A24], [A24]),
        ([Q24, Q24], []),
        ([Q12, Q12, Q12], [Q12]),
        ([Q12, Q12, Q12, Q12], []),
        ([B3], [B3]),
    ],
)
def test_88_the_lists_of_all_functions_shrink_together_and_come_back(
    host: Shell, made: list[str], left: list[str] | None
) -> None:
    everything = creatable(host, VFS[0])
    assert len(everything) == 23
    for vf, type_id in zip(VFS, made, strict=False):
        host.echo(type_id, path(vf))
    wanted = everything if left is None else left
    assert [creatable(host, vf) for vf in VFS] == [wanted] * len(VFS)
    for vf in VFS[: len(made)]:
        host.echo("0", path(vf))
    assert [creatable(host, vf) for vf in VFS] == [everything] * len(VFS)


def test_88_what_is_not_listed_any_more_is_einval(host: Shell) -> None:
    host.echo(Q24, path(VFS[0]))
    assert assign(host, VFS[1], Q12) == "EINVAL"
    assert assign(host, VFS[1], A24) == "EINVAL"  # as large, but another type
    host.echo(Q24, path(VFS[1]))
    assert assign(host, VFS[2], Q24) == "EINVAL"
    host.echo("0", path(VFS[0]))
    host.echo(Q24, path(VFS[2]))


def test_as_many_as_the_framebuffer_holds_also_on_many_functions(scratch: Path) -> None:
    host = start(scratch, l40s())
    functions = [name for name in host.ls(DEVICES) if host.exists(path(name))]
    assert len(functions) == MOST
    made = [assign(host, vf, "1150") for vf in functions]  # L40S-4Q
    assert Counter(made) == {"ok": 12, "EINVAL": 20}


def test_in_heterogeneous_mode_types_mix_while_the_framebuffer_lasts(host: Shell) -> None:
    host.kernel.set_vgpu_heterogeneous_mode(CARD)
    host.echo(Q24, path(VFS[0]))
    host.echo(Q12, path(VFS[1]))
    assert Q24 not in creatable(host, VFS[2])
    assert Q12 in creatable(host, VFS[2])
    host.echo(Q12, path(VFS[2]))
    assert creatable(host, VFS[3]) == []
    with pytest.raises(KernelError) as caught:  # in use by another client
        host.kernel.set_vgpu_heterogeneous_mode(CARD, enabled=False)
    assert caught.value.errno == errno.EBUSY
    for vf in VFS[:3]:
        host.echo("0", path(vf))
    host.kernel.set_vgpu_heterogeneous_mode(CARD, enabled=False)
    host.echo(Q24, path(VFS[0]))
    assert assign(host, VFS[1], Q12) == "EINVAL"


def test_the_mode_goes_when_the_driver_lets_go_of_the_card(host: Shell) -> None:
    host.kernel.set_vgpu_heterogeneous_mode(CARD)
    host.unbind("nvidia", CARD)
    with pytest.raises(KernelError) as caught:
        host.kernel.set_vgpu_heterogeneous_mode(CARD)
    assert caught.value.errno == errno.ENODEV
    host.bind("nvidia", CARD)
    host.echo(Q24, path(VFS[0]))
    assert assign(host, VFS[1], Q12) == "EINVAL"


# ---- what a recording tells -------------------------------------------------------------------


def with_vgpus(used: dict[str, str], listed: list[str]) -> Recording:
    """The host, recorded while it had vGPUs: what functions have, and what can still be made."""
    found = l40s(count=4)
    function = next(each for each in found.functions if str(each.address) == VFS[0])
    content = function.attributes["nvidia/creatable_vgpu_types"].content
    assert isinstance(content, bytes)
    types = vendor_vgpu.parse_types(content.decode())
    text = vendor_vgpu.format_types({int(each): types[int(each)] for each in listed}).encode()
    more = {
        vf: {
            "nvidia/current_vgpu_type": f"{used.get(vf, '0')}\n".encode(),
            "nvidia/creatable_vgpu_types": text,
        }
        for vf in VFS
    }
    return having(found, more)


def test_vgpus_that_were_recorded_count(scratch: Path) -> None:
    host = start(scratch, with_vgpus({VFS[0]: Q24}, [Q24]))
    assert host.exists(path(VFS[0], "vgpu_params"))
    assert assign(host, VFS[1], Q24) == "ok"
    assert creatable(host, VFS[2]) == []
    host.echo("0", path(VFS[0]))
    host.echo("0", path(VFS[1]))
    assert creatable(host, VFS[2]) == [Q24]  # no others were ever seen


def test_a_card_of_the_same_kind_tells_what_a_full_one_does_not(scratch: Path) -> None:
    full = with_vgpus({VFS[0]: Q48}, [])
    other = re.sub(r"0000:c([01]):", r"0000:e\1:", recording.format(l40s(count=4)))
    other = other.replace("pci0000:c0", "pci0000:e0")
    idle = recording.parse(other)
    numbers = {f.path: 100 + n for n, f in enumerate(idle.functions)}
    more = tuple(
        attrs.evolve(f, iommu_group=numbers[f.path]) for f in idle.functions if "0000:e" in f.path
    )
    host = start(scratch, attrs.evolve(full, functions=(*full.functions, *more)))
    assert creatable(host, VFS[1]) == []
    host.echo("0", path(VFS[0]))
    assert len(creatable(host, VFS[1])) == 23


@pytest.mark.parametrize(
    ("used", "listed", "mixes"),
    [
        ({}, [Q12, Q24], False),
        ({VFS[0]: Q24}, [Q24], False),
        ({VFS[0]: Q48}, [], False),
        ({VFS[0]: Q24, VFS[1]: Q12}, [], True),
        ({VFS[0]: Q24}, [Q12, Q24], True),
    ],
)
def test_vgpus_tell_whether_their_card_mixes_types(
    scratch: Path,
    used: dict[str, str],
    listed: list[str],
    mixes: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    found = with_vgpus(used, listed)
    assert vendor_vgpu.heterogeneous_cards(found) == ([CARD] if mixes else [])
    if mixes:
        host = start(scratch, found)
        free = next(vf for vf in VFS if vf not in used)
        assert creatable(host, free) == listed


@pytest.mark.parametrize(
    ("names", "used", "listed"),
    [
        (["L40S-24Q", "L40S-48Q"], [], [1, 2]),
        (["L40S-24Q", "L40S-48Q"], [1], [1]),
        (["L40S-24Q", "L40S-48Q"], [1, 1], []),
        (["H200X-1-18C", "H200X-141C"], [1] * 6, [1]),
        (["H200X-1-18C", "H200X-141C"], [1] * 7, []),
        (["H100XM-1-10CME", "H100XM-80C"], [1], [1]),
        (["M60-0Q", "M60-8Q"], [1] * 15, [1]),
        (["M60-0Q", "M60-8Q"], [1] * 16, []),
        (["no name of a type", "L40S-48Q"], [1], []),
        (["RTX6000-Ada-24Q", "RTX6000-Ada-48Q"], [1], [1]),
    ],
)
def test_the_names_say_how_many_fit(names: list[str], used: list[int], listed: list[int]) -> None:
    types = {number: f"NVIDIA {name}" for number, name in enumerate(names, 1)}
    sizes = {"L40S": 48, "H200X": 141, "H100XM": 80, "M60": 8, "RTX6000-Ada": 48}
    capacity = next(size for name, size in sizes.items() if name in names[1]) * 1024
    model = vendor_vgpu.Model(types, capacity)
    assert model.creatable(used, heterogeneous=False) == listed


def test_odd_text_is_no_list_of_types() -> None:
    text = f"{HEADER}\n12345678901 : too long\n7 NVIDIA\n: x\n8  : \n9     : NVIDIA L40S-1Q\n\0\n"
    assert vendor_vgpu.parse_types(text) == {9: "NVIDIA L40S-1Q"}


@pytest.mark.parametrize("text", [b"", b"\xff\xfe\n", b"99999999999999999999\n", b"-1\n", b"\n"])
def test_odd_current_types_are_none(scratch: Path, text: bytes) -> None:
    found = having(l40s(count=4), {VFS[0]: {"nvidia/current_vgpu_type": text}})
    host = start(scratch, found)
    assert assign(host, VFS[0], Q24) == "ok"
    assert current(host, VFS[0]) == Q24


# ---- VFIO -------------------------------------------------------------------------------------


def test_a_function_is_a_vfio_device_with_or_without_a_type(host: Shell) -> None:
    numbers = [host.ls(f"{DEVICES}/{vf}/vfio-dev") for vf in VFS]
    assert sorted(numbers) == [[f"vfio{number}"] for number in range(len(VFS))]
    assert all(host.exists(f"dev/vfio/{group}") for group in range(5, 5 + len(VFS)))


def test_88_opening_one_without_a_type_is_enodev(host: Shell) -> None:
    with pytest.raises(KernelError) as caught:
        host.kernel.open_device(VFS[0])
    assert (caught.value.errno, caught.value.value) == (errno.ENODEV, "GET_DEVICE_FD")
    assert host.kernel.holders == ()
    host.echo(Q24, path(VFS[0]))
    host.kernel.open_device(VFS[0]).close()


def test_a_group_is_as_viable_as_the_kernel_takes_it(host: Shell) -> None:
    """The driver leaves the DMA of its functions to VFIO, with a type and without."""
    host.echo(Q24, path(VFS[0]))
    host.kernel.open_device(VFS[0]).close()
    with Sysfs(host.kernel.root) as sysfs:
        groups = scan(sysfs).groups
        viable = {str(m.address): g.is_viable for g in groups.values() for m in g.members}
    assert {vf: viable[vf] for vf in VFS} == dict.fromkeys(VFS, True)
    assert not viable[CARD]
    host.unbind("nvidia", VFS[0])
    with Sysfs(host.kernel.root) as sysfs:
        assert not scan(sysfs).pci[PciAddress.parse(VFS[0])].brings_vfio


def test_88_a_type_of_an_open_device_cannot_be_taken_away(host: Shell) -> None:
    host.echo(Q24, path(VFS[0]))
    with host.kernel.open_device(VFS[0]):
        assert assign(host, VFS[0], "0") == "EBUSY"
        assert assign(host, VFS[0], Q24) == "EPERM"
        assert assign(host, VFS[1], Q24) == "ok"
    assert assign(host, VFS[0], "0") == "ok"


def test_opened_by_its_own_node_it_is_busy_when_it_is_bound(scratch: Path) -> None:
    found = l40s(count=4)
    found = attrs.evolve(found, modules=(*found.modules, Module("iommufd")))
    host = start(scratch, found)
    with host.kernel.open_cdev(VFS[0]) as cdev, host.kernel.open_iommufd() as iommufd:
        with pytest.raises(KernelError) as caught:
            cdev.bind_iommufd(iommufd)
        assert caught.value.errno == errno.ENODEV
        host.echo(Q24, path(VFS[0]))
        cdev.bind_iommufd(iommufd)
        assert assign(host, VFS[0], "0") == "EBUSY"


def test_88_vfio_pci_does_not_get_it(host: Shell) -> None:
    host.unbind("nvidia", VFS[0])
    host.override(VFS[0], "vfio-pci")
    host.kernel.load_module("vfio_pci", timeout=1)
    with answers("EINVAL"):
        host.bind("vfio-pci", VFS[0])


def test_parameters_are_there_while_there_is_a_type(host: Shell) -> None:
    params = path(VFS[0], "vgpu_params")
    assert not host.exists(params)
    host.echo(Q24, path(VFS[0]))
    host.echo("enable_uvm=1\n", params)
    assert host.cat(params) == "enable_uvm=1"
    host.echo("0", path(VFS[0]))
    assert not host.exists(params)


# ---- the driver and its functions -------------------------------------------------------------


def test_unbound_a_function_has_no_folder_and_its_vgpu_is_gone(host: Shell) -> None:
    host.echo(Q48, path(VFS[0]))
    host.unbind("nvidia", VFS[0])
    assert not host.exists(f"{DEVICES}/{VFS[0]}/nvidia")
    assert not host.exists(f"{DEVICES}/{VFS[0]}/vfio-dev")
    assert not host.exists("dev/vfio/5")
    assert len(creatable(host, VFS[1])) == 23
    with answers("ENOENT", "open"):
        host.echo(Q48, path(VFS[0]))
    host.bind("nvidia", VFS[0])
    assert current(host, VFS[0]) == "0"
    assert host.ls(f"{DEVICES}/{VFS[0]}/vfio-dev") == ["vfio0"]


def test_an_open_function_keeps_the_driver_waiting(host: Shell) -> None:
    host.echo(Q48, path(VFS[0]))
    with host.kernel.open_device(VFS[0]):
        with pytest.raises(StoreTimeoutError):
            host.unbind("nvidia", VFS[0], timeout=0)
        assert current(host, VFS[0]) == Q48  # nv_vfio_pci_core_uninit takes the files away last
        assert creatable(host, VFS[1]) == []
    assert not host.exists(path(VFS[0]))
    assert len(creatable(host, VFS[1])) == 23


def test_the_driver_takes_no_plain_store_to_sriov_numvfs(host: Shell) -> None:
    with answers("ENOENT"):
        host.numvfs(CARD, "0")


def test_functions_and_their_folders_come_and_go(scratch: Path) -> None:
    host = start(scratch, l40s(sriov=True, count=4))
    host.echo(Q48, path(VFS[3]))
    host.numvfs(CARD, "0")
    assert not host.exists(f"{DEVICES}/{VFS[0]}")
    host.numvfs(CARD, "2")
    assert [current(host, vf) for vf in VFS[:2]] == ["0", "0"]
    assert len(creatable(host, VFS[1])) == 23
    assert host.ls(f"{DEVICES}/{VFS[1]}/vfio-dev") == ["vfio1"]
    assert assign(host, VFS[1], Q48) == "ok"


def test_without_a_driver_new_functions_have_no_folder(scratch: Path) -> None:
    host = start(scratch, l40s(sriov=True, count=4))
    host.numvfs(CARD, "0")
    host.echo("0", f"{DEVICES}/{CARD}/sriov_drivers_autoprobe")
    host.numvfs(CARD, "2")
    assert not host.exists(f"{DEVICES}/{VFS[0]}/nvidia")
    assert not host.exists(f"{DEVICES}/{VFS[0]}/vfio-dev")


def sriov_manage(host: Shell, count: str) -> None:
    """What NVIDIA's script does: the card is lent to pci-pf-stub for the store."""
    lock = f"proc/driver/nvidia/gpus/{CARD}/unbindLock"
    host.echo("1", lock)
    assert host.cat(lock) == "1"
    host.kernel.load_module("pci_pf_stub", timeout=1)
    host.unbind("nvidia", CARD)
    host.echo("0", f"{DEVICES}/{CARD}/sriov_drivers_autoprobe")
    host.override(CARD, "pci-pf-stub")
    host.bind("pci-pf-stub", CARD)
    host.numvfs(CARD, count)
    host.unbind("pci-pf-stub", CARD)
    host.override(CARD, "\n")
    host.bind("nvidia", CARD)
    host.echo("1", f"{DEVICES}/{CARD}/sriov_drivers_autoprobe")
    for index in range(int(count)):
        name = host.kernel.sysfs.link_name(f"{DEVICES}/{CARD}/virtfn{index}")
        host.bind("nvidia", str(name))


def test_the_scripts_way_to_virtual_functions(scratch: Path) -> None:
    found = l40s(count=4)
    stub = Module("pci_pf_stub", "loadable", (PciDriver("pci-pf-stub", sriov=True),))
    host = start(scratch, attrs.evolve(found, modules=(*found.modules, stub)))
    host.kernel.set_vgpu_heterogeneous_mode(CARD)
    sriov_manage(host, "0")
    assert not host.exists(f"{DEVICES}/{VFS[0]}")
    sriov_manage(host, "4")
    assert [current(host, vf) for vf in VFS] == ["0"] * len(VFS)
    host.echo(Q24, path(VFS[0]))
    assert assign(host, VFS[1], Q12) == "EINVAL"  # the mode did not outlive the script


def test_removing_the_functions_waits_for_an_open_one(scratch: Path) -> None:
    host = start(scratch, l40s(sriov=True, count=4))
    host.echo(Q24, path(VFS[1]))
    with host.kernel.open_device(VFS[1]):
        with pytest.raises(StoreTimeoutError):
            host.numvfs(CARD, "0", timeout=0)
        assert not host.exists(f"{DEVICES}/{VFS[0]}")
        assert current(host, VFS[1]) == Q24
        assert creatable(host, VFS[2]) == [Q24]
    assert not host.exists(f"{DEVICES}/{VFS[1]}")


def test_a_simulation_of_a_recording_of_one_is_the_same(host: Shell, scratch: Path) -> None:
    host.echo(Q24, path(VFS[0]))
    again = capture(host.kernel.sysfs, title="t", source="s")
    other = Shell(testing.create(again, scratch / "again"))
    for vf in VFS:
        assert (current(other, vf), creatable(other, vf)) == (current(host, vf), [Q24])
    assert assign(other, VFS[1], Q24) == "ok"
    assert creatable(other, VFS[1]) == []


# ---- random sequences -------------------------------------------------------------------------


SIZES = {"1153": 12, "1155": 24, "1165": 24, "1156": 48, "1154": 16, "1148": 2, "2164": 3}
CAPACITY = 48


class AnyOrder(RuleBasedStateMachine):
    """Types come and go, devices are opened, the driver is taken away and given back."""

    heterogeneous = False

    def __init__(self) -> None:
        super().__init__()
        memory = Path("/dev/shm")
        self.folder = tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None)
        self.host = start(Path(self.folder.name))
        if self.heterogeneous:
            self.host.kernel.set_vgpu_heterogeneous_mode(CARD)
        self.first = creatable(self.host, VFS[0])
        self.types: dict[str, str] = dict.fromkeys(VFS, "0")
        self.open: dict[str, testing.Holder] = {}

    @rule(vf=st.sampled_from(VFS), type_id=st.sampled_from(sorted(SIZES)))
    def assign(self, vf: str, type_id: str) -> None:
        if vf not in self.types:
            return
        listed = creatable(self.host, vf)
        wanted = "EPERM" if self.types[vf] != "0" else "ok" if type_id in listed else "EINVAL"
        assert assign(self.host, vf, type_id) == wanted
        if wanted == "ok":
            self.types[vf] = type_id

    @rule(vf=st.sampled_from(VFS))
    def clear(self, vf: str) -> None:
        if vf not in self.types:
            return
        wanted = "EPERM" if self.types[vf] == "0" else "EBUSY" if vf in self.open else "ok"
        assert assign(self.host, vf, "0") == wanted
        if wanted == "ok":
            self.types[vf] = "0"

    @rule(vf=st.sampled_from(VFS))
    def open_device(self, vf: str) -> None:
        if self.types.get(vf, "0") != "0" and vf not in self.open:
            self.open[vf] = self.host.kernel.open_device(vf)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        self.open.pop(data.draw(st.sampled_from(sorted(self.open)))).close()

    @rule(vf=st.sampled_from(VFS))
    def rebind(self, vf: str) -> None:
        if vf in self.open:
            return
        if vf in self.types:
            self.host.unbind("nvidia", vf)
            del self.types[vf]
        else:
            self.host.bind("nvidia", vf)
            self.types[vf] = "0"

    @invariant()
    def host_shows_what_was_done(self) -> None:
        assert {vf: current(self.host, vf) for vf in self.types} == self.types

    @invariant()
    def framebuffer_is_never_exceeded(self) -> None:
        used = [each for each in self.types.values() if each != "0"]
        left = CAPACITY - sum(SIZES[each] for each in used)
        assert left >= 0
        assert self.heterogeneous or len(set(used)) <= 1
        fitting = {each for each, size in SIZES.items() if size <= left}
        if not self.heterogeneous and used:
            fitting &= set(used)
        for vf in self.types:
            assert set(creatable(self.host, vf)) & SIZES.keys() == fitting

    def teardown(self) -> None:
        for holder in self.open.values():
            holder.close()
        for vf in VFS:
            if self.types.get(vf, "0") != "0":
                assert assign(self.host, vf, "0") == "ok"
        assert all(creatable(self.host, vf) == self.first for vf in self.types)
        self.folder.cleanup()


class AnyOrderOfAnyType(AnyOrder):
    heterogeneous = True


_SETTINGS = settings(
    max_examples=12,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = _SETTINGS
TestAnyOrderOfAnyType = AnyOrderOfAnyType.TestCase
TestAnyOrderOfAnyType.settings = _SETTINGS
