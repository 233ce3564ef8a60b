"""One pass over the open files of all processes (``proc/PID/fd``, ``fs/proc/fd.c``)."""

from __future__ import annotations

import errno
import os
import re
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING

import attrs

from vfiohost import native
from vfiohost.errors import KernelError
from vfiohost.holders.reading import names_in, target_of, text_of
from vfiohost.usage import Process

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from vfiohost.sysfs import Sysfs

VFIO_DEVICE = "anon_inode:[vfio-device]"
"""What a device looks like that a process got through its group."""

_MOST_PROCESSES = 1 << 22  # PID_MAX_LIMIT
_MOST_FILES = 1 << 21  # in all processes together; a few seconds
_MOST_COMMAND = 160
_NAMED = 5
# PROC_PID_INIT_INO of include/linux/proc_ns.h: the PID namespace that has all processes.
_INITIAL_NAMESPACE = "pid:[4026531836]"
_DELETED = " (deleted)"
_CAP_SYS_PTRACE = 19  # include/uapi/linux/capability.h
_UNIT = re.compile(r"[^/]+\.(?:service|scope|socket)")
_USER_MANAGER = re.compile(r"/user@([0-9]+)\.service/.*\.(?:service|scope|socket)(?:/|$)")
_CONTAINER = re.compile(
    r"(?:(?:docker|libpod|crio|cri-containerd)-|/)([0-9a-f]{64})(?:\.scope)?(?:/|$)"
    r"|/lxc(?:\.payload\.|/)([^/]+)",
)


@attrs.frozen
class OpenFile:
    """A file that a process has open.

    Attributes:
        process: who.
        number: the descriptor.
        target: what ``proc/PID/fd/N`` points to.
    """

    process: Process
    number: int
    target: str

    @property
    def via(self) -> str:
        """The link that says so."""
        return f"/proc/{self.process.pid}/fd/{self.number}"


def find_processes(sysfs: Sysfs, names: Collection[str]) -> tuple[Process, ...]:
    """Who has one of some files open, as far as this user may look; each process once.

    Args:
        sysfs: the host.
        names: as the links in ``proc/PID/fd`` name them: ``/dev/vfio/15``.
    """
    files = Processes(sysfs, names).files
    return tuple(dict.fromkeys(file.process for opened in files.values() for file in opened))


