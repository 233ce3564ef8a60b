"""What the C core offers: csrc/vfiohost.cdef.h, as types. Pointers are cffi's and stay untyped."""

from typing import Any, Final

ffi: Any

class _Lib:
    VH_FALLBACK: Final[int]
    VH_ONLY_SYSFS: Final[int]
    VH_PHASE_OPEN: Final[int]
    VH_PHASE_CHECK: Final[int]
    VH_PHASE_TRANSFER: Final[int]
    VH_ANSWER_MAX: Final[int]
    VH_SCAN_ENTRIES: Final[int]
    VH_SCAN_FUNCTIONS: Final[int]
    VH_SCAN_PATH: Final[int]
    VH_SCAN_NAME: Final[int]
    VH_SCAN_TEXT: Final[int]
    VH_FIELDS: Final[int]
    VH_MALFORMED: Final[int]

    def vh_open_root(self, path: bytes, /) -> int: ...
    def vh_open_in(self, root: int, path: bytes, flags: int, mode: int, options: int, /) -> int: ...
    def vh_is_sysfs(self, fd: int, /) -> int: ...
    def vh_read(
        self, root: int, path: bytes, buffer: Any, size: int, options: int, phase: Any, /
    ) -> int: ...
    def vh_readlink(
        self, root: int, path: bytes, buffer: Any, size: int, options: int, /
    ) -> int: ...
    def vh_read_start(
        self, root: int, paths: bytes, count: int, options: int, answers: Any, /
    ) -> int: ...
    def vh_store(
        self, root: int, path: bytes, data: bytes, size: int, options: int, phase: Any, /
    ) -> int: ...
    def vh_store_start(
        self,
        root: int,
        path: bytes,
        data: bytes,
        size: int,
        keep_fd: int,
        options: int,
        outcome: Any,
        /,
    ) -> int: ...
    def vh_scan(self, root: int, devices: int, scan: Any, options: int, /) -> int: ...
    def vh_group_get_status(self, group: int, flags: Any, /) -> int: ...
    def vh_device_get_info(self, device: int, info: Any, size: int, /) -> int: ...

lib: _Lib
