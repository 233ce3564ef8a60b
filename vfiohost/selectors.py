"""Text that names PCI devices, and which devices of a host it hits.

=========================  ===============================================================
``0000:65:00.0``           one device; the domain has 4 to 8 digits
``65:00.0``                one device, in domain 0
``0000:0a:*.*``            a glob (``*``, ``?``, ``[0-3]``) over addresses; the short form
                           ``65:00.*`` looks in domain 0
``class:0302``             a class by its hexadecimal code, or by name (``class:net``)
``class:gpu``              whole GPUs: no virtual functions, and no display of a server's
                           management controller, which ``class:display`` hits as well
``10de:2236``              vendor and device
``group:8``                the endpoints of an IOMMU group; its bridges go to nobody
``path:pci0000:64/02.0/00.0``  a place: device and function on the way down from a host bridge.
                           Bus numbers, which may be others after the next boot, are no part of it
``path:…/00.0/vf3``        a virtual function: of the physical one at a place, counted from 0
``eth0``, ``net:lan``      the device of a network interface; ``net:`` where no digit is in the name
``/dev/nvme0n1``           the device that has a disk, a partition, a screen or a GPU's node
``slot:3``                 the functions in a slot, as the firmware numbers it
``serial:S5GXNX0T``        the device with a serial number (of an NVMe disk, or the device's own)
``GPU-2c7c…``              the GPU with a UUID, as NVIDIA's driver tells it
=========================  ===============================================================

Addresses, globs to ``group``, and places are looked up in a :class:`Snapshot`; what a host calls a
device (:class:`ByName`) is read when it is asked for. All but the first two and these names stand
for a *set*. ``:N`` behind a set picks one of it: the N-th in the order of addresses, counted from 0
(``class:gpu:0``, ``10de:2236:1``, ``group:8:0``, ``65:00.*:1``). What hits nothing is an error, so
that nothing happens to no device by accident.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal, NoReturn

import attrs

from vfiohost.errors import AmbiguousError, NotFoundError, ParseError
from vfiohost.model import PciAddress

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vfiohost.model import PciDevice, Snapshot

FORMS = (
    "a PCI address (0000:65:00.0 or 65:00.0), a glob over addresses (65:00.*), "
    "a class (class:gpu), vendor:device (10de:2236), an IOMMU group (group:8), a place "
    "(path:pci0000:64/02.0/00.0), an interface (eth0), a node (/dev/nvme0n1), a slot (slot:3), "
    "a serial number (serial:S5GXNX0T) or a GPU's UUID (GPU-…)"
)
"""What a selector can be, for messages."""

CLASSES = {
    "3d": ("0302",),
    "accelerator": ("12",),
    "audio": ("0401", "0403"),
    "bridge": ("06",),
    "display": ("03",),
    "gpu": ("0300", "0302", "0380"),
    "net": ("02",),
    "network": ("02",),
    "nvme": ("0108",),
    "sata": ("0106",),
    "storage": ("01",),
    "usb": ("0c03",),
    "vga": ("0300",),
}
"""The names of ``class:NAME`` and the leading digits of the class codes that they stand for."""

# Displays of management controllers, which show a server's console and go to no guest: ASPEED,
# Matrox G200 (iLO, iDRAC), HiSilicon Hi171x (iBMC).
_BMC_VENDORS = frozenset({0x1A03, 0x102B})
_BMC_DEVICES = frozenset({(0x19E5, 0x1711)})

# How many near misses, and how many members of a set, a message names.
_NEAR = 3
_LISTED = 8
_IDS = re.compile(r"([0-9a-f]{4}):([0-9a-f]{4})")
_CODE = re.compile(r"(?:0x)?((?:[0-9a-f]{2}){1,3})")
_GLOB = re.compile(r"(?:[0-9a-f:.*?]|\[!?[0-9a-f-]+\])+")
_NUMBER = re.compile(r"[0-9]{1,9}")
_NTH = re.compile(r"(.+):([0-9]{1,9})")
_BRIDGE = re.compile(r"pci[0-9a-f]{4,8}:[0-9a-f]{2}")
_HOP = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]")
_PLACE = re.compile(
    r"path:(pci[0-9a-f]{4,8}:[0-9a-f]{2}(?:/[0-9a-z:.]+)+?)(?:/vf(0|[1-9][0-9]{0,4}))?"
)
# IFNAMSIZ; a name without a digit is rather a word that was meant to be something else.
_INTERFACE = re.compile(r"(?=.{1,15}$)[A-Za-z][\w.-]*[0-9][\w.-]*", re.ASCII)
_NAMES: dict[NameKind, re.Pattern[str]] = {
    "interface": re.compile(r"net:([^/\s:]{1,15})"),
    "node": re.compile(r"(/dev/\S+)"),
    "slot": re.compile(r"slot:([^/\s]+)"),
    "serial": re.compile(r"serial:(\S+)"),
    "gpu": re.compile(r"((?i:gpu)-[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})"),
}
# Texts that are no selectors, and what was meant. A full address in other clothes comes first: a
# path in sysfs, libvirt's pci_0000_65_00_0, lspci's neighbours with other dots and fewer zeros.
_LOOSE = re.compile(
    r"(?:.*/|pci[:_])?\s*(?:([0-9a-f]{1,8})[:._])?([0-9a-f]{1,2})[:._]([01]?[0-9a-f])[:._]([0-7])"
    r"[/\s]*"
)
_GUESSES = (
    (
        re.compile(r"((?:[0-9a-f]{4,8}:)?[0-9a-f]{2}:[01][0-9a-f])\.?"),
        "An address ends in a function: did you mean {0}.0, or {0}.* for the whole card?",
    ),
    (
        re.compile(r"([0-9a-f:*?]*[*?][0-9a-f:*?]*:[0-9a-f*?]+)"),
        "An address ends in a function: did you mean {0}.*?",
    ),
    (
        re.compile(r"(?:[0-9a-f]{1,8}:)?[0-9a-f]{1,4}:[0-9a-f]{1,4}\.[0-9a-f]+"),
        "A bus is 00 to ff, a device 00 to 1f, a function 0 to 7.",
    ),
    (
        re.compile(r"\s*(?:0x)?([0-9a-f]{4})\s*:\s*(?:0x)?([0-9a-f]{4})\s*"),
        "Did you mean {0}:{1}?",
    ),
    (
        re.compile(r"[0-9a-f]{4}:"),
        "All devices of a vendor cannot be selected: name the device as well.",
    ),
    (
        re.compile(r"\s*(?:(?:iommu[ _]?)?groups?[ :=/]?)?([0-9]{1,9})\s*"),
        "Did you mean group:{0}?",
    ),
    (re.compile(r"group:.*"), "An IOMMU group is a number, as `vfiohost groups` shows it."),
    (re.compile(r".+[,;\s].+"), "Name several devices as several words."),
)


@attrs.frozen
class ByAddress:
    """One device by its address. ``is_short``: the domain was not given."""

    address: PciAddress
    is_short: bool = False

    def hits(self, device: PciDevice) -> bool:
        """Say whether the device is meant."""
        return device.address == self.address


@attrs.frozen
class ByGlob:
    """The devices whose address, full or short, matches a pattern in lower case."""

    pattern: str

    def hits(self, device: PciDevice) -> bool:
        """Say whether the device is meant."""
        full = str(device.address)
        if fnmatchcase(full, self.pattern):
            return True
        return device.address.domain == 0 and fnmatchcase(full[5:], self.pattern)


@attrs.frozen
class ByClass:
    """The devices whose class code begins with one of the ``codes`` (2, 4 or 6 digits)."""

    codes: tuple[str, ...]

    def hits(self, device: PciDevice) -> bool:
        """Say whether the device is meant."""
        return f"{device.class_code:06x}".startswith(self.codes)


@attrs.frozen
class ByIds:
    """The devices of one vendor and device id."""

    vendor_id: int
    device_id: int

    def hits(self, device: PciDevice) -> bool:
        """Say whether the device is meant."""
        return (device.vendor_id, device.device_id) == (self.vendor_id, self.device_id)


@attrs.frozen
class ByGroup:
    """The endpoints of an IOMMU group."""

    number: int

    def hits(self, device: PciDevice) -> bool:
        """Say whether the device is meant."""
        return device.iommu_group == self.number and not device.is_bridge


@attrs.frozen
class ByGpu:
    """Whole GPUs: VGA, 3D and other display controllers, but for VFs and a BMC's display."""

    def hits(self, device: PciDevice) -> bool:
        """Say whether the device is meant."""
        ids = (device.vendor_id, device.device_id)
        is_bmc = device.vendor_id in _BMC_VENDORS or ids in _BMC_DEVICES
        return ByClass(CLASSES["gpu"]).hits(device) and not device.is_vf and not is_bmc


