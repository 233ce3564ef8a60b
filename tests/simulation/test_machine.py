"""Random stores, sensible and not: what holds on every kernel holds after each of them."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections import Counter
from fractions import Fraction
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.simulation.hosts import (
    GPU,
    GPU_VFS,
    HOST_BRIDGE,
    NIC,
    NIC_SIBLING,
    NVME,
    NVME_VFS,
    PORT,
    QAT,
    UUID,
    UUID_2,
    UUID_3,
    small_host,
)
from vfiohost import testing
from vfiohost.errors import KernelError, NotFoundError, StoreTimeoutError
from vfiohost.model import is_vfio_driver

ADDRESSES = st.sampled_from([NIC, NIC_SIBLING, NVME, *NVME_VFS[:2], QAT, GPU, *GPU_VFS, PORT])
DRIVERS = st.sampled_from(["e1000e", "nvme", "nvidia", "vfio-pci", "pci-stub", "igb", "pcieport"])
UUIDS = st.sampled_from([UUID, UUID_2, UUID_3, UUID.upper()])
PARENTS = st.sampled_from(["mtty", "mdpy", *GPU_VFS])
TYPES = st.sampled_from(["mtty-1", "mtty-2", "mdpy-hd", "nvidia-594", "nvidia-596"])
NUMBERS = st.sampled_from(["0", "1", "2", "0x2", "5", "-1"])
GARBAGE = st.text(max_size=20) | st.sampled_from(["\0", "\n", "../..", NIC + " ", "x" * 5000])
ANYWHERE = st.sampled_from(
    [
        "sys/bus/pci/drivers/vfio-pci/bind",
        "sys/bus/pci/drivers/nvme/unbind",
        "sys/bus/pci/drivers/e1000e/new_id",
        "sys/bus/pci/drivers/vfio-pci/remove_id",
        "sys/bus/pci/drivers_probe",
        "sys/bus/pci/drivers_autoprobe",
        "sys/bus/mdev/drivers_autoprobe",
        "sys/bus/mdev/drivers/mtty/unbind",
        f"sys/bus/pci/devices/{NVME}/driver_override",
        f"sys/bus/pci/devices/{NVME}/sriov_numvfs",
        f"sys/bus/pci/devices/{NVME}/sriov_drivers_autoprobe",
        "sys/class/mdev_bus/mtty/mdev_supported_types/mtty-1/create",
        f"sys/bus/mdev/devices/{UUID}/remove",
        f"sys/bus/pci/devices/{NIC}/vendor",
        "sys/../../etc/passwd",
    ]
)
MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None


class Host(RuleBasedStateMachine):
    """A host that others pull at."""

    @initialize()
    def boot(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="vfiohost-", dir=MEMORY))
        self.root = self.directory / "host"
        self.kernel = testing.create(small_host(), self.root)
        (self.directory / "beside").write_text("untouched")

    def teardown(self) -> None:
        shutil.rmtree(self.directory)

    def ask(self, path: str, value: str) -> None:
        with contextlib.suppress(KernelError, StoreTimeoutError):
            self.kernel.store(path, value, timeout=0)

    @rule(driver=DRIVERS, address=ADDRESSES, verb=st.sampled_from(["bind", "unbind"]))
    def bind_or_unbind(self, driver: str, address: str, verb: str) -> None:
        self.ask(f"sys/bus/pci/drivers/{driver}/{verb}", address)

    @rule(address=ADDRESSES)
    def unbind_whatever_it_has(self, address: str) -> None:
        self.ask(f"sys/bus/pci/devices/{address}/driver/unbind", address)

    @rule(address=ADDRESSES, name=DRIVERS | st.just("\n"))
    def override(self, address: str, name: str) -> None:
        self.ask(f"sys/bus/pci/devices/{address}/driver_override", name)

    @rule(address=ADDRESSES)
    def to_vfio(self, address: str) -> None:
        self.unbind_whatever_it_has(address)
        self.override(address, "vfio-pci")
        self.bind_or_unbind("vfio-pci", address, "bind")

    @rule(address=ADDRESSES)
    def probe(self, address: str) -> None:
        self.ask("sys/bus/pci/drivers_probe", address)

    @rule(address=st.sampled_from([NVME, GPU]), number=NUMBERS)
    def numvfs(self, address: str, number: str) -> None:
        self.ask(f"sys/bus/pci/devices/{address}/sriov_numvfs", number)

    @rule(parent=PARENTS, type_id=TYPES, uuid=UUIDS)
    def create(self, parent: str, type_id: str, uuid: str) -> None:
        self.ask(f"sys/class/mdev_bus/{parent}/mdev_supported_types/{type_id}/create", uuid)

    @rule(uuid=UUIDS)
    def remove(self, uuid: str) -> None:
        self.ask(f"sys/bus/mdev/devices/{uuid}/remove", "1")

    @rule(address=st.sampled_from([NIC, NIC_SIBLING, QAT, PORT, HOST_BRIDGE]))
    def remove_function(self, address: str) -> None:
        # Not a physical function alone: its virtual ones would be left with a dangling link.
        self.ask(f"sys/bus/pci/devices/{address}/remove", "1")

    @rule(at=st.just("") | ADDRESSES.map("devices/{}/".format))
    def rescan(self, at: str) -> None:
        self.ask(f"sys/bus/pci/{at}rescan", "1")

    @rule(path=ANYWHERE, value=GARBAGE)
    def garbage(self, path: str, value: str) -> None:
        self.ask(path, value)

    @rule(module=st.sampled_from(["igb", "nvme", "vfio_pci", "nvgrace_gpu_vfio_pci", "nothing"]))
    def load(self, module: str) -> None:
        try:
            self.kernel.load_module(module, timeout=0)
        except KernelError:
            assert module == "nothing"

    @rule(module=st.sampled_from(["e1000e", "nvme", "nvidia", "vfio_pci", "vfio_pci_core"]))
    def unload(self, module: str) -> None:
        with contextlib.suppress(KernelError, StoreTimeoutError):
            self.kernel.unload_module(module, timeout=0)

    @rule(subject=ADDRESSES | UUIDS)
    def open(self, subject: str) -> None:
        opens = self.kernel.open_device if ":" in subject else self.kernel.open_mdev
        with contextlib.suppress(KernelError, NotFoundError):
            opens(subject)

    @rule()
    def close_the_first(self) -> None:
        for holder in self.kernel.holders[:1]:
            holder.close()

    @rule()
    def another_process_takes_over(self) -> None:
        self.kernel = testing.SimulatedKernel(self.root)

    # ---- what holds -----------------------------------------------------------------------------

    @invariant()
    def what_holds_on_every_kernel_holds(self) -> None:
        seen = Seen(self.root)
        waiting = bool(self.kernel.pending)
        every_link_leads_to_something(seen)
        driver_links_go_both_ways(seen)
        uevent_tells_the_driver_unless_it_is_being_released(seen, waiting=waiting)
        vf_links_go_both_ways(seen, waiting=waiting)
        groups_know_their_members(seen)
        if not waiting:
            a_group_has_a_node_exactly_while_a_member_is_on_vfio(seen)
            what_is_left_and_what_is_used_make_the_whole(seen)

    @invariant()
    def nothing_else_was_touched(self) -> None:
        assert (self.directory / "beside").read_text() == "untouched"
        assert sorted(os.listdir(self.directory)) == ["beside", "host"]
        assert not (self.root / ".vfiohost-sim/redo.json").exists()


class Seen:
    """What the directory shows at one moment; paths are relative to the root."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.links: dict[str, str] = {}
        self.names: dict[str, list[str]] = {}
        for directory, names, files in os.walk(root):
            here = os.path.relpath(directory, root)
            self.names[here] = [*names, *files]
            for name in self.names[here]:
                path = os.path.normpath(f"{here}/{name}")
                if os.path.islink(f"{directory}/{name}"):
                    target = os.path.join(here, os.readlink(f"{directory}/{name}"))
                    self.links[path] = os.path.normpath(target)

    def text(self, path: str) -> str:
        return (self.root / path).read_text()

    def ls(self, path: str) -> list[str]:
        return self.names.get(path, [])

    def devices(self) -> dict[str, str]:
        bus = "sys/bus/pci/devices"
        return {name: self.links[f"{bus}/{name}"] for name in self.ls(bus)}

    def name_of(self, link: str) -> str | None:
        target = self.links.get(link)
        return None if target is None else os.path.basename(target)


