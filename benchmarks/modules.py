"""The modules of a kernel, for a machine whose own came without any: peers look in their index."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.kernel.lab.cache import Cache
from tests.kernel.lab.kernels import prepare_debian
from tests.kernel.lab.packages import Apt
from tests.kernel.lab.programs import need, run

if TYPE_CHECKING:
    from collections.abc import Iterator

_PLACE = Path("/lib/modules")


@contextmanager
def kernel_modules(borrowed: str | None, folder: Path) -> Iterator[str]:
    """Find the modules of the running kernel, or have others in their place; yields whose they are.

    Args:
        borrowed: whose to have where it has none, as :func:`modules_of` takes it; else none.
        folder: as for :func:`modules_of`.

    Raises:
        LabError: as :func:`modules_of`.
    """
    release = os.uname().release
    if (_PLACE / release / "modules.dep.bin").exists():
        yield release
    elif borrowed is None:
        yield "no kernel"
    else:
        with modules_of(borrowed, folder):
            yield borrowed


@contextmanager
def modules_of(series: str, folder: Path) -> Iterator[None]:
    """Let the running kernel have the modules of one of Debian's, in our mount namespace.

    Args:
        series: ``6.12`` or ``6.1``; it is fetched as those of the lab are.
        folder: where to make the index; it must not be there yet.

    Raises:
        LabError: there is no such kernel, or no depmod to make the index with.
    """
    need("depmod")
    cache = Cache()
    kernel = prepare_debian(cache, Apt(cache.root), series)
    made = folder / "lib/modules"
    made.mkdir(parents=True)
    run("cp", "-as", str(kernel.modules), str(made))
    run("depmod", "-b", str(folder), kernel.release)
    (made / kernel.release).rename(made / os.uname().release)
    is_ours = not _PLACE.exists()
    _PLACE.mkdir(exist_ok=True)  # alone what is mounted there stays in the namespace
    try:
        run("mount", "--bind", str(made), str(_PLACE))
        try:
            yield
        finally:
            run("umount", str(_PLACE))
    finally:
        if is_ours:
            _PLACE.rmdir()
