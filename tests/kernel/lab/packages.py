"""Debian packages: found through apt, downloaded and unpacked, never installed."""

from __future__ import annotations

import functools
import re
import tempfile
from pathlib import Path

import attrs

from tests.kernel.lab.errors import LabUnavailableError
from tests.kernel.lab.programs import need, run, succeeds


@attrs.frozen
class Package:
    """A package that apt can download.

    Attributes:
        name: ``linux-image-6.12.117+deb12-amd64``.
        version: the Debian version that apt would install.
    """

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name}_{self.version}"


class Apt:
    """What apt offers, by this computer's own sources.

    Args:
        folder: where apt's table of packages is kept: containers are often set up to make it anew
            for each question, which takes a second.

    Raises:
        LabUnavailableError: there is no apt here.
    """

    def __init__(self, folder: Path) -> None:
        need("apt-cache", "apt-get", "dpkg-deb")
        self._options = (
            *("-o", f"Dir::Cache::pkgcache={folder}/pkgcache.bin"),
            *("-o", f"Dir::Cache::srcpkgcache={folder}/srcpkgcache.bin"),
            # Root downloads as itself: apt's own user cannot write to the cache.
            *("-o", "APT::Sandbox::User=root"),
        )

    def find(self, name: str) -> Package:
        """Find a package by its name, in the version that apt would install.

        Raises:
            LabUnavailableError: apt has no such package.
        """
        found = self._show([name])
        if not found:
            raise LabUnavailableError(f"apt has no package {name}")
        return found[0]

    def find_newest(self, prefix: str, rest: str = "") -> list[Package]:
        """Find packages by their names, newest version first.

        Args:
            prefix: what the name begins with, as it is.
            rest: a regular expression for all that follows.

        Raises:
            LabUnavailableError: apt has no such package.
        """
        names = run("apt-cache", *self._options, "pkgnames", prefix).split()
        found = self._show([name for name in names if re.fullmatch(rest, name[len(prefix) :])])
        if not found:
            raise LabUnavailableError(
                f"apt knows no package {prefix}{rest} here (has 'apt-get update' been run?)"
            )
        return sorted(found, key=functools.cmp_to_key(_compare), reverse=True)

    def unpack(self, package: Package, folder: Path) -> None:
        """Download a package and unpack its files below ``folder``."""
        with tempfile.TemporaryDirectory(dir=folder, prefix="download-") as tmp:
            name = f"{package.name}={package.version}"
            run("apt-get", "-q", *self._options, "download", name, cwd=Path(tmp))
            (deb,) = Path(tmp).glob("*.deb")
            run("dpkg-deb", "-x", str(deb), str(folder))

    def _show(self, names: list[str]) -> list[Package]:
        """Ask for packages by name; those that apt does not have are left out."""
        if not names:
            return []
        command = ("apt-cache", *self._options, "show", "--no-all-versions", *names)
        fields = re.findall(r"^(Package|Version): (\S+)$", run(*command, check=False), re.MULTILINE)
        values = [value for _, value in fields]
        return [Package(*pair) for pair in zip(values[::2], values[1::2], strict=True)]


def _compare(one: Package, other: Package) -> int:
    """Compare two packages' versions by Debian's rules."""
    if one.version == other.version:
        return 0
    return -1 if succeeds("dpkg", "--compare-versions", one.version, "lt", other.version) else 1
