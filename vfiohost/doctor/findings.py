"""What is found: a stable code, what was read where, what it means, what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

import attrs

if TYPE_CHECKING:
    from collections.abc import Mapping

Severity = Literal["bad", "warning", "info", "ok"]
"""``bad``: guests cannot be given devices, or something is broken. ``warning``: it will hurt some
day, or somebody. ``info``: good to know. ``ok``: looked at, and as it should be."""

SEVERITIES: Final[tuple[Severity, ...]] = ("bad", "warning", "info", "ok")
"""Worst first."""

CODES: Final[Mapping[str, str]] = {
    # The IOMMU, in firmware and kernel.
    "iommu-on": "The IOMMU is on, and every device is in a group",
    "iommu-firmware-off": "The firmware describes no IOMMU: it is switched off there",
    "iommu-kernel-off": "The firmware offers an IOMMU that the kernel was not told to use",
    "iommu-disabled": "The kernel's command line switches the IOMMU off",
    "iommu-failed": "The IOMMU is asked for, but there are no groups",
    "iommu-off": "There are no IOMMU groups; why cannot be told from what was read",
    "iommu-unknown": "The tree does not tell whether there is an IOMMU",
    "guest-without-viommu": "The host is a virtual machine without a virtual IOMMU",
    "xen": "The host runs on Xen, which keeps the IOMMU for itself",
    "guest": "The host is a virtual machine with a virtual IOMMU",
    "outside-iommu": "Devices that are in no group, while others are",
    "cmdline-unknown-word": "A word on the command line that the kernel does not know",
    "acs-override": "The command line asks for isolation that the hardware does not give",
    # Groups.
    "groups-separate": "Each device for guests is alone in its group",
    "group-one-card": "A group holds the functions of one card",
    "group-shared": "A group holds devices of several cards",
    # VFIO.
    "vfio-ready": "The driver vfio-pci is there",
    "vfio-not-loaded": "vfio-pci is not loaded yet, and can be",
    "vfio-unknown": "vfio-pci is not loaded, and nothing tells whether it can be",
    "vfio-missing": "This kernel has no vfio-pci",
    "no-interrupt-remapping": "Interrupts are not remapped, so VFIO refuses devices",
    "interrupt-remapping": "Interrupts are remapped",
    "interrupts-unknown": "Whether interrupts are remapped cannot be told",
    "unsafe-interrupts": "VFIO was told to do without interrupt remapping",
    "noiommu-mode": "VFIO was told to do without an IOMMU",
    "vfio-limit": "VFIO's limit on mappings was lowered",
    "vfio-sriov": "vfio-pci lets its physical functions make virtual ones",
    # The machine.
    "lockdown": "The kernel is locked down",
    "secure-boot": "Secure Boot is on: modules must be signed",
    "memlock": "What a process may lock in memory is less than a guest has",
    "memlock-unlimited": "Memory may be locked without limit",
    "hugepages-full": "Huge pages are reserved, and none is free",
    "hugepages": "Huge pages: how many are reserved",
    "overcommit-strict": "The kernel counts memory strictly",
    # Devices.
    "sriov-off": "A card that could have virtual functions offers none",
    "vf-bars-unassigned": "There is no address room for a card's virtual functions",
    "sriov-ready": "A card has room for its virtual functions",
    "no-reset": "A device that nothing can reset between two guests",
    "reset-bus-only": "A device that only a reset of its bus resets, which hits others too",
    "reset-ready": "A device can be reset by itself",
    "d3cold": "A device has no power now",
    "d3cold-allowed": "An idle device on vfio-pci may lose its power",
    "framebuffer": "The firmware's framebuffer lies in a GPU's memory",
    "boot-vga": "The firmware's console is on this GPU",
    # Others who manage devices.
    "driverctl": "driverctl keeps a driver override",
    "driverctl-differs": "A device has another driver than driverctl keeps for it",
    "vfio-ids": "vfio-pci takes devices by their ids",
    "vfio-ids-several": "vfio-pci takes several equal devices by their ids",
    "stray-vfio": "A device is on vfio-pci and nothing says why",
    "manager-running": "A program is running that manages devices, too",
    "processes-hidden": "Other programs cannot be seen from here",
    "mdevctl": "mdevctl keeps definitions of mediated devices",
    "libvirt-hooks": "libvirt runs hooks when a guest starts",
    "udev-rules": "udev rules of this host speak of VFIO or driver overrides",
    # NVIDIA.
    "nvidia-driver": "NVIDIA's driver is loaded, and whether it offers vGPUs",
    "vgpu-mdev": "NVIDIA's vGPUs are mediated devices here",
    "vgpu-vendor-vfio": "NVIDIA's vGPUs are virtual functions with a type here",
    "vgpu-no-vfs": "NVIDIA's vGPU host driver has no virtual function to put vGPUs on",
    "nouveau-beside-nvidia": "nouveau and NVIDIA's driver are both loaded",
    "nvidia-modeset": "NVIDIA's driver has the console",
    # vfiohost's own.
    "journal-open": "A run of vfiohost was cut off",
    "journal-pending": "The kernel still works on something vfiohost asked for",
    "journal-damaged": "A journal of vfiohost makes no sense",
    "journal-other-boot": "A run was cut off before the host was booted",
    "journal-clean": "No run of vfiohost was cut off",
    "lock-held": "Another vfiohost is at work",
    "lock-stale": "A vfiohost was killed while it had the lock",
    # What could not be looked at.
    "not-there": "A copy of a host lacks files that every host has",
    "unreadable": "Something could not be read, so nothing is known of it",
}
"""Every code that a finding can have, and what it stands for."""


@attrs.frozen
class Evidence:
    """What was read.

    Attributes:
        path: the file or directory, relative to the root.
        value: what it says, as far as it matters; for people.
    """

    path: str
    value: str


def _known(_: object, __: object, code: str) -> None:
    if code not in CODES:
        raise ValueError(code)


@attrs.frozen
class Finding:
    """One thing that was found.

    Attributes:
        code: one of :data:`CODES`.
        severity: how bad it is.
        subject: what it is about: ``host``, an address, a group, a program, a path.
        evidence: what was read, and where.
        sentence: what it means.
        remedy: what to do, or ``None`` where there is nothing to do.
    """

    code: str = attrs.field(validator=_known)
    severity: Severity
    subject: str
    evidence: tuple[Evidence, ...]
    sentence: str
    remedy: str | None = None
