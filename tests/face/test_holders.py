"""``vfiohost holders``, and what is refused because somebody uses it."""

from __future__ import annotations

import re
import shutil
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from tests.face.in_use import A10S, NIC, NVME
from tests.face.support import check_golden
from vfiohost import testing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.face.support import Maker, Ran, Runner

VF = "0000:65:00.4"
UUIDS = tuple(f"83b8f4f2-509f-382f-3c1e-e6bfe0fa100{number}" for number in (1, 2))

DEVICES = [("vgpus", A10S[0]), ("daemon", A10S[1]), ("nvme", NVME), ("nic", NIC)]


@pytest.fixture
def server(run: Runner, simulated: Maker) -> Iterator[Path]:
    """A server in use, with two vGPUs on its first GPU; a guest runs on one of them."""
    root = simulated("in-use")
    for uuid in UUIDS:
        create = ("mdev", "create", "-p", A10S[0], "-t", "A10-12Q", "-u", uuid)
        assert run(*create, root=root).code == 0
    with ExitStack() as stack:
        kernel = testing.SimulatedKernel(root)
        command = ("qemu-system-x86_64", "-name", "cad-3")
        stack.enter_context(kernel.open_mdev(UUIDS[0], pid=4711, command=command))
        yield root


def refusals(ran: Ran) -> list[dict[str, Any]]:
    assert ran.code == 4
    found: list[dict[str, Any]] = ran.value["error"]["refusals"]
    return found


@pytest.mark.parametrize(("name", "device"), [*DEVICES, ("mdev", UUIDS[0])])
def test_who_uses_what(run: Runner, server: Path, name: str, device: str) -> None:
    check_golden(f"holders-{name}", run("holders", device, root=server), server)
    check_golden(f"holders-{name}-json", told := run("holders", device, "--json", root=server))
    assert told.value["uses"]


def test_one_look_is_enough_for_several(run: Runner, server: Path) -> None:
    one = run("holders", NVME, "--json", root=server).value["uses"]
    other = run("holders", NIC, "--json", root=server).value["uses"]
    assert run("holders", NVME, NIC, "--json", root=server).value["uses"] == one + other


def test_nobody_uses_it(run: Runner, simulated: Maker) -> None:
    ran = run("holders", "65:00.0", root=simulated("a10-pair"))
    assert (ran.code, ran.out, ran.err) == (0, "", "vfiohost: Nobody uses what was asked for.\n")


def test_a_recording_does_not_say_nobody(run: Runner, recorded: Maker) -> None:
    ran = run("holders", "65:00.0", root=recorded("a10-pair"))
    assert (ran.code, ran.out) == (0, "")
    assert ran.err.startswith("vfiohost: No use was found.\nvfiohost: incomplete: Process 1 is not")


def test_what_is_not_there(run: Runner, simulated: Maker) -> None:
    root = simulated("a10-pair")
    assert run("holders", "66:00.0", root=root).code == 3
    assert run("holders", UUIDS[0], root=root).code == 3
    assert run("holders", root=root).code == 2


@pytest.mark.parametrize(("name", "device"), DEVICES)
def test_what_is_in_use_is_refused(run: Runner, server: Path, name: str, device: str) -> None:
    before = run("list", root=server).out
    check_golden(f"bind-in-use-{name}", run("bind", device, root=server), server)
    for refusal in refusals(run("bind", device, "--json", root=server)):
        assert refusal["code"] != "in-use" or refusal["via"].startswith(("/proc/", "/sys/"))
    assert run("list", root=server).out == before


def test_each_word_permits_its_own_kind_alone(run: Runner, server: Path) -> None:
    words = ("console", "display", "network", "shared-group", "storage", "vfio-user", "vgpu")
    others = [word for word in words if word != "network"]
    asked = ("unbind", NIC, "--json")
    assert len(refusals(run(*asked, "--allow", ",".join(others), root=server))) == 2
    assert run(*asked, "--allow", "network", root=server).code == 0
    kinds = [r["kind"] for r in refusals(run("bind", NVME, "--json", root=server))]
    assert kinds == ["root-disk", "swap", "block-holder", "mount"]
    permitted = run("bind", NVME, "--json", "--allow", "storage", root=server)
    assert [r["kind"] for r in refusals(permitted)] == ["root-disk"]


def test_a_vgpu_in_use_is_not_removed(run: Runner, server: Path) -> None:
    check_golden("mdev-remove-in-use", run("mdev", "remove", UUIDS[0], root=server), server)
    (refusal,) = refusals(run("mdev", "remove", *UUIDS, "--json", root=server))
    assert (refusal["kind"], refusal["subject"]) == ("vfio-user", UUIDS[0])
    assert refusal["via"].startswith("/proc/4711/fd/")
    assert run("undo", root=server).code == 0  # the second one, which nobody uses
    (refusal,) = refusals(run("undo", "--json", root=server))
    assert (refusal["kind"], refusal["subject"]) == ("vfio-user", UUIDS[0])
    anyway = ("mdev", "remove", UUIDS[0], "--allow", "vfio-user", "--timeout", "0.2")
    assert run(*anyway, root=server).code == 6


def cut_off(root: Path) -> str:
    """Make the last plan look like one of a killed run; the journal's id."""
    journal = max((root / "var/lib/vfiohost/journal").iterdir())
    lines = journal.read_text().splitlines(keepends=True)
    lines[0] = re.sub(r'"pid": \d+', '"pid": 4321', lines[0])
    journal.write_text("".join(lines[:-1]))
    return journal.stem


