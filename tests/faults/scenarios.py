"""What is done to a host while something goes wrong, and what goes wrong. Data.

The host is that of ``tests/kernel/start.host``, or the lab's machine in the same state.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterator

Fault = tuple[str, list[int]]
"""A kind of fault, and where it strikes; see :func:`faults`."""

A10 = "04:00.0"
NIC = "00:08.0"
PCIE_NIC = "01:00.0"
NVME = "02:00.0"
T4 = "07:00.0"
UUIDS = ("aaaaaaaa-0000-4000-8000-000000000001", "aaaaaaaa-0000-4000-8000-000000000002")


@attrs.frozen
class Scenario:
    """One command.

    Attributes:
        name: for the table.
        command: the arguments.
        prepare: commands that come before it.
        unload: a module that is unloaded before it.
        in_lab: it is tried on a real kernel as well, which takes five seconds for each fault.
    """

    name: str
    command: tuple[str, ...]
    prepare: tuple[tuple[str, ...], ...] = ()
    unload: str = ""
    in_lab: bool = False


def _mdev(uuid: str) -> tuple[str, ...]:
    return ("mdev", "create", "-p", "mtty", "-t", "mtty-1", "-u", uuid)


SCENARIOS = (
    Scenario("mdev create", _mdev(UUIDS[0]), in_lab=True),
    Scenario("unbind of two", ("unbind", NIC, PCIE_NIC), in_lab=True),
    Scenario(
        "mdev remove of two",
        ("mdev", "remove", *UUIDS),
        prepare=tuple(map(_mdev, UUIDS)),
        in_lab=True,
    ),
    Scenario("bind", ("bind", A10), in_lab=True),
    Scenario("bind, its module first", ("bind", NIC), unload="vfio_pci"),
    Scenario("bind --once", ("bind", NIC, "--once")),
    Scenario(
        "mdev create with a parameter",
        (
            *("mdev", "create", "-p", T4, "-t", "T4-8Q", "-u", UUIDS[0]),
            *("--attr", "nvidia/vgpu_params=enable_uvm=1"),
        ),
    ),
    Scenario("bind of three", ("bind", A10, NIC, PCIE_NIC)),
    Scenario("restore of two", ("restore", "--all"), prepare=(("bind", A10, NIC),)),
    Scenario("undo", ("undo",), prepare=(("bind", A10, PCIE_NIC),)),
    Scenario("bind --owner", ("bind", NIC, "--owner", "65534:65534", "--mode", "0660")),
    Scenario(
        "bind --owner of one that is bound",
        ("bind", NIC, "--owner", "65534", "--mode", "0666"),
        prepare=(("bind", NIC, "--owner", "0:65534"),),
    ),
    Scenario(
        "undo of --owner",
        ("undo",),
        prepare=(("bind", NIC), ("bind", NIC, "--owner", "65534:65534")),
    ),
    Scenario("vf clear", ("vf", "clear", NVME)),
    Scenario(
        "vf set --recreate",
        ("vf", "set", NVME, "3", "--driver", "vfio-pci", "--recreate"),
    ),
    Scenario("vgpu create", ("vgpu", "create", "-g", T4, "-t", "T4-8Q", "-u", UUIDS[0])),
    Scenario("reset --method", ("reset", A10, "--method", "flr"), prepare=(("unbind", A10),)),
)
"""The shortest first: the table grows with each."""

LINE_FAULTS = (
    "kill, line lost",
    "kill, line torn",
    "kill, line written",
    "full disk",
)
"""About a line of a journal: it is on the disk when the next thing is done, or is not."""

STORE_FAULTS = (
    "kill before the store",
    "kill in the store",
    "kill after the store",
    "helper killed before its store",
    "helper killed after its store",
    "refused EBUSY",
    "refused EIO",
    "refused EPERM",
    "no effect",
    "late",
    "late and refused",
    "SIGTERM",
)
"""About a store, or the load of a module."""

ONCE_FAULTS = ("read-only disk", "lock held by another")
"""About a command as a whole."""

TAMPERINGS = ("torn", "line replaced", "line removed", "step elsewhere", "another boot")
"""About the journal that a kill has left, after its last store (:mod:`tests.faults.tamper`)."""

RECOVER_FAULTS = (
    "kill before the store",
    "kill in the store",
    "kill after the store",
    "helper killed before its store",
    "helper killed after its store",
    "refused EBUSY",
    "no effect",
    "late",
)
"""About a store of the ``recover`` that comes after a kill."""


def faults(lines: int, stores: int) -> Iterator[Fault]:
    """Every fault of a command, of its recovery, and of the journal that a kill leaves.

    Args:
        lines: how many lines of a journal the command writes.
        stores: how many stores and loads it makes. To take a plan back costs one store and two
            lines for each of them, at most.

    Yields:
        The kind, and where: at which line or store; for what comes after a kill, after which store,
        and at which line or store of the recovery.
    """
    yield from ((kind, [at]) for kind in LINE_FAULTS for at in _upto(lines))
    yield from ((kind, [at]) for kind in STORE_FAULTS for at in _upto(stores))
    yield from ((kind, [0]) for kind in ONCE_FAULTS)
    if not stores:
        return  # what a kill leaves between two stores
    yield from ((f"journal: {kind}", [at]) for kind in TAMPERINGS for at in {1, stores})
    yield ("recover: two at once", [stores, 0])
    for kind in LINE_FAULTS:
        yield from ((f"recover: {kind}", [stores, at]) for at in _upto(2 * stores + 1))
    for kind in RECOVER_FAULTS:
        yield from ((f"recover: {kind}", [stores, at]) for at in _upto(stores))


def _upto(number: int) -> range:
    return range(1, number + 1)
