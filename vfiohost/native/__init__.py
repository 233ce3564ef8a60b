"""The C core, seen from Python: the only importer of the compiled module.

In ``answers``, and nowhere else, a negative int becomes an exception; ``ioctls`` has what is asked
of VFIO. Paths are relative to the directory that ``rootfd`` is open on and cannot lead out of it;
``shown`` is how an error names the file.

Each function that opens takes ``fallback=True`` to behave as on a kernel without ``openat2(2)``
and ``close_range(2)``; on such a kernel it does so by itself.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import select
import struct
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from vfiohost._native import ffi, lib
from vfiohost.errors import KernelError, StoreTimeoutError, UnsupportedError
from vfiohost.native.answers import checked, encoded, options, text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from mmap import mmap

    from vfiohost.errors import KernelOp

    GiveUp = Callable[[float], bool]
    Buffer = bytearray | mmap

LONGEST_WAIT: Final = 1_000_000.0
"""Seconds (11 days) that stand for any longer timeout, as poll(2) takes an int of milliseconds."""

TICK: Final = 0.1
"""Seconds between two times that a wait asks whether to give up."""

_ANSWER: Final = struct.Struct("ii")  # struct vh_answer, struct vh_outcome
_LINK_MAX: Final = 4097  # PATH_MAX, and one byte that shows that nothing was cut
# After so long without an answer a read counts as stuck: a share of the timeout, and seconds.
_PATIENCE: Final = 1 / 8
_PATIENCE_MAX: Final = 0.25

# Filled by C before it is read, so that zeroing it would be lost time.
_buffer = ffi.new_allocator(should_clear_after_alloc=False)

# Helpers that were still in the kernel when their caller stopped waiting.
_left: set[int] = set()


def never(_began: float) -> bool:
    """Do not give up."""
    return False


def open_root(path: str) -> int:
    """Open the directory that everything else is relative to.

    Returns:
        A file descriptor (``O_PATH``), which the caller closes.

    Raises:
        KernelError: there is no such directory, or it cannot be reached.
    """
    return checked(lib.vh_open_root(encoded(path, "open", path)), "open", path)


def open_in(
    rootfd: int, path: str, flags: int, *, shown: str, mode: int = 0, fallback: bool = False
) -> int:
    """Open a path that cannot lead out of the root.

    Symbolic links are followed inside the root, magic links of procfs are not.

    Args:
        rootfd: the root.
        path: relative to the root.
        flags: flags of ``open(2)``; ``O_CLOEXEC`` is added.
        shown: how errors name the file.
        mode: permission bits for ``O_CREAT``.
        fallback: do without ``openat2(2)``.

    Returns:
        A file descriptor, which the caller closes.

    Raises:
        KernelError: the kernel's answer.
    """
    name = encoded(path, "open", shown)
    return checked(lib.vh_open_in(rootfd, name, flags, mode, options(fallback)), "open", shown)


def is_sysfs(fd: int) -> bool:
    """Say whether an open file is on a mounted sysfs (``statfs.f_type``).

    Raises:
        KernelError: the kernel's answer.
    """
    return checked(lib.vh_is_sysfs(fd), "open", f"file descriptor {fd}") == 1


def read(rootfd: int, path: str, limit: int, *, shown: str, fallback: bool = False) -> bytes:
    """Read a whole regular file of at most ``limit`` bytes; never blocks on a FIFO.

    Raises:
        KernelError: the kernel's answer; EFBIG (larger than ``limit``), EISDIR, EAGAIN (a FIFO),
            EINVAL (neither a file nor a directory).
    """
    buffer = _buffer("char[]", limit)
    phase = ffi.new("int *")
    name = encoded(path, "open", shown)
    size = lib.vh_read(rootfd, name, buffer, limit, options(fallback), phase)
    op: KernelOp = "open" if phase[0] == lib.VH_PHASE_OPEN else "read"
    return bytes(ffi.buffer(buffer, checked(size, op, shown)))


def readlink(rootfd: int, path: str, *, shown: str, fallback: bool = False) -> bytes:
    """Read a symbolic link's text.

    Raises:
        KernelError: the kernel's answer; EINVAL when it is no link.
    """
    buffer = _buffer("char[]", _LINK_MAX)
    name = encoded(path, "readlink", shown)
    size = lib.vh_readlink(rootfd, name, buffer, _LINK_MAX, options(fallback))
    return bytes(ffi.buffer(buffer, checked(size, "readlink", shown)))


# struct vh_function: key, physfn; domain, bus, device, function, marks; vendor, device, class;
# subsystem vendor and device; revision, numa_node, total_vfs, iommu_group; errors.
_FUNCTION: Final = struct.Struct("2q I4B 9i 20s")
_ERRORS: Final = struct.Struct(f"{lib.VH_FIELDS}h")

ODD: Final = lib.VH_ODD
"""A mark of a row: something in its errors is more than the absence of a file."""

BRINGS_VFIO: Final = lib.VH_BRINGS_VFIO
"""A mark of a row: NVIDIA's driver has made a VFIO device of the virtual function."""

