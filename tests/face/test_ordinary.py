"""An ordinary user may read everything, and is told what is lacking before anything is touched."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest

from tests.face.ordinary import as_nobody, readable_by_all
from tests.native.trees import ordinary_user
from tests.simulation.pictures import picture
from vfiohost import native, privilege
from vfiohost.apply.permission import check_permission
from vfiohost.errors import ApplyError, KernelError
from vfiohost.host import Host
from vfiohost.plan.types import LoadModule, Plan, Report, WriteAttr
from vfiohost.sysfs import Sysfs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.face.support import Maker, Runner

READING = [
    "list",
    "list --json",
    "list -o +override,boot-vga",
    "groups --why",
    "mdev types",
    "mdev list",
    "record -n -",
    "recover -n",
    "restore -n --all",
    "bind -n 65:00.4",
    "undo -n",
]
WRITING = [
    "bind --driver none 65:00.4",
    "unbind 65:00.4",
    "restore 65:00.4",
    "mdev create -p 65:00.5 -t A10-12Q",
    "mdev remove 11111111-2222-3333-4444-555555555555",
    "recover",
    "bind --driver none --keep-going 65:00.4 65:00.5",
]
PROBE = "sys/bus/platform/drivers_probe"  # on every Linux there is


def plan_of(*steps: WriteAttr | LoadModule) -> Plan:
    return Plan("bind", ("0000:65:00.0",), steps)


def store(path: str) -> WriteAttr:
    return WriteAttr(path, "x", None, None, None, "it is needed")


@pytest.fixture
def foreign(simulated: Maker, scratch: Path) -> Path:
    """A simulated host that belongs to whoever runs the tests: not to nobody, if that is root."""
    return readable_by_all(simulated("few-vfs"), scratch)


@pytest.fixture
def place(scratch: Path) -> Iterator[Path]:
    """A directory that everybody can reach."""
    with TemporaryDirectory(dir=scratch) as directory:
        yield readable_by_all(Path(directory), scratch)


@pytest.mark.parametrize("line", READING)
def test_nobody_reads_a_simulated_host_as_its_owner_does(
    line: str, foreign: Path, run: Runner
) -> None:
    assert as_nobody("--root", str(foreign), *line.split()) == run(*line.split(), root=foreign)


@pytest.mark.parametrize("line", ["list --json", "groups", "mdev types", "mdev list", "recover"])
def test_nobody_reads_the_live_host(line: str) -> None:
    ran = as_nobody("--root", "/", *line.split())
    assert (ran.code, "Traceback" in ran.err) == (0, False), ran.err


def test_nobody_may_ask_the_doctor(foreign: Path) -> None:
    for root in ("/", str(foreign)):
        ran = as_nobody("--root", root, "doctor")
        assert ran.code in (0, 11), ran.err  # 11: it found something bad
        assert "Traceback" not in ran.err


@pytest.mark.parametrize("line", WRITING)
def test_nobody_changes_no_host_of_somebody_else(line: str, foreign: Path, run: Runner) -> None:
    if os.geteuid() != 0:
        foreign.joinpath(".vfiohost-sim/lock").chmod(0o444)
    before = picture(foreign)
    ran = as_nobody("--root", str(foreign), *line.split())
    if "mdev remove" in line:
        assert ran.code == 3  # there is no such device, whoever asks
    else:
        assert (ran.code, ran.out) == (5, ""), ran.err
        sentence = f"Cannot open {foreign}/.vfiohost-sim/lock: Permission denied (EACCES)."
        assert sentence in ran.err
    assert picture(foreign) == before
    assert not (foreign / "run/vfiohost").exists()
    assert not (foreign / "var/lib/vfiohost").exists()


@pytest.mark.parametrize("line", ["record {}/new", "record --overwrite {}/new"])
def test_nobody_writes_no_file_where_that_is_not_allowed(line: str, place: Path) -> None:
    closed = place / "closed"
    closed.mkdir(0o555)
    ran = as_nobody(*line.format(closed).split())
    assert ran.code == 5, ran.err
    assert ran.err == f"vfiohost: {closed}/new: Permission denied.\n"
    assert list(closed.iterdir()) == []


def test_nobody_is_told_on_the_live_host_what_is_lacking() -> None:
    own = [Path("/run/vfiohost"), Path("/var/lib/vfiohost")]
    before = [path.exists() for path in own]
    with Host("/") as host, ordinary_user(), pytest.raises(ApplyError) as caught:
        host.apply(plan_of(store(PROBE)))
    assert str(caught.value) == (
        f"Cannot open /{PROBE}: Permission denied (EACCES). This needs root. Nothing was changed."
    )
    assert isinstance(caught.value.cause, KernelError)
    report = caught.value.report
    assert isinstance(report, Report)
    assert [result.outcome for result in report.results] == ["not-run"]
    assert [path.exists() for path in own] == before


# -- each permission by itself, on a directory that is taken for a live host ---------------------


@pytest.fixture
def live(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(Sysfs, "is_live", lambda _: True)
    for path in ("sys/a", "sys/module/loaded/x", "run/x", "var/lib/x"):
        file = place / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return place


def lacking(live: Path, plan: Plan) -> str | None:
    """What an ordinary user lacks; nothing may have been made."""
    before = picture(live)
    cause: BaseException | None = None
    try:
        with Sysfs(live) as sysfs, ordinary_user():
            check_permission(plan, sysfs)
    except ApplyError as error:
        cause = error.cause
    assert picture(live) == before
    if cause is None:
        return None
    assert isinstance(cause, KernelError)
    return f"{cause.code} {cause.path.removeprefix(f'{live}/')}"


def opened(*paths: Path) -> None:
    for path in paths:
        path.chmod(0o777)


def test_each_permission_is_asked_for(live: Path) -> None:
    if os.geteuid() != 0:
        for path in ("sys/a", "run", "var/lib"):
            (live / path).chmod(0o555)
    plan = plan_of(store("sys/not-yet"), store("sys/a"))
    assert lacking(live, plan) == "EACCES sys/a"
    opened(live / "sys/a")
    assert lacking(live, plan) == "EACCES run"
    opened(live / "run")
    assert lacking(live, plan) == "EACCES var/lib"
    opened(live / "var/lib")
    assert lacking(live, plan) is None
    (live / "run/vfiohost").mkdir(0o700 if os.geteuid() == 0 else 0)
    assert lacking(live, plan) == "EACCES run/vfiohost/lock"
    (live / "run/vfiohost").chmod(0o777)
    (live / "run/vfiohost/lock").touch(0o444)
    assert lacking(live, plan) == "EACCES run/vfiohost/lock"


def test_a_module_needs_its_capability(live: Path) -> None:
    opened(live / "run", live / "var/lib")
    assert lacking(live, plan_of(LoadModule("vfio_pci", None, "so"))) == "EPERM vfio_pci"
    assert lacking(live, plan_of(LoadModule("loaded", None, "so"))) is None


@pytest.mark.parametrize(
    ("status", "uid_map", "is_enough"),
    [
        ("CapEff:\t000001ffffffffff\n", "         0          0 4294967295\n", True),
        ("CapEff:\t000001fffffeffff\n", "         0          0 4294967295\n", False),
        ("CapEff:\t000001ffffffffff\n", "         0       1000          1\n", False),
        ("CapEff:\t000001ffffffffff\n", None, True),
    ],
    ids=["root", "root without it", "root of a user namespace", "no user namespaces"],
)
def test_whose_root_it_is(  # noqa: PLR0917
    live: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    status: str,
    uid_map: str | None,
    is_enough: bool,  # noqa: FBT001
) -> None:
    proc = tmp_path_factory.mktemp("proc")
    (proc / "status").write_text(f"Name:\tx\n{status}")
    if uid_map is not None:
        (proc / "uid_map").write_text(uid_map)
    monkeypatch.setattr(privilege, "_PROC", proc)
    plan = plan_of(LoadModule("vfio_pci", None, "so"))
    with Sysfs(live) as sysfs:
        if is_enough:
            check_permission(plan, sysfs)
        else:
            with pytest.raises(ApplyError, match=r"EPERM.*CAP_SYS_MODULE.*Nothing was changed"):
                check_permission(plan, sysfs)


def read_only(path: str) -> Callable[..., int]:
    real = native.open_in

    def open_in(rootfd: int, name: str, flags: int, *, shown: str) -> int:
        if name == path and flags & os.O_WRONLY:
            raise KernelError("open", errno.EROFS, shown)
        return real(rootfd, name, flags, shown=shown)

    return open_in


def test_a_sysfs_that_is_mounted_read_only(live: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "open_in", read_only("sys/a"))
    with Sysfs(live) as sysfs, pytest.raises(ApplyError) as caught:
        check_permission(plan_of(store("sys/a")), sysfs)
    assert str(caught.value) == (
        f"Cannot open {live}/sys/a: Read-only file system (EROFS). It is mounted read-only, as in "
        "a container: do this on the host, or mount it writable. Nothing was changed."
    )


def test_a_var_that_is_mounted_read_only(live: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fstatvfs

    def fstatvfs(fd: int) -> os.statvfs_result:
        answer = list(real(fd))
        if os.readlink(f"/proc/self/fd/{fd}").endswith("var/lib"):
            answer[8] |= os.ST_RDONLY
        return os.statvfs_result(answer)

    monkeypatch.setattr(os, "fstatvfs", fstatvfs)
    with Sysfs(live) as sysfs, pytest.raises(ApplyError, match=r"var/lib: Read-only file system"):
        check_permission(plan_of(store("sys/a")), sysfs)
