"""The façade as a library: what ``import vfiohost`` gives."""

from __future__ import annotations

import errno
import os
import pickle
import subprocess
import sys
import tarfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

import vfiohost
from vfiohost import (
    ApplyError,
    Host,
    KernelError,
    LockBusyError,
    NotFoundError,
    ParseError,
    PciAddress,
    Plan,
    PlanRefused,
    UnsupportedError,
    cli,
    testing,
)
from vfiohost.journal import lock

if TYPE_CHECKING:
    from tests.face.support import Maker, Runner

GPU = PciAddress.parse("65:00.0")


def opened(root: Path) -> Host:
    return Host(root, kernel=testing.SimulatedKernel(root))


def test_every_public_name_is_there() -> None:
    for name in vfiohost.__all__:
        assert getattr(vfiohost, name) is not None
    assert set(vfiohost.__all__) <= set(dir(vfiohost))
    with pytest.raises(AttributeError, match="no attribute 'Hots'"):
        _ = vfiohost.Hots


def test_import_loads_nothing_that_is_not_asked_for() -> None:
    code = "import sys, vfiohost; print(*(m for m in sys.modules if m.startswith('vfiohost')))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert [m for m in ran.stdout.split() if "editable" not in m] == ["vfiohost"]


def test_list_imports_neither_plans_nor_the_test_kit(recorded: Maker) -> None:
    code = (
        "import sys; from vfiohost.cli import main; "
        f"main(['--root', {str(recorded('mtty'))!r}, 'list']); "
        "print(*sys.modules, file=sys.stderr)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(ran.stderr.split())
    for module in (
        "vfiohost.plan.bind",
        "vfiohost.plan.types",
        "vfiohost.apply",
        "vfiohost.journal",
        "vfiohost.testing",
        "vfiohost.recording",
        "json",
        "pyudev",
        "difflib",
        "shlex",
        "shutil",
        "subprocess",
        "vfiohost.details_scan",
        "vfiohost.mdev_scan",
        "vfiohost.modalias",
        "vfiohost.native.ioctls",
        "vfiohost.nvidia",
        "vfiohost.facts",
    ):
        assert module not in loaded
    assert "vfiohost.scan" in loaded


def test_plan_apply_restore(simulated: Maker) -> None:
    with opened(simulated("a10-pair-nouveau")) as host:
        (gpu,) = host.select(["65:00.0"])
        plan = host.plan_bind([gpu])
        assert plan.subjects == ("0000:65:00.0",)
        seen: list[str] = []
        report = host.apply(plan, progress=lambda result: seen.append(result.outcome))
        assert seen == ["done"] * len(plan.steps)
        assert report.writes == len(plan.steps)
        assert host.scan().pci[GPU].driver == "vfio-pci"
        assert host.vfio_nodes()[15] == "/dev/vfio/15"
        assert host.plan_bind(GPU_TEXT).is_empty
        assert [d.address for d in host.changed()] == [GPU]
        host.apply(host.plan_restore())
        assert host.scan().pci[GPU].driver == "nouveau"
        assert host.changed() == ()


GPU_TEXT = "65:00.0"


def test_devices_may_be_given_in_any_form(simulated: Maker) -> None:
    with opened(simulated("a10-pair-nouveau")) as host:
        snapshot = host.scan(mdev=True)
        device = snapshot.pci[GPU]
        plans = [
            host.plan_bind(devices, snapshot=snapshot)
            for devices in ([GPU], GPU, [device], device, [GPU_TEXT], GPU_TEXT, iter([GPU]))
        ]
        assert all(plan == plans[0] for plan in plans)
        assert Plan.from_json(plans[0].to_json()) == plans[0]


def test_undo_in_the_library(simulated: Maker) -> None:
    with opened(simulated("a10-pair-nouveau")) as host:
        with pytest.raises(NotFoundError):
            host.last_done()
        report = host.apply(host.plan_bind(["10de:2236"], "none"))
        entry = host.last_done()
        assert entry.id == report.journal_id
        assert host.last_done(entry.id) == entry
        host.apply(host.plan_undo(entry), undoes=entry.id)
        assert {d.driver for d in host.select(["10de:2236"])} == {"nouveau"}
        assert host.recover() == ()


def test_mdevs_in_the_library(simulated: Maker) -> None:
    with opened(simulated("mtty")) as host:
        host.apply(host.plan_mdev_create("mtty", "Dual port serial", count=3))
        bus = host.scan(mdev=True).mdev
        assert bus is not None
        assert [d.type_id for d in bus.devices] == ["mtty-2"] * 3
        host.apply(host.plan_mdev_remove(bus.devices[0].uuid))
        host.apply(host.plan_mdev_remove(d.uuid for d in bus.devices[1:]))
        after = host.scan(mdev=True).mdev
        assert after is not None
        assert after.devices == ()
        with pytest.raises(ParseError, match="'2' is not the number of UUIDs"):
            host.plan_mdev_create("mtty", "mtty-1", uuids=[str(UUID(int=7))], count=2)


def test_a_cancelled_plan_is_taken_back(simulated: Maker) -> None:
    with opened(simulated("a10-pair-nouveau")) as host:
        asked = iter([False, False, True])
        with pytest.raises(ApplyError) as caught:
            host.apply(host.plan_bind([GPU]), cancel=lambda: next(asked))
        assert caught.value.report is not None
        assert host.scan().pci[GPU].driver == "nouveau"


def test_a_recording_is_refused_without_a_kernel(recorded: Maker) -> None:
    with Host(recorded("a10-pair-nouveau")) as host:
        plan = host.plan_bind([GPU])
        with pytest.raises(UnsupportedError, match="is a recording"):
            host.apply(plan)


def test_values_travel_between_processes(simulated: Maker) -> None:
    with opened(simulated("rtx-workstation")) as host:
        snapshot = host.scan(mdev=True)
        detailed = host.with_details(snapshot, snapshot.devices)
        with pytest.raises(PlanRefused) as caught:
            host.plan_bind(["01:00.0"])
        plan = host.plan_bind(["01:00.0"], group=True, allow=["display"])
        report = host.apply(plan)
    for value in (snapshot, detailed, plan, report):
        assert pickle.loads(pickle.dumps(value)) == value
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.refusals, again.plan) == (caught.value.refusals, caught.value.plan)


