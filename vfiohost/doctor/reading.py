"""Reads a host's facts: below the root, within bounds, and never for long.

Nothing here wakes a device. What may wait (a device lock, the firmware, the configuration space of
a bridge) is read by a helper process with a deadline. Of bridges that sleep, or that lie behind
one that does, the configuration space is not read (:mod:`vfiohost.config_space.reading`).
"""

from __future__ import annotations

import errno
import os
import posixpath
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from vfiohost.config_space import decode, find_sleepers
from vfiohost.details_scan import with_details
from vfiohost.doctor import sources
from vfiohost.doctor.facts import HostFacts, Own
from vfiohost.errors import KernelError, ParseError, UnsupportedError
from vfiohost.journal import LOCK_PATH, DamagedJournal, Journal, holder_of
from vfiohost.model import Unavailable
from vfiohost.module_scan import read_modules
from vfiohost.native import helpers
from vfiohost.nvidia import DRIVER as NVIDIA
from vfiohost.nvidia import is_gpu

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from vfiohost.doctor.sources import Source
    from vfiohost.model import PciAddress, PciDevice, Snapshot
    from vfiohost.sysfs import Sysfs

    Files = dict[str, bytes | Unavailable]
    Names = dict[str, tuple[str, ...] | Unavailable]

_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ENODEV, errno.ESRCH, errno.EISDIR)
_IRQS = "sys/kernel/irq"
_IRQS_LOOKED_AT = 512
_INTERRUPTS = "proc/interrupts"
_OF_DEVICE = ("resource", "reset_method", "d3cold_allowed", "power_state", "power/runtime_status")
_OF_BRIDGE = ("power_state", "power/runtime_status")
_LOCK_LIMIT = 4096


def read_facts(
    sysfs: Sysfs, snapshot: Snapshot, subjects: Iterable[PciAddress], *, timeout: float = 2.0
) -> HostFacts:
    """Read what the checks look at. Any user may; what cannot be read is ``Unavailable``.

    Args:
        sysfs: the host.
        snapshot: a scan of it, with its mediated devices.
        subjects: the devices that the checks are about.
        timeout: seconds that what may wait may take, each time that a helper is asked.
    """
    subjects = tuple(subjects)
    files, names = read_common(sysfs, timeout=timeout)
    for source in sources.MORE:
        _read_file(sysfs, source.pattern, source, files)
    for path in sources.LISTED:
        _list(sysfs, path, names)
    dev = names.pop("dev", ())
    names["dev"] = tuple(n for n in dev if n == "iommu") if isinstance(dev, tuple) else dev
    is_live = _is_live(sysfs)
    facts = HostFacts(with_details(sysfs, snapshot, subjects, timeout=timeout), subjects)
    for device in facts.devices:
        _read_device(sysfs, device, files, names)
    _list_vgpus(sysfs, snapshot, names)
    _read_ports(sysfs, facts, files, timeout=timeout)
    spaces = {
        path: decode(content)
        for path, content in files.items()
        if path.endswith("/config") and isinstance(content, bytes)
    }
    return HostFacts(
        snapshot=facts.snapshot,
        subjects=subjects,
        files=files,
        names=names,
        loadable=_loadable(sysfs, snapshot),
        own=_read_own(sysfs),
        is_live=is_live,
        spaces=spaces,
    )


def read_common(sysfs: Sysfs, *, timeout: float = 2.0) -> tuple[Files, Names]:
    """Read what is read of every host, reduced to what is kept: what a recording carries."""
    files: Files = {}
    names: Names = {}
    for source in sources.COMMON:
        paths = list(_matching(sysfs, source, files))[: source.most]
        if source.slow:
            _read_slowly(sysfs, paths, source.keep, files, timeout)
            continue
        for path in paths:
            _read_file(sysfs, path, source, files)
    for path, keep in sources.KEPT_NAMES.items():
        _list(sysfs, path, names)
        found = names.get(path)
        if isinstance(found, tuple):
            names[path] = keep(found)
    _read_interrupts(sysfs, files)
    return files, names


# ---- files that do not wait --------------------------------------------------------------------


def _matching(sysfs: Sysfs, source: Source, files: Files) -> Iterator[str]:
    """The paths that a pattern stands for, in order; a directory that cannot be listed is noted."""
    paths = [""]
    for part in source.pattern.split("/"):
        if not any(character in part for character in "*["):
            paths = [posixpath.join(path, part) for path in paths]
            continue
        found: list[str] = []
        for path in paths:
            try:
                listed = sysfs.listdir(path)
            except KernelError as error:
                if error.errno not in _ABSENT and source.must:
                    files[path] = _unavailable(error)
                continue
            found += [f"{path}/{name}" for name in listed if fnmatchcase(name, part)]
        paths = found
    yield from paths


def _read_file(sysfs: Sysfs, path: str, source: Source, files: Files) -> None:
    try:
        content = source.keep(sysfs.read_bytes(path, limit=source.limit))
    except KernelError as error:
        if error.errno not in _ABSENT and source.must:
            files[path] = _unavailable(error)
        return
    if content is not None:
        files[path] = content


def _list(sysfs: Sysfs, path: str, names: Names) -> None:
    if path in names:
        return
    try:
        names[path] = tuple(sysfs.listdir(path))
    except KernelError as error:
        if error.errno not in _ABSENT:
            names[path] = _unavailable(error)


