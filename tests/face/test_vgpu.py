"""Every ``vgpu`` verb over all three ways in which GPUs make vGPUs."""

from __future__ import annotations

import uuid
from collections import Counter
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.face.support import check_golden
from vfiohost.testing import SimulatedKernel

if TYPE_CHECKING:
    from pathlib import Path

    from tests.face.support import Maker, Ran, Runner


class Way(NamedTuple):
    """A host, one of its GPUs, and two of the types of that."""

    host: str
    gpu: str
    half: str
    quarter: str


WAYS = {
    "mdev-pf": Way("t4-v100-vgpu", "0000:3b:00.0", "T4-8Q", "T4-4Q"),
    "mdev-vf": Way("a10-pair-vgpu", "0000:65:00.0", "A10-12Q", "A10-6Q"),
    "vfio-vf": Way("l40s-vgpu", "0000:c1:00.0", "L40S-24Q", "L40S-12Q"),
}
UUID = "b716be33-2f53-4a1c-9d3c-2f2a5f3e8a10"


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(autouse=True)
def uuids_that_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mediated devices are sorted as they are made, and as their groups are numbered."""
    numbers = count(1)
    monkeypatch.setattr("uuid.uuid4", lambda: uuid.UUID(int=next(numbers) << 96, version=4))


@pytest.fixture
def root(way: str, simulated: Maker) -> Path:
    return simulated(WAYS[way].host)


def held(run: Runner, root: Path) -> Counter[str]:
    found = run("vgpu", "list", "--json", root=root).value["vgpus"]
    return Counter(str(each["type_name"]).partition(" ")[2] for each in found)


def names(run: Runner, root: Path) -> list[str]:
    return [v["name"] for v in run("vgpu", "list", "--json", root=root).value["vgpus"]]


def create(run: Runner, root: Path, gpu: str, kind: str, number: int = 1) -> Ran:
    return run("vgpu", "create", "-g", gpu, "-t", kind, "-n", str(number), root=root)


def apply(run: Runner, root: Path, tmp_path: Path, counts: dict[str, int], *words: str) -> Ran:
    """Have the first GPU of the host get these vGPUs."""
    file = tmp_path / "gpus.yaml"
    file.write_text(
        "version: v1\nvgpu-configs:\n"
        f"  wanted: [{{devices: [0], vgpu-devices: {counts}}}]\n".replace("'", "")
    )
    return run("vgpu", "apply", "-f", str(file), *words, root=root)


def check(verb: str, way: str, ran: Ran, root: Path) -> None:
    check_golden(f"vgpu-{way}-{verb}", ran, root)


def test_the_types_of_a_gpu(run: Runner, root: Path, way: str) -> None:
    check("types", way, run("vgpu", "types", WAYS[way].gpu, root=root), root)


def test_the_room_of_an_empty_gpu_and_of_one_that_has_some(
    run: Runner, root: Path, way: str
) -> None:
    _, gpu, half, quarter = WAYS[way]
    check("capacity", way, run("vgpu", "capacity", gpu, root=root), root)
    assert create(run, root, gpu, quarter).code == 0
    check("capacity-some", way, run("vgpu", "capacity", gpu, root=root), root)
    (value,) = run("vgpu", "capacity", gpu, "--json", root=root).value["gpus"]
    found = {t["name"].partition(" ")[2]: t for t in value["types"]}
    assert (value["backend"], value["mixed"]) == (way, False)
    assert [found[quarter][key] for key in ("existing", "remaining", "remaining_for_sure")] == [
        1,
        3,
        3,
    ]
    assert (found[half]["remaining"], found[half]["doubt"]) == (0, None)


def test_vgpus_are_created_listed_and_removed(run: Runner, root: Path, way: str) -> None:
    _, gpu, half, _ = WAYS[way]
    check("list-none", way, run("vgpu", "list", root=root), root)
    check("create", way, create(run, root, gpu, half, 2), root)
    check("list", way, run("vgpu", "list", gpu, root=root), root)
    first, second = names(run, root)
    check("remove", way, run("vgpu", "remove", first, root=root), root)
    assert names(run, root) == [second]
    assert run("undo", root=root).code == 0
    assert names(run, root) == [first, second]


def test_what_does_not_fit_is_refused(run: Runner, root: Path, way: str) -> None:
    _, gpu, half, quarter = WAYS[way]
    assert create(run, root, gpu, half, 2).code == 0
    before = names(run, root)
    check("full", way, create(run, root, gpu, half), root)
    check("other-type", way, create(run, root, gpu, quarter), root)
    assert names(run, root) == before


def test_what_makes_no_sense_changes_nothing(run: Runner, root: Path, way: str) -> None:
    _, gpu, half, _ = WAYS[way]
    asked = ("vgpu", "create", "-g", gpu, "-t")
    check("no-such-type", way, run(*asked, half[:-1] + "X", root=root), root)
    assert run(*asked, half, "-n", "0", root=root).code == 2
    assert run("vgpu", "create", "-g", "ff:00.0", "-t", half, root=root).code == 3
    check("no-such-vgpu", way, run("vgpu", "remove", UUID, root=root), root)
    ran = run(*asked, half, "-u", UUID, root=root)
    assert (ran.code, names(run, root)) == ((2, []) if way == "vfio-vf" else (0, [UUID]))
    again = run(*asked, half, "-u", UUID, root=root)
    if way != "vfio-vf":
        assert (again.code, "[uuid-exists]" in again.err) == (4, True)


def test_a_vgpu_that_a_guest_has_stays(run: Runner, root: Path, way: str, tmp_path: Path) -> None:
    _, gpu, half, quarter = WAYS[way]
    assert create(run, root, gpu, half, 2).code == 0
    first, second = names(run, root)
    kernel = SimulatedKernel(root)
    opened = kernel.open_device if way == "vfio-vf" else kernel.open_mdev
    with opened(second, pid=4711):
        check("in-use", way, run("vgpu", "remove", second, root=root), root)
        assert apply(run, root, tmp_path, {quarter: 4}).code == 4
        assert names(run, root) == [first, second]
        assert apply(run, root, tmp_path, {half: 1}).code == 0
        assert names(run, root) == [second]


def test_two_types_on_an_empty_gpu_are_tried_and_taken_back(
    run: Runner, root: Path, way: str, tmp_path: Path
) -> None:
    """Whether it takes them does not show before."""
    _, _, half, quarter = WAYS[way]
    mixed = {half: 1, quarter: 2}
    shown = apply(run, root, tmp_path, mixed, "--dry-run")
    assert (shown.code, "[room-unknown]" in shown.out) == (0, True)
    check("mixed", way, apply(run, root, tmp_path, mixed), root)
    assert names(run, root) == []


def test_nothing_goes_for_what_may_not_fit(
    run: Runner, root: Path, way: str, tmp_path: Path
) -> None:
    _, gpu, half, quarter = WAYS[way]
    assert create(run, root, gpu, half, 2).code == 0
    before = names(run, root)
    mixed = {half: 1, quarter: 2}
    refused = apply(run, root, tmp_path, mixed)
    if "[no-room]" in refused.err:
        pytest.fail("a full GPU does not show that it takes one type")
    check("mixed-refused", way, refused, root)
    ran = apply(run, root, tmp_path, mixed, "--allow", "room-unknown")
    assert (ran.code, names(run, root)) == (1, before)


def test_a_gpu_that_takes_several_types_gets_them(
    run: Runner, simulated: Maker, tmp_path: Path
) -> None:
    root, way = simulated("l40s-vgpu"), WAYS["vfio-vf"]
    SimulatedKernel(root).set_vgpu_heterogeneous_mode(way.gpu)
    assert apply(run, root, tmp_path, {way.half: 1, way.quarter: 1}).code == 0
    assert held(run, root) == {way.half: 1, way.quarter: 1}
    check("capacity-mixed", "vfio-vf", run("vgpu", "capacity", way.gpu, root=root), root)
    (value,) = run("vgpu", "capacity", way.gpu, "--json", root=root).value["gpus"]
    (most,) = [t for t in value["types"] if t["name"].endswith("-4Q")]
    assert value["mixed"] is True
    assert (most["remaining_for_sure"], most["remaining"]) == (1, 3)
    assert "only its driver knows" in most["doubt"]
    tried = create(run, root, way.gpu, "L40S-4Q", 3)
    assert (tried.code, "[room-unknown]" in tried.err) == (0, True)


FILE = """\
<vgpuconfig>
  <vgpuType id="1155" name="NVIDIA L40S-24Q" class="Quadro">
    <profileSize>0x600000000</profileSize>
  </vgpuType>
  <vgpuType id="9001" name="NVIDIA L40S-Future" class="Quadro">
    <profileSize>0x200000000</profileSize>
  </vgpuType>
  <pgpu>
    <devId vendorId="0x10de" deviceId="0x26B9" subsystemVendorId="0x10de" subsystemId="0x0"/>
    <supportedVgpu vgpuId="1155"><maxVgpus>2</maxVgpus></supportedVgpu>
    <supportedVgpu vgpuId="9001"><maxVgpus>5</maxVgpus></supportedVgpu>
  </pgpu>
</vgpuconfig>
"""


def test_the_drivers_file_tells_what_the_kernel_does_not(run: Runner, simulated: Maker) -> None:
    root = simulated("l40s-vgpu")
    file = root / "usr/share/nvidia/vgpu/vgpuConfig.xml"
    file.parent.mkdir(parents=True)
    file.write_text(FILE)
    (gpu,) = run("vgpu", "types", "--json", root=root).value["gpus"]
    told = {
        t["type_id"]: (t["name"], t["framebuffer_mib"], t["max_instances"]) for t in gpu["types"]
    }
    assert told["1155"] == ("NVIDIA L40S-24Q", 24576, 2)
    assert told["9001"] == ("NVIDIA L40S-Future", 8192, 5)
    file.write_text("<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]><vgpuconfig>&b;")
    (gpu,) = run("vgpu", "types", "--json", root=root).value["gpus"]
    assert "9001" not in {t["type_id"] for t in gpu["types"]}