@attrs.frozen
class ByPlace:
    """One device by its place: the host bridge, and device and function of each hop down.

    Attributes:
        place: of the device, or of its physical function.
        vf_index: of the virtual function that is meant, as in ``virtfnN``; ``None``: no such one.
    """

    place: str
    vf_index: int | None = None

    def hits(self, device: PciDevice) -> bool:
        """Say whether the device, or the physical function of the one that is meant, is there."""
        return place_of(device) == self.place

    def find(self, snapshot: Snapshot) -> tuple[PciDevice, ...]:
        """The devices that are meant."""
        found = tuple(device for device in snapshot.devices if self.hits(device))
        if self.vf_index is None:
            return found
        return tuple(
            vf
            for device in found
            for vf in snapshot.virtual_functions.get(device.address, ())[self.vf_index :][:1]
        )


NameKind = Literal["interface", "node", "slot", "serial", "gpu"]
"""What a name is one of: a network interface, a node in ``/dev``, a slot, a serial number, a GPU's
UUID."""


@attrs.frozen
class ByName:
    """The devices that a host calls by a name.

    Attributes:
        kind: what the name is one of.
        name: the name, as it was given.
    """

    kind: NameKind
    name: str


Criterion = ByAddress | ByGlob | ByClass | ByGpu | ByIds | ByGroup | ByPlace
Lookup = Callable[[ByName], Collection[PciAddress]]
"""Says which devices a host calls by a name; raises :class:`NotFoundError`."""


