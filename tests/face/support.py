"""What the tests of the command share: what a run came to, golden files, the published schema."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Protocol

import attrs
import jsonschema
import pytest
from jsonschema.exceptions import best_match

from tests.face.in_use import in_use
from vfiohost import recording

GOLDEN = Path(__file__).parent / "golden"
HOSTS = Path(__file__).parents[2] / "fixtures" / "sysfs"

_RANDOM_UUID = re.compile(
    r"\b[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}\b"
)

PCI_IDS = """\
10de  NVIDIA Corporation
\t1ad8  TU104 USB 3.1 Host Controller
\t1e87  TU104 [GeForce RTX 2080 Rev. A]
\t2236  GA102GL [A10]
\t\t10de 1482  A10
8086  Intel Corporation
C 01  Mass storage controller
\t06  SATA controller
C 02  Network controller
\t00  Ethernet controller
C 03  Display controller
\t00  VGA compatible controller
\t02  3D controller
C 04  Multimedia controller
\t03  Audio device
C 06  Bridge
\t00  Host bridge
\t04  PCI bridge
C 0c  Serial bus controller
\t03  USB controller
"""
"""A pci.ids below the root, so that no test depends on that of the machine."""


@attrs.frozen
class Ran:
    """What a command came to."""

    code: int
    out: str
    err: str

    @property
    def value(self) -> dict[str, Any]:
        """The one JSON object on stdout, checked against the published schema."""
        value: dict[str, Any] = json.loads(self.out)
        error = best_match(validator().iter_errors(value))
        assert error is None, f"{error.json_path}: {error.message[:300]}"
        assert value.get("exit_code", self.code) == self.code
        return value


@cache
def validator() -> jsonschema.Draft202012Validator:
    schema = json.loads(files("vfiohost").joinpath("schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


class Runner(Protocol):
    """``vfiohost ARGV`` in this process; ``root`` becomes ``--root``."""

    def __call__(self, *argv: str, root: Path | None = None) -> Ran: ...


Maker = Callable[[str], Path]
"""Makes the directory of a fixture."""


def read_recording(name: str) -> recording.Recording:
    """Read a fixture.

    ``few-vfs`` is ``a10-pair-vgpu`` with 3 virtual functions on each GPU; ``in-use`` is that with
    everything in use.
    """
    if name == "in-use":
        return in_use(read_recording("few-vfs"))
    if name != "few-vfs":
        return recording.parse((HOSTS / f"{name}.host").read_text())
    whole = read_recording("a10-pair-vgpu")
    kept = tuple(f for f in whole.functions if f.vf_index is None or f.vf_index < 3)
    return attrs.evolve(whole, functions=kept)


def place_names(root: Path) -> None:
    path = root / "usr/share/misc/pci.ids"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(PCI_IDS)


def under_mounts(
    root: Path, places: list[str], program: str, *words: str
) -> subprocess.CompletedProcess[str]:
    """What a program of the machine says and does where some folders of a root are its own.

    Nobody answers as a kernel would. Without the program, or without root, the test is skipped.
    """
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    if shutil.which(program, path=path) is None:
        pytest.skip(f"{program} is not installed")
    if os.geteuid() != 0:
        pytest.skip("a mount namespace needs root")
    mounts = "".join(f'mount --bind "$0/{place}" /{place} && ' for place in places)
    return subprocess.run(
        ["unshare", "-m", "sh", "-c", f'{mounts}exec {program} "$@"', str(root), *words],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | {"PATH": path},
    )


def steady(text: str, root: Path | None) -> str:
    """Take out of a text what differs from run to run: root, date, random UUIDs, journal ids."""
    if root is not None:
        text = text.replace(str(root), "ROOT")
    text = re.sub(r"\b\d{8}T\d{6}\.\d{6}Z-[0-9a-f]{8}\b", "JOURNAL", text)
    text = re.sub(r"on \d{4}-\d\d-\d\d with vfiohost [^ ;]+", "on DATE with vfiohost VERSION", text)
    found: dict[str, str] = {}

    def numbered(match: re.Match[str]) -> str:
        return found.setdefault(match[0], f"UUID-{len(found) + 1}".ljust(len(match[0]), "-"))

    return _RANDOM_UUID.sub(numbered, text)


def check_golden(name: str, ran: Ran, root: Path | None = None) -> None:
    """Compare a run with its golden file; ``VFIOHOST_UPDATE_GOLDEN=1`` writes it anew."""
    parts = [f"exit {ran.code}\n", "--- stdout\n", ran.out, "--- stderr\n", ran.err]
    text = steady("".join(parts), root)
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("VFIOHOST_UPDATE_GOLDEN"):
        path.write_text(text)
    assert path.is_file(), f"there is no {path}: make it with VFIOHOST_UPDATE_GOLDEN=1"
    assert text == path.read_text()
