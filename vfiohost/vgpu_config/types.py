"""What a vGPU configuration says: frozen values."""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal

import attrs

from vfiohost.errors import NotFoundError, ParseError
from vfiohost.nvidia import VgpuTypeName

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vfiohost.model import PciDevice

VERSION = "v1"
"""The only version of the format."""

ALL: Final = "all"
"""Every GPU that the filter lets through."""

_NUMBER = re.compile(r"0x[0-9a-f_]+|0b[01_]+|0o?[0-7_]+|[1-9][0-9_]*|0", re.IGNORECASE)
_IDS = 1 << 32


def _frozen_counts(counts: Mapping[str, int]) -> Mapping[str, int]:
    return MappingProxyType(dict(counts))


def _frozen_configs(
    configs: Mapping[str, tuple[Entry, ...]],
) -> Mapping[str, tuple[Entry, ...]]:
    return MappingProxyType(dict(configs))


@attrs.frozen
class DeviceFilter:
    """A filter for one kind of GPU.

    Attributes:
        text: as it was written: ``0x223610DE``, ``0x25B610DE:0x14A910DE``.
        ids: device id << 16 | vendor id, or ``None``: the text is no filter, and fits no GPU.
        subsystem_ids: the same of the subsystem, or ``None``: any.
    """

    text: str
    ids: int | None = attrs.field(init=False)
    subsystem_ids: int | None = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        ids, colon, subsystem = self.text.partition(":")
        numbers = (parse_uint(ids), parse_uint(subsystem) if colon else None)
        is_bad = numbers[0] is None or (colon and numbers[1] is None)
        object.__setattr__(self, "ids", None if is_bad else numbers[0])
        object.__setattr__(self, "subsystem_ids", None if is_bad else numbers[1])

    @property
    def is_valid(self) -> bool:
        """There can be a GPU that it fits."""
        return self.ids is not None

    def fits(self, gpu: PciDevice) -> bool:
        """Say whether it lets a GPU through."""
        if self.ids is None or self.ids != _joined(gpu.device_id, gpu.vendor_id):
            return False
        subsystem = _joined(gpu.subsystem_device_id or 0, gpu.subsystem_vendor_id or 0)
        return self.subsystem_ids in (None, subsystem)


@attrs.frozen
class Entry:
    """What some GPUs shall have.

    Attributes:
        devices: ``all``, or positions among the host's GPUs in order of address, from 0.
        vgpu_devices: how many vGPUs of each type, by the type's name; empty for none at all.
        device_filter: a GPU must fit one of them; none at all lets every GPU through.
        line: where it stood, or ``None``; of no account for equality.
    """

    devices: Literal["all"] | tuple[int, ...]
    vgpu_devices: Mapping[str, int] = attrs.field(converter=_frozen_counts, hash=False)
    device_filter: tuple[DeviceFilter, ...] = ()
    line: int | None = attrs.field(default=None, eq=False)

    def fits(self, index: int, gpu: PciDevice) -> bool:
        """Say whether it is about a GPU.

        Args:
            index: the GPU's position among all GPUs of the host, in order of address.
            gpu: the GPU.
        """
        is_meant = self.devices == ALL or index in self.devices
        filters = self.device_filter
        return is_meant and (not filters or any(each.fits(gpu) for each in filters))

    @property
    def is_mig(self) -> bool:
        """Its vGPUs are backed by GPU instances (MIG)."""
        return any(VgpuTypeName.parse(name).is_mig for name in self.vgpu_devices)


@attrs.frozen
class Config:
    """A file of vGPU configurations.

    Attributes:
        configs: entries by the name of their configuration, in the order of the file.
        version: ``v1``, or ``None`` for an empty file.
        warnings: what was accepted and does not do what it seems to, as sentences that name file
            and line; of no account for equality.
        name: the file's name, for messages; of no account for equality.
    """

    configs: Mapping[str, tuple[Entry, ...]] = attrs.field(
        converter=_frozen_configs, hash=False, factory=dict
    )
    version: str | None = VERSION
    warnings: tuple[str, ...] = attrs.field(default=(), eq=False)
    name: str = attrs.field(default="config.yaml", eq=False)

    def choose(self, name: str | None) -> tuple[str, tuple[Entry, ...]]:
        """One configuration of the file.

        Args:
            name: which; ``None`` for the only one.

        Returns:
            Its name and its entries.

        Raises:
            ParseError: the file has several, and none was named.
            NotFoundError: it has no such configuration.
        """
        if name is None and len(self.configs) == 1:
            name = next(iter(self.configs))
        if name is None and self.configs:
            raise ParseError(
                self.name,
                "a file of one configuration",
                hint=f"It has {len(self.configs)}: name one with -c NAME.",
            )
        if name is None or name not in self.configs:
            raise NotFoundError(
                "vGPU configuration",
                name or "default",
                near=_near(name or "", self.configs),
                sentence=f"{self.name} has no vGPU configuration {name!r}."
                if name
                else f"{self.name} has no vGPU configuration.",
            )
        return name, self.configs[name]


def parse_uint(text: str) -> int | None:
    """A number of 32 bits as Go's ``strconv.ParseUint(text, 0, 32)`` reads it, or ``None``.

    A prefix gives the base: ``0x``, ``0b``, ``0o`` or ``0``. Single underscores may stand between
    digits and after the prefix.
    """
    if not _NUMBER.fullmatch(text) or "__" in text or text.endswith("_"):
        return None
    digits = text.replace("_", "").lower()
    base = {"0x": 16, "0b": 2, "0o": 8}.get(digits[:2])
    if base is None:
        base = 8 if digits.startswith("0") and len(digits) > 1 else 10
    else:
        digits = digits[2:]
    most = 32  # digits of the longest 32 bits, in base 2
    if not digits or len(digits.lstrip("0")) > most:
        return None
    number = int(digits, base)
    return number if number < _IDS else None


def _joined(device_id: int, vendor_id: int) -> int:
    return device_id << 16 | vendor_id


def _near(name: str, names: Mapping[str, object]) -> list[str]:
    from difflib import get_close_matches  # noqa: PLC0415  # only for a message

    return get_close_matches(name, names, n=3, cutoff=0.5)