MALFORMED: Final = lib.VH_MALFORMED
"""One of the :class:`FieldErrors`: the file was read, but what it says makes no sense."""


class FieldErrors(NamedTuple):
    """Why fields of a function have no value: 0, a positive errno or :data:`MALFORMED`.

    In the order of ``VH_FIELD_...`` in ``vfiohost.cdef.h``, which says what each is about.
    """

    name: int
    path: int
    modalias: int
    ids: int
    revision: int
    numa_node: int
    total_vfs: int
    driver: int
    iommu_group: int
    physfn: int


FunctionRow = tuple[
    int, int, int, int, int, int, int, int, int, int, int, int, int, int, int, int, bytes
]
"""A function as the C core found it: ``struct vh_function`` of ``vfiohost.cdef.h``."""


def scan(
    rootfd: int, devicesfd: int, *, shown: str, fallback: bool = False
) -> Iterator[tuple[FunctionRow, str, str]]:
    """Read all PCI functions, a batch per call into C, which lets other threads run.

    Args:
        rootfd: the root.
        devicesfd: ``sys/bus/pci/devices``, open for reading and at its start.
        shown: how errors name that directory.
        fallback: do without ``openat2(2)``.

    Yields:
        The row of a function, the path of its directory and its driver's name; the path is the
        entry's name where the row says that the directory could not be found.

    Raises:
        KernelError: the directory cannot be listed (``op`` is ``list``).
    """
    area = _buffer("struct vh_scan *")
    rows = ffi.buffer(area.functions)
    strings = ffi.buffer(area.text)
    while count := checked(lib.vh_scan(rootfd, devicesfd, area, options(fallback)), "list", shown):
        texts = text(strings[: area.text_size]).split("\0")
        yield from zip(
            _FUNCTION.iter_unpack(rows[: count * _FUNCTION.size]),
            texts[::2],
            texts[1::2],
            strict=False,
        )


def field_errors(packed: bytes) -> FieldErrors:
    """Unpack the last field of a row."""
    return FieldErrors(*_ERRORS.unpack(packed))


# struct vh_parent: key, physfn; physfn_error, types_error; types_at, text_size.
_PARENT: Final = struct.Struct("2q 2h 2i 0q")
_TYPE: Final = struct.Struct(f"{lib.VH_TYPE_FILES}h")  # vh_parent.errors of one type


TypeRow = tuple[str, str, str, str, str, tuple[int, int, int, int]]
"""A type of mediated devices as the C core found it: id, name, instances, API, description, errors.

The errors are those of the four files: 0, or a positive errno or :data:`MALFORMED` and no text.
"""


class ParentRow(NamedTuple):
    """A parent of mediated devices as the C core found it: ``struct vh_parent``.

    ``error`` is 0, or a positive errno: it is not there, and nothing else was read. ``types`` are
    packed, so that those which are the same are equal: see :func:`type_rows`.
    """

    error: int
    key: int = -1
    physfn: int = -1
    physfn_error: int = 0
    types_error: int = 0
    path: str = ""
    types: tuple[bytes, bytes] = (b"", b"")


def scan_parents(
    rootfd: int, links: Iterable[str], *, fallback: bool = False
) -> Iterator[ParentRow]:
    """Read parents of mediated devices, each with its types in one call into C.

    Args:
        rootfd: the root.
        links: their entries (``sys/class/mdev_bus/NAME``), relative to the root.
        fallback: do without ``openat2(2)``.

    Yields:
        For each link what it leads to. Nothing about one of them is an exception.
    """
    area = _buffer("struct vh_parent *")
    head, rows, strings = map(ffi.buffer, (area, area.errors, area.text))
    bits = options(fallback)
    for link in links:
        count = lib.vh_scan_parent(rootfd, encoded(link, "readlink", link), area, bits)
        if count < 0:
            yield ParentRow(-count)
            continue
        key, physfn, *wrong, types_at, size = _PARENT.unpack_from(head)
        path = text(strings[: types_at - 1])
        types = rows[: count * _TYPE.size], strings[types_at:size]
        yield ParentRow(0, key, physfn, wrong[0], wrong[1], path, types)


