"""Reads a host into values: the only reader of sysfs's layout.

The scan of the PCI functions reads nothing that takes the device lock or wakes hardware, so that
it answers even on a host where an unbind is stuck; :func:`with_details` asks for the rest, with a
deadline. One thing that makes no sense becomes a :class:`~vfiohost.model.Problem` and hides
nothing else.
"""

from __future__ import annotations

import errno
import gc
import os
import posixpath
from contextlib import contextmanager
from operator import itemgetter
from typing import TYPE_CHECKING, Final, TypeVar

import attrs

from vfiohost import native
from vfiohost.errors import KernelError, ParseError
from vfiohost.modalias import ModuleIndex
from vfiohost.model import (
    SRIOV_MANAGE,
    Details,
    Driver,
    MdevBus,
    MdevParent,
    MdevType,
    MediatedDevice,
    PciAddress,
    PciDevice,
    Problem,
    ResetFacts,
    Snapshot,
    SriovFacts,
    Unavailable,
    natural_key,
)
from vfiohost.nvidia import DRIVER as NVIDIA
from vfiohost.nvidia import UNBIND_LOCK, VGPU_TYPE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from vfiohost.sysfs import Sysfs

T = TypeVar("T")

DEVICES: Final = "sys/bus/pci/devices"
ENABLE_SRIOV: Final = "sys/module/vfio_pci/parameters/enable_sriov"
DRIVERS: Final = "sys/bus/pci/drivers"
MDEV_PARENTS: Final = "sys/class/mdev_bus"
MDEV_DEVICES: Final = "sys/bus/mdev/devices"
MODULES_LIMIT: Final = 1 << 26  # bytes; Debian's modules.alias has 1.5 million
_MOST_DIGITS: Final = 20


def scan(sysfs: Sysfs, *, mdev: bool = False) -> Snapshot:
    """Read the PCI functions and drivers of a host, and its mediated devices when asked.

    Args:
        sysfs: the host.
        mdev: read ``sys/class/mdev_bus`` and ``sys/bus/mdev/devices`` too.

    Returns:
        What is there; a host without PCI or without an mdev bus has none of it. What could not be
        read or makes no sense stands in its ``problems``.
    """
    problems: list[Problem] = []
    return Snapshot(
        kernel=_kernel_release(sysfs, problems),
        devices=_functions(sysfs, problems),
        drivers=_drivers(sysfs, problems),
        mdev=_mdev_bus(sysfs, problems) if mdev else None,
        problems=tuple(problems),
    )


# PCI functions


def _functions(sysfs: Sysfs, problems: list[Problem]) -> tuple[PciDevice, ...]:
    """Read all functions, in order of address."""
    found: list[tuple[int, PciDevice]] = []
    shown = sysfs.shown(DEVICES)
    try:
        with (
            _opened(sysfs, DEVICES, os.O_RDONLY | os.O_DIRECTORY) as fd,
            _without_gc(),
        ):
            found.extend(_made(native.scan(sysfs.fd, fd, shown=shown), problems))
    except KernelError as error:
        if error.errno == errno.ENOENT:
            why = f"{shown} is not there: this host has no PCI, or it was not recorded."
        else:
            why = str(error)
        problems.append(Problem("pci", DEVICES, why))
    found.sort(key=itemgetter(0))
    return tuple(_as_registered(sysfs, device) for _, device in found)


def _as_registered(sysfs: Sysfs, device: PciDevice) -> PciDevice:
    """The device with whether NVIDIA's driver itself has made a VFIO device of it.

    Then there is ``vfio-dev`` in its directory (``__vfio_register_dev`` in
    ``drivers/vfio/vfio_main.c``, since Linux 6.1). Older kernels lack it, and so do recordings:
    they have the file for a vGPU's type, which the driver makes together with the VFIO device.
    """
    if device.driver != NVIDIA or not device.is_vf:
        return device
    try:
        is_one = any(sysfs.exists(f"{device.path}/{name}") for name in ("vfio-dev", VGPU_TYPE))
    except KernelError:  # it goes away meanwhile
        return device
    return attrs.evolve(device, brings_vfio=True) if is_one else device