def place_of(device: PciDevice) -> str | None:
    """The place of a device: ``pci0000:64/02.0/00.0``; ``None`` where its path shows none.

    Nor does a virtual function have one, which stands beside its physical one in ``sys/devices``,
    in a slot that may be that of another device.

    It stays the same when buses are numbered anew, as long as the device stays where it is. The
    hops are those of ``sys/devices``; a VMD's or a hypervisor's domain behind a bridge has two.
    """
    _, _, below = device.path.partition("sys/devices/")
    bridge, *hops = below.split("/")
    if _BRIDGE.fullmatch(bridge) is None or not hops or device.is_vf:
        return None
    return "/".join([bridge, *(hop[-4:] if _HOP.fullmatch(hop) else hop for hop in hops)])


@attrs.frozen
class Selector:
    """A text that names devices, understood.

    Attributes:
        text: as it was given.
        criterion: what a device must be.
        nth: which one of the set is meant, counted from 0; ``None``: all of it.
    """

    text: str
    criterion: Criterion | ByName
    nth: int | None = None

    @property
    def is_set(self) -> bool:
        """It may hit several devices."""
        return self.nth is None and not isinstance(self.criterion, ByAddress | ByPlace | ByName)

    def __str__(self) -> str:
        return self.text


def parse(text: str, *, where: str | None = None) -> Selector:
    """Understand a selector; hexadecimal digits may be in upper case.

    Args:
        text: see the table above.
        where: where the text stood, for the message.

    Raises:
        ParseError: the text is no selector; it says what was probably meant.
    """
    lowered = text.lower()
    criterion = _criterion(lowered) or _named(text)
    if criterion is not None:
        return Selector(text, criterion)
    counted = _NTH.fullmatch(lowered)
    if counted:
        criterion = _criterion(counted[1])
        if isinstance(criterion, ByAddress):
            raise ParseError(text, "a selector", where=where, hint=_is_one(criterion.address))
        # `0000:*:00` lacks a function; it does not pick one of all devices.
        lacks_function = isinstance(criterion, ByGlob) and "." not in criterion.pattern
        if criterion is not None and not lacks_function:
            return Selector(text, criterion, int(counted[2]))
    hint = _meant(lowered)
    if hint is None and _INTERFACE.fullmatch(text):
        return Selector(text, ByName("interface", text))
    raise ParseError(text, FORMS, where=where, hint=hint)


def knows_no_names(by: ByName) -> NoReturn:
    """Look names up where there is no host to ask."""
    raise NotFoundError(by.kind, by.name, detail="Names take a host to look them up.")


