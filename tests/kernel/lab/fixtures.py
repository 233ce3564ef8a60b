"""Recording the fixtures that come from the lab.

``python -m tests.kernel.lab fixtures [NAME ...]`` writes ``fixtures/sysfs/NAME.host`` anew.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from tests.kernel.lab import observing
from tests.kernel.lab.errors import LabUnavailableError
from tests.kernel.lab.hosts import HOSTS
from tests.kernel.lab.vm import CHECKOUT, boot, version_of_qemu
from vfiohost import recording

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tests.kernel.lab.images import Image
    from tests.kernel.lab.vm import Machine
    from vfiohost.recording import File, Function, Recording

FOLDER = CHECKOUT / "fixtures" / "sysfs"
FLAVOUR = "6.12"
SECONDS = 300.0
PCI_IDS = Path("/usr/share/misc/pci.ids")
_HEAD = "#\n#\tThe vendors, devices and classes of this host, in the format of pci.ids.\n#\n"


@contextmanager
def booted(name: str, image: Image) -> Iterator[Machine]:
    """Boot a host of :data:`HOSTS` and bring it into its state.

    Raises:
        LabError: the machine does not come up, or not into its state.
    """
    host = HOSTS[name]
    with boot(image, host.options, host.append) as machine:
        machine.call(host.prepare, within=SECONDS)
        yield machine


def record(name: str, machine: Machine) -> Recording:
    """Record a host that was booted.

    What is the lab's own is taken out: its words on the kernel's command line.

    Raises:
        LabUnavailableError: this computer has no pci.ids.
    """
    host = HOSTS[name]
    if not PCI_IDS.exists():
        raise LabUnavailableError(f"this computer has no {PCI_IDS}: install pci.ids")
    ids = PCI_IDS.read_text(errors="replace")
    found = recording.parse(machine.call(observing.record, host.title, within=SECONDS))
    return attrs.evolve(
        found,
        source=f"recorded from Linux {found.kernel} in a virtual machine of {version_of_qemu()}; "
        f"names from pci.ids {_version(ids)}",
        notes=(
            f"To record it again: python -m tests.kernel.lab fixtures {name}",
            *host.notes,
            *found.notes,
        ),
        files=tuple(_files(found, ids)),
    )


def write(name: str, image: Image) -> Path:
    """Record a host and write its fixture; return the file."""
    file = FOLDER / f"{name}.host"
    with booted(name, image) as machine:
        file.write_text(recording.format(record(name, machine)))
    return file


def _files(found: Recording, ids: str) -> Iterator[File]:
    """The recorded files, the command line without the lab's words, and the names."""
    known = {file.path: file for file in found.files}
    line = known["proc/cmdline"]
    assert isinstance(line.content, bytes)
    words = [word for word in line.content.split() if not word.startswith(b"lab_")]
    known[line.path] = attrs.evolve(line, content=b" ".join(words) + b"\n")
    path = str(PCI_IDS.relative_to("/"))
    known[path] = attrs.evolve(line, path=path, content=shorten(ids, found.functions).encode())
    return (known[path] for path in sorted(known))


def shorten(ids: str, functions: Iterable[Function]) -> str:
    """Keep of pci.ids what names the vendors, devices and classes of these functions."""
    kept = {path for function in functions for path in _named(function)}
    lines = []
    top = ""
    for line in ids.splitlines():
        if match := re.match(r"(C [0-9a-f]{2}|[0-9a-f]{4})  ", line):
            top = match[1]
            path: tuple[str, ...] = (top,)
        elif match := re.match(r"\t([0-9a-f]{2,4})  ", line):
            path = (top, match[1])
        else:
            continue
        if path in kept:
            lines.append(f"{line}\n")
    return _HEAD + "".join(lines)


def _named(function: Function) -> Iterator[tuple[str, ...]]:
    """What pci.ids may have a name for."""
    texts = {}
    for name in ("vendor", "device", "class"):
        content = function.attributes[name].content
        assert isinstance(content, bytes)
        texts[name] = content.decode().strip().removeprefix("0x")
    base = f"C {texts['class'][:2]}"
    yield (texts["vendor"],)
    yield (texts["vendor"], texts["device"])
    yield (base,)
    yield (base, texts["class"][2:4])


def _version(ids: str) -> str:
    match = re.search(r"^#\s*Version:\s*(\S+)", ids, re.MULTILINE)
    return match[1] if match else "of this computer"
