"""vGPU configurations as YAML text. Pure; written without PyYAML."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from vfiohost.nvidia import VgpuTypeName

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from vfiohost.vgpu_config.types import Config, DeviceFilter, Entry

_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_ESCAPES = {"\\": "\\\\", '"': '\\"'}
_ATTRIBUTES = {"ME": "+me", "NOME": "-me", "MEALL": "+me.all", "GFX": "+gfx"}


def render(config: Config) -> str:
    """The YAML text of configurations; :func:`vfiohost.vgpu_config.parse` gives them back."""
    if config.version is None:
        return ""
    lines = [f"version: {config.version}"]
    if config.configs:
        lines.append("vgpu-configs:")
    for name, entries in config.configs.items():
        lines.append(f"  {_key(name)}:")
        for entry in entries:
            lines += _head(entry)
            lines += _counts("vgpu-devices", entry.vgpu_devices)
    return "".join(f"{line}\n" for line in lines)


def mig_parted(name: str, entries: Sequence[Entry]) -> str:
    """The configuration for ``nvidia-mig-parted`` that makes the GPU instances for vGPUs.

    Args:
        name: of the configuration.
        entries: of the vGPU configuration.
    """
    lines = ["version: v1", "mig-configs:", f"  {_key(name)}:"]
    for entry in entries:
        lines += _head(entry)
        lines.append(f"      mig-enabled: {json.dumps(entry.is_mig)}")
        lines += _counts("mig-devices", mig_devices(entry))
    return "".join(f"{line}\n" for line in lines)


def mig_devices(entry: Entry) -> dict[str, int]:
    """The GPU instances that the vGPUs of an entry need, by profile; empty without MIG.

    ``A100-1-5C`` needs a ``1g.5gb``; the suffixes ME, NOME, MEALL and GFX are the attributes
    ``+me``, ``-me``, ``+me.all`` and ``+gfx``. Types of one profile are added up.
    """
    found: dict[str, int] = {}
    for name, count in entry.vgpu_devices.items():
        made = VgpuTypeName.parse(name)
        if made.is_mig:
            attribute = _ATTRIBUTES.get(made.suffix or "", "")
            profile = f"{made.slices}g.{made.memory_gb}gb{attribute}"
            found[profile] = found.get(profile, 0) + count
    return found


def _head(entry: Entry) -> Iterator[str]:
    start = "    - "
    if entry.device_filter:
        yield f"{start}device-filter: {_filters(entry.device_filter)}"
        start = "      "
    devices = entry.devices
    yield f"{start}devices: {devices if isinstance(devices, str) else json.dumps(devices)}"


def _filters(filters: Sequence[DeviceFilter]) -> str:
    texts = [each.text for each in filters]
    # An empty text alone would be no filter.
    if len(texts) == 1 and texts[0]:
        return _quoted(texts[0])
    return f"[{', '.join(map(_quoted, texts))}]"


def _counts(key: str, counts: Mapping[str, int]) -> Iterator[str]:
    if not counts:
        yield f"      {key}: {{}}"
        return
    yield f"      {key}:"
    for name, count in counts.items():
        yield f"        {_key(name)}: {count}"


def _key(text: str) -> str:
    """A key; quoted where YAML would read another thing than the text."""
    is_plain = text[:1] in _PLAIN and all(c.isascii() and (c.isalnum() or c in "-.") for c in text)
    # What begins with a digit or is a word of YAML's own is quoted.
    is_word = text.lower() in {"y", "n", "yes", "no", "true", "false", "on", "off", "null"}
    return text if text and is_plain and not is_word else _quoted(text)


def _quoted(text: str) -> str:
    """A text in double quotes, with everything escaped that YAML has its own ideas of."""
    parts = (_ESCAPES.get(c, c) if c.isprintable() else f"\\U{ord(c):08X}" for c in text)
    return f'"{"".join(parts)}"'
