"""What a plan needs permission for, looked at before anything is touched."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from vfiohost import native
from vfiohost.apply.unfinished import nothing_done
from vfiohost.errors import ApplyError, KernelError
from vfiohost.journal import JOURNAL_PATH, LOCK_PATH
from vfiohost.plan.types import LoadModule, WriteAttr
from vfiohost.privilege import CAP_SYS_MODULE, has_capability

if TYPE_CHECKING:
    from vfiohost.plan.types import Plan
    from vfiohost.sysfs import Sysfs

_LACKING = (errno.EACCES, errno.EPERM, errno.EROFS)


def check_permission(plan: Plan, sysfs: Sysfs) -> None:
    """Make sure that this process may carry out a plan, as far as that can be seen beforehand.

    Each attribute is opened for writing and closed again, which asks the kernel for permission
    (``fs/kernfs/file.c:kernfs_fop_open``) and no driver for anything. A simulated host answers for
    itself.

    Args:
        plan: what is to be done.
        sysfs: the host.

    Raises:
        ApplyError: the permission for something is lacking; its cause names it. Nothing was
            touched, the lock and the journal neither.
    """
    if not sysfs.is_live():
        return
    try:
        for step in plan.steps:
            if isinstance(step, LoadModule):
                _check_module(sysfs, step.name)
            elif isinstance(step, WriteAttr):
                _check_attribute(sysfs, step.path)
        for path in (LOCK_PATH, JOURNAL_PATH):
            _check_own(sysfs, path)
    except KernelError as exc:
        raise ApplyError(
            f"{exc} Nothing was changed.", report=nothing_done(plan), cause=exc
        ) from exc


def _check_attribute(sysfs: Sysfs, path: str) -> None:
    flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY
    try:
        os.close(native.open_in(sysfs.fd, path, flags, shown=sysfs.shown(path)))
    except KernelError as exc:
        # What is not there may come with a step before; anything else is for the store to say.
        if exc.errno in _LACKING:
            raise


def _check_module(sysfs: Sysfs, name: str) -> None:
    """Ask for CAP_SYS_MODULE, which ``init_module(2)`` needs (``kernel/module/main.c``)."""
    if not sysfs.exists(f"sys/module/{name}") and not has_capability(CAP_SYS_MODULE):
        words = "To load it needs root of the host itself, with the capability CAP_SYS_MODULE."
        raise KernelError("load", errno.EPERM, name, words)


def _check_own(sysfs: Sysfs, path: str) -> None:
    """Look whether a file or directory of ours could be made, or written if it is there."""
    parts = path.split("/")
    where, mode = ".", os.W_OK | os.X_OK
    for end in range(1, len(parts) + 1):
        below = "/".join(parts[:end])
        if not sysfs.exists(below):
            break
        where = below
    if where == LOCK_PATH:
        mode = os.W_OK
    shown = sysfs.shown(where)
    fd = native.open_in(sysfs.fd, where, os.O_PATH, shown=shown)
    try:
        if os.fstatvfs(fd).f_flag & os.ST_RDONLY:
            raise KernelError("open", errno.EROFS, shown)
        if not os.access(f"/proc/self/fd/{fd}", mode, effective_ids=True):
            raise KernelError("open", errno.EACCES, shown)
    finally:
        os.close(fd)
