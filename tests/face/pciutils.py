"""The real lspci on a recorded host, with the kernel modules of that host and no others.

lspci reads sysfs where it is told, but libkmod always reads ``/lib/modules/$(uname -r)`` and
``modprobe.d`` of the machine. So it runs in a mount namespace of its own, where these are the
host's. libkmod wants the binary indexes there, which only depmod writes, and depmod wants module
files: a recording has the text that depmod made of such files, so the files are made again of the
text. A module's aliases stand in its section ``.modinfo``, and an ELF file of that section alone
is enough for depmod: no compiler is needed, and nothing could load it by mistake.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import attrs

from vfiohost.modalias import MODPROBE, Modalias, module_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_IN_NAMESPACE = """\
set -e
modules=$1 empty=$2 root=$3
shift 3
lib=$(readlink -f /lib)
if [ -d "$lib/modules/$(uname -r)" ]; then
    mount --bind "$modules" "$lib/modules/$(uname -r)"
else # an overlay has the folder that the machine lacks
    mkdir -p "$empty/lib/modules"
    ln -sfn "$modules" "$empty/lib/modules/$(uname -r)"
    mount -t overlay -o "ro,lowerdir=$empty/lib:$lib" overlay "$lib"
fi
mkdir -p "$empty/modprobe.d"
for folder in {modprobe}; do
    source=$root/$folder
    [ -d "$source" ] || source=$empty/modprobe.d
    [ ! -d "/$folder" ] || mount --bind "$source" "/$folder"
done
exec "$@"
"""


@cache
def why_not() -> str | None:
    """Why lspci cannot be asked on this machine, or ``None``."""
    missing = [name for name in ("lspci", "depmod", "unshare", "mount") if _tool(name) is None]
    if missing:
        return f"not installed: {', '.join(missing)} (Debian: pciutils, kmod, util-linux, mount)"
    with TemporaryDirectory() as name:
        tried = _in_namespace(Path(name), Path(name), Path(name), ["true"])
    return f"no mounts of our own: {tried.stderr.decode()}" if tried.returncode else None


def _tool(name: str) -> str | None:
    # An ordinary user's PATH often lacks the sbin directories, where depmod is.
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def _in_namespace(
    root: Path, modules: Path, scratch: Path, command: Sequence[str]
) -> subprocess.CompletedProcess[bytes]:
    """Run a command that takes these modules and this root's ``modprobe.d`` for the machine's."""
    unshare = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    script = _IN_NAMESPACE.replace("{modprobe}", " ".join(MODPROBE))
    return subprocess.run(
        [*unshare, "sh", "-c", script, "sh", str(modules), str(scratch), str(root), *command],
        capture_output=True,
        env={**os.environ, "HOME": str(scratch), "LC_ALL": "C.UTF-8"},
        check=False,
    )


@attrs.frozen
class Modules:
    """What depmod writes about: the aliases of each module, in the order of ``modules.order``.

    Attributes:
        aliases: patterns by module; a module without is there as well.
        builtin: patterns by module that is built in.
    """

    aliases: dict[str, list[str]]
    builtin: dict[str, list[str]] = attrs.field(factory=dict)

    @classmethod
    def of(cls, folder: Path) -> Modules:
        """Take what the ``modules.alias`` and ``modules.dep`` of a recorded host have."""
        aliases: dict[str, list[str]] = {}
        for line in (folder / "modules.alias").read_text().splitlines():
            if line.startswith("alias "):
                _, pattern, module = line.split()
                aliases.setdefault(module, []).append(pattern)
        for line in (folder / "modules.dep").read_text().splitlines():
            aliases.setdefault(module_name(line.partition(":")[0]), [])
        return cls(aliases)

    def place(self, base: Path, release: str) -> Path:
        """Make ``base/lib/modules/RELEASE`` with what kernel and depmod write; say where it is."""
        folder = base / "lib/modules" / release
        (folder / "kernel").mkdir(parents=True)
        for module, patterns in self.aliases.items():
            (folder / f"kernel/{module}.ko").write_bytes(_module_file(patterns))
        for name, modules in (("order", self.aliases), ("builtin", self.builtin)):
            paths = "".join(f"kernel/{module}.ko\n" for module in modules)
            (folder / f"modules.{name}").write_text(paths)
        lines = (f"{m}.alias={p}\0" for m, patterns in self.builtin.items() for p in patterns)
        (folder / "modules.builtin.modinfo").write_text("".join(lines))
        depmod = [_tool("depmod") or "depmod", "-b", str(base), release]
        subprocess.run(depmod, check=True)
        return folder


def _module_file(patterns: Iterable[str]) -> bytes:
    """A kernel module as far as depmod looks: ELF-64, with ``.modinfo`` and the sections' names."""
    modinfo = "".join(f"alias={pattern}\0" for pattern in patterns).encode() or b"\0"
    names = b"\0.modinfo\0.shstrtab\0"
    sections = (
        bytes(64),
        _section(names.index(b".modinfo"), 1, 64, len(modinfo)),  # SHT_PROGBITS
        _section(names.index(b".shstrtab"), 3, 64 + len(modinfo), len(names)),  # SHT_STRTAB
    )
    table = 64 + len(modinfo) + len(names)
    header = struct.pack(
        *("<16s2HI3QI6H", b"\x7fELF\2\1\1", 1, 62, 1, 0, 0, table, 0, 64, 0, 0),  # ET_REL, x86-64
        *(64, len(sections), len(sections) - 1),
    )
    return header + modinfo + names + b"".join(sections)


