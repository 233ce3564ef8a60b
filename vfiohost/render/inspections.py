"""All that is known of a device, as a block of text."""

from __future__ import annotations

from errno import ENOENT
from itertools import islice
from typing import TYPE_CHECKING

from vfiohost.config_space.values import ConfigSpace
from vfiohost.model import Unavailable
from vfiohost.render.capabilities import capability_rows
from vfiohost.render.sizes import size_text
from vfiohost.render.table import plain, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vfiohost.config_space.values import Link
    from vfiohost.inspection import Inspection, Region
    from vfiohost.model import PciDevice
    from vfiohost.names import PciNames
    from vfiohost.render.table import Paint

    Row = tuple[str, str]
    """What a line is about (nothing: the same as the one before), and what it says."""

_LISTED = 16
_USER_BYTES = 64


def inspection_lines(
    inspection: Inspection, names: PciNames | None, paint: Paint = plain
) -> list[str]:
    """A block for a device: what it is on the first line, a fact on each other one.

    Args:
        inspection: the device.
        names: for the names; ``None`` shows numbers.
        paint: makes colours of kinds.
    """
    rows = [row for section in _SECTIONS for row in section(inspection, names)]
    width = max(len(key) for key, _ in rows)
    head = paint(str(inspection.device.address), "head")
    title = printable(_name(inspection.device, names))
    facts = ((paint(key.ljust(width), "dim"), printable(text)) for key, text in rows)
    return [f"{head}  {title}", *(f"  {key}  {text}".rstrip() for key, text in facts)]


# ---- what it is --------------------------------------------------------------------------------


def _identity(inspection: Inspection, names: PciNames | None) -> Iterator[Row]:
    device = inspection.device
    code = f"{device.class_code:06x}"
    name = f"{names.class_name(device.class_code)} [{code}]" if names else code
    is_known = isinstance(device.revision, int)
    yield "class", name + (f", revision {device.revision:02x}" if is_known else "")
    vendor, card = device.subsystem_vendor_id, device.subsystem_device_id
    if vendor and card is not None:
        ids = f"{vendor:04x}:{card:04x}"
        given = (device.vendor_id, device.device_id, vendor, card)
        yield "card", _named(names.subsystem(*given) if names else "", ids)


def _place(inspection: Inspection, names: PciNames | None) -> Iterator[Row]:
    yield from _listed("behind", inspection.route, names)
    yield from _listed("same card", inspection.siblings, names)
    device = inspection.device
    node = "none" if device.numa_node is None else str(device.numa_node)
    cpus = f", processors {inspection.cpus}" if isinstance(inspection.cpus, str) else ""
    yield "NUMA node", node + cpus


def _listed(key: str, devices: tuple[PciDevice, ...], names: PciNames | None) -> Iterator[Row]:
    for device in devices:
        yield key, f"{device.address} {_name(device, names)}, {_driver(device)}"
        key = ""


def _name(device: PciDevice, names: PciNames | None) -> str:
    return _named(names.full(device.vendor_id, device.device_id) if names else "", device.ids)


def _named(name: str, ids: str) -> str:
    """A name with its ids, where it does not consist of them."""
    return name if ids in name else f"{name} [{ids}]".lstrip()


# ---- who has it --------------------------------------------------------------------------------


def _binding(inspection: Inspection, _names: PciNames | None) -> Iterator[Row]:
    device, details = inspection.device, inspection.details
    driver = _text(device.driver)
    if inspection.snapshot.is_releasing(device):
        driver = "on its way out"
    yield "driver", driver + (f" (module {inspection.module})" if inspection.module else "")
    yield "driver_override", _override(None if details is None else details.driver_override)
    if inspection.modules is None:
        yield "modules", "unknown: there is no list of this kernel's modules"
    else:
        yield "modules", " ".join(inspection.modules) or "none that modules.alias knows"
    if not device.is_bridge:
        yield "VFIO driver", inspection.vfio_driver
    if inspection.nodes:
        yield "VFIO nodes", " ".join(f"/{node}" for node in inspection.nodes)
    if details is not None and details.boot_vga is True:
        yield "console", "the firmware's is on it"


def _override(override: str | None | Unavailable) -> str:
    if isinstance(override, Unavailable) and override.errno == ENOENT:
        return "cannot be set: there is no such file"
    return _text(override, "not set")


def _driver(device: PciDevice) -> str:
    return _text(device.driver, "no driver")


def _group(inspection: Inspection, names: PciNames | None) -> Iterator[Row]:
    group = inspection.group
    if group is None:
        yield "IOMMU group", _text(inspection.device.iommu_group, "none")
        return
    kind = f" ({inspection.group_type})" if isinstance(inspection.group_type, str) else ""
    blockers = {member.address for member in group.blockers}
    viable = "not viable" if blockers else "viable"
    if blockers == {inspection.device.address}:
        viable = f"viable once {inspection.device.driver} lets go of it"
    alone = "alone, " * (len(group.members) == 1)
    yield "IOMMU group", f"{group.number}{kind}, {alone}{viable}"
    others = [m for m in group.members if m.address != inspection.device.address]
    for member in islice(others, _LISTED):
        blocks = " (blocks)" if member.address in blockers else ""
        yield "", f"with {member.address} {_name(member, names)}, {_driver(member)}{blocks}"
    if len(others) > _LISTED:
        yield "", f"and {len(others) - _LISTED} more"
    if isinstance(inspection.reserved, Unavailable):
        yield "reserved", _text(inspection.reserved)
    elif inspection.reserved:
        key = "reserved"
        for region in inspection.reserved[:_LISTED]:
            yield key, f"{region.start:#x}-{region.end:#x} {region.kind}"
            key = ""


