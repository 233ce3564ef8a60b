"""The simulated kernel as an executor of scenarios."""

from __future__ import annotations

import os
from errno import errorcode
from pathlib import Path
from typing import TYPE_CHECKING

from tests.kernel.scenario import (
    Action,
    Close,
    Finish,
    Keep,
    Load,
    Open,
    OpenAgain,
    Store,
    Unload,
    Write,
)
from vfiohost.errors import KernelError, NotFoundError, StoreTimeoutError

if TYPE_CHECKING:
    from vfiohost.testing import SimulatedKernel
    from vfiohost.testing.kernel import Holder, OpenAttribute

PATIENCE = 0.2


class Simulated:
    """Does what scenarios say to a simulated host."""

    def __init__(self, kernel: SimulatedKernel) -> None:
        self._kernel = kernel
        self._root = Path(kernel.root)
        self._holders: list[Holder] = []
        self._blocked: list[int] = []
        self._kept: OpenAttribute | None = None
        self._kept_folder = -1
        self._kept_name = ""

    def perform(self, action: Action) -> str:
        """Do an action and return its outcome."""
        match action:
            case Keep() | Write() | OpenAgain():
                return self._keeper(action)
            case Store():
                return self._store(action)
            case Load() | Unload():
                return self._modprobe(action)
            case Open(subject, only_group):
                return self._open(subject, only_group=only_group)
            case Close():
                while self._holders:
                    self._holders.pop().close()
                return "ok"
            case Finish():
                assert self._blocked, "nothing has blocked"
                number = self._kernel.answers[self._blocked.pop(0)].errno
                return "pending" if number is None else _outcome("write", number)

    def link(self, path: str) -> str | None:
        """Read the last component of a link's target."""
        try:
            return self._at(path).readlink().name
        except FileNotFoundError:
            return None

    def text(self, path: str) -> str | None:
        """Read a file without the newline at its end."""
        try:
            return self._at(path).read_text().removesuffix("\n")
        except FileNotFoundError:
            return None

    def names(self, path: str) -> list[str]:
        """List a folder; one that is not there is empty."""
        folder = self._at(path)
        return sorted(each.name for each in folder.iterdir()) if folder.is_dir() else []

    def _at(self, path: str) -> Path:
        return self._root / path.lstrip("/")

    def _store(self, store: Store) -> str:
        path = store.path.lstrip("/")
        try:
            self._kernel.store(path, store.value, timeout=PATIENCE, as_root=store.as_root)
        except KernelError as error:
            return _outcome(error.op, error.errno or 0)
        except StoreTimeoutError:
            self._blocked.append(len(self._kernel.answers) - 1)
            return "blocks"
        return "ok"

    def _modprobe(self, action: Load | Unload) -> str:
        kernel = self._kernel
        do = kernel.load_module if isinstance(action, Load) else kernel.unload_module
        try:
            do(action.module, timeout=PATIENCE)
        except KernelError:
            return "fails"
        return "ok"

    def _keeper(self, action: Keep | Write | OpenAgain) -> str:
        """Do something with the attribute that is kept open."""
        try:
            match action:
                case Keep(path):
                    self._keep(path)
                case Write(value):
                    assert self._kept is not None, "nothing is kept open"
                    self._kept.write(value, timeout=PATIENCE)
                case OpenAgain():
                    os.close(os.open(self._kept_name, os.O_WRONLY, dir_fd=self._kept_folder))
        except KernelError as error:
            return _outcome(error.op, error.errno or 0)
        except OSError as error:
            return _outcome("open", error.errno or 0)
        return "ok"

    def _keep(self, path: str) -> None:
        self._kept = self._kernel.open_attribute(path.lstrip("/"))
        folder, self._kept_name = os.path.split(path)
        self._kept_folder = os.open(self._at(folder), os.O_RDONLY | os.O_DIRECTORY)

    def _open(self, subject: str, *, only_group: bool) -> str:
        kernel = self._kernel
        try:
            if only_group:
                group = self.link(f"/sys/bus/pci/devices/{subject}/iommu_group")
                self._holders.append(kernel.open_group(int(group or -1), owned=False))
            elif ":" in subject:
                self._holders.append(kernel.open_device(subject))
            else:
                self._holders.append(kernel.open_mdev(subject))
        except NotFoundError:
            return "group ENOENT"
        except KernelError as error:
            return _outcome(error.op, error.errno or 0)
        return "ok"


def _outcome(phase: str, number: int) -> str:
    return f"{phase} {errorcode[number]}" if number else "ok"
