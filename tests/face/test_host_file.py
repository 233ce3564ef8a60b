"""``vfiohost diff``, ``plan``, ``apply`` and ``export``: a whole host in one file."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from tests.face.support import check_golden
from vfiohost.testing import SimulatedKernel

if TYPE_CHECKING:
    from pathlib import Path

    from tests.face.support import Maker, Runner

FIRST = "path:pci0000:64/02.0/00.0"
A10S = f"""\
version = 1

[[device]]
select = "{FIRST}"       # the first card is for guests
ids = "10de:2236:10de:1482"
driver = "vfio-pci"

[[device]]
select = "ca:00.0"
ids = "10de:2236"
driver = "native"
"""
UUID = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001"
BOTH = 'version = 1\n\n[[device]]\nselect = "10de:2236"\ncount = 2\ndriver = "vfio-pci"\n'


@pytest.fixture
def root(simulated: Maker) -> Path:
    return simulated("a10-pair-nouveau")


def say(root: Path, text: str) -> Path:
    """Put a host file in its place."""
    file = root / "etc/vfiohost/host.toml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def mdev(parent: str, kind: str = "mtty-1") -> str:
    return f'\n[[mdev]]\nuuid = "{UUID}"\nparent = "{parent}"\ntype = "{kind}"\n'


@pytest.mark.parametrize("verb", ["diff", "plan", "apply"])
def test_output(run: Runner, root: Path, verb: str) -> None:
    say(root, A10S)
    check_golden(f"host-file-{verb}", run(verb, root=root), root)
    assert run(verb, "--json", root=root).value["command"] == verb


def test_drift_is_shown_and_healed(run: Runner, root: Path) -> None:
    say(root, BOTH)
    assert run("diff", root=root).code == 10
    assert run("apply", root=root).code == 0
    assert run("diff", root=root).code == 0
    assert run("restore", "ca:00.0", root=root).code == 0
    drift = run("diff", "--json", root=root)
    assert [d["subject"] for d in drift.value["differences"]] == ["0000:ca:00.0"]
    before = len(SimulatedKernel(root).answers)
    applied = run("apply", root=root)
    assert "done: bind 0000:65:00.0 0000:ca:00.0" in applied.out
    stores = [a.path for a in SimulatedKernel(root).answers[before:] if a.verb == "store"]
    assert stores
    assert not any("0000:65:00.0" in path for path in stores)  # it was right already
    assert run("diff", root=root).code == 0


def test_a_device_that_was_taken_from_its_own_driver_has_drifted(run: Runner, root: Path) -> None:
    bare = 'version = 1\n[[device]]\nselect = "{}"\nids = "{}"\ndriver = "native"\n'
    say(root, bare.format("ca:00.0", "10de:2236"))
    assert run("diff", root=root).code == 0
    assert run("unbind", "ca:00.0", root=root).code == 0
    (drift,) = run("diff", "--json", root=root).value["differences"]
    assert (drift["subject"], drift["what"]) == ("0000:ca:00.0", "driver")
    assert (drift["found"], drift["wanted"]) == ("no driver", "native")
    assert run("apply", root=root).code == 0
    assert drivers(run, root, "ca:00.0") == ["nouveau"]
    assert run("diff", root=root).code == 0
    say(root, bare.format("00:00.0", "8086:29c0"))  # no driver is known that would take this one
    assert run("diff", root=root).code == 0


def test_a_second_apply_writes_nothing(run: Runner, root: Path) -> None:
    say(root, BOTH)
    run("apply", root=root)
    before = len(SimulatedKernel(root).answers)
    ran = run("apply", root=root)
    assert ran.out == "nothing to do: the host is so already\n"
    assert len(SimulatedKernel(root).answers) == before
    assert run("plan", "--exit-code", root=root).code == 0


VFS = """\
version = 1

[[device]]
select = "17:00.0"
ids = "1b36:0010"
driver = "native"
vfs = 2
vf-driver = "vfio-pci"

