"""Recording the functions, their groups, and what holds it all together."""

from __future__ import annotations

import errno
import os
import posixpath
import stat
from typing import TYPE_CHECKING

from vfiohost import native
from vfiohost.doctor import read_common
from vfiohost.errors import KernelError, ParseError, UnsupportedError
from vfiohost.model import SRIOV_MANAGE, PciAddress, Unavailable
from vfiohost.native import helpers
from vfiohost.record.command_line import mask_cmdline
from vfiohost.record.masking import mask_config
from vfiohost.record.mdevs import Tables, read_mdevs, read_parents
from vfiohost.record.modules import Modules
from vfiohost.record.names import shown_files
from vfiohost.record.reading import names_in, number_of, target_of, text_of, text_of_link
from vfiohost.record.uses import read_uses
from vfiohost.recording import (
    Attribute,
    File,
    Function,
    Group,
    Recording,
)
from vfiohost.recording.modes import usual_mode
from vfiohost.recording.reader import FILE_BYTES, MOST_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from vfiohost.recording import Part
    from vfiohost.sysfs import Sysfs

# Attributes of a function that the kernel shows without the device lock and without touching the
# hardware (drivers/pci/pci-sysfs.c, drivers/pci/iov.c, drivers/base/power/sysfs.c).
_PLAIN = (
    "ari_enabled",
    "boot_vga",
    "class",
    "d3cold_allowed",
    "device",
    "enable",
    "irq",
    "local_cpulist",
    "modalias",
    "numa_node",
    "power/control",
    "power/runtime_status",
    "power_state",
    "reset_method",
    "resource",
    "revision",
    "sriov_drivers_autoprobe",
    "sriov_offset",
    "sriov_stride",
    "sriov_totalvfs",
    "sriov_vf_device",
    "subsystem_device",
    "subsystem_vendor",
    "vendor",
)
# Those that take it, on some kernels.
_LOCKED = ("driver_override", "sriov_numvfs", "sriov_vf_total_msix", "uevent")
# Those that NVIDIA's vGPU host driver answers, of a virtual function that can be a vGPU.
_VGPU = ("nvidia/creatable_vgpu_types", "nvidia/current_vgpu_type")
# What a helper process reads: it may not come back.
_SLOW = (*_LOCKED, *_VGPU)
_GROUP_FILES = ("name", "reserved_regions", "type")
_CMDLINE = "proc/cmdline"
_FILES = (
    _CMDLINE,
    "proc/devices",
    "sys/module/vfio/parameters/enable_unsafe_noiommu_mode",
    "usr/share/misc/pci.ids",
)
_DEVICE_LINKS = ("consumer:pci:", "supplier:pci:")

_PCI = "sys/bus/pci"
_GROUPS = "sys/kernel/iommu_groups"
_READ_BITS = 0o444
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ENODEV)


def capture(
    sysfs: Sysfs,
    *,
    title: str,
    source: str,
    config: bool = False,
    modes: bool | None = None,
    timeout: float = 2.0,
) -> Recording:
    """Record a host, without what identifies it.

    That is masked by :mod:`vfiohost.record.command_line`, :mod:`vfiohost.record.masking` and
    :mod:`vfiohost.record.names`.

    What the kernel does not show is concluded: which driver a module that is not loaded would
    register, the id table of a driver (from ``modules.alias``, else from the functions that it is
    bound to), whether it makes virtual functions, how the types of a mediated device parent share
    what there is. Of ``modules.alias`` only the lines that say something about this host's
    functions are kept.

    Args:
        sysfs: the host.
        title: one line that says what is special.
        source: where it comes from (``recorded from …``).
        config: read the configuration space too. That wakes a device that sleeps in D3cold.
        modes: keep permission bits that are not the kernel's usual ones. ``None``: when the tree
            has kept the usual ones of ``vendor``, as a live host has and a copy often has not.
        timeout: seconds to wait for the attributes that take the device lock, all together.

    Raises:
        KernelError: there is no PCI bus, or it cannot be listed. What else cannot be read becomes
            an errno in the recording, or a note.
        UnsupportedError: there is more than a recording can hold.
    """
    return _Capture(sysfs, config, modes, timeout).recording(title, source)