def _virtual(inspection: Inspection, _names: PciNames | None) -> Iterator[Row]:
    device, sriov = inspection.device, inspection.sriov
    if device.is_vf:
        nth = "" if inspection.vf_index is None else f"number {inspection.vf_index} "
        yield "virtual function", f"{nth}of {device.physfn}"
    if sriov is None:
        return
    found = inspection.virtual_functions
    said = f"{len(found)} of {_text(device.total_vfs)}"
    if found:
        said += f": {found[0].address}" + f" to {found[-1].address}" * (len(found) > 1)
    yield "virtual functions", said
    numbers = [
        f"{name} {value:{form}}"
        for name, value, form in (
            ("device", sriov.vf_device_id, "04x"),
            ("offset", sriov.offset, "d"),
            ("stride", sriov.stride, "d"),
        )
        if isinstance(value, int)
    ]
    numbers += ["no driver takes new ones by itself"] * (sriov.autoprobe is False)
    if numbers:
        yield "", ", ".join(numbers)


# ---- what it has -------------------------------------------------------------------------------


def _power(inspection: Inspection, _names: PciNames | None) -> Iterator[Row]:
    power = inspection.power
    known = (power.state if power.state != "unknown" else None, power.runtime_status)
    said = [text for text in known if isinstance(text, str)]
    said += ["kept awake"] * (power.control == "on") + ["may sleep"] * (power.control == "auto")
    said += ["never without power (d3cold_allowed 0)"] * (power.d3cold_allowed is False)
    if said:
        yield "power", ", ".join(said)
    reset = inspection.reset
    if isinstance(reset.methods, str):
        yield "reset", reset.methods or "every method is switched off"
    elif reset.has_reset:
        yield "reset", "yes; this kernel does not say by which method"
    elif not isinstance(reset.methods, Unavailable):
        yield "reset", "none"
    if inspection.link is not None:
        yield "link", _link(inspection.link)


def _link(link: Link) -> str:
    most = f"{link.max_speed or 'unknown speed'} x{link.max_width or '?'}"
    if not link.width:
        return f"down or unknown; able to do {most}"
    now = f"{link.speed or 'unknown speed'} x{link.width}"
    return now if now == most else f"{now}, able to do {most}"


def _regions(inspection: Inspection, _names: PciNames | None) -> Iterator[Row]:
    if isinstance(inspection.regions, Unavailable):
        yield "BARs", _text(inspection.regions)
        return
    for region in inspection.regions:
        yield region.name, _region(region, inspection.device.total_vfs)


def _region(region: Region, total_vfs: object) -> str:
    size = size_text(region.size)
    if region.name.startswith("VF ") and isinstance(total_vfs, int) and total_vfs:
        size += f" ({size_text(region.size // total_vfs)} each)"
    where = f"{region.start:#x}" if region.is_assigned else "no address"
    kinds = [region.kind, *["64-bit"] * region.is_64bit, *["prefetchable"] * region.is_prefetchable]
    return f"{where}, {size}, {', '.join(kinds)}"


def _capabilities(inspection: Inspection, _names: PciNames | None) -> Iterator[Row]:
    space = inspection.space
    if not isinstance(space, ConfigSpace):
        yield "capabilities", _why_none(inspection)
        return
    key = "capabilities"
    for row in capability_rows(space):
        yield key, row
        key = ""
    if not space.answers:
        yield key, "unknown: the device does not answer (its registers read as ones)"
    elif space.size <= _USER_BYTES:
        yield key, f"unknown: the kernel gives {space.size} bytes to ordinary users; ask as root"
    elif key:
        yield key, "none"
    for what, chain in (("", space.chain), ("extended ", space.extended_chain)):
        if chain == "cut" and space.size > _USER_BYTES:
            yield "", f"the chain of {what}capabilities goes on behind the {space.size} bytes read"
        elif chain in ("loop", "astray"):
            ends = "where it began" if chain == "loop" else "where none can be"
            yield "", f"the chain of {what}capabilities makes no sense: it leads to {ends}"


def _why_none(inspection: Inspection) -> str:
    if isinstance(inspection.space, Unavailable):
        return _text(inspection.space)
    if inspection.sleeper is None:
        return "not recorded (record --with-config does that)"
    who = inspection.sleeper
    sleeps = "it sleeps" if who == inspection.device.address else f"{who} in front of it sleeps"
    return f"not read: {sleeps}, and would be woken (--wake does that)"


def _text(value: object, none: str = "none") -> str:
    if isinstance(value, Unavailable):
        return f"unknown ({value.why})"
    return none if value is None else str(value)


_SECTIONS: tuple[Callable[[Inspection, PciNames | None], Iterator[Row]], ...] = (
    _identity,
    _place,
    _binding,
    _group,
    _virtual,
    _power,
    _regions,
    _capabilities,
)