[[device]]
select = "path:pci0000:64/02.0/00.0"
driver = "vfio-pci"
"""


def test_virtual_functions(run: Runner, root: Path) -> None:
    say(root, VFS)
    assert run("apply", root=root).code == 0
    assert run("diff", root=root).code == 0
    (pf,) = run("vf", "list", "17:00.0", "--json", root=root).value["physical_functions"]
    assert [vf["driver"] for vf in pf["virtual_functions"]] == ["vfio-pci", "vfio-pci"]
    say(root, run("export", root=root).out)
    assert run("diff", root=root).code == 0
    assert "vfs = 2" in (root / "etc/vfiohost/host.toml").read_text()
    run("restore", "17:00.2", root=root)
    drift = run("diff", root=root)
    assert "0000:17:00.2  vf-driver" in drift.out
    assert run("apply", root=root).code == 0
    assert run("diff", root=root).code == 0


def test_virtual_functions_go_back_to_their_own_driver(run: Runner, root: Path) -> None:
    say(root, VFS)
    assert run("apply", root=root).code == 0
    say(root, VFS.replace('vf-driver = "vfio-pci"', 'vf-driver = "native"'))
    assert run("diff", root=root).code == 10
    assert run("apply", root=root).code == 0
    assert run("diff", root=root).code == 0
    assert run("apply", root=root).out == "nothing to do: the host is so already\n"
    (pf,) = run("vf", "list", "17:00.0", "--json", root=root).value["physical_functions"]
    assert [vf["driver"] for vf in pf["virtual_functions"]] == ["nvme", "nvme"]
    run("unbind", "17:00.2", root=root)
    drift = run("diff", root=root)
    assert drift.out.splitlines()[1].split()[:4] == ["0000:17:00.2", "vf-driver", "no", "driver"]
    assert run("apply", root=root).code == 0
    assert run("diff", root=root).code == 0


def test_virtual_functions_that_no_driver_may_have(run: Runner, root: Path) -> None:
    say(root, VFS.replace('vf-driver = "vfio-pci"', 'vf-driver = "none"'))
    assert run("apply", root=root).code == 0
    exported = run("export", root=root).out
    assert 'vf-driver = "none"' in exported
    say(root, exported)
    assert run("diff", root=root).code == 0
    assert run("restore", "17:00.2", root=root).code == 0
    assert "0000:17:00.2  vf-driver" in run("diff", root=root).out
    assert "vf-driver" not in run("export", root=root).out  # they differ


def test_another_number_of_virtual_functions_is_refused(run: Runner, root: Path) -> None:
    say(root, VFS)
    assert run("apply", root=root).code == 0
    say(root, VFS.replace("vfs = 2", "vfs = 3"))
    ran = run("apply", root=root)
    assert ran.code == 4
    assert "[vfs-exist]" in ran.err


def test_virtual_functions_go_when_a_later_stage_fails(run: Runner, root: Path) -> None:
    say(root, VFS)
    SimulatedKernel(root).refuse("*/0000:65:00.0/driver_override", errno.EIO)
    ran = run("apply", root=root)
    assert ran.code == 1
    assert "What was done before it was taken back: vf set 0000:17:00.0." in ran.err
    (pf,) = run("vf", "list", "17:00.0", "--json", root=root).value["physical_functions"]
    assert pf["virtual_functions"] == []


def test_a_dry_run_writes_nothing_and_can_say_that_it_would(run: Runner, root: Path) -> None:
    say(root, BOTH)
    assert run("apply", "-n", "--exit-code", root=root).code == 10
    assert run("plan", root=root).out == run("apply", "-n", root=root).out
    assert not SimulatedKernel(root).answers


def test_a_failure_takes_everything_back(run: Runner, root: Path) -> None:
    text = BOTH.replace("10de:2236", "0000:ca:00.0").replace("count = 2", 'ids = "10de:2236"')
    say(root, text + f'[[device]]\nselect = "{FIRST}"\ndriver = "none"\n')
    SimulatedKernel(root).refuse("*/0000:65:00.0/driver_override", errno.EIO)
    ran = run("apply", root=root)
    assert ran.code == 1
    assert "What was done before it was taken back: bind 0000:ca:00.0." in ran.err
    devices = run("list", "10de:2236", "--json", root=root).value["devices"]
    assert [device["driver"] for device in devices] == ["nouveau", "nouveau"]


def test_a_device_in_use_is_left_alone_and_named(run: Runner, simulated: Maker) -> None:
    root = simulated("in-use")
    say(root, 'version = 1\n[[device]]\nselect = "class:nvme"\ndriver = "vfio-pci"\n')
    ran = run("apply", root=root)
    assert ran.code == 4
    assert "[storage]" in ran.err or "in-use" in ran.err


def test_a_file_elsewhere(run: Runner, root: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(A10S)
    assert run("diff", "-f", str(file), root=root).code == 10
    file.write_text(A10S.replace("native", 7 * "x" + "/"))
    ran = run("diff", "-f", str(file), root=root)
    assert ran.code == 2
    assert f"{file}: [[device]] 2 (ca:00.0): driver" in ran.err
    assert run("diff", "-f", str(tmp_path / "none"), root=root).code == 1


def test_nodes_of_others_have_drifted(run: Runner, root: Path) -> None:
    me = f"{os.getuid()}:{os.getgid()}"
    say(root, f'{BOTH}owner = "{me}"\nmode = "0660"\n')
    assert run("apply", root=root).code == 0
    assert run("diff", root=root).code == 0
    nodes = [each for each in (root / "dev/vfio").iterdir() if each.name.isdecimal()]
    nodes[0].chmod(0o600)
    (drift,) = run("diff", "--json", root=root).value["differences"]
    assert (drift["what"], drift["found"], drift["wanted"]) == ("mode", "0600", "0660")
    assert run("apply", root=root).code == 0
    assert run("diff", root=root).code == 0
    say(root, f'{BOTH}owner = "12345:{os.getgid()}"\n')
    drift = run("diff", "--json", root=root).value["differences"]
    assert [(d["what"], d["found"]) for d in drift] == [("owner", me)] * 2


def test_no_host_file(run: Runner, root: Path) -> None:
    ran = run("diff", root=root)
    assert ran.code == 3
    assert "vfiohost --root" in ran.err


def test_a_host_file_that_is_a_link_out_of_the_root(
    run: Runner, root: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.toml").write_text(A10S)
    (root / "etc/vfiohost").mkdir(parents=True)
    (root / "etc/vfiohost/host.toml").symlink_to(tmp_path / "mine.toml")
    assert run("diff", root=root).code != 10


def test_an_export_is_the_host(run: Runner, root: Path) -> None:
    run("bind", "65:00.0", root=root)
    exported = run("export", root=root)
    check_golden("host-file-export", exported, root)
    say(root, exported.out)
    assert run("diff", root=root).code == 0
    assert run("export", "--json", root=root).value["host_file"]["devices"] == 1


def test_an_export_replaces_nothing_unasked(run: Runner, root: Path, tmp_path: Path) -> None:
    file = tmp_path / "host.toml"
    assert run("export", str(file), root=root).code == 0
    assert run("export", str(file), root=root).code == 4
    assert run("export", str(file), "--overwrite", root=root).code == 0
    assert file.read_text() == "version = 1\n"


def test_an_update_keeps_the_comments(run: Runner, root: Path) -> None:
    file = say(root, A10S)
    assert run("bind", "10de:2236", root=root).code == 0
    dry = run("export", str(file), "--update", "-n", root=root)
    assert dry.out.startswith("would write")
    assert file.read_text() == A10S
    assert run("export", str(file), "--update", root=root).code == 0
    assert "# the first card is for guests" in file.read_text()
    assert run("diff", root=root).code == 0


@pytest.mark.parametrize("selector", ["10de:2236", "class:3d"])
def test_an_update_keeps_what_a_person_wrote(run: Runner, root: Path, selector: str) -> None:
    text = f"""\
