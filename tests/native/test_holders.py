"""Who uses a device, as files say it: processes, disks, interfaces, consoles."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.native.trees import NOBODY, Tree
from vfiohost.holders import find_usage
from vfiohost.holders.processes import container_of, manager_of, unit_of
from vfiohost.model import PciAddress
from vfiohost.scan import scan
from vfiohost.sysfs import Sysfs

if TYPE_CHECKING:
    from pathlib import Path

    from vfiohost.usage import Usage

NVME = "pci:v0000144Dd0000A80Asv0000144Dsd0000A801bc01sc08i02"
NIC = "pci:v00008086d000010D3sv00008086sd00000000bc02sc00i00"
AUDIO = "pci:v000010DEd00001AEFsv000010DEsd00001482bc04sc03i00"
SERIAL = "pci:v00001C00d00003253sv00001C00sd00003253bc07sc00i05"
GPU_PATH = "sys/devices/pci0000:64/0000:65:00.0"
ROUTES = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
ID = "4a3e" * 16
UUID = "3d1d9e1a-4b6f-4c59-a8a0-6f4dbe0c7f01"


class Machine(Tree):
    """A host with process 1, and more on request."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.process(1, "systemd", ["/sbin/init"])

    def process(
        self, pid: int, name: str, command: list[str], *opened: str, cgroup: str = "0::/\n"
    ) -> None:
        self.write(f"proc/{pid}/comm", f"{name}\n")
        self.write(f"proc/{pid}/cmdline", "".join(f"{word}\0" for word in command))
        self.write(f"proc/{pid}/status", f"Name:\t{name}\nUid:\t64055\t64055\t64055\t64055\n")
        self.write(f"proc/{pid}/cgroup", cgroup)
        for number, target in enumerate(("/dev/null", *opened)):
            self.link(f"proc/{pid}/fd/{number}", target)

    def bound(self, driver: str, *, group: int = 12, path: str = GPU_PATH) -> None:
        up = "../" * (path.count("/") + 1)
        (self.root / f"sys/bus/pci/drivers/{driver}").mkdir(parents=True, exist_ok=True)
        (self.root / f"sys/kernel/iommu_groups/{group}").mkdir(parents=True, exist_ok=True)
        self.link(f"{path}/driver", f"{up}sys/bus/pci/drivers/{driver}")
        self.link(f"{path}/iommu_group", f"{up}sys/kernel/iommu_groups/{group}")

    def in_class(self, name: str, path: str) -> None:
        """Make a device below ``sys/devices`` and its entry in a class."""
        (self.root / path).mkdir(parents=True, exist_ok=True)
        self.link(f"sys/class/{name}/{path.rpartition('/')[2]}", f"../../../{path}")

    def usage(self, *addresses: str) -> Usage:
        with Sysfs(self.root) as sysfs:
            snapshot = scan(sysfs, mdev=True)
            found = [PciAddress.parse(a) for a in addresses] or list(snapshot.pci)
            return find_usage(sysfs, snapshot, found)

    def said(self, *addresses: str) -> list[str]:
        """Kind and text of each use; nothing may be unknown."""
        usage = self.usage(*addresses)
        assert usage.incomplete == ()
        return [f"{use.kind}: {use}" for use in usage.uses]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


