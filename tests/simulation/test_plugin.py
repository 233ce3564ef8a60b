"""The pytest plugin, as a project that has vfiohost installed meets it."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from vfiohost.testing import SimulatedKernel

pytest_plugins = ["pytester"]


def test_a_project_gets_simulated_hosts(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\n")  # else that of the source tree may count, and its package
    pytester.makepyfile(
        """
        from pathlib import Path

        from vfiohost.recording import Recording

        def test_one(simulated_host, tmp_path):
            kernel = simulated_host("a10-pair-nouveau")
            kernel.store("sys/bus/pci/drivers/nouveau/unbind", "0000:65:00.0", timeout=5)
            assert not kernel.sysfs.exists("sys/bus/pci/devices/0000:65:00.0/driver")
            assert Path(kernel.root).is_relative_to(tmp_path)

        def test_several(simulated_host):
            first, second = simulated_host("a10-pair"), simulated_host("a10-pair")
            assert first.root != second.root

        def test_a_recording_of_ones_own(simulated_host):
            kernel = simulated_host(Recording(title="empty", source="made up"))
            assert kernel.sysfs.listdir("sys/bus/pci/devices") == []

        def test_a_name_that_is_none(simulated_host):
            simulated_host("a10-pear")
        """
    )
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(["*NotFoundError: There is no recording 'a10-pear'*a10-pair*"])


def test_a_project_that_does_not_ask_pays_nothing() -> None:
    script = """
import sys
import vfiohost.testing.pytest_plugin
print(*sorted(name for name in sys.modules if name.startswith("vfiohost")))
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["vfiohost", "vfiohost.testing", "vfiohost.testing.pytest_plugin"]


def test_the_fixture_in_this_very_run(simulated_host: Callable[[str], SimulatedKernel]) -> None:
    kernel = simulated_host("mtty")
    assert kernel.sysfs.listdir("sys/class/mdev_bus") == ["mdpy", "mtty"]