def _section(name: int, kind: int, offset: int, size: int) -> bytes:
    return struct.pack("<2I4Q2I2Q", name, kind, 0, 0, offset, size, 0, 0, 1, 0)


def lspci(root: Path, modules: Path, scratch: Path, *argv: str, warning: str = "") -> str:
    """What lspci prints of the host below a root, with this folder as its kernel's modules.

    It gets the names from the ``pci.ids`` that vfiohost takes, and from nowhere else: neither from
    udev's database nor from what a user has once asked the network. ``warning`` is how the one
    line ends that lspci is to say on stderr.
    """
    ids = root / "usr/share/misc/pci.ids"
    command = [
        *("lspci", "-A", "linux-sysfs", "-O", f"sysfs.path={root}/sys/bus/pci"),
        *("-O", "hwdb.disable=1", *(["-i", str(ids)] if ids.is_file() else []), *argv),
    ]
    done = _in_namespace(root, modules, scratch, command)
    said = done.stderr.decode()
    assert done.returncode == 0, said
    assert said.count("\n") == bool(warning), said
    assert said.rstrip().endswith(warning), said
    return done.stdout.decode()


def complete(root: Path) -> None:
    """Give a tree what every kernel has and a recording may lack: ``config``, drivers' folders."""
    functions = sorted((root / "sys/bus/pci/devices").iterdir())
    slots = [function.name.partition(".")[0] for function in functions]
    for function, slot in zip(functions, slots, strict=True):
        driver = function / "driver"
        if driver.is_symlink():
            target = Path(os.path.normpath(function.resolve() / os.readlink(driver)))
            target.mkdir(parents=True, exist_ok=True)
        config = function / "config"
        if not config.exists():
            config.write_bytes(_config(function, is_multiple=slots.count(slot) > 1))


def _config(function: Path, *, is_multiple: bool) -> bytes:
    """The configuration space of a function with the ids, class, … that sysfs gives for it.

    PCI Local Bus Specification 3.0, 6.1 and appendix E (PCI bridges); a bridge has its subsystem
    in a capability (PCI-to-PCI Bridge Architecture Specification 1.2, 3.2.4.9).
    """
    names = ("vendor", "device", "class", "revision", "subsystem_vendor", "subsystem_device")
    vendor, device, kind, revision, *ids = (
        int((function / name).read_text(), 16) if (function / name).is_file() else 0
        for name in names
    )
    if not (function / "subsystem_vendor").is_file():
        modalias = Modalias.parse((function / "modalias").read_text())
        ids = [int(modalias.subvendor, 16), int(modalias.subdevice, 16)]
    card = struct.pack("<HH", *ids)
    header = {0x0604: 1, 0x0607: 2}.get(kind >> 8, 0)
    space = bytearray(256)
    struct.pack_into("<HH", space, 0x00, vendor, device)
    struct.pack_into("<I", space, 0x08, kind << 8 | revision)
    space[0x0E] = header | (0x80 if is_multiple else 0)
    if header == 1 and any(card):
        space[0x06] = 0x10  # the capabilities begin at 0x40; the one is number 0x0d
        space[0x34] = 0x40
        space[0x40:0x48] = b"\x0d\0\0\0" + card
    elif header != 1:
        at = 0x40 if header == 2 else 0x2C
        space[at : at + 4] = card
    return bytes(space)