class TestNodesOfAnyClass:
    """Whatever has a number below ``sys/dev`` has a node, and somebody may have it open."""

    def node(self, machine: Machine, where: str, of_class: str, number: str) -> None:
        path = f"{GPU_PATH}/{where}"
        (machine.root / path).mkdir(parents=True)
        up = "../" * path.count("/")
        (machine.root / f"sys/class/{of_class}").mkdir(parents=True, exist_ok=True)
        machine.link(f"{path}/subsystem", f"{up}class/{of_class}")
        kind = "block" if of_class == "block" else "char"
        machine.link(f"sys/dev/{kind}/{number}", f"../../{path.removeprefix('sys/')}")

    @pytest.mark.parametrize(
        ("where", "of_class", "number", "node"),
        [
            ("tty/ttyS4", "tty", "4:68", "/dev/ttyS4"),
            ("video4linux/video0", "video4linux", "81:0", "/dev/video0"),
            ("input/input3/event3", "input", "13:67", "/dev/input/event3"),
            ("infiniband_verbs/uverbs0", "infiniband_verbs", "231:192", "/dev/infiniband/uverbs0"),
            ("usb1/1-2", "usb", "189:1", "/dev/bus/usb/001/002"),
            ("usb3/3-1", "usb", "189:300", "/dev/bus/usb/003/045"),
            ("ptp/ptp0", "ptp", "250:0", "/dev/ptp0"),
            ("misc/cpu!0!x", "misc", "10:5", "/dev/cpu/0/x"),
            ("host2/bsg/2:0:0:0", "bsg", "247:0", "/dev/bsg/2:0:0:0"),
        ],
    )
    def test_who_has_one_open(
        self, machine: Machine, where: str, of_class: str, number: str, node: str
    ) -> None:
        machine.function()
        self.node(machine, where, of_class, number)
        machine.process(700, "user", ["user"], node)
        assert machine.said() == [f"node: pid 700 (user): has {node} open"]

    def test_a_kind_of_its_own_is_kept_and_others_nodes_do_not_count(
        self, machine: Machine
    ) -> None:
        machine.function()
        self.node(machine, "drm/renderD128", "drm", "226:128")
        machine.in_class("drm", f"{GPU_PATH}/drm/renderD128")
        self.node(machine, "vfio-dev/vfio3", "vfio-dev", "511:3")
        machine.link("sys/dev/char/1:3", "../../devices/virtual/mem/null")
        machine.link("sys/dev/char/nonsense", f"../../{GPU_PATH.removeprefix('sys/')}/drm/x")
        machine.process(700, "user", ["user"], "/dev/dri/renderD128", "/dev/null", "/dev/vfio3")
        assert machine.said() == ["drm: pid 700 (user): has /dev/dri/renderD128 open"]


