"""Trees that no kernel makes: they cost a problem, never another device, a hang or a way out."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.deadline import deadline
from tests.native.trees import (
    A10,
    BUS,
    Lookout,
    Tree,
    fifo,
    folder,
    loop,
    megabyte,
    nul,
    ordinary_user,
)
from vfiohost.details_scan import with_details
from vfiohost.errors import KernelError
from vfiohost.model import PciAddress, PciDevice, Snapshot, Unavailable
from vfiohost.scan import scan
from vfiohost.sysfs import Sysfs

if TYPE_CHECKING:
    from collections.abc import Callable

GOOD = "0000:01:00.0"
BAD = "0000:65:00.0"
MALFORMED = Unavailable(0, "malformed")


def scanned(tree: Tree) -> Snapshot:
    """Scan a host with one sound function and whatever else; the sound one must be found."""
    if not (tree.root / BUS / GOOD).is_symlink():
        tree.function(GOOD, bridge="pci0000:00")
    with Sysfs(tree.root) as sysfs, deadline(60):
        snapshot = scan(sysfs, mdev=True)
    assert PciAddress.parse(GOOD) in snapshot.pci
    return snapshot


def bad(snapshot: Snapshot) -> PciDevice:
    return snapshot.pci[PciAddress.parse(BAD)]


def left_out(tree: Tree) -> str:
    """The one problem of a host whose bad function could not be listed."""
    snapshot = scanned(tree)
    assert [str(d.address) for d in snapshot.devices] == [GOOD]
    (problem,) = snapshot.problems
    assert problem.path == f"{BUS}/{problem.subject}"
    return problem.sentence


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A complete function outside the root: nobody may as much as open a file of it."""
    folder = tmp_path / "outside" / BAD
    folder.mkdir(parents=True)
    (folder / "modalias").write_text(f"{A10}\n")
    (folder / "revision").write_text("0xee\n")
    os.mkfifo(folder / "numa_node")
    return folder


@pytest.mark.parametrize("how", ["absolute", "climbing", "root's own"])
def test_a_link_that_leads_out_is_not_followed(tree: Tree, outside: Path, how: str) -> None:
    target = {
        "absolute": str(outside),
        "climbing": os.path.relpath(outside, tree.root / BUS),
        "root's own": f"../../../../../../../../../../..{outside}",
    }[how]
    tree.link(f"{BUS}/{BAD}", target)
    with Lookout(outside, *outside.iterdir()) as lookout:
        assert left_out(tree) == (
            f"{BAD} was left out: its link does not lead to a directory of that name "
            "below sys/devices."
        )
        assert lookout.seen() == 0


def test_a_directory_on_the_way_may_not_lead_out_either(tree: Tree, outside: Path) -> None:
    tree.link("sys/devices/pci0000:64", str(outside.parent))
    tree.link(f"{BUS}/{BAD}", f"../../../devices/pci0000:64/{BAD}")
    with Lookout(outside, *outside.iterdir()) as lookout:
        assert "its directory is gone, or its link leads nowhere" in left_out(tree)
        assert lookout.seen() == 0


def test_an_attribute_that_is_a_link_is_not_followed(tree: Tree, outside: Path) -> None:
    folder = tree.function(BAD)
    (folder / "revision").unlink()
    (folder / "revision").symlink_to(outside / "revision")
    (folder / "sriov_totalvfs").symlink_to("numa_node")
    with Lookout(outside, *outside.iterdir()) as lookout:
        snapshot = scanned(tree)
        assert lookout.seen() == 0
    loop = Unavailable(errno.ELOOP, os.strerror(errno.ELOOP))
    assert (bad(snapshot).revision, bad(snapshot).total_vfs) == (loop, loop)
    assert {p.path for p in snapshot.problems} == {
        f"{BUS}/{BAD}/revision",
        f"{BUS}/{BAD}/sriov_totalvfs",
    }


def test_links_of_a_function_are_names_and_are_not_followed(tree: Tree, outside: Path) -> None:
    folder = tree.function(BAD)
    (folder / "driver").symlink_to(outside.parent)
    (folder / "iommu_group").symlink_to(f"{outside}/8")
    with Lookout(outside, *outside.iterdir()) as lookout:
        device = bad(scanned(tree))
        assert lookout.seen() == 0
    assert (device.driver, device.iommu_group) == ("outside", 8)