def select(
    selector: Selector, snapshot: Snapshot, lookup: Lookup = knows_no_names
) -> tuple[PciDevice, ...]:
    """The devices that a selector hits, in order of address; at least one.

    Args:
        selector: what is meant.
        snapshot: what there is.
        lookup: says which devices the host calls by a name.

    Raises:
        NotFoundError: it hits nothing; names what is close.
    """
    criterion = selector.criterion
    if isinstance(criterion, ByName):
        named = lookup(criterion)
        return tuple(device for device in snapshot.devices if device.address in named)
    if isinstance(criterion, ByAddress):
        device = snapshot.pci.get(criterion.address)
        if device is None:
            _no_such_address(selector.text, criterion, snapshot)
        return (device,)
    if isinstance(criterion, ByPlace):
        found = criterion.find(snapshot)
    else:
        found = tuple(device for device in snapshot.devices if criterion.hits(device))
    if not found:
        _no_such_set(selector.text, criterion, snapshot)
    if selector.nth is None:
        return found
    if selector.nth >= len(found):
        members = ", ".join(f"{n} is {d.address}" for n, d in enumerate(found[:_LISTED]))
        more = ", …" if len(found) > _LISTED else ""
        raise NotFoundError(
            "PCI device", selector.text, detail=f"The set has {len(found)}: {members}{more}."
        )
    return (found[selector.nth],)


def select_all(
    texts: Iterable[str], snapshot: Snapshot, lookup: Lookup = knows_no_names
) -> tuple[PciDevice, ...]:
    """The devices that several selectors hit, each once, in the order of the request.

    Raises:
        ParseError: a text is no selector.
        NotFoundError: a text hits nothing.
    """
    selectors = [parse(text) for text in texts]
    hits = (device for s in selectors for device in select(s, snapshot, lookup))
    return tuple({device.address: device for device in hits}.values())


def matcher(
    texts: Iterable[str], snapshot: Snapshot, lookup: Lookup = knows_no_names
) -> Callable[[PciDevice], bool]:
    """The question whether a device is meant, to ask of devices that may yet come.

    Args:
        texts: selectors.
        snapshot: where names, and the Nth of a set, are looked up: they mean who has them now.
        lookup: says which devices the host calls by a name.

    Raises:
        ParseError: a text is no selector.
        NotFoundError: there is no such name, or no Nth of a set.
    """
    criteria: list[Criterion] = []
    for selector in [parse(text) for text in texts]:
        criterion = selector.criterion
        is_vf = isinstance(criterion, ByPlace) and criterion.vf_index is not None
        if selector.nth is None and not isinstance(criterion, ByName) and not is_vf:
            criteria.append(criterion)
        else:
            found = select(selector, snapshot, lookup)
            criteria += [ByAddress(device.address) for device in found]
    return lambda device: any(criterion.hits(device) for criterion in criteria)


def select_one(text: str, snapshot: Snapshot) -> PciDevice:
    """The one device that a selector hits.

    Raises:
        ParseError: the text is no selector.
        NotFoundError: it hits nothing.
        AmbiguousError: it hits several.
    """
    found = select(parse(text), snapshot)
    if len(found) > 1:
        raise AmbiguousError(text, [str(device.address) for device in found])
    return found[0]


def near_addresses(address: PciAddress, known: Iterable[PciAddress]) -> tuple[str, ...]:
    """The addresses that are closest to one that does not exist: what was probably meant.

    The same place in another domain first, then the other functions of the card, then whatever
    looks alike.
    """
    known = tuple(known)
    elsewhere = [a for a in known if attrs.evolve(a, domain=address.domain) == address]
    card = [a for a in known if a.slot == address.slot]
    alike = get_close_matches(str(address), [str(a) for a in known], n=_NEAR, cutoff=0.75)
    texts = dict.fromkeys([*map(str, elsewhere), *map(str, card), *alike])
    return tuple(texts)[:_NEAR]


def _criterion(text: str) -> Criterion | None:
    """What a text in lower case means, or ``None`` when it is nothing that we know."""
    kind, colon, key = text.partition(":")
    if kind == "class" and colon:
        return _class(key)
    if kind == "group" and colon:
        return ByGroup(int(key)) if _NUMBER.fullmatch(key) else None
    if any(c in text for c in "*?["):
        # A glob that ends in a number behind a colon hits no address: the number is a `:N`.
        whole = _GLOB.fullmatch(text) and not _NTH.fullmatch(text)
        return ByGlob(text) if whole else None
    if ids := _IDS.fullmatch(text):
        return ByIds(int(ids[1], 16), int(ids[2], 16))
    try:
        return ByAddress(PciAddress.parse(text), is_short=text.count(":") == 1)
    except ParseError:
        return None