def every_link_leads_to_something(seen: Seen) -> None:
    for link, target in seen.links.items():
        if link.startswith("sys/"):  # those of proc/PID/fd are texts
            parent, name = os.path.split(target)
            assert name in seen.ls(parent), link


def driver_links_go_both_ways(seen: Seen) -> None:
    drivers = "sys/bus/pci/drivers"
    forth = {
        (name, seen.name_of(f"{path}/driver"))
        for name, path in seen.devices().items()
        if f"{path}/driver" in seen.links
    }
    back = {
        (name, driver)
        for driver in seen.ls(drivers)
        for name in seen.ls(f"{drivers}/{driver}")
        if ":" in name
    }
    assert forth == back
    for name, driver in back:
        assert seen.links[f"{drivers}/{driver}/{name}"] == seen.devices()[name]


def uevent_tells_the_driver_unless_it_is_being_released(seen: Seen, *, waiting: bool) -> None:
    for name, path in seen.devices().items():
        has = seen.name_of(f"{path}/driver")
        lines = seen.text(f"{path}/uevent").split("\n")
        said = [line[7:] for line in lines if line.startswith("DRIVER=")]
        if said != ([has] if has else []):
            assert waiting, name
            assert has is None, name


def vf_links_go_both_ways(seen: Seen, *, waiting: bool) -> None:
    for name, path in seen.devices().items():
        virtual = [each for each in seen.ls(path) if each.startswith("virtfn")]
        for each in virtual:
            assert seen.links[f"{seen.links[f'{path}/{each}']}/physfn"] == path
        if waiting:
            continue
        physfn = seen.links.get(f"{path}/physfn")
        if physfn is not None:
            assert path in [seen.links.get(f"{physfn}/{each}") for each in seen.ls(physfn)], name
        if "sriov_numvfs" in seen.ls(path):
            assert len(virtual) == int(seen.text(f"{path}/sriov_numvfs"))


