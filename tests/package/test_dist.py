"""The sdist and the wheel: complete, and nothing in them that does not belong there.

``nox -s wheel`` builds both, names their folder in ``VFIOHOST_DIST`` and, when they were built from
a git checkout, that in ``VFIOHOST_SOURCE``.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tarfile
import zipfile
from email.parser import HeaderParser
from pathlib import Path, PurePosixPath

import pytest

import vfiohost
from vfiohost import _native
from vfiohost.testing import fixtures

DIST = Path(os.environ["VFIOHOST_DIST"])
SOURCE = os.environ.get("VFIOHOST_SOURCE")


def one_file(pattern: str) -> Path:
    (path,) = DIST.glob(pattern)
    return path


@pytest.fixture(scope="module")
def sdist() -> set[str]:
    """The files of the sdist, relative to the top folder."""
    with tarfile.open(one_file("*.tar.gz")) as archive:
        return {m.name.partition("/")[2] for m in archive.getmembers() if m.isfile()}


@pytest.fixture(scope="module")
def wheel() -> set[str]:
    """The files of the wheel."""
    with zipfile.ZipFile(one_file("*.whl")) as archive:
        return set(archive.namelist())


@pytest.mark.skipif(SOURCE is None, reason="VFIOHOST_SOURCE names no git checkout")
def test_the_sdist_is_the_whole_source_tree(sdist: set[str]) -> None:
    listed = subprocess.run(
        ["git", "-C", str(SOURCE), "ls-files"], capture_output=True, check=True, text=True
    )
    assert set(listed.stdout.splitlines()) - sdist == {".gitignore"}


def test_the_wheel_is_the_package_the_core_the_recordings_and_the_manual(
    sdist: set[str], wheel: set[str]
) -> None:
    expected = {name for name in sdist if name.startswith("vfiohost/")}
    recorded = {name for name in sdist if name.startswith("fixtures/sysfs/")}
    assert any(name.endswith(".host") for name in recorded)
    expected |= {name.replace("fixtures/sysfs", "vfiohost/_fixtures") for name in recorded}
    expected |= {"vfiohost/_native.abi3.so"}
    expected |= {f"vfiohost-{vfiohost.__version__}.data/data/share/man/man1/vfiohost.1"}
    assert {"vfiohost/py.typed", "vfiohost/schema.json"} <= expected
    assert {name for name in wheel if ".dist-info/" not in name} == expected


def test_one_wheel_is_for_every_cpython_from_3_11_on() -> None:
    path = one_file("*.whl")
    with zipfile.ZipFile(path) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/WHEEL"))
        headers = HeaderParser().parsestr(archive.read(name).decode())
    assert headers["Tag"] == f"cp311-abi3-linux_{platform.machine()}"


def test_it_is_the_installed_wheel_that_is_tested() -> None:
    assert Path(vfiohost.__file__).parent.parent.name == "site-packages"
    assert Path(_native.__file__).name == "_native.abi3.so"


def test_the_manual_page_is_where_man_looks_for_it() -> None:
    page = Path(sys.prefix, "share", "man", "man1", "vfiohost.1")
    assert page.read_text().startswith('.\\" Made by vfiohost.cli.manual')


def test_the_installed_package_brings_the_recorded_hosts(wheel: set[str]) -> None:
    inside = {PurePosixPath(name).stem for name in wheel if name.endswith(".host")}
    assert set(fixtures.names()) == inside
    folder = Path(vfiohost.__file__).parent / "_fixtures"
    assert {path.stem for path in folder.glob("*.host")} == inside
