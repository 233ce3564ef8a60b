"""The C core, seen from Python: the only importer of the compiled module.

Here, and nowhere else, a negative int becomes an exception. Paths are relative to the directory
that ``rootfd`` is open on and cannot lead out of it; ``shown`` is how an error names the file.

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
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import attrs

from vfiohost._native import ffi, lib
from vfiohost.errors import KernelError, StoreTimeoutError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
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

_INFO_SIZE: Final = 256  # the structure and the capabilities that kernels have today
_INFO_MAX: Final = 1 << 20
_INFO_ROUNDS: Final = 4  # capabilities may appear between two calls

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
    return _checked(lib.vh_open_root(_encoded(path, "open", path)), "open", path)


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
    name = _encoded(path, "open", shown)
    return _checked(lib.vh_open_in(rootfd, name, flags, mode, _options(fallback)), "open", shown)


def is_sysfs(fd: int) -> bool:
    """Say whether an open file is on a mounted sysfs (``statfs.f_type``).

    Raises:
        KernelError: the kernel's answer.
    """
    return _checked(lib.vh_is_sysfs(fd), "open", f"file descriptor {fd}") == 1


def read(rootfd: int, path: str, limit: int, *, shown: str, fallback: bool = False) -> bytes:
    """Read a whole regular file of at most ``limit`` bytes; never blocks on a FIFO.

    Raises:
        KernelError: the kernel's answer; EFBIG (larger than ``limit``), EISDIR, EAGAIN (a FIFO),
            EINVAL (neither a file nor a directory).
    """
    buffer = _buffer("char[]", limit)
    phase = ffi.new("int *")
    name = _encoded(path, "open", shown)
    size = lib.vh_read(rootfd, name, buffer, limit, _options(fallback), phase)
    op: KernelOp = "open" if phase[0] == lib.VH_PHASE_OPEN else "read"
    return bytes(ffi.buffer(buffer, _checked(size, op, shown)))


def readlink(rootfd: int, path: str, *, shown: str, fallback: bool = False) -> bytes:
    """Read a symbolic link's text.

    Raises:
        KernelError: the kernel's answer; EINVAL when it is no link.
    """
    buffer = _buffer("char[]", _LINK_MAX)
    name = _encoded(path, "readlink", shown)
    size = lib.vh_readlink(rootfd, name, buffer, _LINK_MAX, _options(fallback))
    return bytes(ffi.buffer(buffer, _checked(size, "readlink", shown)))


# struct vh_function: key, physfn; domain, bus, device, function, odd; vendor, device, class;
# subsystem vendor and device; revision, numa_node, total_vfs, iommu_group; errors.
_FUNCTION: Final = struct.Struct("2q I4B 9i 20s")
_ERRORS: Final = struct.Struct(f"{lib.VH_FIELDS}h")

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
    text = ffi.buffer(area.text)
    while count := _checked(
        lib.vh_scan(rootfd, devicesfd, area, _options(fallback)), "list", shown
    ):
        texts = _text(text[: area.text_size]).split("\0")
        yield from zip(
            _FUNCTION.iter_unpack(rows[: count * _FUNCTION.size]),
            texts[::2],
            texts[1::2],
            strict=False,
        )


def field_errors(packed: bytes) -> FieldErrors:
    """Unpack the last field of a row."""
    return FieldErrors(*_ERRORS.unpack(packed))


def store(rootfd: int, path: str, data: bytes, *, shown: str, fallback: bool = False) -> None:
    """Store a value: one open, exactly one ``write(2)``. May block for as long as the kernel does.

    Raises:
        KernelError: the kernel's answer, with ``op`` ``open`` or ``write``; EIO when it took only
            a part of the value.
    """
    phase = ffi.new("int *")
    name = _encoded(path, "open", shown, data)
    result = lib.vh_store(rootfd, name, data, len(data), _options(fallback), phase)
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
    name = _encoded(path, "open", shown, data)
    options = _options(fallback) | (lib.VH_ONLY_SYSFS if only_sysfs else 0)
    keep = -1 if keep_fd is None else keep_fd
    pipe = ffi.new("int *")
    pid = lib.vh_store_start(rootfd, name, data, len(data), keep, options, pipe)
    if pid < 0:
        raise KernelError("open", -pid, shown, _text(data))
    outcome: bytes | None = None
    try:
        outcome = _receive(pipe[0], _ANSWER.size, began, timeout, give_up)
    except BaseException as interruption:
        # A signal handler raised. The store goes on, and somebody has to know in which process.
        waited = time.monotonic() - began
        raise StoreTimeoutError(shown, _text(data), pid, waited) from interruption
    finally:
        os.close(pipe[0])
        _reap(pid, wait=outcome is not None)
    if outcome is None:
        raise StoreTimeoutError(shown, _text(data), pid, time.monotonic() - began)
    if len(outcome) < _ANSWER.size:
        raise KernelError("write", errno.EINTR, shown, _text(data))
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


def group_get_status(fd: int, *, shown: str) -> int:
    """Ask ``VFIO_GROUP_GET_STATUS`` of a group; returns ``VFIO_GROUP_FLAGS_...``.

    Raises:
        KernelError: the kernel's answer; ENOTTY when this is no VFIO group.
    """
    flags = ffi.new("uint32_t *")
    _checked(lib.vh_group_get_status(fd, flags), "ioctl", shown, b"GROUP_GET_STATUS")
    return int(flags[0])


def device_get_info(fd: int, *, shown: str) -> bytes:
    """Ask ``VFIO_DEVICE_GET_INFO`` of a device, with as much room as the kernel wants.

    Returns:
        A ``struct vfio_device_info`` and its capabilities, then zeros.

    Raises:
        KernelError: the kernel's answer; ENOTTY when this is no VFIO device; EOVERFLOW when it
            wants more than a megabyte, or never settles on a size.
    """
    return _info(
        lambda buffer, size: lib.vh_device_get_info(fd, buffer, size), shown, b"DEVICE_GET_INFO"
    )


def device_get_region_info(fd: int, index: int, *, shown: str) -> bytes:
    """Ask ``VFIO_DEVICE_GET_REGION_INFO`` of a device; as :func:`device_get_info`.

    Returns:
        A ``struct vfio_region_info`` and its capabilities, then zeros.
    """
    return _info(
        lambda buffer, size: lib.vh_device_get_region_info(fd, index, buffer, size),
        shown,
        b"DEVICE_GET_REGION_INFO",
    )


def device_get_irq_info(fd: int, index: int, *, shown: str) -> tuple[int, int]:
    """Ask ``VFIO_DEVICE_GET_IRQ_INFO`` of a device; returns the flags and the count."""
    flags, count = ffi.new("uint32_t *"), ffi.new("uint32_t *")
    _checked(
        lib.vh_device_get_irq_info(fd, index, flags, count), "ioctl", shown, b"DEVICE_GET_IRQ_INFO"
    )
    return int(flags[0]), int(count[0])


def device_reset(fd: int, *, shown: str) -> None:
    """``VFIO_DEVICE_RESET``."""
    _checked(lib.vh_device_reset(fd), "ioctl", shown, b"DEVICE_RESET")


def get_api_version(container: int, *, shown: str) -> int:
    """``VFIO_GET_API_VERSION``."""
    return _checked(lib.vh_get_api_version(container), "ioctl", shown, b"GET_API_VERSION")


def check_extension(container: int, extension: int, *, shown: str) -> bool:
    """``VFIO_CHECK_EXTENSION``."""
    return (
        _checked(lib.vh_check_extension(container, extension), "ioctl", shown, b"CHECK_EXTENSION")
        > 0
    )


def set_iommu(container: int, kind: int, *, shown: str) -> None:
    """``VFIO_SET_IOMMU``."""
    _checked(lib.vh_set_iommu(container, kind), "ioctl", shown, b"SET_IOMMU")


def group_set_container(group: int, container: int, *, shown: str) -> None:
    """``VFIO_GROUP_SET_CONTAINER``."""
    _checked(lib.vh_group_set_container(group, container), "ioctl", shown, b"GROUP_SET_CONTAINER")


def group_get_device_fd(group: int, name: str, *, shown: str) -> int:
    """``VFIO_GROUP_GET_DEVICE_FD``; returns a file descriptor, which the caller closes."""
    text = _encoded(name, "ioctl", shown, b"GROUP_GET_DEVICE_FD")
    return _checked(lib.vh_group_get_device_fd(group, text), "ioctl", shown, b"GROUP_GET_DEVICE_FD")


def iommu_map_dma(container: int, memory: Buffer, iova: int, *, shown: str) -> None:
    """``VFIO_IOMMU_MAP_DMA`` of whole pages of memory, for reading and writing."""
    address = ffi.from_buffer(memory)
    result = lib.vh_iommu_map_dma(container, address, iova, len(address))
    _checked(result, "ioctl", shown, b"IOMMU_MAP_DMA")


def iommu_unmap_dma(container: int, iova: int, size: int, *, shown: str) -> None:
    """``VFIO_IOMMU_UNMAP_DMA``."""
    _checked(lib.vh_iommu_unmap_dma(container, iova, size), "ioctl", shown, b"IOMMU_UNMAP_DMA")


def device_bind_iommufd(device: int, iommufd: int, *, shown: str) -> int:
    """``VFIO_DEVICE_BIND_IOMMUFD``; returns the device's id in the iommufd."""
    return _id(
        lambda found: lib.vh_device_bind_iommufd(device, iommufd, found),
        shown,
        b"DEVICE_BIND_IOMMUFD",
    )


