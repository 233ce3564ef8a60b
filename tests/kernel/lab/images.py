"""Images: a kernel with the lab's own modules, and the initramfs that starts the guest."""

from __future__ import annotations

import gzip
import lzma
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from tests.kernel.lab.cache import digest
from tests.kernel.lab.cpio import pack
from tests.kernel.lab.errors import LabError
from tests.kernel.lab.programs import need, run

if TYPE_CHECKING:
    from tests.kernel.lab.cache import Cache
    from tests.kernel.lab.kernels import Kernel

SOURCES = Path(__file__).parent.parent / "modules"
INIT = Path(__file__).with_name("init.sh")

TRANSPORT = ("virtio_pci", "9pnet_virtio", "9p", "overlay", "virtio_console")
"""The modules that the initramfs loads, unless the kernel has them built in."""

BUSYBOX = Path("/bin/busybox")
"""From Debian's busybox-static: it has to run without any library."""


@attrs.frozen
class Image:
    """What QEMU boots.

    Attributes:
        kernel: the kernel.
        modules: the folder ``/lib/modules/RELEASE`` of the guest.
        initramfs: a compressed cpio archive.
    """

    kernel: Kernel
    modules: Path
    initramfs: Path


def prepare_image(cache: Cache, kernel: Kernel) -> Image:
    """Build the lab's modules for a kernel, and the initramfs.

    Raises:
        LabUnavailableError: this computer lacks a program for it.
        LabError: a module does not build.
    """
    need("make", "gcc", "depmod", str(BUSYBOX))
    sources = sorted(path for path in SOURCES.rglob("*") if path.is_file())
    key = digest([kernel.version], [*sources, INIT, Path(__file__), BUSYBOX])

    def build(folder: Path) -> None:
        modules = folder / "lib" / "modules" / kernel.release
        # Links to the same files: a kernel's modules take hundreds of megabytes.
        shutil.copytree(kernel.modules, modules, symlinks=True, copy_function=os.link)
        _build_modules(kernel, folder / "build", modules / "updates")
        _put_first(modules)
        run("depmod", "-b", str(folder), kernel.release)
        (folder / "initramfs.gz").write_bytes(gzip.compress(_initramfs(modules), compresslevel=1))

    entry = cache.entry(f"image-{kernel.flavour}-{key}", build)
    return Image(kernel, entry / "lib" / "modules" / kernel.release, entry / "initramfs.gz")


def _build_modules(kernel: Kernel, work: Path, target: Path) -> None:
    """Build our modules and the kernel's samples, and put them into ``target``."""
    shutil.copytree(SOURCES, work)
    samples = work / "samples"
    # A kernel that was built here has its own builds beside the sources.
    leavings = shutil.ignore_patterns("*.mod.c", "*.o", "*.ko", "*.mod", ".*", "modules.order")
    shutil.copytree(kernel.samples, samples, ignore=leavings)
    names = sorted(path.stem for path in samples.glob("*.c") if path.stem != "mdpy-fb")
    objects = " ".join(f"{name}.o" for name in names)
    (samples / "Kbuild").write_text(f"obj-m += {objects}\n")
    # Without type information for BPF: it would need pahole, and nobody traces these modules.
    options = (f"M={work}", "CONFIG_DEBUG_INFO_BTF_MODULES=", f"-j{os.cpu_count()}")
    run("make", "-C", str(kernel.headers), *options, "modules")
    target.mkdir()
    for module in work.rglob("*.ko"):
        module.rename(target / module.name)
    shutil.rmtree(work)


def _put_first(modules: Path) -> None:
    """Give our modules their place in the order by which lspci lists modules of one alias.

    A kernel that comes with nvidiafb has it before nouveau: that order shows in NVIDIA's documents.
    """
    names = sorted((path.name for path in (modules / "updates").iterdir()), reverse=True)
    order = modules / "modules.order"
    theirs = order.read_text()
    order.unlink()  # it is the unpacked kernel's own file
    order.write_text("".join(f"updates/{name}\n" for name in names) + theirs)


def _initramfs(modules: Path) -> bytes:
    """Pack what has to run before the host's files are there."""
    files = {"init": INIT.read_bytes(), "bin/busybox": BUSYBOX.read_bytes()}
    for number, module in enumerate(_transport(modules)):
        # busybox does not decompress modules, and loads them in the order of their names.
        name = module.name.removesuffix(".xz")
        content = module.read_bytes()
        plain = lzma.decompress(content) if module.suffix == ".xz" else content
        files[f"modules/{number:02}-{name}"] = plain
    return pack(files, folders=("proc", "sys", "dev", "host", "overlay", "root"))


def _transport(modules: Path) -> list[Path]:
    """List the module files that the initramfs loads, each after those that it needs."""
    builtin = {Path(line).stem for line in _lines(modules / "modules.builtin")}
    depends = dict(line.split(":", 1) for line in _lines(modules / "modules.dep"))
    by_name = {Path(name).name.split(".")[0].replace("-", "_"): name for name in depends}
    order: dict[str, None] = {}
    for name in TRANSPORT:
        if name in builtin:
            continue
        if name not in by_name:
            raise LabError(f"this kernel has no {name}")
        for file in (*reversed(depends[by_name[name]].split()), by_name[name]):
            order[file] = None
    return [modules / file for file in order]


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines()
