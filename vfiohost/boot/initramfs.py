"""The rule and the driver in the initramfs, for devices that would be taken there. Pure.

An initramfs has a udev of its own, which loads modules as the host's does. What it needs is the
same rule, and the module that the rule loads.

There is no ``softdep NATIVE pre: vfio-pci`` with it. The override alone keeps the native one off,
and with a softdep ``modprobe -r NATIVE`` unloads vfio-pci as well, which takes it from every device
while no guest has one open (seen with kmod 30).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs

from vfiohost.boot.rule import RULE_PATH
from vfiohost.boot.words import comments
from vfiohost.modalias import module_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from vfiohost.boot.devices import BootDevice


@attrs.frozen
class Generator:
    """A program that makes initramfs.

    Attributes:
        name: its name.
        mark: a file that is there where it is installed; its folders are not enough, for other
            packages put their own hooks into them.
        path: the file that tells it what to carry.
        mode: the mode of that file.
        text: makes that file's text, of the modules that are to be carried.
        command: makes the initramfs of all kernels anew.
        lists: says what an initramfs carries, when the file is put behind it.
        takes_rules: it carries the host's own rules unasked, so that what was in them stays in an
            initramfs until that is made anew (``hooks/udev`` of initramfs-tools).
    """

    name: str
    mark: str
    path: str
    mode: int
    text: Callable[[Sequence[str]], str]
    command: tuple[str, ...]
    lists: tuple[str, ...]
    takes_rules: bool


def modules_of(devices: Iterable[BootDevice]) -> tuple[str, ...]:
    """The modules of the drivers that devices are to have, each once."""
    return tuple(dict.fromkeys(module_of(d.driver) for d in devices if d.has_driver))


def hook_text(modules: Sequence[str]) -> str:
    """A hook of initramfs-tools (``initramfs-tools(7)``): its udev has its rules below ``usr/lib``.

    Args:
        modules: what the initramfs is to have.
    """
    lines = [
        "#!/bin/sh",
        *comments("Carries the rule that gives devices to drivers, and what it loads."),
        "",
        'if [ "$1" = prereqs ]; then',
        "    echo udev",
        "    exit 0",
        "fi",
        ". /usr/share/initramfs-tools/hook-functions",
        *(f"manual_add_modules {name}" for name in modules),
        'mkdir -p "$DESTDIR/usr/lib/udev/rules.d"',
        f'cp -p /{RULE_PATH} "$DESTDIR/usr/lib/udev/rules.d/"',
    ]
    return "\n".join([*lines, ""])


def dracut_text(modules: Sequence[str]) -> str:
    """A file of ``dracut.conf.d`` (``dracut.conf(5)``).

    Args:
        modules: what the initramfs is to have.
    """
    lines = [
        *comments("Carries the rule that gives devices to drivers, and what it loads."),
        *([f'add_drivers+=" {" ".join(modules)} "'] if modules else []),
        f'install_items+=" /{RULE_PATH} "',
    ]
    return "\n".join([*lines, ""])


GENERATORS: Final = (
    Generator(
        "initramfs-tools",
        "usr/share/initramfs-tools/hook-functions",
        "etc/initramfs-tools/hooks/vfiohost",
        0o755,
        hook_text,
        ("update-initramfs", "-u", "-k", "all"),
        ("lsinitramfs",),
        takes_rules=True,
    ),
    Generator(
        "dracut",
        "usr/lib/dracut/dracut-functions.sh",
        "etc/dracut.conf.d/vfiohost.conf",
        0o644,
        dracut_text,
        ("dracut", "--regenerate-all", "--force"),
        ("lsinitrd",),
        takes_rules=False,
    ),
)
"""The programs that are known, with what each wants to be told."""
