"""The scan: every field of every function, drivers, details and modules."""

from __future__ import annotations

import errno
import gc
import os
import tarfile
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import hosts
from tests.native.trees import A10, BUS, Lookout, Tree, ordinary_user
from vfiohost import native
from vfiohost._native import ffi, lib
from vfiohost.details_scan import with_details
from vfiohost.model import (
    Details,
    Driver,
    PciAddress,
    PciDevice,
    Snapshot,
    Unavailable,
)
from vfiohost.module_scan import read_modules
from vfiohost.native import helpers
from vfiohost.reads import opened
from vfiohost.scan import scan
from vfiohost.sysfs import Sysfs

if TYPE_CHECKING:
    from collections.abc import Iterator

GPU = PciAddress.parse("0000:65:00.0")
PCI = Path("/sys/bus/pci/devices")


def scanned(tree: Tree) -> Snapshot:
    with Sysfs(tree.root) as sysfs:
        return scan(sysfs)


@contextmanager
def hosted(modalias: str) -> Iterator[Tree]:
    """Make a host with one function, anew for each example of a property."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Tree(Path(folder))
        tree.function(modalias=modalias)
        yield tree


def only(tree: Tree) -> PciDevice:
    snapshot = scanned(tree)
    assert snapshot.problems == ()
    (device,) = snapshot.devices
    return device


@pytest.mark.parametrize(
    ("driver", "name", "brings"),
    [
        ("nvidia", "vfio-dev/vfio0", True),
        ("nvidia", "nvidia/current_vgpu_type", True),
        ("nvidia", "mdev_supported_types/nvidia-1", False),
        ("iavf", "vfio-dev/vfio0", False),
    ],
)
def test_a_function_that_its_driver_makes_a_vfio_device(
    tree: Tree,
    driver: str,
    name: str,
    brings: bool,  # noqa: FBT001 - a parameter of pytest
) -> None:
    for address in ("0000:65:00.0", "0000:65:00.4"):
        folder = tree.function(address)
        tree.link(
            f"{folder.relative_to(tree.root)}/driver", f"../../../../bus/pci/drivers/{driver}"
        )
        (folder / name).mkdir(parents=True)
    (folder / "physfn").symlink_to("../0000:65:00.0")
    with Sysfs(tree.root) as sysfs:
        card, vf = scan(sysfs).devices
    assert (card.driver, card.brings_vfio) == (driver, False)
    assert (vf.driver, vf.brings_vfio) == (driver, brings)


def test_the_header_and_python_agree_about_the_errors() -> None:
    fields = native.FieldErrors._fields
    numbers = [getattr(lib, f"VH_FIELD_{name.upper()}") for name in fields]
    assert numbers == list(range(lib.VH_FIELDS))
    assert native._FUNCTION.size == ffi.sizeof("struct vh_function")
    per_function = lib.VH_SCAN_PATH + lib.VH_SCAN_NAME
    assert per_function * lib.VH_SCAN_FUNCTIONS == lib.VH_SCAN_TEXT
    assert lib.VH_SCAN_FUNCTIONS * 24 >= lib.VH_SCAN_ENTRIES * 8


def test_every_field(tree: Tree) -> None:
    folder = tree.function(sriov_totalvfs="16\n", numa_node="1\n")
    (folder / "driver").symlink_to("../../../bus/pci/drivers/nvidia")
    (folder / "iommu_group").symlink_to("../../../kernel/iommu_groups/8")
    assert only(tree) == PciDevice(
        address=GPU,
        vendor_id=0x10DE,
        device_id=0x2236,
        subsystem_vendor_id=0x10DE,
        subsystem_device_id=0x1482,
        class_code=0x030200,
        revision=0xA1,
        numa_node=1,
        driver="nvidia",
        iommu_group=8,
        physfn=None,
        total_vfs=16,
        path="sys/devices/pci0000:64/0000:65:00.0",
    )


def test_a_virtual_function(tree: Tree) -> None:
    folder = tree.function("0000:65:00.4")
    (folder / "physfn").symlink_to("../0000:65:00.0")
    device = only(tree)
    assert device.physfn == GPU
    assert device.is_vf
    assert device.total_vfs is None


@pytest.mark.parametrize("pf", ["0000:00:00.0", "10000:e1:1f.7", "ffffffff:ff:1f.7"])
def test_the_physical_function_may_be_anywhere(tree: Tree, pf: str) -> None:
    (tree.function("0000:65:00.4") / "physfn").symlink_to(f"../{pf}")
    assert only(tree).physfn == PciAddress.parse(pf)


@pytest.mark.parametrize("modalias", [A10, None])
def test_zero_is_something(tree: Tree, modalias: str | None) -> None:
    ids = {"vendor": "0x0\n", "device": "0x0\n", "class": "0x0\n"}
    ids |= {"subsystem_vendor": "0x0\n", "subsystem_device": "0x0\n"}
    zeros = {"sriov_totalvfs": "0\n", "numa_node": "0\n", "revision": "0x00\n"}
    folder = tree.function(modalias=modalias, **ids, **zeros)
    (folder / "iommu_group").symlink_to("../../../kernel/iommu_groups/0")
    device = only(tree)
    assert (device.total_vfs, device.numa_node, device.revision) == (0, 0, 0)
    assert device.iommu_group == 0
    if modalias is None:
        assert (device.vendor_id, device.device_id, device.class_code) == (0, 0, 0)
        assert (device.subsystem_vendor_id, device.subsystem_device_id) == (0, 0)


def test_what_is_not_there_is_none(tree: Tree) -> None:
    folder = tree.function(numa_node="-1\n")
    (folder / "revision").unlink()
    device = only(tree)
    assert (device.revision, device.numa_node, device.driver) == (None, None, None)
    assert (device.iommu_group, device.physfn, device.total_vfs) == (None, None, None)


def test_a_32_bit_domain_and_the_order_of_addresses(tree: Tree) -> None:
    for address in ("10000:e1:00.0", "0000:65:00.1", "ffffffff:00:1f.7", "0000:65:00.0"):
        tree.function(address, bridge=f"pci{address.partition(':')[0]}:00")
    snapshot = scanned(tree)
    assert [str(d.address) for d in snapshot.devices] == [
        "0000:65:00.0",
        "0000:65:00.1",
        "10000:e1:00.0",
        "ffffffff:00:1f.7",
    ]
    assert snapshot.devices[2].path == "sys/devices/pci10000:00/10000:e1:00.0"
    assert snapshot.problems == ()


def test_a_recording_without_modalias(tree: Tree) -> None:
    files = {"vendor": "0x10de\n", "device": "0x2236\n", "class": "0x030200\n"}
    tree.function(modalias=None, **files)
    device = only(tree)
    assert device.ids == "10de:2236"
    assert device.class_code == 0x030200
    assert (device.subsystem_vendor_id, device.subsystem_device_id) == (None, None)


def test_a_recording_without_modalias_but_with_subsystem_files(tree: Tree) -> None:
    files = {"vendor": "0x10de", "device": "0x2236", "class": "0x030200"}
    tree.function(modalias=None, subsystem_vendor="0x10de", subsystem_device="0x1482", **files)
    device = only(tree)
    assert (device.subsystem_vendor_id, device.subsystem_device_id) == (0x10DE, 0x1482)


def test_a_host_without_pci(tmp_path: Path) -> None:
    with Sysfs(tmp_path) as sysfs:
        snapshot = scan(sysfs, mdev=True)
    assert (snapshot.kernel, snapshot.devices, dict(snapshot.drivers)) == (None, (), {})
    assert snapshot.mdev is not None
    assert (snapshot.mdev.parents, snapshot.mdev.devices) == ((), ())
    (problem,) = snapshot.problems
    assert problem.path == BUS
    assert "this host has no PCI, or it was not recorded" in problem.sentence


def test_nothing_that_locks_or_wakes_is_opened(tree: Tree) -> None:
    forbidden = ("config", "uevent", "driver_override", "sriov_numvfs", "vpd", "enable")
    folder = tree.function(sriov_totalvfs="16\n", **dict.fromkeys(forbidden, "x"))
    with Lookout(*(folder / name for name in forbidden)) as lookout:
        assert only(tree).total_vfs == 16
        assert lookout.seen() == 0
        (folder / "uevent").read_text()
        assert lookout.seen() > 0


def test_more_functions_than_a_batch_holds(memory: Path) -> None:
    hosts.make(memory, 1500)
    with Sysfs(memory) as sysfs:
        snapshot = scan(sysfs)
    assert snapshot.problems == ()
    assert len(snapshot.devices) == 1500
    assert [d.address for d in snapshot.devices] == sorted(d.address for d in snapshot.devices)
    for made, device in zip(hosts_by_address(1500), snapshot.devices, strict=True):
        assert str(device.address) == made.address
        assert device.path == f"sys/devices/{made.path}"
        assert device.driver == made.kind.driver
        assert device.physfn == (made.physfn and PciAddress.parse(made.physfn))
        assert device.total_vfs == (16 if made.is_card else None)
    assert len(snapshot.groups) == 1500


def test_a_large_host_is_read_whole_where_there_are_no_more_threads(
    memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    hosts.make(memory, 600)
    monkeypatch.setattr(threading.Thread, "start", start)
    with Sysfs(memory) as sysfs:
        assert len(scan(sysfs).pci) == 600


def test_what_goes_wrong_in_the_other_thread_is_told(
    memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = native._batches

    def batches(*given: int) -> Iterator[tuple[int, bytes, bytes]]:
        is_main = threading.current_thread() is threading.main_thread()
        yield from read(*given) if is_main else [(-errno.EIO, b"", b"")]

    hosts.make(memory, 600)
    monkeypatch.setattr(native, "_batches", batches)
    with Sysfs(memory) as sysfs:
        snapshot = scan(sysfs)
    assert [p.sentence.partition(":")[2] for p in snapshot.problems] == [
        " Input/output error (EIO)."
    ]
    assert len(snapshot.devices) == 600  # the first thread has read them all


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_what_the_other_thread_could_not_keep_is_missed(
    memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = native._batches

    def batches(*given: int) -> Iterator[tuple[int, bytes, bytes]]:
        if threading.current_thread() is not threading.main_thread():
            raise MemoryError
        yield from read(*given)

    hosts.make(memory, 600)
    monkeypatch.setattr(native, "_batches", batches)
    with Sysfs(memory) as sysfs, pytest.raises(MemoryError):
        scan(sysfs)


def hosts_by_address(count: int) -> list[hosts.Function]:
    made = [function for function, _ in zip(hosts.functions(), range(count), strict=False)]
    return sorted(made, key=lambda f: PciAddress.parse(f.address))


def test_the_fallback_finds_the_same(tmp_path: Path) -> None:
    hosts.make(tmp_path, 64)
    with Sysfs(tmp_path) as sysfs, opened(sysfs, BUS, os.O_RDONLY) as fd:
        today = sorted(native.scan(sysfs.fd, fd, shown=BUS))
        os.lseek(fd, 0, os.SEEK_SET)
        assert sorted(native.scan(sysfs.fd, fd, shown=BUS, fallback=True)) == today
    assert len(today) == 64


def test_the_collector_runs_again_afterwards(tree: Tree) -> None:
    assert gc.isenabled()
    scanned(tree)
    assert gc.isenabled()


@given(
    st.integers(0, 0xFFFF),
    st.integers(0, 0xFFFF),
    st.integers(0, 0xFFFF),
    st.integers(0, 0xFFFF),
    st.integers(0, 0xFFFFFF),
)
def test_any_modalias_of_the_kernels_form(
    vendor: int, device: int, subvendor: int, subdevice: int, class_code: int
) -> None:
    base, sub, interface = class_code.to_bytes(3, "big")
    with hosted(
        f"pci:v{vendor:08X}d{device:08X}sv{subvendor:08X}sd{subdevice:08X}"
        f"bc{base:02X}sc{sub:02X}i{interface:02x}"
    ) as tree:
        found = only(tree)
    assert (found.vendor_id, found.device_id, found.class_code) == (vendor, device, class_code)
    assert found.subsystem_vendor_id == subvendor
    assert found.subsystem_device_id == subdevice


def test_drivers_and_their_modules(tree: Tree) -> None:
    tree.link("sys/bus/pci/drivers/vfio-pci/module", "../../../../module/vfio_pci")
    tree.write("sys/bus/pci/drivers/pcieport/bind", "")
    tree.write("sys/bus/pci/drivers/odd/module", "")
    snapshot = scanned(tree)
    assert snapshot.drivers == {
        "vfio-pci": Driver("vfio-pci", "vfio_pci"),
        "pcieport": Driver("pcieport", None),
        "odd": Driver("odd", None),
    }
    (problem,) = snapshot.problems
    assert problem.subject == "odd"
    assert snapshot.kernel == "6.12.117-amd64"


def test_details(tree: Tree) -> None:
    tree.function(
        "0000:65:00.0",
        driver_override="vfio-pci\n",
        uevent="DRIVER=nouveau\nPCI_SLOT_NAME=0000:65:00.0\n",
        boot_vga="1\n",
    )
    tree.function("0000:65:00.1", driver_override="(null)\n", uevent="X=1\n", boot_vga="0\n")
    tree.function("0000:65:00.2")
    tree.function("0000:65:00.3", boot_vga="what\n")
    with Sysfs(tree.root) as sysfs:
        before = scan(sysfs)
        addresses = [d.address for d in before.devices]
        after = with_details(sysfs, before, addresses, timeout=20)
        again = with_details(sysfs, after, addresses[:1], timeout=20)
    assert dict(before.details) == {}
    assert after == again
    absent = Unavailable(errno.ENOENT, "No such file or directory")
    assert list(after.details.values()) == [
        Details("vfio-pci", "nouveau", True, A10),  # noqa: FBT003
        Details(None, None, False, A10),  # noqa: FBT003
        Details(absent, None, None, A10),
        Details(absent, None, Unavailable(0, "malformed"), A10),
    ]
    assert after.is_releasing(after.devices[0])
    assert attrs.evolve(after, details={}) == before


def test_a_device_that_is_bound_meanwhile_is_not_releasing(tree: Tree) -> None:
    folder = tree.function(uevent="DRIVER=vfio-pci\n")
    with Sysfs(tree.root) as sysfs:
        before = scan(sysfs)
        assert with_details(sysfs, before, [GPU], timeout=20).is_releasing(before.devices[0])
        (folder / "driver").symlink_to("../../../bus/pci/drivers/vfio-pci")
        after = with_details(sysfs, before, [GPU], timeout=20)
    assert after.details[GPU].uevent_driver is None
    assert not after.is_releasing(after.devices[0])


def test_details_that_do_not_answer(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    tree.function(driver_override="(null)\n", uevent="DRIVER=vfio-pci\n")

    def locked(
        _: int, paths: tuple[str, ...], *, timeout: float, helpers: object
    ) -> list[bytes | int | None]:
        assert timeout == pytest.approx(0.504)
        answer: dict[str, bytes | int] = {
            "modalias": A10.encode() + b"\n",
            "boot_vga": -errno.ENOENT,
        }
        return [answer.get(path.rpartition("/")[2]) for path in paths]

    monkeypatch.setattr(helpers, "read_bounded", locked)
    with Sysfs(tree.root) as sysfs:
        snapshot = with_details(sysfs, scan(sysfs), [GPU], timeout=0.5)
    locked_up = Unavailable(0, "device locked")
    assert snapshot.details == {GPU: Details(locked_up, locked_up, None, A10)}
    assert snapshot.is_releasing(snapshot.devices[0])


def test_modules(tree: Tree) -> None:
    folder = "lib/modules/6.12.117-amd64"
    with Sysfs(tree.root) as sysfs:
        assert read_modules(sysfs, "6.12.117-amd64") is None
        tree.write(
            f"{folder}/modules.dep",
            "kernel/drivers/vfio/pci/vfio-pci.ko.xz: kernel/drivers/vfio/vfio.ko.xz\n"
            "kernel/drivers/vfio/vfio.ko.xz:\n",
        )
        tree.write(f"{folder}/modules.builtin", "kernel/drivers/pci/pcie/pcieportdrv.ko\n")
        index = read_modules(sysfs, "6.12.117-amd64")
        assert index is not None
        assert index.names == {"vfio_pci", "vfio", "pcieportdrv"}
        assert index.candidates(A10) == ()
        tree.write(f"{folder}/modules.alias", "alias pci:v000010DEd*sv*sd*bc03sc02i* nouveau\n")
        index = read_modules(sysfs, "6.12.117-amd64")
        assert index is not None
        assert index.candidates(A10) == ("nouveau",)


@pytest.mark.skipif(not PCI.is_dir(), reason="this machine has no PCI")
def test_this_machine_as_an_ordinary_user() -> None:
    with Sysfs() as sysfs, ordinary_user():
        assert os.geteuid() != 0
        snapshot = scan(sysfs, mdev=True)
    assert snapshot.problems == ()
    assert {str(d.address) for d in snapshot.devices} == {p.name for p in PCI.iterdir()}
    for device in snapshot.devices:
        folder = Path("/", device.path)
        assert folder.samefile(PCI / str(device.address))
        assert int((folder / "vendor").read_text(), 16) == device.vendor_id
        assert int((folder / "class").read_text(), 16) == device.class_code
        assert device.has_driver == (folder / "driver").exists()


RECORDINGS = {
    "accel-nvidia": (29, None),
    "intel-i7-1270p-iommu": (23, 15),
    "arm-pcidomain32bits": (9, None),
    "xeon-phi-nvme": (137, None),
}


@pytest.mark.skipif("VFIOHOST_RECORDINGS" not in os.environ, reason="no recordings of machines")
@pytest.mark.parametrize("name", RECORDINGS)
def test_a_real_machine_that_was_recorded(name: str, memory: Path) -> None:
    (archive,) = Path(os.environ["VFIOHOST_RECORDINGS"]).glob(f"{name}.tar.*")
    with tarfile.open(archive) as packed:
        # Some of its links are absolute. Python 3.11.2 does not know filters yet.
        filtered: dict[str, Any] = {"filter": "tar"} if hasattr(tarfile, "tar_filter") else {}
        wanted = ("sys/bus/pci/", "sys/devices/pci")
        members = [m for m in packed if any(part in m.name for part in wanted)]
        packed.extractall(memory, members, **filtered)
    (root,) = (p.parents[3] for p in memory.rglob("sys/bus/pci/devices"))
    with Sysfs(root) as sysfs:
        snapshot = scan(sysfs, mdev=True)
    assert snapshot.problems == ()
    count, groups = RECORDINGS[name]
    assert len(snapshot.devices) == count == len(list((root / BUS).iterdir()))
    assert len(snapshot.groups) == (groups or 0)
