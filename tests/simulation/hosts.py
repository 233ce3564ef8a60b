"""A small host made for these tests, with one device for each rule."""

from __future__ import annotations

import errno
from contextlib import contextmanager
from typing import TYPE_CHECKING

import attrs
import pytest

from vfiohost.errors import KernelError
from vfiohost.model import PciAddress
from vfiohost.recording import (
    Attribute,
    Function,
    Group,
    MdevTable,
    MdevTableType,
    Module,
    PciDriver,
    Recording,
    VirtualParent,
    modalias_text,
    uevent_text,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from vfiohost.testing import SimulatedKernel

HOST_BRIDGE = "0000:00:00.0"
PORT = "0000:00:01.0"
NIC = "0000:01:00.0"
NIC_SIBLING = "0000:01:00.1"
NVME = "0000:02:00.0"
NVME_VFS = ("0000:02:00.1", "0000:02:00.2", "0000:02:00.3", "0000:02:00.4")
QAT = "0000:03:00.0"
GPU = "0000:04:00.0"
GPU_VFS = ("0000:04:00.4", "0000:04:00.5")
NO_GROUP = "0000:05:00.0"

UUID = "3d1d9e1a-4b6f-4c59-a8a0-6f4dbe0c7f01"
UUID_2 = "3d1d9e1a-4b6f-4c59-a8a0-6f4dbe0c7f02"
UUID_3 = "3d1d9e1a-4b6f-4c59-a8a0-6f4dbe0c7f03"

_CLASSES = {
    "bridge": 0x060000,
    "port": 0x060400,
    "nic": 0x020000,
    "nvme": 0x010802,
    "qat": 0x0B4000,
    "gpu": 0x030200,
}


def attributes(kind: str, device_id: int, **more: str) -> dict[str, Attribute]:
    """The files that a function of a kind has."""
    texts = {
        "vendor": "0x10de" if kind == "gpu" else "0x8086",
        "device": f"0x{device_id:04x}",
        "subsystem_vendor": "0x8086",
        "subsystem_device": "0x0001",
        "class": f"0x{_CLASSES[kind]:06x}",
        "revision": "0x01",
        "numa_node": "-1",
        "enable": "0",
        "power_state": "unknown",
        "driver_override": "(null)",
        **more,
    }
    made = {name: Attribute(f"{text}\n".encode()) for name, text in texts.items()}
    made["modalias"] = Attribute(modalias_text(made) or b"")
    return made


def _function(
    path: str,
    found: Mapping[str, Attribute],
    driver: str | None = None,
    group: int | None = None,
    **more: object,
) -> Function:
    uevent = uevent_text(path.rsplit("/", 1)[-1], driver, found)
    if driver is not None:
        found = {**found, "enable": Attribute(b"1\n"), "power_state": Attribute(b"D0\n")}
    return Function(
        path=path,
        driver=driver,
        iommu_group=group,
        attributes={**found, "uevent": Attribute(uevent or b"")},
        **more,  # type: ignore[arg-type]
    )


def _sriov(total: int, now: int, offset: int, device_id: int) -> dict[str, str]:
    return {
        "sriov_totalvfs": str(total),
        "sriov_numvfs": str(now),
        "sriov_offset": str(offset),
        "sriov_stride": "1",
        "sriov_vf_device": f"{device_id:x}",
        "sriov_drivers_autoprobe": "1",
    }


def _functions() -> tuple[Function, ...]:
    root = "pci0000:00"
    port = f"{root}/{PORT}"
    vfs = tuple(
        _function(
            f"{port}/{address}",
            attributes("gpu", 0x2236),
            "nvidia",
            2 + index,
            physfn=PciAddress.parse(GPU),
            vf_index=index,
            mdev_table="a10",
        )
        for index, address in enumerate(GPU_VFS)
    )
    return (
        _function(f"{root}/{HOST_BRIDGE}", attributes("bridge", 0x3E30), None, 0),
        _function(f"{root}/{PORT}", attributes("port", 0x1901), "pcieport", 1),
        _function(f"{port}/{NIC}", attributes("nic", 0x10D3), "e1000e", 5),
        _function(f"{port}/{NIC_SIBLING}", attributes("nic", 0x10D3), "e1000e", 5),
        _function(
            f"{port}/{NVME}", attributes("nvme", 0x5845, **_sriov(4, 0, 1, 0x5846)), "nvme", 6
        ),
        _function(f"{port}/{QAT}", attributes("qat", 0x37C8), None, 7),
        _function(
            f"{port}/{GPU}", attributes("gpu", 0x2236, **_sriov(2, 2, 4, 0x2236)), "nvidia", 8
        ),
        *vfs,
        _function(f"{port}/{NO_GROUP}", attributes("nic", 0x10D3), None, None),
    )


def _modules() -> tuple[Module, ...]:
    return (
        Module("pcieportdrv", "builtin", (PciDriver("pcieport", ("pci:v*d*sv*sd*bc06sc04i00*",)),)),
        Module("pci_stub", "builtin", (PciDriver("pci-stub"),)),
        Module(
            "e1000e",
            "loaded",
            (PciDriver("e1000e", ("pci:v00008086d000010D3sv*sd*bc*sc*i*",)),),
        ),
        Module("igb", "loadable", (PciDriver("igb", ("pci:v00008086d000010D3sv*sd*bc*sc*i*",)),)),
        Module("nvme_core"),
        Module(
            "nvme",
            "loaded",
            (PciDriver("nvme", ("pci:v*d*sv*sd*bc01sc08i02*",), sriov=True),),
            depends=("nvme_core",),
        ),
        Module(
            "nvidia",
            "loaded",
            (PciDriver("nvidia", ("pci:v000010DEd*sv*sd*bc03sc02i00*",), sriov=True),),
        ),
        Module("vfio"),
        Module("vfio_pci_core", depends=("vfio",)),
        Module("vfio_pci", "loaded", (PciDriver("vfio-pci"),), depends=("vfio_pci_core",)),
        Module(
            "nvgrace_gpu_vfio_pci",
            "loadable",
            (PciDriver("nvgrace_gpu_vfio_pci"),),
            depends=("vfio_pci_core",),
        ),
    )


def _tables() -> tuple[MdevTable, ...]:
    return (
        MdevTable(
            name="a10",
            driver="nvidia",
            device_api="vfio-pci",
            types=(
                MdevTableType("nvidia-594", "NVIDIA A10-6Q", 4, "framebuffer=6144M"),
                MdevTableType("nvidia-596", "NVIDIA A10-12Q", 2, "framebuffer=12288M"),
            ),
            scope="physfn",
            homogeneous=True,
            per_parent=1,
        ),
        MdevTable(
            name="mtty",
            driver="mtty",
            device_api="vfio-pci",
            types=(
                MdevTableType("mtty-1", "Single port serial", 24),
                MdevTableType("mtty-2", "Dual port serial", 12),
            ),
            exhausted="ENOSPC",
        ),
        MdevTable(
            name="mdpy",
            driver="mdpy",
            device_api="vfio-pci",
            types=(MdevTableType("mdpy-hd", "HD", 4), MdevTableType("mdpy-vga", "VGA", 4)),
        ),
    )


def small_host(kernel: str = "6.12.117-amd64") -> Recording:
    """The host: two NICs in one group, an NVMe PF, a QAT, an A10 with two VFs, mtty and mdpy."""
    return Recording(
        title="a host made for the tests of the simulated kernel",
        source="composed from documented facts: none",
        kernel=kernel,
        functions=_functions(),
        modules=_modules(),
        groups=tuple(
            Group(
                number,
                {
                    "type": Attribute(b"DMA-FQ\n"),
                    "reserved_regions": Attribute(b"0xfee00000 0xfeefffff msi\n"),
                },
            )
            for number in (0, 1, 2, 3, 5, 6, 7, 8)
        ),
        mdev_tables=_tables(),
        virtual_parents=(
            VirtualParent("virtual/mtty/mtty", "mtty"),
            VirtualParent("virtual/mdpy/mdpy", "mdpy"),
        ),
    )


def having(recording: Recording, more: Mapping[str, Mapping[str, bytes]]) -> Recording:
    """A host some of whose functions have more attributes: by address, by name, their content."""
    functions = tuple(
        attrs.evolve(
            function,
            attributes={
                **function.attributes,
                **{
                    name: Attribute(content)
                    for name, content in more.get(str(function.address), {}).items()
                },
            },
        )
        for function in recording.functions
    )
    return attrs.evolve(recording, functions=functions)


@contextmanager
def answers(code: str, op: str = "write") -> Iterator[None]:
    """The kernel must answer with exactly this errno, at exactly this step."""
    with pytest.raises(KernelError) as caught:
        yield
    said = caught.value
    assert (said.errno, said.op) == (getattr(errno, code), op), said


class Shell:
    """Short hands for one simulated host, so that a test reads like a session at a shell."""

    def __init__(self, kernel: SimulatedKernel) -> None:
        self.kernel = kernel

    def echo(self, value: str, path: str, *, timeout: float = 5.0) -> None:
        self.kernel.store(path, value, timeout=timeout)

    def bind(self, driver: str, address: str) -> None:
        self.echo(address, f"sys/bus/pci/drivers/{driver}/bind")

    def unbind(self, driver: str, address: str, *, timeout: float = 5.0) -> None:
        self.echo(address, f"sys/bus/pci/drivers/{driver}/unbind", timeout=timeout)

    def probe(self, address: str) -> None:
        self.echo(address, "sys/bus/pci/drivers_probe")

    def override(self, address: str, value: str) -> None:
        self.echo(value, f"sys/bus/pci/devices/{address}/driver_override")

    def numvfs(self, address: str, value: str, *, timeout: float = 5.0) -> None:
        self.echo(value, f"sys/bus/pci/devices/{address}/sriov_numvfs", timeout=timeout)

    def create(self, parent: str, type_id: str, uuid: str) -> None:
        self.echo(uuid, f"sys/class/mdev_bus/{parent}/mdev_supported_types/{type_id}/create")

    def remove_function(self, address: str, value: str = "1", *, timeout: float = 5.0) -> None:
        self.echo(value, f"sys/bus/pci/devices/{address}/remove", timeout=timeout)

    def rescan(self, value: str = "1", *, timeout: float = 5.0) -> None:
        self.echo(value, "sys/bus/pci/rescan", timeout=timeout)

    def remove(self, uuid: str, *, timeout: float = 5.0) -> None:
        self.echo("1", f"sys/bus/mdev/devices/{uuid}/remove", timeout=timeout)

    def to_vfio(self, address: str) -> None:
        """What a careful tool does: take away, override, bind."""
        driver = self.driver(address)
        if driver is not None:
            self.unbind(driver, address)
        self.override(address, "vfio-pci")
        self.bind("vfio-pci", address)

    def end_delays(self) -> None:
        """Let the time of all delayed stores have come, however slow this machine is."""
        with self.kernel._simulation.session() as machine:
            for pending in machine.state.pending:
                pending.not_before = 0.0

    def cat(self, path: str) -> str:
        return self.kernel.sysfs.read(path)

    def driver(self, address: str) -> str | None:
        return self.kernel.sysfs.link_name(f"sys/bus/pci/devices/{address}/driver")

    def exists(self, path: str) -> bool:
        return self.kernel.sysfs.exists(path)

    def ls(self, path: str) -> list[str]:
        return self.kernel.sysfs.listdir(path)

    def uevent(self, address: str) -> list[str]:
        return self.cat(f"sys/bus/pci/devices/{address}/uevent").split("\n")

    def available(self, parent: str, type_id: str) -> int:
        types = f"sys/class/mdev_bus/{parent}/mdev_supported_types"
        return int(self.cat(f"{types}/{type_id}/available_instances"))