def test_what_a_killed_run_left_is_not_taken_from_a_guest(run: Runner, simulated: Maker) -> None:
    root = simulated("a10-pair-nouveau")
    assert run("bind", "65:00.0", root=root).code == 0
    journal_id = cut_off(root)
    kernel = testing.SimulatedKernel(root)
    stores = len(kernel.stores)
    check_golden("recover-dry-run", run("recover", "-n", root=root), root)
    with kernel.open_device("0000:65:00.0", pid=4242):
        check_golden("recover-in-use", run("recover", root=root), root)
        (recovery,) = run("recover", "--json", root=root).value["recoveries"]
        assert recovery["outcome"] == "in-use"
        (would,) = run("recover", "-n", "--json", root=root).value["recoveries"]
        assert (would["outcome"], would["refusals"]) == ("in-use", recovery["refusals"])
        (would,) = run("recover", "-n", "--keep", journal_id, "--json", root=root).value[
            "recoveries"
        ]
        assert (would["outcome"], len(would["commands"])) == ("kept", 3)
        assert [r["kind"] for r in recovery["refusals"]] == ["vfio-user"]
        assert run("bind", "ca:00.0", root=root).code == 1
        assert len(kernel.stores) == stores
        check_golden("recover-keep", run("recover", "--keep", journal_id, root=root), root)
        assert run("bind", "ca:00.0", root=root).code == 0
        assert run("recover", root=root).out == "nothing to recover\n"
    assert run("recover", "--keep", journal_id, root=root).code == 3
    assert run("restore", "--all", root=root).code == 0  # nouveau is not forgotten


def test_who_uses_what_a_killed_run_left_can_be_passed_over(run: Runner, simulated: Maker) -> None:
    root = simulated("a10-pair-nouveau")
    assert run("bind", "65:00.0", root=root).code == 0
    cut_off(root)
    anyway = ("recover", "--allow", "vfio-user", "--timeout", "0.2")
    with testing.SimulatedKernel(root).open_device("0000:65:00.0", pid=4242):
        assert run(*anyway, root=root).code == 6
    assert run("recover", root=root).code == 0
    assert run("recover", "--allow", "everything", root=root).code == 2


def test_no_parent_is_taken_behind_a_vgpu_that_is_being_removed(run: Runner, server: Path) -> None:
    anyway = ("--allow", "vgpu,vfio-user,host-driver", "--timeout", "0.2")
    assert run("mdev", "remove", UUIDS[0], *anyway, root=server).code == 6
    stores = len(testing.SimulatedKernel(server).stores)
    waiting = run("unbind", VF, *anyway, root=server)
    assert (waiting.code, "still waits" in waiting.err) == (6, True), waiting
    assert len(testing.SimulatedKernel(server).stores) == stores
    assert run("mdev", "remove", UUIDS[1], root=server).code == 0  # another on the same card


def test_what_is_not_known_is_said_before_the_first_store(run: Runner, simulated: Maker) -> None:
    root = simulated("a10-pair-nouveau")
    shutil.rmtree(root / "proc/1")
    ran = run("bind", "65:00.0", "-v", root=root)
    lines = ran.err.splitlines()
    assert lines[0].startswith("vfiohost: warning: Process 1 is not in /proc")
    assert lines[1].startswith("done ")
    ran = run("undo", "--json", root=root)
    assert (ran.err, ran.value["plan"]["incomplete"][0][:9]) == ("", "Process 1")


def test_vgpus_go_with_their_parent_when_that_is_permitted(run: Runner, server: Path) -> None:
    asked = ("unbind", VF, "--json", "--timeout", "0.2")
    assert [r["code"] for r in refusals(run(*asked, root=server))] == ["mdevs-exist", "in-use"]
    (refusal,) = refusals(run(*asked, "--allow", "vgpu", root=server))
    assert refusal["sentence"].startswith(f"{UUIDS[0]} goes with {VF} and is in use: pid 4711 (")
    assert run(*asked, "--allow", "vgpu,vfio-user", root=server).code == 6


def test_what_a_guest_has_stays_with_it(run: Runner, simulated: Maker) -> None:
    root = simulated("a10-pair-nouveau")
    assert run("bind", "65:00.0", root=root).code == 0
    with testing.SimulatedKernel(root).open_device("0000:65:00.0", pid=4242):
        for line in (("unbind", "65:00.0"), ("restore", "65:00.0"), ("undo",)):
            (refusal,) = refusals(run(*line, "--json", root=root))
            assert (refusal["kind"], refusal["detail"]) == (
                "vfio-user",
                "pid 4242 (/usr/bin/qemu-system-x86_64): has it open through /dev/vfio/15",
            )
        stuck = run("unbind", "65:00.0", "--allow", "vfio-user", "--timeout", "0.2", root=root)
        assert stuck.code == 6
        (use,) = run("holders", "65:00.0", "--json", root=root).value["uses"]
        assert (use["kind"], use["process"]["pid"]) == ("vfio-user", 4242)
    assert run("recover", root=root).code == 0
    assert run("restore", "65:00.0", root=root).code == 0


def test_a_recording_cannot_tell_and_the_plan_says_so(run: Runner, recorded: Maker) -> None:
    ran = run("bind", "65:00.0", "--dry-run", root=recorded("a10-pair-nouveau"))
    assert ran.code == 0
    assert "warning: Process 1 is not in /proc" in ran.out
