"""What a configuration space says: frozen values, no I/O.

A capability that is there but that could not be read as a whole stands in
:attr:`ConfigSpace.capabilities` and has no value of its own. Names and bits are those of
``include/uapi/linux/pci_regs.h``.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal

import attrs

if TYPE_CHECKING:
    from collections.abc import Mapping

Chain = Literal["none", "whole", "cut", "loop", "astray"]
"""How a chain of capabilities ended: there is none; where it should; in bytes that could not be
read; where it had been already; where no capability can be."""

EXTENDED: Final = 0x100
"""Where the extended configuration space begins."""

PORT_TYPES: Mapping[int, str] = MappingProxyType(
    {
        0: "endpoint",
        1: "legacy endpoint",
        4: "root port",
        5: "upstream port",
        6: "downstream port",
        7: "PCIe-to-PCI bridge",
        8: "PCI-to-PCIe bridge",
        9: "root complex integrated endpoint",
        10: "root complex event collector",
    }
)
"""The device/port types of the PCI Express capability."""

UPSTREAM_PORT: Final = 5
TO_PCI_BRIDGE: Final = 7

ACS_CONTROLS: Final = (
    "source validation",
    "translation blocking",
    "request redirection",
    "completion redirection",
    "upstream forwarding",
    "egress control",
    "direct translated",
    "I/O request blocking",
)
"""What Access Control Services can do, from bit 0 of the two registers on."""

_CAP_VPD: Final = 0x03
_EXT_CAP_DSN: Final = 0x03

_STATES: Final = ("D0", "D1", "D2", "D3hot", "D3cold")

_STANDARD: Mapping[int, str] = {
    0x00: "null",
    0x01: "power management",
    0x02: "AGP",
    0x03: "vital product data",
    0x04: "slot identification",
    0x05: "MSI",
    0x06: "CompactPCI hot swap",
    0x07: "PCI-X",
    0x08: "HyperTransport",
    0x09: "vendor-specific",
    0x0A: "debug port",
    0x0B: "CompactPCI resource control",
    0x0C: "hot-plug controller",
    0x0D: "bridge subsystem ids",
    0x0E: "AGP 8x",
    0x0F: "secure device",
    0x10: "PCI Express",
    0x11: "MSI-X",
    0x12: "SATA",
    0x13: "advanced features",
    0x14: "enhanced allocation",
    0x15: "flattening portal bridge",
}
_EXTENDED: Mapping[int, str] = {
    0x00: "null",
    0x01: "advanced error reporting",
    0x02: "virtual channel",
    0x03: "device serial number",
    0x04: "power budgeting",
    0x05: "root complex link declaration",
    0x06: "root complex internal link control",
    0x07: "root complex event collector",
    0x08: "multi-function virtual channel",
    0x09: "virtual channel",
    0x0A: "root complex register block",
    0x0B: "vendor-specific",
    0x0C: "configuration access correlation",
    0x0D: "access control services",
    0x0E: "alternative routing-ID",
    0x0F: "address translation services",
    0x10: "SR-IOV",
    0x11: "MR-IOV",
    0x12: "multicast",
    0x13: "page request interface",
    0x15: "resizable BAR",
    0x16: "dynamic power allocation",
    0x17: "TPH requester",
    0x18: "latency tolerance reporting",
    0x19: "secondary PCI Express",
    0x1A: "protocol multiplexing",
    0x1B: "process address space id",
    0x1C: "LN requester",
    0x1D: "downstream port containment",
    0x1E: "L1 PM substates",
    0x1F: "precision time measurement",
    0x20: "PCI Express over M-PHY",
    0x21: "FRS queueing",
    0x22: "readiness time reporting",
    0x23: "designated vendor-specific",
    0x24: "VF resizable BAR",
    0x25: "data link feature",
    0x26: "physical layer 16 GT/s",
    0x27: "lane margining",
    0x28: "hierarchy id",
    0x29: "native PCIe enclosure management",
    0x2A: "physical layer 32 GT/s",
    0x2B: "alternate protocol",
    0x2C: "system firmware intermediary",
    0x2D: "shadow functions",
    0x2E: "data object exchange",
    0x2F: "device 3",
    0x30: "integrity and data encryption",
    0x31: "physical layer 64 GT/s",
}


@attrs.frozen
class Capability:
    """One link of a chain.

    Attributes:
        id: what it is; standard and extended capabilities have numbers of their own.
        offset: where it begins, in bytes; from 0x100 on it is an extended one.
        version: of an extended one, else 0.
    """

    id: int
    offset: int
    version: int = 0

    @property
    def is_extended(self) -> bool:
        """It lies behind the first 256 bytes."""
        return self.offset >= EXTENDED

    @property
    def is_vpd(self) -> bool:
        """Vital product data."""
        return self.id == _CAP_VPD and not self.is_extended

    @property
    def is_serial(self) -> bool:
        """The device's serial number."""
        return self.id == _EXT_CAP_DSN and self.is_extended

    @property
    def name(self) -> str:
        """``MSI-X``, ``SR-IOV``; ``capability 7f`` where there is no name."""
        names = _EXTENDED if self.is_extended else _STANDARD
        return names.get(self.id) or f"capability {self.id:02x}"


