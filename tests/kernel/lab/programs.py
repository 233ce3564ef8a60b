"""Programs of this computer that the lab is built with."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

from tests.kernel.lab.errors import LabError, LabUnavailableError

if TYPE_CHECKING:
    from pathlib import Path


def need(*programs: str) -> None:
    """Make sure that programs are there.

    Raises:
        LabUnavailableError: names those that are missing.
    """
    missing = [name for name in programs if shutil.which(name) is None]
    if missing:
        raise LabUnavailableError(f"this computer has no {', '.join(missing)}")


def run(*command: str, cwd: Path | None = None, check: bool = True) -> str:
    """Run a program and return what it printed.

    Raises:
        LabError: it failed and ``check`` is set; with the end of its output.
    """
    done = subprocess.run(
        command, cwd=cwd, check=False, text=True, capture_output=True, stdin=subprocess.DEVNULL
    )
    if check and done.returncode != 0:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-40:])
        raise LabError(f"{' '.join(command)} failed ({done.returncode}):\n{tail}")
    return done.stdout


def succeeds(*command: str) -> bool:
    """Run a program that answers with its exit status."""
    return subprocess.run(command, check=False, stdin=subprocess.DEVNULL).returncode == 0
