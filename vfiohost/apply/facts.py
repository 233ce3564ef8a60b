"""What a host shows of what plans expect of it, and how that is said."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from vfiohost.errors import ApplyError, KernelError, KernelOp
from vfiohost.model import Unavailable

if TYPE_CHECKING:
    from vfiohost.errors import VfioHostError
    from vfiohost.plan.types import Expect, ExpectKind, WriteAttr
    from vfiohost.sysfs import Sysfs

_READ_OPS: dict[ExpectKind, KernelOp] = {"link": "readlink", "text": "read", "exists": "open"}


class Facts:
    """Looks at the facts that expectations are about.

    Args:
        sysfs: the host.
        timeout: seconds until a text counts as unavailable.
    """

    def __init__(self, sysfs: Sysfs, *, timeout: float) -> None:
        self._sysfs = sysfs
        self._timeout = timeout

    def see(self, expect: Expect) -> str | None | Unavailable:
        """Look at the fact that an expectation is about; its value tells what is likely, no more.

        Texts are read in a helper process, because some attributes take the device lock to be
        shown.

        Returns:
            What would have to be ``expect.value`` for it to hold, or why it cannot be told. A
            device that is gone is no device without a driver: where the directory of a link or text
            does not exist, that is unavailable, with ENOENT.
        """
        sysfs = self._sysfs
        try:
            if expect.kind == "exists":
                # What should be there is a device most often, and so a directory.
                is_there = expect.value == "yes" and sysfs.is_directory(expect.path)
                return "yes" if is_there or sysfs.exists(expect.path) else "no"
            if expect.kind == "link":
                seen: str | None | Unavailable = sysfs.link_name(expect.path)
            else:
                seen = sysfs.read_bounded([expect.path], timeout=self._timeout)[expect.path]
                if isinstance(seen, Unavailable) and seen.errno == errno.ENOENT:
                    seen = None
            if seen is None and not sysfs.exists(expect.path.rpartition("/")[0]):
                return Unavailable(errno.ENOENT, "its directory is gone")
        except KernelError as exc:
            return Unavailable(exc.errno or 0, os.strerror(exc.errno or 0))
        return seen

    def holds(self, expect: Expect) -> bool:
        """Whether the host is as expected."""
        return self.see(expect) == expect.value

    def unreadable(self, expect: Expect, seen: Unavailable) -> VfioHostError:
        """The error about a fact that cannot be told."""
        if seen.errno:
            op = _READ_OPS[expect.kind]
            return KernelError(op, seen.errno, self._sysfs.shown(expect.path))
        return ApplyError(
            f"{self.sentence(expect, seen)} An operation on the device has not come back."
        )

    def sentence(self, expect: Expect, seen: str | None | Unavailable) -> str:
        """What is there instead of what should be."""
        shown = self._sysfs.shown(expect.path)
        if isinstance(seen, Unavailable) and seen.errno == errno.ENOENT:
            return f"{shown} is not there, and neither is the directory that it should be in."
        if isinstance(seen, Unavailable):
            return f"{shown} cannot be read ({seen})."
        return f"{shown} {_state(expect.kind, seen)}, but should {_wish(expect)}."

    def neither(self, step: WriteAttr) -> str:
        """That a step's file is neither as before the step nor as after it."""
        facts = [e for e in (step.before, step.after) if e is not None]
        if not facts:
            return f"whether {self._sysfs.shown(step.path)} was written cannot be seen."
        seen = self.see(facts[0])
        if isinstance(seen, Unavailable):
            return self.sentence(facts[0], seen)
        state = _state(facts[0].kind, seen)
        return (
            f"{self._sysfs.shown(facts[0].path)} {state}, which is neither what was there before "
            "the step nor what the step made; somebody else changed it."
        )


def _state(kind: ExpectKind, value: str | None) -> str:
    if kind == "exists":
        return "exists" if value == "yes" else "does not exist"
    if value is None:
        return "is not there"
    return f"points to {value!r}" if kind == "link" else f"is {value!r}"


def _wish(expect: Expect) -> str:
    if expect.kind == "exists":
        return "exist" if expect.value == "yes" else "not exist"
    if expect.value is None:
        return "not be there"
    return f"point to {expect.value!r}" if expect.kind == "link" else f"be {expect.value!r}"
