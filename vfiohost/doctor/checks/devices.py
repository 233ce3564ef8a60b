"""The devices for guests: virtual functions, reset, power, the console."""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING

from vfiohost.doctor.facts import is_on, joined
from vfiohost.doctor.findings import Evidence, Finding
from vfiohost.model import is_vfio_driver

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vfiohost.doctor.facts import HostFacts
    from vfiohost.model import PciAddress, PciDevice

# Lines of `resource`: six BARs, the ROM, then the six BARs of the virtual functions
# (PCI_IOV_RESOURCES in include/linux/pci.h).
_BARS, _VF_BARS = slice(0, 6), slice(7, 13)
_LINE = re.compile(r"0x([0-9a-f]{1,16}) 0x([0-9a-f]{1,16}) 0x([0-9a-f]{1,16})", re.IGNORECASE)
_IOMEM = "proc/iomem"
_REGION = re.compile(r"([0-9a-f]+)-([0-9a-f]+) : (.*)", re.IGNORECASE)
_DISPLAY = 0x03
_UNSET = 0x20000000  # IORESOURCE_UNSET


def check_sriov(facts: HostFacts) -> Iterator[Finding]:
    """Is there room for the virtual functions of each card."""
    for device in facts.devices:
        path = f"{device.path}/resource"
        totals = f"{device.path}/sriov_totalvfs"
        if device.total_vfs == 0:
            yield Finding(
                "sriov-off",
                "info",
                str(device.address),
                (Evidence(totals, "0"),),
                f"{device.address} has the SR-IOV capability and offers no virtual function: it is "
                "switched off in the card's own firmware, or its driver says so.",
                "Switch SR-IOV on in the card's setup (NVIDIA: its display mode selector; Mellanox:"
                " mlxconfig SRIOV_EN=1), and in the firmware of the host.",
            )
        elif isinstance(device.total_vfs, int):
            bars = _bars(facts, device)[_VF_BARS]
            if not bars:
                continue
            saw = (Evidence(totals, str(device.total_vfs)), Evidence(path, _shown(bars)))
            yield _vf_room(device, bars, saw)


def _vf_room(
    device: PciDevice, bars: list[tuple[int, int, int]], saw: tuple[Evidence, ...]
) -> Finding:
    unset = [(start, end, flags) for start, end, flags in bars if flags and not start]
    if unset or not any(start for start, _, _ in bars):
        return Finding(
            "vf-bars-unassigned",
            "warning",
            str(device.address),
            saw,
            f"{device.address} could have {device.total_vfs} virtual functions, but there are no "
            "addresses for their memory: making one fails with ENOMEM.",
            "In the firmware's setup, switch SR-IOV and Above 4G Decoding on (and Resizable BAR "
            "off, if that does not help). Else pci=realloc on the kernel's command line.",
        )
    return Finding(
        "sriov-ready",
        "ok",
        str(device.address),
        saw,
        f"{device.address} has room for {device.total_vfs} virtual functions.",
    )


def check_reset(facts: HostFacts) -> Iterator[Finding]:
    """Can each device be reset between two guests."""
    for device in facts.devices:
        if device.is_bridge:
            continue
        path = f"{device.path}/reset_method"
        methods = facts.text(path)
        names = facts.listed(device.path) or ()
        # A partial copy has no files to write to: then nothing is known.
        tells = methods is not None or "remove" in names or device.is_vf
        if not tells or (path in facts.files and methods is None):
            continue
        others = _others_on_bus(facts, device)
        if methods == "" or (methods is None and "reset" not in names):
            yield Finding(
                "no-reset",
                "warning",
                str(device.address),
                (facts.saw(path),),
                f"Nothing can reset {device.address}: what one guest left in it, the next one "
                "finds, and a guest that crashes may leave it unusable until the host is booted.",
                "Give it to one guest only, for as long as the host is up. Some cards get a reset "
                "from the kernel's quirks in newer versions."
                if methods is None
                else f"Somebody switched all methods off: echo default > /{path}.",
            )
        elif methods == "bus" and others:
            yield Finding(
                "reset-bus-only",
                "info",
                str(device.address),
                (facts.saw(path),),
                f"{device.address} can only be reset with its whole bus, which resets "
                f"{joined(others)} too: VFIO does so only when one guest has them all.",
                f"Hand them over together: `vfiohost bind {device.address} --group`.",
            )
        elif methods:
            yield Finding(
                "reset-ready",
                "ok",
                str(device.address),
                (facts.saw(path),),
                f"{device.address} can be reset by itself ({methods}).",
            )


