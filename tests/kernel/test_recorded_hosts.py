"""The recorded hosts and the README, on the machines that the hosts are recorded from."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import pytest

from tests.kernel.command import drivers
from tests.kernel.lab import fixtures, guest, hosts
from vfiohost.testing import load

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.kernel.conftest import Machines
    from tests.kernel.lab.vm import Machine
    from vfiohost.recording import Recording

README = (Path(__file__).parents[2] / "README.md").read_text()
UUID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")
SECONDS = 900.0


@pytest.fixture
def host(machines: Machines, request: pytest.FixtureRequest) -> Iterator[Machine]:
    """A machine of :mod:`tests.kernel.lab.hosts`, beside the one of the other tests."""
    with fixtures.booted(request.param, machines.image) as machine:
        yield machine


def block(kind: str) -> str:
    """A marked block of the README."""
    found = re.search(rf"<!-- {kind} -->\n```\w+\n(.*?)```", README, re.DOTALL)
    assert found is not None
    return found[1]


def tried(root: str) -> str:
    """The README's lines for one of its hosts, as they are on a live one."""
    option = f" --root {root}"
    return "\n".join(
        line.replace(option, "") for line in block("run: try").splitlines() if option in line
    )


def shown() -> tuple[list[str], list[str]]:
    """What the README shows of its first host, and of its second one."""
    lines = masked(block("output: try").replace("> host/sys", "> /sys"))
    first = next(number for number, line in enumerate(lines) if line.startswith("UUID"))
    return lines[:first], lines[first:]


def masked(text: str) -> list[str]:
    return UUID.sub("UUID", text).splitlines()


def shell(host: Machine, script: str) -> list[str]:
    """Run lines in the guest; what they printed."""
    path = f"PATH={Path(sys.executable).parent}{os.pathsep}$PATH"
    script = f'exec 2>&1\n{path}\nsudo() {{ "$@"; }}\n{script}\n'
    done = host.call(guest.run, ["sh", "-e", "-c", script], within=SECONDS)
    assert done["status"] == 0, done["stdout"]
    return masked(done["stdout"])


def assert_in_order(expected: list[str], lines: list[str]) -> None:
    rest = iter(lines)
    for line in expected:
        assert line in rest, f"{line!r} is missing, or out of order, in:\n" + "\n".join(lines)


def assert_as_recorded(name: str, host: Machine) -> None:
    """A new recording says what the fixture says, as far as it is the same kernel."""
    now, fixture = fixtures.record(name, host), load(name)

    def comparable(found: Recording) -> Recording:
        # The list of modules and pci.ids change from version to version.
        if now.kernel == fixture.kernel:
            return attrs.evolve(found, source="", files=())
        return attrs.evolve(found, source="", files=(), kernel=None, modules=())

    assert comparable(now) == comparable(fixture)


# What the README shows names the driver of the console, which the built kernel lacks.
@pytest.mark.flavours("6.12", "6.1")
@pytest.mark.parametrize("host", ["a10-pair-nouveau"], indirect=True)
def test_main_job_of_the_readme_on_two_a10(host: Machine) -> None:
    if host.release.startswith("6.12.") and "deb" in host.release:
        assert_as_recorded("a10-pair-nouveau", host)
    assert drivers(host, *hosts.A10S) == ["nouveau", "nouveau"]
    assert_in_order(shown()[0], shell(host, tried("host")))
    assert drivers(host, *hosts.A10S) == ["nouveau", "nouveau"]
    printed = "\n".join(shell(host, block("run: live")))
    assert printed.count("nouveau -> vfio-pci") == 3
    assert printed.count("vfio-pci -> nouveau") == 2  # and one by `undo`
    assert drivers(host, *hosts.A10S) == ["nouveau", "nouveau"]


@pytest.mark.parametrize("host", ["a10-pair-vgpu"], indirect=True)
def test_vgpus_of_the_readme_on_two_a10(host: Machine) -> None:
    if host.release.startswith("6.12.") and "deb" in host.release:
        assert_as_recorded("a10-pair-vgpu", host)
    printed = shell(host, tried("vgpu"))
    assert_in_order(shown()[1], printed)
    assert printed[-2:] == ["UUID  removed"] * 2
    assert host.call(guest.listdir, "/sys/bus/mdev/devices") == []
