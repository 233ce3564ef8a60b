"""Reads what ``lspci -k`` says of functions and a scan does not read.

That is the name that the firmware gives a function, and the kernel modules that are for it. As
with lspci, reading the name may run the firmware's code (ACPI ``_DSM``, the kernel's
``drivers/pci/pci-label.c``), so that a helper process with a deadline does it.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import attrs

from vfiohost.errors import KernelError
from vfiohost.modalias import MODPROBE, ModuleLookup
from vfiohost.model import Problem, Unavailable
from vfiohost.module_scan import MODULES_LIMIT, read_modules
from vfiohost.native import helpers
from vfiohost.reads import DEVICES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vfiohost.model import PciAddress, PciDevice, Snapshot
    from vfiohost.sysfs import Sysfs

_ATTRIBUTE_MAX = 1023  # bytes; of a longer one lspci says nothing (lib/sysfs.c, OBJBUFSIZE)
_REVISION_ID = 8  # offset in configuration space: PCI Local Bus Specification 3.0, 6.2.1
_CONFIG_FILE_MAX = 1 << 16  # bytes; those of modprobe.d have a few hundred


@attrs.frozen
class LspciFacts:
    """What lspci says of one function beyond a scan.

    Attributes:
        label: the firmware's name of it (SMBIOS type 41, or ACPI), or ``None``.
        revision: 8 bits.
        modules: the modules that are for it, in lspci's order.
    """

    label: str | None
    revision: int
    modules: tuple[str, ...]


def read_lspci(
    sysfs: Sysfs, snapshot: Snapshot, devices: Sequence[PciDevice], *, timeout: float
) -> tuple[Mapping[PciAddress, LspciFacts], tuple[Problem, ...]]:
    """Read what lspci says of functions beyond a scan.

    Reads their ``label`` and ``modalias``, ``lib/modules/RELEASE/modules.{alias,dep,builtin,
    builtin.modinfo}``, and ``modprobe.d``. Where the kernel has no attribute ``revision`` (before
    Linux 4.10) it is the ``config`` space's, which wakes a sleeping device; lspci reads it always.

    Args:
        sysfs: the host.
        snapshot: a scan of it.
        devices: which functions.
        timeout: seconds for all of them; a millisecond more is given for each attribute.

    Returns:
        The facts by address, and what could not be read.
    """
    wanted = [(device, name) for device in devices for name in _attributes(device)]
    paths = [f"{DEVICES}/{device.address}/{name}" for device, name in wanted]
    seconds = timeout + len(paths) / 1000
    answers = helpers.read_bounded(sysfs.fd, paths, timeout=seconds) if paths else []
    problems: list[Problem] = []
    found: dict[PciAddress, dict[str, bytes]] = {device.address: {} for device in devices}
    for (device, name), path, answer in zip(wanted, paths, answers, strict=True):
        if isinstance(answer, bytes):
            found[device.address][name] = answer
        elif answer is None or -answer != errno.ENOENT:
            subject, why = str(device.address), _why(answer)
            problems.append(Problem(subject, path, f"{name} of {subject}: {why}."))
    lookup = _read_lookup(sysfs, snapshot.kernel, problems)
    return {d.address: _facts(d, found[d.address], lookup) for d in devices}, tuple(problems)


def _attributes(device: PciDevice) -> tuple[str, ...]:
    return ("label", "modalias", "config")[: 3 if device.revision is None else 2]


def _facts(device: PciDevice, contents: Mapping[str, bytes], lookup: ModuleLookup) -> LspciFacts:
    label, modalias = contents.get("label"), contents.get("modalias", b"")
    revision = device.revision
    if revision is None:
        revision = next(iter(contents.get("config", b"")[_REVISION_ID:]), 0)
    return LspciFacts(
        label=None if label is None or len(label) > _ATTRIBUTE_MAX else _text(label),
        revision=0 if isinstance(revision, Unavailable) else revision,
        modules=lookup.modules(_text(modalias)),
    )


def _text(content: bytes) -> str:
    return content.decode("utf-8", "backslashreplace").removesuffix("\n")


def _why(answer: int | None) -> str:
    return "no answer in time" if answer is None else os.strerror(-answer)


def _read_lookup(sysfs: Sysfs, release: str | None, problems: list[Problem]) -> ModuleLookup:
    """Read what libkmod looks into; without the kernel's release, nothing is known of modules."""
    folder = f"lib/modules/{release}"
    try:
        index = None if release is None else read_modules(sysfs, release)
        builtin = _read(sysfs, f"{folder}/modules.builtin.modinfo", MODULES_LIMIT)
        config = _read_config(sysfs)
    except KernelError as error:
        problems.append(Problem("modules", folder, f"Kernel modules are not known: {error}"))
        return ModuleLookup("", None, "")
    return ModuleLookup(config, index, builtin)


def _read_config(sysfs: Sysfs) -> str:
    """The ``*.conf`` files of ``modprobe.d``, by name (``libkmod-config.c:conf_files_list``)."""
    paths: dict[str, str] = {}
    for folder in MODPROBE:
        try:
            names = sysfs.listdir(folder)
        except KernelError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                raise
            continue
        for name in names:
            if name.endswith(".conf") and not name.startswith("."):
                paths.setdefault(name, f"{folder}/{name}")
    return "\n".join(_read(sysfs, paths[name], _CONFIG_FILE_MAX) for name in sorted(paths))


def _read(sysfs: Sysfs, path: str, limit: int) -> str:
    try:
        return sysfs.read(path, limit=limit)
    except KernelError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return ""
        raise
