"""The text of a vGPU configuration, understood. Pure.

The format is that of NVIDIA's vGPU device manager (``api/spec/v1``), and this is all of it::

    version: v1
    vgpu-configs:
      default:
        - device-filter: "0x223610DE"      # or a list; device id, then vendor id
          devices: all                     # or positions in order of address: [0, 1]
          vgpu-devices: {"A10-12Q": 2}     # {} for none

What that tool accepts is accepted, and what it rejects is rejected.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, NoReturn

from vfiohost.errors import ParseError
from vfiohost.nvidia import VgpuTypeName
from vfiohost.vgpu_config.tree import MOST_BYTES, read
from vfiohost.vgpu_config.types import ALL, VERSION, Config, DeviceFilter, Entry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vfiohost.vgpu_config.tree import Mark, Node

__all__ = ["MOST_BYTES", "parse"]

_INT64 = 1 << 63


def parse(text: str, name: str = "config.yaml") -> Config:
    """Read the text of a file of vGPU configurations.

    Args:
        text: YAML, or JSON, which is YAML too.
        name: the file's name, for messages.

    Returns:
        What it says; ``warnings`` has what is accepted and does not do what it seems to.

    Raises:
        ParseError: what is wrong with it: file, line, column and key, and what was expected.
        UnsupportedError: PyYAML is not installed.
    """
    root, warnings = read(text, name)
    if root is None or root.value is None:
        return Config({}, None, tuple(warnings), name)
    reader = _Reader(warnings)
    top = reader.mapping(root, "vgpu-configs and version", ("version", "vgpu-configs"))
    if not top:
        return Config({}, None, tuple(warnings), name)
    if "version" not in top:
        raise ParseError(name, f"a vGPU configuration with its version (version: {VERSION})")
    version = top["version"]
    if version.value != VERSION:
        _fail(version, f"version: {VERSION}")
    configs = reader.configs(top["vgpu-configs"]) if "vgpu-configs" in top else {}
    return Config(configs, VERSION, tuple(warnings), name)


class _Reader:
    def __init__(self, warnings: list[str]) -> None:
        self.warnings = warnings

    def mapping(self, node: Node, what: str, keys: tuple[str, ...] = ()) -> dict[str, Node]:
        """A mapping, of no other keys than these if any are given."""
        if not isinstance(node.value, dict):
            _fail(node, f"a mapping of {what}")
        found: dict[str, Node] = node.value
        for key in found if keys else ():
            if key not in keys:
                near = get_close_matches(key, keys, n=1)
                hint = f"Did you mean {near[0]}?" if near else None
                expected = f"a key here: {', '.join(keys)}"
                raise ParseError(key, expected, where=str(node.keys[key]), hint=hint)
        return found

    def configs(self, node: Node) -> dict[str, tuple[Entry, ...]]:
        if node.value is None or node.value == {}:
            _fail(node, "a mapping of at least one configuration by name (vgpu-configs)")
        named = self.mapping(node, "configurations by name (vgpu-configs)")
        return {name: self._entries(each, name) for name, each in named.items()}

    def _entries(self, node: Node, name: str) -> tuple[Entry, ...]:
        if not isinstance(node.value, list) or not node.value:
            _fail(node, f"a list of at least one entry (configuration {name!r})")
        return tuple(self._entry(each) for each in node.value)

    def _entry(self, node: Node) -> Entry:
        keys = ("device-filter", "devices", "vgpu-devices")
        found = self.mapping(node, f"an entry: {', '.join(keys)}", keys)
        for key in keys[1:]:
            if key not in found:
                _fail(node, f"an entry with {key}")
        return Entry(
            devices=_devices(found["devices"]),
            vgpu_devices=self._counts(found["vgpu-devices"]),
            device_filter=tuple(self._filters(found.get("device-filter"))),
            line=node.mark.line,
        )

    def _filters(self, node: Node | None) -> Iterator[DeviceFilter]:
        # An empty text is no filter at all; in a list it is one that fits nothing.
        if node is None or node.value is None or node.value == "":
            return
        is_list = isinstance(node.value, list)
        for each in node.value if is_list else (node,):
            if not isinstance(each.value, str) and not (is_list and each.value is None):
                hint = None
                if isinstance(each.value, int) and not isinstance(each.value, bool):
                    hint = "Without quotes it is a number; write it in quotes."
                _fail(each, "a device-filter: a text or a list of texts", hint)
            made = DeviceFilter(each.value or "")
            if not made.is_valid:
                self.warnings.append(
                    f"{each.mark}: the device-filter {made.text!r} never fits a GPU; it should be "
                    'device and vendor, such as "0x223610DE".'
                )
            yield made

    def _counts(self, node: Node) -> dict[str, int]:
        if node.value is None:
            return {}
        found = self.mapping(node, "counts by vGPU type (vgpu-devices)")
        counts = {}
        kinds: dict[bool, str] = {}
        for name, each in found.items():
            kinds[_type(name, node.keys[name]).is_mig] = name
            count = _integer(each)
            if count is None or count < 1:
                _fail(each, f"a count of {name}: a number from 1")
            counts[name] = count
        if len(kinds) > 1:
            mixed = " and ".join(kinds.values())
            _fail(node, f"vGPUs that one GPU can have: {mixed} are time-sliced and MIG-backed")
        return counts


def _type(name: str, mark: Mark) -> VgpuTypeName:
    try:
        made = VgpuTypeName.parse(name)
    except ParseError as error:
        raise ParseError(name, error.expected, where=str(mark)) from error
    # No NVIDIA in front, and no word beside the board's in the name of a MIG-backed type.
    if str(made) != name or (made.is_mig and "-" in made.gpu):
        raise ParseError(name, "the name of a vGPU type, such as A10-8Q", where=str(mark))
    return made


def _devices(node: Node) -> Any:
    if isinstance(node.value, list):
        return tuple(_index(each) for each in node.value)
    if node.value != ALL:
        _fail(node, "devices: all, or a list of positions such as [0, 1]")
    return ALL


def _index(node: Node) -> int:
    # JSON's null leaves the 0 that was there before it.
    found = 0 if node.value is None else _integer(node)
    if found is None:
        _fail(node, "the position of a GPU: a number from 0")
    return found


def _integer(node: Node) -> int | None:
    """A whole number of 64 bits; ``2.0`` is one on its way through JSON."""
    value = node.value
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if -_INT64 <= value < _INT64 and value == value // 1 else None


def _fail(node: Node, expected: str, hint: str | None = None) -> NoReturn:
    value = node.value
    text = "null" if value is None else str(value)
    if isinstance(value, dict | list):
        text = "This mapping" if isinstance(value, dict) else "This list"
    raise ParseError(text, expected, where=str(node.mark), hint=hint)