FIELDS = {
    "revision": "revision",
    "numa_node": "numa_node",
    "sriov_totalvfs": "total_vfs",
}

LOCKED = Unavailable(0, "device locked")


def empty(file: Path) -> None:
    file.touch()


def no_utf8(file: Path) -> None:
    file.write_bytes(b"\xff\xfe\n")


def words(file: Path) -> None:
    file.write_text("0x\n")


def large(file: Path) -> None:
    file.write_text("99999999999999999999\n")


def of_errno(number: int) -> Unavailable:
    return Unavailable(number, os.strerror(number))


THINGS = [
    (fifo, of_errno(errno.EINVAL)),
    (folder, of_errno(errno.EISDIR)),
    (megabyte, of_errno(errno.EFBIG)),
    (empty, MALFORMED),
    (no_utf8, MALFORMED),
    (nul, MALFORMED),
    (words, MALFORMED),
    (large, MALFORMED),
]


@pytest.mark.parametrize(("make", "value"), THINGS, ids=lambda x: getattr(x, "__name__", ""))
@pytest.mark.parametrize("name", FIELDS)
def test_what_is_no_number_is_unavailable(
    tree: Tree, name: str, make: Callable[[Path], None], value: Unavailable
) -> None:
    file = tree.function(BAD) / name
    file.unlink(missing_ok=True)
    make(file)
    snapshot = scanned(tree)
    assert getattr(bad(snapshot), FIELDS[name]) == value
    (problem,) = snapshot.problems
    assert (problem.subject, problem.path) == (BAD, f"{BUS}/{BAD}/{name}")
    assert problem.sentence == f"{name} of {BAD}: {value.why}."
    others = {f for f in FIELDS.values() if f != FIELDS[name]} | {"driver", "physfn"}
    assert not any(isinstance(getattr(bad(snapshot), f), Unavailable) for f in others)


@pytest.mark.parametrize(("make", "value"), THINGS, ids=lambda x: getattr(x, "__name__", ""))
def test_without_a_sound_modalias_the_ids_are_from_elsewhere(
    tree: Tree, make: Callable[[Path], None], value: Unavailable
) -> None:
    files = {"vendor": "0x10de\n", "device": "0x2236\n", "class": "0x030200\n"}
    file = tree.function(BAD, modalias=None, **files) / "modalias"
    make(file)
    snapshot = scanned(tree)
    assert bad(snapshot).ids == "10de:2236"
    (problem,) = snapshot.problems
    assert problem.sentence == f"modalias of {BAD}: {value.why}; its ids are from elsewhere."


@pytest.mark.parametrize(("make", "value"), THINGS, ids=lambda x: getattr(x, "__name__", ""))
def test_without_any_ids_a_function_is_left_out(
    tree: Tree, make: Callable[[Path], None], value: Unavailable
) -> None:
    files = {"device": "0x2236\n", "class": "0x030200\n"}
    make(tree.function(BAD, modalias=None, **files) / "vendor")
    assert left_out(tree) == (
        f"{BAD} was left out: vendor, device and class cannot be read: {value.why}."
    )


def test_a_fifo_that_somebody_writes_to_is_no_attribute_either(tree: Tree) -> None:
    file = tree.function(BAD) / "sriov_totalvfs"
    os.mkfifo(file)
    writer = os.open(file, os.O_RDWR | os.O_NONBLOCK)
    try:
        device = bad(scanned(tree))
        assert device.total_vfs == of_errno(errno.EINVAL)
        # What is wrong with one file changes nothing about those that are not there.
        assert (device.driver, device.iommu_group, device.physfn) == (None, None, None)
    finally:
        os.close(writer)


def test_what_is_no_file_is_not_even_opened(tree: Tree) -> None:
    """Opening a device's node may do something: that of a watchdog starts the watchdog."""
    folder = tree.function(BAD)
    attributes = ("sriov_totalvfs", "subsystem_vendor", "driver_override", "boot_vga", "uevent")
    fifos = [folder / name for name in attributes]
    for file in fifos:
        os.mkfifo(file)
    (folder / "modalias").unlink()
    for name, text in (("vendor", "0x10de"), ("device", "0x2236"), ("class", "0x030000")):
        (folder / name).write_text(text)
    with Lookout(*fifos) as lookout, Sysfs(tree.root) as sysfs:
        snapshot = with_details(sysfs, scanned(tree), [PciAddress.parse(BAD)], timeout=20)
        with pytest.raises(KernelError):
            sysfs.read_bytes(f"{BUS}/{BAD}/uevent")
        assert lookout.seen() == 0
    (details,) = snapshot.details.values()
    assert details.boot_vga == LOCKED
    assert bad(snapshot).total_vfs == of_errno(errno.EINVAL)


