"""Files below the root: whole or not at all, and never beyond it."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from vfiohost.errors import KernelError
from vfiohost.rooted import LIMIT, Found, list_folder, read_file, remove_file, write_file
from vfiohost.sysfs import Sysfs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PATH = "etc/driverctl.d/pci-0000:65:00.0"


@pytest.fixture
def sysfs(tmp_path: Path) -> Iterator[Sysfs]:
    (tmp_path / "root").mkdir()
    with Sysfs(tmp_path / "root") as opened:
        yield opened


def test_there_and_back(sysfs: Sysfs, tmp_path: Path) -> None:
    assert read_file(sysfs, PATH) == Found()
    assert list_folder(sysfs, "etc/driverctl.d") == ()
    write_file(sysfs, PATH, "vfio-pci\n", mode=0o600)
    found = read_file(sysfs, PATH)
    assert (found.text, found.kind) == ("vfio-pci\n", None)
    assert (tmp_path / "root" / PATH).stat().st_mode & 0o777 == 0o600
    write_file(sysfs, PATH, "none")
    assert read_file(sysfs, PATH).text == "none"
    assert list_folder(sysfs, "etc/driverctl.d") == ("pci-0000:65:00.0",)
    assert remove_file(sysfs, PATH, folder_too=True)
    assert not (tmp_path / "root/etc/driverctl.d").exists()
    assert not remove_file(sysfs, PATH)


def test_a_folder_with_something_else_stays(sysfs: Sysfs) -> None:
    write_file(sysfs, PATH, "a")
    write_file(sysfs, f"{PATH}x", "b")
    assert remove_file(sysfs, PATH, folder_too=True)
    assert list_folder(sysfs, "etc/driverctl.d") == ("pci-0000:65:00.0x",)


def test_bytes_that_are_no_text_stay_the_same(sysfs: Sysfs, tmp_path: Path) -> None:
    write_file(sysfs, PATH, "")
    (tmp_path / "root" / PATH).write_bytes(b"\xff\x00a")
    text = read_file(sysfs, PATH).text
    assert text is not None
    write_file(sysfs, PATH, text)
    assert (tmp_path / "root" / PATH).read_bytes() == b"\xff\x00a"


@pytest.mark.parametrize("make", ["link", "fifo", "folder"])
def test_what_is_no_plain_file_is_neither_read_nor_replaced(
    sysfs: Sysfs, tmp_path: Path, make: str
) -> None:
    outside = tmp_path / "outside"
    outside.write_text("secret")
    write_file(sysfs, PATH, "")
    file = tmp_path / "root" / PATH
    file.unlink()
    if make == "link":
        file.symlink_to(outside)
    elif make == "fifo":
        os.mkfifo(file)
    else:
        file.mkdir()
    found = read_file(sysfs, PATH)
    assert found.text is None
    assert found.kind is not None
    for change in (lambda: write_file(sysfs, PATH, "x"), lambda: remove_file(sysfs, PATH)):
        with pytest.raises(KernelError) as error:
            change()
        assert error.value.errno == errno.EEXIST
    assert outside.read_text() == "secret"
    assert os.path.lexists(file)


def test_a_folder_that_leads_out_stays_below_the_root(sysfs: Sysfs, tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "root/etc").symlink_to("../etc")
    with pytest.raises(KernelError):
        write_file(sysfs, "etc/host.toml", "x")  # below the root, etc leads to itself
    assert not list((tmp_path / "etc").iterdir())


def test_a_huge_file_is_none_of_ours(sysfs: Sysfs, tmp_path: Path) -> None:
    write_file(sysfs, PATH, "")
    (tmp_path / "root" / PATH).write_bytes(b"a" * (LIMIT + 1))
    assert read_file(sysfs, PATH).kind == f"a file of more than {LIMIT} bytes"


def test_a_failure_leaves_the_old_file_and_no_draft(
    sysfs: Sysfs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_file(sysfs, PATH, "old")

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr("vfiohost.rooted.os.write", full)
    with pytest.raises(KernelError) as error:
        write_file(sysfs, PATH, "new")
    monkeypatch.undo()
    assert error.value.errno == errno.ENOSPC
    assert os.listdir(tmp_path / "root/etc/driverctl.d") == ["pci-0000:65:00.0"]
    assert read_file(sysfs, PATH).text == "old"
