"""A host small enough to be understood at a glance, and a kernel that fails on command.

The host is a directory: two cards with their functions, PCI drivers, and mediated devices. The
kernel changes it as Linux does, each store atomic against a kill, unless a fault says otherwise.
"""

from __future__ import annotations

import errno
import os
import threading
from typing import TYPE_CHECKING, Literal, NoReturn

import attrs

from vfiohost.errors import KernelError, StoreTimeoutError, UnsupportedError
from vfiohost.model import PciAddress
from vfiohost.plan.types import Expect, LoadModule, Origin, Plan, Step, Store, WriteAttr

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DEVICES = "sys/bus/pci/devices"
DRIVERS = "sys/bus/pci/drivers"
MDEVS = "sys/bus/mdev/devices"
CREATE = "sys/class/mdev_bus/0000:65:00.0/mdev_supported_types/nvidia-595/create"

GPU = "0000:65:00.0"
AUDIO = "0000:65:00.1"
OTHER_GPU = "0000:b3:00.0"
NATIVE = {GPU: "nouveau", AUDIO: "snd_hda_intel", OTHER_GPU: "nouveau"}
UUIDS = ("aaaaaaaa-0000-4000-8000-000000000001", "aaaaaaaa-0000-4000-8000-000000000002")

UNSET = "(null)"

DIED = 3
"""The exit status of a process that was killed."""

_ACTING = threading.Lock()


def die() -> NoReturn:
    """Be killed. A store that is under way in another thread is not torn: its helper goes on."""
    _ACTING.acquire()
    os._exit(DIED)


def make_host(root: Path) -> Path:
    """Make the host: each device on its native driver, vfio-pci not loaded."""
    for driver in set(NATIVE.values()):
        add_driver(root, driver)
    for address, driver in NATIVE.items():
        device = root / DEVICES / address
        device.mkdir(parents=True)
        (device / "driver_override").write_text(f"{UNSET}\n")
        (device / "driver").symlink_to(f"../../drivers/{driver}")
    (root / MDEVS).mkdir(parents=True)
    (root / CREATE).parent.mkdir(parents=True)
    (root / CREATE).touch()
    boot_id = root / "proc/sys/kernel/random/boot_id"
    boot_id.parent.mkdir(parents=True)
    boot_id.write_text("11111111-2222-4333-8444-555555555555\n")
    return root


def add_groups(root: Path) -> None:
    """Give each card an IOMMU group, so that it can be told what they do not share."""
    for address in NATIVE:
        group = f"../../kernel/iommu_groups/{address[5:7]}"
        (root / DEVICES / address / "iommu_group").symlink_to(group)


def reboot(root: Path) -> None:
    """Give the host another boot id; what was in sysfs is not touched."""
    file = root / "proc/sys/kernel/random/boot_id"
    file.write_text(file.read_text().replace("1", "9"))


def add_driver(root: Path, name: str) -> None:
    directory = root / DRIVERS / name
    directory.mkdir(parents=True)
    (directory / "bind").touch()
    (directory / "unbind").touch()


def state(root: Path) -> dict[str, str]:
    """All that plans change but for loaded modules, which stay loaded."""
    found: dict[str, str] = {}
    for address in NATIVE:
        device = root / DEVICES / address
        driver = device / "driver"
        found[address] = driver.readlink().name if driver.is_symlink() else ""
        found[f"{address} override"] = (device / "driver_override").read_text()
    for mdev in (root / MDEVS).iterdir():
        found[mdev.name] = (mdev / "mdev_type").readlink().name
    return found


def files(root: Path) -> set[str]:
    """Everything below the root, to show that something made nothing."""
    return {str(path.relative_to(root)) for path in root.rglob("*")}


@attrs.frozen
class Fault:
    """How one answer of the kernel goes wrong.

    Attributes:
        kind: ``refuse`` with an errno; ``ignore``: success without effect; ``block``: no answer in
            time; ``raise``: an exception comes out of the store, as from a signal handler;
            ``die``: the calling process is gone.
        effect: the store has its effect all the same.
        errno: for ``refuse``.
        pid: for ``block``, the helper that waits.
        error: for ``raise``.
    """

    kind: Literal["refuse", "ignore", "block", "raise", "die"]
    effect: bool = False
    errno: int = errno.EBUSY
    pid: int | None = None
    error: BaseException = attrs.field(factory=KeyboardInterrupt)


