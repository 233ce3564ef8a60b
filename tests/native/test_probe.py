"""Probes without a kernel: what the helper says, what becomes of it, and how it ends."""

from __future__ import annotations

import errno
import gc
import json
import os
import resource
import select
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pure.hosts import a10, address, rtx
from vfiohost import privilege, vfio
from vfiohost.errors import KernelError, UnsupportedError
from vfiohost.native import ioctls
from vfiohost.probe import causes, helper, steps
from vfiohost.probe.probing import probe, verdict
from vfiohost.probe.types import Failure, Probe, Region
from vfiohost.probe.users import Nodes
from vfiohost.render.probes import probe_lines
from vfiohost.sysfs import Sysfs

if TYPE_CHECKING:
    from vfiohost.model import IommuGroup, PciDevice
    from vfiohost.probe.types import Cause

A10 = address("0000:65:00.0")
DEVICE = a10("vfio-pci").pci[A10]
MSI = "0x00000000fee00000 0x00000000feefffff msi\n"
PAGE = 4096


@pytest.mark.parametrize(
    ("reserved", "wanted"),
    [
        ("", 16 << 20),
        (MSI, 16 << 20),
        ("0x0 0xffffff direct\n", 16 << 20),
        ("0x1000000 0x1000fff direct\n", (16 << 20) + PAGE),
        ("0x1001000 0x1001fff direct\n0x0 0x1000fff direct\n", (16 << 20) + 2 * PAGE),
    ],
)
def test_the_page_goes_where_nothing_is_reserved(reserved: str, wanted: int) -> None:
    assert steps.free_iova(reserved, PAGE) == wanted


@given(st.lists(st.tuples(st.integers(0, 1 << 26), st.integers(0, 1 << 24)), max_size=8))
def test_the_page_meets_no_reserved_region(regions: list[tuple[int, int]]) -> None:
    text = "".join(f"{first:#x} {first + size:#x} direct\n" for first, size in regions)
    iova = steps.free_iova(text, PAGE)
    assert iova % PAGE == 0
    assert all(first + size < iova or first >= iova + PAGE for first, size in regions)


class Refusing:
    """Ioctls that succeed up to one that does not; the nodes are plain files."""

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        self.number = number

    def __getattr__(self, name: str) -> Any:
        def answer(*_: object, **__: object) -> int:
            if name == self.name:
                raise KernelError("ioctl", self.number, "/dev/vfio/15", name.upper())
            if name == "group_get_device_fd":
                return os.memfd_create("device")
            return int(name == "check_extension")

        return answer


GROUP_CALLS = (
    "get_api_version",
    "group_get_status",
    "group_set_container",
    "check_extension",
    "set_iommu",
    "iommu_map_dma",
    "group_get_device_fd",
    "iommu_unmap_dma",
)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "dev/vfio/devices").mkdir(parents=True)
    for name in ("vfio/vfio", "vfio/15", "iommu", "vfio/devices/vfio0"):
        (tmp_path / "dev" / name).touch()
    regions = tmp_path / "sys/kernel/iommu_groups/15/reserved_regions"
    regions.parent.mkdir(parents=True)
    regions.write_text(MSI)
    monkeypatch.setattr(vfio, "open_node", lambda s, path: os.open(f"{s.root}/{path}", os.O_RDWR))
    info = vfio.DeviceInfo(1, num_regions=2, num_irqs=1)
    monkeypatch.setattr(vfio, "device_get_info", lambda *_, **__: info)
    monkeypatch.setattr(vfio, "device_get_region_info", _region)
    irq = vfio.IrqInfo(0, 3, 1)
    monkeypatch.setattr(vfio, "device_get_irq_info", lambda *_, **__: irq)
    return tmp_path


def _region(_fd: int, index: int, *, shown: str) -> vfio.RegionInfo:
    if index == 1:
        raise KernelError("ioctl", errno.EINVAL, shown)
    return vfio.RegionInfo(0, 7, 16 << 20, 0)


def said_by(root: Path, *, cdev: str | None = None) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    request = steps.Request(str(root), str(A10), 15, cdev, reset=False, vf_token=None)
    gc.collect()  # what earlier tests have left open is closed now, and not while it is counted
    before = len(os.listdir("/proc/self/fd"))
    with Sysfs(root) as sysfs:
        steps.run(sysfs, request, lines.append)
    assert len(os.listdir("/proc/self/fd")) == before  # everything was closed
    json.dumps(lines)
    return lines


