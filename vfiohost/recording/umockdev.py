r"""Recording -> the device part of it in umockdev's text format. Pure.

That format (``umockdev-record``, read by ``umockdev_testbed_add_from_string``) knows devices below
``/sys/devices`` alone, and no comments. A device is a paragraph of these lines::

    P: /devices/pci0000:64/0000:65:00.0     its path
    E: SUBSYSTEM=pci                        a line of uevent; this one is needed
    A: vendor=0x10de\n                      a file of text, escaped as in C
    H: config=DE10...                       a file of anything else
    L: driver=../../../bus/pci/drivers/d    a link
"""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from vfiohost.recording.values import Attribute, Function, Recording

_SUBSYSTEM = "SUBSYSTEM"
_PROPERTY = re.compile(r"([^=]+)=(.*)")
_ESCAPED = {ord("\n"): "\\n", ord("\t"): "\\t", ord("\\"): "\\\\", ord('"'): '\\"'}


def format_umockdev(recording: Recording) -> str:
    """Write the functions of a recording for umockdev: properties, files and links.

    What the format cannot hold is left out: drivers, modules, groups and mediated devices but for
    the links to them, permission bits, files that cannot be read, and names and links that are not
    printable.
    """
    paths = {function.address: f"sys/devices/{function.path}" for function in recording.functions}
    links: dict[str, dict[str, str]] = {path: {} for path in paths.values()}
    for function in recording.functions:
        path = paths[function.address]
        physfn = None if function.physfn is None else paths.get(function.physfn)
        if physfn is not None:
            links[path]["physfn"] = physfn
            if function.vf_index is not None:
                links[physfn][f"virtfn{function.vf_index}"] = path
        if function.driver is not None:
            links[path]["driver"] = f"sys/bus/pci/drivers/{function.driver}"
        if function.iommu_group is not None:
            links[path]["iommu_group"] = f"sys/kernel/iommu_groups/{function.iommu_group}"
    paragraphs = (
        "".join(f"{line}\n" for line in _lines(function, links[paths[function.address]]))
        for function in recording.functions
        if function.path.isprintable()
    )
    return "\n".join(paragraphs)


def _lines(function: Function, links: Mapping[str, str]) -> Iterator[str]:
    yield f"P: /devices/{function.path}"
    yield from _properties(function.attributes.get("uevent"))
    for name, attribute in sorted(function.attributes.items()):
        if name != "uevent" and isinstance(attribute.content, bytes):
            yield _file(name, attribute.content)
    directory = f"sys/devices/{function.path}"
    for name, target in sorted(links.items()):
        if target.isprintable():
            yield f"L: {name}={posixpath.relpath(target, directory)}"


def _properties(uevent: Attribute | None) -> Iterable[str]:
    """The lines of ``uevent``, each name once, and the subsystem."""
    content = uevent.content if uevent is not None else b""
    text = content.decode("utf-8", "replace") if isinstance(content, bytes) else ""
    found = [_PROPERTY.fullmatch(line) for line in text.split("\n") if line.isprintable()]
    values = {match[1]: match[2] for match in found if match is not None}
    return [f"E: {name}={value}" for name, value in (values | {_SUBSYSTEM: "pci"}).items()]


def _file(name: str, content: bytes) -> str:
    if name == "config" or b"\0" in content:
        return f"H: {name}={content.hex().upper()}"
    return f"A: {name}={''.join(map(_escape, content))}"


def _escape(byte: int) -> str:
    if byte in _ESCAPED:
        return _ESCAPED[byte]
    return chr(byte) if 0x20 <= byte < 0x7F else f"\\{byte:03o}"  # noqa: PLR2004 - printable ASCII