def type_rows(packed: tuple[bytes, bytes]) -> Iterator[TypeRow]:
    """Unpack the last field of a :class:`ParentRow`."""
    errors, texts = packed
    fields = text(texts).split("\0")
    return zip(*(fields[n::5] for n in range(5)), _TYPE.iter_unpack(errors), strict=False)


def store(rootfd: int, path: str, data: bytes, *, shown: str, fallback: bool = False) -> None:
    """Store a value: one open, exactly one ``write(2)``. May block for as long as the kernel does.

    Raises:
        KernelError: the kernel's answer, with ``op`` ``open`` or ``write``; EIO when it took only
            a part of the value.
    """
    phase = ffi.new("int *")
    name = encoded(path, "open", shown, data)
    result = lib.vh_store(rootfd, name, data, len(data), options(fallback), phase)
    _check_store(result, phase[0], shown, data)


def store_bounded(
    rootfd: int,
    path: str,
    data: bytes,
    *,
    timeout: float,
    keep_fd: int | None = None,
    only_sysfs: bool,
    shown: str,
    give_up: GiveUp = never,
    fallback: bool = False,
) -> None:
    """Store a value in a helper process and wait for it no longer than ``timeout``.

    The helper has a session of its own, no signal but SIGKILL reaches it, and it keeps no file
    descriptor of the caller but the root and ``keep_fd``. Signal handlers of the caller run while
    it waits; one that raises ends the wait, not the store, and is the cause of the error.

    Args:
        rootfd: the root.
        path: the attribute.
        data: the value.
        timeout: seconds.
        keep_fd: stays open in the helper until the store has ended, so that a ``flock`` on it
            outlives the caller.
        only_sysfs: refuse a file that is not on a mounted sysfs.
        shown: how errors name the file.
        give_up: asked each :data:`TICK` of the wait, with the ``time.monotonic()`` at which it
            began; ``True`` ends it.
        fallback: do without ``openat2(2)`` and ``close_range(2)``.

    Raises:
        KernelError: the kernel's answer, with ``op`` ``open`` or ``write``; EINTR when the helper
            was killed before it could tell one.
        StoreTimeoutError: no answer in time, given up, or the wait was interrupted; the helper
            ``pid`` goes on waiting in the kernel.
        UnsupportedError: ``only_sysfs`` and the file is not on a sysfs.
    """
    began = time.monotonic()
    name = encoded(path, "open", shown, data)
    bits = options(fallback) | (lib.VH_ONLY_SYSFS if only_sysfs else 0)
    keep = -1 if keep_fd is None else keep_fd
    pipe = ffi.new("int *")
    pid = lib.vh_store_start(rootfd, name, data, len(data), keep, bits, pipe)
    if pid < 0:
        raise KernelError("open", -pid, shown, text(data))
    outcome: bytes | None = None
    try:
        outcome = _receive(pipe[0], _ANSWER.size, began, timeout, give_up)
    except BaseException as interruption:
        # A signal handler raised. The store goes on, and somebody has to know in which process.
        waited = time.monotonic() - began
        raise StoreTimeoutError(shown, text(data), pid, waited) from interruption
    finally:
        os.close(pipe[0])
        _reap(pid, wait=outcome is not None)
    if outcome is None:
        raise StoreTimeoutError(shown, text(data), pid, time.monotonic() - began)
    if len(outcome) < _ANSWER.size:
        raise KernelError("write", errno.EINTR, shown, text(data))
    result, phase = _ANSWER.unpack(outcome)
    _check_store(result, phase, shown, data)


def read_bounded(
    rootfd: int, paths: Sequence[str], *, timeout: float, fallback: bool = False
) -> list[bytes | int | None]:
    """Read files whose reading may block for ever, and wait no longer than ``timeout``.

    A helper process reads them one after the other. When it is stuck on one of them, another
    helper goes on with the next; what comes late still counts until the time is over.

    Returns:
        For each path its content (at most ``VH_ANSWER_MAX`` bytes), or a negative errno, or
        ``None``: no answer in time, or none without waiting at a FIFO.
    """
    answers: list[bytes | int | None] = [None] * len(paths)
    deadline = time.monotonic() + timeout
    patience = min(timeout * _PATIENCE, _PATIENCE_MAX)
    poll = select.poll()
    helpers: dict[int, _Reader] = {}
    newest: _Reader | None = None
    stuck = False
    try:
        while None in answers and (left := deadline - time.monotonic()) > 0:
            if newest is None or stuck:
                first = 0 if newest is None else newest.next + 1
                newest = _Reader.start(rootfd, paths, first, fallback=fallback)
                helpers[newest.fd] = newest
                poll.register(newest.fd, select.POLLIN)
            ready = poll.poll(_milliseconds(min(left, patience)))
            for fd, _ in ready:
                if not helpers[fd].feed(answers):
                    poll.unregister(fd)
                    helpers.pop(fd).close(ended=True)
            if not helpers:
                break
            stuck = not ready and newest.fd in helpers and newest.next + 1 < len(paths)
    finally:
        for helper in helpers.values():
            helper.close(ended=False)
    return answers


