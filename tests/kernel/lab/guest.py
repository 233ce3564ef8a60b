"""Functions that are called in the guest: small, with arguments and results that JSON carries."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path


def run(command: list[str], stdin: str = "") -> dict[str, int | str]:
    """Run a program and return its ``status``, ``stdout`` and ``stderr``."""
    done = subprocess.run(command, input=stdin, check=False, capture_output=True, text=True)
    return {"status": done.returncode, "stdout": done.stdout, "stderr": done.stderr}


def store(path: str, value: str) -> list[str | int] | None:
    """Store a value with one open and one write.

    Returns:
        ``None``, or the phase that failed (``open`` or ``write``) and its errno.
    """
    try:
        fd = os.open(path, os.O_WRONLY)
    except OSError as error:
        return ["open", error.errno or 0]
    try:
        os.write(fd, value.encode())
    except OSError as error:
        return ["write", error.errno or 0]
    finally:
        os.close(fd)
    return None


def read(path: str) -> str:
    """Read a text file."""
    return Path(path).read_text()


def readlink(path: str) -> str | None:
    """Read the last component of a link's target, or ``None`` when there is no such link."""
    try:
        return Path(path).readlink().name
    except FileNotFoundError:
        return None


def listdir(path: str) -> list[str]:
    """List a folder, sorted."""
    return sorted(os.listdir(path))