def groups_know_their_members(seen: Seen) -> None:
    groups = "sys/kernel/iommu_groups"
    for number in seen.ls(groups):
        members = seen.ls(f"{groups}/{number}/devices")
        assert members, number
        for member in members:
            device = seen.links[f"{groups}/{number}/devices/{member}"]
            assert seen.links[f"{device}/iommu_group"] == f"{groups}/{number}"
    for path in seen.devices().values():
        group = seen.links.get(f"{path}/iommu_group")
        assert group is None or os.path.basename(path) in seen.ls(f"{group}/devices")


def a_group_has_a_node_exactly_while_a_member_is_on_vfio(seen: Seen) -> None:
    wanted = {"vfio"}
    for path in seen.devices().values():
        on_vfio = is_vfio_driver(seen.name_of(f"{path}/driver") or "")
        assert len(seen.ls(f"{path}/vfio-dev")) == on_vfio
        if on_vfio:
            wanted.add(seen.name_of(f"{path}/iommu_group") or "none")
    for uuid in seen.ls("sys/bus/mdev/devices"):
        group = seen.name_of(f"{seen.links[f'sys/bus/mdev/devices/{uuid}']}/iommu_group")
        wanted |= {group} if group else set()
    assert set(seen.ls("dev/vfio")) == wanted


def what_is_left_and_what_is_used_make_the_whole(seen: Seen) -> None:
    tables = {table.name: table for table in small_host().mdev_tables}
    in_use: Counter[str] = Counter()
    for parent in seen.ls("sys/class/mdev_bus"):
        types = f"{seen.links[f'sys/class/mdev_bus/{parent}']}/mdev_supported_types"
        used = {each: len(seen.ls(f"{types}/{each}/devices")) for each in seen.ls(types)}
        if parent in GPU_VFS:
            in_use.update(used)
            assert sum(used.values()) <= 1  # one per virtual function
            continue
        table = tables[parent]
        share = sum(Fraction(used[each.type_id], each.max_instances) for each in table.types)
        for each in table.types:
            left = int(seen.text(f"{types}/{each.type_id}/available_instances"))
            assert left == int((1 - share) * each.max_instances)
    assert sum(count > 0 for count in in_use.values()) <= 1  # homogeneous


TestHost = Host.TestCase
TestHost.settings = settings(max_examples=10, stateful_step_count=30)