class FakeKernel:
    """Answers stores on a host of :func:`make_host`.

    Args:
        root: the host.
        faults: by number of the answer, counted from 0; stores and loads count alike.

    Attributes:
        faults_of: by the attribute's name and the value.
    """

    def __init__(self, root: Path, faults: dict[int, Fault] | None = None) -> None:
        self.root = root
        self.faults = faults or {}
        self.faults_of: dict[tuple[str, str], Fault] = {}
        self.log: list[tuple[str, str]] = []
        self._counting = threading.Lock()
        self.keep_fds: list[int | None] = []
        self.writable = True
        self.give_up: Callable[[float], bool] = lambda _began: False
        self.before_store: Callable[[int], None] = lambda _: None

    def check_writable(self) -> None:
        if not self.writable:
            raise UnsupportedError("This is a recording.")

    def store(self, path: str, value: str, *, timeout: float, keep_fd: int | None = None) -> None:
        self.keep_fds.append(keep_fd)
        self._answer(path, value, timeout, lambda: self._act(path, value))

    def load_module(self, name: str, *, timeout: float, keep_fd: int | None = None) -> None:
        self.keep_fds.append(keep_fd)

        def load() -> None:
            if not (self.root / DRIVERS / name.replace("_", "-")).exists():
                add_driver(self.root, name.replace("_", "-"))

        self._answer("modprobe", name, timeout, load)

    def _answer(self, path: str, value: str, timeout: float, act: Callable[[], None]) -> None:
        with self._counting:
            number = len(self.log)
            self.log.append((path, value))
        self.before_store(number)
        name = path.rpartition("/")[2]
        fault = self.faults.get(number) or self.faults_of.get((name, value))
        if fault is None or fault.effect:
            with _ACTING:
                act()
        if fault is None:
            return
        shown = str(self.root / path)
        if fault.kind == "refuse":
            raise KernelError("write", fault.errno, shown, value)
        if fault.kind == "block":
            raise StoreTimeoutError(shown, value, fault.pid, timeout)
        if fault.kind == "raise":
            raise fault.error
        if fault.kind == "die":
            die()

    def _act(self, path: str, value: str) -> None:
        target, name = self.root / path, path.rpartition("/")[2]
        if not target.exists():
            raise KernelError("open", errno.ENOENT, str(target), value)
        number = {
            "bind": self._bind,
            "unbind": self._unbind,
            "driver_override": self._override,
            "create": self._create,
            "remove": self._remove,
        }.get(name, self._write)(target, value)
        if number:
            raise KernelError("write", number, str(target), value)

    def _bind(self, target: Path, value: str) -> int:
        driver, device = target.parent.name, self.root / DEVICES / value
        if not device.is_dir():
            return errno.ENODEV
        override = (device / "driver_override").read_text().removesuffix("\n")
        if driver != (NATIVE[value] if override == UNSET else override):
            return errno.ENODEV
        if (device / "driver").is_symlink():
            return errno.EBUSY
        (device / "driver").symlink_to(f"../../drivers/{driver}")
        return 0

    def _unbind(self, target: Path, value: str) -> int:
        link = self.root / DEVICES / value / "driver"
        if not link.is_symlink() or link.readlink().name != target.parent.name:
            return errno.ENODEV
        link.unlink()
        return 0

    def _override(self, target: Path, value: str) -> int:
        replacement = target.with_name(".driver_override")
        replacement.write_text((value.removesuffix("\n") or UNSET) + "\n")
        replacement.rename(target)
        return 0

    def _create(self, target: Path, value: str) -> int:
        device = self.root / MDEVS / value
        if device.exists():
            return errno.EEXIST
        making = self.root / f"mdev-{value}"
        making.mkdir()
        (making / "mdev_type").symlink_to(f"../types/{target.parent.name}")
        (making / "remove").touch()
        (making / "vgpu_params").touch()
        making.rename(device)
        return 0

    def _remove(self, target: Path, value: str) -> int:
        gone = self.root / f"gone-{target.parent.name}"
        target.parent.rename(gone)
        for file in gone.iterdir():
            file.unlink()
        gone.rmdir()
        return 0

    def _write(self, target: Path, value: str) -> int:
        target.write_text(value)
        return 0


