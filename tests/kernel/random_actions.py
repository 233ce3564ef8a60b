"""What random sequences are made of. A sequence is named by its seed: Hypothesis draws the rest.

To add an action, add a line to :data:`ACTIONS`.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

import hypothesis
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from tests.kernel.cases.terms import (
    DEVICES,
    DRIVERS,
    UUIDS,
    bind,
    create,
    override,
    probe,
    remove,
    unbind,
)
from tests.kernel.lab.layout import (
    A10S,
    EDU,
    EMPTY_PORT,
    HOST_BRIDGE,
    L40S,
    L40S_VFS,
    NIC,
    NVME,
    NVME_VFS,
    PCIE_NIC,
    RTX3090,
    T4,
    TWIN_NICS,
)
from tests.kernel.lab.start import REMOVABLE
from tests.kernel.scenario import Close, Load, Open, Store, Unload

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hypothesis.strategies import SearchStrategy

    from tests.kernel.scenario import Action

A10_VFS = tuple(f"0000:03:00.{number}" for number in (4, 5, 6))
GPU_VFS = (*A10_VFS, *L40S_VFS[:3])
NATIVE = {
    NIC: "e1000",
    TWIN_NICS[0]: "e1000",
    TWIN_NICS[1]: "e1000",
    PCIE_NIC: "e1000e",
    NVME: "nvme",
    **dict.fromkeys(NVME_VFS[:3], "nvme"),
    **dict.fromkeys((*A10S, L40S, *GPU_VFS, T4, RTX3090[0]), "nvidia"),
}
"""Which drivers functions have by themselves."""
DRIVERLESS = (EDU, RTX3090[1], HOST_BRIDGE)
ABSENT = "0000:00:1e.7"
QUICK = (EDU, NVME, *NVME_VFS[:3], *GPU_VFS, T4, A10S[0], L40S, *RTX3090)
"""Functions that are bound in no time; a NIC takes 0.3 s."""
IDS = {EDU: "1234 11e8", NIC: "8086 100e", RTX3090[1]: "10de 1aef", T4: "10de 1eb8"}
SAMPLES = (
    ("mtty", "mtty-1"),
    ("mtty", "mtty-2"),
    ("mdpy", "mdpy-vga"),
    ("mdpy", "mdpy-hd"),
    ("mbochs", "mbochs-small"),
    ("mbochs", "mbochs-large"),
)
VGPUS = tuple(
    (parent, f"nvidia-{number}")
    for parents, numbers in (((T4,), (222, 232, 234)), (A10_VFS[:2], (588, 595, 597)))
    for parent in parents
    for number in numbers
)

MODULES = ("nouveau", "nouveau", "mtty", "mdpy", "mbochs")
modules = st.sampled_from(MODULES)
removable = st.sampled_from(REMOVABLE)
drivers = st.sampled_from(("vfio-pci",) * 4 + ("nvme", "nvidia", "e1000", "pcieport", "nosuch"))
natives = st.sampled_from(tuple(NATIVE))
quick = st.sampled_from(QUICK)
for_vfio = st.sampled_from([address for address in QUICK if address not in GPU_VFS])
devices = st.sampled_from((*QUICK * 3, *NATIVE, *DRIVERLESS, EMPTY_PORT, ABSENT))
overrides = st.sampled_from(
    ("vfio-pci",) * 6
    + ("nvme", "nvidia", "e1000", "none", "\n", "\n", "", "\0", "(null)", "vfio-pci ")
    + ("x" * 4094, "x" * 4095, "x" * 5000, "vfio-pci\nrest", "pcieport")
)
odd_names = st.sampled_from(
    ("00:07.0", f"{EDU}\n", f"{EDU}\n\n", f" {EDU}", "", "\n", "0000:00:0A.0", "x" * 5000)
)
uuids = st.sampled_from(UUIDS[:5])
odd_uuids = st.sampled_from(
    (
        UUIDS[0].upper(),
        f"{UUIDS[1]}\n",
        f"{UUIDS[1]}\n\n",
        UUIDS[2].replace("-", ""),
        f"{{{UUIDS[2]}}}",
        "garbage",
        "",
    )
)
flags = st.sampled_from(("1", "1", "1", "0", "0\n", "x", "", "2", "-1", "0x1", "on", "no"))
ids = st.sampled_from(
    (*IDS.values(),) * 3
    + ("1234", "x", "", "1234 11e8 0", "10de ffffffff", "8086 100e 0 0 0 0 0", "1b36 10 0 0 0 0 5")
)
id_drivers = st.sampled_from(("vfio-pci", "vfio-pci", "nvidia", "e1000"))
pfs = st.sampled_from((NVME, NVME, A10S[0], L40S))
counts = st.sampled_from(("0", "0", "1", "2", "2", "3", "0x2", "-1", "5", "33", "70000", "x", "\n"))
vendor_vfs = st.sampled_from(L40S_VFS[:3])
vendor_types = st.sampled_from(
    ("1155",) * 4
    + ("1156", "1153", "1150", "0", "0", "0", "0")
    + ("1155\n", "01153", "4294968451", "999", "-1", "x", "", "0x483", "9" * 40)
)
openable = st.sampled_from((*QUICK, *TWIN_NICS, *UUIDS[:5], *UUIDS[:5]))


def to_vfio(address: str) -> tuple[Action, ...]:
    """Give a function to vfio-pci, as vfiohost does."""
    return (
        *((unbind(NATIVE[address], address),) if address in NATIVE else ()),
        override(address, "vfio-pci"),
        bind("vfio-pci", address),
    )


def free(address: str) -> Store:
    """Take a function from the driver that it has by itself."""
    return unbind(NATIVE.get(address, "nosuch"), address)


def to_native(address: str) -> tuple[Action, ...]:
    """Give it back."""
    return (unbind("vfio-pci", address), override(address, "\n"), probe(address))


def held_up(address: str) -> tuple[Action, ...]:
    """Take a function away from its user, who has it open."""
    return (*to_vfio(address), Open(address), unbind("vfio-pci", address))


def open_group(address: str) -> Open:
    """Open a group's node alone."""
    return Open(address, only_group=True)


