"""Reads which kernel modules there are, and what they are for."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from vfiohost.errors import KernelError
from vfiohost.modalias import ModuleIndex

if TYPE_CHECKING:
    from vfiohost.sysfs import Sysfs

MODULES_LIMIT: Final = 1 << 26  # bytes; Debian's modules.alias has 1.5 million


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
    listings = (texts.get(name, "") for name in ("modules.dep", "modules.builtin"))
    return ModuleIndex.from_texts(texts.get("modules.alias", ""), listings)
