"""The vGPUs of a host in one view, whichever way its GPUs make them. Pure.

NVIDIA's vGPU host driver has three ways: mediated devices on the card itself (before Ampere),
mediated devices on its virtual functions, and, from vGPU 17 on with Linux 6.8 or later, virtual
functions that take a type without mediated devices.
"""

from __future__ import annotations

from collections import Counter
from difflib import get_close_matches
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

import attrs

from vfiohost.errors import AmbiguousError, NotFoundError, ParseError
from vfiohost.model import PciAddress, Unavailable, natural_key
from vfiohost.nvidia import (
    DRIVER,
    KNOWN_VGPU_TYPES,
    VgpuTypeName,
    describe,
    is_gpu,
    short_name,
    without_suffix,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from vfiohost.model import (
        CardTypes,
        MdevParent,
        MdevType,
        PciDevice,
        Snapshot,
        VgpuFunction,
    )

Backend = Literal["mdev-pf", "mdev-vf", "vfio-vf"]
"""How a GPU makes vGPUs: mediated devices on itself, or on its virtual functions, or virtual
functions that take a type (NVIDIA's vendor-specific VFIO framework)."""

_MIB_OF_GB = 1024
_HALF_A_GB = 512  # the 0 of M60-0Q


def _frozen_counts(left: Mapping[str, int | Unavailable]) -> Mapping[str, int | Unavailable]:
    return MappingProxyType(dict(left))


@attrs.frozen
class VgpuType:
    """A kind of vGPU that a GPU can make.

    Attributes:
        type_id: ``nvidia-595``; without mediated devices the number (``1148``).
        name: ``NVIDIA A10-8Q``, or ``None`` where nothing tells it.
        framebuffer_mib: memory of one vGPU in MiB, or ``None`` where that is not known.
        max_instances: how many fit on one GPU that has no other, or ``None``.
        parts: the name, taken apart; ``None`` for a name of another form (``T4-2B4``).
    """

    type_id: str
    name: str | None
    framebuffer_mib: int | None
    max_instances: int | None
    parts: VgpuTypeName | None

    @property
    def is_mig(self) -> bool:
        """It is backed by a GPU instance (MIG)."""
        return self.parts is not None and self.parts.is_mig

    @property
    def short(self) -> str:
        """The name as people write it (``A10-8Q``), or the id."""
        return short_name(self.name) if self.name else self.type_id

    def __str__(self) -> str:
        return self.type_id if self.name is None else f"{self.name} ({self.type_id})"


@attrs.frozen
class Place:
    """Where vGPUs can be made: a parent of mediated devices, or a virtual function.

    Attributes:
        name: its address.
        left: how many more the driver says it can make now, by type id.
    """

    name: str
    left: Mapping[str, int | Unavailable] = attrs.field(converter=_frozen_counts, hash=False)


@attrs.frozen
class Vgpu:
    """A vGPU that exists.

    Attributes:
        name: the UUID of its mediated device; without, the address of its virtual function.
        gpu: the address of its GPU.
        place: the address of what it is made on.
        type_id: its type, or why that could not be read.
        iommu_group: number of its IOMMU group, or ``None``.
    """

    name: str
    gpu: PciAddress
    place: str
    type_id: str | Unavailable
    iommu_group: int | None


# Not slotted: what all questions about it need is counted once, on first use.
@attrs.frozen(slots=False)
class VgpuGpu:
    """A GPU that makes vGPUs, or could.

    Attributes:
        address: of the GPU, never of a virtual function.
        backend: how it makes them, or ``None``: it makes none as it is now.
        types: what it can make, in natural order of their ids.
        places: where, lowest address first.
        vgpus: those that exist, in order of place, then name.
        framebuffer_mib: the memory that vGPUs share, in MiB, or ``None`` where that is not known.
        is_mixed: it takes vGPUs of different types side by side, as the driver shows while it has
            one and room for another; ``None`` where nothing tells. One type at a time is what to
            expect then: it has to be set otherwise (``nvidia-smi vgpu -shm 1``).
        unread: vGPUs whose type, and virtual functions of which it could not be read whether they
            are vGPUs.
        why_not: why it makes none, as a sentence, where ``backend`` is ``None``.
        remedy: what to do about that.
        is_waiting: it makes none, but NVIDIA's driver has it and its virtual functions, or could
            have: it seems to be meant for vGPUs.
    """

    address: PciAddress
    backend: Backend | None
    types: tuple[VgpuType, ...] = ()
    places: tuple[Place, ...] = ()
    vgpus: tuple[Vgpu, ...] = ()
    framebuffer_mib: int | None = None
    is_mixed: bool | None = None
    unread: tuple[str, ...] = ()
    why_not: str = ""
    remedy: str = ""
    is_waiting: bool = False

    @property
    def takes_one_each(self) -> bool:
        """Each of its places takes one vGPU."""
        return self.backend != "mdev-pf"

    @cached_property
    def by_id(self) -> Mapping[str, VgpuType]:
        """Its types by their ids."""
        return MappingProxyType({kind.type_id: kind for kind in self.types})

    @cached_property
    def existing(self) -> Mapping[str, int]:
        """How many vGPUs of each type it has; those whose type cannot be read by the reason."""
        return MappingProxyType(Counter(str(vgpu.type_id) for vgpu in self.vgpus))

    @cached_property
    def free(self) -> Mapping[str, int]:
        """How many more of each type the driver says it can make now, all places together."""
        found: Counter[str] = Counter()
        for place in self.places:
            found.update({key: left for key, left in place.left.items() if isinstance(left, int)})
        return MappingProxyType(found)

    def silent(self, type_id: str) -> tuple[str, ...]:
        """The places of which it could not be read how many more of a type they can make."""
        return tuple(p.name for p in self.places if isinstance(p.left.get(type_id), Unavailable))

    def find_type(self, text: str) -> VgpuType:
        """The type that a text stands for.

        Args:
            text: an id (``nvidia-595``, ``1148``), or a name, short or full (``A10-8Q``,
                ``NVIDIA A10-8Q``, ``NVIDIA_A10-8Q``). A name that it does not offer is tried
                without the first of the suffixes MEALL, NOME, ME, GFX that it ends in, as NVIDIA's
                vGPU device manager does.

        Raises:
            NotFoundError: it offers no such type.
            AmbiguousError: several of its types have the name.
        """
        for spelling in dict.fromkeys((text, without_suffix(text))):
            found = [t for t in self.types if spelling in (t.type_id, _number(t.type_id))]
            found = found or [t for t in self.types if t.name and t.short == short_name(spelling)]
            if len(found) > 1:
                raise AmbiguousError(text, [t.type_id for t in found])
            if found:
                return found[0]
        raise self._no_type(text)

    def offers(self, text: str) -> str | None:
        """The id of the type that a text means, or ``None``: the GPU has no such type, or several.

        Args:
            text: as for :meth:`find_type`.
        """
        try:
            return self.find_type(text).type_id
        except (NotFoundError, AmbiguousError):
            return None

    def has_just(self, counts: Mapping[str, int]) -> bool:
        """Say whether its vGPUs are these, and no other.

        Args:
            counts: how many of each type, by id or name.
        """
        wanted = Counter[str | None]()
        for name, count in counts.items():
            wanted[self.offers(name)] += count
        return Counter(str(vgpu.type_id) for vgpu in self.vgpus) == wanted

    @property
    def held(self) -> Mapping[str, int]:
        """How many vGPUs of each type it has, by the type's short name where it is known."""
        shorts = {kind.type_id: kind.short for kind in self.types}
        return Counter(shorts.get(str(v.type_id), str(v.type_id)) for v in self.vgpus)

    def _no_type(self, text: str) -> NotFoundError:
        shorts = {t.short.lower(): t.short for t in self.types}
        nameless = [t.type_id for t in self.types if t.name is None]
        offers = f"It offers {', '.join(t.short for t in self.types) or 'none at all'}."
        if nameless:
            offers += f" The name of {', '.join(nameless)} is not known: give the number."
        near = get_close_matches(short_name(text).lower(), shorts, n=3)
        return NotFoundError(
            "vGPU type",
            text,
            near=[shorts[n] for n in near],
            sentence=f"GPU {self.address} offers no vGPU type {text!r}.",
            detail=offers,
        )


def _number(type_id: str) -> str:
    return type_id.removeprefix("nvidia-")


def vgpu_gpus(snapshot: Snapshot) -> tuple[VgpuGpu, ...]:
    """All NVIDIA GPUs of a host as makers of vGPUs, in order of address.

    Args:
        snapshot: the host, with its mediated devices and its virtual functions that are vGPUs.
    """
    return tuple(_gpu(snapshot, device) for device in snapshot.devices if is_gpu(device))


def vgpus_text(counts: Mapping[str, int]) -> str:
    """A set of vGPUs as text: ``2 x A10-12Q``; ``none``."""
    return ", ".join(f"{number} x {name}" for name, number in counts.items()) or "none"


def gpu_of(snapshot: Snapshot, address: PciAddress) -> PciAddress:
    """The GPU that an address stands for: a virtual function stands for its own."""
    physfn = snapshot.pci[address].physfn
    return physfn if isinstance(physfn, PciAddress) else address


def _gpu(snapshot: Snapshot, device: PciDevice) -> VgpuGpu:
    at = device.address
    parents = snapshot.mdev.parents if snapshot.mdev else ()
    on_itself = [p for p in parents if p.address == at]
    on_functions = [p for p in parents if p.physfn == at and p.types]
    if on_itself:
        return _with_mdevs(snapshot, at, "mdev-pf", on_itself)
    if on_functions:
        return _with_mdevs(snapshot, at, "mdev-vf", on_functions)
    functions = _functions(snapshot, at)
    if functions:
        return _with_functions(snapshot, device, functions)
    why_not, remedy = _why_none(snapshot, device)
    is_waiting = device.driver == DRIVER and isinstance(device.total_vfs, int)
    return VgpuGpu(at, None, why_not=why_not, remedy=remedy, is_waiting=is_waiting)


def _why_none(snapshot: Snapshot, device: PciDevice) -> tuple[str, str]:
    at = device.address
    if device.driver != DRIVER:
        has = f"the driver {device.driver}" if device.has_driver else "no driver"
        return (
            f"GPU {at} has {has}, and makes no vGPUs.",
            f"Give it to NVIDIA's vGPU host driver: `vfiohost bind {at} --driver {DRIVER}`.",
        )
    if snapshot.virtual_functions.get(at):
        return (
            f"GPU {at} has virtual functions, but none of them offers a vGPU type.",
            "See that NVIDIA's driver has them, and that nvidia-vgpud and nvidia-vgpu-mgr run.",
        )
    if isinstance(device.total_vfs, int) and device.total_vfs:
        return (
            f"GPU {at} has no virtual functions yet, and makes its vGPUs on them.",
            f"Enable them first: `vfiohost vf set {at} all`.",
        )
    return (
        f"GPU {at} makes no vGPUs: its driver offers no types.",
        "See whether it is NVIDIA's vGPU host driver, and not the one for containers.",
    )


# ---- mediated devices --------------------------------------------------------------------------


def _with_mdevs(
    snapshot: Snapshot, at: PciAddress, backend: Backend, parents: Sequence[MdevParent]
) -> VgpuGpu:
    places = [Place(p.name, {t.type_id: t.available_instances for t in p.types}) for p in parents]
    names = {p.name for p in parents}
    devices = [d for d in (snapshot.mdev.devices if snapshot.mdev else ()) if d.parent in names]
    offered = {t.type_id: t for p in parents for t in p.types}  # each by all its functions
    types = {type_id: _of_mdev(t) for type_id, t in offered.items()}
    for mdev in devices:
        if isinstance(mdev.type_id, str):
            name = mdev.type_name if isinstance(mdev.type_name, str) else None
            types.setdefault(mdev.type_id, _of_name(mdev.type_id, name))
    vgpus = [Vgpu(d.uuid, at, d.parent, d.type_id, _group(d.iommu_group)) for d in devices]
    sizes = [(t.framebuffer_mib or 0) * (t.max_instances or 0) for t in types.values()]
    memory = max(sizes, default=0) or None
    return _made(at, backend, memory, types=types.values(), places=places, vgpus=vgpus)


def _of_mdev(kind: MdevType) -> VgpuType:
    told, named = describe(kind), _of_name(kind.type_id, kind.name)
    return attrs.evolve(
        named,
        framebuffer_mib=told.framebuffer_mib or named.framebuffer_mib,
        max_instances=told.max_instance,
    )


def _of_name(type_id: str, name: str | None) -> VgpuType:
    """A type of which nothing is known but what its name says."""
    try:
        parts = VgpuTypeName.parse(name or "")
    except ParseError:
        return VgpuType(type_id, name, None, None, None)
    memory = parts.memory_gb * _MIB_OF_GB or _HALF_A_GB
    return VgpuType(type_id, name, memory, None, parts)


def _group(number: object) -> int | None:
    return number if isinstance(number, int) else None


# ---- virtual functions that take a type --------------------------------------------------------


def _functions(snapshot: Snapshot, at: PciAddress) -> list[VgpuFunction]:
    known = snapshot.vgpus.functions if snapshot.vgpus else ()
    return [f for f in known if snapshot.pci[f.address].physfn == at]


def _with_functions(
    snapshot: Snapshot, device: PciDevice, functions: Sequence[VgpuFunction]
) -> VgpuGpu:
    at = device.address
    readable = [f for f in functions if isinstance(f.current, int)]
    vgpus = [
        Vgpu(
            str(f.address),
            at,
            str(f.address),
            str(f.current),
            _group(snapshot.pci[f.address].iommu_group),
        )
        for f in readable
        if f.current
    ]
    types = _types(snapshot, device)
    for vgpu in vgpus:
        types.setdefault(int(str(vgpu.type_id)), _of_name(str(vgpu.type_id), None))
    memory = None
    if _is_complete(snapshot, device):
        sizes = (t.framebuffer_mib or 0 for t in types.values() if not t.is_mig)
        memory = max(sizes, default=0) or None
    for number, kind in types.items():
        fits = kind.max_instances
        if fits is None and memory and kind.framebuffer_mib and not kind.is_mig:
            fits = memory // kind.framebuffer_mib
        if fits is not None:
            types[number] = attrs.evolve(kind, max_instances=min(fits, len(functions)))
    places = [Place(str(f.address), _left(f, types)) for f in readable]
    unread = [str(f.address) for f in functions if isinstance(f.current, Unavailable)]
    made = _made(at, "vfio-vf", memory, types=types.values(), places=places, vgpus=vgpus)
    return attrs.evolve(made, unread=(*made.unread, *unread))


def _left(function: VgpuFunction, types: Iterable[int]) -> dict[str, int | Unavailable]:
    if function.current:
        return {}
    if isinstance(function.creatable, Unavailable):
        return dict.fromkeys(map(str, types), function.creatable)
    return {str(number): 1 for number, _ in function.creatable}


def _types(snapshot: Snapshot, device: PciDevice) -> dict[int, VgpuType]:
    """The types that a card can make, with what its driver's file says of them.

    A card lists only what it still has room for; so cards of its kind are asked as well, the
    driver's file, and what is known of it in public.
    """
    told = {t.number: t for card in _files(snapshot, device) for t in card.types}
    names = dict(KNOWN_VGPU_TYPES.get(device.device_id, {}))
    names |= {number: each.name for number, each in told.items()}
    for function in _alike(snapshot, device):
        if not isinstance(function.creatable, Unavailable):
            names |= dict(function.creatable)
    types = {number: _of_name(str(number), name) for number, name in names.items()}
    for number, each in told.items():
        types[number] = attrs.evolve(
            types[number],
            framebuffer_mib=each.framebuffer_mib or types[number].framebuffer_mib,
            max_instances=each.max_instances,
        )
    return types


def _is_complete(snapshot: Snapshot, device: PciDevice) -> bool:
    """Whether all types of a card are known: its largest one is all of its memory."""
    if any(_files(snapshot, device)) or device.device_id in KNOWN_VGPU_TYPES:
        return True
    used: dict[object, int] = {}
    for function in _alike(snapshot, device):
        card = snapshot.pci[function.address].physfn
        used[card] = used.get(card, 0) + (function.current != 0)
    return 0 in used.values()


def _files(snapshot: Snapshot, device: PciDevice) -> Iterator[CardTypes]:
    for card in snapshot.vgpus.cards if snapshot.vgpus else ():
        is_any = card.subsystem_device_id in (None, device.subsystem_device_id)
        if is_any and card.device_id == device.device_id:
            yield card


def _alike(snapshot: Snapshot, device: PciDevice) -> Iterator[VgpuFunction]:
    """The functions of all cards of a kind."""
    kind = (device.ids, device.subsystem_vendor_id, device.subsystem_device_id)
    for function in snapshot.vgpus.functions if snapshot.vgpus else ():
        card = snapshot.pci.get(gpu_of(snapshot, function.address))
        if card and (card.ids, card.subsystem_vendor_id, card.subsystem_device_id) == kind:
            yield function


# ---- both --------------------------------------------------------------------------------------


def _made(
    at: PciAddress,
    backend: Backend,
    memory: int | None,
    *,
    types: Iterable[VgpuType],
    places: Sequence[Place],
    vgpus: Sequence[Vgpu],
) -> VgpuGpu:
    kinds = {t.type_id: t for t in sorted(types, key=lambda t: natural_key(t.type_id))}
    order = {place.name: number for number, place in enumerate(places)}
    used = {v.type_id for v in vgpus if isinstance(v.type_id, str)}
    listed = {key for p in places for key, left in p.left.items() if isinstance(left, int) and left}
    beside = {k for k in used | listed if k in kinds and not kinds[k].is_mig}
    return VgpuGpu(
        address=at,
        backend=backend,
        types=tuple(kinds.values()),
        places=tuple(places),
        vgpus=tuple(sorted(vgpus, key=lambda v: (order[v.place], v.name))),
        framebuffer_mib=memory,
        is_mixed=_is_mixed(used & beside, listed & beside),
        unread=tuple(v.name for v in vgpus if isinstance(v.type_id, Unavailable)),
    )


def _is_mixed(used: set[str], listed: set[str]) -> bool | None:
    """Whether types go side by side, by those that are there and those of which one more fits."""
    if len(used) > 1 or (used and listed - used):
        return True
    return False if used and listed else None
