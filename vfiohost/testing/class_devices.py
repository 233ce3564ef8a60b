"""What a driver makes of its function: interfaces, disks, screens, and their entries in classes.

They are those of the recording, and are there while the recorded driver has the function: its
``remove`` takes them away (``device_del`` in ``drivers/base/core.c``), its ``probe`` makes them
again. What several functions share goes with the last of them
(:mod:`vfiohost.testing.shared_disks`). What is mounted, routed or open stays in the files that say
so, as on a real host.
"""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from vfiohost.recording import File
    from vfiohost.testing.machine import Machine

_GPUS = "proc/driver/nvidia/gpus/"
_OF_THE_FUNCTION = ("consumer:", "driver", "iommu_group", "physfn", "supplier:")


def appear(machine: Machine, address: str, driver: str) -> None:
    """A driver has taken a function."""
    function = machine.blueprint.functions.get(address)
    if function is None or function.driver != driver:
        return
    for file in machine.blueprint.class_devices.get(address, ()):
        _make(machine, file)
    for shared in machine.blueprint.shared_disks:
        if shared.stands(machine.tree) and not machine.tree.exists(shared.path):
            for file in shared.files:
                _make(machine, file)


def vanish(machine: Machine, address: str) -> None:
    """A driver lets go of a function."""
    function = machine.blueprint.functions.get(address)
    for file in machine.blueprint.class_devices.get(address, ()):
        directory = f"sys/devices/{function and function.path}/"
        path = file.path
        if path.startswith(directory):
            path = directory + path.removeprefix(directory).partition("/")[0]
        machine.tree.remove(path)
    for shared in machine.blueprint.shared_disks:
        if machine.tree.exists(shared.path) and not shared.stands(machine.tree):
            for path in (*(file.path for file in shared.files), shared.path):
                machine.tree.remove(path)


def _make(machine: Machine, file: File) -> None:
    if file.content is None:
        machine.tree.mkdir(file.path)
    elif isinstance(file.content, str):
        machine.tree.link_text(file.path, file.content)
    else:
        text = file.content.decode("utf-8", "surrogateescape")
        machine.tree.write(file.path, text, 0o644 if file.mode is None else file.mode)


def by_function(files: Iterable[File], functions: Mapping[str, str]) -> dict[str, list[File]]:
    """The files of a recording that belong to what a driver made of a function.

    Args:
        files: those of the recording.
        functions: the address of each function, by its directory.

    Returns:
        By address: what lies below its directory, and the links that lead there from elsewhere.
    """
    found: dict[str, list[File]] = {}
    for file in files:
        place = file.path
        if isinstance(file.content, str) and _owner(place, functions) is None:
            place = posixpath.normpath(posixpath.join(posixpath.dirname(place), file.content))
        address = _owner(place, functions)
        if isinstance(file.content, bytes) and posixpath.dirname(place) in functions:
            address = None  # an attribute
        if place.startswith(_GPUS):
            address = place.removeprefix(_GPUS).partition("/")[0]
        if address is not None:
            found.setdefault(address, []).append(file)
    return found


def _owner(path: str, functions: Mapping[str, str]) -> str | None:
    """The innermost function that something is made of, if it is."""
    above, name = posixpath.split(path)
    while above not in functions:
        if above in ("", "/"):  # a link may be absolute
            return None
        above, name = posixpath.split(above)
    return None if name.startswith(_OF_THE_FUNCTION) else functions[above]