@pytest.mark.parametrize("name", GROUP_CALLS)
def test_the_first_failure_ends_a_probe_and_closes_everything(
    host: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    opened = Refusing(name, errno.EPERM)
    for each in GROUP_CALLS:
        monkeypatch.setattr(ioctls, each, getattr(opened, each))
    last = said_by(host)[-1]
    assert last["error"] == {
        "op": "ioctl",
        "errno": errno.EPERM,
        "path": "/dev/vfio/15",
        "ioctl": name.upper(),
    }


def test_a_probe_that_succeeds(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Refusing("none", 0)
    for each in GROUP_CALLS:
        monkeypatch.setattr(ioctls, each, getattr(opened, each))
    found = verdict(Probe(A10, "group"), said_by(host))
    assert found.is_usable
    assert {step.outcome for step in found.steps} == {"ok"}
    assert found.regions == (Region("BAR0", 16 << 20, ("read", "write", "mmap")),)
    assert probe_lines(found) == [
        "0000:65:00.0  group  usable",
        "  BAR0   16 MiB  read write mmap",
        "  INTx   1       eventfd maskable",
        "  reset  yes",
    ]


def test_what_was_begun_and_has_no_outcome_is_pending() -> None:
    lines: list[dict[str, Any]] = [{"begin": "open"}, {"ok": ""}, {"begin": "DEVICE_RESET"}]
    found = verdict(Probe(A10, "group"), lines)
    assert [(s.name, s.outcome) for s in found.steps] == [
        ("open", "ok"),
        ("DEVICE_RESET", "pending"),
    ]


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        ([{"begin": "close"}, {"ok": ""}], None),
        ([{"begin": "close"}], "pending"),
        ([{"begin": "DEVICE_RESET"}, {"ok": ""}], "pending"),
        ([], "pending"),
    ],
)
def test_only_a_step_that_is_not_over_is_pending(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    lines: list[dict[str, Any]],
    code: str | None,
) -> None:
    monkeypatch.setattr(Sysfs, "is_live", lambda _: True)
    monkeypatch.setattr(helper, "ask", lambda *_, **__: helper.Told(tuple(lines), 4242))
    with Sysfs(tmp_path) as sysfs:
        found = probe(sysfs, a10("vfio-pci"), DEVICE, "group", timeout=1)
    assert (found.cause.code if found.cause else None) == code


CAUSES = [
    ("open", errno.ENOENT, None, "missing-node"),
    ("open", errno.EACCES, None, "permission"),
    ("open", errno.EBUSY, None, "busy"),
    ("ioctl", errno.EPERM, "SET_IOMMU", "unsafe-interrupts"),
    ("ioctl", errno.ENODEV, "SET_IOMMU", "no-iommu"),
    ("ioctl", errno.ENOMEM, "IOMMU_MAP_DMA", "memlock"),
    ("ioctl", errno.ENOMEM, "IOAS_MAP", "memlock"),
    ("ioctl", errno.ENODEV, "GROUP_GET_DEVICE_FD", "not-bound"),
    ("ioctl", errno.EACCES, "GROUP_GET_DEVICE_FD", "vf-token"),
    ("ioctl", errno.EPERM, "DEVICE_BIND_IOMMUFD", "busy"),
    ("ioctl", errno.EPERM, "GROUP_SET_CONTAINER", "busy"),
    ("ioctl", errno.EPERM, "IOMMU_MAP_DMA", "kernel"),
    ("ioctl", errno.EINVAL, "GROUP_GET_DEVICE_FD", "kernel"),
    ("ioctl", errno.EBUSY, "DEVICE_BIND_IOMMUFD", "busy"),
    ("ioctl", errno.EAGAIN, "DEVICE_BIND_IOMMUFD", "releasing"),
    ("ioctl", errno.EINVAL, "DEVICE_RESET", "no-reset"),
    ("ioctl", errno.EIO, "DEVICE_RESET", "kernel"),
]


NODES = Nodes("dev/vfio/15", "dev/vfio/devices/vfio0", ("dev/vfio/devices/vfio1",))


def explained(
    root: Path,
    failure: Failure,
    device: PciDevice = DEVICE,
    group: IommuGroup | None = None,
    **context: Any,
) -> Cause:
    with Sysfs(root) as sysfs:
        known = causes.Context(sysfs, device, group, **{"nodes": NODES, **context})
        return causes.explain(failure, known)


