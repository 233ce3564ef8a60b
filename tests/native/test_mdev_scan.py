"""The scan of mediated devices, their parents and what those offer, sound and hostile."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import hosts
from tests.native.trees import Lookout, Tree, fifo, folder, loop, megabyte, nul
from vfiohost import native
from vfiohost._native import ffi, lib
from vfiohost.host_view import HostView
from vfiohost.mdev_scan import MDEV_PARENTS
from vfiohost.model import (
    MdevParent,
    MdevType,
    MediatedDevice,
    PciAddress,
    Problem,
    Snapshot,
    Unavailable,
)
from vfiohost.reads import attribute, count, opened
from vfiohost.scan import scan
from vfiohost.sysfs import Sysfs

if TYPE_CHECKING:
    from collections.abc import Callable

GPU = PciAddress.parse("0000:65:00.0")
UUID = "c0ffee00-0000-4000-8000-000000000001"
MTTY = "sys/devices/virtual/mtty/mtty"
TYPES = f"{MTTY}/mdev_supported_types"
TYPE = f"{TYPES}/mtty-1"
FILES = ("name", "available_instances", "device_api", "description")


def scanned(tree: Tree, *, mdev: bool = True) -> Snapshot:
    with Sysfs(tree.root) as sysfs:
        return scan(sysfs, mdev=mdev)


def make_mdev_host(tree: Tree) -> None:
    vf = "0000:65:00.4"
    path = "sys/devices/pci0000:64/0000:65:00.4"
    (tree.function(vf) / "physfn").symlink_to("../0000:65:00.0")
    tree.function("0000:65:00.0")
    tree.link(f"sys/class/mdev_bus/{vf}", f"../../devices/pci0000:64/{vf}")
    types = f"{path}/mdev_supported_types"
    for type_id, name in (("nvidia-1000", "NVIDIA A10-24Q"), ("nvidia-595", "NVIDIA A10-8Q")):
        tree.write(f"{types}/{type_id}/name", f"{name}\n")
        tree.write(f"{types}/{type_id}/available_instances", "1\n")
        tree.write(f"{types}/{type_id}/device_api", "vfio-pci\n")
        tree.write(f"{types}/{type_id}/description", "num_heads=4, frl_config=60\n")
    device = f"{path}/{UUID}"
    tree.link(f"{device}/mdev_type", "../mdev_supported_types/nvidia-595")
    tree.link(f"{device}/driver", "../../../../bus/mdev/drivers/nvidia-vgpu-vfio")
    tree.link(f"{device}/iommu_group", "../../../../kernel/iommu_groups/77")
    tree.link(f"sys/bus/mdev/devices/{UUID}", f"../../../devices/pci0000:64/{vf}/{UUID}")
    tree.write(
        "sys/devices/virtual/mtty/mtty/mdev_supported_types/mtty-1/available_instances", "24"
    )
    tree.link("sys/class/mdev_bus/mtty", "../../devices/virtual/mtty/mtty")


def test_the_mdev_bus(tree: Tree) -> None:
    make_mdev_host(tree)
    snapshot = scanned(tree)
    assert snapshot.problems == ()
    bus = snapshot.mdev
    assert bus is not None
    parent, virtual = bus.parents
    assert (parent.name, parent.physfn, parent.address) == (
        "0000:65:00.4",
        GPU,
        PciAddress.parse("0000:65:00.4"),
    )
    assert parent.path == "sys/devices/pci0000:64/0000:65:00.4"
    description = "num_heads=4, frl_config=60"
    assert parent.types == (
        MdevType("nvidia-595", "NVIDIA A10-8Q", 1, "vfio-pci", description),
        MdevType("nvidia-1000", "NVIDIA A10-24Q", 1, "vfio-pci", description),
    )
    assert (virtual.name, virtual.address, virtual.physfn) == ("mtty", None, None)
    assert virtual.types == (MdevType("mtty-1", None, 24, None, None),)
    assert bus.devices == (
        MediatedDevice(UUID, "0000:65:00.4", "nvidia-595", "NVIDIA A10-8Q", "nvidia-vgpu-vfio", 77),
    )


def test_the_mdev_bus_is_read_only_when_asked(tree: Tree) -> None:
    make_mdev_host(tree)
    assert scanned(tree, mdev=False).mdev is None


def test_no_mdev_bus_is_an_empty_one(tree: Tree) -> None:
    snapshot = scanned(tree)
    assert snapshot.mdev is not None
    assert (snapshot.mdev.parents, snapshot.mdev.devices) == ((), ())
    assert snapshot.problems == ()


def test_the_mdev_bus_alone_is_that_of_a_scan(tree: Tree) -> None:
    make_mdev_host(tree)
    tree.link("sys/class/mdev_bus/climbs", "../../../../etc")
    tree.link("sys/bus/pci/devices/none", "nowhere")
    snapshot = scanned(tree)
    with HostView(tree.root) as host:
        bus, problems = host.mdev_bus()
    assert bus == snapshot.mdev
    assert problems == snapshot.problems[1:]
    assert [p.subject for p in snapshot.problems] == ["none", "climbs"]


def test_an_odd_mdev_hides_no_other(tree: Tree) -> None:
    make_mdev_host(tree)
    tree.link("sys/bus/mdev/devices/gone", "../../../devices/nowhere/gone")
    tree.link("sys/bus/mdev/devices/out", "/etc")
    tree.link("sys/class/mdev_bus/climbs", "../../../../etc")
    types = "sys/devices/pci0000:64/0000:65:00.4/mdev_supported_types"
    tree.write(f"{types}/nvidia-595/available_instances", "many\n")
    (tree.root / f"{types}/nvidia-595/name").unlink()
    (tree.root / f"{types}/nvidia-595/name").mkdir()
    (tree.root / f"{types}/nvidia-1000/available_instances").unlink()
    snapshot = scanned(tree)
    assert snapshot.mdev is not None
    assert [p.name for p in snapshot.mdev.parents] == ["0000:65:00.4", "mtty"]
    assert [d.uuid for d in snapshot.mdev.devices] == [UUID]
    first, second = snapshot.mdev.parents[0].types
    assert first.name is None
    assert first.available_instances == Unavailable(0, "malformed")
    assert second.available_instances == Unavailable(errno.ENOENT, "No such file or directory")
    assert {p.subject for p in snapshot.problems} == {"gone", "out", "climbs", "name"}


@pytest.mark.parametrize("type_id", ["²", "nvidia-²", "9" * 250])
def test_no_name_of_a_type_makes_an_exception(tree: Tree, type_id: str) -> None:
    make_mdev_host(tree)
    types = "sys/devices/pci0000:64/0000:65:00.4/mdev_supported_types"
    tree.write(f"{types}/{type_id}/available_instances", "1")
    snapshot = scanned(tree)
    assert snapshot.mdev is not None
    assert type_id in [t.type_id for t in snapshot.mdev.parents[0].types]


@pytest.mark.parametrize("count", ["9" * 5000, "²", "-1", "", "1 2", "0x1"])
def test_a_count_that_is_none_makes_no_exception(tree: Tree, count: str) -> None:
    make_mdev_host(tree)
    types = "sys/devices/virtual/mtty/mtty/mdev_supported_types"
    tree.write(f"{types}/mtty-1/available_instances", f"{count}\n")
    snapshot = scanned(tree)
    assert snapshot.mdev is not None
    assert snapshot.mdev.parents[1].types[0].available_instances == Unavailable(0, "malformed")


def test_an_mdev_without_a_type(tree: Tree) -> None:
    make_mdev_host(tree)
    (tree.root / f"sys/devices/pci0000:64/0000:65:00.4/{UUID}/mdev_type").unlink()
    snapshot = scanned(tree)
    assert snapshot.mdev is not None
    (device,) = snapshot.mdev.devices
    assert device.type_id == Unavailable(errno.ENOENT, "No such file or directory")
    assert device.type_name is None


def make_mtty(tree: Tree) -> Path:
    """A parent with a type whose files are as they should be; gives the type's directory."""
    for name, text in zip(FILES, ("Single port serial", "24", "vfio-pci", "one port"), strict=True):
        tree.write(f"{TYPE}/{name}", f"{text}\n")
    tree.link(f"{MDEV_PARENTS}/mtty", "../../devices/virtual/mtty/mtty")
    return tree.root / TYPE