class Processes:
    """The processes that have some files open.

    A process that vanishes meanwhile has nothing open. Memory that is mapped from a file which is
    closed again does not show.

    Args:
        sysfs: the host.
        names: which files, as the links in ``proc/PID/fd`` name them.

    Attributes:
        files: those that are open, by name.
        incomplete: what was not seen.
        mount_namespaces: one process of each mount namespace, the first one that was met.
    """

    def __init__(self, sysfs: Sysfs, names: Collection[str]) -> None:
        self._sysfs = sysfs
        self._names = frozenset(names)
        self._files_left = _MOST_FILES
        self._hidden: list[int] = []
        self._describe = cache(self._described)
        self.files: dict[str, list[OpenFile]] = {}
        self.incomplete: list[str] = []
        self.mount_namespaces: dict[str, int] = {}
        self._read()

    def devices(self, path: str) -> Iterator[OpenFile]:
        """The VFIO devices that processes have open and that ``fdinfo`` says are at a path.

        Linux 6.16 and newer say it (``vfio_device_show_fdinfo`` in ``drivers/vfio/vfio_main.c``).
        """
        for file in self.files.get(VFIO_DEVICE, ()):
            info = text_of(self._sysfs, f"proc/{file.process.pid}/fdinfo/{file.number}") or ""
            if f"vfio-device-syspath: /{path}" in info.splitlines():
                yield file

    def _read(self) -> None:
        names = names_in(self._sysfs, "proc", self.incomplete)
        pids = sorted(int(name) for name in names if name.isdecimal() and name.isascii())
        if 1 not in pids:
            self.incomplete.append(
                "Process 1 is not in /proc: it hides processes of others (hidepid), or this is the "
                "recording of a host, which has none. Who has a device open is not known."
            )
        elif self._is_namespace():
            self.incomplete.append(
                "/proc shows the processes of one PID namespace (a container's): others may have a "
                "device open."
            )
        for pid in pids[:_MOST_PROCESSES]:
            self._read_process(pid)
        if self._files_left <= 0:
            self.incomplete.append(
                f"The processes have more than {_MOST_FILES} files open; those behind them were "
                "not looked at."
            )
        if self._hidden:
            number, some = len(self._hidden), ", ".join(map(str, self._hidden[:_NAMED]))
            more = ", …" if number > _NAMED else ""
            why = (
                "a security module or a user namespace hides from root too what they have open"
                if self._may_look()
                else "only root (CAP_SYS_PTRACE) sees what they have open"
            )
            self.incomplete.append(
                f"{number} process{'' if number == 1 else 'es'} could not be looked into (pid "
                f"{some}{more}): {why}."
            )

    def _may_look(self) -> bool:
        """Whether this process has what the kernel asks for (``ptrace_may_access``)."""
        status = text_of(self._sysfs, "proc/self/status") or ""
        found = re.search(r"^CapEff:\s+([0-9a-f]{1,16})$", status, re.MULTILINE)
        return found is not None and bool(int(found[1], 16) >> _CAP_SYS_PTRACE & 1)

    def _is_namespace(self) -> bool:
        links = (target_of(self._sysfs, f"proc/{name}/ns/pid") for name in ("1", "self"))
        found = next((link for link in links if link is not None), None)
        return found is not None and found.rpartition("/")[2] != _INITIAL_NAMESPACE

    def _read_process(self, pid: int) -> None:
        path = f"proc/{pid}/fd"
        flags = os.O_RDONLY | os.O_DIRECTORY
        try:
            fd = native.open_in(self._sysfs.fd, path, flags, shown=self._sysfs.shown(path))
        except KernelError as error:
            if error.errno in (errno.EACCES, errno.EPERM):
                self._hidden.append(pid)
            return
        try:
            self._read_files(pid, fd)
        except PermissionError:  # proc_fd_permission asks again at each step
            self._hidden.append(pid)
        except OSError:
            pass  # it has ended
        finally:
            os.close(fd)
        namespace = target_of(self._sysfs, f"proc/{pid}/ns/mnt")
        if namespace is not None:
            self.mount_namespaces.setdefault(namespace, pid)

    def _read_files(self, pid: int, fd: int) -> None:
        with os.scandir(fd) as entries:
            for entry in islice(entries, max(self._files_left, 0)):
                self._files_left -= 1
                # Read from the directory's descriptor: these are most of what there is to read.
                target = _link(entry.name, fd)
                if target in self._names and entry.name.isdecimal():
                    file = OpenFile(self._describe(pid), int(entry.name), target)
                    self.files.setdefault(target, []).append(file)

    def _described(self, pid: int) -> Process:
        sysfs = self._sysfs
        name = text_of(sysfs, f"proc/{pid}/comm") or "?"
        words = (text_of(sysfs, f"proc/{pid}/cmdline") or "").replace("\0", " ").strip()
        command = words or f"[{name}]"
        if len(command) > _MOST_COMMAND:
            command = f"{command[:_MOST_COMMAND]}…"
        cgroup = text_of(sysfs, f"proc/{pid}/cgroup") or ""
        return Process(
            pid=pid,
            command=command,
            name=name,
            user=self._user(text_of(sysfs, f"proc/{pid}/status") or ""),
            unit=unit_of(cgroup),
            container=container_of(cgroup),
            manager=self._named(manager_of(cgroup)),
        )

    def _user(self, status: str) -> str | None:
        found = re.search(r"^Uid:\s+\d+\s+(\d+)", status, re.MULTILINE)
        return None if found is None else self._named(found[1])

    def _named(self, uid: str | None) -> str | None:
        """The name of a user, or the number where it has none."""
        for line in (text_of(self._sysfs, "etc/passwd") or "").splitlines() if uid else ():
            fields = line.split(":")
            if fields[2:3] == [uid]:
                return fields[0]
        return uid


def unit_of(cgroup: str) -> str | None:
    """The systemd unit in the text of ``proc/PID/cgroup``: the innermost one."""
    paths = _cgroup_paths(cgroup)
    units = [name for path in paths for name in path.split("/") if _UNIT.fullmatch(name)]
    return units[-1] if units else None


def manager_of(cgroup: str) -> str | None:
    """The number of the user whose own systemd has the unit, in the text of ``proc/PID/cgroup``."""
    for path in _cgroup_paths(cgroup):
        found = _USER_MANAGER.search(path)
        if found is not None:
            return found[1]
    return None


def container_of(cgroup: str) -> str | None:
    """The container's id or name in the text of ``proc/PID/cgroup``."""
    for path in _cgroup_paths(cgroup):
        found = _CONTAINER.search(path)
        if found is not None:
            return found[1] or found[2]
    return None


def _cgroup_paths(cgroup: str) -> list[str]:
    """The paths of version 2 and of systemd's own hierarchy; else all of them."""
    lines = [line.split(":", 2) for line in cgroup.splitlines() if line.count(":") > 1]
    ours = [path for _, names, path in lines if names in ("", "name=systemd") and path != "/"]
    return ours or [path for _, _, path in lines]


def _link(name: str, fd: int) -> str:
    """What an entry of ``proc/PID/fd`` points to, without the note that it has been removed."""
    try:
        return os.readlink(name, dir_fd=fd).removesuffix(_DELETED)
    except PermissionError:
        raise
    except OSError:
        return ""  # closed meanwhile