def _made(
    rows: Iterable[tuple[native.FunctionRow, str, str]], problems: list[Problem]
) -> Iterator[tuple[int, PciDevice]]:
    """Make devices of rows, each with a key that sorts like its address.

    This runs once per function of the largest hosts, so that the rows in which everything is as
    usual take the short way.
    """
    physfns = _Addresses()
    for row, path, driver in rows:
        (
            key, physfn, domain, bus, slot, function, odd, vendor_id, device_id, class_code,
            subvendor, subdevice, revision, numa_node, total_vfs, group, errors,
        ) = row  # fmt: skip
        if odd:
            device = _odd_function(row, path, driver, native.field_errors(errors), problems)
            if device is not None:
                yield key, device
            continue
        yield (
            key,
            PciDevice(
                PciAddress(domain, bus, slot, function),
                vendor_id,
                device_id,
                None if subvendor < 0 else subvendor,
                None if subdevice < 0 else subdevice,
                class_code,
                None if revision < 0 else revision,
                None if numa_node < 0 else numa_node,
                driver or None,
                None if group < 0 else group,
                None if physfn < 0 else physfns[physfn],
                None if total_vfs < 0 else total_vfs,
                path,
            ),
        )


class _Addresses(dict[int, PciAddress]):
    """Addresses by ``vh_function.key``, made once: a card's functions share their physfn."""

    def __missing__(self, key: int) -> PciAddress:
        address = PciAddress(key >> 16, key >> 8 & 0xFF, key >> 3 & 0x1F, key & 7)
        return self.setdefault(key, address)


def _odd_function(
    row: native.FunctionRow,
    path: str,
    driver: str,
    errors: native.FieldErrors,
    problems: list[Problem],
) -> PciDevice | None:
    """Make a device of a row in which something is wrong; ``None`` when it has to be left out."""
    if errors.name or errors.path or errors.ids:
        problems.append(_left_out(path, errors))
        return None
    _, pf_key, *address, _, vendor_id, device_id, class_code = row[:10]
    subvendor, subdevice, revision, numa_node, total_vfs, group = row[10:16]
    physfn = None if pf_key < 0 else _Addresses()[pf_key]
    subject = str(PciAddress(*address))

    def field(value: T | None, error: int, name: str) -> T | None | Unavailable:
        if error in (0, errno.ENOENT):
            return None if value in (-1, "") else value
        unavailable = _unavailable(error)
        file = f"{DEVICES}/{subject}/{name}"
        problems.append(Problem(subject, file, f"{name} of {subject}: {unavailable}."))
        return unavailable

    if errors.modalias not in (0, errno.ENOENT):
        why = f"modalias of {subject}: {_unavailable(errors.modalias)}; its ids are from elsewhere."
        problems.append(Problem(subject, f"{DEVICES}/{subject}/modalias", why))
    return PciDevice(
        address=PciAddress(*address),
        vendor_id=vendor_id,
        device_id=device_id,
        subsystem_vendor_id=None if subvendor < 0 else subvendor,
        subsystem_device_id=None if subdevice < 0 else subdevice,
        class_code=class_code,
        revision=field(revision, errors.revision, "revision"),
        numa_node=field(numa_node, errors.numa_node, "numa_node"),
        driver=field(driver, errors.driver, "driver"),
        iommu_group=field(group, errors.iommu_group, "iommu_group"),
        physfn=field(physfn, errors.physfn, "physfn"),
        total_vfs=field(total_vfs, errors.total_vfs, "sriov_totalvfs"),
        path=path,
    )


def _left_out(path: str, errors: native.FieldErrors) -> Problem:
    """Say why an entry of ``sys/bus/pci/devices`` is no device; ``path`` may be its name alone."""
    name = path.rpartition("/")[2]
    file = f"{DEVICES}/{name}"
    if errors.name:
        return Problem(name, file, f"{name!r} among the PCI devices is no PCI address.")
    if errors.ids:
        why = f"vendor, device and class cannot be read: {_unavailable(errors.ids)}"
    elif errors.path == errno.ENOENT:
        why = "its directory is gone, or its link leads nowhere"
    elif errors.path == errno.EXDEV:
        why = "its link does not lead to a directory of that name below sys/devices"
    elif errors.path == errno.EINVAL:
        why = "it is no link"
    else:
        why = f"its directory cannot be opened: {_unavailable(errors.path)}"
    return Problem(name, file, f"{name} was left out: {why}.")


def _unavailable(error: int) -> Unavailable:
    """Make a value of one of the :class:`~vfiohost.native.FieldErrors`."""
    if error == native.MALFORMED:
        return Unavailable(0, "malformed")
    return Unavailable(error, os.strerror(error))


# Drivers and the kernel


def _kernel_release(sysfs: Sysfs, problems: list[Problem]) -> str | None:
    path = "proc/sys/kernel/osrelease"
    release = _attribute(sysfs, path)
    if isinstance(release, Unavailable):
        problems.append(Problem("kernel", path, f"The kernel release cannot be read: {release}."))
        return None
    return release


