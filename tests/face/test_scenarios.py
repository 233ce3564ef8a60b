"""The main jobs from end to end on simulated hosts, as text and as JSON."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.face.support import Ran, check_golden, steady
from vfiohost import testing
from vfiohost.apply.lanes import ADDRESS
from vfiohost.cli.output import Output
from vfiohost.journal import lock
from vfiohost.sysfs import Sysfs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.face.support import Maker, Runner

RTX = {
    "0000:01:00.0": "nouveau",
    "0000:01:00.1": "snd_hda_intel",
    "0000:01:00.2": "xhci_hcd",
    "0000:01:00.3": "nvidia-gpu",
}


def drivers_of(run: Runner, root: Path, selector: str) -> dict[str, Any]:
    devices = run("list", selector, "--json", root=root).value["devices"]
    return {d["address"]: d["driver"] for d in devices}


def both(run: Runner, simulated: Maker, host: str, *lines: str) -> tuple[Ran, Ran, Path]:
    """Run the same lines on two equal hosts, the last of them once as text and once as JSON."""
    roots = [simulated(host)]
    text = _run_all(run, roots[0], lines)
    if "--dry-run" not in lines[-1] and text.code == 0:
        roots.append(simulated(host))
        _run_all(run, roots[-1], lines[:-1])
    json = run(*lines[-1].split(), "--json", root=roots[-1])
    assert json.err == ""
    assert json.value["exit_code"] == text.code
    assert asked(roots[0]) == asked(roots[-1])
    return text, json, roots[0]


def _run_all(run: Runner, root: Path, lines: Sequence[str]) -> Ran:
    for line in lines[:-1]:
        assert run(*line.split(), root=root).code == 0
    return run(*lines[-1].split(), root=root) if lines else Ran(0, "", "")


def asked(root: Path) -> dict[str, list[tuple[str, str]]]:
    """What the kernel was asked for about each function, in order, without random UUIDs.

    Between functions that have nothing in common there is no order: they are asked side by side.
    """
    found: dict[str, list[tuple[str, str]]] = {}
    for answer in testing.SimulatedKernel(root).answers:
        text = steady(f"{answer.path} {answer.value}", None)
        for function in ADDRESS.findall(text) or [""]:
            found.setdefault(function, []).append((answer.verb, text))
    return found


GOLDEN_RUNS = [
    ("bind-dry-run", "a10-pair", ["bind 65:00.0 --dry-run"]),
    ("bind", "a10-pair", ["bind 65:00.0"]),
    ("bind-nouveau", "a10-pair-nouveau", ["bind 10de:2236"]),
    ("bind-again", "a10-pair", ["bind 65:00.0", "bind 65:00.0"]),
    ("bind-again-dry-run", "a10-pair", ["bind 65:00.0", "bind 65:00.0 -n --exit-code"]),
    ("bind-verbose", "a10-pair-nouveau", ["bind 65:00.0 -v"]),
    ("undo-verbose", "a10-pair-nouveau", ["bind 65:00.0", "undo -v"]),
    ("bind-quiet", "a10-pair-nouveau", ["bind 65:00.0 -q"]),
    ("bind-none", "a10-pair-nouveau", ["bind 65:00.0 --driver none"]),
    ("bind-auto", "a10-pair", ["bind 65:00.0 --driver auto"]),
    ("bind-auto-gh200", "gh200", ["bind 10de:2342 --driver auto"]),
    ("bind-l40s-vf", "l40s-vgpu", ["bind c1:00.4"]),
    ("mdev-create-t4", "t4-v100-vgpu", ["mdev create -p 3b:00.0 -t T4-4C -n 2", "mdev types"]),
    ("vgpu-types-t4", "t4-v100-vgpu", ["vgpu types 3b:00.0"]),
    ("vgpu-capacity-a10", "a10-pair-vgpu", ["vgpu create -g 65:00.0 -t A10-8Q", "vgpu capacity"]),
    ("vgpu-capacity-l40s", "l40s-vgpu", ["vgpu create -g c1:00.0 -t 1150", "vgpu capacity"]),
    ("vgpu-none", "a10-pair", ["vgpu capacity", "vgpu types 65:00.0", "vgpu list"]),
    ("vgpu-create-no-driver", "a10-pair", ["vgpu create -g 65:00.0 -t A10-8Q"]),
    ("vgpu-create-a10", "a10-pair-vgpu", ["vgpu create -g 65:00.0 -t A10-12Q -n 2", "vgpu list"]),
    (
        "vgpu-create-third",
        "a10-pair-vgpu",
        ["vgpu create -g 65:00.0 -t A10-12Q -n 2", "vgpu create -g 65:00.0 -t A10-12Q"],
    ),
    (
        "vgpu-create-other",
        "l40s-vgpu",
        ["vgpu create -g c1:00.0 -t L40S-24Q", "vgpu create -g c1:00.0 -t L40S-12Q"],
    ),
    ("vgpu-create-l40s", "l40s-vgpu", ["vgpu create -g c1:00.0 -t L40S-24Q -n 2", "vgpu list"]),
    ("vgpu-create-dry-run", "l40s-vgpu", ["vgpu create -g c1:00.0 -t 1155 --dry-run"]),
    (
        "vgpu-create-uuid-vf",
        "l40s-vgpu",
        ["vgpu create -g c1:00.0 -t 1155 -u b716be33-2f53-4a1c-9d3c-2f2a5f3e8a10"],
    ),
    ("vgpu-create-near", "t4-v100-vgpu", ["vgpu create -g 3b:00.0 -t T4-8X"]),
    (
        "vgpu-remove-l40s",
        "l40s-vgpu",
        ["vgpu create -g c1:00.0 -t 1148 -n 3", "vgpu remove c1:00.5 c1:00.4", "vgpu list", "undo"],
    ),
    ("vgpu-group-l40s", "l40s-vgpu", ["vgpu create -g c1:00.0 -t 1155", "groups 4 5 --why"]),
    ("vgpu-show-l40s", "l40s-vgpu", ["vgpu create -g c1:00.0 -t 1155", "show c1:00.4"]),
    ("vgpu-print-l40s", "l40s-vgpu", ["vgpu create -g c1:00.0 -t 1155", "print qemu c1:00.4"]),
    ("vgpu-remove-not-there", "l40s-vgpu", ["vgpu remove c1:00.5"]),
    ("bind-once", "a10-pair", ["bind 65:00.0 --once", "list 65:00.0 -o address,driver,override"]),
    ("bind-no-load", "a10-pair", ["bind 65:00.0 --no-load"]),
    ("bind-exit-code", "a10-pair", ["bind 65:00.0 -n --exit-code"]),
    ("bind-no-such-driver", "a10-pair", ["bind 65:00.0 --driver nouveaux"]),
    ("bind-bridge", "a10-pair", ["bind 64:02.0"]),
    ("bind-no-iommu", "no-iommu", ["bind class:3d"]),
    ("bind-vf", "few-vfs", ["bind 65:00.4"]),
    ("bind-pf", "few-vfs", ["bind 65:00.0"]),
    ("bind-rtx-alone", "rtx-workstation", ["bind 01:00.0"]),
    ("bind-rtx-alone-dry-run", "rtx-workstation", ["bind 01:00.0 -n"]),
    ("bind-rtx-group", "rtx-workstation", ["bind 01:00.0 --group --allow display"]),
    ("bind-keep-going", "rtx-workstation", ["bind 01:00.1 01:00.0 02:00.0 --keep-going"]),
    ("unbind", "a10-pair-nouveau", ["unbind ca:00.0"]),
    ("unbind-again", "a10-pair", ["unbind ca:00.0"]),
    ("restore", "a10-pair-nouveau", ["bind 65:00.0", "restore 65:00.0"]),
    ("restore-untouched", "a10-pair-nouveau", ["restore 65:00.0"]),
    ("restore-nothing", "a10-pair", ["restore --all"]),
    ("undo", "a10-pair-nouveau", ["bind 65:00.0", "undo"]),
    ("undo-dry-run", "a10-pair-nouveau", ["bind 65:00.0", "undo -n"]),
    ("undo-nothing", "a10-pair", ["undo"]),
    ("undo-unknown", "a10-pair", ["undo 20260101T000000.000000Z-00000000"]),
    ("recover-nothing", "a10-pair", ["recover"]),
    ("bind-owner-dry-run", "a10-pair", ["bind 65:00.0 --owner 64055:108 --mode 0660 -n"]),
    ("bind-owner-unknown", "a10-pair", ["bind 65:00.0 --owner qemu"]),
    ("bind-owner-no-vfio", "a10-pair", ["bind 65:00.0 --owner 0 --driver nouveau"]),
    ("reset", "a10-pair", ["reset 65:00.0 --method flr"]),
    ("reset-dry-run", "a10-pair", ["reset 65:00.0 --method flr -n"]),
    ("reset-fails", "a10-pair", ["reset 65:00.0 --method bus"]),
    ("reset-no-method", "a10-pair", ["reset 65:00.0 --method pm"]),
    ("reset-not-able", "a10-pair", ["reset 64:02.0"]),
    ("reset-host-driver", "a10-pair", ["reset 31:00.0"]),
    ("reset-pf", "few-vfs", ["reset 65:00.0"]),
    ("reset-undo", "a10-pair-nouveau", ["unbind 65:00.0", "reset 65:00.0 --method flr", "undo"]),
    ("probe-simulated", "a10-pair", ["bind 65:00.0", "probe 65:00.0"]),
    ("probe-dry-run", "a10-pair", ["probe class:gpu --reset -n"]),
    ("mdev-create-dry-run", "few-vfs", ["mdev create -p 65:00.4 -t A10-12Q --dry-run"]),
    ("mdev-create", "few-vfs", ["mdev create -p 65:00.0 -t A10-12Q -n 2"]),
    ("mdev-create-quiet", "mtty", ["mdev create -p mtty -t mtty-2 -q"]),
    (
        "mdev-create-third",
        "few-vfs",
        ["mdev create -p 65:00.0 -t A10-12Q -n 2", "mdev create -p 65:00.0 -t A10-12Q"],
    ),
    ("mdev-create-type-near", "few-vfs", ["mdev create -p 65:00.4 -t A10-13Q"]),
    ("mdev-list", "mtty", ["mdev create -p mtty -t mtty-1", "mdev list"]),
    ("mdev-remove-not-there", "mtty", ["mdev remove b716be33-2f53-4a1c-9d3c-2f2a5f3e8a10"]),
]


@pytest.mark.parametrize(("name", "host", "lines"), GOLDEN_RUNS, ids=[r[0] for r in GOLDEN_RUNS])
def test_what_is_printed(
    name: str, host: str, lines: list[str], run: Runner, simulated: Maker
) -> None:
    text, _json, root = both(run, simulated, host, *lines)
    check_golden(name, text, root)


def test_the_nodes_of_a_simulated_host_get_an_owner(run: Runner, simulated: Maker) -> None:
    root = simulated("a10-pair")
    me = f"{os.getuid()}:{os.getgid()}"
    words = ("bind", "65:00.0", "--owner", me, "--mode", "0660", "--json")
    report = run(*words, root=root).value["report"]
    assert report["results"][-1] == {"outcome": "done", "error": None}
    (node,) = [p for p in (root / "dev/vfio").iterdir() if p.name != "vfio"]
    assert stat.S_IMODE(node.stat().st_mode) == 0o660
    again = run(*words, root=root).value["report"]
    assert (again["writes"], again["results"][-1]["outcome"]) == (0, "already")


def test_the_node_of_a_group_gets_back_what_it_had(run: Runner, simulated: Maker) -> None:
    """It stays when one of two devices leaves the group: that does not give it back."""
    root = simulated("rtx-workstation")
    node = root / "dev/vfio/1"

    def mode() -> int:
        return stat.S_IMODE(node.stat().st_mode)

    permitted = ("--allow", "shared-group", "--allow", "display")
    assert run("bind", "01:00.1", *permitted, "--mode", "0640", root=root).code == 0
    assert run("bind", "01:00.0", *permitted, "--mode", "0666", root=root).code == 0
    assert mode() == 0o666
    dry = run("undo", "-n", root=root).out
    assert f"do    chmod 0640 {node}" in dry
    assert f"undo  chmod 0666 {node}" in dry
    assert run("undo", root=root).code == 0
    assert mode() == 0o640
    undone = run("undo", "--json", root=root).value
    outcomes = [result["outcome"] for result in undone["report"]["results"]]
    assert (outcomes[-1], set(outcomes[:-1])) == ("already", {"done"})  # the node is gone
    assert not node.exists()


def test_a_later_failure_gives_the_node_back(run: Runner, simulated: Maker) -> None:
    root = simulated("a10-pair")
    devices = ("65:00.0", "ca:00.0")
    bound = run("bind", *devices, "--json", root=root).value["devices"]
    first, second = (Path(f"{root}{device['node']}") for device in bound)
    second.unlink()
    ran = run("bind", *devices, "--mode", "0666", root=root)
    assert ran.code == 1
    assert "No node of 0000:ca:00.0 appeared" in ran.err
    assert "What was done before was taken back" in ran.err
    assert stat.S_IMODE(first.stat().st_mode) == 0o600


def test_a_reset_waits_no_longer_than_it_may(run: Runner, simulated: Maker) -> None:
    root = simulated("a10-pair")
    run("bind", "65:00.0", root=root)
    kernel = testing.SimulatedKernel(root)
    kernel.delay("*/0000:65:00.0/reset", 60.0)
    ran = run("reset", "65:00.0", "--method", "flr", "--timeout", "0.2", root=root)
    assert ran.code == 6
    assert "reset" in ran.err


def test_an_rtx_card_goes_to_a_guest_and_comes_back(run: Runner, simulated: Maker) -> None:
    root = simulated("rtx-workstation")
    kernel = testing.SimulatedKernel(root)

    alone = run("bind", "01:00.0", root=root)
    assert alone.code == 4
    for sibling, driver in list(RTX.items())[1:]:
        assert f"{sibling} on {driver}" in alone.err
    assert "boot_vga" in alone.err
    reasons = run("bind", "01:00.0", "--json", root=root).value["error"]["refusals"]
    assert {r["code"] for r in reasons} == {"boot-vga", "group-not-viable"}
    assert kernel.answers == ()

    ran = run("bind", "01:00.0", "--group", "--allow", "display", "--json", root=root)
    bound = ran.value["devices"]
    assert {d["address"]: d["driver_before"] for d in bound} == RTX
    assert {d["driver"] for d in bound} == {"vfio-pci"}
    assert {d["node"] for d in bound} == {"/dev/vfio/1"}
    assert run("groups", "1", "--json", root=root).value["groups"][0]["viable"] is True

    stores = len(kernel.answers)
    again = run("bind", "01:00.0", "--group", "--allow", "display", root=root)
    assert (again.code, again.out.count("already bound to vfio-pci")) == (0, 4)
    assert len(kernel.answers) == stores

    assert run("restore", "01:00.*", "--json", root=root).value["report"]["writes"] > 0
    assert drivers_of(run, root, "01:00.*") == RTX
    overrides = run("list", "01:00.*", "-o", "+override", "--json", root=root).value["devices"]
    assert {d["driver_override"] for d in overrides} == {None}


def test_the_a10_host_from_list_to_the_third_vgpu(run: Runner, simulated: Maker) -> None:
    root = simulated("a10-pair-vgpu")
    listed = run("list", "65:00.0", "ca:00.0", "--json", root=root).value["devices"]
    assert [(d["num_vfs"], d["total_vfs"], d["driver"]) for d in listed] == [(32, 32, "nvidia")] * 2

    create = ["mdev", "create", "-p", "65:00.0", "-t", "NVIDIA A10-12Q"]
    made = run(*create, "-n", "2", "--json", root=root).value["mdevs"]
    assert [(m["type_id"], m["type_name"]) for m in made] == [("nvidia-596", "NVIDIA A10-12Q")] * 2
    assert all(m["node"] == f"/dev/vfio/{m['iommu_group']}" for m in made)
    parents = {m["parent"] for m in made}
    types = run("mdev", "types", "-p", made[0]["parent"], "--json", root=root).value["parents"]
    assert {t["available_instances"] for t in types[0]["types"]} == {0}

    third = run(*create, root=root)
    assert third.code == 4
    assert "room for 0 more NVIDIA A10-12Q" in third.err
    assert "ca:00.0" in third.err
    assert len(run("mdev", "list", "--json", root=root).value["mdevs"]) == 2

    uuids = [m["uuid"] for m in made]
    removed = run("mdev", "remove", *uuids, root=root)
    assert removed.out == "".join(f"{u}  removed\n" for u in uuids)
    assert run("mdev", "list", "--json", root=root).value["mdevs"] == []
    assert run(*create, "-u", uuids[0].upper(), root=root).out.startswith(uuids[0])
    assert len(parents) == 2


def test_an_attribute_that_is_refused_takes_the_device_back(run: Runner, simulated: Maker) -> None:
    root = simulated("mtty")
    testing.SimulatedKernel(root).refuse("*/nonsense", 22)
    ran = run("mdev", "create", "-p", "mtty", "-t", "mtty-1", "--attr", "nonsense=1", root=root)
    assert ran.code == 1
    assert "nonsense" in ran.err
    assert "undone" in ran.err
    assert run("mdev", "list", "--json", root=root).value["mdevs"] == []


def test_an_attribute_that_is_not_there_is_named_once(run: Runner, simulated: Maker) -> None:
    for name in ("nope", "nvidia/vgpu_params"):
        root = simulated("mtty")
        ran = run("mdev", "create", "-p", "mtty", "-t", "mtty-1", "--attr", f"{name}=1", root=root)
        assert ran.code == 1
        assert ran.err.count("ENOENT") == 1
        assert ran.err.count(f"The mediated device has no attribute {name}: ") == 1


def test_a_dry_run_leaves_no_trace(run: Runner, simulated: Maker) -> None:
    root = simulated("a10-pair-nouveau")

    def files() -> dict[str, bytes | None]:
        return {str(p): p.read_bytes() if p.is_file() else None for p in root.rglob("*")}

    before = files()
    for line in (
        "bind 65:00.0 -n",
        "unbind 65:00.0 -n",
        "restore 65:00.0 -n",
        "restore --all --dry-run",
        "bind 01:01.0 -n",
        "mdev create -p mtty -t x --dry-run",
        "recover -n",
        "list -n",
    ):
        assert run(*line.split(), root=root).code in (0, 3, 4)
    assert files() == before


def test_once_binds_and_leaves_no_override(run: Runner, simulated: Maker) -> None:
    root = simulated("a10-pair-nouveau")
    assert run("bind", "65:00.0", "--once", root=root).code == 0
    listed = run("list", "65:00.0", "-o", "+override", "--json", root=root).value["devices"][0]
    assert (listed["driver"], listed["driver_override"]) == ("vfio-pci", None)


def test_undo_goes_back_plan_by_plan(run: Runner, simulated: Maker) -> None:
    root = simulated("a10-pair-nouveau")
    first = run("bind", "65:00.0", "--json", root=root).value["report"]["journal_id"]
    second = run("bind", "ca:00.0", "--json", root=root).value["report"]["journal_id"]
    assert run("undo", "--json", root=root).value["journal_id"] == second
    assert drivers_of(run, root, "10de:2236") == {
        "0000:65:00.0": "vfio-pci",
        "0000:ca:00.0": "nouveau",
    }
    assert run("undo", first, "--json", root=root).value["journal_id"] == first
    assert set(drivers_of(run, root, "10de:2236").values()) == {"nouveau"}
    assert run("undo", root=root).code == 3


def test_what_a_killed_run_left_is_recovered(run: Runner, simulated: Maker) -> None:
    root = simulated("a10-pair-nouveau")
    assert run("bind", "65:00.0", root=root).code == 0
    journal = next((root / "var/lib/vfiohost/journal").iterdir())
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:-1]))  # killed before the journal was closed

    refused = run("bind", "ca:00.0", root=root)
    assert refused.code == 1
    assert f"`vfiohost --root {root} recover`" in refused.err
    dry = run("recover", "-n", "--exit-code", "--json", root=root)
    assert dry.code == 10
    (would,) = dry.value["recoveries"]
    assert (would["outcome"], len(would["commands"])) == ("recovered", 3)
    assert drivers_of(run, root, "65:00.0") == {"0000:65:00.0": "vfio-pci"}
    with Sysfs(root) as sysfs, lock(sysfs, purpose="bind 65:00.0"):  # it may be that one's work
        busy = run("recover", "-n", "--timeout", "0.1", root=root)
    assert (busy.code, busy.out) == (8, "")
    ran = run("recover", "--json", root=root)
    assert [r["outcome"] for r in ran.value["recoveries"]] == ["recovered"]
    assert run("recover", "-n", "--exit-code", root=root).code == 0
    assert drivers_of(run, root, "65:00.0") == {"0000:65:00.0": "nouveau"}
    assert run("recover", root=root).out == "nothing to recover\n"


def test_a_damaged_journal_that_has_ended_is_told_and_blocks_nobody(
    run: Runner, simulated: Maker
) -> None:
    root = simulated("a10-pair-nouveau")
    assert run("bind", "65:00.0", root=root).code == 0
    journal = next((root / "var/lib/vfiohost/journal").iterdir())
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join([lines[0], "nonsense\n", *lines[2:]]))
    assert run("bind", "ca:00.0", root=root).code == 0
    for options in ((), ("-n", "--exit-code")):
        told = run("recover", *options, root=root)
        assert (told.code, str(journal) in told.out) == (1, True)
    for words in (("restore", "65:00.0"), ("restore", "--all")):
        dry = run(*words, "-n", root=root)
        assert "warning: What devices had before may stand in a journal that is" in dry.out
    journal.unlink()
    assert run("recover", root=root).out == "nothing to recover\n"


def test_keep_going_dry_run_shows_each_plan(run: Runner, simulated: Maker) -> None:
    root = simulated("rtx-workstation")
    words = ["bind", "01:00.0", "02:00.0", "--keep-going", "-n"]
    ran = run(*words, "--exit-code", root=root)
    assert ran.code == 4
    assert "bind 0000:01:00.0: 4 steps" in ran.out
    assert "bind 0000:02:00.0: 4 steps" in ran.out
    assert ran.err.startswith("vfiohost: 0000:01:00.0: refused: ")
    runs = run(*words, "--json", root=root).value["runs"]
    assert [r["exit_code"] for r in runs] == [4, 0]
    assert all(len(r["plan"]["steps"]) == 4 for r in runs)
    only = run("bind", "02:00.0", "--keep-going", "-n", "--exit-code", "--json", root=root)
    assert only.value["runs"][0]["exit_code"] == 10
    assert asked(root) == {}


def test_what_cannot_be_recovered_names_the_commands(run: Runner, simulated: Maker) -> None:
    root = simulated("a10-pair-nouveau")
    assert run("bind", "65:00.0", root=root).code == 0
    journal = next((root / "var/lib/vfiohost/journal").iterdir())
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:-1]))
    testing.SimulatedKernel(root).refuse("*/drivers/nouveau/bind", errno.EBUSY)
    ran = run("recover", root=root)
    assert ran.code == 7
    assert ran.out.startswith("half-way: ")
    command = f"printf %s 0000:65:00.0 > {root}/sys/bus/pci/drivers/nouveau/bind"
    assert ran.out.splitlines()[1:] == [f"  {command}"]


def test_an_advised_command_is_about_the_same_host(run: Runner, simulated: Maker) -> None:
    root = simulated("few-vfs")
    create = ["mdev", "create", "-p", "65:00.4", "-t", "A10-12Q"]
    uuid = run(*create, "--json", root=root).value["mdevs"][0]["uuid"]
    again = [*create, "-u", uuid]
    command = f"`vfiohost --root {root} mdev remove {uuid}`"
    assert command in run(*again, root=root).err
    refusals = run(*again, "--json", root=root).value["error"]["refusals"]
    assert any(command in refusal["remedy"] for refusal in refusals)


def test_an_advised_command_quotes_the_root(capsys: pytest.CaptureFixture[str]) -> None:
    said = "Run `vfiohost recover`, see `vfiohost bind --help`, or `vfiohost sim` another."
    output = Output(json=False)
    output.lines([said])
    assert capsys.readouterr().out == f"{said}\n"
    output.root = 'a "b'
    output.lines([said])
    rooted = said.replace("vfiohost recover", "vfiohost --root 'a \"b' recover")
    assert capsys.readouterr().out == f"{rooted}\n"
    output.value({"said": said})
    assert json.loads(capsys.readouterr().out)["said"] == rooted