def _named(text: str) -> Criterion | ByName | None:
    """A place, or a name that says what it is; names tell upper from lower case."""
    if place := _PLACE.fullmatch(text):
        return ByPlace(place[1], None if place[2] is None else int(place[2]))
    for kind, pattern in _NAMES.items():
        if match := pattern.fullmatch(text):
            return ByName(kind, match[1])
    return None


def _class(key: str) -> Criterion | None:
    if key == "gpu":
        return ByGpu()
    code = _CODE.fullmatch(key)
    codes = CLASSES.get(key) or ((code[1],) if code else None)
    return ByClass(codes) if codes else None


def _is_one(address: PciAddress) -> str:
    return f"{address} is one device already, and a number behind it picks one of a set."


def _meant(text: str) -> str | None:
    """Guess what a text in lower case, which is no selector, was meant to be."""
    if loose := _LOOSE.fullmatch(text):
        domain, bus, device, function = (int(part or "0", 16) for part in loose.groups())
        return f"Did you mean {PciAddress(domain, bus, device, function)}?"
    for pattern, hint in _GUESSES:
        if match := pattern.fullmatch(text):
            return hint.format(*match.groups())
    kind, key = re.fullmatch(r"\s*(?:(\w*)[:=/ ])?\s*(.*?)\s*", text, re.DOTALL).groups()  # type: ignore[union-attr]
    if key in CLASSES:
        return f"Did you mean class:{key}?"
    if kind == "class":
        close = get_close_matches(key, CLASSES, n=1)
        meant = f"Did you mean class:{close[0]}? " if close else ""
        return f"{meant}The names of classes are {', '.join(CLASSES)}."
    return None


def _no_such_address(text: str, criterion: ByAddress, snapshot: Snapshot) -> NoReturn:
    near = near_addresses(criterion.address, snapshot.pci)
    detail = None
    if criterion.is_short:
        same = [a for a in snapshot.pci if attrs.evolve(a, domain=0) == criterion.address]
        detail = "Without a domain, 0000 is meant."
        near = (str(same[0]),) if len(same) == 1 else near
    raise NotFoundError("PCI device", text, near=near, detail=detail)


def _no_such_set(text: str, criterion: Criterion, snapshot: Snapshot) -> NoReturn:
    """Say what there is instead of the set that hits nothing."""
    near: tuple[str, ...] = ()
    detail: str | None = None
    match criterion:
        case ByIds():
            ids = {d.ids: None for d in snapshot.devices}
            own = [i for i in ids if int(i[:4], 16) == criterion.vendor_id]
            near = tuple(own or get_close_matches(text.lower(), ids, n=_NEAR))[:_NEAR]
        case ByGroup():
            near, detail = _other_groups(criterion.number, snapshot)
        case ByGpu():
            others = ("accelerator", "display")
            there = (o for o in others if any(map(ByClass(CLASSES[o]).hits, snapshot.devices)))
            near = tuple(f"class:{other}" for other in there)
        case ByGlob():
            if _IDS.fullmatch(criterion.pattern.replace("*", "0000")):
                detail = "A glob is about addresses; vendor and device are named in full."
        case ByPlace():
            places = [place for d in snapshot.devices if (place := place_of(d)) is not None]
            near = tuple(get_close_matches(criterion.place, places, n=_NEAR, cutoff=0.75))
            near = tuple(f"path:{place}" for place in near)
        case ByAddress() | ByClass():
            pass
    raise NotFoundError("PCI device", text, near=near, detail=detail)


def _other_groups(number: int, snapshot: Snapshot) -> tuple[tuple[str, ...], str | None]:
    if not snapshot.groups:
        return (), "No device has an IOMMU group: the IOMMU is off, or there is none."
    if number in snapshot.groups:
        return (), f"IOMMU group {number} has only bridges."
    close = sorted(snapshot.groups, key=lambda n: abs(n - number))[:_NEAR]
    return tuple(f"group:{n}" for n in sorted(close)), None
