"""A recording in umockdev's format: what stands in it, and that the real umockdev takes it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import attrs
import pytest
from hypothesis import given

from tests.native.trees import Tree
from tests.strategies import recordings
from vfiohost import Host
from vfiohost.model import PciAddress
from vfiohost.recording import Attribute, Function, Recording, format_umockdev
from vfiohost.testing import expand, fixtures

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

LINE = re.compile(r"P: /devices/.+|[EAL]: [^=\n]+=.*|H: [^=\n]+=(?:[0-9A-F]{2})*")


def test_a_function_in_its_format() -> None:
    files = {
        "vendor": b"0x10de\n",
        "odd": b'a "b"\\\t\xff\x7f\r\n',
        "power/control": b"on\n",
        "config": b"\xde\x10",
        "zero": b"a\0",
        "none": b"",
        "uevent": b"DRIVER=nouveau\nPCI_ID=10DE:2236\nPCI_ID=10DE:2237\nodd\nA=\x1b\nB=b=c\n",
    }
    attributes = {name: Attribute(content) for name, content in files.items()}
    attributes["enable"] = Attribute(13)
    physfn = Function("pci0000:64/0000:64:00.0/0000:65:00.0", "nouveau", 12, attributes=attributes)
    vf = Function("pci0000:64/0000:65:00.4", physfn=physfn.address, vf_index=0)
    host = Recording("t", "s", functions=(physfn, vf))
    assert format_umockdev(host).splitlines() == [
        "P: /devices/pci0000:64/0000:64:00.0/0000:65:00.0",
        "E: DRIVER=nouveau",
        "E: PCI_ID=10DE:2237",
        "E: B=b=c",
        "E: SUBSYSTEM=pci",
        "H: config=DE10",
        "A: none=",
        r"A: odd=a \"b\"\\\t\377\177\015\n",
        r"A: power/control=on\n",
        r"A: vendor=0x10de\n",
        "H: zero=6100",
        "L: driver=../../../../bus/pci/drivers/nouveau",
        "L: iommu_group=../../../../kernel/iommu_groups/12",
        "L: virtfn0=../../0000:65:00.4",
        "",
        "P: /devices/pci0000:64/0000:65:00.4",
        "E: SUBSYSTEM=pci",
        "L: physfn=../0000:64:00.0/0000:65:00.0",
    ]


@given(recordings())
def test_nothing_makes_another_line_of_it(host: Recording) -> None:
    host = attrs.evolve(host, functions=tuple(map(only_known_names, host.functions)))
    text = format_umockdev(host)
    paragraphs = text.split("\n\n") if text else []
    assert len(paragraphs) == sum(f.path.isprintable() for f in host.functions)
    for paragraph in paragraphs:
        first, *others = paragraph.rstrip("\n").split("\n")
        assert first.startswith("P: ")
        assert others.count("E: SUBSYSTEM=pci") == 1
        assert all(LINE.fullmatch(line) and line[0] != "P" for line in others)


def only_known_names(function: Function) -> Function:
    """The function with files as a host has them: no host's have an odd name."""
    known = enumerate(function.attributes.values())
    files = {f"file{number}": attribute for number, attribute in known}
    return attrs.evolve(function, attributes=files)


# ---- the real one ------------------------------------------------------------------------------

MISSING = [name for name in ("umockdev-run", "lspci") if shutil.which(name) is None]
needs_umockdev = pytest.mark.skipif(
    bool(MISSING) and "CI" not in os.environ,
    reason=f"not installed: {', '.join(MISSING)} (Debian: umockdev, pciutils)",
)


