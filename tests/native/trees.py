"""Small hosts for the tests of what reads them, and a look-out for files that nobody may open."""

from __future__ import annotations

import ctypes
import os
import struct
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

A10 = "pci:v000010DEd00002236sv000010DEsd00001482bc03sc02i00"
BUS = "sys/bus/pci/devices"
NOBODY = 65534


class Tree:
    """A root directory that is filled step by step."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / BUS).mkdir(parents=True)
        (root / "sys/bus/pci/drivers").mkdir(parents=True)
        self.write("proc/sys/kernel/osrelease", "6.12.117-amd64\n")

    def write(self, path: str, content: str | bytes) -> Path:
        """Make a file, and the folders above it."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return file

    def link(self, path: str, target: str) -> Path:
        """Make a symbolic link, and the folders above it."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.symlink_to(target)
        return file

    def function(
        self,
        address: str = "0000:65:00.0",
        *,
        modalias: str | None = A10,
        bridge: str = "pci0000:64",
        **files: str | bytes,
    ) -> Path:
        """Make a PCI function with the files that every kernel has; ``files`` come on top."""
        path = f"sys/devices/{bridge}/{address}"
        texts = {"revision": "0xa1\n", "numa_node": "0\n"} | files
        if modalias is not None:
            texts["modalias"] = f"{modalias}\n"
        for name, text in texts.items():
            self.write(f"{path}/{name}", text)
        self.link(f"{BUS}/{address}", f"../../../devices/{bridge}/{address}")
        return self.root / path


# What may stand in the place of an attribute.


def fifo(file: Path) -> None:
    os.mkfifo(file)


def folder(file: Path) -> None:
    file.mkdir()


def loop(file: Path) -> None:
    file.symlink_to(file.name)


def megabyte(file: Path) -> None:
    file.write_bytes(b"1" * (1 << 20))


def nul(file: Path) -> None:
    file.write_bytes(b"1\x00")


@contextmanager
def ordinary_user() -> Iterator[None]:
    """Be an ordinary user for a while: nobody, where the tests run as root."""
    if os.geteuid() != 0:
        yield
        return
    group = os.getegid()
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)


class Lookout:
    """Sees whether anybody opens or reads something (inotify)."""

    OPEN_OR_ACCESS = 0x20 | 0x01

    def __init__(self, *paths: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self.fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        for path in paths:
            watch = libc.inotify_add_watch(self.fd, os.fsencode(path), self.OPEN_OR_ACCESS)
            assert watch >= 0, os.strerror(ctypes.get_errno())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)

    def seen(self) -> int:
        """How many opens and reads there were since the last question."""
        count = 0
        try:
            events = os.read(self.fd, 65536)
        except BlockingIOError:
            return 0
        while events:
            *_, size = struct.unpack_from("iIII", events)
            events = events[16 + size :]
            count += 1
        return count
