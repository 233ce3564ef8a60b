"""The simulated kernel as an executor of scenarios."""

from __future__ import annotations

import os
import re
from errno import errorcode
from pathlib import Path
from typing import TYPE_CHECKING

from tests.kernel.cases.terms import MAKES_VFS
from tests.kernel.lab.vfio_user import NO_IOMMUFD, UNKNOWN_ID
from tests.kernel.scenario import (
    Action,
    Close,
    Finish,
    GetDevice,
    Ioctl,
    Keep,
    Load,
    Open,
    OpenAgain,
    OpenCdev,
    Store,
    Together,
    Unload,
    Write,
)
from vfiohost.errors import KernelError, NotFoundError, StoreTimeoutError
from vfiohost.model import Unavailable

if TYPE_CHECKING:
    from vfiohost.testing import Cdev, Holder, Iommufd, OpenAttribute, SimulatedKernel

READ_SECONDS = 30.0
_PROBE_ERRNO = re.compile(r"/sys/module/(nouveau|nvidia)/parameters/probe_errno")


class Simulated:
    """Does what scenarios say to a simulated host.

    Attributes:
        patience: how long a store may take, in seconds, until it counts as blocked.
        blocked: numbers of the stores that have blocked, among the kernel's answers.
    """

    patience = 0.2

    def __init__(self, kernel: SimulatedKernel) -> None:
        self._kernel = kernel
        self._root = Path(kernel.root)
        self._holders: list[Holder] = []
        self._cdevs: dict[str, Cdev] = {}
        self._iommufds: dict[str, Iommufd] = {}
        self._ioas: dict[str, int] = {}
        self.blocked: list[int] = []
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
            case Open() | GetDevice() | OpenCdev() | Ioctl() | Close():
                return self._use(action)
            case Finish():
                assert self.blocked, "nothing has blocked"
                return self.outcome_of(self.blocked.pop(0))
            case Together():
                return "cannot be told: no store takes any time"

    def outcome_of(self, number: int) -> str:
        """Say how a store that blocked has ended."""
        errno = self._kernel.answers[number].errno
        return "pending" if errno is None else _outcome("write", errno)

    def link(self, path: str) -> str | None:
        """Read the last component of a link's target."""
        try:
            return self._at(path).readlink().name
        except FileNotFoundError:
            return None

    def text(self, path: str) -> str | None:
        """Read a file without the newline at its end."""
        where = path.lstrip("/")
        # What is locked tells so at once; anything else is only as slow as this computer.
        text = self._kernel.sysfs.read_bounded([where], timeout=READ_SECONDS)[where]
        if not isinstance(text, Unavailable):
            return text
        return "blocks" if text.errno == 0 else None

    def names(self, path: str) -> list[str]:
        """List a folder; one that is not there is empty."""
        folder = self._at(path)
        return sorted(each.name for each in folder.iterdir()) if folder.is_dir() else []

    def _at(self, path: str) -> Path:
        return self._root / path.lstrip("/")

    def _store(self, store: Store) -> str:
        stand_in = _PROBE_ERRNO.fullmatch(store.path)
        if stand_in is not None:
            return self._fail_probes(stand_in[1], int(store.value))
        if store == MAKES_VFS:  # is so in a recording
            return "ok"
        path = store.path.lstrip("/")
        try:
            self._kernel.store(path, store.value, timeout=self.patience, as_root=store.as_root)
        except KernelError as error:
            return _outcome(error.op, error.errno or 0)
        except StoreTimeoutError:
            self.blocked.append(len(self._kernel.answers) - 1)
            return "blocks"
        return "ok"

    def _fail_probes(self, driver: str, number: int) -> str:
        """Do what a stand-in for a driver does by a parameter of its own."""
        self._kernel.clear_faults()
        if number:
            self._kernel.fail_probe(driver, "*", number)
        return "ok"

    def _modprobe(self, action: Load | Unload) -> str:
        kernel = self._kernel
        do = kernel.load_module if isinstance(action, Load) else kernel.unload_module
        try:
            do(action.module, timeout=self.patience)
        except KernelError:
            return "fails"
        except StoreTimeoutError:
            self.blocked.append(len(self._kernel.answers) - 1)
            return "blocks"
        return "ok"

    def _keeper(self, action: Keep | Write | OpenAgain) -> str:
        """Do something with the attribute that is kept open."""
        try:
            match action:
                case Keep(path):
                    self._keep(path)
                case Write(value):
                    assert self._kept is not None, "nothing is kept open"
                    self._kept.write(value, timeout=self.patience)
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

    def _use(self, action: Open | GetDevice | OpenCdev | Ioctl | Close) -> str:
        """Let a process do something; what failed is the ioctl, when one did."""
        try:
            if isinstance(action, Close):
                while self._holders:
                    self._holders.pop().close()
            elif isinstance(action, Ioctl):
                self._ioctl(action)
            else:
                self._holders.append(self._open(action))
        except NotFoundError:
            return "group ENOENT"
        except KernelError as error:
            return _outcome(error.value or error.op, error.errno or 0)
        return "ok"

    def _open(self, action: Open | GetDevice | OpenCdev) -> Holder:
        kernel = self._kernel
        match action:
            case OpenCdev(subject):
                self._cdevs[subject] = kernel.open_cdev(subject)
                return self._cdevs[subject]
            case GetDevice(subject):
                return kernel.open_device(subject, pid=self._holders[-1].pid)
            case Open(subject):
                if action.only_group:
                    group = self.link(f"/sys/bus/pci/devices/{subject}/iommu_group")
                    return kernel.open_group(int(group or -1), owned=False)
                if ":" in subject:
                    return kernel.open_device(
                        subject, noiommu=action.noiommu, options=action.options
                    )
                return kernel.open_mdev(subject)

    def _ioctl(self, action: Ioctl) -> None:
        match action:
            case Ioctl("BIND_IOMMUFD", subject, iommufd):
                other = self._cdevs[subject] if iommufd == NO_IOMMUFD else self._iommufd(iommufd)
                self._cdevs[subject].bind_iommufd(other if iommufd else None)
            case Ioctl("ATTACH_IOMMUFD_PT", subject, ioas):
                self._cdevs[subject].attach(self._ioas.get(ioas, UNKNOWN_ID))
            case Ioctl("DETACH_IOMMUFD_PT", subject):
                self._cdevs[subject].detach()
            case Ioctl("IOAS_ALLOC", iommufd, ioas):
                self._ioas[ioas] = self._iommufd(iommufd).alloc_ioas()
            case Ioctl("DESTROY", iommufd, ioas):
                self._iommufd(iommufd).destroy(self._ioas.get(ioas, UNKNOWN_ID))
            case _:
                raise ValueError(f"there is no {action.name}")

    def _iommufd(self, name: str) -> Iommufd:
        if name not in self._iommufds:
            self._iommufds[name] = self._kernel.open_iommufd()
            self._holders.append(self._iommufds[name])
        return self._iommufds[name]


def _outcome(phase: str, number: int) -> str:
    return f"{phase} {errorcode[number]}" if number else "ok"