def only(snapshot: Snapshot) -> MdevParent:
    assert snapshot.mdev is not None
    (parent,) = snapshot.mdev.parents
    return parent


def failed(number: int) -> Unavailable:
    return Unavailable(number, os.strerror(number))


def test_the_header_and_python_agree_about_the_types() -> None:
    fields = dict(ffi.typeof("struct vh_parent").fields)
    assert native._PARENT.size == fields["entries"].offset
    assert native._TYPE.size * lib.VH_PARENT_TYPES == ffi.sizeof(fields["errors"].type)


def way_out(file: Path) -> None:
    file.symlink_to("/" * 3 + os.path.relpath(__file__, "/"))


def absent(_: Path) -> None:
    pass


BROKEN = [
    (fifo, failed(errno.EAGAIN)),
    (folder, failed(errno.EISDIR)),
    (loop, failed(errno.ELOOP)),
    (megabyte, failed(errno.EFBIG)),
    (nul, Unavailable(0, "malformed")),
    (way_out, None),
    (absent, None),
]


@pytest.mark.parametrize("place", ["tmp_path", "memory"])
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(("make", "value"), BROKEN, ids=lambda x: getattr(x, "__name__", ""))
def test_a_file_that_is_none(
    request: pytest.FixtureRequest,
    place: str,
    name: str,
    make: Callable[[Path], None],
    value: Unavailable | None,
) -> None:
    tree = Tree(request.getfixturevalue(place) / "host")
    file = make_mtty(tree) / name
    file.unlink()
    make(file)
    snapshot = scanned(tree)
    (kind,) = only(snapshot).types
    sound = MdevType("mtty-1", "Single port serial", 24, "vfio-pci", "one port")
    kept = {n: getattr(kind, n) for n in FILES if n != name}
    assert kept == {n: getattr(sound, n) for n in kept}
    if name == "name":
        path = f"{TYPE}/name"
        why = [] if value is None else [Problem("name", path, f"{path}: {value}.")]
        assert (kind.name, list(snapshot.problems)) == (None, why)
    elif name == "available_instances":
        assert kind.available_instances == (value or failed(errno.ENOENT))
    else:
        assert getattr(kind, name) == value
    assert name == "name" or snapshot.problems == ()