version = 1

# All A10s are for guests.
[[device]]
select = "{selector}"  # whatever the slot
count = 2
driver = "vfio-pci"
owner = "root:root"
mode = "0660"

# It must not sleep.
[[device]]
select = "17:00.0"
ids = "1b36:0010"
power = "on"
"""
    file = say(root, text)
    assert run("apply", root=root).code == 0
    assert run("export", str(file), "--update", root=root).code == 0
    assert file.read_text() == text
    assert run("vf", "set", "17:00.0", "2", root=root).code == 0
    assert run("export", str(file), "--update", root=root).code == 0
    assert file.read_text() == text + "vfs = 2\n"
    assert run("diff", root=root).code == 0


def test_an_update_keeps_vgpus_as_they_are_said(run: Runner, simulated: Maker) -> None:
    root = simulated("a10-pair-vgpu")
    text = f"version = 1  # mine\n{mdev('65:00.4', 'nvidia-591')}# the end\n"
    file = say(root, text)
    assert run("apply", root=root).code == 0
    assert run("export", str(file), "--update", root=root).code == 0
    made = file.read_text()
    assert made.startswith(text)
    assert "vgpus" not in made
    assert run("diff", root=root).code == 0
    file.write_text(VGPUS)
    assert run("apply", root=root).code == 0
    file.write_text(VGPUS.replace('"A10-12Q"', '"A10-8Q"').replace("}", "}  # for all", 1))
    assert run("export", str(file), "--update", root=root).code == 0
    assert file.read_text() == VGPUS.replace("}", "}  # for all", 1)


@pytest.mark.parametrize(
    "text",
    [
        b"version = 1\n# caf\xe9\n",
        b'version = 1\n[device]\nselect = "10de:2236"\n',
        b'version = 1\ndevice = "x"\n',
        b"version = 2\n",
        b"version = 1\n" + b"#\n" * (1 << 19),
    ],
)
def test_an_update_of_no_host_file(run: Runner, root: Path, tmp_path: Path, text: bytes) -> None:
    file = tmp_path / "host.toml"
    file.write_bytes(text)
    ran = run("export", str(file), "--update", root=root)
    assert (ran.code, ran.out) == (2, "")
    assert str(file) in ran.err
    assert file.read_bytes() == text


def test_a_file_that_is_too_large(run: Runner, root: Path, tmp_path: Path) -> None:
    file = tmp_path / "host.toml"
    file.write_text("version = 1\n" + "#\n" * (1 << 19) + A10S.partition("\n")[2])
    ran = run("diff", "-f", str(file), root=root)
    assert ran.code == 2
    assert "It is larger than" in ran.err


def test_an_update_says_whether_it_would_change_anything(run: Runner, root: Path) -> None:
    file = say(root, A10S)
    dry = ("export", str(file), "--update", "-n", "--exit-code")
    assert run("bind", "65:00.0", root=root).code == 0
    same = run(*dry, root=root)
    assert (same.code, same.out) == (0, f"nothing to do: {file} says so already\n")
    assert run("bind", "ca:00.0", root=root).code == 0
    assert run(*dry, root=root).code == 10
    assert run(*dry[:-1], root=root).code == 0
    assert run("export", f"{file}.new", "-n", "--exit-code", root=root).code == 10


def test_an_update_of_nothing(run: Runner, root: Path, tmp_path: Path) -> None:
    assert run("export", str(tmp_path / "none.toml"), "--update", root=root).code == 1


def test_a_second_lock_is_waited_for(run: Runner, root: Path) -> None:
    say(root, BOTH)
    from vfiohost import Host  # noqa: PLC0415 - for this test alone

    with Host(root, kernel=SimulatedKernel(root)) as other, other.locked("a test"):
        ran = run("apply", "--timeout", "0.2", root=root)
    assert ran.code == 8


def drivers(run: Runner, root: Path, selector: str) -> list[str | None]:
    return [d["driver"] for d in run("list", selector, "--json", root=root).value["devices"]]


def test_modes_of_vgpu_hosts(run: Runner, simulated: Maker) -> None:
    root = simulated("a10-pair-vgpu")
    check_golden("mode-dry-run", run("mode", "vm-passthrough", "-n", root=root), root)
    assert run("mode", "vm-passthrough", root=root).code == 0
    assert drivers(run, root, "10de:2236") == ["vfio-pci", "vfio-pci"]
    assert run("mode", "vm-vgpu", "65:00.0", root=root).code == 0  # one card carries vGPUs …
    assert drivers(run, root, "10de:2236") == ["nvidia"] * 33 + ["vfio-pci"]  # … the other is away
    assert run("mode", "container", root=root).code == 0
    assert drivers(run, root, "10de:2236") == ["nvidia", "nvidia"]
    assert run("mode", "container", root=root).out == "nothing to do: the host is so already\n"


def test_a_mode_says_why_a_device_has_no_driver(run: Runner, simulated: Maker) -> None:
    root = simulated("a10-pair")
    for words in (("mode", "container"), ("mode", "container", "-n")):
        ran = run(*words, root=root)
        assert ran.code == 0
        assert ran.out.startswith("note: 0000:65:00.0 gets no driver, unless one that is loaded")
        assert ran.out.endswith("nothing to do: the host is so already\n")
    assert run("mode", "container", "-q", root=root).out == ""


def test_a_mode_takes_the_whole_card(run: Runner, simulated: Maker) -> None:
    root = simulated("rtx-workstation")
    assert run("mode", "vm-passthrough", root=root).code == 4
    ran = run("mode", "vm-passthrough", "--allow", "display,console", root=root)
    assert ran.code == 0, ran.err
    assert drivers(run, root, "01:00.*") == ["vfio-pci"] * 4
    assert run("mode", "container", "01:00.0", root=root).code == 0
    assert drivers(run, root, "01:00.*")[:2] == ["nouveau", "snd_hda_intel"]


def test_switches_only_when_they_are_wanted(run: Runner, simulated: Maker) -> None:
    root = simulated("hgx-h100")
    assert run("mode", "vm-passthrough", root=root).code == 0
    assert "vfio-pci" not in drivers(run, root, "class:0680")
    assert run("mode", "vm-passthrough", "--nvswitch", root=root).code == 0
    assert drivers(run, root, "class:0680") == ["vfio-pci"] * 4


def test_a_mode_without_a_gpu(run: Runner, simulated: Maker) -> None:
    assert run("mode", "container", root=simulated("mtty")).code == 3
    assert run("mode", "vgpu", root=simulated("mtty")).code == 2


VGPUS = """\
version = 1