class TestVgpusWithoutMediatedDevices:
    VF = "0000:65:00.4"

    @pytest.fixture(autouse=True)
    def a_busy_machine_is_no_locked_device(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What answers late for want of a processor does answer."""
        monkeypatch.setattr("vfiohost.holders.vgpus._LOOK_SECONDS", 60.0)

    def card(self, machine: Machine, text: str) -> Path:
        machine.function(sriov_totalvfs="32\n")
        vf = machine.function(self.VF, **{"nvidia/current_vgpu_type": text})
        machine.link(f"{GPU_PATH.rpartition('/')[0]}/{self.VF}/physfn", "../0000:65:00.0")
        return vf

    def test_a_type_that_is_set_is_a_use_of_the_function_and_its_card(
        self, machine: Machine
    ) -> None:
        self.card(machine, "1148\n")
        uses = machine.usage("0000:65:00.0").uses
        assert [(use.kind, use.subject) for use in uses] == [
            ("vf", "0000:65:00.0"),
            ("vgpu", self.VF),
        ]
        assert uses[1].detail == "it is a vGPU of type 1148"
        assert uses[1].via == f"/{GPU_PATH.rpartition('/')[0]}/{self.VF}/nvidia/current_vgpu_type"

    def test_none_is_set(self, machine: Machine) -> None:
        self.card(machine, "0\n")
        assert machine.said(self.VF) == []

    def test_a_driver_that_does_not_answer_is_not_taken_for_none(self, machine: Machine) -> None:
        vf = self.card(machine, "0\n")
        (vf / "nvidia/current_vgpu_type").unlink()
        os.mkfifo(vf / "nvidia/current_vgpu_type")
        usage = machine.usage(self.VF)
        assert usage.uses == ()
        assert usage.incomplete[0].startswith(f"Whether {self.VF} is a vGPU is not known: ")


class TestVfio:
    QEMU = "pid 4242 (qemu-system-x86_64 -name web)"

    def qemu(self, machine: Machine, *opened: str) -> None:
        scope = "0::/machine.slice/machine-qemu\\x2d1\\x2dweb.scope/libvirt\n"
        command = ["qemu-system-x86_64", "-name", "web"]
        machine.process(4242, "qemu-system-x86", command, *opened, cgroup=scope)

    def test_who_has_a_device_open_through_its_group(self, machine: Machine) -> None:
        machine.function(enable="1\n")
        machine.bound("vfio-pci")
        machine.write("etc/passwd", "root:x:0:0::/root:/bin/sh\nlibvirt-qemu:x:64055:108::/:/x\n")
        self.qemu(machine, "/dev/vfio/vfio", "/dev/vfio/12", "anon_inode:[vfio-device]")
        (use,) = machine.usage().uses
        assert (use.kind, use.subject, use.via) == ("vfio-user", "0000:65:00.0", "/proc/4242/fd/2")
        assert use.process is not None
        assert (use.process.pid, use.process.user) == (4242, "libvirt-qemu")
        assert use.process.unit == "machine-qemu\\x2d1\\x2dweb.scope"
        assert str(use).endswith("has it open through /dev/vfio/12")

    def test_a_group_is_open_but_not_the_device(self, machine: Machine) -> None:
        machine.function(enable="0\n")
        machine.bound("vfio-pci")
        self.qemu(machine, "/dev/vfio/12")
        assert [use.kind for use in machine.usage().uses] == ["vfio-group"]

    def test_the_node_of_another_group_is_no_use(self, machine: Machine) -> None:
        machine.function(enable="0\n")
        machine.bound("vfio-pci")
        self.qemu(machine, "/dev/vfio/1", "/dev/vfio/122", "anon_inode:[vfio-device]")
        assert machine.said() == []

    def test_a_node_that_is_gone_is_still_open(self, machine: Machine) -> None:
        machine.function(enable="1\n")
        machine.bound("vfio-pci")
        self.qemu(machine, "/dev/vfio/12 (deleted)")
        assert [use.kind for use in machine.usage().uses] == ["vfio-user"]

    def test_enable_says_more_than_the_processes_do(self, machine: Machine) -> None:
        machine.function(enable="1\n")
        machine.bound("vfio-pci")
        (said,) = machine.said()
        assert said.endswith("(enable is 1), and no process shows that has its group open")
        self.qemu(machine, "anon_inode:[vfio-device]")
        assert "nothing says that it is another one" in machine.said()[1]

    def test_fdinfo_of_newer_kernels_names_the_device(self, machine: Machine) -> None:
        machine.function(enable="1\n")
        machine.bound("vfio-pci")
        self.qemu(machine, "anon_inode:[vfio-device]")
        machine.write("proc/4242/fdinfo/1", f"pos:\t0\nvfio-device-syspath: /{GPU_PATH}\n")
        (use,) = machine.usage().uses
        assert (use.kind, use.detail) == ("vfio-user", "has anon_inode:[vfio-device] open")

    def test_a_cdev_keeps_its_device_while_it_is_open(self, machine: Machine) -> None:
        machine.function(enable="0\n")
        machine.bound("vfio-pci")
        (machine.root / GPU_PATH / "vfio-dev/vfio3").mkdir(parents=True)
        self.qemu(machine, "/dev/vfio/devices/vfio3")
        (use,) = machine.usage().uses
        assert (use.kind, use.detail) == ("vfio-user", "has /dev/vfio/devices/vfio3 open")

    def test_a_driver_of_the_host_enables_its_device_too(self, machine: Machine) -> None:
        machine.function(enable="1\n")
        machine.bound("nouveau")
        assert machine.said() == []

    def test_a_mediated_device_counts_for_its_parent_and_its_physfn(self, machine: Machine) -> None:
        machine.function()
        machine.function("0000:65:00.4")
        vf = "sys/devices/pci0000:64/0000:65:00.4"
        machine.link(f"{vf}/physfn", "../0000:65:00.0")
        machine.write(f"{vf}/{UUID}/uevent", "")
        machine.link(f"sys/bus/mdev/devices/{UUID}", f"../../../../{vf}/{UUID}")
        (machine.root / "sys/kernel/iommu_groups/40").mkdir(parents=True)
        machine.link(f"{vf}/{UUID}/iommu_group", "../../../../../kernel/iommu_groups/40")
        self.qemu(machine, "/dev/vfio/40")
        usage = machine.usage("65:00.0")
        assert usage.subjects == ("0000:65:00.0", "0000:65:00.4", UUID)
        assert [(use.kind, use.subject) for use in usage.uses] == [
            ("vf", "0000:65:00.0"),
            ("mdev", "0000:65:00.4"),
            ("vfio-user", UUID),
        ]


class TestProcesses:
    def test_the_driver_says_which_nvidia_node_is_whose(self, machine: Machine) -> None:
        """Their order is that of probing: here the card with the lower address is the second."""
        other = "sys/devices/pci0000:b3/0000:b4:00.0"
        for address, bridge, path, minor in (
            ("0000:65:00.0", "pci0000:64", GPU_PATH, 1),
            ("0000:b4:00.0", "pci0000:b3", other, 0),
        ):
            machine.function(address, bridge=bridge)
            machine.bound("nvidia", path=path, group=minor)
            information = f"Model: \t\t NVIDIA A10\nDevice Minor: \t {minor}\nGPU Excluded:\t No\n"
            machine.write(f"proc/driver/nvidia/gpus/{address}/information", information)
            machine.write(f"dev/nvidia{minor}", "")
        service = "0::/system.slice/nvidia-persistenced.service\n"
        command = ["/usr/bin/nvidia-persistenced", "--verbose"]
        machine.process(900, "nvidia-persiste", command, "/dev/nvidia1", cgroup=service)
        (use,) = machine.usage().uses
        assert (use.kind, use.subject) == ("nvidia-user", "0000:65:00.0")
        assert str(use) == (
            "pid 900 (/usr/bin/nvidia-persistenced --verbose) of nvidia-persistenced.service: "
            "has /dev/nvidia1 open"
        )

    def test_a_process_that_has_a_node_open_many_times_uses_it_once(self, machine: Machine) -> None:
        """CUDA 13 on an H100 has 23 descriptors of /dev/nvidia0."""
        machine.function()
        machine.bound("nvidia")
        machine.write("proc/driver/nvidia/gpus/0000:65:00.0/information", "Device Minor: \t 0\n")
        for pid in (461, 462):
            machine.process(pid, "python3", ["python3"], *["/dev/nvidia0"] * 23)
        assert machine.said() == [
            "nvidia-user: pid 461 (python3): has /dev/nvidia0 open",
            "nvidia-user: pid 462 (python3): has /dev/nvidia0 open",
        ]

    def test_a_driver_that_does_not_say_it_is_not_guessed(self, machine: Machine) -> None:
        machine.function()
        machine.bound("nvidia")
        machine.write("dev/nvidia0", "")
        machine.process(900, "nvidia-persiste", ["nvidia-persistenced"], "/dev/nvidia0")
        usage = machine.usage()
        assert usage.uses == ()
        (said,) = usage.incomplete
        assert "does not say which node of /dev is that of 0000:65:00.0" in said

    def test_screens_and_sound(self, machine: Machine) -> None:
        machine.function()
        machine.function("0000:65:00.1", modalias=AUDIO)
        audio = "sys/devices/pci0000:64/0000:65:00.1"
        for name in ("card1", "renderD129"):
            machine.in_class("drm", f"{GPU_PATH}/drm/{name}")
        for name in ("controlC1", "pcmC1D3p"):
            machine.in_class("sound", f"{audio}/sound/card1/{name}")
        machine.process(700, "Xorg", ["Xorg", ":0"], "/dev/dri/card1", "/dev/dri/card0")
        machine.process(701, "pipewire", ["pipewire"], "/dev/snd/controlC1")
        machine.process(702, "mpv", ["mpv"], "/dev/snd/pcmC1D3p", "/dev/dri/renderD129")
        assert machine.said() == [
            "drm: pid 700 (Xorg :0): has /dev/dri/card1 open",
            "drm: pid 702 (mpv): has /dev/dri/renderD129 open",
            "sound-control: pid 701 (pipewire): has /dev/snd/controlC1 open",
            "sound: pid 702 (mpv): has /dev/snd/pcmC1D3p open",
        ]

    def test_without_process_1_nobody_knows(self, tmp_path: Path) -> None:
        host = Tree(tmp_path)
        host.function()
        with Sysfs(host.root) as sysfs:
            usage = find_usage(sysfs, scan(sysfs), [PciAddress.parse("65:00.0")])
        assert usage.uses == ()
        (said,) = usage.incomplete
        assert said.startswith("Process 1 is not in /proc")

    @pytest.mark.parametrize(("number", "unknown"), [(4026531836, 0), (4026532514, 1)])
    def test_a_pid_namespace_hides_others(
        self, machine: Machine, number: int, unknown: int
    ) -> None:
        machine.function()
        machine.link("proc/1/ns/pid", f"pid:[{number}]")
        assert len(machine.usage().incomplete) == unknown

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
    def test_a_process_that_may_not_be_looked_into_is_counted(self, machine: Machine) -> None:
        machine.function()
        os.chmod(machine.root, 0o755)
        for pid in (7, 8):
            machine.process(pid, "secret", ["secret"], "/dev/nvidia0")
            os.chmod(machine.root / f"proc/{pid}/fd", 0o000)
        with Sysfs(machine.root) as sysfs:
            snapshot = scan(sysfs)
            os.seteuid(NOBODY)
            try:
                usage = find_usage(sysfs, snapshot, snapshot.pci)
            finally:
                os.seteuid(0)
        assert usage.uses == ()
        (said,) = usage.incomplete
        assert said == (
            "2 processes could not be looked into (pid 7, 8): only root (CAP_SYS_PTRACE) sees what "
            "they have open."
        )

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
    def test_root_is_not_told_that_root_could_look(self, machine: Machine) -> None:
        machine.function()
        machine.write("proc/self/status", "Name:\tx\nCapEff:\t000001fffeffffff\n")
        os.chmod(machine.root, 0o755)
        machine.process(7, "secret", ["secret"], "/dev/nvidia0")
        os.chmod(machine.root / "proc/7/fd", 0o000)
        with Sysfs(machine.root) as sysfs:
            snapshot = scan(sysfs)
            os.seteuid(NOBODY)
            try:
                usage = find_usage(sysfs, snapshot, snapshot.pci)
            finally:
                os.seteuid(0)
        (said,) = usage.incomplete
        assert said == (
            "1 process could not be looked into (pid 7): a security module or a user namespace "
            "hides from root too what they have open."
        )

    def test_what_vanishes_or_makes_no_sense_is_no_error(self, machine: Machine) -> None:
        machine.function()
        (machine.root / "proc/50").mkdir()  # ended between two reads
        machine.write("proc/51/fd", "no directory")
        machine.link("proc/52", "52")  # a loop
        machine.link("proc/53", "/")
        machine.write("proc/54/fd/1", "no link")
        assert machine.said() == []

    @pytest.mark.parametrize(
        ("cgroup", "unit", "container"),
        [
            ("0::/\n", None, None),
            ("0::/system.slice/gdm.service\n", "gdm.service", None),
            ("0::/user.slice/user-1000.slice/session-2.scope\n", "session-2.scope", None),
            (f"0::/system.slice/docker-{ID}.scope\n", f"docker-{ID}.scope", ID),
            (f"12:pids:/docker/{ID}\n1:name=systemd:/docker/{ID}\n", None, ID),
            (f"0::/kube.slice/crio-{ID}.scope\n", f"crio-{ID}.scope", ID),
            ("0::/lxc.payload.web/system.slice/x.service\n", "x.service", "web"),
            ("nonsense", None, None),
        ],
    )
    def test_cgroups_name_units_and_containers(
        self, cgroup: str, unit: str | None, container: str | None
    ) -> None:
        assert (unit_of(cgroup), container_of(cgroup)) == (unit, container)

    @pytest.mark.parametrize(
        ("below", "manager"),
        [
            ("user@1000.service/app.slice/web.service", "1000"),
            ("user@1000.service/session.slice/pipewire.socket", "1000"),
            ("user@1000.service/init.scope", "1000"),
            ("user@1000.service", None),
            ("session-2.scope", None),
        ],
    )
    def test_whose_systemd_has_a_unit(self, below: str, manager: str | None) -> None:
        assert manager_of(f"0::/user.slice/user-1000.slice/{below}\n") == manager


class TestStorage:
    PATH = "sys/devices/pci0000:00/0000:03:00.0"

    @pytest.fixture
    def disk(self, machine: Machine) -> Machine:
        """An NVMe disk with two partitions; LVM is on the second one."""
        machine.function("0000:03:00.0", modalias=NVME, bridge="pci0000:00")
        disk = f"{self.PATH}/nvme/nvme0/nvme0n1"
        machine.in_class("nvme", f"{self.PATH}/nvme/nvme0")
        for name, path, number in (
            ("nvme0n1", disk, "259:0"),
            ("nvme0n1p1", f"{disk}/nvme0n1p1", "259:1"),
            ("nvme0n1p2", f"{disk}/nvme0n1p2", "259:2"),
            ("dm-0", "sys/devices/virtual/block/dm-0", "253:0"),
            ("sda", "sys/devices/pci0000:00/0000:04:00.0/ata1/sda", "8:0"),
        ):
            machine.in_class("block", path)
            machine.write(f"sys/class/block/{name}/dev", f"{number}\n")
        machine.write("sys/class/block/dm-0/dm/name", "vg-data\n")
        machine.link("sys/class/block/nvme0n1p2/holders/dm-0", "../dm-0")
        machine.write("proc/1/mountinfo", "")
        return machine

    def mount(self, machine: Machine, *lines: str, pid: int = 1) -> None:
        machine.write(f"proc/{pid}/mountinfo", "".join(f"{line}\n" for line in lines))

    def test_mounts_of_partitions_and_of_what_is_made_of_them(self, disk: Machine) -> None:
        self.mount(
            disk,
            "22 1 8:0 / / rw - ext4 /dev/sda rw",
            r"30 22 259:1 / /srv/a\040b rw shared:1 master:2 - ext4 /dev/nvme0n1p1 rw",
            "31 22 253:0 / /data rw - xfs /dev/mapper/vg-data rw",
        )
        assert disk.said() == [
            "mount: nvme0n1p1 is mounted at /srv/a b",
            "block-holder: dm-0 (vg-data) is made of nvme0n1p2",
            "mount: dm-0 (vg-data) is mounted at /data",
        ]
        assert disk.usage().uses[0].via == "/proc/1/mountinfo"

    def test_the_disk_under_the_root(self, disk: Machine) -> None:
        self.mount(disk, "22 1 253:0 / / rw - ext4 /dev/mapper/vg-data rw")
        assert "root-disk: dm-0 (vg-data) is mounted at /" in disk.said()

    def test_btrfs_has_numbers_of_its_own(self, disk: Machine) -> None:
        self.mount(disk, "22 1 0:40 /sub /home rw - btrfs /dev/nvme0n1p1 rw")
        assert disk.said()[0] == "mount: nvme0n1p1 is mounted at /home"

    def test_swap(self, disk: Machine) -> None:
        head = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
        disk.write("proc/swaps", f"{head}/dev/nvme0n1p1   partition\t8388604\t\t0\t\t-2\n")
        assert disk.said()[0] == "swap: the host swaps to /dev/nvme0n1p1"

    def test_a_mount_that_only_a_container_has(self, disk: Machine) -> None:
        self.mount(disk, "22 1 8:0 / / rw - ext4 /dev/sda rw")
        disk.link("proc/1/ns/mnt", "mnt:[1]")
        disk.process(60, "db", ["db"])
        disk.link("proc/60/ns/mnt", "mnt:[2]")
        self.mount(disk, "90 1 259:1 / / rw - ext4 /dev/nvme0n1p1 rw", pid=60)
        use = disk.usage().uses[0]
        assert (use.kind, use.via) == ("mount", "/proc/60/mountinfo")

    def test_a_process_on_the_disk_itself(self, disk: Machine) -> None:
        disk.process(61, "dd", ["dd"], "/dev/nvme0n1", "/dev/sda")
        disk.process(62, "smartd", ["smartd"], "/dev/nvme0")
        disk.process(63, "qemu", ["qemu"], "/dev/dm-0")
        users = [use for use in disk.usage().uses if use.kind == "storage-user"]
        assert [use.process and use.process.pid for use in users] == [62, 61, 63]

    def test_a_namespace_of_several_controllers(self, disk: Machine) -> None:
        subsystem = "sys/devices/virtual/nvme-subsystem/nvme-subsys0"
        disk.in_class("block", f"{subsystem}/nvme0n2")
        disk.link(f"{subsystem}/nvme0", f"../../../../../{self.PATH}/nvme/nvme0")
        disk.write("sys/class/block/nvme0n2/dev", "259:9\n")
        self.mount(disk, "30 22 259:9 / /fast rw - ext4 /dev/nvme0n2 rw")
        disk.process(64, "dd", ["dd"], "/dev/nvme0n2")
        assert "storage-user: pid 64 (dd): has /dev/nvme0n2 open" in disk.said()
        assert "mount: nvme0n2 is mounted at /fast" in disk.said()

    def test_holders_in_a_circle_end(self, disk: Machine) -> None:
        disk.link("sys/class/block/dm-0/holders/nvme0n1p2", "../nvme0n1p2")
        assert disk.said() == ["block-holder: dm-0 (vg-data) is made of nvme0n1p2"]

    def test_no_mountinfo_is_told(self, disk: Machine) -> None:
        (disk.root / "proc/1/mountinfo").unlink()
        assert "what is mounted is not known" in disk.usage().incomplete[0]


class TestNetwork:
    PATH = "sys/devices/pci0000:00/0000:05:00.0"

    @pytest.fixture
    def nic(self, machine: Machine) -> Machine:
        machine.function("0000:05:00.0", modalias=NIC, bridge="pci0000:00")
        machine.in_class("net", f"{self.PATH}/net/eth0")
        machine.write("sys/class/net/eth0/flags", "0x1003\n")
        return machine

    def test_an_interface_that_is_down_is_no_use(self, nic: Machine) -> None:
        nic.write("sys/class/net/eth0/flags", "0x1002\n")
        assert nic.said() == []

    def test_an_interface_that_is_merely_up(self, nic: Machine) -> None:
        nic.write("proc/net/if_inet6", f"fe80{'0' * 28} 02 40 20 80     eth0\n")
        assert nic.said() == ["interface-up: eth0 is up"]

    def test_addresses_and_routes(self, nic: Machine) -> None:
        nic.write(
            "proc/net/route",
            ROUTES + "eth0\t00000000\t0202000A\t0003\t0\t0\t100\t00000000\t0\t0\t0\n"
            "eth0\t0002000A\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0\n"
            "eth0\t0000A8C0\t0302000A\t0003\t0\t0\t100\t0000FFFF\t0\t0\t0\n"
            "docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n",
        )
        trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 10.0.2.15\n        /32 host LOCAL\n"
        trie += "     |-- 10.0.2.255\n        /32 link BROADCAST\n     |-- 127.0.0.1\n"
        nic.write("proc/net/fib_trie", f"{trie}        /32 host LOCAL\n")
        nic.write("proc/net/if_inet6", f"fd000002{'0' * 23}f 02 40 00 80     eth0\n")
        zeros, gateway = "0" * 32, f"fe80{'0' * 27}2"
        nic.write(
            "proc/net/ipv6_route",
            f"{zeros} 00 {zeros} 00 {gateway} 00000400 00000001 00000000 00000003     eth0\n"
            f"{zeros} 00 {zeros} 00 {zeros} ffffffff 00000001 00000000 00200200       lo\n",
        )
        assert nic.said() == [
            "address: eth0 has the address 10.0.2.15",
            "address: eth0 has the address fd00:2::f",
            "default-route: eth0 has the default route of IPv4",
            "route: eth0 has the route to 192.168.0.0/16",
            "default-route: eth0 has the default route of IPv6",
        ]

    def test_the_route_of_the_bridge_that_it_is_in(self, nic: Machine) -> None:
        nic.in_class("net", "sys/devices/virtual/net/br0")
        nic.link("sys/class/net/eth0/upper_br0", "../../../../../virtual/net/br0")
        nic.write(
            "proc/net/route",
            ROUTES + "br0\t00000000\t0202000A\t0003\t0\t0\t100\t00000000\t0\t0\t0\n",
        )
        assert nic.said() == [
            "network-member: eth0 is a part of br0",
            "default-route: br0 (on eth0) has the default route of IPv4",
        ]

    def test_an_address_that_belongs_to_no_interface_is_told(self, nic: Machine) -> None:
        nic.write("proc/net/fib_trie", "     |-- 192.0.2.9\n        /32 host LOCAL\n")
        assert nic.usage().incomplete == (
            "No file says which interface has the address 192.0.2.9.",
        )


class TestConsoles:
    def test_the_text_console(self, machine: Machine) -> None:
        machine.function()
        machine.in_class("graphics", f"{GPU_PATH}/graphics/fb0")
        machine.write("sys/class/vtconsole/vtcon1/name", "(M) frame buffer device\n")
        machine.write("sys/class/vtconsole/vtcon1/bind", "1\n")
        (use,) = machine.usage().uses
        assert (use.kind, use.via) == ("console", "/sys/class/vtconsole/vtcon1/bind")
        machine.write("sys/class/vtconsole/vtcon1/bind", "0\n")
        assert machine.said() == []

    def test_a_serial_console(self, machine: Machine) -> None:
        machine.function(modalias=SERIAL)
        machine.in_class("tty", f"{GPU_PATH}/tty/ttyS4")
        machine.write("proc/consoles", "ttyS4                -W- (EC p a)    4:68\n")
        assert machine.said() == ["console: the kernel's messages go to ttyS4"]

    @pytest.mark.parametrize(("start", "uses"), [(0xF0000000, 1), (0, 0)])
    def test_what_the_firmware_has_left_in_a_bar(
        self, machine: Machine, start: int, uses: int
    ) -> None:
        bar = f"0x{start:016x} 0x{start + 0xFFFFFFF:016x} 0x000000000014220c\n"
        machine.function(resource=f"{'0x0000000000000000 ' * 2}0x0\n{bar}")
        end = f"{start + 0x7E8FFF:08x}"
        machine.write("proc/iomem", f"c0000000-fdffffff : PCI\n    {start:08x}-{end} : BOOTFB\n")
        assert len(machine.usage().uses) == uses