def _read_interrupts(sysfs: Sysfs, files: Files) -> None:
    """Find the interrupt that tells most plainly whether those of PCI devices are remapped."""
    found: list[tuple[bytes, str]] = []
    try:
        numbers = sorted(sysfs.listdir(_IRQS), key=lambda name: (len(name), name))
    except KernelError:
        numbers = []
    for number in numbers[:_IRQS_LOOKED_AT]:
        path = f"{_IRQS}/{number}/chip_name"
        chip = _bytes_of(sysfs, path, 4096)
        if sources.keep_interrupts(chip) is None:
            continue
        actions = _bytes_of(sysfs, f"{_IRQS}/{number}/actions", 4096)
        if kept := sources.keep_interrupts(chip.strip() + b" " + actions):
            found.append((kept, path))
    if not found and (kept := sources.keep_interrupts(_bytes_of(sysfs, _INTERRUPTS, 16 << 20))):
        found.append((kept, _INTERRUPTS))
    if found:
        kept, path = min(found, key=lambda each: sources.CHIPS.index(each[0].strip()))
        files[path] = kept


def _bytes_of(sysfs: Sysfs, path: str, limit: int) -> bytes:
    try:
        return sysfs.read_bytes(path, limit=limit)
    except KernelError:
        return b""


def _read_device(sysfs: Sysfs, device: PciDevice, files: Files, names: Names) -> None:
    for name in _OF_DEVICE:
        path = f"{device.path}/{name}"
        _read_file(sysfs, path, sources.Source(path), files)
    _list(sysfs, device.path, names)


def _list_vgpus(sysfs: Sysfs, snapshot: Snapshot, names: Names) -> None:
    """List the virtual functions of NVIDIA's cards: those that can be vGPUs have a directory."""
    cards = (d for d in snapshot.devices if is_gpu(d) and d.driver == NVIDIA)
    for card in cards:
        for function in snapshot.virtual_functions.get(card.address, ()):
            _list(sysfs, function.path, names)


def _unavailable(error: KernelError) -> Unavailable:
    return Unavailable(error.errno or 0, error.strerror or "unknown")


def _is_live(sysfs: Sysfs) -> bool:
    try:
        return sysfs.is_live()
    except KernelError:
        return False


def _loadable(sysfs: Sysfs, snapshot: Snapshot) -> dict[str, bool] | None:
    try:
        index = read_modules(sysfs, snapshot.kernel) if snapshot.kernel else None
    except KernelError:
        return None
    return None if index is None else {"vfio_pci": index.knows("vfio_pci")}


# ---- what may wait -----------------------------------------------------------------------------


def _read_slowly(
    sysfs: Sysfs, paths: list[str], keep: sources.Keep, files: Files, timeout: float
) -> None:
    answers = helpers.read_bounded(sysfs.fd, paths, timeout=timeout) if paths else []
    for path, answer in zip(paths, answers, strict=True):
        if answer is None:
            files[path] = Unavailable(0, "no answer in time")
        elif isinstance(answer, bytes):
            content = keep(answer)
            files |= {} if content is None else {path: content}
        elif -answer not in _ABSENT:
            files[path] = Unavailable(-answer, os.strerror(-answer))


def _read_ports(sysfs: Sysfs, facts: HostFacts, files: Files, *, timeout: float) -> None:
    """Read the configuration space of the bridges above shared groups, where they are awake."""
    groups = {facts.snapshot.group_of(device) for device in facts.devices}
    shared = [group for group in groups if group is not None and len(group.endpoints) > 1]
    ports = {port for group in shared for m in group.members for port in facts.ports_above(m)}
    ports |= {member for group in shared for member in group.members if member.is_bridge}
    for port in ports:
        for name in _OF_BRIDGE:
            _read_file(sysfs, f"{port.path}/{name}", sources.Source(name), files)
    asleep = find_sleepers(sysfs, facts.snapshot, ports)
    awake = sorted(port.path for port in ports if port.address not in asleep)
    _read_slowly(sysfs, [f"{path}/config" for path in awake], bytes, files, timeout)


# ---- vfiohost's own ----------------------------------------------------------------------------


def _read_own(sysfs: Sysfs) -> Own:
    lock, alive = _read_lock(sysfs)
    journal = Journal(sysfs)
    try:
        boot_id = journal.boot_id
        entries = journal.open_entries()
    except (KernelError, UnsupportedError) as error:
        why = error.strerror if isinstance(error, KernelError) else str(error)
        return Own(lock=lock, lock_alive=alive, unreadable=why)
    cut_off, pending, damaged = [], [], []
    now = [e for e in entries if e.boot_id in (boot_id, None)]
    for entry in now:
        if isinstance(entry, DamagedJournal):
            damaged.append(f"{entry.path}: {entry.reason}")
        elif waiting := entry.waiting():
            pending += [f"{entry}; helper process {helper.pid} waits" for _, helper in waiting]
        elif not alive:  # else it is the one that is at work now
            cut_off.append(str(entry))
    return Own(
        open=tuple(cut_off),
        pending=tuple(pending),
        damaged=tuple(damaged),
        other_boot=len(entries) - len(now),
        lock=lock,
        lock_alive=alive,
    )


def _read_lock(sysfs: Sysfs) -> tuple[str | None, bool]:
    """Who is named in the lock's file, and whether that process lives. Takes no lock."""
    try:
        process, text = holder_of(sysfs.read(LOCK_PATH, limit=_LOCK_LIMIT))
    except (KernelError, ParseError):
        return None, False
    return text, process.is_alive or process.is_elsewhere