def _drivers(sysfs: Sysfs, problems: list[Problem]) -> dict[str, Driver]:
    drivers = {}
    for name in _names(sysfs, DRIVERS, problems):
        module = _link_name(sysfs, f"{DRIVERS}/{name}/module")
        if isinstance(module, Unavailable):
            path = f"{DRIVERS}/{name}/module"
            problems.append(Problem(name, path, f"The module of driver {name}: {module}."))
            module = None
        drivers[name] = Driver(name, module)
    return drivers


def read_modules(sysfs: Sysfs, release: str) -> ModuleIndex | None:
    """Read what ``lib/modules/RELEASE`` says about modules and what they are for.

    Reads ``modules.alias``, ``modules.dep`` and ``modules.builtin``, as depmod and the kernel's
    build leave them.

    Args:
        sysfs: the host.
        release: the kernel release, as in :attr:`~vfiohost.model.Snapshot.kernel`.

    Returns:
        The index, or ``None`` when there is none of these files.

    Raises:
        KernelError: a file is there but cannot be read.
    """
    texts = {}
    for name in ("modules.alias", "modules.dep", "modules.builtin"):
        try:
            texts[name] = sysfs.read(f"lib/modules/{release}/{name}", limit=MODULES_LIMIT)
        except KernelError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                raise
    if not texts:
        return None
    lines = f"{texts.get('modules.dep', '')}\n{texts.get('modules.builtin', '')}".splitlines()
    files = (line.partition(":")[0].strip() for line in lines)
    return ModuleIndex.from_texts(texts.get("modules.alias", ""), [f for f in files if f])


# What may block


def with_details(
    sysfs: Sysfs, snapshot: Snapshot, addresses: Iterable[PciAddress], *, timeout: float = 2.0
) -> Snapshot:
    """Add :class:`~vfiohost.model.Details` of some functions to a snapshot.

    Reads ``driver_override``, ``uevent``, ``boot_vga`` and ``modalias`` in a helper process: the
    first two wait for the device lock on kernels up to at least 6.1. Of devices on NVIDIA's driver
    its ``unbindLock`` below ``proc`` is read, too.

    Args:
        sysfs: the host.
        snapshot: what was scanned.
        addresses: whose details; those that the snapshot has already are read again.
        timeout: seconds for all of them; a millisecond more is given for each attribute, so that
            thousands of functions that answer are not taken for one that does not.

    Returns:
        The snapshot with the details. An attribute that did not answer in time is
        ``Unavailable(0, "device locked")``. A ``driver_override`` that is not there is
        ``Unavailable(ENOENT, …)``, since it cannot be set; the others are ``None`` then.
    """
    wanted = tuple(dict.fromkeys(addresses))
    # Those that no lock guards come first: they are answered whatever happens to the others.
    names = ("modalias", "boot_vga", "driver_override", "uevent")
    paths = [f"{DEVICES}/{address}/{name}" for name in names for address in wanted]
    locks = {a: UNBIND_LOCK.format(address=a) for a in wanted if _is_on_nvidia(snapshot, a)}
    texts = sysfs.read_bounded([*locks.values(), *paths], timeout=timeout + len(paths) / 1000)
    details = {
        address: _details({name: texts[f"{DEVICES}/{address}/{name}"] for name in names})
        for address in wanted
    }
    for address, path in locks.items():
        lock = _parsed(texts[path], _flag)
        details[address] = attrs.evolve(details[address], unbind_lock=lock)
    return attrs.evolve(snapshot, details={**snapshot.details, **details})


def _is_on_nvidia(snapshot: Snapshot, address: PciAddress) -> bool:
    device = snapshot.pci.get(address)
    return device is not None and device.driver == NVIDIA


def _details(texts: dict[str, str | Unavailable]) -> Details:
    override = texts["driver_override"]
    return Details(
        driver_override=None if override in ("(null)", "") else override,
        uevent_driver=_parsed(texts["uevent"], _uevent_driver),
        boot_vga=_parsed(texts["boot_vga"], _flag),
        modalias=_parsed(texts["modalias"], str),
    )


def _parsed(
    text: str | Unavailable, parse: Callable[[str], T | None | Unavailable]
) -> T | None | Unavailable:
    """Parse what was read; a file that is not there gives ``None``."""
    if isinstance(text, Unavailable):
        return None if text.errno == errno.ENOENT else text
    return parse(text)


def _uevent_driver(text: str) -> str | None:
    prefix = "DRIVER="
    lines = (line for line in text.splitlines() if line.startswith(prefix))
    return next((line.removeprefix(prefix) for line in lines), None)