@pytest.fixture
def limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This process may lock 64 KiB of memory, and nothing makes it exempt; gives its status."""
    status = tmp_path / "self/status"
    status.parent.mkdir()
    status.write_text("CapEff:\t000001ffffffbfff\n")
    monkeypatch.setattr(privilege, "_PROC", status.parent)
    monkeypatch.setattr("resource.getrlimit", lambda _: (65536, 65536))
    return status


@pytest.mark.usefixtures("limited")
@pytest.mark.parametrize(("op", "number", "ioctl", "code"), CAUSES)
def test_each_errno_has_a_sentence_and_a_remedy(
    tmp_path: Path, op: str, number: int, ioctl: str | None, code: str
) -> None:
    cause = explained(tmp_path, Failure(op, number, "/dev/vfio/15", ioctl))
    assert cause.code == code
    assert cause.sentence.endswith(".")
    assert cause.remedy


def test_who_blocks_a_group_is_named(tmp_path: Path) -> None:
    card = rtx()
    device = card.pci[address("0000:01:00.0")]
    failure = Failure("ioctl", errno.EPERM, "/dev/vfio/1", "GROUP_SET_CONTAINER")
    cause = explained(tmp_path, failure, device, card.groups[1])
    assert cause.code == "not-viable"
    assert "0000:01:00.1 on snd_hda_intel" in cause.sentence


def test_only_who_blocks_a_group_is_named(tmp_path: Path) -> None:
    """Not the bridge, not the functions without a driver, not those on VFIO or pci-stub."""
    card = rtx()
    group = card.groups[1]
    drivers: list[str | None] = ["vfio-pci", "snd_hda_intel", None, "pci-stub"]
    functions = [m for m in group.members if not m.is_bridge]
    members = [attrs.evolve(m, driver=d) for m, d in zip(functions, drivers, strict=True)]
    bridges = [m for m in group.members if m.is_bridge]
    group = attrs.evolve(group, members=(*bridges, *members))
    for ioctl, number in (
        ("GROUP_SET_CONTAINER", errno.EPERM),
        ("DEVICE_BIND_IOMMUFD", errno.EPERM),
        ("GROUP_GET_DEVICE_FD", errno.EINVAL),
    ):
        failure = Failure("ioctl", number, "/dev/vfio/1", ioctl)
        cause = explained(tmp_path, failure, members[0], group)
        assert cause.sentence == (
            "IOMMU group 1 is not viable: 0000:01:00.1 on snd_hda_intel is a host driver's."
        )


def test_a_group_of_one_device_is_nobody_elses(tmp_path: Path) -> None:
    failure = Failure("ioctl", errno.EPERM, "/dev/vfio/devices/vfio0", "DEVICE_BIND_IOMMUFD")
    alone = attrs.evolve(NODES, others=())
    cause = explained(tmp_path, failure, nodes=alone)
    assert (cause.code, "iommufd" in cause.remedy) == ("unsafe-interrupts", True)


@pytest.mark.parametrize("ioctl", [None, "GROUP_SET_CONTAINER", "SET_IOMMU"])
def test_without_an_iommu_it_takes_a_capability(tmp_path: Path, ioctl: str | None) -> None:
    path = "/dev/vfio/vfio" if ioctl == "SET_IOMMU" else "/dev/vfio/noiommu-3"
    failure = Failure("ioctl" if ioctl else "open", errno.EPERM, path, ioctl)
    cause = explained(tmp_path, failure, nodes=Nodes("dev/vfio/noiommu-3"))
    assert cause.code == "permission"
    assert "CAP_SYS_RAWIO" in cause.sentence


def has_open(root: Path, pid: int, *targets: str, fdinfo: str = "") -> None:
    """Let a process of a recorded host have files open."""
    fds = root / f"proc/{pid}/fd"
    fds.mkdir(parents=True)
    (fds.parent / "comm").write_text("qemu\n")
    (fds.parent / "fdinfo").mkdir()
    for number, target in enumerate(targets, 7):
        (fds / str(number)).symlink_to(target)
        (fds.parent / f"fdinfo/{number}").write_text(fdinfo)


ANON = "anon_inode:[vfio-device]"
BUSY = Failure("open", errno.EBUSY, "/dev/vfio/15", None)


def test_who_has_it_open_is_named_and_nobody_else(tmp_path: Path) -> None:
    has_open(tmp_path, 1)
    has_open(tmp_path, 4242, "/dev/vfio/15", ANON)
    has_open(tmp_path, 4243, "/dev/null")
    has_open(tmp_path, 4244, "/dev/vfio/16", ANON)
    has_open(tmp_path, 4245, "/dev/vfio/devices/vfio1")  # another device of the group
    has_open(tmp_path, 4246, "/dev/vfio/devices/vfio7")
    has_open(tmp_path, 4247, "/dev/vfio/15")  # the helper of this very probe
    cause = explained(tmp_path, BUSY, prober=4247)
    assert cause.sentence == (
        f"{A10} or another device of its group is in use: pid 4242 ([qemu]) has /dev/vfio/15 open "
        "and pid 4245 ([qemu]) has /dev/vfio/devices/vfio1 open."
    )
    assert "Shut that virtual machine down" in cause.remedy


@pytest.mark.parametrize(
    ("number", "node"),
    [
        (errno.EBUSY, "/dev/vfio/15"),
        (errno.EINVAL, "/dev/vfio/devices/vfio0"),
        (errno.EPERM, "/dev/vfio/devices/vfio1"),
    ],
)
def test_each_errno_blames_those_of_one_node(tmp_path: Path, number: int, node: str) -> None:
    has_open(tmp_path, 1)
    names = ("/dev/vfio/15", "/dev/vfio/devices/vfio0", "/dev/vfio/devices/vfio1")
    for pid, name in enumerate(names, 4242):
        has_open(tmp_path, pid, name)
    failure = Failure("ioctl", number, "/dev/vfio/devices/vfio0", "DEVICE_BIND_IOMMUFD")
    sentence = explained(tmp_path, failure).sentence
    assert f"in use: pid {4242 + names.index(node)} ([qemu]) has {node} open." in sentence
    assert sentence.count("pid ") == 1


def test_who_kept_the_device_and_closed_the_group_is_named_where_the_kernel_says(
    tmp_path: Path,
) -> None:
    has_open(tmp_path, 1)
    has_open(tmp_path, 4242, ANON, fdinfo=f"vfio-device-syspath: /{DEVICE.path}\n")
    has_open(tmp_path, 4243, ANON, fdinfo="vfio-device-syspath: /sys/devices/other\n")
    sentence = explained(tmp_path, BUSY).sentence
    assert "pid 4242 ([qemu]) has the device open." in sentence
    assert "4243" not in sentence


def test_that_it_cannot_be_told_is_said(tmp_path: Path) -> None:
    has_open(tmp_path, 4244, "/dev/vfio/16", ANON)  # and no process 1: others are hidden
    cause = explained(tmp_path, BUSY)
    assert "by whom cannot be told" in cause.sentence
    assert "Process 1 is not in /proc" in cause.sentence
    assert "4244" not in cause.sentence
    assert f"vfiohost holders {A10}" in cause.remedy


def test_the_limit_is_told(tmp_path: Path, limited: Path) -> None:
    failure = Failure("ioctl", errno.ENOMEM, "/dev/vfio/vfio", "IOMMU_MAP_DMA")
    cause = explained(tmp_path, failure)
    assert "RLIMIT_MEMLOCK is 65536 bytes" in cause.sentence
    assert "bytes for this probe" in cause.remedy
    limited.write_text("CapEff:\t000001ffffffffff\n")  # CAP_IPC_LOCK
    assert explained(tmp_path, failure).code == "kernel"


def test_no_limit_is_not_to_blame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda _: (resource.RLIM_INFINITY,) * 2)
    failure = Failure("ioctl", errno.ENOMEM, "/dev/iommu", "IOAS_MAP")
    cause = explained(tmp_path, failure)
    assert cause.code == "kernel"
    assert "RLIMIT" not in cause.sentence


@pytest.fixture
def node(tmp_path: Path) -> Path:
    path = tmp_path / "dev/vfio/15"
    path.parent.mkdir(parents=True)
    path.touch(0o600)
    return path


def whose(node: Path) -> str:
    status = node.stat()
    return f"(it belongs to {status.st_uid}:{status.st_gid} and has mode "


def test_whose_a_node_is_and_how_to_get_it(
    tmp_path: Path, node: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.chmod(0o620)
    monkeypatch.setattr(os, "geteuid", lambda: 64055)
    monkeypatch.setattr(os, "getegid", lambda: 64055)
    monkeypatch.setattr(os, "getgroups", list)
    cause = explained(tmp_path, Failure("open", errno.EACCES, str(node), None))
    assert f"by user 64055 {whose(node)}0620)." in cause.sentence
    assert "make this user the owner, with mode 0620 as before" in cause.remedy
    assert f"`vfiohost bind {A10} --owner 64055`" in cause.remedy


def test_an_owner_without_permission_needs_a_mode(tmp_path: Path, node: Path) -> None:
    node.chmod(0o400)
    cause = explained(tmp_path, Failure("open", errno.EACCES, str(node), None))
    assert f"`vfiohost bind {A10} --mode 0600`" in cause.remedy


def test_what_owner_and_mode_permit_is_denied_by_another(tmp_path: Path, node: Path) -> None:
    cause = explained(tmp_path, Failure("open", errno.EACCES, str(node), None))
    assert f"although owner and mode permit it {whose(node)}0600)" in cause.sentence
    assert "SELinux" in cause.sentence
    assert "--owner" not in cause.remedy
    cause = explained(tmp_path, Failure("open", errno.EPERM, str(node), None))
    assert "device cgroup" in cause.sentence
    assert f"{whose(node)}0600)" in cause.sentence
    assert "--owner" not in cause.remedy


@pytest.mark.parametrize("name", ["vfio/vfio", "iommu"])
def test_a_node_that_is_of_no_device_is_not_given_away_with_one(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "dev" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(0o600)
    monkeypatch.setattr(os, "geteuid", lambda: 64055)
    cause = explained(tmp_path, Failure("open", errno.EACCES, str(path), None))
    assert "--owner" not in cause.remedy
    assert "udev" in cause.remedy


def test_whose_token_it_is(tmp_path: Path) -> None:
    failure = Failure("ioctl", errno.EACCES, "/dev/vfio/15", "GROUP_GET_DEVICE_FD")
    vf = attrs.evolve(DEVICE, physfn=address("0000:65:00.7"))
    assert "belongs to 0000:65:00.7" in explained(tmp_path, failure, vf).sentence
    assert "has virtual functions that VFIO users" in explained(tmp_path, failure).sentence
    assert "is another" in explained(tmp_path, failure, vf, vf_token=True).sentence
    wrong = Failure("ioctl", errno.EINVAL, "/dev/vfio/15", "GROUP_GET_DEVICE_FD")
    assert explained(tmp_path, wrong, vf_token=True).code == "vf-token"


REQUEST = steps.Request("/", str(A10), 15, None, reset=False, vf_token=None)


def test_a_helper_that_does_not_come_back_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    code = 'import sys, time; print(\'{"begin": "open"}\', flush=True); time.sleep(600)'
    monkeypatch.setattr(helper, "_CODE", code)
    start = helper._start

    def started(request: steps.Request) -> Any:
        """Its time begins when it has said something: to start a Python may take long."""
        process = start(request)
        assert process.stdout is not None
        assert select.select([process.stdout], [], [], 60)[0]
        return process

    monkeypatch.setattr(helper, "_start", started)
    told = helper.ask(REQUEST, timeout=0.3)
    assert told.lines == ({"begin": "open"},)
    assert told.pid is not None
    deadline = time.monotonic() + 30
    while _is_alive(told.pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _is_alive(pid: int) -> bool:
    """Whether a process has not ended; it may wait for its parent to notice."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_helper_that_was_killed_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(helper, "_CODE", "import os; os.kill(os.getpid(), 9)")
    with pytest.raises(KernelError, match="EINTR"):
        helper.ask(REQUEST, timeout=30)


def test_nothing_is_imported_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "vfiohost").mkdir()
    (tmp_path / "vfiohost/__init__.py").write_text("raise SystemExit('taken in')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    missing = attrs.evolve(REQUEST, root=str(tmp_path))
    told = helper.ask(missing, timeout=30)
    assert told.lines[-1]["error"]["errno"] == errno.ENOENT


def test_no_probe_of_a_directory(tmp_path: Path) -> None:
    with Sysfs(tmp_path) as sysfs, pytest.raises(UnsupportedError, match="no running host"):
        probe(sysfs, a10("vfio-pci"), DEVICE, "group", timeout=1)
