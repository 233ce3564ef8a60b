"""The kernels that tests can ask for, by name."""

from __future__ import annotations

import compileall
from pathlib import Path

from tests.kernel.lab.built import prepare_iommufd
from tests.kernel.lab.cache import Cache
from tests.kernel.lab.images import Image, prepare_image
from tests.kernel.lab.kernels import prepare_debian
from tests.kernel.lab.packages import Apt

DEBIAN = ("6.12", "6.1")
"""Those that Debian has built."""

FLAVOURS = (*DEBIAN, "iommufd")


def prepare(flavour: str) -> Image:
    """Prepare a kernel and its image: all that a machine boots.

    Raises:
        LabUnavailableError: this computer cannot.
        LabError: a build failed.
    """
    _compile()
    cache = Cache()
    apt = Apt(cache.root)
    if flavour == "iommufd":
        return prepare_image(cache, prepare_iommufd(cache, apt))
    return prepare_image(cache, prepare_debian(cache, apt, flavour))


def _compile() -> None:
    """Compile what runs in a machine, which cannot keep bytecode and would take minutes for it."""
    checkout = Path(__file__).parents[3]
    for folder in (checkout / "vfiohost", checkout / "tests"):
        compileall.compile_dir(folder, quiet=2)
