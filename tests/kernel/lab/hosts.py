"""The hosts that fixtures are recorded from: their functions, and the state that they are in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from tests.kernel.lab import layout
from tests.kernel.lab.guest import listdir, load, read, run
from tests.kernel.lab.state import DEVICES, put_sriov_manage

if TYPE_CHECKING:
    from collections.abc import Callable

A10S = ("0000:65:00.0", "0000:ca:00.0")
"""Where NVIDIA's page has them."""

# Notes of the recordings.
_CARDS = (
    "The A10 are made of memory (tests/kernel/modules/synthgpu): to the kernel they are real, but "
    "their BARs are smaller than an A10's."
)
_NOUVEAU = (
    "A stand-in of the tests took the place of nouveau: the real one looks for hardware behind the "
    "BARs."
)
_NVIDIA = (
    "A stand-in of the tests took the place of NVIDIA's driver (tests/kernel/modules/nvidia): ids, "
    "names and descriptions of the types are NVIDIA's."
)
_SRIOV = (
    "The vGPU host driver takes no store to sriov_numvfs: NVIDIA's script sriov-manage is its only "
    "way, so its drivers have no 'sriov = yes' here."
)
_T4 = "The T4 is made of memory (tests/kernel/modules/synthgpu)."


@attrs.frozen
class Host:
    """A host to record.

    Attributes:
        title, notes: of the recording.
        options: makes QEMU's options, given the folder of a run.
        prepare: brings the host into its state; it is called in the guest.
        append: what its kernel's command line says.
    """

    title: str
    options: Callable[[Path], list[str]]
    prepare: Callable[[], None]
    notes: tuple[str, ...] = ()
    append: str = "intel_iommu=on"


def _a10_pair_options(folder: Path) -> list[str]:
    """A server with two sockets: each has an A10, and the first one the disk and the network."""
    memory = [f"memory-backend-ram,id=memory{node},size=512M" for node in (0, 1)]
    nodes = [f"node,nodeid={node},cpus={node},memdev=memory{node}" for node in (0, 1)]
    return [
        *layout.base_options(folder),
        *("-smp", "2,sockets=2", "-m", "1G"),
        *(option for text in memory for option in ("-object", text)),
        *(option for text in nodes for option in ("-numa", text)),
        *layout.IOMMU,
        # The console, behind a bridge to plain PCI as on the boards of servers.
        *("-device", "i82801b11-bridge,id=bridge,addr=1e.0"),
        *("-device", "cirrus-vga,bus=bridge,addr=01.0,romfile="),
        # The kernel meets the roots from the last to the first.
        *_root("c9", node=1, options=layout.ROOM),
        *_root("64", node=0, options=layout.ROOM),
        *_root("30", node=0),
        *layout.nic("nic0", "e1000e,bus=port30,addr=00.0,multifunction=on"),
        *layout.nic("nic1", "e1000e,bus=port30,addr=00.1"),
        *_root("16", node=0),
        *layout.nvme(folder, "port16"),
    ]


def _root(bus: str, node: int, options: str = "hotplug=off") -> list[str]:
    """A PCI root of a socket, with a port that leads to the next bus."""
    number = int(bus, 16)
    port = f"pcie-root-port,id=port{bus},bus=root{bus},addr=02.0,chassis={number},{options}"
    return [
        *("-device", f"pxb-pcie,id=root{bus},bus_nr={number},bus=pcie.0,numa_node={node}"),
        *("-device", port),
    ]


def _no_iommu_options(folder: Path) -> list[str]:
    """A workstation without an IOMMU."""
    return [
        *layout.base_options(folder),
        *("-smp", "2", "-m", "1G"),
        *("-device", "cirrus-vga,addr=04.0,romfile="),
        *("-device", f"pcie-root-port,chassis=1,addr=01.0,{layout.ROOM}"),
        *("-device", "pcie-root-port,id=port1b,chassis=2,addr=1b.0"),
        *layout.nvme(folder, "port1b"),
        *layout.nic("nic0", "e1000,addr=1e.0"),
    ]


def _mtty_options(folder: Path) -> list[str]:
    """A machine with next to nothing."""
    return [
        *layout.base_options(folder),
        *("-smp", "2", "-m", "1G"),
        *layout.IOMMU,
        *layout.nic("nic0", "virtio-net-pci,addr=04.0"),
    ]


# What follows is called in the guest.


def a10_pair() -> None:
    """Two cards that nobody drives: nouveau is there, but kept away."""
    _load_drivers()
    load("synthgpu", "plug=a10,a10")


def a10_pair_nouveau() -> None:
    """The same cards on nouveau."""
    a10_pair()
    load("nouveau")


def a10_pair_vgpu() -> None:
    """The same cards on NVIDIA's vGPU host driver, with all their virtual functions."""
    a10_pair()
    load("nvidia")
    done = run([str(put_sriov_manage()), "-e", "ALL"])
    if done["status"] != 0:
        raise RuntimeError(done["stderr"])


def no_iommu() -> None:
    """A T4 on nouveau."""
    _load_drivers()
    load("synthgpu", "plug=t4")
    load("nouveau")


def mtty() -> None:
    """The kernel's sample parents."""
    _load_drivers()
    load("mtty")
    load("mdpy")


def _load_drivers() -> None:
    """Load what drives the functions, as udev does on a host that starts."""
    # Debian keeps these away; else cirrusfb takes the console before cirrus.
    blacklist = Path("/etc/modprobe.d/fbdev-blacklist.conf")
    blacklist.parent.mkdir(exist_ok=True)
    blacklist.write_text("blacklist cirrusfb\nblacklist nvidiafb\n")
    for address in listdir(DEVICES):
        # A function that no module knows is no failure.
        run(["modprobe", "-q", "-b", read(f"{DEVICES}/{address}/modalias").strip()])


HOSTS = {
    "a10-pair": Host(
        title="Two NVIDIA A10 without a driver, as the GPU Operator leaves them for passthrough",
        options=_a10_pair_options,
        prepare=a10_pair,
        notes=(_CARDS,),
    ),
    "a10-pair-nouveau": Host(
        title="Two NVIDIA A10 on nouveau, as a plain Debian finds them",
        options=_a10_pair_options,
        prepare=a10_pair_nouveau,
        notes=(_CARDS, _NOUVEAU),
    ),
    "a10-pair-vgpu": Host(
        title="Two NVIDIA A10 on NVIDIA's vGPU host driver, 32 virtual functions each, no vGPU yet",
        options=_a10_pair_options,
        prepare=a10_pair_vgpu,
        notes=(_CARDS, _NVIDIA, _SRIOV),
    ),
    "mtty": Host(
        title="The kernel's sample mdev drivers mtty and mdpy: parents that are no PCI devices",
        options=_mtty_options,
        prepare=mtty,
    ),
    "no-iommu": Host(
        title="A Tesla T4 on a board without an IOMMU: no groups",
        options=_no_iommu_options,
        prepare=no_iommu,
        notes=(_T4, _NOUVEAU),
        append="quiet",
    ),
}
"""By the names of their fixtures."""
