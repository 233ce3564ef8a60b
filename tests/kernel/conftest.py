"""Tests on real kernels: ``pytest tests/kernel --kernel=6.12,6.1,iommufd``.

Without ``--kernel`` they are not run. A test that takes ``lab`` gets a running machine in the state
in which machines start, once for each kernel that was asked for; in each process one machine serves
all tests of a kernel, and is replaced when a test has broken it.
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.kernel.cases.terms import Case
from tests.kernel.lab import observing, start, state
from tests.kernel.lab.boot_images import GENERATORS
from tests.kernel.lab.errors import LabError, LabUnavailableError
from tests.kernel.lab.flavours import FLAVOURS, prepare
from tests.kernel.lab.vm import Machine, boot
from tests.kernel.simulated_host import with_sriov
from vfiohost import recording

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vfiohost.recording import Recording

RULES = ("test_edge_cases.py", "test_differences.py")
"""What a kernel does, by itself and in its simulation: most of the tests."""
SEQUENCES = "test_differential.py"
"""Random sequences: a few tests, each of which takes minutes."""
ALONE = (SEQUENCES, "test_safe.py")
"""What is done for itself. What must come back in time is best begun late, when no kernel is being
built any more."""
SETTLE_SECONDS = 300.0
RECORD_SECONDS = 300.0


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--kernel``."""
    parser.addoption(
        "--kernel",
        metavar="FLAVOUR[,FLAVOUR...]",
        default="",
        help=f"run the tests on real kernels: {', '.join(FLAVOURS)}",
    )
    parser.addoption(
        "--boot-image",
        metavar="PROGRAM[,PROGRAM...]",
        default="",
        help=f"boot whole systems, with initramfs made by: {', '.join(GENERATORS)}",
    )
    parser.addoption(
        "--steps",
        type=int,
        default=2000,
        help="how many random steps the real kernels and the simulated one take, in equal shares "
        "and from seeds of their own (default: 2000)",
    )
    parser.addoption("--seed", type=int, default=1, help="the first random sequence (default: 1)")
    parser.addoption(
        "--record-start",
        metavar="FILE",
        default="",
        help="write the recording of the host that the random sequences start with",
    )
    parser.addoption(
        "--summary",
        metavar="FILE",
        default="",
        help="write what the random sequences have shown: Markdown (.md) or JSON",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marks."""
    config.addinivalue_line("markers", "kernel: runs in the lab, when --kernel names a kernel")
    config.addinivalue_line("markers", "boot_image: boots a system, when --boot-image names one")
    config.addinivalue_line(
        "markers", "with_kernels: is run where --kernel names one, and needs none"
    )
    config.addinivalue_line("markers", "flavours(names): is about these kernels of the lab alone")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests with a machine once for each kernel."""
    if "flavour" in metafunc.fixturenames:
        wanted = _wanted(metafunc.config) or ("none",)
        metafunc.parametrize("flavour", wanted, scope="session", indirect=True)
    if "generator" in metafunc.fixturenames:
        images = _named(metafunc.config, "boot-image", GENERATORS) or ("none",)
        metafunc.parametrize("generator", images)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests with a machine, and leave out those that are of no use.

    That is all of them when no kernel was asked for, and cases that are about other kernels.
    """
    in_lab = [item for item in items if "machines" in getattr(item, "fixturenames", ())]
    for item in in_lab:
        item.add_marker("kernel")
    wanted = _wanted(config)
    left_out = {item for item in in_lab if not wanted or not _is_about_its_kernel(item)}
    if not wanted:
        left_out |= {item for item in items if item.get_closest_marker("with_kernels")}
    booted = [item for item in items if "generator" in getattr(item, "fixturenames", ())]
    for item in booted:
        item.add_marker("boot_image")
    if not _named(config, "boot-image", GENERATORS):
        left_out |= set(booted)
    if left_out:
        config.hook.pytest_deselected(items=list(left_out))
        items[:] = [item for item in items if item not in left_out]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With pytest-xdist, what can share a machine stays in one process; see :func:`scope_of`.

    Its own way to say so, the mark ``xdist_group``, does nothing with pytest 9.2.
    """
    from xdist.scheduler import LoadScopeScheduling  # noqa: PLC0415 - only where it is used

    class ByMachine(LoadScopeScheduling):  # type: ignore[misc]  # it has no types
        def _split_scope(self, nodeid: str) -> str:
            return scope_of(nodeid)

        def _assign_work_unit(self, node: Any) -> None:
            before = next(reversed(self.assigned_work[node]), "")
            best = min(self.workqueue, key=lambda scope: turn_of(scope, before))
            self.workqueue.move_to_end(best, last=False)
            super()._assign_work_unit(node)

    return ByMachine(config, log)


def scope_of(nodeid: str) -> str:
    """Name what is done in one process: a part of the tests of a kernel, or a test without one."""
    kernel = kernel_of(nodeid)
    if kernel is None:
        return nodeid
    file = nodeid.partition("::")[0].rpartition("/")[2]
    part = "rules" if file in RULES else file if file in ALONE else "product"
    return f"{kernel} {part}"


def turn_of(scope: str, before: str) -> tuple[bool, bool, bool]:
    """When a scope is begun by a process: the least first, and of those the one with most tests.

    What takes long must not be begun last, when other processes have nothing left to do. Of that, a
    process stays with the kernel that it has a machine of.

    Args:
        scope: what is to be done.
        before: what the process has done last, or nothing.
    """
    kernel, _, part = scope.rpartition(" ")
    is_short = part not in ("rules", "product", SEQUENCES)
    return is_short, kernel != before.rpartition(" ")[0], part == SEQUENCES


def kernel_of(nodeid: str) -> str | None:
    """The kernel that a test with a machine is about, by the test's name; else ``None``."""
    words = re.split(r"[][-]", nodeid.partition("::")[2])
    return next((word for word in words if word in FLAVOURS), None)


def _is_about_its_kernel(item: pytest.Item) -> bool:
    parameters = item.callspec.params if isinstance(item, pytest.Function) else {}
    case, mark = parameters.get("case"), item.get_closest_marker("flavours")
    flavours = case.flavours if isinstance(case, Case) else mark.args if mark else FLAVOURS
    return parameters["flavour"] in flavours


def _wanted(config: pytest.Config) -> tuple[str, ...]:
    return _named(config, "kernel", FLAVOURS)


def _named(config: pytest.Config, option: str, known: tuple[str, ...]) -> tuple[str, ...]:
    """Return what an option asks for; a run of all tests does not even have the option."""
    text = config.getoption(option.replace("-", "_"), "")
    wanted = tuple(part for part in text.split(",") if part)
    unknown = sorted(set(wanted) - set(known))
    if unknown:
        raise pytest.UsageError(f"--{option}: no {', '.join(unknown)}; there are {known}")
    return wanted


class Machines:
    """The machine of one kernel, booted when it is first needed and again when it is broken."""

    def __init__(self, flavour: str) -> None:
        self.image = prepare(flavour)
        self.machine: Machine | None = None
        self._cannot_boot: LabError | None = None

    def get(self) -> Machine:
        """Return a running machine in its first state.

        Raises:
            LabError: it does not boot; once that is so, it is not tried again for each test.
        """
        if self._cannot_boot is not None:
            raise self._cannot_boot
        if self.machine is None:
            try:
                machine = boot(self.image)
            except LabError as error:
                self._cannot_boot = error
                raise
            try:
                machine.call(state.set_up, within=SETTLE_SECONDS)
            except BaseException:
                machine.close()  # nobody gets one that is not in its first state
                raise
            self.machine = machine
        return self.machine

    def settle(self) -> None:
        """Bring the machine back to its first state, or drop it.

        Raises:
            LabError: it had to be dropped; with the reason.
        """
        if self.machine is None:
            return
        try:
            self.machine.kill(*(self.machine.workers - {"main"}))
            self.machine.call(state.tidy_up, within=SETTLE_SECONDS)
        except LabError as error:
            console = self.machine.console()
            self.drop()
            raise LabError(f"the test left a broken machine: {error}\n{console}") from error

    def drop(self) -> None:
        """End the machine."""
        if self.machine is not None:
            self.machine.close()
        self.machine = None


@pytest.fixture(scope="session")
def flavour(request: pytest.FixtureRequest) -> str:
    """The name of the kernel that a test runs on."""
    return str(request.param)


@pytest.fixture(scope="session")
def machines(flavour: str) -> Iterator[Machines]:
    """The machine of this kernel."""
    try:
        found = Machines(flavour)
    except LabUnavailableError as error:
        if os.environ.get("CI"):
            pytest.fail(f"CI must be able to run the lab: {error}")
        pytest.skip(f"the lab cannot run here: {error}")
    yield found
    found.drop()


@pytest.fixture
def lab(machines: Machines) -> Iterator[Machine]:
    """A machine in its first state: no display driver is loaded, everything else is native."""
    yield machines.get()
    machines.settle()


@pytest.fixture(scope="session")
def recorded(machines: Machines) -> Recording:
    """A recording of the machine in its first state."""
    text = machines.get().call(observing.record, "the lab's machine", within=RECORD_SECONDS)
    return recording.parse(text)


@pytest.fixture(scope="session")
def recorded_with_nvidia(machines: Machines) -> Recording:
    """A recording of the machine where random sequences start.

    The stand-in for NVIDIA's driver is loaded and makes virtual functions when it is told to.
    """
    machine = machines.get()
    machine.call(start.begin)
    text = machine.call(observing.record, "the lab's machine with vGPUs", within=RECORD_SECONDS)
    machines.settle()
    return with_sriov(recording.parse(text))


@pytest.fixture(scope="session")
def memory() -> Iterator[Path]:
    """A folder for simulated hosts, which are thousands of small files: disks are slow at them."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(
        prefix="vfiohost-", dir=memory if memory.is_dir() else None
    ) as folder:
        yield Path(folder)


@pytest.fixture
def in_memory(memory: Path) -> Iterator[Path]:
    """A new folder in memory."""
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)
