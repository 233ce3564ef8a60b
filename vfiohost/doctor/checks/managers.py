"""Others who manage devices on this host, and would fight over them."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from vfiohost.doctor.facts import CMDLINE, counted, joined
from vfiohost.doctor.findings import Evidence, Finding
from vfiohost.doctor.sources import (
    DRIVERCTL,
    FIGHTING,
    FIRST_KERNEL_THREAD,
    LIBVIRT_HOOKS,
    MANAGERS,
    MDEVCTL,
    PEACEFUL,
    UDEV_RULES,
)
from vfiohost.errors import ParseError
from vfiohost.modalias import MODPROBE
from vfiohost.model import PciAddress

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vfiohost.doctor.facts import HostFacts
    from vfiohost.model import PciDevice

_IDS = re.compile(r"([0-9a-fA-F]{4}):([0-9a-fA-F]{4})(?::.*)?")
_OPTIONS = re.compile(r"options\s+vfio[-_]pci\s(?:.*\s)?ids=(\S+)")
_HAD_BY_PCI_IDS = "vfio-pci"


def check_driverctl(facts: HostFacts) -> Iterator[Finding]:
    """Do driverctl's overrides agree with what is bound."""
    agreeing = []
    for path, wanted in facts.below(DRIVERCTL):
        try:
            address = PciAddress.parse(path.rpartition("/pci-")[2])
        except ParseError:
            continue
        device = facts.snapshot.pci.get(address)
        driver = device.driver if device is not None else None
        if device is None or driver == (None if wanted == "none" else wanted):
            agreeing.append(Evidence(path, wanted))
            continue
        yield Finding(
            "driverctl-differs",
            "warning",
            str(address),
            (Evidence(path, wanted), Evidence(f"{device.path}/driver", str(driver or "none"))),
            f"driverctl keeps {wanted} for {address}, which is on {driver or 'no driver'} now: at "
            "the next boot it gets the other one.",
            f"`vfiohost driverctl remove {address}` if the device is to keep what it has, "
            f"`vfiohost driverctl import {address}` if it is to have what driverctl says.",
        )
    if agreeing:
        yield Finding(
            "driverctl",
            "info",
            "driverctl",
            tuple(agreeing),
            f"driverctl sets the driver of {counted(len(agreeing), 'device')} at each boot, after "
            "the native driver may have had them.",
            "Change these devices with driverctl, or have vfiohost do it (`vfiohost driverctl "
            "import --boot`, then `vfiohost driverctl remove --all`): one of them only.",
        )


def check_ids(facts: HostFacts) -> Iterator[Finding]:
    """Is vfio-pci told to take devices by vendor and device id."""
    told = dict(_told(facts))
    counts = Counter(d.ids for d in facts.snapshot.devices)
    for ids, evidence in told.items():
        several = counts[ids] > 1
        yield Finding(
            "vfio-ids-several" if several else "vfio-ids",
            "warning" if several else "info",
            ids,
            evidence,
            f"vfio-pci takes every device {ids} as soon as it is loaded"
            + (f": there are {counts[ids]} of them on this host." if several else "."),
            "Name devices by address instead: take the ids out (and make the initramfs anew), and "
            "use `vfiohost bind`."
            if several
            else None,
        )
    details = facts.snapshot.details
    for device in facts.devices:
        known = details.get(device.address)
        if device.driver != _HAD_BY_PCI_IDS or known is None or device.ids in told:
            continue
        if known.driver_override is None:
            yield _stray(device)


def _stray(device: PciDevice) -> Finding:
    return Finding(
        "stray-vfio",
        "warning",
        str(device.address),
        (
            Evidence(f"{device.path}/driver", "vfio-pci"),
            Evidence(f"{device.path}/driver_override", "(null)"),
        ),
        f"{device.address} is on vfio-pci without a driver_override, and neither the command line "
        "nor modprobe.d has its ids. `bind --once` does so, and an initramfs with older options; "
        "else somebody wrote its ids to new_id, which cannot be read back, and every other device "
        "of these ids that is probed goes to vfio-pci as well.",
        f'echo "{device.ids.replace(":", " ")}" > /sys/bus/pci/drivers/vfio-pci/remove_id takes '
        f"them out (it lets go of no device). Then `vfiohost bind {device.address}`.",
    )