def test_a_file_that_is_empty_or_longer_than_a_page_is_read(tree: Tree) -> None:
    type_folder = make_mtty(tree)
    (type_folder / "name").write_text("")
    (type_folder / "device_api").write_text("\n\n")
    (type_folder / "description").write_text("x" * 65535 + "\n")
    (kind,) = only(scanned(tree)).types
    assert (kind.name, kind.device_api, kind.description) == ("", "\n", "x" * 65535)


def test_links_are_followed_inside_the_root_only(tree: Tree, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "name").write_text("not to be read")
    type_folder = make_mtty(tree)
    (type_folder / "name").unlink()
    (type_folder / "name").symlink_to("/proc/sys/kernel/osrelease")
    (type_folder / "description").unlink()
    (type_folder / "description").symlink_to(outside / "name")
    tree.link(f"{TYPES}/mtty-2", f"/{TYPE}")
    tree.link(f"{TYPES}/mtty-3", str(outside))
    with Lookout(outside / "name") as lookout:
        snapshot = scanned(tree)
        assert lookout.seen() == 0
    one, two, three = only(snapshot).types
    assert (one.name, one.description) == ("6.12.117-amd64", None)
    assert (two.type_id, two.name, two.available_instances) == ("mtty-2", one.name, 24)
    assert three == MdevType("mtty-3", None, failed(errno.ENOENT), None, None)
    assert snapshot.problems == ()


def test_what_is_no_file_is_not_even_opened(tree: Tree) -> None:
    type_folder = make_mtty(tree)
    for name in FILES:
        (type_folder / name).unlink()
        os.mkfifo(type_folder / name)
    with Lookout(*(type_folder / name for name in FILES)) as lookout:
        assert only(scanned(tree)).types[0].available_instances == failed(errno.EAGAIN)
        assert lookout.seen() == 0


def test_a_file_in_the_place_of_a_type(tree: Tree) -> None:
    make_mtty(tree)
    tree.write(f"{TYPES}/stray", "")
    snapshot = scanned(tree)
    gone = failed(errno.ENOTDIR)
    assert only(snapshot).types[1] == MdevType("stray", None, gone, gone, gone)
    assert [p.path for p in snapshot.problems] == [f"{TYPES}/stray/name"]


@pytest.mark.parametrize("make", [fifo, megabyte, loop])
def test_junk_in_the_place_of_the_types(tree: Tree, make: Callable[[Path], None]) -> None:
    tree.link(f"{MDEV_PARENTS}/mtty", "../../devices/virtual/mtty/mtty")
    (tree.root / MTTY).mkdir(parents=True)
    make(tree.root / TYPES)
    snapshot = scanned(tree)
    assert only(snapshot).types == ()
    (problem,) = snapshot.problems
    assert (problem.subject, problem.path) == ("mdev_supported_types", TYPES)


def test_a_parent_without_types(tree: Tree) -> None:
    tree.link(f"{MDEV_PARENTS}/mtty", "../../devices/virtual/mtty/mtty")
    (tree.root / MTTY).mkdir(parents=True)
    snapshot = scanned(tree)
    assert only(snapshot) == MdevParent("mtty", MTTY, (), None, None)
    assert snapshot.problems == ()


