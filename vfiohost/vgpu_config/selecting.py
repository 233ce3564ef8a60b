"""Which GPU of a host shall have which vGPUs. Pure."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

import attrs

from vfiohost.errors import PlanRefused, Refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from vfiohost.model import PciAddress, PciDevice
    from vfiohost.vgpu_config.types import Entry


@attrs.frozen
class Selection:
    """What a configuration says of the GPUs of a host.

    Attributes:
        wanted: how many vGPUs of each type, by type name, by address of the GPU.
        uncovered: the GPUs of which it says nothing, in order of address.
        mig: the entries that some GPU fits and that need MIG.
    """

    wanted: Mapping[PciAddress, Mapping[str, int]]
    uncovered: tuple[PciAddress, ...]
    mig: tuple[Entry, ...] = ()


def select(
    entries: Iterable[Entry],
    gpus: Sequence[PciDevice],
    offers: Callable[[PciAddress, str], bool] | None = None,
) -> Selection:
    """Find the GPUs that the entries of a configuration are about.

    Args:
        entries: of one configuration.
        gpus: all NVIDIA GPUs of the host, no virtual functions; an index of ``devices`` is a
            position among them in order of address.
        offers: says whether a GPU makes a type, by its name. Where entries contradict each other
            about a GPU, as those for boards that share a device id do in files without subsystem
            ids, the one that the GPU can make counts.

    Raises:
        PlanRefused: entries contradict each other about a GPU.
    """
    entries = tuple(entries)
    wanted: dict[PciAddress, Mapping[str, int]] = {}
    used: list[Entry] = []
    refusals: list[Refusal] = []
    uncovered: list[PciAddress] = []
    for index, gpu in enumerate(sorted(gpus, key=lambda device: device.address)):
        fitting = [entry for entry in entries if entry.fits(index, gpu)]
        kept = _agreed(fitting, gpu.address, offers)
        if not fitting:
            uncovered.append(gpu.address)
        elif kept is None:
            refusals.append(_contradiction(gpu.address, fitting))
        else:
            wanted[gpu.address] = kept.vgpu_devices
            used.append(kept)
    if refusals:
        raise PlanRefused(refusals)
    mig = tuple(entry for entry in entries if entry.is_mig and any(entry is u for u in used))
    return Selection(MappingProxyType(wanted), tuple(uncovered), mig)


def _agreed(
    fitting: Sequence[Entry],
    address: PciAddress,
    offers: Callable[[PciAddress, str], bool] | None,
) -> Entry | None:
    """The entry that counts for a GPU; ``None`` when there is none, or no agreement."""
    if len(_distinct(fitting)) > 1 and offers is not None:
        fitting = [e for e in fitting if all(offers(address, name) for name in e.vgpu_devices)]
    distinct = _distinct(fitting)
    return distinct[0] if len(distinct) == 1 else None


def _distinct(entries: Sequence[Entry]) -> list[Entry]:
    found: list[Entry] = []
    for entry in entries:
        if all(entry.vgpu_devices != other.vgpu_devices for other in found):
            found.append(entry)
    return found


def _contradiction(address: PciAddress, entries: Sequence[Entry]) -> Refusal:
    said = " and ".join(_said(entry) for entry in _distinct(entries))
    return Refusal(
        "contradiction",
        str(address),
        f"The configuration says two things of GPU {address}: {said}.",
        "Give the entries device filters of which the GPU fits one; boards that share a device id "
        "differ in their subsystem (0xDDDDVVVV:0xSSSSVVVV).",
    )


def _said(entry: Entry) -> str:
    where = f" (line {entry.line})" if entry.line else ""
    counts = ", ".join(f"{count} x {name}" for name, count in entry.vgpu_devices.items())
    return f"{counts or 'no vGPU'}{where}"
