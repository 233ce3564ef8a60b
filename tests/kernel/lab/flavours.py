"""The kernels that tests can ask for, by name."""

from __future__ import annotations

from tests.kernel.lab.cache import Cache
from tests.kernel.lab.images import Image, prepare_image
from tests.kernel.lab.kernels import prepare_debian
from tests.kernel.lab.packages import Apt

FLAVOURS = ("6.12", "6.1")


def prepare(flavour: str) -> Image:
    """Prepare a kernel and its image: all that a machine boots.

    Raises:
        LabUnavailableError: this computer cannot.
        LabError: a build failed.
    """
    cache = Cache()
    return prepare_image(cache, prepare_debian(cache, Apt(cache.root), flavour))