def under_umockdev(device: Path, *command: str) -> str:
    done = subprocess.run(
        ["umockdev-run", f"--device={device}", "--", *command],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr  # lspci may miss the kernel's modules, and says so
    return done.stdout


def config_of(function: Function) -> bytes:
    """A configuration space for what sysfs says, with a serial number as a PCI Express device."""
    ids = {
        name: int(attribute.content, 16)
        for name, attribute in function.attributes.items()
        if name in ("vendor", "device", "class", "subsystem_vendor", "subsystem_device", "revision")
        and isinstance(attribute.content, bytes)
    }
    config = bytearray(4096)
    is_bridge = ids["class"] >> 8 == 0x0604
    for offset, size, value in (
        (0x00, 2, ids["vendor"]),
        (0x02, 2, ids["device"]),
        (0x06, 2, 0x10),
        (0x08, 1, ids["revision"]),
        (0x09, 3, ids["class"]),
        (0x0E, 1, int(is_bridge)),
        (0x34, 1, 0x40),
        (0x40, 4, 0x0002_0010),
        (0x100, 4, 0x0001_0003),
        (0x104, 8, 0x1122_3344_5566_7788),
    ):
        config[offset : offset + size] = value.to_bytes(size, "little")
    if not is_bridge:
        config[0x2C:0x2E] = ids["subsystem_vendor"].to_bytes(2, "little")
        config[0x2E:0x30] = ids["subsystem_device"].to_bytes(2, "little")
    return bytes(config)


def lspci_lines(functions: Iterable[Function]) -> list[str]:
    """What ``lspci -Dn`` says of functions, but for the revision."""

    def number(function: Function, name: str) -> str:
        content = function.attributes[name].content
        assert isinstance(content, bytes)
        return content.decode().strip().removeprefix("0x")

    return [
        f"{f.address} {number(f, 'class')[:4]}: {number(f, 'vendor')}:{number(f, 'device')}"
        for f in functions
    ]


@needs_umockdev
@pytest.mark.parametrize("name", ["a10-pair-vgpu", "rtx-workstation", "vmd-domain"])
def test_lspci_sees_the_host_under_umockdev(name: str, tmp_path: Path) -> None:
    host = fixtures.load(name)
    kept = tuple(f for f in host.functions if f.vf_index is None or f.vf_index < 2)
    expand(attrs.evolve(host, functions=kept), tmp_path / "host")
    for function in kept:
        directory = tmp_path / "host/sys/devices" / function.path
        (directory / "config").write_bytes(config_of(function))
        (directory / "resource").touch()  # some of the composed hosts lack it; lspci insists on it
    with Host(tmp_path / "host") as opened:
        found = opened.record(config=True)
    device = tmp_path / "host.umockdev"
    device.write_text(format_umockdev(found))

    listed = under_umockdev(device, "lspci", "-Dn").splitlines()
    assert [line.partition(" (rev ")[0] for line in listed] == lspci_lines(kept)
    serials = re.findall(r"Device Serial Number (.*)", under_umockdev(device, "lspci", "-vv"))
    assert serials == ["-".join(["00"] * 8)] * len(kept)
    links = dict(links_of(kept))
    assert under_umockdev(device, "readlink", *links).splitlines() == list(links.values())


def links_of(functions: Sequence[Function]) -> Iterator[tuple[str, str]]:
    """The links of functions and their targets; a VF is beside its PF."""
    for function in functions:
        entry, up = (
            f"/sys/bus/pci/devices/{function.address}",
            "../" * (2 + function.path.count("/")),
        )
        if function.driver is not None:
            yield f"{entry}/driver", f"{up}bus/pci/drivers/{function.driver}"
        if function.iommu_group is not None:
            yield f"{entry}/iommu_group", f"{up}kernel/iommu_groups/{function.iommu_group}"
        if function.physfn is not None:
            yield f"{entry}/physfn", f"../{function.physfn}"
            back = f"/sys/bus/pci/devices/{function.physfn}/virtfn{function.vf_index}"
            yield back, f"../{function.address}"


@needs_umockdev
def test_odd_contents_arrive_byte_for_byte(tmp_path: Path) -> None:
    odd = bytes(range(1, 256))
    tree = Tree(tmp_path / "host")
    tree.function(irq=odd, local_cpulist=b"a\0b", power_state="")
    with Host(tree.root) as host:
        text = format_umockdev(host.record())
    device = tmp_path / "odd.umockdev"
    device.write_text(text)
    directory = "/sys/devices/pci0000:64/0000:65:00.0"
    for name, content in (("irq", odd), ("local_cpulist", b"a\0b"), ("power_state", b"")):
        copy = tmp_path / name
        under_umockdev(device, "cp", f"{directory}/{name}", str(copy))
        assert copy.read_bytes() == content


@needs_umockdev
def test_lspci_sees_this_machine_under_umockdev(tmp_path: Path) -> None:
    if not os.path.isdir("/sys/bus/pci/devices"):
        assert shutil.which("umockdev-run")  # nothing to see here; the fixtures are seen above
        return
    with Host() as host:
        found = host.record(config=True)
    device = tmp_path / "machine.umockdev"
    device.write_text(format_umockdev(found))
    live = subprocess.run(["lspci", "-Dnn"], capture_output=True, text=True, check=True).stdout
    assert under_umockdev(device, "lspci", "-Dnn") == live
    assert live.count("\n") == len(found.functions)
    assert all(PciAddress.parse(line.split()[0]) for line in live.splitlines())