def _flag(text: str) -> bool | Unavailable:
    return {"0": False, "1": True}.get(text, Unavailable(0, "malformed"))


# Mediated devices (drivers/vfio/mdev/mdev_sysfs.c)


def _mdev_bus(sysfs: Sysfs, problems: list[Problem]) -> MdevBus:
    parents = [
        _mdev_parent(sysfs, name, problems) for name in _names(sysfs, MDEV_PARENTS, problems)
    ]
    devices = [_mdev(sysfs, name, problems) for name in _names(sysfs, MDEV_DEVICES, problems)]
    return MdevBus(
        parents=tuple(sorted((p for p in parents if p), key=lambda p: _parent_key(p.name))),
        devices=tuple(
            sorted((d for d in devices if d), key=lambda d: (_parent_key(d.parent), d.uuid))
        ),
    )


def _mdev_parent(sysfs: Sysfs, name: str, problems: list[Problem]) -> MdevParent | None:
    path = _device_path(sysfs, f"{MDEV_PARENTS}/{name}", problems)
    if path is None:
        return None
    folder = f"{path}/mdev_supported_types"
    types = [_mdev_type(sysfs, folder, t, problems) for t in _names(sysfs, folder, problems)]
    physfn = _link_name(sysfs, f"{path}/physfn")
    if isinstance(physfn, Unavailable):
        problems.append(Problem(name, f"{path}/physfn", f"physfn of {name}: {physfn}."))
        physfn = None
    return MdevParent(
        name=name,
        path=path,
        types=tuple(sorted(types, key=lambda t: natural_key(t.type_id))),
        address=_address(name),
        physfn=None if physfn is None else _address(physfn),
    )


def _mdev_type(sysfs: Sysfs, folder: str, type_id: str, problems: list[Problem]) -> MdevType:
    path = f"{folder}/{type_id}"
    available = _attribute(sysfs, f"{path}/available_instances")
    if available is None:
        available = Unavailable(errno.ENOENT, os.strerror(errno.ENOENT))
    return MdevType(
        type_id=type_id,
        name=_reported(_attribute(sysfs, f"{path}/name"), f"{path}/name", problems),
        available_instances=_count(available),
        device_api=_attribute(sysfs, f"{path}/device_api"),
        description=_attribute(sysfs, f"{path}/description"),
    )


def _mdev(sysfs: Sysfs, uuid: str, problems: list[Problem]) -> MediatedDevice | None:
    entry = f"{MDEV_DEVICES}/{uuid}"
    path = _device_path(sysfs, entry, problems)
    if path is None:
        return None
    type_id = _link_name(sysfs, f"{entry}/mdev_type")
    if type_id is None:
        type_id = Unavailable(errno.ENOENT, os.strerror(errno.ENOENT))
    group = _link_name(sysfs, f"{entry}/iommu_group")
    return MediatedDevice(
        uuid=uuid,
        parent=path.split("/")[-2],
        type_id=type_id,
        type_name=_attribute(sysfs, f"{entry}/mdev_type/name"),
        driver=_link_name(sysfs, f"{entry}/driver"),
        iommu_group=None if group is None else _count(group),
    )


def _device_path(sysfs: Sysfs, link: str, problems: list[Problem]) -> str | None:
    """Follow a link of a bus or class to a device's directory, as text; ``None`` is a problem."""
    folder, _, name = link.rpartition("/")
    try:
        target = sysfs.readlink(link)
        path = posixpath.normpath(f"{folder}/{target}")
        if target.startswith("/") or not path.startswith("sys/devices/"):
            why = "its link does not lead to a directory below sys/devices."
        elif sysfs.exists(path):
            return path
        else:
            why = "its directory is gone, or its link leads nowhere."
    except KernelError as error:
        why = str(error)
    problems.append(Problem(name, link, f"{name} was left out: {why}"))
    return None


def _parent_key(name: str) -> tuple[bool, PciAddress | str]:
    address = _address(name)
    return (address is None, name if address is None else address)


def _address(name: str) -> PciAddress | None:
    try:
        address = PciAddress.parse(name)
    except ParseError:
        return None
    return address if str(address) == name else None


def _count(text: str | Unavailable) -> int | Unavailable:
    if isinstance(text, Unavailable):
        return text
    # No count of the kernel's has more digits than an unsigned 64-bit number.
    is_count = text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS
    return int(text) if is_count else Unavailable(0, "malformed")