def create_kind(kind: tuple[str, str], uuid: str) -> Store:
    """Create a mediated device of a parent and type."""
    return create(*kind, uuid)


def open_twice(address: str, *, first: bool, second: bool) -> tuple[Action, ...]:
    """Have two open a function, or its group."""
    return (*to_vfio(address), Open(address, first), Open(address, second))


def held_up_mdev(kind: tuple[str, str], uuid: str) -> tuple[Action, ...]:
    """Remove a mediated device that its user has open."""
    return (create(*kind, uuid), Open(uuid), remove(uuid))


def held_up_vfs(address: str, pf: str) -> tuple[Action, ...]:
    """Remove virtual functions of which one is open."""
    return (*to_vfio(address), Open(address), numvfs(pf, "0"))


def numvfs(pf: str, count: str) -> Store:
    """Make virtual functions."""
    return Store(f"{DEVICES}/{pf}/sriov_numvfs", count)


def vf_autoprobe(pf: str, flag: str) -> Store:
    """Say whether new virtual functions get drivers."""
    return Store(f"{DEVICES}/{pf}/sriov_drivers_autoprobe", flag)


def new_id(driver: str, text: str) -> Store:
    """Add a dynamic id."""
    return Store(f"{DRIVERS}/{driver}/new_id", text)


def remove_id(driver: str, text: str) -> Store:
    """Remove a dynamic id."""
    return Store(f"{DRIVERS}/{driver}/remove_id", text)


def vgpu_type(vf: str, text: str) -> Store:
    """Make a vGPU of a virtual function, or end it."""
    return Store(f"{DEVICES}/{vf}/nvidia/current_vgpu_type", text)


def open_vgpu(vf: str, type_id: str) -> tuple[Action, ...]:
    """Make a vGPU of a virtual function, open it, and try to end it."""
    return (vgpu_type(vf, type_id), Open(vf), vgpu_type(vf, "0"))


def on_mdev_driver(verb: str, driver: str, uuid: str) -> Store:
    """Bind or unbind a mediated device."""
    return Store(f"/sys/bus/mdev/drivers/{driver}/{verb}", uuid)


def remove_function(address: str, flag: str) -> Store:
    """Take a function out of the host."""
    return Store(f"{DEVICES}/{address}/remove", flag)


def remove_open(address: str) -> tuple[Action, ...]:
    """Take a function out of the host that somebody has open."""
    return (*to_vfio(address), Open(address), remove_function(address, "1"))


def rescan(flag: str) -> Store:
    """Look for functions."""
    return Store("/sys/bus/pci/rescan", flag)


def reset(address: str, flag: str) -> Store:
    """Reset a function."""
    return Store(f"{DEVICES}/{address}/reset", flag)


def autoprobe(flag: str) -> Store:
    """Say whether drivers that are loaded take devices."""
    return Store("/sys/bus/pci/drivers_autoprobe", flag)


def _each(make: object, *arguments: SearchStrategy[object]) -> SearchStrategy[tuple[Action, ...]]:
    """Draw the arguments of a function that makes an action, or several."""

    def call(drawn: tuple[object, ...]) -> tuple[Action, ...]:
        made = make(*drawn)  # type: ignore[operator]
        return made if isinstance(made, tuple) else (made,)

    return st.tuples(*arguments).map(call)