@attrs.frozen
class Link:
    """A PCI Express link, as one of its ends sees it.

    Attributes:
        speed: now, per lane (``32.0 GT/s``), or ``None``: not known, or no link.
        width: now, in lanes; 0 where there is no link.
        max_speed, max_width: what this end is capable of.
    """

    speed: str | None
    width: int | None
    max_speed: str | None
    max_width: int | None


@attrs.frozen
class Express:
    """The PCI Express capability.

    Attributes:
        port_type: a key of :data:`PORT_TYPES`, or a number that means nothing yet.
        flr: whether it can be reset by a Function Level Reset.
        max_payload, payload: bytes of a packet: what it can take, and what is set.
        link: its link, or ``None``: it is part of the root complex.
        ari_forwarding: of a port: whether it can forward to functions above 7.
        ari_forwarding_on: whether it does.
    """

    port_type: int
    flr: bool
    max_payload: int
    payload: int
    link: Link | None
    ari_forwarding: bool
    ari_forwarding_on: bool

    @property
    def port_name(self) -> str:
        """``root port``, or ``port of type 11`` where there is no name."""
        return PORT_TYPES.get(self.port_type, f"port of type {self.port_type}")


@attrs.frozen
class PowerManagement:
    """The Power Management capability.

    Attributes:
        state: the power state that its register says: ``D0``, ``D1``, ``D2``, ``D3hot``.
        states: those that it has, ``D0`` and ``D3hot`` always among them.
        pme: the states from which it can ask to be woken.
        pme_on: whether it may ask.
        no_soft_reset: it keeps its state on the way from D3hot to D0: that is no reset.
    """

    state: str
    states: tuple[str, ...]
    pme: tuple[str, ...]
    pme_on: bool
    no_soft_reset: bool


@attrs.frozen
class Msi:
    """Message Signalled Interrupts.

    Attributes:
        enabled: whether they are on.
        vectors: how many it may use now.
        max_vectors: how many it wants.
        is_64bit: whether messages can go to addresses above 4 GiB.
        maskable: whether each can be masked.
    """

    enabled: bool
    vectors: int
    max_vectors: int
    is_64bit: bool
    maskable: bool


@attrs.frozen
class MsiX:
    """MSI-X.

    Attributes:
        enabled: whether it is on.
        vectors: the size of its table.
        masked: all of them are masked.
    """

    enabled: bool
    vectors: int
    masked: bool


@attrs.frozen
class Sriov:
    """Single Root I/O Virtualization, of a physical function.

    Attributes:
        enabled: there are virtual functions.
        memory_enabled: their memory answers.
        ari: they are numbered without device numbers (ARI Capable Hierarchy).
        initial_vfs, total_vfs, num_vfs: at first, at most, now.
        offset, stride: from its own routing id to the first one's, and from one to the next.
        vf_device_id: 16 bits.
    """

    enabled: bool
    memory_enabled: bool
    ari: bool
    initial_vfs: int
    total_vfs: int
    num_vfs: int
    offset: int
    stride: int
    vf_device_id: int


@attrs.frozen
class Acs:
    """Access Control Services.

    Attributes:
        capability, control: the two registers, 16 bits each.
    """

    capability: int
    control: int

    @property
    def able(self) -> tuple[str, ...]:
        """What it can do: some of :data:`ACS_CONTROLS`."""
        return _names_of(self.capability)

    @property
    def on(self) -> tuple[str, ...]:
        """What is switched on."""
        return _names_of(self.control)


@attrs.frozen
class ConfigSpace:
    """What a configuration space says, as far as it could be read.

    Attributes:
        size: bytes that were read: 4096, 256, or the 64 that an ordinary user gets.
        answers: whether there is anything but ones.
        command: the command register, or ``None``.
        chain, extended_chain: how the chains of capabilities ended.
        capabilities: in the order of the chains, the standard ones first.
        express, power, msi, msix, sriov, acs: the first capability of that kind, or ``None``.
        ari_next_function: of an Alternative Routing-ID capability: the next function, 0 at the end.
        serial: the device's serial number (``00-11-…``), or ``None``.
        af_flr: whether Advanced Features offer a Function Level Reset; ``None``: there are none.
    """

    size: int
    answers: bool
    command: int | None
    chain: Chain
    extended_chain: Chain
    capabilities: tuple[Capability, ...]
    express: Express | None = None
    power: PowerManagement | None = None
    msi: Msi | None = None
    msix: MsiX | None = None
    sriov: Sriov | None = None
    acs: Acs | None = None
    ari_next_function: int | None = None
    serial: str | None = None
    af_flr: bool | None = None

    @property
    def has_vpd(self) -> bool:
        """There are vital product data; to read them takes writes to the device."""
        return any(capability.is_vpd for capability in self.capabilities)

    @property
    def has_flr(self) -> bool:
        """It can be reset by a Function Level Reset."""
        return bool(self.af_flr) or (self.express is not None and self.express.flr)


def power_states(mask: int) -> tuple[str, ...]:
    """The names of power states, from bit 0 (D0) to bit 4 (D3cold)."""
    return tuple(name for bit, name in enumerate(_STATES) if mask >> bit & 1)


def _names_of(register: int) -> tuple[str, ...]:
    return tuple(name for bit, name in enumerate(ACS_CONTROLS) if register >> bit & 1)