[[device]]
select = "path:pci0000:64/02.0/00.0"
ids = "10de:2236:10de:1482"
driver = "native"
vfs = "all"
vgpus = { "A10-12Q" = 2 }

[[device]]
select = "path:pci0000:c9/02.0/00.0"
ids = "10de:2236:10de:1482"
driver = "native"
vfs = "all"
vgpus = { "A10-12Q" = 2 }
"""


def vgpus(run: Runner, root: Path) -> list[tuple[str, str]]:
    value = run("vgpu", "list", "--json", root=root).value
    return [(vgpu["gpu"], vgpu["type_name"]) for vgpu in value["vgpus"]]


def test_vgpus_of_the_page(run: Runner, simulated: Maker) -> None:
    root = simulated("a10-pair-vgpu")
    assert run("mode", "container", root=root).code == 0  # no virtual functions yet
    for kind, number in (("A10-12Q", 2), ("A10-4Q", 6), ("A10-8Q", 3)):
        say(root, VGPUS.replace('"A10-12Q" = 2', f'"{kind}" = {number}'))
        ran = run("apply", root=root)
        assert ran.code == 0, ran.err
        assert [name for _, name in vgpus(run, root)] == [f"NVIDIA {kind}"] * 2 * number
        assert run("diff", root=root).code == 0
    over = VGPUS.replace('"A10-12Q" = 2', '"A10-8Q" = 4')
    say(root, over)
    before = vgpus(run, root)
    ran = run("apply", root=root)
    assert (ran.code, vgpus(run, root)) == (4, before)
    assert "[no-room]" in ran.err


def test_drift_of_vgpus(run: Runner, simulated: Maker) -> None:
    root = simulated("a10-pair-vgpu")
    say(root, VGPUS)
    assert run("apply", root=root).code == 0
    value = run("vgpu", "list", "--json", root=root).value
    uuid, *others = (vgpu["name"] for vgpu in value["vgpus"])
    assert run("vgpu", "remove", uuid, root=root).code == 0
    check_golden("host-file-diff-vgpus", run("diff", root=root), root)
    assert run("apply", root=root).code == 0
    now = run("vgpu", "list", "--json", root=root).value["vgpus"]
    assert set(others) < {vgpu["name"] for vgpu in now}  # those that were right are the same ones
    say(root, run("export", root=root).out)
    check_golden("host-file-export-vgpus", run("export", root=root), root)
    assert run("diff", root=root).code == 0


def test_one_card_whole_and_the_other_in_parts(run: Runner, simulated: Maker) -> None:
    root = simulated("a10-pair-vgpu")
    say(root, VGPUS)
    assert run("apply", root=root).code == 0
    first, second = VGPUS.rsplit("[[device]]", 1)
    whole = second.replace('"native"', '"vfio-pci"').replace('"all"', "0")
    say(root, f"{first}[[device]]{whole.partition('{')[0]}{{}}")
    check_golden("host-file-plan-one-whole", run("plan", root=root), root)
    ran = run("apply", root=root)
    assert ran.code == 0, ran.err
    assert vgpus(run, root) == [("0000:65:00.0", "NVIDIA A10-12Q")] * 2
    assert drivers(run, root, "ca:00.*") == ["vfio-pci"]
    assert run("diff", root=root).code == 0


def test_a_gpu_without_mediated_devices(run: Runner, simulated: Maker) -> None:
    root = simulated("l40s-vgpu")
    say(root, 'version = 1\n[[device]]\nselect = "class:gpu"\nvgpus = { "L40S-24Q" = 2 }\n')
    ran = run("apply", root=root)
    assert ran.code == 0, ran.err
    assert [name for _, name in vgpus(run, root)] == ["NVIDIA L40S-24Q"] * 2
    assert run("diff", root=root).code == 0


@pytest.mark.parametrize("verb", ["plan", "apply"])
def test_a_parent_that_may_be_several_devices(run: Runner, root: Path, verb: str) -> None:
    say(root, A10S + mdev("10de:2236"))
    ran = run(verb, root=root)
    assert ran.code == 2
    assert f"[[mdev]] 1 ({UUID}): parent: '10de:2236' hits 2 things" in ran.err
    assert drivers(run, root, "10de:2236") == ["nouveau", "nouveau"]


OTHER_UUID = UUID.replace("1001", "1002")


def test_a_mediated_device_on_another_parent(run: Runner, simulated: Maker) -> None:
    root = simulated("a10-pair-vgpu")
    made = run("mdev", "create", "-p65:00.4", "-tnvidia-591", f"-u{UUID}", root=root)
    assert made.code == 0, made.err
    for parent in ("0000:65:00.4", "65:00.0", "path:pci0000:64/02.0/00.0"):
        say(root, "version = 1\n" + mdev(parent, "nvidia-591"))
        assert run("diff", root=root).code == 0, parent
    for parent in ("0000:ca:00.4", "65:00.5", "mtty"):
        say(root, "version = 1\n" + mdev(parent, "nvidia-591"))
        (drift,) = run("diff", "--json", root=root).value["differences"]
        assert (drift["what"], drift["found"]) == ("parent", "0000:65:00.4")
        assert drift["wanted"] == parent
        ran = run("apply", root=root)
        assert ran.code == 4
        assert "[uuid-exists]" in ran.err
        assert f"as nvidia-591 on 0000:65:00.4, and the file says nvidia-591 on {parent}" in ran.err


def test_a_parent_that_is_not_there(run: Runner, root: Path) -> None:
    say(root, A10S + mdev("mtty") + mdev("65:00.0").replace(UUID, OTHER_UUID))
    drift = run("diff", "--json", root=root).value["differences"]
    assert [d["wanted"] for d in drift if d["what"] == "parent"] == ["mtty", "65:00.0"]
    for verb in ("plan", "apply"):
        ran = run(verb, root=root)
        assert (ran.code, ran.out) == (4, "")
        assert f"refused: /etc/vfiohost/host.toml: [[mdev]] 1 ({UUID}): There is no" in ran.err
        assert ran.err.count("[not-there]") == 2
        assert f"[[mdev]] 2 ({OTHER_UUID})" in ran.err
    assert not SimulatedKernel(root).answers


def test_a_parent_that_comes_is_waited_for(
    run: Runner, simulated: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = simulated("mtty")
    say(root, "version = 1\n" + mdev("mtty"))
    parent = root / "sys/class/mdev_bus/mtty"
    target = parent.readlink()
    parent.unlink()

    def load(_: float) -> None:
        if not parent.is_symlink():
            parent.symlink_to(target)

    monkeypatch.setattr("time.sleep", load)
    ran = run("apply", "--wait", "20", root=root)
    assert ran.code == 0, ran.err
    assert run("diff", root=root).code == 0


def test_a_parent_that_the_file_makes(run: Runner, simulated: Maker) -> None:
    root = simulated("a10-pair-vgpu")
    assert run("mode", "container", root=root).code == 0  # no virtual functions
    device = '[[device]]\nselect = "65:00.0"\nids = "10de:2236"\ndriver = "native"\n'
    say(root, f"version = 1\n{device}{mdev('65:00.4', 'nvidia-591')}")
    assert run("apply", root=root).code == 4
    say(root, f'version = 1\n{device}vfs = "all"\n{mdev("65:00.4", "nvidia-591")}')
    assert run("plan", root=root).code == 0
    ran = run("apply", root=root)
    assert ran.code == 0, ran.err
    assert run("diff", root=root).code == 0


CARD = '\n[[device]]\nselect = "{}"\nids = "{}"\ndriver = "{}"\n'


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        (CARD.format("ca:00.0", "10de:2236", "vfio-pcix"), 4, "[missing-driver]"),
        (CARD.format("ca:00.0", "10de:2236", "vfio-pci") + 'owner = "nobody-here"', 3, "user"),
        (CARD.format("64:02.0", "1b36:000c", "none"), 4, "[bridge]"),
    ],
)
def test_a_plan_says_what_will_be_refused(
    run: Runner, root: Path, more: str, code: int, said: str
) -> None:
    bound = CARD.format("65:00.0", "10de:2236", "vfio-pci")
    say(root, f"version = 1\n{bound}{more}\n")
    for argv in (["plan"], ["apply", "-n"], ["apply"]):
        ran = run(*argv, root=root)
        assert (ran.code, said in ran.err) == (code, True), ran