def link(address: str, driver: str | None) -> Expect:
    return Expect(f"{DEVICES}/{address}/driver", "link", driver)


def override_is(address: str, value: str | None) -> Expect:
    return Expect(f"{DEVICES}/{address}/driver_override", "text", value or UNSET)


def load() -> LoadModule:
    return LoadModule("vfio_pci", Expect(f"{DRIVERS}/vfio-pci", "exists", "yes"), "load it")


def unbind(address: str, driver: str) -> WriteAttr:
    return WriteAttr(
        f"{DRIVERS}/{driver}/unbind",
        address,
        link(address, driver),
        link(address, None),
        Store(f"{DRIVERS}/{driver}/bind", address, link(address, driver)),
        f"{driver} lets go",
    )


def bind(address: str, driver: str) -> WriteAttr:
    return WriteAttr(
        f"{DRIVERS}/{driver}/bind",
        address,
        link(address, None),
        link(address, driver),
        Store(f"{DRIVERS}/{driver}/unbind", address, link(address, None)),
        f"{driver} takes it",
    )


def override(address: str, old: str | None, new: str | None) -> WriteAttr:
    path = f"{DEVICES}/{address}/driver_override"
    return WriteAttr(
        path,
        new or "\n",
        override_is(address, old),
        override_is(address, new),
        Store(path, old or "\n", override_is(address, old)),
        f"override {new}",
    )


def create(uuid: str) -> WriteAttr:
    gone = Expect(f"{MDEVS}/{uuid}", "exists", "no")
    return WriteAttr(
        CREATE,
        uuid,
        gone,
        Expect(f"{MDEVS}/{uuid}/mdev_type", "link", "nvidia-595"),
        Store(f"{MDEVS}/{uuid}/remove", "1", gone),
        "create it",
    )


def remove(uuid: str) -> WriteAttr:
    made = create(uuid)
    assert made.after is not None
    return WriteAttr(
        f"{MDEVS}/{uuid}/remove",
        "1",
        made.after,
        made.before,
        Store(CREATE, uuid, made.after),
        "remove it",
    )


def set_params(uuid: str, text: str) -> WriteAttr:
    """An attribute of which nothing is read back, and that goes with its device."""
    return WriteAttr(f"{MDEVS}/{uuid}/vgpu_params", text, None, None, None, "set parameters")


def to_vfio(address: str, *, once: bool = False) -> tuple[WriteAttr, ...]:
    """The way of one device from its native driver to vfio-pci."""
    steps = (
        unbind(address, NATIVE[address]),
        override(address, None, "vfio-pci"),
        bind(address, "vfio-pci"),
    )
    return (*steps, override(address, "vfio-pci", None)) if once else steps


def origin(address: str) -> Origin:
    return Origin(PciAddress.parse(address), NATIVE[address], None)


def bind_plan(*addresses: str, once: bool = False) -> Plan:
    """A plan that gives devices to vfio-pci, loading it first."""
    steps: list[Step] = [load()]
    for address in addresses:
        steps.extend(to_vfio(address, once=once))
    return Plan("bind", addresses, tuple(steps), tuple(map(origin, addresses)))


def restore_plan(*addresses: str) -> Plan:
    """The way back of :func:`bind_plan`, as the verb ``restore``."""
    steps: list[Step] = []
    for address in addresses:
        steps += [
            unbind(address, "vfio-pci"),
            override(address, "vfio-pci", None),
            bind(address, NATIVE[address]),
        ]
    return Plan("restore", addresses, tuple(steps), tuple(map(origin, addresses)))


def mdev_plan() -> Plan:
    """Two mediated devices, the first with an attribute."""
    return Plan(
        "mdev create",
        UUIDS,
        (create(UUIDS[0]), set_params(UUIDS[0], "frame_rate_limiter=0"), create(UUIDS[1])),
    )
