"""The PCI functions of the machine: where they are, and the QEMU options that make them.

The addresses do not change from boot to boot: QEMU puts the functions where it is told to, and the
firmware numbers the buses behind the root ports in the order of the ports. The synthetic cards are
plugged into the empty ports by the ``synthgpu`` module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

HOST_BRIDGE = "0000:00:00.0"
EDU = "0000:00:07.0"
"""A function that no driver of the kernel knows, without a way to reset it."""
NIC = "0000:00:08.0"
"""An e1000 alone in its group."""
TWIN_NICS = ("0000:00:0a.0", "0000:00:0a.1")
"""Two e1000 of one slot. Without ACS they share a group."""
PORT = "0000:00:0b.0"
"""The root port of :data:`PCIE_NIC`."""
PCIE_NIC = "0000:01:00.0"
"""An e1000e behind a root port."""
NVME = "0000:02:00.0"
"""A disk with SR-IOV."""
NVME_VFS = tuple(f"0000:02:00.{number}" for number in range(1, 5))
A10S = ("0000:03:00.0", "0000:04:00.0")
RTX3090 = ("0000:05:00.0", "0000:05:00.1")
"""A display function and its audio function, in one group."""
RTX2080 = tuple(f"0000:06:00.{number}" for number in range(4))
"""Display, audio, USB and UCSI, in one group."""
T4 = "0000:07:00.0"
L40S = "0000:08:00.0"
L40S_VFS = (*(f"0000:08:00.{number}" for number in range(4, 8)), "0000:08:01.0")
"""The first five of its seven."""
EMPTY_PORT = "0000:00:16.0"
"""A root port with nothing behind it."""
OUTSIDE = "0000:41:00.0"
"""A function without an IOMMU in front of it, and so without a group. It is of EDU's kind."""

IOMMU = ("-device", "intel-iommu,intremap=on,caching-mode=on")
ROOM = "hotplug=off,io-reserve=0,mem-reserve=32M,pref64-reserve=2G"
"""What an empty port needs: room for the BARs of a card and of its virtual functions."""

DISK_MIB = 64
AGENT_PORT = "vfiohost.lab"
"""The name of the virtio port that the agent answers on."""


def machine_options(folder: Path) -> list[str]:
    """Return the options that make the machine.

    Args:
        folder: of this run. The disk's image and the agent's socket lie there.
    """
    return [
        *base_options(folder),
        *("-smp", "2", "-m", "1G"),
        *IOMMU,
        *_functions(folder),
        *_ports(),
        *_outside(),
    ]


def base_options(folder: Path) -> list[str]:
    """What every machine of the lab has: a chipset, the host's files, and a way to the agent."""
    files = "local,id=host,path=/,security_model=none,readonly=on,multidevs=remap"
    return [
        *chipset_options(folder),
        *("-fsdev", files, "-device", "virtio-9p-pci,addr=02.0,fsdev=host,mount_tag=host"),
        *agent_options(folder),
    ]


def chipset_options(folder: Path) -> list[str]:
    """A chipset and a processor, and where the console goes."""
    return [
        # One thread for both processors: with a thread for each, QEMU 7.2 now and then runs code
        # that the other one is just patching (static keys), and the kernel panics while it boots.
        *("-machine", "q35,kernel-irqchip=split", "-accel", "tcg,thread=single"),
        # Told that "rep movsb" is fast, guests copy with it, which QEMU emulates byte by byte.
        *("-cpu", "max,-erms,-fsrm"),
        *("-name", "lab,debug-threads=on"),  # a thread says what it is for
        *("-nodefaults", "-no-user-config", "-nographic", "-no-reboot"),
        *("-serial", f"file:{folder / 'console.log'}"),
    ]


def agent_options(folder: Path) -> list[str]:
    """The agent's way to the tests."""
    return [
        *("-device", "virtio-serial-pci,addr=03.0"),
        *("-chardev", f"socket,id=agent,path={folder / 'agent.socket'},server=on,wait=off"),
        *("-device", f"virtserialport,chardev=agent,name={AGENT_PORT}"),
    ]


def _functions(folder: Path) -> list[str]:
    """The functions that QEMU emulates. Without romfile no firmware stops to look at the NICs."""
    return [
        *("-device", "edu,addr=07.0"),
        *nic("nic0", "e1000,addr=08.0"),
        *nic("nic1", "e1000,addr=0a.0,multifunction=on"),
        *nic("nic2", "e1000,addr=0a.1"),
        *("-device", "pcie-root-port,id=port0b,chassis=1,addr=0b.0"),
        *nic("nic3", "e1000e,bus=port0b"),
        *("-device", "pcie-root-port,id=port0c,chassis=2,addr=0c.0"),
        *nvme(folder, "port0c"),
    ]


def nvme(folder: Path, bus: str) -> list[str]:
    """A disk with SR-IOV, behind a root port."""
    sriov = "sriov_max_vfs=4,sriov_vq_flexible=8,sriov_vi_flexible=4"
    disk = f"file,node-name=disk,filename={folder / 'disk.raw'}"
    return [
        *("-blockdev", disk, "-device", "nvme-subsys,id=subsys"),
        *("-device", f"nvme,id=nvme,bus={bus},serial=lab0,subsys=subsys,{sriov}"),
        *("-device", "nvme-ns,bus=nvme,drive=disk"),
    ]


def nic(name: str, device: str) -> list[str]:
    """A network card with a network that leads nowhere."""
    network = f"user,id={name},restrict=on"
    return ["-netdev", network, "-device", f"{device},netdev={name},romfile="]


def _ports() -> list[str]:
    """Empty root ports."""
    slots = range(0x10, 0x17)
    devices = [f"pcie-root-port,chassis={slot},addr={slot:02x}.0,{ROOM}" for slot in slots]
    return [option for device in devices for option in ("-device", device)]


def _outside() -> list[str]:
    """A second host bridge, which the IOMMU leaves out. Devices after it must name their bus."""
    return [
        *("-device", "pxb-pcie,id=outside,bus=pcie.0,addr=0e.0,bus_nr=64,bypass_iommu=on"),
        *("-device", "pcie-root-port,id=port40,bus=outside,chassis=3,addr=00.0"),
        *("-device", "edu,bus=port40"),
    ]