def device_attach_iommufd_pt(device: int, number: int, *, shown: str) -> None:
    """``VFIO_DEVICE_ATTACH_IOMMUFD_PT``."""
    _checked(
        lib.vh_device_attach_iommufd_pt(device, number), "ioctl", shown, b"DEVICE_ATTACH_IOMMUFD_PT"
    )


def ioas_alloc(iommufd: int, *, shown: str) -> int:
    """``IOMMU_IOAS_ALLOC``; returns the id of the address space."""
    return _id(lambda found: lib.vh_ioas_alloc(iommufd, found), shown, b"IOAS_ALLOC")


def ioas_map(iommufd: int, number: int, memory: Buffer, *, shown: str) -> int:
    """``IOMMU_IOAS_MAP`` of whole pages of memory; returns the address that devices see it at."""
    address = ffi.from_buffer(memory)
    iova = ffi.new("uint64_t *")
    _checked(
        lib.vh_ioas_map(iommufd, number, address, len(address), iova), "ioctl", shown, b"IOAS_MAP"
    )
    return int(iova[0])


def ioas_unmap(iommufd: int, number: int, iova: int, size: int, *, shown: str) -> None:
    """``IOMMU_IOAS_UNMAP``."""
    _checked(lib.vh_ioas_unmap(iommufd, number, iova, size), "ioctl", shown, b"IOAS_UNMAP")


