"""The kernels that the lab boots, with everything that modules are built against."""

from __future__ import annotations

import shutil
import tarfile
from typing import TYPE_CHECKING

import attrs

from tests.kernel.lab.errors import LabUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.kernel.lab.cache import Cache
    from tests.kernel.lab.packages import Apt, Package


@attrs.frozen
class Kernel:
    """A kernel, unpacked.

    Attributes:
        flavour: the name that tests use: ``6.12``, ``6.1``, ``iommufd``.
        release: what ``uname -r`` says.
        version: everything that it was made from, as a text.
        image: the file to boot.
        modules: its modules as they come: the folder ``/lib/modules/RELEASE``.
        headers: the folder for ``make -C`` when a module is built.
        samples: the kernel's own mdev drivers: the folder ``samples/vfio-mdev`` of its sources.
    """

    flavour: str
    release: str
    version: str
    image: Path
    modules: Path
    headers: Path
    samples: Path


def prepare_debian(cache: Cache, apt: Apt, series: str) -> Kernel:
    """Prepare the newest kernel of a series that apt offers for amd64.

    Args:
        cache: where the unpacked packages go.
        apt: where they come from.
        series: ``6.12`` or ``6.1``.

    Raises:
        LabUnavailableError: apt has no such kernel.
    """
    image, headers = _find_debian(apt, series)
    source = apt.find_newest(f"linux-source-{series}")[0]
    release = image.name.removeprefix("linux-image-")
    unpacked = cache.entry(str(image), lambda folder: apt.unpack(image, folder))
    return Kernel(
        flavour=series,
        release=release,
        version=f"{image} {source}",
        image=unpacked / "boot" / f"vmlinuz-{release}",
        modules=_modules_below(unpacked, release),
        headers=_prepare_headers(cache, apt, headers),
        samples=_prepare_samples(cache, apt, source),
    )


def extract_source(unpacked: Path, target: Path, is_wanted: Callable[[str], bool]) -> None:
    """Extract those files of an unpacked source package that are wanted, by their paths in it."""
    (archive,) = (unpacked / "usr" / "src").glob("linux-source-*.tar.xz")
    with tarfile.open(archive) as tar:
        # Debian 12's own Python, 3.11.2, has no filters.
        tar.extraction_filter = getattr(tarfile, "tar_filter", None)
        for member in tar:
            _top, _, inside = member.name.partition("/")
            if inside and is_wanted(inside):
                member.name = inside
                tar.extract(member, target)


def _find_debian(apt: Apt, series: str) -> tuple[Package, Package]:
    """Find the newest image with headers of the same version: a mirror may have only one yet."""
    # The plain kernel alone: -cloud and -rt stand where this has -amd64, -unsigned and -dbg after.
    rest = r"[0-9.]+(-[0-9]+|\+[a-z0-9]+)?-amd64"
    headers = {found.name: found for found in apt.find_newest(f"linux-headers-{series}.", rest)}
    for image in apt.find_newest(f"linux-image-{series}.", rest):
        match = headers.get(image.name.replace("-image-", "-headers-"))
        if match is not None and match.version == image.version:
            return image, match
    raise LabUnavailableError(f"apt has no image of Linux {series} with headers of its version")


def _modules_below(root: Path, release: str) -> Path:
    """Find the modules in an unpacked image, wherever /lib was merged to."""
    places = (root / "lib" / "modules" / release, root / "usr" / "lib" / "modules" / release)
    return next(place for place in places if place.is_dir())


def _prepare_headers(cache: Cache, apt: Apt, headers: Package) -> Path:
    """Unpack a kernel's headers with the two packages that they consist of besides."""
    base = headers.name.removeprefix("linux-headers-").removesuffix("-amd64")
    place = f"usr/src/{headers.name}"
    final = cache.root / str(headers)

    def build(folder: Path) -> None:
        common = apt.find(f"linux-headers-{base}-common")
        for package in (headers, common, _find_kbuild(apt, base)):
            apt.unpack(package, folder)
        # It names the common headers where an installation would put them.
        makefile = folder / place / "Makefile"
        makefile.write_text(f"include {final}/usr/src/{common.name}/Makefile\n")

    return cache.entry(final.name, build) / place


def _find_kbuild(apt: Apt, base: str) -> Package:
    """Find the build scripts: newer kernels have them for each release, older for a series."""
    try:
        return apt.find(f"linux-kbuild-{base}")
    except LabUnavailableError:
        return apt.find(f"linux-kbuild-{'.'.join(base.split('.')[:2])}")


def _prepare_samples(cache: Cache, apt: Apt, source: Package) -> Path:
    """Take the mdev samples out of a source package."""

    def build(folder: Path) -> None:
        apt.unpack(source, folder)
        extract_source(folder, folder, lambda path: path.startswith("samples/vfio-mdev/"))
        shutil.rmtree(folder / "usr")

    return cache.entry(f"samples_{source}", build) / "samples" / "vfio-mdev"
