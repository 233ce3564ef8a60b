"""What all tests share: how skips are judged, how Hypothesis runs, and which signals arrive."""

from __future__ import annotations

import importlib
import pkgutil
import signal
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

import vfiohost

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

# No deadline: the machine does other things too, and a slow example is no bug. Examples are derived
# from the test alone, so that a run can be repeated anywhere.
settings.register_profile(
    "vfiohost",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("vfiohost")


def pytest_sessionstart() -> None:
    """Import all of the package, whatever tests come first.

    Hypothesis tries the constants of all modules that are there (its ``constants_ast``), so that
    examples would depend on what this worker has run before.
    """
    for module in pkgutil.walk_packages(vfiohost.__path__, "vfiohost."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--fail-on-skip``."""
    parser.addoption(
        "--fail-on-skip",
        action="store_true",
        help="count every skipped test as failed: CI has everything that tests need",
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip into a failure under ``--fail-on-skip``."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and item.config.option.fail_on_skip:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, which --fail-on-skip forbids: {reason}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Turn the skip of a whole module into a failure under ``--fail-on-skip``."""
    report = yield
    if report.skipped and collector.config.option.fail_on_skip:
        report.outcome = "failed"
        report.longrepr = f"{collector.nodeid} was skipped as a whole, which --fail-on-skip forbids"
    return report


@pytest.fixture(autouse=True, scope="session")
def signals_arrive() -> Iterator[None]:
    """Let signals arrive that the tests' parent ignores.

    A shell ignores SIGINT for what it starts in the background, and nohup ignores SIGHUP; children
    inherit that, and vfiohost leaves a signal ignored that it finds ignored.
    """
    inherited = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGHUP)}
    if inherited[signal.SIGINT] is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if inherited[signal.SIGHUP] is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    for number, handler in inherited.items():
        signal.signal(number, handler)
