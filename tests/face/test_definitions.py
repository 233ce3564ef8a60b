"""mdevctl's definitions: listed, changed and started as mdevctl itself does it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.face.support import under_mounts
from vfiohost import Host
from vfiohost.definitions import render

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from tests.face.support import Maker, Runner

FIRST = "b716be33-0000-4000-8000-000000000001"
SECOND = "b716be33-0000-4000-8000-000000000002"
THIRD = "b716be33-0000-4000-8000-000000000003"


@pytest.fixture
def root(simulated: Maker) -> Path:
    root = simulated("mtty")
    define(
        root, "mtty", FIRST, '{"mdev_type":"mtty-1","start":"auto","attrs":[{"b":"5"},{"b":"6"}]}'
    )
    define(root, "mtty", SECOND, '{"start": "manual", "mdev_type": "mtty-2"}')
    define(root, "0000:00:02.0", THIRD, '{"mdev_type": "i915-\u00e4", "start": "manual"}')
    (root / "etc/mdevctl.d/scripts.d/callouts").mkdir(parents=True)
    (root / "etc/mdevctl.d/scripts.d/notifiers").mkdir()
    return root


def define(root: Path, parent: str, uuid: str, text: str) -> None:
    folder = root / "etc/mdevctl.d" / parent
    folder.mkdir(parents=True, exist_ok=True)
    (folder / uuid).write_text(text)


def files(root: Path) -> dict[Path, str]:
    """The definitions, as they are written."""
    found = (root / "etc/mdevctl.d").rglob("*")
    return {path: path.read_text() for path in found if path.is_file()}


def mdevctl(root: Path, *words: str) -> str:
    """What mdevctl says in a mount namespace where the root's definitions are its own."""
    done = under_mounts(root, ["etc/mdevctl.d"], "mdevctl", *words)
    done.check_returncode()
    return done.stdout