def test_more_types_than_any_driver_has(tree: Tree) -> None:
    make_mtty(tree)
    for number in range(1500):
        (tree.root / TYPES / f"x{number}").mkdir()
    snapshot = scanned(tree)
    assert len(only(snapshot).types) == lib.VH_PARENT_TYPES
    (problem,) = snapshot.problems
    assert problem.path == TYPES
    assert "File too large" in problem.sentence


def test_more_text_than_any_driver_has(tree: Tree) -> None:
    make_mtty(tree)
    for number in range(40):
        for name in FILES:
            tree.write(f"{TYPES}/x{number}/{name}", "9" * 65536)
    snapshot = scanned(tree)
    assert 10 < len(only(snapshot).types) < 40
    assert [p.path for p in snapshot.problems] == [TYPES]


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("../../devices/virtual/mtty/mtty/", None),
        ("../../devices/nowhere/mtty", "its directory is gone, or its link leads nowhere."),
        ("../../devices/virtual/mtty", "its directory cannot be opened: Not a directory."),
        ("../../devices/virtual/other", "its link does not lead to a directory of that name"),
        ("../../class/mtty", "its link does not lead to a directory of that name"),
        ("../../../sys/devices/virtual/mtty/mtty", "its link does not lead to a directory of"),
        (f"/{MTTY}", "its link does not lead to a directory of that name"),
        ("../../devices/../devices/mtty", "its link does not lead to a directory of that name"),
        (f"../../devices/{'d' * 600}/mtty", "File name too long"),
    ],
)
def test_where_the_link_of_a_parent_leads(tree: Tree, target: str, why: str | None) -> None:
    if target.endswith("virtual/mtty"):
        tree.write("sys/devices/virtual/mtty", "")
    else:
        tree.write(f"{TYPE}/name", "x\n")
    tree.link(f"{MDEV_PARENTS}/mtty", target)
    snapshot = scanned(tree)
    assert snapshot.mdev is not None
    if why is None:
        assert only(snapshot).path == MTTY
        return
    (problem,) = snapshot.problems
    assert snapshot.mdev.parents == ()
    assert (problem.subject, problem.path) == ("mtty", f"{MDEV_PARENTS}/mtty")
    assert why in problem.sentence


def test_a_directory_in_the_place_of_a_parents_link(tree: Tree) -> None:
    (tree.root / MDEV_PARENTS / "mtty").mkdir(parents=True)
    assert [p.sentence for p in scanned(tree).problems] == ["mtty was left out: it is no link."]


@pytest.mark.parametrize(
    ("make", "why"), [(folder, "Invalid argument"), (loop, "malformed"), (absent, None)]
)
def test_a_physical_function_that_is_none(
    tree: Tree, make: Callable[[Path], None], why: str | None
) -> None:
    make_mtty(tree)
    make(tree.root / MTTY / "physfn")
    snapshot = scanned(tree)
    assert only(snapshot).physfn is None
    assert [p.sentence for p in snapshot.problems] == ([f"physfn of mtty: {why}."] if why else [])


def test_the_fallback_finds_the_same(memory: Path) -> None:
    hosts.make(memory, 64)
    names = os.listdir(memory / MDEV_PARENTS)
    with Sysfs(memory) as sysfs, opened(sysfs, MDEV_PARENTS, os.O_PATH) as bus:
        today = [*native.scan_parents(sysfs.fd, bus, names)]
        assert [*native.scan_parents(sysfs.fd, bus, names, fallback=True)] == today
    assert len(today) > 30
    assert {len([*native.type_rows(row.types)]) for row in today} == {len(hosts.TYPES)}


@given(st.tuples(*[st.none() | st.binary(max_size=60) for _ in FILES]))
def test_no_content_reads_otherwise_than_file_by_file(contents: tuple[bytes | None, ...]) -> None:
    with tempfile.TemporaryDirectory() as place:
        tree = Tree(Path(place))
        type_folder = make_mtty(tree)
        for file, content in zip(FILES, contents, strict=True):
            (type_folder / file).unlink()
            if content is not None:
                (type_folder / file).write_bytes(content.replace(b"\0", b"\n"))
        with Sysfs(tree.root) as sysfs:
            (kind,) = only(scan(sysfs, mdev=True)).types
            name, left, api, description = (attribute(sysfs, f"{TYPE}/{n}") for n in FILES)
    assert (kind.name, kind.device_api, kind.description) == (name, api, description)
    assert kind.available_instances == count(failed(errno.ENOENT) if left is None else left)