flips = st.booleans()
kinds = st.sampled_from((*SAMPLES, *VGPUS))
mdev_drivers = st.sampled_from(("mtty", "mdpy", "mbochs", "nvidia-vgpu-vfio", "nosuch"))

ACTIONS: dict[str, tuple[int, SearchStrategy[tuple[Action, ...]]]] = {
    "bind": (8, _each(bind, drivers, devices)),
    "bind an odd name": (1, _each(bind, drivers, odd_names)),
    "unbind": (5, _each(unbind, drivers, devices)),
    "unbind from the native driver": (
        3,
        quick.map(lambda a: (unbind(NATIVE.get(a, "nosuch"), a),)),
    ),
    "unbind an odd name": (1, _each(unbind, drivers, odd_names)),
    "probe": (5, _each(probe, devices)),
    "probe an odd name": (1, _each(probe, odd_names)),
    "override": (6, _each(override, devices, overrides)),
    "give to vfio-pci": (6, _each(to_vfio, for_vfio)),
    "give back": (3, _each(to_native, for_vfio)),
    "give a NIC to vfio-pci": (1, _each(to_vfio, natives)),
    "new_id": (2, _each(new_id, id_drivers, ids)),
    "remove_id": (1, _each(remove_id, id_drivers, ids)),
    "autoprobe": (1, _each(autoprobe, flags)),
    "numvfs": (4, _each(numvfs, pfs, counts)),
    "sriov_drivers_autoprobe": (2, _each(vf_autoprobe, pfs, flags)),
    "create": (7, _each(create_kind, kinds, uuids)),
    "create with an odd UUID": (1, _each(create_kind, kinds, odd_uuids)),
    "remove": (5, _each(remove, uuids, flags)),
    "bind or unbind an mdev": (
        2,
        _each(on_mdev_driver, st.sampled_from(("bind", "unbind")), mdev_drivers, uuids),
    ),
    "vGPU type": (6, _each(vgpu_type, vendor_vfs, vendor_types)),
    "open a vGPU": (2, _each(open_vgpu, vendor_vfs, vendor_types)),
    "open": (4, _each(Open, openable)),
    "open a group": (2, _each(open_group, st.sampled_from((*QUICK, *TWIN_NICS)))),
    "open twice": (
        1,
        _each(lambda a, one, two: open_twice(a, first=one, second=two), for_vfio, flips, flips),
    ),
    "close": (5, st.just((Close(),))),
    "unbind what is open": (2, _each(held_up, for_vfio)),
    "remove an mdev that is open": (2, _each(held_up_mdev, kinds, uuids)),
    "remove VFs that are open": (
        1,
        _each(held_up_vfs, st.sampled_from(NVME_VFS[:2]), st.just(NVME)),
    ),
    "load": (1, _each(Load, modules)),
    "unload": (1, _each(Unload, modules)),
    "remove a function": (2, _each(remove_function, removable, flags)),
    "remove a function that is open": (1, _each(remove_open, removable)),
    "rescan": (3, _each(rescan, flags)),
    "reset": (2, _each(reset, st.sampled_from((*REMOVABLE, *GPU_VFS)), flags)),
}
"""Weights and strategies, by name."""

_NAMES = tuple(chain.from_iterable([name] * weight for name, (weight, _) in ACTIONS.items()))


def sequences(length: int) -> SearchStrategy[tuple[Action, ...]]:
    """Sequences of so many actions; at the end all is closed."""
    several = st.lists(
        st.sampled_from(_NAMES).flatmap(lambda name: ACTIONS[name][1]),
        min_size=length,
        max_size=length,
    )
    return several.map(lambda drawn: (*tuple(chain.from_iterable(drawn))[: length - 1], Close()))


def make_sequence(seed: int, length: int) -> tuple[Action, ...]:
    """Draw the sequence of a seed, the same everywhere with the same Hypothesis."""
    drawn: list[tuple[Action, ...]] = []

    @hypothesis.seed(seed)
    @settings(
        max_examples=2,  # the first one is the simplest for every seed
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(sequences(length))
    def draw(actions: tuple[Action, ...]) -> None:
        drawn.append(actions)

    draw()
    return drawn[-1]


def dynamic_ids(actions: Sequence[Action]) -> list[list[str]]:
    """The drivers and ids that a sequence adds: nothing on the host shows them."""
    added = [
        (each.path.split("/")[-2], each.value.split()[:2])
        for each in actions
        if isinstance(each, Store) and each.path.endswith("/new_id")
    ]
    return [[driver, " ".join(fields)] for driver, fields in added if len(fields) > 1]
