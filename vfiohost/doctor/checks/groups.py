"""IOMMU groups of the devices for guests: which are shared, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from vfiohost.config_space.values import EXTENDED, TO_PCI_BRIDGE, UPSTREAM_PORT
from vfiohost.doctor.facts import GROUPS, HostFacts, counted, joined
from vfiohost.doctor.findings import Evidence, Finding
from vfiohost.model import Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vfiohost.model import IommuGroup, PciDevice

# REQ_ACS_FLAGS of drivers/iommu/iommu.c.
_REQUIRED = (
    "source validation",
    "request redirection",
    "completion redirection",
    "upstream forwarding",
)


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
    space = facts.spaces.get(path)
    if space is None:
        unread = facts.files.get(path)
        why = str(unread) if isinstance(unread, Unavailable) else _why_not_read(facts, port)
        return Acs(Evidence(path, f"was not read ({why})"), "")
    if not space.answers:
        return Acs(Evidence(path, "reads as ones: the port does not answer"), "")
    if space.size <= EXTENDED:
        said = f"only {space.size} bytes can be read without root, or there are no more"
        return Acs(Evidence(path, said), "")
    if space.express is None or space.express.port_type == TO_PCI_BRIDGE:
        sentence = "leads to conventional PCI, where all devices look like one."
        said = "no PCI Express capability" if space.express is None else space.express.port_name
        return Acs(Evidence(path, said), sentence)
    name = space.express.port_name
    if space.acs is None:
        is_upstream = space.express.port_type == UPSTREAM_PORT
        sentence = "" if is_upstream else "has no Access Control Services (ACS)."
        return Acs(Evidence(path, f"{name}, no ACS capability"), sentence)
    able, on = space.acs.able, space.acs.on
    missing = [control for control in _REQUIRED if control in able and control not in on]
    said = f"{name}, ACS capability {space.acs.capability:#06x}, control {space.acs.control:#06x}"
    sentence = f"has ACS, but not switched on: {', '.join(missing)}." if missing else ""
    return Acs(Evidence(path, said), sentence)


def _why_not_read(facts: HostFacts, port: PciDevice) -> str:
    status = facts.text(f"{port.path}/power/runtime_status")
    if facts.is_live:
        return f"the port, or one above it, sleeps ({status or 'unknown'}): reading would wake it"
    return "it is not in this recording: vfiohost record --with-config puts it there"
