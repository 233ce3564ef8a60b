"""Functions that are called in the guest: small, with arguments and results that JSON carries."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

NOBODY = 65534

_kept: dict[str, int] = {}
"""What :func:`keep` has opened in this worker."""


def pid() -> int:
    """The process id of the worker."""
    return os.getpid()


def run(command: list[str], stdin: str = "") -> dict[str, int | str]:
    """Run a program and return its ``status``, ``stdout`` and ``stderr``."""
    done = subprocess.run(command, input=stdin, check=False, capture_output=True, text=True)
    return {"status": done.returncode, "stdout": done.stdout, "stderr": done.stderr}


def store(path: str, value: str, *, as_root: bool = True) -> list[str | int] | None:
    """Store a value with one open and one write.

    Returns:
        ``None``, or the phase that failed (``open`` or ``write``) and its errno.
    """
    if as_root:
        return _store(path, value)
    os.seteuid(NOBODY)
    try:
        return _store(path, value)
    finally:
        os.seteuid(0)


def _store(path: str, value: str) -> list[str | int] | None:
    phase = "open"
    try:
        fd = os.open(path, os.O_WRONLY)
        try:
            phase = "write"
            os.write(fd, value.encode())
        finally:
            os.close(fd)
    except OSError as error:
        return [phase, error.errno or 0]
    return None


def keep(path: str) -> list[str | int] | None:
    """Open an attribute for writing, and its folder, in place of those that are kept open.

    Returns:
        As :func:`store` does.
    """
    while _kept:
        os.close(_kept.popitem()[1])
    folder, name = os.path.split(path)
    try:
        _kept["folder"] = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        _kept[name] = os.open(name, os.O_WRONLY, dir_fd=_kept["folder"])
    except OSError as error:
        return ["open", error.errno or 0]
    return None


def write_kept(value: str) -> list[str | int] | None:
    """Write to the attribute that is kept open."""
    try:
        os.write(_kept[_kept_name()], value.encode())
    except OSError as error:
        return ["write", error.errno or 0]
    return None


def open_again() -> list[str | int] | None:
    """Open the attribute that is kept open once more, in its folder that is."""
    try:
        os.close(os.open(_kept_name(), os.O_WRONLY, dir_fd=_kept["folder"]))
    except OSError as error:
        return ["open", error.errno or 0]
    return None


def _kept_name() -> str:
    return next(name for name in _kept if name != "folder")


def store_together(
    stores: list[list[str]], *, one_file: bool = False
) -> list[tuple[list[str | int] | None, float]]:
    """Store values at the same time, in as many threads.

    Args:
        stores: path and value of each.
        one_file: through one file descriptor, of the first one's path.

    Returns:
        For each what :func:`store` tells, and when it ended, by the guest's clock.
    """
    start = threading.Barrier(len(stores))
    files = [os.open(path, os.O_WRONLY) for path, _ in (stores[:1] if one_file else stores)]

    def write(number: int) -> tuple[list[str | int] | None, float]:
        failed: list[str | int] | None = None
        start.wait()
        try:
            os.write(files[0 if one_file else number], stores[number][1].encode())
        except OSError as error:
            failed = ["write", error.errno or 0]
        return failed, time.monotonic()

    try:
        with ThreadPoolExecutor(len(stores)) as pool:
            return list(pool.map(write, range(len(stores))))
    finally:
        for fd in files:
            os.close(fd)


def read(path: str) -> str:
    """Read a text file."""
    return Path(path).read_text()


def attribute(path: str) -> str:
    """Read an attribute of a device, with plain system calls: after each test, all are read."""
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.read(fd, 4096).decode().strip()
    finally:
        os.close(fd)


def write(path: str, text: str) -> None:
    """Write a text file, in a folder that is made when it is not there."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)


def read_if_there(path: str) -> str | None:
    """Read a text file, or return ``None`` when there is none."""
    try:
        return read(path)
    except FileNotFoundError:
        return None


def readlink(path: str) -> str | None:
    """Read the last component of a link's target, or ``None`` when there is no such link."""
    try:
        return os.readlink(path).rpartition("/")[2]
    except FileNotFoundError:
        return None


def listdir(path: str) -> list[str]:
    """List a folder, sorted; one that is not there is empty."""
    try:
        return sorted(os.listdir(path))
    except (FileNotFoundError, NotADirectoryError):
        return []


def groups() -> dict[str, list[str]]:
    """List the IOMMU groups with their devices."""
    top = "/sys/kernel/iommu_groups"
    return {group: listdir(f"{top}/{group}/devices") for group in listdir(top)}


def load(module: str, *parameters: str) -> None:
    """Load a module.

    Raises:
        RuntimeError: it cannot be loaded.
    """
    done = run(["modprobe", module, *parameters])
    if done["status"] != 0:
        raise RuntimeError(done["stderr"])


def mdev_types(parent: str) -> dict[str, dict[str, str]]:
    """Read the mdev types of a parent with all that they tell; not each has a description."""
    top = f"/sys/class/mdev_bus/{parent}/mdev_supported_types"
    names = ("name", "available_instances", "description", "device_api")
    return {
        name: {
            key: read(f"{top}/{name}/{key}").rstrip("\n")
            for key in names
            if Path(f"{top}/{name}/{key}").exists()
        }
        for name in listdir(top)
    }


def mdevs() -> dict[str, list[str]]:
    """Find the mediated devices; the address of the card and the name of the type for each."""
    found = {}
    for uuid in listdir("/sys/bus/mdev/devices"):
        device = Path(f"/sys/bus/mdev/devices/{uuid}").resolve()
        parent = device.parent
        card = readlink(f"{parent}/physfn") or parent.name
        found[uuid] = [card, read(f"{device}/mdev_type/name").strip()]
    return found