@pytest.mark.parametrize("name", ["driver", "iommu_group", "physfn"])
def test_a_file_in_the_place_of_a_link(tree: Tree, name: str) -> None:
    (tree.function(BAD) / name).write_text("nouveau")
    snapshot = scanned(tree)
    assert getattr(bad(snapshot), name) == of_errno(errno.EINVAL)
    assert [p.path for p in snapshot.problems] == [f"{BUS}/{BAD}/{name}"]


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("driver", "../drivers/.."),
        ("driver", "."),
        ("driver", "drivers/"),
        ("driver", "x" * 256),
        ("iommu_group", "../groups/eight"),
        ("iommu_group", "../groups/-1"),
        ("iommu_group", "../groups/0x8"),
        ("iommu_group", "../groups/99999999999"),
        ("physfn", "../0000:65:00.8"),
        ("physfn", "../65:00.0"),
        ("physfn", "../0000:65:00.0 "),
    ],
)
def test_a_link_to_what_makes_no_sense(tree: Tree, name: str, target: str) -> None:
    (tree.function(BAD) / name).symlink_to(target)
    snapshot = scanned(tree)
    assert getattr(bad(snapshot), name) == MALFORMED
    assert [p.sentence for p in snapshot.problems] == [f"{name} of {BAD}: malformed."]


def test_a_driver_whose_name_is_no_utf8(tree: Tree) -> None:
    (tree.function(BAD) / "driver").symlink_to(os.fsdecode(b"../drivers/\xff"))
    assert bad(scanned(tree)).driver == "\\xff"


def test_a_function_that_vanishes_between_listing_and_opening(tree: Tree) -> None:
    tree.link(f"{BUS}/{BAD}", f"../../../devices/pci0000:64/{BAD}")
    assert left_out(tree) == (
        f"{BAD} was left out: its directory is gone, or its link leads nowhere."
    )


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("../../../devices/pci0000:64/0000:65:00.1", "does not lead to a directory of that name"),
        (f"../../../devices/../devices/{BAD}", "does not lead to a directory of that name"),
        (f"../../../devices/./{BAD}", "does not lead to a directory of that name"),
        (f"../../../class/{BAD}", "does not lead to a directory of that name"),
        (BAD, "does not lead to a directory of that name"),
        (f"../../../devices/loop/{BAD}", "Too many levels of symbolic links"),
        (f"../../../devices/file/{BAD}", "Not a directory"),
        (f"../../../devices/{'d' * 600}/{BAD}", "File name too long"),
    ],
)
def test_a_link_to_nothing_sensible(tree: Tree, target: str, why: str) -> None:
    tree.function("0000:65:00.1")
    tree.link("sys/devices/loop", "loop")
    tree.write("sys/devices/file", "")
    tree.link(f"{BUS}/{BAD}", target)
    snapshot = scanned(tree)
    assert {str(d.address) for d in snapshot.devices} == {GOOD, "0000:65:00.1"}
    (problem,) = snapshot.problems
    assert problem.subject == BAD
    assert why in problem.sentence


def test_a_function_that_is_no_directory(tree: Tree) -> None:
    tree.write(f"sys/devices/pci0000:64/{BAD}", "")
    tree.link(f"{BUS}/{BAD}", f"../../../devices/pci0000:64/{BAD}")
    assert "Not a directory" in left_out(tree)


def test_a_directory_in_the_place_of_the_buss_link(tree: Tree) -> None:
    tree.write(f"{BUS}/{BAD}/modalias", f"{A10}\n")
    assert left_out(tree) == f"{BAD} was left out: it is no link."


@pytest.mark.parametrize(
    "name",
    [
        "0000:65:00.8",
        "0000:65:20.0",
        "0000:65:00.A",
        "0000:6B:00.0",
        "00000:65:00.0",
        "65:00.0",
        "0000:65:00",
        "0000:65:00.0.0",
        "123456789:65:00.0",
        "none",
        " ",
        "x" * 255,
        os.fsdecode(b"\xff\xfe"),
    ],
)
def test_a_name_that_is_no_address(tree: Tree, name: str) -> None:
    tree.link(f"{BUS}/{name}", f"../../../devices/pci0000:64/{name}")
    assert left_out(tree).endswith("among the PCI devices is no PCI address.")


