"""The kernel's consoles on a device: the text console on its screen, or a serial line."""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING

from vfiohost.holders.reading import class_links, names_in, text_of
from vfiohost.usage import Use

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vfiohost.holders.subjects import Subject
    from vfiohost.sysfs import Sysfs

_VTCONSOLES = "sys/class/vtconsole"
_FRAMEBUFFER_CONSOLE = "frame buffer device"
# Who may own the memory that the firmware draws into: drivers/video/fbdev/efifb.c, vesafb.c,
# simplefb.c, drivers/gpu/drm/tiny/simpledrm.c, drivers/firmware/sysfb.c.
_FIRMWARE_OWNERS = frozenset(
    {"BOOTFB", "efifb", "vesafb", "simplefb", "simple-framebuffer", "simpledrmfb", "simpledrm"}
)
_REGION = re.compile(r"\s*([0-9a-f]{1,16})-([0-9a-f]{1,16}) : (.*)")
_MOST_BARS = 7


def console_uses(sysfs: Sysfs, subjects: Sequence[Subject], incomplete: list[str]) -> Iterator[Use]:
    """The consoles that some functions carry.

    Reads ``sys/class/graphics``, ``sys/class/vtconsole/*/name`` and ``bind``, ``sys/class/tty`` and
    ``proc/consoles``, and for what the firmware has left ``proc/iomem`` and ``resource``.
    """
    functions = [s for s in subjects if s.device is not None]
    if not functions:
        return
    yield from _text_console(sysfs, functions, incomplete)
    yield from _serial_console(sysfs, functions, incomplete)
    yield from _firmware_framebuffer(sysfs, functions)


def _text_console(
    sysfs: Sysfs, functions: Sequence[Subject], incomplete: list[str]
) -> Iterator[Use]:
    """Framebuffers of the functions, while the text console is on framebuffers."""
    bound = [
        name
        for name in names_in(sysfs, _VTCONSOLES)
        if _FRAMEBUFFER_CONSOLE in (text_of(sysfs, f"{_VTCONSOLES}/{name}/name") or "")
        and text_of(sysfs, f"{_VTCONSOLES}/{name}/bind") == "1"
    ]
    for framebuffer, path in class_links(sysfs, "graphics", incomplete) if bound else ():
        for subject in functions:
            if framebuffer.startswith("fb") and path.startswith(f"{subject.path}/"):
                detail = f"the kernel's text console is on {framebuffer}"
                via = f"/{_VTCONSOLES}/{bound[0]}/bind"
                yield Use("console", subject.name, detail, via)


def _serial_console(
    sysfs: Sysfs, functions: Sequence[Subject], incomplete: list[str]
) -> Iterator[Use]:
    lines = (text_of(sysfs, "proc/consoles", incomplete) or "").splitlines()
    names = {line.split()[0] for line in lines if line.split()}
    for name, path in class_links(sysfs, "tty") if names else ():
        for subject in functions:
            if name in names and path.startswith(f"{subject.path}/"):
                detail = f"the kernel's messages go to {name}"
                yield Use("console", subject.name, detail, "/proc/consoles")


def _firmware_framebuffer(sysfs: Sysfs, functions: Sequence[Subject]) -> Iterator[Use]:
    """A framebuffer of the firmware's in a BAR: a driver cannot reserve the BAR while it is there.

    Only root sees addresses in ``proc/iomem`` (``r_show`` in ``kernel/resource.c``); they are 0 to
    others, and then nothing fits.
    """
    regions = []
    for line in (text_of(sysfs, "proc/iomem") or "").splitlines():
        match = _REGION.fullmatch(line)
        if match is not None and match[3] in _FIRMWARE_OWNERS:
            regions.append((int(match[1], 16), int(match[2], 16), match[3]))
    for subject in functions if regions else ():
        for start, end in _bars(sysfs, subject.path):
            for low, high, owner in regions:
                if 0 < start <= low <= high <= end:
                    detail = f"the firmware's framebuffer is in its memory ({owner})"
                    yield Use("framebuffer", subject.name, detail, "/proc/iomem")


def _bars(sysfs: Sysfs, path: str) -> Iterator[tuple[int, int]]:
    """Start and end of each BAR (``resource_show`` in ``drivers/pci/pci-sysfs.c``)."""
    lines = (text_of(sysfs, posixpath.join(path, "resource")) or "").splitlines()
    for line in lines[:_MOST_BARS]:
        try:
            start, end, _ = (int(field, 16) for field in line.split())
        except ValueError:
            continue
        yield start, end
