"""The archive format that a kernel takes its first files from (cpio, "newc")."""

from __future__ import annotations

import stat
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


def pack(files: Mapping[str, bytes], *, folders: tuple[str, ...] = ()) -> bytes:
    """Pack files into an archive, with the folders that they need.

    Args:
        files: contents by name, without a leading slash. All become executable.
        folders: further, empty folders.

    Returns:
        The archive, uncompressed. The kernel reads it as ``initramfs``
        (Documentation/driver-api/early-userspace/buffer-format.rst).
    """
    needed = {str(parent) for name in files for parent in PurePosixPath(name).parents}
    names = sorted({*needed, *folders} - {"."})
    members = [_member(name, stat.S_IFDIR | 0o755, b"") for name in names]
    members += [_member(name, stat.S_IFREG | 0o755, content) for name, content in files.items()]
    return b"".join([*members, _member("TRAILER!!!", 0, b"")])


def _member(name: str, mode: int, content: bytes) -> bytes:
    # ino, mode, uid, gid, nlink, mtime, filesize, four device numbers, namesize, check
    fields = (0, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields)
    return _pad(head + name.encode() + b"\0") + _pad(content)


def _pad(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
