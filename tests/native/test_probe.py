"""Probes without a kernel: what the helper says, what becomes of it, and how it ends."""

from __future__ import annotations

import errno
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pure.hosts import a10, address, rtx
from vfiohost import native, vfio
from vfiohost.errors import KernelError, UnsupportedError
from vfiohost.probe import causes, helper, probe, steps
from vfiohost.probe.probing import verdict
from vfiohost.probe.types import Failure, Probe, Region
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
        monkeypatch.setattr(native, each, getattr(opened, each))
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
        monkeypatch.setattr(native, each, getattr(opened, each))
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
    ("ioctl", errno.EBUSY, "DEVICE_BIND_IOMMUFD", "busy"),
    ("ioctl", errno.EAGAIN, "DEVICE_BIND_IOMMUFD", "releasing"),
    ("ioctl", errno.EINVAL, "DEVICE_RESET", "no-reset"),
    ("ioctl", errno.EIO, "DEVICE_RESET", "kernel"),
]


def explained(
    root: Path, failure: Failure, device: PciDevice = DEVICE, group: IommuGroup | None = None
) -> Cause:
    with Sysfs(root) as sysfs:
        context = causes.Context(sysfs, device, group, ("dev/vfio/15",))
        return causes.explain(failure, context)


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


def test_without_an_iommu_it_takes_a_capability(tmp_path: Path) -> None:
    cause = explained(tmp_path, Failure("open", errno.EPERM, "/dev/vfio/noiommu-3", None))
    assert "CAP_SYS_RAWIO" in cause.sentence


def test_who_has_it_open_is_named(tmp_path: Path) -> None:
    for pid, target in ((4242, "/dev/vfio/15"), (4243, "/dev/null"), (4244, "/dev/vfio/16")):
        fds = tmp_path / f"proc/{pid}/fd"
        fds.mkdir(parents=True)
        (fds / "7").symlink_to(target)
        (fds.parent / "comm").write_text("qemu\n")
    cause = explained(tmp_path, Failure("open", errno.EBUSY, "/dev/vfio/15", None))
    assert "by pid 4242 ([qemu])." in cause.sentence


def test_the_limit_is_told(tmp_path: Path) -> None:
    cause = explained(tmp_path, Failure("ioctl", errno.ENOMEM, "/dev/vfio/vfio", "IOMMU_MAP_DMA"))
    assert "RLIMIT_MEMLOCK is " in cause.sentence
    assert "bytes for this probe" in cause.remedy


REQUEST = steps.Request("/", str(A10), 15, None, reset=False, vf_token=None)


def test_a_helper_that_does_not_come_back_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    code = 'import sys, time; print(\'{"begin": "open"}\', flush=True); time.sleep(600)'
    monkeypatch.setattr(helper, "_CODE", code)
    told = helper.ask(REQUEST, timeout=3)
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