def mdevctl_on(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """What mdevctl does to the files of a root: nobody answers as a kernel would."""
    return under_mounts(root, ["sys", "etc/mdevctl.d"], "mdevctl", *words)


def test_the_list_is_that_of_mdevctl(run: Runner, root: Path) -> None:
    ran = run("mdev", "list", "-d", "--dumpjson", root=root)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == mdevctl(root, "list", "-d", "--dumpjson")


@pytest.mark.parametrize("name", ["mtty", "few-vfs", "t4-v100-vgpu", "a10-pair"])
def test_the_types_are_those_of_mdevctl(run: Runner, simulated: Maker, name: str) -> None:
    root = simulated(name)
    for folder in ("callouts", "notifiers"):
        (root / "etc/mdevctl.d/scripts.d" / folder).mkdir(parents=True)
    ran = run("mdev", "types", "--dumpjson", root=root)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == mdevctl_on(root, "types", "--dumpjson").stdout


def test_a_definition_of_mdevctl_is_written_as_it_was(root: Path) -> None:
    uuid = "b716be33-0000-4000-8000-000000000004"
    mdevctl(root, "define", "-u", uuid, "-p", "mtty", "-t", "mtty-2")
    mdevctl(root, "modify", "-u", uuid, "--addattr", "x", "--value", "1")
    with Host(root) as host:
        (found,) = [each for each in host.mdev_definitions()[0] if each.uuid == uuid]
    assert render(found) == (root / "etc/mdevctl.d/mtty" / uuid).read_text()


def test_mdevctl_has_what_is_defined_here(run: Runner, root: Path) -> None:
    uuid = "b716be33-0000-4000-8000-000000000007"
    asked = ("mdev", "define", "-p", "matrix", "-t", "vfio_ap-passthrough", "-u", uuid, "--auto")
    assert run(*asked, "--attr", "a=5", "--attr", "a=6", root=root).out == f"{uuid}\n"
    text = (root / "etc/mdevctl.d/matrix" / uuid).read_text()
    again = run(*asked, root=root)
    assert again.code == 4
    assert f"{uuid} is defined already, on matrix." in again.err
    listed = mdevctl(root, "list", "-d", "-u", uuid)
    assert listed.split() == [uuid, "matrix", "vfio_ap-passthrough", "auto"]
    mdevctl(root, "modify", "-u", uuid, "--auto")
    assert (root / "etc/mdevctl.d/matrix" / uuid).read_text() == text
    assert run("mdev", "undefine", uuid, root=root).code == 0
    assert not (root / "etc/mdevctl.d/matrix").exists()
    assert run("mdev", "undefine", uuid, root=root).code == 3
    assert run("mdev", "define", "-p", "../x", "-t", "y", root=root).code == 2


def test_callouts_are_not_passed_over(run: Runner, root: Path) -> None:
    (root / "etc/mdevctl.d/scripts.d/callouts/ap.sh").write_text("#!/bin/sh\n")
    ran = run("mdev", "define", "-p", "mtty", "-t", "mtty-1", root=root)
    assert ran.code == 9
    assert "/etc/mdevctl.d/scripts.d/callouts/ap.sh" in ran.err
    ran = run("mdev", "define", "-p", "mtty", "-t", "mtty-1", "--ignore-callouts", root=root)
    assert ran.code == 0


def test_one_bad_file_hides_no_other(run: Runner, root: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text('{"mdev_type": "mtty-1", "start": "auto"}')
    bad = "b716be33-0000-4000-8000-000000000005"
    out = "b716be33-0000-4000-8000-000000000006"
    define(root, "mtty", bad, "{")
    (root / "etc/mdevctl.d/mtty" / out).symlink_to(tmp_path / "secret")
    ran = run("mdev", "list", "--defined", "--json", root=root)
    found = [each["uuid"] for each in ran.value["definitions"]]
    assert sorted(found) == [FIRST, SECOND, THIRD]
    assert [each["subject"] for each in ran.value["problems"]] == [bad, out]
    table = run("mdev", "list", "-d", root=root)
    assert f"{FIRST}  mtty          mtty-1  auto    b=5 b=6" in table.out
    assert f"/etc/mdevctl.d/mtty/{bad}" in table.err


def test_nothing_is_defined(run: Runner, simulated: Maker) -> None:
    ran = run("mdev", "list", "-d", root=simulated("mtty"))
    assert (ran.code, ran.out, ran.err) == (0, "", "vfiohost: No mediated device is defined.\n")


class TestCapitals:
    """Files whose names mdevctl reads as UUIDs, too."""

    UUID = "b716be33-0000-4000-8000-00000000abcd"

    @pytest.fixture
    def file(self, root: Path) -> Path:
        define(root, "mtty", self.UUID.upper(), '{"mdev_type":"mtty-1","start":"auto"}')
        return root / "etc/mdevctl.d/mtty" / self.UUID.upper()

    def test_the_file_that_is_there_is_changed(self, run: Runner, root: Path, file: Path) -> None:
        dry = run("mdev", "modify", self.UUID, "--manual", "-n", root=root)
        assert f"would write /etc/mdevctl.d/mtty/{self.UUID.upper()}" in dry.out
        assert run("mdev", "modify", self.UUID, "--manual", root=root).code == 0
        assert '"manual"' in file.read_text()
        assert run("mdev", "modify", self.UUID, "--jsonfile", str(file), root=root).code == 0
        assert not (file.parent / self.UUID).exists()
        assert run("mdev", "start", self.UUID, root=root).code == 0

    def test_the_file_that_is_there_is_removed(self, run: Runner, root: Path, file: Path) -> None:
        ran = run("mdev", "undefine", self.UUID, root=root)
        assert (ran.code, ran.out) == (0, f"/etc/mdevctl.d/mtty/{file.name}  removed\n")
        assert not file.exists()

    def test_two_files_of_one_uuid(self, run: Runner, root: Path, file: Path) -> None:
        define(root, "mtty", self.UUID, file.read_text())
        ran = run("mdev", "start", self.UUID, root=root)
        assert ran.code == 2
        assert f"/etc/mdevctl.d/mtty/{file.name}, /etc/mdevctl.d/mtty/{self.UUID}" in ran.err
        assert run("mdev", "undefine", self.UUID, root=root).code == 0
        assert not (root / "etc/mdevctl.d/mtty" / self.UUID).exists()
        assert not file.exists()


class TestNames:
    """Addresses and types in all the ways that the other verbs take them."""

    UUID = "b716be33-0000-4000-8000-00000000000c"

    @pytest.mark.parametrize("parent", ["ca:00.4", "CA:00.4", "0000:CA:00.4", "0000:ca:00.4"])
    def test_what_is_written_can_start(self, run: Runner, simulated: Maker, parent: str) -> None:
        root = simulated("few-vfs")
        asked = ("mdev", "define", "-p", parent, "-t", "A10-12Q", "-u", self.UUID, "--json")
        (made,) = run(*asked, root=root).value["definitions"]
        assert (made["parent"], made["type_id"]) == ("0000:ca:00.4", "nvidia-596")
        file = root / "etc/mdevctl.d/0000:ca:00.4" / self.UUID
        assert '"nvidia-596"' in file.read_text()
        other = ("mdev", "modify", self.UUID, "-p", parent, "-a", "-t")
        assert run(*other, "NVIDIA A10-8Q", root=root).code == 0
        assert '"nvidia-595"' in file.read_text()
        assert run("mdev", "start", "--auto", "-p", parent, root=root).out.startswith(self.UUID)
        assert run("mdev", "start", self.UUID, "-p", parent, root=root).code == 0

    def test_a_physical_function_whose_virtual_ones_are_parents(
        self, run: Runner, simulated: Maker
    ) -> None:
        root = simulated("few-vfs")
        ran = run("mdev", "define", "-p", "65:00.0", "-t", "A10-12Q", root=root)
        assert ran.code == 3
        assert "0000:65:00.0 makes no mediated devices itself" in ran.err
        assert "such as 0000:65:00.4" in ran.err
        assert not (root / "etc/mdevctl.d").exists()

    def test_a_parent_that_may_come_later(self, run: Runner, simulated: Maker) -> None:
        root = simulated("few-vfs")
        asked = ("mdev", "define", "-p", "0A:00.1", "-t", "other-1", "--json")
        (made,) = run(*asked, root=root).value["definitions"]
        assert (made["parent"], made["type_id"]) == ("0000:0a:00.1", "other-1")


class TestDryRun:
    """It says what the same without --dry-run would come to, and writes nothing."""

    NEW = "b716be33-0000-4000-8000-00000000000b"
    DEFINE = ("mdev", "define", "-p", "mtty", "-t", "mtty-1", "-u")

    @pytest.mark.parametrize(
        ("words", "code"),
        [
            ((*DEFINE, NEW), 0),
            ((*DEFINE, FIRST), 4),
            (("mdev", "modify", FIRST, "--manual"), 0),
            (("mdev", "modify", NEW, "--manual"), 3),
            (("mdev", "undefine", FIRST), 0),
            (("mdev", "undefine", NEW), 3),
            (("mdev", "undefine", "x"), 2),
        ],
    )
    def test_as_the_real_one(
        self, run: Runner, root: Path, words: tuple[str, ...], code: int
    ) -> None:
        before = files(root)
        dry = run(*words, "-n", "--exit-code", root=root)
        assert dry.code == (10 if code == 0 else code)
        if code == 0:
            assert "would " in dry.out
            assert "/etc/mdevctl.d/mtty/" in dry.out
        assert files(root) == before
        real = run(*words, root=root)
        assert real.code == code
        if code:
            assert real.err == dry.err
        assert (files(root) != before) == (code == 0)

    @pytest.mark.parametrize(
        "words", [(*DEFINE, NEW), ("mdev", "modify", FIRST, "--manual")], ids=["define", "modify"]
    )
    def test_callouts(self, run: Runner, root: Path, words: tuple[str, ...]) -> None:
        (root / "etc/mdevctl.d/scripts.d/callouts/ap.sh").write_text("#!/bin/sh\n")
        assert run(*words, "-n", root=root).code == 9
        assert run(*words, "-n", "--ignore-callouts", root=root).code == 0


class TestStart:
    def test_what_is_defined_runs_and_can_be_taken_back(self, run: Runner, root: Path) -> None:
        dry = run("mdev", "start", SECOND, "-n", "--exit-code", root=root)
        assert dry.code == 10
        assert "mdev_supported_types/mtty-2/create" in dry.out
        ran = run("mdev", "start", SECOND, root=root)
        assert (ran.code, ran.err) == (0, "")
        assert ran.out.split()[:3] == [SECOND, "mtty", "mtty-2"]
        again = run("mdev", "start", SECOND, "--json", root=root)
        assert again.code == 0
        assert again.value["plan"]["steps"] == []
        assert [each["uuid"] for each in again.value["mdevs"]] == [SECOND]
        listed = mdevctl_on(root, "list").stdout
        assert listed == f"{SECOND} mtty mtty-2 manual (defined)\n\n"
        assert run("undo", root=root).code == 0
        assert run("mdev", "list", "--json", root=root).value["mdevs"] == []

    def test_the_store_is_that_of_mdevctl(self, run: Runner, root: Path) -> None:
        plan = run("mdev", "start", SECOND, "--json", "-n", root=root).value["plan"]
        assert mdevctl_on(root, "start", "-u", SECOND).returncode == 0
        (step,) = plan["steps"]
        assert (root / step["path"]).read_text() == step["value"] == SECOND

    def test_attributes_are_written_or_the_device_goes(self, run: Runner, root: Path) -> None:
        ran = run("mdev", "start", FIRST, root=root)
        assert ran.code == 1
        assert "no attribute b" in ran.err
        assert run("mdev", "list", "--json", root=root).value["mdevs"] == []

    def test_another_device_of_the_uuid_is_refused(self, run: Runner, root: Path) -> None:
        assert (
            run("mdev", "create", "-p", "mdpy", "-t", "mdpy-hd", "-u", SECOND, root=root).code == 0
        )
        ran = run("mdev", "start", SECOND, root=root)
        assert ran.code == 4
        assert "[uuid-exists]" in ran.err
        said = mdevctl_on(root, "start", "-u", SECOND)
        assert (said.returncode, said.stderr) == (
            1,
            "Error: Device exists under different parent\n",
        )

    def test_all_that_start_by_themselves(self, run: Runner, root: Path) -> None:
        define(root, "mtty", FIRST, '{"mdev_type": "mtty-1", "start": "auto"}')
        define(root, "0000:00:02.0", THIRD, '{"mdev_type": "i915-x", "start": "auto"}')
        define(root, "mtty", "b716be33-0000-4000-8000-00000000000a", "{")
        ran = run("mdev", "start", "--auto", "--json", root=root)
        assert ran.code == 0
        assert ran.value["plan"]["subjects"] == [FIRST]
        assert [each["subject"] for each in ran.value["problems"]] == [
            "b716be33-0000-4000-8000-00000000000a",
            THIRD,
        ]
        assert run("mdev", "start", "--auto", "-p", "mdpy", root=root).out.startswith("nothing to")
        assert run("mdev", "start", "--auto", "-p", "0000:00:02.0", root=root).code == 3

    def test_each_on_its_own(self, run: Runner, root: Path) -> None:
        define(root, "mtty", SECOND, '{"mdev_type": "mtty-2", "start": "auto"}')
        assert run("mdev", "start", "--auto", root=root).code == 1  # all or none
        assert run("mdev", "list", "--json", root=root).value["mdevs"] == []
        ran = run("mdev", "start", "--auto", "--keep-going", "--json", root=root)
        assert [(r["subject"], r["exit_code"]) for r in ran.value["runs"]] == [
            (FIRST, 1),
            (SECOND, 0),
        ]
        left = run("mdev", "list", "--json", root=root).value["mdevs"]
        assert [each["uuid"] for each in left] == [SECOND]

    def test_callouts_are_not_passed_over(self, run: Runner, root: Path) -> None:
        (root / "etc/mdevctl.d/scripts.d/callouts/ap.sh").write_text("#!/bin/sh\n")
        ran = run("mdev", "start", SECOND, root=root)
        assert ran.code == 9
        assert "callouts/ap.sh" in ran.err
        assert run("mdev", "start", SECOND, "--ignore-callouts", root=root).code == 0
        assert run("mdev", "start", SECOND, root=root).code == 0  # it runs: nobody is asked

    def test_what_is_meant_must_be_said(self, run: Runner, root: Path) -> None:
        define(root, "mdpy", SECOND, '{"mdev_type": "mdpy-hd", "start": "manual"}')
        bad = "b716be33-0000-4000-8000-00000000000a"
        define(root, "mtty", bad, "{")
        assert run("mdev", "start", root=root).code == 2
        assert run("mdev", "start", "--auto", SECOND, root=root).code == 2
        assert run("mdev", "start", SECOND, root=root).code == 2
        assert run("mdev", "start", SECOND, "-p", "mdpy", root=root).code == 0
        ran = run("mdev", "start", bad, root=root)
        assert ran.code == 3
        assert f"/etc/mdevctl.d/mtty/{bad}" in ran.err


class TestModify:
    @pytest.mark.parametrize(
        "words",
        [
            ("--manual",),
            ("-a", "--addattr", "c", "--value", "7"),
            ("--addattr", "c", "--value", "\u00e4 b", "--index", "1"),
            ("--addattr", "c", "--value", "7", "-i", "2"),
            ("--delattr",),
            ("--delattr", "-i", "0"),
            ("-t", "mtty-2", "-m", "--delattr"),
        ],
    )
    def test_the_file_is_that_of_mdevctl(
        self, run: Runner, root: Path, words: tuple[str, ...]
    ) -> None:
        file = root / "etc/mdevctl.d/mtty" / FIRST
        before = file.read_text()
        assert run("mdev", "modify", FIRST, *words, root=root).code == 0
        ours = file.read_text()
        file.write_text(before)
        mdevctl(root, "modify", "-u", FIRST, *words)
        assert ours == file.read_text()

    def test_a_definition_of_a_file(self, run: Runner, root: Path, tmp_path: Path) -> None:
        given = tmp_path / "given.json"
        given.write_text('{"attrs": [{"x": "1"}], "start": "auto", "mdev_type": "mtty-2"}')
        uuid = "b716be33-0000-4000-8000-000000000008"
        file = root / "etc/mdevctl.d/mtty" / uuid
        asked = ("define", "-p", "mtty", "--jsonfile", str(given), "-u", uuid)
        assert run("mdev", *asked[:5], "-u", uuid, root=root).out == f"{uuid}\n"
        ours = file.read_text()
        file.unlink()
        mdevctl(root, *asked)
        assert ours == file.read_text()
        assert run("mdev", "modify", SECOND, "--jsonfile", str(given), root=root).code == 0
        assert (root / "etc/mdevctl.d/mtty" / SECOND).read_text() == ours
        given.write_text("{")
        ran = run("mdev", "modify", SECOND, "--jsonfile", str(given), root=root)
        assert ran.code == 2
        assert str(given) in ran.err
        assert (root / "etc/mdevctl.d/mtty" / SECOND).read_text() == ours

    def test_nothing_is_written_twice_or_dry(self, run: Runner, root: Path) -> None:
        file = root / "etc/mdevctl.d/mtty" / FIRST
        before = (file.read_text(), file.stat().st_mtime_ns)
        dry = run("mdev", "modify", FIRST, "-m", "-n", "--exit-code", "--json", root=root)
        assert dry.code == 10
        assert dry.value["definitions"][0]["start"] == "manual"
        assert run("mdev", "modify", FIRST, "--auto", root=root).out.startswith("nothing to do")
        assert (file.read_text(), file.stat().st_mtime_ns) == before

    @pytest.mark.parametrize(
        ("words", "code"),
        [
            ((), 2),
            (("--auto", "--manual"), 2),
            (("--addattr", "a"), 2),
            (("--value", "a"), 2),
            (("--auto", "--index", "1"), 2),
            (("--delattr", "--addattr", "a", "--value", "1"), 2),
            (("--delattr", "--index", "x"), 2),
            (("--jsonfile", "f", "--auto"), 2),
            (("--delattr", "--index", "2"), 3),
            (("--auto", "-p", "mdpy"), 3),
        ],
    )
    def test_what_makes_no_sense_changes_nothing(
        self, run: Runner, root: Path, words: tuple[str, ...], code: int
    ) -> None:
        before = (root / "etc/mdevctl.d/mtty" / FIRST).read_text()
        assert run("mdev", "modify", FIRST, *words, root=root).code == code
        assert (root / "etc/mdevctl.d/mtty" / FIRST).read_text() == before

    def test_callouts_are_not_passed_over(self, run: Runner, root: Path) -> None:
        (root / "etc/mdevctl.d/scripts.d/callouts/ap.sh").write_text("#!/bin/sh\n")
        assert run("mdev", "modify", FIRST, "--manual", root=root).code == 9
        assert run("mdev", "modify", FIRST, "--manual", "--ignore-callouts", root=root).code == 0