@pytest.mark.parametrize("junk", ["", "0000:00:00.0-"])
def test_thousands_of_junk_entries(memory: Path, junk: str) -> None:
    tree = Tree(memory)
    for number in range(5000):
        (memory / BUS / f"{junk}{number}").touch()
    snapshot = scanned(tree)
    assert len(snapshot.devices) == 1
    assert len(snapshot.problems) == 5000


def test_junk_in_the_place_of_the_bus(tmp_path: Path) -> None:
    for number, make in enumerate((fifo, megabyte, loop)):
        bus = tmp_path / str(number) / BUS
        bus.parent.mkdir(parents=True)
        make(bus)
        with Sysfs(tmp_path / str(number)) as sysfs:
            snapshot = scan(sysfs)
        assert snapshot.devices == ()
        assert [p.path for p in snapshot.problems] == [BUS]


def test_junk_in_the_place_of_the_drivers_and_the_kernel(tree: Tree) -> None:
    (tree.root / "sys/bus/pci/drivers").rmdir()
    tree.write("sys/bus/pci/drivers", "")
    release = tree.root / "proc/sys/kernel/osrelease"
    release.unlink()
    os.mkfifo(release)
    snapshot = scanned(tree)
    assert snapshot.kernel is None
    assert {p.subject for p in snapshot.problems} == {"drivers", "kernel"}


def test_a_directory_that_may_not_be_entered(tree: Tree) -> None:
    tree.function(GOOD)
    tree.function(BAD).chmod(0)
    (tree.function("0000:66:00.0") / "revision").chmod(0)
    with Sysfs(tree.root) as sysfs, ordinary_user():
        snapshot = scan(sysfs)
    assert [str(d.address) for d in snapshot.devices] == [GOOD, "0000:66:00.0"]
    assert snapshot.devices[1].revision == of_errno(errno.EACCES)
    assert sorted(p.sentence for p in snapshot.problems) == [
        f"{BAD} was left out: vendor, device and class cannot be read: Permission denied.",
        "revision of 0000:66:00.0: Permission denied.",
    ]


def test_details_of_hostile_attributes(tree: Tree, outside: Path) -> None:
    folder = tree.function(BAD, boot_vga="1\n")
    os.mkfifo(folder / "uevent")
    (folder / "driver_override").symlink_to(outside / "revision")
    with Lookout(outside, *outside.iterdir()) as lookout, Sysfs(tree.root) as sysfs:
        snapshot = with_details(sysfs, scanned(tree), [PciAddress.parse(BAD)], timeout=20)
        assert lookout.seen() == 0
    (details,) = snapshot.details.values()
    assert details.uevent_driver == LOCKED
    assert details.driver_override == of_errno(errno.ENOENT)  # the root has no such path
    assert details.boot_vga is True


CONTENT: st.SearchStrategy[Any] = st.one_of(
    st.binary(max_size=200),
    st.sampled_from([A10, A10[:-1], f"{A10} ", A10.replace("v0", "v1"), "0x10de", "-1", "-2"]).map(
        str.encode
    ),
)


@given(st.dictionaries(st.sampled_from(["modalias", "vendor", *FIELDS]), CONTENT), st.binary())
def test_no_content_of_files_and_links_makes_an_exception(
    files: dict[str, bytes], link: bytes
) -> None:
    with tempfile.TemporaryDirectory() as place:
        tree = Tree(Path(place))
        folder = tree.function(BAD)
        for name, content in files.items():
            (folder / name).write_bytes(content)
        target = link.replace(b"\0", b"").strip() or b"x"
        for name in ("driver", "iommu_group", "physfn"):
            (folder / name).symlink_to(os.fsdecode(target[:1000]))
        snapshot = scanned(tree)
    unavailable = [v for d in snapshot.devices for v in fields_of(d) if isinstance(v, Unavailable)]
    if len(snapshot.devices) == 2:
        assert len(snapshot.problems) - len(unavailable) in (0, 1)
    else:
        assert len(snapshot.problems) == 1


def fields_of(device: PciDevice) -> list[object]:
    return [getattr(device, field.name) for field in attrs.fields(PciDevice)]