def read_reset(
    sysfs: Sysfs, addresses: Sequence[PciAddress], *, timeout: float
) -> dict[PciAddress, ResetFacts]:
    """Read what a reset depends on: ``reset``, ``reset_method``, ``enable`` of each device.

    Args:
        sysfs: the host.
        addresses: the devices.
        timeout: seconds for all of them; what gave no answer in time is ``Unavailable``.
    """
    names = ("reset_method", "enable")
    paths = {(a, name): f"{DEVICES}/{a}/{name}" for a in addresses for name in names}
    texts = sysfs.read_bounded(paths.values(), timeout=timeout)

    def text(address: PciAddress, name: str) -> str | None | Unavailable:
        found = texts[paths[address, name]]
        is_absent = isinstance(found, Unavailable) and found.errno == errno.ENOENT
        return None if is_absent else found

    return {
        a: ResetFacts(sysfs.exists(f"{DEVICES}/{a}/reset"), *(text(a, name) for name in names))
        for a in addresses
    }


def read_sriov(
    sysfs: Sysfs, addresses: Sequence[PciAddress], *, timeout: float
) -> dict[PciAddress, SriovFacts]:
    """Read what making virtual functions depends on.

    Files: ``sriov_numvfs``, ``sriov_drivers_autoprobe``, ``sriov_offset``, ``sriov_stride`` and
    ``sriov_vf_device`` of each device (``drivers/pci/iov.c``), the parameter ``enable_sriov`` of
    vfio-pci, and whether there is NVIDIA's ``sriov-manage``.

    Args:
        sysfs: the host.
        addresses: physical functions.
        timeout: seconds for all of them; ``sriov_numvfs`` takes the device lock to be shown.
    """
    names = ("numvfs", "drivers_autoprobe", "offset", "stride", "vf_device")
    paths = {(a, name): f"{DEVICES}/{a}/sriov_{name}" for a in addresses for name in names}
    texts = sysfs.read_bounded([*paths.values(), ENABLE_SRIOV], timeout=timeout)

    def number(address: PciAddress, name: str, base: int = 10) -> int | None | Unavailable:
        text = texts[paths[address, name]]
        if isinstance(text, Unavailable):
            return None if text.errno == errno.ENOENT else text
        try:
            return int(text, base)
        except ValueError:
            return Unavailable(0, "not a number")

    def known(address: PciAddress, name: str, base: int = 10) -> int | None:
        found = number(address, name, base)
        return None if isinstance(found, Unavailable) else found

    has_script = sysfs.exists(SRIOV_MANAGE)
    enable = texts[ENABLE_SRIOV]
    return {
        a: SriovFacts(
            num_vfs=number(a, "numvfs") or 0,
            autoprobe=None if (probe := known(a, "drivers_autoprobe")) is None else bool(probe),
            offset=known(a, "offset"),
            stride=known(a, "stride"),
            vf_device=known(a, "vf_device", 16),
            has_script=has_script,
            enable_sriov=isinstance(enable, str) and enable.strip() == "Y",
        )
        for a in addresses
    }


# Reads that never raise


def _attribute(sysfs: Sysfs, path: str) -> str | None | Unavailable:
    """An attribute's text, or ``None`` where there is no such file."""
    return _read(sysfs.read, path)


def _link_name(sysfs: Sysfs, path: str) -> str | None | Unavailable:
    """The last component of a link's target, or ``None`` where there is no such link."""
    return _read(sysfs.link_name, path)


def _read(read: Callable[[str], str | None], path: str) -> str | None | Unavailable:
    try:
        return read(path)
    except KernelError as error:
        number = error.errno or 0
        return None if number == errno.ENOENT else Unavailable(number, os.strerror(number))


def _names(sysfs: Sysfs, path: str, problems: list[Problem]) -> list[str]:
    """The names in a directory; none where there is no such directory."""
    try:
        return sysfs.listdir(path)
    except KernelError as error:
        if error.errno != errno.ENOENT:
            problems.append(Problem(posixpath.basename(path), path, str(error)))
        return []


def _reported(text: str | None | Unavailable, path: str, problems: list[Problem]) -> str | None:
    """A text for a field that has no room for an :class:`Unavailable`."""
    if isinstance(text, Unavailable):
        problems.append(Problem(posixpath.basename(path), path, f"{path}: {text}."))
        return None
    return text


@contextmanager
def _opened(sysfs: Sysfs, path: str, flags: int) -> Iterator[int]:
    fd = native.open_in(sysfs.fd, path, flags, shown=sysfs.shown(path))
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def _without_gc() -> Iterator[None]:
    """Pause the cyclic collector: ten thousand new values without cycles are no reason to look."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
