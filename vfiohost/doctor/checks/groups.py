"""IOMMU groups of the devices for guests: which are shared, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from vfiohost.doctor.facts import GROUPS, HostFacts, counted, joined
from vfiohost.doctor.findings import Evidence, Finding
from vfiohost.model import Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vfiohost.model import IommuGroup, PciDevice

# include/uapi/linux/pci_regs.h
_CAPABILITY_LIST, _CAP_EXP, _STANDARD_END = 0x34, 0x10, 0x100
_EXT_CAP_ACS = 0x0D
_TYPES = {4: "root port", 5: "upstream port", 6: "downstream port", 7: "PCIe-to-PCI bridge"}
_UPSTREAM, _TO_PCI = 5, 7
# REQ_ACS_FLAGS of drivers/iommu/iommu.c, and their bits.
_REQUIRED = {
    "source validation": 0x01,
    "request redirection": 0x04,
    "completion redirection": 0x08,
    "upstream forwarding": 0x10,
}


def check_groups(facts: HostFacts) -> Iterator[Finding]:
    """Which devices for guests share their group, with whom, and which port is to blame."""
    groups = {d.iommu_group: d for d in facts.devices if isinstance(d.iommu_group, int)}
    shared = [n for n in sorted(groups) if n in facts.groups and len(facts.groups[n].endpoints) > 1]
    for number in shared:
        yield _shared(facts, facts.groups[number])
    alone = [n for n in groups if n in facts.groups and n not in shared]
    if alone and not shared:
        yield Finding(
            "groups-separate",
            "ok",
            "host",
            (Evidence(GROUPS, counted(len(facts.groups), "group")),),
            "Each device for guests is alone in its IOMMU group, bridges apart.",
        )


def _shared(facts: HostFacts, group: IommuGroup) -> Finding:
    endpoints = group.endpoints
    cards = {device.address.slot for device in endpoints}
    blockers = tuple(d for d in group.blockers if not d.is_bridge)
    held = joined(f"{d.address} ({d.driver})" for d in blockers)
    now = f" Now {held} would keep a guest from it." if blockers else ""
    members = Evidence(f"{GROUPS}/{group.number}/devices", joined(m.address for m in group.members))
    first = endpoints[0].address
    ports = _ports_of(facts, group)
    states = [(port, acs_of(facts, port)) for port in ports]
    why = "".join(f" {port.address} {state.sentence}" for port, state in states if state.sentence)
    evidence = (members, *(state.evidence for _, state in states))
    if len(cards) == 1:
        bridges = [m.address for m in group.members if m.is_bridge]
        with_bridges = (
            f" {joined(bridges)} is in it too, and stays with the host." if bridges else ""
        )
        return Finding(
            "group-one-card",
            "info",
            f"group {group.number}",
            evidence,
            f"Group {group.number} holds {len(endpoints)} functions of one card, which nothing "
            "keeps from reaching each other past the IOMMU: a guest gets all of them or none."
            f"{with_bridges}{why}{now}",
            f"Hand them over together: `vfiohost bind {first} --group`.",
        )
    if (controller := _in_front_of_all(endpoints)) is not None:
        return Finding(
            "group-shared",
            "warning",
            f"group {group.number}",
            (members, Evidence(f"{controller.path}/driver", str(controller.driver or "none"))),
            f"Group {group.number} holds {controller.address} and all that lies behind it: to the "
            "IOMMU they are one (a controller such as Intel's VMD asks for memory in its own "
            f"name). One guest gets all of them, or none.{now}",
            f"Give the guest {controller.address} itself, and with it what lies behind it; or "
            "switch the controller off in the firmware's setup (VMD), so that each drive stands "
            "for itself.",
        )
    return Finding(
        "group-shared",
        "warning",
        f"group {group.number}",
        evidence,
        f"Group {group.number} holds {len(endpoints)} functions of {len(cards)} cards, because "
        f"nothing keeps them from reaching each other past the IOMMU: one guest gets all of them, "
        f"or none.{why}{now}",
        f"Hand all of them over (`vfiohost bind {first} --group`), or put the card into a slot "
        "behind another root port. Some firmwares have a switch for ACS; newer kernels vouch for "
        "more ports. pcie_acs_override is in no mainline kernel, and only hides the gap.",
    )


def _in_front_of_all(endpoints: Sequence[PciDevice]) -> PciDevice | None:
    """The member that all others lie behind, if there is one."""
    for first in endpoints:
        if all(d is first or d.path.startswith(f"{first.path}/") for d in endpoints):
            return first
    return None


def _ports_of(facts: HostFacts, group: IommuGroup) -> list[PciDevice]:
    """The bridges in the group and above its members, in order of address."""
    found = {port for member in group.members for port in facts.ports_above(member)}
    found |= {member for member in group.members if member.is_bridge}
    return sorted((p for p in found if p.class_code >> 8 == 0x0604), key=lambda p: p.address)  # noqa: PLR2004 - a PCI bridge


@attrs.frozen
class Acs:
    """What a port does to keep those behind it apart.

    Attributes:
        evidence: what was read.
        sentence: what is missing, to follow the address; empty when nothing is.
    """

    evidence: Evidence
    sentence: str


def acs_of(facts: HostFacts, port: PciDevice) -> Acs:
    """Look for Access Control Services, as ``pci_acs_flags_enabled`` (``drivers/pci/pci.c``)."""
    path = f"{port.path}/config"
    config = facts.files.get(path)
    if not isinstance(config, bytes):
        why = str(config) if isinstance(config, Unavailable) else _why_not_read(facts, port)
        return Acs(Evidence(path, f"was not read ({why})"), "")
    kind = port_type(config)
    if len(config) <= _STANDARD_END:
        said = f"only {len(config)} bytes can be read without root, or there are no more"
        return Acs(Evidence(path, said), "")
    if kind is None or kind == _TO_PCI:
        sentence = "leads to conventional PCI, where all devices look like one."
        return Acs(Evidence(path, _TYPES.get(kind or 0, "no PCI Express capability")), sentence)
    name = _TYPES.get(kind, f"port of type {kind}")
    found = acs_registers(config)
    if found is None:
        has_to = "" if kind == _UPSTREAM else "has no Access Control Services (ACS)."
        return Acs(Evidence(path, f"{name}, no ACS capability"), has_to)
    capability, control = found
    missing = [n for n, bit in _REQUIRED.items() if capability & bit and not control & bit]
    said = f"{name}, ACS capability {capability:#06x}, control {control:#06x}"
    sentence = f"has ACS, but not switched on: {', '.join(missing)}." if missing else ""
    return Acs(Evidence(path, said), sentence)


def _why_not_read(facts: HostFacts, port: PciDevice) -> str:
    status = facts.text(f"{port.path}/power/runtime_status")
    if facts.is_live:
        return f"the port, or one above it, sleeps ({status or 'unknown'}): reading would wake it"
    return "it is not in this recording: vfiohost record --with-config puts it there"


def port_type(config: bytes) -> int | None:
    """The device/port type of the PCI Express capability, or ``None`` where there is none."""
    if len(config) < _CAPABILITY_LIST + 1:
        return None
    offset, seen = config[_CAPABILITY_LIST] & ~3, set[int]()
    while 0x40 <= offset <= min(len(config), _STANDARD_END) - 4 and offset not in seen:  # noqa: PLR2004 - where capabilities begin
        seen.add(offset)
        if config[offset] == _CAP_EXP:
            return config[offset + 2] >> 4
        offset = config[offset + 1] & ~3
    return None


def acs_registers(config: bytes) -> tuple[int, int] | None:
    """The capability and control registers of ACS, or ``None`` where it is not."""
    offset, seen = _STANDARD_END, set[int]()
    while _STANDARD_END <= offset <= len(config) - 8 and offset not in seen:
        seen.add(offset)
        header = int.from_bytes(config[offset : offset + 4], "little")
        if header & 0xFFFF == _EXT_CAP_ACS:
            registers = config[offset + 4 : offset + 8]
            return int.from_bytes(registers[:2], "little"), int.from_bytes(registers[2:], "little")
        offset = header >> 20 & ~3
    return None
