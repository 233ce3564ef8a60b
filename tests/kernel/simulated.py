"""The simulated kernel as an executor of scenarios."""

from __future__ import annotations

from errno import errorcode
from pathlib import Path
from typing import TYPE_CHECKING

from tests.kernel.scenario import Action, Close, Finish, Load, Open, Store, Unload
from vfiohost.errors import KernelError, NotFoundError, StoreTimeoutError

if TYPE_CHECKING:
    from vfiohost.testing import SimulatedKernel
    from vfiohost.testing.kernel import Holder

PATIENCE = 0.2


class CannotSimulateError(Exception):
    """The simulation has no such action."""


class Simulated:
    """Does what scenarios say to a simulated host."""

    def __init__(self, kernel: SimulatedKernel) -> None:
        self._kernel = kernel
        self._root = Path(kernel.root)
        self._holders: list[Holder] = []
        self._blocked: int | None = None

    def perform(self, action: Action) -> str:
        """Do an action and return its outcome."""
        match action:
            case Store(path, value, as_root):
                if not as_root:
                    raise CannotSimulateError("every store is root's")
                return self._store(path, value)
            case Load(module):
                return self._load(module)
            case Unload():
                raise CannotSimulateError("modules are not unloaded")
            case Open(subject, only_group):
                return self._open(subject, only_group=only_group)
            case Close():
                while self._holders:
                    self._holders.pop().close()
                return "ok"
            case Finish():
                assert self._blocked is not None, "nothing has blocked"
                number = self._kernel.answers[self._blocked].errno
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

    def _store(self, path: str, value: str) -> str:
        try:
            self._kernel.store(path.lstrip("/"), value, timeout=PATIENCE)
        except KernelError as error:
            return _outcome(error.op, error.errno or 0)
        except StoreTimeoutError:
            self._blocked = len(self._kernel.answers) - 1
            return "blocks"
        return "ok"

    def _load(self, module: str) -> str:
        try:
            self._kernel.load_module(module, timeout=PATIENCE)
        except KernelError:
            return "fails"
        return "ok"

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