def _told(facts: HostFacts) -> Iterator[tuple[str, tuple[Evidence, ...]]]:
    """Each ``vendor:device`` that vfio-pci is told to take, and where."""
    places: dict[str, list[Evidence]] = {}

    def add(words: str, evidence: Evidence) -> None:
        for word in words.split(","):
            if match := _IDS.fullmatch(word.strip('"')):
                places.setdefault(f"{match[1]}:{match[2]}".lower(), []).append(evidence)

    for name, value in facts.words:
        if name == "vfio_pci.ids":
            add(value, Evidence(CMDLINE, f"vfio-pci.ids={value}"))
    for directory in MODPROBE:
        for path, text in facts.below(directory):
            for line in text.splitlines():
                if match := _OPTIONS.match(line):
                    add(match[1], Evidence(path, line))
    yield from ((ids, tuple(evidence)) for ids, evidence in places.items())


def check_programs(facts: HostFacts) -> Iterator[Finding]:
    """Are programs running that manage devices, too."""
    found: dict[str, list[Evidence]] = {}
    for path in facts.files:
        if path.startswith("proc/") and path.endswith("/comm"):
            name = facts.text(path) or ""
            found.setdefault(name, []).append(Evidence(path, name))
    for name, evidence in found.items():
        if name not in MANAGERS:
            continue
        pids = joined((e.path.split("/")[1] for e in evidence), 4)
        yield Finding(
            "manager-running",
            "warning" if name in FIGHTING else "info",
            name,
            tuple(evidence[:4]),
            f"{name} is running (pid {pids}): {MANAGERS[name]}.",
            None
            if name in PEACEFUL
            else "Let one of the two manage a device: tell it to leave the device alone, or stop "
            "it while you work.",
        )
    if facts.is_live and facts.text(FIRST_KERNEL_THREAD) != "kthreadd":
        yield Finding(
            "processes-hidden",
            "info",
            "host",
            (Evidence(FIRST_KERNEL_THREAD, "does not show kthreadd"),),
            "Other processes of this host cannot be seen from here (a container, or hidepid), so "
            "nothing is known of programs that manage or use devices.",
            "Run it as root, outside any container.",
        )


def check_configuration(facts: HostFacts) -> Iterator[Finding]:
    """Do mdevctl, libvirt's hooks or udev's rules do something to devices."""
    kept = [path for path in facts.files if path.startswith(f"{MDEVCTL}/")]
    definitions = [path for path in kept if not path.startswith(f"{MDEVCTL}/scripts.d/")]
    if definitions:
        bus = facts.snapshot.mdev
        offering = {parent.name for parent in bus.parents} if bus else set()
        parents = {path.split("/")[-2] for path in definitions}
        gone = sorted(parents - offering)
        yield Finding(
            "mdevctl",
            "warning" if gone else "info",
            "mdevctl",
            tuple(Evidence(path, "is there") for path in definitions[:4]),
            f"mdevctl keeps {counted(len(definitions), 'definition')} of mediated devices, and "
            "makes those again at boot that start by themselves."
            + (f" No type is offered now by {joined(gone)}: there it fails." if gone else ""),
            "Have the types offered first (NVIDIA's virtual functions: sriov-manage -e), and start "
            "what is defined by `vfiohost mdev start --auto`; or `vfiohost mdev undefine` what is "
            f"for {joined(gone)}."
            if gone
            else None,
        )
    hooks = [path for path in facts.files if path.startswith(f"{LIBVIRT_HOOKS}/")]
    if hooks:
        yield Finding(
            "libvirt-hooks",
            "info",
            "libvirt",
            tuple(Evidence(path, "is there") for path in hooks[:4]),
            "libvirt runs hooks when a guest starts or stops. Such scripts often bind and unbind "
            "devices themselves.",
            "Read them before you change a device of that guest.",
        )
    for path, mentions in facts.below(UDEV_RULES):
        yield Finding(
            "udev-rules",
            "info",
            path.rpartition("/")[2],
            (Evidence(path, f"speaks of {mentions}"),),
            "A udev rule of this host speaks of VFIO or of driver overrides: it may set a device's "
            "driver, or the owner of VFIO nodes, whenever one appears.",
        )