def test_names_below_the_root_come_first(recorded: Maker, spoilt: Maker) -> None:
    with Host(recorded("a10-pair")) as host:
        assert host.names.device(0x10DE, 0x2236) == "GA102GL [A10]"
        assert host.names is host.names
    root = spoilt("a10-pair")
    names = root / "usr/share/misc/pci.ids"
    names.unlink()
    names.symlink_to("/etc/hostname")  # leads nowhere below the root, and must not leave it
    other = root / "usr/share/hwdata/pci.ids"
    other.parent.mkdir()
    other.write_text("10de  Somebody\n")
    with Host(root) as host:
        assert host.names.vendor(0x10DE) == "Somebody"


def test_a_snapshot_that_is_old_is_noticed(simulated: Maker) -> None:
    root = simulated("a10-pair-nouveau")
    with opened(root) as host:
        plan = host.plan_bind([GPU])
        host.apply(host.plan_bind([GPU], "none"))
        with pytest.raises(vfiohost.StalePlanError):
            host.apply(plan)


def test_an_ordinary_user_gets_eacces_from_the_journal(
    simulated: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(*_args: object, **_options: object) -> None:
        raise KernelError("open", errno.EACCES, "/var/lib/vfiohost/journal")

    with opened(simulated("a10-pair")) as host:
        monkeypatch.setattr(host.journal, "origins", closed)
        with pytest.raises(KernelError, match="needs root"):
            host.plan_restore()


def test_this_machine_can_be_listed(run: Runner) -> None:
    ran = run("list", "--json", root=Path("/"))
    assert ran.code == 0
    listed = ran.value["devices"]
    folder = Path("/sys/bus/pci/devices")
    assert len(listed) == (len(list(folder.iterdir())) if folder.is_dir() else 0)


@pytest.mark.skipif(
    "VFIOHOST_RECORDINGS" not in os.environ, reason="VFIOHOST_RECORDINGS is not set"
)
def test_machines_recorded_by_others_can_be_listed(run: Runner, scratch: Path) -> None:
    archives = sorted(Path(os.environ["VFIOHOST_RECORDINGS"]).glob("*.tar.*"))
    assert archives
    for archive in archives:
        folder = scratch / archive.name
        with tarfile.open(archive) as tar:
            # Python 3.11.2, which Debian 12 has, does not know filters yet.
            filtered: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
            tar.extractall(folder, **filtered)
        (found,) = (*folder.glob("sys"), *folder.glob("*/sys"))
        root = found.parent
        value = run("list", "--json", root=root).value
        present = list((root / "sys/bus/pci/devices").iterdir())
        assert value["exit_code"] == 0
        assert len(value["devices"]) + len(value["problems"]) >= len(present) > 0
        text = run("list", root=root)
        assert len(text.out.splitlines()) == len(value["devices"]) + 1
        assert run("groups", "--why", root=root).code == 0
        assert run("mdev", "types", "--json", root=root).value["parents"] == []
        assert run("bind", value["devices"][-1]["address"], root=root).code in (4, 9)


def test_the_command_can_be_run_twice_in_one_process(run: Runner, recorded: Maker) -> None:
    root = recorded("mtty")
    assert run("mdev", "types", root=root) == run("mdev", "types", root=root)
    assert cli.main(["--root", str(root), "list", "-q"]) == 0


def test_a_caller_may_wait_for_another_change_to_end(simulated: Maker) -> None:
    root = simulated("a10-pair-nouveau")
    with opened(root) as host, opened(root) as other:
        plan = host.plan_bind("65:00.0")
        with lock(other.sysfs, purpose="a test"):
            with pytest.raises(LockBusyError, match="a test"):
                host.apply(plan)
            with pytest.raises(LockBusyError, match="a test"):
                host.apply(plan, wait=0.05)
        held, release = threading.Event(), threading.Event()

        def hold() -> None:
            with lock(other.sysfs, purpose="a test"):
                held.set()
                release.wait(10)

        thread = threading.Thread(target=hold)
        thread.start()
        assert held.wait(10)
        threading.Timer(0.2, release.set).start()
        assert host.apply(plan, wait=20).writes > 0
        thread.join()


class Overtaken:
    """A kernel on which somebody else does the same just before each of our stores."""

    def __init__(self, kernel: testing.SimulatedKernel) -> None:
        self.kernel = kernel
        self.give_up = kernel.give_up

    def check_writable(self) -> None:
        self.kernel.check_writable()

    def load_module(self, name: str, *, timeout: float, keep_fd: int | None = None) -> None:
        self.kernel.load_module(name, timeout=timeout, keep_fd=keep_fd)

    def store(self, path: str, value: str, *, timeout: float, keep_fd: int | None = None) -> None:
        self.kernel.store(path, value, timeout=timeout)
        self.kernel.store(path, value, timeout=timeout, keep_fd=keep_fd)


def test_what_somebody_else_made_meanwhile_is_not_taken_back(simulated: Maker) -> None:
    root = simulated("mtty")
    uuid = "b716be33-2f53-4a1c-9d3c-2f2a5f3e8a10"
    with Host(root, kernel=Overtaken(testing.SimulatedKernel(root))) as host:
        plan = host.plan_mdev_create("mtty", "mtty-1", uuids=[uuid])
        with pytest.raises(ApplyError, match="EEXIST"):
            host.apply(plan)
    assert (root / "sys/bus/mdev/devices" / uuid).exists()


def test_a_driver_that_somebody_else_bound_meanwhile_stays(simulated: Maker) -> None:
    root = simulated("a10-pair")
    with Host(root, kernel=Overtaken(testing.SimulatedKernel(root))) as host:
        with pytest.raises(ApplyError, match="EBUSY"):
            host.apply(host.plan_bind("65:00.0"))
        assert host.select("65:00.0")[0].driver == "vfio-pci"
