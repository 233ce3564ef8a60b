"""The C core, seen from Python: the only importer of the compiled module.

In ``answers``, and nowhere else, a negative int becomes an exception; ``helpers`` has what is done
in processes of its own, since it may block for ever, and ``ioctls`` what is asked of VFIO.

Paths are relative to the directory that ``rootfd`` is open on and cannot lead out of it; ``shown``
is how an error names the file. Each function that opens takes ``fallback=True`` to behave as on a
kernel without ``openat2(2)`` and ``close_range(2)``; on such a kernel it does so by itself.
"""

from __future__ import annotations

import struct
from threading import Thread
from typing import TYPE_CHECKING, Final, NamedTuple

from vfiohost._native import ffi, lib
from vfiohost.native.answers import check_store, checked, encoded, options, text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from mmap import mmap

    from vfiohost.errors import KernelOp

    Buffer = bytearray | mmap

_LINK_MAX: Final = 4097  # PATH_MAX, and one byte that shows that nothing was cut

# Filled by C before it is read, so that zeroing it would be lost time.
_buffer = ffi.new_allocator(should_clear_after_alloc=False)


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


_Batch = tuple[int, bytes, bytes]  # how many functions, their rows, their texts

_MANY: Final = 512  # functions in a first batch, after which more are likely to come


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
    for count, rows, strings in _all_batches(rootfd, devicesfd, options(fallback)):
        checked(count, "list", shown)
        texts = text(strings).split("\0")
        yield from zip(_FUNCTION.iter_unpack(rows), texts[::2], texts[1::2], strict=False)


def _all_batches(rootfd: int, devicesfd: int, bits: int) -> list[_Batch]:
    """Read all batches; where the first one is large, by two threads.

    The kernel answers both at once, and each entry is given to one of them: the offset of an open
    directory is its own, and locked while entries are taken (``fs/file.c:fdget_pos``).
    """
    mine = _batches(rootfd, devicesfd, bits)
    first = next(mine)
    if first[0] < _MANY:
        return [first, *mine]
    others: list[_Batch] = []
    helper = Thread(target=others.extend, args=[_batches(rootfd, devicesfd, bits)])
    try:
        helper.start()
    except RuntimeError:  # there may be no more threads: then this one reads all of it
        return [first, *mine]
    try:
        found = [first, *mine]
    finally:
        helper.join()
    if not others or others[-1][0] > 0:
        raise MemoryError("The thread that read a part of the functions had too little memory.")
    return found + others


def _batches(rootfd: int, devicesfd: int, bits: int) -> Iterator[_Batch]:
    """Read batches up to the end, which is a batch with a count of 0, or of a negative errno."""
    area = _buffer("struct vh_scan *")
    rows, strings = ffi.buffer(area.functions), ffi.buffer(area.text)
    while (count := lib.vh_scan(rootfd, devicesfd, area, bits)) > 0:
        yield count, rows[: count * _FUNCTION.size], strings[: area.text_size]
    yield count, b"", b""


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
    rootfd: int, busfd: int, names: Iterable[str], *, fallback: bool = False
) -> Iterator[ParentRow]:
    """Read parents of mediated devices, each with its types in one call into C.

    Args:
        rootfd: the root.
        busfd: ``sys/class/mdev_bus``; ``O_PATH`` will do.
        names: their entries there.
        fallback: do without ``openat2(2)``.

    Yields:
        For each name what it leads to. Nothing about one of them is an exception.
    """
    area = _buffer("struct vh_parent *")
    head, rows, strings = map(ffi.buffer, (area, area.errors, area.text))
    bits = options(fallback)
    for name in names:
        entry = encoded(name, "readlink", name)
        count = lib.vh_scan_parent(rootfd, busfd, entry, area, bits)
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
    check_store(result, phase[0], shown, data)


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