def _others_on_bus(facts: HostFacts, device: PciDevice) -> list[PciAddress]:
    """What is on the bus of a device, or below it, besides the device and its virtual functions."""
    bus = f"{posixpath.dirname(device.path)}/"
    return [
        other.address
        for other in facts.snapshot.devices
        if other.path.startswith(bus) and device.address not in (other.address, other.physfn)
    ]


def check_power(facts: HostFacts) -> Iterator[Finding]:
    """Does a device sleep, and might it not wake up."""
    parameter, no_idle = facts.parameter("vfio_pci", "disable_idle_d3")
    for device in facts.devices:
        state, status = f"{device.path}/power_state", f"{device.path}/power/runtime_status"
        allowed = f"{device.path}/d3cold_allowed"
        if facts.text(state) == "D3cold":
            yield Finding(
                "d3cold",
                "info",
                str(device.address),
                (facts.saw(state), facts.saw(status)),
                f"{device.address} has no power now. Nothing was read that would wake it; the "
                "first use does.",
            )
        on_vfio = isinstance(device.driver, str) and is_vfio_driver(device.driver)
        if on_vfio and facts.text(allowed) == "1" and not is_on(no_idle):
            yield Finding(
                "d3cold-allowed",
                "info",
                str(device.address),
                (facts.saw(allowed), facts.saw(parameter)),
                f"While no guest has {device.address} open, vfio-pci lets it sleep, down to no "
                "power at all where the board can. Some GPUs do not wake up again (they then read "
                "as ff in all registers).",
                "If that happens: options vfio-pci disable_idle_d3=1 in /etc/modprobe.d, or "
                f"echo 0 > /{allowed}.",
            )


def check_console(facts: HostFacts) -> Iterator[Finding]:
    """Is the host's console on a GPU that a guest is to have."""
    for device in facts.devices:
        if device.base_class != _DISPLAY:
            continue
        framebuffer = _framebuffer_in(facts, device)
        if framebuffer is not None:
            yield Finding(
                "framebuffer",
                "warning",
                str(device.address),
                (Evidence(_IOMEM, framebuffer), facts.saw("proc/fb"), facts.saw_words("video")),
                f"The firmware's framebuffer ({framebuffer.rpartition(' : ')[2]}) lies in the "
                f"memory of {device.address}: a guest's start fails with 'BAR: can't reserve'.",
                "initcall_blacklist=sysfb_init on the kernel's command line (before 5.15: "
                "video=efifb:off), or make another graphics card the first one in the firmware.",
            )
        details = facts.snapshot.details.get(device.address)
        if details is not None and details.boot_vga is True:
            yield Finding(
                "boot-vga",
                "info",
                str(device.address),
                (Evidence(f"{device.path}/boot_vga", "1"),),
                f"{device.address} is the display of the host's console. Given to a guest, the "
                "screen goes dark; a guest may also want the card's ROM as a file.",
                "Have another way in (ssh, serial) first; `vfiohost bind` asks for --allow "
                "display.",
            )


def _framebuffer_in(facts: HostFacts, device: PciDevice) -> str | None:
    """The line of a framebuffer inside a device's memory.

    Root sees addresses; others see zeros, but still below which device the line stands.
    """
    bars = [(start, end) for start, end, _ in _bars(facts, device)[_BARS] if start]
    owner: list[tuple[int, str]] = []
    # Not lines(): the indentation of the first line counts.
    content = facts.files.get(_IOMEM, b"")
    text = content.decode("ascii", "replace") if isinstance(content, bytes) else ""
    for line in text.splitlines():
        found = _REGION.search(line)
        if found is None:
            continue
        depth = len(line) - len(line.lstrip(" "))
        owner = [(d, name) for d, name in owner if d < depth]
        start = int(found[1][:16], 16)
        is_inside = any(first <= start <= last for first, last in bars)
        is_below = any(name == str(device.address) for _, name in owner)
        is_framebuffer = re.match(r"BOOTFB|efifb|vesafb|simple", found[3], re.IGNORECASE)
        if is_framebuffer and (is_inside or is_below):
            return line.strip()
        owner.append((depth, found[3]))
    return None


def _bars(facts: HostFacts, device: PciDevice) -> list[tuple[int, int, int]]:
    """Start, end and flags of each line of ``resource``; none where one makes no sense."""
    lines = facts.lines(f"{device.path}/resource")
    found = [_LINE.fullmatch(line.strip()) for line in lines]
    if not all(found):
        return []
    numbers = [(int(m[1], 16), int(m[2], 16), int(m[3], 16)) for m in found if m]
    return [(0 if flags & _UNSET else start, end, flags) for start, end, flags in numbers]


def _shown(bars: list[tuple[int, int, int]]) -> str:
    given = [f"{start:#x}-{end:#x}" for start, end, _ in bars if start]
    return f"VF BARs: {joined(given) or 'none has an address'}"