def iommu_destroy(iommufd: int, number: int, *, shown: str) -> None:
    """``IOMMU_DESTROY``."""
    _checked(lib.vh_iommu_destroy(iommufd, number), "ioctl", shown, b"DESTROY")


def _info(ask: Callable[[Any, int], int], shown: str, name: bytes) -> bytes:
    """Ask for an info structure with ever more room, until it suffices (argsz negotiation)."""
    size = _INFO_SIZE
    for _ in range(_INFO_ROUNDS):
        buffer = ffi.new("char[]", size)
        wanted = _checked(ask(buffer, size), "ioctl", shown, name)
        if wanted <= size:
            return bytes(ffi.buffer(buffer, size))
        if wanted > _INFO_MAX:
            break
        size = wanted
    raise KernelError("ioctl", errno.EOVERFLOW, shown, _text(name))


def _id(ask: Callable[[Any], int], shown: str, name: bytes) -> int:
    found = ffi.new("uint32_t *")
    _checked(ask(found), "ioctl", shown, name)
    return int(found[0])


@attrs.define
class _Reader:
    """A helper that reads ``paths[first:]``, seen from the end of its pipe.

    ``next`` is the path whose answer is awaited.
    """

    pid: int
    fd: int
    first: int
    next: int
    _data: bytearray = attrs.field(factory=bytearray)

    @classmethod
    def start(cls, rootfd: int, paths: Sequence[str], first: int, *, fallback: bool) -> _Reader:
        names = b"".join(_encoded(path, "open", path) + b"\0" for path in paths[first:])
        pipe = ffi.new("int *")
        pid = lib.vh_read_start(rootfd, names, len(paths) - first, _options(fallback), pipe)
        return cls(_checked(pid, "read", paths[first]), pipe[0], first, first)

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
    _checked(result, op, shown, data)


def _checked(result: int, op: KernelOp, shown: str, data: bytes | None = None) -> int:
    if result < 0:
        raise KernelError(op, -result, shown, None if data is None else _text(data))
    return result


def _encoded(path: str, op: KernelOp, shown: str, data: bytes | None = None) -> bytes:
    name = os.fsencode(path)
    if b"\0" in name:
        _checked(-errno.EINVAL, op, shown, data)
    return name


def _options(fallback: bool) -> int:  # noqa: FBT001
    return lib.VH_FALLBACK if fallback else 0


def _milliseconds(seconds: float) -> int:
    return math.ceil(max(0.0, min(seconds, LONGEST_WAIT)) * 1000)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")
