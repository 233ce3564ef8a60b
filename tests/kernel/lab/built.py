"""The kernel that the lab builds itself, for what Debian's leave out: ``iommufd.config``."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from tests.kernel.lab.cache import digest
from tests.kernel.lab.errors import LabError
from tests.kernel.lab.kernels import Kernel, extract_source
from tests.kernel.lab.programs import need, run

if TYPE_CHECKING:
    from tests.kernel.lab.cache import Cache
    from tests.kernel.lab.packages import Apt

SERIES = "6.12"
CONFIG = Path(__file__).with_name("iommufd.config")
KEPT = ("Makefile", "Kbuild", "Module.symvers", ".config", "scripts", "include", "arch", "samples")
"""What modules are built with, besides ``tools/objtool``, and the mdev samples."""

_OTHER = re.compile(
    r"arch/(?!x86/)\w+/|Documentation/|sound/|tools/(?:perf|testing)/"
    r"|drivers/(?:gpu|infiniband|media|scsi|staging|usb|net/wireless|net/ethernet/(?!intel/)\w+)/"
)
"""Three files of five are of no use here. Of them, the build reads Kconfig and makefiles."""


def prepare_iommufd(cache: Cache, apt: Apt) -> Kernel:
    """Build the kernel with iommufd: some minutes on two cores, once.

    Raises:
        LabUnavailableError: apt has no sources, or this computer lacks a program for the build.
        LabError: the build failed, or an option of the configuration was not taken.
    """
    need("make", "gcc", "flex", "bison", "bc")
    source = apt.find_newest(f"linux-source-{SERIES}")[0]

    def build(folder: Path) -> None:
        unpacked, tree = folder / "package", folder / "source"
        unpacked.mkdir()
        apt.unpack(source, unpacked)
        extract_source(unpacked, tree, _is_read)
        shutil.rmtree(unpacked)
        _configure(tree)
        jobs = f"-j{os.cpu_count()}"
        run("make", "-C", str(tree), jobs, "bzImage", "modules")
        installed = f"INSTALL_MOD_PATH={folder}"
        run("make", "-C", str(tree), installed, "DEPMOD=true", "modules_install")
        shutil.copy(tree / "arch" / "x86" / "boot" / "bzImage", folder / "vmlinuz")
        _prune(tree)

    entry = cache.entry(f"iommufd_{source}_{digest([], [CONFIG])}", build)
    (modules,) = (entry / "lib" / "modules").iterdir()
    return Kernel(
        flavour="iommufd",
        release=modules.name,
        version=entry.name,
        image=entry / "vmlinuz",
        modules=modules,
        headers=entry / "source",
        samples=entry / "source" / "samples" / "vfio-mdev",
    )


def _is_read(path: str) -> bool:
    """Whether the build reads a file of the sources."""
    name = path.rpartition("/")[2]
    return _OTHER.match(path) is None or name.startswith(("Kconfig", "Makefile", "Kbuild"))


def _configure(tree: Path) -> None:
    """Configure the kernel: what the file names and nothing else.

    Raises:
        LabError: an option was not taken, for example because it depends on another.
    """
    run("make", "-C", str(tree), f"KCONFIG_ALLCONFIG={CONFIG}", "allnoconfig")
    taken = set((tree / ".config").read_text().splitlines())
    wanted = [line for line in CONFIG.read_text().splitlines() if line.startswith("CONFIG_")]
    lost = [line for line in wanted if line not in taken]
    if lost:
        raise LabError(f"{CONFIG.name}: not taken by the kernel's configuration: {', '.join(lost)}")


def _prune(tree: Path) -> None:
    """Reduce the built sources, a gigabyte and a half, to what modules are built with."""
    objtool = tree / "tools" / "objtool" / "objtool"
    kept = objtool.read_bytes() if objtool.exists() else None
    for path in tree.iterdir():
        if path.name not in KEPT:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in (tree / "arch").iterdir():
        if path.is_dir() and path.name != "x86":
            shutil.rmtree(path)
    if kept is not None:
        objtool.parent.mkdir(parents=True)
        objtool.write_bytes(kept)
        objtool.chmod(0o755)