class _Capture:
    """One run of :func:`capture`."""

    def __init__(self, sysfs: Sysfs, config: bool, modes: bool | None, timeout: float) -> None:  # noqa: FBT001 - private
        self.sysfs = sysfs
        self.config = config
        self.timeout = timeout
        self.bytes_left = MOST_BYTES
        self.notes: list[str] = []
        self.paths = self._paths()
        self.addresses = {str(address): address for address in self.paths}
        self.vf_indices: dict[PciAddress, dict[str, int]] = {}
        self.names = {address: names_in(self.sysfs, path) for address, path in self.paths.items()}
        self.modes = self._keeps_modes() if modes is None else modes
        self.locked = self._locked(timeout)

    def recording(self, title: str, source: str) -> Recording:
        tables = Tables(read_parents(self.sysfs))
        functions = tuple(
            self._function(address, tables.names.get(path)) for address, path in self.paths.items()
        )
        kernel = text_of(self.sysfs, "proc/sys/kernel/osrelease")
        return Recording(
            title=title,
            source=source,
            kernel=kernel,
            lacks=frozenset(self._lacks(functions)),
            functions=functions,
            modules=Modules(self.sysfs, kernel, functions).modules(),
            groups=tuple(self._groups()),
            mdev_tables=tuple(tables.tables),
            virtual_parents=tuple(tables.virtual_parents(self.paths.values())),
            mdevs=tuple(read_mdevs(self.sysfs)),
            files=self._files(functions),
            notes=tuple(self.notes),
        )

    # -- the ways to read

    def _link_name(self, path: str) -> str | None:
        try:
            return self.sysfs.link_name(path)
        except KernelError as error:
            if error.errno not in _ABSENT:
                self.notes.append(f"{path}: left out ({error.strerror})")
            return None

    def _mode(self, path: str) -> int | None:
        """The permission bits of a regular file, or ``None`` when it is none."""
        try:
            fd = native.open_in(
                self.sysfs.fd, path, os.O_PATH | os.O_NOFOLLOW, shown=self.sysfs.shown(path)
            )
        except KernelError:
            return None
        try:
            found = os.fstat(fd).st_mode
        finally:
            os.close(fd)
        return stat.S_IMODE(found) if stat.S_ISREG(found) else None

    def _attribute(self, path: str, name: str, content: bytes | int | None) -> Attribute | None:
        """An attribute; ``content`` is what a helper process read, ``None`` to read it here."""
        mode = self._mode(path)
        if mode is None:
            return None
        usual = usual_mode(name)
        if not mode & _READ_BITS or not (self.modes or usual & _READ_BITS):
            # Sysfs refuses to open such a file for reading even to root; a copy of it does not.
            content, usual = errno.EACCES, usual & ~_READ_BITS
        elif content is None:
            try:
                content = self.sysfs.read_bytes(path)
            except KernelError as error:
                content = error.errno or errno.EIO
        if name == "config" and isinstance(content, bytes):
            content = mask_config(content)
        self._spend(content)
        return Attribute(content, mode if self.modes and mode != usual else None)

    def _spend(self, content: bytes | int) -> None:
        """See to it that the recording can be read again: the reader takes so much and no more."""
        self.bytes_left -= FILE_BYTES + (len(content) if isinstance(content, bytes) else 0)
        if self.bytes_left < 0:
            raise UnsupportedError(
                f"{self.sysfs.root} is too large to record: the files of its functions and groups "
                f"come to more than {MOST_BYTES >> 20} MiB."
            )

    def _attributes(self, directory: str, names: Iterable[str]) -> dict[str, Attribute]:
        found = {name: self._attribute(f"{directory}/{name}", name, None) for name in names}
        return {name: attribute for name, attribute in found.items() if attribute is not None}

    def _keeps_modes(self) -> bool:
        paths = [f"{path}/vendor" for path in self.paths.values()]
        return any(self._mode(path) == usual_mode("vendor") for path in paths)

    # -- functions

    def _paths(self) -> dict[PciAddress, str]:
        """The functions' directories, in order of address."""
        found = {}
        for name in self.sysfs.listdir(f"{_PCI}/devices"):
            try:
                address = PciAddress.parse(name)
                target = self.sysfs.readlink(f"{_PCI}/devices/{name}")
            except ParseError as error:
                self.notes.append(f"{_PCI}/devices/{name}: left out ({error})")
                continue
            except KernelError as error:
                self.notes.append(f"{_PCI}/devices/{name}: left out ({error.strerror})")
                continue
            path = posixpath.normpath(f"{_PCI}/devices/{target}")
            if path.startswith("sys/devices/") and path.endswith(f"/{address}"):
                found[address] = path
            else:
                self.notes.append(f"{_PCI}/devices/{name}: left out (it points to {target})")
        return dict(sorted(found.items()))

    def _locked(self, timeout: float) -> Mapping[str, bytes | int | None]:
        paths = [
            f"{path}/{name}"
            for address, path in self.paths.items()
            for name in _SLOW
            if name.partition("/")[0] in self.names[address]
        ]
        answers = helpers.read_bounded(self.sysfs.fd, paths, timeout=timeout)
        return dict(zip(paths, answers, strict=True))

    def _function(self, address: PciAddress, mdev_table: str | None) -> Function:
        path = self.paths[address]
        group = self._link_name(f"{path}/iommu_group")
        parent = self._physfn(path)
        return Function(
            path=path.removeprefix("sys/devices/"),
            driver=self._link_name(f"{path}/driver"),
            iommu_group=number_of(group),
            physfn=parent,
            vf_index=self._vf_index(parent, address) if parent is not None else None,
            attributes=self._function_attributes(path, self.names[address]),
            mdev_table=mdev_table,
        )

    def _function_attributes(self, path: str, names: Sequence[str]) -> dict[str, Attribute]:
        top = {name.partition("/")[0] for name in _PLAIN} & set(names)
        wanted = [name for name in _PLAIN if name.partition("/")[0] in top]
        if self.config and "config" in names:
            wanted.append("config")
        found = self._attributes(path, wanted)
        tells_reset = "reset" in names and "reset_method" not in names
        write_only = {"reset": tells_reset, "reset_subordinate": "reset_subordinate" in names}
        found |= self._attributes(path, [name for name, tells in write_only.items() if tells])
        for name in _SLOW:
            full = f"{path}/{name}"
            if full not in self.locked:
                continue
            answer = self.locked[full]
            if answer is None:
                self.notes.append(f"{full}: left out (device locked)")
                continue
            content = abs(answer) if isinstance(answer, int) else answer
            attribute = self._attribute(full, name, content)
            if attribute is not None:
                found[name] = attribute
        return found

    def _physfn(self, path: str) -> PciAddress | None:
        name = self._link_name(f"{path}/physfn")
        found = None if name is None else self.addresses.get(name)
        if name is not None and found is None:
            self.notes.append(f"{path}/physfn: left out ({name} is no function of this host)")
        return found

    def _vf_index(self, physfn: PciAddress, address: PciAddress) -> int | None:
        if physfn not in self.vf_indices:
            self.vf_indices[physfn] = self._read_vf_indices(physfn)
        return self.vf_indices[physfn].get(str(address))

    def _read_vf_indices(self, physfn: PciAddress) -> dict[str, int]:
        """N of each ``virtfnN``, by the name of the function that it leads to."""
        found = {}
        for name in self.names[physfn]:
            number = number_of(name.removeprefix("virtfn"))
            if name.startswith("virtfn") and number is not None:
                found[self._link_name(f"{self.paths[physfn]}/{name}") or ""] = number
        return found

    def _lacks(self, functions: Sequence[Function]) -> Iterator[Part]:
        if functions and not any("subsystem" in names for names in self.names.values()):
            yield "subsystem"
        if "drivers_probe" not in names_in(self.sysfs, _PCI):
            yield "controls"
        if not self.sysfs.exists(_GROUPS):
            yield "groups"
        if not self.sysfs.exists(f"{_PCI}/drivers"):
            yield "drivers"
            return
        bound = [f for f in functions if f.driver is not None]
        links = (f"{_PCI}/drivers/{f.driver}/{f.address}" for f in bound)
        if bound and not any(map(self.sysfs.exists, links)):
            yield "driver-links"

    def _groups(self) -> Iterator[Group]:
        found = {number_of(name) for name in names_in(self.sysfs, _GROUPS)}
        for number in sorted(n for n in found if n is not None):
            yield Group(number, self._attributes(f"{_GROUPS}/{number}", _GROUP_FILES))

    # -- everything else

    def _files(self, functions: Iterable[Function]) -> tuple[File, ...]:
        found = {}
        for path in _FILES:
            try:
                content = self.sysfs.read_bytes(path)
            except KernelError:
                continue  # not there, or a whole pci.ids: names are looked up elsewhere then
            found[path] = File(path, mask_cmdline(content) if path == _CMDLINE else content)
        if self.sysfs.exists(SRIOV_MANAGE):
            found[SRIOV_MANAGE] = File(SRIOV_MANAGE, b"", 0o755)  # that it is there is enough
        found |= {file.path: file for file in self._examined()}
        found |= {file.path: file for file in read_uses(self.sysfs, self.paths.values())}
        for address, path in self.paths.items():
            for name in self.names[address]:
                link = f"{path}/{name}"
                target = target_of(self.sysfs, link) if name.startswith(_DEVICE_LINKS) else None
                if target is not None and target.startswith("sys/"):
                    found[link] = File(link, posixpath.relpath(target, path))
                    found[target] = File(target, None)
        found |= {link: File(link, text) for link, text in self._unusual_links(functions)}
        return tuple(found[path] for path in sorted(found))

    def _examined(self) -> Iterator[File]:
        """What `vfiohost doctor` looks at, so that it finds the same on the recording."""
        files, names = read_common(self.sysfs, timeout=self.timeout)
        shown = shown_files((*files, *names))
        for original, content in (*files.items(), *names.items()):
            path = shown[original]
            if path is None:
                continue
            if isinstance(content, Unavailable):
                self.notes.append(f"{path}: left out ({content})")
            elif isinstance(content, bytes):
                yield File(path, content)
            else:
                yield File(path, None)
                yield from (File(f"{path}/{name}", b"") for name in content)

    def _unusual_links(self, functions: Iterable[Function]) -> Iterator[tuple[str, str]]:
        """Links whose text is not the one that follows from the functions: copies have such."""
        for function in functions:
            path = self.paths[function.address]
            usual = {f"{_PCI}/devices/{function.address}": path}
            if function.driver is not None:
                usual[f"{path}/driver"] = f"{_PCI}/drivers/{function.driver}"
            if function.iommu_group is not None:
                usual[f"{path}/iommu_group"] = f"{_GROUPS}/{function.iommu_group}"
            if function.physfn is not None:
                usual[f"{path}/physfn"] = self.paths[function.physfn]
            for link, target in usual.items():
                text = text_of_link(self.sysfs, link)  # it may have gone meanwhile
                usual_text = posixpath.relpath(target, posixpath.dirname(link))
                if text is not None and text != usual_text:
                    yield link, text
