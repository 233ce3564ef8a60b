"""A simulated host for tests: a directory that answers stores as a Linux kernel does.

``create()`` makes one of a recording, :class:`SimulatedKernel` opens it again, and the command
``vfiohost --root DIR`` works on it with every verb. ``load()`` reads the recorded hosts that come
with vfiohost, ``expand()`` makes a plain directory of one. The pytest plugin brings the fixture
``simulated_host``.

The names are imported on first use: the plugin lives in this package and is loaded in every pytest
run of an environment, whether or not its tests have to do with vfiohost.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vfiohost.testing.expansion import expand
    from vfiohost.testing.fixtures import load
    from vfiohost.testing.holders import Cdev, Holder, Iommufd
    from vfiohost.testing.kernel import (
        Answer,
        OpenAttribute,
        SimulatedKernel,
        create,
        is_simulation,
    )

__all__ = [
    "Answer",
    "Cdev",
    "Holder",
    "Iommufd",
    "OpenAttribute",
    "SimulatedKernel",
    "create",
    "expand",
    "is_simulation",
    "load",
]

_HOMES = {"expand": "vfiohost.testing.expansion", "load": "vfiohost.testing.fixtures"}


def __getattr__(name: str) -> object:
    """Import the module of a public name when the name is first used (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(_HOMES.get(name, "vfiohost.testing.kernel")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