_CAPABILITY: Final = struct.Struct("3H")  # struct vh_capability


def decode_config(config: bytes) -> tuple[dict[str, int], list[tuple[int, ...]]]:
    """Take a configuration space apart; nothing in it is an error.

    Returns:
        The registers of a ``struct vh_config`` by name, and id, offset and version of each
        capability.
    """
    area = ffi.new("struct vh_config *")
    count = lib.vh_decode_config(config, len(config), area)
    found = bytes(ffi.buffer(area.capabilities)[: count * _CAPABILITY.size])
    names = (name for name, _ in ffi.typeof("struct vh_config").fields if name != "capabilities")
    return {name: getattr(area, name) for name in names}, [*_CAPABILITY.iter_unpack(found)]


class _Reader:
    """A helper that reads ``paths[first:]``, seen from the end of its pipe.

    ``next`` is the path whose answer is awaited.
    """

    def __init__(self, pid: int, fd: int, first: int) -> None:
        self.pid = pid
        self.fd = fd
        self.first = self.next = first
        self._data = bytearray()

    @classmethod
    def start(cls, rootfd: int, paths: Sequence[str], first: int, *, fallback: bool) -> _Reader:
        names = b"".join(encoded(path, "open", path) + b"\0" for path in paths[first:])
        pipe = ffi.new("int *")
        pid = lib.vh_read_start(rootfd, names, len(paths) - first, options(fallback), pipe)
        return cls(checked(pid, "read", paths[first]), pipe[0], first)

    def feed(self, answers: list[bytes | int | None]) -> bool:
        """Take in what has come; ``False`` when no more will come."""
        data = self._data
        chunk = os.read(self.fd, lib.VH_ANSWER_MAX)
        data += chunk
        while len(data) >= _ANSWER.size:
            index, result = _ANSWER.unpack_from(data)
            end = _ANSWER.size + max(result, 0)
            if len(data) < end:
                break
            self.next = self.first + index
            if answers[self.next] is None and result != -errno.EAGAIN:
                answers[self.next] = result if result < 0 else bytes(data[_ANSWER.size : end])
            self.next += 1
            del data[:end]
        return bool(chunk)

    def close(self, *, ended: bool) -> None:
        os.close(self.fd)
        _reap(self.pid, wait=ended)


def _receive(fd: int, size: int, began: float, timeout: float, give_up: GiveUp) -> bytes | None:
    """Read ``size`` bytes from a helper's pipe: fewer at its end, ``None`` when time is up."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    data = b""
    while len(data) < size:
        # poll() runs signal handlers and goes on waiting; one that raises ends the wait (PEP 475).
        left = began + timeout - time.monotonic()
        if not poll.poll(_milliseconds(min(left, TICK))):
            if left <= TICK or give_up(began):
                return None
            continue
        chunk = os.read(fd, size - len(data))
        if not chunk:
            break
        data += chunk
    return data


def _reap(pid: int, *, wait: bool) -> None:
    """Collect a helper that has ended, and those that were left behind and have ended since."""
    _left.add(pid)
    for child in tuple(_left):
        # The caller's own handling of SIGCHLD may have been faster.
        with contextlib.suppress(ChildProcessError):
            if os.waitpid(child, 0 if wait and child == pid else os.WNOHANG) == (0, 0):
                continue
        _left.discard(child)


def _check_store(result: int, phase: int, shown: str, data: bytes) -> None:
    if result == -errno.EOPNOTSUPP and phase == lib.VH_PHASE_CHECK:
        raise UnsupportedError(
            f"{shown} is not on a mounted sysfs: nobody would act on what is written to it, "
            "so nothing was written."
        )
    op: KernelOp = "write" if phase == lib.VH_PHASE_TRANSFER else "open"
    checked(result, op, shown, data)


def _milliseconds(seconds: float) -> int:
    return math.ceil(max(0.0, min(seconds, LONGEST_WAIT)) * 1000)
